"""Thresholds from one histogram of 2,048 bins, all four and entropy alone, beside a loop over the candidates."""

import statistics
import time
from collections.abc import Callable, Iterator

import torch

from course_lib.quantization.calibration import METHODS, Histogram
from tests.benchmarks.row import Row, spread
from tests.quantization import reference

GOAL_SPEED = 20.0
GOAL_ENTROPY = 100.0
_LEVELS = 128  # signed, 8 bits


def against_candidate_loop(repeats: int) -> Iterator[Row]:
    """The peer takes the formulas of TensorRT Model Optimizer candidate by candidate; both find the same thresholds."""
    generator = torch.Generator().manual_seed(0)
    count = 999_983  # a prime number, no percentage of which is met exactly
    normal = torch.randn(count, generator=generator)
    uniform = torch.rand(count, generator=generator)
    for name, x in {"normal": normal, "after ReLU": normal.relu(), "uniform": uniform}.items():
        histogram = Histogram()
        histogram.update(x)
        yield _speed(f"four thresholds, {name}", _ours, _theirs, GOAL_SPEED, histogram, repeats)
        yield _speed(
            f"entropy threshold, {name}", _our_entropy, _their_entropy, GOAL_ENTROPY, histogram, repeats
        )


def _our_entropy(histogram: Histogram) -> float:
    return histogram.threshold("entropy")


def _their_entropy(histogram: Histogram) -> float:
    """Of all candidates, as published. On these data the best of them clips little enough for ours."""
    return min(reference.entropy(histogram.counts, histogram.width, _LEVELS), histogram.largest)


def _ours(histogram: Histogram) -> list[float]:
    return [histogram.threshold(method) for method in METHODS]


def _theirs(histogram: Histogram) -> list[float]:
    counts, width, largest = histogram.counts, histogram.width, histogram.largest
    found = [
        reference.percentile(counts, width, 99.99),
        reference.mse(counts, width, _LEVELS),
    ]
    return [largest, *(min(threshold, largest) for threshold in found), _their_entropy(histogram)]


def _speed(
    what: str, ours: Callable, theirs: Callable, goal: float, histogram: Histogram, repeats: int
) -> Row:
    """Run both sides in turn; the first pair warms up."""
    if ours(histogram) != theirs(histogram):
        raise AssertionError(f"{what}: the two sides differ, so their times say nothing")
    runs = []
    for repeat in range(repeats + 1):
        sides = (ours, theirs) if repeat % 2 else (theirs, ours)
        seconds = {}
        for side in sides:
            started = time.perf_counter()
            side(histogram)
            seconds[side] = time.perf_counter() - started
        if repeat:
            runs.append((seconds[ours], seconds[theirs]))
    own, peer = (statistics.median(side) for side in zip(*runs, strict=True))
    ratios = [their / our for our, their in runs]
    ratio = statistics.median(ratios)
    return Row(
        f"{what} / candidates in a loop",
        f"{own * 1000:,.1f} ms",
        f"{peer * 1000:,.0f} ms",
        f"{ratio:.0f}",
        f">= {goal:.0f}",
        "yes" if ratio >= goal else "no",
        spread(ratios, ".0f"),
    )
