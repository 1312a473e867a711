"""The MACs of a network as a function of how many channels its layers lose."""

import contextlib
import math

import numpy as np
import torch
from torch import Tensor, nn

from course_lib import cost, tracing
from course_lib.pruning._checks import _check_removable
from course_lib.pruning.filters import unit_scores
from course_lib.pruning.graph import Channels
from course_lib.pruning.graph.follow import _input, _known
from course_lib.pruning.rounding import _rounded, _step
from course_lib.tracing import Example


class _Widths:
    """The MACs of a network as a function of how many units each group of filters loses."""

    def __init__(self, model: nn.Module, example: Example | Channels, round_to: int = 1) -> None:
        groups, fixed = _known(model, example)
        self.groups = [group for group in groups if group.size > 1]
        _check_removable(self.groups, fixed)
        self.names = [group.producers[0].layer for group in self.groups]
        self.sizes = np.array([group.size for group in self.groups])
        self.steps = np.array([_step(group, round_to) for group in self.groups])
        with tracing.alone():  # while another thread traces the model, its parameters are proxies
            positions = _positions(model, _input(model, example))
            measured = cost.macs(model, _input(model, example))
            shapes = {name: tuple(model.get_submodule(name).weight.shape) for name in positions}
        self.layers = {name: (positions[name], shapes[name]) for name in positions}
        self.whole = sum(count * math.prod(shape) for count, shape in self.layers.values())
        if self.whole != measured:
            raise ValueError(
                f"{self.whole:,} of the {measured:,} MACs are in convolutions and linear layers that are called as "
                "modules; what widths do to the others is not known. Sample strategies for the part without them."
            )
        # For each axis of a layer its length, and what each group takes from it for each number of units that go.
        self.axes: dict[tuple[str, int], tuple[int, list[tuple[int, np.ndarray]]]] = {}
        for number, group in enumerate(self.groups):
            order = unit_scores(model, group).argsort(stable=True)
            rank = torch.empty_like(order)
            rank[order] = torch.arange(group.size)
            for axis in group.axes:
                ranks = rank[axis.units[axis.units >= 0]]
                table = torch.bincount(ranks + 1, minlength=group.size + 1).cumsum(0)
                _, tables = self.axes.setdefault((axis.layer, axis.axis), (len(axis.units), []))
                tables.append((number, table.numpy()))

    def counts(self, ratios: np.ndarray) -> np.ndarray:
        """[B, groups] ratios -> int64 [B, groups] units that go, as `filters.filter_plan` has it."""
        kept = self.sizes - np.minimum(np.rint(ratios * self.sizes), self.sizes - 1).astype(np.int64)
        return self.sizes - _rounded(kept, self.sizes, self.steps)

    def macs(self, counts: np.ndarray) -> np.ndarray:
        """[B, groups] units that go -> int64 [B] MACs; 0 where a layer would have no channel left."""
        left = {
            place: length - sum(table[counts[:, number]] for number, table in tables)
            for place, (length, tables) in self.axes.items()
        }
        total = np.zeros(len(counts), dtype=np.int64)
        for layer, (positions, shape) in self.layers.items():
            weights = np.full(len(counts), positions, dtype=np.int64)
            for axis, length in enumerate(shape):
                weights *= left.get((layer, axis), length)
            total += weights
        return np.where(np.min([*left.values()], axis=0) > 0, total, 0)

    def shares(self, macs: np.ndarray) -> np.ndarray:
        """int64 [B] MACs -> float64 [B], their share of the whole; infinite for 0, which is in no range."""
        return np.where(macs > 0, macs / self.whole, np.inf)


def _positions(model: nn.Module, example: Example) -> dict[str, int]:
    """How often each weight of a convolution or linear layer is used in one pass, where the layer is called at all."""
    positions: dict[str, int] = {}
    names = {module: name for name, module in model.named_modules()}

    def note(
        layer: nn.Module, inputs: tuple[Tensor, ...], keywords: dict[str, Tensor], output: Tensor
    ) -> None:
        transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
        counted = (inputs[0] if inputs else keywords["input"]) if transposed else output
        channels = len(layer.weight)  # those of `counted`
        positions[names[layer]] = positions.get(names[layer], 0) + counted.numel() // channels

    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    with tracing.borrowed(model), contextlib.ExitStack() as hooks:
        for module in names:
            if isinstance(module, kinds):
                hooks.enter_context(module.register_forward_hook(note, with_kwargs=True))
        tracing.run(model, example)
    return positions
