"""Chapter 07 on photographs: the pipeline and two controls on a VGG for CIFAR-10, within a budget of minutes."""

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from course_lib import checkpoints, cost, models, training
from course_lib.data import Dataset
from course_lib.experiments.budget import affordable, seconds_per_epoch
from course_lib.experiments.chapter07 import CALIBRATION, SCORING, best_cut
from course_lib.experiments.chapter07_parts import (
    MACS_LEFT,
    PARAMETERS_LEFT,
    deploy,
    find_ranges,
    parameters,
    taught,
)
from course_lib.experiments.common import drawn, example_of, photographs
from course_lib.experiments.experiment import Experiment, Run, Scale
from course_lib.pruning import eagleeye
from course_lib.pruning.filters import filter_plan
from course_lib.pruning.surgery import remove_channels
from course_lib.quantization import workflow

__all__ = ["CIFAR10", "CIFAR_WAYS"]

CIFAR_GIVEN = "cifar10-vgg"
CIFAR_WAYS = ("given", "cut", "pipeline", "labels", "narrow")
CIFAR_CANDIDATES = 96
CIFAR_TUNE = replace(
    checkpoints.CATALOGUE[CIFAR_GIVEN].recipe, learning_rate=0.05, schedule="cosine", label_smoothing=0.0
)


@dataclass(frozen=True)
class Photographs:
    """What the runs on CIFAR-10 share.

    Attributes:
        dataset: photographs, or noise in a test.
        given: the trained network.
        epochs: of every training.
        scale: how much is done.
        facts: for the record.
    """

    dataset: Dataset
    given: nn.Module
    epochs: int
    scale: Scale
    facts: dict[str, Any]


def cifar_place() -> str:
    """The GPU, or the processor where there is none."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def evenly_narrow(seed: int) -> nn.Module:
    """Build a VGG that is equally narrow in every layer, within both budgets."""
    by = min(MACS_LEFT, PARAMETERS_LEFT) ** 0.5
    widths = checkpoints.CATALOGUE[CIFAR_GIVEN].options["widths"]
    narrow = [width if width == "M" else int(width * by) for width in widths]
    return models.build("vgg", widths=narrow, in_channels=3, seed=seed).eval()


def prepare_cifar10(runs: Sequence[Run], scale: Scale) -> Photographs:
    """Time an epoch of the narrow and of the given network, and share the budget out to the runs that train."""
    dataset, given = photographs(scale), checkpoints.load(CIFAR_GIVEN)
    epochs = scale.epochs(60, images=len(dataset.train), batch_size=CIFAR_TUNE.batch_size)
    if scale.minutes is not None and scale.steps is None:
        small, large = (
            seconds_per_epoch(network.to(cifar_place()), dataset, CIFAR_TUNE)
            for network in (evenly_narrow(0), copy.deepcopy(given))
        )
        seeds = len({run["seed"] for run in runs})  # three of each train, and one asks the teacher
        epochs = affordable(0.7 * scale.minutes, seeds * (3 * small + large / 3), most=epochs)
    facts = {
        "given": CIFAR_GIVEN,
        "epochs": epochs,
        "MACs left": MACS_LEFT,
        "parameters left": PARAMETERS_LEFT,
    }
    return Photographs(dataset, given, epochs, scale, facts)


def cut_photographs(shared: Photographs, seed: int) -> nn.Module:
    """The best of the random strategies within both budgets, as on glyphs."""
    dataset, example = shared.dataset, example_of(shared.dataset)
    strategies = eagleeye.sample_strategies(
        shared.given,
        example,
        count=8 if shared.scale.steps else CIFAR_CANDIDATES,
        mac_range=(0.75 * MACS_LEFT, 0.98 * MACS_LEFT),
        max_ratio=0.8,
        seed=seed,
    )
    most = PARAMETERS_LEFT * parameters(shared.given)

    def left(ratios: Any) -> int:
        return parameters(remove_channels(shared.given, example, filter_plan(shared.given, example, ratios)))

    small = sorted(strategies, key=lambda strategy: left(strategy.ratios))
    # A test draws so few that none may be small enough; it takes the smallest.
    within = [strategy for strategy in small if left(strategy.ratios) <= most] or small[:1]
    calibration = drawn(dataset.train, CALIBRATION, seed).images
    return best_cut(shared.given, within, calibration, drawn(dataset.validation, SCORING, seed))


def measure_cifar10(run: Run, shared: Photographs, method: None) -> dict[str, Any]:
    """Cut, train, round; or leave something out: accuracy in float32 and int8, bytes of both files, MACs."""
    dataset, seed, by = shared.dataset, run["seed"], run["by"]
    starts = {"given": lambda: shared.given, "narrow": lambda: evenly_narrow(seed)}
    network = starts.get(by, lambda: cut_photographs(shared, seed))()
    if by in ("pipeline", "labels", "narrow"):
        teacher = copy.deepcopy(shared.given).to(cifar_place())
        recipe = replace(CIFAR_TUNE, epochs=shared.epochs, seed=seed)
        loss = taught(teacher, 4.0, 0.5) if by == "pipeline" else None
        training.fit(network.to(cifar_place()), dataset, recipe, loss=loss, validate=False)
        network.cpu().eval()
    example = example_of(dataset)
    ranges = find_ranges(network, drawn(dataset.train, CALIBRATION, seed).images)
    with tempfile.TemporaryDirectory() as folder:
        size, float_size = (
            deploy(network, given, example, Path(folder)).stat().st_size for given in (ranges, None)
        )
    return {
        "float": training.evaluate(network, dataset.test),
        "test": training.evaluate(workflow.quantize_model(network, ranges), dataset.test),
        "bytes": size,
        "float bytes": float_size,
        "macs": cost.macs(network, example),
    }


CIFAR10 = Experiment(
    "07-cifar10",
    tuple({"by": by, "seed": seed} for by in CIFAR_WAYS for seed in range(3)),
    measure_cifar10,
    prepare_cifar10,
    live=(),
    seed="strategies, calibration images, new weights and the order of images; one given network",
    dataset="CIFAR-10 (JPEG)",
    minutes=20,
)
"""A VGG for CIFAR-10, cut, trained for as many epochs as the budget pays for, and rounded."""
