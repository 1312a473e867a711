"""Channels, and what ties them: labels that go together, labels that stay, and the groups they make."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

_Labels = Int64[
    Tensor, "..."
]  # as many axes as the tensor they describe, of size 1 where the label does not change


@dataclass(frozen=True, eq=False)
class LayerAxis:
    """One axis of a layer's weight, and the unit that each index of it belongs to.

    Attributes:
        layer: name of the module, or of a parameter that scales channels.
        axis: of the weight: 0 is the output axis of a convolution or linear layer and the only one of a batch norm,
            1 the input axis (transposed convolutions have them the other way round).
        units: int64 [length of that axis]; the unit of the group, or -1 where the index belongs to none of its units.

    Example:
        >>> LayerAxis("fc", 1, torch.tensor([0, 0, 1, 1]))
        LayerAxis(layer='fc', axis=1, units=tensor([0, 0, 1, 1]))
    """

    layer: str
    axis: int
    units: Int64[Tensor, "length"]


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that depend on each other, divided into units. A unit goes as a whole, or stays.

    In a plain chain of convolutions each channel is a unit. A residual addition makes one unit of the channels that
    meet in it; a grouped convolution makes one unit of the channels at the same place in each of its groups.

    Attributes:
        size: number of units.
        producers: output axes of the convolutions and linear layers that compute the channels.
        consumers: input axes of those that read them. A linear layer after a flattening has several indices a unit.
        followers: layers with parameters of their own for each channel: normalisation, PReLU, depthwise convolutions
            and scale parameters.

    Example:
        >>> conv, bn = LayerAxis("conv", 0, torch.arange(3)), LayerAxis("bn", 0, torch.arange(3))
        >>> group = ChannelGroup(size=3, producers=(conv,), consumers=(), followers=(bn,))
        >>> group.channels(torch.tensor([2]))
        {'conv': tensor([2])}
        >>> group.mean_scores({"conv": torch.tensor([1.0, 2.0, 3.0]), "bn": torch.tensor([0.0, 0.0, 1.0])})
        tensor([0.5000, 1.0000, 2.0000], dtype=torch.float64)
    """

    size: int
    producers: tuple[LayerAxis, ...]
    consumers: tuple[LayerAxis, ...]
    followers: tuple[LayerAxis, ...]

    @property
    def axes(self) -> tuple[LayerAxis, ...]:
        """Everything that is cut when a unit goes."""
        return self.producers + self.consumers + self.followers

    def channels(self, units: Int64[Tensor, "chosen"]) -> dict[str, Int64[Tensor, "..."]]:
        """Find the output channels of each producer that belong to these units, as `remove_channels` takes them.

        Args:
            units: int64 [chosen], in [0, size).

        Returns:
            {layer: int64 indices, ascending}; layers that have none of the units are left out.
        """
        found = {axis.layer: torch.isin(axis.units, units).nonzero().flatten() for axis in self.producers}
        return {layer: indices for layer, indices in found.items() if len(indices)}

    def lowest_units(self, scores: Float[Tensor, "size"], count: int) -> Int64[Tensor, "chosen"]:
        """Find the units with the lowest scores that can go together: no layer may lose all that it has of the group.

        Args:
            scores: [size]; of equal ones the lower index comes first.
            count: how many, in [0, size).

        Returns:
            int64 [chosen], ascending; fewer than `count` only where no others can go.
        """
        parts = [axis.units.unique() for axis in self.axes]
        left = [set(part.tolist()) - {-1} for part in parts]
        left = [part for part in left if 0 < len(part) < self.size]  # the others keep one in any case
        chosen: list[int] = []
        for unit in scores.detach().cpu().argsort(stable=True).tolist():
            if len(chosen) < count and not any(part == {unit} for part in left):
                chosen.append(unit)
                for part in left:
                    part.discard(unit)
        return torch.tensor(sorted(chosen), dtype=torch.int64)

    def mean_scores(self, scores: Mapping[str, Float[Tensor, "..."]]) -> Float64[Tensor, "size"] | None:
        """Score each unit by the mean of the scores of its channels, over all layers that are scored.

        Args:
            scores: {layer: [its channels]}, for producers or followers; other layers are not looked at.

        Returns:
            float64 [size]; None if some unit has no channel in any layer scored.
        """
        total, count = torch.zeros(2, self.size, dtype=torch.float64, device="cpu")
        for axis in self.producers + self.followers:
            if axis.layer in scores:
                mine = axis.units >= 0
                total.index_add_(0, axis.units[mine], scores[axis.layer].detach().double().cpu()[mine])
                count.index_add_(
                    0, axis.units[mine], torch.ones(int(mine.sum()), dtype=torch.float64, device="cpu")
                )
        return total / count if bool((count > 0).all()) else None


class _Ties:
    """What is found while following: who makes, reads and hands on which labels, which are tied, and which are fixed.

    Label 0 stands for everything that is no channel of a layer: the input, constants, positions.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers = dict(model.named_modules())
        self.layer_names = {id(layer): name for name, layer in self.layers.items()}
        self.tensors = _named_tensors(self.layers)
        self.names: dict[int, list[str]] = {}  # id of a parameter or buffer -> its names
        for name, tensor in self.tensors.items():
            self.names.setdefault(id(tensor), []).append(name)
        self.labels = 1
        self.axes: dict[tuple[str, int], tuple[str, Tensor]] = {}
        self.tied: list[tuple[Tensor, Tensor]] = []
        self.fixed: list[tuple[Tensor, str]] = [
            (
                torch.zeros(1, dtype=torch.int64, device="cpu"),
                "they are tied to the network's input or to a constant",
            )
        ]
        self.pinned: dict[int, str] = {}  # id of a tensor or layer -> reason
        self.left_out: dict[str, str] = {}  # layer of which no axis is known -> reason

    def fresh(self, count: int) -> Tensor:
        self.labels += count
        return torch.arange(self.labels - count, self.labels, device="cpu")

    def tie(self, first: Tensor, second: Tensor) -> None:
        """The channels of both go together, element by element."""
        first, second = torch.broadcast_tensors(first, second)
        self.tied.append((first.reshape(-1), second.reshape(-1)))

    def fix(self, labels: Tensor, reason: str) -> None:
        """These channels have to stay."""
        self.fixed.append((labels.reshape(-1), reason))

    def first_of_alike(self, labels: _Labels, axis: int) -> _Labels:
        """Labels along an axis alone, where those along others are tied to them, as of groups that lie in the batch."""
        size = labels.size(axis)
        if size == 1 or labels.numel() == size:
            return labels
        rows = labels.movedim(axis, -1).reshape(-1, size)
        roots = _connected(self.labels, self.tied)[rows.numpy()]
        return rows[0].reshape(_along(axis, labels.ndim)) if bool((roots == roots[:1]).all()) else labels

    def record(self, kind: str, layer: str, axis: int, labels: Tensor) -> Tensor:
        """Index i of this axis of the layer belongs to channel labels[i]; a second call of the layer ties both."""
        if (layer, axis) in self.axes:
            self.tie(self.axes[layer, axis][1], labels)
        else:
            self.axes[layer, axis] = (kind, labels)
        return self.axes[layer, axis][1]

    def pin(self, parameter: str, reason: str) -> None:
        """The network uses this parameter or buffer in another way than as the weight of a layer."""
        self.pinned.setdefault(id(self.tensors[parameter]), reason)
        self.left_out.setdefault(parameter.rpartition(".")[0], reason)

    def pin_layer(self, layer: nn.Module, reason: str) -> None:
        """The channels of this layer have to stay."""
        self.pinned.setdefault(id(layer), reason)

    def settle(self) -> None:
        """Tie layers that share a parameter, and fix the channels of parameters and layers that are pinned."""
        first: dict[tuple[int, int], Tensor] = {}
        for (name, axis), (_, labels) in self.axes.items():
            layer = self.layers.get(name)
            for tensor, its_axis in _tensors_along(layer, axis) if layer else [(self.tensors[name], axis)]:
                if tensor is not None:
                    other = first.setdefault((id(tensor), its_axis), labels)
                    if other is not labels:
                        self.tie(other, labels)
                    if id(tensor) in self.pinned:
                        self.fix(labels, self.pinned[id(tensor)])
            if id(layer) in self.pinned:
                self.fix(labels, self.pinned[id(layer)])

    def groups(self) -> tuple[list[ChannelGroup], dict[str, str]]:
        """Divide the labels into units, and the units into groups."""
        roots = _connected(self.labels, self.tied)
        reasons: dict[int, str] = {}
        for labels, reason in self.fixed:
            for root in roots[labels.numpy()].tolist():
                reasons.setdefault(root, reason)
        produced = [labels.numpy() for kind, labels in self.axes.values() if kind == "producer"]
        idle = np.ones(len(roots), bool)
        idle[roots[np.concatenate([np.zeros(1, int), *produced])]] = False
        for root in roots[idle[roots]].tolist():
            reasons.setdefault(root, "no layer computes them")
        stays = np.zeros(len(roots), bool)
        stays[list(reasons)] = True
        free = ~stays[roots]

        # Units whose channels one layer computes are in one group.
        produced = [roots[labels[free[labels]]] for labels in produced]
        together = [(units[:-1], units[1:]) for units in produced if len(units)]
        families = _connected(self.labels, together)[roots]  # [labels] -> family

        # Families and the units in each are numbered by the first label that is in them.
        labels = np.flatnonzero(free)
        group_of, unit_of = np.full(self.labels, -1), np.full(self.labels, -1)
        group_of[labels] = _numbered(families[labels])
        units = _numbered(roots[labels])  # over all groups
        group_of_unit = np.zeros(units.max(initial=-1) + 1, int)
        group_of_unit[units] = group_of[labels]
        sizes = np.bincount(group_of_unit)
        by_group = np.argsort(group_of_unit, kind="stable")
        within = np.empty_like(by_group)
        within[by_group] = np.arange(len(by_group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        unit_of[labels] = within[units]

        found: list[dict[str, list[LayerAxis]]] = [
            {"producer": [], "consumer": [], "follower": []} for _ in sizes
        ]
        refused: dict[str, str] = {}
        for (layer, axis), (kind, labels) in self.axes.items():
            labels = labels.numpy()
            groups = group_of[labels]
            if groups[0] >= 0 and (groups == groups[0]).all():  # nearly always
                found[groups[0]][kind].append(LayerAxis(layer, axis, torch.from_numpy(unit_of[labels])))
                continue
            for group in np.unique(groups[groups >= 0]).tolist():
                units = np.where(groups == group, unit_of[labels], -1)
                found[group][kind].append(LayerAxis(layer, axis, torch.from_numpy(units)))
            if kind != "consumer" and (groups < 0).any():
                owner = (
                    layer
                    if layer in self.layers
                    else layer.rpartition(".")[0].partition(".parametrizations")[0]
                )
                name = (
                    owner if _has_weight(self.layers[owner]) else layer
                )  # not the bias of a layer by itself
                stuck = labels[groups < 0]
                why = self.left_out.get(layer) if not stuck.any() else None
                refused.setdefault(name, why or reasons[roots[stuck[0]]])
        known = {layer for layer, _ in self.axes}
        refused |= {
            layer: why
            for layer, why in self.left_out.items()
            if layer not in known and _has_weight(self.layers.get(layer))
        }
        return [
            ChannelGroup(size, *(tuple(axes[kind]) for kind in ("producer", "consumer", "follower")))
            for size, axes in zip(sizes.tolist(), found, strict=True)
        ], refused


def _named_tensors(layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The parameters and buffers of these layers by their full names; shared ones under each of them."""
    return {
        f"{prefix}.{name}" if prefix else name: tensor
        for prefix, layer in layers.items()
        for name, tensor in (*layer._parameters.items(), *layer._buffers.items())
        if tensor is not None
    }


def _has_weight(layer: nn.Module) -> bool:
    """Whether it has a weight, which may be computed; that is not looked at, since looking might compute it anew."""
    return bool({"weight", "weight_orig"} & layer._parameters.keys()) or is_parametrized(layer, "weight")


def _tensors_along(layer: nn.Module, axis: int) -> list[tuple[Tensor | None, int]]:
    """The tensors of a layer that have this axis of it, and which of theirs it is.

    A tensor may be several times as long as the axis; it then has the same entries in each of its parts.
    """
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        depthwise = layer.groups == layer.in_channels and layer.groups > 1
        return [(layer.weight, axis), *([(layer.bias, 0)] if axis == 1 or depthwise else [])]
    if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
        return [(layer.weight, axis), *([(layer.bias, 0)] if axis == 0 else [])]
    if isinstance(layer, nn.MultiheadAttention):
        return [(layer.in_proj_weight, axis), *([(layer.in_proj_bias, 0)] if axis == 0 else [])]
    if isinstance(layer, nn.RNNBase):
        return [(getattr(layer, name, None), axis) for name in ("weight_ih_l0", "weight_ih_l0_reverse")]
    if isinstance(layer, nn.RNNCellBase):
        return [(layer.weight_ih, axis)]
    names = ("weight", "bias", "running_mean", "running_var")
    return [(getattr(layer, name, None), axis) for name in names]


def _along(axis: int, ndim: int) -> list[int]:
    """The shape of a vector that lies along one axis of a tensor."""
    return [-1 if place == axis else 1 for place in range(ndim)]


def _places(selected: Bool[np.ndarray, "length"], length: int) -> Int64[Tensor, "places"]:
    """Where an axis selects entries of a tensor of this length: the same in each of its parts."""
    return torch.from_numpy(np.flatnonzero(np.tile(selected, length // len(selected))))


def _connected(count: int, pairs: Sequence[tuple]) -> np.ndarray:
    """A number for each of `count` things, the same for things that pairs connect."""
    first = np.concatenate([np.asarray(a) for a, _ in pairs] or [np.zeros(0, int)])
    second = np.concatenate([np.asarray(b) for _, b in pairs] or [np.zeros(0, int)])
    edges = coo_array((np.ones(len(first), bool), (first, second)), shape=(count, count))
    return connected_components(edges, directed=False)[1]


def _numbered(keys: np.ndarray) -> np.ndarray:
    """The keys as numbers 0, 1, 2, ... in the order in which they first appear."""
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    number = np.empty_like(first)
    number[np.argsort(first)] = np.arange(len(first))
    return number[which]
