"""From int32 sums to the integers of the output."""

import torch
from jaxtyping import Float32, Int32, Integer
from torch import Tensor

from course_lib.quantization.affine import QuantParams
from course_lib.quantization.integer._values import (
    INT32,
    check_finite,
    check_multiplier,
    clip,
    scale_of,
    step_of,
)


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
    step = step_of(x_params, weight_params)
    return check_finite(step / scale_of(y_params, "y_params").to(step.device))


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
    factor = check_multiplier(accumulator, multiplier)
    return clip((accumulator.float() * factor).round_(), y_params)


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
    factor = check_multiplier(accumulator, multiplier)
    if (factor >= INT32).any():
        raise ValueError(f"multiplier is {factor.max().item():g}; here it must be below 2^31.")
    mantissa, exponent = torch.frexp(factor)
    left, right = exponent.clamp(min=0).long(), (-exponent).clamp(0, 62).long()
    shifted = (accumulator.long() << left).clamp(-INT32, INT32 - 1)
    product = shifted * (mantissa.double() * INT32).long()  # at most 2^62
    high = (product + 2**30) >> 31
    return clip(high.sign() * ((high.abs() + (1 << right >> 1)) >> right), y_params)
