r"""Network slimming: an L1 penalty on the scales :math:`\gamma` of batch norm, and one threshold over all of them."""

import contextlib
import copy
import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float64, Shaped
from torch import Tensor, nn

from course_lib import tracing
from course_lib.pruning._checks import _check_removable
from course_lib.pruning._frozen import _held, _original
from course_lib.pruning.criteria import bn_scale, lowest
from course_lib.pruning.graph import ChannelGroup, Channels, follow
from course_lib.pruning.graph.follow import _known
from course_lib.pruning.rounding import rounded_width
from course_lib.pruning.surgery import _cuts
from course_lib.tracing import Example
from course_lib.validation import check_count, check_model, check_number

_BatchNorm = nn.modules.batchnorm._BatchNorm
_Conv = nn.modules.conv._ConvNd
_REMEDY = (
    "Network slimming reads the scales (gamma) of batch norm layers. Put a batch norm after the convolutions and train "
    "again, or choose filters by their own norm (course_lib.pruning.filters)."
)


def add_sparsity_gradient(model: nn.Module, strength: float) -> None:
    r"""Add the gradient of an L1 penalty to the scales of all batch norms, in place.

    .. math:: \nabla_\gamma \leftarrow \nabla_\gamma + \lambda\, \mathrm{sign}(\gamma),
        \qquad \text{penalty } \lambda \sum |\gamma|

    Call it between the backward pass and the optimizer's step, for instance as the `after_backward` of
    `training.fit`. At :math:`\gamma = 0` the sign is 0: a scale that has arrived there is left to the loss alone. Those
    that `masks.freeze` holds at zero are left alone too; the others of that layer get the penalty. Scales that several
    batch norms share get it once.

    Args:
        model: network whose gradients have just been computed.
        strength: :math:`\lambda`, at least 0; the paper uses 1e-4 (VGG) and 1e-5 (ResNet, DenseNet) on CIFAR-10.

    Raises:
        TypeError: strength is not a number.
        ValueError: strength is negative or not finite; a model without batch norm scales that are trained, or
            without gradients on them.

    Example:
        >>> model = nn.BatchNorm1d(2)
        >>> model.weight.grad = torch.tensor([0.5, 0.0])
        >>> add_sparsity_gradient(model, 0.25)
        >>> model.weight.grad
        tensor([0.7500, 0.2500])

    References:
        Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017, equation 1.
    """
    check_model(model)
    strength = check_number(strength, "strength", low=0)
    scales = {}
    for layer in model.modules():
        scale = _trained_scale(layer) if isinstance(layer, _BatchNorm) else None
        if scale is not None and scale.requires_grad:
            scales[scale] = _held(layer, "weight")
    if not scales:
        raise ValueError(f"the model has no batch norm whose scales are trained. {_REMEDY}")
    if all(scale.grad is None for scale in scales):
        raise ValueError(
            "no batch norm has a gradient; add the penalty after loss.backward() and before optimizer.step()."
        )
    with torch.no_grad():
        for scale, held in scales.items():
            if scale.grad is not None:
                sign = scale.sign() if held is None else held(scale.sign())
                scale.grad.add_(sign, alpha=strength)


def _trained_scale(layer: nn.Module) -> nn.Parameter | None:
    """The parameter behind the scales of a batch norm; None if it has none, or computes them from others."""
    return _original(layer, "weight") if _held(layer, "weight") else layer._parameters.get("weight")


def slimming_plan(
    model: nn.Module,
    example: Example | Channels,
    ratio: float,
    *,
    min_share: float = 0.0,
    round_to: int = 1,
) -> dict[str, Shaped[Tensor, "..."]]:
    r"""Choose the channels with the lowest :math:`|\gamma|` of the whole network.

    All channels that a batch norm scales are ranked in one list, whatever layer they are in; exactly
    round(ratio * channels) of them go, of equal ones that of the earlier layer and the lower index first. Channels that
    must go together (see `graph.channel_groups`) count as one, scored by the mean of their :math:`|\gamma|`. The best
    channels of each group stay whatever their score; the next in the list go instead. Of a group with n channels these
    are

    .. math:: \max(1, \lceil min\_share \cdot n \rceil)

    so that no layer vanishes or becomes a bottleneck.

    Args:
        model: network with batch norm; it is left as it was.
        example: input [N, ...] of the dtype and on the device that the model runs on; or the channels of the model,
            as `graph.follow` gives them.
        ratio: share of the ranked channels that go, in [0, 1).
        min_share: share of its channels that every group keeps at least, in [0, 1); at 0 it is one channel.
        round_to: number that the widths of the ranked groups become multiples of, such as 8, each rounded for itself in
            the end (see `rounding`), so that somewhat more or fewer channels go than the ratio says.

    Returns:
        {layer: int64 indices of its output channels}, for the convolutions and linear layers that lose any, as
        `surgery.remove_channels` takes it.

    Raises:
        TypeError: ratio or min_share is not a number; or as `channel_groups`.
        ValueError: ratio or min_share is outside [0, 1), or they cannot both be kept; a model without batch norm scales
            behind channels that can be removed; NaN among the scales; or as `channel_groups`.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 3))
        >>> model[1].weight.data = torch.tensor([0.5, 0.1, 0.9])
        >>> slimming_plan(model, torch.rand(1, 1, 8, 8), 0.6)
        {'0': tensor([0, 1])}

    References:
        Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017, section 3. (Its
        reference code removes one channel more and all ties, and lets layers vanish.)
    """
    ratio = check_number(
        ratio,
        "ratio",
        low=0,
        high=1,
        high_open=True,
        hint="It is the share of channels that go, such as 0.7.",
    )
    check_count(round_to, "round_to")
    min_share = check_number(
        min_share,
        "min_share",
        low=0,
        high=1,
        high_open=True,
        hint="It is the share of its channels that each group keeps at least, such as 0.1.",
    )
    ranked = channel_scales(model, example)
    scores = torch.cat([scales for _, scales in ranked])
    count = round(ratio * len(scores))
    free = [lowest(scales, len(scales) - _least(len(scales), min_share)) for _, scales in ranked]
    most = sum(map(len, free))
    if count > most:
        stay = "one" if most == len(scores) - len(ranked) else f"a share of {min_share:g}, or one,"
        raise ValueError(
            f"ratio {ratio:g} would remove {count} of {len(scores)} channels, but {stay} must stay in each of the "
            f"{len(ranked)} groups, so that {most} can go. Choose a ratio of at most "
            f"{math.floor(1000 * most / len(scores)) / 1000:.3f}{', or a smaller min_share' if min_share else ''}."
        )
    start = 0
    for (_, scales), mine in zip(ranked, free, strict=True):
        stays = torch.ones(len(scales), dtype=torch.bool).index_fill_(0, mine, False)
        scores[start : start + len(scales)][stays] = torch.inf
        start += len(scales)
    chosen = lowest(scores, count)
    plan: dict[str, Tensor] = {}
    start = 0
    for group, scales in ranked:
        mine = chosen[(chosen >= start) & (chosen < start + len(scales))] - start
        width = rounded_width(group, group.size - len(mine), round_to)
        least = _least(group.size, min_share)
        if width < least:  # it was rounded down; where no multiple fits, all stay
            wider = rounded_width(group, min(width + round_to, group.size), round_to)
            width = wider if wider >= least else group.size
        mine = group.lowest_units(scales, group.size - width)
        for layer, indices in group.channels(mine).items():
            plan[layer] = torch.cat([plan[layer], indices]).sort().values if layer in plan else indices
        start += len(scales)
    return plan


def _least(units: int, min_share: float) -> int:
    """How many of so many units stay at least; 0.07 * 100 is 7, though a little more in floating point."""
    return max(1, math.ceil(min_share * units - 1e-9))


def channel_scales(
    model: nn.Module, example: Example | Channels
) -> list[tuple[ChannelGroup, Float64[Tensor, "units"]]]:
    r"""Find the groups of channels that batch norms scale, and the mean :math:`|\gamma|` of each unit in them.

    Args:
        model, example: as in `slimming_plan`.

    Returns:
        (group, float64 [units of the group]) for each group of `graph.channel_groups` whose channels all have a scale.

    Raises:
        ValueError: there is none, NaN among the scales, or as `channel_groups`.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 3))
        >>> [(group.size, scales) for group, scales in channel_scales(model, torch.rand(1, 1, 8, 8))]
        [(3, tensor([1., 1., 1.], dtype=torch.float64))]
    """
    groups, fixed = _known(model, example)
    layers = {
        name: bn_scale(layer)
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm) and layer.weight is not None
    }
    if not layers:
        raise ValueError(f"the model has no batch norm with scales. {_REMEDY}")
    _check_removable(groups, fixed)
    scored = [(group, group.mean_scores(layers)) for group in groups]
    ranked = [(group, scales) for group, scales in scored if scales is not None]
    if not ranked:
        raise ValueError(f"no batch norm follows a layer whose channels can be removed. {_REMEDY}")
    return ranked


def absorb_constants(
    model: nn.Module, example: Example, plan: Mapping[str, Sequence[int] | Tensor]
) -> nn.Module:
    r"""Move the mean of each channel that is to go into the biases of the layers that read it; return a copy.

    A channel whose :math:`\gamma` is 0 still says the constant :math:`m = act(\beta)` to the next layer, and
    `surgery.remove_channels` takes that away with it. Here each convolution or linear layer that reads channels of the
    plan gets, for each of its outputs o,

    .. math:: b_o \leftarrow b_o + \sum_{j \in plan} m_j \sum_k w_{ojk}

    where :math:`m_j` is the mean of its input j over the batch and all positions, in eval mode. (A layer without bias
    gets one. Transposed convolutions divide by the product of their strides.) Removing the channels from the copy then
    loses nothing where they are constant and the reader pads with no zeros; where they vary, its outputs are right on
    average over the example. The copy itself still has the channels: it is made to be cut.

    At borders the value is only near: a convolution that pads with zeros reads 0 instead of :math:`m_j` there, so its
    outputs differ by :math:`\sum_j m_j \sum_{k\,outside} w_{ojk}`, where k are the weights that lie on the padding. On
    small maps nearly all is border. Transposed convolutions read less at their borders too, and with strides above 1 a
    constant gives them a pattern, of which the bias is the mean.

    Args:
        model: the network, with the channels; it is left as it was.
        example: inputs whose values count (no `Channels`); the more, the better the means of channels that vary.
        plan: as in `surgery.remove_channels`, such as that of `slimming_plan`.

    Returns:
        A copy of the network with other biases, in the mode of the one given; cut it by the same plan.

    Raises:
        TypeError, KeyError: as `surgery.remove_channels`.
        ValueError: as `surgery.remove_channels`; a channel that is read by something else than a convolution or linear
            layer, or by one whose bias is computed; a mean that is NaN or infinite.

    Example:
        >>> model = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2), nn.ReLU(), nn.Linear(2, 1, bias=False))
        >>> model[1].weight.data, model[1].bias.data = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0])
        >>> model[3].weight.data = torch.tensor([[0.5, 2.0]])
        >>> absorb_constants(model, torch.rand(4, 1), {"0": [1]})[3].bias.tolist()  # 2 * 3
        [6.0]
    """
    channels = follow(model, example)
    cuts = _cuts(model, channels, plan)
    network = copy.deepcopy(model)
    modules = dict(network.named_modules())
    gone: dict[str, Tensor] = {}
    for axis in (axis for group in channels.groups for axis in group.consumers):
        if (axis.layer, axis.axis) in cuts and cuts[axis.layer, axis.axis].any():
            _check_reader(modules.get(axis.layer), axis.layer)
            gone[axis.layer] = torch.from_numpy(cuts[axis.layer, axis.axis])
    for name, mean in _input_means(network, {name: modules[name] for name in gone}, example).items():
        _add_constant(modules[name], gone[name], mean)
    return network


def _check_reader(layer: nn.Module | None, name: str) -> None:
    if not isinstance(layer, nn.Linear | _Conv):
        kind = "a parameter" if layer is None else f"a {type(layer).__name__}"
        raise ValueError(
            f"{name!r}, {kind}, reads channels of the plan; only convolutions and linear layers have a bias to take "
            "their constants. Leave these channels out of the plan."
        )
    if "bias" not in layer._parameters:
        raise ValueError(f"the bias of {name!r} is computed from other parameters; {tracing.MAKE_PERMANENT}.")


def _input_means(
    network: nn.Module, layers: Mapping[str, nn.Module], example: Example
) -> dict[str, Float64[Tensor, "inputs"]]:
    """The mean of each input channel of these layers, over all positions and calls."""
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}
    with tracing.borrowed(network), contextlib.ExitStack() as hooks:
        for name, layer in layers.items():

            def note(layer: nn.Module, args: tuple, kwargs: dict, name: str = name) -> None:
                values = args[0] if args else kwargs["input"]
                axis = -1 if isinstance(layer, nn.Linear) else -1 - len(layer.kernel_size)
                seen[name].append(values.double().movedim(axis, 0).flatten(1))

            hooks.callback(layer.register_forward_pre_hook(note, with_kwargs=True).remove)
        tracing.run(network, example)
    means = {name: torch.cat(parts, 1).mean(1) for name, parts in seen.items() if parts}
    for name, mean in means.items():
        if not torch.isfinite(mean).all():
            raise ValueError(
                f"the inputs of {name!r} hold NaN or infinity. Look for such values in the example, and in the weights "
                "of a network that diverged."
            )
    return means


@torch.no_grad()
def _add_constant(layer: nn.Linear | _Conv, gone: Tensor, mean: Tensor) -> None:
    """Add to the bias of a layer what its inputs that go say to it when they have their means."""
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    weight = layer.weight.double().reshape(*layer.weight.shape[:2], -1).sum(2)
    # The input axis of a grouped convolution is that of one group.
    constant = (mean * gone.repeat(len(mean) // len(gone)).to(mean.device)).reshape(groups, -1, 1)
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        weight = weight.reshape(groups, -1, weight.shape[1]).transpose(1, 2) / math.prod(layer.stride)
    else:
        weight = weight.reshape(groups, -1, weight.shape[1])
    extra = (weight @ constant).flatten()
    # A new parameter: other layers may share the old one.
    trained = layer.weight if layer.bias is None else layer.bias
    bias = extra if layer.bias is None else layer.bias + extra
    layer.bias = nn.Parameter(bias.to(layer.weight.dtype), requires_grad=trained.requires_grad)
