"""A network as torch.fx has it, and with its batch norms folded."""

import copy
from collections import Counter
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from course_lib import tracing
from course_lib.quantization._prologue import Tracer, with_constants
from course_lib.quantization._rewriting import with_shuffles, without_identities

_BatchNorm = nn.modules.batchnorm._BatchNorm
_TRANSPOSED = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
_FOLDED_INTO = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear | _TRANSPOSED


def traced(model: nn.Module) -> fx.Graph:
    """Trace a network in evaluation mode, without what hands on its input as it is, a shuffle being one call."""
    with tracing.borrowed(model):
        graph = tracing.trace(
            model, Tracer(), remedy="Rewrite that part, or quantize with quantization.onnx."
        )
        with_constants(
            graph, model
        )  # torch.fx has put some of them into the model, which gets rid of them now
    without_identities(graph, dict(model.named_modules()))
    with_shuffles(graph)
    return graph


def folded(model: nn.Module) -> nn.Module:
    """Do what `workflow.fold_batch_norm` does, without comparing the results."""
    return without_norms(model, norms_of(model))


def without_norms(model: nn.Module, norms: Mapping[str, str | None]) -> nn.Module:
    """Fold batch norms, as `norms_of` gives them, in a copy, which is in evaluation mode."""
    result = copy.deepcopy(model)
    for name, layer in norms.items():
        norm = result.get_submodule(name)
        if layer is None:
            result.set_submodule(name, _as_convolution(norm))
        else:
            _fold(result.get_submodule(layer), norm)
            result.set_submodule(name, nn.Identity())
    return result.eval()


def kept(model: nn.Module) -> tuple[nn.Module, dict[str, str]]:
    """Return a copy with the batch norms behind layers still there, and {layer: its batch norm}."""
    norms = norms_of(model)
    network = without_norms(model, {name: None for name, layer in norms.items() if layer is None})
    return network, {layer: name for name, layer in norms.items() if layer is not None}


def norms_of(model: nn.Module) -> dict[str, str | None]:
    """{batch norm: the layer in front that it is folded into}; None for one that is a layer of its own.

    Raises:
        ValueError: a batch norm that is neither, which is named.
    """
    graph, modules = traced(model), dict(model.named_modules())
    layers = {node: _layer(node, modules) for node in graph.nodes}
    calls = Counter(layers.values())
    into: dict[str, str | None] = {}
    for node, name in layers.items():
        if name is None:
            continue
        norm = modules[name]
        if hasattr(norm, "weight"):
            check_plain(name, norm)
        if not isinstance(norm, _BatchNorm):
            continue
        if norm.running_mean is None:
            raise ValueError(
                f"batch norm {name!r} has no running statistics (track_running_stats=False), so it is another map for "
                "each batch. Train it with running statistics."
            )
        source = node.all_input_nodes[0]
        layer = layers.get(source)
        foldable = layer is not None and isinstance(modules[layer], _FOLDED_INTO)
        if foldable and len(source.users) == calls[layer] == calls[name] == 1:
            into[name] = layer
        elif isinstance(norm, nn.BatchNorm2d):
            into[name] = None
        else:
            raise ValueError(
                f"batch norm {name!r} cannot be folded: it follows {source.name!r}; accepted is a BatchNorm2d, or a "
                "convolution or linear layer in front of it that nothing else reads, both called once. Rewrite that "
                "part, or quantize with quantization.onnx, which leaves in float32 what it cannot fold."
            )
    return into


def _layer(node: fx.Node, modules: dict[str, nn.Module]) -> str | None:
    """The name of the module that is called, or whose weight a convolution or linear layer is computed with."""
    if node.op == "call_module":
        return node.target
    weight = node.args[1] if node.target in (F.conv2d, F.linear) and len(node.args) > 1 else None
    if not isinstance(weight, fx.Node) or weight.op != "get_attr":
        return None
    return weight.target.rpartition(".")[0]


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
    return _scaled(layer, factor).to(layer.weight.dtype), bias.to(layer.weight.dtype)


def _fold(layer: nn.Module, norm: _BatchNorm) -> None:
    learns = layer.weight.requires_grad
    with torch.no_grad():
        weight, bias = folded_layer(layer, norm)
    layer.weight = nn.Parameter(weight, requires_grad=learns)
    layer.bias = nn.Parameter(bias, requires_grad=learns)


def _scaled(layer: nn.Module, factor: Tensor) -> Tensor:
    """The weight times a factor for each output channel."""
    weight = layer.weight
    if not isinstance(layer, _TRANSPOSED):
        return weight * factor.reshape([-1] + [1] * (weight.ndim - 1))
    # [C_in, C_out / groups, ...]: the inputs of each group go to outputs of their own.
    shares = factor.reshape([layer.groups, 1, -1] + [1] * (weight.ndim - 2))
    return (weight.unflatten(0, (layer.groups, -1)) * shares).flatten(0, 1)


def _as_convolution(norm: nn.BatchNorm2d) -> nn.Conv2d:
    """A batch norm that follows no layer, as a convolution: one weight and one bias for each channel."""
    channels = norm.num_features
    layer = nn.Conv2d(channels, channels, 1, groups=channels, bias=False)
    layer.weight = nn.Parameter(torch.ones_like(norm.running_mean).reshape(-1, 1, 1, 1))
    layer.weight.requires_grad_(norm.weight is None or norm.weight.requires_grad)
    _fold(layer, norm)
    return layer


def _hooks(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks)
