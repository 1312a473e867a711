"""What following a network found, to be handed on: the groups, and how to notice that the network was changed since."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from course_lib import tracing
from course_lib.pruning.graph.ties import ChannelGroup


@dataclass(frozen=True, eq=False, repr=False)
class Channels:
    """Channels of one network, as `follow` found them.

    Most functions that take an example input take this in its place, and then follow nothing (`absorb_constants` needs
    real images). It stays valid while layers, shapes and shared parameters stay the same: weights may change freely,
    and a deep copy may be pruned with it too.

    Attributes:
        groups: of channels that go together, in the order in which the network computes them.
        fixed: {layer: reason} for each layer with channels in no group.
        example: the inputs that the network was followed with, on the device meta: shapes and dtypes without values.
        structure: layers, settings, shapes and shared parameters of the network.

    Example:
        >>> from course_lib.pruning import follow
        >>> follow(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3)), torch.rand(1, 1, 8, 8))
        Channels(1 group, 1 layer fixed, example [1, 1, 8, 8])
    """

    groups: list[ChannelGroup]
    fixed: dict[str, str]
    example: object
    structure: Mapping[str, object]

    def __repr__(self) -> str:
        groups, layers = (
            f"{count} {what}{'' if count == 1 else 's'}"
            for count, what in ((len(self.groups), "group"), (len(self.fixed), "layer"))
        )
        return f"Channels({groups}, {layers} fixed, example {tracing.shapes(self.example)})"

    def check(self, model: nn.Module) -> None:
        """Raise unless the model has the structure that was followed.

        Raises:
            TypeError: `model` is not an nn.Module.
            ValueError: it has another structure; the message names the first difference.
        """
        if not isinstance(model, nn.Module):
            raise TypeError(f"model is a {type(model).__name__}; it must be a torch.nn.Module.")
        with tracing.alone():  # or another thread may be tracing it
            structure = _structure(model)
        if structure != self.structure:
            raise ValueError(
                f"the model is not as it was when its channels were followed: "
                f"{_difference(self.structure, structure)}. Follow it again: channels = follow(model, example)."
            )

    def zeros(self, model: nn.Module) -> object:
        """An input like the example, of zeros, on the device of the model."""
        device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), None)
        return tree_map(
            lambda t: torch.zeros_like(t, device=device) if isinstance(t, Tensor) else t, self.example
        )


def _structure(model: nn.Module) -> dict[str, object]:
    """All of a network that its groups of channels depend on, by what it is: values of weights are not in it."""
    found: dict[str, object] = {}
    owners: dict[int, str] = {}
    for prefix, layer in model.named_modules(remove_duplicate=False):
        if owners.setdefault(id(layer), prefix) != prefix:
            found[f"layer {prefix!r}"] = f"the same as {owners[id(layer)]!r}"
            continue
        found[f"layer {prefix!r}"] = _name(type(layer))
        for key, value in vars(layer).items():
            if key not in tracing.OF_ALL and (setting := _setting(value)) is not None:
                found[f"{key} of {prefix!r}"] = setting
        for key, tensor in (*layer._parameters.items(), *layer._buffers.items()):
            name = f"{prefix}.{key}" if prefix else key
            if tensor is None:
                found[f"{name!r}"] = None
            else:
                owner = owners.setdefault(id(tensor), name)
                found[f"{name!r}"] = f"of shape {list(tensor.shape)}"
                if owner != name:
                    found[f"{name!r}"] = f"the same as {owner!r}"
    return found


def _setting(value: object) -> object:
    """A plain value as it is, a function by its name; None for what is neither."""
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return tuple(map(_setting, value))
    if isinstance(value, Tensor):
        return f"of shape {list(value.shape)}"
    return _name(value) if callable(value) and hasattr(value, "__qualname__") else None


def _name(named: object) -> str:
    """By name, not by identity: a process that the network is sent to has classes of its own."""
    return f"{named.__module__}.{named.__qualname__}"


def _difference(before: Mapping[str, object], now: Mapping[str, object]) -> str:
    changed = [
        key for key in {**before, **now} if before.get(key) != now.get(key) or (key in before) != (key in now)
    ]
    key = changed[0]
    was, became = (str(found[key]) if key in found else "not there" for found in (before, now))
    return f"{key} was {was} and is {became}"
