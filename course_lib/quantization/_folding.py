"""A network as torch.fx has it, and with its batch norms folded."""

import copy
from collections import Counter

import torch
import torch.nn.functional as F
from torch import fx, nn

from course_lib import tracing

_BatchNorm = nn.modules.batchnorm._BatchNorm
_PASSED_ON = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
_DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout)
_STOCHASTIC_DEPTH = "torchvision.ops.stochastic_depth.stochastic_depth"


def traced(model: nn.Module) -> fx.Graph:
    """Trace a network in evaluation mode, without what hands on its input as it is."""
    with tracing.borrowed(model):
        graph = tracing.trace(
            model, fx.Tracer(), remedy="Rewrite that part, or quantize with quantization.onnx."
        )
    modules = dict(model.named_modules())
    for node in graph.nodes:
        layer = modules[node.target] if node.op == "call_module" else None
        if (type(layer) in _PASSED_ON and not _hooks(layer)) or _drops_nothing(node):
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph.erase_node(node)
    return graph


def _drops_nothing(node: fx.Node) -> bool:
    """Whether a function for training alone is called in evaluation."""
    if node.target in _DROPOUTS:
        return node.kwargs.get("training") is False
    # torchvision's stochastic depth, whose import would take seconds
    name = f"{getattr(node.target, '__module__', '')}.{getattr(node.target, '__name__', '')}"
    return name == _STOCHASTIC_DEPTH and node.kwargs.get("training", *node.args[3:]) is False


def folded(model: nn.Module) -> nn.Module:
    """Do what `workflow.fold_batch_norm` does, without comparing the results."""
    graph, modules = traced(model), dict(model.named_modules())
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    pairs = []
    for node in graph.nodes:
        if node.op != "call_module":
            continue
        norm = modules[node.target]
        if hasattr(norm, "weight"):
            check_plain(node.target, norm)
        if not isinstance(norm, _BatchNorm):
            continue
        source = node.all_input_nodes[0]
        layer = modules[source.target] if source.op == "call_module" else None
        foldable = isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear)
        if not foldable or len(source.users) > 1 or calls[source.target] > 1 or calls[node.target] > 1:
            raise ValueError(
                f"batch norm {node.target!r} cannot be folded: it follows {source.name!r}; accepted is a convolution "
                "or linear layer in front of it that nothing else reads, both called once. Rewrite that part, or "
                "quantize with quantization.onnx, which leaves in float32 what it cannot fold."
            )
        if norm.running_mean is None:
            raise ValueError(
                f"batch norm {node.target!r} has no running statistics (track_running_stats=False), so it is "
                "another map for each batch. Train it with running statistics."
            )
        pairs.append((source.target, node.target))
    result = copy.deepcopy(model)
    for layer, norm in pairs:
        _fold(result.get_submodule(layer), result.get_submodule(norm))
        result.set_submodule(norm, nn.Identity())
    return result.eval()


def check_plain(name: str, layer: nn.Module) -> None:
    """Refuse a layer that computes something else than its type and parameters say."""
    if _hooks(layer) or tracing.computed_parameter(layer):
        raise ValueError(
            f"layer {name!r} has a hook, or a weight that is computed from other parameters by a mask or "
            f"parametrisation; {tracing.MAKE_PERMANENT}, or remove the hook."
        )


def _fold(layer: nn.Module, norm: nn.Module) -> None:
    """In float64, rounded once."""
    with torch.no_grad():
        factor = (norm.running_var.double() + norm.eps).rsqrt()
        if norm.weight is not None:
            factor = factor * norm.weight.double()
        shift = -norm.running_mean.double() if layer.bias is None else layer.bias - norm.running_mean.double()
        bias = shift * factor if norm.bias is None else shift * factor + norm.bias
        weight = layer.weight * factor.reshape([-1] + [1] * (layer.weight.ndim - 1))
        dtype, learns = layer.weight.dtype, layer.weight.requires_grad
    layer.weight = nn.Parameter(weight.to(dtype), requires_grad=learns)
    layer.bias = nn.Parameter(bias.to(dtype), requires_grad=learns)


def _hooks(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks)
