"""Quantized networks as files: the integers of `workflow.to_integer`, in one call."""

import copy
import functools

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from course_lib.data import to_float
from course_lib.quantization.aware import prepare
from course_lib.quantization.onnx import collect, export, quantize, run
from course_lib.quantization.onnx._kept import whole_numbers
from course_lib.quantization.workflow import calibrate, fold_batch_norm, quantize_model, to_integer
from course_lib.quantization.workflow import collect as collect_ours
from tests.quantization.networks import histograms_of, network, seeded, state, traces
from tests.quantization.onnx.files import constants_of, linear_file, operators, pictures
from tests.quantization.test_integer_network import EXACT


def random_network(seed):
    """Convolutions of random shape, residual, with pooling, some of them without bias or ReLU."""
    rng = np.random.default_rng(seed)

    def pick(*values):
        return values[rng.integers(len(values))]

    class Residual(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1, groups=pick(1, width), bias=pick(True, False)),
                nn.BatchNorm2d(width),
            )

        def forward(self, x):
            return x + self.body(x)

    width = 4
    layers = [nn.Conv2d(3, width, pick(1, 3), padding=pick(0, 1))]
    for _ in range(3):
        wider = pick(4, 6, 8)
        layers += [pick(nn.ReLU(), nn.ReLU6(), nn.Identity())]
        layers += [nn.Conv2d(width, wider, 3, pick(1, 2), 2, dilation=pick(1, 2), bias=pick(True, False))]
        layers += [
            pick(nn.Identity(), nn.BatchNorm2d(wider)),
            pick(nn.ReLU(), nn.Identity()),
            Residual(wider),
        ]
        layers += [pick(nn.MaxPool2d(2), nn.Identity())]
        width = wider
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5, bias=pick(True, False))]
    return nn.Sequential(*layers)


@EXACT
@traces
@pytest.mark.parametrize("seed", range(2))
def test_random_networks_are_equal_to_the_bit(seed, tmp_path):
    model = seeded(random_network, seed)
    images = pictures(12, seed, channels=3, size=13)
    ranges = calibrate(collect_ours(model, images), ("max", "mse")[seed % 2])
    options = {"weight_bits": (8, 4)[seed % 2], "per_channel": seed % 2 == 0}
    simulated = quantize_model(model, ranges, **options)
    expected = to_integer(simulated)(to_float(images))
    path = export(simulated, to_float(images[:1]), tmp_path / "int8.onnx").path
    assert torch.equal(run(path, images), expected)
    assert expected.std() > 0


@EXACT
@traces
def test_all_kinds_of_quantized_networks_give_one_file_and_stay_as_they_were(tmp_path):
    model, images = network("odd")
    ranges = calibrate(histograms_of("odd"), "mse")
    simulated = quantize_model(model, ranges)
    files = []
    for kind, net in {
        "simulated": simulated,
        "prepared": prepare(model, ranges).train(),
        "integer": to_integer(simulated),
    }.items():
        before = copy.deepcopy(state(net))
        path, names = export(net, to_float(images[:2]), tmp_path / f"{kind}.onnx")
        assert str(before) == str(state(net))
        files.append(path.read_bytes())
    assert files[0] == files[1] == files[2]
    assert torch.equal(run(path, images), to_integer(simulated)(to_float(images)))
    onnx.checker.check_model(path, full_check=True)
    # Operator by operator as the standard has them, before ONNX Runtime joins any: float32 sums, so but for halves.
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    plain = session.run(None, {"images": to_float(images).numpy()})[0]
    assert np.abs(plain - run(path, images).numpy()).max() < 1.5 * simulated.activations["logits"].scale
    constants = constants_of(path)
    for theirs, ours in names.items():
        assert constants[f"{theirs}_scale"] == simulated.activations[ours].scale
    assert list(dict.fromkeys(names.values())) == list(ranges)
    assert np.array_equal(constants["hidden.weight_quantized"], to_integer(simulated).network.hidden.weight)
    assert "Clip" not in operators(path)  # the ranges cut off


@EXACT
@traces
def test_a_relu_inside_of_its_range_cuts_integers_off(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU6(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Flatten())
    with torch.no_grad():
        model[0].weight.mul_(40)
    ranges = {"images": (0, 1), "0": (0, 20), "logits": (-2, 9)}
    simulated = quantize_model(model, ranges)
    images = pictures(9, channels=3)
    expected = to_integer(simulated)(to_float(images))
    path = export(simulated, to_float(images[:1]), tmp_path / "int8.onnx").path
    assert torch.equal(run(path, images), expected)
    assert operators(path).count("Clip") == 2
    assert expected.min() == 0


@EXACT
@traces
def test_means_half_way_between_two_steps_are_rounded_as_integers(tmp_path):
    # Summed in float32, a mean of 3.5 steps may lie on either side of it.
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)))
    images = pictures(400, channels=3, size=4)
    ranges = calibrate(collect_ours(model, images), "max")
    *_, layer, mean = ranges
    integers = to_integer(quantize_model(model, {**ranges, mean: ranges[layer]}))
    path = export(integers, to_float(images[:1]), tmp_path / "means.onnx").path
    assert torch.equal(run(path, images), integers(to_float(images)))
    assert "GlobalAveragePool" in operators(path)


@traces
def test_kept_layers_are_in_float_in_the_file(tmp_path):
    model, images = network("vgg")
    simulated = quantize_model(model, calibrate(histograms_of("vgg")), keep=("0", "12"))
    path, names = export(simulated, to_float(images[:1]), tmp_path / "int8.onnx")
    constants = constants_of(path)
    for layer in ("0", "12"):
        kept = simulated.network.get_submodule(layer)
        assert np.array_equal(constants[f"{layer}.weight"], kept.weight.detach())
    assert constants["4.weight_quantized"].dtype == np.int8
    assert f"{next(iter(names))}_scale" not in constants  # the images, which only a kept layer reads
    found, expected = run(path, images), to_integer(simulated)(to_float(images))
    assert (found - expected).abs().max() < 0.02 * expected.abs().max()


@EXACT
@traces
@pytest.mark.parametrize("name", ["vgg", "resnet"])
def test_a_float_file_needs_no_fold_before_it(name, tmp_path):
    model, images = network(name)
    ranges = calibrate(histograms_of(name), "mse")
    before = copy.deepcopy(state(model))
    path, names = export(model, to_float(images[:1]), tmp_path / "float.onnx")
    small = quantize(path, tmp_path / "int8.onnx", ranges=ranges, names=names)
    assert torch.equal(run(small, images), to_integer(quantize_model(model, ranges))(to_float(images)))
    assert str(before) == str(state(model))
    folded, constants = fold_batch_norm(model, to_float(images[:1])), constants_of(path)
    weights = [name for name in constants if name.endswith(("weight", "bias"))]
    assert len(weights) > 6
    for weight in weights:
        assert np.array_equal(constants[weight], folded.get_parameter(weight).detach())


@traces
@pytest.mark.bad_input
def test_networks_of_other_bits_have_no_file(tmp_path):
    model, images = network("mlp")
    ranges = calibrate(histograms_of("mlp"))
    for options, message in (
        ({"activation_bits": 4}, r"tensor 'images' has 4 bits; .*Quantize with activation_bits=8"),
        ({"weight_bits": 9}, r"'1' has 9 bits; .*Quantize with fewer"),
    ):
        with pytest.raises(ValueError, match=message):
            export(quantize_model(model, ranges, **options), to_float(images[:1]), tmp_path / "a.onnx")
    simulated = quantize_model(model, ranges)
    for example, error in ((to_float(images[:1]).double(), ValueError), (torch.zeros(1, 5), ValueError)):
        with pytest.raises(error, match="does not run on an example"):
            export(simulated, example, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_normalised_images_go_the_same_way_in_both_forms(tmp_path):
    path = linear_file(tmp_path / "a.onnx")
    images = pictures(6, size=2)[:, :, :1]
    normalised = (to_float(images) - 0.4) / 0.2
    plain, other = collect(path, images), collect(path, normalised)
    assert plain["images"].minimum >= 0
    assert other["images"].minimum == normalised.min()
    weight, bias = (constants_of(path)[name] for name in ("weight", "bias"))
    expected = normalised.flatten(1) @ torch.from_numpy(weight).T + torch.from_numpy(bias)
    torch.testing.assert_close(run(path, normalised), expected)
    small = quantize(path, tmp_path / "b.onnx", images=normalised)
    assert (run(small, normalised) - expected).abs().max() < 0.05


@pytest.mark.bad_input
def test_a_file_is_not_quantized_onto_itself(tmp_path, monkeypatch):
    path = linear_file(tmp_path / "a.onnx")
    content = path.read_bytes()
    (tmp_path / "link.onnx").symlink_to(path)
    (tmp_path / "hard.onnx").hardlink_to(path)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    for source, target in (
        (path, path),
        (path, "a.onnx"),
        ("a.onnx", tmp_path / "sub" / ".." / "a.onnx"),
        (path, "link.onnx"),
        ("link.onnx", path),
        (path, "hard.onnx"),
    ):
        with pytest.raises(ValueError, match=r"target is .*which would be lost. Give another name"):
            quantize(source, target, images=pictures(2, size=2)[:, :, :1])
    assert path.read_bytes() == content


@traces
@pytest.mark.bad_input
def test_quantized_networks_are_told_from_others():
    model, images = network("mlp")
    ranges = calibrate(histograms_of("mlp"))
    simulated = quantize_model(model, ranges)
    for net in (simulated, to_integer(simulated), prepare(model, ranges)):
        calls = (functools.partial(collect_ours, net, images), functools.partial(quantize_model, net, ranges))
        for call in calls:
            with pytest.raises(
                TypeError, match=rf"model is a {type(net).__name__}, which is quantized already"
            ):
                call()
        with pytest.raises(TypeError, match=r"images have dtype torch.float64; .* Call .float\(\)"):
            net(to_float(images).double())
    with pytest.raises(TypeError, match="compile"):
        collect_ours(torch.compile(model), images)


@EXACT
@traces
def test_layers_kept_by_the_quantizer_of_onnx_runtime_are_those_of_the_workflow(tmp_path):
    model, images = network("vgg")
    ranges = calibrate(histograms_of("vgg"))
    path, names = export(model, to_float(images[:1]), tmp_path / "float.onnx")
    ours = export(
        quantize_model(model, ranges, keep=("0", "4", "12")), to_float(images[:1]), tmp_path / "a.onnx"
    )
    theirs = quantize(path, tmp_path / "b.onnx", ranges=ranges, names=names, keep=("0", "4", "12"))
    assert torch.equal(run(ours.path, images), run(theirs, images))
    constants = constants_of(theirs)
    assert np.array_equal(constants["0.weight"], constants_of(path)["0.weight"])
    assert {name for name in constants if name.endswith("_quantized")} >= {"7.weight_quantized"}
    assert not {"0.weight_quantized", "12.weight_quantized", "images_scale", "relu_scale"} & constants.keys()


@pytest.mark.bad_input
def test_unknown_layers_to_keep(tmp_path):
    path, images = linear_file(tmp_path / "a.onnx"), pictures(2, size=2)[:, :, :1]
    for keep, error, message in (
        ("weight", TypeError, "keep is 'weight'; it must be the names of layers"),
        (5, TypeError, "keep is 5; it must be the names"),
        (("fc",), KeyError, "unknown layer 'fc'.*weight"),
    ):
        with pytest.raises(error, match=message):
            quantize(path, tmp_path / "b.onnx", images=images, keep=keep)
    assert list(tmp_path.iterdir()) == [path]


@EXACT
@traces
@pytest.mark.parametrize("bias", [True, False])
def test_layers_kept_between_quantized_ones_are_not_rounded_by_onnx_runtime(bias, tmp_path):
    model = seeded(
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3, bias=bias), nn.ReLU()),
            *(nn.ConvTranspose2d(4, 2, 2, bias=bias), nn.Flatten()),
            *(nn.Linear(50, 20, bias=bias), nn.ReLU(), nn.Linear(20, 9)),
        )
    )
    images = pictures(20, channels=3)
    ranges, keep = calibrate(collect_ours(model, images)), ("1", "5")
    simulated = quantize_model(model, ranges, keep=keep)
    expected = to_integer(simulated)(to_float(images))
    one = export(simulated, to_float(images[:1]), tmp_path / "a.onnx").path
    path, names = export(model, to_float(images[:1]), tmp_path / "b.onnx")
    two = quantize(path, tmp_path / "c.onnx", ranges=ranges, names=names, keep=keep)
    for found in (run(one, images), run(two, images)):
        assert (found == expected).double().mean() > 0.97  # their last bits decide now and then


def test_a_bias_of_whole_numbers_and_powers_of_two_is_exact():
    bias = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 10 ** torch.linspace(-20, 20, 1000)
    bias[::7] = 0
    numbers, scale = whole_numbers(bias)
    assert numbers.dtype == torch.int32
    assert torch.equal(numbers * scale, bias)
