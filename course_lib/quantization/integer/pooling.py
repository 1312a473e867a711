"""Pooling of integers."""

import torch
import torch.nn.functional as F
from jaxtyping import Integer
from torch import Tensor

from course_lib.quantization._checks import check_flag
from course_lib.quantization.affine import QuantParams
from course_lib.quantization.integer._values import (
    Size,
    as_int32,
    centred,
    check_finite,
    check_integers,
    check_window,
    pair,
    scale_of,
)
from course_lib.quantization.integer.rescaling import requantize


def max_pool2d(
    x: Integer[Tensor, "N C H W"],
    kernel_size: Size,
    *,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
) -> Integer[Tensor, "N C H2 W2"]:
    """Take maxima over windows: those of the integers, since a larger number never has a smaller integer.

    Args:
        x: integers of any parameters with one scale, which go for the output too.
        kernel_size, stride, padding, ceil_mode: as in `torch.nn.functional.max_pool2d`; padding never wins.

    Returns:
        Integers of the same dtype.

    Raises:
        TypeError: `x` is no tensor of integers, or `ceil_mode` not True or False.
        ValueError: `x` is not [N, C, H, W] or empty; a window that does not fit, or padded by more than its half.

    Example:
        >>> max_pool2d(torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8), 2)
        tensor([[[[4]]]], dtype=torch.uint8)
    """
    check_integers(x, "x", ndim=4)
    check_flag(ceil_mode, "ceil_mode")
    window, steps, pads = _windows(x, kernel_size, stride, padding, overhangs=ceil_mode)
    return F.max_pool2d(x.to(torch.float64), window, steps, pads, ceil_mode=ceil_mode).to(x.dtype)


def avg_pool2d(
    x: Integer[Tensor, "N C H W"],
    kernel_size: Size,
    *,
    x_params: QuantParams,
    y_params: QuantParams,
    stride: Size | None = None,
    padding: Size = 0,
) -> Integer[Tensor, "N C H2 W2"]:
    r"""Take means over windows of n values, padding included, which is 0.

    .. math::
        q_y = \mathrm{clip}\left(\mathrm{round\_half\_even}\left(
            \frac{s_x}{s_y n} \sum (q_x - z_x) + z_y\right),\ q_{min},\ q_{max}\right)

    ONNX Runtime's QLinearAveragePool turns the inputs into real numbers and sums those. It differs by one step where a
    mean lies half-way between two steps: in 2 to 26 values of a thousand where input and output have the same scale,
    the more the smaller the window; in none of 370,000 random ones otherwise.

    Args:
        x: integers of the dtype of `x_params`.
        kernel_size, stride, padding: as in `torch.nn.functional.avg_pool2d`.
        x_params, y_params: each with one scale.

    Returns:
        Integers of the dtype of `y_params`.

    Raises:
        TypeError, ValueError: as `conv2d` and `max_pool2d`.

    Example:
        >>> params = QuantParams(torch.tensor(0.5), torch.tensor(0, dtype=torch.int32), bits=8, signed=False)
        >>> avg_pool2d(torch.tensor([[[[1, 2], [3, 5]]]], dtype=torch.uint8), 2, x_params=params, y_params=params)
        tensor([[[[3]]]], dtype=torch.uint8)
    """
    image = centred(x, x_params, "x", ndim=4)
    window, steps, pads = _windows(x, kernel_size, stride, padding)
    sums = F.avg_pool2d(image, window, steps, pads, divisor_override=1)
    means = sums.float() * _mean_multiplier(x_params, y_params, window[0] * window[1]).to(x.device)
    means = means + y_params.zero_point.to(x.device)
    return means.round_().clamp_(y_params.low, y_params.high).to(y_params.dtype)


def global_avg_pool(
    x: Integer[Tensor, "N C H W"], *, x_params: QuantParams, y_params: QuantParams
) -> Integer[Tensor, "N C 1 1"]:
    r"""Take the mean of each channel over the image: `requantize` of its sum, with :math:`M = s_x / (s_y H W)`.

    Bit-equal to ONNX Runtime's QLinearGlobalAveragePool on x86.

    Args:
        x: integers of the dtype of `x_params`.
        x_params, y_params: each with one scale.

    Returns:
        Integers of the dtype of `y_params`.

    Raises:
        TypeError, ValueError: as `conv2d`.

    Example:
        >>> params = QuantParams(torch.tensor(0.5), torch.tensor(0, dtype=torch.int32), bits=8, signed=False)
        >>> global_avg_pool(torch.tensor([[[[1, 2], [3, 5]]]], dtype=torch.uint8), x_params=params, y_params=params)
        tensor([[[[3]]]], dtype=torch.uint8)
    """
    sums = as_int32(centred(x, x_params, "x", ndim=4).sum((2, 3), keepdim=True))
    return requantize(sums, _mean_multiplier(x_params, y_params, x.shape[2] * x.shape[3]), y_params)


def _mean_multiplier(x_params: QuantParams, y_params: QuantParams, count: int) -> Tensor:
    """s_x / (s_y * count), rounded as ONNX Runtime's kernel does."""
    return check_finite(scale_of(x_params, "x_params") / (scale_of(y_params, "y_params") * count))


def _windows(
    x: Tensor, kernel_size: object, stride: object, padding: object, *, overhangs: bool = False
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Kernel size, stride and padding of a pooling, as pairs.

    With ceil_mode a window may reach out of the image, by less than a stride.
    """
    window = pair(kernel_size, "kernel_size", 1)
    steps = window if stride is None else pair(stride, "stride", 1)
    pads = pair(padding, "padding", 0)
    if any(2 * pad > size for pad, size in zip(pads, window, strict=True)):
        raise ValueError(
            f"padding is {padding} and kernel_size {kernel_size}; it must be at most half of it."
        )
    least = [size - step + 1 if overhangs else size for size, step in zip(window, steps, strict=True)]
    check_window(x, (least[0], least[1]), pads)
    return window, steps, pads
