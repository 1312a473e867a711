"""Kernels of integer networks: they give what `integer` gives, to the bit, for every input that they take."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib.quantization import _kernels
from course_lib.quantization.affine import QuantParams
from course_lib.quantization.steps import Step, execute
from course_lib.quantization.workflow import calibrate, collect, quantize_model, to_integer
from tests.quantization.networks import NETWORKS, network, quantized, traces

pytestmark = pytest.mark.skipif(
    not _kernels.exact(), reason="this processor or PyTorch does not add 8-bit products exactly"
)

ENDS = st.sampled_from([0, 1, 128, 254, 255]) | st.integers(0, 255)
BIASES = st.sampled_from([0, 1, 2**10, 2**20, 2**24, 2**31 - 2**20])


def uint8(scale, zero_point, bits=8):
    return QuantParams(torch.tensor(scale), torch.tensor(zero_point).int(), bits, signed=False)


def int8(scales):
    zeros = torch.zeros(len(scales), dtype=torch.int32)
    return QuantParams(torch.tensor(scales), zeros, 8, signed=True, axis=0, symmetric=True)


def integers_of(shape, low, high, dtype, generator, *, extreme):
    """Integers of a range; with `extreme` only its ends, mostly the upper one."""
    if extreme:
        return torch.where(torch.rand(shape, generator=generator) < 0.1, low, high).to(dtype)
    return torch.randint(low, high + 1, shape, generator=generator).to(dtype)


def kernel(step, *weights, params):
    """The kernel of one step; what it is built from has been checked by `integer` before."""
    return _kernels._BUILDERS[step.operation](step, *weights, params=params)


@st.composite
def layers(draw):
    """A layer, what it reads and its parameters: zero points at the ends, sums that saturate, biases of any size."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    extreme, kind = draw(st.booleans()), draw(st.sampled_from(["conv2d", "1x1", "linear"]))
    groups = 1 if kind != "conv2d" else draw(st.sampled_from([1, 2, 8]))
    inputs = groups * draw(st.integers(1, 3)) if groups > 1 else draw(st.sampled_from([1, 3, 16, 300]))
    outputs = groups * draw(st.integers(1, 5))
    size = draw(st.tuples(st.integers(1, 3), st.integers(1, 3))) if kind == "conv2d" else (1, 1)
    options = {}
    if kind == "conv2d":
        options = {"padding": draw(st.integers(0, 2)), "dilation": draw(st.integers(1, 2)), "groups": groups}
    if kind != "linear":
        options["stride"] = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    linear = kind == "linear"
    x_params = uint8(1.0, draw(ENDS))
    x = integers_of(
        (3, inputs) if linear else (3, inputs, 6, 5), 0, 255, torch.uint8, generator, extreme=extreme
    )
    shape = (outputs, inputs) if linear else (outputs, inputs // groups, *size)
    weight = integers_of(shape, -127, 127, torch.int8, generator, extreme=extreme)
    bias = draw(BIASES)
    bias = integers_of((outputs,), -bias, bias, torch.int32, generator, extreme=extreme) if bias else None
    # From outputs that nearly all saturate to some that are all the zero point.
    weight_params = int8([2.0 ** draw(st.floats(-26, 0, width=32)) for _ in range(outputs)])
    relu = draw(st.sampled_from([None, float("inf"), 6.0]))
    step = Step("y", "linear" if linear else "conv2d", ("x",), "y", "y", relu=relu, options=options)
    return step, x, weight, bias, (x_params, weight_params, uint8(1.0, draw(ENDS)))


def outcome(function, x):
    """The integers as a list, or the words of the error: a sum may lie beyond int32."""
    try:
        return function(x).tolist()
    except ValueError as error:
        return str(error)


@given(layers())
@settings(max_examples=100)
def test_layers_give_the_integers_of_the_checked_functions(layer):
    step, x, weight, bias, params = layer
    found = kernel(step, weight, bias, params=params)
    if found is None:
        return  # test_what_has_no_kernel says which
    expected = outcome(lambda x: step.on_integers(x, weight, bias, params=params), x)
    for values in (x, x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x):
        assert outcome(found, values) == expected


@pytest.mark.parametrize(("channels", "size", "groups"), [(512, 3, 1), (3000, 1, 1), (64, 3, 64), (3, 7, 1)])
@pytest.mark.parametrize("zero_point", [0, 254, 255])
def test_the_largest_sums_are_exact(channels, size, groups, zero_point):
    """Before the zero point is taken off they are as large as they can be; float32 does not hold most of those."""
    generator = torch.Generator().manual_seed(0)
    x = integers_of((1, channels, 8, 8), 254, 255, torch.uint8, generator, extreme=True)
    shape = (max(groups, 8), channels // groups, size, size)
    weight = integers_of(shape, 126, 127, torch.int8, generator, extreme=True)
    bias, pads = torch.zeros(len(weight)), [size // 2, size // 2]
    found = _kernels._convolution(weight, bias, zero_point, [1, 1], pads, [1, 1], groups)(x)
    exact = F.conv2d(x.double() - zero_point, weight.double(), bias.double(), 1, pads, 1, groups)
    assert torch.equal(found, exact.float())


def test_a_bias_that_float32_does_not_hold_is_added_in_one_rounding():
    """Sums of 2^24 and more, beside a half of the output's steps: their last bit, or its rounding, decides."""
    halves = (torch.arange(64, 127).double() + 0.5) * 2**18
    bias = (halves[:, None] + torch.arange(-3, 4)).flatten().int()
    weight = torch.ones(len(bias), 1, 2, 2, dtype=torch.int8)
    x = torch.arange(64, dtype=torch.uint8).remainder(3).reshape(16, 1, 2, 2)
    step = Step("y", "conv2d", ("x",), "y", "y")
    params = uint8(1.0, 0), int8([2.0**-18] * len(bias)), uint8(1.0, 3)
    found = kernel(step, weight, bias, params=params)
    assert torch.equal(found(x), step.on_integers(x, weight, bias, params=params))


@given(
    st.lists(ENDS, min_size=3, max_size=3), st.lists(st.floats(2**-6, 4, width=32), min_size=3, max_size=3)
)
@settings(max_examples=20)
def test_operations_without_weights_give_the_integers_of_the_checked_functions(zero_points, scales):
    generator = torch.Generator().manual_seed(zero_points[0])
    x, other = (integers_of((2, 3, 9, 6), 0, 255, torch.uint8, generator, extreme=False) for _ in range(2))
    a, b, y = (uint8(scale, zero) for scale, zero in zip(scales, zero_points, strict=True))
    pool = {"kernel_size": 3, "stride": (2, 1), "padding": (1, 0)}
    for step, inputs, params in (
        (Step("y", "add", ("a", "b"), "y", relu=6.0), (x, other), (a, b, y)),
        (
            Step("y", "add", ("a", "b"), "y"),
            (x, other.contiguous(memory_format=torch.channels_last)),
            (a, b, y),
        ),
        (Step("y", "relu", ("a",), "a", options={"high": 2.0}), (x,), (a, a)),
        (Step("y", "mean", ("a",), "y", relu=float("inf")), (x,), (a, y)),
        (Step("y", "max_pool2d", ("a",), "a", options=pool), (x,), (a, a)),
        (Step("y", "max_pool2d", ("a",), "a", options={"kernel_size": 2}), (x,), (a, a)),
        (Step("y", "flatten", ("a",), "a"), (x,), (a, a)),
    ):
        found = kernel(step, params=params)
        for layout in (torch.contiguous_format, torch.channels_last):
            values = [value.contiguous(memory_format=layout) for value in inputs]
            assert torch.equal(found(*values), step.on_integers(*inputs, params=params)), step.operation


@traces
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("bits", [8, 3])
def test_networks_give_the_logits_of_the_checked_functions(name, bits):
    images = network(name)[1].float() / 255
    integers = to_integer(quantized(name, activation_bits=bits, weight_bits=bits))
    expected = integers._as_real(execute(integers.steps, integers.compute, images), "logits")
    assert torch.equal(integers(images), expected)
    assert torch.equal(integers(images.contiguous(memory_format=torch.channels_last)), expected)
    without = {step.operation for step in integers.steps if integers._kernels._made[step.name] is None}
    assert without <= {"avg_pool2d"}  # else the network computes as slowly as before


@traces
def test_kernels_follow_the_network():
    images = network("vgg")[1].float() / 255
    integers = to_integer(quantized("vgg"))
    before = integers(images)
    other = copy.deepcopy(integers)
    for place in (0, 4):
        other.network[place].weight.neg_()
    for change in (
        lambda net: net.network[0].weight.neg_(),
        lambda net: net.load_state_dict(other.state_dict()),
        lambda net: net.load_state_dict(other.state_dict(), assign=True),
        lambda net: net.network.set_submodule("4", copy.deepcopy(other.network[4])),
        lambda net: setattr(net.network[4], "weight", copy.deepcopy(other.network[4].weight)),
        lambda net: net.network[4].bias.add_(2000),
        lambda net: net.activations.update(logits=uint8(0.5, 3)),
    ):
        net = copy.deepcopy(integers)
        assert torch.equal(net(images), before)
        change(net)
        expected = net._as_real(execute(net.steps, net.compute, images), "logits")
        assert not torch.equal(expected, before)
        assert torch.equal(net(images), expected)


@traces
def test_a_kernel_that_computes_something_else_is_not_used(monkeypatch):
    right = _kernels._BUILDERS["conv2d"]

    def wrong_for_small_images(step, *weights, params):
        kernel = right(step, *weights, params=params)
        return lambda x: kernel(x) + (x.shape[2] < 12)

    monkeypatch.setattr(_kernels, "_BUILDERS", {**_kernels._BUILDERS, "conv2d": wrong_for_small_images})
    integers, images = to_integer(quantized("vgg")), network("vgg")[1].float() / 255
    for part in (images, images[..., :10, :10]):
        expected = integers._as_real(execute(integers.steps, integers.compute, part), "logits")
        assert torch.equal(integers(part), expected)


@traces
def test_checks_go_on():
    images = network("vgg")[1].float() / 255
    integers = to_integer(quantized("vgg"))
    integers(images)
    wrong = images.clone()
    wrong[7, 0, 3, 3] = torch.nan
    with pytest.raises(ValueError, match="x holds NaN"):
        integers(wrong)
    with pytest.raises(ValueError, match="'0': x has shape"):
        integers(images[:, :2])
    with pytest.raises(ValueError, match="must have"):
        integers(images[:0])
    integers.network[0].weight[0, 0, 0, 0] = -128  # which symmetric weights of others may use
    integers(images)
    low = to_integer(quantized("vgg", weight_bits=4))
    low.network[0].weight[0, 0, 0, 0] = 100
    with pytest.raises(ValueError, match="'0': weight runs from"):
        low(images)


@pytest.mark.parametrize("shape", [(1, 2), (1, 2, 1, 1), (1, 2, 2, 1)])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_sum_beyond_int32_is_refused_and_one_at_its_end_is_not(shape, sign):
    weight, bias = torch.full(shape, sign, dtype=torch.int8), torch.tensor([sign * (2**31 - 2)]).int()
    step = Step("y", "conv2d" if len(shape) == 4 else "linear", ("x",), "y", "layer")
    params = uint8(1.0, 0), int8([2.0**-24]), uint8(1.0, 100)
    found = kernel(step, weight, bias, params=params)
    x = torch.zeros(1, *shape[1:], dtype=torch.uint8)
    assert torch.equal(found(x), step.on_integers(x, weight, bias, params=params))
    x[0, 0], x[0, 1] = 1, 2
    with pytest.raises(ValueError, match="beyond the int32 accumulator"):
        found(x)


def test_what_has_no_kernel():
    weight = torch.ones(1, 2, 3, 3, dtype=torch.int8)
    step = Step("y", "conv2d", ("x",), "y", "y")
    params = uint8(1.0, 0), int8([2.0**-20]), uint8(1.0, 0)
    assert kernel(step, weight, None, params=params) is not None
    shifted = QuantParams(torch.tensor(1.0), torch.tensor(1).int(), 8, signed=True)
    assert kernel(step, weight, None, params=(params[0], shifted, params[2])) is None
    # Sums beyond 2^24 that the output shows, and those that it does not; and sums that int32 cannot hold.
    large, scales = torch.full((1, 1000, 3, 3), 127, dtype=torch.int8), (params[0], params[2])
    assert kernel(step, large, None, params=(scales[0], int8([2.0**-20]), scales[1])) is None
    assert kernel(step, large, None, params=(scales[0], int8([2.0**-15]), scales[1])) is not None
    larger = large.repeat(1, 5, 1, 1)
    assert kernel(step, larger, None, params=(scales[0], int8([2.0**-15]), scales[1])) is None


@traces
def test_processors_that_are_not_exact_take_the_checked_functions(monkeypatch):
    images = network("resnet")[1].float() / 255
    integers = to_integer(quantized("resnet"))
    expected = integers(images)
    calls = []
    monkeypatch.setattr(_kernels, "exact", lambda: False)
    monkeypatch.setattr(_kernels, "_kernel", lambda *given: calls.append(given))
    assert torch.equal(to_integer(quantized("resnet"))(images), expected)
    assert not calls


def test_what_saturates_in_int16_is_not_exact(monkeypatch):
    """An int16 sum of two products, as x86 has it without VNNI, cannot hold 2 * 255 * 127."""

    def saturating(x, matrix):
        pairs = x.int().unsqueeze(2) * matrix.int()
        pairs = pairs.unflatten(1, (-1, 2)).sum(2).clamp(-(2**15), 2**15 - 1)
        return pairs.sum(1)

    monkeypatch.setattr(torch, "_int_mm", saturating)
    assert not _kernels.exact.__wrapped__()


def test_a_network_made_in_inference_mode_runs_too():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    images = torch.rand(3, 1, 2, 2)
    simulated = quantize_model(model, calibrate(collect(model, images)))
    with torch.inference_mode():
        inside = to_integer(simulated)
    assert torch.equal(inside(images), to_integer(simulated)(images))


WRONG_IN_ONEDNN = [  # [C, H, W], kernel and options: results one value wide, and windows that see padding alone
    ((1, 32, 2), (6, 1, 3, 3), {"stride": (1, 2), "padding": 1}),
    ((1, 32, 3), (6, 1, 3, 3), {"stride": (1, 2)}),
    ((4, 32, 3), (16, 1, 2, 5), {"stride": (1, 3), "padding": (0, 1), "groups": 4}),
    ((3, 9, 2), (24, 3, 3, 2), {"stride": (2, 1), "padding": (1, 1), "dilation": (1, 3)}),
    ((8, 16, 7), (16, 1, 2, 3), {"padding": (2, 1), "groups": 8}),
    ((8, 5, 7), (24, 1, 2, 1), {"stride": (3, 2), "padding": (2, 1), "groups": 8}),
    ((4, 2, 3), (24, 1, 2, 2), {"stride": (1, 2), "padding": (1, 0), "dilation": (3, 1), "groups": 4}),
]


@pytest.mark.parametrize(("shape", "weight", "options"), WRONG_IN_ONEDNN)
def test_convolutions_of_which_onednn_gives_wrong_sums(shape, weight, options):
    generator = torch.Generator().manual_seed(0)
    weight = integers_of(weight, -127, 127, torch.int8, generator, extreme=False)
    images = integers_of((10, *shape), 0, 255, torch.uint8, generator, extreme=False)
    params = uint8(0.5, 7), int8([0.01] * len(weight)), uint8(2.0, 120)
    step = Step("y", "conv2d", ("x",), "y", "layer", options=options)
    compute = kernel(step, weight, None, params=params)
    expected = step.on_integers(images, weight, None, params=params)
    assert compute is None or torch.equal(compute(images), expected)
