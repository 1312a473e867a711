"""ONNX files: those of PyTorch's networks, quantized as ONNX Runtime does it, and computed as `integer` computes."""

import copy
import hashlib
import logging
import os
import platform
import subprocess
import sys
import threading

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quant_pre_process, quantize_static
from torch import nn

from course_lib import checkpoints, cost, data, models, tracing
from course_lib.data import to_float
from course_lib.quantization import integer
from course_lib.quantization.affine import QuantParams, choose_params, dequantize, params_of
from course_lib.quantization.affine import quantize as to_integers
from course_lib.quantization.calibration import METHODS
from course_lib.quantization.onnx import collect, export, latency, quantize, run

X86 = platform.machine().lower() in ("x86_64", "amd64")

NETWORKS = {
    "mlp": {"image_size": 8, "hidden": (6,)},
    "convnet_teacher": {"image_size": 8, "channels": (4, 5), "hidden": 6},
    "convnet_student": {"image_size": 8, "filters": 2, "patch": 4},
    "vgg": {"widths": (4, "M", 6)},
    "resnet": {"widths": (4, 6), "blocks": (1, 1)},
    "mobilenet": {"stem": 4, "widths": ((6, 2), (8, 1))},
}


def network(name):
    """A small network of the course whose batch norm is not the identity."""
    generator = torch.Generator().manual_seed(1)
    model = models.build(name, **NETWORKS[name])
    # Small variances, so that images make a difference in the logits.
    bounds = {
        "weight": (0.5, 1.5),
        "bias": (-0.3, 0.7),
        "running_mean": (0, 0.1),
        "running_var": (0.02, 0.07),
    }
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for key, (low, high) in bounds.items():
                getattr(module, key).data.uniform_(low, high, generator=generator)
    return model


def pictures(count, seed=0, channels=1, size=8):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)


class Exported(dict):
    """{name: (network, file)} for the networks of the course, each exported when first asked for."""

    def __init__(self, folder):
        self.folder = folder

    def __missing__(self, name):
        model = network(name)
        self[name] = model, export(model, torch.rand(1, 1, 8, 8), self.folder / f"{name}.onnx")
        return self[name]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return Exported(tmp_path_factory.mktemp("exported"))


def written(
    path, nodes, constants=(), outputs=("y",), shape=("N", 1, 1, 2), kind=TensorProto.FLOAT, opset=20
):
    """A file of nodes that read `images`; all in float32, and constants by name."""
    graph = helper.make_graph(
        [helper.make_node(operator, *names, **attributes) for operator, *names, attributes in nodes],
        "graph",
        [helper.make_tensor_value_info("images", kind, shape)],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in dict(constants).items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def linear_file(path, shape=("N", 1, 1, 2), **options):
    """The images as rows, and a linear layer [2, 2] with bias."""
    nodes = [
        ("Reshape", ["images", "rows"], ["x"], {}),
        ("Gemm", ["x", "weight", "bias"], ["y"], {"transB": 1}),
    ]
    constants = {
        "rows": np.int64([-1, 2]),
        "weight": np.float32([[1.27, -0.5], [0.254, 0.1]]),
        "bias": np.float32([0.1, 0]),
    }
    return written(path, nodes, constants, shape=shape, **options)


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def operators(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def constants_of(path):
    return {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in onnx.load(path).graph.initializer}


# ---- export --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_the_file_gives_what_the_network_gives_for_any_number_of_images(exported, name):
    model, path = exported[name]
    images = pictures(7)
    with tracing.borrowed(model):
        expected = model(to_float(images))
    for batch_size in (1, 3, 100):
        found = run(path, images, batch_size=batch_size)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (found.dtype, found.shape) == (torch.float32, (7, 10))
    assert expected.std(dim=0).max() > 0.01


@pytest.mark.parametrize("name", NETWORKS)
def test_files_hold_folded_layers_and_no_notes(exported, name):
    _, path = exported[name]
    onnx.checker.check_model(path, full_check=True)
    known = {"Conv", "Relu", "MaxPool", "GlobalAveragePool", "Add", "Reshape", "Gemm"}
    assert set(operators(path)) <= known  # neither batch norm nor dropout nor a mean
    graph = onnx.load(path).graph
    for part in (graph, *graph.node, *graph.input, *graph.output):
        assert not part.metadata_props
        assert not part.doc_string
    used = {name for node in graph.node for name in node.input}
    assert {tensor.name for tensor in graph.initializer} <= used
    assert ([entry.name for entry in graph.input], [entry.name for entry in graph.output]) == (
        ["images"],
        ["logits"],
    )


def test_the_network_stays_as_it_was(tmp_path):
    model = network("vgg")
    model[0].weight.requires_grad_(False)
    model[1].eval()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    export(model, torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), tmp_path / "vgg.onnx")
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()][:2] == [False, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_bytes_depend_neither_on_the_example_nor_on_the_process(exported, tmp_path):
    _, path = exported["resnet"]
    assert digest(export(network("resnet"), torch.rand(3, 1, 8, 8), tmp_path / "again.onnx")) == digest(path)
    small = quantize(path, tmp_path / "small.onnx", images=pictures(9), method="mse")
    script = """
        import sys, torch
        from course_lib.quantization.onnx import export, quantize
        print(*sorted({"onnx", "onnxscript", "onnxruntime"} & sys.modules.keys()), "before")
        from tests.quantization import test_onnx
        export(test_onnx.network("resnet"), torch.rand(1, 1, 8, 8), "other.onnx")
        quantize("other.onnx", "other-8.onnx", images=test_onnx.pictures(9), method="mse")
    """
    checkout = os.path.dirname(os.path.dirname(checkpoints.__file__))
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(line.strip() for line in script.splitlines())],
        env=os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": checkout},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["before"]  # importing the module loads none of the packages
    assert done.stderr == ""
    assert digest(tmp_path / "other.onnx") == digest(path)
    assert digest(tmp_path / "other-8.onnx") == digest(small)


def test_bytes_do_not_depend_on_how_tensors_lie_in_memory(exported, tmp_path):
    _, path = exported["resnet"]
    model = network("resnet").to(memory_format=torch.channels_last)
    images = torch.rand(2, 1, 8, 8).contiguous(memory_format=torch.channels_last)
    assert digest(export(model, images, tmp_path / "last.onnx")) == digest(path)
    assert model[3].conv1.weight.is_contiguous(memory_format=torch.channels_last)


class Means(nn.Module):
    """Means of which only the first, over height and width of images, is global average pooling."""

    def forward(self, x):
        plain = x.mean((-1, -2), keepdim=True)
        rows = x.flatten(2).mean((-2, -1), keepdim=True)  # [N, 1, 1]
        return (
            plain
            + x.mean((1, 2), keepdim=True)
            + rows[..., None]
            + x.mean((2, 3))[..., None, None]
            + x.mean()
        )


def test_only_the_mean_over_height_and_width_becomes_pooling(tmp_path):
    path = export(Means(), torch.rand(2, 3, 4, 5), tmp_path / "means.onnx")
    assert operators(path).count("GlobalAveragePool") == 1
    assert operators(path).count("ReduceMean") == 4


class ClassToken(nn.Module):
    """Begins as vision transformers do: the token is repeated for each image, which one image does not show."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, 1, 2))

    def forward(self, x):
        return torch.cat([self.token.expand(len(x), -1, -1), x.flatten(2)], 1).flatten(1)


def test_one_image_is_example_enough(tmp_path):
    path = export(ClassToken(), torch.rand(1, 1, 1, 2), tmp_path / "token.onnx")
    images = pictures(3, size=2)[:, :, :1]
    expected = torch.cat([torch.ones(3, 2), to_float(images).flatten(1)], 1)
    torch.testing.assert_close(run(path, images), expected)


def test_an_example_of_any_dtype_and_rank(tmp_path):
    path = export(nn.Embedding(5, 3), torch.tensor([4]), tmp_path / "sub" / "embedding.onnx")
    assert path == tmp_path / "sub" / "embedding.onnx"
    assert onnx.load(path).graph.input[0].type.tensor_type.elem_type == TensorProto.INT64
    export(nn.Linear(4, 2).double(), torch.rand(1, 4, dtype=torch.float64), str(path))
    assert onnx.load(path).graph.output[0].type.tensor_type.elem_type == TensorProto.DOUBLE


def test_nothing_is_printed_and_nothing_warned(tmp_path, capfd, recwarn, caplog):
    model = network("mobilenet")
    path, small = tmp_path / "a.onnx", tmp_path / "a-8.onnx"
    export(model, torch.rand(1, 1, 8, 8), path)
    quantize(path, small, images=pictures(4), method="entropy")
    run(small, pictures(4))
    latency(small, pictures(4), min_seconds=0.01)
    assert tuple(capfd.readouterr()) == ("", "")
    assert [str(warning.message) for warning in recwarn] == []
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


# ---- collect -------------------------------------------------------------------------------------------------------


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


# ---- quantize ------------------------------------------------------------------------------------------------------


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
        ("images", "0.weight", "0.weight_bias"),
        ("relu", "4.weight", "4.weight_bias"),  # max pooling between them keeps the scale
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
    path = export(checkpoints.load("glyphs-vgg-narrow"), torch.rand(1, 1, 16, 16), tmp_path / "a.onnx")
    small = quantize(path, tmp_path / "b.onnx", images=dataset.train.images[:200], method="entropy")
    test = dataset.test.subset(torch.arange(1000))
    accuracy, smaller = (
        (run(file, test.images).argmax(1) == test.labels).float().mean() for file in (path, small)
    )
    assert accuracy > 0.9
    assert smaller > accuracy - 0.01
    assert small.stat().st_size < 0.3 * path.stat().st_size


# ---- run and latency -----------------------------------------------------------------------------------------------


def test_files_of_a_fixed_batch_size(tmp_path):
    images = pictures(6, size=2)[:, :, :1]
    expected = run(linear_file(tmp_path / "open.onnx"), images)
    path = linear_file(tmp_path / "fixed.onnx", shape=(3, 1, 1, 2))
    torch.testing.assert_close(run(path, images), expected)
    assert collect(path, images)["x"].count == 12
    assert latency(path, images[:3], min_seconds=0.01).median > 0


def test_latency_times_one_call_for_all_images(exported, monkeypatch):
    _, path = exported["vgg"]
    calls = []

    def noted(network, example, **options):
        calls.append((network, example, options))
        return cost.Latency(1.0, 0.5, 2.0)

    monkeypatch.setattr("course_lib.quantization.onnx.cost.latency", noted)
    images = pictures(5)
    assert latency(path, images, threads=2, min_seconds=0.5) == cost.Latency(1.0, 0.5, 2.0)
    [(timed, example, options)] = calls
    assert torch.equal(example, to_float(images))
    assert options == {"threads": 2, "min_seconds": 0.5}
    assert timed.session.get_session_options().intra_op_num_threads == 2
    torch.testing.assert_close(timed(example), run(path, images))


def test_latency_is_that_of_the_session(exported):
    found = latency(exported["vgg"][1], pictures(1), min_seconds=0.01)
    assert 0 < found.lower_quartile <= found.median <= found.upper_quartile < 1


# ---- wrong arguments -----------------------------------------------------------------------------------------------


class Branch(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


class Pair(nn.Module):
    def forward(self, x):
        return x, x


class Noise(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


class Two(nn.Module):
    def forward(self, x):
        return x.reshape(2, 4)


class Locked(nn.Identity):
    """Cannot be copied."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class Eigenvalues(nn.Module):
    def forward(self, x):
        return torch.linalg.eigvals(x).real


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("model", "example", "error", "message"),
    [
        (
            Branch(),
            torch.rand(2, 4),
            ValueError,
            r"cannot be exported to ONNX: .*data-dependent .*neither on the values",
        ),
        (
            Two(),
            torch.rand(2, 4),
            ValueError,
            r"cannot be exported .*static shape of 2 .*nor on their number",
        ),
        (Locked(), torch.rand(2, 4), ValueError, r"cannot be exported .*cannot pickle '_thread.lock'"),
        (Eigenvalues(), torch.rand(2, 4, 4), ValueError, r"aten.linalg_eig.* Replace that operation"),
        (
            Pair(),
            torch.rand(2, 4),
            ValueError,
            "gives a tuple; accepted are models that give one tensor. Wrap it",
        ),
        (
            Noise(),
            torch.rand(2, 4),
            ValueError,
            r"differ from the network's by up to 0\.\d+, .*Look for an operation",
        ),
        (nn.Linear(4, 4), torch.rand(2, 5), ValueError, r"does not run on an example of shape \[2, 5\]"),
        (nn.Linear(4, 4).bfloat16(), torch.rand(2, 4).bfloat16(), ValueError, "from a network in float32"),
        (nn.Linear(4, 4), [1.0], TypeError, "example is a list; it must be one torch.Tensor"),
        (nn.Linear, torch.rand(2, 4), TypeError, "model is the class Linear; it must be a torch.nn.Module"),
    ],
)
def test_networks_that_cannot_be_exported(model, example, error, message, tmp_path):
    path = tmp_path / "a.onnx"
    path.write_text("earlier")
    with pytest.raises(error, match=f"(?s){message}"):
        export(model, example, path)
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.bad_input
def test_a_file_that_differs_in_shape_is_not_kept(tmp_path, monkeypatch):
    class Session:
        def run(self, names, feeds):
            return [np.zeros((2, 3), np.float32)]

    monkeypatch.setattr("course_lib.quantization.onnx._session", lambda *_: Session())
    with pytest.raises(
        ValueError, match=r"differ from the network's in shape, \[2, 3\] and \[2, 4\], so it is not kept"
    ):
        export(nn.Linear(4, 4), torch.rand(2, 4), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("onnxscript", lambda path: export(nn.Linear(2, 2), torch.rand(1, 2), path)),
        ("onnx", lambda path: collect(path, pictures(1))),
        ("onnx", lambda path: quantize(path, path, images=pictures(1))),
        ("onnxruntime", lambda path: run(path, pictures(1))),
        ("onnxruntime", lambda path: latency(path, pictures(1))),
    ],
)
def test_packages_that_are_missing(name, call, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        ImportError, match=rf"the package {name} cannot be imported.*pip install 'small-and-fast\[deploy\]'"
    ):
        call(tmp_path / "a.onnx")


CALLS = {
    "collect": lambda path, tmp_path: collect(path, pictures(2)),
    "quantize": lambda path, tmp_path: quantize(path, tmp_path / "target.onnx", images=pictures(2)),
    "run": lambda path, tmp_path: run(path, pictures(2)),
    "latency": lambda path, tmp_path: latency(path, pictures(2)),
}


@pytest.mark.bad_input
@pytest.mark.parametrize("call", CALLS)
def test_paths_that_lead_nowhere(call, tmp_path):
    call = CALLS[call]
    with pytest.raises(TypeError, match=r"path is 5 \(int\); it must be the path of a file"):
        call(5, tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"none\.onnx is missing\. Write it with export\(model, example, path\)"
    ):
        call(tmp_path / "none.onnx", tmp_path)
    with pytest.raises(FileNotFoundError, match="is missing"):
        call(tmp_path, tmp_path)
    (tmp_path / "text.onnx").write_text("no network")
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name in ("text", "empty"):
        with pytest.raises(
            ValueError, match=rf"{name}\.onnx is no ONNX file that ONNX Runtime can run: .+ Write it with"
        ):
            call(tmp_path / f"{name}.onnx", tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["empty.onnx", "text.onnx"]


@pytest.mark.bad_input
@pytest.mark.parametrize("call", CALLS)
def test_images_that_are_none_for_the_network(call, exported, tmp_path, monkeypatch):
    path = exported["vgg"][1]
    for images, error, message in (
        ([1.0], TypeError, "images are a list; they must be a torch.Tensor of uint8"),
        (torch.rand(2, 1, 8, 8), TypeError, "uint8"),
        (pictures(2)[0], ValueError, r"images have shape \[1, 8, 8\]; they must be \[N, C, H, W\]"),
        (torch.tensor(3, dtype=torch.uint8), ValueError, r"images have shape \[\]"),
        (pictures(2)[:0], ValueError, r"images have shape \[0, 1, 8, 8\]; .* at least one image"),
        (
            pictures(2, size=9),
            ValueError,
            r"images have shape \[2, 1, 9, 9\]; .*vgg\.onnx takes .*1, 8, 8\]. Give the",
        ),
    ):
        monkeypatch.setattr(f"{__name__}.pictures", lambda count, images=images: images)
        with pytest.raises(error, match=message):
            CALLS[call](path, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.bad_input
@pytest.mark.parametrize("call", CALLS)
def test_networks_that_do_not_take_images(call, tmp_path):
    gemm = [("Gemm", ["images", "weight"], ["y"], {})]
    double = written(
        tmp_path / "a.onnx", gemm, {"weight": np.eye(2)}, shape=("N", 2), kind=TensorProto.DOUBLE
    )
    with pytest.raises(
        ValueError, match=r"takes images: tensor\(double\); accepted are networks that take one"
    ):
        CALLS[call](double, tmp_path)
    rows = written(tmp_path / "a.onnx", gemm, {"weight": np.eye(2, dtype=np.float32)}, shape=("N", 2))
    with pytest.raises(ValueError, match=r"images have shape \[2, 1, 8, 8\]; .*takes \['N', 2\]"):
        CALLS[call](rows, tmp_path)
    fixed = linear_file(tmp_path / "a.onnx", shape=(3, 1, 8, 8))
    with pytest.raises(ValueError, match="takes batches of exactly 3 images, into which 2 do not share out"):
        CALLS[call](fixed, tmp_path)


@pytest.mark.bad_input
def test_more_images_than_a_fixed_batch_are_not_one_call(tmp_path):
    path = linear_file(tmp_path / "a.onnx", shape=(3, 1, 1, 2))
    with pytest.raises(ValueError, match="takes batches of exactly 3 images, not of 6"):
        latency(path, pictures(6, size=2)[:, :, :1])


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


@pytest.mark.bad_input
def test_wrong_sizes_and_targets(tmp_path):
    path, images = linear_file(tmp_path / "a.onnx"), pictures(2, size=2)[:, :, :1]
    for call, message in (
        (lambda: collect(path, images, bins=1), "bins is 1; it must be at least 2"),
        (lambda: collect(path, images, batch_size=0), "batch_size is 0; it must be at least 1"),
        (lambda: run(path, images, batch_size=0), "batch_size is 0; it must be at least 1"),
        (lambda: latency(path, images, threads=0), "threads is 0; it must be at least 1"),
        (
            lambda: latency(path, images, min_seconds=0),
            r"min_seconds is 0.0; it must be a finite number in \(0",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match=r"target is None \(NoneType\); it must be the path of a file"):
        quantize(path, None, images=images)
    with pytest.raises(TypeError, match=r"path is None \(NoneType\); it must be the path of a file"):
        export(nn.Linear(2, 2), torch.rand(1, 2), None)
    with pytest.raises(OSError, match=r"cannot write into .*a\.onnx"):
        quantize(path, path / "b.onnx", images=images)
