"""Thresholds by all four methods from one histogram of 2,048 bins, beside a loop over the candidates."""

import statistics
import time
from collections.abc import Callable, Iterator

import torch

from course_lib.quantization.calibration import METHODS, Histogram
from tests.benchmarks.row import Row
from tests.quantization import reference

GOAL_SPEED = 20.0
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
        yield _speed(name, histogram, repeats)


def _ours(histogram: Histogram) -> list[float]:
    return [histogram.threshold(method) for method in METHODS]


def _theirs(histogram: Histogram) -> list[float]:
    counts, width, largest = histogram.counts, histogram.width, histogram.largest
    found = [
        reference.percentile(counts, width, 99.99),
        reference.mse(counts, width, _LEVELS),
        reference.entropy(counts, width, _LEVELS),
    ]
    return [largest, *(min(threshold, largest) for threshold in found)]


def _speed(name: str, histogram: Histogram, repeats: int) -> Row:
    """Run both sides in turn; the first pair warms up."""
    if _ours(histogram) != _theirs(histogram):
        raise AssertionError(f"the thresholds of the {name} histogram differ, so their times say nothing")
    runs = []
    for repeat in range(repeats + 1):
        sides: tuple[Callable, ...] = (_ours, _theirs) if repeat % 2 else (_theirs, _ours)
        seconds = {}
        for side in sides:
            started = time.perf_counter()
            side(histogram)
            seconds[side] = time.perf_counter() - started
        if repeat:
            runs.append((seconds[_ours], seconds[_theirs]))
    ours, theirs = (statistics.median(side) for side in zip(*runs, strict=True))
    ratio = theirs / ours
    return Row(
        f"four thresholds, {name} / candidates in a loop",
        f"{ours * 1000:,.1f} ms",
        f"{theirs * 1000:,.0f} ms",
        f"{ratio:.0f}",
        f">= {GOAL_SPEED:.0f}",
        "yes" if ratio >= GOAL_SPEED else "no",
    )
