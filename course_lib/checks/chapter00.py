"""Checks of the exercises of chapter 00: conv_parameters, conv_macs, chain_peak."""

from collections.abc import Callable, Sequence

from course_lib.checks import Case, exercise, judge, passed


@exercise(
    again="Count one filter first: it spans in_channels // groups channels of kernel_size**2 weights. Then "
    "times out_channels, and the biases.",
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
    again="Three factors: out_channels, the output pixels (rows times columns, each by the formula with stride "
    "and padding), and the weights of one filter.",
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
    again="For each step j from 1 on, collect the indices that are alive in a set, {j - 1, j} and perhaps i; "
    "add up their sizes; take the largest sum, times 4.",
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
