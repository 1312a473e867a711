"""From a network of PyTorch to the operators of ONNX."""

import copy
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto


def translated(
    model: nn.Module, example: Tensor, *others: list[Tensor], inputs: Sequence[str], outputs: Sequence[str]
) -> "ModelProto":
    """Let torch.onnx translate a network, for batches of any size.

    How its tensors lie in memory is not for the file: from weights with the channels innermost torch.export makes more
    operators, and other names.

    Args:
        others: lists of tensors that the network takes beside the example.
        inputs, outputs: names of all inputs, and of all results.
    """
    with warnings.catch_warnings(), _BoundsOfOneType():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                copy.deepcopy(model).to(memory_format=torch.contiguous_format),
                (example.contiguous(), *others),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC}, *([None] * len(some) for some in others)),
                input_names=list(inputs),
                output_names=list(outputs),
                verbose=False,
            )
        except Exception as error:
            reason = str(error).partition("## Exception summary")[2] or f"{type(error).__name__}: {error}"
            raise ValueError(
                f"the model cannot be exported to ONNX: {' '.join(reason.split()):.400} ... Replace that operation by "
                "others, or leave it out of the network, whose path must depend neither on the values of its input nor "
                "on their number."
            ) from error
    proto = program.model_proto  # anew each time it is asked for
    _use_global_pooling(proto.graph)
    _use_relu(proto.graph)
    _take_hardswish_apart(proto.graph)
    return proto


class _BoundsOfOneType(TorchFunctionMode):
    """While it is active, clamp(0, 0.5) of real numbers is clamp(0.0, 0.5).

    The exporter of PyTorch makes a tensor of the whole number alone, and then knows no such clamp.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in _CLAMPS and isinstance(args[0], Tensor) and args[0].is_floating_point():
            args = (args[0], *map(_real, args[1:]))
            kwargs = {name: _real(value) for name, value in kwargs.items()}
        return function(*args, **kwargs)


_CLAMPS = {getattr(owner, name) for owner in (torch, Tensor) for name in ("clamp", "clip", "clamp_", "clip_")}


def _real(bound: object) -> object:
    return float(bound) if isinstance(bound, int) else bound


def _use_global_pooling(graph: "GraphProto") -> None:
    """ReduceMean over height and width as GlobalAveragePool, which is the same.

    Behind it comes a Flatten where the mean keeps no axes for height and width.
    """
    from onnx import helper, numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    known = (*graph.input, *graph.value_info, *graph.output)
    ndim = {entry.name: len(entry.type.tensor_type.shape.dim) for entry in known}
    replaced = set()
    for place in reversed(range(len(graph.node))):
        node = graph.node[place]
        keeps = all(attribute.i for attribute in node.attribute if attribute.name == "keepdims")
        if node.op_type != "ReduceMean" or ndim.get(node.input[0]) != 4 or len(node.input) == 1:
            continue
        if sorted(numpy_helper.to_array(constants[node.input[1]]).tolist()) in ([2, 3], [-2, -1]):
            replaced.add(node.input[1])
            node.op_type = "GlobalAveragePool"
            del node.attribute[:], node.input[1:]
            if not keeps:
                [y] = node.output
                node.output[:] = [f"{y}_image"]
                graph.node.insert(
                    place + 1, helper.make_node("Flatten", [f"{y}_image"], [y], f"{node.name}_flat")
                )
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


def _take_hardswish_apart(graph: "GraphProto") -> None:
    """HardSwish as x * HardSigmoid(x), which ONNX Runtime makes of it anyway; so its tensors have names here."""
    from onnx import helper

    for place in reversed(range(len(graph.node))):
        node = graph.node[place]
        if node.op_type == "HardSwish":
            [x], [y] = node.input, node.output
            gate = helper.make_node(
                "HardSigmoid", [x], [f"{y}_gate"], f"{node.name}_gate", alpha=1 / 6, beta=0.5
            )
            node.op_type = "Mul"
            node.input.append(gate.output[0])
            graph.node.insert(place, gate)
