"""Networks that normalise their images inside, as files: ONNX Runtime has the logits of the integer network."""

import pytest
import torch
from torch import nn
from torchvision import transforms

from course_lib.data import to_float
from course_lib.quantization.aware import prepare
from course_lib.quantization.onnx import export, quantize, run
from course_lib.quantization.workflow import calibrate, quantize_model, to_integer
from course_lib.quantization.workflow import collect as collect_ours
from tests.quantization.networks import seeded, traces
from tests.quantization.onnx.files import constants_of, operators, written
from tests.quantization.test_integer_network import EXACT
from tests.quantization.test_prologue import IMAGES, PICTURE, inside

EXAMPLE = to_float(IMAGES[:2])


def integers_of(path):
    """All that a file holds in 8 bits, sorted."""
    return sorted(values.tobytes() for values in constants_of(path).values() if values.dtype == "int8")


@EXACT
@traces
@pytest.mark.parametrize("form", ["module", lambda m, x: (1 - 3 * (x + PICTURE)) / m.std])
def test_both_ways_to_a_file_give_the_logits_of_the_integer_network(form, tmp_path):
    model = inside(form)
    layer, ranges = model.norm, calibrate(collect_ours(model, IMAGES))
    simulated = quantize_model(model, ranges)
    expected = to_integer(simulated)(to_float(IMAGES))
    ours, _ = export(simulated, EXAMPLE, tmp_path / "ours.onnx")
    assert torch.equal(run(ours, IMAGES), expected)
    path, names = export(model, EXAMPLE, tmp_path / "float.onnx")
    assert list(dict.fromkeys(names.values())) == list(ranges)
    theirs = quantize(path, tmp_path / "theirs.onnx", ranges=ranges, names=names)
    assert torch.equal(run(theirs, IMAGES), expected)
    assert integers_of(ours) == integers_of(theirs)
    assert model.norm is layer  # of the network that was given


@EXACT
@traces
def test_of_rounding_in_training(tmp_path):
    model = inside("attribute of torchvision")
    ranges = calibrate(collect_ours(model, IMAGES))
    path, _ = export(prepare(model, ranges, weight_bits=4), EXAMPLE, tmp_path / "a.onnx")
    integers = to_integer(quantize_model(model, ranges, weight_bits=4))
    assert torch.equal(run(path, IMAGES), integers(to_float(IMAGES)))


def test_own_calibration_rounds_the_images_behind_the_prologue_alone(tmp_path):
    constants = {"mean": [[-0.5]], "std": [[4.0]], "weight": [[1.0, -0.5], [0.25, 0.1]]}
    nodes = [
        ("Add", ["images", "mean"], ["a"], {}),
        ("Mul", ["a", "std"], ["b"], {}),
        ("Reshape", ["b", "rows"], ["c"], {}),
        ("MatMul", ["c", "weight"], ["y"], {}),
    ]
    tensors = {name: torch.tensor(values).numpy() for name, values in constants.items()}
    rows = {"rows": torch.tensor([-1, 2]).numpy()}
    path = written(tmp_path / "a.onnx", nodes, tensors | rows)
    images = torch.rand(20, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    target = quantize(path, tmp_path / "b.onnx", images=images)
    assert [operator for operator in operators(target) if operator != "DequantizeLinear"] == [
        *("Add", "Mul", "Reshape", "QuantizeLinear", "MatMul", "QuantizeLinear"),
    ]
    assert (run(target, images) - run(path, images)).abs().max() < 0.04
    # One that others read too is no prologue.
    nodes.append(("Reshape", ["images", "rows"], ["x"], {}))
    path = written(tmp_path / "c.onnx", nodes, tensors | rows, outputs=("y", "x"))
    assert "images_scale" in constants_of(quantize(path, tmp_path / "d.onnx", images=images))


@EXACT
@traces
def test_a_linear_layer_without_bias_goes_by_name(tmp_path):
    layers = (nn.Flatten(), nn.Linear(192, 6, bias=False), nn.ReLU(), nn.Linear(6, 4, bias=False))
    model = seeded(nn.Sequential, transforms.Normalize((0.5,), (0.25,)), *layers)
    ranges = calibrate(collect_ours(model, IMAGES))
    path, names = export(model, EXAMPLE, tmp_path / "a.onnx")
    target = quantize(path, tmp_path / "b.onnx", ranges=ranges, names=names)
    expected = to_integer(quantize_model(model, ranges))(to_float(IMAGES))
    assert torch.equal(run(target, IMAGES), expected)
