"""Diagrams of judging pruned networks: the funnel of EagleEye, and what old batch-norm statistics do."""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from course_lib.plots._drawing import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LARGE,
    RED,
    SMALL,
    WIDTH,
    Box,
    Point,
    arrow,
    canvas,
    finite,
    label,
    line,
    need,
    rectangle,
    tint,
)
from course_lib.plots.style import styled

_STEPS = {
    "draw": "random ratios\nfor the layers",
    "prune": "those of the\nright cost",
    "recalibrate": "new batch-norm\nstatistics",
    "score": "held-out data,\nno training",
    "pick": "the best\nscore",
    "fine-tune": "train what\nwas picked",
}
_COLUMNS, _SPACING = 7, 11  # dots in the funnel, pixels between them


@styled
def eagleeye_funnel(counts: Sequence[int] = (500, 60, 60, 60, 1, 1)) -> Figure:
    """Draw the search of EagleEye as a funnel: draw many strategies, prune, recalibrate, score, pick, fine-tune.

    Args:
        counts: candidates in each of the six steps, none more than in the step before.

    Raises:
        ValueError: the counts are not six, grow, or fall below 1.

    Example:
        >>> eagleeye_funnel((40, 40, 40, 40, 3, 1)).get_label().split(": ")[-1]
        'draw 40, prune 40, recalibrate 40, score 40, pick 3, and fine-tune 1.'

    References:
        Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning", 2020, figure 3.
    """
    right = len(counts) == len(_STEPS) and list(counts) == sorted(counts, reverse=True) and min(counts) >= 1
    need(right, "counts must be six numbers of candidates that do not grow", counts)
    listed = [f"{step} {count}" for step, count in zip(_STEPS, counts, strict=True)]
    words = f"{', '.join(listed[:-1])}, and {listed[-1]}"
    figure, axes = canvas(308, f"A funnel of pruning candidates in six steps: {words}.")
    pitch, middle = (WIDTH - 20) / len(_STEPS), 144
    heights = [24 + 150 * math.log(count) / max(math.log(counts[0]), 1e-9) for count in counts]
    for number, ((step, note), count) in enumerate(zip(_STEPS.items(), counts, strict=True)):
        x, half = 10 + number * pitch, heights[number] / 2
        after = heights[min(number + 1, len(heights) - 1)] / 2
        colour = GREEN if number >= 4 else BLUE
        corners = [(x + 4, -half), (x + pitch - 22, -half), (x + pitch - 4, -after)]
        outline = [(a, middle + b) for a, b in corners] + [(a, middle - b) for a, b in reversed(corners)]
        axes.fill(*zip(*outline, strict=True), facecolor=tint(colour), edgecolor=colour, linewidth=1.5)
        aside = 8 if after < half else 0
        _dots(axes, (x + pitch / 2 - aside, middle), heights[number] - 10, count, colour)
        label(axes, (x + pitch / 2, 20), f"{count:,}", weight="bold", size=LARGE)
        label(axes, (x + pitch / 2, 38), "candidates" if count > 1 else "candidate", size=SMALL)
        label(axes, (x + pitch / 2, 252), f"{number + 1}. {step}", weight="bold")
        label(axes, (x + pitch / 2, 282), note, size=SMALL)
    return figure


def _dots(axes: Axes, centre: Point, height: float, count: int, colour: str) -> None:
    """As many dots as there are candidates, or as have room, in the rows that leave the fewest gaps."""
    most = max(1, int(height / _SPACING))
    count = min(count, most * _COLUMNS)
    fitting = [columns for columns in range(1, _COLUMNS + 1) if math.ceil(count / columns) <= most]
    columns = min(fitting, key=lambda columns: -count % columns)
    places = np.arange(count)
    x = centre[0] + _SPACING * (places % columns - (columns - 1) / 2)
    y = centre[1] + _SPACING * (places // columns - (math.ceil(count / columns) - 1) / 2)
    axes.plot(x, y, "o", color=colour, markersize=4)


@styled
def batch_norm_statistics(
    *, before: tuple[float, float] = (2.5, 1.5), after: tuple[float, float] = (0.7, 0.8)
) -> Figure:
    r"""Draw what batch norm makes of a pruned network's activations, with old and with new statistics.

    Pruning took inputs away, so the mean and the standard deviation of a channel moved. With the old ones nearly all
    values lie below zero, where the ReLU cuts them off.

    .. math:: \hat{x} = (x - \mu) / \sigma

    Args:
        before: mean and standard deviation of a channel before pruning: what batch norm has stored.
        after: the same in the pruned network. Activations are drawn as a normal distribution.

    Raises:
        ValueError: numbers are not finite, or a standard deviation is not above 0.

    Example:
        >>> batch_norm_statistics(before=(2, 1), after=(0, 1)).get_label().split(". ")[-1]
        'With the old statistics 2% pass the ReLU, with recalibrated ones 50%.'
    """
    for name, pair in (("before", before), ("after", after)):
        right = len(pair) == 2 and finite(pair) and pair[1] > 0
        need(right, f"{name} must be a mean and a standard deviation above 0", pair)
    rows = {"old statistics": before, "recalibrated": after}
    passing = [1 - NormalDist((after[0] - m) / s, after[1] / s).cdf(0) for m, s in rows.values()]
    figure, axes = canvas(
        406,
        "Activations of a channel of a pruned network: as they are, after batch norm, after the ReLU. With the old "
        f"statistics {passing[0]:.0%} pass the ReLU, with recalibrated ones {passing[1]:.0%}.",
    )
    for x, title in ((110, "pruned channel"), (380, "after batch norm"), (610, "after ReLU")):
        label(axes, (x, 24), title, weight="bold", size=LARGE)
    low = min(m - 3 * s for m, s in (before, after))
    high = max(m + 3 * s for m, s in (before, after))
    left = Box(20, 136, 180, 110)
    _bell(axes, left, before, (low, high), GREY, outline=True)
    _bell(axes, left, after, (low, high), BLUE)
    label(axes, (110, 284), f"now: mean {after[0]:g}, std {after[1]:g}", size=SMALL, color=BLUE)
    label(axes, (110, 304), f"before: mean {before[0]:g}, std {before[1]:g}", size=SMALL, color=GREY)
    reach = max(4, *(abs(after[0] - m) / s + 3 * after[1] / s for m, s in rows.values()))
    line(axes, (214, left.centre[1]), (240, left.centre[1]), colour=BLACK, linewidth=1.5)
    for y, colour, (name, (m, s)), share in zip((74, 266), (RED, GREEN), rows.items(), passing, strict=True):
        middle, right = Box(290, y, 180, 84), Box(520, y, 180, 84)
        arrow(axes, (240, left.centre[1]), (240, y + 60), (276, y + 60))
        arrow(axes, (482, y + 60), (510, y + 60))
        scaled = (after[0] - m) / s, after[1] / s
        _bell(axes, middle, scaled, (-reach, reach), colour, negative=GREY)
        _bell(axes, right, scaled, (-reach, reach), colour, cut=1 - share)
        label(axes, (380, y - 16), name, color=colour, weight="bold")
        label(axes, (380, y + 120), f"(x − {m:g}) / {s:g}", size=SMALL)
        label(axes, (610, y + 120), f"{share:.0%} pass the ReLU", color=colour, weight="bold")
    return figure


def _bell(
    axes: Axes,
    place: Box,
    normal: tuple[float, float],
    reach: tuple[float, float],
    colour: str,
    *,
    negative: str = "",
    cut: float | None = None,
    outline: bool = False,
) -> None:
    """A normal distribution over an axis with its zero; values below it in another colour, or cut to zero."""
    # Most of the points where the curve bends: a picture of text that a page can bear.
    near = normal[0] + normal[1] * np.linspace(-3, 3, 41)
    values = np.unique(np.clip([*np.linspace(*reach, 50), *near], *reach))
    base = place.y + place.height
    x = place.x + place.width * (values - reach[0]) / (reach[1] - reach[0])
    y = base - place.height * np.exp(-(((values - normal[0]) / normal[1]) ** 2) / 2)
    zero = place.x + place.width * -reach[0] / (reach[1] - reach[0])
    if outline:
        line(axes, *zip(x, y, strict=True), linestyle="--")
    below = values < (0 if negative or cut is not None else -np.inf)
    for part, shade in ((below, negative), (~below, colour)):
        if shade and not outline:
            axes.fill_between(x[part], y[part], base, facecolor=tint(shade, 0.5), linewidth=0)
            line(axes, *zip(x[part], y[part], strict=True), colour=shade, linewidth=1.5)
    if cut is not None:
        height = place.height * cut
        rectangle(axes, Box(zero - 10, base - height, 10, height), fill=tint(GREY, 0.5))
    line(axes, (place.x, base), (place.x + place.width, base), colour=BLACK)
    line(axes, (zero, base), (zero, base + 5), colour=BLACK)
    if not outline:
        label(axes, (zero, base + 14), "0", size=SMALL)
