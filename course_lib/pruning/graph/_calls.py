"""One operation of a network: its arguments by their names, and the labels of what goes in."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import resolve_name

from course_lib import tracing
from course_lib.pruning.graph._counts import Count
from course_lib.pruning.graph.ties import _Labels, _Ties

_OTHER_NAMES = {  # of arguments, in one function of PyTorch or another
    "axis": "dim",
    "dims": "dim",
    "keepdims": "keepdim",
    "axis0": "dim0",
    "axis1": "dim1",
    "size": "shape",
    "split_size": "split_size_or_sections",
    "tensor": "input",
    "self": "input",
    "x": "input",
}


class Unknown(Exception):
    """What a call does to channels is not known: the channels that go in have to stay."""


def normalised(
    args: Sequence[object], kwargs: Mapping[str, object], names: Sequence[str]
) -> dict[str, object]:
    """Name the arguments of a call, however they were given: by position, by keyword, or under another name.

    Args:
        args, kwargs: of the call.
        names: of the arguments by position. A star before the last one says that it may be given as several numbers:
            with ("input", "*shape"), x.view(2, 3) and x.view((2, 3)) are the same.

    Returns:
        {name: argument}; what is not given is missing.
    """
    if names[-1].startswith("*"):
        names = (*names[:-1], names[-1][1:])
        rest = args[len(names) - 1 :]
        several = len(rest) > 1 or (rest and isinstance(rest[0], int))
        args = (*args[: len(names) - 1], *([tuple(rest)] if several else rest))
    named = dict(zip(names, args, strict=False))
    for name, value in kwargs.items():
        named[name if name in names else _OTHER_NAMES.get(name, name)] = value
    return named


@dataclass(eq=False, slots=True)
class Call:
    """One call of a function on tensors, as a rule sees it.

    Attributes:
        run: the `_Follower` of the network.
        name: of the function.
        arguments: by name, see `normalised`.
        tensors: all tensors that go in.
        counts: all counts of channels that go in.
        value: what the call gives.
    """

    run: Any
    name: str
    arguments: Mapping[str, object]
    tensors: Sequence[Tensor]
    counts: Sequence[Count]
    value: object

    @property
    def ties(self) -> _Ties:
        return self.run.ties

    @property
    def input(self) -> Tensor:
        """The first tensor."""
        return self.arguments["input"]

    @property
    def labels(self) -> _Labels:
        """Labels of the first tensor."""
        return self.run.labels(self.input)

    @property
    def full_labels(self) -> _Labels:
        """Labels of the first tensor, one for each of its elements."""
        return self.labels.expand(self.input.shape)

    def vector(self, axis: int, length: int, tensor: Tensor | None = None) -> Tensor:
        """The labels along one axis of a tensor (the first), [length]; channels along the others have to stay."""
        labels = self.labels if tensor is None else self.run.labels(tensor)
        labels = self.ties.first_of_alike(labels, axis)
        if labels.numel() != labels.size(axis):
            self.fix(labels, f"reads axis {axis} of its input, and they lie along another")
            return torch.zeros(1, dtype=torch.int64, device="cpu").expand(length)
        if labels.numel() not in (1, length):
            raise Unknown(f"it is made for {length} channels and is given {labels.numel()}")
        return labels.reshape(-1).expand(length)

    def along(self, axis: int, vector: Tensor) -> _Labels:
        """Labels of the result that change along one axis."""
        shape = [1] * self.value.ndim
        shape[axis] = -1
        return vector.reshape(shape)

    def fix(self, labels: Tensor, what: str, remedy: str = "") -> None:
        """These channels have to stay, since this call `what`."""
        self.run.fix(labels, f"{self.name!r} {what}", remedy)

    def layer(self, kind: type | tuple[type, ...], *tensors: Tensor | None) -> tuple[str, nn.Module]:
        """The layer of a kind that these tensors are the weight, bias and statistics of.

        Raises:
            Unknown: they are of no such layer, or computed from other parameters.
        """
        if all(tensor is None for tensor in tensors) and isinstance(self.run.module, kind):
            return self.run.stack[-1]
        owners = [self.run.owners(tensor) for tensor in tensors if tensor is not None]
        for name in owners[0] if owners else ():
            if isinstance(self.ties.layers.get(name), kind) and all(name in others for others in owners):
                return name, self.ties.layers[name]
        raise Unknown(self.run.why_no_layer())


def tensors_in(value: object) -> list[Tensor]:
    """All tensors in a nest of lists, tuples and dicts."""
    return collected(value, [], [])[0]


def collected(value: object, tensors: list[Tensor], counts: list[Count]) -> tuple[list[Tensor], list[Count]]:
    """The tensors and the counts in a nest of lists, tuples, dicts and slices, in order."""
    if isinstance(value, Tensor):
        tensors.append(value)
    elif isinstance(value, Count):
        counts.append(value)
    elif isinstance(value, list | tuple):
        for part in value:
            if not isinstance(part, int) or isinstance(part, Count):
                collected(part, tensors, counts)
    elif isinstance(value, dict):
        for part in value.values():
            collected(part, tensors, counts)
    elif isinstance(value, slice):
        collected((value.start, value.stop, value.step), tensors, counts)
    return tensors, counts


def compact(labels: Tensor) -> Tensor:
    """Size 1 along every axis on which the label does not change."""
    for axis in range(labels.ndim):
        first = labels.narrow(axis, 0, 1)
        if labels.size(axis) > 1 and bool((labels == first).all()):
            labels = first
    return labels


def changing(labels: Tensor) -> list[int]:
    """The axes along which the labels change."""
    return [axis for axis, size in enumerate(labels.shape) if size > 1]


def zeros(ndim: int) -> _Labels:
    """Labels of a tensor that holds no channels."""
    return torch.zeros([1] * ndim, dtype=torch.int64, device="cpu")


def named_axes(call: Call) -> list[int]:
    """The axes that the argument `dim` names; all where it names none."""
    axes, ndim = call.arguments.get("dim"), call.labels.ndim
    axes = [axes] if isinstance(axes, int) else axes or range(ndim)
    return [axis % max(ndim, 1) for axis in axes]


def name_of(func: Callable) -> str:
    """The name by which a function of tensors is written."""
    name = getattr(func, "__name__", "")
    if name == "__get__":
        return func.__self__.__name__
    return name if name not in ("fn", "") else str(resolve_name(func) or func).rpartition(".")[2]


def plain_tensors(modules: Iterable[nn.Module]) -> set[int]:
    """Tensors that modules hold as plain attributes, also in lists and dicts."""
    return {
        id(tensor)
        for module in modules
        for name, value in vars(module).items()
        if name not in tracing.OF_ALL and isinstance(value, Tensor | list | tuple | dict)
        for tensor in tensors_in(value)
    }
