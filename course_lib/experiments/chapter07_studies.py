"""Chapter 07, beside its main line: the same three steps in every order."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from course_lib import training
from course_lib.data import Dataset
from course_lib.experiments.chapter07 import (
    CALIBRATION,
    CHOOSING,
    RATE,
    SCORING,
    TUNE,
    Shared,
    best_cut,
    prepare,
    rounded,
    worth,
)
from course_lib.experiments.chapter07_parts import find_ranges
from course_lib.experiments.common import drawn, judged
from course_lib.experiments.experiment import Experiment, Run
from course_lib.quantization import aware

__all__ = ["ORDERS", "ORDER_EPOCHS", "ORDER_RATES", "WORDS"]

WORDS = (
    "cut, train, round",
    "cut, round, train",
    "round, cut, train",
    "train, cut, round",
    "train, round, cut",
    "round, train, cut",
)
ORDER_EPOCHS = 2


def trained(network: nn.Module, ranges: Any, run: Run, shared: Shared) -> nn.Module:
    """Train with labels; once the ranges are measured, with rounding in every forward pass and batch norm kept."""
    recipe, dataset = replace(TUNE, seed=run["seed"], learning_rate=run["rate"]), shared.dataset
    epochs = shared.scale.epochs(ORDER_EPOCHS, images=len(dataset.train), batch_size=recipe.batch_size)
    aware_of = copy.deepcopy if ranges is None else lambda net: aware.prepare(net, ranges, batch_norm="kept")
    tuned = aware_of(network)
    training.fit(tuned, dataset, replace(recipe, epochs=epochs, channels_last=ranges is None), validate=False)
    tuned.to(memory_format=torch.contiguous_format)
    return (tuned if ranges is None else tuned.network).eval()


def measure_order(run: Run, shared: Shared, method: Callable[..., nn.Module]) -> dict[str, Any]:
    """Follow the words of an order; rounding measures the ranges, and whoever trains after it trains with them."""
    dataset, seed = shared.dataset, run["seed"]
    calibration = drawn(dataset.train, CALIBRATION, seed).images
    network, ranges, found = shared.given, None, {}
    for step in run["order"].split(", "):
        if step == "cut":
            scoring = drawn(dataset.validation, SCORING, seed)
            network = method(network, shared.strategies[seed], calibration, scoring)
        elif step == "round":
            ranges = find_ranges(network, calibration)
        else:
            network = trained(network, ranges, run, shared)
            if run["order"] == "train, cut, round":
                found = of_the_whole(network, dataset, seed)
    told = judged(network, dataset)
    return found | {
        "float": told["test"],
        "float_parts": told["test_parts"],
        **rounded(network, ranges, dataset, "test"),
    }


def of_the_whole(network: nn.Module, dataset: Dataset, seed: int) -> dict[str, Any]:
    """What the whole network is worth once it is trained on, in float32 and in int8."""
    names = {"float": "whole", "test": "whole, int8"}
    told = worth(network, dataset.train, dataset, seed)
    return {f"{new}{part}": told[f"{old}{part}"] for old, new in names.items() for part in ("", "_parts")}


ORDER_GRID = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
ORDER_RATES = Experiment(
    "07-order-rates",
    tuple(
        {"order": order, "rate": rate, "seed": CHOOSING}
        for order in ("cut, round, train", "round, train, cut", "train, cut, round")
        for rate in ORDER_GRID
    ),
    measure_order,
    prepare,
    best_cut,
    live=(),
    seed="nothing else: one seed, which takes no part in the comparisons, chooses",
)
"""Learning rates of the training with rounding, after the cut and before it, and of that before both."""

ORDER_RATE = {"cut, round, train": 0.03, "round, train, cut": 0.3, "train, cut, round": 0.3}
"""{order: the rate that is best on validation images, once all three steps are done}."""


def rate_of(order: str) -> float:
    """The learning rate of the training in an order; orders that train on the same thing share it."""
    steps = order.split(", ")
    rounded_first = steps.index("round") < steps.index("train")
    if steps.index("cut") < steps.index("train"):
        return ORDER_RATE["cut, round, train"] if rounded_first else RATE["cut", "none", "short"]
    return ORDER_RATE["round, train, cut" if rounded_first else "train, cut, round"]


ORDERS = Experiment(
    "07-orders",
    tuple({"order": order, "rate": rate_of(order), "seed": seed} for order in WORDS for seed in range(5)),
    measure_order,
    prepare,
    best_cut,
    live=(),
    seed="strategies, calibration images and the order of images; one given network",
)
"""Cut, train and round in six orders, two epochs each."""
