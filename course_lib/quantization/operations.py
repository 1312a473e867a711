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
from course_lib.quantization import _shape_readers as shapes
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
            range of the input, and is rounded again; "among input" where each value is one of the input's, or 0, so
            that nothing is left to round.
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


def _concatenated(*inputs: Tensor, params: tuple, dim: int) -> Tensor:
    return integer.concat(*inputs, x_params=params[:-1], y_params=params[-1], dim=dim)


def _padded(x: Tensor, *, params: tuple, pad: tuple, value: float = 0.0) -> Tensor:
    return integer.pad(x, pad, x_params=params[0], y_params=params[1], value=value)


def _part(x: Tensor, *, cut: str, sizes: int | tuple, dim: int, index: int) -> Tensor:
    return (x.chunk if cut == "chunk" else x.split)(sizes, dim)[index]


def _shuffled(x: Tensor, groups: int) -> Tensor:
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def _of_size(x: Tensor, size: tuple) -> Tensor:
    if any(wanted not in (None, given) for wanted, given in zip(size, x.shape[2:], strict=True)):
        raise ValueError(
            f"it pools {list(x.shape[2:])} to {list(size)}; accepted are images of such a size that it changes "
            "nothing (in VGG and AlexNet 224 x 224 pixels), or pooling to 1."
        )
    return x


def _mean(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, 1) if x.ndim == 4 else F.adaptive_avg_pool1d(x, 1)


def _mean_integers(x: Tensor, *, params: tuple) -> Tensor:
    sequences = x.ndim == 3
    means = integer.global_avg_pool(x[..., None] if sequences else x, x_params=params[0], y_params=params[1])
    return means[..., 0] if sequences else means


def _max_pool1d(x: Tensor, *, kernel_size: int, stride: int, padding: int, ceil_mode: bool = False) -> Tensor:
    rows = {"stride": (1, stride), "padding": (0, padding), "ceil_mode": ceil_mode}
    return integer.max_pool2d(x[:, :, None], (1, kernel_size), **rows)[:, :, 0]


# ---- the table -----------------------------------------------------------------------------------------------------

_LAYER = ("x_params", "weight_params", "y_params")
_WINDOW = ("kernel_size", "stride", "padding")

OPERATIONS: dict[str, Operation] = {
    "images": Operation(numbers=lambda images: images, integers=None, range="own"),
    "conv2d": Operation(
        numbers=F.conv2d,
        integers=_with_params(integer.conv2d, *_LAYER),
        range="own",
        spelled={nn.Conv2d: shapes.convolution, F.conv2d: shapes.convolution_of},
        onnx=("Conv",),
    ),
    "conv1d": Operation(
        numbers=F.conv1d,
        integers=_with_params(integer.conv1d, *_LAYER),
        range="own",
        spelled={nn.Conv1d: shapes.convolution},
        onnx=("Conv",),
    ),
    "conv_transpose2d": Operation(
        numbers=F.conv_transpose2d,
        integers=_with_params(integer.conv_transpose2d, *_LAYER),
        range="own",
        spelled={nn.ConvTranspose2d: shapes.conv_transpose2d},
        onnx=("ConvTranspose",),
    ),
    "linear": Operation(
        numbers=F.linear,
        integers=_with_params(integer.linear, *_LAYER),
        range="own",
        spelled={nn.Linear: readers.linear, F.linear: shapes.linear_of},
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
        numbers=_mean,
        integers=_mean_integers,
        range="own",
        spelled={
            nn.AdaptiveAvgPool2d: readers.of_module(readers.adaptive_avg_pool2d, "output_size"),
            F.adaptive_avg_pool2d: readers.adaptive_avg_pool2d,
            nn.AdaptiveAvgPool1d: readers.of_module(shapes.adaptive_avg_pool1d, "output_size"),
            F.adaptive_avg_pool1d: shapes.adaptive_avg_pool1d,
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
    "max_pool1d": Operation(
        numbers=F.max_pool1d,
        integers=_without_params(_max_pool1d),
        range="among input",
        spelled={
            nn.MaxPool1d: readers.of_module(
                shapes.max_pool1d, *_WINDOW, "dilation", "ceil_mode", "return_indices"
            ),
            F.max_pool1d: shapes.max_pool1d,
        },
    ),
    "same_size": Operation(  # adaptive pooling that has nothing to do; `mean` tells it from the other
        numbers=_of_size, integers=_without_params(_of_size), range="among input"
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
            nn.Hardtanh: readers.of_module(shapes.hardtanh, "min_val", "max_val", "inplace"),
            F.hardtanh: shapes.hardtanh,
            torch.clamp: shapes.clamp,
            torch.clip: shapes.clamp,
            torch.clamp_min: shapes.clamp,
            "clamp": shapes.clamp,
            "clip": shapes.clamp,
            "clamp_min": shapes.clamp,
            "clamp_": shapes.clamp_,
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
    "concat": Operation(
        numbers=lambda *inputs, dim: torch.cat(inputs, dim),
        integers=_concatenated,
        range="own",
        spelled={torch.cat: shapes.cat, torch.concat: shapes.cat, torch.concatenate: shapes.cat},
        onnx=("Concat",),
    ),
    "pad": Operation(  # with 0
        numbers=F.pad,
        integers=_padded,
        range="among input",
        spelled={F.pad: shapes.pad, nn.ZeroPad2d: shapes.zero_pad, nn.ConstantPad2d: shapes.constant_pad},
    ),
    "pad_constant": Operation(  # with any other number; `pad` tells it
        numbers=F.pad, integers=_padded, range="own", onnx=("Pad",)
    ),
    "part": Operation(
        numbers=_part,
        integers=_without_params(_part),
        range="among input",
        spelled={
            torch.chunk: shapes.chunk,
            "chunk": shapes.chunk,
            torch.split: shapes.split,
            "split": shapes.split_method,
        },
    ),
    "slice": Operation(  # x[:, 2:5] too, which `translate` reads
        numbers=lambda x, index: x[index],
        integers=_without_params(lambda x, index: x[index]),
        range="among input",
        spelled={torch.narrow: shapes.narrow, "narrow": shapes.narrow},
    ),
    "channel_shuffle": Operation(
        numbers=_shuffled,
        integers=_without_params(_shuffled),
        range="among input",
        spelled={
            nn.ChannelShuffle: readers.of_module(shapes.channel_shuffle, "groups"),
            F.channel_shuffle: shapes.channel_shuffle,
        },
    ),
    "unsqueeze": Operation(  # factors for channels, as an image of one pixel
        numbers=_unsqueezed,
        integers=_without_params(_unsqueezed),
        range="among input",
        spelled={
            torch.unsqueeze: readers.unsqueeze,
            "unsqueeze": readers.unsqueeze,
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
