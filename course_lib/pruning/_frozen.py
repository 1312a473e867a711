"""How a frozen layer is built: its parameter, a mask, and the parametrisation that makes one weight of them."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class _Held(nn.Module):
    """The parametrisation behind `freeze`: its parameter with zeros where the mask is False."""

    def __init__(self, module: nn.Module, key: str) -> None:
        super().__init__()
        others = _held_keys(module)
        # remove_parametrizations puts the parameter back last; this is the order to restore.
        self.order = _held(module, others[0]).order if others else tuple(module._parameters)
        self.register_buffer("mask", torch.ones_like(module._parameters[key], dtype=torch.bool))

    def forward(self, original: Tensor) -> Tensor:
        # Not a product: 0 * inf is NaN, and 0 * -1 is -0.
        return original.masked_fill(~self.mask, 0)


def _hold(module: nn.Module, key: str) -> _Held:
    """The mask on a parameter of a layer; one that keeps everything if it had none."""
    held = _held(module, key)
    if held is None:
        held = _Held(module, key)
        parametrize.register_parametrization(module, key, held)
        if isinstance(module, nn.RNNBase) and "__deepcopy__" in vars(type(module)):
            # The class is one that parametrize made, and __deepcopy__ as well.
            type(module).__deepcopy__ = _copied_recurrent
    return held


def _copied_recurrent(layer: nn.RNNBase, memo: dict[int, object]) -> nn.RNNBase:
    """A deep copy of a recurrent layer but for its list of weights, which after a forward() holds computed ones."""
    if id(layer) not in memo:
        memo[id(layer)] = replica = type(layer).__new__(type(layer))
        kept = {name: value for name, value in vars(layer).items() if name != "_flat_weight_refs"}
        kept["_flat_weights"] = []
        vars(replica).update(copy.deepcopy(kept, memo))
        replica._init_flat_weights()
    return memo[id(layer)]


def _held_keys(module: nn.Module) -> list[str]:
    keys = module.parametrizations if parametrize.is_parametrized(module) else ()
    return [key for key in keys if _held(module, key) is not None]


def _held(module: nn.Module, key: str) -> _Held | None:
    """The mask on a parameter; None if it has none."""
    if not parametrize.is_parametrized(module, key):
        return None
    first = module.parametrizations[key][0]
    return first if isinstance(first, _Held) else None


def _original(module: nn.Module, key: str) -> nn.Parameter:
    """The trained parameter behind a layer's parameter, masked or not."""
    return module._parameters[key] if _held(module, key) is None else module.parametrizations[key].original


def _slots(model: nn.Module) -> list[tuple[str, nn.Module, str]]:
    """(name in the plain model, layer, its key) of every parameter, in that model's order; a shared one repeatedly."""
    slots = []
    for prefix, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, parametrize.ParametrizationList):
            continue
        held = _held_keys(module)
        keys = [key for key, parameter in module._parameters.items() if parameter is not None] + held
        if held:
            order = _held(module, held[0]).order
            keys.sort(key=lambda key: order.index(key) if key in order else len(order))
        slots += [(f"{prefix}.{key}" if prefix else key, module, key) for key in keys]
    return slots


def _foreign(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The parameters that have a parametrisation which is not ours."""
    return [
        (f"{prefix}.{key}" if prefix else key, module)
        for prefix, module in model.named_modules()
        if parametrize.is_parametrized(module)
        for key in module.parametrizations
        if _held(module, key) is None
    ]


def _own_class(module: nn.Module) -> None:
    """Give a parametrised layer a class that no copy of it shares: PyTorch removes attributes from that class."""
    shared = type(module)
    own = {name: value for name, value in vars(shared).items() if name not in ("__dict__", "__weakref__")}
    module.__class__ = type(shared.__name__, shared.__bases__, own)


def _reorder(module: nn.Module, order: tuple[str, ...]) -> None:
    """Put the parameters of a layer into this order, so that its state_dict and optimizer read as before."""
    parameters = module._parameters
    others = [key for key in parameters if key not in order]
    for key in [*(key for key in order if key in parameters), *others]:
        parameters[key] = parameters.pop(key)
