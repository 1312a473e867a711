"""Layers on integers: bit for bit those of ONNX Runtime, near the layers on real numbers, and the fixed-point form."""

import functools
import platform

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from course_lib.quantization import integer
from course_lib.quantization.affine import QuantParams, choose_params, dequantize, params_of, quantize

X86 = platform.machine().lower() in ("x86_64", "amd64")
SEEDS = st.integers(0, 2**32 - 1)
SCALES = st.floats(2**-10, 2**-1, width=32)


def onnx_runtime(operator, *inputs, domain="", **attributes):
    """What one operator of ONNX Runtime gives for tensors, of which None stands for one that is left out."""
    arrays = [None if value is None else value.numpy() for value in inputs]
    names = ["" if array is None else f"i{place}" for place, array in enumerate(arrays)]
    stored = [numpy_helper.from_array(a, n) for n, a in zip(names[1:], arrays[1:], strict=True) if n]
    kind = helper.np_dtype_to_tensor_dtype(arrays[0].dtype)
    graph = helper.make_graph(
        [helper.make_node(operator, names, ["y"], domain=domain, **attributes)],
        "one operator",
        [helper.make_tensor_value_info("i0", kind, arrays[0].shape)],
        [helper.make_empty_tensor_value_info("y")],
        stored,
    )
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return torch.from_numpy(session.run(None, {"i0": arrays[0]})[0])


def pair(params):
    """Scale and zero point as ONNX Runtime takes them."""
    return params.scale, params.zero_point.to(params.dtype)


def per_tensor(scale, zero_point, signed):
    return QuantParams(torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32), 8, signed)


@functools.cache
def largest_weight():
    """127, or 64 where ONNX Runtime adds pairs of products in int16: x86 without VNNI."""
    x, weight = torch.full((1, 4), 255, dtype=torch.uint8), torch.full((4, 1), 127, dtype=torch.int8)
    unit, same = per_tensor(1.0, 0, True), per_tensor(1.0, 0, False)
    found = onnx_runtime(
        "QLinearMatMul", x, *pair(same), weight, *pair(unit), torch.tensor(1024.0), pair(same)[1]
    )
    assert helper.np_dtype_to_tensor_dtype(found.numpy().dtype) == TensorProto.UINT8
    return 127 if found.item() == round(4 * 255 * 127 / 1024) else 64


def integers(shape, params, generator, extreme=False):
    """Random integers of the parameters, or only the smallest and largest."""
    low, high = params.low, params.high
    if params.signed and params.axis is not None:
        low, high = -largest_weight(), largest_weight()
    if extreme:
        values = torch.where(torch.rand(shape, generator=generator) < 0.5, low, high)
    else:
        values = torch.randint(low, high + 1, shape, generator=generator)
    return values.to(params.dtype)


def drawn_params(draw, signed):
    zero_point = draw(st.integers(-128, 127) if signed else st.integers(0, 255))
    return per_tensor(draw(SCALES), zero_point, signed)


def drawn_weight(draw, shape, x_signed, generator):
    """A weight with one scale for each output channel, or the same for all, and its parameters."""
    signed = x_signed or draw(st.booleans())  # ONNX Runtime has no int8 inputs with uint8 weights
    zero_point = 0 if signed else draw(st.integers(0, 255))
    scales = torch.tensor(draw(SCALES)) * (0.5 + torch.rand(shape[0], generator=generator))
    if draw(st.booleans()):
        scales = scales[:1].expand(shape[0]).clone()
    params = QuantParams(scales, torch.full((shape[0],), zero_point, dtype=torch.int32), 8, signed, axis=0)
    return integers(shape, params, generator, extreme=draw(st.booleans())), params


def drawn_output(draw, sums, x_params, weight_params):
    """Parameters of an output of which a part saturates, or none."""
    largest = (sums.abs().amax((0, *range(2, sums.ndim))) * x_params.scale * weight_params.scale).max()
    params = drawn_params(draw, x_params.signed)
    scale = (largest / 127 * draw(st.floats(0.2, 2))).clamp(min=1e-3).float()
    return QuantParams(scale, params.zero_point, 8, params.signed)


# ---- worked by hand ------------------------------------------------------------------------------------------------


def test_a_linear_layer_by_hand():
    x_params, weight_params, y_params = (
        per_tensor(0.5, 10, False),
        per_tensor(0.25, 0, True),
        per_tensor(2.0, 3, False),
    )
    x = torch.tensor([[10, 30, 0]], dtype=torch.uint8)  # 0, 10 and -5
    weight = torch.tensor([[4, 8, -4], [0, 1, 2]], dtype=torch.int8)  # 1, 2, -1 and 0, 0.25, 0.5
    bias = integer.quantize_bias(torch.tensor([1.0, 0.0]), x_params=x_params, weight_params=weight_params)
    assert bias.tolist() == [8, 0]
    assert bias.dtype == torch.int32
    fields = {"x_params": x_params, "weight_params": weight_params}
    sums = integer.linear_accumulator(x, weight, bias, **fields)
    assert sums.tolist() == [[8 + 8 * 20 + 4 * 10, 20 - 2 * 10]]  # 26 and 0 in steps of an eighth
    y = integer.linear(x, weight, bias, y_params=y_params, **fields)
    assert y.tolist() == [[13 + 3, 3]]
    assert y.dtype == torch.uint8


def test_padding_is_the_zero_point():
    x_params, weight_params = per_tensor(0.5, 77, False), per_tensor(0.25, 0, True)
    x = torch.full((1, 2, 4, 4), 77, dtype=torch.uint8)
    weight = torch.full((3, 2, 3, 3), 9, dtype=torch.int8)
    bias = torch.tensor([5, 6, 7], dtype=torch.int32)
    fields = {"x_params": x_params, "weight_params": weight_params}
    sums = integer.conv2d_accumulator(x, weight, bias, padding=2, **fields)
    assert sums.shape == (1, 3, 6, 6)
    assert sums.eq(bias.reshape(1, 3, 1, 1)).all()


def test_sums_round_to_even_before_the_zero_point_is_added_and_saturate():
    sums = torch.tensor([[1, 3, 5, -1, -3, 9999, -9999]], dtype=torch.int32).T
    y = integer.requantize(sums, torch.tensor(0.5), per_tensor(1.0, 7, False))
    assert y.flatten().tolist() == [7, 9, 9, 7, 5, 255, 0]
    y = integer.requantize(sums, torch.tensor(0.5), choose_params(-127, 127, symmetric=True))
    assert y.flatten().tolist() == [0, 2, 2, 0, -2, 127, -127]


def test_the_largest_layer_that_cannot_overflow():
    x_params, weight_params = per_tensor(1.0, 0, False), per_tensor(1.0, 0, True)
    fields = {"x_params": x_params, "weight_params": weight_params}
    x, weight = (
        torch.full((1, 66_312), 255, dtype=torch.uint8),
        torch.full((1, 66_312), 127, dtype=torch.int8),
    )
    # float32 holds neither this sum nor the one without the last product.
    assert integer.linear_accumulator(x[:, 1:], weight[:, 1:], **fields).item() == 66_311 * 255 * 127
    with pytest.raises(ValueError, match=r"2,147,514,120, beyond the int32 accumulator"):
        integer.linear_accumulator(x, weight, **fields)
    with pytest.raises(ValueError, match="beyond the int32 accumulator"):
        integer.linear_accumulator(
            x[:, 1:], -weight[:, 1:], torch.tensor([-9999], dtype=torch.int32), **fields
        )


def test_pooling_by_hand():
    x = torch.tensor([[[[10, 12], [14, 17]]]], dtype=torch.uint8)
    x_params, y_params = per_tensor(0.5, 10, False), per_tensor(0.25, 1, False)
    # (0 + 2 + 4 + 7) / 4 of a half is 6.5 quarters, and 1 for the zero point
    assert integer.global_avg_pool(x, x_params=x_params, y_params=y_params).tolist() == [[[[7]]]]
    assert integer.avg_pool2d(x, 2, x_params=x_params, y_params=y_params).tolist() == [[[[8]]]]
    padded = integer.avg_pool2d(x, 2, x_params=x_params, y_params=y_params, stride=2, padding=1)
    assert padded.tolist() == [[[[1, 2], [3, 4]]]]  # 0, 1, 2 and 3.5, which with the 1 goes to the even 4
    assert integer.max_pool2d(x, 2).tolist() == [[[[17]]]]
    assert integer.max_pool2d(-x.to(torch.int8), (1, 2), stride=1).tolist() == [[[[-10], [-14]]]]


# ---- ONNX Runtime --------------------------------------------------------------------------------------------------


@st.composite
def convolutions(draw):
    generator = torch.Generator().manual_seed(draw(SEEDS))
    groups = draw(st.sampled_from([1, 1, 2, 3, 16]))
    depth, filters = draw(st.integers(1, 1 if groups == 16 else 20)), draw(st.integers(1, 4)) * groups
    kernel, stride, padding, dilation = (
        tuple(draw(st.tuples(bound, bound)))
        for bound in (st.integers(1, 3), st.integers(1, 3), st.integers(0, 3), st.integers(1, 2))
    )
    size = [draw(st.integers(1 + gap * (side - 1), 9)) for side, gap in zip(kernel, dilation, strict=True)]
    x_params = drawn_params(draw, draw(st.booleans()))
    x = integers(
        (draw(st.integers(1, 3)), groups * depth, *size), x_params, generator, extreme=draw(st.booleans())
    )
    weight, weight_params = drawn_weight(draw, (filters, depth, *kernel), x_params.signed, generator)
    bias = None
    if draw(st.booleans()):
        bias = torch.randint(-100_000, 100_000, (filters,), generator=generator, dtype=torch.int32)
    fields = {"x_params": x_params, "weight_params": weight_params}
    fields |= {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    sums = integer.conv2d_accumulator(x, weight, bias, **fields)
    return x, weight, bias, fields | {"y_params": drawn_output(draw, sums, x_params, weight_params)}


@given(convolutions())
@settings(max_examples=150)
def test_convolutions_are_those_of_onnx_runtime(drawn):
    x, weight, bias, fields = drawn
    y = integer.conv2d(x, weight, bias, **fields)
    weights = (weight, *pair(fields["weight_params"]))
    theirs = onnx_runtime(
        "QLinearConv",
        *(x, *pair(fields["x_params"])),
        *weights,
        *pair(fields["y_params"]),
        bias,
        kernel_shape=weight.shape[2:],
        strides=fields["stride"],
        pads=fields["padding"] * 2,
        dilations=fields["dilation"],
        group=fields["groups"],
    )
    assert y.dtype == theirs.dtype
    assert torch.equal(y, theirs)


@st.composite
def linears(draw):
    generator = torch.Generator().manual_seed(draw(SEEDS))
    count, columns, rows = draw(st.integers(1, 9)), draw(st.integers(1, 300)), draw(st.integers(1, 20))
    x_params = drawn_params(draw, draw(st.booleans()))
    x = integers((count, columns), x_params, generator, extreme=draw(st.booleans()))
    weight, weight_params = drawn_weight(draw, (rows, columns), x_params.signed, generator)
    bias = torch.randint(-100_000, 100_000, (rows,), generator=generator, dtype=torch.int32)
    sums = integer.linear_accumulator(x, weight, bias, x_params=x_params, weight_params=weight_params)
    return x, weight, bias, x_params, weight_params, drawn_output(draw, sums, x_params, weight_params)


@given(linears())
@settings(max_examples=100)
def test_linear_layers_are_those_of_onnx_runtime(drawn):
    x, weight, bias, x_params, weight_params, y_params = drawn
    fields = {"x_params": x_params, "weight_params": weight_params, "y_params": y_params}
    theirs = onnx_runtime(
        "QLinearMatMul", x, *pair(x_params), weight.T.contiguous(), *pair(weight_params), *pair(y_params)
    )
    assert torch.equal(integer.linear(x, weight, **fields), theirs)
    theirs = onnx_runtime(
        "QGemm",
        *(x, *pair(x_params)),
        *(weight, *pair(weight_params)),
        bias,
        *pair(y_params),
        domain="com.microsoft",
        transB=1,
    )
    assert torch.equal(integer.linear(x, weight, bias, **fields), theirs)


@given(SCALES, SCALES, st.floats(2**-5, 2**12, width=32), st.integers(0, 255), SEEDS)
@settings(max_examples=100)
def test_sums_next_to_halves_round_as_in_onnx_runtime(x_scale, weight_scale, y_scale, zero_point, seed):
    """The inputs are all zero points, so that the sums are the bias: each next to a half of a step of the output."""
    x_params, weight_params = per_tensor(x_scale, 0, False), per_tensor(weight_scale, 0, True)
    y_params = per_tensor(y_scale, zero_point, False)
    multiplier = integer.output_multiplier(x_params, weight_params, y_params)
    generator = torch.Generator().manual_seed(seed)
    halves = torch.randint(-256, 256, (2000,), generator=generator).double() + 0.5
    sums = (halves / multiplier.double()).round() + torch.randint(-1, 2, (2000,), generator=generator)
    bias = sums.clamp(-(2**31), 2**31 - 1).int()
    x = torch.zeros(1, 1, 1, 1, dtype=torch.uint8)
    weight = torch.ones(2000, 1, 1, 1, dtype=torch.int8)
    theirs = onnx_runtime(
        "QLinearConv", x, *pair(x_params), weight, *pair(weight_params), *pair(y_params), bias
    )
    y = integer.conv2d(x, weight, bias, x_params=x_params, weight_params=weight_params, y_params=y_params)
    assert torch.equal(y, theirs)


@given(st.booleans(), st.data(), SEEDS)
@settings(max_examples=100)
def test_sums_of_two_tensors_are_those_of_onnx_runtime(signed, data, seed):
    a_params, b_params, y_params = (drawn_params(data.draw, signed) for _ in range(3))
    generator = torch.Generator().manual_seed(seed)
    a, b = (integers((3, 7001), params, generator) for params in (a_params, b_params))
    y = integer.add(a, b, a_params=a_params, b_params=b_params, y_params=y_params)
    theirs = onnx_runtime(
        "QLinearAdd", a, *pair(a_params), b, *pair(b_params), *pair(y_params), domain="com.microsoft"
    )
    assert y.dtype == theirs.dtype
    if X86:
        assert torch.equal(y, theirs)
    else:  # Arm's kernel adds in fixed point
        assert (y.int() - theirs.int()).abs().max() <= 1


@given(st.booleans(), st.data(), st.integers(1, 9), st.integers(1, 9), SEEDS)
def test_global_means_are_those_of_onnx_runtime(signed, data, height, width, seed):
    x_params, y_params = (drawn_params(data.draw, signed) for _ in range(2))
    # ONNX Runtime takes multipliers below 256
    assume(x_params.scale / y_params.scale < 200)
    x = integers((2, 50, height, width), x_params, torch.Generator().manual_seed(seed))
    y = integer.global_avg_pool(x, x_params=x_params, y_params=y_params)
    theirs = onnx_runtime(
        "QLinearGlobalAveragePool",
        *(x, *pair(x_params), *pair(y_params)),
        domain="com.microsoft",
        channels_last=0,
    )
    if X86:
        assert torch.equal(y, theirs)
    else:
        assert (y.int() - theirs.int()).abs().max() <= 1


@given(st.booleans(), st.data(), st.integers(2, 3), st.integers(1, 3), st.integers(0, 1), SEEDS)
def test_maxima_are_those_of_onnx_runtime(signed, data, size, stride, padding, seed):
    x = integers((2, 3, 8, 7), drawn_params(data.draw, signed), torch.Generator().manual_seed(seed))
    y = integer.max_pool2d(x, (size, 2), stride=stride, padding=padding)
    theirs = onnx_runtime("MaxPool", x, kernel_shape=[size, 2], strides=[stride] * 2, pads=[padding] * 4)
    assert torch.equal(y, theirs)


@pytest.mark.parametrize(("ratio", "share"), [(1.0, 1e-2), (0.7371, 1e-4), (3.1, 1e-4)])
@pytest.mark.parametrize(("size", "stride", "padding"), [(2, 2, 0), (3, 1, 1), (3, 2, 0)])
def test_means_over_windows_are_those_of_onnx_runtime_but_for_halves(ratio, share, size, stride, padding):
    x_params, y_params = per_tensor(0.037, 101, False), per_tensor(0.037 * ratio, 100, False)
    x = integers((4, 16, 24, 24), x_params, torch.Generator().manual_seed(0))
    fields = {"x_params": x_params, "y_params": y_params}
    y = integer.avg_pool2d(x, size, stride=stride, padding=padding, **fields)
    theirs = onnx_runtime(
        "QLinearAveragePool",
        *(x, *pair(x_params), *pair(y_params)),
        domain="com.microsoft",
        kernel_shape=[size] * 2,
        strides=[stride] * 2,
        pads=[padding] * 4,
        count_include_pad=1,
        channels_last=0,
    )
    apart = (y.int() - theirs.int()).abs()
    assert apart.max() <= 1
    assert apart.double().mean() <= share


# ---- laws ----------------------------------------------------------------------------------------------------------


@given(convolutions())
@settings(max_examples=50)
def test_a_convolution_is_that_of_the_real_numbers_to_half_a_step(drawn):
    x, weight, bias, fields = drawn
    x_params, weight_params, y_params = (fields[f"{name}_params"] for name in ("x", "weight", "y"))
    geometry = [fields[name] for name in ("stride", "padding", "dilation", "groups")]
    step = x_params.scale.double() * weight_params.scale.double()
    real = F.conv2d(
        dequantize(x, x_params).double(),
        dequantize(weight, weight_params).double(),
        None if bias is None else bias.double() * step,
        *geometry,
    )
    y = dequantize(integer.conv2d(x, weight, bias, **fields), y_params).double()
    low, high = (
        dequantize(torch.tensor([bound], dtype=y_params.dtype), y_params).item()
        for bound in (y_params.low, y_params.high)
    )
    assert torch.allclose(y, real.clamp(low, high), rtol=1e-5, atol=0.5001 * y_params.scale.item())


@given(st.booleans(), st.data(), SEEDS)
def test_relu_and_maxima_commute_with_the_real_numbers(signed, data, seed):
    params = drawn_params(data.draw, signed)
    x = integers((2, 3, 6, 6), params, torch.Generator().manual_seed(seed))
    real = dequantize(x, params)
    assert torch.equal(dequantize(integer.relu(x, params=params), params), real.relu())
    assert torch.equal(dequantize(integer.max_pool2d(x, 2), params), F.max_pool2d(real, 2))


def test_relu_is_in_the_output_range_whose_lowest_integer_is_the_zero_point():
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.rand(2, 3, 5, 5, generator=generator), torch.randn(4, 3, 3, 3, generator=generator)
    x_params, weight_params = params_of(x, symmetric=False), params_of(weight, symmetric=True, axis=0)
    fields = {"x_params": x_params, "weight_params": weight_params}
    arguments = quantize(x, x_params), quantize(weight, weight_params)
    both, above = choose_params(-5, 5, symmetric=True), choose_params(0, 5 / 127 * 255, symmetric=False)
    signed = integer.conv2d(*arguments, y_params=both, **fields)
    assert (signed < 0).any()
    assert torch.equal(
        integer.conv2d(*arguments, y_params=above, **fields).int().clamp(max=127),
        integer.relu(signed, params=both).int(),
    )


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=9), SCALES, SCALES)
def test_a_bias_is_rounded_to_steps_of_both_scales(values, x_scale, weight_scale):
    bias = torch.tensor(values)
    fields = {"x_params": per_tensor(x_scale, 0, False), "weight_params": per_tensor(weight_scale, 0, True)}
    step = np.float32(x_scale) * np.float32(weight_scale)
    expected = np.rint(np.asarray(values, dtype=np.float32).astype(np.float64) / np.float64(step))
    if np.abs(expected).max() < 2**31:
        assert integer.quantize_bias(bias, **fields).tolist() == expected.tolist()
    else:
        with pytest.raises(ValueError, match="beyond int32"):
            integer.quantize_bias(bias, **fields)


# ---- fixed point ---------------------------------------------------------------------------------------------------


def gemmlowp(value, mantissa, exponent):
    """SaturatingRoundingDoublingHighMul and RoundingDivideByPOT, on Python's integers."""
    value = min(max(value << max(exponent, 0), -(2**31)), 2**31 - 1)
    product = value * mantissa
    nudged = product + (2**30 if product >= 0 else 1 - 2**30)
    high = nudged // 2**31 if nudged >= 0 else -(-nudged // 2**31)
    shift = max(-exponent, 0)
    mask = (1 << shift) - 1
    return (high >> shift) + ((high & mask) > (mask >> 1) + (high < 0))


@given(
    st.lists(st.integers(-(2**31), 2**31 - 1) | st.integers(-5000, 5000), min_size=1, max_size=20),
    st.floats(2**-45, 2**20, width=32),
)
@example([3, -3, 5, -5, 1, -1], 0.5)
@example([2**31 - 1, -(2**31)], 1.0)
def test_fixed_point_is_that_of_gemmlowp(values, multiplier):
    fraction, exponent = np.frexp(np.float32(multiplier))
    expected = [gemmlowp(value, int(float(fraction) * 2**31), int(exponent)) for value in values]
    sums = torch.tensor(values, dtype=torch.int32)[None]
    params = QuantParams(torch.tensor(1.0), torch.tensor(-5, dtype=torch.int32), 16, True)
    found = integer.requantize_fixed_point(sums, torch.tensor(multiplier), params)
    assert found.flatten().tolist() == [min(max(value - 5, -(2**15)), 2**15 - 1) for value in expected]


def test_fixed_point_is_at_most_one_step_away_and_seldom():
    generator = torch.Generator().manual_seed(0)
    sums = (torch.randn(1000, 64, generator=generator) * 20_000).int()
    multiplier = 0.001 * (0.5 + torch.rand(64, generator=generator))
    params = per_tensor(1.0, 128, False)
    exact, fixed = (
        function(sums, multiplier, params).int()
        for function in (integer.requantize, integer.requantize_fixed_point)
    )
    apart = (exact - fixed).abs()
    assert apart.max() == 1
    assert 0 < apart.double().mean() < 0.005


# ---- bad input -----------------------------------------------------------------------------------------------------

P = per_tensor(0.5, 3, False)
W = per_tensor(0.25, 0, True)
CHANNELS = QuantParams(torch.ones(2), torch.zeros(2, dtype=torch.int32), 8, True, axis=0)
COLUMNS = QuantParams(torch.ones(2), torch.zeros(2, dtype=torch.int32), 8, True, axis=1)
IMAGE = torch.ones(1, 2, 4, 4, dtype=torch.uint8)
KERNEL = torch.ones(2, 2, 3, 3, dtype=torch.int8)
BIAS = torch.ones(2, dtype=torch.int32)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"x": IMAGE.float()}, TypeError, r"x has dtype torch.float32.*affine.quantize"),
        ({"x": IMAGE.bool()}, TypeError, "x has dtype torch.bool"),
        ({"x": IMAGE.tolist()}, TypeError, "x is a list; it must be a torch.Tensor of integers"),
        ({"x": IMAGE.to(torch.int8)}, TypeError, r"x has dtype torch.int8, but .* torch.uint8"),
        ({"x": IMAGE[0]}, ValueError, r"x has shape \[2, 4, 4\]; it must have four axes"),
        ({"x": IMAGE[:0]}, ValueError, r"x has shape \[0, 2, 4, 4\].*at least one value"),
        ({"x": IMAGE[:, :1]}, ValueError, "x must have 2 channels"),
        ({"groups": 2}, ValueError, "with groups=2 x must have 4 channels"),
        ({"groups": 0}, ValueError, "groups is 0"),
        ({"weight": KERNEL[:, :, 0]}, ValueError, r"weight has shape \[2, 2, 3\]; it must have four axes"),
        ({"weight": KERNEL.int()}, TypeError, "weight has dtype torch.int32"),
        ({"weight_params": COLUMNS}, ValueError, "scales along axis 1; accepted: one scale, or .* axis 0"),
        ({"weight": KERNEL[:1], "weight_params": CHANNELS, "bias": None}, ValueError, "have 2 scales"),
        ({"weight_params": None}, TypeError, "the parameters of weight is a NoneType"),
        (
            {"x_params": CHANNELS},
            ValueError,
            "the parameters of x has scales along axis 0; accepted: one scale",
        ),
        ({"y_params": CHANNELS}, ValueError, "y_params has scales along axis 0"),
        ({"y_params": (1, 2)}, TypeError, r"y_params is a tuple; it must be QuantParams"),
        ({"bias": BIAS.float()}, TypeError, r"bias has dtype torch.float32.*quantize_bias"),
        ({"bias": 3}, TypeError, "bias is a int"),
        ({"bias": BIAS[:1]}, ValueError, r"bias has shape \[1\].*it must be \[2\]"),
        ({"stride": 0}, ValueError, "stride is 0; it must be at least 1"),
        ({"stride": 1.5}, TypeError, "stride is 1.5"),
        ({"padding": -1}, ValueError, "padding is -1"),
        ({"padding": (1, 1, 1)}, ValueError, r"padding is \(1, 1, 1\); it must be a number or a pair"),
        ({"padding": "same"}, TypeError, "padding is 'same'"),
        ({"dilation": 2}, ValueError, "the window is 5x5, but x has shape"),
        (
            {"y_params": per_tensor(1e-38, 0, False), "x_params": per_tensor(1e5, 3, False)},
            ValueError,
            "is inf",
        ),
    ],
)
def test_wrong_arguments_of_a_convolution_are_named(changes, error, words):
    arguments = {"x": IMAGE, "weight": KERNEL, "bias": BIAS, "x_params": P, "weight_params": W, "y_params": P}
    assert integer.conv2d(**arguments).shape == (1, 2, 2, 2)
    with pytest.raises(error, match=words):
        integer.conv2d(**arguments | changes)


@pytest.mark.bad_input
def test_integers_that_so_many_bits_do_not_hold_are_refused():
    narrow = choose_params(0, 1, bits=4, symmetric=False)
    with pytest.raises(ValueError, match=r"x runs from 16 to 16, but .* integers in \[0, 15\]"):
        integer.relu(torch.full((3,), 16, dtype=torch.uint8), params=narrow)
    symmetric = choose_params(-1, 1, symmetric=True)
    assert integer.relu(torch.tensor([-128], dtype=torch.int8), params=symmetric).tolist() == [0]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: integer.linear(IMAGE, KERNEL, x_params=P, weight_params=W, y_params=P),
            ValueError,
            "two axes",
        ),
        (
            lambda: integer.linear(IMAGE[0, 0], KERNEL[0, 0], x_params=P, weight_params=W, y_params=P),
            ValueError,
            "as many columns",
        ),
        (
            lambda: integer.add(IMAGE, IMAGE[:, :1], a_params=P, b_params=P, y_params=P),
            ValueError,
            r"b \[1, 1, 4, 4\]; they must be equal",
        ),
        (lambda: integer.add(IMAGE, KERNEL, a_params=P, b_params=P, y_params=P), TypeError, "b has dtype"),
        (
            lambda: integer.add(IMAGE, IMAGE, a_params=P, b_params=P, y_params=3),
            TypeError,
            "y_params is a int",
        ),
        (lambda: integer.relu(IMAGE, params=W), TypeError, "x has dtype torch.uint8, but"),
        (lambda: integer.max_pool2d(IMAGE.float(), 2), TypeError, "x has dtype torch.float32"),
        (lambda: integer.max_pool2d(IMAGE[0], 2), ValueError, "four axes"),
        (lambda: integer.max_pool2d(IMAGE, 5), ValueError, "the window is 5x5"),
        (lambda: integer.max_pool2d(IMAGE, 2, padding=2), ValueError, "at most half of it"),
        (lambda: integer.max_pool2d(IMAGE, 0), ValueError, "kernel_size is 0"),
        (lambda: integer.avg_pool2d(IMAGE, 9, x_params=P, y_params=P), ValueError, "the window is 9x9"),
        (
            lambda: integer.avg_pool2d(IMAGE, 2, x_params=P, y_params=CHANNELS),
            ValueError,
            "y_params has scales",
        ),
        (
            lambda: integer.global_avg_pool(IMAGE[:0], x_params=P, y_params=P),
            ValueError,
            "at least one value",
        ),
        (
            lambda: integer.quantize_bias(BIAS, x_params=P, weight_params=W),
            TypeError,
            "bias has dtype torch.int32; it must be floating point",
        ),
        (
            lambda: integer.quantize_bias(torch.tensor([0.0, torch.nan]), x_params=P, weight_params=W),
            ValueError,
            "bias holds NaN",
        ),
        (
            lambda: integer.quantize_bias(torch.ones(3), x_params=P, weight_params=CHANNELS),
            ValueError,
            r"bias has shape \[3\].*weight_params have 2 scales",
        ),
        (
            lambda: integer.quantize_bias(torch.tensor([1.0, -1e9]), x_params=P, weight_params=W),
            ValueError,
            r"the bias -1e\+09 of channel 1 .* beyond int32.* 3.7 times as large",
        ),
    ],
)
def test_wrong_arguments_are_named(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.bad_input
@pytest.mark.parametrize("function", [integer.requantize, integer.requantize_fixed_point])
@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"accumulator": torch.ones(1, 2)}, TypeError, "accumulator has dtype torch.float32"),
        ({"accumulator": 3}, TypeError, "accumulator is a int"),
        ({"multiplier": 0.5}, TypeError, "multiplier is a float; it must be a tensor of torch.float32"),
        ({"multiplier": torch.ones(2).double()}, TypeError, "multiplier has dtype torch.float64"),
        ({"multiplier": torch.ones(3)}, ValueError, r"multiplier has shape \[3\] and accumulator \[1, 2\]"),
        ({"multiplier": torch.tensor([1.0, torch.nan])}, ValueError, "the multiplier is nan"),
        ({"multiplier": torch.tensor(-1.0)}, ValueError, "the multiplier is -1"),
        ({"y_params": CHANNELS}, ValueError, "y_params has scales along axis 0"),
        ({"y_params": None}, TypeError, "y_params is a NoneType"),
    ],
)
def test_wrong_arguments_of_requantization_are_named(function, changes, error, words):
    arguments = {"accumulator": BIAS[None], "multiplier": torch.ones(2), "y_params": P}
    assert function(**arguments).shape == (1, 2)
    with pytest.raises(error, match=words):
        function(**arguments | changes)


@pytest.mark.bad_input
def test_a_multiplier_that_no_int32_holds_is_refused():
    with pytest.raises(ValueError, match=r"multiplier is 4.29497e\+09; here it must be below 2\^31"):
        integer.requantize_fixed_point(BIAS[None], torch.tensor(2.0**32), P)


def test_arguments_stay_as_they_were():
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (2, 2, 6, 6), dtype=torch.uint8, generator=generator)
    sums = torch.randint(-999, 999, (2, 2), dtype=torch.int32, generator=generator)
    before = x.clone(), sums.clone()
    integer.conv2d(x, KERNEL, BIAS, x_params=P, weight_params=W, y_params=P)
    integer.add(x, x, a_params=P, b_params=P, y_params=P)
    integer.relu(x, params=P)
    integer.avg_pool2d(x, 2, x_params=P, y_params=P)
    integer.global_avg_pool(x, x_params=P, y_params=P)
    integer.requantize(sums, torch.tensor(0.3), P)
    integer.requantize_fixed_point(sums, torch.tensor(0.3), P)
    assert torch.equal(x, before[0])
    assert torch.equal(sums, before[1])
    assert KERNEL.eq(1).all()
    assert P.zero_point == 3
