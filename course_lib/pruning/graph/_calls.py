"""One operation of a traced network: its arguments by their names, and the labels of what goes in."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from course_lib.pruning.graph.ties import _Labels, _Ties

_OTHER_NAMES = {  # of arguments, in one function of PyTorch or another
    "axis": "dim",
    "keepdims": "keepdim",
    "axis0": "dim0",
    "axis1": "dim1",
    "size": "shape",
    "split_size": "split_size_or_sections",
    "tensor": "input",
}

_NOTHING = torch.zeros(0, dtype=torch.int64)


def normalised(node: fx.Node, names: Sequence[str]) -> dict[str, object]:
    """Name the arguments of a node, however they were given: by position, by keyword, or under another name.

    Args:
        node: of a traced graph.
        names: of the arguments by position. A star before the last one says that it may be given as several numbers:
            with ("input", "*shape"), x.view(2, 3) and x.view((2, 3)) are the same.

    Returns:
        {name: argument}, where nodes stand for tensors and for numbers that are computed; what is not given is missing.
    """
    positional = node.args
    if names[-1].startswith("*"):
        names = (*names[:-1], names[-1][1:])
        rest = positional[len(names) - 1 :]
        several = len(rest) > 1 or (rest and isinstance(rest[0], int))
        positional = (*positional[: len(names) - 1], *([rest] if several else rest))
    named = dict(zip(names, positional, strict=False))
    for name, value in node.kwargs.items():
        named[_OTHER_NAMES.get(name, name)] = value
    return named


@dataclass(frozen=True)
class Known:
    """What is known of a network while its channels are followed.

    Attributes:
        ties: of the labels, over all that was followed so far.
        labels: of each node that gives a tensor; a tuple of them for several tensors, None for numbers.
        shapes: of each node that gives a tensor.
        counted: for a number the labels of the channels that it counts; for a shape, those of each of its sizes.
        values: what each node gives.
    """

    ties: _Ties
    labels: dict[fx.Node, object] = field(default_factory=dict)
    shapes: dict[fx.Node, torch.Size] = field(default_factory=dict)
    counted: dict[fx.Node, Tensor | tuple[Tensor, ...]] = field(default_factory=dict)
    values: dict[fx.Node, object] = field(default_factory=dict)

    def count(self, nodes: Iterable[object]) -> Tensor:
        """The labels of all channels that these numbers count, or that go into them."""
        numbers = [self.counted[node] for node in nodes if isinstance(node, fx.Node) and node in self.counted]
        return torch.cat([_NOTHING, *tensors_in(numbers)]) if numbers else _NOTHING


@dataclass(eq=False, slots=True)
class Call:
    """One call in a traced network, as a rule sees it.

    Attributes:
        known: of the network so far.
        node: of the traced graph.
        value: what the call gives.
        layer: that is called; None for functions and methods.
        arguments: by name, see `normalised`.
    """

    known: Known
    node: fx.Node
    value: object
    layer: nn.Module | None
    arguments: Mapping[str, object]

    @property
    def ties(self) -> _Ties:
        return self.known.ties

    @property
    def name(self) -> str:
        """The name of the layer that is called."""
        return self.node.target

    @property
    def source(self) -> fx.Node:
        """Where the first input comes from."""
        return self.arguments["input"]

    @property
    def labels(self) -> object:
        """Labels of the first input."""
        return self.known.labels[self.source]

    @property
    def full_labels(self) -> _Labels:
        """Labels of the first input, one for each of its elements."""
        return self.labels.expand(self.known.shapes[self.source])

    def evaluated(self, name: str, default: object = None) -> object:
        """An argument with the values of its nodes."""
        return fx.node.map_arg(self.arguments.get(name, default), lambda node: self.known.values[node])

    def vector(self, axis: int, length: int) -> Tensor:
        """The labels along one axis of the first input, [length]; along the others they must not change."""
        labels = self.labels
        if labels.numel() != labels.size(axis):
            shape = list(self.known.shapes[self.source])
            self.refuse(f"the channels lie along another axis of its input {shape} than axis {axis}")
        if labels.numel() not in (1, length):
            self.refuse(f"it is made for {length} channels and is given {labels.numel()}")
        return labels.reshape(-1).expand(length)

    def along(self, axis: int, vector: Tensor) -> _Labels:
        """Labels of the result that change along one axis."""
        shape = [1] * self.value.ndim
        shape[axis] = -1
        return vector.reshape(shape)

    def refuse(self, why: str) -> NoReturn:
        """Raise ValueError with the name of the call and its place in the network."""
        stack = list((self.node.meta.get("nn_module_stack") or {"": ("",)}).values())[-1][0]
        where = f" in {stack!r}" if stack else ""
        raise ValueError(
            f"channels cannot be followed through {self.node.name!r}{where}: {why}. Accepted are convolutions, linear "
            "and normalisation layers, element-wise operations, pooling, reshaping, permuting, concatenating and "
            "chunking. Write that part with these, or prune the parts of the model around it one by one."
        )


def tensors_in(value: object) -> list[Tensor]:
    """All tensors in a nest of lists, tuples and dicts."""
    if isinstance(value, Tensor):
        return [value]
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def compact(labels: Tensor) -> Tensor:
    """Size 1 along every axis on which the label does not change."""
    for axis in range(labels.ndim):
        first = labels.narrow(axis, 0, 1)
        if labels.size(axis) > 1 and bool((labels == first).all()):
            labels = first
    return labels


def changing(labels: Tensor) -> list[int]:
    return [axis for axis, size in enumerate(labels.shape) if size > 1]
