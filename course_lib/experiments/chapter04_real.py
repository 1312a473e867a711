"""Chapter 04 on photographs: the control on a VGG for CIFAR-10, within a budget of minutes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import nn

from course_lib import checkpoints, cost, training
from course_lib.data import Dataset
from course_lib.experiments import chapter04
from course_lib.experiments.budget import affordable, seconds_per_epoch
from course_lib.experiments.common import example_of, photographs
from course_lib.experiments.experiment import Experiment, Run, Scale
from course_lib.pruning.filters import filter_plan
from course_lib.pruning.graph import Channels, follow
from course_lib.pruning.surgery import remove_channels

__all__ = ["CIFAR10", "CIFAR_CRITERIA"]

CIFAR_CRITERIA = ("smallest", "random", "largest")
CIFAR_TUNE = replace(
    checkpoints.CATALOGUE["cifar10-vgg"].recipe, learning_rate=0.05, schedule="cosine", label_smoothing=0.0
)


class Photographs(NamedTuple):
    """What the runs on CIFAR-10 share.

    Attributes:
        dataset: photographs, or noise in a test.
        network: trained, whole.
        channels: of the network.
        epochs: of the fine-tuning.
        scale: how much is done.
        facts: for the record.
    """

    dataset: Dataset
    network: nn.Module
    channels: Channels
    epochs: int
    scale: Scale
    facts: dict[str, Any]


def place() -> str:
    """The GPU, or the processor where there is none."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def prepare_cifar10(runs: Sequence[Run], scale: Scale) -> Photographs:
    """Time an epoch of the pruned network, and share the budget out to the runs."""
    dataset, network = photographs(scale), checkpoints.load("cifar10-vgg")
    channels, epochs = follow(network, example_of(dataset)), 40
    if scale.minutes is not None:
        small = remove_channels(network, channels, filter_plan(network, channels, chapter04.RATIO))
        seconds = seconds_per_epoch(small.to(place()), dataset, CIFAR_TUNE)
        epochs = affordable(0.8 * scale.minutes / len(runs), seconds, most=epochs)
    unpruned = training.evaluate(network, dataset.test)
    facts = {"network": "cifar10-vgg", "unpruned": unpruned, "tuning epochs": epochs}
    return Photographs(dataset, network, channels, epochs, scale, facts)


def measure_cifar10(run: Run, shared: Photographs, method: None) -> dict[str, float]:
    """Remove half of the filters of every layer by a criterion; at once, recalibrated, fine-tuned."""
    dataset, network, seed = shared.dataset, shared.network, run["seed"]
    score = chapter04.score_of(run["by"], network, dataset, seed)
    plan = filter_plan(network, shared.channels, chapter04.RATIO, criterion=score)
    small = remove_channels(network, shared.channels, plan).to(place())
    found = {"at once": training.evaluate(small, dataset.test)}
    # The calibration images have to lie where the network does.
    small = chapter04.recalibrated(small.cpu(), dataset, seed).to(place())
    found["recalibrated"] = training.evaluate(small, dataset.test)
    chapter04.tune(small, dataset, replace(CIFAR_TUNE, epochs=shared.epochs, seed=seed), shared.scale)
    example = example_of(dataset)
    share = cost.macs(small.cpu(), example) / cost.macs(network, example)
    return {**found, "tuned": training.evaluate(small.to(place()), dataset.test), "macs": share}


CIFAR10 = Experiment(
    "04-cifar10",
    tuple({"by": by, "seed": seed} for by in CIFAR_CRITERIA for seed in range(3)),
    measure_cifar10,
    prepare_cifar10,
    live=(),
    seed="the random choice, the images to calibrate with, and the order of images in fine-tuning; one network",
    dataset="CIFAR-10 (JPEG)",
    minutes=4,
)
"""Half of the filters of every layer of a VGG removed by three criteria."""
