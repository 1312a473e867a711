"""Checks of what a caller passes in, kept in one place so that every error says the same three things.

Each message names the value that was given, what is accepted, and what to do.
"""

import difflib
import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn


def check_number(
    value: object,
    name: str,
    *,
    low: float | int = -math.inf,
    high: float | int = math.inf,
    low_open: bool = False,
    high_open: bool = False,
    hint: str = "",
) -> float:
    """Return `value` as a float if it is a finite number in [low, high], without its ends where they are open.

    Raises:
        TypeError: not a number (booleans and strings are not numbers).
        ValueError: NaN, infinite, or out of range.
    """
    given = value
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, np.generic | np.ndarray) and value.size == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"{name} is {given!r:.80} ({type(given).__name__}); it must be a number. {hint}".strip()
        )
    try:
        value = float(value)
    except OverflowError:
        value = math.inf if value > 0 else -math.inf
    accepted = f"{'(' if low_open else '['}{low:g}, {high:g}{')' if high_open or math.isinf(high) else ']'}"
    outside = value < low or value > high or (low_open and value == low) or (high_open and value == high)
    if not math.isfinite(value) or outside:
        raise ValueError(f"{name} is {value}; it must be a finite number in {accepted}. {hint}".strip())
    return value


def check_count(value: object, name: str, *, low: int = 1, high: int | None = None) -> int:
    """Return `value` if it is an int in [low, high].

    Raises:
        TypeError: not an int (a float such as 2.0 is not).
        ValueError: out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}); it must be a whole number (int).")
    if value < low or (high is not None and value > high):
        accepted = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} is {value}; it must be {accepted}.")
    return value


def check_choice(
    value: object, name: str, choices: Iterable[str], *, error: type[Exception] = ValueError
) -> str:
    """Return `value` if it is one of `choices`; otherwise raise `error` with the nearest known names."""
    known = list(choices)
    if isinstance(value, str) and value in known:
        return value
    raise error(unknown_name(value, name, known))


def unknown_name(value: object, kind: str, known: Iterable[str]) -> str:
    """The sentence for a name that does not exist: what was asked, the nearest names, and all the names."""
    known = list(known)
    folded = {str(name).casefold(): name for name in known}
    near = [folded[n] for n in difflib.get_close_matches(str(value).casefold(), folded, n=3, cutoff=0.5)]
    suggestion = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    return f"unknown {kind} {value!r}.{suggestion} Known: {', '.join(known) or 'none'}."


def check_logits(logits: object, name: str) -> Tensor:
    """Return `logits` if it is a non-empty floating-point [N, K] tensor of finite numbers.

    Raises:
        TypeError: not a tensor, or not floating point.
        ValueError: not two-dimensional, empty, or holding NaN or infinity.
    """
    if not isinstance(logits, Tensor):
        raise TypeError(f"{name} is a {type(logits).__name__}; it must be a torch.Tensor of shape [N, K].")
    if not logits.is_floating_point():
        raise TypeError(f"{name} has dtype {logits.dtype}; logits are floating point. Call .float() on them.")
    if logits.ndim != 2 or 0 in logits.shape:
        raise ValueError(
            f"{name} has shape {list(logits.shape)}; it must be [N, K], images by classes, with N and K at least 1."
        )
    if not torch.isfinite(logits.detach()).all():
        found = "NaN" if torch.isnan(logits.detach()).any() else "infinity"
        raise ValueError(
            f"{name} holds {found}. Look for a diverged network: lower the learning rate and train again."
        )
    return logits


def check_labels(labels: object, classes: int, count: int) -> Tensor:
    """Return `labels` if it is an int64 [N] tensor of class indices in [0, K).

    Raises:
        TypeError: not a tensor, or not int64.
        ValueError: wrong length, or an index outside [0, K).
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels is a {type(labels).__name__}; it must be an int64 tensor of shape [N].")
    if labels.dtype != torch.int64:
        raise TypeError(f"labels has dtype {labels.dtype}; class indices are int64. Call .long() on them.")
    if labels.shape != (count,):
        raise ValueError(f"labels has shape {list(labels.shape)}; with {count} images it must be [{count}].")
    if count and (int(labels.min()) < 0 or int(labels.max()) >= classes):
        raise ValueError(
            f"labels run from {int(labels.min())} to {int(labels.max())}; with {classes} classes they must lie in "
            f"[0, {classes - 1}]."
        )
    return labels


def check_model(model: object) -> nn.Module:
    """Return `model` if it is a module.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(model, nn.Module):
        given = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise TypeError(f"model is {given}; it must be a torch.nn.Module.")
    return model


def check_layer(layer: object, name: str, kinds: tuple[type[nn.Module], ...]) -> nn.Module:
    """Return `layer` if it is exactly of one of `kinds` and its weight is a finite floating-point parameter.

    A layer of a derived class may compute something else, or be read by code that knows its weight; neither would
    survive being replaced.

    Raises:
        TypeError: a layer of another class, or a weight that is not floating point.
        ValueError: a weight that is computed by a hook, empty, without values, or holds NaN or infinity.
    """
    accepted = " or ".join(kind.__name__ for kind in kinds)
    if type(layer) not in kinds:
        given = f"the class {layer.__name__}" if isinstance(layer, type) else f"a {type(layer).__name__}"
        raise TypeError(
            f"{name} is {given}; it must be a {accepted}, and none of a class derived from it. Take parametrisations "
            "off first, and leave other layers out."
        )
    weight = layer._parameters.get("weight")
    if weight is None:
        raise ValueError(
            f"the weight of {name} is computed at each call; it must be a parameter. Make it one first, with "
            "torch.nn.utils.prune.remove or torch.nn.utils.remove_weight_norm."
        )
    if not weight.is_floating_point():
        raise TypeError(f"the weight of {name} has dtype {weight.dtype}; it must be floating point.")
    if weight.numel() == 0 or weight.is_meta:
        raise ValueError(
            f"the weight of {name} has shape {list(weight.shape)} on {weight.device}, which holds no values; it must "
            "hold some. Give a layer that is built and initialised."
        )
    if not torch.isfinite(weight.detach()).all():
        found = "NaN" if torch.isnan(weight.detach()).any() else "infinity"
        raise ValueError(
            f"the weight of {name} holds {found}; it must be finite. Look for a diverged network: lower the learning "
            "rate and train again."
        )
    return layer


def check_layers(
    model: object, names: object, kinds: tuple[type[nn.Module], ...], argument: str
) -> dict[str, nn.Module]:
    """The layers of `model` that the keys of a mapping name, in the order of the model, each as `check_layer` wants it.

    Raises:
        TypeError: no model, no mapping, or a layer of another class.
        KeyError: no layer of that name; the message lists the nearest ones.
        ValueError: as `check_layer`; or a weight that another layer uses as well.
    """
    check_model(model)
    if not isinstance(names, Mapping):
        raise TypeError(
            f"{argument} is a {type(names).__name__}; it must be a mapping from names of layers, as in "
            "model.named_modules(), to numbers."
        )
    modules = dict(model.named_modules())
    known = [name for name, module in modules.items() if type(module) in kinds]
    for name in names:
        if name not in modules:
            raise KeyError(unknown_name(name, "layer", known))
        weight = check_layer(modules[name], f"layer {name!r}", kinds).weight
        users = [
            key for key, module in modules.items() if any(p is weight for p in module._parameters.values())
        ]
        if len(users) > 1:
            raise ValueError(
                f"layers {' and '.join(map(repr, users))} share one weight; replacing one of them would store it "
                "twice. Leave them out, or give each a weight of its own."
            )
    return {name: module for name, module in modules.items() if name in names}
