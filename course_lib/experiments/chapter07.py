"""Chapter 07: cut, train, round a given network, against small networks of the same cost that are trained anew."""

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from course_lib import checkpoints, cost, training
from course_lib.data import Dataset, Split, to_float
from course_lib.experiments.chapter07_parts import (
    CANDIDATES,
    GIVEN,
    HALF,
    MACS_LEFT,
    PARAMETERS_LEFT,
    deploy,
    find_ranges,
    narrow,
    parameters,
    renewed,
    strategies_of,
    taught,
)
from course_lib.experiments.common import cut, drawn, example_of, glyphs, judged
from course_lib.experiments.experiment import Experiment, Run, Scale
from course_lib.jobs import run_parallel
from course_lib.pruning import eagleeye
from course_lib.pruning.filters import filter_plan
from course_lib.pruning.recalibration import recalibrate_batch_norm
from course_lib.pruning.surgery import remove_channels
from course_lib.quantization import workflow
from course_lib.training import Loss, Recipe

__all__ = [
    "ALPHAS",
    "BUDGET",
    "BUDGETS",
    "CALIBRATION",
    "CHOICES",
    "CHOOSING",
    "COSTS",
    "FEW",
    "FEW_LABELS",
    "SCORING",
    "TEACHER",
    "TEACHER_RATES",
    "TEMPERATURES",
    "TUNE",
    "Shared",
    "best_cut",
    "cut_of",
    "prepare",
    "rounded",
]

BASE_EPOCHS = checkpoints.CATALOGUE[GIVEN].recipe.epochs
CALIBRATION, SCORING = 500, 1000
BUDGETS = (0, 1, 2, 5, 10, 25)
"""Epochs that are paid for after the network is given."""

SHORT = 2  # epochs; up to these, what was chosen for short training holds
FEW = {100: 300, 1000: 38}
"""{labelled images: epochs}: about 300 updates in both cases."""

TUNE = replace(checkpoints.CATALOGUE[GIVEN].recipe, schedule="cosine", channels_last=True)
TRAIN = replace(checkpoints.CATALOGUE[GIVEN].recipe, channels_last=True)
"""For kept weights; for new ones, with a warm-up."""


# The method, as the chapter shows it


def best_cut(network, strategies, calibration, scoring):
    """Of the networks that the strategies leave, the best once its batch norm is recalibrated; nothing is trained."""
    example, best, highest = to_float(calibration[:1]), None, -1.0
    for strategy in strategies:
        plan = filter_plan(network, example, strategy.ratios)  # the filters with the smallest L1 norm
        candidate = remove_channels(network, example, plan)
        recalibrate_batch_norm(candidate, [to_float(calibration)])
        score = training.evaluate(candidate, scoring)
        if score > highest:
            best, highest = candidate, score
    return best


# What runs share, and what each of them measures


@dataclass(frozen=True)
class Shared:
    """What the runs of an experiment share.

    Attributes:
        dataset: to score, calibrate, train and judge with.
        given: the trained network.
        strategies: {seed: those within the budget}.
        scale: how much is done.
        facts: for the record.
    """

    dataset: Dataset
    given: nn.Module
    strategies: dict[int, list[eagleeye.Strategy]]
    scale: Scale
    facts: dict[str, Any]


def prepare(runs: Sequence[Run], scale: Scale) -> Shared:
    """Draw the strategies of every seed."""
    seeds = sorted({run["seed"] for run in runs})
    workers = 1 if scale.steps else None
    most = 2 if scale.steps else None  # a test judges two
    drawn_ = run_parallel(strategies_of, seeds, workers=workers, label="strategies")
    found = {seed: strategies[:most] for seed, strategies in zip(seeds, drawn_, strict=True)}
    facts = {
        "given": GIVEN,
        "epochs of the given network": BASE_EPOCHS,
        "MACs left": MACS_LEFT,
        "parameters left": PARAMETERS_LEFT,
        "strategies drawn": CANDIDATES,
        "strategies judged": {str(seed): len(strategies) for seed, strategies in found.items()},
        "calibration images": CALIBRATION,
        "scoring images": SCORING,
        "augment": TUNE.augment,
    }
    return Shared(cut(glyphs(), scale), checkpoints.load(GIVEN), found, scale, facts)


def seen_by(run: Run, dataset: Dataset) -> Dataset:
    """The data set with as many training images as a run has; test and validation images stay as they are."""
    if run["images"] is None:
        return dataset
    return replace(dataset, train=drawn(dataset.train, run["images"], run["seed"]))


def cut_of(run: Run, shared: Shared, method: Callable[..., nn.Module]) -> nn.Module:
    """The cut of the given network; where labelled images are few, these have to score the candidates too."""
    own, seed = seen_by(run, shared.dataset), run["seed"]
    scoring = own.validation if run["images"] is None else own.train
    return method(
        shared.given,
        shared.strategies[seed],
        drawn(own.train, CALIBRATION, seed).images,
        drawn(scoring, SCORING, seed),
    )


def start_of(run: Run, shared: Shared, method: Callable[..., nn.Module]) -> nn.Module:
    """The network before it is trained: cut, of the cut's widths with new weights, or evenly narrow and new."""
    network = cut_of(run, shared, method)
    if run["start"] == "narrow":
        return narrow(network, run["seed"])
    return renewed(network, run["seed"]) if run["start"] == "new" else network


def recipe_of(run: Run, images: int, scale: Scale) -> Recipe:
    """The recipe of a run on so many images."""
    recipe = TUNE if run["start"] == "cut" else TRAIN
    epochs = scale.epochs(run["epochs"], images=images, batch_size=recipe.batch_size) if run["epochs"] else 0
    return replace(recipe, epochs=epochs, learning_rate=run["rate"], seed=run["seed"])


def loss_of(run: Run, shared: Shared, network: nn.Module) -> Loss | None:
    """The loss of a run: of labels alone, or with the given network as a teacher; or, a bug, the student itself."""
    if run["teacher"] == "none":
        return None
    # Channels innermost, a teacher is a third faster.
    given = copy.deepcopy(shared.given).to(memory_format=torch.channels_last)
    teacher = network if run["teacher"] == "itself" else given
    return taught(teacher, run["temperature"], run["alpha"])


def rounded(network: nn.Module, ranges: Mapping[str, Any], dataset: Dataset, name: str) -> dict[str, Any]:
    """Accuracy of a network in int8, as its file gives it: {name: test, name_parts: its parts, ...}."""
    told = judged(workflow.quantize_model(network, ranges), dataset)
    return {name: told["test"], f"{name}_parts": told["test_parts"], "validation": told["validation"]}


def worth(network: nn.Module, images: Split, dataset: Dataset, seed: int) -> dict[str, Any]:
    """Test accuracy in float32 and in int8, and validation accuracy in int8."""
    told = judged(network, dataset)
    ranges = find_ranges(network, drawn(images, CALIBRATION, seed).images)
    return {
        "float": told["test"],
        "float_parts": told["test_parts"],
        **rounded(network, ranges, dataset, "test"),
    }


def measure(run: Run, shared: Shared, method: Callable[..., nn.Module]) -> dict[str, Any]:
    """Start, train, round."""
    own, seed = seen_by(run, shared.dataset), run["seed"]
    network = start_of(run, shared, method)
    recipe = recipe_of(run, len(own.train), shared.scale)
    if recipe.epochs:
        training.fit(network, own, recipe, loss=loss_of(run, shared, network), validate=False)
    network.eval().to(memory_format=torch.contiguous_format)
    found = worth(network, own.train, own, seed)
    if run["bugs"]:
        images = drawn(own.train, CALIBRATION, seed).images
        stale = rounded(network, find_ranges(shared.given, images), own, "stale ranges")
        tests = rounded(network, find_ranges(network, own.test.images[:CALIBRATION]), own, "test ranges")
        found = stale | tests | found
    return found


# What is chosen, on validation images of a seed of its own

CHOOSING = 5
"""The seed that chooses; it takes no part in the comparisons."""

GRIDS: Mapping[tuple[str, int | None], tuple[float, ...]] = {
    ("cut", None): (0.01, 0.03, 0.1, 0.3, 1.0),
    ("new", None): (0.03, 0.1, 0.3, 1.0),
    ("narrow", None): (0.03, 0.1, 0.3, 1.0, 3.0),
    ("cut", 100): (0.003, 0.01, 0.03, 0.1, 0.3),
    ("cut", 1000): (0.003, 0.01, 0.03, 0.1, 0.3),
    ("narrow", 100): (0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    ("narrow", 1000): (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
}
"""{(start, labelled images): learning rates}; none is chosen at an end."""

LENGTHS = {"cut": (1, 10), "new": (2, 25), "narrow": (2, 25)}
"""{start: epochs that stand for short and for long training}."""

TEMPERATURES, ALPHAS = (1.0, 4.0, 8.0), (0.1, 0.5, 0.9)
TEACHER_RATES = (0.03, 0.1)
"""That which is chosen for the cut, and a larger one, to show what it changes."""

TRIAL = {"teacher": "given", "temperature": 4.0, "alpha": 0.5}
"""Teacher of the runs that choose a rate."""

LABELS = {"teacher": "none", "temperature": None, "alpha": None}
DEFAULTS = {"images": None, "bugs": False}


def _choices() -> tuple[dict[str, Any], ...]:
    arms: list[dict[str, Any]] = []
    for (start, images), rates in GRIDS.items():
        ways = [TRIAL] * (start == "cut" or bool(images)) + [LABELS] * (start != "cut" or not images)
        for epochs in LENGTHS[start] if images is None else (FEW[images],):
            own = {"start": start, "epochs": epochs} | ({"images": images} if images else {})
            arms += [own | how | {"rate": rate} for how in ways for rate in rates]
    for epochs in LENGTHS["cut"]:
        for temperature in TEMPERATURES:
            for alpha in ALPHAS:
                how = {"teacher": "given", "temperature": temperature, "alpha": alpha}
                arms += [{"start": "cut", "epochs": epochs, **how, "rate": rate} for rate in TEACHER_RATES]
    unique = [arm for place, arm in enumerate(arms) if arm not in arms[:place]]
    return tuple(arm | {"seed": CHOOSING} for arm in unique)


CHOICES = Experiment(
    "07-choices",
    _choices(),
    measure,
    prepare,
    best_cut,
    DEFAULTS,
    live=(),
    seed="nothing else: one seed, which takes no part in the comparisons, chooses",
)
"""Learning rates of every arm, temperature and alpha of the teacher, for short and for long training."""

RATE: Mapping[tuple[str, str, str], float] = {
    ("cut", "given", "short"): 0.03,
    ("cut", "given", "long"): 0.03,
    ("cut", "none", "short"): 0.03,
    ("cut", "none", "long"): 0.03,
    ("new", "none", "short"): 0.3,
    ("new", "none", "long"): 0.3,
    ("narrow", "none", "short"): 0.3,
    ("narrow", "none", "long"): 1.0,
}
"""{(start, teacher, length of training): learning rate with the best accuracy on validation images}."""

FEW_RATE: Mapping[tuple[str, str], Mapping[int, float]] = {
    ("cut", "given"): {100: 0.01, 1000: 0.03},
    ("narrow", "none"): {100: 1.0, 1000: 3.0},
    ("narrow", "given"): {100: 1.0, 1000: 1.0},
}
TEACHER = {length: {"temperature": 8.0, "alpha": a} for length, a in (("short", 0.5), ("long", 0.9))}


# Accuracy over what is paid after the network is given

START = {
    "pipeline": ("cut", "given"),
    "labels": ("cut", "none"),
    "itself": ("cut", "itself"),
    "new weights": ("new", "none"),
    "narrow": ("narrow", "none"),
    "narrow, taught": ("narrow", "given"),
}
"""{arm: (start, teacher)}."""


def arm_of(by: str, epochs: int, images: int | None = None) -> dict[str, Any]:
    """The settings of an arm, with what was chosen for it."""
    start, teacher = START[by]
    length = "short" if epochs <= SHORT or images else "long"
    by_teacher = "none" if teacher == "none" else "given"
    rate = FEW_RATE[start, teacher][images] if images else RATE[start, by_teacher, length]
    how = LABELS if teacher == "none" else {"teacher": teacher, **TEACHER[length]}
    arm = {"by": by, "start": start, **how, "rate": rate, "epochs": epochs, "images": images}
    return arm | ({"bugs": True} if (by, epochs) == ("pipeline", 10) else {})


SEED = "strategies, calibration images, new weights, few images and the order of images; one given network"


def _of_five(*arms: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    return tuple(arm | {"seed": seed} for arm in arms for seed in range(5))


BUDGET = Experiment(
    "07-budget",
    _of_five(
        *(arm_of(by, epochs) for by in ("pipeline", "narrow") for epochs in BUDGETS),
        arm_of("new weights", 25),
        arm_of("labels", 1),
        arm_of("labels", 10),
        arm_of("itself", 1),
    ),
    measure,
    prepare,
    best_cut,
    DEFAULTS,
    live=(),  # the chapter's own loop repeats the pipeline of seed 0
    seed=SEED,
)
"""The pipeline and its controls, for every number of epochs that is paid after the network is given."""

FEW_LABELS = Experiment(
    "07-few",
    _of_five(
        *(
            arm_of(by, epochs, images)
            for images, epochs in FEW.items()
            for by in ("pipeline", "narrow", "narrow, taught")
        )
    ),
    measure,
    prepare,
    best_cut,
    DEFAULTS,
    live=(),
    seed=SEED,
)
"""The same with few labelled images, and with the given network as a teacher of the narrow one."""


# What the networks cost, and what they are worth before any training


def measure_costs(run: Run, shared: Shared, method: Callable[..., nn.Module]) -> dict[str, Any]:
    """Bytes of the files, MACs, parameters, and accuracy as the network is; for a cut also with old statistics."""
    dataset, seed, example = shared.dataset, run["seed"], example_of(shared.dataset)
    whole = {"given": shared.given, "half": checkpoints.load(HALF)}
    network = whole[run["by"]] if run["by"] in whole else start_of(run | {"start": run["by"]}, shared, method)
    found = worth(network, dataset.train, dataset, seed)
    if run["by"] == "cut":
        scores = eagleeye.search(
            shared.given,
            dataset,
            shared.strategies[seed],
            calibration_images=0,
            scoring_images=min(SCORING, len(dataset.validation)),
            seed=seed,
            workers=1,
        )
        plan = filter_plan(shared.given, example, scores.best()[0].ratios)
        found["inherited"] = training.evaluate(remove_channels(shared.given, example, plan), dataset.test)
    if run["by"] == "narrow":  # its biases begin at zero, and zeros are left out of a file
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.bias, 0.1, 0.2)
    ranges = find_ranges(network, drawn(dataset.train, CALIBRATION, seed).images)
    with tempfile.TemporaryDirectory() as folder:
        for name, given in (("bytes", ranges), ("float bytes", None)):
            found[name] = deploy(network, given, example, Path(folder)).stat().st_size
    return found | {"macs": cost.macs(network, example), "parameters": parameters(network)}


COSTS = Experiment(
    "07-pipeline",
    tuple({"by": by, "seed": seed} for by in ("given", "half", "cut", "narrow") for seed in range(5)),
    measure_costs,
    prepare,
    best_cut,
    {"images": None},
    live=(),
    seed="strategies and calibration images; one given network",
)
"""The given network, one of half its width, the cut, and the narrow network of its cost."""
