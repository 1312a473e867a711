"""Diagrams of distillation: who teaches whom, and what a temperature does."""

import math
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from course_lib.plots._drawing import (
    BLUE,
    GREEN,
    GREY,
    LARGE,
    ORANGE,
    RED,
    SKY,
    SMALL,
    WIDTH,
    Box,
    Point,
    arrow,
    box,
    canvas,
    finite,
    label,
    line,
    need,
    rectangle,
    tint,
)
from course_lib.plots.style import styled

_CLASSES = ("tiger", "cat", "car")
_COLOURS = (BLUE, GREEN, ORANGE, SKY)


@styled
def teacher_and_student(*, temperature: float = 4, alpha: float = 0.1) -> Figure:
    r"""Draw a step of distillation: both networks, both losses, and the gradients, which reach the student alone.

    .. math:: L = (1 - \alpha)\, T^2\, \mathrm{KL}(p^T \,\|\, q^T) + \alpha\, \mathrm{CE}(q, y)

    Args:
        temperature: T > 0, of the soft targets.
        alpha: weight of the labels, in [0, 1].

    Raises:
        ValueError: temperature or alpha are out of range.

    Example:
        >>> teacher_and_student(temperature=2, alpha=0.5).get_label().split(". ")[0]
        'Images go into a frozen teacher and a student'
    """
    need(finite([temperature]) and temperature > 0, "temperature must be a positive number", temperature)
    need(0 <= alpha <= 1, "alpha must lie in [0, 1]", alpha)
    figure, axes = canvas(
        390,
        "Images go into a frozen teacher and a student. The KL divergence between their softmaxes at "
        f"T = {temperature:g}, times (1 - alpha) T squared, is the soft loss; the cross-entropy with the hard label, "
        f"times alpha = {alpha:g}, the hard loss. Gradients flow from their sum into the student only.",
    )
    teacher = box(axes, Box(128, 24, 124, 84), "teacher", "frozen,\neval mode", colour=BLUE)
    student = box(axes, Box(128, 148, 124, 136), "student", "trained", colour=GREEN)
    soft = box(axes, Box(296, 38, 134, 56), "soft targets", f"softmax at T = {temperature:g}", colour=BLUE)
    own = box(axes, Box(296, 148, 134, 56), "", f"softmax at T = {temperature:g}", colour=GREEN)
    plain = box(axes, Box(296, 228, 134, 56), "", "softmax at T = 1", colour=GREEN)
    truth = box(axes, Box(296, 308, 134, 44), "hard label")
    factor = f"= {1 - alpha:.2g} · {temperature**2:.3g} = {(1 - alpha) * temperature**2:.3g}"
    kl = box(axes, Box(474, 38, 138, 166), "soft loss", f"KL divergence\ntimes (1 − α) T²\n{factor}")
    ce = box(axes, Box(474, 228, 138, 124), "hard loss", f"cross-entropy\ntimes α = {alpha:.3g}")
    total = box(axes, Box(652, 38, 56, 314), "loss", "sum of\nboth")
    for number in (2, 1, 0):
        rectangle(axes, Box(22 + 7 * number, 122 - 7 * number, 46, 46), fill=tint(GREY, 0.12))
    label(axes, (52, 186), "images")
    arrow(axes, (84, 132), (106, 132), (106, 66), teacher.left())
    arrow(axes, (84, 132), (106, 132), (106, 216), student.left())
    arrow(axes, teacher.right(), soft.left())
    arrow(axes, soft.right(), (kl.x, soft.centre[1]))
    arrow(axes, truth.right(), (ce.x, truth.centre[1]))
    for there in (own, plain):
        loss, y = (kl if there is own else ce), there.centre[1]
        _both_ways(axes, (student.x + student.width, y), there.left())
        _both_ways(axes, there.right(), (loss.x, y))
    for loss in (kl, ce):
        _both_ways(axes, loss.right(), (total.x, loss.centre[1]))
    label(axes, (363, 121), "no gradient into the teacher", size=SMALL, color=GREY)
    arrow(axes, (22, 366), (62, 366))
    label(axes, (70, 366), "forward", size=SMALL, ha="left")
    arrow(axes, (182, 366), (142, 366), gradient=True)
    label(axes, (190, 366), "gradient", size=SMALL, ha="left")
    return figure


def _both_ways(axes: Axes, begin: Point, end: Point) -> None:
    """A value forward, its gradient back below it."""
    arrow(axes, (begin[0], begin[1] - 8), (end[0], end[1] - 8))
    arrow(axes, (end[0], end[1] + 8), (begin[0], begin[1] + 8), gradient=True)


@styled
def softmax_at_temperatures(
    logits: Sequence[float] = (6, 3, -3),
    classes: Sequence[str] = _CLASSES,
    *,
    temperatures: Sequence[float] = (1, 4, 16),
) -> Figure:
    r"""Draw the same logits divided by each temperature, and below them their softmax.

    .. math:: q_i = \frac{\exp(z_i / T)}{\sum_j \exp(z_j / T)}

    Args:
        logits: two to four numbers.
        classes: a short name for each.
        temperatures: one to three, above 0.

    Raises:
        ValueError: numbers are not finite, too many, or names are missing.

    Example:
        >>> softmax_at_temperatures((2, 0), ("cat", "car"), temperatures=[1, 2]).get_label().split(". ")[-1]
        'Divided by T, then softmax, at T = 1: 88%, 12%; at T = 2: 73%, 27%.'
    """
    need(2 <= len(logits) <= 4 and finite(logits), "logits must be two to four numbers", logits)
    need(len(classes) == len(logits), f"classes must be {len(logits)} names", classes)
    right = 1 <= len(temperatures) <= 3 and finite(temperatures) and min(temperatures) > 0
    need(right, "temperatures must be one to three positive numbers", temperatures)
    shares = {t: _softmax([z / t for z in logits]) for t in temperatures}
    listed = "; at ".join(f"T = {t:g}: {', '.join(f'{q:.0%}' for q in row)}" for t, row in shares.items())
    named = f"Logits of {', '.join(classes)}: {', '.join(f'{z:g}' for z in logits)}."
    figure, axes = canvas(382, f"{named} Divided by T, then softmax, at {listed}.")
    pitch = (WIDTH - 30) / (1 + len(temperatures))
    low, high = (pick(*logits, 0) / min(1, *temperatures) for pick in (min, max))
    unit = 84 / max(high - low, 1e-9)  # pixels
    zero = 88 + high * unit
    given, *panels = (Box(15 + number * pitch, 0, pitch, 0) for number in range(1 + len(temperatures)))
    label(axes, (given.centre[0], 24), "logits z", weight="bold", size=LARGE)
    _bars(axes, given, zero, unit, [f"{z:.2g}" for z in logits], logits)
    _names(axes, given, 202, classes)
    label(axes, (given.centre[0], 300), "The higher T, the more\nthe small logits count.", size=SMALL)
    for place, t in zip(panels, temperatures, strict=True):
        middle, divided = place.centre[0], [z / t for z in logits]
        label(axes, (middle, 24), f"T = {t:g}", weight="bold", size=LARGE)
        label(axes, (middle, 46), f"z / {t:g}")
        _bars(axes, place, zero, unit, [f"{z:.2g}" for z in divided], divided)
        arrow(axes, (middle, 200), (middle, 228))
        label(axes, (middle + 12, 214), "softmax", size=SMALL, ha="left")
        _bars(axes, place, 340, 80, [f"{q:.0%}" if q >= 0.01 else "< 1%" for q in shares[t]], shares[t])
        _names(axes, place, 358, classes)
    return figure


def _centres(place: Box, count: int) -> list[float]:
    """Where bars stand in a panel."""
    return [place.x + 20 + (number + 0.5) * (place.width - 40) / count for number in range(count)]


def _names(axes: Axes, place: Box, y: float, names: Sequence[str]) -> None:
    for x, name in zip(_centres(place, len(names)), names, strict=True):
        label(axes, (x, y), name, size=SMALL)


def _bars(
    axes: Axes, place: Box, zero: float, unit: float, texts: Sequence[str], values: Sequence[float]
) -> None:
    """A row of bars with their values, `unit` pixels for a 1, up from `zero` or down."""
    for x, text, value, colour in zip(_centres(place, len(values)), texts, values, _COLOURS, strict=False):
        height = value * unit
        rectangle(axes, Box(x - 11, zero - height, 22, height), edge=colour, fill=tint(colour, 0.6))
        away = -10 if value >= 0 else 11
        label(axes, (x, zero - height + away), text.replace("-", "−"), size=SMALL)
    line(axes, (place.x + 14, zero), (place.x + place.width - 14, zero))


def _softmax(values: Sequence[float]) -> list[float]:
    powers = [math.exp(value - max(values)) for value in values]
    return [power / sum(powers) for power in powers]


@styled
def solution_spaces() -> Figure:
    """Draw why a teacher may help: what a large and a small network can express, and where each ends.

    Alone, the student ends somewhere in its own space; the teacher's answer pulls it towards itself. The picture is an
    analogy: nothing in it was measured, and functions of a network have no such map.

    Example:
        >>> solution_spaces().get_label().split(". ")[0]
        'A large ellipse, what the teacher can express, overlaps a smaller one, what the student can'
    """
    figure, axes = canvas(
        330,
        "A large ellipse, what the teacher can express, overlaps a smaller one, what the student can. Alone the "
        "student ends far from the teacher's answer; distilled, it ends inside its own ellipse, near that answer.",
    )
    _region(axes, (254, 165), 480, 290, BLUE, 0.12)
    _region(axes, (504, 178), 400, 230, GREEN, 0.14)
    for place, colour, text, away in (
        ((170, 178), BLUE, "teacher's answer", 32),
        ((606, 192), GREEN, "student alone", 32),
        ((394, 172), RED, "distilled", -30),
    ):
        _region(axes, place, 44, 30, colour, 0.5)
        label(axes, (place[0], place[1] + away), text, color=colour, weight="bold")
    arrow(axes, (578, 189), (424, 174), colour=RED)
    label(axes, (396, 204), "pull of the teacher", size=SMALL, color=RED)
    label(axes, (200, 76), "what the teacher can express", color=BLUE)
    label(axes, (580, 112), "what the student can", color=GREEN)
    return figure


def _region(axes: Axes, centre: Point, width: float, height: float, colour: str, share: float) -> None:
    """An ellipse; what lies below it shows through."""
    how = {"facecolor": colour, "alpha": share, "linewidth": 0}
    axes.add_patch(mpl.patches.Ellipse(centre, width, height, **how))
    axes.add_patch(mpl.patches.Ellipse(centre, width, height, fill=False, edgecolor=colour, linewidth=1.5))
