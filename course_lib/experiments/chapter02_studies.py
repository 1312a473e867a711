"""Chapter 02 beside its main line: tickets of the lottery, and two penalties."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import models, training
from course_lib.experiments.chapter02_loops import EPOCHS, FIRST, Shared, fit, mlp_recipe, prepare
from course_lib.experiments.common import judged
from course_lib.experiments.experiment import Experiment, Run
from course_lib.pruning import masks

__all__ = ["LOTTERY", "PENALTIES", "PENALTY", "STARTS", "train_with_penalty"]


# The lottery ticket

STARTS = ("first weights", "new weights", "first weights, random mask")


def measure_ticket(run: Run, shared: Shared, method: None) -> dict[str, Any]:
    """Train a network whole; or train what its mask leaves, from the weights it began with or from others."""
    dataset, scale, seed = shared.dataset, shared.scale, run["seed"]
    dense = models.build("mlp", seed=seed)
    fit(dense, dataset, seed, EPOCHS, scale)
    if run["start"] == "whole":
        return judged(dense, dataset)
    keep = masks.global_magnitude_masks(dense, run["sparsity"])
    if run["start"].endswith("random mask"):
        generator = torch.Generator().manual_seed(seed)
        keep = {
            name: masks.random_mask(mask.float(), 1 - mask.double().mean().item(), generator)
            for name, mask in keep.items()
        }
    ticket = models.build("mlp", seed=100 + seed if run["start"] == "new weights" else seed)
    masks.freeze(ticket, keep)
    fit(ticket, dataset, seed, EPOCHS, scale)
    masks.make_permanent(ticket)
    return judged(ticket, dataset)


_SEEDS = range(3)
_WHOLE = tuple({"start": "whole", "sparsity": 0.0, "seed": seed} for seed in _SEEDS)
LOTTERY = Experiment(
    "02-lottery",
    _WHOLE
    + tuple(
        {"start": start, "sparsity": sparsity, "seed": seed}
        for sparsity in (0.8, 0.95)
        for start in STARTS
        for seed in _SEEDS
    ),
    measure_ticket,
    prepare,
    live=(),
    seed="the initial weights and the order of images",
)
"""The mask of a trained network on the weights it began with, on new weights, and a random mask; equal epochs."""


# Two penalties

PENALTIES = {"none": 0.0, "absolute": 3e-4, "squared": 2e-3}
"""Strength of each."""


def penalised(model: nn.Module, penalty: str) -> Callable[[Tensor, Any], Tensor]:
    """Make a loss with a penalty on the weights of the first layer."""

    def loss(logits: Tensor, batch: Any) -> Tensor:
        weight = model[1].weight
        extra = {"none": 0.0, "absolute": weight.abs().sum(), "squared": weight.square().sum()}[penalty]
        return F.cross_entropy(logits, batch.labels) + PENALTIES[penalty] * extra

    return loss


def train_with_penalty(penalty: str, seed: int, shared: Shared) -> nn.Module:
    """Train the fully connected network under a penalty."""
    model, dataset = models.build("mlp", seed=seed), shared.dataset
    epochs = shared.scale.epochs(FIRST, images=len(dataset.train), batch_size=64)
    training.fit(model, dataset, mlp_recipe(seed, epochs), loss=penalised(model, penalty), validate=False)
    return model


def measure_penalty(run: Run, shared: Shared, method: None) -> dict[str, float]:
    """Train under a penalty, then prune the first layer by magnitude, without tuning."""
    model, test = train_with_penalty(run["penalty"], run["seed"], shared), shared.dataset.test
    weight = model[1].weight.detach().clone()
    metrics = {
        "near zero": (weight.abs() < 0.01).double().mean().item(),
        "zero": int((weight == 0).sum()),
        "test": training.evaluate(model, test),
    }
    for sparsity in (0.5, 0.8, 0.9):
        with torch.no_grad():
            model[1].weight.copy_(weight * masks.magnitude_mask(weight, sparsity))
        metrics[f"at {sparsity:.0%}"] = training.evaluate(model, test)
    return metrics


PENALTY = Experiment(
    "02-penalties",
    tuple({"penalty": penalty, "seed": seed} for penalty in PENALTIES for seed in range(5)),
    measure_penalty,
    prepare,
    live=(5,),  # the absolute penalty
    seed="the initial weights and the order of images",
)
"""Networks trained with no penalty, an absolute and a squared one, then pruned."""
