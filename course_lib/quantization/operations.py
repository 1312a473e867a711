"""Table of the operations with an integer form, which everything that quantizes a network looks up.

A new operation is a new row: what it computes on numbers and on integers, where its result lies, and how networks spell
it. Negation, for instance, which `translate` and all that follows then accept::

    OPERATIONS["neg"] = Operation(
        numbers=torch.neg,
        integers=lambda x, *, params: affine.quantize(-affine.dequantize(x, params[0]), params[1]),
        range="own",
        spelled={torch.neg: lambda input: Call((input,)), operator.neg: lambda input: Call((input,))},
        onnx=("Neg",),
    )
"""

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.quantization import integer
from course_lib.quantization.affine import quantize

BATCH = object()
"""Stands in the arguments of a call for the number of images, `x.size(0)`."""


@dataclass(frozen=True)
class Call:
    """Call of an operation in a network, its arguments read.

    Attributes:
        inputs: tensors that it reads.
        options: keyword arguments of `Operation.numbers` and `Operation.integers`.
        in_place: whether the result takes the place of the first input.
        then: operation on the result that belongs to the same call, such as flattening after a mean without keepdim.

    Example:
        >>> OPERATIONS["mean"].spelled["mean"]("x", (2, 3))
        Call(inputs=('x',), options={}, in_place=False, then='flatten')
    """

    inputs: tuple[object, ...]
    options: dict[str, object] = field(default_factory=dict)
    in_place: bool = False
    then: str | None = None


@dataclass(frozen=True, eq=False)
class Operation:
    """Row of the table: all that quantization knows of an operation.

    Attributes:
        numbers: ``function(*inputs, **options)`` on float32; a layer's weight and bias are the last inputs.
        integers: ``function(*inputs, params, **options)`` on integers, where `params` are the QuantParams of the input
            or inputs, of the weight of a layer, and of the result. None: only numbers are computed with.
        range: "own" where the result gets a range of its own, which calibration finds; "input" where it lies in the
            range of the input, and is rounded again; "among input" where each value is one of the input's, so that
            nothing is left to round.
        spelled: {type of a module, function, or name of a tensor method: reader}. A reader takes the arguments of that
            call (a module is the first of them) and returns a Call, or raises Refused. Arguments that it does not take
            are refused too.
        onnx: operators of an ONNX file that compute it, where the range is its own.
    """

    numbers: Callable[..., Tensor]
    integers: Callable[..., Tensor] | None
    range: Literal["own", "input", "among input"]
    spelled: Mapping[object, Callable[..., Call]] = field(default_factory=dict)
    onnx: tuple[str, ...] = ()

    @property
    def requantizes(self) -> bool:
        """Whether integers of one range become integers of another. A ReLU behind is then part of the operation."""
        return self.range == "own" and self.integers is not None


class Refused(Exception):
    """Reason why a call has no integer form, in words that follow "has no integer form here:"."""


# ---- on numbers and on integers ------------------------------------------------------------------------------------


def _with_params(function: Callable[..., Tensor], *names: str) -> Callable[..., Tensor]:
    """A function of `integer` with its parameters in one sequence, in the order of these names."""
    return lambda *inputs, params, **options: function(
        *inputs, **dict(zip(names, params, strict=True)), **options
    )


def _without_params(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function that picks integers, whatever they stand for."""
    return lambda *inputs, params, **options: function(*inputs, **options)


def _cut(x: Tensor, high: float) -> Tensor:
    return x.clamp(0.0, high)  # of one type, which the exporter to ONNX wants


def _cut_integers(x: Tensor, *, params: tuple, high: float) -> Tensor:
    """This changes nothing where the range begins at 0 and ends no higher than the activation does."""
    _, y_params = params
    return integer.relu(x, params=y_params).clamp_(max=int(quantize(torch.tensor(high), y_params)))


def _flat(x: Tensor) -> Tensor:
    return x.flatten(1)


# ---- readers: from the arguments of a call to a Call ---------------------------------------------------------------


def _of_module(read: Callable[..., Call], *attributes: str) -> Callable[..., Call]:
    """A reader for a module, which has as attributes what a function takes as arguments."""
    return lambda layer, input: read(input, *(getattr(layer, name) for name in attributes))


def _conv2d(layer: nn.Conv2d, input: object) -> Call:
    if layer.padding_mode != "zeros":
        raise Refused(f"it pads with padding_mode={layer.padding_mode!r} instead of zeros")
    padding = layer.padding
    if isinstance(padding, str):
        reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        if padding == "same" and any(size % 2 for size in reach):
            raise Refused("padding='same' pads one side more than the other with a kernel of even size")
        padding = tuple(size // 2 for size in reach) if padding == "same" else (0, 0)
    options = {"stride": layer.stride, "dilation": layer.dilation, "groups": layer.groups}
    return Call((input,), {"padding": padding, **options})


def _linear(layer: nn.Linear, input: object) -> Call:
    return Call((input,))


def _relu(input: object, inplace: bool = False) -> Call:
    return Call((input,), {"high": math.inf}, in_place=inplace)


def _relu_in_place(input: object) -> Call:
    return _relu(input, inplace=True)


def _relu6(input: object, inplace: bool = False) -> Call:
    return Call((input,), {"high": 6.0}, in_place=inplace)


def _add(input: object, other: object, *, alpha: float = 1) -> Call:
    if alpha != 1:
        raise Refused(f"it adds with alpha={alpha}")
    return Call((input, other))


def _add_in_place(input: object, other: object, *, alpha: float = 1) -> Call:
    return Call(_add(input, other, alpha=alpha).inputs, in_place=True)


def _max_pool2d(
    input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
) -> Call:
    if dilation not in (1, (1, 1)) or ceil_mode or return_indices:
        raise Refused("its dilation, ceil_mode or return_indices is set")
    return Call((input,), _window(kernel_size, stride, padding))


def _avg_pool2d(
    input,
    kernel_size,
    stride=None,
    padding=0,
    ceil_mode=False,
    count_include_pad=True,
    divisor_override=None,
) -> Call:
    leaves_out = not count_include_pad and padding not in (0, (0, 0))
    if ceil_mode or leaves_out or divisor_override is not None:
        raise Refused("its ceil_mode or divisor_override is set, or padding does not count")
    return Call((input,), _window(kernel_size, stride, padding))


def _window(kernel_size: object, stride: object, padding: object) -> dict[str, object]:
    if stride is None or stride == ():
        stride = kernel_size
    sizes = {"kernel_size": kernel_size, "stride": stride, "padding": padding}
    return {name: size if isinstance(size, int) else tuple(size) for name, size in sizes.items()}


def _adaptive_avg_pool2d(input: object, output_size: object) -> Call:
    if output_size not in (1, (1, 1), [1, 1]):
        raise Refused(f"it pools to the size {output_size}, not to 1")
    return Call((input,))


def _mean(input: object, dim: object = None, keepdim: bool = False) -> Call:
    if not isinstance(dim, tuple | list) or sorted(axis % 4 for axis in dim) != [2, 3]:
        raise Refused(f"it takes the mean over the axes {dim}, not over height and width, (2, 3)")
    return Call((input,), then=None if keepdim else "flatten")


def _flatten(input: object, start_dim: int = 0, end_dim: int = -1) -> Call:
    if (start_dim, end_dim) != (1, -1):
        raise Refused(f"it flattens from axis {start_dim} to {end_dim}, not from 1 to the last")
    return Call((input,))


def _view(input: object, *shape: object) -> Call:
    shape = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
    # [N, -1], and [-1, length], where a wrong length does not go with the linear layer that reads it
    flat = len(shape) == 2 and (shape[0] is BATCH or shape[0] == -1) and isinstance(shape[1], int)
    if not flat or (shape[0] == -1 and shape[1] == -1):
        raise Refused("it reshapes to something else than [N, all the rest]; flatten(1) does that")
    return Call((input,))


# ---- the table -----------------------------------------------------------------------------------------------------

_LAYER = ("x_params", "weight_params", "y_params")
_WINDOW = ("kernel_size", "stride", "padding")

OPERATIONS: dict[str, Operation] = {
    "images": Operation(numbers=lambda images: images, integers=None, range="own"),
    "conv2d": Operation(
        numbers=F.conv2d,
        integers=_with_params(integer.conv2d, *_LAYER),
        range="own",
        spelled={nn.Conv2d: _conv2d},
        onnx=("Conv",),
    ),
    "linear": Operation(
        numbers=F.linear,
        integers=_with_params(integer.linear, *_LAYER),
        range="own",
        spelled={nn.Linear: _linear},
        onnx=("Gemm",),
    ),
    "add": Operation(
        numbers=torch.add,
        integers=_with_params(integer.add, "a_params", "b_params", "y_params"),
        range="own",
        spelled={operator.add: _add, torch.add: _add, "add": _add, "add_": _add_in_place},
        onnx=("Add",),
    ),
    "mean": Operation(  # over height and width
        numbers=lambda x: F.adaptive_avg_pool2d(x, 1),
        integers=_with_params(integer.global_avg_pool, "x_params", "y_params"),
        range="own",
        spelled={
            nn.AdaptiveAvgPool2d: _of_module(_adaptive_avg_pool2d, "output_size"),
            F.adaptive_avg_pool2d: _adaptive_avg_pool2d,
            torch.mean: _mean,
            "mean": _mean,
        },
        onnx=("GlobalAveragePool", "ReduceMean"),
    ),
    "avg_pool2d": Operation(
        numbers=F.avg_pool2d,
        integers=_with_params(integer.avg_pool2d, "x_params", "y_params"),
        range="input",
        spelled={
            nn.AvgPool2d: _of_module(
                _avg_pool2d, *_WINDOW, "ceil_mode", "count_include_pad", "divisor_override"
            ),
            F.avg_pool2d: _avg_pool2d,
        },
    ),
    "max_pool2d": Operation(
        numbers=F.max_pool2d,
        integers=_without_params(integer.max_pool2d),
        range="among input",
        spelled={
            nn.MaxPool2d: _of_module(_max_pool2d, *_WINDOW, "dilation", "ceil_mode", "return_indices"),
            F.max_pool2d: _max_pool2d,
        },
    ),
    "relu": Operation(  # ReLU6 too: cut off at 0 and at `high`
        numbers=_cut,
        integers=_cut_integers,
        range="input",
        spelled={
            nn.ReLU: _of_module(_relu, "inplace"),
            nn.ReLU6: _of_module(_relu6, "inplace"),
            F.relu: _relu,
            F.relu6: _relu6,
            torch.relu: _relu,
            torch.relu_: _relu_in_place,
            "relu": _relu,
            "relu_": _relu_in_place,
        },
    ),
    "flatten": Operation(
        numbers=_flat,
        integers=_without_params(_flat),
        range="among input",
        spelled={
            nn.Flatten: _of_module(_flatten, "start_dim", "end_dim"),
            torch.flatten: _flatten,
            torch.reshape: _view,
            "flatten": _flatten,
            "view": _view,
            "reshape": _view,
        },
    ),
}
"""{name: row}. A tensor with a range of its own that is no layer's takes the name, such as "3.add".

:meta hide-value:
"""
