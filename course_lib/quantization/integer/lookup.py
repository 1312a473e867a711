r"""Functions of one number on integers: a table of all their results, and one look-up for each value.

Integers of b bits have :math:`2^b` different values, so that any function is a table of 256 results at 8 bits:

.. math::
    t(q) = \mathrm{quantize}_y(f(s_x (q - z_x))), \qquad q_y = t(q_x)

Nothing is approximated but for the rounding of the result. What the function costs is paid once, not for each value.
"""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Integer
from torch import Tensor

from course_lib.quantization.affine import QuantParams, dequantize, quantize
from course_lib.quantization.integer._values import check, check_integers, scale_of
from course_lib.validation import check_choice, check_function, check_number


def table(
    function: Callable[[Tensor], Tensor], *, x_params: QuantParams, y_params: QuantParams
) -> Integer[Tensor, "levels"]:
    """Compute a function of real numbers for all the integers of its input.

    Args:
        function: maps a float32 tensor to one of the same shape, value by value.
        x_params, y_params: each with one scale.

    Returns:
        Integers of the dtype of `y_params`, from that of the smallest integer of `x_params` to that of the largest.
        Symmetric signed parameters have the one below their range too, which other programs use: 256 at 8 bits.

    Raises:
        TypeError: `function` is no function, or gives no floating-point tensor; parameters are no QuantParams.
        ValueError: the result has another shape or holds NaN; scales along an axis.

    Example:
        >>> params = QuantParams(torch.tensor(0.5), torch.tensor(0, dtype=torch.int32), bits=3, signed=True)
        >>> table(torch.square, x_params=params, y_params=params)  # of -2, -1.5, ... 1.5; 2 and more saturate
        tensor([3, 3, 2, 0, 0, 0, 2, 3], dtype=torch.int8)
    """
    check_function(function, "function")
    for params, name in ((x_params, "x_params"), (y_params, "y_params")):
        scale_of(params, name)
    device = x_params.scale.device
    x = dequantize(torch.arange(_lowest(x_params), x_params.high + 1, device=device), x_params)
    try:
        y = function(x)
    except Exception as error:
        raise ValueError(
            f"function fails on float32 numbers of shape {list(x.shape)} with {type(error).__name__}: "
            f"{str(error).partition(chr(10))[0]:.200}. It must work value by value. Give one that does."
        ) from error
    if not isinstance(y, Tensor) or not y.is_floating_point():
        given = f"a tensor of {y.dtype}" if isinstance(y, Tensor) else f"a {type(y).__name__}"
        raise TypeError(f"function gives {given}; it must give a tensor of floating-point numbers.")
    if y.shape != x.shape:
        raise ValueError(
            f"function gives the shape {list(y.shape)} for {list(x.shape)}; it must work value by value. "
            "Give one that does."
        )
    if torch.isnan(y).any():
        raise ValueError(
            f"function gives NaN for {x[torch.isnan(y)][0].item():g}, which no integer stands for. Give a function "
            "that has a value for every number of x_params."
        )
    return quantize(y, y_params)


def lookup(
    x: Integer[Tensor, "*shape"], entries: Integer[Tensor, "levels"], *, x_params: QuantParams
) -> Integer[Tensor, "*shape"]:
    """Look the results for integers up in a table.

    Args:
        x: integers of the dtype of `x_params`.
        entries: as `table` gives them.
        x_params: with one scale, those of the table.

    Returns:
        Integers of the dtype of the table.

    Raises:
        TypeError: `x` or `entries` is no tensor of integers, or `x` not of the dtype of its parameters.
        ValueError: `x` is empty or holds integers out of range; `entries` are not one for each integer of `x_params`.

    Example:
        >>> params = QuantParams(torch.tensor(0.5), torch.tensor(0, dtype=torch.int32), bits=3, signed=True)
        >>> squares = table(torch.square, x_params=params, y_params=params)
        >>> lookup(torch.tensor([-2, 0, 2], dtype=torch.int8), squares, x_params=params)
        tensor([2, 0, 2], dtype=torch.int8)
    """
    check(x, x_params, "x")
    check_integers(entries, "entries")
    lowest = _lowest(x_params)
    count = x_params.high + 1 - lowest
    if entries.shape != (count,):
        raise ValueError(
            f"entries have shape {list(entries.shape)}; {x_params.bits} bits have {count} integers, so it must be "
            f"[{count}]. table() makes them."
        )
    return entries.to(x.device)[x.int() - lowest]


def _lowest(params: QuantParams) -> int:
    """Smallest integer of a table: where the range is symmetric, one that other programs use is below it."""
    return params.low - int(params.symmetric and params.signed)


# ---- activation functions ------------------------------------------------------------------------------------------


def _hardsigmoid(x: Tensor) -> Tensor:
    """x / 6 + 1/2 between 0 and 1, in the order of the ONNX operator."""
    return (x * (1 / 6) + 0.5).clamp(0, 1)


def _rounded_once(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function in float64, whose float32 result does not depend on how a processor computes it."""
    return lambda x, **options: function(x.double(), **options).float()


ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "elu": _rounded_once(F.elu),
    "gelu": _rounded_once(F.gelu),
    "hardsigmoid": _hardsigmoid,
    "leaky_relu": F.leaky_relu,
    "sigmoid": _rounded_once(torch.sigmoid),
    "tanh": _rounded_once(torch.tanh),
}
"""{name: function of real numbers} that `activation` knows.

:meta hide-value:
"""


def activation(
    x: Integer[Tensor, "*shape"],
    name: str,
    *,
    x_params: QuantParams,
    y_params: QuantParams,
    **options: float | str,
) -> Integer[Tensor, "*shape"]:
    r"""Apply an activation function to integers, by a table that is computed once for its parameters.

    Equal to ONNX Runtime on x86, bit for bit, for hardsigmoid :math:`\min(\max(x / 6 + 1/2, 0), 1)`, computed in
    float32, and leaky_relu. The others are computed exactly and rounded once; ONNX Runtime approximates them in float32
    to within :math:`2 \cdot 10^{-7}` (sigmoid, tanh), so that now and then a result falls on the other side of a half:
    of a million table entries, 4 of sigmoid, elu and gelu, and 140 of tanh differ, each by one step. SiLU and Hardswish
    are the products of `mul` with x behind them, as in a file for ONNX Runtime.

    Args:
        x: integers of the dtype of `x_params`.
        name: a key of `ACTIVATIONS`.
        x_params, y_params: each with one scale.
        options: numbers that the function takes: `alpha` of elu, `negative_slope` of leaky_relu, and `approximate`
            ("none" or "tanh") of gelu.

    Returns:
        Integers of the dtype of `y_params`.

    Raises:
        TypeError: as `lookup`; an option that the function does not take.
        ValueError: as `lookup`; an unknown name.

    Example:
        >>> x_params = QuantParams(torch.tensor(1.0), torch.tensor(0, dtype=torch.int32), bits=8, signed=True)
        >>> y_params = QuantParams(torch.tensor(1 / 256), torch.tensor(0, dtype=torch.int32), bits=8, signed=False)
        >>> q = torch.tensor([-9, -1, 0, 1, 9], dtype=torch.int8)
        >>> activation(q, "hardsigmoid", x_params=x_params, y_params=y_params)
        tensor([  0,  85, 128, 171, 255], dtype=torch.uint8)
    """
    check_choice(name, "activation", ACTIVATIONS)
    check(x, x_params, "x")
    scale_of(y_params, "y_params")
    for option, value in options.items():
        if option not in _OPTIONS.get(name, ()):
            raise TypeError(
                f"{name} takes no {option!r}; accepted: {', '.join(_OPTIONS.get(name, ())) or 'no option'}."
            )
        if option == "approximate":
            check_choice(value, option, ("none", "tanh"))
        else:
            check_number(value, option)
    entries = _activation_table(name, tuple(sorted(options.items())), _key(x_params), _key(y_params))
    return lookup(x, entries, x_params=x_params)


_OPTIONS = {"elu": ("alpha",), "gelu": ("approximate",), "leaky_relu": ("negative_slope",)}


@functools.lru_cache(maxsize=4096)
def _activation_table(name: str, options: tuple, x_key: tuple, y_key: tuple) -> Tensor:
    """On the CPU; at most 4,096 of them are kept, a megabyte at 8 bits."""
    function = functools.partial(ACTIVATIONS[name], **dict(options))
    return table(function, x_params=_of_key(x_key), y_params=_of_key(y_key))


def _key(params: QuantParams) -> tuple[float, int, int, bool, bool]:
    """Parameters with one scale as plain numbers, which can be compared."""
    return params.scale.item(), int(params.zero_point), params.bits, params.signed, params.symmetric


def _of_key(key: tuple[float, int, int, bool, bool]) -> QuantParams:
    scale, zero_point, bits, signed, symmetric = key
    zero_point = torch.tensor(zero_point, dtype=torch.int32)
    return QuantParams(torch.tensor(scale), zero_point, bits=bits, signed=signed, symmetric=symmetric)
