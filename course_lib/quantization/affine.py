r"""Affine quantization: real numbers as integers of a few bits, by a scale s and a zero point z.

.. math::
    q = \mathrm{clip}(\mathrm{round}(x / s) + z,\ q_{min},\ q_{max}), \qquad x \approx (q - z) \, s

Halves round to the even integer, and scales and zero points are those that ONNX Runtime chooses.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float32, Int32, Integer
from torch import Tensor

from course_lib.quantization._checks import check_bounds, check_channels, check_flag, check_real, shown
from course_lib.validation import check_choice, check_count, check_dense, described

METHODS = ("max", "mse")
"""Of `params_of`."""

_SHARES = [part / 20 for part in range(20, 3, -1)]
_Bound = float | Float[Tensor, "*channels"]


@dataclass(frozen=True, eq=False)
class QuantParams:
    """Scale and zero point: the map between the real numbers of a tensor and its integers.

    Attributes:
        scale: float32 [], or [C] with one for each channel: the real distance between neighbouring integers.
        zero_point: int32 of the same shape: the integer that stands for 0.
        bits: width of the integers, 2 to 16.
        signed: whether they are signed.
        axis: the axis of a tensor that a [C] scale runs along; None where there is one scale for the whole tensor.
        symmetric: whether the range is the same on both sides of 0, so that a product needs no zero point. Signed
            integers then leave out the lowest: 8 bits run from -127 to 127, as ONNX Runtime's symmetric weights do.

    Raises:
        TypeError, ValueError: a field of another type, dtype, shape or range than said here.

    Example:
        >>> params = QuantParams(torch.tensor(0.5), torch.tensor(3, dtype=torch.int32), bits=4, signed=False)
        >>> params.low, params.high, params.dtype
        (0, 15, torch.uint8)
    """

    scale: Float32[Tensor, "*channels"]
    zero_point: Int32[Tensor, "*channels"]
    bits: int
    signed: bool
    axis: int | None = None
    symmetric: bool = False

    def __post_init__(self) -> None:
        check_count(self.bits, "bits", low=2, high=16)
        check_flag(self.signed, "signed")
        check_flag(self.symmetric, "symmetric")
        for name, dtype in (("scale", torch.float32), ("zero_point", torch.int32)):
            value = getattr(self, name)
            if isinstance(value, Tensor):
                check_dense(value, name, empty=True)
            if not isinstance(value, Tensor) or value.dtype != dtype:
                given = (
                    f"dtype {value.dtype}" if isinstance(value, Tensor) else f"type {type(value).__name__}"
                )
                raise TypeError(
                    f"{name} has {given}; it must be a tensor of {dtype}. choose_params() makes both."
                )
        check_channels(self.scale, self.axis, "scale")
        if self.zero_point.shape != self.scale.shape or self.zero_point.device != self.scale.device:
            raise ValueError(
                f"zero_point has shape {list(self.zero_point.shape)} on {self.zero_point.device} and scale "
                f"{list(self.scale.shape)} on {self.scale.device}; give one zero point for each scale, on its device."
            )
        if not (torch.isfinite(self.scale) & (self.scale > 0)).all():
            raise ValueError(f"scale is {shown(self.scale)}; every scale must be finite and above 0.")
        if ((self.zero_point < self.low) | (self.zero_point > self.high)).any():
            raise ValueError(
                f"zero_point is {shown(self.zero_point)}; with {self.bits} bits, signed={self.signed} and "
                f"symmetric={self.symmetric} it must lie in [{self.low}, {self.high}]."
            )
        if self.symmetric and self.zero_point.any():
            raise ValueError(
                f"zero_point is {shown(self.zero_point)}; a symmetric map has the zero point 0. Give zeros."
            )

    @property
    def low(self) -> int:
        r"""Smallest integer in use: 0 where unsigned, else :math:`-2^{b-1}`, or one more where symmetric."""
        return int(self.symmetric) - 2 ** (self.bits - 1) if self.signed else 0

    @property
    def high(self) -> int:
        r"""Largest integer in use: :math:`2^{b-1} - 1` where signed, else :math:`2^b - 1`."""
        return 2 ** (self.bits - self.signed) - 1

    @property
    def dtype(self) -> torch.dtype:
        """Type that stores the integers: int8 or uint8 up to 8 bits, int16 or int32 (torch cannot add uint16) above."""
        if self.bits <= 8:
            return torch.int8 if self.signed else torch.uint8
        return torch.int16 if self.signed else torch.int32


def choose_params(
    low: _Bound,
    high: _Bound,
    *,
    bits: int = 8,
    symmetric: bool,
    signed: bool | None = None,
    axis: int | None = None,
) -> QuantParams:
    r"""Choose the scale s and zero point z with which b-bit integers cover the real numbers from low to high.

    The range is first widened to hold 0, so that 0 (padding, ReLU) has an integer of its own. Then

    .. math::
        \text{symmetric, signed:} \quad & s = \frac{\max(-low,\ high)}{2^{b-1} - 1}, & z &= 0 \\
        \text{symmetric, unsigned:} \quad & s = \frac{high}{2^b - 1}, & z &= 0 \\
        \text{asymmetric:} \quad & s = \frac{high - low}{2^b - 1}, & z &= \mathrm{round}(q_{min} - low / s)

    with :math:`q_{min} = -2^{b-1}` where signed, else 0. A range so narrow that its scale is not a normal float32
    number, such as that of a tensor of zeros, gets scale 1 and zero point 0, as in ONNX Runtime.

    Args:
        low, high: ends of the range, numbers or tensors [] or [C], finite.
        bits: width of the integers, 2 to 16.
        symmetric: whether the range is the same on both sides of 0. Of data without negative numbers symmetric and
            unsigned uses every integer; ONNX Runtime's symmetric uint8 (zero point 128) wastes half of them.
        signed: of the integers; where not given, symmetric ones are signed and asymmetric ones are not.
        axis: the axis of the tensor that the C channels run along; only with bounds [C].

    Returns:
        The parameters, with scales in float32.

    Raises:
        TypeError: a bound that is neither number nor floating-point tensor, or another argument of the wrong type.
        ValueError: a bound that is NaN, infinite, empty or of another shape; low above high; symmetric and unsigned
            with a negative low; bits or axis out of range.

    Example:
        >>> params = choose_params(-1.0, 2.75, bits=4, symmetric=False)
        >>> params.scale, params.zero_point
        (tensor(0.2500), tensor(4, dtype=torch.int32))

    References:
        Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
        CVPR 2018, section 2.1; Wu et al., "Integer Quantization for Deep Learning Inference: Principles and Empirical
        Evaluation", 2020, section 3.1.
    """
    check_count(bits, "bits", low=2, high=16)
    check_flag(symmetric, "symmetric")
    if signed is None:
        signed = symmetric
    check_flag(signed, "signed")
    low, high = check_bounds(low, high, axis)
    low, high = low.double().clamp(max=0), high.double().clamp(min=0)
    if symmetric and not signed and (low < 0).any():
        raise ValueError(
            f"low is {shown(low)}, but symmetric unsigned integers hold no negative numbers. Take signed=True, or "
            "symmetric=False."
        )
    steps = 2**bits - 1
    if symmetric and signed:
        low, high = -torch.maximum(-low, high), torch.maximum(-low, high)
        steps -= 1
    scale = (high - low) / steps
    narrow = scale < torch.finfo(torch.float32).tiny
    smallest = -(2 ** (bits - 1)) if signed else 0
    zero_point = torch.zeros_like(scale) if symmetric else (smallest - low / scale).round()
    return QuantParams(
        scale=scale.float().masked_fill(narrow, 1),
        zero_point=zero_point.masked_fill(narrow, 0).int(),
        bits=bits,
        signed=signed,
        axis=axis,
        symmetric=symmetric,
    )


def params_of(
    x: Float[Tensor, "*shape"],
    *,
    bits: int = 8,
    symmetric: bool,
    signed: bool | None = None,
    axis: int | None = None,
    method: str = "max",
) -> QuantParams:
    r"""Choose the parameters for the values of a tensor, such as a layer's weight.

    - "max": the range from the smallest to the largest value.
    - "mse": that range times 1, 19/20, ... or 4/20, the share with the least
      :math:`\sum (x - \mathrm{fake\_quantize}(x))^2`.

    Args:
        x: floating point, finite, not empty.
        bits, symmetric, signed: as in `choose_params`.
        method: a name above.
        axis: where given, each slice along it gets parameters of its own; 0 is the output channels of a convolution or
            linear layer.

    Returns:
        Parameters with scale [], or [C] along the axis.

    Raises:
        TypeError, ValueError: as `choose_params`; `x` is no tensor of finite floating-point numbers, or has no such
            axis; an unknown method.

    Example:
        >>> weight = torch.tensor([[0.5, -1.75], [0.25, 0.875]])
        >>> params_of(weight, bits=4, symmetric=True, axis=0).scale
        tensor([0.2500, 0.1250])
    """
    check_choice(method, "method", METHODS)
    check_real(x, "x")
    if x.numel() == 0:
        raise ValueError(
            f"x has shape {list(x.shape)}, without a value; a range needs at least one. Give some."
        )
    x = x.detach()
    if not torch.isfinite(x).all():
        found = "NaN" if torch.isnan(x).any() else "infinity"
        raise ValueError(f"x holds {found}; a range needs finite numbers. Look for a diverged network.")
    if axis is None:
        low, high = x.aminmax()
    else:
        if check_count(axis, "axis", low=0) >= x.ndim:
            raise ValueError(
                f"axis is {axis}, but x has shape {list(x.shape)}; give one of its axes, or none."
            )
        low, high = x.movedim(axis, 0).reshape(x.shape[axis], -1).aminmax(dim=1)
    options = {"bits": bits, "symmetric": symmetric, "signed": signed, "axis": axis}
    if method == "max":
        return choose_params(low, high, **options)
    rows = x.flatten() if axis is None else x.movedim(axis, 0).reshape(x.shape[axis], -1)
    by_row = {**options, "axis": None if axis is None else 0}
    errors = []
    for share in _SHARES:
        params = choose_params(low * share, high * share, **by_row)
        errors.append((fake_quantize(rows, params) - rows).square().sum(-1))
    # Of equal errors the first, and so the widest range.
    share = torch.tensor(_SHARES, device=x.device)[torch.stack(errors).argmin(0)]
    return choose_params(low * share, high * share, **options)


def quantize(x: Float[Tensor, "*shape"], params: QuantParams) -> Integer[Tensor, "*shape"]:
    r"""Map real numbers to integers.

    .. math:: q = \mathrm{clip}(\mathrm{round\_half\_even}(x / s) + z,\ q_{min},\ q_{max})

    The quotient is taken in float32, as the QuantizeLinear operator of ONNX does; so the integers are equal to its, but
    for -128 at symmetric signed parameters, where the range here ends at -127.

    Args:
        x: floating point, without NaN; what lies outside the range saturates, infinity too.
        params: as `choose_params` gives them; with one scale a channel, x has as many along `params.axis`.

    Returns:
        Integers of `params.dtype`.

    Raises:
        TypeError: `x` is no floating-point tensor, `params` no QuantParams.
        ValueError: `x` holds NaN, or not the channels that the parameters are for.

    Example:
        >>> quantize(torch.tensor([-1.0, 0.0, 0.3, 9.0]), choose_params(-1.0, 2.75, bits=4, symmetric=False))
        tensor([ 0,  4,  5, 15], dtype=torch.uint8)
    """
    steps, _, zero_point = _steps(x, params)
    return (steps + zero_point).to(params.dtype)


def dequantize(q: Integer[Tensor, "*shape"], params: QuantParams) -> Float32[Tensor, "*shape"]:
    r"""Map integers back to real numbers.

    .. math:: x = (q - z) \, s

    Args:
        q: integers of the width of `params`, stored in any integer dtype.
        params: those that made them.

    Returns:
        float32, the same shape.

    Raises:
        TypeError: `q` is no integer tensor, `params` no QuantParams.
        ValueError: `q` holds integers that so many bits do not, or not the channels that the parameters are for.

    Example:
        >>> dequantize(torch.tensor([0, 4, 15]), choose_params(-1.0, 2.75, bits=4, symmetric=False))
        tensor([-1.0000,  0.0000,  2.7500])
    """
    if not isinstance(q, Tensor) or q.is_floating_point() or q.is_complex() or q.dtype == torch.bool:
        given = f"has dtype {q.dtype}" if isinstance(q, Tensor) else f"is {described(q)}"
        raise TypeError(f"q {given}; it must be a tensor of integers, such as quantize() gives.")
    check_dense(q, "q", empty=True)
    scale, zero_point = _shaped(params, q, "q")
    q = q.to(torch.int64)
    # What another program has made with symmetric parameters may use the lowest integer too.
    lowest = params.low - int(params.symmetric and params.signed)
    if q.numel() and (q.min() < lowest or q.max() > params.high):
        raise ValueError(
            f"q runs from {q.min()} to {q.max()}, but {'' if params.signed else 'un'}signed integers of {params.bits} "
            f"bits lie in [{lowest}, {params.high}]. Give the parameters that q was made with."
        )
    return (q - zero_point).float() * scale


def fake_quantize(x: Float[Tensor, "*shape"], params: QuantParams) -> Float32[Tensor, "*shape"]:
    r"""Round real numbers to those that integers stand for: dequantize(quantize(x)).

    Inside the range :math:`|x - \mathrm{fake\_quantize}(x)|` is at most s / 2, and 0 stays exactly 0.

    Args:
        x, params: as in `quantize`.

    Returns:
        float32, the same shape.

    Raises:
        TypeError, ValueError: as `quantize`.

    Example:
        >>> fake_quantize(torch.tensor([0.3, 9.0]), choose_params(-1.0, 2.75, bits=4, symmetric=False))
        tensor([0.2500, 2.7500])
    """
    steps, scale, _ = _steps(x, params)  # q - zero_point, without the way through the integers
    return steps * scale


def in_range(x: Float[Tensor, "*shape"], params: QuantParams) -> Bool[Tensor, "*shape"]:
    r"""Tell the numbers that do not saturate: their integer lies in the range before it is clipped.

    .. math:: q_{min} \le \mathrm{round\_half\_even}(x / s) + z \le q_{max}

    So the range ends half a step beyond the numbers of its first and last integer.

    Args:
        x, params: as in `quantize`.

    Returns:
        bool, the same shape.

    Raises:
        TypeError, ValueError: as `quantize`.

    Example:
        >>> in_range(torch.tensor([-1.1, -1.2, 9.0]), choose_params(-1.0, 2.75, bits=4, symmetric=False))
        tensor([ True, False, False])
    """
    steps, _, zero_point = _unclipped(x, params)
    return (steps >= params.low - zero_point) & (steps <= params.high - zero_point)


def _steps(x: Tensor, params: QuantParams) -> tuple[Tensor, Tensor, Tensor]:
    """q - zero_point for each number, in float32, where 17 bits are exact; and scale and zero point in its shape."""
    steps, scale, zero_point = _unclipped(x, params)
    # Clipped before the zero point is added, which is the same.
    return steps.clamp_(params.low - zero_point, params.high - zero_point), scale, zero_point


def _unclipped(x: Tensor, params: QuantParams) -> tuple[Tensor, Tensor, Tensor]:
    """As `_steps`, before what lies outside the range saturates."""
    check_real(x, "x")
    scale, zero_point = _shaped(params, x, "x")
    x = x.detach().float()
    if torch.isnan(x).any():
        raise ValueError("x holds NaN, which no integer stands for. Look for a diverged network.")
    return (x / scale).round_(), scale, zero_point


def _shaped(params: object, x: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Scale and zero point, on the device of `x` and in a shape that goes with its channels."""
    if not isinstance(params, QuantParams):
        raise TypeError(f"params is {described(params)}; it must be QuantParams. choose_params() makes them.")
    pair = params.scale.to(x.device), params.zero_point.to(x.device)
    if params.axis is None:
        return pair
    count = len(params.scale)
    if x.ndim <= params.axis or x.shape[params.axis] != count:
        raise ValueError(
            f"{name} has shape {list(x.shape)}, but the parameters are for {count} channels along axis {params.axis}. "
            "Give those of this tensor, as params_of() makes them."
        )
    shape = [count if axis == params.axis else 1 for axis in range(x.ndim)]
    return pair[0].reshape(shape), pair[1].reshape(shape)
