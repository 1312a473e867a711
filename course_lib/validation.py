"""Checks of what a caller passes in, kept in one place so that every error says the same three things.

Each message names the value that was given, what is accepted, and what to do.
"""

import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from course_lib.names import unknown_name as unknown_name  # re-exported


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
    """Return `value` as a float if it is a finite number in [low, high], or in the interval without its open ends.

    Args:
        value: a number, or a tensor or array that holds one.
        name: of the argument, for the message.
        low, high: ends of the interval.
        low_open, high_open: whether that end is excluded.
        hint: what the message adds.

    Raises:
        TypeError: it is not a number (booleans and strings are not numbers).
        ValueError: it is NaN, infinite, or out of range.

    Example:
        >>> check_number(torch.tensor(2), "temperature", low=0, low_open=True)
        2.0
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
        TypeError: it is not an int (a float such as 2.0 is not).
        ValueError: it is out of range.

    Example:
        >>> check_count(0, "epochs")
        Traceback (most recent call last):
            ...
        ValueError: epochs is 0; it must be at least 1.
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
    """Return `value` if it is one of `choices`; otherwise raise `error` with the nearest known names.

    Raises:
        error: it is none of the choices.

    Example:
        >>> check_choice("spearman", "method", ("pearson", "spearman", "kendall"))
        'spearman'
    """
    known = list(choices)
    if isinstance(value, str) and value in known:
        return value
    raise error(unknown_name(value, name, known))


def described(value: object) -> str:
    """Write what kind of thing a value is.

    Example:
        >>> described([1, 2]), described(nn.Linear)
        ('a list', 'the class Linear')
    """
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def check_function(value: object, name: str, *, optional: bool = False) -> Callable | None:
    """Return `value` if it can be called; or if it is None, where it is optional.

    Raises:
        TypeError: it cannot be called.

    Example:
        >>> check_function(0.93, "evaluate")
        Traceback (most recent call last):
            ...
        TypeError: evaluate is 0.93 (float); it must be a function. Pass the function itself, without calling it.
    """
    if callable(value) or (optional and value is None):
        return value
    raise TypeError(
        f"{name} is {value!r:.80} ({type(value).__name__}); it must be a function{' or None' if optional else ''}. "
        "Pass the function itself, without calling it."
    )


def check_file(value: object, name: str) -> Path:
    """Return `value` as a path if it can be that of a file: one that is there, or one to be written.

    Raises:
        TypeError: it is neither text nor a path.
        ValueError: it is a folder, or lies below a file, or holds a NUL character.

    Example:
        >>> check_file("results/search.jsonl", "path").name
        'search.jsonl'
    """
    remedy = "Give a name for the file, such as results/search.jsonl."
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise TypeError(
            f"{name} is {value!r:.80} ({type(value).__name__}); it must be the path of a file. {remedy}"
        )
    path = Path(value)
    if "\0" in str(path):
        raise ValueError(
            f"{name} is {value!r:.80}, which holds a NUL; it must be the path of a file. {remedy}"
        )
    if path.is_dir():
        raise ValueError(f"{name} is {str(path)!r}, a folder; it must be the path of a file. {remedy}")
    above = next((folder for folder in path.parents if folder.exists()), Path())
    if not above.is_dir():
        raise ValueError(
            f"{name} is {str(path)!r}, but {str(above)!r} is a file; it must be a folder. {remedy}"
        )
    return path


def check_dense(
    tensor: object, name: str, *, such_as: str = "layer.weight", values: bool = True, empty: bool = False
) -> Tensor:
    """Return `tensor` if it is a dense one that is not empty.

    Args:
        tensor: what was given.
        name: of the argument, for the message.
        such_as: an example of what is meant, for the message.
        values: whether its numbers are needed, and not its shape and dtype alone.
        empty: whether it may be empty.

    Raises:
        TypeError: it is no tensor, or a sparse or nested one; or a quantized one where values are needed.
        ValueError: it is empty, or has no shape or no values yet.

    Example:
        >>> check_dense(torch.eye(2).to_sparse(), "weight")
        Traceback (most recent call last):
            ...
        TypeError: weight is sparse (torch.sparse_coo); it must be dense. Call .to_dense() on it.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is {described(tensor)}; it must be a torch.Tensor, such as {such_as}.")
    if is_lazy(tensor):
        raise ValueError(
            f"{name} has no shape yet; it must have one. Call the model with its lazy layers once."
        )
    if tensor.is_nested:
        raise TypeError(f"{name} is a nested tensor; it must be dense. Give a tensor of one shape.")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} is sparse ({tensor.layout}); it must be dense. Call .to_dense() on it.")
    if tensor.numel() == 0 and not empty:
        raise ValueError(
            f"{name} has shape {list(tensor.shape)}, which holds nothing; it must hold a number. Give one that is not "
            "empty."
        )
    if values and tensor.is_quantized:
        raise TypeError(
            f"{name} is quantized ({tensor.dtype}); it must hold plain numbers. Call .dequantize() on it."
        )
    if values and tensor.is_meta:
        raise ValueError(
            f"{name} is on the device meta, where tensors hold no values; it must hold some. Build the model on the "
            "CPU and load its weights there."
        )
    return tensor


def check_model(model: object) -> nn.Module:
    """Return `model` if it is a module.

    Raises:
        TypeError: it is not.

    Example:
        >>> check_model(nn.ReLU())
        ReLU()
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model is {described(model)}; it must be a torch.nn.Module, built and ready to be called. Pass the "
            "network itself."
        )
    return model


def check_layer(layer: object, name: str, kinds: tuple[type[nn.Module], ...]) -> nn.Module:
    """Return `layer` if it is exactly of one of `kinds` and its weight is a finite floating-point parameter.

    A layer of a derived class may compute something else, or be read by code that knows its weight; neither would
    survive being replaced.

    Raises:
        TypeError: the layer is of another class, or its weight is not floating point.
        ValueError: the weight is computed by a hook, is empty, without values, or holds NaN or infinity.

    Example:
        >>> check_layer(nn.Linear(3, 4), "layer", (nn.Linear, nn.Conv2d))
        Linear(in_features=3, out_features=4, bias=True)
    """
    accepted = " or ".join(kind.__name__ for kind in kinds)
    if type(layer) not in kinds:
        raise TypeError(
            f"{name} is {described(layer)}; it must be a {accepted}, and none of a class derived from it. Take "
            "parametrisations off first, and leave other layers out."
        )
    weight = layer._parameters.get("weight")
    if weight is None:
        raise ValueError(
            f"the weight of {name} is computed at each call; it must be a parameter. Make it one first, with "
            "torch.nn.utils.prune.remove or torch.nn.utils.remove_weight_norm."
        )
    if weight.is_nested:
        raise TypeError(
            f"the weight of {name} is nested; it must be dense. Give it a torch.nn.Parameter of one shape."
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
    """Return the layers of `model` named by the keys of `names`, in the order of the model, after `check_layer`.

    Raises:
        TypeError: model is not a module, names is not a mapping, or a layer is of another class.
        KeyError: there is no layer of that name; the message lists the nearest ones.
        ValueError: as `check_layer`; or another layer uses the weight as well.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> check_layers(model, {"2": 1}, (nn.Linear,), "ranks")
        {'2': Linear(in_features=4, out_features=2, bias=True)}
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
