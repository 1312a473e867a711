"""What forward() gets when it asks for a size of a tensor or of a layer: a number that may count channels."""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from course_lib.pruning.graph._calls import changing
from course_lib.pruning.graph._counts import Count

_T = torch.Tensor
SIZES = {_T.shape.__get__, _T.size, _T.__len__, _T.numel, _T.nelement}
# Modules whose forward() runs the same layers in both modes.
_SAME_IN_TRAIN_MODE = ("torch.nn.", "torchvision.ops.")
INPUTS = (
    *("in_channels", "in_features", "num_features", "num_channels", "num_parameters"),
    *("embed_dim", "kdim", "vdim", "num_heads", "input_size"),
)
OUTPUTS = ("out_channels", "out_features", "embedding_dim")
OF_ITSELF = ("num_groups", "groups", "normalized_shape")  # that a forward() of its own may read


def sizes(run: Any, tensor: Tensor) -> list[int]:
    """The sizes of a tensor; those of axes with channels count them."""
    labels, axes = run.labels(tensor), changing(run.labels(tensor))
    times = Fraction(1) if len(axes) == 1 and labels.numel() == len(labels.unique()) else None
    if times is None and len(axes) == 1:
        times = Fraction(labels.numel(), len(labels.unique()))
    counts = {axis: Count(tensor.shape[axis], labels.reshape(-1), times, run) for axis in axes}
    return [counts.get(axis, size) for axis, size in enumerate(tensor.shape)]


def size_of(run: Any, func: Callable, args: Sequence[object], kwargs: Mapping) -> object:
    """What a function of `SIZES` gives."""
    plain, tensor = func(*args, **kwargs), args[0]
    if type(run.module).forward.__module__.startswith("torch.nn."):
        return plain  # PyTorch's own layers hold no numbers of channels but those that are cut with them
    if run.wide(tensor):
        run.pin(tensor, "shape")
    if run.labels(tensor).numel() == 1:
        return plain
    found = sizes(run, tensor)
    if not isinstance(plain, int):
        return torch.Size(found)
    if func in (_T.numel, _T.nelement):
        counts = [size for size in found if isinstance(size, Count)]
        times = counts[0].times and counts[0].times * Fraction(plain, int.__int__(counts[0]))
        return Count(plain, counts[0].labels, times, run)
    if func is _T.__len__:  # of which Python makes a plain number
        if isinstance(found[0], Count):
            run.fix(found[0].labels, "forward() computes with their number (len)", "take it from the shape")
        return plain
    return found[args[1] if len(args) > 1 else kwargs["dim"]]


def read(run: Any, layer: nn.Module, name: str, value: object) -> object:
    """What forward() gets when it reads the mode or a size of a layer."""
    own = layer is run.module
    home = type(run.module).forward.__module__
    if name == "training":
        run.training_matters |= not home.startswith(_SAME_IN_TRAIN_MODE)
        return value
    if not run.listens or home.startswith("torch.nn.") or (own and name in OF_ITSELF):
        return value
    found = run.ties.layer_names.get(id(layer))
    if found is None or not isinstance(value, int | tuple):
        return value
    with run.quiet():
        for axis in (0, 1):
            kind, labels = run.ties.axes.get((found, axis), (None, None))
            if name in OUTPUTS and kind == "producer" and len(labels) == value:
                return Count(value, labels, Fraction(1), run)
    why = f"forward() computes with the {name} of a layer that has or reads them{run.where()}"
    run.ties.pin_layer(layer, why)
    return value
