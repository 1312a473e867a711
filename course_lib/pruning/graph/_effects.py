"""What operations do to the labels of channels, to numbers of channels, and to parameters: the parts of the rules."""

import operator
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, fx, nn

from course_lib import tracing
from course_lib.pruning.graph._calls import Call, changing, compact, tensors_in
from course_lib.pruning.graph.ties import _Labels, _Ties

# ---- labels: layers with weights ---------------------------------------------------------------------------


def convolution(call: Call) -> _Labels:
    layer, ties, name, groups = _plain(call), call.ties, call.name, call.layer.groups
    axis = call.value.ndim - layer.weight.ndim + 1  # of the channels, also where the batch axis is missing
    inputs = call.vector(axis, layer.in_channels)
    transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
    if transposed and groups > 1:
        call.refuse(f"{name!r} is a transposed convolution of {groups} groups")
    if groups == layer.in_channels and groups > 1:  # depthwise: each input channel has outputs of its own
        outputs = inputs.repeat_interleave(layer.out_channels // groups)
        return call.along(axis, ties.record("follower", name, 0, outputs))
    ties.record("consumer", name, 0 if transposed else 1, inputs.reshape(groups, -1)[0])
    outputs = _outputs(ties, name, 1 if transposed else 0, layer.out_channels)
    if groups > 1:  # every group must lose as many channels as the others: the same places go from each
        for per_group in (inputs.reshape(groups, -1), outputs.reshape(groups, -1)):
            ties.tie(per_group, per_group[:1])
    return call.along(axis, outputs)


def linear(call: Call) -> _Labels:
    layer, last = _plain(call), call.value.ndim - 1
    call.ties.record("consumer", call.name, 1, call.vector(last, layer.in_features))
    return call.along(last, _outputs(call.ties, call.name, 0, layer.out_features))


def _outputs(ties: _Ties, name: str, axis: int, count: int) -> Tensor:
    """New labels for the outputs of a layer; those it already has if it is called a second time."""
    if (name, axis) in ties.axes:
        return ties.axes[name, axis][1]
    return ties.record("producer", name, axis, ties.fresh(count))


def batch_norm(call: Call) -> _Labels:
    return _followed_by(call, call.vector(1, _plain(call).num_features))


def group_norm(call: Call) -> _Labels:
    layer = _plain(call)
    vector = call.vector(1, layer.num_channels)
    if layer.num_groups < layer.num_channels:  # otherwise each channel is a group and goes with it
        per_group = vector.reshape(layer.num_groups, -1)
        call.ties.tie(per_group, per_group[:1])
    return _followed_by(call, vector)


def prelu(call: Call) -> _Labels:
    if call.layer.num_parameters == 1:
        return call.labels
    return _followed_by(call, call.vector(1, _plain(call).num_parameters))


def channel_shuffle(call: Call) -> _Labels:
    rows = call.vector(1, call.value.size(1)).reshape(call.layer.groups, -1)
    call.ties.tie(rows, rows[:1])
    return call.along(1, rows.T.reshape(-1))


def _followed_by(call: Call, vector: Tensor) -> _Labels:
    """The layer has a number for each of these channels."""
    return call.along(1, call.ties.record("follower", call.name, 0, vector))


def _plain(call: Call) -> nn.Module:
    """The layer, if its weight and bias are parameters of its own."""
    if computed := tracing.computed_parameter(call.layer):
        call.refuse(
            f"the {computed} of {call.name!r} is computed from other parameters, by a mask or parametrisation; "
            f"{tracing.MAKE_PERMANENT}"
        )
    return call.layer


# ---- labels: operations without weights --------------------------------------------------------------------


def same(call: Call) -> _Labels:
    return call.labels


def elementwise(call: Call) -> _Labels:
    """Labels that meet are tied."""
    if len(call.node.all_input_nodes) == 1:
        return call.known.labels[call.node.all_input_nodes[0]]
    tensors = _aligned(call)
    operands = [tensor for tensor in tensors if tensor[0].op != "get_attr"] or tensors
    _, result, _ = max(operands, key=lambda o: (o[1].numel(), np.prod(o[2])))
    axes = changing(result)
    for _, labels, shape in operands:
        if any(axis not in axes for axis in changing(labels)):
            call.refuse("its inputs have their channels along different axes")
        # An axis of size 1 is repeated for every channel of the other, however many there are.
        if labels is not result and any(shape[axis] > 1 for axis in axes):
            call.ties.tie(result, labels)
    return result


def _aligned(call: Call) -> list[tuple[fx.Node, _Labels, list[int]]]:
    """The tensors that go in, each with its labels and shape, with as many axes as the result."""
    known, found = call.known, []
    for node in call.node.all_input_nodes:
        labels, shape = known.labels[node], known.shapes.get(node)
        if labels is not None:
            lead = [1] * (call.value.ndim - labels.ndim)
            found.append((node, labels.reshape([*lead, *labels.shape]), [*lead, *shape]))
    return found


def window(axes: int | None) -> Callable[[Call], _Labels]:
    """The rule of operations that work on the last `axes` axes (all but two where None), as pooling does."""

    def window(call: Call) -> _Labels:
        labels = call.labels
        count = labels.ndim - 2 if axes is None else axes
        if not isinstance(call.value, Tensor) or any(a >= labels.ndim - count for a in changing(labels)):
            call.refuse("it works along the axis of the channels")
        return labels

    return window


def padded(call: Call) -> _Labels:
    return window(len(call.layer.padding if call.layer else call.arguments["pad"]) // 2)(call)


def moved(function: Callable) -> Callable[[Call], _Labels]:
    """The rule of permutations and new axes: they do to the labels what they do to the tensor."""

    def moved(call: Call) -> _Labels:
        others = {name: call.evaluated(name) for name in call.arguments if name != "input"}
        return function(call.labels, **others)

    return moved


def reshaped(call: Call) -> _Labels:
    return compact(call.full_labels.reshape(call.value.shape))


def squeezed(call: Call) -> _Labels:
    if set(_axes(call)) & set(changing(call.labels)):
        what = f"{call.node.name!r} would drop their axis if one were left; name the axes to drop, as in squeeze(-1)"
        call.ties.fix(call.labels, what)
    return reshaped(call)


def viewed(call: Call) -> _Labels:
    """Reshaping to sizes that are given: what is written as a number stays when the channels become fewer."""
    ties, labels, name = call.ties, reshaped(call), call.node.name
    counts = _counts_of_sizes(call)
    own, counted = labels.unique(), [count.unique() for count in counts if count is not None and len(count)]
    if any(not torch.equal(count, own) for count in counted):
        ties.fix(torch.cat([own, *counted]), f"{name!r} reshapes by the number of others")
    axes = changing(labels)
    fixed = [axis for axis in axes if counts[axis] is not None and not len(counts[axis])]
    if len(axes) - len(fixed) != min(len(axes), 1):
        what = " x ".join(str(call.value.size(axis)) for axis in axes)
        ties.fix(labels, f"{name!r} reshapes them to {'the fixed size ' if fixed else ''}{what}")
    for axis in fixed:  # so many rows whatever happens: the same place goes from each
        ties.tie(labels, labels.narrow(axis, 0, 1))
    return labels


def _counts_of_sizes(call: Call) -> list[Tensor | None]:
    """For each size that a reshaping gives the labels of the channels that it counts; None where it is -1."""
    shape, known = call.arguments["shape"], call.known
    if isinstance(known.counted.get(shape) if isinstance(shape, fx.Node) else None, tuple):
        return list(known.counted[shape])  # the shape of another tensor
    sizes = shape if isinstance(shape, tuple | list) else (shape,)
    if len(sizes) == call.value.ndim:
        return [None if size == -1 else known.count([size]) for size in sizes]
    return [known.count(sizes)] * call.value.ndim  # a shape put together


def _axes(call: Call) -> list[int]:
    """The axes that the argument `dim` names; all where it names none."""
    axes, ndim = call.evaluated("dim"), call.labels.ndim
    axes = [axes] if isinstance(axes, int) else axes or range(ndim)
    return [axis % ndim for axis in axes]


def reduced(call: Call) -> _Labels:
    axes = _axes(call)
    if set(axes) & set(changing(call.labels)):
        call.ties.fix(call.labels, f"{call.node.name!r} mixes them")
    return call.labels.amax(axes, keepdim=bool(call.evaluated("keepdim", False)))


def mixed_along(call: Call) -> _Labels:
    """Softmax and its kin: each channel depends on all others along the axis."""
    axis = call.layer.dim if call.layer is not None else call.evaluated("dim")
    if axis is None or axis % call.labels.ndim in changing(call.labels):
        call.ties.fix(call.labels, f"{call.node.name!r} mixes them")
    return call.labels


def concatenated(call: Call) -> _Labels:
    axis = call.evaluated("dim", 0) % call.value.ndim
    labels = []
    for part, its_labels in zip(
        call.evaluated("tensors"),
        fx.node.map_arg(call.arguments["tensors"], call.known.labels.get),
        strict=True,
    ):
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
        call.ties.tie(joined, joined.narrow(axis, 0, 1))
        return joined.narrow(axis, 0, 1)
    return compact(joined)


def chunked(call: Call) -> tuple[_Labels, ...]:
    """A number of sections: of equal size, they stay equal if each loses the same places."""
    return _divided(call, in_step=True)  # a number of channels does not stay; the row fixes those


def split(call: Call) -> tuple[_Labels, ...]:
    """Sections of a size: only channels // 2 and the like is the same share of fewer channels."""
    size = call.arguments["split_size_or_sections"]
    share = isinstance(size, fx.Node) and size.target is operator.floordiv and isinstance(size.args[1], int)
    return _divided(
        call, in_step=share and torch.equal(call.known.count([size]).unique(), call.labels.unique())
    )


def _divided(call: Call, *, in_step: bool) -> tuple[_Labels, ...]:
    labels = call.labels
    axis = call.evaluated("dim", 0) % labels.ndim
    if labels.size(axis) == 1:
        return tuple(labels for _ in call.value)
    sizes = [part.size(axis) for part in call.value]
    sections = labels.split(sizes, axis)
    if in_step and len(set(sizes)) == 1:
        for section in sections[1:]:
            call.ties.tie(section, sections[0])
    else:
        counted = call.known.count(call.node.all_input_nodes)
        what = f"{call.node.name!r} cuts them at fixed places"
        call.ties.fix(torch.cat([labels.reshape(-1), counted]), what)
    return tuple(compact(section) for section in sections)


def item(call: Call) -> object:
    if isinstance(call.labels, tuple | list):
        return call.labels[call.arguments["index"]]
    index = call.evaluated("index")
    item = compact(call.full_labels[index])
    parts = index if isinstance(index, tuple) else (index,)
    places = any(not (part is None or part is Ellipsis or isinstance(part, int | slice)) for part in parts)
    if places or item.numel() != call.labels.numel():
        call.ties.fix(call.labels, f"{call.node.name!r} picks some of them by their place")
    return item


def gathered(call: Call) -> tuple:
    """A named tuple of tensors."""
    place = call.known.labels.get
    return call.node.target(
        *fx.node.map_arg(call.node.args, place), **fx.node.map_arg(call.node.kwargs, place)
    )


def output(call: Call) -> None:
    for labels in tensors_in(fx.node.map_arg(call.node.args, call.known.labels.get)):
        call.ties.fix(labels, "they are the network's output")


# ---- counts, and parameters --------------------------------------------------------------------------------


def fixed(call: Call) -> None:
    """The result depends on the number, so the channels that it counts have to stay."""
    counted = call.known.count(call.node.all_input_nodes)
    if len(counted):
        call.ties.fix(counted, f"{call.node.name!r} computes with their number")


def judged_with_labels(call: Call) -> None:
    """Sizes to reshape or divide by follow the channels; the rule's `labels` says which do not."""


def pinned(call: Call, labels: object = None) -> None:
    """The parameters that go in have to stay as they are."""
    for node in call.node.all_input_nodes:
        if node.op == "get_attr":
            call.ties.pin(node.target, call.node)


def scales(call: Call, labels: _Labels) -> None:
    """A parameter that meets channels is one of their followers."""
    if all(node.op != "get_attr" for node in call.node.all_input_nodes):
        return
    axes = changing(labels)
    for node, _, shape in _aligned(call):
        if node.op != "get_attr":
            continue
        wide = [axis for axis in axes if shape[axis] > 1]
        if wide and len(axes) > 1:
            call.refuse("a parameter meets channels that lie along several axes")
        if not wide:
            call.ties.pin(node.target, call.node)
        elif node.target not in call.ties.tensors:  # a plain tensor, which stays as it is
            call.ties.tie(labels, torch.zeros(1, dtype=torch.int64))
        else:
            axis = wide[0] - (call.value.ndim - len(call.known.shapes[node]))
            call.ties.record("follower", node.target, axis, labels.reshape(-1))


def of_layer_norm(call: Call, labels: _Labels) -> None:
    """Scale and shift of a layer norm are followers, also where a subclass with axes of its own calls F.layer_norm."""
    name, layer = call.node.target, call.layer
    if layer is None:
        weight = call.arguments.get("weight")
        attribute = isinstance(weight, fx.Node) and weight.op == "get_attr"
        name = weight.target.rpartition(".")[0] if attribute else None
        layer = call.ties.layers.get(name)
        if not isinstance(layer, nn.LayerNorm):
            call.refuse("F.layer_norm without the weight of an nn.LayerNorm has a fixed shape")
    else:
        _plain(call)
    start, axes = call.value.ndim - len(layer.normalized_shape), changing(labels)
    if any(axis >= start for axis in axes):
        if len(axes) > 1:
            call.refuse("the channels lie along several axes of its input")
        vector = call.vector(axes[0], call.value.size(axes[0]))
        call.ties.record("follower", name, axes[0] - start, vector)
