"""Which tensor of an ONNX file is which tensor of `workflow.collect`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from course_lib.quantization._folding import folded
from course_lib.quantization.operations import OPERATIONS
from course_lib.quantization.steps import IMAGES, Step
from course_lib.quantization.translate import translate

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto


def tensor_names(model: nn.Module, graph: "GraphProto") -> dict[str, str]:
    """Name the tensors of a file as `workflow.collect` names those of its network.

    The file is followed from the images on. An operator that computes a tensor with a range of its own is found by what
    it reads and by the name of its weight; any other (ReLU, pooling, reshaping) hands on the name of what it reads.

    Returns:
        {tensor of the file: tensor of `workflow.collect`}, in the order of computation; empty where the network has an
        operation that `workflow` refuses.
    """
    try:
        steps = translate(folded(model))
    except ValueError:
        return {}
    tensors = {step.name: step.tensor for step in steps}
    waiting = [step for step in steps if OPERATIONS[step.operation].requantizes]
    names = {IMAGES: IMAGES}
    for node in graph.node:
        inputs = [names[name] for name in node.input if name in names and node.op_type != "Shape"]
        fitting = [
            step
            for step in waiting
            if node.op_type in OPERATIONS[step.operation].onnx
            and sorted(inputs) == sorted(tensors[name] for name in step.inputs)
        ]
        if fitting:
            step = _by_weight(node, fitting)
            waiting.remove(step)
            names[node.output[0]] = step.tensor
        elif inputs:
            names.update(dict.fromkeys(node.output, inputs[0]))
    return {} if waiting else names


def _by_weight(node: "NodeProto", steps: Sequence[Step]) -> Step:
    """The step whose layer has most names in the node: a weight that two layers have alike is stored for one of them.

    Of equal ones the first: file and steps are both in the order of forward().
    """
    return max(steps, key=lambda step: sum(name.startswith(f"{step.layer}.") for name in node.input))
