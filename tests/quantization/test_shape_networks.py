"""Whole networks that concatenate, pad, shuffle and enlarge: to the bit those of ONNX Runtime, and what they refuse."""

import copy

import onnx as onnx_package
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_lib.data import to_float
from course_lib.quantization import aware, onnx
from course_lib.quantization.steps import execute
from course_lib.quantization.translate import translate
from course_lib.quantization.workflow import calibrate, collect, fold_batch_norm, quantize_model, to_integer
from tests.quantization.networks import Body, check_that_both_forms_agree, seeded, state, traces
from tests.quantization.shape_calls import CALLS, PARTS, SEQUENCES, Padded
from tests.quantization.test_integer_network import EXACT, in_onnx_runtime
from tests.quantization.test_operations import built

GENERATOR = torch.Generator().manual_seed(3)
IMAGES = torch.randint(0, 256, (6, 3, 11, 10), dtype=torch.uint8, generator=GENERATOR)
SOUNDS = torch.randint(0, 256, (8, 3, 30), dtype=torch.uint8, generator=GENERATOR)


def compared(model, images, folder):
    """The share of logits that ONNX Runtime does not give, and the largest difference in steps."""
    ranges = calibrate(collect(model, images))
    simulated = quantize_model(model, ranges)
    found = to_integer(simulated)(to_float(images))
    apart = (found - in_onnx_runtime(model, images, ranges, folder)).abs()
    return (apart > 0).double().mean().item(), (apart.max() / simulated.activations["logits"].scale).item()


# ---- calls, each in a branch of its own -----------------------------------------------------------------------------


class Branch(nn.Module):
    """A call on what a layer of its own gives: equal calls on equal tensors would be one in the file."""

    def __init__(self, body, layers, mix):
        super().__init__()
        self.body = body
        self.mix = mix
        for name, layer in copy.deepcopy(layers).items():
            setattr(self, name, layer)

    def forward(self, y):
        return self.body(self, self.mix(y))


class Branches(nn.Module):
    """Calls on what one layer gives, side by side; behind every second one is a ReLU."""

    def __init__(self, first, calls, mix=lambda: nn.Conv2d(4, 4, 1)):
        super().__init__()
        self.first = first
        self.branches = nn.ModuleList(Branch(body, layers, mix()) for body, layers in calls)

    def forward(self, x):
        x = self.first(x)
        found = [branch(x) for branch in self.branches]
        return torch.cat([F.relu(y).flatten(1) if k % 2 else y.flatten(1) for k, y in enumerate(found)], 1)


def _second_cut(parts):
    return torch.cat([parts[0], parts[1].relu()], 1)


RELUS = [  # which lie in the range of a tensor with negative numbers, and cut off a part or a pooled image alone
    lambda m, y: torch.cat([y[:, :2], y[:, 2:].relu()], 1),
    lambda m, y: _second_cut(y.chunk(2, 1)),
    lambda m, y: F.relu6(F.max_pool2d(y, 2)),
]


@EXACT
@traces
def test_every_call_is_that_of_onnx_runtime(tmp_path):
    # torch.clip is what torch.onnx does not translate; a transposed convolution is summed in float32.
    calls = [
        (body, layers)
        for name, target, body, _, layers in CALLS
        if name != "conv_transpose2d" and target is not torch.clip
    ]
    calls += [(body, {}) for _, body, _ in PARTS] + [(body, {}) for body in RELUS]
    assert compared(seeded(Branches, nn.Conv2d(3, 4, 3), calls), IMAGES, tmp_path) == (
        0,
        0,
    )


@EXACT
@traces
def test_every_call_on_sequences_is_that_of_onnx_runtime(tmp_path):
    first = nn.Sequential(nn.Conv1d(3, 4, 5, padding=2), nn.BatchNorm1d(4))
    calls = [(body, layers) for _, _, body, _, layers in SEQUENCES]
    model = seeded(Branches, first, calls, lambda: nn.Conv1d(4, 4, 1))
    steps = translate(fold_batch_norm(model, to_float(SOUNDS)))
    for name, _, _, options, _ in SEQUENCES:
        assert options in [step.options for step in steps if step.operation == name]
    check_that_both_forms_agree(quantize_model(model, calibrate(collect(model, SOUNDS))), to_float(SOUNDS))
    assert compared(model, SOUNDS, tmp_path) == (0, 0)


@traces
@pytest.mark.parametrize(("target", "body", "options"), PARTS)
def test_parts_are_read_one_by_one(target, body, options):
    model = built(lambda m, y: body(m, y).flatten(1), {})
    steps = [step for step in translate(model) if step.operation == "part"]
    assert [step.options for step in steps] == [options | {"index": 1}, options | {"index": 0}]
    assert steps[0].inputs == steps[1].inputs
    simulated = quantize_model(model, calibrate(collect(model, IMAGES)))
    check_that_both_forms_agree(simulated, to_float(IMAGES))


@traces
@pytest.mark.parametrize("place", range(len(RELUS)))
def test_a_relu_on_a_part_cuts_off_that_part_alone(place):
    model = built(lambda m, y: torch.cat([RELUS[place](m, y).flatten(1), y.flatten(1)], 1), {})
    steps = translate(model)
    assert [step.operation for step in steps].count("relu") == 1
    assert [step.relu for step in steps] == [None] * len(steps)


# ---- batch norm ----------------------------------------------------------------------------------------------------


class Dense(nn.Module):
    """Blocks of a densely connected network: batch norm and ReLU in front of each convolution."""

    def __init__(self, blocks=3):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.norms = nn.ModuleList(nn.BatchNorm2d(4 + 3 * k) for k in range(blocks + 1))
        self.layers = nn.ModuleList(nn.Conv2d(4 + 3 * k, 3, 3, padding=1, bias=False) for k in range(blocks))
        self.logits = nn.Linear(4 + 3 * blocks, 5)

    def forward(self, x):
        found = [self.first(x)]
        for norm, layer in zip(self.norms, self.layers, strict=False):
            found.append(layer(F.relu(norm(torch.cat(found, 1)))))
        return self.logits(F.relu(self.norms[-1](torch.cat(found, 1))).mean((2, 3)))


@EXACT
@traces
def test_a_batch_norm_alone_is_one_weight_for_each_channel(tmp_path):
    model = seeded(Dense)
    before = state(model)
    images = to_float(IMAGES)
    one = fold_batch_norm(model, images)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in one.modules())
    norm, layer = model.norms[1], one.norms[1]
    assert (layer.groups, layer.kernel_size, layer.in_channels) == (7, (1, 1), 7)
    x = torch.randn(2, 7, 3, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x), norm(x))
    torch.testing.assert_close(one(images), model(images))
    assert str(state(model)) == str(before)
    ranges = calibrate(collect(model, IMAGES))
    simulated = quantize_model(model, ranges)
    assert simulated.network.norms[1].weight.flatten().tolist() == pytest.approx(
        layer.weight.flatten().tolist()
    )
    assert (
        to_integer(simulated).network.norms[1].weight.abs().eq(127).all()
    )  # a scale for each, so nothing is lost
    check_that_both_forms_agree(simulated, images)
    path, names = onnx.export(one, images, tmp_path / "a.onnx")
    assert list(dict.fromkeys(names.values())) == list(ranges)
    operators = [node.op_type for node in onnx_package.load(path).graph.node]
    assert "BatchNormalization" not in operators
    assert operators.count("Concat") == 3
    small = onnx.quantize(path, tmp_path / "b.onnx", ranges=ranges, names=names)
    assert torch.equal(onnx.run(small, IMAGES), to_integer(simulated)(images))


@traces
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_batch_norm_is_folded_into_a_transposed_convolution(groups, bias):
    model = seeded(
        lambda: nn.Sequential(
            nn.ConvTranspose2d(4, 6, 3, 2, groups=groups, bias=bias), nn.BatchNorm2d(6), nn.Conv2d(6, 2, 1)
        )
    )
    x = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    one = fold_batch_norm(model, x)
    assert isinstance(one[1], nn.Identity)
    torch.testing.assert_close(one(x), model(x))


@traces
def test_batch_norm_in_a_layer_that_pads_itself_is_folded():
    model = seeded(
        lambda: nn.Sequential(Padded(3, 4, 3, stride=2, image_size=11, bias=False), nn.BatchNorm2d(4))
    )
    one = fold_batch_norm(model, to_float(IMAGES))
    assert isinstance(one[1], nn.Identity)
    torch.testing.assert_close(one(to_float(IMAGES)), model(to_float(IMAGES)))
    assert list(collect(model, IMAGES)) == ["images", "logits"]


# ---- layers --------------------------------------------------------------------------------------------------------


def decoder(groups):
    up = nn.ConvTranspose2d(8, 8, 3, 2, padding=1, output_padding=1, groups=groups)
    return nn.Sequential(up, nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, 2), nn.Flatten())


@EXACT
@traces
def test_decoders_are_one_step_at_most_from_onnx_runtime_and_rarely(tmp_path):
    calls = [(lambda m, y: m.decoder(y), {"decoder": decoder(groups)}) for groups in (1, 2, 8)]
    model = seeded(Branches, nn.Conv2d(3, 8, 3, 2), calls, nn.Identity)
    simulated = quantize_model(model, calibrate(collect(model, IMAGES)))
    axes = [simulated.weights[f"branches.{k}.decoder.0"].axis for k in range(3)]
    assert axes == [1, None, None]  # with groups one scale for all
    check_that_both_forms_agree(simulated, to_float(IMAGES))
    share, steps = compared(model, IMAGES, tmp_path)
    assert share < 0.001  # it sums in float32
    assert steps < 1.01


@traces
@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_layer_with_a_large_bias_has_a_wider_scale(groups):
    model = seeded(
        lambda: nn.Sequential(nn.ConvTranspose2d(3, 6, 3, groups=3 if groups > 1 else 1), nn.Flatten())
    )
    with torch.no_grad():
        model[0].weight.mul_(1e-9)
        model[0].bias.fill_(3.0)
    simulated = quantize_model(model, calibrate(collect(model, IMAGES)))
    torch.testing.assert_close(simulated.network[0].bias, torch.full((6,), 3.0))


@traces
def test_a_network_of_these_layers_can_be_trained_with_rounding():
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 8, 3, 2), decoder(2)))
    ranges = calibrate(collect(model, IMAGES))
    prepared = aware.prepare(model, ranges)
    expected = quantize_model(model, ranges)(to_float(IMAGES))
    assert torch.equal(prepared(to_float(IMAGES)), expected)
    prepared(to_float(IMAGES)).square().sum().backward()
    gradients = [parameter.grad for parameter in prepared.network[1][0].parameters()]
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
    assert torch.equal(aware.convert(prepared)(to_float(IMAGES)), expected)


@traces
def test_adaptive_pooling_is_accepted_where_it_changes_nothing_and_refused_by_name_elsewhere():
    model = seeded(
        Body,
        lambda m, x: m.fc(m.pool(m.conv(x)).flatten(1)),
        pool=nn.AdaptiveAvgPool2d(6),
        fc=nn.Linear(144, 3),
    )
    images, large = IMAGES[:, :, :8, :8], to_float(IMAGES)
    simulated = quantize_model(model, calibrate(collect(model, images)))
    integers = to_integer(simulated)
    assert (integers(to_float(images)) - model(to_float(images))).abs().max() < 0.05
    words = r"'pool': it pools \[9, 8\] to \[6, 6\]; accepted are images of such a size"
    assert model(large).shape == (6, 3)  # PyTorch pools
    for call in (lambda: collect(model, IMAGES), lambda: simulated(large), lambda: integers(large)):
        with pytest.raises(ValueError, match=words):
            call()


@traces
def test_the_mean_of_a_sequence_in_an_integer_network():
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv1d(3, 4, 5),
            nn.AdaptiveAvgPool1d(1),
            nn.Conv1d(4, 3, 1),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
        )
    )
    integers = to_integer(quantize_model(model, calibrate(collect(model, SOUNDS))))
    found = integers(to_float(SOUNDS))
    assert torch.equal(
        found, integers._as_real(execute(integers.steps, integers.compute, to_float(SOUNDS)), "logits")
    )
    torch.testing.assert_close(found, model(to_float(SOUNDS)), atol=0.02, rtol=0)


@EXACT
@traces
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("keep", [(), ("1",)])
def test_transposed_convolutions_in_a_file_of_one_call(bias, keep, tmp_path):
    def build():
        layers = [nn.Conv2d(3, 6, 3)]
        for inputs, outputs, groups in ((6, 2, 1), (2, 4, 1), (4, 6, 2)):
            layers.append(nn.ConvTranspose2d(inputs, outputs, 3, groups=groups, bias=bias))
        return nn.Sequential(*layers, nn.Flatten())

    model = seeded(build)
    simulated = quantize_model(model, calibrate(collect(model, IMAGES)), keep=keep)
    path = onnx.export(simulated, to_float(IMAGES[:1]), tmp_path / "a.onnx").path
    apart = (onnx.run(path, IMAGES) - to_integer(simulated)(to_float(IMAGES))).abs()
    steps = apart / simulated.activations["logits"].scale
    assert steps.max() < 1.01
    assert (steps > 0).double().mean() < 0.01


def _half_in_place(m, y):
    first, second = y[:, :3], y[:, 3:]
    return torch.cat([F.relu(first, inplace=True), m.one(second)], 1).flatten(1)


@EXACT
@traces
@pytest.mark.parametrize(
    "body",
    [
        lambda m, y: y.mean((2, 3)),
        lambda m, y: y.mean((2, 3)).relu(),
        lambda m, y: y.mean((2, 3)) - m.other(y).mean((2, 3)),
        _half_in_place,
    ],
)
def test_logits_of_other_operators_than_layers_are_those_of_onnx_runtime(body, tmp_path):
    layers = {"other": nn.Conv2d(4, 4, 1), "one": nn.Conv2d(1, 4, 1)}
    assert compared(built(body, layers), IMAGES, tmp_path) == (0, 0)
