r"""Layers in integer arithmetic: 8-bit numbers in, int32 sums, 8-bit numbers out, bit for bit as ONNX Runtime has them.

With :math:`x = s_x (q_x - z_x)` and so on, a layer :math:`y = \sum_k w_k x_k + b` becomes

.. math::
    acc &= \sum_k (q_w - z_w) (q_x - z_x) + q_b, \qquad q_b = \mathrm{round}\left(\frac{b}{s_x s_w}\right) \\
    q_y &= \mathrm{clip}\left(\mathrm{round}\left(\frac{s_x s_w}{s_y} \, acc\right) + z_y\right)

where acc is the accumulator. The sums are taken in float64: they are whole numbers, far below :math:`2^{53}` up to
which float64 holds each of them exactly, so nothing is rounded in whatever order they are added, and the matrix product
is many times as fast as one of int32.

An accumulator must fit into int32. A sum of K products of uint8 inputs with int8 weights from -127 to 127 is at most
:math:`K \cdot 255 \cdot 127`, so that up to K = 66,311 it cannot overflow (a 3x3 convolution of 7,367 channels) but for
a large bias. Hardware wraps around silently where it does; here it is an error.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int32, Integer, Shaped
from torch import Tensor

from course_lib.quantization._checks import check_real
from course_lib.quantization.affine import QuantParams
from course_lib.validation import check_count

__all__ = [
    "add",
    "avg_pool2d",
    "conv2d",
    "conv2d_accumulator",
    "global_avg_pool",
    "linear",
    "linear_accumulator",
    "max_pool2d",
    "output_multiplier",
    "quantize_bias",
    "relu",
    "requantize",
    "requantize_fixed_point",
]

_Size = int | tuple[int, int]

_INT32 = 2**31
_IMAGES = 16  # convolved at a time: their patches stay in the processor's cache


def conv2d(
    x: Integer[Tensor, "N C H W"],
    weight: Integer[Tensor, "C2 C_group k_h k_w"],
    bias: Int32[Tensor, "C2"] | None = None,
    *,
    x_params: QuantParams,
    weight_params: QuantParams,
    y_params: QuantParams,
    stride: _Size = 1,
    padding: _Size = 0,
    dilation: _Size = 1,
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
    stride: _Size = 1,
    padding: _Size = 0,
    dilation: _Size = 1,
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
    image = _centred(x, x_params, "x", ndim=4)
    kernel = _centred(weight, weight_params, "weight", ndim=4, per_channel=True)
    steps, pads, gaps = (
        _pair(value, name, low)
        for value, name, low in ((stride, "stride", 1), (padding, "padding", 0), (dilation, "dilation", 1))
    )
    check_count(groups, "groups")
    if x.shape[1] != weight.shape[1] * groups or len(weight) % groups:
        raise ValueError(
            f"x has shape {list(x.shape)} and weight {list(weight.shape)}; with groups={groups} x must have "
            f"{weight.shape[1] * groups} channels, and the {len(weight)} filters must share out into {groups} groups."
        )
    height, width = (1 + gap * (size - 1) for gap, size in zip(gaps, weight.shape[2:], strict=True))
    _check_window(x, (height, width), pads)
    if bias is not None:
        bias = _check_bias(bias, weight)
    # What F.conv2d pads with is 0 after the zero point has been taken off.
    parts = [F.conv2d(part, kernel, bias, steps, pads, gaps, groups) for part in image.split(_IMAGES)]
    return _as_int32(torch.cat(parts))


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
    rows = _centred(x, x_params, "x", ndim=2)
    matrix = _centred(weight, weight_params, "weight", ndim=2, per_channel=True)
    if x.shape[1] != weight.shape[1]:
        raise ValueError(
            f"x has shape {list(x.shape)} and weight {list(weight.shape)}; both must have as many columns."
        )
    sums = rows @ matrix.T
    return _as_int32(sums if bias is None else sums + _check_bias(bias, weight))


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
    step = _step(x_params, weight_params)
    if bias.ndim != 1 or not bias.numel() or step.numel() not in (1, len(bias)):
        raise ValueError(
            f"bias has shape {list(bias.shape)}; it must be [C_out], and weight_params have {step.numel()} scales."
        )
    if not torch.isfinite(bias).all():
        raise ValueError(
            "bias holds NaN or infinity, which no integer stands for. Look for a diverged network."
        )
    steps = (bias.detach().double() / step.to(bias.device).double()).round()
    beyond = steps.abs() >= _INT32
    if beyond.any():
        channel = int(beyond.int().argmax())
        raise ValueError(
            f"the bias {bias[channel].item():g} of channel {channel} is {steps[channel].item():.3g} steps of s_x * "
            "s_w, beyond int32: the weights of this channel are very small beside its bias. Remove the channel, or "
            f"widen the range of its weights, to a scale {steps[channel].abs().item() / _INT32:.2g} times as large."
        )
    return steps.int()


def output_multiplier(
    x_params: QuantParams, weight_params: QuantParams, y_params: QuantParams
) -> Float32[Tensor, "*channels"]:
    r"""Factor that rescales an int32 accumulator to the output's quantization step.

    .. math:: M = (s_x s_w) / s_y

    The product is rounded to float32 before it is divided, as in ONNX Runtime. Another order gives a number that
    differs in the last bit, and so now and then an integer that differs by one.

    Args:
        x_params, weight_params, y_params: as in `conv2d`.

    Returns:
        float32 [], or [C_out] where the weight has a scale for each channel.

    Raises:
        TypeError, ValueError: parameters are no QuantParams, have scales along an axis that is not the output
            channels, or scales whose quotient float32 does not hold.

    Example:
        >>> one, two = (QuantParams(torch.tensor(s), torch.tensor(0).int(), bits=8, signed=True) for s in (0.5, 2.0))
        >>> output_multiplier(one, one, two)
        tensor(0.1250)
    """
    step = _step(x_params, weight_params)
    return _check_finite(step / _scale(y_params, "y_params").to(step.device))


def requantize(
    accumulator: Int32[Tensor, "N C *rest"], multiplier: Float32[Tensor, "*channels"], y_params: QuantParams
) -> Integer[Tensor, "N C *rest"]:
    r"""Rescale int32 sums to the integers of the output.

    .. math:: q_y = \mathrm{clip}(\mathrm{round\_half\_even}(\mathrm{float32}(acc) \cdot M) + z_y,\ q_{min},\ q_{max})

    Both the conversion to float32 (which rounds above :math:`2^{24}`) and the product are those of ONNX Runtime.

    Args:
        accumulator: int32 [N, C, ...].
        multiplier: float32 [] or [C], as `output_multiplier` gives it.
        y_params: of the output, with one scale.

    Returns:
        Integers of the dtype of `y_params`.

    Raises:
        TypeError: a tensor of another dtype, or `y_params` is no QuantParams.
        ValueError: a multiplier that is negative or not finite, or is neither [] nor [C]; `y_params` with an axis.

    Example:
        >>> params = QuantParams(torch.tensor(2.0), torch.tensor(1, dtype=torch.int32), bits=8, signed=True)
        >>> requantize(torch.tensor([[12, 9999]], dtype=torch.int32), torch.tensor(0.125), params)
        tensor([[  3, 127]], dtype=torch.int8)
    """
    factor = _check_multiplier(accumulator, multiplier)
    return _clip((accumulator.float() * factor).round_(), y_params)


def requantize_fixed_point(
    accumulator: Int32[Tensor, "N C *rest"], multiplier: Float32[Tensor, "*channels"], y_params: QuantParams
) -> Integer[Tensor, "N C *rest"]:
    r"""Rescale int32 sums without floating-point numbers, for processors that have none, as gemmlowp and TFLite do.

    .. math::
        M &= m \cdot 2^{e - 31}, \quad m \text{ an int32 with } 2^{30} \le m < 2^{31} \\
        h &= \mathrm{round}(acc \cdot 2^{\max(e, 0)} \cdot m / 2^{31}), \quad
        q_y = \mathrm{clip}(\mathrm{round}(h / 2^{\max(-e, 0)}) + z_y,\ q_{min},\ q_{max})

    It rounds twice, halves up and then halves away from zero, and so now and then ends one step beside `requantize`.

    Args:
        accumulator, multiplier, y_params: as in `requantize`; the multiplier below :math:`2^{31}`.

    Returns:
        Integers of the dtype of `y_params`.

    Raises:
        TypeError, ValueError: as `requantize`; a multiplier of :math:`2^{31}` or above.

    Example:
        >>> params = QuantParams(torch.tensor(2.0), torch.tensor(1, dtype=torch.int32), bits=8, signed=True)
        >>> requantize_fixed_point(torch.tensor([[12, 9999]], dtype=torch.int32), torch.tensor(0.125), params)
        tensor([[  3, 127]], dtype=torch.int8)

    References:
        Jacob et al. 2018, section 2.2; Jacob, Warden et al., gemmlowp, fixedpoint/fixedpoint.h.
    """
    factor = _check_multiplier(accumulator, multiplier)
    if (factor >= _INT32).any():
        raise ValueError(f"multiplier is {factor.max().item():g}; here it must be below 2^31.")
    mantissa, exponent = torch.frexp(factor)
    left, right = exponent.clamp(min=0).long(), (-exponent).clamp(0, 62).long()
    shifted = (accumulator.long() << left).clamp(-_INT32, _INT32 - 1)
    product = shifted * (mantissa.double() * _INT32).long()  # at most 2^62
    high = (product + 2**30) >> 31
    return _clip(high.sign() * ((high.abs() + (1 << right >> 1)) >> right), y_params)


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
    _check(a, a_params, "a")
    _check(b, b_params, "b")
    if a.shape != b.shape:
        raise ValueError(f"a has shape {list(a.shape)} and b {list(b.shape)}; they must be equal.")
    scale = _scale(y_params, "y_params").to(a.device)
    ratio_a, ratio_b = (_check_finite(params.scale.to(a.device) / scale) for params in (a_params, b_params))
    zero_a, zero_b, zero_y = (params.zero_point.to(a.device) for params in (a_params, b_params, y_params))
    offset = zero_y - _multiply_add(zero_a, ratio_a, zero_b * ratio_b)
    total = _multiply_add(a, ratio_a, _multiply_add(b, ratio_b, offset))
    return total.round_().clamp_(y_params.low, y_params.high).to(y_params.dtype)


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
    _check(x, params, "x")
    return x.clamp(min=int(params.zero_point))


def max_pool2d(
    x: Integer[Tensor, "N C H W"], kernel_size: _Size, *, stride: _Size | None = None, padding: _Size = 0
) -> Integer[Tensor, "N C H2 W2"]:
    """Take maxima over windows: those of the integers, since a larger number never has a smaller integer.

    Args:
        x: integers of any parameters with one scale, which go for the output too.
        kernel_size, stride, padding: as in `torch.nn.functional.max_pool2d`; padding never wins.

    Returns:
        Integers of the same dtype.

    Raises:
        TypeError: `x` is no tensor of integers.
        ValueError: `x` is not [N, C, H, W] or empty; a window that does not fit, or padded by more than its half.

    Example:
        >>> max_pool2d(torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8), 2)
        tensor([[[[4]]]], dtype=torch.uint8)
    """
    _check_integers(x, "x", ndim=4)
    window, steps, pads = _windows(x, kernel_size, stride, padding)
    return F.max_pool2d(x.double(), window, steps, pads).to(x.dtype)


def avg_pool2d(
    x: Integer[Tensor, "N C H W"],
    kernel_size: _Size,
    *,
    x_params: QuantParams,
    y_params: QuantParams,
    stride: _Size | None = None,
    padding: _Size = 0,
) -> Integer[Tensor, "N C H2 W2"]:
    r"""Take means over windows of n values, padding included, which is 0.

    .. math::
        q_y = \mathrm{clip}\left(\mathrm{round\_half\_even}\left(
            \frac{s_x}{s_y n} \sum (q_x - z_x) + z_y\right),\ q_{min},\ q_{max}\right)

    ONNX Runtime's QLinearAveragePool turns the inputs into real numbers and sums those. It differs by one step where a
    mean lies half-way between two steps: in 2 to 4 values of a thousand where input and output have the same scale, in
    none of 370,000 random ones otherwise.

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
    image = _centred(x, x_params, "x", ndim=4)
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
    sums = _as_int32(_centred(x, x_params, "x", ndim=4).sum((2, 3), keepdim=True))
    return requantize(sums, _mean_multiplier(x_params, y_params, x.shape[2] * x.shape[3]), y_params)


def _step(x_params: QuantParams, weight_params: QuantParams) -> Tensor:
    """s_x * s_w in float32: what the accumulator counts."""
    weight_scale = _scale(weight_params, "weight_params", per_channel=True)
    return _scale(x_params, "x_params").to(weight_scale.device) * weight_scale


def _centred(q: Tensor, params: QuantParams, name: str, *, ndim: int, per_channel: bool = False) -> Tensor:
    """q - zero_point in float64, which is exact."""
    _check(q, params, name, ndim=ndim, per_channel=per_channel)
    zero_point = params.zero_point.to(q.device)
    return q.double() - zero_point.reshape([-1] + [1] * (ndim - 1) if zero_point.ndim else [])


def _as_int32(sums: Tensor) -> Tensor:
    """Whole numbers in float64 as int32."""
    low, high = (int(bound) for bound in sums.aminmax())
    if low < -_INT32 or high >= _INT32:
        raise ValueError(
            f"the sums run from {low:,} to {high:,}, beyond the int32 accumulator, [-2^31, 2^31 - 1], where hardware "
            "would wrap around. Quantize to fewer bits, choose a smaller bias, or split the layer into two."
        )
    return sums.int()


def _clip(steps: Tensor, y_params: QuantParams) -> Tensor:
    """Whole numbers of steps to integers of the output."""
    _scale(y_params, "y_params")
    zero_point = y_params.zero_point.to(steps.device)
    return (steps + zero_point).clamp_(y_params.low, y_params.high).to(y_params.dtype)


def _multiply_add(factor: Tensor, ratio: Tensor, summand: Tensor) -> Tensor:
    """factor * ratio + summand with one rounding to float32: the product is exact in float64."""
    return (factor.double() * ratio.double() + summand.double()).float()


def _mean_multiplier(x_params: QuantParams, y_params: QuantParams, count: int) -> Tensor:
    """s_x / (s_y * count), rounded as ONNX Runtime's kernel does."""
    return _check_finite(_scale(x_params, "x_params") / (_scale(y_params, "y_params") * count))


def _windows(
    x: Tensor, kernel_size: object, stride: object, padding: object
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Kernel size, stride and padding of a pooling, as pairs."""
    window = _pair(kernel_size, "kernel_size", 1)
    steps = window if stride is None else _pair(stride, "stride", 1)
    pads = _pair(padding, "padding", 0)
    if any(2 * pad > size for pad, size in zip(pads, window, strict=True)):
        raise ValueError(
            f"padding is {padding} and kernel_size {kernel_size}; it must be at most half of it."
        )
    _check_window(x, window, pads)
    return window, steps, pads


def _pair(value: object, name: str, low: int) -> tuple[int, int]:
    pair = value if isinstance(value, tuple | list) else (value, value)
    if len(pair) != 2:
        raise ValueError(
            f"{name} is {value!r}; it must be a number or a pair of them, (vertical, horizontal)."
        )
    return check_count(pair[0], name, low=low), check_count(pair[1], name, low=low)


def _check_window(x: Tensor, window: tuple[int, int], pads: tuple[int, int]) -> None:
    room = [size + 2 * pad for size, pad in zip(x.shape[2:], pads, strict=True)]
    if any(size > space for size, space in zip(window, room, strict=True)):
        raise ValueError(
            f"the window is {window[0]}x{window[1]}, but x has shape {list(x.shape)}, which with its padding has room "
            f"for {room[0]}x{room[1]}. Take a smaller window, or more padding."
        )


def _check_integers(q: object, name: str, *, ndim: int | None = None) -> None:
    if not isinstance(q, Tensor):
        raise TypeError(f"{name} is a {type(q).__name__}; it must be a torch.Tensor of integers.")
    if q.is_floating_point() or q.is_complex() or q.dtype == torch.bool:
        raise TypeError(
            f"{name} has dtype {q.dtype}; it must be a tensor of integers, such as affine.quantize() gives."
        )
    if (ndim is not None and q.ndim != ndim) or q.numel() == 0:
        wanted = {2: "two axes", 4: "four axes, such as [N, C, H, W]"}.get(ndim, "any shape")
        raise ValueError(f"{name} has shape {list(q.shape)}; it must have {wanted}, and at least one value.")


def _check(
    q: object, params: object, name: str, *, ndim: int | None = None, per_channel: bool = False
) -> None:
    """That q holds integers of these parameters."""
    scale = _scale(params, f"the parameters of {name}", per_channel=per_channel)
    _check_integers(q, name, ndim=ndim)
    if q.dtype != params.dtype:
        raise TypeError(
            f"{name} has dtype {q.dtype}, but its parameters are for {params.dtype}. Give it with the parameters that "
            "it was quantized with."
        )
    if scale.ndim and len(scale) != len(q):
        raise ValueError(
            f"{name} has shape {list(q.shape)}, but its parameters have {len(scale)} scales; give one for each of the "
            f"{len(q)} output channels, or one for all."
        )
    # What another program has made with symmetric parameters may use the lowest integer too.
    lowest = params.low - int(params.symmetric and params.signed)
    low, high = (int(bound) for bound in q.aminmax())
    if low < lowest or high > params.high:
        raise ValueError(
            f"{name} runs from {low} to {high}, but its parameters are for integers in [{lowest}, {params.high}]. Give "
            "those that it was quantized with."
        )


def _check_bias(bias: object, weight: Tensor) -> Tensor:
    """The bias in float64."""
    if not isinstance(bias, Tensor) or bias.dtype != torch.int32:
        given = f"has dtype {bias.dtype}" if isinstance(bias, Tensor) else f"is a {type(bias).__name__}"
        raise TypeError(f"bias {given}; it must be a tensor of torch.int32. quantize_bias() makes it.")
    if bias.shape != weight.shape[:1]:
        raise ValueError(
            f"bias has shape {list(bias.shape)}; with a weight {list(weight.shape)} it must be [{len(weight)}]."
        )
    return bias.double()


def _check_multiplier(accumulator: object, multiplier: object) -> Tensor:
    """The multiplier in a shape that goes with the accumulator [N, C, ...]."""
    for value, name, dtype in (
        (accumulator, "accumulator", torch.int32),
        (multiplier, "multiplier", torch.float32),
    ):
        if not isinstance(value, Tensor) or value.dtype != dtype:
            given = (
                f"has dtype {value.dtype}" if isinstance(value, Tensor) else f"is a {type(value).__name__}"
            )
            raise TypeError(f"{name} {given}; it must be a tensor of {dtype}.")
    _check_finite(multiplier)
    if multiplier.ndim == 0:
        return multiplier.to(accumulator.device)
    if accumulator.ndim < 2 or multiplier.shape != accumulator.shape[1:2]:
        raise ValueError(
            f"multiplier has shape {list(multiplier.shape)} and accumulator {list(accumulator.shape)}; it must be [], "
            "or [C] with one for each channel of [N, C, ...]."
        )
    return multiplier.to(accumulator.device).reshape([-1] + [1] * (accumulator.ndim - 2))


def _check_finite(multiplier: Tensor) -> Tensor:
    wrong = multiplier[~torch.isfinite(multiplier) | (multiplier < 0)]
    if len(wrong):
        shown = wrong[0].item()
        raise ValueError(
            f"the multiplier is {shown:g}; it must be a finite float32 number, not below 0. Look at the ranges that "
            "the scales were chosen from."
        )
    return multiplier


def _scale(params: object, name: str, *, per_channel: bool = False) -> Shaped[Tensor, "*channels"]:
    """The scale, which is one for the whole tensor, or where allowed one for each output channel."""
    if not isinstance(params, QuantParams):
        raise TypeError(
            f"{name} is a {type(params).__name__}; it must be QuantParams. affine.choose_params() makes them."
        )
    if params.axis is not None and not (per_channel and params.axis == 0):
        accepted = "one scale, or scales along axis 0 (output channels)" if per_channel else "one scale"
        raise ValueError(f"{name} has scales along axis {params.axis}; accepted: {accepted}.")
    return params.scale
