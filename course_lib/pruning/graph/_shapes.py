"""What operations do to the labels of channels that move channels, or join and divide them."""

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from course_lib.pruning.graph._calls import Call, Unknown, changing, collected, compact, named_axes, zeros
from course_lib.pruning.graph._counts import Count
from course_lib.pruning.graph._sizes import sizes as sizes_of
from course_lib.pruning.graph.ties import _Labels


def moved(function: Callable) -> Callable[[Call], _Labels]:
    """The rule of permutations and new axes: they do to the labels what they do to the tensor."""

    def moved(call: Call) -> _Labels:
        return function(call.labels, **{k: v for k, v in call.arguments.items() if k != "input"})

    return moved


def channel_shuffle(call: Call) -> _Labels:
    rows = call.vector(1, call.value.size(1)).reshape(call.arguments["groups"], -1)
    call.ties.tie(rows, rows[:1])
    return call.along(1, rows.T.reshape(-1))


def pixel_shuffle(call: Call) -> _Labels:
    """r x r channels become one: they go together."""
    axis = call.value.ndim - 3
    rows = call.vector(axis, call.input.size(axis)).reshape(call.value.size(axis), -1)
    call.ties.tie(rows, rows[:, :1])
    return call.along(axis, rows[:, 0])


def pixel_unshuffle(call: Call) -> _Labels:
    """One channel becomes r x r of them."""
    axis = call.value.ndim - 3
    vector = call.vector(axis, call.input.size(axis))
    return call.along(axis, vector.repeat_interleave(call.value.size(axis) // len(vector)))


def repeated(call: Call) -> _Labels:
    """Each channel several times in a row."""
    labels, axis = call.labels, call.arguments.get("dim")
    if not isinstance(call.arguments["repeats"], int) or axis is None:
        raise Unknown("it repeats by numbers of their own, or along no axis")
    return labels.repeat_interleave(call.arguments["repeats"], axis) if labels.size(axis) > 1 else labels


def tiled(call: Call) -> _Labels:
    """All channels several times."""
    labels, sizes = call.labels, call.arguments["shape"]
    labels = labels.reshape([1] * (len(sizes) - labels.ndim) + list(labels.shape))
    sizes = [1] * (labels.ndim - len(sizes)) + list(sizes)
    return labels.repeat([size if labels.size(axis) > 1 else 1 for axis, size in enumerate(sizes)])


def expanded(call: Call) -> _Labels:
    """Repeating along axes of size 1; a size that counts channels goes with them."""
    labels, sizes = call.labels, call.arguments["shape"]
    lead = len(sizes) - labels.ndim
    labels = labels.reshape([1] * lead + list(labels.shape))
    for axis, size in enumerate(sizes):
        counts = isinstance(size, Count)
        if axis in changing(labels):
            if size != -1 and not (counts and size.times == 1 and _same_set(size.labels, labels)):
                call.fix(labels, f"expands to the fixed size {int.__int__(size)}", "write -1")
        elif counts:
            if size.times != 1 or changing(labels) or len(size.labels) != size:
                raise Unknown("it repeats by their number")
            labels = call.along(axis, size.labels)
    return labels


def reshaped(call: Call) -> _Labels:
    return compact(call.full_labels.reshape(call.value.shape))


def squeezed(call: Call) -> _Labels:
    if set(named_axes(call)) & set(changing(call.labels)):
        what = "would drop their axis if one were left"
        call.fix(call.labels, what, "name the axes to drop, as in squeeze(-1)")
    return reshaped(call)


def viewed(call: Call) -> _Labels:
    """Reshaping to sizes that are given: what is written as a number stays when the channels become fewer."""
    sizes = call.arguments["shape"]
    if not isinstance(sizes, tuple | list | int):
        raise Unknown("it reads the bits as another dtype")
    sizes = sizes if isinstance(sizes, tuple | list) else (sizes,)
    return _by_sizes(call, sizes)


def viewed_as(call: Call) -> _Labels:
    """Reshaping to the shape of another tensor."""
    return _by_sizes(call, sizes_of(call.run, call.arguments["other"]))


def unflattened(call: Call) -> _Labels:
    sizes, axis = sizes_of(call.run, call.input), call.arguments["dim"] % call.input.ndim
    return _by_sizes(call, [*sizes[:axis], *call.arguments["sizes"], *sizes[axis + 1 :]])


def _by_sizes(call: Call, sizes: Sequence[int]) -> _Labels:
    labels = reshaped(call)
    counted = [size.labels for size in sizes if isinstance(size, Count)]
    if any(not _same_set(others, labels) for others in counted):
        call.fix(torch.cat([labels.reshape(-1), *counted]), "reshapes by the number of others")
    axes = changing(labels)
    if any(isinstance(size, Count) for axis, size in enumerate(sizes) if axis not in axes):
        call.fix(labels, "reshapes by their number an axis that is not theirs")
    fixed = [axis for axis in axes if not isinstance(sizes[axis], Count) and sizes[axis] != -1]
    if len(axes) - len(fixed) != min(len(axes), 1):
        what = " x ".join(str(call.value.size(axis)) for axis in axes)
        call.fix(
            labels,
            f"reshapes them to {'the fixed size ' if fixed else ''}{what}",
            "write their number as -1 or take it from the shape",
        )
        return zeros(call.value.ndim)
    for axis in fixed:  # so many rows whatever happens: the same place goes from each
        call.ties.tie(labels, labels.narrow(axis, 0, 1))
    return labels


def _same_set(first: Tensor, second: Tensor) -> bool:
    return torch.equal(first.unique(), second.unique())


def concatenated(call: Call) -> _Labels:
    return _joined(call, [call.run.labels(t) for t in call.tensors], [t.shape for t in call.tensors])


def stacked(call: Call) -> _Labels:
    axis = call.arguments.get("dim", 0)
    labels = [call.run.labels(tensor).unsqueeze(axis) for tensor in call.tensors]
    return _joined(call, labels, [tensor.unsqueeze(axis).shape for tensor in call.tensors])


def _joined(call: Call, labels: Iterable[_Labels], shapes: Iterable[Sequence[int]]) -> _Labels:
    axis = call.arguments.get("dim", 0) % call.value.ndim
    parts = []
    for part, shape in zip(labels, shapes, strict=True):
        if part.ndim == call.value.ndim:  # not the empty tensor that cat() passes over
            part = call.ties.first_of_alike(part, axis)
            sizes = list(part.shape)
            sizes[axis] = shape[axis]
            parts.append(part.expand(sizes))
    widest = [max(sizes) for sizes in zip(*(part.shape for part in parts), strict=True)]
    whole = []
    for part in parts:
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
    given = call.arguments["split_size_or_sections"]
    sizes = given if isinstance(given, tuple | list) else [given]
    return _divided(
        call,
        in_step=all(
            isinstance(size, Count) and bool(size.times) and _same_set(size.labels, call.labels)
            for size in sizes
        ),
    )


def _divided(call: Call, *, in_step: bool) -> tuple[_Labels, ...]:
    labels = call.labels
    axis = call.arguments.get("dim", 0) % labels.ndim
    if labels.size(axis) == 1:
        return tuple(labels for _ in call.value)
    sizes = [part.size(axis) for part in call.value]
    sections = labels.split(sizes, axis)
    if in_step and len(set(sizes)) == 1:
        for section in sections[1:]:
            call.ties.tie(section, sections[0])
    else:
        counted = [count.labels for count in call.counts]
        call.fix(torch.cat([labels.reshape(-1), *counted]), "cuts them at fixed places")
        return tuple(zeros(labels.ndim) for _ in call.value)
    return tuple(compact(section) for section in sections)


def unbound(call: Call) -> tuple[_Labels, ...]:
    """The slices along an axis, one by one."""
    axis = call.arguments.get("dim", 0) % call.labels.ndim
    if call.labels.size(axis) > 1:
        call.fix(call.labels, "picks some of them by their place")
        return tuple(zeros(part.ndim) for part in call.value)
    return tuple(call.labels.squeeze(axis) for _ in call.value)


def gated(call: Call) -> _Labels:
    """GLU: the second half gates the first."""
    labels, axis = call.labels, call.arguments.get("dim", -1) % call.labels.ndim
    if labels.size(axis) == 1:
        return labels
    first, second = labels.chunk(2, axis)
    call.ties.tie(first, second)
    return first


def item(call: Call) -> _Labels:
    """Indexing: by place, channels stay; a share of them, from a share of their number to another, keeps in step."""
    labels, index = call.labels, call.arguments["index"]
    parts = list(index) if isinstance(index, tuple) else [index]
    if not all(part is None or part is Ellipsis or _is_plain(part) for part in parts):
        for tensor in call.tensors:
            call.fix(call.run.labels(tensor), "picks some of them by their place")
        return zeros(call.value.ndim)
    named = sum(part is not None and part is not Ellipsis for part in parts)
    if Ellipsis in [part for part in parts if not isinstance(part, Tensor)]:
        place = next(i for i, part in enumerate(parts) if part is Ellipsis)
        parts[place : place + 1] = [slice(None)] * (labels.ndim - named)
    axis, chosen = 0, []
    for part in parts:
        if part is None:
            chosen.append(None)
            continue
        if labels.size(axis) == 1 or not isinstance(part, slice):
            for count in collected(part, [], [])[1]:
                call.fix(count.labels, "computes with their number")
        if labels.size(axis) == 1:
            part = slice(None) if isinstance(part, slice) else 0
        elif not (isinstance(part, slice) and (_is_whole(part) or _in_step(call, part, axis))):
            counts = [count.labels for count in collected(part, [], [])[1]]
            call.fix(torch.cat([labels.reshape(-1), *counts]), "picks some of them by their place")
        chosen.append(part)
        axis += 1
    return compact(labels[tuple(chosen)])


def picked(call: Call) -> object:
    """Picking along an axis by places or by size: channels along another axis pass."""
    labels, axis = call.labels, call.arguments.get("dim", -1) % max(call.labels.ndim, 1)
    if labels.size(axis) > 1:
        call.fix(labels, "picks some of them by their place")
        labels = zeros(labels.ndim)
    if call.arguments.get("index") is not None and isinstance(call.arguments["index"], Tensor):
        call.fix(call.run.labels(call.arguments["index"]), "reads places from them")
    values = [call.value] if isinstance(call.value, Tensor) else call.value
    found = [labels.squeeze(axis) if part.ndim < labels.ndim else labels for part in values]
    return found[0] if isinstance(call.value, Tensor) else tuple(found)


def unpooled(call: Call) -> _Labels:
    """Max unpooling puts each value at the place that its index names, channel by channel."""
    places = call.run.labels(call.arguments["indices"])
    call.ties.tie(call.labels, places)
    return call.labels


def _is_plain(part: object) -> bool:
    return (isinstance(part, int) and not isinstance(part, bool)) or isinstance(part, slice)


def _is_whole(part: slice) -> bool:
    """Whether a slice takes all, and would of any size."""
    return part.start in (None, 0) and part.stop is None and part.step in (None, 1)


def _in_step(call: Call, part: slice, axis: int) -> bool:
    """Tie the sections between shares of the channels, if the slice is bounded by such."""
    labels = call.labels
    bounds = [bound for bound in (part.start, part.stop) if bound is not None and bound != 0]
    if part.step not in (None, 1) or not bounds or changing(labels) != [axis]:
        return False
    own = all(isinstance(b, Count) and b.times and _same_set(b.labels, labels) for b in bounds)
    if not own or any(b.times > 1 for b in bounds):
        return False
    sections = int(np.lcm.reduce([Fraction(b.times).denominator for b in bounds]))
    rows = labels.reshape(sections, -1)
    call.ties.tie(rows, rows[:1])
    return True


def written(call: Call) -> None:
    """Writing into a part of a tensor."""
    for tensor in call.tensors:
        base = getattr(tensor, "_base", None)
        for part in (tensor, *([base] if base is not None else [])):
            call.fix(call.run.labels(part), "writes into a part of a tensor")


def created(call: Call) -> _Labels:
    """A new tensor of sizes: where a size counts channels, every one of them has the same numbers."""
    labels = zeros(call.value.ndim)
    sizes = call.arguments.get("shape", ())
    sizes = sizes if isinstance(sizes, tuple | list) else (sizes,)
    counted = [(axis, size) for axis, size in enumerate(sizes) if isinstance(size, Count)]
    if len(counted) != len(call.counts) or len(counted) > 1:
        raise Unknown("it makes a tensor by their number")
    for axis, size in counted:
        if size.times != 1 or len(size.labels) != size:
            raise Unknown("it makes a tensor of several times their number")
        labels = call.along(axis, size.labels)
    return labels
