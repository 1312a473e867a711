"""Find the channels of a network that must be removed together, by following every channel through it.

Every output channel of a convolution or linear layer gets a number of its own, its label. The network is traced with
torch.fx and run once on an example; beside each tensor goes a small tensor of labels that says which channel each of
its elements belongs to. A permutation permutes the labels, a flattening repeats them, a concatenation concatenates
them. An addition ties the labels that meet in it; a convolution that reads them is recorded as their consumer.
Channels with tied labels must go together. What is known to mix channels (a softmax over them, a slice at a fixed
place) fixes them; what is not known is refused by name. Nothing is guessed.
"""

import contextlib
import operator
import threading
from collections.abc import Iterator

import torch
from jaxtyping import Shaped
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map

from course_lib import tracing
from course_lib.pruning.graph._calls import Call, Known, normalised, tensors_in
from course_lib.pruning.graph._effects import fixed, pinned
from course_lib.pruning.graph.channels import Channels, _structure
from course_lib.pruning.graph.rules import _RULE_OF, _dotted_name, _known_type, _Rule, _rule_of
from course_lib.pruning.graph.ties import ChannelGroup, _Ties


def follow(model: nn.Module, example: Shaped[Tensor, "N *rest"]) -> Channels:
    """Follow every channel through a network, once for all functions of this package.

    What it finds may be handed on in place of `example` to `filter_plan`, `remove_channels` and the others, as long as
    the structure of the network stays the same; they follow it anew each time otherwise.

    Args:
        model: network of one input tensor, traceable by torch.fx; it and its mode are left as they were.
        example: input [N, ...] of the dtype and on the device that the model runs on.

    Returns:
        The groups of channels that can be removed (see `channel_groups`), and the reason for those that cannot.

    Raises:
        TypeError: `model` is not an nn.Module, or `example` not a tensor.
        ValueError: the model cannot be traced, does not accept the example, or holds something that channels cannot
            be followed through; the message names it.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
        >>> follow(model, torch.rand(1, 1, 8, 8)).fixed
        {'2': "they are the network's output"}
    """
    with tracing.alone():  # so that nothing happens to the model between the two
        groups, reasons = _find(model, example)
        structure = _structure(model)
    return Channels(groups, reasons, tuple(example.shape), example.dtype, structure)


def channel_groups(model: nn.Module, example: Shaped[Tensor, "N *rest"]) -> list[ChannelGroup]:
    """Find the groups of channels of a network that can be removed.

    Tied together are channels that meet in an addition or another element-wise operation of two tensors (residual
    connections, squeeze-and-excitation), that a depthwise convolution hands on, that stand at the same place in the
    groups of a grouped convolution, of a group norm or of a channel shuffle, and all outputs of a layer that is called
    at several places. The channels of the network's output are in no group, and neither are those tied to its input,
    to a constant, or to a fixed number in the code of a forward(). Branches that run in train mode alone, such as
    auxiliary classifiers, are followed too.

    Layer norm and group norm compute mean and deviation over the channels that are there. Removing channels in front
    of one therefore changes its result also for those that stay, other than removing channels in front of a batch norm.

    Args:
        model, example: as in `follow`.

    Returns:
        The groups, in the order in which the network computes them. Groups of one unit are among them, although
        nothing can be removed from them: the last unit of a group has to stay.

    Raises:
        TypeError, ValueError: as `follow`.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3))
        >>> [group] = channel_groups(model, torch.rand(1, 1, 8, 8))
        >>> group.size, [axis.layer for axis in group.axes]
        (4, ['0', '2', '1'])

    References:
        Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023 (groups of dependent layers; the labels are
        our own way to find them).
    """
    return _find(model, example)[0]


def _find(model: nn.Module, example: Tensor) -> tuple[list[ChannelGroup], dict[str, str]]:
    """The groups, and for each layer with channels in none of them the reason."""
    tracing.check(model, example)
    ties = _Ties(model)
    # One at a time: while a model is lent, its mode is not its own, and other threads may share it.
    with tracing.alone(), tracing.borrowed(model):
        graph, training_matters = _trace(model, ties)
        _Follower(model, graph, ties).follow(example)
        if training_matters:
            _follow_train_mode(model, example, ties)
    ties.settle()
    return ties.groups()


def _known(model: nn.Module, example: Tensor | Channels) -> tuple[list[ChannelGroup], dict[str, str]]:
    """What `_find` gives, from channels where they are given in place of an example."""
    if isinstance(example, Channels):
        example.check(model)
        return example.groups, example.fixed
    return _find(model, example)


def _followed(model: nn.Module, example: Tensor | Channels) -> Channels:
    """The same as channels, to be handed on."""
    if isinstance(example, Channels):
        example.check(model)
        return example
    return follow(model, example)


def _input(model: nn.Module, example: Tensor | Channels) -> Tensor:
    """The example, or one like that of the channels that are given in its place."""
    return example.zeros(model) if isinstance(example, Channels) else example


def _follow_train_mode(model: nn.Module, example: Tensor, ties: _Ties) -> None:
    """Follow what a forward() does in train mode alone."""
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


def _trace(model: nn.Module, ties: _Ties) -> tuple[fx.Graph, bool]:
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
    the instance. (torch.fx, too, changes nn.Module while it traces.) Other threads read and set as ever.
    """
    read: set[tuple[nn.Module, str]] = set()
    here = threading.get_ident()

    def watch(name: str) -> property:
        def get(module: nn.Module) -> object:
            if name not in vars(module):
                raise AttributeError(name)  # and nn.Module looks among parameters and submodules
            if threading.get_ident() == here:
                read.add((module, name))
            return vars(module)[name]

        def set_(module: nn.Module, value: object) -> None:
            vars(module)[name] = value

        return property(get, set_)

    names = ("training", *_SIZES)
    for name in names:
        setattr(nn.Module, name, watch(name))
    try:
        yield read
    finally:
        for name in names:
            delattr(nn.Module, name)


# ---- following -----------------------------------------------------------------------------------------------------


class _Follower(fx.Interpreter):
    """Runs a traced network and keeps the labels of every tensor beside it."""

    def __init__(self, model: nn.Module, graph: fx.Graph, ties: _Ties) -> None:
        super().__init__(model, graph=graph)
        self.layers = ties.layers
        self.known = Known(ties)
        self.rules: dict[fx.Node, tuple[_Rule | None, dict[str, object]]] = {}
        for node in graph.nodes:
            rule = _rule_of(node, self.layers)
            self.rules[node] = rule, normalised(node, rule.arguments) if rule else {}

    def follow(self, example: Tensor) -> None:
        """Run the network, and find out on the way."""
        self.example = example
        self.run(example, initial_env=self.known.values)

    def run_node(self, n: fx.Node) -> object:
        try:
            value = super().run_node(n)
        except Exception:
            tracing.run(self.module, self.example)  # says what is wrong with the example
            raise
        layer = self.layers[n.target] if n.op == "call_module" else None
        rule, arguments = self.rules[n]
        call = Call(self.known, n, value, layer, arguments)
        labels = self.known.labels[n] = self._labels(call, rule)
        if isinstance(value, Tensor) and n.op != "output":
            self.known.shapes[n] = value.shape
            sizes = zip(labels.shape, value.shape, strict=False)
            if labels.ndim != value.ndim or any(size not in (1, full) for size, full in sizes):
                call.refuse("its channels were lost on the way")
        return value

    def call_module(self, target: str, args: tuple, kwargs: dict) -> object:
        return self.layers[target](*args, **kwargs)

    def _labels(self, call: Call, rule: _Rule | None) -> object:
        """The labels of what a call gives; what it ties and fixes is noted on the way."""
        known, node = self.known, call.node
        if node.op != "output" and not tensors_in(call.value):  # sizes and other numbers
            known.counted[node] = _counted(known, node)
            pinned(call)
            return None
        labels = (part for source in node.all_input_nodes for part in tensors_in(known.labels[source]))
        foreign = not any(part.any() for part in labels)
        # Nothing of what goes in is a channel, and no layer makes some.
        if foreign and (rule is None or call.layer is None):
            fixed(call)
            pinned(call)
            return _no_labels(call.value)
        if rule is None:
            call.refuse(f"{self._described(node)} is none of the operations that it knows")
        rule.counts(call)
        labels = rule.labels(call)
        rule.parameters(call, labels)
        return labels

    def _described(self, node: fx.Node) -> str:
        """What an operation without a rule is, for the error."""
        if node.op == "call_module":
            layer = self.layers[node.target]
            own = " with a forward() of its own" if type(layer) in _RULE_OF else ""
            return f"{type(layer).__name__} ({node.target!r}){own}"
        if node.op == "call_method":
            return f"the tensor method {node.target!r} ({node.name})"
        return f"the function {_dotted_name(node.target)!r} ({node.name})"


def _no_labels(value: object) -> object:
    """Labels 0 for a tensor, or each of several."""
    return tree_map(
        lambda t: torch.zeros([1] * t.ndim, dtype=torch.int64) if isinstance(t, Tensor) else None, value
    )


def _counted(known: Known, node: fx.Node) -> Tensor | tuple[Tensor, ...]:
    """The labels of the channels that this number counts, or each of these numbers."""
    source = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
    labels = known.labels.get(source)
    if isinstance(labels, Tensor):
        sizes = tuple(labels.reshape(-1) if size > 1 else labels.new_empty(0) for size in labels.shape)
        if node.target is getattr and node.args[1] == "shape":
            return sizes
        if node.target == "size":
            axis = normalised(node, ("input", "dim")).get("dim")
            return sizes if axis is None else sizes[axis]
    if isinstance(known.counted.get(source), tuple) and node.target is operator.getitem:
        return known.counted[source][node.args[1]]
    channels = [
        labels.reshape(-1) for labels in tensors_in([known.labels.get(i) for i in node.all_input_nodes])
    ]
    return torch.cat([known.count(node.all_input_nodes), *(c for c in channels if len(c) > 1)])
