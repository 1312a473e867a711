"""Figures of quantization: number lines, maps to integers, thresholds."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from course_lib.plots.style import COLOURS, styled


@styled
def number_lines(lines: Mapping[str, Sequence[float]], *, xlabel: str, title: str = "") -> Figure:
    """Draw the numbers of a format as strokes, a row for each format.

    Chapter 06 draws it.

    Args:
        lines: {label: numbers}.
        xlabel: of the shared axis.
        title: one line.
    """
    figure = Figure(figsize=(7.2, 0.9 + 0.55 * len(lines)))
    axis = figure.subplots()
    for row, values in enumerate(lines.values()):
        colour = COLOURS[row % len(COLOURS)]
        axis.eventplot(list(values), lineoffsets=row, linelengths=0.6, linewidths=0.8, colors=colour)
    axis.set_yticks(range(len(lines)), list(lines), fontsize=10)
    axis.set(xlabel=xlabel, title=title, ylim=(len(lines) - 0.5, -0.5))
    axis.grid(visible=False)
    return figure


@styled
def integer_maps(panels: Mapping[str, tuple[Sequence[float], Sequence[int], float, int, int, int]]) -> Figure:
    r"""Draw how quantization maps real numbers, above, to integers, below.

    An integer q stands at :math:`\text{scale} \, (q - \text{zero point})`. A vertical line is a number without error;
    the slant of a line is the error. Grey strokes are all integers from the lowest to the highest.

    Chapter 06 draws it.

    Args:
        panels: {title: (numbers, their integers, scale, zero point, lowest integer, highest integer)}.
    """
    figure = Figure(figsize=(7.2, 1.75 * len(panels)))
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for number, (axis, (name, panel)) in enumerate(zip(axes, panels.items(), strict=True)):
        values, integers, scale, zero_point, lowest, highest = panel
        colour = COLOURS[number % len(COLOURS)]
        steps = np.arange(lowest, highest + 1)
        axis.eventplot(
            (steps - zero_point) * scale, lineoffsets=0, linelengths=0.16, linewidths=0.8, colors="#999999"
        )
        for value, integer in zip(values, integers, strict=True):
            place = (integer - zero_point) * scale
            axis.plot([value, place], [1, 0], color=colour, linewidth=1.2)
            axis.plot(value, 1, "o", color=colour, markersize=5)
            axis.text(value, 1.12, f"{value:g}", ha="center", va="bottom", fontsize=9)
        for integer in sorted({*integers, lowest, highest, zero_point}):
            place = (integer - zero_point) * scale
            axis.text(place, -0.14, str(integer), ha="center", va="top", fontsize=9)
        axis.set_yticks([0, 1], ["integer", "real"], fontsize=9)
        axis.set(ylim=(-0.5, 1.5))
        axis.set_title(name, fontsize=10, loc="left")
        axis.tick_params(labelsize=9)
        axis.grid(visible=False)
        axis.spines["left"].set_visible(False)
    axes[-1].set_xlabel("real number", fontsize=10)
    return figure


@styled
def histogram_with_thresholds(
    panels: Mapping[str, tuple[Sequence[int], float, Mapping[str, float]]], *, xlabel: str = "|activation|"
) -> Figure:
    """Draw histograms with logarithmic counts, and the threshold of each method as a line.

    Chapter 06 draws it.

    Args:
        panels: {panel title: (counts, width of a bin, {method: threshold})}, one above the other.
        xlabel: name of the counted quantity.
    """
    figure = Figure(figsize=(7.2, 0.6 + 2.4 * len(panels)))
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axis, (name, (counts, width, thresholds)) in zip(axes, panels.items(), strict=True):
        axis.stairs(counts, np.arange(len(counts) + 1) * width, fill=True, color="#BBBBBB")
        for number, (method, threshold) in enumerate(thresholds.items()):
            colour, style = COLOURS[number % len(COLOURS)], ("-", "--", "-.", ":")[number % 4]
            axis.axvline(threshold, color=colour, linestyle=style, label=f"{method}: {threshold:.2f}")
        axis.set(yscale="log", ylabel="values", ylim=(0.6, None), xlim=(0, len(counts) * width * 1.02))
        axis.set_title(name, fontsize=10, loc="center")
        axis.legend(fontsize=9, loc="center left", bbox_to_anchor=(1.01, 0.5))  # lines may stand anywhere
    axes[-1].set_xlabel(xlabel)
    return figure


@styled
def threshold_curves(
    panels: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float], Mapping[str, float]]],
    *,
    xlabel: str,
    ylabel: str,
) -> Figure:
    """Draw what rounding and clipping cost over the threshold, and their sum, with the threshold of each method.

    Errors are root mean squares: the squares of the two add up to that of the sum. Methods have the colours of
    `histogram_with_thresholds`.

    Chapter 06 draws it.

    Args:
        panels: {panel title: (thresholds, errors of rounding, errors of clipping, {method: threshold})}, side by side,
            each with a vertical axis of its own.
        xlabel: with its unit.
        ylabel: with its unit.
    """
    figure = Figure(figsize=(7.2, 3.4))
    axes = figure.subplots(1, len(panels), sharex=True, squeeze=False)[0]
    for axis, (name, (cuts, rounding, clipping, thresholds)) in zip(axes, panels.items(), strict=True):
        together = np.hypot(rounding, clipping)
        for label, values, style in (("rounding", rounding, "--"), ("clipping", clipping, ":")):
            axis.plot(cuts, values, style, color="#777777", label=label, marker="")
        axis.plot(cuts, together, color="black", label="together", marker="")
        for number, (method, threshold) in enumerate(thresholds.items()):
            colour, style = COLOURS[number % len(COLOURS)], ("-", "--", "-.", ":")[number % 4]
            axis.axvline(threshold, color=colour, linestyle=style, linewidth=1.4, label=method)
        axis.set_ylim(0, 2.5 * float(np.max(rounding)) if np.max(rounding) > 0 else None)
        axis.set_title(name, fontsize=10, loc="center")
        axis.tick_params(labelsize=9)
    axes[0].set_ylabel(ylabel)
    figure.supxlabel(xlabel, fontsize=11)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, fontsize=9)
    return figure
