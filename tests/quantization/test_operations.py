"""Each row of the table: its numbers, its integers, its range, and every way in which networks spell it."""

import copy
import math
import operator
import textwrap

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_lib.data import to_float
from course_lib.quantization import affine, onnx, operations
from course_lib.quantization.operations import BATCH, OPERATIONS, Refused
from course_lib.quantization.steps import Step, execute
from course_lib.quantization.translate import translate
from course_lib.quantization.workflow import calibrate, collect, quantize_model, to_integer
from tests.quantization import shape_calls
from tests.quantization.networks import Body, check_that_both_forms_agree, seeded, traces

IMAGES = torch.randint(0, 256, (6, 3, 11, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def conv(**options):
    return nn.Conv2d(4, 8, (3, 2), **options)


def factors(y):
    """One number for each channel, [N, C]."""
    return y.mean((2, 3), keepdim=True).view(y.size(0), -1)


def window(kernel_size, stride, padding):
    return {"kernel_size": kernel_size, "stride": stride, "padding": padding}


def convolution(stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    return {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}


torch.manual_seed(0)  # the layers below have weights at random
# (operation, spelling, function of the network and of what its first convolution gives, options, layers)
CALLS = [
    (
        "conv2d",
        nn.Conv2d,
        lambda m, y: m.layer(y),
        convolution((2, 1), (1, 0), (1, 3), 2),
        {"layer": conv(stride=(2, 1), padding=(1, 0), dilation=(1, 3), groups=2)},
    ),
    (
        "conv2d",
        nn.Conv2d,
        lambda m, y: m.layer(y),
        convolution(padding=(2, 1), dilation=(2, 2)),
        {"layer": conv(padding="same", dilation=2)},
    ),
    ("conv2d", nn.Conv2d, lambda m, y: m.layer(y), convolution(), {"layer": conv(padding="valid")}),
    ("linear", nn.Linear, lambda m, y: m.layer(y.flatten(1)), {}, {"layer": nn.Linear(4 * 9 * 8, 5)}),
    ("linear", nn.Linear, lambda m, y: m.layer(y.flatten(1)), {}, {"layer": nn.Linear(288, 5, bias=False)}),
    ("add", operator.add, lambda m, y: y + m.other(y), {}, {"other": nn.Conv2d(4, 4, 1)}),
    ("add", torch.add, lambda m, y: torch.add(y, other=m.other(y)), {}, {"other": nn.Conv2d(4, 4, 1)}),
    ("add", "add", lambda m, y: y.add(m.other(y)), {}, {"other": nn.Conv2d(4, 4, 1)}),
    ("add", "add_", lambda m, y: m.other(y).add_(y), {}, {"other": nn.Conv2d(4, 4, 1)}),
    ("mean", nn.AdaptiveAvgPool2d, lambda m, y: m.layer(y), {}, {"layer": nn.AdaptiveAvgPool2d([1, 1])}),
    ("mean", F.adaptive_avg_pool2d, lambda m, y: F.adaptive_avg_pool2d(y, output_size=1), {}, {}),
    ("mean", torch.mean, lambda m, y: torch.mean(y, (-1, 2), keepdim=True), {}, {}),
    ("mean", torch.mean, lambda m, y: torch.mean(y, dim=[2, 3]), {}, {}),
    ("mean", "mean", lambda m, y: y.mean((3, 2), True), {}, {}),
    ("mean", "mean", lambda m, y: y.mean((2, -1)), {}, {}),
    (
        "avg_pool2d",
        nn.AvgPool2d,
        lambda m, y: m.layer(y),
        window((3, 2), (2, 1), (1, 0)),
        {"layer": nn.AvgPool2d((3, 2), (2, 1), (1, 0))},
    ),
    (
        "avg_pool2d",
        nn.AvgPool2d,
        lambda m, y: m.layer(y),
        window(3, 3, 0),
        {"layer": nn.AvgPool2d(3, count_include_pad=False)},
    ),
    ("avg_pool2d", F.avg_pool2d, lambda m, y: F.avg_pool2d(y, 3, padding=1), window(3, 3, 1), {}),
    ("avg_pool2d", F.avg_pool2d, lambda m, y: F.avg_pool2d(y, [2, 3], 1), window((2, 3), 1, 0), {}),
    (
        "max_pool2d",
        nn.MaxPool2d,
        lambda m, y: m.layer(y),
        window((3, 2), (2, 1), (1, 0)),
        {"layer": nn.MaxPool2d((3, 2), (2, 1), (1, 0))},
    ),
    ("max_pool2d", F.max_pool2d, lambda m, y: F.max_pool2d(y, 3, padding=1), window(3, 3, 1), {}),
    ("max_pool2d", F.max_pool2d, lambda m, y: F.max_pool2d(y, [2, 3], 1), window((2, 3), 1, 0), {}),
    ("relu", nn.ReLU, lambda m, y: y + m.layer(y), math.inf, {"layer": nn.ReLU()}),
    ("relu", nn.ReLU6, lambda m, y: y + m.layer(y), 6.0, {"layer": nn.ReLU6()}),
    ("relu", F.relu, lambda m, y: y + F.relu(y, inplace=False), math.inf, {}),
    ("relu", F.relu6, lambda m, y: y + F.relu6(y), 6.0, {}),
    ("relu", torch.relu, lambda m, y: y + torch.relu(y), math.inf, {}),
    ("relu", torch.relu_, lambda m, y: y + torch.relu_(F.avg_pool2d(y, 1)), math.inf, {}),
    ("relu", "relu", lambda m, y: y + y.relu(), math.inf, {}),
    ("relu", "relu_", lambda m, y: y + F.avg_pool2d(y, 1).relu_(), math.inf, {}),
    ("flatten", nn.Flatten, lambda m, y: m.layer(y), {}, {"layer": nn.Flatten()}),
    ("flatten", torch.flatten, lambda m, y: torch.flatten(y, 1), {}, {}),
    ("flatten", torch.reshape, lambda m, y: torch.reshape(y, (y.shape[0], -1)), {}, {}),
    ("flatten", "flatten", lambda m, y: y.flatten(start_dim=1), {}, {}),
    ("flatten", "view", lambda m, y: y.view(y.size(0), 4 * 9 * 8), {}, {}),
    ("flatten", "view", lambda m, y: y.view(-1, 4 * 9 * 8), {}, {}),
    ("flatten", "reshape", lambda m, y: y.reshape([y.size()[0], -1]), {}, {}),
]
CALLS += [
    *[("sub", operator.sub, lambda m, y: y - m.other(y), {}, {"other": nn.Conv2d(4, 4, 1)})],
    *[("sub", f, lambda m, y, f=f: f(y, other=m.other(y)), {}, {"other": nn.Conv2d(4, 4, 1)}) for f in (
        torch.sub, torch.subtract)],
    ("sub", "sub", lambda m, y: m.other(y).sub(y), {}, {"other": nn.Conv2d(4, 4, 1)}),
    ("sub", "sub_", lambda m, y: m.other(y).sub_(y), {}, {"other": nn.Conv2d(4, 4, 1)}),
    ("mul", operator.mul, lambda m, y: y.mean((2, 3), True) * m.other(y), {}, {"other": nn.Conv2d(4, 4, 1)}),
    *[("mul", f, lambda m, y, f=f: f(y, other=m.other(y)), {}, {"other": nn.Conv2d(4, 4, 1)}) for f in (
        torch.mul, torch.multiply)],
    ("mul", "mul", lambda m, y: y.mul(m.other(y)), {}, {"other": nn.Conv2d(4, 4, 1)}),
    ("mul", "mul_", lambda m, y: m.other(y).mul_(y), {}, {"other": nn.Conv2d(4, 4, 1)}),
    *[("sigmoid", kind, lambda m, y: m.layer(y), {}, {"layer": kind()}) for kind in (nn.Sigmoid, nn.SiLU)],
    *[("sigmoid", f, lambda m, y, f=f: f(F.avg_pool2d(y, 1)), {}, {}) for f in (
        torch.sigmoid, torch.sigmoid_, F.silu)],
    ("sigmoid", "sigmoid", lambda m, y: y.sigmoid(), {}, {}),
    ("sigmoid", "sigmoid_", lambda m, y: F.avg_pool2d(y, 1).sigmoid_(), {}, {}),
    *[("hardsigmoid", kind, lambda m, y: m.layer(y), {}, {"layer": kind()}) for kind in (
        nn.Hardsigmoid, nn.Hardswish)],
    *[("hardsigmoid", f, lambda m, y, f=f: f(y, inplace=False), {}, {}) for f in (F.hardsigmoid, F.hardswish)],
    ("tanh", nn.Tanh, lambda m, y: m.layer(y), {}, {"layer": nn.Tanh()}),
    *[("tanh", f, lambda m, y, f=f: f(F.avg_pool2d(y, 1)), {}, {}) for f in (torch.tanh, torch.tanh_)],
    ("tanh", "tanh", lambda m, y: y.tanh(), {}, {}),
    ("tanh", "tanh_", lambda m, y: F.avg_pool2d(y, 1).tanh_(), {}, {}),
    ("leaky_relu", nn.LeakyReLU, lambda m, y: m.layer(y), {"negative_slope": 0.2}, {"layer": nn.LeakyReLU(0.2)}),
    ("leaky_relu", F.leaky_relu, lambda m, y: F.leaky_relu(y), {"negative_slope": 0.01}, {}),
    ("elu", nn.ELU, lambda m, y: m.layer(y), {"alpha": 2.0}, {"layer": nn.ELU(2.0)}),
    ("elu", F.elu, lambda m, y: F.elu(y, 0.5), {"alpha": 0.5}, {}),
    ("gelu", nn.GELU, lambda m, y: m.layer(y), {"approximate": "tanh"}, {"layer": nn.GELU("tanh")}),
    *[("unsqueeze", target, body, {"dims": dims}, {}) for target, dims, body in [
        ("unsqueeze", (-1,), lambda m, y: y.unsqueeze(-1).flatten(1)),
        (torch.unsqueeze, (2,), lambda m, y: torch.unsqueeze(y, dim=2).flatten(1)),
        (None, (2, 3), lambda m, y: y - factors(y)[:, :, None, None]),
    ]],
    *[("expand_as", "expand_as", lambda m, y, r=r: r(factors(y), y).expand_as(y) * y, {}, {}) for r in (
        lambda f, y: f.view(y.size(0), y.size(1), 1, 1),
        lambda f, y: f.reshape((y.shape[:2][0], 4, 1, 1)),
        lambda f, y: f.view(-1, y.shape[1], 1, 1),
        lambda f, y: f.view(y.shape[0], -1, 1, 1),
        lambda f, y: torch.reshape(f, [y.size(0), 4, 1, 1]),
    )],
    ("flatten", "view", lambda m, y: y.mean((2, 3), True).view(y.size(0), y.size(1)), {}, {}),
    ("gelu", F.gelu, lambda m, y: F.gelu(y), {"approximate": "none"}, {}),
]  # fmt: skip
CALLS += shape_calls.CALLS
TRIED = [call[:2] for call in (*CALLS, *shape_calls.SEQUENCES)] + [
    ("part", call[0]) for call in shape_calls.PARTS
]
SPELLINGS = {name: {target for row, target in TRIED if row == name} - {None} for name in OPERATIONS}


def built(body, layers):
    """A convolution of large numbers, and the body on what it gives."""
    model = seeded(Body, lambda m, x: body(m, m.conv(x)), **copy.deepcopy(layers))
    with torch.no_grad():
        model.conv.weight.mul_(20)
    return model


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_spelling_of_the_table_is_tried_here_and_every_one_tried_is_in_it(name):
    assert set(OPERATIONS[name].spelled) == SPELLINGS[name]


@traces
@pytest.mark.parametrize(
    ("name", "target", "body", "options", "layers"),
    CALLS,
    ids=[f"{name}-{getattr(target, '__name__', target)}-{k}" for k, (name, target, *_) in enumerate(CALLS)],
)
def test_a_call_becomes_its_step_and_computes_the_same_in_all_forms(name, target, body, options, layers):
    model = built(body, layers)
    steps = translate(model)
    called = [step for step in steps if step.operation == name and step.name not in ("conv", "other")]
    assert len(called) == (2 if name == "add" and len(steps) > 5 else 1)
    assert called[-1].options == ({"high": options} if name == "relu" else options)
    with torch.no_grad():
        expected = model(to_float(IMAGES))
        found = execute(steps, lambda step, *x: step.on_numbers(*x, *step.weights(model)), to_float(IMAGES))
        torch.testing.assert_close(found, expected)
    ranges = calibrate(collect(model, IMAGES))
    simulated = quantize_model(model, ranges)
    check_that_both_forms_agree(simulated, to_float(IMAGES))
    size = expected.abs().max()
    share = 0.1 if name == "tanh" else 0.03  # half a step of the large input, and the slope of tanh is 1 at 0
    with torch.no_grad():
        for net in (simulated, to_integer(simulated)):
            assert (net(to_float(IMAGES)) - expected).abs().max() < share * size


TENSORS = {  # what the tensors behind an operation are called, where another layer follows
    "conv2d": (lambda m, y: m.layer(y), ["images", "conv", "layer", "logits"]),
    "linear": (lambda m, y: m.layer(y.flatten(1)), ["images", "conv", "layer", "logits"]),
    "flatten": (lambda m, y: y.flatten(1), ["images", "conv", "logits"]),
    "add": (lambda m, y: y + m.layer(y), ["images", "conv", "layer", "add", "logits"]),
    "sub": (lambda m, y: y - m.layer(y), ["images", "conv", "layer", "sub", "logits"]),
    "mul": (lambda m, y: y * m.layer(y), ["images", "conv", "layer", "mul", "logits"]),
    **{
        name: (lambda m, y, name=name: getattr(F, name)(y), ["images", "conv", name, "logits"])
        for name in ("sigmoid", "hardsigmoid", "tanh", "leaky_relu", "elu", "gelu")
    },
    "silu": (lambda m, y: F.silu(y), ["images", "conv", "sigmoid", "mul", "logits"]),
    "hardswish": (lambda m, y: F.hardswish(y), ["images", "conv", "hardsigmoid", "mul", "logits"]),
    "mean": (lambda m, y: y.mean((2, 3), True), ["images", "conv", "mean", "logits"]),
    "avg_pool2d": (lambda m, y: F.avg_pool2d(y, 2), ["images", "conv", "logits"]),
    "max_pool2d": (lambda m, y: F.max_pool2d(y, 2), ["images", "conv", "logits"]),
    "relu": (lambda m, y: F.avg_pool2d(y, 2).relu(), ["images", "conv", "logits"]),
}


@traces
@pytest.mark.parametrize("name", TENSORS)
def test_only_results_with_a_range_of_their_own_are_counted(name):
    body, names = TENSORS[name]
    layers = {"layer": nn.Conv2d(4, 4, 1), "last": nn.Conv2d(4, 2, 1)}
    if name in ("linear", "flatten"):
        layers = {"layer": nn.Linear(288, 4), "last": nn.Linear(4 if name == "linear" else 288, 2)}
    model = built(lambda m, y: m.last(body(m, y)), layers)
    assert list(collect(model, IMAGES)) == names


@traces
@pytest.mark.parametrize(
    ("body", "joined"),
    [
        (lambda m, y: y, True),
        (lambda m, y: F.max_pool2d(y, 2), True),
        (lambda m, y: y.flatten(1), True),
        (lambda m, y: F.max_pool2d(y, 2).flatten(1), True),
        (lambda m, y: y + y, True),
        (lambda m, y: y.mean((2, 3)), True),
        (lambda m, y: y * y, True),
        (lambda m, y: F.max_pool2d(F.silu(y), 2), True),
        (lambda m, y: torch.tanh(y), True),
        (lambda m, y: F.avg_pool2d(y, 2), False),
        (lambda m, y: y.relu(), True),
    ],
)
def test_a_relu_is_part_of_what_it_follows_where_values_only_pass_on(body, joined):
    steps = translate(built(lambda m, y: F.relu6(body(m, y)), {}))
    assert (steps[-1].operation != "relu") == joined
    assert (6.0 in [step.relu for step in steps]) == joined


@pytest.mark.parametrize("name", OPERATIONS)
def test_only_values_of_the_input_are_not_rounded_again(name):
    params = affine.choose_params(0.0, 1.0, symmetric=False)
    passed_on = name in (
        *("max_pool2d", "max_pool1d", "flatten", "same_size", "unsqueeze", "expand_as"),
        *("pad", "part", "slice", "channel_shuffle"),
    )
    assert (Step("y", name, ("x",), "t").rounding({"t": params}) is None) == passed_on
    assert Step("y", name, ("x",), "other").rounding({"t": params}) is None


@traces
def test_the_row_in_the_documentation_is_all_that_a_new_operation_needs(monkeypatch, tmp_path):
    model = built(lambda m, y: m.last(torch.neg(y)), {"last": nn.Conv2d(4, 2, 1)})
    with pytest.raises(ValueError, match="it calls the function 'neg'"):
        collect(model, IMAGES)
    monkeypatch.setitem(OPERATIONS, "neg", None)  # taken out again after the test
    code = textwrap.dedent(operations.__doc__.split("accept::\n")[1])
    exec(code, vars(operations) | {"affine": affine})
    histograms = collect(model, IMAGES)
    assert list(histograms) == ["images", "conv", "neg", "logits"]
    simulated = quantize_model(model, calibrate(histograms))
    check_that_both_forms_agree(simulated, to_float(IMAGES))
    names = onnx.export(model, to_float(IMAGES), tmp_path / "neg.onnx").names
    assert list(names.values()) == list(histograms)


X = object()  # what stands for a tensor, which a reader only hands on
REFUSED = [
    (nn.Conv2d, (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), X), {}, "padding_mode='reflect'"),
    *[(target, (X, X), {"alpha": 2}, "alpha=2") for target in (
        torch.add, "add", "add_", torch.sub, torch.subtract, "sub", "sub_")],
    (F.adaptive_avg_pool2d, (X, BATCH), {}, "no .height, width."),
    *[(target, (X,), {"dim": dim}, "axes") for target in (torch.mean, "mean") for dim in (None, 1, (1, 2), (2, 3, 1))],
    *[(nn.AvgPool2d, (nn.AvgPool2d(2, padding=1, **set_), X), {}, "ceil_mode") for set_ in (
        {"ceil_mode": True}, {"count_include_pad": False}, {"divisor_override": 3})],
    *[(F.avg_pool2d, (X, 2, None, 1), set_, "ceil_mode") for set_ in (
        {"ceil_mode": True}, {"count_include_pad": False}, {"divisor_override": 3})],
    *[(nn.MaxPool2d, (nn.MaxPool2d(2, **set_), X), {}, "dilation") for set_ in (
        {"dilation": 2}, {"return_indices": True})],
    *[(F.max_pool2d, (X, 2), set_, "dilation") for set_ in (
        {"dilation": (1, 2)}, {"return_indices": True})],
    (nn.Flatten, (nn.Flatten(2), X), {}, "from axis 2 to -1"),
    (nn.Flatten, (nn.Flatten(1, 2), X), {}, "from axis 1 to 2"),
    *[(target, (X, *axes), {}, "from axis") for target in (torch.flatten, "flatten") for axes in ((), (2,), (1, 2))],
    *[(target, (X, *shape), {}, "reshapes") for target in ("view", "reshape") for shape in (
        (3, -1), (-1, -1), (BATCH, 4, -1), (BATCH, X), (BATCH,), ((-1, 2, 2),))],
    (torch.reshape, (X, (3, -1)), {}, "reshapes"),
]  # fmt: skip


@pytest.mark.bad_input
@pytest.mark.parametrize(("target", "args", "options", "words"), REFUSED)
def test_arguments_that_have_no_integer_form_are_refused(target, args, options, words):
    [read] = [row.spelled[target] for row in OPERATIONS.values() if target in row.spelled]
    with pytest.raises(Refused, match=words):
        read(*args, **options)


IN_PLACE = [
    ("relu", nn.ReLU, (nn.ReLU(inplace=True), X), (nn.ReLU(), X)),
    ("relu", nn.ReLU6, (nn.ReLU6(inplace=True), X), (nn.ReLU6(), X)),
    ("relu", F.relu, (X, True), (X,)),
    ("relu", F.relu6, (X, True), (X,)),
    ("relu", torch.relu_, (X,), None),
    ("relu", "relu_", (X,), None),
    ("add", "add_", (X, X), None),
    ("sub", "sub_", (X, X), None),
    ("mul", "mul_", (X, X), None),
    ("sigmoid", torch.sigmoid_, (X,), None),
    ("sigmoid", "sigmoid_", (X,), None),
    ("tanh", torch.tanh_, (X,), None),
    ("tanh", "tanh_", (X,), None),
    ("sigmoid", nn.SiLU, (nn.SiLU(inplace=True), X), (nn.SiLU(), X)),
    ("sigmoid", F.silu, (X, True), (X,)),
    ("hardsigmoid", nn.Hardsigmoid, (nn.Hardsigmoid(inplace=True), X), (nn.Hardsigmoid(), X)),
    ("hardsigmoid", nn.Hardswish, (nn.Hardswish(inplace=True), X), (nn.Hardswish(), X)),
    ("hardsigmoid", F.hardsigmoid, (X, True), (X,)),
    ("hardsigmoid", F.hardswish, (X, True), (X,)),
    ("leaky_relu", nn.LeakyReLU, (nn.LeakyReLU(0.2, inplace=True), X), (nn.LeakyReLU(0.2), X)),
    ("leaky_relu", F.leaky_relu, (X, 0.2, True), (X, 0.2)),
    ("elu", nn.ELU, (nn.ELU(0.2, inplace=True), X), (nn.ELU(0.2), X)),
    ("elu", F.elu, (X, 0.2, True), (X, 0.2)),
]


@pytest.mark.bad_input
@pytest.mark.parametrize(("name", "target", "in_place", "plain"), IN_PLACE)
def test_calls_in_place_are_told_from_others(name, target, in_place, plain):
    read = OPERATIONS[name].spelled[target]
    assert read(*in_place).in_place
    assert plain is None or not read(*plain).in_place
