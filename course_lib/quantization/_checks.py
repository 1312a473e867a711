"""Checks that the files of this room share: of numbers, ranges, models and images."""

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from course_lib import tracing
from course_lib.data import to_float
from course_lib.validation import check_count, check_dense, check_number, described, unknown_name


def check_flag(value: object, name: str) -> None:
    """Check that a value is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {value!r} ({type(value).__name__}); it must be True or False.")


def check_real(x: object, name: str) -> None:
    """Check that x is a tensor of floating-point numbers, dense and with values."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} is {described(x)}; it must be a torch.Tensor of floating-point numbers.")
    check_dense(x, name, empty=True)
    if not x.is_floating_point():
        raise TypeError(f"{name} has dtype {x.dtype}; it must be floating point. Call .float() on it.")


def check_bounds(low: object, high: object, axis: int | None) -> tuple[Tensor, Tensor]:
    """Return both ends of a range as float32 tensors of one shape, on one device."""
    for bound, name in ((low, "low"), (high, "high")):
        if isinstance(bound, Tensor):
            check_real(bound, name)
    device = next((bound.device for bound in (low, high) if isinstance(bound, Tensor)), None)
    low, high = _check_bound(low, "low", device), _check_bound(high, "high", device)
    if low.ndim and high.ndim and low.shape != high.shape:
        raise ValueError(
            f"low has shape {list(low.shape)} and high {list(high.shape)}; give one of each for a channel."
        )
    low, high = torch.broadcast_tensors(low, high)
    check_channels(low, axis, "low, or high,")
    if (low > high).any():
        raise ValueError(
            f"low is {shown(low)} and high {shown(high)}; low must not lie above high. Swap them."
        )
    return low, high


def _check_bound(value: object, name: str, device: torch.device | None) -> Tensor:
    if isinstance(value, Tensor):
        given = value.detach()
    else:
        given = torch.tensor(check_number(value, name), dtype=torch.float64)
    bound = given.to(device=device, dtype=torch.float32)
    if not torch.isfinite(bound).all():
        raise ValueError(
            f"{name} is {shown(given)}; the ends of a range must be finite float32 numbers, below 3.4e38."
        )
    return bound


def check_channels(value: Tensor, axis: object, name: str) -> None:
    """Check that a value is [] without an axis, or [C] with one."""
    if axis is not None:
        check_count(axis, "axis", low=0)
    if value.ndim > 1 or value.numel() == 0:
        raise ValueError(f"{name} has shape {list(value.shape)}; it must be [], or [C] with C at least 1.")
    if (value.ndim == 1) != (axis is not None):
        raise ValueError(
            f"{name} has shape {list(value.shape)} and axis is {axis}; say with axis which axis of the tensor the C "
            "channels run along, and leave it out where there is one scale for all."
        )


def shown(values: Tensor) -> str:
    """Write a number, or the first few of many, for an error."""
    if values.ndim == 0:
        return f"{values.item():g}"
    first = ", ".join(f"{value:g}" for value in values.flatten()[:4].tolist())
    return f"[{first}{', ...' if values.numel() > 4 else ''}]"


def check_ranges(ranges: object, names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Return ranges as numbers, in the order of the names, each of which needs one.

    Args:
        ranges: {tensor: (low, high)}, each end a number within float32.
        names: of the tensors that are quantized.

    Raises:
        TypeError: `ranges` is no mapping, or an end no number.
        KeyError: a name without a range, or a range of an unknown name.
        ValueError: no pair, NaN or infinity, numbers beyond float32, or low above high.
    """
    if not isinstance(ranges, Mapping):
        raise TypeError(
            f"ranges are {described(ranges)}; they must be {{tensor: (low, high)}}, for each tensor that "
            "collect() gives."
        )
    for name in ranges:
        if name not in names:
            raise KeyError(unknown_name(name, "tensor", names))
    checked = {}
    largest = torch.finfo(torch.float32).max
    for name in names:
        if name not in ranges:
            raise KeyError(f"ranges lack the tensor {name!r}. Give one for each tensor that collect() gives.")
        if not isinstance(ranges[name], tuple | list) or len(ranges[name]) != 2:
            raise ValueError(f"the range of {name!r} is {ranges[name]!r}; it must be a pair (low, high).")
        low, high = (
            check_number(bound, f"a bound of {name!r}", low=-largest, high=largest) for bound in ranges[name]
        )
        if low > high:
            raise ValueError(f"the range of {name!r} is ({low:g}, {high:g}); low must not lie above high.")
        checked[name] = float(low), float(high)
    return checked


def check_model(model: object) -> torch.device:
    """Check that the model is a network in float32; return its device."""
    if getattr(model, "quantized_already", False):
        raise TypeError(
            f"model is a {type(model).__name__}, which is quantized already. Give the network in float32 that it was "
            "made from."
        )
    parameters = dict(model.named_parameters()) if isinstance(model, nn.Module) else {}
    device = next((parameter.device for parameter in parameters.values()), torch.device("cpu"))
    tracing.check(model, torch.zeros(1, device=device))
    for name, parameter in parameters.items():
        if parameter.dtype != torch.float32:
            raise ValueError(
                f"parameter {name!r} has dtype {parameter.dtype}; quantization starts from float32. Call model.float()."
            )
    return device


def check_images(images: object) -> Tensor:
    """Check that images are uint8 or float32, [N, C, H, W], or [N, C, L] for Conv1d."""
    if not isinstance(images, Tensor):
        raise TypeError(
            f"images are {described(images)}; they must be a torch.Tensor [N, C, H, W] of uint8, or of float32."
        )
    check_dense(images, "images", empty=True)
    if images.dtype not in (torch.uint8, torch.float32):
        raise TypeError(f"images have dtype {images.dtype}; they must be uint8 (0 to 255), or float32.")
    if images.ndim not in (3, 4) or images.numel() == 0:
        raise ValueError(
            f"images have shape {list(images.shape)}; they must be [N, C, H, W] with at least one image, or [N, C, L]."
        )
    return images


def as_numbers(images: Tensor) -> Tensor:
    """Turn images of uint8 into float32 numbers; leave others as they are."""
    return to_float(images) if images.dtype == torch.uint8 else images


def check_numbers(images: Tensor) -> Tensor:
    """Check that images are numbers already, as a network takes them."""
    if isinstance(images, Tensor) and images.dtype == torch.uint8:
        raise TypeError("images have dtype uint8; the network takes numbers. data.to_float makes them.")
    check_real(images, "images")
    if images.dtype != torch.float32:
        raise TypeError(
            f"images have dtype {images.dtype}; the network computes in float32. Call .float() on them."
        )
    return images


def check_same(model: nn.Module, other: Callable[[Tensor], Tensor], images: Tensor) -> None:
    """Check that another form of the network computes what it does, on some images."""
    images = as_numbers(images)
    with tracing.borrowed(model):
        tracing.run(model, images)
        expected, found = model(images), other(images)
    if not isinstance(expected, Tensor):
        raise ValueError(
            f"the model gives a {type(expected).__name__}; accepted are models that give one tensor. Wrap it in a "
            "module that picks one."
        )
    if not same_results(model, images, expected, found):
        raise ValueError(
            "the network with its batch norms folded computes something else than before. Look for hooks that change "
            "values, operations in place or at random, and batch norm over another axis than that of the channels."
        )


def same_results(model: nn.Module, images: Tensor, expected: Tensor, found: Tensor) -> bool:
    """Tell whether another form of a network gives its results on these images, but for rounding."""
    if found.shape != expected.shape:
        return False
    expected, found = expected.cpu().double(), found.cpu().double()
    # Convolutions on a GPU keep ten bits of each factor (TF32) unless told otherwise.
    tolerance = 1e-2 if images.is_cuda else 1e-4
    largest = expected[expected.isfinite()].abs().max().item() if expected.isfinite().any() else 0.0
    if torch.allclose(found, expected, rtol=10 * tolerance, atol=tolerance * largest, equal_nan=True):
        return True
    return (found - expected).abs().max().item() <= 10 * _rounding_error(model, images, expected)


def _rounding_error(model: nn.Module, images: Tensor, expected: Tensor) -> float:
    """How far the results of a network lie from those in float64; 0 where that is not to be had.

    Deep networks at random, and large biases that the batch norm behind them takes off, leave few digits of float32.
    """
    try:
        with tracing.borrowed(model):
            if not torch.equal(model(images).cpu().double(), expected):  # it is random
                return 0.0
            exact = copy.deepcopy(model).double()(images.double()).cpu()
        return (exact - expected).abs().max().item()
    except Exception:  # what a network cannot do in float64, or with a copy, is its own affair
        return 0.0
