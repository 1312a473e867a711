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

from course_lib.quantization import _forms as forms
from course_lib.quantization import _readers as readers
from course_lib.quantization import _shape_readers as shapes
from course_lib.quantization import integer
from course_lib.quantization._readers import BATCH, SIZE, Call, Refused

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


# ---- the table -----------------------------------------------------------------------------------------------------

_LAYER = ("x_params", "weight_params", "y_params")
_WINDOW = ("kernel_size", "stride", "padding")

OPERATIONS: dict[str, Operation] = {
    "images": Operation(numbers=forms.images, integers=None, range="own"),
    "conv2d": Operation(
        numbers=F.conv2d,
        integers=forms.with_params(integer.conv2d, *_LAYER),
        range="own",
        spelled={nn.Conv2d: shapes.convolution, F.conv2d: shapes.convolution_of},
        onnx=("Conv",),
    ),
    "conv1d": Operation(
        numbers=F.conv1d,
        integers=forms.with_params(integer.conv1d, *_LAYER),
        range="own",
        spelled={nn.Conv1d: shapes.convolution},
        onnx=("Conv",),
    ),
    "conv_transpose2d": Operation(
        numbers=F.conv_transpose2d,
        integers=forms.with_params(integer.conv_transpose2d, *_LAYER),
        range="own",
        spelled={nn.ConvTranspose2d: shapes.conv_transpose2d},
        onnx=("ConvTranspose",),
    ),
    "linear": Operation(
        numbers=F.linear,
        integers=forms.with_params(integer.linear, *_LAYER),
        range="own",
        spelled={nn.Linear: readers.linear, F.linear: shapes.linear_of},
        onnx=("Gemm",),
    ),
    "add": Operation(
        numbers=torch.add,
        integers=forms.with_params(integer.add, "a_params", "b_params", "y_params"),
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
        integers=forms.with_params(integer.sub, "a_params", "b_params", "y_params"),
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
        integers=forms.with_params(integer.mul, "a_params", "b_params", "y_params"),
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
        integers=forms.looked_up("sigmoid"),
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
        integers=forms.looked_up("hardsigmoid"),
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
        integers=forms.looked_up("tanh"),
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
        integers=forms.looked_up("leaky_relu"),
        range="own",
        spelled={
            nn.LeakyReLU: readers.of_module(readers.leaky_relu, "negative_slope", "inplace"),
            F.leaky_relu: readers.leaky_relu,
        },
        onnx=("LeakyRelu",),
    ),
    "elu": Operation(
        numbers=F.elu,
        integers=forms.looked_up("elu"),
        range="own",
        spelled={nn.ELU: readers.of_module(readers.elu, "alpha", "inplace"), F.elu: readers.elu},
        onnx=("Elu",),
    ),
    "gelu": Operation(
        numbers=F.gelu,
        integers=forms.looked_up("gelu"),
        range="own",
        spelled={nn.GELU: readers.of_module(readers.gelu, "approximate"), F.gelu: readers.gelu},
        onnx=("Gelu",),
    ),
    "mean": Operation(  # over height and width
        numbers=forms.mean,
        integers=forms.mean_integers,
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
        integers=forms.with_params(integer.avg_pool2d, "x_params", "y_params"),
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
        integers=forms.without_params(integer.max_pool2d),
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
        integers=forms.without_params(forms.max_pool1d),
        range="among input",
        spelled={
            nn.MaxPool1d: readers.of_module(
                shapes.max_pool1d, *_WINDOW, "dilation", "ceil_mode", "return_indices"
            ),
            F.max_pool1d: shapes.max_pool1d,
        },
    ),
    "same_size": Operation(  # adaptive pooling that has nothing to do; `mean` tells it from the other
        numbers=forms.of_size, integers=forms.without_params(forms.of_size), range="among input"
    ),
    "relu": Operation(  # ReLU6 too: cut off at 0 and at `high`
        numbers=forms.cut,
        integers=forms.cut_integers,
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
        numbers=forms.flat,
        integers=forms.without_params(forms.flat),
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
        integers=forms.concatenated,
        range="own",
        spelled={torch.cat: shapes.cat, torch.concat: shapes.cat, torch.concatenate: shapes.cat},
        onnx=("Concat",),
    ),
    "pad": Operation(  # with 0
        numbers=F.pad,
        integers=forms.padded,
        range="among input",
        spelled={F.pad: shapes.pad, nn.ZeroPad2d: shapes.zero_pad, nn.ConstantPad2d: shapes.constant_pad},
    ),
    "pad_constant": Operation(  # with any other number; `pad` tells it
        numbers=F.pad, integers=forms.padded, range="own", onnx=("Pad",)
    ),
    "part": Operation(
        numbers=forms.part,
        integers=forms.without_params(forms.part),
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
        integers=forms.without_params(lambda x, index: x[index]),
        range="among input",
        spelled={torch.narrow: shapes.narrow, "narrow": shapes.narrow},
    ),
    "channel_shuffle": Operation(
        numbers=forms.shuffled,
        integers=forms.without_params(forms.shuffled),
        range="among input",
        spelled={
            nn.ChannelShuffle: readers.of_module(shapes.channel_shuffle, "groups"),
            F.channel_shuffle: shapes.channel_shuffle,
        },
    ),
    "unsqueeze": Operation(  # factors for channels, as an image of one pixel
        numbers=forms.unsqueezed,
        integers=forms.without_params(forms.unsqueezed),
        range="among input",
        spelled={
            torch.unsqueeze: readers.unsqueeze,
            "unsqueeze": readers.unsqueeze,
        },
    ),
    "expand_as": Operation(
        numbers=Tensor.expand_as,
        integers=forms.without_params(Tensor.expand_as),
        range="among input",
        spelled={"expand_as": readers.expand_as},
    ),
}
"""{name: row}. A tensor with a range of its own that is no layer's takes the name, such as "3.add".

:meta hide-value:
"""
