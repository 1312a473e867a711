r"""Network slimming: an L1 penalty on the scales :math:`\gamma` of batch norm, and one threshold over all of them."""

import torch
from jaxtyping import Float64, Shaped
from torch import Tensor, nn

from course_lib import tracing
from course_lib.pruning.criteria import bn_scale, lowest
from course_lib.pruning.graph import ChannelGroup, Channels
from course_lib.pruning.graph.follow import _known
from course_lib.pruning.rounding import rounded_width
from course_lib.tracing import Example
from course_lib.validation import check_count, check_number

_BatchNorm = nn.modules.batchnorm._BatchNorm
_REMEDY = (
    "Network slimming reads the scales (gamma) of batch norm layers. Put a batch norm after the convolutions and train "
    "again, or choose filters by their own norm (course_lib.pruning.filters)."
)


def add_sparsity_gradient(model: nn.Module, strength: float) -> None:
    r"""Add the gradient of an L1 penalty to the scales of all batch norms, in place.

    .. math:: \nabla_\gamma \leftarrow \nabla_\gamma + \lambda\, \mathrm{sign}(\gamma),
        \qquad \text{penalty } \lambda \sum |\gamma|

    Call it between the backward pass and the optimizer's step, for instance as the `after_backward` of
    `training.fit`. At :math:`\gamma = 0` the sign is 0: a scale that has arrived there is left to the loss alone.

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
    strength = check_number(strength, "strength", low=0)
    scales = [
        layer.weight
        for layer in model.modules()
        if isinstance(layer, _BatchNorm) and layer.weight is not None and layer.weight.requires_grad
    ]
    if not scales:
        raise ValueError(f"the model has no batch norm whose scales are trained. {_REMEDY}")
    without = sum(scale.grad is None for scale in scales)
    if without == len(scales):
        raise ValueError(
            "no batch norm has a gradient; add the penalty after loss.backward() and before optimizer.step()."
        )
    with torch.no_grad():
        for scale in scales:
            if scale.grad is not None:
                scale.grad.add_(scale.sign(), alpha=strength)


def slimming_plan(
    model: nn.Module, example: Example | Channels, ratio: float, *, round_to: int = 1
) -> dict[str, Shaped[Tensor, "..."]]:
    r"""Choose the channels with the lowest :math:`|\gamma|` of the whole network.

    All channels that a batch norm scales are ranked in one list, whatever layer they are in; exactly
    round(ratio * channels) of them go, of equal ones that of the earlier layer and the lower index first. Channels that
    must go together (see `graph.channel_groups`) count as one, scored by the mean of their :math:`|\gamma|`. The best
    channel of each group stays whatever its score, so that no layer vanishes; the next in the list goes instead.

    Args:
        model: network with batch norm, traceable by torch.fx; it is left as it was.
        example: input [N, ...] of the dtype and on the device that the model runs on; or the channels of the model,
            as `graph.follow` gives them.
        ratio: share of the ranked channels that go, in [0, 1).
        round_to: number that the widths of the ranked groups become multiples of, such as 8, each rounded for itself in
            the end (see `rounding`), so that somewhat more or fewer channels go than the ratio says.

    Returns:
        {layer: int64 indices of its output channels}, for the convolutions and linear layers that lose any, as
        `surgery.remove_channels` takes it.

    Raises:
        TypeError: ratio is not a number; or as `channel_groups`.
        ValueError: ratio is outside [0, 1), or so high that a layer would vanish; a model without batch norm scales
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
    ranked = channel_scales(model, example)
    scores = torch.cat([scales for _, scales in ranked])
    count = round(ratio * len(scores))
    if count > len(scores) - len(ranked):
        most = (len(scores) - len(ranked)) / len(scores)
        raise ValueError(
            f"ratio {ratio:g} would remove {count} of {len(scores)} channels, but one must stay in each of the "
            f"{len(ranked)} groups. Choose a ratio of at most {most:.3f}."
        )
    start = 0
    for _, scales in ranked:  # the best of each group cannot be chosen; of equal ones it is the last
        scores[start + int((scales == scales.max()).nonzero()[-1])] = torch.inf
        start += len(scales)
    chosen = lowest(scores, count)
    plan: dict[str, Tensor] = {}
    start = 0
    for group, scales in ranked:
        mine = chosen[(chosen >= start) & (chosen < start + len(scales))] - start
        mine = lowest(scales, group.size - rounded_width(group, group.size - len(mine), round_to))
        for layer, indices in group.channels(mine).items():
            plan[layer] = torch.cat([plan[layer], indices]).sort().values if layer in plan else indices
        start += len(scales)
    return plan


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
    with tracing.alone():  # while another thread traces the model, its parameters are proxies
        layers = {
            name: bn_scale(layer)
            for name, layer in model.named_modules()
            if isinstance(layer, _BatchNorm) and layer.weight is not None
        }
    if not layers:
        raise ValueError(f"the model has no batch norm with scales. {_REMEDY}")
    scored = [(group, group.mean_scores(layers)) for group in _known(model, example)[0]]
    ranked = [(group, scales) for group, scales in scored if scales is not None]
    if not ranked:
        raise ValueError(f"no batch norm follows a layer whose channels can be removed. {_REMEDY}")
    return ranked
