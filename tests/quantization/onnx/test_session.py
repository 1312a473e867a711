"""What all functions on files share: packages, paths, images, sizes, silence."""

import logging
import sys

import numpy as np
import pytest
import torch
from onnx import TensorProto
from torch import nn

from course_lib.quantization.onnx import collect, export, latency, quantize, run
from tests.quantization.onnx.files import (
    linear_file,
    network,
    pictures,
    written,
)


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
        ([1.0], TypeError, r"images are a list; they must be a torch.Tensor \[N, C, H, W\] of uint8, or of"),
        (
            pictures(2).double(),
            TypeError,
            r"images have dtype torch.float64; they must be uint8 .* or float32",
        ),
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
