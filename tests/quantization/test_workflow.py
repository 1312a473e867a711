"""The five steps: by hand, against ONNX Runtime and plain NumPy, the laws between the forms, and what is refused."""

import copy
import functools
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune
from torchvision.models.resnet import BasicBlock

from course_lib import checkpoints, models, training
from course_lib.data import load_dataset, to_float
from course_lib.quantization import calibration, onnx
from course_lib.quantization.affine import choose_params, dequantize, fake_quantize, params_of, quantize
from course_lib.quantization.calibration import METHODS, Histogram
from course_lib.quantization.steps import execute
from course_lib.quantization.workflow import calibrate, collect, fold_batch_norm, quantize_model, to_integer
from tests.quantization.test_integer import X86, largest_weight

EXACT = pytest.mark.skipif(
    not X86 or largest_weight() != 127, reason="the kernels of this processor round in another way"
)
tracing = pytest.mark.bad_input  # torch.fx passes proxies through the forward() of our models


class Odd(nn.Module):
    """What the networks of the course have not: ReLU6, average and overlapping pooling, groups, dilation, `same`."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding="same")
        self.norm = nn.BatchNorm2d(8)
        self.depth = nn.Conv2d(8, 8, (3, 1), stride=(2, 1), padding=(2, 0), dilation=(2, 1), groups=8)
        self.group = nn.Conv2d(8, 12, 1, groups=4, padding="valid")
        self.project = nn.Conv2d(8, 12, 1, stride=(2, 1), bias=False)
        self.project_norm = nn.BatchNorm2d(12, affine=False)
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        self.hidden = nn.Linear(12, 9)
        self.hidden_norm = nn.BatchNorm1d(9)
        self.logits = nn.Linear(9, 5)

    def forward(self, x):
        x = F.relu6(self.norm(self.stem(x)))
        y = self.group(F.dropout(self.depth(x), 0.5, self.training)).relu()
        y += self.project_norm(self.project(x))
        y = self.pool(y)  # its input has negative numbers: no ReLU behind this addition
        y = y.mean((2, 3))
        return self.logits(torch.relu(self.hidden_norm(self.hidden(y))))


class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, bias=False)
        self.fc = nn.Linear(24, 4)

    def forward(self, x):
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.avg_pool2d(F.relu(self.conv2(x)), kernel_size=2)
        return self.fc(x.view(x.size(0), -1))


def shaken(model, seed=0):
    """With batch norms that do something, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.running_mean.normal_(0, 0.1, generator=generator)
            norm.running_var.uniform_(0.5, 2, generator=generator)
            if norm.affine:
                nn.init.normal_(norm.weight, 1, 0.2, generator=generator)
                nn.init.normal_(norm.bias, 0, 0.2, generator=generator)
    return model.eval()


def seeded(build, *arguments, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return shaken(build(*arguments, **options))


NETWORKS = {
    "vgg": (lambda: models.build("vgg", in_channels=3, widths=(8, "M", 8, 16)), 12),
    "resnet": (lambda: models.build("resnet", in_channels=3, widths=(8, 12), blocks=(1, 2)), 12),
    "mobilenet": (
        lambda: models.build("mobilenet", in_channels=3, stem=8, widths=((12, 1), (16, 2))),
        12,
    ),
    "mlp": (lambda: models.build("mlp", in_channels=3, image_size=8, hidden=(20, 10)), 8),
    "convnet_teacher": (
        lambda: models.build("convnet_teacher", in_channels=3, image_size=8, channels=(6, 8), hidden=16),
        8,
    ),
    "convnet_student": (lambda: models.build("convnet_student", in_channels=3, image_size=8, patch=4), 8),
    "torchvision_resnet": (lambda: torchvision.models.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10), 33),
    "torchvision_mobilenet": (
        lambda: torchvision.models.MobileNetV2(10, inverted_residual_setting=[[1, 8, 1, 1], [6, 12, 2, 2]]),
        32,
    ),
    "odd": (Odd, 13),
    "pooled": (Pooled, 15),
}


@functools.cache
def network(name):
    """The network and images for it."""
    build, size = NETWORKS[name]
    generator = torch.Generator().manual_seed(0)
    shape = (24, 3, size, size)
    return seeded(build), torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@functools.cache
def histograms_of(name):
    return collect(*network(name))


def quantized(name, method="max", **options):
    ranges = calibrate(histograms_of(name), method, bits=options.get("activation_bits", 8))
    return quantize_model(network(name)[0], ranges, **options)


def tensors_of(net, images):
    """Every result of a simulated or integer network, by the name of its step."""
    found = {}

    def compute(step, *inputs):
        found[step.name] = net.compute(step, *inputs)
        return found[step.name]

    with torch.no_grad():
        execute(net.steps, compute, images)
    return found


# ---- worked by hand ------------------------------------------------------------------------------------------------


def hand_made():
    """Two linear layers with a ReLU between them, on images of two pixels."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[12.7, -6.3], [1.26, 2.54]]))
        model[1].bias.copy_(torch.tensor([1.0, -4.0]))
        model[3].weight.copy_(torch.tensor([[-1.27, 1.0]]))
        model[3].bias.fill_(0.5)
    return model, {"images": (0.0, 51.0), "1": (0.0, 510.0), "logits": (-1000.0, 1550.0)}


def test_two_layers_by_hand():
    model, ranges = hand_made()
    simulated = quantize_model(model, ranges)
    assert [simulated.activations[name].scale.item() for name in ranges] == pytest.approx([0.2, 2, 10])
    assert [simulated.activations[name].zero_point.item() for name in ranges] == [0, 0, 100]
    assert simulated.weights["1"].scale.tolist() == pytest.approx([0.1, 0.02])
    assert {name: bias.tolist() for name, bias in simulated.biases.items()} == {"1": [50, -1000], "3": [25]}
    integers = to_integer(simulated)
    assert integers.network[1].weight.tolist() == [[127, -63], [63, 127]]
    assert integers.network[3].weight.tolist() == [[-127, 100]]
    images = torch.tensor([[2.0, 51.0], [51.0, 2.0]]).reshape(2, 1, 1, 2)
    found = list(tensors_of(integers, images).values())
    assert found[0].flatten(1).tolist() == [[10, 255], [255, 10]]
    # First image: 1270 - 16065 + 50 < 0, and 630 + 32385 - 1000 = 32015 in steps of 0.004, which are 64.03 of 2.
    # Second: 31805 in steps of 0.02, which are 318 of 2, and so 255; and 16335 of 0.004, which are 32.67 of 2.
    assert found[2].tolist() == [[0, 64], [255, 33]]
    # 6400 + 25 and -32385 + 3300 + 25 in steps of 0.02 are 12.85 and -58.12 of 10.
    assert found[3].tolist() == [[113], [42]]
    assert integers(images).tolist() == [[130], [-580]]
    assert simulated(images).tolist() == [[130], [-580]]


def test_batch_norm_folded_by_hand():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, eps=1.0), nn.ReLU()).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([3.0, -4.0]).reshape(2, 1, 1, 1))
        model[0].bias.copy_(torch.tensor([1.0, 2.0]))
        model[1].running_mean.copy_(torch.tensor([2.0, -2.0]))
        model[1].running_var.copy_(torch.tensor([3.0, 15.0]))
        model[1].weight.copy_(torch.tensor([2.0, 8.0]))
        model[1].bias.copy_(torch.tensor([10.0, 20.0]))
    folded = fold_batch_norm(model, torch.ones(1, 1, 2, 2))
    assert folded[0].weight.flatten().tolist() == [3, -8]
    assert folded[0].bias.tolist() == [9, 28]
    assert isinstance(folded[1], nn.Identity)
    assert isinstance(model[1], nn.BatchNorm2d)


# ---- ONNX Runtime --------------------------------------------------------------------------------------------------


def in_onnx_runtime(model, images, histograms, ranges, folder):
    """Logits of the 8-bit file with the same ranges, found by the smallest and largest value of each tensor."""
    folded = fold_batch_norm(model, to_float(images[:2]))
    path = onnx.export(folded, to_float(images[:2]), folder / "float.onnx")
    theirs = {}
    for name, histogram in onnx.collect(path, images).items():
        near = {
            key: abs(ours.minimum - histogram.minimum) + abs(ours.maximum - histogram.maximum)
            for key, ours in histograms.items()
        }
        theirs[name] = ranges[min(near, key=near.get)]
    return onnx.run(onnx.quantize(path, folder / "int8.onnx", ranges=theirs), images)


@EXACT
@tracing
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "pooled"])
def test_the_integer_network_is_that_of_onnx_runtime(name, tmp_path):
    model, images = network(name)
    ranges = calibrate(histograms_of(name), "entropy" if name in ("vgg", "resnet") else "max")
    found = to_integer(quantize_model(model, ranges))(to_float(images))
    assert torch.equal(found, in_onnx_runtime(model, images, histograms_of(name), ranges, tmp_path))


@EXACT
def test_a_weight_much_smaller_than_its_bias_has_a_wider_scale_as_in_onnx_runtime(tmp_path):
    model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3)))
    with torch.no_grad():
        model[1].weight[2] *= 1e-9
        model[1].bias[2] = 3.0
        model[1].weight[4] = 0.0
    images = torch.arange(96, dtype=torch.uint8).reshape(8, 3, 2, 2)
    histograms = collect(model, images)
    ranges = calibrate(histograms)
    for per_channel in (True, False):
        simulated = quantize_model(model, ranges, per_channel=per_channel)
        hidden = list(tensors_of(simulated, to_float(images)).values())[2]
        # Step and weights go to nothing, the bias stays.
        assert (hidden[:, 2] - 3).abs().max() <= simulated.activations["1"].scale / 2
    simulated = quantize_model(model, ranges)
    assert torch.equal(
        to_integer(simulated)(to_float(images)), in_onnx_runtime(model, images, histograms, ranges, tmp_path)
    )


# ---- simulated and integer networks --------------------------------------------------------------------------------


def check_that_both_forms_agree(simulated, images):
    """Every step of the integer network, but for halves."""
    integers = to_integer(simulated)
    tensors = {step.name: step.tensor for step in simulated.steps}

    def compute(step, *inputs):
        """The step on integers, compared with that on the real numbers that they stand for."""
        q, params = integers.compute(step, *inputs), simulated.activations[step.tensor]
        numbers = [
            dequantize(x, simulated.activations[tensors[n]])
            for x, n in zip(inputs, step.inputs, strict=False)
        ]
        real = simulated.compute(step, *(numbers or inputs))
        apart = (quantize(real, params).int() - q.int()).abs()
        assert apart.max() <= 1, step
        # In the mean of four steps every fourth is a half.
        assert apart.float().mean() < (0.3 if step.operation == "avg_pool2d" else 0.001), step
        assert torch.equal(fake_quantize(real, params), real), step  # on the grid of the integers exactly
        return q

    with torch.no_grad():
        execute(simulated.steps, compute, to_float(images))


@tracing
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("bits", [8, 3])
@pytest.mark.parametrize("weight_method", ["max", "mse"])
def test_both_forms_agree_but_for_halves(name, bits, weight_method):
    simulated = quantized(name, weight_bits=bits, activation_bits=bits, weight_method=weight_method)
    check_that_both_forms_agree(simulated, network(name)[1])


@tracing
@pytest.mark.parametrize("name", ["glyphs-vgg", "glyphs-resnet", "glyphs-mobilenet"])
def test_on_trained_networks_both_forms_give_the_same_answers(name):
    dataset = load_dataset("glyphs")
    model = checkpoints.load(name)
    histograms = collect(model, dataset.train.images[:200])
    test = dataset.test.subset(torch.arange(300))
    right = training.evaluate(model, test)
    for method in METHODS:
        simulated = quantize_model(model, calibrate(histograms, method))
        assert abs(training.evaluate(simulated, test) - right) < 0.02
    real, integers = (training.predict(net, test.images) for net in (simulated, to_integer(simulated)))
    assert (real.argmax(1) == integers.argmax(1)).float().mean() > 0.99
    step = simulated.activations["logits"].scale
    assert ((real - integers) / step).abs().max() < 1.5
    assert (real != integers).float().mean() < 0.15


def in_numpy(model, ranges, images, weight_bits, bits):
    """The logits of linear layers with ReLU between them, in int64."""

    def affine(low, high, width):
        scale = (np.float64(np.float32(high)) - np.float64(np.float32(low))) / (2**width - 1)
        if scale == 0:
            return np.float32(1), 0
        return np.float32(scale), int(np.rint(-np.float64(np.float32(low)) / scale))

    scale, zero = affine(*ranges["images"], bits)
    q = np.clip(np.rint(images / scale) + zero, 0, 2**bits - 1).astype(np.int64)
    layers = [layer for layer in model if isinstance(layer, nn.Linear)]
    for place, layer in enumerate(layers):
        last = place == len(layers) - 1
        width = max(bits, 8) if last else bits
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        top = 2 ** (weight_bits - 1) - 1
        weight_scale = (np.abs(weight).max(1).astype(np.float64) / top).astype(np.float32)
        weight = np.rint(weight / weight_scale[:, None]).astype(np.int64)
        step = scale * weight_scale
        sums = (q - zero) @ weight.T + np.rint(bias.astype(np.float64) / step).astype(np.int64)
        scale, zero = affine(*ranges["logits" if last else str(1 + 2 * place)], width)
        q = np.clip(np.rint(sums.astype(np.float32) * (step / scale)) + zero, 0, 2**width - 1).astype(
            np.int64
        )
    return (q - zero).astype(np.float32) * scale


@given(
    st.lists(st.integers(1, 12), max_size=3), st.integers(2, 8), st.integers(2, 8), st.integers(0, 2**32 - 1)
)
@settings(max_examples=40)
def test_integers_of_every_width_are_those_of_numpy(hidden, weight_bits, bits, seed):
    model = models.build("mlp", in_channels=1, image_size=3, hidden=hidden, classes=4, seed=seed % 1000)
    images = torch.randn(7, 1, 3, 3, generator=torch.Generator().manual_seed(seed))
    ranges = calibrate(collect(model, images), "max", bits=bits)
    simulated = quantize_model(model, ranges, weight_bits=weight_bits, activation_bits=bits)
    expected = in_numpy(model, ranges, images.flatten(1).numpy(), weight_bits, bits)
    found = to_integer(simulated)(images)
    assert np.array_equal(found.numpy(), expected)
    step = simulated.activations["logits"].scale
    # Two roundings that fall the other way, at few bits, carry on to the end.
    assert ((simulated(images) - found) / step).abs().max() <= 1.01 or bits < 5


@tracing
def test_the_simulation_is_the_network_with_rounded_weights_and_results():
    model, images = network("vgg")
    ranges = calibrate(histograms_of("vgg"), "mse", bits=5)
    simulated = quantize_model(model, ranges, weight_bits=4, activation_bits=5, per_channel=False)

    def rounded(x, tensor):
        return fake_quantize(
            x, choose_params(*ranges[tensor], bits=8 if tensor == "logits" else 5, symmetric=False)
        )

    folded = fold_batch_norm(model, to_float(images[:1]))
    x = rounded(to_float(images), "images")
    scale = choose_params(*ranges["images"], bits=5, symmetric=False).scale
    for place, layer in enumerate(folded):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            tensor = "logits" if isinstance(layer, nn.Linear) else str(place)
            params = params_of(layer.weight, bits=4, symmetric=True)
            step = (scale * params.scale).double()
            layer.weight.data = fake_quantize(layer.weight, params)
            layer.bias.data = ((layer.bias.double() / step).round() * step).float()
            scale = choose_params(*ranges[tensor], bits=5, symmetric=False).scale
            assert len(simulated.network.get_submodule(str(place)).weight.unique()) <= 15
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            x = rounded(x, tensor)
        if isinstance(layer, nn.AdaptiveAvgPool2d):
            x = rounded(x, str(place))
            scale = choose_params(*ranges[str(place)], bits=5, symmetric=False).scale
    assert torch.equal(simulated(to_float(images)), rounded(x, "logits"))


@tracing
@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_lie_in_the_range_that_the_method_finds(per_channel):
    model, images = network("vgg")
    axis = 0 if per_channel else None
    folded = fold_batch_norm(model, to_float(images[:1]))
    for method in ("max", "mse"):
        simulated = quantized("vgg", weight_bits=3, per_channel=per_channel, weight_method=method)
        for name, params in simulated.weights.items():
            weight = folded.get_submodule(name).weight
            expected = params_of(weight, bits=3, symmetric=True, axis=axis, method=method)
            assert torch.equal(params.scale, expected.scale)
            assert torch.equal(simulated.network.get_submodule(name).weight, fake_quantize(weight, expected))


@tracing
@pytest.mark.parametrize("name", NETWORKS)
def test_sixteen_bits_are_nearly_the_network_itself(name):
    model, images = network(name)
    simulated = quantized(name, weight_bits=16, activation_bits=16)
    with torch.no_grad():
        expected, found = model(to_float(images)), simulated(to_float(images))
    assert (found - expected).abs().max() < 2e-3 * expected.abs().max()


@tracing
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_networks_of_torchvision_can_be_quantized(name):
    model = seeded(getattr(torchvision.models, name), num_classes=10)
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    simulated = quantize_model(model, calibrate(collect(model, images)))
    with torch.no_grad():
        expected, found = model(images), to_integer(simulated)(images)
    assert (found - expected).abs().max() < 0.15 * expected.abs().max()
    assert ((found - simulated(images)) / simulated.activations["logits"].scale).abs().max() < 2.5


@tracing
def test_bits_are_those_asked_for_and_logits_have_eight():
    simulated = quantized("resnet", weight_bits=3, activation_bits=2)
    reals = tensors_of(simulated, to_float(network("resnet")[1]))
    for step in simulated.steps:
        assert len(reals[step.name].unique()) <= (256 if step.tensor == "logits" else 4)
    assert {params.bits for name, params in simulated.activations.items() if name != "logits"} == {2}
    assert simulated.activations["logits"].bits == 8
    assert quantized("resnet", activation_bits=10).activations["logits"].bits == 10
    for name, layer in to_integer(simulated).network.named_modules():
        if name in simulated.weights:
            assert layer.weight.dtype == torch.int8
            assert layer.weight.abs().max() == 3
            assert simulated.weights[name].scale.shape == (len(layer.weight),)
    whole = quantized("resnet", per_channel=False)
    assert all(params.scale.ndim == 0 for params in whole.weights.values())


# ---- layers kept in float ------------------------------------------------------------------------------------------


@tracing
def test_kept_layers_compute_in_float():
    model, images = network("vgg")
    folded = fold_batch_norm(model, to_float(images[:1]))
    simulated = quantized("vgg", weight_bits=4, activation_bits=4, keep=("0", "12"))
    for name in ("0", "12"):
        kept, whole = (net.get_submodule(name) for net in (simulated.network, folded))
        assert torch.equal(kept.weight, whole.weight)
        assert torch.equal(kept.bias, whole.bias)
    assert list(simulated.weights) == ["4", "7"]
    # Nothing on integers reads the images or writes the logits, so neither are rounded.
    assert list(simulated.activations) == ["0", "4", "7", "10"]
    reals = tensors_of(simulated, to_float(images))
    first = list(reals.values())[1]
    expected = F.relu(F.conv2d(to_float(images), folded[0].weight, folded[0].bias, padding=1))
    assert torch.equal(first, fake_quantize(expected, simulated.activations["0"]))
    integers = to_integer(simulated)
    assert isinstance(integers.network.get_submodule("0"), nn.Conv2d)
    with torch.no_grad():
        torch.testing.assert_close(integers(to_float(images)), simulated(to_float(images)), atol=0.05, rtol=0)
        assert (integers(to_float(images)) == simulated(to_float(images))).float().mean() > 0.9


@tracing
def test_with_every_layer_kept_additions_and_pooling_are_still_rounded():
    model, images = network("resnet")
    layers = [n for n, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    simulated = quantized("resnet", keep=layers)
    assert simulated.weights == {}
    assert "images" not in simulated.activations
    assert {"3.add", "6"} <= simulated.activations.keys()
    found = to_integer(simulated)(to_float(images))
    torch.testing.assert_close(found, simulated(to_float(images)), atol=0.02, rtol=0)


# ---- collecting and calibrating ------------------------------------------------------------------------------------


@tracing
def test_histograms_are_of_the_folded_network_behind_its_activations():
    model, images = network("vgg")
    found = collect(model, images)
    assert list(found) == ["images", "0", "4", "7", "10", "logits"]
    expected = {name: Histogram() for name in found}
    expected["images"].update(to_float(images))
    places = {"0": 2, "4": 6, "7": 9, "10": 10, "logits": 12}  # modules of the whole network
    x = to_float(images)
    with torch.no_grad():
        for place, layer in enumerate(model):
            x = layer(x)
            for name in [name for name, where in places.items() if where == place]:
                expected[name].update(x)
    for name, histogram in found.items():
        assert histogram.count == expected[name].count, name
        assert histogram.minimum == pytest.approx(expected[name].minimum, abs=1e-5), name
        assert histogram.maximum == pytest.approx(expected[name].maximum, rel=1e-5), name
        moved = np.abs(histogram.counts - expected[name].counts).sum() / histogram.count
        assert moved < 0.01, name  # folding rounds otherwise, which moves values across edges


@tracing
def test_tensors_are_named_for_what_computes_them():
    assert list(histograms_of("resnet")) == [
        *("images", "0", "3.conv1", "3.conv2", "3.add", "4.conv1", "4.conv2", "4.shortcut.0", "4.add"),
        *("5.conv1", "5.conv2", "5.add", "6", "logits"),
    ]
    assert list(histograms_of("odd")) == [
        *("images", "stem", "depth", "group", "project", "add", "mean", "hidden", "logits"),
    ]


@tracing
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_neither_batches_nor_the_dtype_of_images_matter(batch_size):
    model, images = network("mlp")
    whole, parts = collect(model, images), collect(model, to_float(images), batch_size=batch_size)
    for name in whole:
        assert parts[name].count == whole[name].count
        assert parts[name].maximum == pytest.approx(whole[name].maximum, rel=1e-5)
    assert np.array_equal(parts["images"].counts, whole["images"].counts)
    assert collect(model, images, bins=300)["1"].bins == 300


@tracing
def test_ranges_are_those_of_the_histograms_and_logits_are_never_clipped(monkeypatch):
    histograms = histograms_of("resnet")
    for method in METHODS:
        ranges = calibrate(histograms, method, bits=5, percentile=99)
        for name, histogram in histograms.items():
            chosen = "max" if name == "logits" else method
            assert ranges[name] == histogram.range(chosen, bits=5, percentile=99)
    ranges, logits = calibrate(histograms, "percentile", percentile=90), histograms["logits"]
    assert ranges["logits"] == (min(logits.minimum, 0), max(logits.maximum, 0))
    assert ranges["3.conv1"][1] < histograms["3.conv1"].maximum
    monkeypatch.setitem(calibration.METHODS, "half", lambda counts, width, **_: len(counts) * width / 2)
    assert calibrate(histograms, "half")["3.conv1"][1] < 0.6 * histograms["3.conv1"].maximum


@tracing
def test_what_never_changes_can_be_quantized():
    model = models.build("vgg", widths=(4, 4)).eval()
    with torch.no_grad():
        model[1].bias.fill_(-100)  # so that the ReLU gives zeros alone
    images = torch.full((3, 1, 6, 6), 7, dtype=torch.uint8)
    histograms = collect(model, images)
    assert histograms["0"].largest == 0
    for method in ("max", "percentile"):
        simulated = quantize_model(model, calibrate(histograms, method))
        found, expected = to_integer(simulated)(to_float(images)), model(to_float(images))
        torch.testing.assert_close(found, expected, atol=0.02, rtol=0)
        torch.testing.assert_close(simulated(to_float(images)), found, atol=0.02, rtol=0)


# ---- how a network may be written ----------------------------------------------------------------------------------


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


def test_activations_cut_off_where_the_given_range_goes_on():
    model = nn.Sequential(
        nn.Conv2d(1, 1, 1, bias=False), nn.ReLU6(), nn.Conv2d(1, 1, 1, bias=False), nn.Flatten()
    )
    with torch.no_grad():
        model[0].weight.fill_(1.27)
        model[2].weight.fill_(1.0)
    simulated = quantize_model(model, {"images": (-128.0, 127.0), "0": (-5.5, 20.0), "logits": (-5.5, 20.0)})
    images = torch.tensor([-100.0, -1.0, 2.0, 4.0, 50.0]).reshape(5, 1, 1, 1)
    expected = torch.tensor([0.0, 0.0, 2.5, 5.1, 6.0])
    torch.testing.assert_close(simulated(images).flatten(), expected, atol=0.06, rtol=0)
    torch.testing.assert_close(to_integer(simulated)(images).flatten(), expected, atol=0.06, rtol=0)


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


# ---- nothing is changed --------------------------------------------------------------------------------------------


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}, [
        (name, module.training) for name, module in model.named_modules()
    ]


@tracing
@pytest.mark.parametrize("name", ["resnet", "odd"])
def test_what_is_passed_in_stays_as_it_was(name):
    model, images = copy.deepcopy(network(name)[0]).train(), network(name)[1]
    before, modes = state(model)
    histograms = collect(model, images)
    counts = {key: (histogram.count, histogram.counts) for key, histogram in histograms.items()}
    ranges = calibrate(histograms, "entropy")
    kept = dict(ranges)
    folded = fold_batch_norm(model, to_float(images))
    simulated = quantize_model(model, ranges)
    simulated_before = simulated(to_float(images))
    integers = to_integer(simulated)
    integers(to_float(images))
    after, modes_after = state(model)
    assert modes_after == modes
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert ranges == kept
    assert all(histograms[key].count == count for key, (count, _) in counts.items())
    assert all(np.array_equal(histograms[key].counts, found) for key, (_, found) in counts.items())
    assert torch.equal(simulated(to_float(images)), simulated_before)
    assert not any(module.training for module in folded.modules())
    norms = [layer for layer in folded.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    assert not norms
    with torch.no_grad():
        expected = copy.deepcopy(model).eval()(to_float(images))
        torch.testing.assert_close(folded(to_float(images)), expected, atol=1e-4, rtol=1e-4)


@tracing
def test_networks_can_be_copied_and_sent():
    simulated = quantized("odd")
    images = to_float(network("odd")[1])
    for net in (simulated, to_integer(simulated)):
        for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            assert torch.equal(other(images), net(images))


@tracing
def test_a_long_batch_is_as_its_images():
    simulated = quantized("mlp")
    images = to_float(network("mlp")[1]).repeat(12, 1, 1, 1)
    for net in (simulated, to_integer(simulated)):
        assert net(images).shape == (len(images), 10)
        assert torch.equal(net(images)[:3], net(images[:3]))


@tracing
def test_an_integer_network_stores_a_byte_for_each_weight():
    integers = to_integer(quantized("vgg"))
    stored = integers.state_dict()
    assert {tensor.dtype for tensor in stored.values()} == {torch.int8, torch.int32}
    assert stored["network.4.weight"].shape == (8, 8, 3, 3)
    assert (
        dict(integers.named_parameters()).keys() == stored.keys()
    )  # training.predict asks them for the device
    assert "Conv2d, weight=torch.int8 [8, 8, 3, 3]" in repr(integers)


def test_importing_needs_neither_onnx_nor_plots():
    code = "import sys, course_lib.quantization.workflow; print(*sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "course_lib.quantization.integer" in found
    assert not {"onnx", "onnxruntime", "onnxscript", "matplotlib", "dask"} & set(found)


# ---- bad input -----------------------------------------------------------------------------------------------------

IMAGES = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


class Body(nn.Module):
    """A network of one convolution whose rest is a function."""

    def __init__(self, body, **layers):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.scale = nn.Parameter(torch.ones(1))
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.body = body

    def forward(self, x):
        return self.body(self, x)


def two_outputs(m, x):
    x = m.conv(x)
    return x, x


def in_place(m, x):
    x = m.conv(x)
    y = F.relu(x, inplace=True)
    return x + y


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


def odd_padding():
    model = Body(lambda m, x: m.conv(x))
    model.conv = nn.Conv2d(3, 4, 2, padding="same")
    return model


REFUSED = {
    "silu": (
        lambda: Body(lambda m, x: m.act(m.conv(x)), act=nn.SiLU()),
        r"'act' .* it is a SiLU\. Accepted are Conv2d",
    ),
    "sigmoid": (lambda: Body(lambda m, x: torch.sigmoid(m.conv(x))), "'sigmoid' .* the function 'sigmoid'"),
    "concat": (lambda: Body(lambda m, x: torch.cat([m.conv(x)] * 2, 1)), "the function 'cat'"),
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
    "slice": (lambda: Body(lambda m, x: m.conv(x)[:, :2]), "a part of a tensor"),
    "channels counted": (lambda: Body(lambda m, x: m.conv(x).view(x.size(1), -1)), "another size"),
    "attribute": (lambda: Body(lambda m, x: m.conv(x).T), "the attribute 'T'"),
    "view": (lambda: Body(lambda m, x: m.conv(x).view(3, 4, -1)), r"\[N, all the rest\]"),
    "mean of channels": (
        lambda: Body(lambda m, x: m.conv(x).mean(1)),
        "the axes 1, not over height and width",
    ),
    "adaptive": (
        lambda: Body(lambda m, x: m.pool(m.conv(x)), pool=nn.AdaptiveAvgPool2d(3)),
        "'pool' .* to the size 3, not to 1",
    ),
    "ceil": (lambda: Body(lambda m, x: F.max_pool2d(m.conv(x), 4, ceil_mode=True)), "ceil_mode"),
    "padding that does not count": (
        lambda: Body(
            lambda m, x: m.pool(m.conv(x)), pool=nn.AvgPool2d(2, padding=1, count_include_pad=False)
        ),
        "padding does not count",
    ),
    "dropout always on": (lambda: Body(lambda m, x: F.dropout(m.conv(x))), "the function 'dropout'"),
    "unknown argument": (lambda: Body(lambda m, x: m.conv(x).mean((2, 3), dtype=torch.float64)), "dtype"),
    "reflection": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")), "'reflect'"),
    "one side more": (odd_padding, "one side more"),
    "in place": (in_place, "in place on a tensor that others read"),
    "sum in place": (in_place_sum, "in place on a tensor that others read"),
    "two outputs": (two_outputs, "something else than one tensor"),
    "nothing to quantize": (lambda: nn.Sequential(nn.Flatten(), nn.ReLU()), "no convolution or linear layer"),
    "branch on values": (
        lambda: Body(lambda m, x: m.conv(x) if x.sum() > 0 else x),
        "torch.fx cannot trace the model: TraceError",
    ),
    "norm first": (
        lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)),
        "batch norm '0' .* follows 'input",
    ),
    "norm behind relu": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)),
        "batch norm '2' .* follows '_1'",
    ),
    "norm of a shared layer": (
        lambda: Body(lambda m, x: m.norm(m.fc(x)) + m.fc(x), fc=nn.Linear(8, 8), norm=nn.BatchNorm2d(3)),
        "batch norm 'norm'",
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


@pytest.mark.bad_input
def test_a_hook_that_tracing_does_not_see_is_found_by_comparing():
    model = copy.deepcopy(network("mlp")[0])
    model.register_forward_hook(lambda layer, inputs, output: output + 1)
    with pytest.raises(ValueError, match=r"computes something else than before\. Look for hooks"):
        collect(model, network("mlp")[1])


def sum_through_an_alias(m, x):
    y = z = m.conv(x)
    y += m.conv2(x)  # torch.fx has it as y = y + ..., which leaves z alone
    return y + z


@pytest.mark.bad_input
def test_what_tracing_or_folding_gets_wrong_is_found_by_comparing():
    with pytest.raises(ValueError, match="computes something else than before"):
        collect(Body(sum_through_an_alias, conv2=nn.Conv2d(3, 4, 3)), IMAGES)
    # The norm is over the three channels, the linear layer over the last axis.
    model = Body(lambda m, x: m.norm(m.fc(x)), fc=nn.Linear(5, 3), norm=nn.BatchNorm1d(3))
    model.norm.running_mean[0] = 1.0
    with pytest.raises(ValueError, match=r"computes something else than before.*another axis"):
        fold_batch_norm(model.eval(), torch.rand(2, 3, 5))


def poisoned(value, place="weight"):
    model = copy.deepcopy(network("vgg")[0])
    with torch.no_grad():
        getattr(model[4], place)[0] = value
    return model


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: collect(nn.Linear, IMAGES), TypeError, "model is the class Linear"),
        (lambda: collect(3, IMAGES), TypeError, "model is a int"),
        (lambda: collect(network("vgg")[0], IMAGES.tolist()), TypeError, "images are a list"),
        (lambda: collect(network("vgg")[0], IMAGES.int()), TypeError, "images have dtype torch.int32"),
        (lambda: collect(network("vgg")[0], IMAGES.double()), TypeError, "images have dtype torch.float64"),
        (lambda: collect(network("vgg")[0], IMAGES[0]), ValueError, r"images have shape \[3, 8, 8\]"),
        (lambda: collect(network("vgg")[0], IMAGES[:0]), ValueError, r"\[0, 3, 8, 8\].*at least one image"),
        (
            lambda: collect(network("vgg")[0], IMAGES[:, :1]),
            ValueError,
            "does not run on an example of shape",
        ),
        (lambda: collect(network("vgg")[0], IMAGES, bins=1), ValueError, "bins is 1; it must be at least 2"),
        (lambda: collect(network("vgg")[0], IMAGES, batch_size=0), ValueError, "batch_size is 0"),
        (
            lambda: collect(copy.deepcopy(network("mlp")[0]).double(), IMAGES),
            ValueError,
            r"'1.weight' has dtype .*64",
        ),
        (lambda: collect(poisoned(torch.nan), IMAGES), ValueError, "tensor '4': x holds NaN"),
        (lambda: collect(poisoned(3e38), IMAGES), ValueError, "tensor '4': x holds infinity"),
        (lambda: collect(network("vgg")[0], IMAGES / torch.zeros(1)), ValueError, "tensor 'images': x holds"),
        (lambda: fold_batch_norm(3, IMAGES), TypeError, "model is a int"),
        (lambda: fold_batch_norm(network("vgg")[0], IMAGES[:, :1].float()), ValueError, "does not run"),
        (
            lambda: calibrate(histograms_of("vgg"), "maximum"),
            ValueError,
            "unknown calibration method 'maximum'",
        ),
        (lambda: calibrate(histograms_of("vgg"), bits=1), ValueError, "bits is 1; it must be from 2 to 16"),
        (lambda: calibrate(histograms_of("vgg"), bits=8.0), TypeError, "bits is 8.0"),
        (lambda: calibrate(histograms_of("vgg"), percentile=0), ValueError, "percentile is 0"),
        (lambda: calibrate(list(histograms_of("vgg"))), TypeError, "histograms are a list"),
        (lambda: calibrate({}), ValueError, "there are no histograms"),
        (lambda: calibrate({"a": 3}), TypeError, "the histogram of 'a' is a int"),
        (lambda: calibrate({"a": Histogram()}), ValueError, "tensor 'a': the histogram is empty"),
        (
            lambda: calibrate(collect(*network("mlp"), bins=200), "entropy"),
            ValueError,
            "tensor 'images': the values lie in .* bins, too few",
        ),
        (lambda: to_integer(network("mlp")[0]), TypeError, "simulated is a Sequential"),
        (lambda: to_integer(quantized("mlp", weight_bits=9)), ValueError, "'1' has 9 bits; .* 2 to 8"),
        (lambda: to_integer(quantized("mlp", activation_bits=16)), ValueError, "'images' has 16 bits"),
        (lambda: quantized("mlp")(IMAGES), TypeError, "images have dtype uint8.*to_float"),
        (lambda: to_integer(quantized("mlp"))(IMAGES), TypeError, "images have dtype uint8.*to_float"),
        (lambda: to_integer(quantized("mlp"))([1]), TypeError, "images is a list"),
        (
            lambda: to_integer(quantized("mlp"))(torch.full((1, 3, 8, 8), torch.nan)),
            ValueError,
            "x holds NaN",
        ),
    ],
)
def test_wrong_arguments_are_named(call, error, words):
    with pytest.raises(error, match=words):
        call()


RANGES = {"images": (0.0, 1.0), "1": (0.0, 2.0), "3": (0.0, 2.0), "logits": (-1.0, 1.0)}


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"weight_bits": 1}, ValueError, "weight_bits is 1; it must be from 2 to 16"),
        ({"weight_bits": 17}, ValueError, "weight_bits is 17"),
        ({"activation_bits": 0}, ValueError, "activation_bits is 0"),
        ({"activation_bits": "8"}, TypeError, "activation_bits is '8'"),
        ({"per_channel": 1}, TypeError, "per_channel is 1"),
        ({"weight_method": "entropy"}, ValueError, "unknown weight_method 'entropy'.*Known: max, mse"),
        ({"keep": "1"}, TypeError, r"keep is '1'; it must be the names of layers, such as \('1',\)"),
        ({"keep": 3}, TypeError, "keep is 3"),
        ({"keep": ("1", "2")}, KeyError, "unknown layer '2'.*Known: 1, 3, 5"),
        ({"ranges": list(RANGES)}, TypeError, "ranges are a list"),
        ({"ranges": RANGES | {"2": (0, 1)}}, KeyError, "unknown tensor '2'.*Known: images, 1, 3, logits"),
        ({"ranges": {"images": (0, 1)}}, KeyError, "ranges lack the tensor '1'"),
        ({"ranges": RANGES | {"3": 5.0}}, ValueError, "the range of '3' is 5.0; it must be a pair"),
        ({"ranges": RANGES | {"3": (1.0, 0.0)}}, ValueError, r"the range of '3' is \(1, 0\)"),
        ({"ranges": RANGES | {"3": (0.0, torch.inf)}}, ValueError, "a bound of '3' is inf"),
        ({"ranges": RANGES | {"3": (0.0, "1")}}, TypeError, "a bound of '3' is '1'"),
        ({"model": 3}, TypeError, "model is a int"),
    ],
)
def test_wrong_arguments_of_quantize_model_are_named(changes, error, words):
    arguments = {"model": network("mlp")[0], "ranges": RANGES}
    quantize_model(**arguments)
    with pytest.raises(error, match=words):
        quantize_model(**arguments | changes)


@pytest.mark.bad_input
def test_a_weight_that_diverged_and_a_sum_that_overflows_name_their_layer():
    ranges = calibrate(histograms_of("vgg"))
    with pytest.raises(ValueError, match="layer '4': x holds NaN"):
        quantize_model(poisoned(torch.nan), ranges)
    model = nn.Sequential(nn.Flatten(), nn.Linear(80_000, 1, bias=False))
    nn.init.ones_(model[1].weight)
    integers = to_integer(quantize_model(model, {"images": (0.0, 1.0), "logits": (0.0, 1e5)}))
    with pytest.raises(ValueError, match=r"'1': the sums run .* beyond the int32 accumulator"):
        integers(torch.ones(1, 1, 1, 80_000))
