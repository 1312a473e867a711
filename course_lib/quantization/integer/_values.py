"""Integers with their parameters: checked, without their zero point, and clipped. For the files of this package."""

import torch
from jaxtyping import Shaped
from torch import Tensor

from course_lib.quantization.affine import QuantParams
from course_lib.validation import check_count, check_dense, described

Size = int | tuple[int, int]

INT32 = 2**31


def step_of(x_params: QuantParams, weight_params: QuantParams) -> Tensor:
    """s_x * s_w in float32: what the accumulator counts."""
    weight_scale = scale_of(weight_params, "weight_params", per_channel=True)
    return scale_of(x_params, "x_params").to(weight_scale.device) * weight_scale


def centred(q: Tensor, params: QuantParams, name: str, *, ndim: int, per_channel: bool = False) -> Tensor:
    """q - zero_point in float64, which is exact."""
    check(q, params, name, ndim=ndim, per_channel=per_channel)
    zero_point = params.zero_point.to(q.device)
    return q.double() - zero_point.reshape([-1] + [1] * (ndim - 1) if zero_point.ndim else [])


def as_int32(sums: Tensor) -> Tensor:
    """Whole numbers in float64 as int32."""
    low, high = (int(bound) for bound in sums.aminmax())
    if low < -INT32 or high >= INT32:
        raise ValueError(
            f"the sums run from {low:,} to {high:,}, beyond the int32 accumulator, [-2^31, 2^31 - 1], where hardware "
            "would wrap around. Quantize to fewer bits, choose a smaller bias, or split the layer into two."
        )
    return sums.int()


def clip(steps: Tensor, y_params: QuantParams) -> Tensor:
    """Whole numbers of steps to integers of the output."""
    scale_of(y_params, "y_params")
    zero_point = y_params.zero_point.to(steps.device)
    return (steps + zero_point).clamp_(y_params.low, y_params.high).to(y_params.dtype)


def pair(value: object, name: str, low: int) -> tuple[int, int]:
    pair = value if isinstance(value, tuple | list) else (value, value)
    if len(pair) != 2:
        raise ValueError(
            f"{name} is {value!r}; it must be a number or a pair of them, (vertical, horizontal)."
        )
    return check_count(pair[0], name, low=low), check_count(pair[1], name, low=low)


def check_window(x: Tensor, window: tuple[int, int], pads: tuple[int, int]) -> None:
    room = [size + 2 * pad for size, pad in zip(x.shape[2:], pads, strict=True)]
    if any(size > space for size, space in zip(window, room, strict=True)):
        raise ValueError(
            f"the window is {window[0]}x{window[1]}, but x has shape {list(x.shape)}, which with its padding has room "
            f"for {room[0]}x{room[1]}. Take a smaller window, or more padding."
        )


def check_integers(q: object, name: str, *, ndim: int | None = None) -> None:
    if not isinstance(q, Tensor):
        raise TypeError(f"{name} is {described(q)}; it must be a torch.Tensor of integers.")
    check_dense(q, name, empty=True)
    if q.is_floating_point() or q.is_complex() or q.dtype == torch.bool:
        raise TypeError(
            f"{name} has dtype {q.dtype}; it must be a tensor of integers, such as affine.quantize() gives."
        )
    if (ndim is not None and q.ndim != ndim) or q.numel() == 0:
        wanted = {2: "two axes", 4: "four axes, such as [N, C, H, W]"}.get(ndim, "any shape")
        raise ValueError(f"{name} has shape {list(q.shape)}; it must have {wanted}, and at least one value.")


def check(
    q: object, params: object, name: str, *, ndim: int | None = None, per_channel: bool = False
) -> None:
    """That q holds integers of these parameters."""
    scale = scale_of(params, f"the parameters of {name}", per_channel=per_channel)
    check_integers(q, name, ndim=ndim)
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


def check_bias(bias: object, weight: Tensor) -> Tensor:
    """The bias in float64."""
    if not isinstance(bias, Tensor) or bias.dtype != torch.int32:
        given = f"has dtype {bias.dtype}" if isinstance(bias, Tensor) else f"is {described(bias)}"
        raise TypeError(f"bias {given}; it must be a tensor of torch.int32. quantize_bias() makes it.")
    check_dense(bias, "bias", empty=True)
    if bias.shape != weight.shape[:1]:
        raise ValueError(
            f"bias has shape {list(bias.shape)}; with a weight {list(weight.shape)} it must be [{len(weight)}]."
        )
    return bias.double()


def check_multiplier(accumulator: object, multiplier: object) -> Tensor:
    """The multiplier in a shape that goes with the accumulator [N, C, ...]."""
    for value, name, dtype in (
        (accumulator, "accumulator", torch.int32),
        (multiplier, "multiplier", torch.float32),
    ):
        if not isinstance(value, Tensor) or value.dtype != dtype:
            given = f"has dtype {value.dtype}" if isinstance(value, Tensor) else f"is {described(value)}"
            raise TypeError(f"{name} {given}; it must be a tensor of {dtype}.")
        check_dense(value, name, empty=True)
    check_finite(multiplier)
    if multiplier.ndim == 0:
        return multiplier.to(accumulator.device)
    if accumulator.ndim < 2 or multiplier.shape != accumulator.shape[1:2]:
        raise ValueError(
            f"multiplier has shape {list(multiplier.shape)} and accumulator {list(accumulator.shape)}; it must be [], "
            "or [C] with one for each channel of [N, C, ...]."
        )
    return multiplier.to(accumulator.device).reshape([-1] + [1] * (accumulator.ndim - 2))


def check_finite(multiplier: Tensor) -> Tensor:
    wrong = multiplier[~torch.isfinite(multiplier) | (multiplier < 0)]
    if len(wrong):
        shown = wrong[0].item()
        raise ValueError(
            f"the multiplier is {shown:g}; it must be a finite float32 number, not below 0. Look at the ranges that "
            "the scales were chosen from."
        )
    return multiplier


def scale_of(params: object, name: str, *, per_channel: bool = False) -> Shaped[Tensor, "*channels"]:
    """The scale, which is one for the whole tensor, or where allowed one for each output channel."""
    if not isinstance(params, QuantParams):
        raise TypeError(
            f"{name} is {described(params)}; it must be QuantParams. affine.choose_params() makes them."
        )
    if params.axis is not None and not (per_channel and params.axis == 0):
        accepted = "one scale, or scales along axis 0 (output channels)" if per_channel else "one scale"
        raise ValueError(f"{name} has scales along axis {params.axis}; accepted: {accepted}.")
    return params.scale
