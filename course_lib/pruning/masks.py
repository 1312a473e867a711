"""Choose the weights to keep: masks by magnitude or by chance; hold the others at zero (freeze) or zero them once.

A mask is a bool tensor of its parameter's shape; True means keep. Counts are exact: of n units, round(sparsity * n) go,
with Python's `round`, which takes a half to the even neighbour (round(2.5) is 2).

Frozen and soft differ in what comes after. `freeze` makes the layer compute with masked weights from then on, so that
neither a gradient nor momentum nor weight decay brings one back; `make_permanent` ends that and leaves a plain model.
`zero` writes zeros and steps back: the next optimizer step may let them grow again.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor, nn
from torch.nn.utils import parametrize

from course_lib.pruning._frozen import (
    _foreign,
    _held,
    _held_keys,
    _hold,
    _original,
    _own_class,
    _reorder,
    _slots,
)
from course_lib.pruning.criteria import _check_generator, _check_weight, _is_lowest, _magnitudes, l1_norm
from course_lib.validation import check_choice, check_model, check_number, described, unknown_name

_GRANULARITIES = ("weight", "kernel", "filter")
_SPARSITY_HINT = "It is the share that goes: 0.9 removes nine of ten."


def magnitude_mask(
    weight: Shaped[Tensor, "*shape"], sparsity: float, *, granularity: str = "weight"
) -> Bool[Tensor, "*shape"]:
    """Keep the largest weights: a mask with exactly round(sparsity * n) of its n units False, the smallest.

    A unit's magnitude is the sum of its ``|w|``. Of equal units the one with the lower index goes first.

    Args:
        weight: any real dtype; [C_out, C_in / groups, k, ...] of a convolution or [C_out, C_in] of a linear layer
            where the units are kernels or filters.
        sparsity: share of units that go, in [0, 1].
        granularity: what a unit is. "weight": one number. "kernel": the k x ... numbers between one input and one
            output channel (in a linear layer a single weight). "filter": all that makes one output channel.

    Returns:
        bool, of the shape and on the device of the weight.

    Raises:
        TypeError: no tensor of real numbers, or a sparsity that is no number.
        ValueError: an empty weight, one with NaN or too few dimensions; sparsity outside [0, 1]; unknown granularity.

    Example:
        >>> magnitude_mask(torch.tensor([[0.1, -3.0], [2.0, -0.2]]), 0.5)
        tensor([[False,  True],
                [ True, False]])

    References:
        Han et al., "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015 (weights);
        Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017 (filters).
    """
    _check_weight(weight, "weight")
    units = _units(weight, granularity)
    sparsity = check_number(sparsity, "sparsity", low=0, high=1, hint=_SPARSITY_HINT)
    flat = weight.detach().reshape(units, -1)
    scores = _magnitudes(flat, "weight").flatten() if granularity == "weight" else l1_norm(flat)
    return _spread(~_is_lowest(scores, round(sparsity * units)), weight)


def global_magnitude_masks(
    weights: nn.Module | Mapping[str, Tensor], sparsity: float
) -> dict[str, Bool[Tensor, "..."]]:
    """Keep the largest weights of several tensors by one threshold; each tensor gets a sparsity of its own.

    Exactly round(sparsity * n) of the n weights of all tensors go. Of equal weights those of the earlier tensor go
    first, and in one tensor those of the lower index.

    Args:
        weights: {name: weight}; or a model, which means all its parameters with two or more dimensions, that is the
            weights of convolutions and linear layers but neither biases nor norms.
        sparsity: share of the weights that go, in [0, 1].

    Returns:
        {name: bool mask}, in the order given, each on the device of its weight.

    Raises:
        TypeError: neither a model nor a mapping of tensors; a sparsity that is no number.
        ValueError: no weights, or empty or NaN ones; sparsity outside [0, 1].

    Example:
        >>> keep = global_magnitude_masks({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 4.0])}, 0.5)
        >>> keep["a"].tolist(), keep["b"].tolist()
        ([False, False], [True, True])
    """
    if isinstance(weights, nn.Module):
        weights = {name: weight for name, weight in _plain_parameters(weights).items() if weight.ndim > 1}
    if not isinstance(weights, Mapping):
        raise TypeError(
            f"weights is {described(weights)}; it must be a model, or a mapping {{name: weight}} such as "
            "dict(model.named_parameters())."
        )
    if not weights:
        raise ValueError(
            "there are no weights to rank; weights must hold at least one of two or more dimensions. Give a model with "
            "layers, or a mapping that is not empty."
        )
    sparsity = check_number(sparsity, "sparsity", low=0, high=1, hint=_SPARSITY_HINT)
    scores = [_magnitudes(weight, f"weights[{name!r}]").flatten() for name, weight in weights.items()]
    together = torch.cat([part.to(scores[0].device) for part in scores])
    keep = ~_is_lowest(together, round(sparsity * len(together)))
    parts = keep.split([len(part) for part in scores])
    return {
        name: part.reshape(weight.shape).clone().to(weight.device)
        for (name, weight), part in zip(weights.items(), parts, strict=True)
    }


def random_mask(
    weight: Shaped[Tensor, "*shape"],
    sparsity: float,
    generator: torch.Generator,
    *,
    granularity: str = "weight",
) -> Bool[Tensor, "*shape"]:
    """Keep weights by chance: exactly round(sparsity * n) of the n units are False, every choice equally likely.

    Args:
        weight: as for `magnitude_mask`; only its shape and device matter.
        sparsity: share of units that go, in [0, 1].
        generator: decides which; the same state gives the same mask.
        granularity: "weight", "kernel" or "filter", as for `magnitude_mask`.

    Returns:
        bool, of the shape and on the device of the weight.

    Raises:
        TypeError: `generator` is not a torch.Generator; else as `magnitude_mask`.
        ValueError: as `magnitude_mask`.

    Example:
        >>> int(random_mask(torch.ones(4, 5), 0.25, torch.Generator().manual_seed(0)).sum())
        15
    """
    _check_weight(weight, "weight")
    units = _units(weight, granularity)
    sparsity = check_number(sparsity, "sparsity", low=0, high=1, hint=_SPARSITY_HINT)
    _check_generator(generator)
    keep = torch.ones(units, dtype=torch.bool, device=generator.device)
    gone = torch.randperm(units, generator=generator, device=generator.device)[: round(sparsity * units)]
    keep[gone] = False
    return _spread(keep.to(weight.device), weight)


def freeze(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    r"""Hold the masked weights of a model at zero, in place, until `make_permanent`.

    .. math:: w = \begin{cases} \text{original} & \text{where mask} \\ 0 & \text{else} \end{cases}

    `original` stays the trained parameter, the same object as before, so that an optimizer made earlier goes on
    working; the masked weight is computed from it at every use (a parametrisation). Whatever momentum or weight decay
    do to a masked `original`, the network never sees it. Freezing once more adds to what is held, and never releases.

    The model can be deep-copied and its state_dict saved; while frozen, that has `parametrizations.<name>.original` and
    `.mask` for `<name>`. Pickling the whole model does not work while it is frozen.

    Args:
        model: changed in place.
        masks: {parameter name: bool mask of the parameter's shape}, names as in `model.named_parameters()` of the plain
            model. A parameter that several layers share is held in all of them.

    Raises:
        TypeError: not a model, not a mapping, or a mask that is not a bool tensor.
        KeyError: no parameter of that name; the message lists the nearest ones.
        ValueError: a mask of another shape; a parameter with a parametrisation that is not of this function.
            Nothing is changed if one of the masks is wrong.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> freeze(layer, {"weight": torch.tensor([[True, False]])})
        >>> (layer.weight != 0).tolist(), list(layer.state_dict())[-1]
        ([[True, False]], 'parametrizations.weight.0.mask')
    """
    owners = _checked(model, masks)
    for name, mask in masks.items():
        for module, key in owners[name]:
            held = _hold(module, key)
            held.mask.logical_and_(mask.to(held.mask.device))
    zero(model, masks)


def zero(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set the masked weights of a model to zero, in place and once: the next optimizer step may bring them back.

    An optimizer that holds momentum from before does so even where the gradient is zero.

    Args:
        model: changed in place.
        masks: {parameter name: bool mask}, as for `freeze`.

    Raises:
        TypeError, KeyError, ValueError: as `freeze`.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> zero(layer, {"weight": torch.tensor([[True, False]])})
        >>> (layer.weight != 0).tolist()
        [[True, False]]
    """
    owners = _checked(model, masks)
    with torch.no_grad():
        for name, mask in masks.items():
            module, key = owners[name][0]
            parameter = _original(module, key)
            parameter.masked_fill_(~mask.to(parameter.device), 0)


def make_permanent(model: nn.Module) -> None:
    """End `freeze`, in place: leave a plain model with zeros in its weights and nothing that holds them.

    Layers have their own classes again, and the state_dict the keys and order that it had before; the parameters are
    the same objects, so an optimizer goes on working. A model without masks is left as it is.

    Args:
        model: changed in place.

    Raises:
        TypeError: not a model.
        ValueError: another parametrisation was put on top of a mask; remove that one first.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> freeze(layer, {"weight": torch.tensor([[True, False]])})
        >>> make_permanent(layer)
        >>> list(layer.state_dict()), (layer.weight != 0).tolist()
        (['weight', 'bias'], [[True, False]])
    """
    check_model(model)
    frozen = [(module, key) for module in model.modules() for key in _held_keys(module)]
    for module, key in frozen:
        if len(module.parametrizations[key]) > 1:
            raise ValueError(
                f"a {type(module.parametrizations[key][1]).__name__} was put on top of the mask of {key!r} in a "
                f"{type(module).__name__}. Remove it first, with torch.nn.utils.parametrize.remove_parametrizations."
            )
    for module, key in frozen:
        held = _held(module, key)
        with torch.no_grad():
            module.parametrizations[key].original.masked_fill_(~held.mask, 0)
        _own_class(module)
        parametrize.remove_parametrizations(module, key, leave_parametrized=False)
        _reorder(module, held.order)


# ---- how it is done


def _plain_parameters(model: nn.Module) -> dict[str, Tensor]:
    """{name: weight}, named and ordered as the parameters of the plain model, with the zeros that are held."""
    seen, parameters = set(), {}
    for name, module, key in _slots(model):
        original = _original(module, key)
        if id(original) not in seen:
            seen.add(id(original))
            parameters[name] = getattr(module, key)
    return parameters


def _frozen_names(model: nn.Module) -> list[str]:
    """The names, in the plain model, of the parameters that `freeze` holds."""
    return [name for name, module, key in _slots(model) if _held(module, key) is not None]


def _checked(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, list[tuple[nn.Module, str]]]:
    """Where each masked parameter lies, in all the layers that share it; raises for a mask that does not fit."""
    check_model(model)
    if not isinstance(masks, Mapping):
        raise TypeError(
            f"masks is {described(masks)}; it must be a mapping {{parameter name: bool mask}}, such as "
            "{'0.weight': magnitude_mask(model[0].weight, 0.5)}."
        )
    slots = _slots(model)
    place = {name: (module, key) for name, module, key in slots}
    sharing: dict[int, list[tuple[nn.Module, str]]] = {}
    for module, key in place.values():
        others = sharing.setdefault(id(_original(module, key)), [])
        if (module, key) not in others:
            others.append((module, key))
    for name, mask in masks.items():
        if name not in place:
            if name in {key for key, _ in _foreign(model)}:
                raise ValueError(
                    f"{name!r} already has a parametrisation of another kind, which a mask would be hidden by; it must "
                    "be a plain parameter. Take it off first: torch.nn.utils.parametrize.remove_parametrizations."
                )
            raise KeyError(unknown_name(name, "parameter", place))
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            given = f"has dtype {mask.dtype}" if isinstance(mask, Tensor) else f"is {described(mask)}"
            kept = "True where the weight is kept, such as weight.abs() > 0.1"
            raise TypeError(f"the mask of {name!r} {given}; it must be a bool tensor, {kept}.")
        parameter = _original(*place[name])
        if mask.shape != parameter.shape:
            raise ValueError(
                f"the mask of {name!r} has shape {list(mask.shape)}; it must have the parameter's, "
                f"{list(parameter.shape)}. Make it from that parameter, or cut it to size."
            )
        if mask.is_meta and not parameter.is_meta:
            raise ValueError(
                f"the mask of {name!r} is on the device meta, where tensors hold no values; it must hold some. Make it "
                "from a parameter that holds values."
            )
    return {name: sharing[id(_original(*place[name]))] for name in masks}


def _units(weight: Tensor, granularity: str) -> int:
    """How many weights, kernels or filters a weight has."""
    check_choice(granularity, "granularity", _GRANULARITIES)
    if granularity == "weight":
        return weight.numel()
    if weight.ndim < 2:
        raise ValueError(
            f"weight has shape {list(weight.shape)}; with {granularity}s it must be [C_out, C_in, ...], as that of a "
            "convolution or linear layer. Choose granularity='weight' for a bias or the scale of a norm."
        )
    return weight.shape[: 1 if granularity == "filter" else 2].numel()


def _spread(keep: Bool[Tensor, "units"], weight: Tensor) -> Tensor:
    """The mask of the weights whose units are kept: units lie in the order of the leading dimensions."""
    return keep.repeat_interleave(weight.numel() // len(keep)).reshape(weight.shape)
