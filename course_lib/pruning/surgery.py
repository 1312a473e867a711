"""Remove channels from a network: what is left is a plain, smaller network."""

import copy
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor, nn

from course_lib import tracing
from course_lib.pruning._checks import _check_removable
from course_lib.pruning.graph import ChannelGroup, Channels, LayerAxis
from course_lib.pruning.graph._calls import tensors_in
from course_lib.pruning.graph.follow import _known
from course_lib.pruning.graph.ties import _named_tensors, _places, _tensors_along
from course_lib.tracing import Example
from course_lib.validation import described, unknown_name

_Plan = Mapping[str, Sequence[int] | Tensor]
_PLAIN = (type(None), bool, int, float, str)  # values of which a copy is the same
_Cuts = Mapping[tuple[str, int], Bool[np.ndarray, "length"]]


def remove_channels(model: nn.Module, example: Example | Channels, plan: _Plan) -> nn.Module:
    r"""Remove output channels and all that only serves them; return a smaller copy of the network.

    With a channel go its row in the layer that computes it, its bias, its entries in batch norms and the like, its
    column in every layer that reads it, and the channels that are tied to it (see `graph.channel_groups`). In eval mode
    the smaller network computes what the whole one does with the columns of the removed channels set to zero in every
    layer that reads them, to float tolerance:

    .. math:: f_{pruned}(x) = f_{zeroed}(x)

    The one exception: layer norm and group norm compute their statistics over the channels that are left.

    Args:
        model: network; it is left as it was.
        example: input [N, ...] of the dtype and on the device that the model runs on; or the channels of the model,
            as `graph.follow` gives them, which then need not be followed again.
        plan: for each named layer (convolution, linear, or a normalisation that follows one) the output channels that
            go, as integers in [0, channels). An empty list removes nothing.

    Returns:
        A new network of the same classes, with the mode, device, dtype and requires_grad of the old one. Its parameters
        are new: make a new optimizer before training it. Gradients are not copied.

    Raises:
        TypeError: indices that are not integers; or as `channel_groups`.
        KeyError: an unknown layer; the message lists the nearest names.
        ValueError: an index out of range or given twice; a channel that cannot go, with the reason; every channel of a
            group; or as `channel_groups`.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
        >>> small = remove_channels(model, torch.rand(1, 1, 8, 8), {"0": [1, 2, 3]})
        >>> small[0].weight.shape, small[2].weight.shape
        (torch.Size([1, 1, 3, 3]), torch.Size([2, 1, 3, 3]))

    References:
        Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, section 3.
    """
    cuts = _cuts(model, example, plan)
    with tracing.alone():  # another thread that follows the model changes its mode for so long
        smaller = _cut_copy(model, cuts)
    modules = dict(smaller.named_modules())
    for (name, axis), removed in cuts.items():
        if name in modules:
            _set_sizes(modules[name], axis, len(removed) - int(removed.sum()))
    return smaller


def _cut_copy(model: nn.Module, cuts: _Cuts) -> nn.Module:
    """A copy of a network with smaller tensors; the numbers that layers keep about themselves are the old ones."""
    modules = dict(model.named_modules())
    tensors = _named_tensors(modules)
    # deepcopy takes from `memo` what has been copied before: the smaller tensors enter instead of full-size copies.
    memo: dict[int, Tensor | nn.Module] = {}
    done: set[tuple[int, int]] = set()

    def shorten(tensor: Tensor | None, axis: int, keep: np.ndarray, places: Tensor) -> None:
        if tensor is None or (id(tensor), axis) in done:  # layers may share a parameter
            return
        done.add((id(tensor), axis))
        if tensor.size(axis) != len(keep):
            places = _places(keep, tensor.size(axis))
        shorter = memo.get(id(tensor), tensor).detach().index_select(axis, places.to(tensor.device))
        if not tensor.is_contiguous() and tensor.ndim == 4:
            shorter = shorter.contiguous(memory_format=torch.channels_last)  # index_select forgets it
        if isinstance(tensor, nn.Parameter):
            shorter = nn.Parameter(shorter, requires_grad=tensor.requires_grad)
        memo[id(tensor)] = shorter

    # Rows first: whole rows are copied quickly, and then fewer of them have columns to be cut.
    for (name, axis), removed in sorted(cuts.items(), key=lambda cut: cut[0][1]):
        along = _tensors_along(modules[name], axis) if name in modules else [(tensors[name], axis)]
        keep, places = ~removed, _places(~removed, len(removed))
        for tensor, its_axis in along:
            shorten(tensor, its_axis, keep, places)
    for tensor in _tensors_held(modules.values()):
        memo.setdefault(id(tensor), tensor.detach().clone())  # deepcopy refuses those with a history
    # Inner layers first, so that those around them find them in `memo`.
    for layer in reversed(modules.values()):
        if id(layer) not in memo and _is_copied_by_its_attributes(type(layer)):
            _copied(layer, memo)
    return copy.deepcopy(model, memo)


def _tensors_held(layers: Iterable[nn.Module]) -> list[Tensor]:
    """Results of earlier calls that modules keep, as in a cache."""
    values = [value for layer in layers for name, value in vars(layer).items() if name not in tracing.OF_ALL]
    return [tensor for tensor in tensors_in(values) if tensor.grad_fn is not None]


def _is_copied_by_its_attributes(kind: type) -> bool:
    """Whether deepcopy would copy the attributes of a module of this class, and do nothing else."""
    own = [base for base in kind.__mro__ if not base.__module__.startswith("torch.nn.modules.")]
    special = ("__deepcopy__", "__reduce_ex__", "__reduce__", "__getstate__", "__setstate__")
    return not issubclass(kind, nn.RNNBase) and not any(
        name in vars(base) for base in own if base is not object for name in special
    )


def _copied(layer: nn.Module, memo: dict[int, Tensor | nn.Module]) -> nn.Module:
    """A deep copy of a module, sooner than deepcopy's: most attributes are numbers or empty."""
    clone = memo[id(layer)] = type(layer).__new__(type(layer))
    attributes = vars(clone)
    for name, value in vars(layer).items():
        kind = type(value)
        if kind in _PLAIN or (kind is tuple and all(type(part) in _PLAIN for part in value)):
            attributes[name] = value
        elif kind in (dict, OrderedDict, set) and not value:  # hooks that there are not
            attributes[name] = kind()
        elif name in ("_parameters", "_buffers", "_modules"):
            attributes[name] = {
                key: memo[id(part)] if id(part) in memo else _copied_part(part, memo)
                for key, part in value.items()
            }
        else:
            attributes[name] = copy.deepcopy(value, memo)
    return clone


def _copied_part(part: object, memo: dict) -> object:
    """A deep copy of a parameter, buffer or module; of a number in a buffer, as batch norms have one, quickly."""
    alone = type(part) is Tensor and part.ndim == 0 and not part.requires_grad and not vars(part)
    if alone and part.untyped_storage().nbytes() == part.element_size():
        memo[id(part)] = part.clone()
        return memo[id(part)]
    return copy.deepcopy(part, memo)


def channel_masks(
    model: nn.Module, example: Example | Channels, plan: _Plan
) -> dict[str, Bool[Tensor, "..."]]:
    """Make masks that silence channels instead of removing them: False for every parameter that makes their output.

    These are the rows of the layers that compute the channels, their biases, and the entries of the batch norms and
    other layers that follow: a batch norm that keeps its beta would go on speaking for a filter of zeros. With ReLU
    and batch norm the masked network computes what `remove_channels` leaves.

    Args:
        model, example, plan: as in `remove_channels`.

    Returns:
        For each parameter concerned a bool mask of its shape, False where the channels are.

    Raises:
        TypeError, KeyError, ValueError: as `remove_channels`; and ValueError where a normalisation without parameters
            follows.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 3))
        >>> masks = channel_masks(model, torch.rand(1, 1, 8, 8), {"0": [1]})
        >>> {name: mask.flatten(1).all(1).tolist() for name, mask in masks.items() if name == "0.weight"}
        {'0.weight': [True, False, True]}
        >>> list(masks)
        ['0.weight', '0.bias', '1.weight', '1.bias']
    """
    cuts = _cuts(model, example, plan, consumers=False)
    with tracing.alone():  # while another thread traces the model, its parameters are proxies
        return _masks(model, cuts)


def _masks(model: nn.Module, cuts: _Cuts) -> dict[str, Tensor]:
    masks: dict[str, Tensor] = {}
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    names = {id(parameter): name for name, parameter in parameters.items()}
    for (layer, axis), removed in cuts.items():
        if layer in modules and _speaks_always(modules[layer]):
            raise ValueError(
                f"no mask can silence channels behind {layer!r}: it is a {type(modules[layer]).__name__} without gamma "
                "and beta, which shifts zeros to another value. Use remove_channels, or a norm with affine=True."
            )
        tensors = (
            _tensors_along(modules[layer], axis) if layer in modules else [(parameters.get(layer), axis)]
        )
        for tensor, its_axis in tensors:
            if id(tensor) not in names:
                continue  # no bias, or a buffer
            mask = masks.setdefault(names[id(tensor)], torch.ones_like(tensor, dtype=torch.bool))
            mask.index_fill_(its_axis, _places(removed, tensor.size(its_axis)).to(mask.device), False)
    return masks


def _cuts(model: nn.Module, example: Example | Channels, plan: _Plan, consumers: bool = True) -> _Cuts:
    """For each axis of each layer concerned, which indices go."""
    groups, fixed = _known(model, example)
    modules = dict(model.named_modules())
    outputs: dict[str, list[tuple[int, LayerAxis]]] = {}
    for number, group in enumerate(groups):
        for axis in group.producers + group.followers:
            outputs.setdefault(axis.layer, []).append((number, axis))
    if not isinstance(plan, Mapping):
        raise TypeError(
            f"plan is {described(plan)}; it must map layer names to indices of channels. Pass one such as "
            "{'0': [1, 2]}, or that of filter_plan."
        )
    # One more than there are units, which stays False: it is what the unit -1 finds.
    gone = [np.zeros(group.size + 1, bool) for group in groups]
    asked: dict[int, str] = {}
    for layer, indices in plan.items():
        if layer not in outputs:
            if not outputs:
                _check_removable(groups, fixed)
            _explain(layer, modules, outputs, fixed)
        length = len(outputs[layer][0][1].units)
        chosen = _check_indices(indices, layer, length)
        free = np.zeros(length, bool)
        for number, axis in outputs[layer]:
            known = axis.units.numpy()
            units = known[chosen]
            gone[number][units[units >= 0]] = True
            free |= known >= 0
            if (units >= 0).any():
                asked[number] = layer
        if not free[chosen].all():
            stuck = chosen[~free[chosen]].tolist()
            raise ValueError(
                f"channels {stuck[:5]} of {layer!r} cannot be removed: {fixed[layer]}. Leave them out of the plan."
            )
    cuts: dict[tuple[str, int], np.ndarray] = {}
    for number, layer in asked.items():
        group = groups[number]
        if gone[number][:-1].all():
            tied = " (some are tied to others)" if _is_tied(group) else ""
            raise ValueError(
                f"the plan removes every channel of {layer!r}{tied}; at least one must stay. "
                f"Its channels go in {group.size} unit{'s' if group.size > 1 else ''}; keep one of them."
            )
        for axis in group.axes if consumers else group.producers + group.followers:
            removed, place = gone[number][axis.units.numpy()], (axis.layer, axis.axis)
            cuts[place] = cuts[place] | removed if place in cuts else removed
    for (layer, _), removed in cuts.items():
        if removed.all():  # of a layer that computes a part of the channels alone
            raise ValueError(
                f"the plan leaves {layer!r} without any channel, since its channels are tied to others that go; at "
                "least one must stay. See graph.channel_groups for what goes together."
            )
    return cuts


def _explain(layer: object, modules: Mapping, outputs: Mapping, fixed: Mapping[str, str]) -> None:
    """Raise what fits a layer whose channels cannot be removed."""
    if layer in fixed:
        raise ValueError(
            f"channels of {layer!r} cannot be removed: {fixed[layer]}. Leave them out of the plan."
        )
    if layer in modules:
        raise ValueError(
            f"layer {layer!r} ({type(modules[layer]).__name__}) has no output channels that can be removed. Known: "
            f"{', '.join(outputs)}."
        )
    raise KeyError(unknown_name(layer, "layer", outputs))


def _check_indices(indices: object, layer: str, length: int) -> Int64[np.ndarray, "chosen"]:
    """The indices as int64, if they are distinct integers in [0, length)."""
    remedy = f"Give whole numbers in [0, {length - 1}], each once."
    if isinstance(indices, str | bytes | Mapping) or not isinstance(indices, Iterable):
        raise TypeError(f"the indices of {layer!r} are {indices!r}. {remedy}")
    if not isinstance(indices, Tensor):
        indices = list(indices)
        wrong = [index for index in indices if isinstance(index, bool | str) or index is None]
        if wrong:
            raise TypeError(f"the indices of {layer!r} hold {wrong[0]!r}. {remedy}")
    try:
        given = torch.as_tensor(indices).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"the indices of {layer!r} are no numbers of channels: {error}. {remedy}") from error
    if given.numel() and (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool):
        raise TypeError(f"the indices of {layer!r} have dtype {given.dtype}. {remedy}")
    if given.ndim != 1:
        raise ValueError(f"the indices of {layer!r} have shape {list(given.shape)}. {remedy}")
    chosen = given.to(torch.int64).numpy()
    outside = chosen[(chosen < 0) | (chosen >= length)].tolist()
    if outside:
        raise ValueError(f"the indices of {layer!r} hold {outside[:5]}; it has {length} channels. {remedy}")
    counts = np.bincount(chosen)
    if counts.max(initial=0) > 1:
        raise ValueError(
            f"the indices of {layer!r} hold {np.flatnonzero(counts > 1)[:5].tolist()} more than once. {remedy}"
        )
    return chosen


def _is_tied(group: ChannelGroup) -> bool:
    return len(group.producers) > 1 or len(group.producers[0].units) > group.size


def _speaks_always(layer: nn.Module) -> bool:
    """Whether a normalisation makes something else than zeros of a channel of zeros, whatever its parameters."""
    if isinstance(layer, nn.LayerNorm | nn.GroupNorm):
        return layer.weight is None
    return getattr(layer, "running_mean", None) is not None and layer.weight is None


def _set_sizes(layer: nn.Module, axis: int, kept: int) -> None:
    """Bring the numbers that a layer keeps about itself in line with its tensors."""
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, nn.Embedding):
        layer.embedding_dim = kept
    elif isinstance(layer, nn.RNNBase | nn.RNNCellBase):
        layer.input_size = kept
    elif isinstance(layer, nn.MultiheadAttention):
        layer.num_heads = kept // layer.head_dim
        layer.embed_dim = layer.kdim = layer.vdim = kept
    elif isinstance(layer, nn.modules.conv._ConvTransposeNd):
        if layer.groups == layer.in_channels and layer.groups > 1:  # depthwise
            layer.groups = len(layer.weight)
        layer.in_channels, layer.out_channels = len(layer.weight), layer.weight.shape[1] * layer.groups
    elif isinstance(layer, nn.modules.conv._ConvNd):
        if layer.groups == layer.in_channels and layer.groups > 1:  # depthwise
            layer.groups = layer.weight.shape[0] * layer.groups // layer.out_channels
        layer.out_channels = layer.weight.shape[0]
        layer.in_channels = layer.weight.shape[1] * layer.groups
    elif isinstance(layer, nn.GroupNorm):
        if layer.num_groups == layer.num_channels:
            layer.num_groups = kept
        layer.num_channels = kept
    elif isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        shape = list(layer.normalized_shape)
        shape[axis] = kept
        layer.normalized_shape = tuple(shape)
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = kept
    else:
        layer.num_features = kept
