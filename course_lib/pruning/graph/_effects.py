"""What operations without weights do to labels where channels stay in place, are mixed, or are multiplied."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from course_lib.pruning.graph._calls import Call, Unknown, changing, named_axes, zeros
from course_lib.pruning.graph.ties import _Labels


def same(call: Call) -> _Labels:
    return call.labels


def elementwise(call: Call) -> _Labels:
    """Labels that meet are tied."""
    if len(call.tensors) == 1 and not call.run.wide(call.tensors[0]):
        return call.run.labels(call.tensors[0])
    parts = [(tensor, *aligned(call, tensor)) for tensor in call.tensors]
    operands = [part for part in parts if call.run.wide(part[0]) is None] or parts
    _, result, _ = max(
        operands, key=lambda part: (_is_computed(call, part[0]), part[1].numel(), np.prod(part[2]))
    )
    axes = changing(result)
    for _, labels, shape in operands:
        if any(axis not in axes for axis in changing(labels)):
            call.fix(labels, "meets them with channels along another axis")
        # An axis of size 1 is repeated for every channel of the other, however many there are.
        elif labels is not result and any(shape[axis] > 1 for axis in axes):
            call.ties.tie(result, labels)
    for tensor, _, shape in parts:
        if name := call.run.wide(tensor):
            _scale(call, name, tensor, shape, result)
    return result


def _is_computed(call: Call, tensor: Tensor) -> bool:
    return id(tensor) not in call.ties.names and call.run.labels(tensor).numel() > 1


def aligned(call: Call, tensor: Tensor) -> tuple[_Labels, list[int]]:
    """Labels and shape of a tensor, with as many axes as the result."""
    labels = call.run.labels(tensor)
    lead = [1] * (call.value.ndim - labels.ndim)
    return labels.reshape([*lead, *labels.shape]), [*lead, *tensor.shape]


def _scale(call: Call, name: str, tensor: Tensor, shape: Sequence[int], labels: _Labels) -> None:
    """A parameter of several axes that meets channels is one of their followers."""
    axes = changing(labels)
    wide = [axis for axis in axes if shape[axis] > 1]
    if wide and len(axes) > 1:
        raise Unknown(f"the parameter {name!r} meets channels that lie along several axes")
    if wide:
        call.ties.record("follower", name, wide[0] - (call.value.ndim - tensor.ndim), labels.reshape(-1))
    else:
        call.run.pin(tensor, call.name)


def window(axes: int | None) -> Callable[[Call], object]:
    """The rule of operations that work on the last `axes` axes (all but two where None), as pooling does."""

    def window(call: Call) -> object:
        labels = call.labels
        count = labels.ndim - 2 if axes is None else axes
        if any(axis >= labels.ndim - count for axis in changing(labels)):
            raise Unknown("it works along the axis of the channels")
        return for_each(call, labels)

    return window


def for_each(call: Call, labels: _Labels) -> object:
    """The same labels for every tensor that the call gives."""
    return labels if isinstance(call.value, Tensor) else tuple(labels for _ in call.value)


def padded(call: Call) -> _Labels:
    """Padding with a constant, also along the channels: the new ones are constants, and stay."""
    labels, pad = call.labels, list(call.arguments["pad"])
    by_axis = dict(enumerate(zip(pad[::2], pad[1::2], strict=True)))
    along = {axis: by_axis.get(labels.ndim - 1 - axis, (0, 0)) for axis in changing(labels)}
    if not any(before or after for before, after in along.values()):
        return labels
    if call.arguments.get("mode", "constant") != "constant" or any(min(both) < 0 for both in along.values()):
        raise Unknown("it works along the axis of the channels")
    widths = [along.get(axis, (0, 0)) for axis in reversed(range(labels.ndim))]
    return torch.nn.functional.pad(labels, [int(width) for both in widths for width in both])


def mixed_along(call: Call) -> object:
    """Softmax and its kin: each channel depends on all others along the axis."""
    if set(named_axes(call)) & set(changing(call.labels)):
        call.fix(call.labels, "mixes them")
        return for_each(call, zeros(call.labels.ndim))
    return for_each(call, call.labels)


def reduced(call: Call) -> object:
    axes, labels = named_axes(call), call.labels
    if set(axes) & set(changing(labels)):
        call.fix(labels, "mixes them")
        labels = zeros(labels.ndim)
    labels = labels.amax(axes, keepdim=bool(call.arguments.get("keepdim", False)))
    return for_each(call, labels)


def extreme(call: Call) -> object:
    """max and min: of two tensors, or over an axis."""
    if len(call.tensors) > 1:
        return elementwise(call)
    if call.run.wide(call.input):
        call.run.pin(call.input, call.name)
    return reduced(call)


def multiplied(call: Call) -> _Labels:
    """Matrix products: channels that are summed over go together, those of rows, columns and batches pass."""
    first, second = call.tensors
    if call.run.wide(first) or call.run.wide(second) or min(first.ndim, second.ndim) < 2:
        raise Unknown("a parameter is multiplied as a matrix, or a vector")
    (rows, shape), (columns, other_shape) = aligned(call, first), aligned(call, second)
    ndim = call.value.ndim
    if max(len(changing(rows)), len(changing(columns))) > 1:
        raise Unknown("the channels lie along several axes")
    summed = [
        labels.reshape(-1)
        for labels, axis in ((rows, ndim - 1), (columns, ndim - 2))
        if labels.size(axis) > 1
    ]
    if summed:
        call.ties.tie(
            summed[0], summed[1] if len(summed) > 1 else torch.zeros(1, dtype=torch.int64, device="cpu")
        )
    passed = [
        (changing(labels)[0], labels, others, size)
        for labels, axis, others, size in (
            (rows, ndim - 1, columns, other_shape),
            (columns, ndim - 2, rows, shape),
        )
        if labels.numel() > 1 and labels.size(axis) == 1
    ]
    if len({axis for axis, *_ in passed}) > 1:
        raise Unknown("its rows and its columns are channels")
    for axis, labels, others, size in passed:
        if axis < ndim - 2 and size[axis] > 1:  # of a batch: both have it
            call.ties.tie(labels, others.reshape(-1)[:1] if others.size(axis) == 1 else others)
    return passed[0][1] if passed else zeros(ndim)


def attended(call: Call) -> _Labels:
    """Scaled dot-product attention: the scale is a number of channels, those of the values pass."""
    query, key, value = (call.arguments[name] for name in ("query", "key", "value"))
    last = value.ndim - 1
    for tensor in call.tensors:
        labels = call.run.labels(tensor)
        if tensor is not value and changing(labels) and changing(labels)[-1] >= labels.ndim - 2:
            call.fix(labels, "divides by the root of their number")
    labels, _ = aligned(call, value)
    others = [call.run.labels(part) for part in (query, key)]
    axes = changing(labels)
    if axes == [last] or (not axes and all(not changing(other) for other in others)):
        for other in others:
            call.fix(other, "meets them with channels along another axis")
        return labels
    for other in (labels, *others):
        call.fix(other, "works on their heads by itself")
    return labels
