"""Chapter 02 on MNIST: the network and the lines of the source document, and loops that do prune."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import joblib
import torch
from torch import nn

from course_lib import models, training
from course_lib.experiments.budget import affordable, seconds_per_epoch
from course_lib.experiments.chapter01_real import real
from course_lib.experiments.chapter02_loops import Shared, accuracy_of, propose_more, propose_neurons
from course_lib.experiments.common import example_of
from course_lib.experiments.experiment import Experiment, Run, Scale
from course_lib.jobs import on_one_thread
from course_lib.pruning import rollback
from course_lib.training import Recipe

__all__ = ["MNIST", "WAYS"]

RECIPE = Recipe(
    epochs=10, batch_size=64, learning_rate=0.01, momentum=0.0, weight_decay=0.0, schedule="constant"
)
WAYS = tuple((mode, by) for mode in ("hard", "soft") for by in ("random", "magnitude"))
TOLERANCE, TARGET, MOST_SEEDS = 0.005, 0.1, 5
ROUNDS = {"hard": 60, "soft": 15}


def prepare_mnist(runs: Sequence[Run], scale: Scale) -> Shared:
    """Read MNIST and see for how many seeds the budget pays."""
    dataset, seeds = real("mnist", 1, 28, scale), MOST_SEEDS
    if scale.minutes is not None and scale.steps is None:
        model = models.build("mlp", image_size=28, seed=0)
        # Ten epochs, and up to fifteen in each of two soft loops, with the evaluation of all attempts.
        seconds = 50 * on_one_thread(seconds_per_epoch, model, dataset, RECIPE)
        seeds = affordable(scale.minutes * joblib.cpu_count(), seconds, least=2, most=MOST_SEEDS)
    return Shared(dataset, scale, {"seeds": seeds, "tolerance": TOLERANCE, "epochs": RECIPE.epochs})


def measure_mnist(run: Run, shared: Shared, method: None) -> dict[str, float]:
    """Train the document's network, apply its lines, then run loops that do prune."""
    dataset, scale, seed = shared.dataset, shared.scale, run["seed"]
    if seed >= shared.facts["seeds"]:
        return {}  # the budget does not pay for it
    epochs = scale.epochs(RECIPE.epochs, images=len(dataset.train), batch_size=RECIPE.batch_size)
    recipe = replace(RECIPE, seed=seed, epochs=epochs)
    model = models.build("mlp", image_size=28, seed=seed)
    training.fit(model, dataset, recipe, validate=False)
    metrics = {
        "train": training.evaluate(model, dataset.train),
        "test": training.evaluate(model, dataset.test),
    }
    treated = copy.deepcopy(model)
    for row in treated[1].weight.data:  # the document's lines
        row.add_(-0.01 * torch.sign(row).mul_(row.abs().div_(row.abs().max())))
    metrics["zeros"] = int((treated[1].weight == 0).sum())
    metrics["after its lines"] = training.evaluate(treated, dataset.test)
    one_epoch = replace(recipe, epochs=1)

    def train_once(grown: nn.Module) -> None:
        training.fit(grown, dataset, one_epoch, validate=False)

    for mode, by in WAYS:
        propose = propose_neurons(seed, by=by) if mode == "hard" else propose_more(seed, by=by)
        log = rollback.prune_with_rollback(
            model,
            propose=propose,
            evaluate=accuracy_of(dataset.validation),
            tolerance=TOLERANCE,
            target=TARGET,
            mode=mode,
            train=train_once if mode == "soft" else None,
            example=example_of(dataset),
            max_attempts=ROUNDS[mode] if scale.steps is None else 2,
        )
        metrics[f"left, {mode}, {by}"] = log.complexity
        metrics[f"test, {mode}, {by}"] = training.evaluate(log.model, dataset.test)
    return metrics


MNIST = Experiment(
    "02-mnist-document",
    tuple({"seed": seed} for seed in range(MOST_SEEDS)),
    measure_mnist,
    prepare_mnist,
    live=(),
    seed="the initial weights, the order of images, and what chance proposes",
    dataset="MNIST",
    minutes=5,
)
"""The document's network on its own data, its lines, and loops that do prune."""
