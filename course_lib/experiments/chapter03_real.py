"""Chapter 03 on photographs: a VGG trained on CIFAR-10 without and with the penalty, within a budget of minutes."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from course_lib import checkpoints, cost, models, training
from course_lib.data import Dataset, to_float
from course_lib.experiments import chapter03
from course_lib.experiments.budget import affordable, seconds_per_epoch
from course_lib.experiments.common import photographs
from course_lib.experiments.experiment import Experiment, Run, Scale
from course_lib.pruning.slimming import add_sparsity_gradient
from course_lib.training import Recipe

__all__ = ["CIFAR10"]

REACH = 3.6
"""How far the strongest penalty on glyphs pulls a gamma over its training, if nothing pulls back."""

BLUEPRINT = checkpoints.CATALOGUE["cifar10-vgg"]


class Photographs(NamedTuple):
    """What the runs on CIFAR-10 share.

    Attributes:
        dataset: photographs, or noise in a test.
        recipe: of the training.
        tuning: of the fine-tuning, a quarter of the epochs.
        strength: of the penalty.
        facts: for the record.
    """

    dataset: Dataset
    recipe: Recipe
    tuning: Recipe
    strength: float
    facts: dict[str, Any]


def prepare_cifar10(runs: Sequence[Run], scale: Scale) -> Photographs:
    """Time an epoch on this machine, and choose the epochs and the strength that the budget allows."""
    dataset = photographs(scale)
    network = models.build("vgg", **BLUEPRINT.options).to(_place())
    seconds = seconds_per_epoch(network, dataset, BLUEPRINT.recipe)
    share = 0.8 * (scale.minutes or 6) / len(runs)  # of one training; the rest is for tuning and judging
    epochs = affordable(share, seconds, most=160)
    if scale.steps is not None:
        epochs = 1
    recipe = replace(BLUEPRINT.recipe, epochs=epochs)
    tuning = replace(recipe, epochs=max(1, epochs // 4), learning_rate=recipe.learning_rate / 4)
    strength = round(REACH / chapter03.reach(1.0, recipe, len(dataset.train)), 6)
    told = {
        "network": {"vgg": BLUEPRINT.options},
        "epochs": recipe.epochs,
        "tuning epochs": tuning.epochs,
        "strength": strength,
    }
    return Photographs(dataset, recipe, tuning, strength, told)


def _place() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def measure_cifar10(run: Run, shared: Photographs, method: None) -> dict[str, float]:
    """Train a network, cut 70 % of the channels, fine-tune; its accuracy on the test split each time."""
    dataset, seed, place = shared.dataset, run["seed"], _place()
    one = to_float(dataset.test.images[:1]).to(place)
    network = models.build("vgg", gamma=0.5, seed=seed, **BLUEPRINT.options).to(place)
    pull = functools.partial(add_sparsity_gradient, strength=shared.strength)
    training.fit(
        network,
        dataset,
        replace(shared.recipe, seed=seed),
        after_backward=pull if run["penalty"] == "L1" else None,
        validate=False,
    )
    small = chapter03.slim(network, one, 0.7)
    whole, cut = cost.measure(network, one), cost.measure(small, one)
    found = {
        "unpruned": training.evaluate(network, dataset.test),
        "at_once": training.evaluate(small, dataset.test),
    }
    training.fit(small, dataset, replace(shared.tuning, seed=seed), validate=False)
    return found | {
        "tuned": training.evaluate(small, dataset.test),
        "parameters": cut.parameters / whole.parameters,
        "macs": cut.macs / whole.macs,
    }


CIFAR10 = Experiment(
    "03-cifar10",
    tuple({"penalty": penalty, "seed": seed} for seed in range(3) for penalty in ("none", "L1")),
    measure_cifar10,
    prepare_cifar10,
    live=(),
    seed="the whole network: initial weights, order and shifts of the images, and the fine-tuning",
    dataset="CIFAR-10 (JPEG)",
    minutes=6,
)
"""70 % of the channels of a VGG cut after training without and with the penalty, and fine-tuned."""
