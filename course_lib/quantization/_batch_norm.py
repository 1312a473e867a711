"""A layer and its batch norm in training, as one layer with the batch norm folded."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from course_lib.quantization._folding import folded_layer
from course_lib.quantization.operations import OPERATIONS
from course_lib.quantization.steps import Step


def normalized(
    step: Step, x: Tensor, layer: nn.Module, norm: nn.Module, rounded: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    r"""Compute a layer and the batch norm behind it with the statistics of this batch, from rounded weights.

    .. math::
        y = \mathrm{conv}(x,\ Q(\tfrac{\gamma}{\sigma} w)) \cdot \frac{\sigma}{\sigma_B}
            + \frac{\gamma}{\sigma_B} (b - \mu_B) + \beta

    The rounding Q sees the weights as inference folds them, with the running :math:`\sigma`: with that of the batch, a
    weight would change its integer from batch to batch. The quotient behind the convolution undoes it, so that without
    rounding this is batch norm. (Where each channel has a scale found anew, Q commutes with either; one scale for all
    channels makes the difference.) Mean :math:`\mu_B` and deviation :math:`\sigma_B` are those of the layer with its
    weight not rounded, which is computed for that; first of all they move the running statistics.

    Args:
        step: that of the layer.
        x: its input.
        layer, norm: the two; the running statistics of the norm are updated.
        rounded: ``function(folded weight, folded bias) -> rounded weight``.

    References:
        Jacob et al. 2018, section 3.2 and figure C.8; Krishnamoorthi 2018, section 3.2.2.
    """
    compute = replace(step, relu=None).on_numbers
    plain = compute(x, layer.weight, layer.bias).float()
    channels = [1, -1] + [1] * (plain.ndim - 2)
    if plain.numel() == plain.shape[1]:
        raise ValueError(
            f"the batch norm behind layer {step.layer!r} cannot take statistics of a batch whose values are "
            f"{list(plain.shape)}: one for each channel. Train with larger batches, or freeze() first."
        )
    with torch.no_grad():
        norm(plain)
    var, mean = torch.var_mean(plain, dim=[0, *range(2, plain.ndim)], correction=0)
    correction = ((norm.running_var + norm.eps) / (var + norm.eps)).sqrt()
    weight = rounded(*folded_layer(layer, norm))
    _, bias = folded_layer(layer, norm, mean, var)
    values = compute(x, weight, None).float() * correction.reshape(channels) + bias.reshape(channels)
    return values if step.relu is None else OPERATIONS["relu"].numbers(values, high=step.relu)
