"""Chapter 05 on photographs: candidates of a VGG on CIFAR-10, within a budget of minutes."""

import functools
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import joblib
import numpy as np
import torch
from torch import nn

from course_lib import checkpoints, data, training
from course_lib.data import Dataset, Split
from course_lib.experiments import chapter05
from course_lib.experiments.budget import affordable, seconds_per_epoch
from course_lib.experiments.chapter05 import MAX_RATIO, recalibrate
from course_lib.experiments.experiment import Experiment, Run, Scale
from course_lib.jobs import on_one_thread
from course_lib.pruning.eagleeye import Strategy
from course_lib.pruning.filters import ratios_for_macs
from course_lib.pruning.graph import Channels, follow

__all__ = ["CIFAR10"]


class Photographs(NamedTuple):
    """What the runs on CIFAR-10 share.

    Attributes:
        dataset: photographs, or noise in a test.
        network: trained, whole.
        channels: of the network.
        strategies: random ones at half of the MACs.
        scores: of all of them.
        epochs: of the longer fine-tuning.
        tuned: how many candidates the budget pays for.
        scale: how much is done.
        facts: for the record.
    """

    dataset: Dataset
    network: nn.Module
    channels: Channels
    strategies: list[Strategy]
    scores: list[float]
    epochs: int
    tuned: int
    scale: Scale
    facts: dict[str, Any]


CIFAR_SHARE, MOST_CANDIDATES = 0.5, 60
CIFAR_TUNE = replace(
    checkpoints.CATALOGUE["cifar10-vgg"].recipe,
    epochs=1,
    learning_rate=0.05,
    schedule="cosine",
    label_smoothing=0.0,
)


def photographs(scale: Scale) -> Dataset:
    """Read CIFAR-10; a test, which has no photographs, gets noise of their shape."""
    if scale.images is None:
        return data.load_dataset("cifar10")
    generator = torch.Generator().manual_seed(0)
    shape = (scale.images, 3, 32, 32)
    images = torch.randint(256, shape, generator=generator).to(torch.uint8)
    split = Split(images, torch.arange(scale.images) % 10)
    return Dataset("noise", split, split, split, tuple("abcdefghij"))


def prepare_cifar10(runs: Sequence[Run], scale: Scale) -> Photographs:
    """Time the work on this machine, then score as many strategies as the budget pays for."""
    dataset = photographs(scale)
    network = checkpoints.load("cifar10-vgg")
    channels = follow(network, chapter05.example_of(dataset))
    minutes = (scale.minutes or 12) * joblib.cpu_count()  # of one thread; the runs go side by side
    near = functools.partial(chapter05.sample_strategies, network, channels, max_ratio=MAX_RATIO, seed=0)
    strategies = near(count=chapter05.few(200, scale) + 1, mac_range=(CIFAR_SHARE - 0.02, CIFAR_SHARE + 0.02))
    first = chapter05.pruned(network, channels, strategies[0].ratios)
    seconds = on_one_thread(seconds_per_epoch, first, dataset, CIFAR_TUNE)
    started = time.perf_counter()
    chapter05.judge(network, channels, dataset, strategies[:2], recalibrate)
    judging = (time.perf_counter() - started) / 2
    tuned = affordable(0.5 * minutes, seconds, least=4, most=MOST_CANDIDATES)
    epochs = affordable(0.25 * minutes / 6, seconds, most=10)
    scored = affordable(0.15 * (scale.minutes or 12), judging, least=4, most=200)
    strategies = strategies[: max(scored, tuned)]
    told = {
        "network": "cifar10-vgg",
        "unpruned": training.evaluate(network, dataset.test),
        "MACs left": CIFAR_SHARE,
        "tuning epochs of a candidate": CIFAR_TUNE.epochs,
        "tuning epochs of the chosen one": epochs,
        "candidates scored": len(strategies),
    }
    scores = chapter05.judge(network, channels, dataset, strategies, recalibrate)
    return Photographs(dataset, network, channels, strategies, scores, epochs, tuned, scale, told)


def measure_cifar10(run: Run, shared: Photographs, method: None) -> dict[str, float]:
    """Tune one candidate, or for longer the best by score, or the uniform strategy."""
    dataset, network, channels, place = shared.dataset, shared.network, shared.channels, run["number"]
    if run["arm"] == "candidate" and place >= min(shared.tuned, len(shared.strategies)):
        return {}  # the budget does not pay for it
    if run["arm"] == "uniform":
        ratios = ratios_for_macs(network, channels, lambda t: t, CIFAR_SHARE)
    else:
        place = int(np.argmax(shared.scores)) if place is None else place
        ratios = shared.strategies[place].ratios
    recipe = replace(CIFAR_TUNE, epochs=CIFAR_TUNE.epochs if run["arm"] == "candidate" else shared.epochs)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    small = chapter05.pruned(network, channels, ratios).to(device)
    tuned = training.evaluate(chapter05.tune(small, dataset, shared.scale, run["seed"], recipe), dataset.test)
    if run["arm"] != "candidate":
        return {"tuned": tuned}
    plain = chapter05.judge(network, channels, dataset, [shared.strategies[place]], None)[0]
    return {"plain": plain, "adaptive": shared.scores[place], "tuned": tuned}


CIFAR10 = Experiment(
    "05-cifar10",
    (
        *({"arm": "candidate", "number": place, "seed": 0} for place in range(MOST_CANDIDATES)),
        *({"arm": arm, "number": None, "seed": seed} for arm in ("chosen", "uniform") for seed in range(3)),
    ),
    measure_cifar10,
    prepare_cifar10,
    live=(),
    seed="order and shifts of the images in fine-tuning",
    dataset="CIFAR-10 (JPEG)",
    minutes=12,
)
"""Candidates at half of the MACs of a VGG, and the best of a larger pool beside the uniform strategy."""
