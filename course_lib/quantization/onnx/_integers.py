"""From a quantized network to an ONNX file with the same integers, scales and zero points.

The steps of the network are exported on numbers: each result is a tensor with a name, and the weights are inputs. Then
each rounded tensor gets a QuantizeLinear and a DequantizeLinear behind it, and integers with a DequantizeLinear take
the place of each quantized weight. ONNX Runtime joins an operator and those around it into one on integers, such as
QLinearConv.
"""

from collections.abc import Sequence
from dataclasses import replace
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from course_lib.quantization._state import Stateful
from course_lib.quantization.affine import QuantParams, quantize
from course_lib.quantization.aware import PreparedNetwork, convert
from course_lib.quantization.integer_network import IntegerNetwork
from course_lib.quantization.onnx._kept import whole_numbers
from course_lib.quantization.onnx._translate import translated
from course_lib.quantization.operations import OPERATIONS
from course_lib.quantization.simulated import QuantizedNetwork
from course_lib.quantization.steps import IMAGES, LOGITS, Step, execute
from course_lib.quantization.workflow import to_integer

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto


def as_integers(model: Stateful) -> IntegerNetwork:
    """Turn a quantized network of any kind into the integer network that a file can hold.

    Raises:
        ValueError: weights of more than 8 bits, or activations of another number.
    """
    if isinstance(model, PreparedNetwork):
        model = convert(model)
    integers = to_integer(model) if isinstance(model, QuantizedNetwork) else model
    for name, params in integers.activations.items():
        if params.dtype != torch.uint8 or params.bits != 8:
            raise ValueError(
                f"tensor {name!r} has {params.bits} bits; an ONNX file cuts uint8 off at 8 bits, and so does not hold "
                "fewer. Quantize with activation_bits=8; weights may have fewer."
            )
    return integers


def with_integers(integers: IntegerNetwork, example: Tensor) -> tuple["ModelProto", dict[str, str]]:
    """Return the network as ONNX, and {tensor of the file: tensor of `workflow.collect`}."""
    steps = _steps(integers)
    names = [
        f"{place}:{step.tensor}" for place, step in enumerate(steps)
    ]  # the exporter makes none with a colon
    layers = {step.layer: _stored(integers, step) for step in integers.steps if step.layer is not None}
    proto = translated(
        _OnNumbers(steps, layers),
        example.cpu(),
        [layer["weight"].numbers for layer in layers.values()],
        [layer["bias"].numbers for layer in layers.values()],
        inputs=[IMAGES, *(f"{name}.{part}" for part in ("weight", "bias") for name in layers)],
        outputs=names,
    )
    graph = proto.graph
    del graph.input[1:], graph.output[:-1]
    if any(node.op_type == "Identity" and names[0] in node.output for node in graph.node):
        _read_instead(graph, IMAGES, names[0])
    for layer, parts in layers.items():
        for part, stored in parts.items():
            _add_constant(graph, f"{layer}.{part}", stored)
    for name, step in zip(names, steps, strict=True):
        if step.tensor in integers.activations:
            _add_rounding(graph, name, integers.activations[step.tensor])
    _end_with(graph, names[-1], LOGITS)
    _sort(graph)
    return proto, {name: step.tensor for name, step in zip(names, steps, strict=True)}


class _OnNumbers(nn.Module):
    """The steps in floating point: from the images and the weights to the result of each step."""

    def __init__(self, steps: Sequence[Step], layers: Sequence[str]) -> None:
        super().__init__()
        self.steps, self.layers = list(steps), list(layers)

    def forward(self, images: Tensor, weights: list[Tensor], biases: list[Tensor]) -> list[Tensor]:
        of_layers = dict(zip(self.layers, zip(weights, biases, strict=True), strict=True))
        results = []

        def compute(step: Step, *inputs: Tensor) -> Tensor:
            results.append(step.on_numbers(*inputs, *of_layers.get(step.layer, ())))
            return results[-1]

        execute(self.steps, compute, images)
        return results


def _steps(integers: IntegerNetwork) -> list[Step]:
    """The steps; a ReLU is left out where rounding does the same, else it is a step of its own.

    Integers of a range that begins at 0 and ends no higher than the ReLU stand for numbers that it leaves alone.
    """
    steps, renamed = [], {}
    for step in integers.steps:
        step = replace(step, inputs=tuple(renamed.get(name, name) for name in step.inputs))
        params = integers.activations.get(step.tensor)
        kept = step.layer is not None and step.layer not in integers.weights
        if step.relu is None or params is None or kept or OPERATIONS[step.operation].integers is None:
            steps.append(step)
            continue
        steps.append(replace(step, relu=None))
        if params.zero_point > params.low or quantize(torch.tensor(step.relu), params) < params.high:
            renamed[step.name] = f"{step.name}.relu"
            options = {"high": step.relu}
            steps.append(Step(renamed[step.name], "relu", (step.name,), step.tensor, options=options))
    return steps


class _Stored:
    """Constant of a file: numbers, or integers with their parameters.

    Attributes:
        numbers: in float32.
        integers: None where the numbers are stored.
        scale, zero_point, axis: of the integers.
    """

    def __init__(
        self,
        values: Tensor,
        scale: Tensor | None = None,
        zero_point: Tensor | None = None,
        axis: int | None = None,
    ) -> None:
        self.integers = None if scale is None else values
        self.scale, self.zero_point, self.axis = scale, zero_point, axis
        if scale is None:
            self.numbers = values
        else:
            along = [-1 if place == axis else 1 for place in range(values.ndim)] if scale.ndim else []
            self.numbers = values.float() * scale.reshape(along)


def _stored(integers: IntegerNetwork, step: Step) -> dict[str, _Stored]:
    """Weight and bias of a layer; the bias is 0 where there is none."""
    weight, bias = (None if x is None else x.detach().cpu() for x in step.weights(integers.network))
    params = integers.weights.get(step.layer)
    if bias is None:
        transposed = step.operation == "conv_transpose2d"  # [C_in, C_out / groups, k_h, k_w]
        outputs = step.options["groups"] * weight.shape[1] if transposed else len(weight)
        bias = torch.zeros(outputs, dtype=torch.float32 if params is None else torch.int32)
    if params is None:
        numbers, scale = whole_numbers(bias)
        return {
            "weight": _Stored(weight),
            "bias": _Stored(numbers, scale, torch.zeros_like(numbers), 0),
        }
    tensors = {other.name: other.tensor for other in integers.steps}
    x_scale = integers.activations[tensors[step.inputs[0]]].scale.cpu()
    scale = params.scale.cpu()
    return {
        "weight": _Stored(weight, scale, params.zero_point.cpu().to(weight.dtype), params.axis),
        "bias": _Stored(bias, x_scale * scale, torch.zeros_like(scale, dtype=torch.int32), 0),
    }


def _add_constant(graph: "GraphProto", name: str, stored: _Stored) -> None:
    """Numbers under this name; or integers, from which a DequantizeLinear makes numbers of this name."""
    if stored.integers is None:
        _add_initializer(graph, name, stored.numbers)
        return
    parts = {"quantized": stored.integers, "scale": stored.scale, "zero_point": stored.zero_point}
    for part, values in parts.items():
        _add_initializer(graph, f"{name}_{part}", values)
    axis = {"axis": stored.axis} if stored.scale.ndim else {}
    _add_node(graph, "DequantizeLinear", [f"{name}_{part}" for part in parts], name, **axis)


def _add_rounding(graph: "GraphProto", name: str, params: QuantParams) -> None:
    """A QuantizeLinear and a DequantizeLinear behind a tensor, for all that reads it."""
    constants = [f"{name}_scale", f"{name}_zero_point"]
    _read_instead(graph, name, f"{name}_rounded")
    _add_initializer(graph, constants[0], params.scale.cpu())
    _add_initializer(graph, constants[1], params.zero_point.cpu().to(params.dtype))
    _add_node(graph, "QuantizeLinear", [name, *constants], f"{name}_quantized")
    _add_node(graph, "DequantizeLinear", [f"{name}_quantized", *constants], f"{name}_rounded")


def _end_with(graph: "GraphProto", old: str, new: str) -> None:
    """Another name for the output, which is a tensor's or what it is rounded to."""
    rounded = f"{old}_rounded"
    ends = rounded if any(rounded in node.output for node in graph.node) else old
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == ends:
                    names[place] = new
    graph.output[0].name = new


def _read_instead(graph: "GraphProto", old: str, new: str) -> None:
    """Let all operators read another tensor, but for the one that computes it."""
    for node in graph.node:
        if new not in node.output:
            for place, name in enumerate(node.input):
                if name == old:
                    node.input[place] = new


def _add_initializer(graph: "GraphProto", name: str, values: Tensor) -> None:
    from onnx import numpy_helper

    graph.initializer.append(numpy_helper.from_array(values.contiguous().numpy(), name))


def _add_node(graph: "GraphProto", operator: str, inputs: list[str], output: str, **attributes: int) -> None:
    from onnx import helper

    graph.node.append(helper.make_node(operator, inputs, [output], **attributes))


def _sort(graph: "GraphProto") -> None:
    """Operators in an order in which each follows what it reads, as the standard wants."""
    makers = {name: place for place, node in enumerate(graph.node) for name in node.output}
    reads = {
        place: [makers[name] for name in node.input if name in makers]
        for place, node in enumerate(graph.node)
    }
    nodes = [graph.node[place] for place in TopologicalSorter(reads).static_order()]
    del graph.node[:]
    graph.node.extend(nodes)
