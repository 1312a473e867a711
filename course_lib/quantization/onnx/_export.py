"""From a network of PyTorch to an ONNX file."""

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from course_lib import tracing
from course_lib.files import atomic_path
from course_lib.quantization.onnx._names import tensor_names
from course_lib.quantization.onnx._session import File, check_packages, check_path, open_session, strip

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto


class Exported(NamedTuple):
    """File that `export` has written, and what its tensors are called elsewhere."""

    path: Path
    """Of the file."""
    names: Mapping[str, str]
    """{tensor of the file: tensor of `workflow.collect`}; empty where `workflow` refuses the network."""


def export(model: nn.Module, example: Shaped[Tensor, "N *rest"], path: File) -> Exported:
    """Write a network as an ONNX file that takes batches of any size.

    Batch norm is folded into the convolutions. Global average pooling, which PyTorch writes as a mean over axes, is
    written as the operator of that name, which has an 8-bit form. Notes on where each operator comes from in the Python
    code are left out. The file is run on the example and compared with the network before it takes its name. Its bytes,
    and so the names of its tensors, depend on the network alone, and not on how tensors lie in memory.

    Args:
        model: network that maps one tensor to one tensor; it is exported in evaluation mode and left as it was.
        example: input [N, ...] of the dtype and on the device that the model runs on; what N is does not matter.
        path: of the file; its folder is made where it is missing.

    Returns:
        The path, and which tensor of the file is which of `workflow.collect`: with these names `quantize` takes the
        ranges of `workflow.calibrate`.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is not installed.
        TypeError: `model` is not an nn.Module, `example` not a tensor, or `path` not a path.
        ValueError: the model does not run on the example, cannot be exported (the message names the operator), gives
            another result in ONNX Runtime, or gives more than one tensor.
        OSError: the file cannot be written.
    """
    check_packages("onnx", "onnxscript", "onnxruntime")
    import onnx

    path = check_path(path, "path")
    tracing.check(model, example, one=True)
    if len(example) == 1:  # torch.export takes a batch of one for a network of single images
        example = example.repeat([2] + [1] * (example.ndim - 1))
    with atomic_path(path) as temporary, tracing.borrowed(model):
        tracing.run(model, example)
        expected = model(example)
        if not isinstance(expected, Tensor):
            raise ValueError(
                f"the model gives a {type(expected).__name__}; accepted are models that give one tensor. Wrap it in a "
                "module that picks one."
            )
        proto = _translated(model, example)
        _use_global_pooling(proto.graph)
        _use_relu(proto.graph)
        strip(proto)
        names = tensor_names(model, proto.graph)
        onnx.save(proto, temporary)
        session = open_session(temporary, path)
        found = session.run(None, {"images": example.detach().cpu().numpy()})[0]
        _check_equal(torch.from_numpy(found).double(), expected.cpu().double(), path)
    return Exported(path, names)


def _translated(model: nn.Module, example: Tensor) -> "ModelProto":
    """The network as torch.onnx translates it, the names of input and output being images and logits.

    How its tensors lie in memory is not for the file: from weights with the channels innermost torch.export makes more
    operators, and other names.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                copy.deepcopy(model).to(memory_format=torch.contiguous_format),
                (example.contiguous(),),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
                input_names=["images"],
                output_names=["logits"],
                verbose=False,
            )
        except Exception as error:
            reason = str(error).partition("## Exception summary")[2] or f"{type(error).__name__}: {error}"
            raise ValueError(
                f"the model cannot be exported to ONNX: {' '.join(reason.split()):.400} ... Replace that operation by "
                "others, or leave it out of the network, whose path must depend neither on the values of its input nor "
                "on their number."
            ) from error
    return program.model_proto


def _use_global_pooling(graph: "GraphProto") -> None:
    """ReduceMean over height and width as GlobalAveragePool, which is the same."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    ndim = {entry.name: len(entry.type.tensor_type.shape.dim) for entry in (*graph.input, *graph.value_info)}
    replaced = set()
    for node in graph.node:
        keeps = all(attribute.i for attribute in node.attribute if attribute.name == "keepdims")
        if node.op_type != "ReduceMean" or not keeps or ndim.get(node.input[0]) != 4 or len(node.input) == 1:
            continue
        if sorted(numpy_helper.to_array(constants[node.input[1]]).tolist()) in ([2, 3], [-2, -1]):
            replaced.add(node.input[1])
            node.op_type = "GlobalAveragePool"
            del node.attribute[:], node.input[1:]
    for name in replaced.difference(*(node.input for node in graph.node)):
        graph.initializer.remove(constants[name])


def _use_relu(graph: "GraphProto") -> None:
    """The larger of a tensor and 0, as clamp(min=0) is translated, as Relu, which the range of a layer takes in."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    zeros = {name for name, tensor in constants.items() if not numpy_helper.to_array(tensor).any()}
    for node in graph.node:
        floor = [name for name in node.input if name in zeros and not constants[name].dims]
        if node.op_type == "Max" and len(node.input) == 2 and len(floor) == 1:
            node.op_type = "Relu"
            node.input.remove(floor[0])
    for name in zeros.difference(*(node.input for node in graph.node)):
        graph.initializer.remove(constants[name])


def _check_equal(found: Tensor, expected: Tensor, path: Path) -> None:
    size = max(1.0, expected.abs().max().item())
    if found.shape != expected.shape or not torch.allclose(
        found, expected, rtol=1e-3, atol=1e-4 * size, equal_nan=True
    ):
        apart = (
            f"by up to {(found - expected).abs().max().item():.3g}"
            if found.shape == expected.shape
            else f"in shape, {list(found.shape)} and {list(expected.shape)}"
        )
        raise ValueError(
            f"the results of {path} in ONNX Runtime differ from the network's {apart}, so it is not kept. Look for an "
            "operation whose result is random in evaluation mode."
        )
