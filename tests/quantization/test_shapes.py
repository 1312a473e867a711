"""Integers that are concatenated, padded and convolved the other way round: ONNX Runtime and plain sums as oracles."""

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from course_lib.quantization import integer
from course_lib.quantization.affine import QuantParams, dequantize, quantize
from tests.quantization.test_integer import (
    SCALES,
    SEEDS,
    drawn_output,
    drawn_params,
    drawn_weight,
    integers,
    onnx_runtime,
    pair,
    per_tensor,
)

UNSIGNED, SIGNED = per_tensor(0.5, 3, False), per_tensor(0.25, 0, True)


def concat_in_onnx_runtime(inputs, params, y_params, axis):
    """QLinearConcat, whose first input is no tensor of activations but a scale."""
    arrays = [value for x, p in zip(inputs, params, strict=True) for value in (x, *pair(p))]
    names = [f"i{place}" for place in range(len(arrays) + 2)]
    values = [value.numpy() for value in (*pair(y_params), *arrays)]
    graph = helper.make_graph(
        [helper.make_node("QLinearConcat", names, ["y"], domain="com.microsoft", axis=axis)],
        "one operator",
        [
            helper.make_tensor_value_info(
                "i2", helper.np_dtype_to_tensor_dtype(values[2].dtype), values[2].shape
            )
        ],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(v, n) for n, v in zip(names, values, strict=True) if n != "i2"],
    )
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"i2": values[2]})[0])


@given(st.data(), st.integers(1, 4), st.integers(0, 3), SEEDS)
@settings(max_examples=40)
def test_concatenation_is_that_of_onnx_runtime(data, count, axis, seed):
    generator = torch.Generator().manual_seed(seed)
    signed = data.draw(st.booleans())
    y_params = drawn_params(data.draw, signed)
    params = [data.draw(st.sampled_from([y_params, drawn_params(data.draw, signed)])) for _ in range(count)]
    shapes = [[2, 3, 4, 30] for _ in range(count)]
    for shape in shapes:
        shape[axis] = data.draw(st.integers(1, 5))
    inputs = [integers(shape, p, generator) for shape, p in zip(shapes, params, strict=True)]
    found = integer.concat(*inputs, x_params=params, y_params=y_params, dim=axis)
    assert found.dtype == y_params.dtype
    assert torch.equal(found, concat_in_onnx_runtime(inputs, params, y_params, axis))


@given(SCALES, st.integers(0, 255))
@settings(max_examples=30)
def test_every_integer_is_brought_to_the_nearest_of_the_output(scale, zero_point):
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 256)
    y_params = per_tensor(scale, zero_point, False)
    found = integer.concat(every, x_params=[UNSIGNED], y_params=y_params)
    exact = (every.double() - 3) * 0.5 / torch.tensor(scale).double() + zero_point
    assert ((found - exact.clamp(0, 255)).abs() <= 0.5 + 1e-4).all()
    assert torch.equal(integer.concat(every, x_params=[UNSIGNED], y_params=UNSIGNED), every)


@given(st.data(), st.lists(st.integers(-1, 3), min_size=4, max_size=4), SEEDS)
@settings(max_examples=30)
def test_padding_with_0_is_that_of_onnx_runtime_with_the_zero_point(data, sizes, seed):
    params = drawn_params(data.draw, False)
    x = integers((2, 3, 3, 4), params, torch.Generator().manual_seed(seed))
    left, right, top, bottom = sizes
    pads = torch.tensor([0, 0, top, left, 0, 0, bottom, right])
    expected = onnx_runtime("Pad", x, pads, pair(params)[1], mode="constant")
    assert torch.equal(integer.pad(x, sizes, x_params=params), expected)


@given(st.floats(-300, 300), SEEDS)
@settings(max_examples=30)
def test_padding_stands_for_the_padded_numbers(value, seed):
    x = integers((2, 5), UNSIGNED, torch.Generator().manual_seed(seed))
    y_params = per_tensor(1.5, 100, False)
    found = integer.pad(x, (2, 1), x_params=UNSIGNED, y_params=y_params, value=value)
    expected = quantize(F.pad(dequantize(x, UNSIGNED), (2, 1), value=value), y_params)
    assert torch.equal(found, expected)


def transposed_in_numpy(x, weight, bias, stride, padding, output_padding, dilation, groups):
    """Each input adds its multiple of the kernel to the output, whose edges are cut off then."""
    images, channels, height, width = x.shape
    each, (rows, columns) = channels // groups, weight.shape[2:]
    full = [
        (size - 1) * stride + dilation * (reach - 1) + 1 + output_padding
        for size, reach in ((height, rows), (width, columns))
    ]
    sums = np.zeros((images, weight.shape[1] * groups, *full), dtype=np.int64)
    for place in np.ndindex(height, width, rows, columns):
        i, j, a, b = place
        for group in range(groups):
            inputs = slice(group * each, (group + 1) * each)
            outputs = slice(group * weight.shape[1], (group + 1) * weight.shape[1])
            sums[:, outputs, i * stride + a * dilation, j * stride + b * dilation] += (
                x[:, inputs, i, j] @ weight[inputs, :, a, b]
            )
    inner = sums[:, :, padding : full[0] - padding, padding : full[1] - padding]
    return inner + bias[:, None, None]


@given(st.data(), st.integers(1, 3), st.integers(0, 1), st.integers(1, 2), st.sampled_from([1, 2]), SEEDS)
@settings(max_examples=25)
def test_a_transposed_convolution_is_that_of_plain_sums(data, stride, padding, dilation, groups, seed):
    generator = torch.Generator().manual_seed(seed)
    x_params = drawn_params(data.draw, False)
    x = integers((2, 4, 3, 4), x_params, generator)
    weight, params = drawn_weight(data.draw, (3, 4, 3, 2), True, generator)
    weight = weight.transpose(0, 1).contiguous()
    params = QuantParams(params.scale, params.zero_point, 8, True, axis=1)
    if groups > 1:
        params = QuantParams(params.scale[0], params.zero_point[0], 8, True)
    bias = torch.randint(-999, 1000, (3 * groups,), generator=generator, dtype=torch.int32)
    more = data.draw(st.integers(0, max(stride, dilation) - 1))
    expected = transposed_in_numpy(
        x.numpy().astype(np.int64) - int(x_params.zero_point),
        weight.numpy().astype(np.int64),
        bias.numpy(),
        *(stride, padding, more, dilation, groups),
    )
    sums = torch.from_numpy(expected).int()
    outputs = QuantParams(params.scale, params.zero_point, 8, True, axis=None if groups > 1 else 0)
    y_params = drawn_output(data.draw, sums, x_params, outputs)
    multiplier = integer.output_multiplier(x_params, outputs, y_params)
    found = integer.conv_transpose2d(
        x,
        weight,
        bias,
        x_params=x_params,
        weight_params=params,
        y_params=y_params,
        stride=stride,
        padding=padding,
        output_padding=more,
        groups=groups,
        dilation=dilation,
    )
    assert torch.equal(found, integer.requantize(sums, multiplier, y_params))


@given(st.data(), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2), SEEDS)
@settings(max_examples=25)
def test_a_convolution_of_sequences_is_that_of_onnx_runtime(data, stride, padding, dilation, seed):
    generator = torch.Generator().manual_seed(seed)
    x_params = drawn_params(data.draw, False)
    x = integers((3, 4, 11), x_params, generator)
    weight, weight_params = drawn_weight(data.draw, (6, 2, 3), False, generator)
    bias = torch.randint(-999, 1000, (6,), generator=generator, dtype=torch.int32)
    fields = {"x_params": x_params, "weight_params": weight_params}
    sizes = {"stride": stride, "padding": padding, "dilation": dilation, "groups": 2}
    rows = {"stride": (1, stride), "padding": (0, padding), "dilation": (1, dilation), "groups": 2}
    sums = integer.conv2d_accumulator(x[:, :, None], weight[:, :, None], bias, **fields, **rows)
    y_params = drawn_output(data.draw, sums, x_params, weight_params)
    found = integer.conv1d(x, weight, bias, y_params=y_params, **fields, **sizes)
    expected = onnx_runtime(
        *("QLinearConv", x, *pair(x_params), weight, *pair(weight_params), *pair(y_params), bias),
        strides=[stride],
        pads=[padding] * 2,
        dilations=[dilation],
        group=2,
    )
    assert torch.equal(found, expected)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(3, 9), SEEDS)
@settings(max_examples=25)
def test_maxima_of_windows_that_reach_over_the_edge_are_those_of_onnx_runtime(window, stride, size, seed):
    x = integers((2, 3, size, size + 1), UNSIGNED, torch.Generator().manual_seed(seed))
    window = min(window, size)
    found = integer.max_pool2d(x, window, stride=stride, ceil_mode=True)
    if (size - window) % stride and (size - window) // stride * stride + stride >= size:
        return  # a window without a value, which ONNX counts and PyTorch does not
    expected = onnx_runtime("MaxPool", x, kernel_shape=[window] * 2, strides=[stride] * 2, ceil_mode=1)
    assert torch.equal(found, expected[:, :, : found.shape[2], : found.shape[3]])


@pytest.mark.parametrize("window", [2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1])
def test_images_smaller_than_the_window_are_pooled_where_it_may_reach_over_the_edge(window, stride, padding):
    for height, width in ((1, 1), (1, 4), (2, 1), (5, 2)):
        x = integers((2, 3, height, width), UNSIGNED, torch.Generator().manual_seed(height))
        options = {"stride": stride, "padding": padding, "ceil_mode": True}
        try:
            expected = F.max_pool2d(x.double(), window, **options)
        except RuntimeError:  # nothing is left
            with pytest.raises(ValueError, match="Take a smaller window"):
                integer.max_pool2d(x, window, **options)
        else:
            assert torch.equal(integer.max_pool2d(x, window, **options).double(), expected)


X, ROWS = torch.full((1, 2, 3, 3), 7, dtype=torch.uint8), torch.full((1, 2, 5), 7, dtype=torch.uint8)
WEIGHT, TRIPLE = torch.ones(2, 3, 2, 2, dtype=torch.int8), torch.ones(3, 2, 2, dtype=torch.int8)
LAYER = {"x_params": UNSIGNED, "weight_params": SIGNED, "y_params": UNSIGNED}
BY_CHANNEL = QuantParams(torch.ones(3), torch.zeros(3, dtype=torch.int32), 8, True, axis=1)
BAD = [
    (lambda: integer.concat(x_params=[], y_params=UNSIGNED), ValueError, "one or more tensors"),
    (
        lambda: integer.concat(X, X, x_params=[UNSIGNED], y_params=UNSIGNED),
        ValueError,
        "1 x_params for 2 tensors",
    ),
    (lambda: integer.concat(X, x_params=UNSIGNED, y_params=UNSIGNED), TypeError, "QuantParams|Sequence"),
    (lambda: integer.concat(X, x_params=[None], y_params=UNSIGNED), TypeError, "QuantParams"),
    (lambda: integer.concat(X, x_params=[SIGNED], y_params=UNSIGNED), TypeError, "dtype torch.uint8"),
    (lambda: integer.concat(X, x_params=[UNSIGNED], y_params=BY_CHANNEL), ValueError, "y_params has scales"),
    (lambda: integer.concat(X, x_params=[UNSIGNED], y_params=UNSIGNED, dim=4), ValueError, "dim is 4"),
    (
        lambda: integer.concat(X, X[:, :, :2], x_params=[UNSIGNED] * 2, y_params=UNSIGNED),
        ValueError,
        "must be equal but for axis 1",
    ),
    (lambda: integer.pad(X.float(), (1, 1), x_params=UNSIGNED), TypeError, "dtype torch.float32"),
    (lambda: integer.pad(X, (1,), x_params=UNSIGNED), ValueError, r"pad is \(1,\)"),
    (lambda: integer.pad(X, (0,) * 10, x_params=UNSIGNED), ValueError, "last axis first"),
    (lambda: integer.pad(X, (1, 1.5), x_params=UNSIGNED), TypeError, r"pad.* is 1.5"),
    (lambda: integer.pad(X, (-2, -1), x_params=UNSIGNED), ValueError, "leaves nothing"),
    (lambda: integer.pad(X, (1, 1), x_params=UNSIGNED, value=float("nan")), ValueError, "value is nan"),
    (lambda: integer.conv1d(X, TRIPLE, **LAYER), ValueError, r"x has shape \[1, 2, 3, 3\]; .* three axes"),
    (lambda: integer.conv1d(ROWS, WEIGHT, **LAYER), ValueError, "weight has shape"),
    (lambda: integer.conv1d(ROWS, TRIPLE, stride=(1, 2), **LAYER), ValueError, "sequence of one"),
    (lambda: integer.conv1d(ROWS, TRIPLE, stride=0, **LAYER), ValueError, "stride is 0"),
    (lambda: integer.conv_transpose2d(X, WEIGHT[:1], **LAYER), ValueError, "must have 1 channels"),
    (lambda: integer.conv_transpose2d(X, WEIGHT, groups=3, **LAYER), ValueError, "share out into the groups"),
    (
        lambda: integer.conv_transpose2d(X, WEIGHT, output_padding=1, **LAYER),
        ValueError,
        "output_padding is 1",
    ),
    (lambda: integer.conv_transpose2d(X, WEIGHT, padding=3, **LAYER), ValueError, "leaves nothing"),
    (
        lambda: integer.conv_transpose2d(X, WEIGHT, groups=2, **LAYER | {"weight_params": BY_CHANNEL}),
        ValueError,
        "groups is 2; give one scale",
    ),
    (
        lambda: integer.conv_transpose2d(X, WEIGHT, torch.ones(2, dtype=torch.int32), **LAYER),
        ValueError,
        r"bias has shape \[2\]",
    ),
    (lambda: integer.conv_transpose2d(X[0], WEIGHT, **LAYER), ValueError, "four axes"),
    (lambda: integer.conv_transpose2d(X, WEIGHT, **LAYER | {"weight_params": 1}), TypeError, "QuantParams"),
    (lambda: integer.max_pool2d(X, 2, ceil_mode=1), TypeError, "ceil_mode is 1"),
]


@pytest.mark.bad_input
@pytest.mark.parametrize(("call", "error", "words"), BAD)
def test_bad_input_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()
