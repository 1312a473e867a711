"""One table of rules: what each kind of operation does to the channels that go in, with every way to write it."""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.utils.parametrize import is_parametrized

from course_lib.pruning.graph import _effects as effects
from course_lib.pruning.graph._calls import Call


@dataclass(frozen=True)
class _Rule:
    """What one kind of operation does.

    Attributes:
        labels: gives the labels of its result, ties those that go together, and fixes those that have to stay.
        spelled: every way to write it: types of layers, functions (or their dotted names, where they are another
            library's), and ".name" for methods of tensors.
        arguments: their names by position, see `_calls.normalised`.
        counts: what becomes of channels whose number goes in.
        parameters: what becomes of parameters that go in directly; called with the labels of the result.
    """

    labels: Callable[[Call], object]
    spelled: tuple[object, ...]
    arguments: tuple[str, ...] = ("input",)
    counts: Callable[[Call], None] = effects.fixed
    parameters: Callable[[Call, object], None] = effects.pinned


# fmt: off
_TABLE = (
    # Layers with weights
    _Rule(effects.convolution, (
        nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    )),
    _Rule(effects.linear, (nn.Linear,)),
    _Rule(effects.batch_norm, (
        nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm,
        nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
    )),
    _Rule(effects.group_norm, (nn.GroupNorm,)),
    _Rule(effects.same, (nn.LayerNorm, F.layer_norm), parameters=effects.of_layer_norm),
    _Rule(effects.prelu, (nn.PReLU,)),
    # Channels stay where they are
    _Rule(effects.elementwise, (
        operator.add, torch.add, ".add", ".add_", operator.sub, torch.sub,
        ".sub", ".sub_", operator.mul, torch.mul, ".mul", ".mul_",
        operator.truediv, torch.div, ".div", ".div_", operator.pow, torch.pow, ".pow",
        operator.neg, torch.neg, ".neg", torch.maximum, ".maximum", torch.minimum, ".minimum", torch.where,
        ".expand_as", torch.exp, ".exp", torch.log, ".log", torch.abs, ".abs", torch.sqrt, ".sqrt", torch.rsqrt,
        ".rsqrt", torch.square, ".square", torch.clamp, ".clamp", ".clamp_", torch.erf,
        nn.ReLU, torch.relu, F.relu, F.relu_, ".relu", ".relu_", F.relu6, nn.LeakyReLU, F.leaky_relu,
        nn.ELU, F.elu, nn.SELU, F.selu, nn.CELU, nn.GELU, F.gelu, nn.SiLU, F.silu, nn.Mish, F.mish,
        nn.Hardswish, F.hardswish, nn.Hardsigmoid, F.hardsigmoid, nn.Hardtanh, F.hardtanh,
        nn.Sigmoid, torch.sigmoid, ".sigmoid", ".sigmoid_", nn.LogSigmoid, F.logsigmoid,
        nn.Tanh, torch.tanh, ".tanh", ".tanh_", nn.Softplus, F.softplus,
    ), parameters=effects.scales),
    _Rule(effects.same, (
        nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout,
        F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout,
        "torchvision.ops.stochastic_depth.stochastic_depth",
        ".contiguous", ".clone", ".detach", ".to", ".float", ".double", ".half", ".bfloat16",
    )),
    _Rule(effects.window(1), (
        nn.MaxPool1d, F.max_pool1d, torch.max_pool1d, nn.AvgPool1d, F.avg_pool1d, nn.LPPool1d,
        nn.AdaptiveAvgPool1d, F.adaptive_avg_pool1d, nn.AdaptiveMaxPool1d, F.adaptive_max_pool1d,
    )),
    _Rule(effects.window(2), (
        nn.MaxPool2d, F.max_pool2d, torch.max_pool2d, nn.AvgPool2d, F.avg_pool2d, nn.LPPool2d,
        nn.AdaptiveAvgPool2d, F.adaptive_avg_pool2d, nn.AdaptiveMaxPool2d, F.adaptive_max_pool2d,
    )),
    _Rule(effects.window(3), (
        nn.MaxPool3d, F.max_pool3d, nn.AvgPool3d, F.avg_pool3d,
        nn.AdaptiveAvgPool3d, F.adaptive_avg_pool3d, nn.AdaptiveMaxPool3d, F.adaptive_max_pool3d,
    )),
    _Rule(effects.window(None), (nn.Upsample, F.interpolate)),
    _Rule(
        effects.padded, (nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ConstantPad2d, F.pad),
        arguments=("input", "pad"),
    ),
    # Channels move
    _Rule(effects.channel_shuffle, (nn.ChannelShuffle,)),
    _Rule(effects.moved(torch.permute), (torch.permute, ".permute"), arguments=("input", "*dims")),
    _Rule(
        effects.moved(torch.transpose), (torch.transpose, ".transpose", torch.swapaxes, ".swapaxes"),
        arguments=("input", "dim0", "dim1"),
    ),
    _Rule(
        effects.moved(torch.movedim), (torch.movedim, ".movedim"), arguments=("input", "source", "destination"),
    ),
    _Rule(effects.moved(torch.unsqueeze), (torch.unsqueeze, ".unsqueeze"), arguments=("input", "dim")),
    _Rule(effects.reshaped, (nn.Flatten, torch.flatten, ".flatten")),
    _Rule(effects.squeezed, (torch.squeeze, ".squeeze"), arguments=("input", "dim")),
    _Rule(
        effects.viewed, (torch.reshape, ".reshape", ".view"),
        arguments=("input", "*shape"), counts=effects.judged_with_labels,
    ),
    _Rule(effects.concatenated, (torch.cat, torch.concat), arguments=("tensors", "dim")),
    _Rule(effects.chunked, (torch.chunk, ".chunk"), arguments=("input", "chunks", "dim")),
    _Rule(
        effects.split, (torch.split, ".split"),
        arguments=("input", "split_size_or_sections", "dim"), counts=effects.judged_with_labels,
    ),
    _Rule(effects.item, (operator.getitem,), arguments=("input", "index")),
    _Rule(effects.gathered, (tuple,), counts=effects.judged_with_labels),
    _Rule(effects.output, ("output",), counts=effects.judged_with_labels),
    # Channels are mixed
    _Rule(
        effects.reduced, (torch.mean, ".mean", torch.sum, ".sum", torch.amax, ".amax", torch.amin, ".amin"),
        arguments=("input", "dim", "keepdim"),
    ),
    _Rule(
        effects.mixed_along,
        (
            nn.Softmax, F.softmax, torch.softmax, ".softmax",
            nn.LogSoftmax, F.log_softmax, torch.log_softmax, ".log_softmax",
        ),
        arguments=("input", "dim"),
    ),
)
# fmt: on
_RULE_OF = {spelling: rule for rule in _TABLE for spelling in rule.spelled}


def _rule_of(node: fx.Node, layers: Mapping[str, nn.Module]) -> _Rule | None:
    """The row of the table for a node of a traced network; None if there is none."""
    if node.op == "call_module":
        return _RULE_OF.get(_known_type(layers[node.target]))
    if node.op == "call_method":
        return _RULE_OF.get(f".{node.target}")
    if node.op == "output":
        return _RULE_OF["output"]
    if isinstance(node.target, type) and issubclass(node.target, tuple):  # a named tuple of outputs
        return _RULE_OF[tuple]
    if node.op != "call_function":  # an input, or a parameter
        return None
    return _RULE_OF.get(node.target, _RULE_OF.get(_dotted_name(node.target)))


def _dotted_name(function: object) -> str:
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__name__', function)}"


def _known_type(layer: nn.Module) -> type | None:
    """The type of layer whose forward() this is: a subclass that overrides it is something else."""
    kind = next((kind for kind in type(layer).__mro__ if kind in _RULE_OF), None)
    if is_parametrized(layer):
        return kind
    if kind is None or "forward" in vars(layer):
        return None
    methods = [name for name in ("forward", "_conv_forward") if hasattr(kind, name)]
    return kind if all(getattr(type(layer), name) is getattr(kind, name) for name in methods) else None
