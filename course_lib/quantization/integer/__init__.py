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

from course_lib.quantization.integer.convolutions import conv1d, conv_transpose2d
from course_lib.quantization.integer.layers import (
    conv2d,
    conv2d_accumulator,
    linear,
    linear_accumulator,
    quantize_bias,
)
from course_lib.quantization.integer.lookup import ACTIVATIONS, activation, lookup, table
from course_lib.quantization.integer.pointwise import add, mul, relu, sub
from course_lib.quantization.integer.pooling import avg_pool2d, global_avg_pool, max_pool2d
from course_lib.quantization.integer.rescaling import output_multiplier, requantize, requantize_fixed_point
from course_lib.quantization.integer.shapes import concat, pad

__all__ = [
    "ACTIVATIONS",
    "activation",
    "add",
    "avg_pool2d",
    "concat",
    "conv1d",
    "conv2d",
    "conv2d_accumulator",
    "conv_transpose2d",
    "global_avg_pool",
    "linear",
    "linear_accumulator",
    "lookup",
    "max_pool2d",
    "mul",
    "output_multiplier",
    "pad",
    "quantize_bias",
    "relu",
    "requantize",
    "requantize_fixed_point",
    "sub",
    "table",
]
