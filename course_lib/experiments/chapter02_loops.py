"""Chapter 02: prune, evaluate, take back, hard and soft, on a fully connected network."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from course_lib import cost, models, training
from course_lib.data import Dataset, Split
from course_lib.experiments.common import cut, example_of, glyphs
from course_lib.experiments.experiment import FULL, Experiment, Run, Scale
from course_lib.pruning import criteria, masks, rollback, surgery
from course_lib.pruning.log import PruningLog
from course_lib.training import Recipe

__all__ = [
    "EPOCHS",
    "KINDS",
    "LOOPS",
    "SPLITS",
    "accuracy_of",
    "hard_loop",
    "mlp_recipe",
    "propose_connections",
    "propose_more",
    "propose_neurons",
    "run_loop",
    "soft_loop",
    "train_mlp",
]

EPOCHS, ROUNDS, FIRST = 34, 12, 10
"""Epochs in all, attempts of a soft loop, and epochs of the large network."""

TARGET = 0.25


# The method, as the chapter shows it


def hard_loop(network, example, propose, evaluate, tolerance, attempts):
    """Remove a little, evaluate, take back what costs too much; returns the network and its steps."""
    floor, steps = evaluate(network) - tolerance, []
    for attempt in range(1, attempts + 1):
        proposal = propose(network, attempt)
        if proposal is None:
            break
        smaller = surgery.remove_channels(network, example, proposal)  # prune
        accuracy = evaluate(smaller)  # evaluate
        kept = accuracy >= floor - 1e-9  # less what rounding may do
        steps.append((accuracy, kept))
        if kept:
            network = smaller  # else it is taken back: the old network stays
    return network, steps


def soft_loop(network, propose, evaluate, train, tolerance, attempts):
    """Train, set to zero, evaluate, take back what costs too much; returns the network and its steps."""
    floor, steps = evaluate(network) - tolerance, []
    for attempt in range(1, attempts + 1):
        candidate = copy.deepcopy(network)
        if attempt > 1:
            train(candidate)  # zeros may grow again
        masks.zero(candidate, propose(candidate, attempt))  # prune
        accuracy = evaluate(candidate)  # evaluate
        kept = accuracy >= floor - 1e-9
        steps.append((accuracy, kept))
        if kept:
            network = candidate
    return network, steps


# The network and what is proposed


def accuracy_of(split: Split) -> Callable[[nn.Module], float]:
    """Judge networks by the images of a split."""
    return lambda model: training.evaluate(model, split)


def mlp_recipe(seed: int, epochs: int, learning_rate: float = 0.003) -> Recipe:
    """Train with Adam; the plain SGD of the source document hardly starts on glyphs."""
    return Recipe(
        epochs=epochs,
        batch_size=64,
        optimizer="adam",
        learning_rate=learning_rate,
        weight_decay=0.0,
        seed=seed,
    )


def fit(
    model: nn.Module, dataset: Dataset, seed: int, epochs: int, scale: Scale = FULL, rate: float = 0.003
) -> None:
    """Train in place, for as many epochs as the scale allows."""
    epochs = scale.epochs(epochs, images=len(dataset.train), batch_size=64)
    training.fit(model, dataset, mlp_recipe(seed, epochs, rate), validate=False)


def train_mlp(seed: int, dataset: Dataset, scale: Scale = FULL) -> nn.Module:
    """Train the network of the source document, 128 neurons between the image and ten classes."""
    model = models.build("mlp", seed=seed)
    fit(model, dataset, seed, FIRST, scale)
    return model


Propose = Callable[[nn.Module, int], dict[str, Any] | None]
"""(network, number of the attempt) -> what is to go, or None."""


def propose_neurons(seed: int, *, by: str, step: int = 4) -> Propose:
    """Propose `step` hidden neurons, at random or those of least L1 norm."""
    generator, before = torch.Generator().manual_seed(seed), None

    def propose(model: nn.Module, attempt: int) -> dict[str, Any] | None:
        nonlocal before
        weight = model[1].weight.detach()
        stuck, before = before == len(weight) and by == "magnitude", len(weight)
        if stuck or len(weight) <= step:
            return None  # what was taken back would be proposed again
        scores = criteria.l1_norm(weight) if by == "magnitude" else criteria.random_scores(weight, generator)
        return {"1": criteria.lowest(scores, step)}

    return propose


def propose_connections(seed: int, *, by: str, share: float = 0.05) -> Propose:
    """Propose this share of each layer's connections, at random or those of least magnitude."""
    generator, before = torch.Generator().manual_seed(seed), None

    def propose(model: nn.Module, attempt: int) -> dict[str, Any] | None:
        nonlocal before
        left = sum(int(p.count_nonzero()) for p in model.parameters())
        stuck, before = before == left and by == "magnitude", left
        if stuck:
            return None
        keep = {}
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                scores = weight.detach().abs()
                if by == "random":
                    scores = torch.rand(weight.shape, generator=generator) * (weight != 0)
                gone = (weight == 0).double().mean().item() + share
                keep[name] = masks.magnitude_mask(scores, min(gone, 1))
        return keep

    return propose


def propose_more(seed: int, *, by: str, step: int = 8) -> Propose:
    """Propose, in attempt k, the k * step last neurons: what they read and what they send.

    Their bias stays: with it at zero too, no gradient would pass the ReLU and none could come back.
    """
    generator = torch.Generator().manual_seed(seed)

    def propose(model: nn.Module, attempt: int) -> dict[str, Any] | None:
        reads, sends = model[1].weight.detach(), model[3].weight.detach()
        scores = criteria.l2_norm(reads) if by == "magnitude" else criteria.random_scores(reads, generator)
        stays = torch.ones(len(reads), dtype=torch.bool)
        stays[criteria.lowest(scores, min(step * attempt, len(reads)))] = False
        return {"1.weight": stays[:, None].expand_as(reads), "3.weight": stays.expand_as(sends)}

    return propose


# The loops, then equal training, then a small network from scratch


class Shared(NamedTuple):
    """What the runs share.

    Attributes:
        dataset: to train and judge with.
        scale: how much is done.
        facts: for the record.
    """

    dataset: Dataset
    scale: Scale
    facts: dict[str, Any]


def prepare(runs: Sequence[Run], scale: Scale) -> Shared:
    """Read the glyphs."""
    told = {"epochs": EPOCHS, "rounds": ROUNDS, "target": TARGET, "network": "256-128-10"}
    return Shared(cut(glyphs(), scale), scale, told)


def run_loop(
    model: nn.Module,
    dataset: Dataset,
    seed: int,
    kind: str,
    by: str,
    *,
    judge: Split,
    tolerance: float = 0.02,
    scale: Scale = FULL,
) -> PruningLog:
    """Run one of the loops with the library."""
    common = {"evaluate": accuracy_of(judge), "tolerance": tolerance, "target": TARGET}
    common["example"] = example_of(dataset)
    if kind == "soft":
        return rollback.prune_with_rollback(
            model,
            propose=propose_more(seed, by=by),
            mode="soft",
            train=lambda grown: fit(grown, dataset, seed, 1, scale, 0.001),
            max_attempts=ROUNDS,
            **common,
        )
    propose = {"neurons": propose_neurons, "connections": propose_connections}[kind](seed, by=by)
    return rollback.prune_with_rollback(model, propose=propose, max_attempts=60, **common)


def measure_loop(run: Run, shared: Shared, method: None) -> dict[str, float]:
    """Run one loop, tune up to the same number of epochs, and train a small dense network of that size from scratch."""
    dataset, scale, seed = shared.dataset, shared.scale, run["seed"]
    model = train_mlp(seed, dataset, scale)
    log = run_loop(model, dataset, seed, run["kind"], run["by"], judge=dataset.validation, scale=scale)
    pruned, example = log.model, example_of(dataset)
    metrics = {
        "left": log.complexity,
        "taken back": sum(not attempt.accepted for attempt in log.attempts) / len(log.attempts),
        "after the loop": training.evaluate(pruned, dataset.test),
    }
    if run["kind"] == "soft":  # the zeroed neurons go for good; they send nothing, so the output stays
        silent = (criteria.l1_norm(pruned[3].weight.detach().T) == 0).nonzero().flatten()
        pruned = surgery.remove_channels(pruned, example, {"1": silent})
    if run["kind"] == "connections":
        masks.freeze(pruned, {name: p != 0 for name, p in pruned.named_parameters() if p.ndim > 1})
    spent = FIRST + (len(log.attempts) - 1 if run["kind"] == "soft" else 0)
    fit(pruned, dataset, seed, EPOCHS - spent, scale)
    metrics["tuned"] = training.evaluate(pruned, dataset.test)
    neurons = round((cost.measure(pruned, example).nonzero_parameters - 10) / (256 + 1 + 10))
    scratch = models.build("mlp", seed=100 + seed, hidden=[max(neurons, 1)])
    fit(scratch, dataset, seed, EPOCHS, scale)
    metrics["from scratch"] = training.evaluate(scratch, dataset.test)
    return metrics


KINDS = tuple((kind, by) for kind in ("neurons", "connections", "soft") for by in ("random", "magnitude"))
_SEED = "the initial weights, the order of images, and what chance proposes"
LOOPS = Experiment(
    "02-loops",
    tuple({"kind": kind, "by": by, "seed": seed} for kind, by in KINDS for seed in range(5)),
    measure_loop,
    prepare,
    live=(5,),  # hard, neurons by magnitude
    seed=_SEED,
)
"""Six loops, each tuned to the same number of epochs, beside small networks from scratch."""


def measure_split(run: Run, shared: Shared, method: None) -> dict[str, float]:
    """Run the hard loop by magnitude, judged by the images of one split."""
    dataset, seed = shared.dataset, run["seed"]
    model = train_mlp(seed, dataset, shared.scale)
    judge = getattr(dataset, run["split"])
    log = run_loop(model, dataset, seed, "neurons", "magnitude", judge=judge)
    return {
        "reported": log.accuracy,
        "test": training.evaluate(log.model, dataset.test),
        "left": log.complexity,
    }


SPLITS = Experiment(
    "02-splits",
    tuple({"split": split, "seed": seed} for split in ("validation", "train") for seed in range(5)),
    measure_split,
    prepare,
    live=(0, 5),
    seed=_SEED,
)
"""A loop that is judged by images that were held out, and one by images that were learned."""
