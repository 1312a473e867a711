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

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.quantization import _readers as readers
from course_lib.quantization import integer
from course_lib.quantization._readers import BATCH, SIZE, Call, Refused
from course_lib.quantization.affine import quantize

__all__ = ["BATCH", "OPERATIONS", "SIZE", "Call", "Operation", "Refused"]


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


# ---- on numbers and on integers ------------------------------------------------------------------------------------


def _with_params(function: Callable[..., Tensor], *names: str) -> Callable[..., Tensor]:
    """A function of `integer` with its parameters in one sequence, in the order of these names."""
    return lambda *inputs, params, **options: function(
        *inputs, **dict(zip(names, params, strict=True)), **options
    )


def _without_params(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function that picks integers, whatever they stand for."""
    return lambda *inputs, params, **options: function(*inputs, **options)


def _looked_up(name: str) -> Callable[..., Tensor]:
    """An activation function of `integer` on its parameters in one sequence."""

    def function(x: Tensor, *, params: tuple, **options: object) -> Tensor:
        return integer.activation(x, name, x_params=params[0], y_params=params[1], **options)

    return function


def _cut(x: Tensor, high: float) -> Tensor:
    return x.clamp(0.0, high)  # of one type, which the exporter to ONNX wants


def _cut_integers(x: Tensor, *, params: tuple, high: float) -> Tensor:
    """This changes nothing where the range begins at 0 and ends no higher than the activation does."""
    _, y_params = params
    return integer.relu(x, params=y_params).clamp_(max=int(quantize(torch.tensor(high), y_params)))


def _unsqueezed(x: Tensor, dims: tuple[int, ...] = (2, 3)) -> Tensor:
    for dim in dims:
        x = x.unsqueeze(dim)
    return x


def _flat(x: Tensor) -> Tensor:
    return x.flatten(1)


# ---- the table -----------------------------------------------------------------------------------------------------

_LAYER = ("x_params", "weight_params", "y_params")
_WINDOW = ("kernel_size", "stride", "padding")

OPERATIONS: dict[str, Operation] = {
    "images": Operation(numbers=lambda images: images, integers=None, range="own"),
    "conv2d": Operation(
        numbers=F.conv2d,
        integers=_with_params(integer.conv2d, *_LAYER),
        range="own",
        spelled={nn.Conv2d: readers.conv2d},
        onnx=("Conv",),
    ),
    "linear": Operation(
        numbers=F.linear,
        integers=_with_params(integer.linear, *_LAYER),
        range="own",
        spelled={nn.Linear: readers.linear},
        onnx=("Gemm",),
    ),
    "add": Operation(
        numbers=torch.add,
        integers=_with_params(integer.add, "a_params", "b_params", "y_params"),
        range="own",
        spelled={
            operator.add: readers.add,
            torch.add: readers.add,
            "add": readers.add,
            "add_": readers.add_in_place,
        },
        onnx=("Add",),
    ),
    "sub": Operation(
        numbers=torch.sub,
        integers=_with_params(integer.sub, "a_params", "b_params", "y_params"),
        range="own",
        spelled={
            operator.sub: readers.sub,
            torch.sub: readers.sub,
            torch.subtract: readers.sub,
            "sub": readers.sub,
            "sub_": readers.sub_in_place,
        },
        onnx=("Sub",),
    ),
    "mul": Operation(
        numbers=torch.mul,
        integers=_with_params(integer.mul, "a_params", "b_params", "y_params"),
        range="own",
        spelled={
            operator.mul: readers.mul,
            torch.mul: readers.mul,
            torch.multiply: readers.mul,
            "mul": readers.mul,
            "mul_": readers.mul_in_place,
        },
        onnx=("Mul",),
    ),
    "sigmoid": Operation(
        numbers=torch.sigmoid,
        integers=_looked_up("sigmoid"),
        range="own",
        spelled={
            nn.Sigmoid: readers.of_module(readers.activation),
            torch.sigmoid: readers.activation,
            torch.sigmoid_: readers.activation_in_place,
            "sigmoid": readers.activation,
            "sigmoid_": readers.activation_in_place,
            nn.SiLU: readers.of_module(readers.gate, "inplace"),
            F.silu: readers.gate,
        },
        onnx=("Sigmoid",),
    ),
    "hardsigmoid": Operation(
        numbers=F.hardsigmoid,
        integers=_looked_up("hardsigmoid"),
        range="own",
        spelled={
            nn.Hardsigmoid: readers.of_module(readers.activation, "inplace"),
            F.hardsigmoid: readers.activation,
            nn.Hardswish: readers.of_module(readers.gate, "inplace"),
            F.hardswish: readers.gate,
        },
        onnx=("HardSigmoid",),
    ),
    "tanh": Operation(
        numbers=torch.tanh,
        integers=_looked_up("tanh"),
        range="own",
        spelled={
            nn.Tanh: readers.of_module(readers.activation),
            torch.tanh: readers.activation,
            torch.tanh_: readers.activation_in_place,
            "tanh": readers.activation,
            "tanh_": readers.activation_in_place,
        },
        onnx=("Tanh",),
    ),
    "leaky_relu": Operation(
        numbers=F.leaky_relu,
        integers=_looked_up("leaky_relu"),
        range="own",
        spelled={
            nn.LeakyReLU: readers.of_module(readers.leaky_relu, "negative_slope", "inplace"),
            F.leaky_relu: readers.leaky_relu,
        },
        onnx=("LeakyRelu",),
    ),
    "elu": Operation(
        numbers=F.elu,
        integers=_looked_up("elu"),
        range="own",
        spelled={nn.ELU: readers.of_module(readers.elu, "alpha", "inplace"), F.elu: readers.elu},
        onnx=("Elu",),
    ),
    "gelu": Operation(
        numbers=F.gelu,
        integers=_looked_up("gelu"),
        range="own",
        spelled={nn.GELU: readers.of_module(readers.gelu, "approximate"), F.gelu: readers.gelu},
        onnx=("Gelu",),
    ),
    "mean": Operation(  # over height and width
        numbers=lambda x: F.adaptive_avg_pool2d(x, 1),
        integers=_with_params(integer.global_avg_pool, "x_params", "y_params"),
        range="own",
        spelled={
            nn.AdaptiveAvgPool2d: readers.of_module(readers.adaptive_avg_pool2d, "output_size"),
            F.adaptive_avg_pool2d: readers.adaptive_avg_pool2d,
            torch.mean: readers.mean,
            "mean": readers.mean,
        },
        onnx=("GlobalAveragePool", "ReduceMean"),
    ),
    "avg_pool2d": Operation(
        numbers=F.avg_pool2d,
        integers=_with_params(integer.avg_pool2d, "x_params", "y_params"),
        range="input",
        spelled={
            nn.AvgPool2d: readers.of_module(
                readers.avg_pool2d, *_WINDOW, "ceil_mode", "count_include_pad", "divisor_override"
            ),
            F.avg_pool2d: readers.avg_pool2d,
        },
    ),
    "max_pool2d": Operation(
        numbers=F.max_pool2d,
        integers=_without_params(integer.max_pool2d),
        range="among input",
        spelled={
            nn.MaxPool2d: readers.of_module(
                readers.max_pool2d, *_WINDOW, "dilation", "ceil_mode", "return_indices"
            ),
            F.max_pool2d: readers.max_pool2d,
        },
    ),
    "relu": Operation(  # ReLU6 too: cut off at 0 and at `high`
        numbers=_cut,
        integers=_cut_integers,
        range="input",
        spelled={
            nn.ReLU: readers.of_module(readers.relu, "inplace"),
            nn.ReLU6: readers.of_module(readers.relu6, "inplace"),
            F.relu: readers.relu,
            F.relu6: readers.relu6,
            torch.relu: readers.relu,
            torch.relu_: readers.relu_in_place,
            "relu": readers.relu,
            "relu_": readers.relu_in_place,
        },
    ),
    "flatten": Operation(
        numbers=_flat,
        integers=_without_params(_flat),
        range="among input",
        spelled={
            nn.Flatten: readers.of_module(readers.flatten, "start_dim", "end_dim"),
            torch.flatten: readers.flatten,
            torch.reshape: readers.view,
            "flatten": readers.flatten,
            "view": readers.view,
            "reshape": readers.view,
        },
    ),
    "unsqueeze": Operation(  # factors for channels, as an image of one pixel
        numbers=_unsqueezed,
        integers=_without_params(_unsqueezed),
        range="among input",
        spelled={
            torch.unsqueeze: readers.unsqueeze,
            "unsqueeze": readers.unsqueeze,
            operator.getitem: readers.item,
        },
    ),
    "expand_as": Operation(
        numbers=Tensor.expand_as,
        integers=_without_params(Tensor.expand_as),
        range="among input",
        spelled={"expand_as": readers.expand_as},
    ),
}
"""{name: row}. A tensor with a range of its own that is no layer's takes the name, such as "3.add".

:meta hide-value:
"""
