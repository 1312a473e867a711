"""Checks of what the planners share: whether anything can go, ratios, criteria, and what `evaluate` returned."""

import inspect
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from course_lib import tracing
from course_lib.pruning.graph import ChannelGroup
from course_lib.validation import check_number, described

_Criterion = Callable[[Tensor], Tensor]


def _check_removable(groups: Sequence[ChannelGroup], fixed: Mapping[str, str]) -> None:
    """Raise, with up to three reasons, if there is nothing to remove.

    Raises:
        ValueError: there are no groups.
    """
    if groups:
        return
    if not fixed:
        raise ValueError(
            "nothing can be removed from this model: it has no convolution or linear layer of torch.nn whose channels "
            "could be followed. Prune the network as it was before it was quantized or exported, with its layers as "
            "modules."
        )
    reasons = "; ".join(f"{layer!r}: {reason}" for layer, reason in list(fixed.items())[:3])
    more = f"; and {len(fixed) - 3} more" if len(fixed) > 3 else ""
    raise ValueError(
        f"nothing can be removed from this model: {reasons}{more}. follow(model, example).fixed holds all reasons. "
        "Take out what keeps the layers, or prune another part of the network."
    )


def _check_ratio(ratio: object, name: str) -> float:
    """Return `ratio` if it is a share of filters in [0, 1)."""
    hint = "It is the share of filters that go, such as 0.5."
    return check_number(ratio, name, low=0, high=1, high_open=True, hint=hint)


def _check_accuracy(accuracy: object, name: str) -> float:
    """Return `accuracy` if it is a share of images in [0, 1]."""
    return check_number(accuracy, name, low=0, high=1, hint="Give a share of images: 0.93 and not 93.")


def _check_criterion(criterion: object) -> None:
    """Raise unless this is a function of one argument, a weight.

    Raises:
        TypeError: it cannot be called, or needs more than the weight.
    """
    if not callable(criterion):
        raise TypeError(
            f"criterion is {criterion!r:.80}; it must be a function of a weight, such as criteria.l1_norm."
        )
    try:
        inspect.signature(criterion).bind(torch.empty(0))
    except TypeError as error:
        name = getattr(criterion, "__name__", "criterion")
        raise TypeError(
            f"criterion is {name}{_signature(criterion)}; it must be a function of a weight alone. Bind the rest, as "
            f"in lambda weight: {name}(weight, generator) or functools.partial({name}, generator=generator)."
        ) from error
    except ValueError:  # written in C: it does not say what it takes
        pass


def _signature(function: Callable) -> str:
    names = [str(parameter.name) for parameter in inspect.signature(function).parameters.values()]
    return f"({', '.join(names)})"


def _score(model: nn.Module, layer: str, axis: int, criterion: _Criterion) -> Tensor:
    """The criterion's scores of one layer, [C_out]."""
    with tracing.alone():  # while another thread traces the model, its parameters are proxies
        weight = model.get_submodule(layer).weight
    weight = weight.detach().transpose(0, axis)  # transposed convolutions: axis 1
    try:
        scores = criterion(weight)
    except (TypeError, ValueError) as error:
        raise type(error)(f"the criterion cannot score the weight of {layer!r}: {error}") from error
    if not isinstance(scores, Tensor) or scores.shape != (len(weight),) or not torch.isfinite(scores).all():
        given = f"a tensor of shape {list(scores.shape)}" if isinstance(scores, Tensor) else repr(scores)[:80]
        raise ValueError(
            f"the criterion gives {given} for {layer!r}; it must give one finite score for each of the {len(weight)} "
            "filters of the weight. Return a tensor such as weight.flatten(1).abs().sum(1)."
        )
    return scores


def _check_group(model: nn.Module, group: object) -> None:
    """Raise unless the layers of a group are in the model, with as many channels.

    Raises:
        TypeError: it is no group.
        ValueError: it is one of another network.
    """
    remedy = "Pass one of channel_groups(model, example)."
    if not isinstance(group, ChannelGroup):
        raise TypeError(f"group is {described(group)}; it must be a ChannelGroup. {remedy}")
    modules = dict(model.named_modules())
    for axis in group.producers:
        weight = getattr(modules.get(axis.layer), "weight", None)
        if (
            not isinstance(weight, Tensor)
            or axis.axis >= weight.ndim
            or weight.shape[axis.axis] != len(axis.units)
        ):
            raise ValueError(
                f"group belongs to another network: it has a layer {axis.layer!r} of {len(axis.units)} channels, which "
                f"the model must have too. {remedy}"
            )


def _check_names(layers: object, name: str, such_as: str) -> list[str]:
    """Return names of layers as a list, if there are some.

    Raises:
        TypeError: not a sequence of names.
        ValueError: an empty one.
    """
    if isinstance(layers, str | bytes | Mapping) or not isinstance(layers, Sequence):
        raise TypeError(
            f"{name} is {layers!r:.80} ({type(layers).__name__}); it must be a list of names. {such_as}"
        )
    for layer in layers:
        if not isinstance(layer, str):
            raise TypeError(
                f"{name} holds {layer!r:.60} ({type(layer).__name__}); it must hold names, as in "
                f"model.named_modules(). {such_as}"
            )
    if not layers:
        raise ValueError(f"{name} is empty; it must hold a name. {such_as}")
    return list(layers)


def _check_ratios(ratios: object) -> list[float]:
    """Return several ratios as a list, if there are some.

    Raises:
        TypeError: not a sequence of numbers.
        ValueError: an empty one, or a ratio out of range.
    """
    such_as = "Give a list such as [0.1, 0.5, 0.9]."
    if isinstance(ratios, Tensor) and ratios.ndim == 1:
        ratios = ratios.tolist()
    if (
        isinstance(ratios, str | bytes | Mapping)
        or not hasattr(ratios, "__len__")
        or not hasattr(ratios, "__iter__")
    ):
        raise TypeError(
            f"ratios is {ratios!r:.80} ({type(ratios).__name__}); it must be a list of numbers. {such_as}"
        )
    checked = list(ratios)
    for place, ratio in enumerate(checked):
        _check_ratio(ratio, f"ratios[{place}]")
    if not checked:
        raise ValueError(f"ratios is empty; it must hold a number. {such_as}")
    return checked
