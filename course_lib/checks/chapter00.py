"""Checks of the exercises of chapter 00: conv_parameters, conv_macs, chain_peak, build_network."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from course_lib import cost, data, jobs, training
from course_lib.checks import Case, NotYet, call, exercise, expect, judge, passed
from course_lib.training import Recipe


@exercise(
    again="Count one filter first: how many input channels does it see, and how many weights does it have for each "
    "of them?",
    read="Parameters and MACs",
)
def check_conv_parameters(function: Callable[..., int]) -> None:
    """Check a learner's `conv_parameters(in_channels, out_channels, kernel_size, groups=1, bias=True) -> int`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> check_conv_parameters(lambda **case: 0.5)
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: <lambda> returns 0.5 (float); a count is a whole number (int). Divide with //.
    """
    cases = [
        {"in_channels": 3, "out_channels": 8, "kernel_size": 3},
        {"in_channels": 16, "out_channels": 4, "kernel_size": 5, "bias": False},
        {"in_channels": 12, "out_channels": 24, "kernel_size": 3, "groups": 4},
        {"in_channels": 6, "out_channels": 6, "kernel_size": 3, "groups": 6, "bias": True},
    ]

    def right(
        in_channels: int, out_channels: int, kernel_size: int, groups: int = 1, bias: bool = True
    ) -> int:
        return out_channels * (in_channels // groups) * kernel_size**2 + (out_channels if bias else 0)

    mistakes = [
        (
            lambda groups=1, **rest: right(**rest),
            "It is right as long as groups is 1. A filter sees only its own group of input channels: it spans "
            "in_channels / groups of them.",
        ),
        (
            lambda bias=True, **rest: right(bias=False, **rest),
            "The biases are missing: with bias=True there is one more parameter for each output channel.",
        ),
        (
            lambda bias=True, **rest: right(bias=True, **rest),
            "The biases are counted even when bias=False. Add them only where the layer has them.",
        ),
        (
            lambda bias=True, **rest: right(bias=False, **rest) + bias * rest["in_channels"],
            "There is one bias for each output channel, not for each input channel.",
        ),
        (
            lambda bias=True, **rest: right(bias=False, **rest) + bias,
            "One bias is counted for the whole layer; each output channel has its own.",
        ),
        (
            lambda kernel_size, **rest: (
                right(kernel_size=1, **rest)
                + (kernel_size - 1) * right(kernel_size=1, **{**rest, "bias": False})
            ),
            "A kernel is a square: kernel_size=3 means 3 x 3 = 9 weights, not 3.",
        ),
        (
            lambda groups=1, **rest: right(
                **{**rest, "out_channels": rest["out_channels"] // groups}, groups=groups
            ),
            "The groups are divided out twice. Each filter sees in_channels / groups inputs, but all out_channels "
            "filters exist.",
        ),
    ]
    judge(function, cases, right, mistakes)
    passed(
        "a convolution holds C_out filters of (C_in / groups) x k x k weights, and C_out biases if it has any."
    )


@exercise(
    again="Begin with the rows of the output, (height + 2 * padding - kernel_size) // stride + 1; the columns follow "
    "in the same way.",
    read="Parameters and MACs",
)
def check_conv_macs(function: Callable[..., int]) -> None:
    """Check a learner's count of MACs, `conv_macs(...) -> int`.

    Its arguments are in_channels, out_channels, kernel_size, height, width, stride=1, padding=0 and groups=1.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> check_conv_macs(lambda **case: None)
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: <lambda> returned None. Is a `return` missing?
    """
    cases = [
        {"in_channels": 3, "out_channels": 8, "kernel_size": 3, "height": 10, "width": 10, "padding": 1},
        {"in_channels": 4, "out_channels": 6, "kernel_size": 5, "height": 12, "width": 9},
        {
            "in_channels": 8,
            "out_channels": 16,
            "kernel_size": 3,
            "height": 16,
            "width": 12,
            "stride": 2,
            "padding": 1,
        },
        {
            "in_channels": 8,
            "out_channels": 12,
            "kernel_size": 3,
            "height": 7,
            "width": 6,
            "stride": 2,
            "padding": 1,
            "groups": 4,
        },
    ]

    def size(length: int, kernel_size: int, stride: int, padding: int) -> int:
        return (length + 2 * padding - kernel_size) // stride + 1

    def right(
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        height: int,
        width: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
    ) -> int:
        rows, columns = size(height, kernel_size, stride, padding), size(width, kernel_size, stride, padding)
        return out_channels * rows * columns * (in_channels // groups) * kernel_size**2

    def pixels_as_given(height: int, width: int, stride: int = 1, padding: int = 0, **rest: int) -> int:
        return (
            right(height=1, width=1, **{**rest, "kernel_size": 1}) * rest["kernel_size"] ** 2 * height * width
        )

    def output_pixels(case: Case) -> int:
        one = {**case, "in_channels": 1, "out_channels": 1, "groups": 1}
        return right(**one) // case["kernel_size"] ** 2

    mistakes = [
        (
            lambda **case: 2 * right(**case),
            "Exactly twice too many: a multiplication with its addition is one MAC. These are FLOPs.",
        ),
        (
            pixels_as_given,
            "The pixels of the input are counted. A filter is applied once for each pixel of the output, which is "
            "(height + 2 * padding - kernel_size) // stride + 1 high.",
        ),
        (
            lambda stride=1, **rest: right(**rest),
            "It is right as long as stride is 1. With stride 2 the filter visits every second row and column.",
        ),
        (
            lambda padding=0, **rest: right(**rest),
            "The padding is missing: `padding` rows are added above and as many below, and columns likewise.",
        ),
        (
            lambda groups=1, **rest: right(**rest),
            "It is right as long as groups is 1. Each output value is made from in_channels / groups channels only.",
        ),
        (
            lambda **case: right(**case) // case["out_channels"],
            "That is one filter. All out_channels filters visit every output pixel.",
        ),
        (
            lambda **case: right(**case) + case["out_channels"] * output_pixels(case),
            "An addition for the bias is counted at every output value. By convention a bias is no MAC; this layer "
            "need not even have one.",
        ),
        (
            lambda **case: right(**case) // output_pixels(case),
            "These are the weights. Each of them is used once for every pixel of the output.",
        ),
    ]
    judge(function, cases, right, mistakes)
    passed("MACs are the values that come out, times the weights that make one of them.")


@exercise(
    again="Go through the steps j from 1 on, and write down for each which tensors are alive: a set of indices, so "
    "that none counts twice.",
    read="Peak activation memory",
)
def check_chain_peak(function: Callable[..., int]) -> None:
    """Check a learner's `chain_peak(sizes, shortcut=None) -> bytes`, for a chain of layers with one residual addition.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> check_chain_peak(lambda sizes, shortcut=None: 4 * max(sizes))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: That is the largest single tensor. While a layer runs, ...
    """
    cases = [
        {"sizes": [8, 24, 16, 4]},
        {"sizes": [10, 30, 20, 60, 2]},
        {"sizes": [16, 16, 16, 16, 2], "shortcut": (0, 3)},
        {"sizes": [30, 30, 30, 40, 1], "shortcut": (0, 2)},  # freed too early or too late shows here
        {"sizes": [4, 20, 60, 5, 20, 20, 1], "shortcut": (1, 5)},  # and counted twice here
    ]

    def alive(sizes: Sequence[int], shortcut: tuple[int, int] | None) -> list[int]:
        """Values alive while tensor j is made, j from 1."""
        kept, added = shortcut or (0, 0)
        return [
            sizes[j - 1] + sizes[j] + (sizes[kept] if kept < j - 1 and j <= added else 0)
            for j in range(1, len(sizes))
        ]

    def right(sizes: Sequence[int], shortcut: tuple[int, int] | None = None) -> int:
        return 4 * max(alive(sizes, shortcut))

    def counted_twice(sizes: Sequence[int], shortcut: tuple[int, int] | None = None) -> int:
        kept, added = shortcut or (0, -1)
        steps = range(1, len(sizes))
        return 4 * max(sizes[j - 1] + sizes[j] + (sizes[kept] if kept < j <= added else 0) for j in steps)

    def freed_too_late(sizes: Sequence[int], shortcut: tuple[int, int] | None = None) -> int:
        return right(sizes, shortcut and (shortcut[0], len(sizes)))

    def freed_too_early(sizes: Sequence[int], shortcut: tuple[int, int] | None = None) -> int:
        return right(sizes, shortcut and (shortcut[0], shortcut[1] - 1))

    mistakes = [
        (
            lambda sizes, shortcut=None: max(alive(sizes, shortcut)),
            "These are values. The answer is in bytes: a float32 takes 4.",
        ),
        (
            lambda sizes, shortcut=None: 4 * sum(sizes),
            "All tensors are added up. That is what training keeps; here a tensor is freed after its last reader.",
        ),
        (
            lambda sizes, shortcut=None: 4 * max(sizes),
            "That is the largest single tensor. While a layer runs, its input and its output are both alive.",
        ),
        (
            lambda sizes, shortcut=None: right(sizes),
            "It is right for a plain chain. With shortcut=(i, j), tensor i is kept until tensor j has been made "
            "from tensor j - 1 and tensor i.",
        ),
        (
            counted_twice,
            "The kept tensor is counted twice at the step right after it, where it is also the input of the layer.",
        ),
        (
            freed_too_late,
            "The shortcut is kept to the end of the chain. Its last reader is the addition that makes tensor j; "
            "after it the memory is free.",
        ),
        (
            freed_too_early,
            "The shortcut is freed too early: the addition that makes tensor j still reads tensor i.",
        ),
    ]
    judge(function, cases, right, mistakes)
    passed("the peak is the worst step, and a shortcut makes every step under it dearer.")


_MOST = {"parameters": 7_500, "macs": 320_000, "peak_activation_bytes": 16_384}
_NAMES = {
    "parameters": "parameters",
    "macs": "MACs",
    "peak_activation_bytes": "bytes of activations at the peak",
}
_TOWARDS = {
    "parameters": "Parameters lie where channels are many: narrow the last layers.",
    "macs": "MACs are pixels times weights: pool earlier, or narrow the layers before the pooling.",
    "peak_activation_bytes": "The peak lies where the image is largest: narrow the first layer.",
}
_EPOCHS, _LEAST_ACCURACY = 3, 0.70
"""Training that the check gives a network, and the share of validation images on which it must then be right."""


@exercise(
    again="Find the budget that is broken, and the layer in which that cost lies: layer_costs and cost.measure tell "
    "before anything is trained. Then change the width of that layer alone.",
    read="Where each cost lies",
)
def check_build_network(network: Any) -> None:
    """Check an untrained network that keeps three budgets, and learns enough in three epochs.

    Args:
        network: an nn.Module for images [N, 1, 16, 16]; or a function without arguments that returns one.

    Raises:
        NotYet: a budget is broken or the network learns too little; the message says by how much.

    Example:
        >>> check_build_network(nn.Sequential(nn.Flatten(), nn.Linear(256, 32), nn.Linear(32, 10)))
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: The network has 8,554 parameters, 1,054 more than the 7,500 that it may have. \
Parameters lie where channels are many: narrow the last layers.
    """
    if not isinstance(network, nn.Module):
        expect(callable(network), f"This is a {type(network).__name__}; it must be a network, nn.Module.")
        network = call(network)
        expect(isinstance(network, nn.Module), f"A {type(network).__name__} was returned; return a network.")
    try:
        with torch.no_grad():
            shape = list(copy.deepcopy(network).eval()(torch.zeros(2, 1, 16, 16)).shape)
        counted = cost.measure(network, torch.zeros(1, 1, 16, 16))
    except Exception as error:
        raise NotYet(
            f"The network cannot answer for images of shape [N, 1, 16, 16]: {type(error).__name__}: {error}"
        ) from error
    expect(
        shape == [2, 10],
        f"Two images give an output of shape {shape}; it must be [2, 10], ten logits for each.",
    )
    over = {name: getattr(counted, name) - most for name, most in _MOST.items()}
    said = [
        f"The network has {_MOST[name] + by:,} {_NAMES[name]}, {by:,} more than the {_MOST[name]:,} that it may have. "
        f"{_TOWARDS[name]}"
        for name, by in over.items()
        if by > 0
    ]
    expect(not said, " ".join(said))
    accuracy = jobs.on_one_thread(_trained_accuracy, copy.deepcopy(network))
    expect(
        accuracy >= _LEAST_ACCURACY,
        f"It keeps all three budgets, and is right on {accuracy:.1%} of the validation images after {_EPOCHS} epochs, "
        f"{_LEAST_ACCURACY - accuracy:.1%} short of {_LEAST_ACCURACY:.0%}. {_what_is_left(over)}",
    )
    passed(
        f"your network keeps all three budgets and is right on at least {_LEAST_ACCURACY:.0%} of the validation images "
        f"after {_EPOCHS} epochs."
    )


def _trained_accuracy(network: nn.Module) -> float:
    glyphs = data.load_dataset("glyphs")
    training.fit(network.train(), glyphs, Recipe(epochs=_EPOCHS))
    return training.evaluate(network, glyphs.validation)


def _what_is_left(over: dict[str, int]) -> str:
    """Name the budget that is used least."""
    used = {name: 1 + by / _MOST[name] for name, by in over.items()}
    name = min(used, key=lambda one: used[one])
    return f"Of the {_NAMES[name]} it uses {used[name]:.0%}: spend more of them, on a further layer perhaps."
