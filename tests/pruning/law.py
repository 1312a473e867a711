"""The law of channel removal, judged from two networks alone: the whole one and what is left of it.

Which channels went is read off from the weights, whose values are all different. Then the whole network runs with NaN
in place of every removed channel, where a layer makes it. NaN goes through element-wise operations, pooling and
batch norm as PyTorch lets it; whatever sums over channels (a convolution, a linear layer, a product of matrices) reads
it as zero; layer, group and RMS norm take their statistics over the channels that stay. What comes out has to be what
the smaller network computes. No group of channels that the library finds is asked what is right.
"""

import copy
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from course_lib.pruning import follow
from course_lib.pruning.surgery import remove_channels

LARGE = 40_000_000  # parameters from which on there is one copy less, and no run in train mode
Lost = dict[str, dict[int, list[int]]]  # tensor: axis: the indices that went


@dataclass
class Verdict:
    """What came of pruning one network.

    Attributes:
        status: lawful, wrong, refused or nothing (there is no channel to prune).
        detail: the reason.
        groups: how many groups have channels to spare.
        share: of the rows of all weights, what was removed.
        effect: how far the output moved, relative to its size: at 0 the check says nothing.
        fixed: what the library says of the layers that it leaves alone.
    """

    status: str
    detail: str = ""
    groups: int = 0
    share: float = 0.0
    effect: float = 0.0
    fixed: dict[str, str] = field(default_factory=dict)


class Wrong(Exception):
    """The law is broken; the message says how."""


def check_law(model: nn.Module, example: object, seed: int = 0) -> Verdict:
    """Prune a third of the units of random groups, and judge what is left. The model gets new weights."""
    torch.manual_seed(seed)
    enliven(model, example)
    before, expected = snapshot(model), None
    if parameters(model) < LARGE:
        expected = run(copy.deepcopy(model), example)
    status = Verdict("lawful")
    try:
        _prune_and_judge(model, example, seed, before, expected, status)
    except Wrong as error:
        status.status, status.detail = "wrong", str(error)
    return status


def _prune_and_judge(
    model: nn.Module, example: object, seed: int, before: dict, expected: list[Tensor] | None, status: Verdict
) -> None:
    try:
        channels = follow(model, example)
    except (ValueError, TypeError) as error:
        status.status, status.detail = "refused", str(error)
        _same(before, snapshot(model), "follow, which refused it")
        return
    except Exception as error:
        raise Wrong(f"follow fails with {_short(error)}") from error
    _same(before, snapshot(model), "follow")
    status.fixed = dict(channels.fixed)
    status.groups = sum(group.size > 1 for group in channels.groups)
    plan = random_plan(channels.groups, np.random.default_rng(seed))
    if not plan:
        status.status, status.detail = "nothing", "no group has a channel to spare"
        return
    try:
        small = remove_channels(model, example, plan)
    except Exception as error:
        raise Wrong(f"a plan made from its own groups raises {_short(error)}") from error
    _same(before, snapshot(model), "remove_channels")
    if expected is not None:
        _equal(run(model, example), expected, "the whole network computes something else after it was pruned")
    _asked_channels_went(model, small, plan)
    status.share, status.effect = judge(model, small, example)


def random_plan(groups: list, rng: np.random.Generator) -> dict[str, list[int]]:
    """A third of the units of most groups, each group named at one of its producers alone."""
    plan: dict[str, list[int]] = {}
    groups = [group for group in groups if group.size > 1 and group.producers]
    chosen = [group for group in groups if rng.random() < 0.8] or groups
    for group in chosen:
        producer = group.producers[rng.integers(len(group.producers))]
        own = sorted({unit for unit in producer.units.tolist() if unit >= 0})
        gone = set(rng.permutation(own)[: max(1, len(own) // 3)].tolist())
        for axis in group.axes:  # a layer that makes some of the channels alone keeps at least one
            units = set(axis.units.tolist())
            if units <= gone:
                gone.discard(max(units))
        if gone:
            there = group.channels(torch.tensor(sorted(gone)))[producer.layer]
            plan.setdefault(producer.layer, []).extend(there.tolist())
    return plan


def judge(whole: nn.Module, small: nn.Module, example: object) -> tuple[float, float]:
    """Whether the small network is lawful: the share of rows that went, and the effect on the output.

    Raises:
        Wrong: it is not.
    """
    if [type(m) for m in whole.modules()] != [type(m) for m in small.modules()]:
        raise Wrong("the pruned network is made of other classes")
    lost = lost_channels(whole, small)
    weights = _Weights(whole)
    with weights:
        full = run(whole, example)
    rows = weights.axes
    tensors = _tensors(whole)
    total = sum(tensors[name].shape[axis] for name, axes in rows.items() for axis in axes)
    gone = sum(len(lost.get(name, {}).get(axis, [])) for name, axes in rows.items() for axis in axes)
    try:
        found = run(small, example)
    except Exception as error:
        raise Wrong(f"the pruned network crashes: {_short(error)}") from error
    with _silenced(whole, lost, rows), _ReadNothing():
        reference = run(whole, example)
    if any(tensor.isnan().any() for tensor in reference):
        raise Wrong("removed channels reach the output of the network")
    _equal(
        found,
        reference,
        "the pruned network computes something else than the whole one without these channels",
    )
    scale = max((_size(tensor) for tensor in full), default=1.0)
    effect = max((_size(a - b) for a, b in zip(full, reference, strict=True)), default=0.0) / (scale or 1.0)
    if parameters(whole) < LARGE:
        _trains(whole, small, example)
    return gone / max(1, total), effect


# ---------------------------------------------------------------- running


def run(model: nn.Module, example: object) -> list[Tensor]:
    """All tensors that the network gives for an example: a tensor, a tuple of them or a dict."""
    mode = [module.training for module in model.modules()]
    model.eval()
    torch.manual_seed(0)
    with torch.no_grad():
        output = call(model, example)
    for module, training in zip(model.modules(), mode, strict=True):
        module.training = training
    return [leaf.detach().clone() for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def call(model: nn.Module, example: object) -> object:
    if isinstance(example, dict):
        return model(**example)
    return model(*example) if isinstance(example, tuple) else model(example)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _trains(whole: nn.Module, small: nn.Module, example: object) -> None:
    """Where the whole network runs backward in train mode, the small one does, with the same gradients there."""
    try:
        reached = _gradients(copy.deepcopy(whole), example)
    except Exception:
        return  # one image and batch norm, or a layer with no train mode
    try:
        found = _gradients(copy.deepcopy(small), example)
    except Exception as error:
        raise Wrong(f"the pruned network cannot be trained: {_short(error)}") from error
    if found != reached:
        raise Wrong(f"gradients reach other parameters than before: {sorted(found ^ reached)[:3]}")


def _gradients(model: nn.Module, example: object) -> set[str]:
    model.train()
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = None
    output = [leaf for leaf in tree_leaves(call(model, _twice(example))) if isinstance(leaf, Tensor)]
    sum(leaf.square().sum() for leaf in output if leaf.requires_grad).backward()
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None}


def _twice(example: object) -> object:
    """Two images for one, so that batch norm has something to average."""
    if isinstance(example, Tensor):
        return example if example.shape[0] > 1 else torch.cat([example, example])
    if isinstance(example, dict):
        return {key: _twice(value) for key, value in example.items()}
    if isinstance(example, tuple):
        return tuple(map(_twice, example))
    return example


def _equal(found: list[Tensor], wanted: list[Tensor], claim: str) -> None:
    if [tensor.shape for tensor in found] != [tensor.shape for tensor in wanted]:
        shapes = [[list(t.shape) for t in side][:4] for side in (found, wanted)]
        raise Wrong(f"{claim}: shapes {shapes[0]} for {shapes[1]}")
    for one, other in zip(found, wanted, strict=True):
        if not one.is_floating_point():
            continue  # an index of the largest, say
        if not one.isfinite().all() and other.isfinite().all():
            raise Wrong(f"{claim}: not finite")
        tolerance = 1e-7 if one.dtype == torch.float64 else 5e-3
        apart = _size(one - other) / (_size(other) or 1.0)
        if apart > tolerance:
            raise Wrong(f"{claim}: apart by {apart:.1e} of its size")


def _size(tensor: Tensor) -> float:
    return tensor.double().abs().max().item() if tensor.numel() else 0.0


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


# ---------------------------------------------------------------- the network before and after


def snapshot(model: nn.Module) -> dict[str, object]:
    """All that a network holds, by identity and by value: parameters, buffers, hooks, modes, settings, containers."""
    found: dict[str, object] = {}

    def look(path: str, value: object, depth: int = 0) -> None:
        if isinstance(value, Tensor):
            found[path] = (id(value), type(value), value.requires_grad, tuple(value.shape), _digest(value))
            if value.is_leaf and value.grad is not None:
                look(f"{path}.grad", value.grad)
        elif isinstance(value, nn.Module):
            found[path] = id(value)
        elif isinstance(value, dict) and depth < 6:
            found[path] = (
                id(value),
                type(value),
                [key if isinstance(key, str) else id(key) for key in value],
            )
            for key, entry in value.items():
                look(f"{path}[{key!r}]", entry, depth + 1)
        elif isinstance(value, list | tuple) and depth < 6:
            found[path] = (id(value), type(value), len(value))
            for place, entry in enumerate(value):
                look(f"{path}[{place}]", entry, depth + 1)
        elif value is None or isinstance(value, bool | int | float | str | bytes | set):
            found[path] = repr(value)
        else:
            found[path] = id(value)

    for name, module in model.named_modules():
        found[f"type of {name!r}"] = type(module)
        for key, value in vars(module).items():
            look(f"{name}.{key}", value)
    return found


def _digest(tensor: Tensor) -> int:
    if tensor.is_meta or tensor.layout != torch.strided or tensor.dtype == torch.bfloat16:
        return 0
    return zlib.crc32(tensor.detach().cpu().contiguous().numpy().data)


def _same(before: dict, after: dict, cause: str) -> None:
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    if changed:
        raise Wrong(f"model changed by {cause}: {', '.join(changed[:3])}")


def enliven(model: nn.Module, example: object) -> None:
    """Random values, all different, in every parameter and statistic, such that signals are of order 1."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.numel():
                _scatter(parameter)
        for layer in model.modules():
            if getattr(layer, "running_var", None) is not None:
                layer.running_var.uniform_(0.5, 1.5)
                layer.running_mean.uniform_(-0.5, 0.5)
    twin = (
        copy.deepcopy(model) if parameters(model) < LARGE else model
    )  # what it keeps in its forward() stays out
    with _Rescale(twin):
        run(twin, example)
    if twin is not model:
        with torch.no_grad():
            for one, other in zip(model.parameters(), twin.parameters(), strict=True):
                one.copy_(other)


def _scatter(parameter: Tensor) -> None:
    flat = parameter.reshape(-1)
    some = flat[:100_000]
    if len(some.unique()) == len(some) and len(flat) > 1:
        if parameter.dtype == torch.float64:  # what was drawn in float32 has doubles
            parameter.add_(torch.randn_like(parameter) * 1e-3 * parameter.std())
    elif parameter.ndim > 1 and min(parameter.shape[:2]) > 1:
        parameter.normal_(0, 0.1)
    else:
        parameter.uniform_(0.5, 1.5)


class _Rescale(TorchFunctionMode):
    """Divides each weight by the size of what it first computes."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.todo = {id(parameter) for parameter in model.parameters()}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        if func.__name__ in _WEIGHTED and len(args) > 1 and id(args[1]) in self.todo:
            self.todo.discard(id(args[1]))
            size = output.std().clamp_min(1e-3)
            bias = args[2] if len(args) > 2 else (kwargs or {}).get("bias")
            for tensor in (args[1], bias):
                if tensor is not None and tensor.is_leaf:
                    tensor /= size
            output = output / size
        return output


# ---------------------------------------------------------------- what went


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(
        [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    )


def lost_channels(whole: nn.Module, small: nn.Module) -> Lost:
    """Which indices of each axis of each tensor went, found by their values."""
    ours, theirs = _tensors(whole), _tensors(small)
    if ours.keys() != theirs.keys():
        raise Wrong(f"the pruned network has other tensors: {sorted(ours.keys() ^ theirs.keys())[:3]}")
    lost: Lost = {}
    for name, tensor in ours.items():
        left = theirs[name]
        if tensor.ndim != left.ndim:
            raise Wrong(f"{name} has shape {list(left.shape)} after {list(tensor.shape)}")
        if tensor.shape == left.shape:
            if not torch.equal(tensor, left):
                raise Wrong(f"values of {name} changed")
        elif tensor.is_floating_point() and _told_apart(tensor):
            kept = _kept(tensor.detach(), left.detach())
            if kept is None:
                raise Wrong(f"what is left of {name} are not rows and columns of it")
            lost[name] = {
                axis: sorted(set(range(tensor.shape[axis])) - set(indices))
                for axis, indices in enumerate(kept)
                if len(indices) < tensor.shape[axis]
            }
    return lost


def _told_apart(tensor: Tensor) -> bool:
    some = tensor.detach().reshape(-1)[:100_000]
    return len(some.unique()) > 0.98 * len(some)


def _kept(whole: Tensor, small: Tensor) -> list[list[int]] | None:
    """Increasing indices of each axis with whole[indices] == small, or None."""
    if not small.numel():
        return None
    corner = small[(0,) * small.ndim]
    for base in (whole == corner).nonzero().tolist():
        kept = []
        for axis in range(whole.ndim):
            place = [0] * whole.ndim
            line = small[(*place[:axis], slice(None), *place[axis + 1 :])].tolist()
            among = whole[(*base[:axis], slice(None), *base[axis + 1 :])].tolist()
            indices, start = [], 0
            for value in line:
                if value not in among[start:]:
                    break
                indices.append(among.index(value, start))
                start = indices[-1] + 1
            kept.append(indices)
        if [len(indices) for indices in kept] == list(small.shape) and torch.equal(_grid(whole, kept), small):
            return kept
    return None


def _grid(tensor: Tensor, kept: list[list[int]]) -> Tensor:
    for axis, indices in enumerate(kept):
        if len(indices) < tensor.shape[axis]:
            tensor = tensor.index_select(axis, torch.tensor(indices))
    return tensor


def _asked_channels_went(whole: nn.Module, small: nn.Module, plan: dict[str, list[int]]) -> None:
    """What the plan names is gone, where the layer has a weight of its own that says so."""
    lost, modules = lost_channels(whole, small), dict(whole.named_modules())
    for layer, indices in plan.items():
        axis = _row_axis(modules.get(layer))
        rows = lost.get(f"{layer}.weight", {}).get(axis, [])
        plain = axis == 0 or getattr(modules.get(layer), "groups", 1) == 1
        readable = axis is not None and plain and f"{layer}.weight" in dict(whole.named_parameters())
        if readable and not set(indices) <= set(rows):
            raise Wrong(f"channels {sorted(set(indices) - set(rows))[:5]} of {layer!r} should be gone")


def _row_axis(module: nn.Module | None) -> int | None:
    """The axis of a layer's weight along which its outputs lie."""
    if isinstance(module, nn.modules.conv._ConvTransposeNd | nn.Embedding | nn.EmbeddingBag):
        return 1
    return (
        0
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear | nn.MultiheadAttention | nn.RNNBase)
        else None
    )


class _Weights(TorchFunctionMode):
    """Notes which tensors serve as weights, and along which axes their outputs lie."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.names: dict[int, list[str]] = {}
        for name, tensor in _tensors(model).items():
            self.names.setdefault(id(tensor), []).append(name)
        self.axes: dict[str, set[int]] = {}
        for (
            prefix,
            module,
        ) in model.named_modules():  # a weight that is computed from others hides behind its layer
            axis = _row_axis(module)
            for name, tensor in _tensors(module).items() if axis is not None else ():
                if tensor.ndim > 1:
                    self.axes.setdefault(f"{prefix}.{name}" if prefix else name, {axis})

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func.__name__ in _WEIGHTED or func.__name__ == "embedding":
            weight = args[1] if len(args) > 1 else (kwargs or {}).get("weight")
            axis = 1 if "transpose" in func.__name__ or func.__name__ == "embedding" else 0
            for name in self.names.get(id(weight), ()):  # an embedding may share its weight with a last layer
                self.axes.setdefault(name, set()).add(axis)
        return func(*args, **(kwargs or {}))


@contextmanager
def _silenced(model: nn.Module, lost: Lost, rows: dict[str, set[int]]) -> Iterator[None]:
    """NaN for what went: the rows of a weight, which make a channel; every entry of any other tensor.

    The columns of a weight keep their values: that the right ones went is what the reading of zeros has to show.
    """
    tensors, before = _tensors(model), []
    with torch.no_grad():
        for name, axes in lost.items():
            for axis, indices in axes.items():
                if axis in rows.get(name, {axis}) and tensors[name].is_floating_point():
                    places = torch.tensor(indices)
                    before.append((tensors[name], axis, places, tensors[name].index_select(axis, places)))
                    tensors[name].index_fill_(axis, places, math.nan)
        try:
            yield
        finally:
            for tensor, axis, places, values in reversed(before):
                tensor.index_copy_(axis, places, values)


# ---------------------------------------------------------------- reading NaN as zero


class _ReadNothing(TorchFunctionMode):
    """Lets what sums over channels read NaN as zero, and norms pass over it."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        rule = _READERS.get(func.__name__)
        if rule is None or not any(_has_nan(leaf) for leaf in tree_leaves((args, kwargs))):
            return func(*args, **kwargs)
        return rule(func, *args, **kwargs)


def _has_nan(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point() and bool(leaf.isnan().any())


def _zeros(value: object) -> object:
    return value.nan_to_num(0.0, math.inf, -math.inf) if _has_nan(value) else value


def _there(value: object) -> object:
    return (
        (~value.isnan()).to(value.dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
    )


def _each(function, values: object) -> object:
    return (
        type(values)(_each(function, v) for v in values)
        if isinstance(values, list | tuple)
        else function(values)
    )


def _sum(func, *args, **kwargs):
    """A sum of terms, or of products: NaN where no term is there, else over those that are."""
    terms = func(*_each(_there, args), **kwargs)
    return func(*_each(_zeros, args), **kwargs).masked_fill(terms == 0, math.nan)


def _linear(func, input, weight, bias=None):
    return _sum(func, input, weight) + (0 if bias is None else bias)


def _addmm(func, input, one, other, *, beta=1, alpha=1):
    return beta * input + alpha * _sum(torch.matmul, one, other)


def _conv(func, input, weight, bias=None, *rest, **options):
    transposed = "transpose" in func.__name__
    groups = options.get("groups", rest[3] if len(rest) > 3 else 1)
    dims = int(func.__name__[-2])
    lone = input.ndim == dims + 1
    images = input.unsqueeze(0) if lone else input
    zero_bias = None if bias is None else _zeros(bias)
    output = func(_zeros(images), _zeros(weight), zero_bias, *rest, **options)
    parts = output.unflatten(1, (groups, -1))
    # A group with no channel left to read makes none.
    idle = images.isnan().flatten(2).all(2).unflatten(1, (groups, -1)).all(2)
    if transposed:
        gone = weight.isnan().unflatten(0, (groups, -1)).flatten(3).all(3).all(1)
    else:
        gone = weight.isnan().flatten(1).all(1).unflatten(0, (groups, -1))
    if bias is not None:
        gone = gone | bias.isnan().unflatten(0, (groups, -1))
    nothing = idle[:, :, None] | gone[None]
    output = parts.masked_fill(nothing.reshape(*nothing.shape, *[1] * dims), math.nan).flatten(1, 2)
    return output[0] if lone else output


def _recurrent(func, input, *rest, **kwargs):
    return func(_zeros(input), *_each(_zeros, rest), **kwargs)


def _attention(
    func, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **options
):
    scores = _sum(torch.matmul, query, key.mT) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).tril().logical_not()
        scores = scores.masked_fill(hidden, -math.inf)
    if attn_mask is not None:
        scores = (
            scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        )
    return _sum(torch.matmul, scores.softmax(-1), value)


def _multi_head(
    func, query, key, value, embed_dim, heads, in_weight, in_bias, bias_k, bias_v, zero, dropout, out_weight, out_bias,
    **options,
):  # fmt: skip
    """`F.multi_head_attention_forward` from products that read NaN as zero; [L, N, E] in and out."""
    if options.get("use_separate_proj_weight"):
        weights = [options[f"{which}_proj_weight"] for which in "qkv"]
    else:
        weights = in_weight.chunk(3)
    biases = [None] * 3 if in_bias is None else in_bias.chunk(3)
    single = query.ndim == 2
    parts = []
    for part, weight, bias in zip((query, key, value), weights, biases, strict=True):
        part = _linear(F.linear, part.unsqueeze(1) if single else part, weight, bias)
        parts.append(part.unflatten(2, (heads, -1)).permute(1, 2, 0, 3))
    mask = options.get("attn_mask")
    padding = options.get("key_padding_mask")
    scores = _sum(torch.matmul, parts[0], parts[1].mT) * parts[0].shape[-1] ** -0.5
    for hidden in (mask, None if padding is None else padding[:, None, None]):
        if hidden is not None:
            bool_ = hidden.dtype == torch.bool
            scores = scores.masked_fill(hidden, -math.inf) if bool_ else scores + hidden
    chances = scores.softmax(-1)
    mixed = _sum(torch.matmul, chances, parts[2]).permute(2, 0, 1, 3).flatten(2)
    output = _linear(F.linear, mixed, out_weight, out_bias)
    if single:
        output, chances = output.squeeze(1), chances.squeeze(0)
    if not options.get("need_weights", True):
        return output, None
    heads_axis = 0 if single else 1
    if options.get("average_attn_weights", True):
        chances = _sum(torch.sum, chances, heads_axis) / chances.shape[heads_axis]
    return output, chances


def _normal(x: Tensor, axes: tuple[int, ...], eps: float, centred: bool = True) -> Tensor:
    """Mean 0 and deviation 1 over what is not NaN."""
    there = _there(x)
    count = there.sum(axes, keepdim=True)
    mean = _zeros(x).sum(axes, keepdim=True) / count if centred else 0.0
    square = (((_zeros(x) - mean) * there) ** 2).sum(axes, keepdim=True) / count
    return (x - mean) / (square + eps).sqrt()


def _layer_norm(func, input, normalized_shape, weight=None, bias=None, eps=1e-5, *rest, **options):
    output = _normal(input, tuple(range(-len(normalized_shape), 0)), eps)
    output = output if weight is None else output * weight
    return output if bias is None else output + bias


def _rms_norm(func, input, normalized_shape, weight=None, eps=None):
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    output = _normal(input, tuple(range(-len(normalized_shape), 0)), eps, centred=False)
    return output if weight is None else output * weight


def _group_norm(func, input, num_groups, weight=None, bias=None, eps=1e-5, *rest):
    parts = input.unflatten(1, (num_groups, -1))
    output = _normal(parts, tuple(range(2, parts.ndim)), eps).flatten(1, 2)
    shape = (-1, *[1] * (input.ndim - 2))
    output = output if weight is None else output * weight.reshape(shape)
    return output if bias is None else output + bias.reshape(shape)


def _normalize(func, input, p=2.0, dim=1, eps=1e-12, out=None):
    return input / _zeros(input).norm(p, dim, keepdim=True).clamp_min(eps).expand_as(input)


_CONVS = [f"conv{t}{d}d" for t in ("", "_transpose") for d in (1, 2, 3)]
_WEIGHTED = {*_CONVS, "linear"}
_READERS = {
    **dict.fromkeys(_CONVS, _conv),
    **dict.fromkeys(("matmul", "__matmul__", "bmm", "mm", "mv", "einsum", "tensordot", "sum"), _sum),
    **dict.fromkeys(("norm", "vector_norm", "linalg_vector_norm", "linalg_norm"), _sum),
    **dict.fromkeys(("addmm", "baddbmm"), _addmm),
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent),
    "linear": _linear,
    "scaled_dot_product_attention": _attention,
    "multi_head_attention_forward": _multi_head,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "normalize": _normalize,
}
