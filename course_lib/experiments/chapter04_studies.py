"""Chapter 04 beside its main line: bugs, wider networks, and a network with skip connections."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from course_lib import checkpoints
from course_lib.experiments import chapter04
from course_lib.experiments.chapter04 import CHAIN, RATIO, Shared, prepare
from course_lib.experiments.common import cut, example_of, glyphs
from course_lib.experiments.experiment import Experiment, Run, Scale
from course_lib.pruning.criteria import l1_norm
from course_lib.pruning.filters import filter_plan, ratios_for_macs, untied_layers
from course_lib.pruning.surgery import remove_channels

__all__ = ["BUGS", "BUG_ARMS", "RESIDUAL", "RESIDUAL_ARMS", "WIDTH", "prune_with_bug"]


# Bugs that look right


def wrong_dimensions(weight: Tensor) -> Tensor:
    """The bug: sums over the filters (dimension 0), so one score for each input channel."""
    return weight.abs().sum(dim=(0, 2, 3))


def square_layers(network: nn.Module, example: Tensor) -> list[str]:
    """The layers in which that goes unnoticed: as many input channels as filters."""
    return [
        name
        for name in untied_layers(network, example)
        if len(set(network.get_submodule(name).weight.shape[:2])) == 1
    ]


def ranked_across(network: nn.Module, example: Tensor, share: float, *, mean: bool) -> dict[str, float]:
    """The ratios of a ranking over all layers: the share with the lowest scores goes, wherever it lies."""
    scores = {}
    for name in untied_layers(network, example):
        weight = network.get_submodule(name).weight.detach()
        scores[name] = l1_norm(weight) / (weight[0].numel() if mean else 1)
    threshold = torch.cat(list(scores.values())).quantile(share)
    return {name: min((s < threshold).double().mean().item(), 1 - 1 / len(s)) for name, s in scores.items()}


def prune_with_bug(network: nn.Module, example: Tensor, by: str) -> nn.Module:
    """Prune rightly, or with one of the bugs; of the right forms, each costs as many MACs as its bug."""
    if by.endswith("square layers"):
        criterion = wrong_dimensions if by.startswith("wrong") else l1_norm
        ratios = dict.fromkeys(square_layers(network, example), RATIO)
        return remove_channels(network, example, filter_plan(network, example, ratios, criterion=criterion))
    if by.endswith("quarter of the MACs"):

        def ratios_at(t: float) -> float | dict[str, float]:
            if by.startswith("uniform"):
                return t
            return ranked_across(network, example, t, mean="mean" in by)

        ratios = ratios_for_macs(network, example, ratios_at, 0.25)
        return remove_channels(network, example, filter_plan(network, example, ratios))
    plan = filter_plan(network, example, RATIO)
    small = remove_channels(network, example, plan)
    if by == "next layer's first kernels":
        _take_first_kernels(small, network, plan)
    if by == "batch norm starts anew":
        for layer in small.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.reset_running_stats()
    return small


def _take_first_kernels(small: nn.Module, whole: nn.Module, plan: Mapping[str, Tensor]) -> None:
    """The bug: each layer but the first keeps its first kernels, and not those of the maps that stay."""
    for name in list(plan)[1:]:  # each of these reads the layer before it
        layer, weight = small.get_submodule(name), whole.get_submodule(name).weight.detach()
        kept = torch.ones(len(weight), dtype=torch.bool)
        kept[plan[name]] = False
        layer.weight.data = weight[kept][:, : layer.in_channels].clone()


def measure_bug(run: Run, shared: Shared, method: None) -> dict[str, Any]:
    """Prune with a bug or without; at once and recalibrated."""
    network = shared.networks[run["network"], run["seed"]]
    small = prune_with_bug(network, example_of(shared.dataset), run["by"])
    return chapter04.moments(small, network, run, shared)


BUG_ARMS = {
    "wrong dimensions, square layers": "right, square layers",
    "next layer's first kernels": "right",
    "ranked by sum, a quarter of the MACs": "uniform, a quarter of the MACs",
    "ranked by mean, a quarter of the MACs": "uniform, a quarter of the MACs",
    "batch norm starts anew": "right",
}
"""{bug: its right form}."""

BUGS = Experiment(
    "04-bugs",
    tuple(
        {"by": by, "seed": seed} for by in dict.fromkeys((*BUG_ARMS, *BUG_ARMS.values())) for seed in range(5)
    ),
    measure_bug,
    prepare,
    None,
    {"network": "vgg", "moments": chapter04.MOMENTS[:2]},
    live=(0,),
    seed="the trained network, and the images to calibrate with",
)
"""Bugs beside their right forms, without any training."""


# Is it the width?


def prepare_widths(runs: Sequence[Run], scale: Scale) -> Shared:
    """Load the checkpoints of three widths."""
    dataset = cut(glyphs(), scale)
    names = dict.fromkeys(run["network"] for run in runs)
    networks = {(name, seed): checkpoints.load(name) for name in names for seed in range(5)}
    return Shared(dataset, networks, scale, {})


WIDTH = Experiment(
    "04-width",
    tuple(
        {"network": name, "ratio": ratio, "by": by, "seed": seed}
        for name in ("glyphs-vgg-narrow", "glyphs-vgg", "glyphs-vgg-wide")
        for ratio in chapter04.RATIOS
        for by in chapter04.CRITERIA[:2]
        for seed in range(5)
    ),
    chapter04.measure_control,
    prepare_widths,
    chapter04.prune,
    {"moments": chapter04.MOMENTS[1:2]},
    live=(0,),
    seed="the random choice and the images to calibrate with; there is one trained network of each width",
)
"""Smallest first and random on VGGs of three widths, recalibrated."""


# Skip connections


def measure_residual(run: Run, shared: Shared, method: None) -> dict[str, Any]:
    """Thin a ResNet in the first convolutions of its blocks, or everywhere, to a budget of MACs."""
    network, example = shared.networks[run["network"], run["seed"]], example_of(shared.dataset)
    free = untied_layers(network, example)
    everywhere = run["by"] == "all, tied together"
    ratios = ratios_for_macs(
        network, example, lambda t: t if everywhere else dict.fromkeys(free, t), run["share"]
    )
    small = remove_channels(network, example, filter_plan(network, example, ratios))
    return chapter04.moments(small, network, run, shared)


RESIDUAL_ARMS = (
    ("first convolutions", 0.896),  # the share that the paper's ResNet-56-A leaves
    ("first convolutions", 0.724),  # and its ResNet-56-B
    ("first convolutions", 0.5),
    ("all, tied together", 0.5),
)
RESIDUAL = Experiment(
    "04-resnet",
    tuple({"by": by, "share": share, "seed": seed} for by, share in RESIDUAL_ARMS for seed in range(3)),
    measure_residual,
    prepare,
    None,
    {"network": "resnet", "moments": chapter04.MOMENTS},
    live=(),
    seed=CHAIN,
)
"""A residual network: its free filters thinned, or all of them with those that are tied."""
