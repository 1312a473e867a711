"""Diagrams of integers: the map to them, arithmetic with them, and the gradient of rounding."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from course_lib.plots._drawing import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LARGE,
    ORANGE,
    RED,
    SMALL,
    Box,
    arrow,
    box,
    canvas,
    cell,
    finite,
    label,
    line,
    need,
    tint,
)
from course_lib.plots.style import styled

_LOWEST, _HIGHEST = -128, 127


@styled
def saturation(
    values: Sequence[float] = (-1.5, -0.9, -0.4, 0.2, 0.7, 1.2, 6.0), *, threshold: float = 1.6
) -> Figure:
    """Draw two maps from float to int8: one that keeps the largest value, and one that cuts at a threshold.

    Without saturation the largest absolute value becomes 127, and one outlier makes all steps wide. With it the
    threshold becomes 127; what lies beyond it becomes 127 or -127 too.

    Args:
        values: numbers to map, not all 0.
        threshold: from 20 % of the largest absolute value up to less than it.

    Raises:
        ValueError: values are not finite, or the threshold is out of range.

    Example:
        >>> saturation((-1, 4), threshold=2).get_label().split(". ")[-1]
        'With it the threshold, 2, becomes 127, a step is 0.016 wide, and 1 of 2 values saturate.'

    References:
        Migacz, "8-bit Inference with TensorRT", GTC 2017.
    """
    need(len(values) > 0 and finite(values) and any(values), "values must be numbers, not all 0", values)
    largest = max(map(abs, values))
    need(
        0.2 * largest <= threshold < largest,
        f"threshold must lie in [{0.2 * largest:g}, {largest:g})",
        threshold,
    )
    beyond = sum(abs(value) > threshold for value in values)
    figure, axes = canvas(
        274,
        f"Two maps from float to int8. Without saturation the largest value, {largest:g}, becomes 127, and a step is "
        f"{largest / 127:.2g} wide. With it the threshold, {threshold:g}, becomes 127, a step is "
        f"{threshold / 127:.2g} wide, and {beyond} of {len(values)} values saturate.",
    )
    for x, title, limit in ((40, "no saturation", largest), (400, "saturation", threshold)):
        _map_to_int8(axes, Box(x, 86, 280, 104), values, largest, limit)
        label(axes, (x + 140, 24), title, weight="bold", size=LARGE)
        label(axes, (x + 140, 246), f"one step = {limit / 127:.2g}")
    return figure


def _map_to_int8(axes: Axes, place: Box, values: Sequence[float], largest: float, limit: float) -> None:
    """A line of floats above a line of integers; both reach over the whole width."""
    zero, half = place.centre[0], place.width / 2
    top, bottom = place.y, place.y + place.height
    inner = half * limit / largest
    corners = [(zero - inner, top), (zero + inner, top), (zero + half, bottom), (zero - half, bottom)]
    axes.fill(*zip(*corners, strict=True), facecolor=tint(BLUE, 0.12), linewidth=0)
    for y, ends in ((top, (-largest, 0, largest)), (bottom, (-127, 0, 127))):
        line(axes, (zero - half, y), (zero + half, y), colour=BLACK)
        for x, number in zip((zero - half, zero, zero + half), ends, strict=True):
            line(axes, (x, y - 4), (x, y + 4), colour=BLACK)
            away = -16 if y == top else 17
            label(axes, (x, y + away), _text(number, 3), size=SMALL)
    if limit < largest:
        for side in (-1, 1):
            label(axes, (zero + side * inner, top - 33), _text(side * limit, 3), size=SMALL, color=RED)
            line(axes, (zero + side * inner, top - 24), (zero + side * inner, top + 4), colour=RED)
    for value in values:
        x, level = zero + half * value / largest, round(np.clip(value / limit, -1, 1) * 127)
        colour = RED if abs(value) > limit else BLUE
        arrow(axes, (x, top), (zero + half * level / 127, bottom), colour=colour, mutation_scale=8)
        axes.plot(x, top, "o", color=colour, markersize=5)


def _text(number: float, digits: int = 4) -> str:
    """With a minus sign as long as the plus; a fraction with few digits."""
    return (f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.{digits}g}").replace("-", "−")


@styled
def integer_arithmetic(
    inputs: Sequence[int] = (87, -12, 45),
    weights: Sequence[int] = (33, 101, -20),
    *,
    multiplier: float = 0.05,
) -> Figure:
    r"""Draw how a layer computes with integers: int8 times int8, summed in int32, requantized to int8.

    .. math:: q_y = \mathrm{clamp}(\mathrm{round}(M \sum_i q_{x,i} q_{w,i})), \qquad M = s_x s_w / s_y

    Zero points and the bias are left out; zero points are 0 in symmetric quantization.

    Args:
        inputs: two to four int8 numbers.
        weights: as many.
        multiplier: M, above 0.

    Raises:
        ValueError: numbers are no int8, lists differ in length, or M is not above 0.

    Example:
        >>> integer_arithmetic((10, 20), (3, -4), multiplier=0.5).get_label().split(". ")[-1]
        'Times 0.5 it is -25, which is stored as -25.'

    References:
        Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
        2018, section 2.2.
    """
    for name, numbers in (("inputs", inputs), ("weights", weights)):
        right = 2 <= len(numbers) <= 4 and all(n == int(n) and _LOWEST <= n <= _HIGHEST for n in numbers)
        need(right, f"{name} must be two to four integers from -128 to 127", numbers)
    need(len(inputs) == len(weights), f"weights must be {len(inputs)} numbers", weights)
    need(finite([multiplier]) and multiplier > 0, "multiplier must be a positive number", multiplier)
    total = sum(x * w for x, w in zip(inputs, weights, strict=True))
    scaled = total * multiplier
    stored = int(np.clip(np.rint(scaled), _LOWEST, _HIGHEST))
    figure, axes = canvas(
        84 + 38 * len(inputs),
        f"int8 inputs {', '.join(map(str, inputs))} times int8 weights {', '.join(map(str, weights))}. The int32 "
        f"sum is {total}. Times {multiplier:g} it is {scaled:g}, which is stored as {stored}.",
    )
    middle = 58 + 19 * len(inputs)
    for number, (x, w) in enumerate(zip(inputs, weights, strict=True)):
        y = middle + 38 * (number - (len(inputs) - 1) / 2)
        cell(axes, Box(20, y - 14, 48, 28), _text(x), colour=BLUE)
        label(axes, (84, y), "×", size=LARGE)
        cell(axes, Box(100, y - 14, 48, 28), _text(w), colour=GREEN)
        label(axes, (158, y), "=", ha="left")
        label(axes, (238, y), _text(x * w), ha="right")
        line(axes, (244, y), (254, y))
    line(axes, (254, middle - 19 * (len(inputs) - 1)), (254, middle + 19 * (len(inputs) - 1)))
    arrow(axes, (254, middle), (274, middle), colour=GREY)
    wide = Box(278, middle - 14, 152, 28)
    cell(axes, wide, _text(total), colour=ORANGE)
    for x in (wide.x + 38, wide.x + 76, wide.x + 114):
        line(axes, (x, wide.y), (x, wide.y + 5), colour=ORANGE)
    step = box(axes, Box(464, middle - 34, 144, 68), "requantize", f"× {multiplier:g}, round,\nclamp to int8")
    arrow(axes, wide.right(), step.left())
    end = Box(646, middle - 14, 48, 28)
    cell(axes, end, _text(stored), colour=BLUE)
    arrow(axes, step.right(), end.left())
    titles = ((44, "input"), (124, "weight"), (354, "sum"), (670, "output"))
    for x, title in titles:
        label(axes, (x, 22), title, weight="bold", size=LARGE)
    for x, kind in ((44, "int8"), (124, "int8"), (354, "int32: four bytes"), (670, "int8")):
        label(axes, (x, 42), kind, size=SMALL)
    label(axes, (536, middle + 50), f"{_text(scaled)} becomes {_text(stored)}", size=SMALL)
    return figure


@styled
def straight_through(*, step: float = 0.5, levels: int = 3) -> Figure:
    r"""Draw the staircase of rounding, and the gradient that training puts in place of its own.

    .. math:: \hat{x} = s \cdot \mathrm{clamp}(\mathrm{round}(x / s), -n, n), \qquad
        \frac{\partial \hat{x}}{\partial x} := 1 \text{ where } |\mathrm{round}(x / s)| \le n \text{, else } 0

    Args:
        step: s > 0, the scale.
        levels: n, the largest integer, one to seven.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> straight_through(step=0.25, levels=2).get_label().split(". ")[-1]
        'The straight-through estimator takes 1 where x lies between -0.625 and 0.625, and 0 where it saturates.'

    References:
        Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons for Conditional Computation",
        2013.
    """
    need(finite([step]) and step > 0, "step must be a positive number", step)
    need(1 <= levels <= 7, "levels must be one to seven", levels)
    edge, passes = step * levels, step * (levels + 0.5)
    figure, axes = canvas(
        306,
        f"Rounding to steps of {step:g} is a staircase from {-edge:g} to {edge:g}: flat almost everywhere, so its own "
        "gradient is 0. The straight-through estimator takes 1 where x "
        f"lies between {-passes:g} and {passes:g}, and 0 where it saturates.",
    )
    left, right = Box(36, 52, 290, 200), Box(404, 52, 290, 200)
    for place, title in ((left, "forward: round"), (right, "backward: gradient")):
        label(axes, (place.centre[0], 24), title, weight="bold", size=LARGE)
    _staircase(axes, left, step, levels)
    low, high = right.y + 160, right.y + 50
    inside = [right.centre[0] + side * right.width / 2 * (levels + 0.5) / (levels + 1.5) for side in (-1, 1)]
    line(axes, (right.x, low), right.right(60), colour=BLUE, linewidth=2.5)
    label(axes, (right.centre[0], low - 14), "of the staircase: 0", color=BLUE)
    plateau = [(right.x, low), (inside[0], low), (inside[0], high), (inside[1], high), (inside[1], low)]
    line(axes, *plateau, right.right(60), colour=RED, linewidth=2, linestyle=(0, (3, 1.6)))
    label(axes, (right.centre[0], high - 14), "straight-through: 1", color=RED)
    for x, number in zip(inside, (-passes, passes), strict=True):
        label(axes, (x, low + 16), _text(number), size=SMALL)
    label(axes, (right.centre[0], 284), "where x saturates: 0", size=SMALL, color=RED)
    return figure


def _staircase(axes: Axes, place: Box, step: float, levels: int) -> None:
    """Rounded x over x, with both axes and the line where nothing is rounded."""
    reach = levels + 1.5  # in steps
    across, up = place.width / 2 / reach, place.height / 2 / reach  # pixels of a step
    x, y = place.centre
    line(axes, place.left(), place.right(), linewidth=1)
    line(axes, place.bottom(), place.top(), linewidth=1)
    line(axes, (place.x, place.y + place.height), (place.x + place.width, place.y), linestyle="--")
    turns = [-reach, *(level + 0.5 for level in range(-levels, levels)), reach]
    stairs = []
    for level, ends in zip(range(-levels, levels + 1), pairwise(turns), strict=True):
        stairs += [(x + across * end, y - up * level) for end in ends]
    line(axes, *stairs, colour=BLUE, linewidth=2.5)
    for level in (-levels, levels):
        line(axes, (x + across * level, y - 4), (x + across * level, y + 4), colour=BLACK)
        label(axes, (x + across * level, y + (16 if level > 0 else -16)), _text(step * level), size=SMALL)
    label(axes, (x + 8, place.y - 2), "rounded", size=SMALL, ha="left")
    label(axes, (place.x + place.width + 10, y), "x", size=SMALL)
    label(axes, (x, place.y + place.height + 32), f"steps of {step:g}", size=SMALL)
