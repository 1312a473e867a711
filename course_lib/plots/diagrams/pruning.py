"""Diagrams of pruned channels: where one is found in a network, what gamma does, what an addition ties."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from course_lib.plots._drawing import (
    BLACK,
    GREEN,
    GREY,
    LARGE,
    ORANGE,
    RED,
    SMALL,
    WIDTH,
    Box,
    arrow,
    box,
    canvas,
    channel,
    finite,
    grid,
    label,
    line,
    need,
    rectangle,
    stack,
    tint,
)
from course_lib.plots.style import styled


@styled
def cut_channel(*, channels: int = 4, cut: int = 1, inputs: int = 3, outputs: int = 3) -> Figure:
    """Draw what goes with a channel: its filter, its batch-norm numbers, its map, and its kernels in the next layer.

    Args:
        channels: of the first convolution, two to five; one of them is cut.
        cut: which one, counted from 0.
        inputs: channels of the first convolution's input, one to three.
        outputs: filters of the next convolution, one to five.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> cut_channel(channels=3, cut=2).get_label().split(". ")[0]
        'Channel 3 of 3 is cut'
    """
    need(2 <= channels <= 5, "channels must be two to five", channels)
    need(0 <= cut < channels, f"cut must be one of the {channels} channels, counted from 0", cut)
    need(1 <= inputs <= 3, "inputs must be one to three", inputs)
    need(1 <= outputs <= 5, "outputs must be one to five", outputs)
    figure, axes = canvas(
        330,
        f"Channel {cut + 1} of {channels} is cut. With it go its filter in the first convolution, its row of "
        "batch-norm numbers, its feature map behind the ReLU, and one kernel in each filter of the next convolution. "
        "The output keeps all its channels.",
    )
    gone, middle = [number == cut for number in range(channels)], 172
    columns = (1, inputs, 4, 1, channels, 1)  # squares in a row, 26 wide and 4 apart
    space = (WIDTH - 44 - sum(30 * n - 4 for n in columns)) / (len(columns) - 1)
    left = [22 + sum(30 * n - 4 for n in columns[:k]) + k * space for k in range(len(columns))]
    stack(axes, (left[0], middle), [False] * inputs)
    first = grid(axes, (left[1], middle), [[lost] * inputs for lost in gone], colour=GREEN)
    norm = grid(axes, (left[2], middle), [[lost] * 4 for lost in gone], colour=ORANGE)
    maps = stack(axes, (left[3], middle), gone)
    second = grid(axes, (left[4], middle), [gone] * outputs, colour=GREEN)
    stack(axes, (left[5], middle), [False] * outputs)
    for row, name in zip(norm[0], "γβμσ", strict=True):
        label(axes, (row.centre[0], norm[0][0].y - 16), name)
    for lost, *row in zip(gone, first, norm, maps, strict=True):
        kernels, numbers, after = row
        colour = RED if lost else GREY
        arrow(axes, kernels[-1].right(), numbers[0].left(), colour=colour)
        arrow(axes, numbers[-1].right(), after.left(), colour=colour)
    below, turn, y = second[0][cut], left[4] - space / 2, second[0][cut].y - 30
    start = maps[cut].right()
    arrow(axes, start, (turn, start[1]), (turn, y), (below.centre[0], y), below.top(), colour=RED)
    for k in (0, 4):
        end = left[k] + 30 * columns[k] - 4
        arrow(axes, (end + 12, middle), (left[k + 1] - 12, middle), colour=GREY)
    titles = ("input", "conv 1", "batch norm", "ReLU", "conv 2", "output")
    notes = ("cut:", "its filter,\na row", "its four\nnumbers", "its map", "its kernel\nin each filter", "")
    for x, n, title, note in zip(left, columns, titles, notes, strict=True):
        label(axes, (x + 15 * n - 2, 24), title, weight="bold", size=LARGE)
        label(axes, (x + 15 * n - 2, 296), note, size=SMALL, color=RED)
    return figure


@styled
def gamma_scaling(gammas: Sequence[float] = (1.1, 0.04, 0.7, 0.02, 0.9), *, threshold: float = 0.1) -> Figure:
    r"""Draw how gamma scales each channel, and that channels with a small one can be cut.

    .. math:: y_c = \gamma_c\, \hat{x}_c + \beta_c

    Args:
        gammas: two to six, the scale of each channel.
        threshold: channels with a smaller absolute gamma are cut; above 0.

    Raises:
        ValueError: numbers are not finite, too many, or all channels would go.

    Example:
        >>> gamma_scaling((1, 0.01), threshold=0.05).get_label().split(". ")[-1]
        'Those whose gamma is below the threshold of 0.05 are cut: 1 of 2.'

    References:
        Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", 2017, figure 1.
    """
    need(2 <= len(gammas) <= 6 and finite(gammas), "gammas must be two to six numbers", gammas)
    need(
        0 < threshold < max(map(abs, gammas)), "threshold must lie between 0 and the largest gamma", threshold
    )
    gone = [abs(gamma) < threshold for gamma in gammas]
    figure, axes = canvas(
        96 + 36 * len(gammas),
        f"Batch norm scales each of {len(gammas)} channels by its gamma: {', '.join(f'{g:g}' for g in gammas)}. Those "
        f"whose gamma is below the threshold of {threshold:g} are cut: {sum(gone)} of {len(gammas)}.",
    )
    middle, unit, zero = 54 + 18 * len(gammas), 170 / max(map(abs, gammas)), 226
    bottom = middle + 18 * len(gammas)
    given = stack(axes, (60, middle), [False] * len(gammas), colour=GREY)
    for start, gamma, cut in zip(given, gammas, gone, strict=True):
        y, share = start.centre[1], abs(gamma) / max(map(abs, gammas))
        colour = GREY if cut else ORANGE
        label(axes, (144, y), "×", size=LARGE)
        label(axes, (212, y), f"{gamma:g}".replace("-", "−"), ha="right", color=RED if cut else BLACK)
        bar = Box(zero, y - 9, max(abs(gamma) * unit, 1), 18)
        rectangle(axes, bar, edge=colour, fill=tint(colour, 0.6))
        arrow(axes, (420, y), (462, y), colour=GREY)
        channel(axes, Box(480, start.y, 26, 26), cut=cut, share=0.1 + 0.6 * share)
    edge = zero + threshold * unit
    line(axes, (edge, 48), (edge, bottom + 6), colour=RED, linestyle="--", linewidth=1.5)
    label(axes, (edge, bottom + 20), f"threshold {threshold:g}", size=SMALL, color=RED)
    arrow(axes, (536, middle), (604, middle))
    label(axes, (568, middle - 14), "cut", size=SMALL)
    stack(axes, (633, middle), [False] * (len(gammas) - sum(gone)), share=0.5)
    for x, title in ((73, "normalized"), (zero + 85, "gamma"), (493, "scaled"), (646, "pruned")):
        label(axes, (x, 24), title, weight="bold", size=LARGE)
    return figure


@styled
def residual_addition(*, channels: int = 4, cut: int = 1) -> Figure:
    """Draw a residual block: an addition ties its channels, so that one is cut on both sides or on none.

    Args:
        channels: of the block, two to five.
        cut: which one goes, counted from 0.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> residual_addition(channels=3, cut=0).get_label().split(". ")[-1]
        'Channel 1 of 3 can only be cut in all three at once.'
    """
    need(2 <= channels <= 5, "channels must be two to five", channels)
    need(0 <= cut < channels, f"cut must be one of the {channels} channels, counted from 0", cut)
    figure, axes = canvas(
        134 + 36 * channels,
        "A residual block adds its input to what its branch computes. The addition ties the channels of the input, of "
        "the branch's end and of the sum; those inside the branch are free. "
        f"Channel {cut + 1} of {channels} can only be cut in all three at once.",
    )
    middle, gone = 62 + 18 * channels, [number == cut for number in range(channels)]
    top, bottom = middle - 18 * channels, middle + 18 * channels
    given, branch, total = (stack(axes, (x, middle), gone) for x in (40, 486, 654))
    stack(axes, (264, middle), [False] * channels, colour=GREEN)
    first = box(axes, Box(118, middle - 38, 100, 76), "conv", "batch norm,\nReLU")
    second = box(axes, Box(342, middle - 38, 100, 76), "conv", "batch norm")
    plus = box(axes, Box(562, middle - 17, 34, 34), "+")
    ends = (66, first.x, first.right()[0], 264, 290, second.x, second.right()[0], 486, 512, plus.x, 596, 654)
    for begin, end in zip(ends[::2], ends[1::2], strict=True):
        arrow(axes, (begin + 5, middle), (end - 3, middle))
    arrow(axes, (90, middle), (90, top - 30), (plus.centre[0], top - 30), plus.top())
    label(axes, (335, top - 44), "the input, unchanged", size=SMALL)
    for x, title in ((53, "x"), (277, "inside"), (499, "F(x)"), (667, "x + F(x)")):
        label(axes, (x, top - 10), title, weight="bold")
    label(axes, (277, bottom + 12), "free", size=SMALL, color=GREEN)
    for tied in (given, branch, total):
        line(
            axes,
            (tied[-1].centre[0], bottom + 6),
            (tied[-1].centre[0], bottom + 34),
            colour=RED,
            linewidth=1.5,
        )
    line(axes, (53, bottom + 34), (667, bottom + 34), colour=RED, linewidth=1.5)
    label(axes, (360, bottom + 52), "tied: cut in all three or in none", color=RED)
    return figure
