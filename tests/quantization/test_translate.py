"""How a network may be written, what its steps are called, and what is refused."""

import importlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

from course_lib.data import to_float
from course_lib.quantization.translate import translate
from course_lib.quantization.workflow import calibrate, collect, quantize_model, to_integer
from tests.quantization.networks import (
    IMAGES,
    Body,
    histograms_of,
    seeded,
    state,
    traces,
)

DEPTH = importlib.import_module("torchvision.ops.stochastic_depth")  # not the function of that name


@traces
def test_tensors_are_named_for_what_computes_them():
    assert list(histograms_of("resnet")) == [
        *("images", "0", "3.conv1", "3.conv2", "3.add", "4.conv1", "4.conv2", "4.shortcut.0", "4.add"),
        *("5.conv1", "5.conv2", "5.add", "6", "logits"),
    ]
    assert list(histograms_of("odd")) == [
        *("images", "stem", "depth", "group", "project", "add", "mean", "hidden", "logits"),
    ]
    assert list(histograms_of("gated"))[:14] == [
        *(
            "images",
            "stem.0",
            "stem.2.hardsigmoid",
            "stem.2.mul",
            "squeeze.avgpool",
            "squeeze.fc1",
            "squeeze.fc2",
        ),
        *("squeeze.scale_activation", "squeeze.mul", "expand.0", "expand.2.sigmoid", "expand.2.mul"),
        *("excite.avgpool", "excite.fc1"),
    ]
    assert list(histograms_of("gated"))[-18:] == [
        *("shortcut", "hardsigmoid", "mul", "add", "leaky_relu", "mean", "factor", "sigmoid", "mul_1"),
        *("sigmoid_1", "mul_2", "mean_1", "hidden", "sigmoid_2", "hardsigmoid_1", "sub", "mul_3", "logits"),
    ]


@traces
@pytest.mark.parametrize("mode", ["row", "batch"])
def test_stochastic_depth_is_nothing_in_evaluation(mode):
    for body in (
        lambda m, x: m.layer(m.conv(x)),
        lambda m, x: DEPTH.stochastic_depth(m.conv(x), 0.5, mode, False),
        lambda m, x: DEPTH.stochastic_depth(m.conv(x), training=False, mode=mode, p=0.5),
    ):
        model = seeded(Body, body, layer=DEPTH.StochasticDepth(0.5, mode))
        assert [step.operation for step in translate(model)] == ["images", "conv2d"]


class Written(nn.Module):
    """conv -> relu -> max pool -> conv -> relu -> mean -> linear, as `forward` has it."""

    def __init__(self, body):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, padding=1)
        self.act, self.pool, self.flat = nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten()
        self.drop, self.mean, self.fc = nn.Dropout(0.5), nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(6, 4)
        self.body = body

    def forward(self, x):
        return self.body(self, x)


def modules(m, x):
    return m.fc(m.drop(m.flat(m.mean(m.act(m.conv2(m.pool(m.act(m.conv1(x)))))))))


def functions(m, x):
    x = F.max_pool2d(F.relu(m.conv1(x), inplace=True), kernel_size=2, stride=2)
    x = F.adaptive_avg_pool2d(torch.relu(m.conv2(F.dropout(x, training=m.training))), 1)
    return m.fc(torch.flatten(x, 1))


def methods(m, x):
    x = m.conv2(F.max_pool2d(m.conv1(x).relu_(), (2, 2))).relu()
    return m.fc(x.mean(dim=[-1, -2], keepdim=True).flatten(1))


def shapes(m, x):
    x = m.pool(m.conv1(x).relu())
    x = torch.mean(F.relu(m.conv2(x)), (3, 2), True)
    return m.fc(x.reshape(x.shape[0], -1))


def pooled_first(m, x):
    x = F.relu(F.max_pool2d(m.conv1(x), 2))  # as in many tutorials
    return m.fc(m.mean(F.relu_(m.conv2(x))).view(-1, 6))


def with_an_unused_branch(m, x):
    y = m.pool(m.act(m.conv1(x)))
    z = m.conv2(y)
    torch.add(y, z)
    return m.fc(F.adaptive_avg_pool2d(F.relu(z), (1, 1)).view((x.size()[0], -1)))


@pytest.mark.parametrize("body", [functions, methods, shapes, pooled_first, with_an_unused_branch])
def test_the_way_of_writing_does_not_matter(body):
    images = torch.randint(
        0, 256, (9, 3, 10, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    expected = seeded(Written, modules)
    histograms = collect(expected, images)
    assert list(histograms) == ["images", "conv1", "conv2", "mean", "logits"]
    model = seeded(Written, body)
    found = collect(model, images)
    assert len(found) == 5
    assert [h.maximum for h in found.values()] == pytest.approx([h.maximum for h in histograms.values()])
    if body is not with_an_unused_branch:
        assert [h.minimum for h in found.values()] == pytest.approx([h.minimum for h in histograms.values()])
    reference = quantize_model(expected, calibrate(histograms))
    ranges = dict(zip(found, calibrate(histograms).values(), strict=True))
    simulated = quantize_model(model, ranges)
    for net, other in ((simulated, reference), (to_integer(simulated), to_integer(reference))):
        if body is with_an_unused_branch:  # conv2 has two readers, and its range negative numbers
            torch.testing.assert_close(net(to_float(images)), other(to_float(images)), atol=0.05, rtol=0)
        else:
            assert torch.equal(net(to_float(images)), other(to_float(images)))


@pytest.mark.parametrize("later", [nn.ReLU(), nn.ReLU6()])
def test_an_activation_behind_what_others_read_stays_an_operation(later):
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act, self.fc = nn.Conv2d(3, 4, 3), later, nn.Linear(4, 3)

        def forward(self, x):
            x = self.conv(x)
            x = self.act(F.avg_pool2d(x, 2)) + F.avg_pool2d(self.act(x) + x, 2)
            return self.fc(x.mean((2, 3)))

    model = seeded(Branches)
    images = 10 * torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    simulated = quantize_model(model, calibrate(collect(model, images)))
    assert simulated.activations["conv"].zero_point > 0
    with torch.no_grad():
        expected = model(images)
        for net in (simulated, to_integer(simulated)):
            assert (net(images) - expected).abs().max() < 0.05 * expected.abs().max()


def two_outputs(m, x):
    x = m.conv(x)
    return x, x


def in_place(m, x):
    x = m.conv(x)
    y = F.relu(x, inplace=True)
    return x + y


def in_place_gate(y):
    return F.silu(y, inplace=True) + y


def in_place_sum(m, x):
    y = m.conv(x)
    z = F.max_pool2d(y, 1)
    y = y.add_(z)
    return y + z


def pruned():
    model = Body(lambda m, x: m.conv(x))
    prune.l1_unstructured(model.conv, "weight", 0.5)
    return model


def parametrised():
    model = Body(lambda m, x: m.conv(x))
    parametrizations.weight_norm(model.conv)
    return model


def hooked():
    model = Body(lambda m, x: m.norm(m.conv(x)), norm=nn.BatchNorm2d(4))
    model.conv.register_forward_hook(lambda layer, inputs, output: output + 1)
    return model


def test_of_two_relus_the_one_that_cuts_more_counts():
    for acts in ((nn.ReLU6(), nn.Hardtanh(0, 0.4)), (nn.Hardtanh(0, 0.4), nn.ReLU())):
        steps = translate(nn.Sequential(nn.Conv2d(3, 4, 3), *acts, nn.Flatten(), nn.Linear(4, 2)))
        assert [(step.operation, step.relu) for step in steps[1:3]] == [("conv2d", 0.4), ("flatten", None)]


REFUSED = {
    "mish": (
        lambda: Body(lambda m, x: m.act(m.conv(x)), act=nn.Mish()),
        r"'act' .* it is a Mish\. Accepted are Conv2d",
    ),
    "softplus": (lambda: Body(lambda m, x: F.softplus(m.conv(x))), "'softplus' .* the function 'softplus'"),
    "concat of images": (lambda: Body(lambda m, x: torch.cat([m.conv(x)] * 2)), "along the axis 0"),
    "concat of a parameter": (
        lambda: Body(lambda m, x: torch.cat([m.conv(x), m.scale], 1)),
        "parameter or buffer 'scale'",
    ),
    "matmul": (lambda: Body(lambda m, x: m.conv(x) @ m.conv(x)), "'conv' .* several places"),
    "matmul alone": (lambda: Body(lambda m, x: torch.matmul(x, x)), "the function 'matmul'"),
    "functional convolution": (
        lambda: Body(lambda m, x: F.conv2d(x, m.conv.weight)),
        "parameter .* 'conv.weight'",
    ),
    "lstm": (lambda: Body(lambda m, x: m.rnn(x.flatten(2)), rnn=nn.LSTM(64, 3)), r"it flattens from axis 2"),
    "lstm alone": (lambda: Body(lambda m, x: m.rnn(x), rnn=nn.LSTM(8, 3)), r"'rnn' .* it is a LSTM"),
    "constant": (lambda: Body(lambda m, x: m.conv(x) + 1), "it computes with a constant"),
    "parameter": (lambda: Body(lambda m, x: m.conv(x) + m.scale), "parameter or buffer 'scale'"),
    "scaled sum": (lambda: Body(lambda m, x: torch.add(m.conv(x), x, alpha=2)), "alpha=2"),
    "twice": (lambda: Body(lambda m, x: m.fc(m.fc(m.conv(x))), fc=nn.Linear(6, 6)), "'fc' .* several places"),
    "softmax": (lambda: Body(lambda m, x: m.conv(x).softmax(1)), "the tensor method 'softmax'"),
    "channels counted": (
        lambda: Body(lambda m, x: m.conv(x).view(x.size(1), -1)),
        "it reshapes to something else",
    ),
    "last sizes": (lambda: Body(lambda m, x: m.conv(x).view(x.shape[1:], -1)), "another part of a shape"),
    "size computed with": (
        lambda: Body(lambda m, x: m.conv(x).view(x.shape[0], x.shape[1] * 9)),
        "no tensor",
    ),
    "depth in training": (
        lambda: Body(lambda m, x: DEPTH.stochastic_depth(m.conv(x), 0.5, "row", training=True)),
        "the function 'stochastic_depth'",
    ),
    "depth by default": (
        lambda: Body(lambda m, x: DEPTH.stochastic_depth(m.conv(x), 0.5, "row")),
        "the function 'stochastic_depth'",
    ),
    "constant factor": (lambda: Body(lambda m, x: m.conv(x) * 2.0), "a number that is no tensor"),
    "gate in place": (
        lambda: Body(lambda m, x: in_place_gate(m.conv(x))),
        "in place on a tensor that others read",
    ),
    "slice of images": (lambda: Body(lambda m, x: m.conv(x)[:2]), "a part of a tensor"),
    "one channel": (lambda: Body(lambda m, x: m.conv(x)[:, 2]), "a part of a tensor"),
    "attribute": (lambda: Body(lambda m, x: m.conv(x).T), "the attribute 'T'"),
    "view": (lambda: Body(lambda m, x: m.conv(x).view(3, 4, -1)), r"\[N, all the rest\]"),
    "mean of channels": (
        lambda: Body(lambda m, x: m.conv(x).mean(1)),
        "the axes 1, not over height and width",
    ),
    "ceil": (lambda: Body(lambda m, x: F.avg_pool2d(m.conv(x), 4, ceil_mode=True)), "ceil_mode"),
    "padding that does not count": (
        lambda: Body(
            lambda m, x: m.pool(m.conv(x)), pool=nn.AvgPool2d(2, padding=1, count_include_pad=False)
        ),
        "padding does not count",
    ),
    "dropout always on": (lambda: Body(lambda m, x: F.dropout(m.conv(x))), "the function 'dropout'"),
    "unknown argument": (lambda: Body(lambda m, x: m.conv(x).mean((2, 3), dtype=torch.float64)), "dtype"),
    "reflection": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")), "'reflect'"),
    "in place": (in_place, "in place on a tensor that others read"),
    "sum in place": (in_place_sum, "in place on a tensor that others read"),
    "two outputs": (two_outputs, "something else than one tensor"),
    "nothing to quantize": (lambda: nn.Sequential(nn.Flatten(), nn.ReLU()), "no convolution or linear layer"),
    "branch on values": (
        lambda: Body(lambda m, x: m.conv(x) if x.sum() > 0 else x),
        "torch.fx cannot trace the model: TraceError",
    ),
    "norm of vectors": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.ReLU(), nn.BatchNorm1d(4)),
        "batch norm '3' .* follows '_2'",
    ),
    "norm of a shared layer": (
        lambda: Body(lambda m, x: m.norm(m.fc(x)) + m.fc(x), fc=nn.Linear(8, 8), norm=nn.BatchNorm2d(3)),
        "'fc' .* several places",
    ),
    "norm twice": (
        lambda: Body(lambda m, x: m.norm(m.conv(x) + m.norm(m.conv(x))), norm=nn.BatchNorm2d(4)),
        "'conv' .* several places",
    ),
    "norm without statistics": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
        "batch norm '1' has no running statistics",
    ),
    "pruned": (pruned, "layer 'conv' has a hook, or a weight .*make_permanent"),
    "parametrised": (parametrised, "layer 'conv' has a hook, or a weight"),
    "hooked": (hooked, "layer 'conv' has a hook"),
}


@pytest.mark.bad_input
@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_integer_form_is_refused_by_name(name):
    build, words = REFUSED[name]
    model = build() if build not in (in_place, in_place_sum, two_outputs) else Body(build)
    before, _ = state(model)
    with pytest.raises(ValueError, match=words):
        quantize_model(model.eval(), {})
    with pytest.raises(ValueError, match=words):
        collect(model.eval(), IMAGES)
    after, _ = state(model)
    assert all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.bad_input
def test_a_second_input_is_refused():
    class Two(nn.Module):
        def forward(self, x, mask=None):
            return x

    with pytest.raises(ValueError, match="a second input, 'mask'"):
        quantize_model(Two(), {})
