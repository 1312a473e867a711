"""Scales and zero points as ONNX Runtime chooses them, integers as its operators make them, and the laws of the map."""

import functools
import math

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper
from onnxruntime.quantization.quant_utils import compute_data_quant_params

from course_lib.quantization.affine import (
    QuantParams,
    choose_params,
    dequantize,
    fake_quantize,
    in_range,
    params_of,
    quantize,
)

# Each with the dtype of NumPy that holds its integers, and (bits, signed).
TYPES = {
    TensorProto.INT8: (np.int8, 8, True),
    TensorProto.UINT8: (np.uint8, 8, False),
    TensorProto.INT16: (np.int16, 16, True),
    TensorProto.UINT16: (np.uint16, 16, False),
    TensorProto.INT4: (np.int8, 4, True),
    TensorProto.UINT4: (np.uint8, 4, False),
}
WIDE = [TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16]

reals = st.one_of(*[st.floats(-size, size, width=32) for size in (2.0**100, 8, 2.0**-120)])
data = arrays.arrays(np.float32, st.integers(1, 30), elements=reals)
settings_of_map = st.one_of(
    st.fixed_dictionaries({"bits": st.integers(2, 16), "symmetric": st.just(False), "signed": st.booleans()}),
    st.fixed_dictionaries({"bits": st.integers(2, 16), "symmetric": st.just(True)}),
)


def per_channel(scale, zero_point, axis=0, **fields):
    return QuantParams(
        torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32), 8, True, axis, **fields
    )


# ---- worked by hand ------------------------------------------------------------------------------------------------


def test_a_symmetric_range_by_hand():
    params = choose_params(-6.35, 12.7, symmetric=True)
    assert params.scale.item() == pytest.approx(0.1)
    assert (params.zero_point.item(), params.low, params.high, params.dtype) == (0, -127, 127, torch.int8)
    q = quantize(torch.tensor([-99.0, -12.7, -0.26, 0, 0.14, 12.7, 99]), params)
    assert q.tolist() == [-127, -127, -3, 0, 1, 127, 127]
    assert q.dtype == torch.int8
    assert dequantize(q, params).tolist() == pytest.approx([-12.7, -12.7, -0.3, 0, 0.1, 12.7, 12.7])


def test_an_asymmetric_range_by_hand():
    params = choose_params(-1, 1.55, symmetric=False)
    assert params.scale.item() == pytest.approx(0.01)
    assert (params.zero_point.item(), params.low, params.high, params.dtype) == (100, 0, 255, torch.uint8)
    q = quantize(torch.tensor([-9, -1, 0, 0.034, 1.55, 9]), params)
    assert q.tolist() == [0, 0, 100, 103, 255, 255]
    assert dequantize(q, params).tolist() == pytest.approx([-1, -1, 0, 0.03, 1.55, 1.55])
    signed = choose_params(-1, 1.55, symmetric=False, signed=True)
    assert (signed.zero_point.item(), signed.low, signed.high) == (-28, -128, 127)


def test_the_range_ends_half_a_step_beyond_its_last_integers_by_hand():
    params = choose_params(-1, 2, bits=2, symmetric=False)  # integers 0 to 3 stand for -1, 0, 1 and 2
    x = torch.tensor([-torch.inf, -1.51, -1.5, -1.49, 0, 2.49, 2.5, 2.51])
    # -1.5 and 2.5 are rounded to the even steps -2 and 2, of which the first is none of the range.
    assert in_range(x, params).tolist() == [False, False, False, True, True, True, True, False]
    both = per_channel([0.5, 1.0], [0, 0], axis=1, symmetric=True)
    x = torch.tensor([[63.5, 63.5], [-63.8, -127.4], [63.8, 128]])
    assert in_range(x, both).tolist() == [[True, True], [False, True], [False, False]]


def test_the_range_of_least_squares_by_hand():
    # With 2 bits -1, 0 and 1 steps: at 0.55 all but two are met, of which one costs 0.45^2.
    x = torch.tensor([0.55] * 40 + [1.0, -0.1])
    assert params_of(x, bits=2, symmetric=True).scale == 1
    assert params_of(x, bits=2, symmetric=True, method="mse").scale.item() == pytest.approx(0.55)
    rows = torch.stack([x, torch.full((42,), 10.0), torch.zeros(42)])
    found = params_of(rows, bits=2, symmetric=True, axis=0, method="mse")
    assert found.scale.tolist() == pytest.approx([0.55, 10, 1])


def test_halves_go_to_the_even_step_before_the_zero_point_is_added():
    params = choose_params(-0.5, 127, symmetric=False)
    assert (params.scale.item(), params.zero_point.item()) == (0.5, 1)
    halves = torch.tensor([-0.25, 0.25, 0.75, 1.25])  # -0.5, 0.5, 1.5 and 2.5 steps
    assert quantize(halves, params).tolist() == [1, 1, 3, 3]


@pytest.mark.parametrize(("low", "high"), [(3, 5), (0, 5), (3.0, torch.tensor(5.0))])
def test_ranges_are_widened_to_hold_zero(low, high):
    params = choose_params(low, high, symmetric=False)
    assert params.scale.item() == np.float32(5 / 255)
    assert params.zero_point.item() == 0
    mirrored = choose_params(-high, -low, symmetric=False)
    assert (mirrored.scale.item(), mirrored.zero_point.item()) == (params.scale.item(), 255)


def test_symmetric_unsigned_integers_are_all_used_by_data_without_negative_numbers():
    params = choose_params(0, 51, symmetric=True, signed=False)
    assert params.scale.item() == np.float32(0.2)
    assert (params.zero_point.item(), params.low, params.high) == (0, 0, 255)


@pytest.mark.parametrize("symmetric", [True, False])
def test_zeros_get_the_scale_one(symmetric):
    for params in (choose_params(0, 0, symmetric=symmetric), params_of(torch.zeros(3), symmetric=symmetric)):
        assert (params.scale.item(), params.zero_point.item()) == (1, 0)
    two = params_of(torch.tensor([[0.0, 0], [-254, 254]]), symmetric=True, axis=0)
    assert two.scale.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("bits", "signed", "symmetric", "low", "high", "dtype"),
    [
        (2, True, True, -1, 1, torch.int8),
        (2, True, False, -2, 1, torch.int8),
        (2, False, True, 0, 3, torch.uint8),
        (4, True, True, -7, 7, torch.int8),
        (9, True, True, -255, 255, torch.int16),
        (9, False, False, 0, 511, torch.int32),
        (16, True, False, -32768, 32767, torch.int16),
        (16, False, False, 0, 65535, torch.int32),
    ],
)
def test_integers_of_every_width(bits, signed, symmetric, low, high, dtype):
    params = choose_params(0, 10, bits=bits, symmetric=symmetric, signed=signed)
    assert (params.low, params.high, params.dtype) == (low, high, dtype)
    q = quantize(torch.tensor([-math.inf, math.inf]), params)
    assert q.dtype == dtype
    assert q.tolist() == [low, high]


# ---- ONNX Runtime --------------------------------------------------------------------------------------------------


@given(data, st.sampled_from(list(TYPES)), st.booleans())
# The zero point comes from the scale before it is rounded to float32: 25541, not 25542.
@example(np.float32([-0.8398082852363586, 1.3149921894073486]), TensorProto.UINT16, False)
@settings(max_examples=300)
def test_scales_and_zero_points_are_those_of_onnx_runtime(values, kind, symmetric):
    _, bits, signed = TYPES[kind]
    if symmetric:  # its symmetric uint8 and int4 are others: see the two tests below
        kind, bits, signed = (TensorProto.INT8, 8, True) if bits == 8 else (TensorProto.INT16, 16, True)
    params = params_of(torch.from_numpy(values), bits=bits, symmetric=symmetric, signed=signed)
    zero_point, scale = compute_data_quant_params(values, kind, symmetric)
    assert params.scale.item() == scale
    assert params.zero_point.item() == zero_point


@given(data)
def test_symmetric_unsigned_is_its_asymmetric_where_nothing_is_negative(values):
    values = np.abs(values)
    params = params_of(torch.from_numpy(values), symmetric=True, signed=False)
    zero_point, scale = compute_data_quant_params(values, TensorProto.UINT8, False)
    assert (params.scale.item(), params.zero_point.item()) == (scale, zero_point)


def test_int8_symmetric_steps_are_a_127th_of_the_largest():
    weight = torch.randn(8, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    params = params_of(weight, symmetric=True, axis=0)
    largest = weight.abs().amax((1, 2, 3))
    assert torch.equal(params.scale, (largest.double() / 127).float())
    assert quantize(weight, params).abs().amax((1, 2, 3)).tolist() == [127] * 8


@functools.cache
def operator(name, kind, axis):
    """A session of one QuantizeLinear or DequantizeLinear node."""
    real, integer = (TensorProto.FLOAT, kind) if name == "QuantizeLinear" else (kind, TensorProto.FLOAT)
    inputs = [("x", real, ["a", "b"]), ("scale", TensorProto.FLOAT, None), ("zero_point", kind, None)]
    shape = [] if axis is None else ["c"]
    inputs = [helper.make_tensor_value_info(field, of, size or shape) for field, of, size in inputs]
    node = helper.make_node(name, ["x", "scale", "zero_point"], ["y"], axis=1 if axis is None else axis)
    graph = helper.make_graph([node], name, inputs, [helper.make_tensor_value_info("y", integer, ["a", "b"])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def theirs(name, kind, x, params):
    dtype = TYPES[kind][0]
    fields = {"x": x, "scale": params.scale.numpy(), "zero_point": params.zero_point.numpy().astype(dtype)}
    return operator(name, kind, params.axis).run(None, fields)[0]


@given(
    st.sampled_from(WIDE),
    st.sampled_from([None, 0, 1]),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.5, 1, 3]),
    st.sampled_from(["random", "halves"]),
)
@settings(max_examples=150)
def test_integers_and_reals_are_those_of_its_operators(kind, axis, seed, beyond, values):
    _, bits, signed = TYPES[kind]
    random = np.random.default_rng(seed)
    sizes = 2.0 ** random.integers(-20, 20, (5, 7))
    weight = torch.from_numpy((random.normal(0.3, 1, (5, 7)) * sizes).astype(np.float32))
    params = params_of(weight, bits=bits, symmetric=False, signed=signed, axis=axis)
    x = beyond * weight  # 3 is far outside the range
    if values == "halves":  # half a step apart from an integer, as well as float32 can say
        steps = torch.from_numpy(random.integers(-300, 300, (5, 7)) + 0.5)
        scale = params.scale.double()
        x = (steps * (scale if axis != 0 else scale[:, None])).float()
    q = quantize(x, params)
    expected = theirs("QuantizeLinear", kind, x.numpy(), params)
    assert np.array_equal(q.numpy(), expected.astype(q.numpy().dtype))
    back = theirs("DequantizeLinear", kind, expected, params)
    assert np.array_equal(dequantize(q, params).numpy(), back)


def test_symmetric_integers_are_its_too_but_for_the_lowest():
    values = torch.linspace(-200, 200, 4001).reshape(1, -1)
    params = choose_params(-127.0, 127.0, symmetric=True)
    expected = theirs("QuantizeLinear", TensorProto.INT8, values.numpy(), params)
    assert expected.min() == -128
    assert np.array_equal(quantize(values, params).numpy(), expected.clip(-127))
    assert dequantize(torch.from_numpy(expected), params).min() == -128  # the integers of others can be read


# ---- laws ----------------------------------------------------------------------------------------------------------


@given(data, settings_of_map)
def test_inside_the_range_the_error_is_at_most_half_a_step(values, options):
    x = torch.from_numpy(values)
    params = params_of(x, **options)
    error = (x.double() - fake_quantize(x, params).double()).abs()
    # Beside the half step, the roundings of x / scale and of its product with scale, in float32.
    assert (error <= params.scale.double() / 2 + 4 * 2.0**-23 * x.abs().double()).all()


@given(data, data, settings_of_map)
def test_what_is_quantized_stays_as_it_is(values, others, options):
    params = params_of(torch.from_numpy(values), **options)
    once = fake_quantize(torch.from_numpy(others), params)
    assert torch.equal(fake_quantize(once, params), once)
    assert torch.equal(once, dequantize(quantize(torch.from_numpy(others), params), params))


@given(data, settings_of_map)
def test_zero_is_exact_and_greater_stays_greater_or_equal(values, options):
    params = params_of(torch.from_numpy(values), **options)
    assert quantize(torch.zeros(1), params).item() == params.zero_point.item()
    assert fake_quantize(torch.zeros(1), params).item() == 0
    ends = torch.tensor([-math.inf, *np.sort(np.concatenate([values, 2 * values])), math.inf])
    q = quantize(ends, params).int()
    assert (q.diff() >= 0).all()
    assert (q[0], q[-1]) == (params.low, params.high)


@given(
    arrays.arrays(np.float32, arrays.array_shapes(min_dims=1, max_dims=4, max_side=4), elements=reals),
    settings_of_map,
    st.data(),
)
def test_a_channel_is_quantized_as_a_tensor_of_its_own(values, options, draw):
    x = torch.from_numpy(values)
    axis = draw.draw(st.integers(0, x.ndim - 1))
    params = params_of(x, **options, axis=axis)
    assert params.scale.shape == params.zero_point.shape == (x.shape[axis],)
    for channel in range(x.shape[axis]):
        piece = x.select(axis, channel)
        alone = params_of(piece, **options)
        assert torch.equal(alone.scale, params.scale[channel])
        assert torch.equal(alone.zero_point, params.zero_point[channel])
        for function in (quantize, fake_quantize):
            assert torch.equal(function(x, params).select(axis, channel), function(piece, alone))


@given(data, settings_of_map)
def test_in_range_is_what_is_not_clipped(values, options):
    x = torch.from_numpy(values)
    params = params_of(x / 3, **options)
    steps = (x / params.scale).round().double() + params.zero_point
    inside = in_range(x, params)
    assert torch.equal(inside, steps.clamp(params.low, params.high) == steps)
    assert torch.equal(inside & (quantize(x, params) != params.low), inside & (steps != params.low))
    assert inside[x == 0].all()
    assert in_range(x, params_of(x, **options)).all()


@given(
    st.integers(1, 4).flatmap(
        lambda rows: arrays.arrays(np.float32, (rows, 6), elements=st.floats(-8, 8, width=32))
    ),
    settings_of_map,
    st.sampled_from([None, 0, 1]),
)
def test_no_share_of_the_range_has_a_smaller_squared_error(values, options, axis):
    x = torch.from_numpy(values)
    found = params_of(x, **options, axis=axis, method="mse")
    whole = params_of(x, **options, axis=axis)

    def error(params):
        squares = (fake_quantize(x, params).double() - x.double()).square()
        return squares.sum() if axis is None else squares.sum(1 - axis)

    moved = x if axis != 1 else x.T
    low, high = (moved.amin(1), moved.amax(1)) if axis is not None else (x.min(), x.max())
    for part in range(4, 21):
        tried = choose_params(low * (part / 20), high * (part / 20), **options, axis=axis)
        assert (error(found) <= error(tried) * (1 + 1e-5)).all(), part
    assert ((found.scale <= whole.scale) | (found.scale == 1)).all()
    assert (found.bits, found.signed, found.axis, found.symmetric) == (
        *(whole.bits, whole.signed, whole.axis, whole.symmetric),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_count_as_the_float32_numbers_they_are(dtype):
    x = torch.randn(50, generator=torch.Generator().manual_seed(0)).to(dtype)
    params, same = params_of(x, symmetric=False), params_of(x.float(), symmetric=False)
    assert torch.equal(params.scale, same.scale)
    assert torch.equal(quantize(x, params), quantize(x.float(), same))
    assert fake_quantize(x, params).dtype == torch.float32


def test_arguments_stay_as_they_are_and_no_gradient_flows():
    weight = torch.nn.Parameter(torch.tensor([[1.0, -2], [3, 4]]))
    before = weight.detach().clone()
    params = params_of(weight, symmetric=True, axis=0)
    assert not params.scale.requires_grad
    assert not fake_quantize(weight, params).requires_grad
    quantize(weight, params)
    assert torch.equal(weight, before)


def test_scalars_and_empty_tensors_are_quantized_too():
    params = choose_params(-1.0, 1.0, symmetric=True)
    assert quantize(torch.tensor(1.0), params).item() == 127
    assert quantize(torch.zeros(0, 3), params).shape == (0, 3)
    assert dequantize(torch.zeros(0, 3, dtype=torch.int8), params).shape == (0, 3)


def test_the_extremes_of_float32_fit_in():
    largest = torch.finfo(torch.float32).max
    params = choose_params(-largest, largest, symmetric=False)
    assert params.scale.isfinite()
    assert quantize(torch.tensor([-largest, 0, largest]), params).tolist() == [0, 128, 255]
    assert choose_params(-1e-45, 1e-45, symmetric=True).scale.item() == 1


# ---- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("low", "high", "options", "error", "message"),
    [
        (1.0, -1.0, {}, ValueError, r"low is 1 and high -1; low must not lie above high"),
        (float("nan"), 1.0, {}, ValueError, "low is nan; it must be a finite number"),
        (0.0, float("inf"), {}, ValueError, "high is inf; it must be a finite number"),
        (0.0, 1e39, {}, ValueError, r"high is 1e\+39; the ends of a range must be finite float32 numbers"),
        (0.0, torch.tensor(torch.inf), {}, ValueError, "high is inf; the ends"),
        ("0", 1.0, {}, TypeError, "low is '0' .*it must be a number"),
        (torch.tensor(0), 1.0, {}, TypeError, "low has dtype torch.int64; it must be floating point"),
        (torch.zeros(2), torch.ones(3), {"axis": 0}, ValueError, r"low has shape \[2\] and high \[3\]"),
        (
            torch.zeros(2),
            torch.ones(2),
            {},
            ValueError,
            r"shape \[2\] and axis is None; say with axis which axis",
        ),
        (0.0, 1.0, {"axis": 0}, ValueError, r"shape \[\] and axis is 0; .*leave it out"),
        (torch.zeros(2, 2), torch.ones(2, 2), {"axis": 0}, ValueError, r"it must be \[\], or \[C\]"),
        (torch.zeros(0), torch.zeros(0), {"axis": 0}, ValueError, r"C at least 1"),
        (torch.zeros(2), torch.ones(2), {"axis": -1}, ValueError, "axis is -1; it must be at least 0"),
        (torch.zeros(2), torch.ones(2), {"axis": 0.0}, TypeError, "axis is 0.0"),
        (-1.0, 1.0, {"bits": 1}, ValueError, "bits is 1; it must be from 2 to 16"),
        (-1.0, 1.0, {"bits": 17}, ValueError, "bits is 17; it must be from 2 to 16"),
        (-1.0, 1.0, {"bits": 8.0}, TypeError, "bits is 8.0"),
        (-1.0, 1.0, {"symmetric": 1}, TypeError, "symmetric is 1 .*True or False"),
        (-1.0, 1.0, {"signed": "int8"}, TypeError, "signed is 'int8' .*True or False"),
        (
            -1.0,
            1.0,
            {"signed": False},
            ValueError,
            "low is -1, but symmetric unsigned integers hold no negative",
        ),
    ],
)
def test_ranges_that_make_no_sense_are_refused(low, high, options, error, message):
    with pytest.raises(error, match=message):
        choose_params(low, high, **({"symmetric": True} | options))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("x", "options", "error", "message"),
    [
        ([1.0], {}, TypeError, "x is a list; it must be a torch.Tensor"),
        (torch.ones(2, dtype=torch.int64), {}, TypeError, "x has dtype torch.int64; .*float"),
        (torch.zeros(0, 3), {}, ValueError, r"x has shape \[0, 3\], without a value"),
        (torch.tensor([1, torch.nan]), {}, ValueError, "x holds NaN; .*diverged"),
        (torch.tensor([1, -torch.inf]), {}, ValueError, "x holds infinity"),
        (torch.ones(2, 3), {"axis": 2}, ValueError, r"axis is 2, but x has shape \[2, 3\]"),
        (torch.tensor(1.0), {"axis": 0}, ValueError, r"axis is 0, but x has shape \[\]"),
        (torch.ones(2), {"axis": "0"}, TypeError, "axis is '0'"),
        (torch.ones(2), {"method": "entropy"}, ValueError, "unknown method 'entropy'.*Known: max, mse"),
    ],
)
def test_tensors_without_a_range_are_refused(x, options, error, message):
    with pytest.raises(error, match=message):
        params_of(x, symmetric=True, **options)


@pytest.mark.bad_input
def test_tensors_that_the_parameters_are_not_for_are_refused():
    params = choose_params(-1.0, 1.0, symmetric=True)
    for function in (quantize, fake_quantize, in_range):
        with pytest.raises(ValueError, match="x holds NaN, which no integer stands for"):
            function(torch.tensor([0, torch.nan]), params)
        with pytest.raises(TypeError, match=r"x has dtype torch\.int8; it must be floating point"):
            function(torch.ones(2, dtype=torch.int8), params)
        with pytest.raises(TypeError, match=r"params is a float; it must be QuantParams\. choose_params\(\)"):
            function(torch.ones(2), 0.1)
    with pytest.raises(TypeError, match=r"q has dtype torch\.float32; it must be a tensor of integers"):
        dequantize(torch.ones(2), params)
    with pytest.raises(TypeError, match=r"q has dtype torch\.bool"):
        dequantize(torch.ones(2, dtype=torch.bool), params)
    with pytest.raises(TypeError, match="q is a list"):
        dequantize([1], params)
    with pytest.raises(ValueError, match=r"q runs from 0 to 200, but signed .* 8 bits lie in \[-128, 127\]"):
        dequantize(torch.tensor([0, 200]), params)
    with pytest.raises(ValueError, match=r"q runs from -1 to 3, but unsigned .* 8 bits lie in \[0, 255\]"):
        dequantize(torch.tensor([-1, 3]), choose_params(0.0, 1.0, symmetric=False))
    channels = per_channel([0.5, 1.0], [0, 0], axis=1)
    for x in (torch.ones(3, 4), torch.ones(2)):
        with pytest.raises(ValueError, match=r"x has shape .*the parameters are for 2 channels along axis 1"):
            quantize(x, channels)
    with pytest.raises(ValueError, match=r"q has shape \[3, 4\]"):
        dequantize(torch.ones(3, 4, dtype=torch.int8), channels)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"scale": 0.5}, TypeError, "scale has type float; .*choose_params"),
        ({"scale": torch.tensor(0.5).double()}, TypeError, r"scale has dtype torch\.float64"),
        ({"zero_point": torch.tensor(0)}, TypeError, r"zero_point has dtype torch\.int64"),
        ({"scale": torch.tensor(0.0)}, ValueError, "scale is 0; every scale must be finite and above 0"),
        ({"scale": torch.tensor(torch.nan)}, ValueError, "scale is nan"),
        ({"scale": torch.tensor(torch.inf)}, ValueError, "scale is inf"),
        ({"scale": torch.ones(2), "axis": 0}, ValueError, r"zero_point has shape \[\].* and scale \[2\]"),
        ({"scale": torch.ones(1)}, ValueError, r"shape \[1\] and axis is None"),
        (
            {"zero_point": torch.tensor(128).int()},
            ValueError,
            r"zero_point is 128; .*lie in \[-128, 127\]",
        ),
        (
            {"zero_point": torch.tensor(3).int(), "symmetric": True},
            ValueError,
            "a symmetric map has the zero point 0",
        ),
        ({"bits": 32}, ValueError, "bits is 32"),
        ({"signed": 1}, TypeError, "signed is 1"),
        ({"symmetric": None}, TypeError, "symmetric is None"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(fields, error, message):
    right = {"scale": torch.tensor(0.5), "zero_point": torch.tensor(0).int(), "bits": 8, "signed": True}
    QuantParams(**right)
    with pytest.raises(error, match=message):
        QuantParams(**(right | fields))
    five = torch.tensor([1.0, -2, 3, 4, 5])
    with pytest.raises(ValueError, match=r"scale is \[1, -2, 3, 4, \.\.\.\]; every"):
        QuantParams(five, torch.zeros(5).int(), 8, True, 0)
