"""Judging pruned candidates: following channels once, two workers beside one, and judging beside fine-tuning."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn

from course_lib import checkpoints, data, jobs, training
from course_lib.data import Dataset, to_float
from course_lib.pruning.eagleeye import Strategy, sample_strategies, search
from course_lib.pruning.filters import filter_plan, sensitivity, untied_layers
from course_lib.pruning.surgery import remove_channels
from course_lib.training import Recipe
from tests.benchmarks.row import Row, spread

GOAL_WORKERS = 1.7
GOAL_JUDGING = 20.0
GOAL_FOLLOWING = 2.0
_NAME = "glyphs-vgg-narrow"
_FOLLOWED = ("glyphs-vgg", "glyphs-mobilenet", "glyphs-resnet")  # the networks of chapters 04 and 05
_RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9)
_CANDIDATES = 100
_TUNING = Recipe(epochs=2, learning_rate=0.03, schedule="cosine", augment="shift", channels_last=True)


def judging(repeats: int) -> Iterator[Row]:
    """A search in two processes beside the same in one; then a candidate's judgement beside two epochs of training."""
    model, dataset = checkpoints.load(_NAME), data.load_dataset("glyphs")
    example = to_float(dataset.validation.images[:1])
    strategies = sample_strategies(
        model, example, count=_CANDIDATES, mac_range=(0.25, 0.35), max_ratio=0.8, seed=0
    )
    yield _workers(model, dataset, strategies, repeats)
    yield _judging(model, dataset, strategies, repeats)


def following(repeats: int) -> Iterator[Row]:
    """Channels followed once, beside followed at every call. What is measured is the part that prunes: evaluation takes
    what it takes on either side, so `sensitivity` gets an accuracy for nothing and `search` scores a single image."""
    dataset = data.load_dataset("glyphs")
    for name in _FOLLOWED:
        yield from _following(name, checkpoints.load(name), dataset, repeats)


def _following(name: str, model: nn.Module, dataset: Dataset, repeats: int) -> Iterator[Row]:
    example, one = to_float(dataset.validation.images[:1]), dataset.validation.subset(torch.arange(1))
    layers = untied_layers(model, example)[:6]
    strategies = sample_strategies(model, example, count=8, mac_range=(0.3, 0.5), max_ratio=0.95, seed=0)

    def cut(ratios: dict[str, float]) -> nn.Module:
        return remove_channels(model, example, filter_plan(model, example, ratios))

    yield _paired(
        f"sensitivity of {len(layers)} layers of {name}",
        lambda: sensitivity(model, example, lambda _: 0.5, layers=layers, ratios=_RATIOS),
        lambda: [cut({layer: ratio}) for layer in layers for ratio in _RATIOS],
        repeats,
    )
    yield _paired(
        f"search of {len(strategies)} candidates of {name}",
        lambda: search(model, dataset, strategies, calibration_images=0, scoring_images=1, workers=1),
        lambda: [jobs.on_one_thread(training.evaluate, cut(s.ratios), one) for s in strategies],
        repeats,
    )


def _paired(what: str, once: Callable[[], object], each: Callable[[], object], repeats: int) -> Row:
    """Run both in turn; the first pair warms up, and the ratio is the median of those within the pairs."""
    runs = []
    for repeat in range(repeats + 1):
        seconds = {}
        for side in (once, each) if repeat % 2 else (each, once):
            started = time.perf_counter()
            side()
            seconds[side] = time.perf_counter() - started
        runs.append((seconds[once], seconds[each]))
    ratios = [slow / quick for quick, slow in runs[1:]]
    ratio = statistics.median(ratios)
    return Row(
        f"{what}, followed once / at each call",
        f"{statistics.median(quick for quick, _ in runs[1:]) * 1000:,.0f} ms",
        f"{statistics.median(slow for _, slow in runs[1:]) * 1000:,.0f} ms",
        f"{ratio:.2f}",
        f">= {GOAL_FOLLOWING:.2f}",
        "yes" if ratio >= GOAL_FOLLOWING else "no",
        spread(ratios),
    )


def _workers(model: nn.Module, dataset: Dataset, strategies: Sequence[Strategy], repeats: int) -> Row:
    """Run both in turn; the ratio is the median of the ratios within the pairs, so slow spells cancel."""
    search(model, dataset, strategies[:8], workers=2)  # starts the processes, which then stay
    runs = []
    for repeat in range(repeats):
        seconds = {}
        for workers in (1, 2) if repeat % 2 else (2, 1):
            started = time.perf_counter()
            search(model, dataset, strategies, workers=workers)
            seconds[workers] = time.perf_counter() - started
        runs.append((seconds[2], seconds[1]))
    ratios = [one / two for two, one in runs]
    ratio = statistics.median(ratios)
    return Row(
        f"{_CANDIDATES} candidates, two workers / one",
        f"{statistics.median(two for two, _ in runs):.1f} s",
        f"{statistics.median(one for _, one in runs):.1f} s",
        f"{ratio:.2f}",
        f">= {GOAL_WORKERS:.2f}",
        "yes" if ratio >= GOAL_WORKERS else "no",
        spread(ratios),
    )


def _judging(model: nn.Module, dataset: Dataset, strategies: Sequence[Strategy], repeats: int) -> Row:
    """Another candidate in each pair; the training is not watched, since judging would be its own validation."""
    example = to_float(dataset.validation.images[:1])
    runs = []
    for strategy in strategies[:repeats]:
        [judged] = search(model, dataset, [strategy], workers=1).seconds
        small = remove_channels(model, example, filter_plan(model, example, strategy.ratios))
        started = time.perf_counter()
        training.fit(small, dataset, _TUNING, validate=False)
        runs.append((judged, time.perf_counter() - started))
    ratios = [tuned / judged for judged, tuned in runs]
    ratio = statistics.median(ratios)
    return Row(
        f"judging a candidate / {_TUNING.epochs} epochs of it",
        f"{statistics.median(judged for judged, _ in runs) * 1000:,.0f} ms",
        f"{statistics.median(tuned for _, tuned in runs) * 1000:,.0f} ms",
        f"{ratio:.1f}",
        f">= {GOAL_JUDGING:.1f}",
        "yes" if ratio >= GOAL_JUDGING else "no",
        spread(ratios, ".1f"),
    )
