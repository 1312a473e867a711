"""What the files of this room share: sessions of ONNX Runtime, batches for them, and checks."""

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from course_lib.quantization._checks import as_numbers, check_images

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnxruntime import InferenceSession

Images = Shaped[Tensor, "N C H W"]
File = str | os.PathLike


def check_packages(*names: str) -> None:
    try:
        for name in names:
            importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"the package {error.name or error} cannot be imported; export, quantize and run need it. Install it with "
            "pip install 'small-and-fast[deploy]'."
        ) from error


def open_session(
    source: Path | bytes, name: Path, threads: int | None = None, *, folded: Path | None = None
) -> "InferenceSession":
    """Open a session of a file, or of its content, that gives no warnings: those are for the authors of the operators.

    Args:
        name: what an error calls it.
        threads: where not given, as many as PyTorch has.
        folded: file to write the network to as it stands once constants are folded, before operators are fused.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if folded is not None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folded)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # it has one for each of its error codes, without a common base
        raise no_onnx_file(name, error) from error


def batches(
    session: "InferenceSession", path: Path, images: object, batch_size: int | None
) -> Iterator[dict[str, np.ndarray]]:
    """Give the images as float32, in batches of that size or all in one; where the network's is fixed, in such."""
    images = check_images(images)
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(float)":
        taken = ", ".join(f"{entry.name}: {entry.type}" for entry in inputs)
        raise ValueError(
            f"{path} takes {taken}; accepted are networks that take one tensor of float32 images."
        )
    shape = inputs[0].shape
    fixed = [
        size if isinstance(size, int) else given for size, given in zip(shape, images.shape, strict=False)
    ]
    if len(shape) != images.ndim:
        accepted = "[N, C, L]" if len(shape) == 3 else "[N, C, H, W]"
        raise ValueError(
            f"images have shape {list(images.shape)}; they must be {accepted} with at least one image: {path} takes "
            f"{shape}."
        )
    if fixed[1:] != list(images.shape[1:]):
        raise ValueError(
            f"images have shape {list(images.shape)}; {path} takes {shape}. Give the data set that the network is for."
        )
    if isinstance(shape[0], int):
        if len(images) % shape[0]:
            raise ValueError(
                f"{path} takes batches of exactly {shape[0]} images, into which {len(images)} do not share out. Give a "
                "multiple, or write it again with export(), which leaves the size open."
            )
        batch_size = shape[0]
    for part in images.split(batch_size or len(images)):
        yield {inputs[0].name: as_numbers(part).cpu().numpy()}


def no_onnx_file(path: Path, reason: object) -> ValueError:
    lines = str(reason).strip().splitlines() or ["no further explanation"]
    return ValueError(
        f"{path} is no ONNX file that ONNX Runtime can run: {lines[0]:.300}. Write it with export() from a network in "
        "float32, or update onnxruntime where the message names an operator or opset."
    )


def check_other(target: Path, path: Path) -> None:
    """Check that a file to be written is not the one that is read, under whatever name."""
    if target.resolve() == path.resolve() or (target.exists() and target.samefile(path)):
        raise ValueError(
            f"target is {str(target)!r}, the file in float32 itself ({str(path)!r}), which would be lost. Give another "
            "name."
        )


def strip(model: "ModelProto") -> None:
    """Leave out notes, on where in the code an operator comes from, and the shapes of inner tensors."""
    graph = model.graph
    del graph.value_info[:]
    parts = (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer)
    for part in parts:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def check_path(path: object, name: str) -> Path:
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise TypeError(f"{name} is {path!r:.80} ({type(path).__name__}); it must be the path of a file.")
    if "\0" in os.fspath(path):
        raise ValueError(f"{name} is {path!r:.80}, which holds a NUL; it must be the path of a file.")
    return Path(path)


def check_target(path: object, name: str) -> Path:
    path = check_path(path, name)
    if path.is_dir():
        raise ValueError(
            f"{name} is {str(path)!r}, a folder; it must be the path of a file. Give a name in it."
        )
    return path


def check_file(path: object) -> Path:
    path = check_path(path, "path")
    if not path.is_file():
        raise FileNotFoundError(
            f"path is {str(path)!r}: {path} is missing. Write it with export(model, example, path) first."
        )
    return path
