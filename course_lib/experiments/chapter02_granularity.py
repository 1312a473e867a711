"""Chapter 02: the same cut in single weights, kernels, filters and whole layers of a ResNet."""

import bisect
import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from course_lib import training
from course_lib.experiments import chapter02
from course_lib.experiments.chapter02 import RESNET, Shared, parameters, tuned
from course_lib.experiments.common import cut, example_of, glyphs, judged
from course_lib.experiments.experiment import Experiment, Run, Scale
from course_lib.pruning import filters, masks, surgery
from course_lib.training import Recipe

__all__ = [
    "BRANCHES",
    "GRANULARITIES",
    "GRANULARITY",
    "cut_equally",
    "equal_share",
    "shares_of",
    "without_branches",
]

GRANULARITIES = ("weight", "kernel", "filter", "layer")
BRANCHES = (1, 2, 4)
"""How many residual branches the coarsest arm loses."""

GRANULARITY_IMAGES = 5000
GRANULARITY_TUNE = Recipe(epochs=1, learning_rate=0.05, augment="shift")


def without_branches(model: nn.Module, count: int) -> nn.Module:
    """Copy the ResNet and let its last blocks, the largest, become their shortcuts."""
    smaller = copy.deepcopy(model)
    for place in (8, 7, 6, 5)[:count]:
        block = smaller[place]  # where the shape stays the shortcut is the input, which is positive already
        plain = isinstance(block.shortcut, nn.Identity)
        smaller[place] = block.shortcut if plain else nn.Sequential(block.shortcut, block.relu2)
    return smaller


def thinner(model: nn.Module, example: Tensor, share: float) -> nn.Module:
    """Remove the share of filters with the least L1 norm from every group of tied channels."""
    return surgery.remove_channels(model, example, filters.filter_plan(model, example, share))


def equal_share(model: nn.Module, example: Tensor, branches: int) -> float:
    """Find the first share of filters, in 64ths, that cuts at least as much as the loss of so many branches."""
    target = parameters(without_branches(model, branches))
    found = bisect.bisect_left(range(64), -target, key=lambda k: -parameters(thinner(model, example, k / 64)))
    return found / 64


def cut_equally(
    model: nn.Module, granularity: str, branches: int, share: float, example: Tensor
) -> nn.Module:
    """Cut as many parameters as so many branches have; weights and kernels are frozen at zero."""
    if granularity == "layer":
        return without_branches(model, branches)
    if granularity == "filter":
        return thinner(model, example, share)
    pruned = copy.deepcopy(model)
    convolutions = {
        f"{name}.weight": layer.weight.detach()
        for name, layer in pruned.named_modules()
        if isinstance(layer, nn.Conv2d) and name != "0"  # the first layer has one input channel and stays
    }
    gone = parameters(model) - parameters(without_branches(model, branches))
    sparsity = gone / sum(weight.numel() for weight in convolutions.values())
    keep = {
        name: masks.magnitude_mask(w, sparsity, granularity=granularity) for name, w in convolutions.items()
    }
    masks.freeze(pruned, keep)
    return pruned


def shares_of(model: nn.Module, branches: Sequence[int] = BRANCHES) -> dict[int, float]:
    """Compute the share of the parameters that goes with so many branches."""
    return {count: 1 - parameters(without_branches(model, count)) / parameters(model) for count in branches}


def prepare_granularity(runs: Sequence[Run], scale: Scale) -> Shared:
    """Train the networks; find once how many filters go, which depends on widths alone."""
    dataset = cut(glyphs(), scale)
    networks = chapter02.train_all(RESNET, runs, dataset, scale)
    any_network = next(iter(networks.values()))
    shares = {
        count: equal_share(any_network, example_of(dataset), count) for count in {r["branches"] for r in runs}
    }
    images = min(GRANULARITY_IMAGES, len(dataset.train))
    few = replace(dataset, train=dataset.train.subset(torch.arange(images)))
    told = {"images": images, "epochs": GRANULARITY_TUNE.epochs, "rate": GRANULARITY_TUNE.learning_rate}
    return Shared(few, networks, shares, scale, told)


def measure_granularity(run: Run, shared: Shared, method: None) -> dict[str, Any]:
    """Cut one network, judge it, tune it, judge it again."""
    dataset, seed = shared.dataset, run["seed"]
    model = cut_equally(
        shared.networks[seed],
        run["granularity"],
        run["branches"],
        shared.shares[run["branches"]],
        example_of(dataset),
    )
    at_once = training.evaluate(model, dataset.test)
    training.fit(model, dataset, tuned(GRANULARITY_TUNE, dataset, shared.scale, seed), validate=False)
    return {"at once": at_once, **judged(model, dataset)}


_CUTS = tuple(
    {"granularity": granularity, "branches": branches, "seed": seed}
    for branches in BRANCHES
    for granularity in GRANULARITIES
    for seed in chapter02.SEEDS
)
GRANULARITY = Experiment(
    "02-granularity",
    _CUTS,
    measure_granularity,
    prepare_granularity,
    live=(_CUTS.index({"granularity": "layer", "branches": 1, "seed": 0}),),
    seed=chapter02.WHOLE_CHAIN,
)
"""A ResNet that loses the same share in single weights, kernels, filters or layers, then one epoch for each."""
