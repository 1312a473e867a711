"""What a network does to its images before anything else: sums and products with constants, such as (x - mean) / std.

It stays in floating point. The images are rounded behind it, so that their range is that of the normalised ones.
"""

import hashlib
import inspect
import operator
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

_ARITHMETIC = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "from": lambda x, constant: constant - x,
}
_SPELLED = {  # {function, or name of a tensor method: (its name here, whether it works in place)}
    **{operator.add: ("add", False), torch.add: ("add", False), "add": ("add", False), "add_": ("add", True)},
    **{operator.sub: ("sub", False), torch.sub: ("sub", False), "sub": ("sub", False), "sub_": ("sub", True)},
    **{operator.mul: ("mul", False), torch.mul: ("mul", False), "mul": ("mul", False), "mul_": ("mul", True)},
    **{operator.truediv: ("div", False), torch.div: ("div", False)},
    **{"div": ("div", False), "div_": ("div", True)},
    **{operator.iadd: ("add", True), operator.isub: ("sub", True)},
    **{operator.imul: ("mul", True), operator.itruediv: ("div", True)},
}
_NORMALIZE = ("torchvision.transforms.functional", "torchvision.transforms.v2.functional")
_LAYERS = (  # whose forward() torch.fx cannot follow
    ("torchvision.transforms.transforms", "Normalize"),
    ("torchvision.transforms.v2._misc", "Normalize"),
)
_VALUE = "value"  # of a constant, in the meta of its node
_SHOWN = 64  # numbers of a constant that are written down one by one


@dataclass(frozen=True, eq=False)
class Arithmetic:
    """Sum, difference, product or quotient of images and a constant.

    Attributes:
        name: key of the function.
        constant: float32, for all numbers, for each channel, or for each place.
    """

    name: str
    constant: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        return _ARITHMETIC[self.name](images, self.constant.to(images.device))

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, Arithmetic) and self.name == other.name
        return same and torch.equal(self.constant, other.constant)

    def __hash__(self) -> int:
        return hash((self.name, self.constant.shape))

    def __repr__(self) -> str:
        """All that `saving` compares."""
        values = self.constant.tolist()
        if self.constant.numel() > _SHOWN:
            values = hashlib.sha256(self.constant.numpy().tobytes()).hexdigest()
        return f"{self.name} {list(self.constant.shape)} {values}"


class Tracer(fx.Tracer):
    """Takes torchvision's normalisation, which looks into its input, as one call; it does not import torchvision."""

    def __init__(self) -> None:
        loaded = [sys.modules[name] for name in _NORMALIZE if name in sys.modules]
        super().__init__(autowrap_functions=tuple(module.normalize for module in loaded))
        self._autowrap_search += loaded  # for normalize as an attribute of its module

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        """Whether a module is one call of the graph."""
        return _is_normalize(module) or super().is_leaf_module(module, name)


def with_constants(graph: fx.Graph, model: nn.Module) -> None:
    """Write the constants of a model into the nodes of its graph, those too that torch.fx has made while it traced."""
    for node in graph.nodes:
        value = operator.attrgetter(node.target)(model) if node.op == "get_attr" else None
        if isinstance(value, Tensor) and not value.requires_grad:
            node.meta[_VALUE] = value


def without_prologue(graph: fx.Graph, modules: Mapping[str, nn.Module]) -> tuple[Arithmetic, ...]:
    """Take out of a graph what it does to its images with constants before anything else, and return that.

    Only what all that follows reads is taken, and nothing that changes the images that were given, in place. A
    parameter that is trained is no constant.
    """
    found: list[Arithmetic] = []
    images = next(node for node in graph.nodes if node.op == "placeholder")
    while True:
        readers = [node for node in images.users if not _asks(node) and not _moves(node, to=images)]
        steps = _read(readers[0], images, modules, owned=bool(found)) if len(readers) == 1 else None
        if steps is None:
            break
        found += steps
        readers[0].replace_all_uses_with(images)
        graph.erase_node(readers[0])
    for node in reversed(list(graph.nodes)):
        if not node.users and (_asks(node) or _moves(node) or node.op == "get_attr"):
            graph.erase_node(node)
    return tuple(found)


def with_readable(model: nn.Module) -> nn.Module:
    """Put layers that the exporter to ONNX can follow in the place of torchvision's normalisation; return the model."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    for name, layer in list(model.named_modules()):
        if name and _is_normalize(layer):
            constants = [_for_channels(value) for value in (layer.mean, layer.std)]
            if all(constant is not None for constant in constants):
                model.set_submodule(name, _Normalize(*constants).to(device))
    return model


class _Normalize(nn.Module):
    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


def _read(
    node: fx.Node, images: fx.Node, modules: Mapping[str, nn.Module], *, owned: bool
) -> list[Arithmetic] | None:
    """What a node does to the images; None where that is something else."""
    if node.op == "call_module":
        layer = modules[node.target]
        plain = _is_normalize(layer) and not (layer._forward_hooks or layer._forward_pre_hooks)
        arguments = (images, layer.mean, layer.std, layer.inplace) if plain else None
    elif _is_function(node.target):
        given = inspect.signature(node.target).bind(*node.args, **node.kwargs)
        given.apply_defaults()
        arguments = given.args
    else:
        return _arithmetic(node, images, owned=owned)
    if arguments is None or arguments[0] is not images or (arguments[3] and not owned):
        return None
    constants = [_for_channels(value) for value in arguments[1:3]]
    if any(constant is None for constant in constants):
        return None
    return [Arithmetic(name, value) for name, value in zip(("sub", "div"), constants, strict=True)]


def _arithmetic(node: fx.Node, images: fx.Node, *, owned: bool) -> list[Arithmetic] | None:
    name, in_place = _SPELLED.get(node.target, (None, False)) if node.op != "placeholder" else (None, False)
    if name is None or len(node.args) != 2 or node.kwargs or (in_place and not owned):
        return None
    first, second = node.args
    if first is images:
        constant = _constant(second)
    elif in_place or name == "div":
        return None
    else:
        constant, name = _constant(first), "from" if name == "sub" else name
    return None if constant is None else [Arithmetic(name, constant)]


def _constant(value: object) -> Tensor | None:
    """The value of a number or of a node that does not depend on the images; None for any other."""
    if isinstance(value, fx.Node):
        return _constant(value.args[0] if _moves(value) else value.meta.get(_VALUE))
    if isinstance(value, bool) or not isinstance(value, int | float | Tensor):
        return None
    constant = torch.as_tensor(value).detach().to("cpu", torch.float32, copy=True).contiguous()
    return constant if constant.ndim < 4 or (constant.ndim == 4 and len(constant) == 1) else None


def _for_channels(value: object) -> Tensor | None:
    """A constant as torchvision's normalisation takes it: one number for each channel."""
    if isinstance(value, tuple | list) and all(isinstance(number, int | float) for number in value):
        value = torch.tensor(value, dtype=torch.float32)
    constant = _constant(value)
    return constant.reshape(-1, 1, 1) if constant is not None and constant.ndim == 1 else constant


def _is_normalize(layer: nn.Module) -> bool:
    return (type(layer).__module__, type(layer).__name__) in _LAYERS


def _is_function(target: object) -> bool:
    """Whether this is normalize() of torchvision."""
    module = getattr(target, "__module__", None) or ""
    return module.startswith("torchvision.transforms.") and getattr(target, "__name__", "") == "normalize"


def _asks(node: fx.Node) -> bool:
    """Whether this is the shape or device of a tensor, which does not depend on its numbers."""
    return node.target in ("size", "dim") or (
        node.target is getattr and node.args[1] in ("shape", "device", "dtype", "ndim")
    )


def _moves(node: fx.Node, to: fx.Node | None = None) -> bool:
    """Whether this brings a tensor to a device or dtype; or, with `to`, another tensor to those of that one."""
    return node.op == "call_method" and node.target in ("to", "type_as") and node.args[0] is not to
