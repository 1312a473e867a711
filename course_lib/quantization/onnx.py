"""Networks in ONNX Runtime: write the file, quantize it to 8 bits with ranges of our own, run it and time it.

    export(model, example, "vgg.onnx")
    quantize("vgg.onnx", "vgg-int8.onnx", images=dataset.train.images[:500], method="entropy")
    run("vgg-int8.onnx", dataset.test.images)       # logits
    latency("vgg-int8.onnx", dataset.test.images[:64])

Needs onnx, onnxscript and onnxruntime: pip install 'small-and-fast[deploy]'. They are imported when first needed.
"""

import copy
import importlib
import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float32, Shaped, UInt8
from torch import Tensor, nn

from course_lib import cost, tracing
from course_lib.data import to_float
from course_lib.files import atomic_path
from course_lib.quantization._checks import check_flag, check_ranges
from course_lib.quantization.calibration import METHODS, Histogram
from course_lib.validation import check_choice, check_count, check_number

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto
    from onnxruntime import InferenceSession

Images = UInt8[Tensor, "N C H W"]
File = str | os.PathLike

_OPSET = 13  # the first whose DequantizeLinear takes one scale for each channel
_ACTIVATIONS = ("Relu", "Clip")  # ONNX Runtime gives what they read their range, and removes them


def export(model: nn.Module, example: Shaped[Tensor, "N *rest"], path: File) -> Path:
    """Write a network as an ONNX file that takes batches of any size.

    Batch norm is folded into the convolutions. Global average pooling, which PyTorch writes as a mean over axes, is
    written as the operator of that name, which has an 8-bit form. Notes on where each operator comes from in the Python
    code are left out. The file is run on the example and compared with the network before it takes its name.

    Args:
        model: network that maps one tensor to one tensor; it is exported in evaluation mode and left as it was.
        example: input [N, ...] of the dtype and on the device that the model runs on; what N is does not matter.
        path: of the file; its folder is made where it is missing.

    Returns:
        The path.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is not installed.
        TypeError: `model` is not an nn.Module, `example` not a tensor, or `path` not a path.
        ValueError: the model does not run on the example, cannot be exported (the message names the operator), gives
            another result in ONNX Runtime, or gives more than one tensor.
        OSError: the file cannot be written.
    """
    _check_packages("onnx", "onnxscript", "onnxruntime")
    import onnx

    path = _check_path(path, "path")
    tracing.check(model, example)
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
        _strip(proto)
        onnx.save(proto, temporary)
        session = _session(temporary, path)
        found = session.run(None, {"images": example.detach().cpu().numpy()})[0]
        _check_equal(torch.from_numpy(found).double(), expected.cpu().double(), path)
    return path


def collect(path: File, images: Images, *, bins: int = 2048, batch_size: int = 100) -> dict[str, Histogram]:
    """Histograms of the values that each tensor of a network takes on calibration images.

    What only a ReLU reads is left out: its range is that of what the ReLU gives.

    Args:
        path: of an ONNX file in float32.
        images: uint8 [N, C, H, W], of the training split.
        bins: of each histogram.
        batch_size: images at a time; all tensors of a batch are in memory together.

    Returns:
        {tensor: histogram} for the input and the result of each operator, in order.

    Raises:
        ImportError: onnx or onnxruntime is not installed.
        FileNotFoundError: there is no such file.
        TypeError, ValueError: no ONNX file, or not one that `quantize` takes; images of another dtype or shape, or
            none; a tensor that holds NaN or infinity, which is named.
    """
    _check_packages("onnx", "onnxruntime")
    check_count(bins, "bins", low=2)
    check_count(batch_size, "batch_size")
    path = _check_file(path)
    return _collect(_Observed(_folded(path), path), images, bins, batch_size)


def quantize(
    path: File,
    target: File,
    *,
    images: Images | None = None,
    method: str = "max",
    percentile: float = 99.99,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    reduce_range: bool = False,
) -> Path:
    """Write the 8-bit form of a network: int8 weights with a scale for each channel, uint8 activations with one each.

    The ranges of the activations are those that a calibration method finds on images, or that are given. The largest of
    the network's outputs are not clipped, whatever the method: their order is what counts. ONNX Runtime's quantizer
    puts QuantizeLinear and DequantizeLinear around each operator, its runtime joins these into integer operators, which
    do what `integer` does. Operators without an integer form stay in float32.

    Args:
        path: of an ONNX file in float32, as `export` writes it.
        target: of the file to be written; its folder is made where it is missing.
        images: calibration images, uint8 [N, C, H, W], of the training split; or give `ranges`.
        method: name in `calibration.METHODS`.
        percentile: for the method of that name.
        ranges: {tensor: (low, high)} for each tensor that `collect` gives. That of an activation function (ReLU, clip)
            takes its place, and must not be wider than what it gives.
        reduce_range: whether weights take 7 bits. For x86 processors without VNNI, which add pairs of 8-bit products in
            int16, where larger ones saturate without notice.

    Returns:
        The target.

    Raises:
        ImportError: onnx or onnxruntime is not installed.
        FileNotFoundError: there is no such file.
        TypeError: an argument of another type than said here.
        KeyError: `ranges` lack a tensor, or name one that is not in the file.
        ValueError: no ONNX file, one that is quantized already, of an opset below 13, or without a layer that can be
            quantized; an unknown method; both images and ranges, or neither; a range of a ReLU that begins below 0;
            what `collect` refuses.
        OSError: the target cannot be written.

    Source: Wu et al., "Integer Quantization for Deep Learning Inference: Principles and Empirical Evaluation", 2020,
    section 3 (scales for each channel of a weight, for the whole of an activation; symmetric weights).
    """
    _check_packages("onnx", "onnxruntime")
    import onnx

    path, target = _check_file(path), _check_path(target, "target")
    check_choice(method, "calibration method", METHODS)
    check_number(percentile, "percentile", low=0, high=100, low_open=True)
    check_flag(reduce_range, "reduce_range")
    if (images is None) == (ranges is None):
        raise ValueError(
            f"images and ranges are {'both missing' if images is None else 'both given'}; give one of them."
        )
    model = _folded(path)
    observed = _Observed(model, path)
    if ranges is None:
        outputs = {output.name for output in model.graph.output}
        ranges = {
            name: histogram.range("max" if name in outputs else method, percentile=percentile)
            for name, histogram in _collect(observed, images, 2048, 100).items()
        }
    quantized = _quantized(model, check_ranges(ranges, observed.names), reduce_range)
    with atomic_path(target) as temporary:
        onnx.save(quantized, temporary)
        _session(temporary, target)
    return target


def run(path: File, images: Images, *, batch_size: int = 500) -> Float32[Tensor, "N K"]:
    """What a network gives for images, with as many threads as PyTorch has.

    Args:
        path: of an ONNX file, quantized or not; both take and give float32.
        images: uint8 [N, C, H, W]; `data.to_float` makes them numbers.
        batch_size: images at a time.

    Returns:
        Logits [N, K]; `(logits.argmax(dim=1) == labels).float().mean()` is the accuracy.

    Raises:
        ImportError: onnxruntime is not installed.
        FileNotFoundError: there is no such file.
        TypeError, ValueError: no ONNX file, or none of a network of images; images of another dtype or shape than it
            takes, or none.
    """
    _check_packages("onnxruntime")
    path = _check_file(path)
    check_count(batch_size, "batch_size")
    session = _session(path, path)
    parts = [session.run(None, batch)[0] for batch in _batches(session, path, images, batch_size)]
    return torch.from_numpy(np.concatenate(parts))


def latency(path: File, images: Images, *, threads: int = 1, min_seconds: float = 0.2) -> cost.Latency:
    """Time a network in ONNX Runtime, as `cost.latency` times one in PyTorch.

    Args:
        path: of an ONNX file, quantized or not.
        images: uint8 [N, C, H, W], run as one batch; made float32 before the clock starts.
        threads: of ONNX Runtime. Compare only figures of the same number, on the same machine: 8 bits are fast where
            the processor multiplies them in one instruction (VNNI on x86).
        min_seconds: time to spend on timing, in seconds.

    Returns:
        Median, lower and upper quartile over the blocks, in seconds per call.

    Raises:
        ImportError, FileNotFoundError, TypeError, ValueError: as `run`; `threads` or `min_seconds` is not positive; the
            network takes batches of another size.
    """
    _check_packages("onnxruntime")
    path = _check_file(path)
    session = _session(path, path, check_count(threads, "threads"))
    [(name, array)] = next(_batches(session, path, images, None)).items()
    if len(array) != len(images):
        raise ValueError(
            f"{path} takes batches of exactly {len(array)} images, not of {len(images)}. Give as many, or write it "
            "again with export(), which leaves the size open."
        )
    return cost.latency(
        _Network(session, name), torch.from_numpy(array), threads=threads, min_seconds=min_seconds
    )


class _Network(nn.Module):
    """A session as a network of PyTorch; neither way is anything copied."""

    def __init__(self, session: "InferenceSession", name: str):
        super().__init__()
        self.session, self.name = session, name

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.session.run(None, {self.name: x.numpy()})[0])


# ---- export --------------------------------------------------------------------------------------------------------


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


# ---- quantization --------------------------------------------------------------------------------------------------


def _folded(path: Path) -> "ModelProto":
    """The network with constants and batch norm folded: what ONNX Runtime's quant_pre_process does."""
    import onnx

    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf has its own
        raise _no_onnx_file(path, error) from error
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if not versions or not model.graph.node:
        raise _no_onnx_file(path, "it holds no operators")
    if versions[0] < _OPSET:
        raise ValueError(
            f"{path} is of opset {versions[0]}; quantize() takes opset {_OPSET} and later. Export it again, or use "
            "onnx.version_converter.convert_version."
        )
    kinds = {node.op_type for node in model.graph.node}
    if kinds & {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul"}:
        raise ValueError(f"{path} is quantized already. Give the file in float32 that it was made from.")
    if not kinds & {"Conv", "ConvTranspose", "Gemm", "MatMul"}:
        raise ValueError(
            f"{path} has no layer that can be quantized, only {', '.join(sorted(kinds))}; quantize() takes networks "
            "with convolutions or linear layers."
        )
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "folded.onnx"
        _session(path, path, folded=written)
        return onnx.load(written)


class _Observed:
    """A session of a network that gives, besides its outputs, every tensor of real numbers inside it.

    Attributes:
        names: of these tensors, the input first.
    """

    def __init__(self, model: "ModelProto", path: Path):
        from onnx import ModelProto, helper

        everything = ModelProto()
        everything.CopyFrom(model)
        nodes = model.graph.node
        outputs = {output.name for output in model.graph.output}
        results = [name for node in nodes for name in node.output if name]
        reads = Counter(name for node in nodes for name in node.input)
        hidden = {
            node.input[0] for node in nodes if node.op_type in _ACTIVATIONS and reads[node.input[0]] == 1
        }
        for name in results:
            if name not in outputs | hidden:
                everything.graph.output.append(helper.make_empty_tensor_value_info(name))
        self.path = path
        self.session = _session(everything.SerializeToString(), path)
        real = {entry.name for entry in self.session.get_outputs() if entry.type == "tensor(float)"}
        self.outputs = [name for name in results if name in real]
        self.names = [entry.name for entry in self.session.get_inputs()] + self.outputs

    def run(self, batch: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        yield from batch.items()
        yield from zip(self.outputs, self.session.run(self.outputs, batch), strict=True)


def _collect(observed: _Observed, images: Images, bins: int, batch_size: int) -> dict[str, Histogram]:
    histograms = {name: Histogram(bins) for name in observed.names}
    for batch in _batches(observed.session, observed.path, images, batch_size):
        for name, values in observed.run(batch):
            try:
                histograms[name].update(torch.from_numpy(values))
            except ValueError as error:
                raise ValueError(f"tensor {name!r} of {observed.path}: {error}") from error
    return histograms


def _quantized(
    model: "ModelProto", ranges: Mapping[str, tuple[float, float]], reduce_range: bool
) -> "ModelProto":
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    bounds = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    for node in reversed(model.graph.node):
        if node.op_type not in _ACTIVATIONS or node.output[0] not in bounds:
            continue
        low, _ = bounds[node.output[0]]
        if node.op_type == "Relu" and low < 0:
            raise ValueError(
                f"the range of {node.output[0]!r} begins at {low:g}, but this is what a ReLU gives, whose place the "
                "range takes. Let it begin at 0."
            )
        # The quantizer wants a range of what it is about to remove, and does not use it.
        bounds.setdefault(node.input[0], bounds[node.output[0]])
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=reduce_range,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, bounds),
        nodes_to_quantize=[],
        nodes_to_exclude=[],
        op_types_to_quantize=[*QDQRegistry, *QLinearOpsRegistry],
        extra_options={},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()  # the operators come in any order, which the standard forbids
    quantized = quantizer.model.model
    _strip(quantized)
    used = {node.domain for node in quantized.graph.node}
    for entry in [entry for entry in quantized.opset_import if entry.domain not in used]:
        quantized.opset_import.remove(entry)
    return quantized


def _strip(model: "ModelProto") -> None:
    """Leave out notes, on where in the code an operator comes from, and the shapes of inner tensors."""
    graph = model.graph
    del graph.value_info[:]
    parts = (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer)
    for part in parts:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


# ---- sessions, checks ----------------------------------------------------------------------------------------------


def _check_packages(*names: str) -> None:
    try:
        for name in names:
            importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"the package {error.name or error} cannot be imported; export, quantize and run need it. Install it with "
            "pip install 'small-and-fast[deploy]'."
        ) from error


def _session(
    source: Path | bytes, name: Path, threads: int | None = None, *, folded: Path | None = None
) -> "InferenceSession":
    """A session of a file, or of its content, that gives no warnings: those are for the authors of the operators.

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
        raise _no_onnx_file(name, error) from error


def _no_onnx_file(path: Path, reason: object) -> ValueError:
    lines = str(reason).strip().splitlines() or ["no further explanation"]
    return ValueError(
        f"{path} is no ONNX file that ONNX Runtime can run: {lines[0]:.300}. Write it with export() from a network in "
        "float32, or update onnxruntime where the message names an operator or opset."
    )


def _batches(
    session: "InferenceSession", path: Path, images: object, batch_size: int | None
) -> Iterator[dict[str, np.ndarray]]:
    """The images as float32, in batches of that size or all in one; where the network's is fixed, in such."""
    if not isinstance(images, Tensor):
        raise TypeError(
            f"images are a {type(images).__name__}; they must be a torch.Tensor of uint8, [N, C, H, W]."
        )
    if images.ndim != 4 or images.numel() == 0:
        raise ValueError(
            f"images have shape {list(images.shape)}; they must be [N, C, H, W] with at least one image."
        )
    to_float(images[:1])  # judges the dtype
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
    if len(shape) != 4 or fixed[1:] != list(images.shape[1:]):
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
        yield {inputs[0].name: to_float(part).cpu().numpy()}


def _check_path(path: object, name: str) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"{name} is {path!r:.80} ({type(path).__name__}); it must be the path of a file.")
    return Path(path)


def _check_file(path: object) -> Path:
    path = _check_path(path, "path")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. Write it with export(model, example, path) first.")
    return path
