"""From an ONNX file in float32 to its 8-bit form."""

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from course_lib.files import atomic_path
from course_lib.quantization._checks import check_flag, check_ranges
from course_lib.quantization.calibration import Histogram, _check_method, _check_percentile
from course_lib.quantization.onnx._kept import keep_in_float
from course_lib.quantization.onnx._session import (
    File,
    Images,
    batches,
    check_file,
    check_other,
    check_packages,
    check_path,
    no_onnx_file,
    open_session,
    strip,
)
from course_lib.validation import check_choice, check_count

if TYPE_CHECKING:
    from onnx import ModelProto

_OPSET = 13  # the first whose DequantizeLinear takes one scale for each channel
# What these give has the scale of what they read.
_SAME_SCALE = (
    *("Split", "Slice", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"),
    *("MaxPool", "AveragePool"),
)
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_ACTIVATIONS = ("Relu", "Clip")  # ONNX Runtime gives what they read their range, and removes them
_FUNCTIONS = (
    "HardSigmoid",
    "Tanh",
    "Elu",
    "Gelu",
    "Sub",
)  # it would leave their results in float32 where such a one follows


def collect(path: File, images: Images, *, bins: int = 2048, batch_size: int = 100) -> dict[str, Histogram]:
    """Count the values of each tensor of a network on calibration images in histograms.

    What only a ReLU reads is left out: its range is that of what the ReLU gives.

    Args:
        path: of an ONNX file in float32.
        images: uint8 [N, C, H, W], of the training split, or float32 as the network takes them (normalised, for
            instance).
        bins: of each histogram.
        batch_size: images at a time; all tensors of a batch are in memory together.

    Returns:
        {tensor: histogram} for the input and the result of each operator, in order, by their names in the file.

    Raises:
        ImportError: onnx or onnxruntime is not installed.
        FileNotFoundError: there is no such file.
        TypeError, ValueError: no ONNX file, or not one that `quantize` takes; images of another dtype or shape, or
            none; a tensor that holds NaN or infinity, which is named.
    """
    check_packages("onnx", "onnxruntime")
    check_count(bins, "bins", low=2)
    check_count(batch_size, "batch_size")
    path = check_file(path)
    return _collect(_Observed(_folded(path), path), images, bins, batch_size)


def quantize(
    path: File,
    target: File,
    *,
    images: Images | None = None,
    method: str = "max",
    percentile: float = 99.99,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    names: Mapping[str, str] | None = None,
    reduce_range: bool = False,
    keep: Iterable[str] = (),
) -> Path:
    """Write the 8-bit form of a network: int8 weights with a scale for each channel, uint8 activations with one each.

    The ranges of the activations are those that a calibration method finds on images, or that are given. The largest of
    the network's outputs are not clipped, whatever the method: their order is what counts. ONNX Runtime's quantizer
    puts QuantizeLinear and DequantizeLinear around each operator, its runtime joins these into integer operators, which
    do what `integer` does. Operators without an integer form stay in float32. A range that clips more than can be meant
    draws a `calibration.ClippingWarning`, which names the tensor.

    Args:
        path: of an ONNX file in float32, as `export` writes it.
        target: of the file to be written; its folder is made where it is missing.
        images: calibration images of the training split, as `collect` takes them; or give `ranges`.
        method: name in `calibration.METHODS` or `calibration.PUBLISHED`.
        percentile: in percent, from 1 to 100, for the method of that name.
        ranges: {tensor: (low, high)} for each tensor that `collect` gives. That of an activation function (ReLU, clip)
            which alone reads its input takes its place, and must not be wider than what it gives.
        names: as `export` gives them, where the ranges are those of `workflow.calibrate`: {tensor of the file: tensor
            of the ranges}.
        reduce_range: whether weights take 7 bits. For x86 processors without VNNI, which add pairs of 8-bit products in
            int16, where larger ones saturate without notice.
        keep: names of layers that stay in float32, as in `workflow.quantize_model`, such as the first and the last: the
            names of their weights in the file without the ending ".weight".

    Returns:
        The target.

    Raises:
        ImportError: onnx or onnxruntime is not installed.
        FileNotFoundError: there is no such file.
        TypeError: an argument of another type than said here.
        KeyError: `ranges` lack a tensor, or name one that is not in the file, or not among `names`; `keep` names an
            unknown layer.
        ValueError: no ONNX file, one that is quantized already, of an opset below 13, or without a layer that can be
            quantized; an unknown method; both images and ranges, or neither; names without ranges, or none of them; a
            range of a ReLU that begins below 0; `target` is the file at `path`; what `collect` refuses.
        OSError: the target cannot be written.

    References:
        Wu et al., "Integer Quantization for Deep Learning Inference: Principles and Empirical Evaluation", 2020,
        section 3 (scales for each channel of a weight, for the whole of an activation; symmetric weights).
    """
    check_packages("onnx", "onnxruntime")
    import onnx

    path, target = check_file(path), check_path(target, "target")
    check_other(target, path)
    _check_method(method)
    _check_percentile(percentile)
    check_flag(reduce_range, "reduce_range")
    if (images is None) == (ranges is None):
        raise ValueError(
            f"images and ranges are {'both missing' if images is None else 'both given'}; give one of them."
        )
    model = _folded(path)
    kept = _kept(model, keep)
    observed = _Observed(model, path)
    if names is not None:
        ranges = _by_file(ranges, _handed_on(names, model), observed.names)
    if ranges is None:
        outputs = {output.name for output in model.graph.output}
        ranges = {
            name: histogram.range("max" if name in outputs else method, percentile=percentile, name=name)
            for name, histogram in _collect(observed, images, 2048, 100).items()
        }
    quantized = _quantized(model, check_ranges(ranges, observed.names), reduce_range, kept)
    with atomic_path(target) as temporary:
        onnx.save(quantized, temporary)
        open_session(temporary, target)
    return target


def _by_file(ranges: object, names: object, tensors: list[str]) -> dict[str, tuple[float, float]]:
    """The ranges of `workflow.calibrate` under the names of the file."""
    if not isinstance(names, Mapping):
        raise TypeError(
            f"names are a {type(names).__name__}; they must be {{tensor of the file: tensor of ranges}}, as export() "
            "gives."
        )
    if not names:
        raise ValueError(
            "names are empty: workflow has no integer form of this network. Give images, or ranges under the names of "
            "the file, which collect() tells."
        )
    if ranges is None:
        raise ValueError("names are given without ranges; give the ranges of workflow.calibrate() with them.")
    ours = check_ranges(ranges, list(dict.fromkeys(names.values())))
    return {tensor: ours[names[tensor]] for tensor in tensors if tensor in names}


def _handed_on(names: object, model: "ModelProto") -> object:
    """The names with those of tensors that ONNX Runtime has put in between when it folded constants."""
    if not isinstance(names, Mapping) or not names:
        return names  # which is refused
    names = dict(names)
    for node in model.graph.node:
        if node.op_type in _SAME_SCALE and node.input[0] in names:
            names.setdefault(node.output[0], names[node.input[0]])
    return names


def _folded(path: Path) -> "ModelProto":
    """The network with constants and batch norm folded: what ONNX Runtime's quant_pre_process does."""
    import onnx

    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf has its own
        raise no_onnx_file(path, error) from error
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if not versions or not model.graph.node:
        raise no_onnx_file(path, "it holds no operators")
    if versions[0] < _OPSET:
        raise ValueError(
            f"{path} is of opset {versions[0]}; quantize() takes opset {_OPSET} and later. Export it again, or use "
            "onnx.version_converter.convert_version."
        )
    kinds = {node.op_type for node in model.graph.node}
    if kinds & {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul"}:
        raise ValueError(f"{path} is quantized already. Give the file in float32 that it was made from.")
    if not kinds & set(_LAYERS):
        raise ValueError(
            f"{path} has no layer that can be quantized, only {', '.join(sorted(kinds))}; quantize() takes networks "
            "with convolutions or linear layers."
        )
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "folded.onnx"
        open_session(path, path, folded=written)
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
        self.session = open_session(everything.SerializeToString(), path)
        real = {entry.name for entry in self.session.get_outputs() if entry.type == "tensor(float)"}
        self.outputs = [name for name in results if name in real]
        self.names = [entry.name for entry in self.session.get_inputs()] + self.outputs

    def run(self, batch: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
        yield from batch.items()
        yield from zip(self.outputs, self.session.run(self.outputs, batch), strict=True)


def _collect(observed: _Observed, images: Images, bins: int, batch_size: int) -> dict[str, Histogram]:
    histograms = {name: Histogram(bins) for name in observed.names}
    for batch in batches(observed.session, observed.path, images, batch_size):
        for name, values in observed.run(batch):
            try:
                histograms[name].update(torch.from_numpy(values))
            except ValueError as error:
                raise ValueError(f"tensor {name!r} of {observed.path}: {error}") from error
    return histograms


def _kept(model: "ModelProto", keep: object) -> list[str]:
    """Names of the operators that stay in float32: those of the layers, and the activation function behind each.

    An operator without a name gets one.
    """
    if isinstance(keep, str) or not isinstance(keep, Iterable):
        raise TypeError(f"keep is {keep!r}; it must be the names of layers, such as ('features.0',).")
    nodes = model.graph.node
    constants = {tensor.name for tensor in model.graph.initializer}
    layers = {}
    for place, node in enumerate(nodes):
        node.name = node.name or f"node_{place}"
        weights = [name for name in node.input[1:2] if name in constants]
        if node.op_type in _LAYERS and weights:
            layers[weights[0].removesuffix(".weight")] = node
    kept = [layers[check_choice(name, "layer", list(layers), error=KeyError)] for name in keep]
    results = {node.output[0] for node in kept}
    behind = [node for node in nodes if node.op_type in _ACTIVATIONS and node.input[0] in results]
    return [node.name for node in (*kept, *behind)]


def _quantized(
    model: "ModelProto", ranges: Mapping[str, tuple[float, float]], reduce_range: bool, kept: list[str]
) -> "ModelProto":
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    bounds = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    reads = Counter(name for node in model.graph.node for name in node.input)
    kept = [*kept, *_activations_of_parts(model, bounds)]
    for node in reversed(model.graph.node):
        if node.op_type not in _ACTIVATIONS or node.output[0] not in bounds:
            continue
        low, _ = bounds[node.output[0]]
        if node.op_type == "Relu" and node.name not in kept and low < 0 and reads[node.input[0]] == 1:
            raise ValueError(
                f"the range of {node.output[0]!r} begins at {low:g}, but this is what a ReLU gives, whose place the "
                "range takes. Let it begin at 0."
            )
        # The quantizer wants a range of what it is about to remove, and does not use it.
        bounds.setdefault(node.input[0], bounds[node.output[0]])
    # What these give has the scale of what they read. Yet the quantizer looks up the range of their own when it widens
    # the weights' scales so that int32 holds the next layer's bias; a wider one there, and the bias would saturate.
    for node in model.graph.node:
        if node.op_type in _SAME_SCALE and node.input[0] in bounds:
            bounds |= {name: bounds[node.input[0]] for name in node.output if name in bounds}
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=reduce_range,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, bounds),
        nodes_to_quantize=[],
        nodes_to_exclude=kept,
        op_types_to_quantize=[*QDQRegistry, *QLinearOpsRegistry, *_FUNCTIONS],
        extra_options={"TensorQuantOverrides": _one_scale(model)},
    )
    quantizer.quantize_model()
    keep_in_float(quantizer.model.model.graph, kept)
    quantizer.model.topological_sort()  # the operators come in any order, which the standard forbids
    quantized = quantizer.model.model
    strip(quantized)
    used = {node.domain for node in quantized.graph.node}
    for entry in [entry for entry in quantized.opset_import if entry.domain not in used]:
        quantized.opset_import.remove(entry)
    return quantized


def _activations_of_parts(
    model: "ModelProto", bounds: Mapping[str, tuple[np.float32, np.float32]]
) -> list[str]:
    """Names of the ReLUs and clips that cut off something of the range they lie in, which is that of a whole tensor.

    They follow a part, a pooling or the like, whose input has a range that begins below 0, since others read it too.
    The quantizer would remove them.
    """
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    kept = []
    for node in model.graph.node:
        source = producers.get(node.input[0]) if node.op_type in _ACTIVATIONS else None
        if source is None or source.op_type not in (*_SAME_SCALE, "Pad") or node.output[0] not in bounds:
            continue
        ends = [
            float(numpy_helper.to_array(constants[n])) if n in constants else None for n in node.input[1:]
        ]
        floor, ceiling = (0.0, None) if node.op_type == "Relu" else [*ends, None, None][:2]
        low, high = bounds[node.output[0]]
        if (floor is not None and low < floor) or (ceiling is not None and high > ceiling):
            kept.append(node.name)
    return kept


def _one_scale(model: "ModelProto") -> dict[str, list[dict]]:
    """Weights with one scale for all channels: those of grouped ConvTranspose, which have no axis of all outputs."""
    from onnx import helper
    from onnxruntime.quantization import QuantType

    groups = {
        node.input[1]: helper.get_node_attr_value(node, "group")
        for node in model.graph.node
        if node.op_type == "ConvTranspose" and any(attribute.name == "group" for attribute in node.attribute)
    }
    return {
        weight: [{"quant_type": QuantType.QInt8, "symmetric": True}] for weight, n in groups.items() if n > 1
    }
