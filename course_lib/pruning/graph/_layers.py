"""What layers with weights do to the labels of channels: the first part of the rules."""

import torch
from torch import Tensor, nn

from course_lib.pruning.graph._calls import Call, Unknown, changing, zeros
from course_lib.pruning.graph._counts import Count
from course_lib.pruning.graph.ties import _Labels, _Ties

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def convolution(call: Call) -> _Labels:
    weight, groups, name = *_weight_and_groups(call), _name(call, _CONVOLUTIONS)
    axis = call.value.ndim - weight.ndim + 1  # of the channels, also where the batch axis is missing
    inputs = call.vector(axis, weight.size(1) * groups)
    if groups == len(inputs) and groups > 1:  # depthwise: each input channel has outputs of its own
        outputs = inputs.repeat_interleave(len(weight) // groups)
        return call.along(axis, call.ties.record("follower", name, 0, outputs))
    call.ties.record("consumer", name, 1, inputs.reshape(groups, -1)[0])
    outputs = _outputs(call.ties, name, 0, len(weight))
    if groups > 1:  # every group must lose as many channels as the others: the same places go from each
        for per_group in (inputs.reshape(groups, -1), outputs.reshape(groups, -1)):
            call.ties.tie(per_group, per_group[:1])
    return call.along(axis, outputs)


def transposed_convolution(call: Call) -> _Labels:
    """The weight is [in, out / groups, ...]: one row for each input channel."""
    weight, groups, name = *_weight_and_groups(call), _name(call, _TRANSPOSED)
    axis = call.value.ndim - weight.ndim + 1
    inputs = call.vector(axis, len(weight))
    if groups == len(inputs) and groups > 1:
        if weight.size(1) > 1:
            raise Unknown(f"{name!r} is a depthwise transposed convolution of several outputs a channel")
        return call.along(axis, call.ties.record("follower", name, 0, inputs))
    call.ties.record("consumer", name, 0, inputs)
    outputs = _outputs(call.ties, name, 1, weight.size(1))
    if groups > 1:  # the groups share the columns, so the same places go from each
        per_group = inputs.reshape(groups, -1)
        call.ties.tie(per_group, per_group[:1])
    return call.along(axis, outputs.repeat(groups))


def linear(call: Call) -> _Labels:
    weight, last, name = call.arguments["weight"], call.value.ndim - 1, _name(call, nn.Linear)
    if changing(call.labels) and last not in changing(call.labels):  # they pass, each by itself
        for axis, size in enumerate(weight.shape):
            call.ties.record(
                "producer" if axis == 0 else "consumer",
                name,
                axis,
                torch.zeros(size, dtype=torch.int64, device="cpu"),
            )
        call.ties.left_out[name] = f"other channels pass through{call.run.where()}"
        return call.labels
    call.ties.record("consumer", name, 1, call.vector(last, weight.size(1)))
    return call.along(last, _outputs(call.ties, name, 0, len(weight)))


def embedding(call: Call) -> _Labels:
    weight, name = call.arguments["weight"], _name(call, nn.Embedding)
    if call.arguments.get("max_norm") is not None:
        raise Unknown(f"max_norm of {name!r} rescales its rows by their norm")
    return call.along(call.value.ndim - 1, _outputs(call.ties, name, 1, weight.size(1)))


def batch_norm(call: Call) -> _Labels:
    """Batch norm and instance norm: each channel has statistics of its own."""
    tensors = [call.arguments.get(name) for name in ("weight", "bias", "running_mean", "running_var")]
    vector = call.vector(1, call.value.size(1))
    return call.along(1, _followed_by(call, nn.modules.batchnorm._NormBase, tensors, vector))


def group_norm(call: Call) -> _Labels:
    groups, vector = call.arguments["num_groups"], call.vector(1, call.value.size(1))
    tensors = [call.arguments.get(name) for name in ("weight", "bias")]
    if groups < len(vector):  # otherwise each channel is a group and goes with it
        per_group = vector.reshape(groups, -1)
        call.ties.tie(per_group, per_group[:1])
    elif not isinstance(call.run.module, nn.GroupNorm):
        raise Unknown(f"it has the fixed number of {groups} groups")
    return call.along(1, _followed_by(call, nn.GroupNorm, tensors, vector))


def layer_norm(call: Call) -> _Labels:
    """Layer norm and RMS norm, also where a subclass with axes of its own calls F.layer_norm."""
    shape, labels = call.arguments["normalized_shape"], call.labels
    start, axes = call.value.ndim - len(shape), changing(labels)
    if not axes or max(axes) < start:
        return labels
    if len(axes) > 1:
        raise Unknown("the channels lie along several axes of its input")
    axis = axes[0] - start
    vector, size = call.vector(axes[0], call.value.size(axes[0])), shape[axis]
    tensors = [tensor for name in ("weight", "bias") if (tensor := call.arguments.get(name)) is not None]
    kind = (nn.LayerNorm, nn.RMSNorm)
    if isinstance(call.run.module, kind) or (tensors and isinstance(call.run.owner_layer(tensors[0]), kind)):
        name, _ = call.layer(kind, *tensors)
        call.ties.record("follower", name, axis, vector)
    elif isinstance(size, Count) and size.times == 1:
        _followed_by(call, kind, tensors, vector)
    else:
        raise Unknown(f"it has the fixed shape {list(shape)}, which is not that of an nn.LayerNorm")
    return labels


def prelu(call: Call) -> _Labels:
    weight = call.arguments["weight"]
    if weight.numel() == 1:
        return call.labels
    return call.along(1, _followed_by(call, nn.PReLU, [weight], call.vector(1, len(weight))))


def attention(call: Call) -> tuple[_Labels, ...]:
    """Multi-head attention, where the heads together are as wide as the input: a head goes with its share of that."""
    given = call.arguments
    query, key, value, heads = (given[name] for name in ("query", "key", "value", "num_heads"))
    if given.get("use_separate_proj_weight") or given.get("bias_k") is not None:
        raise Unknown("its inputs have weights of their own, or keys and values are added to them")
    name, _ = call.layer(nn.MultiheadAttention, given["in_proj_weight"], given.get("in_proj_bias"))
    projection, _ = call.layer(nn.Linear, given["out_proj_weight"], given.get("out_proj_bias"))
    ties, width = call.ties, given["in_proj_weight"].size(1)
    inputs, *others = (call.vector(part.ndim - 1, width, part) for part in (query, key, value))
    for other in others:
        ties.tie(inputs, other)
    ties.record("consumer", name, 1, inputs)
    inner = ties.record("follower", name, 0, inputs)
    rows = inner.reshape(heads, -1)
    ties.tie(rows, rows[:, :1])
    ties.record("consumer", projection, 1, inner)
    mask = given.get("attn_mask")
    if mask is not None and mask.ndim == 3:
        call.fix(inner, "has a mask of its own for each of a fixed number of heads")
    outputs = _outputs(ties, projection, 0, len(given["out_proj_weight"]))
    result, weights = call.value
    along_last = outputs.reshape(*[1] * (result.ndim - 1), -1)
    if weights is None:
        return (along_last,)
    if not given.get("average_attn_weights", True):  # [..., heads, L, S]
        return along_last, rows[:, 0].reshape(*[1] * (weights.ndim - 3), -1, 1, 1)
    call.run.averages[id(weights)] = weights, inner
    return along_last, zeros(weights.ndim)


def recurrent(call: Call) -> tuple[_Labels, ...]:
    """LSTM, GRU and RNN: what they read follows, what they hold stays."""
    weights = next(
        call.arguments[name] for name in ("params", "packed") if isinstance(call.arguments[name], list)
    )
    name, _ = call.layer(nn.RNNBase, weights[0])
    return _read_by_recurrent(call, name, weights)


def recurrent_cell(call: Call) -> object:
    weight = call.arguments["weight_ih"]
    name, _ = call.layer(nn.RNNCellBase, weight)
    return _read_by_recurrent(call, name, [weight])


def _read_by_recurrent(call: Call, name: str, weights: list[Tensor]) -> object:
    vector = call.vector(call.input.ndim - 1, weights[0].size(1))
    call.ties.record("consumer", name, 1, vector)
    for tensor in call.tensors:
        if tensor is not call.input and call.run.owner_layer(tensor) is None:  # its state
            call.fix(call.run.labels(tensor), "has a state of fixed size")
    if isinstance(call.value, Tensor):
        return zeros(call.value.ndim)
    return tuple(zeros(part.ndim) for part in call.value)


def _weight_and_groups(call: Call) -> tuple[Tensor, int]:
    groups = call.arguments.get("groups", 1)
    weight = call.arguments["weight"]
    if groups > 1 and call.run.owner_layer(weight) is not call.run.module:
        raise Unknown(f"it is called by itself with the fixed number of {groups} groups")
    return weight, groups


def _name(call: Call, kind: type | tuple[type, ...]) -> str:
    return call.layer(kind, call.arguments["weight"], call.arguments.get("bias"))[0]


def _outputs(ties: _Ties, name: str, axis: int, count: int) -> Tensor:
    """New labels for the outputs of a layer; those it already has if it is called a second time."""
    if (name, axis) in ties.axes:
        return ties.axes[name, axis][1]
    return ties.record("producer", name, axis, ties.fresh(count))


def _followed_by(
    call: Call, kind: type | tuple[type, ...], tensors: list[Tensor | None], vector: Tensor
) -> Tensor:
    """There is a number for each of these channels: of a layer, or in parameters that stand by themselves."""
    tensors = [tensor for tensor in tensors if tensor is not None]
    if isinstance(call.run.module, kind) or (tensors and isinstance(call.run.owner_layer(tensors[0]), kind)):
        return call.ties.record("follower", call.layer(kind, *tensors)[0], 0, vector)
    for tensor in tensors:
        call.ties.tie(vector, call.run.labels(tensor).reshape(-1))
    return vector
