"""8-bit files, quantized as ONNX Runtime does it, and computed as `integer` computes."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quant_pre_process, quantize_static
from torch import nn

from course_lib import checkpoints, data, tracing
from course_lib.data import to_float
from course_lib.quantization import integer
from course_lib.quantization.affine import QuantParams, choose_params, dequantize, params_of
from course_lib.quantization.affine import quantize as to_integers
from course_lib.quantization.calibration import METHODS
from course_lib.quantization.onnx import collect, export, quantize, run
from tests.quantization.onnx.files import (
    NETWORKS,
    constants_of,
    digest,
    linear_file,
    operators,
    pictures,
    written,
)
from tests.quantization.test_integer import X86


@pytest.mark.parametrize("name", ["vgg", "resnet"])
def test_histograms_hold_what_the_modules_of_the_network_give(exported, name):
    model, path = exported[name]
    images = pictures(9, seed=4)
    seen = [to_float(images)]
    kinds = (nn.ReLU, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear)
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
        for module in model.modules()
        if isinstance(module, kinds)
    ]
    with tracing.borrowed(model):
        model(seen[0])
    for hook in hooks:
        hook.remove()
    histograms = collect(path, images, bins=64, batch_size=4)
    # What only a ReLU reads is left out, but the sums before a ReLU are tensors of their own in a ResNet.
    read_by_modules = {
        key: found
        for key, found in histograms.items()
        if "relu" in key or "pool" in key or key in ("images", "mean", "view", "logits")
    }
    assert next(iter(histograms)) == "images"
    assert list(histograms)[-1] == "logits"
    if name == "vgg":
        assert len(histograms) == len(seen)
    assert len(read_by_modules) == len(seen)
    for found, values in zip(read_by_modules.values(), seen, strict=True):
        assert (found.count, found.bins) == (values.numel(), 64)
        assert found.minimum == pytest.approx(values.min().item(), abs=1e-5)
        assert found.maximum == pytest.approx(values.max().item(), abs=1e-5)


def test_counts_by_hand(tmp_path):
    nodes = [
        ("Reshape", ["images", "rows"], ["x"], {}),
        ("Gemm", ["x", "weight"], ["a"], {}),
        ("Clip", ["a", "", "one"], ["b"], {}),
        ("Relu", ["b"], ["c"], {}),
        ("Gemm", ["c", "weight"], ["d"], {}),
        ("Relu", ["d"], ["e"], {}),
        ("Add", ["d", "e"], ["y"], {}),
    ]
    constants = {
        "rows": np.int64([-1, 2]),
        "weight": np.float32([[2, -1], [0, 3]]),
        "one": np.float32(1),
    }
    path = written(tmp_path / "a.onnx", nodes, constants)
    images = torch.tensor([[0, 255], [255, 0]], dtype=torch.uint8).reshape(2, 1, 1, 2)
    # a = [[0, 3], [2, -1]], c = [[0, 1], [1, 0]], d = [[0, 3], [2, -1]], y = [[0, 6], [4, -1]]
    found = collect(path, images, bins=8, batch_size=1)
    # d has two readers; a and b, which only an activation reads, are left out
    assert list(found) == ["images", "x", "c", "d", "e", "y"]
    assert {name: (h.minimum, h.maximum, h.count) for name, h in found.items()} == {
        "images": (0, 1, 4),
        "x": (0, 1, 4),
        "c": (0, 1, 4),
        "d": (-1, 3, 4),
        "e": (0, 3, 4),
        "y": (-1, 6, 4),
    }
    assert (found["y"].width, found["y"].counts.tolist()) == (1, [1, 1, 0, 0, 1, 0, 1])
    small = quantize(path, tmp_path / "b.onnx", images=images)
    # Symmetric weights with scales 2/127 and 3/127, and activations in 255 steps: half a step of each at most
    assert run(small, images).sub(torch.tensor([[0.0, 6], [4, -1]])).abs().max() < 0.1
    assert "Clip" not in operators(small)
    assert operators(small).count("Relu") == 1  # of what Add reads too


def test_a_linear_layer_by_hand(tmp_path):
    path = linear_file(tmp_path / "a.onnx")
    ranges = {"images": (0.0, 1.0), "x": (0.0, 2.55), "y": (-1.28, 1.27)}
    small = quantize(path, tmp_path / "b.onnx", ranges=ranges)
    found = constants_of(small)
    assert found["weight_quantized"].tolist() == [[127, -50], [127, 50]]
    assert found["weight_quantized"].dtype == np.int8
    assert found["weight_scale"].tolist() == pytest.approx([0.01, 0.002])
    assert found["weight_zero_point"].tolist() == [0, 0]
    assert found["bias_quantized"].tolist() == [1000, 0]  # 0.1 in steps of 0.01 * 0.01
    assert found["bias_quantized"].dtype == np.int32
    assert (found["x_scale"].item(), found["x_zero_point"].item()) == (pytest.approx(0.01), 0)
    assert (found["y_scale"].item(), found["y_zero_point"].item()) == (pytest.approx(0.01), 128)
    assert found["x_zero_point"].dtype == np.uint8
    images = torch.tensor([[0, 255], [255, 255], [0, 0]], dtype=torch.uint8).reshape(3, 1, 1, 2)
    expected = torch.tensor([[-0.4, 0.1], [0.87, 0.35], [0.1, 0]])  # 0.354 is no whole step
    torch.testing.assert_close(run(small, images), expected)


class Batches(CalibrationDataReader):
    def __init__(self, images):
        self.batches = iter([{"images": to_float(images).numpy()}])

    def get_next(self):
        return next(self.batches, None)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("reduce_range", [False, True])
def test_the_largest_ranges_give_what_quantize_static_gives(exported, name, reduce_range, tmp_path):
    _, path = exported[name]
    images = pictures(12)
    quant_pre_process(path, tmp_path / "folded.onnx", skip_symbolic_shape=True)
    quantize_static(
        tmp_path / "folded.onnx",
        tmp_path / "theirs.onnx",
        Batches(images),
        per_channel=True,
        reduce_range=reduce_range,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    small = quantize(path, tmp_path / "ours.onnx", images=images, reduce_range=reduce_range)
    ours, theirs = constants_of(small), constants_of(tmp_path / "theirs.onnx")
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert value.dtype == theirs[key].dtype
        # The values of a batch of 12 and of a network with more outputs may differ in the last bit.
        np.testing.assert_allclose(value, theirs[key], rtol=1e-6, atol=1 if value.dtype == np.int32 else 0)
    others = pictures(20, seed=5)
    step = max(ours[key].item() for key in ours if key.startswith("logits") and key.endswith("_scale"))
    assert (run(small, others) - run(tmp_path / "theirs.onnx", others)).abs().max() <= step * 1.01
    largest = max(np.abs(value.astype(int)).max() for value in ours.values() if value.dtype == np.int8)
    assert largest == (64 if reduce_range else 127)
    # Of the activations reduce_range changes nothing.
    low, high = 0.0, to_float(images).max().item()
    first = "images" if "images_scale" in ours else "view"
    assert ours[f"{first}_scale"].item() == pytest.approx((high - low) / 255)


class Interpreter:
    """Runs an 8-bit file by `integer` alone, and keeps the integers that each QuantizeLinear gives."""

    def __init__(self, path):
        self.graph = onnx.load(path).graph
        self.constants = {k: torch.from_numpy(v) for k, v in constants_of(path).items()}

    def params(self, node):
        scale, zero_point = (self.constants[name] for name in node.input[1:3])
        axis = 0 if scale.ndim else None
        return QuantParams(scale, zero_point.int(), 8, zero_point.dtype == torch.int8, axis)

    def run(self, images):
        values, found = {"images": to_float(images)}, {}
        for node in self.graph.node:
            inputs = [values.get(name) for name in node.input]
            out = node.output[0]
            if node.op_type == "QuantizeLinear":
                params, value = self.params(node), inputs[0]
                values[out] = value(params) if callable(value) else to_integers(value, params)
                found[out] = values[out]
            elif node.op_type == "DequantizeLinear":
                first = self.constants.get(node.input[0], inputs[0])
                # The bias is int32 in steps of the sums, and has no parameters here.
                values[out] = (first, None if first.dtype == torch.int32 else self.params(node))
            else:
                values[out] = self.operator(node, inputs)
        integers, params = values[self.graph.output[0].name]
        return dequantize(integers, params), found

    def operator(self, node, inputs):
        """A function of the parameters of the result."""
        given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if isinstance(inputs[0], torch.Tensor):  # the images themselves, as rows
            return inputs[0].reshape(*self.constants[node.input[1]].tolist())
        x, x_params = inputs[0]
        if node.op_type in ("Conv", "Gemm"):
            (weight, weight_params), bias = inputs[1], inputs[2][0]
            fields = {"x_params": x_params, "weight_params": weight_params}
            if node.op_type == "Gemm":
                assert given["transB"] == 1
                return lambda y_params: integer.linear(x, weight, bias, y_params=y_params, **fields)
            fields |= {"stride": tuple(given["strides"]), "padding": tuple(given["pads"][:2])}
            return lambda y_params: integer.conv2d(
                x, weight, bias, y_params=y_params, groups=given["group"], **fields
            )
        if node.op_type == "Add":
            b, b_params = inputs[1]
            return lambda y_params: integer.add(x, b, a_params=x_params, b_params=b_params, y_params=y_params)
        if node.op_type == "GlobalAveragePool":
            return lambda y_params: integer.global_avg_pool(x, x_params=x_params, y_params=y_params)
        if node.op_type == "MaxPool":
            return lambda y_params: integer.max_pool2d(x, tuple(given["kernel_shape"]))
        assert node.op_type == "Reshape"
        return lambda y_params: x.reshape(*self.constants[node.input[1]].tolist())


@pytest.mark.skipif(not X86, reason="sums and means are those of ONNX Runtime on x86")
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", ["max", "entropy"])
def test_each_layer_gives_the_integers_that_integer_gives(exported, name, method, tmp_path):
    _, path = exported[name]
    # 7 bits, with which x86 without VNNI is exact too
    small = quantize(path, tmp_path / "small.onnx", images=pictures(40), method=method, reduce_range=True)
    images = pictures(33, seed=6)
    logits, found = Interpreter(small).run(images)
    model = onnx.load(small)
    for key in found:
        model.graph.output.append(helper.make_empty_tensor_value_info(key))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    theirs = session.run(list(found), {"images": to_float(images).numpy()})
    for key, value in zip(found, theirs, strict=True):
        assert torch.equal(found[key], torch.from_numpy(value)), key
    assert torch.equal(run(small, images), logits)
    fused = operators(tmp_path / "optimized.onnx")
    assert not {"Conv", "Gemm", "Add", "GlobalAveragePool"} & set(fused)  # all of them have integer forms
    assert logits.std(dim=0).max() > 0.01


@pytest.mark.parametrize("method", METHODS)
def test_images_with_a_method_are_the_ranges_of_the_histograms(exported, method, tmp_path):
    _, path = exported["resnet"]
    images = pictures(30)
    by_images = quantize(path, tmp_path / "a.onnx", images=images, method=method, percentile=99)
    ranges = {
        name: histogram.range("max" if name == "logits" else method, percentile=99)
        for name, histogram in collect(path, images).items()
    }
    by_ranges = quantize(path, tmp_path / "b.onnx", ranges=ranges)
    assert digest(by_images) == digest(by_ranges)
    found = constants_of(by_ranges)
    compared = 0
    for name, (low, high) in ranges.items():
        if f"{name}_scale" in found:
            params = choose_params(low, high, symmetric=False)
            assert found[f"{name}_scale"] == params.scale.numpy()
            assert found[f"{name}_zero_point"] == params.zero_point.numpy()
            compared += 1
    assert compared >= 6
    if method != "max":
        plain = constants_of(quantize(path, tmp_path / "c.onnx", images=images))
        assert found["relu_scale"] < plain["relu_scale"]  # something is clipped
        assert found["logits_scale"] == plain["logits_scale"]  # but not the logits


def test_weights_and_biases_are_those_of_affine_and_integer(exported, tmp_path):
    _, path = exported["vgg"]
    small = constants_of(quantize(path, tmp_path / "a.onnx", images=pictures(8)))
    folded = constants_of(path)
    layers = (
        ("images", "0.weight", "0.bias"),
        ("relu", "4.weight", "4.bias"),  # max pooling between them keeps the scale
        ("mean", "9.weight", "9.bias"),
    )
    for x, weight, bias in layers:
        real = torch.from_numpy(folded[weight])
        params = params_of(real, symmetric=True, axis=0)
        assert torch.equal(torch.from_numpy(small[f"{weight}_scale"]), params.scale)
        assert torch.equal(torch.from_numpy(small[f"{weight}_quantized"]), to_integers(real, params))
        scale = torch.from_numpy(small[f"{x}_scale"])
        x_params = QuantParams(scale, torch.tensor(0, dtype=torch.int32), 8, False)
        real = torch.from_numpy(folded[bias])
        expected = integer.quantize_bias(real, x_params=x_params, weight_params=params)
        assert torch.equal(torch.from_numpy(small[f"{bias}_quantized"]), expected)


def test_ranges_are_widened_to_hold_zero_and_may_be_empty(tmp_path):
    path = linear_file(tmp_path / "a.onnx")
    ranges = {"images": (0, 1), "x": (1.0, 2.55), "y": (0.0, 0.0)}
    found = constants_of(quantize(path, tmp_path / "b.onnx", ranges=ranges))
    assert (found["x_scale"].item(), found["x_zero_point"].item()) == (pytest.approx(0.01), 0)
    assert (found["y_scale"].item(), found["y_zero_point"].item()) == (1, 0)


@pytest.mark.parametrize("name", NETWORKS)
def test_quantized_files_keep_to_the_standard(exported, name, tmp_path):
    _, path = exported[name]
    before = digest(path)
    small = quantize(path, tmp_path / "sub" / "small.onnx", images=pictures(8))
    assert small == tmp_path / "sub" / "small.onnx"
    assert digest(path) == before
    assert [entry.name for entry in small.parent.iterdir()] == ["small.onnx"]  # nothing temporary
    onnx.checker.check_model(small, full_check=True)
    model = onnx.load(small)
    assert [entry.domain for entry in model.opset_import] == [""]
    assert not model.metadata_props
    assert "Relu" not in operators(small)
    assert not any(value.dtype == np.float32 and value.ndim > 1 for value in constants_of(small).values())


def test_a_trained_network_keeps_its_accuracy_in_a_quarter_of_the_bytes(tmp_path):
    dataset = data.load_dataset("glyphs")
    path = export(checkpoints.load("glyphs-vgg-narrow"), torch.rand(1, 1, 16, 16), tmp_path / "a.onnx").path
    small = quantize(path, tmp_path / "b.onnx", images=dataset.train.images[:200], method="entropy")
    test = dataset.test.subset(torch.arange(1000))
    accuracy, smaller = (
        (run(file, test.images).argmax(1) == test.labels).float().mean() for file in (path, small)
    )
    assert accuracy > 0.9
    assert smaller > accuracy - 0.01
    assert small.stat().st_size < 0.3 * path.stat().st_size


@pytest.mark.bad_input
def test_files_that_cannot_be_quantized(exported, tmp_path):
    path, target = exported["vgg"][1], tmp_path / "target.onnx"
    small = quantize(path, tmp_path / "small.onnx", images=pictures(2))
    old = linear_file(tmp_path / "old.onnx", opset=12)
    relu = written(tmp_path / "relu.onnx", [("Relu", ["images"], ["y"], {})])
    for file, message in (
        (small, r"small\.onnx is quantized already. Give the file in float32"),
        (old, r"old\.onnx is of opset 12; quantize\(\) takes opset 13 and later. Export it again"),
        (relu, r"relu\.onnx has no layer that can be quantized, only Relu; .* convolutions or linear layers"),
    ):
        for call in (lambda: quantize(file, target, images=pictures(2)), lambda: collect(file, pictures(2))):  # noqa: B023
            with pytest.raises(ValueError, match=message):
                call()
    assert not target.exists()


@pytest.mark.bad_input
def test_a_diverged_network_is_named(tmp_path):
    nodes = [
        ("Gemm", ["x", "weight", "bias"], ["y"], {"transB": 1}),
        ("Reshape", ["images", "rows"], ["x"], {}),
    ]
    constants = {
        "rows": np.int64([-1, 2]),
        "weight": np.float32(np.full((2, 2), 3e38)),
        "bias": np.float32([3e38, 0]),
    }
    path = written(tmp_path / "a.onnx", nodes[::-1], constants)
    images = torch.full((1, 1, 1, 2), 255, dtype=torch.uint8)
    for call in (lambda: collect(path, images), lambda: quantize(path, tmp_path / "b.onnx", images=images)):
        with pytest.raises(ValueError, match=r"tensor 'y' of .*a\.onnx: x holds infinity"):
            call()
    assert list(tmp_path.iterdir()) == [path]


RANGES = {"images": (0.0, 1.0), "x": (0.0, 1.0), "y": (-1.0, 1.0)}


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "images and ranges are both missing; give one of them"),
        (
            {"images": pictures(2), "ranges": RANGES},
            ValueError,
            "images and ranges are both given; give one of them",
        ),
        (
            {"ranges": RANGES, "method": "entropie"},
            ValueError,
            "unknown calibration method 'entropie'. Did you mean 'entropy'",
        ),
        (
            {"ranges": RANGES, "percentile": 0},
            ValueError,
            r"percentile is 0.0; it must be a finite number in \(0, 100\]",
        ),
        ({"ranges": RANGES, "percentile": "99"}, TypeError, "percentile is '99'"),
        (
            {"ranges": RANGES, "reduce_range": 1},
            TypeError,
            r"reduce_range is 1 \(int\); it must be True or False",
        ),
        ({"ranges": [1]}, TypeError, r"ranges are a list; they must be {tensor: \(low, high\)}"),
        ({"ranges": RANGES | {"z": (0, 1)}}, KeyError, "unknown tensor 'z'.*Known: images, x, y"),
        (
            {"ranges": {"images": (0, 1), "y": (0, 1)}},
            KeyError,
            "ranges lack the tensor 'x'. Give one for each tensor",
        ),
        (
            {"ranges": RANGES | {"x": 3.0}},
            ValueError,
            r"the range of 'x' is 3.0; it must be a pair \(low, high\)",
        ),
        (
            {"ranges": RANGES | {"x": (1, 2, 3)}},
            ValueError,
            r"the range of 'x' is \(1, 2, 3\); it must be a pair",
        ),
        (
            {"ranges": RANGES | {"x": (2, 1)}},
            ValueError,
            r"the range of 'x' is \(2, 1\); low must not lie above high",
        ),
        ({"ranges": RANGES | {"x": (0, float("nan"))}}, ValueError, "a bound of 'x' is nan"),
        ({"ranges": RANGES | {"x": (0, 1e39)}}, ValueError, r"a bound of 'x' is 1e\+39"),
        ({"ranges": RANGES | {"x": ("0", 1)}}, TypeError, "a bound of 'x' is '0'"),
    ],
)
def test_wrong_options_of_quantize(options, error, message, tmp_path):
    path = linear_file(tmp_path / "a.onnx")
    with pytest.raises(error, match=message):
        quantize(path, tmp_path / "b.onnx", **options)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.bad_input
def test_the_range_of_a_relu_begins_at_0(exported, tmp_path):
    _, path = exported["mlp"]
    ranges = {name: histogram.range("max") for name, histogram in collect(path, pictures(2)).items()}
    with pytest.raises(
        ValueError, match=r"the range of 'relu' begins at -1, but .* a ReLU gives.* Let it begin at 0"
    ):
        quantize(path, tmp_path / "a.onnx", ranges=ranges | {"relu": (-1.0, 1.0)})
    assert list(tmp_path.iterdir()) == []
