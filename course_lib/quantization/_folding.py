"""A network as torch.fx has it, and with its batch norms folded."""

import copy
from collections import Counter
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

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
    return without_norms(model, norms_of(model))


def without_norms(model: nn.Module, norms: Mapping[str, str]) -> nn.Module:
    """Fold batch norms, {layer: its batch norm}, in a copy, which is in evaluation mode."""
    result = copy.deepcopy(model)
    for layer, norm in norms.items():
        _fold(result.get_submodule(layer), result.get_submodule(norm))
        result.set_submodule(norm, nn.Identity())
    return result.eval()


def norms_of(model: nn.Module) -> dict[str, str]:
    """{layer: the batch norm behind it} of every batch norm; one that cannot be folded is refused by name."""
    graph, modules = traced(model), dict(model.named_modules())
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    norms = {}
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
        norms[source.target] = node.target
    return norms


def check_plain(name: str, layer: nn.Module) -> None:
    """Refuse a layer that computes something else than its type and parameters say."""
    if _hooks(layer) or tracing.computed_parameter(layer):
        raise ValueError(
            f"layer {name!r} has a hook, or a weight that is computed from other parameters by a mask or "
            f"parametrisation; {tracing.MAKE_PERMANENT}, or remove the hook."
        )


def folded_layer(
    layer: nn.Module, norm: _BatchNorm, mean: Tensor | None = None, var: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a layer with its batch norm folded, in float64 and rounded once.

    The statistics are the running ones where none are given. Gradients reach whatever they depend on.
    """
    mean, var = (norm.running_mean, norm.running_var) if mean is None else (mean, var)
    factor = (var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight.double()
    shift = -mean.double() if layer.bias is None else layer.bias - mean.double()
    bias = shift * factor if norm.bias is None else shift * factor + norm.bias
    weight = layer.weight * factor.reshape([-1] + [1] * (layer.weight.ndim - 1))
    return weight.to(layer.weight.dtype), bias.to(layer.weight.dtype)


def _fold(layer: nn.Module, norm: _BatchNorm) -> None:
    learns = layer.weight.requires_grad
    with torch.no_grad():
        weight, bias = folded_layer(layer, norm)
    layer.weight = nn.Parameter(weight, requires_grad=learns)
    layer.bias = nn.Parameter(bias, requires_grad=learns)


def _hooks(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks)
