"""Which channels of a network must be removed together, found by following every channel through the network.

Every output channel of a convolution or linear layer gets a number of its own, its label. The network is traced with
torch.fx and run once on an example; beside each tensor goes a small tensor of labels that says which channel each of
its elements belongs to. A permutation permutes the labels, a flattening repeats them, a concatenation concatenates
them. An addition ties the labels that meet in it; a convolution that reads them is recorded as their consumer.
Channels with tied labels must go together. What is known to mix channels (a softmax over them, a slice at a fixed
place) fixes them; what is not known is refused by name. Nothing is guessed.
"""

import contextlib
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64, Shaped
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, fx, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._pytree import tree_leaves, tree_map

from course_lib import tracing

Labels = Int64[
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
        """The output channels of each producer that belong to these units, as `surgery.remove_channels` takes them.

        Args:
            units: int64 [chosen], in [0, size).

        Returns:
            {layer: int64 indices, ascending}; layers that have none of the units are left out.
        """
        found = {axis.layer: torch.isin(axis.units, units).nonzero().flatten() for axis in self.producers}
        return {layer: indices for layer, indices in found.items() if len(indices)}

    def mean_scores(self, scores: Mapping[str, Float[Tensor, "..."]]) -> Float64[Tensor, "size"] | None:
        """One score a unit: the mean of the scores of its channels, over all layers that are scored.

        Args:
            scores: {layer: [its channels]}, for producers or followers; other layers are not looked at.

        Returns:
            float64 [size]; None if some unit has no channel in any layer scored.
        """
        total, count = torch.zeros(2, self.size, dtype=torch.float64)
        for axis in self.producers + self.followers:
            if axis.layer in scores:
                mine = axis.units >= 0
                total.index_add_(0, axis.units[mine], scores[axis.layer].detach().double().cpu()[mine])
                count.index_add_(0, axis.units[mine], torch.ones(int(mine.sum()), dtype=torch.float64))
        return total / count if bool((count > 0).all()) else None


def channel_groups(model: nn.Module, example: Shaped[Tensor, "N *rest"]) -> list[ChannelGroup]:
    """The groups of channels of `model` that can be removed.

    Tied together are channels that meet in an addition or another element-wise operation of two tensors (residual
    connections, squeeze-and-excitation), that a depthwise convolution hands on, that stand at the same place in the
    groups of a grouped convolution, of a group norm or of a channel shuffle, and all outputs of a layer that is called
    at several places. The channels of the network's output are in no group, and neither are those tied to its input,
    to a constant, or to a fixed number in the code of a forward(). Branches that run in train mode alone, such as
    auxiliary classifiers, are followed too.

    Layer norm and group norm compute mean and deviation over the channels that are there. Removing channels in front
    of one therefore changes its result also for those that stay, other than removing channels in front of a batch norm.

    Args:
        model: network of one input tensor, traceable by torch.fx; it and its mode are left as they were.
        example: input [N, ...] of the dtype and on the device that the model runs on.

    Returns:
        The groups, in the order in which the network computes them. Groups of one unit are among them, although
        nothing can be removed from them: the last unit of a group has to stay.

    Raises:
        TypeError: `model` is not an nn.Module, or `example` not a tensor.
        ValueError: the model cannot be traced, does not accept the example, or holds something that channels cannot
            be followed through; the message names it.

    Source: Fang et al. 2023, "DepGraph: Towards Any Structural Pruning" (groups of dependent layers; the labels are
        our own way to find them).
    """
    return follow_channels(model, example)[0]


def follow_channels(
    model: nn.Module, example: Shaped[Tensor, "N *rest"]
) -> tuple[list[ChannelGroup], dict[str, str]]:
    """The groups of `channel_groups`, and for each layer with channels in no group the reason.

    Raises:
        TypeError, ValueError: as `channel_groups`.
    """
    tracing.check(model, example)
    ties = _Ties(model)
    with tracing.borrowed(model):
        graph, training_matters = _trace(model, ties)
        _Follower(model, graph, ties).follow(example)
        if training_matters:
            for module in model.modules():
                module.training = True
            graph, _ = _trace(model, ties)
            for module in model.modules():
                module.training = False
            # In eval mode like the other: only the branches are of interest, not dropout or batch statistics.
            try:
                _Follower(model, graph, ties).follow(example)
            except RuntimeError as error:
                raise ValueError(
                    f"the branches that the model has in train mode alone do not run on an example of shape "
                    f"{list(example.shape)}: {str(error).splitlines()[0]}. Pass an example as large as those the model "
                    "is trained on, or take the branches out."
                ) from error
    ties.settle()
    return ties.groups()


# ---- tracing -------------------------------------------------------------------------------------------------------


class _Tracer(fx.Tracer):
    """torch.fx's tracer, which also remembers how deep it came and takes subclasses of known layers as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.trail: list[str] = []
        self.proxy_buffer_attributes = True  # or what forward() makes of a buffer would be a constant

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return super().is_leaf_module(m, module_qualified_name) or _known_type(m) is not None

    def call_module(self, m: nn.Module, *rest, **keywords):
        self.trail.append(self.path_of_module(m))
        result = super().call_module(m, *rest, **keywords)
        self.trail.pop()
        return result


def _trace(model: nn.Module, ties: "_Ties") -> tuple[fx.Graph, bool]:
    """The traced network, and whether its forward() looks at the train/eval mode."""
    with tracing.alone(), _watched_reading() as read:
        graph = tracing.trace(
            model,
            _Tracer(),
            remedy="Rewrite that part, or prune the parts of the model that are free of it one by one.",
        )
    for layer, name in read:
        if name != "training" and _known_type(layer) is not None:
            ties.pin_layer(layer, f"forward() computes with the {name} of a layer that has or reads them")
    return graph, any(name == "training" for _, name in read)


_SIZES = ("in_channels", "out_channels", "in_features", "out_features", "num_features", "num_channels")
_SIZES += ("num_groups", "groups", "normalized_shape", "num_parameters")


@contextlib.contextmanager
def _watched_reading() -> Iterator[set[tuple[nn.Module, str]]]:
    """Which modules' mode and sizes are read in the block: a trace holds such numbers as constants.

    For the time of the block nn.Module has a property of each of these names, which stands before the attribute of
    the instance. (torch.fx, too, changes nn.Module while it traces.)
    """
    read: set[tuple[nn.Module, str]] = set()

    def watch(name: str) -> property:
        def get(module: nn.Module) -> object:
            if name not in vars(module):
                raise AttributeError(name)  # and nn.Module looks among parameters and submodules
            read.add((module, name))
            return vars(module)[name]

        return property(get)

    names = ("training", *_SIZES)
    for name in names:
        setattr(nn.Module, name, watch(name))
    try:
        yield read
    finally:
        for name in names:
            delattr(nn.Module, name)


# ---- what is found out ---------------------------------------------------------------------------------------------


class _Ties:
    """What is found while following: who makes, reads and hands on which labels, which are tied, and which are fixed.

    Label 0 stands for everything that is no channel of a layer: the input, constants, positions.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers = dict(model.named_modules())
        self.tensors = named_tensors(self.layers)
        self.labels = 1
        self.axes: dict[tuple[str, int], tuple[str, Tensor]] = {}
        self.tied: list[tuple[Tensor, Tensor]] = []
        self.fixed: list[tuple[Tensor, str]] = [
            (torch.zeros(1, dtype=torch.int64), "they are tied to the network's input or to a constant")
        ]
        self.pinned: dict[int, str] = {}  # id of a tensor or layer -> reason

    def fresh(self, count: int) -> Tensor:
        self.labels += count
        return torch.arange(self.labels - count, self.labels)

    def tie(self, first: Tensor, second: Tensor) -> None:
        """The channels of both go together, element by element."""
        first, second = torch.broadcast_tensors(first, second)
        self.tied.append((first.reshape(-1), second.reshape(-1)))

    def fix(self, labels: Tensor, reason: str) -> None:
        """These channels have to stay."""
        self.fixed.append((labels.reshape(-1), reason))

    def record(self, kind: str, layer: str, axis: int, labels: Tensor) -> Tensor:
        """Index i of this axis of the layer belongs to channel labels[i]; a second call of the layer ties both."""
        if (layer, axis) in self.axes:
            self.tie(self.axes[layer, axis][1], labels)
        else:
            self.axes[layer, axis] = (kind, labels)
        return self.axes[layer, axis][1]

    def pin(self, parameter: str, node: fx.Node) -> None:
        """The network uses this parameter or buffer in another way than as the weight of a layer."""
        if parameter in self.tensors:
            self.pinned.setdefault(id(self.tensors[parameter]), f"{node.name!r} uses {parameter!r} by itself")

    def pin_layer(self, layer: nn.Module, reason: str) -> None:
        """The channels of this layer have to stay."""
        self.pinned.setdefault(id(layer), reason)

    def settle(self) -> None:
        """Tie layers that share a parameter, and fix the channels of parameters and layers that are pinned."""
        first: dict[tuple[int, int], Tensor] = {}
        for (name, axis), (_, labels) in self.axes.items():
            layer = self.layers.get(name)
            for tensor, its_axis in tensors_along(layer, axis) if layer else [(self.tensors[name], axis)]:
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
        free = ~np.isin(roots, list(reasons))

        # Units whose channels one layer computes are in one group.
        produced = [labels.numpy() for kind, labels in self.axes.values() if kind == "producer"]
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
            for group in np.unique(groups[groups >= 0]).tolist():
                units = np.where(groups == group, unit_of[labels], -1)
                found[group][kind].append(LayerAxis(layer, axis, torch.from_numpy(units)))
            if kind != "consumer" and (groups < 0).any():
                refused[layer] = reasons[roots[labels[groups < 0][0]]]
        return [
            ChannelGroup(size, *(tuple(axes[kind]) for kind in ("producer", "consumer", "follower")))
            for size, axes in zip(sizes.tolist(), found, strict=True)
        ], refused


def named_tensors(layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The parameters and buffers of these layers by their full names; shared ones under each of them."""
    return {
        f"{prefix}.{name}" if prefix else name: tensor
        for prefix, layer in layers.items()
        for name, tensor in (*layer._parameters.items(), *layer._buffers.items())
        if tensor is not None
    }


def tensors_along(layer: nn.Module, axis: int) -> list[tuple[Tensor | None, int]]:
    """The tensors of a layer that have this axis of it, and which of theirs it is."""
    if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
        outputs = axis == (1 if isinstance(layer, nn.modules.conv._ConvTransposeNd) else 0)
        return [(layer.weight, axis), (layer.bias, 0)] if outputs else [(layer.weight, axis)]
    names = ("weight", "bias", "running_mean", "running_var")
    return [(getattr(layer, name, None), axis) for name in names]


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


# ---- following -----------------------------------------------------------------------------------------------------


class _Follower(fx.Interpreter):
    """Runs a traced network and keeps the labels of every tensor beside it."""

    def __init__(self, model: nn.Module, graph: fx.Graph, ties: _Ties) -> None:
        super().__init__(model, graph=graph)
        self.ties = ties
        self.layers, self.tensors = ties.layers, ties.tensors
        self.labels: dict[fx.Node, object] = {}  # Labels, a tuple of them, or None for what is no tensor
        self.shapes: dict[fx.Node, torch.Size] = {}
        # For numbers the labels of the channels that they count; for a shape, those of each of its sizes.
        self.counted: dict[fx.Node, Tensor | tuple[Tensor, ...]] = {}

    def follow(self, example: Tensor) -> None:
        """Run the network, and find out on the way."""
        self.example = example
        self.run(example)

    def run_node(self, n: fx.Node) -> object:
        try:
            value = super().run_node(n)
        except Exception:
            tracing.run(self.module, self.example)  # says what is wrong with the example
            raise
        self.labels[n] = self._follow(n, value)
        if isinstance(value, Tensor) and n.op != "output":
            self.shapes[n] = value.shape
            sizes = zip(self.labels[n].shape, value.shape, strict=False)
            if self.labels[n].ndim != value.ndim or any(size not in (1, full) for size, full in sizes):
                self.refuse(n, "its channels were lost on the way")
        return value

    def call_module(self, target: str, args: tuple, kwargs: dict) -> object:
        return self.layers[target](*args, **kwargs)

    def _follow(self, node: fx.Node, value: object) -> object:
        if not node.args and "input" in node.kwargs:  # f(input=x) is f(x)
            others = {name: argument for name, argument in node.kwargs.items() if name != "input"}
            node.args, node.kwargs = (node.kwargs["input"],), others
        if node.op == "output":
            for labels in _tensors_in(fx.node.map_arg(node.args, self.labels.get)):
                self.ties.fix(labels, "they are the network's output")
            return None
        if isinstance(value, Tensor):
            constant = torch.zeros([1] * value.ndim, dtype=torch.int64)
        elif _tensors_in(value):
            constant = tree_map(
                lambda t: torch.zeros([1] * t.ndim, dtype=torch.int64) if isinstance(t, Tensor) else None,
                value,
            )
        else:
            self.counted[node] = self._count(node)
            self._pin_inputs(node)
            return None  # sizes and other numbers
        if node.op in ("placeholder", "get_attr"):
            return constant
        if node.op == "call_module":
            layer = self.layers[node.target]
            handler = _MODULES.get(_known_type(layer))
            if handler is not None:
                return handler(self, node, value, layer)
            own = " with a forward() of its own" if type(layer) in _MODULES else ""
            what = f"{type(layer).__name__} ({node.target!r}){own}"
        elif node.op == "call_method":
            handler, what = _METHODS.get(node.target), f"the tensor method {node.target!r} ({node.name})"
        else:
            name = f"{getattr(node.target, '__module__', '')}.{getattr(node.target, '__name__', node.target)}"
            handler = _FUNCTIONS.get(node.target, _FUNCTIONS.get(name))
            what = f"the function {name!r} ({node.name})"
        if isinstance(node.target, type) and issubclass(node.target, tuple):  # a named tuple of outputs
            return node.target(
                *fx.node.map_arg(node.args, self.labels.get), **fx.node.map_arg(node.kwargs, self.labels.get)
            )
        foreign = not any(
            labels.any() for labels in _tensors_in([self.labels[i] for i in node.all_input_nodes])
        )
        if foreign or handler not in (_view, _divided):
            self.ties.fix(self.count(node.all_input_nodes), f"{node.name!r} computes with their number")
        if foreign or handler not in (_elementwise, _functional_layer_norm):
            self._pin_inputs(node)
        if foreign:
            return constant  # nothing of what goes in is a channel
        if handler is None:
            self.refuse(node, f"{what} is none of the operations that it knows")
        return handler(self, node, value)

    def _pin_inputs(self, node: fx.Node) -> None:
        for source in node.all_input_nodes:
            if source.op == "get_attr":
                self.ties.pin(source.target, node)

    def _count(self, node: fx.Node) -> Tensor | tuple[Tensor, ...]:
        """The labels of the channels that this number counts, or each of these numbers."""
        source = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
        labels = self.labels.get(source)
        if isinstance(labels, Tensor):
            sizes = tuple(labels.reshape(-1) if size > 1 else labels.new_empty(0) for size in labels.shape)
            if node.target == "size" or (node.target is getattr and node.args[1] == "shape"):
                axis = None if node.target is getattr else _argument(node, 1, "dim")
                return sizes if axis is None else sizes[axis]
        if isinstance(self.counted.get(source), tuple) and node.target is operator.getitem:
            return self.counted[source][node.args[1]]
        channels = [
            labels.reshape(-1) for labels in _tensors_in([self.labels.get(i) for i in node.all_input_nodes])
        ]
        return torch.cat([self.count(node.all_input_nodes), *(c for c in channels if len(c) > 1)])

    def count(self, nodes: Iterable[object]) -> Tensor:
        """The labels of all channels that these numbers count, or that go into them."""
        nodes = [node for node in nodes if isinstance(node, fx.Node)]
        numbers = [self.counted.get(node) for node in nodes]
        return torch.cat([torch.zeros(0, dtype=torch.int64), *_tensors_in(numbers)])

    def refuse(self, node: fx.Node, why: str) -> None:
        stack = list((node.meta.get("nn_module_stack") or {"": ("",)}).values())[-1][0]
        where = f" in {stack!r}" if stack else ""
        raise ValueError(
            f"channels cannot be followed through {node.name!r}{where}: {why}. Accepted are convolutions, linear and "
            "normalisation layers, element-wise operations, pooling, reshaping, permuting, concatenating and chunking. "
            "Write that part with these, or prune the parts of the model around it one by one."
        )

    def vector(self, node: fx.Node, axis: int, length: int) -> Tensor:
        """The labels along one axis of the node's first input, [length]; along the others they must not change."""
        labels = self.labels[node.args[0]]
        if labels.numel() != labels.size(axis):
            self.refuse(
                node,
                f"the channels lie along another axis of its input {list(self.shapes[node.args[0]])} "
                f"than axis {axis}",
            )
        if labels.numel() not in (1, length):
            self.refuse(node, f"it is made for {length} channels and is given {labels.numel()}")
        return labels.reshape(-1).expand(length)

    def along(self, axis: int, vector: Tensor, value: Tensor) -> Tensor:
        """Labels for `value` that change along one axis."""
        shape = [1] * value.ndim
        shape[axis] = -1
        return vector.reshape(shape)


def _argument(node: fx.Node, position: int, name: str, default: object = None) -> object:
    if len(node.args) > position:
        return node.args[position]
    numpy_name = {"dim": "axis", "keepdim": "keepdims"}.get(name)  # PyTorch takes these as well
    return node.kwargs.get(name, node.kwargs.get(numpy_name, default))


def _tensors_in(value: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _compact(labels: Tensor) -> Tensor:
    """Size 1 along every axis on which the label does not change."""
    for axis in range(labels.ndim):
        first = labels.narrow(axis, 0, 1)
        if labels.size(axis) > 1 and bool((labels == first).all()):
            labels = first
    return labels


def _changing(labels: Tensor) -> list[int]:
    return [axis for axis, size in enumerate(labels.shape) if size > 1]


# Layers with weights


def _plain_parameters(follower: _Follower, node: fx.Node, layer: nn.Module) -> None:
    if computed := tracing.computed_parameter(layer):
        follower.refuse(
            node,
            f"the {computed} of {node.target!r} is computed from other parameters, by a mask or parametrisation; "
            f"{tracing.MAKE_PERMANENT}",
        )


def _convolution(follower: _Follower, node: fx.Node, value: Tensor, layer: nn.Module) -> Labels:
    _plain_parameters(follower, node, layer)
    ties, name, groups = follower.ties, node.target, layer.groups
    axis = value.ndim - layer.weight.ndim + 1  # of the channels, also where the batch axis is missing
    inputs = follower.vector(node, axis, layer.in_channels)
    transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
    if transposed and groups > 1:
        follower.refuse(node, f"{name!r} is a transposed convolution of {groups} groups")
    if groups == layer.in_channels and groups > 1:  # depthwise: each input channel has outputs of its own
        outputs = inputs.repeat_interleave(layer.out_channels // groups)
        return follower.along(axis, ties.record("follower", name, 0, outputs), value)
    ties.record("consumer", name, 0 if transposed else 1, inputs.reshape(groups, -1)[0])
    outputs = _outputs(ties, name, 1 if transposed else 0, layer.out_channels)
    if groups > 1:  # every group must lose as many channels as the others: the same places go from each
        for per_group in (inputs.reshape(groups, -1), outputs.reshape(groups, -1)):
            ties.tie(per_group, per_group[:1])
    return follower.along(axis, outputs, value)


def _linear(follower: _Follower, node: fx.Node, value: Tensor, layer: nn.Linear) -> Labels:
    _plain_parameters(follower, node, layer)
    inputs = follower.vector(node, value.ndim - 1, layer.in_features)
    follower.ties.record("consumer", node.target, 1, inputs)
    outputs = _outputs(follower.ties, node.target, 0, layer.out_features)
    return follower.along(value.ndim - 1, outputs, value)


def _outputs(ties: _Ties, name: str, axis: int, count: int) -> Tensor:
    """New labels for the outputs of a layer; those it already has if it is called a second time."""
    if (name, axis) in ties.axes:
        return ties.axes[name, axis][1]
    return ties.record("producer", name, axis, ties.fresh(count))


def _batch_norm(follower: _Follower, node: fx.Node, value: Tensor, layer: nn.Module) -> Labels:
    _plain_parameters(follower, node, layer)
    vector = follower.vector(node, 1, layer.num_features)
    return follower.along(1, follower.ties.record("follower", node.target, 0, vector), value)


def _group_norm(follower: _Follower, node: fx.Node, value: Tensor, layer: nn.GroupNorm) -> Labels:
    _plain_parameters(follower, node, layer)
    vector = follower.vector(node, 1, layer.num_channels)
    if layer.num_groups < layer.num_channels:  # otherwise each channel is a group and goes with it
        per_group = vector.reshape(layer.num_groups, -1)
        follower.ties.tie(per_group, per_group[:1])
    return follower.along(1, follower.ties.record("follower", node.target, 0, vector), value)


def _layer_norm(follower: _Follower, node: fx.Node, value: Tensor, layer: nn.LayerNorm) -> Labels:
    _plain_parameters(follower, node, layer)
    return _normalise_last(follower, node, value, layer, node.target)


def _normalise_last(
    follower: _Follower, node: fx.Node, value: Tensor, layer: nn.LayerNorm, name: str
) -> Labels:
    labels = follower.labels[node.args[0]]
    start = value.ndim - len(layer.normalized_shape)
    axes = _changing(labels)
    if any(axis >= start for axis in axes):
        if len(axes) > 1:
            follower.refuse(node, "the channels lie along several axes of its input")
        vector = follower.vector(node, axes[0], value.size(axes[0]))
        follower.ties.record("follower", name, axes[0] - start, vector)
    return labels


def _functional_layer_norm(follower: _Follower, node: fx.Node, value: Tensor) -> Labels:
    """F.layer_norm with the parameters of a LayerNorm, as a subclass with axes of its own calls it."""
    weight = _argument(node, 2, "weight")
    owner = (
        weight.target.rpartition(".")[0] if isinstance(weight, fx.Node) and weight.op == "get_attr" else None
    )
    layer = follower.fetch_attr(owner) if owner else None
    if not isinstance(layer, nn.LayerNorm):
        follower.refuse(node, "F.layer_norm without the weight of an nn.LayerNorm has a fixed shape")
    return _normalise_last(follower, node, value, layer, owner)


def _prelu(follower: _Follower, node: fx.Node, value: Tensor, layer: nn.PReLU) -> Labels:
    if layer.num_parameters == 1:
        return follower.labels[node.args[0]]
    _plain_parameters(follower, node, layer)
    vector = follower.vector(node, 1, layer.num_parameters)
    return follower.along(1, follower.ties.record("follower", node.target, 0, vector), value)


# Operations without weights


def _elementwise(follower: _Follower, node: fx.Node, value: Tensor) -> Labels:
    """Labels that meet are tied. A parameter that meets channels is one of their followers."""
    operands, parameters = [], []
    for operand in node.all_input_nodes:
        labels, shape = follower.labels[operand], follower.shapes.get(operand)
        if labels is None:
            continue
        lead = [1] * (value.ndim - labels.ndim)
        place = parameters if operand.op == "get_attr" else operands
        place.append((operand, labels.reshape([*lead, *labels.shape]), [*lead, *shape]))
    _, result, _ = max(operands, key=lambda o: (o[1].numel(), np.prod(o[2])))
    axes = _changing(result)
    for _, labels, shape in operands:
        if any(axis not in axes for axis in _changing(labels)):
            follower.refuse(node, "its inputs have their channels along different axes")
        # An axis of size 1 is repeated for every channel of the other, however many there are.
        if labels is not result and any(shape[axis] > 1 for axis in axes):
            follower.ties.tie(result, labels)
    for parameter, _, shape in parameters:
        wide = [axis for axis in axes if shape[axis] > 1]
        if wide and len(axes) > 1:
            follower.refuse(node, "a parameter meets channels that lie along several axes")
        if not wide:
            follower.ties.pin(parameter.target, node)
        elif parameter.target not in follower.tensors:  # a plain tensor, which stays as it is
            follower.ties.tie(result, torch.zeros(1, dtype=torch.int64))
        else:
            axis = wide[0] - (value.ndim - len(follower.shapes[parameter]))
            follower.ties.record("follower", parameter.target, axis, result.reshape(-1))
    return result


def _same(follower: _Follower, node: fx.Node, value: Tensor, layer: nn.Module | None = None) -> Labels:
    return follower.labels[node.args[0]]


def _window(axes: int | None) -> Callable:
    """A handler of operations that work on the last `axes` axes (all but two where None), as pooling does."""

    def window(follower: _Follower, node: fx.Node, value: Tensor, layer: nn.Module | None = None) -> Labels:
        labels = follower.labels[node.args[0]]
        count = labels.ndim - 2 if axes is None else axes
        if not isinstance(value, Tensor) or any(a >= labels.ndim - count for a in _changing(labels)):
            follower.refuse(node, "it works along the axis of the channels")
        return labels

    return window


def _pad(follower: _Follower, node: fx.Node, value: Tensor) -> Labels:
    return _window(len(_argument(node, 1, "pad")) // 2)(follower, node, value)


def _moved(follower: _Follower, node: fx.Node, value: Tensor) -> Labels:
    """Permutations and new axes do to the labels what they do to the tensor."""
    arguments = fx.node.map_arg(node.args[1:], lambda n: follower.env[n])
    labels = follower.labels[node.args[0]]
    if node.op == "call_method":
        return getattr(labels, node.target)(*arguments, **node.kwargs)
    return node.target(labels, *arguments, **node.kwargs)


def _reshaped(follower: _Follower, node: fx.Node, value: Tensor, layer: nn.Module | None = None) -> Labels:
    source = node.args[0]
    return _compact(follower.labels[source].expand(follower.shapes[source]).reshape(value.shape))


def _squeezed(follower: _Follower, node: fx.Node, value: Tensor) -> Labels:
    labels = follower.labels[node.args[0]]
    axes = _axes(node, labels)
    if set(axes) & set(_changing(labels)):
        what = (
            f"{node.name!r} would drop their axis if one were left; name the axes to drop, as in squeeze(-1)"
        )
        follower.ties.fix(labels, what)
    return _reshaped(follower, node, value)


def _view(follower: _Follower, node: fx.Node, value: Tensor) -> Labels:
    """Reshaping to sizes that are given: what is written as a number stays when the channels become fewer."""
    ties, labels = follower.ties, _reshaped(follower, node, value)
    sizes = node.args[1:] or (node.kwargs.get("size", node.kwargs.get("shape")),)
    if len(sizes) == 1 and isinstance(sizes[0], tuple | list):
        sizes = sizes[0]
    whole = follower.counted.get(sizes[0]) if isinstance(sizes[0], fx.Node) else None
    if isinstance(whole, tuple):  # the shape of another tensor
        counts = list(whole)
    elif len(sizes) == value.ndim:
        counts = [None if size == -1 else follower.count([size]) for size in sizes]
    else:  # a shape put together
        counts = [follower.count(sizes)] * value.ndim
    own, counted = labels.unique(), [count.unique() for count in counts if count is not None and len(count)]
    if any(not torch.equal(count, own) for count in counted):
        ties.fix(torch.cat([own, *counted]), f"{node.name!r} reshapes by the number of others")
    axes = _changing(labels)
    fixed = [axis for axis in axes if counts[axis] is not None and not len(counts[axis])]
    if len(axes) - len(fixed) != min(len(axes), 1):
        what = " x ".join(str(value.size(axis)) for axis in axes)
        ties.fix(labels, f"{node.name!r} reshapes them to {'the fixed size ' if fixed else ''}{what}")
    for axis in fixed:  # so many rows whatever happens: the same place goes from each
        ties.tie(labels, labels.narrow(axis, 0, 1))
    return labels


def _channel_shuffle(follower: _Follower, node: fx.Node, value: Tensor, layer: nn.ChannelShuffle) -> Labels:
    rows = follower.vector(node, 1, value.size(1)).reshape(layer.groups, -1)
    follower.ties.tie(rows, rows[:1])
    return follower.along(1, rows.T.reshape(-1), value)


def _axes(node: fx.Node, labels: Labels) -> list[int]:
    """The axes that the argument `dim` names; all where it names none."""
    axes = _argument(node, 1, "dim")
    axes = [axes] if isinstance(axes, int) else axes or range(labels.ndim)
    return [axis % labels.ndim for axis in axes]


def _reduced(follower: _Follower, node: fx.Node, value: Tensor) -> Labels:
    labels = follower.labels[node.args[0]]
    axes = _axes(node, labels)
    if set(axes) & set(_changing(labels)):
        follower.ties.fix(labels, f"{node.name!r} mixes them")
    return labels.amax(axes, keepdim=bool(_argument(node, 2, "keepdim", False)))


def _mixed_along(follower: _Follower, node: fx.Node, value: Tensor, layer: nn.Module | None = None) -> Labels:
    """Softmax and its kin: each channel depends on all others along the axis."""
    labels = follower.labels[node.args[0]]
    axis = layer.dim if layer is not None else _argument(node, 1, "dim")
    if axis is None or axis % labels.ndim in _changing(labels):
        follower.ties.fix(labels, f"{node.name!r} mixes them")
    return labels


def _concatenated(follower: _Follower, node: fx.Node, value: Tensor) -> Labels:
    parts = _argument(node, 0, "tensors")
    axis = _argument(node, 1, "dim", 0) % value.ndim
    values = fx.node.map_arg(parts, lambda n: follower.env[n])
    labels = []
    for part, its_labels in zip(values, fx.node.map_arg(parts, follower.labels.get), strict=True):
        shape = list(its_labels.shape)
        shape[axis] = part.size(axis)
        labels.append(its_labels.expand(shape))
    widest = [max(sizes) for sizes in zip(*(part.shape for part in labels), strict=True)]
    whole = []
    for part in labels:
        widest[axis] = part.size(axis)
        whole.append(part.expand(widest))
    along_another = any(size > 1 for place, size in enumerate(widest) if place != axis)
    joined = torch.cat(whole, axis)
    if along_another:  # laid side by side along another axis, equal channels meet
        follower.ties.tie(joined, joined.narrow(axis, 0, 1))
        return joined.narrow(axis, 0, 1)
    return _compact(joined)


def _divided(follower: _Follower, node: fx.Node, value: Sequence[Tensor]) -> tuple[Labels, ...]:
    """chunk and split: sections of equal size stay equal if each loses the same places."""
    source = node.args[0]
    labels = follower.labels[source]
    axis = _argument(node, 2, "dim", 0) % labels.ndim
    if labels.size(axis) == 1:
        return tuple(labels for _ in value)
    by_number = getattr(node.target, "__name__", node.target) == "chunk"
    size = _argument(node, 1, "chunks" if by_number else "split_size_or_sections")
    if size is None:
        size = node.kwargs.get("split_size")
    equal = len({part.size(axis) for part in value}) == 1
    if isinstance(size, fx.Node):  # only channels // 2 and the like is the same share of fewer channels
        share = size.target is operator.floordiv and isinstance(size.args[1], int)
        equal = equal and share and torch.equal(follower.count([size]).unique(), labels.unique())
    sections = labels.split([part.size(axis) for part in value], axis)
    if equal and (by_number or isinstance(size, fx.Node)):
        for section in sections[1:]:
            follower.ties.tie(section, sections[0])
    else:
        counted = follower.count(node.all_input_nodes)
        follower.ties.fix(
            torch.cat([labels.reshape(-1), counted]), f"{node.name!r} cuts them at fixed places"
        )
    return tuple(_compact(section) for section in sections)


def _item(follower: _Follower, node: fx.Node, value: object) -> object:
    source, index = node.args
    labels = follower.labels[source]
    if isinstance(labels, tuple | list):
        return labels[index]
    index = fx.node.map_arg(index, lambda n: follower.env[n])
    item = _compact(labels.expand(follower.shapes[source])[index])
    parts = index if isinstance(index, tuple) else (index,)
    places = any(not (part is None or part is Ellipsis or isinstance(part, int | slice)) for part in parts)
    if places or item.numel() != labels.numel():
        follower.ties.fix(labels, f"{node.name!r} picks some of them by their place")
    return item


def _table(handler: Callable, *keys: object) -> dict:
    return dict.fromkeys(keys, handler)


_MODULES: dict[type, Callable] = {
    **_table(_convolution, nn.Conv1d, nn.Conv2d, nn.Conv3d),
    **_table(_convolution, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    nn.Linear: _linear,
    **_table(_batch_norm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    **_table(_batch_norm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    nn.PReLU: _prelu,
    **_table(_same, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    **_table(
        _same, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.LogSigmoid
    ),
    **_table(_same, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.Identity),
    **_table(_window(1), nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d, nn.LPPool1d),
    **_table(_window(2), nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.LPPool2d),
    **_table(_window(3), nn.MaxPool3d, nn.AvgPool3d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool3d),
    **_table(_window(2), nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ConstantPad2d),
    **_table(_window(None), nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
    **_table(_mixed_along, nn.Softmax, nn.LogSoftmax),
    nn.Flatten: _reshaped,
    nn.ChannelShuffle: _channel_shuffle,
}

_FUNCTIONS: dict[object, Callable] = {
    **_table(_elementwise, operator.add, operator.sub, operator.mul, operator.truediv, operator.pow),
    **_table(_elementwise, operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.neg),
    **_table(
        _elementwise, torch.add, torch.sub, torch.mul, torch.div, torch.pow, torch.maximum, torch.minimum
    ),
    **_table(_elementwise, torch.relu, torch.sigmoid, torch.tanh, torch.exp, torch.log, torch.abs, torch.neg),
    **_table(_elementwise, torch.sqrt, torch.rsqrt, torch.square, torch.clamp, torch.erf, torch.where),
    **_table(_elementwise, F.relu, F.relu_, F.relu6, F.leaky_relu, F.elu, F.selu, F.gelu, F.silu, F.mish),
    **_table(
        _elementwise, F.hardswish, F.hardsigmoid, F.hardtanh, F.softplus, F.logsigmoid, F.sigmoid, F.tanh
    ),
    **_table(_same, F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout),
    **_table(_same, "torchvision.ops.stochastic_depth.stochastic_depth"),
    **_table(_window(1), F.max_pool1d, F.avg_pool1d, F.adaptive_avg_pool1d, F.adaptive_max_pool1d),
    **_table(_window(2), F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d),
    **_table(_window(3), F.max_pool3d, F.avg_pool3d, F.adaptive_avg_pool3d, F.adaptive_max_pool3d),
    **_table(_window(1), torch.max_pool1d),
    **_table(_window(2), torch.max_pool2d),
    **_table(_window(None), F.interpolate),
    F.pad: _pad,
    F.layer_norm: _functional_layer_norm,
    **_table(_moved, torch.permute, torch.transpose, torch.swapaxes, torch.movedim, torch.unsqueeze),
    torch.flatten: _reshaped,
    torch.squeeze: _squeezed,
    torch.reshape: _view,
    **_table(_reduced, torch.mean, torch.sum, torch.amax, torch.amin),
    **_table(_mixed_along, F.softmax, F.log_softmax, torch.softmax, torch.log_softmax),
    **_table(_concatenated, torch.cat, torch.concat),
    **_table(_divided, torch.chunk, torch.split),
    operator.getitem: _item,
}

_METHODS: dict[str, Callable] = {
    **_table(
        _elementwise, "add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "pow", "maximum", "minimum"
    ),
    **_table(
        _elementwise, "relu", "relu_", "sigmoid", "sigmoid_", "tanh", "tanh_", "exp", "log", "abs", "neg"
    ),
    **_table(_elementwise, "sqrt", "rsqrt", "square", "clamp", "clamp_", "expand_as"),
    **_table(_same, "contiguous", "clone", "detach", "to", "float", "double", "half", "bfloat16"),
    **_table(_moved, "permute", "transpose", "swapaxes", "movedim", "unsqueeze"),
    "flatten": _reshaped,
    "squeeze": _squeezed,
    **_table(_view, "view", "reshape"),
    **_table(_reduced, "mean", "sum", "amax", "amin"),
    **_table(_mixed_along, "softmax", "log_softmax"),
    **_table(_divided, "chunk", "split"),
}


def _known_type(layer: nn.Module) -> type | None:
    """The type of layer whose forward() this is: a subclass that overrides it is something else."""
    kinds = (kind for kind in type(layer).__mro__ if kind in _MODULES)
    kind = next(kinds, None)
    if is_parametrized(layer):
        return kind
    if kind is None or "forward" in vars(layer):
        return None
    methods = [name for name in ("forward", "_conv_forward") if hasattr(kind, name)]
    return kind if all(getattr(type(layer), name) is getattr(kind, name) for name in methods) else None
