"""Chapter 03 beside its main line: wrong penalties, a threshold for each layer, rounds, and where gamma starts."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from course_lib import training
from course_lib.experiments import chapter03
from course_lib.experiments.chapter03 import RECIPE, SILENT, STRENGTHS, Shared, scales_of, slim, tune
from course_lib.experiments.common import example_of, judged
from course_lib.experiments.experiment import Experiment, Run
from course_lib.pruning.slimming import add_sparsity_gradient, channel_scales
from course_lib.pruning.surgery import remove_channels

__all__ = ["BUGS", "GAMMA", "PENALTIES", "ROUNDS", "WAYS", "per_layer_plan"]

STRONG = STRENGTHS[-1]


# Bugs that look right


def weight_decay(network: nn.Module, strength: float) -> None:
    """A bug: L2 where L1 is meant."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.grad.add_(layer.weight.detach(), alpha=strength)


def wrong_sign(network: nn.Module, strength: float) -> None:
    """A bug: the optimizer steps against the gradient, so this makes gamma grow."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.grad.sub_(layer.weight.detach().sign(), alpha=strength)


PENALTIES: dict[str, Callable[..., None]] = {
    "per layer": add_sparsity_gradient,
    "weight decay": weight_decay,
    "wrong sign": wrong_sign,
}


def per_layer_plan(network: nn.Module, example: Tensor, ratio: float) -> dict[str, Tensor]:
    """A bug: each layer loses the same share."""
    plan: dict[str, Tensor] = {}
    for group, scales in channel_scales(network, example):
        plan |= group.channels(scales.argsort(stable=True)[: round(ratio * len(scales))])
    return plan


def measure_bug(run: Run, shared: Shared, method: None) -> dict[str, Any]:
    """Train with one of the penalties, and cut 70 % of the channels, by one threshold or by one a layer."""
    dataset, example, seed = shared.dataset, example_of(shared.dataset), run["seed"]
    penalty = functools.partial(PENALTIES[run["by"]], strength=STRONG)
    network = tune(chapter03.build(seed), dataset, shared.scale, seed, RECIPE, after_backward=penalty)
    network.to(memory_format=torch.contiguous_format)
    scales = scales_of(network)
    if run["by"] == "per layer":
        small = remove_channels(network, example, per_layer_plan(network, example, 0.7))
    else:
        small = slim(network, example, 0.7)
    return {
        "silent": (scales < SILENT).double().mean().item(),
        "median": scales.median().item(),
        "whole": training.evaluate(network, dataset.test),
        **chapter03.staged(small, dataset, shared.scale, seed),
    }


BUGS = Experiment(
    "03-bugs",
    tuple({"by": by, "seed": seed} for by in PENALTIES for seed in range(3)),
    measure_bug,
    chapter03.prepare_nothing,
    live=(),
    seed=chapter03.SLIMMING.seed,
)
"""Weight decay in the place of L1, a penalty of the wrong sign, and a threshold for each layer."""


# Several rounds

WAYS = {"one cut": None, "two rounds, penalty on": STRONG, "two rounds, penalty off": 0.0}
FINAL = 0.85


def measure_rounds(run: Run, shared: Shared, method: None) -> dict[str, Any]:
    """Reach 15 % of the channels in one cut or in two, with the same epochs of fine-tuning in all."""
    dataset, scale, seed = shared.dataset, shared.scale, run["seed"]
    network, example = shared.networks[run["strength"], seed], example_of(shared.dataset)
    total, penalty = len(scales_of(network)), WAYS[run["by"]]
    left = total - round(FINAL * total)
    if penalty is None:
        cut, epochs = slim(network, example, FINAL), 2
    else:
        pull = functools.partial(add_sparsity_gradient, strength=penalty)
        half = slim(network, example, 1 - (left / total) ** 0.5)
        half = tune(half, dataset, scale, seed, after_backward=pull)
        cut, epochs = slim(half, example, 1 - left / len(scales_of(half))), 1
    recipe = replace(chapter03.TUNE, epochs=epochs)
    tuned = tune(cut, dataset, scale, seed, recipe)
    return {
        "channels": len(scales_of(cut)),
        "at once": training.evaluate(cut, dataset.test),
        **judged(tuned, dataset),
    }


ROUNDS = Experiment(
    "03-rounds",
    tuple({"by": by, "seed": seed} for by in WAYS for seed in range(5)),
    measure_rounds,
    chapter03.prepare_networks,
    None,
    {"strength": STRONG},
    live=(0,),
    seed=chapter03.SLIMMING.seed,
)
"""85 % of the channels cut at once, or in two rounds with the penalty on or off between them."""


# Where gamma starts


def measure_gamma(run: Run, shared: Shared, method: None) -> dict[str, Any]:
    """Train with a penalty from another start of gamma, and cut 70 % of the channels."""
    dataset, seed = shared.dataset, run["seed"]
    pull = functools.partial(add_sparsity_gradient, strength=run["strength"])
    network = chapter03.build(seed, gamma=run["gamma"])
    network = tune(network, dataset, shared.scale, seed, RECIPE, after_backward=pull)
    network.to(memory_format=torch.contiguous_format)
    small = slim(network, example_of(dataset), 0.7)
    return {
        "silent": (scales_of(network) < SILENT).double().mean().item(),
        "whole": training.evaluate(network, dataset.test),
        "at once": training.evaluate(small, dataset.test),
        "tuned": training.evaluate(tune(small, dataset, shared.scale, seed), dataset.test),
    }


GAMMA = Experiment(
    "03-gamma",
    tuple(
        {"strength": strength, "gamma": gamma, "seed": seed}
        for strength, gamma in ((0.0015, 0.25), (0.005, 0.25), (0.005, 1.0), (0.015, 1.0))
        for seed in range(3)
    ),
    measure_gamma,
    chapter03.prepare_nothing,
    live=(),
    seed=chapter03.SLIMMING.seed,
)
"""Scales that start nearer to zero or further away than the 0.5 of the paper."""
