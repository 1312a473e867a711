"""Round the widths of layers to multiples of a number that the processor works in, for all planners."""

import math

import numpy as np
import torch
from torch import Tensor

from course_lib.pruning.graph import ChannelGroup
from course_lib.validation import check_count, described


def rounded_width(group: ChannelGroup, kept: int, round_to: int) -> int:
    """Round how many units of a group stay, so that its layers are `round_to` channels wide, or a multiple of it.

    Kernels and tensor cores work in blocks of channels: a layer of 57 channels is filled up to 64, or takes a slower
    path. The width that counts is that of the widest layer that computes the group; where a unit stands for several of
    its channels (grouped convolutions), fewer units make a multiple.

    The nearest multiple is taken, of two equally near ones the larger, at least one multiple and at most as many as the
    group holds. A group too narrow for a single one keeps all its units. Where the units have different numbers of
    channels in the widest layer, units are counted instead; and channels that this layer has outside of the group (the
    fixed ones, and those of other groups) are not.

    Args:
        group: one of `graph.channel_groups`.
        kept: how many of its units would stay without rounding, in [1, group.size].
        round_to: at least 1; 1 changes nothing. 8 suits float16 on tensor cores, 16 int8.

    Returns:
        How many units stay, in [1, group.size].

    Raises:
        TypeError: `group` is no group, or a number is not an int.
        ValueError: a number is out of range.

    Example:
        >>> from course_lib.pruning import channel_groups
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 20, 3), torch.nn.Conv2d(20, 2, 3))
        >>> [group] = channel_groups(model, torch.rand(1, 1, 8, 8))
        >>> [rounded_width(group, kept, 8) for kept in (1, 11, 12, 20)]
        [8, 8, 16, 16]

    References:
        NVIDIA, "Matrix Multiplication Background User's Guide", section on tensor core requirements (multiples of 16
        bytes: of 8 for FP16, of 16 for INT8). Torch-Pruning has `round_to` too, and always rounds down.
    """
    if not isinstance(group, ChannelGroup):
        raise TypeError(
            f"group is {described(group)}; it must be one of those that channel_groups returns. Give that."
        )
    check_count(kept, "kept", high=group.size)
    check_count(round_to, "round_to")
    return int(_rounded(kept, group.size, _step(group, round_to)))


def _rounded(kept: np.ndarray | int, size: np.ndarray | int, step: np.ndarray | int) -> np.ndarray:
    """The nearest multiple of `step` in [step, size], halves up; `size` where there is none. Element by element."""
    nearest = (kept + step // 2) // step * step
    return np.where(size < step, size, np.clip(nearest, step, size // step * step))


def _step(group: ChannelGroup, round_to: int) -> int:
    """How many units make the smallest multiple of `round_to` channels in the widest layer that computes them."""
    widest = max((axis.units[axis.units >= 0] for axis in group.producers), key=len)
    return round_to // math.gcd(round_to, _channels_of_each(widest, group.size))


def _channels_of_each(units: Tensor, size: int) -> int:
    """How many channels each unit has, if all have as many; else 1."""
    counts = torch.bincount(units, minlength=size)
    return int(counts[0]) if bool((counts == counts[0]).all()) else 1
