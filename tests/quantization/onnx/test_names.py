"""Which tensor of a file is which of the workflow, and ranges that go by these names."""

import copy

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_lib.data import to_float
from course_lib.quantization.onnx import collect, export, quantize, run
from course_lib.quantization.workflow import calibrate, fold_batch_norm, quantize_model, to_integer
from course_lib.quantization.workflow import collect as collect_ours
from tests.quantization.networks import NETWORKS, Body, histograms_of, network, seeded, traces
from tests.quantization.onnx.files import pictures
from tests.quantization.test_integer_network import EXACT

IMAGES = pictures(12, channels=3)


@traces
@pytest.mark.parametrize("name", NETWORKS)
def test_named_alike_tensors_hold_the_same_values(name, tmp_path):
    model, images = network(name)
    path, names = export(model, to_float(images), tmp_path / "a.onnx")
    ours, theirs = histograms_of(name), collect(path, images)
    assert list(dict.fromkeys(names.values())) == list(ours)
    assert set(theirs) <= set(names)
    last = {
        names[tensor]: found
        for tensor, found in theirs.items()
        if not tensor.startswith(("view", "avg", "expand"))
    }
    for tensor, found in last.items():  # behind the ReLU; what is flattened or pooled has other counts
        if "max_pool" in " ".join(key for key, value in names.items() if value == tensor):
            continue
        assert found.count == ours[tensor].count
        assert found.minimum == pytest.approx(ours[tensor].minimum, abs=1e-4)
        assert found.maximum == pytest.approx(ours[tensor].maximum, rel=1e-4)


def test_names_by_hand(tmp_path):
    def body(m, x):
        x = F.relu(m.conv(x))
        y = m.left(x) + m.right(x)
        y = F.max_pool2d(F.relu(y), 2) + F.max_pool2d(m.right2(y), 2)
        return m.fc(y.mean((2, 3)))

    layers = {"left": nn.Conv2d(4, 4, 1), "right": nn.Conv2d(4, 4, 1), "right2": nn.Conv2d(4, 4, 1)}
    model = seeded(Body, body, **layers, fc=nn.Linear(4, 3))
    path, names = export(model, to_float(IMAGES), tmp_path / "a.onnx")
    operators = {node.output[0]: node.op_type for node in onnx.load(path).graph.node}
    assert [(operators.get(theirs), ours) for theirs, ours in names.items()] == [
        (None, "images"),
        ("Conv", "conv"),
        ("Relu", "conv"),
        ("Conv", "left"),
        ("Conv", "right"),
        ("Add", "add"),
        ("Relu", "add"),
        ("MaxPool", "add"),
        ("Conv", "right2"),
        ("MaxPool", "right2"),
        ("Add", "add_1"),
        ("GlobalAveragePool", "mean"),
        ("Flatten", "mean"),
        ("Gemm", "logits"),
    ]


def branches():
    """Layers that read one tensor, called in another order than they are defined; two of them have equal weights."""

    def body(m, x):
        y = m.conv(x)
        z = m.three(y) + m.two(y)
        return (z.relu() + (z + z)) + (m.copy(y) + m.one(y))

    layers = {name: nn.Conv2d(4, 4, 1) for name in ("one", "two", "three", "copy")}
    model = seeded(Body, body, **layers)
    with torch.no_grad():
        model.copy.weight.copy_(model.one.weight)
        model.two.weight.mul_(3)
        model.three.bias.sub_(0.5)
    return model


@EXACT
@traces
def test_ranges_go_by_name_where_order_and_extremes_do_not_tell(tmp_path):
    model = branches()
    histograms = collect_ours(model, IMAGES)
    ranges = calibrate(histograms)
    path, names = export(model, to_float(IMAGES), tmp_path / "a.onnx")
    operators = {node.output[0]: node.op_type for node in onnx.load(path).graph.node}
    compared = 0
    for tensor, found in collect(path, IMAGES).items():
        if operators.get(tensor) in ("Conv", "Add"):
            ours = histograms[names[tensor]]
            assert (found.minimum, found.maximum) == pytest.approx((ours.minimum, ours.maximum), abs=1e-4)
            compared += 1
    assert compared == 10
    assert ranges["add"][0] < 0  # read by a ReLU and by another sum, so the ReLU has its range
    small = quantize(path, tmp_path / "b.onnx", ranges=ranges, names=names)
    simulated = quantize_model(model, ranges)
    # Where a sum has two readers, ONNX Runtime adds in float32.
    apart = (run(small, IMAGES) - to_integer(simulated)(to_float(IMAGES))).abs()
    assert apart.max() <= 1.01 * simulated.activations["logits"].scale
    assert (apart > 1e-5).float().mean() < 0.02


@traces
def test_names_depend_on_the_network_alone(tmp_path):
    model, images = network("resnet")
    images = to_float(images)
    expected = export(model, images, tmp_path / "a.onnx").names
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    again = export(last, images[:1].contiguous(memory_format=torch.channels_last), tmp_path / "b.onnx").names
    assert again == expected
    assert export(copy.deepcopy(model).train(), images, tmp_path / "c.onnx").names == expected
    folded = export(fold_batch_norm(model, images), images, tmp_path / "d.onnx").names
    assert list(folded.values()) == list(expected.values())


@traces
def test_ranges_by_name_are_those_by_the_names_of_the_file(tmp_path):
    model, images = network("vgg")
    path, names = export(model, to_float(images), tmp_path / "a.onnx")
    ranges = calibrate(histograms_of("vgg"), "mse")
    by_name = quantize(path, tmp_path / "b.onnx", ranges=ranges, names=names)
    by_file = {tensor: ranges[names[tensor]] for tensor in collect(path, images)}
    assert quantize(path, tmp_path / "c.onnx", ranges=by_file).read_bytes() == by_name.read_bytes()


@pytest.mark.bad_input
def test_what_workflow_refuses_has_no_names(tmp_path):
    model = seeded(Body, lambda m, x: m.act(m.conv(x)), act=nn.Mish())
    path, names = export(model, to_float(IMAGES), tmp_path / "a.onnx")
    assert names == {}
    for options, error, words in (
        (
            {"ranges": {}, "names": names},
            ValueError,
            "names are empty: workflow has no integer form of this network",
        ),
        ({"ranges": {}, "names": [1]}, TypeError, "names are a list; they must be {tensor of the file"),
        ({"images": IMAGES, "names": {"images": "images"}}, ValueError, "names are given without ranges"),
        ({"ranges": {"conv": (0, 1)}, "names": {"images": "images"}}, KeyError, "unknown tensor 'conv'"),
        (
            {"ranges": {"images": (0, 1)}, "names": {"images": "images", "a": "b"}},
            KeyError,
            "lack the tensor 'b'",
        ),
        ({"ranges": {"images": (0, 1)}, "names": {"images": "images"}}, KeyError, "lack the tensor 'conv2d'"),
    ):
        with pytest.raises(error, match=words):
            quantize(path, tmp_path / "b.onnx", **options)
