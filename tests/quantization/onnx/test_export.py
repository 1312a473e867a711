"""From a network to a file: what it computes, what its bytes depend on, what cannot be exported."""

import copy
import os
import subprocess
import sys
import threading

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import nn

from course_lib import checkpoints, tracing
from course_lib.data import to_float
from course_lib.quantization.onnx import export, quantize, run
from tests.quantization.networks import Body, seeded, traces
from tests.quantization.onnx.files import (
    NETWORKS,
    digest,
    network,
    operators,
    pictures,
)


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


@traces
def test_bytes_depend_neither_on_the_example_nor_on_the_process(exported, tmp_path):
    _, path = exported["resnet"]
    assert digest(export(network("resnet"), torch.rand(3, 1, 8, 8), tmp_path / "again.onnx").path) == digest(
        path
    )
    small = quantize(path, tmp_path / "small.onnx", images=pictures(9), method="mse")
    script = """
        import sys, torch
        from course_lib.quantization.onnx import export, quantize
        print(*sorted({"onnx", "onnxscript", "onnxruntime"} & sys.modules.keys()), "before")
        from tests.quantization.onnx import files
        export(files.network("resnet"), torch.rand(1, 1, 8, 8), "other.onnx")
        quantize("other.onnx", "other-8.onnx", images=files.pictures(9), method="mse")
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


@traces
def test_bytes_do_not_depend_on_how_tensors_lie_in_memory(exported, tmp_path):
    _, path = exported["resnet"]
    model = network("resnet").to(memory_format=torch.channels_last)
    images = torch.rand(2, 1, 8, 8).contiguous(memory_format=torch.channels_last)
    assert digest(export(model, images, tmp_path / "last.onnx").path) == digest(path)
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
    path = export(Means(), torch.rand(2, 3, 4, 5), tmp_path / "means.onnx").path
    assert operators(path).count("GlobalAveragePool") == 2
    assert operators(path).count("ReduceMean") == 3


class ClassToken(nn.Module):
    """Begins as vision transformers do: the token is repeated for each image, which one image does not show."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, 1, 2))

    def forward(self, x):
        return torch.cat([self.token.expand(len(x), -1, -1), x.flatten(2)], 1).flatten(1)


def test_one_image_is_example_enough(tmp_path):
    path = export(ClassToken(), torch.rand(1, 1, 1, 2), tmp_path / "token.onnx").path
    images = pictures(3, size=2)[:, :, :1]
    expected = torch.cat([torch.ones(3, 2), to_float(images).flatten(1)], 1)
    torch.testing.assert_close(run(path, images), expected)


def test_an_example_of_any_dtype_and_rank(tmp_path):
    path, names = export(nn.Embedding(5, 3), torch.tensor([4]), tmp_path / "sub" / "embedding.onnx")
    assert names == {}
    assert path == tmp_path / "sub" / "embedding.onnx"
    assert onnx.load(path).graph.input[0].type.tensor_type.elem_type == TensorProto.INT64
    export(nn.Linear(4, 2).double(), torch.rand(1, 4, dtype=torch.float64), str(path))
    assert onnx.load(path).graph.output[0].type.tensor_type.elem_type == TensorProto.DOUBLE


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

    monkeypatch.setattr("course_lib.quantization.onnx._export.open_session", lambda *_: Session())
    with pytest.raises(
        ValueError, match=r"differ from the network's in shape, \[2, 3\] and \[2, 4\], so it is not kept"
    ):
        export(nn.Linear(4, 4), torch.rand(2, 4), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


@traces
@pytest.mark.parametrize(
    "clamp",
    [
        lambda x: x.clamp(0, 0.7),
        lambda x: torch.clip(x, 0, max=0.7),
        lambda x: torch.clamp_(x, min=0, max=0.7),
        lambda x: x.clamp(-1, 0.7),
    ],
)
def test_bounds_may_be_whole_numbers_or_not(clamp, tmp_path):
    model = seeded(Body, lambda m, x: clamp(m.conv(x) * 4).flatten(1))
    images = pictures(3, channels=3)
    path = export(model, to_float(images), tmp_path / "a.onnx").path
    found = run(path, images)
    assert found.max() == np.float32(0.7)
    torch.testing.assert_close(found, model(to_float(images)))
