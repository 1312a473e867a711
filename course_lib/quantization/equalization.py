r"""Cross-layer equalization: neighbouring layers exchange scale, so that each channel uses its integers well.

A ReLU lets a positive factor through, :math:`\mathrm{relu}(s x) = s \, \mathrm{relu}(x)`. So channel i of one layer can
be made smaller by :math:`s_i` and the weights that read it larger, and the network computes what it did. With one scale
for a whole weight the widest channel decides how coarsely all others are rounded; after equalization none is wider.
Channels that are narrow because they matter little are then rounded as finely as the others, which can cost more than
it gains: compare both on held-out images. ReLU6 cuts at a number and lets no factor through.
"""

import math
from collections import Counter
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from course_lib.quantization._checks import check_model, check_real
from course_lib.quantization._folding import folded
from course_lib.quantization.steps import Step
from course_lib.quantization.translate import translate
from course_lib.validation import check_count

_LAYERS = ("conv2d", "linear")
_LET_THROUGH = ("relu", "max_pool2d", "avg_pool2d", "mean", "flatten", "pad")
"""Operations of which f(s x) = s f(x), channel by channel, for every s > 0; `pad` is with 0, and not of channels."""
_FLATTENING = ("linear", "flatten")
_DEAD = 1e-4  # widths of channels, beside that of the widest, up to which they take no part
_SETTLED = 1e-4  # relative change of a scale, below which sweeping ends


class Pair(NamedTuple):
    """Two layers, of which only the second reads what the first computes."""

    first: str
    second: str


def find_pairs(model: nn.Module) -> list[Pair]:
    """Find the pairs of layers that can be equalized, in the order of computation.

    Between them lie at most ReLU, pooling, padding of height and width with 0, and flattening. Nothing else reads what
    lies between: no addition, no second branch.

    Args:
        model: network as `workflow.collect` takes it; it is left as it was.

    Returns:
        Names of convolutions and linear layers. A layer can be second of one pair and first of the next.

    Raises:
        TypeError, ValueError: as `workflow.collect`.

    Example:
        >>> find_pairs(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 8), nn.ReLU6()))
        [Pair(first='0', second='3')]

    References:
        Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.1.
    """
    check_model(model)
    return _pairs(translate(folded(model)))


def equalizing_scales(
    first: Float[Tensor, "C *rest"], second: Float[Tensor, "O *columns"], *, groups: int = 1
) -> Float64[Tensor, "C"]:
    r"""Compute the factors that make channel i of both weights equally wide.

    .. math:: s_i = \frac{\sqrt{r^{(1)}_i r^{(2)}_i}}{r^{(2)}_i}, \qquad r_i = \max |W_i|

    After :math:`W^{(1)}_i / s_i` and :math:`s_i W^{(2)}_i` both have the width
    :math:`\sqrt{r^{(1)}_i r^{(2)}_i}`. A channel that on either side is 10,000 times narrower than the widest has
    s = 1: one that slimming has all but removed would get weights of the common width, and with them a bias, and so a
    range of the activation, that is thousands of times as large.

    Args:
        first: weight of the first layer, whose output channels are axis 0.
        second: weight of the layer that reads them. Where the C channels are flattened before a linear layer, each
            takes as many columns.
        groups: of the second layer.

    Returns:
        s, float64 [C].

    Raises:
        TypeError: a weight is no floating-point tensor, or `groups` no whole number.
        ValueError: shapes that do not go together; NaN or infinity.

    Example:
        >>> equalizing_scales(torch.tensor([[4.0], [0.25]]), torch.tensor([[1.0, 1.0]]))
        tensor([2.0000, 0.5000], dtype=torch.float64)

    References:
        Nagel et al. 2019, equation 11; the exception for narrow channels is ours.
    """
    for name, weight in (("first", first), ("second", second)):
        check_real(weight, name)
        if not torch.isfinite(weight.detach()).all():
            raise ValueError(f"{name} holds NaN or infinity; it must be finite. Look for a diverged network.")
    check_count(groups, "groups")
    channels = len(first) if first.ndim >= 2 and first.numel() else 0
    fits = channels and second.ndim >= 2 and second.numel() and second.shape[1] * groups % channels == 0
    if not fits or channels % groups or second.shape[0] % groups:
        raise ValueError(
            f"first has shape {list(first.shape)}, second {list(second.shape)} and groups is {groups}; they must be "
            "[C, ...] and [C_out, C / groups, ...], or [C_out, columns] with as many columns for each channel."
        )
    r1 = first.detach().double().abs().flatten(1).amax(1)
    r2 = _by_input(second.detach().double().abs(), len(first), groups).amax((1, 3)).flatten()
    alive = (r1 > _DEAD * r1.max()) & (r2 > _DEAD * r2.max())
    return torch.where(alive, (r1 / r2).sqrt(), 1.0)


def equalize(model: nn.Module, *, sweeps: int = 100) -> nn.Module:
    r"""Equalize all pairs of layers of a network; return a copy with its batch norms folded.

    Pair after pair gets the factors of `equalizing_scales`, over and over, since a layer in the middle belongs to two
    pairs, until none changes by more than 1e-4. The network computes the same logits but for rounding in float32. Its
    activations have other ranges: `workflow.collect` comes afterwards.

    Args:
        model: network as `workflow.collect` takes it; it is left as it was.
        sweeps: at most so many times over all pairs.

    Returns:
        The network in evaluation mode.

    Raises:
        TypeError: as `find_pairs`; `sweeps` is no whole number.
        ValueError: as `find_pairs`; there is no pair, or a weight holds NaN or infinity; `sweeps` is below 1.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> model[1].weight.data, model[3].weight.data = torch.tensor([[4.0], [0.25]]), torch.tensor([[1.0, 1.0]])
        >>> [layer.weight.data for layer in equalize(model) if isinstance(layer, nn.Linear)]
        [tensor([[2.0000],
                [0.5000]]), tensor([[2.0000, 0.5000]])]

    References:
        Nagel et al. 2019, section 4.1. The paper first puts ReLU in the place of ReLU6, which changes the network.
    """
    check_count(sweeps, "sweeps")
    check_model(model)
    network = folded(model)
    pairs = _pairs(translate(network))
    if not pairs:
        raise ValueError(
            "no two layers of the model can be equalized: between them may only lie ReLU, pooling, padding of height "
            "and width with 0, and flattening, and nothing else may read it. ReLU6 lets no factor through; put nn.ReLU "
            "in its place and measure what that changes."
        )
    layers = {name: network.get_submodule(name) for pair in pairs for name in pair}
    weights = {name: _finite(layer.weight, name).detach().double() for name, layer in layers.items()}
    biases = {name: layer.bias.detach().double() for name, layer in layers.items() if layer.bias is not None}
    for _ in range(sweeps):
        moved = 0.0
        for first, second in pairs:
            groups = getattr(layers[second], "groups", 1)
            scales = equalizing_scales(weights[first], weights[second], groups=groups)
            weights[first] = weights[first] / _along_first(scales, weights[first])
            if first in biases:
                biases[first] = biases[first] / scales
            columns = _by_input(weights[second], len(scales), groups) * scales.reshape(groups, 1, -1, 1)
            weights[second] = columns.reshape(weights[second].shape)
            moved = max(moved, scales.log().abs().max().item())
        if moved < math.log1p(_SETTLED):
            break
    for name, layer in layers.items():
        layer.weight.data = weights[name].float()
        if name in biases:
            layer.bias.data = biases[name].float()
    return network


def _pairs(steps: list[Step]) -> list[Pair]:
    readers = Counter(name for step in steps for name in step.inputs)
    reader = {name: step for step in steps for name in step.inputs}
    found = []
    for first in steps:
        step, flat = first, False
        while step.operation in (_LAYERS if step is first else _LET_THROUGH) and _scales_through(step, flat):
            if readers[step.name] != 1:
                break
            flat = flat or step.operation in _FLATTENING
            step = reader[step.name]
            if step.operation in _LAYERS:
                found.append(Pair(first.layer, step.layer))
                break
    return found


def _scales_through(step: Step, flat: bool) -> bool:
    """Whether nothing cuts off the result of a step but at 0, and each channel keeps its place; flat is [N, C]."""
    sizes = step.options.get("pad", ())  # from the last axis on: width, height, channels
    if any(sizes if flat else sizes[4:]):
        return False
    return step.relu in (None, math.inf) and step.options.get("high", math.inf) == math.inf


def _by_input(weight: Tensor, channels: int, groups: int) -> Tensor:
    """The weight as [groups, output channels of a group, input channels of a group, weights of both]."""
    return weight.reshape(groups, weight.shape[0] // groups, channels // groups, -1)


def _along_first(scales: Tensor, weight: Tensor) -> Tensor:
    return scales.reshape([-1] + [1] * (weight.ndim - 1))


def _finite(weight: Tensor, name: str) -> Tensor:
    if not torch.isfinite(weight.detach()).all():
        raise ValueError(
            f"the weight of layer {name!r} holds NaN or infinity; it must be finite. Look for a diverged network."
        )
    return weight
