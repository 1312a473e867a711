"""Convolution and linear layer on integers, and the int32 sums inside them."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int32, Integer
from torch import Tensor

from course_lib.quantization._checks import check_real
from course_lib.quantization.affine import QuantParams
from course_lib.quantization.integer._values import (
    INT32,
    Size,
    as_int32,
    centred,
    check_bias,
    check_window,
    pair,
    step_of,
)
from course_lib.quantization.integer.rescaling import output_multiplier, requantize
from course_lib.validation import check_count

_IMAGES = 16  # convolved at a time: their patches stay in the processor's cache


def conv2d(
    x: Integer[Tensor, "N C H W"],
    weight: Integer[Tensor, "C2 C_group k_h k_w"],
    bias: Int32[Tensor, "C2"] | None = None,
    *,
    x_params: QuantParams,
    weight_params: QuantParams,
    y_params: QuantParams,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Integer[Tensor, "N C2 H2 W2"]:
    """Convolve integers: `requantize` after `conv2d_accumulator`.

    Bit-equal to ONNX Runtime's QLinearConv on a CPU that multiplies 8-bit numbers exactly (x86 with VNNI, Arm); older
    x86 kernels add pairs of products in int16, which saturates. A ReLU after it is done by `y_params` whose lowest
    integer is the zero point.

    Args:
        x: integers of the dtype of `x_params`.
        weight: integers of the dtype of `weight_params`, [C_out, C_in / groups, k_h, k_w].
        bias: as `quantize_bias` gives it.
        x_params, y_params: of the input and output, each with one scale for the whole tensor.
        weight_params: with one scale, or one for each output channel (axis 0).
        stride, padding, dilation, groups: as in `torch.nn.functional.conv2d`; numbers or pairs. Padding is the zero
            point of x, which stands for 0.

    Returns:
        Integers of the dtype of `y_params`, in its range: with symmetric int8 from -127, where ONNX Runtime's goes on
        to -128.

    Raises:
        TypeError: a tensor that is not of the dtype of its parameters; an argument of another type than said here.
        ValueError: shapes that do not go together; scales along another axis; integers out of range; a sum that int32
            does not hold.

    Example:
        >>> params = QuantParams(torch.tensor(0.5), torch.tensor(0, dtype=torch.int32), bits=8, signed=True)
        >>> x, weight = torch.full((1, 1, 2, 2), 4, dtype=torch.int8), torch.ones(1, 1, 2, 2, dtype=torch.int8)
        >>> conv2d(x, weight, x_params=params, weight_params=params, y_params=params)  # 16 * 0.25 / 0.5
        tensor([[[[8]]]], dtype=torch.int8)

    References:
        Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
        CVPR 2018, sections 2.2 to 2.4.
    """
    accumulator = conv2d_accumulator(
        x,
        weight,
        bias,
        x_params=x_params,
        weight_params=weight_params,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )
    return requantize(accumulator, output_multiplier(x_params, weight_params, y_params), y_params)


def conv2d_accumulator(
    x: Integer[Tensor, "N C H W"],
    weight: Integer[Tensor, "C2 C_group k_h k_w"],
    bias: Int32[Tensor, "C2"] | None = None,
    *,
    x_params: QuantParams,
    weight_params: QuantParams,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Int32[Tensor, "N C2 H2 W2"]:
    r"""Sum up a convolution in int32, before it is brought to 8 bits.

    .. math:: acc = q_b + \sum_{kernel} (q_w - z_w) (q_x - z_x)

    Args:
        x, weight, bias, x_params, weight_params, stride, padding, dilation, groups: as in `conv2d`.

    Returns:
        int32; times :math:`s_x s_w` they are real numbers.

    Raises:
        TypeError, ValueError: as `conv2d`.

    Example:
        >>> params = QuantParams(torch.tensor(0.5), torch.tensor(1, dtype=torch.int32), bits=8, signed=True)
        >>> x, weight = torch.full((1, 1, 2, 2), 5, dtype=torch.int8), torch.full((1, 1, 2, 2), 3, dtype=torch.int8)
        >>> conv2d_accumulator(x, weight, x_params=params, weight_params=params)  # 4 * (5 - 1) * (3 - 1)
        tensor([[[[32]]]], dtype=torch.int32)
    """
    image = centred(x, x_params, "x", ndim=4)
    kernel = centred(weight, weight_params, "weight", ndim=4, per_channel=True)
    steps, pads, gaps = (
        pair(value, name, low)
        for value, name, low in ((stride, "stride", 1), (padding, "padding", 0), (dilation, "dilation", 1))
    )
    check_count(groups, "groups")
    if x.shape[1] != weight.shape[1] * groups or len(weight) % groups:
        raise ValueError(
            f"x has shape {list(x.shape)} and weight {list(weight.shape)}; with groups={groups} x must have "
            f"{weight.shape[1] * groups} channels, and the {len(weight)} filters must share out into {groups} groups."
        )
    height, width = (1 + gap * (size - 1) for gap, size in zip(gaps, weight.shape[2:], strict=True))
    check_window(x, (height, width), pads)
    if bias is not None:
        bias = check_bias(bias, weight)
    # What F.conv2d pads with is 0 after the zero point has been taken off.
    parts = [F.conv2d(part, kernel, bias, steps, pads, gaps, groups) for part in image.split(_IMAGES)]
    return as_int32(torch.cat(parts))


def linear(
    x: Integer[Tensor, "N C"],
    weight: Integer[Tensor, "C2 C"],
    bias: Int32[Tensor, "C2"] | None = None,
    *,
    x_params: QuantParams,
    weight_params: QuantParams,
    y_params: QuantParams,
) -> Integer[Tensor, "N C2"]:
    """Compute a linear layer on integers: `requantize` after `linear_accumulator`.

    Bit-equal to ONNX Runtime's QLinearMatMul and QGemm, where `conv2d` is to its QLinearConv.

    Args:
        x: integers of the dtype of `x_params`, [N, C_in].
        weight: integers of the dtype of `weight_params`, [C_out, C_in].
        bias, x_params, weight_params, y_params: as in `conv2d`.

    Returns:
        Integers of the dtype of `y_params`, [N, C_out].

    Raises:
        TypeError, ValueError: as `conv2d`.

    Example:
        >>> params = QuantParams(torch.tensor(0.5), torch.tensor(0, dtype=torch.int32), bits=8, signed=True)
        >>> x, weight = torch.tensor([[3, -2]], dtype=torch.int8), torch.tensor([[4, 1]], dtype=torch.int8)
        >>> linear(x, weight, x_params=params, weight_params=params, y_params=params)  # 10 * 0.25 / 0.5
        tensor([[5]], dtype=torch.int8)
    """
    accumulator = linear_accumulator(x, weight, bias, x_params=x_params, weight_params=weight_params)
    return requantize(accumulator, output_multiplier(x_params, weight_params, y_params), y_params)


def linear_accumulator(
    x: Integer[Tensor, "N C"],
    weight: Integer[Tensor, "C2 C"],
    bias: Int32[Tensor, "C2"] | None = None,
    *,
    x_params: QuantParams,
    weight_params: QuantParams,
) -> Int32[Tensor, "N C2"]:
    r"""Sum up a linear layer in int32, before it is brought to 8 bits.

    .. math:: acc = q_b + (q_x - z_x) (q_w - z_w)^T

    Args:
        x, weight, bias, x_params, weight_params: as in `linear`.

    Returns:
        int32 [N, C_out]; times :math:`s_x s_w` they are real numbers.

    Raises:
        TypeError, ValueError: as `conv2d`.

    Example:
        >>> params = QuantParams(torch.tensor(0.5), torch.tensor(1, dtype=torch.int32), bits=8, signed=True)
        >>> x, weight = torch.tensor([[3, -1]], dtype=torch.int8), torch.tensor([[4, 2]], dtype=torch.int8)
        >>> linear_accumulator(x, weight, x_params=params, weight_params=params)  # 2 * 3 - 2 * 1
        tensor([[4]], dtype=torch.int32)
    """
    rows = centred(x, x_params, "x", ndim=2)
    matrix = centred(weight, weight_params, "weight", ndim=2, per_channel=True)
    if x.shape[1] != weight.shape[1]:
        raise ValueError(
            f"x has shape {list(x.shape)} and weight {list(weight.shape)}; both must have as many columns."
        )
    sums = rows @ matrix.T
    return as_int32(sums if bias is None else sums + check_bias(bias, weight))


def quantize_bias(
    bias: Float[Tensor, "C"], *, x_params: QuantParams, weight_params: QuantParams
) -> Int32[Tensor, "C"]:
    r"""Quantize a bias to steps of the accumulator.

    .. math:: q_b = \mathrm{round\_half\_even}\left(\frac{b}{s_x s_w}\right), \quad s_x s_w \text{ rounded to float32}

    Args:
        bias: floating point [C_out], finite.
        x_params, weight_params: of the layer's input and weight, as in `conv2d`.

    Returns:
        int32 [C_out], the same that ONNX Runtime's quantizer stores.

    Raises:
        TypeError: `bias` is no floating-point tensor, or parameters are no QuantParams.
        ValueError: a bias that is NaN or infinite, not [C_out], or beyond int32 because its channel's weights, and so
            s_w, are very small.

    Example:
        >>> params = QuantParams(torch.tensor(0.5), torch.tensor(0, dtype=torch.int32), bits=8, signed=True)
        >>> quantize_bias(torch.tensor([1.0, -0.3]), x_params=params, weight_params=params)
        tensor([ 4, -1], dtype=torch.int32)
    """
    check_real(bias, "bias")
    step = step_of(x_params, weight_params)
    if bias.ndim != 1 or not bias.numel() or step.numel() not in (1, len(bias)):
        raise ValueError(
            f"bias has shape {list(bias.shape)}; it must be [C_out], and weight_params have {step.numel()} scales."
        )
    if not torch.isfinite(bias).all():
        raise ValueError(
            "bias holds NaN or infinity, which no integer stands for. Look for a diverged network."
        )
    steps = (bias.detach().double() / step.to(bias.device).double()).round()
    beyond = steps.abs() >= INT32
    if beyond.any():
        channel = int(beyond.int().argmax())
        raise ValueError(
            f"the bias {bias[channel].item():g} of channel {channel} is {steps[channel].item():.3g} steps of s_x * "
            "s_w, beyond int32, which must hold it: the weights of this channel are very small beside its bias. Remove "
            "the channel, or widen the range of its weights, to a scale "
            f"{steps[channel].abs().item() / INT32:.2g} times as large."
        )
    return steps.int()
