"""From a network of PyTorch to an ONNX file."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from course_lib import tracing
from course_lib.files import atomic_path
from course_lib.quantization._checks import same_results
from course_lib.quantization._folding import folded
from course_lib.quantization._prologue import with_readable
from course_lib.quantization._state import Stateful
from course_lib.quantization.onnx._integers import as_integers, with_integers
from course_lib.quantization.onnx._names import tensor_names
from course_lib.quantization.onnx._session import File, check_packages, check_target, open_session, strip
from course_lib.quantization.onnx._translate import translated
from course_lib.quantization.steps import IMAGES, LOGITS


class Exported(NamedTuple):
    """File that `export` has written, and what its tensors are called elsewhere."""

    path: Path
    """Of the file."""
    names: Mapping[str, str]
    """{tensor of the file: tensor of `workflow.collect`}; empty where `workflow` refuses the network."""


def export(model: nn.Module, example: Shaped[Tensor, "N *rest"], path: File) -> Exported:
    """Write a network as an ONNX file that takes batches of any size: in float32, or a quantized one in 8 bits.

    Batch norm is folded into the layers before it, as `workflow` does. Global average pooling, which PyTorch writes as
    a mean over axes, is written as the operator of that name, which has an 8-bit form. A layer Normalize of torchvision
    is written as a difference and a quotient; its function normalize() only in a quantized network. Notes on where each
    operator comes from in the Python code are left out. The file is run on the example, and one in float32 compared
    with the network, before it takes its name. Its bytes, and so the names of its tensors, depend on the network alone,
    and not on how tensors lie in memory.

    A quantized network gives a file that holds its integers, scales and zero points. In ONNX Runtime it has the logits
    of `workflow.to_integer`, bit for bit, where those of `quantize` have them. Layers kept in float32 are float32 in
    the file, and their sums end on other last bits than PyTorch's.

    Args:
        model: network that maps one tensor to one tensor; it is exported in evaluation mode and left as it was. Or a
            quantized one, as `workflow.quantize_model`, `aware.prepare` and `workflow.to_integer` give it, with
            activations of 8 bits and weights of 8 at most.
        example: input [N, ...] of the dtype and on the device that the model runs on; what N is does not matter.
        path: of the file; its folder is made where it is missing.

    Returns:
        The path, and which tensor of the file is which of `workflow.collect`: with these names `quantize` takes the
        ranges of `workflow.calibrate`.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is not installed.
        TypeError: `model` is not an nn.Module, `example` not a tensor, or `path` not a path.
        ValueError: the model does not run on the example, cannot be exported (the message names the operator), gives
            another result in ONNX Runtime, or gives more than one tensor; a quantized one of other bits than said here.
        OSError: the file cannot be written.
    """
    check_packages("onnx", "onnxscript", "onnxruntime")
    import onnx

    path = check_target(path, "path")
    tracing.check(model, example, one=True)
    if len(example) == 1:  # torch.export takes a batch of one for a network of single images
        example = example.repeat([2] + [1] * (example.ndim - 1))
    integers = as_integers(model) if isinstance(model, Stateful) else None
    with atomic_path(path) as temporary, tracing.borrowed(model):
        tracing.run(model, example)
        expected = model(example)
        if not isinstance(expected, Tensor):
            raise ValueError(
                f"the model gives a {type(expected).__name__}; accepted are models that give one tensor. Wrap it in a "
                "module that picks one."
            )
        if integers is None:
            network = _folded(model)
            proto = translated(network, example, inputs=[IMAGES], outputs=[LOGITS])
            names = tensor_names(network, proto.graph)
        else:
            proto, names = with_integers(integers, example)
        strip(proto)
        onnx.save(proto, temporary)
        session = open_session(temporary, path)
        found = torch.from_numpy(session.run(None, {IMAGES: example.detach().cpu().numpy()})[0])
        if integers is None:
            _check_equal(model, example, expected.cpu(), found, path)
    return Exported(path, names)


def _folded(model: nn.Module) -> nn.Module:
    """The network with its batch norms folded as `workflow` folds them; as it is where that is refused.

    The exporter would fold them too, but in another order of operations: the last bits of weights would differ, and so
    a few of their integers.
    """
    try:
        return with_readable(folded(model))
    except Exception:  # what torch.fx or copy refuse, the exporter takes, or names
        return model


def _check_equal(model: nn.Module, example: Tensor, expected: Tensor, found: Tensor, path: Path) -> None:
    if not same_results(model, example, expected, found):
        apart = (
            f"by up to {(found - expected).abs().max().item():.3g}"
            if found.shape == expected.shape
            else f"in shape, {list(found.shape)} and {list(expected.shape)}"
        )
        raise ValueError(
            f"the results of {path} in ONNX Runtime differ from the network's {apart}, so it is not kept. Look for an "
            "operation whose result is random in evaluation mode."
        )
