"""Convolutions on integers beside that of images: over sequences, and transposed."""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Int32, Integer
from torch import Tensor

from course_lib.quantization.affine import QuantParams
from course_lib.quantization.integer._values import Size, as_int32, centred, check_bias, check_integers, pair
from course_lib.quantization.integer.layers import conv2d
from course_lib.quantization.integer.rescaling import output_multiplier, requantize
from course_lib.validation import check_count, described


def conv1d(
    x: Integer[Tensor, "N C L"],
    weight: Integer[Tensor, "C2 C_group k"],
    bias: Int32[Tensor, "C2"] | None = None,
    *,
    x_params: QuantParams,
    weight_params: QuantParams,
    y_params: QuantParams,
    stride: int | tuple[int] = 1,
    padding: int | tuple[int] = 0,
    dilation: int | tuple[int] = 1,
    groups: int = 1,
) -> Integer[Tensor, "N C2 L2"]:
    """Convolve sequences of integers: `conv2d` of images that are one pixel high.

    Bit-equal to ONNX Runtime where `conv2d` is.

    Args:
        x, weight, bias, x_params, weight_params, y_params, groups: as in `conv2d`, without the axis of the height.
        stride, padding, dilation: as in `torch.nn.functional.conv1d`.

    Returns:
        Integers of the dtype of `y_params`.

    Raises:
        TypeError, ValueError: as `conv2d`.

    Example:
        >>> params = QuantParams(torch.tensor(0.5), torch.tensor(0, dtype=torch.int32), bits=8, signed=True)
        >>> x, weight = torch.tensor([[[1, 4, 2]]], dtype=torch.int8), torch.tensor([[[2, 2]]], dtype=torch.int8)
        >>> conv1d(x, weight, x_params=params, weight_params=params, y_params=params)  # 10 and 12, times 0.25 / 0.5
        tensor([[[5, 6]]], dtype=torch.int8)
    """
    for q, name in ((x, "x"), (weight, "weight")):
        check_integers(q, name)
        if q.ndim != 3:
            raise ValueError(f"{name} has shape {list(q.shape)}; it must have three axes, such as [N, C, L].")
    try:
        y = conv2d(
            x[:, :, None],
            weight[:, :, None],
            bias,
            x_params=x_params,
            weight_params=weight_params,
            y_params=y_params,
            stride=(1, _single(stride, "stride")),
            padding=(0, _single(padding, "padding")),
            dilation=(1, _single(dilation, "dilation")),
            groups=groups,
        )
    except ValueError as error:
        raise ValueError(
            f"x has shape {list(x.shape)} and weight {list(weight.shape)}, as images one pixel high: {error}"
        ) from error
    return y[:, :, 0]


def conv_transpose2d(
    x: Integer[Tensor, "N C H W"],
    weight: Integer[Tensor, "C C2_group k_h k_w"],
    bias: Int32[Tensor, "C2"] | None = None,
    *,
    x_params: QuantParams,
    weight_params: QuantParams,
    y_params: QuantParams,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Integer[Tensor, "N C2 H2 W2"]:
    """Convolve integers the other way round, as a decoder does to enlarge an image: `requantize` after int32 sums.

    ONNX Runtime has no integer operator for it: it sums in float32 the numbers that the integers stand for. The results
    differ from these, which come from exact sums, where a sum lies so near a half that its last bit decides: by one
    step, in less than one value of a thousand.

    Args:
        x, bias, x_params, y_params: as in `conv2d`.
        weight: integers of the dtype of `weight_params`, [C_in, C_out / groups, k_h, k_w].
        weight_params: with one scale; or where groups is 1 with one for each output channel, which is axis 1.
        stride, padding, output_padding, groups, dilation: as in `torch.nn.functional.conv_transpose2d`.

    Returns:
        Integers of the dtype of `y_params`.

    Raises:
        TypeError, ValueError: as `conv2d`.

    Example:
        >>> params = QuantParams(torch.tensor(0.5), torch.tensor(0, dtype=torch.int32), bits=8, signed=True)
        >>> x, weight = torch.tensor([[[[4, 2]]]], dtype=torch.int8), torch.tensor([[[[6, 1]]]], dtype=torch.int8)
        >>> conv_transpose2d(x, weight, x_params=params, weight_params=params, y_params=params)  # 24, 16, 2, halved
        tensor([[[[12,  8,  1]]]], dtype=torch.int8)

    References:
        Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, chapter 4.
    """
    outputs = _by_output(weight_params)
    image = centred(x, x_params, "x", ndim=4)
    check_integers(weight, "weight", ndim=4)
    check_count(groups, "groups")
    if outputs.axis is not None and groups > 1:
        raise ValueError(
            f"weight_params have a scale for each channel and groups is {groups}; give one scale for all."
        )
    kernel = centred(weight.transpose(0, 1), outputs, "weight", ndim=4, per_channel=True).transpose(0, 1)
    if x.shape[1] != len(weight) or len(weight) % groups:
        raise ValueError(
            f"x has shape {list(x.shape)} and weight {list(weight.shape)}; with groups={groups} x must have "
            f"{len(weight)} channels, which must share out into the groups."
        )
    steps, pads, more, gaps = (
        pair(value, name, low)
        for value, name, low in (
            (stride, "stride", 1),
            (padding, "padding", 0),
            (output_padding, "output_padding", 0),
            (dilation, "dilation", 1),
        )
    )
    if any(extra >= max(step, gap) for extra, step, gap in zip(more, steps, gaps, strict=True)):
        raise ValueError(f"output_padding is {output_padding}; it must be below stride or dilation.")
    sizes = [
        (size - 1) * step - 2 * ends + gap * (reach - 1) + extra + 1
        for size, step, ends, gap, reach, extra in zip(
            x.shape[2:], steps, pads, gaps, weight.shape[2:], more, strict=True
        )
    ]
    if min(sizes) < 1:
        raise ValueError(
            f"padding is {padding}, which leaves nothing of the result of x, whose shape is {list(x.shape)}; it must "
            "be smaller."
        )
    if bias is not None:
        bias = check_bias(bias, torch.cat([weight.transpose(0, 1)] * groups))
    sums = as_int32(F.conv_transpose2d(image, kernel, bias, steps, pads, more, groups, gaps))
    return requantize(sums, output_multiplier(x_params, outputs, y_params), y_params)


def _by_output(weight_params: QuantParams) -> QuantParams:
    """Parameters of the weight of a transposed convolution, the output channels as axis 0 as in other layers."""
    if not isinstance(weight_params, QuantParams):
        raise TypeError(
            f"weight_params is {described(weight_params)}; it must be QuantParams. affine.params_of() makes them."
        )
    if weight_params.axis == 1:
        return replace(weight_params, axis=0)
    if weight_params.axis is not None:
        raise ValueError(
            f"weight_params have scales along axis {weight_params.axis}; accepted for a transposed convolution: one "
            "scale, or scales along axis 1 (output channels)."
        )
    return weight_params


def _single(value: object, name: str) -> object:
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != 1:
            raise ValueError(f"{name} is {value!r}; it must be a number, or a sequence of one.")
        return value[0]
    return value
