"""Figures of measurements over a setting: curves, panels of curves, and a map of two settings."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from course_lib.plots.style import COLOURS, styled
from course_lib.statistics import Interval


@styled
def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    log_x: bool = False,
    log_y: bool = False,
    percent: bool = False,
    colours: Sequence[str] | None = None,
) -> Figure:
    """Draw curves in one panel, each with a marker of its own so that they differ without colour.

    Shared: chapters 00, 01, 02, 03, 04, 06, 07 and 08 draw it.

    Args:
        series: {label: (x values, y values)}.
        xlabel: with its unit.
        ylabel: with its unit.
        title: one line.
        log_x: logarithmic horizontal axis.
        log_y: logarithmic vertical axis.
        percent: show y in [0, 1] as percent.
        colours: of the curves in their order, where they have to agree with another figure; the palette's unless given.
    """
    figure = Figure()
    axis = figure.subplots()
    looks = zip(series.items(), "osD^vPX" * 9, colours or COLOURS * 9, strict=False)
    for (label, (x, y)), marker, colour in looks:
        axis.plot(x, y, label=label, marker=marker, color=colour)
    axis.set(xlabel=xlabel, ylabel=ylabel, title=title)
    if log_x:
        axis.set_xscale("log")
        measured = sorted({value for x, _ in series.values() for value in x})
        axis.set_xticks(measured, [f"{value:,g}" for value in measured])
        axis.set_xticks([], minor=True)
    if log_y:
        axis.set_yscale("log")
    if percent:
        axis.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=0))
    axis.legend()
    return figure


@styled
def heat_map(
    values: Float[np.ndarray, "R C"],
    rows: Sequence[object],
    columns: Sequence[object],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    form: str = "{:.1f}",
) -> Figure:
    """Draw a matrix as colours, with the number in each cell.

    Shared: chapters 01, 02 and 07 draw it.

    Args:
        values: [R, C].
        rows: R labels.
        columns: C labels.
        xlabel: name of the setting across.
        ylabel: name of the setting down.
        title: one line.
        form: format of the numbers.
    """
    figure = Figure(figsize=(7.2, 1.3 + 0.45 * len(rows)))
    axis = figure.subplots()
    picture = axis.imshow(values, aspect="auto")
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for row in range(len(rows)):
        for column in range(len(columns)):
            colour = "black" if values[row, column] > middle else "white"
            text = form.format(values[row, column])
            axis.text(column, row, text, ha="center", va="center", color=colour, fontsize=10)
    axis.set_xticks(range(len(columns)), [str(label) for label in columns])
    axis.set_yticks(range(len(rows)), [str(label) for label in rows])
    axis.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axis.grid(visible=False)
    figure.colorbar(picture, ax=axis)
    return figure


@styled
def interval_lines(
    series: Mapping[str, Mapping[float, Interval]],
    *,
    xlabel: str,
    ylabel: str = "test accuracy",
    title: str = "",
    percent_x: bool = False,
    log_x: bool = False,
    shade: tuple[float, float] | None = None,
) -> Figure:
    """Draw curves of means with their intervals, as percent; the means are in [0, 1].

    Shared: chapters 00, 01, 07 and 08 draw it.

    Args:
        series: {label: {x: interval}}.
        xlabel: with its unit.
        ylabel: with its unit.
        title: one line.
        percent_x: show x in [0, 1] as percent.
        log_x: logarithmic horizontal axis, with a tick at each x; an x of 0 stands one step left of 1.
        shade: from where to where the background is grey.
    """
    figure = Figure(figsize=(7.2, 3.8))
    axis = figure.subplots()
    for (label, points), marker in zip(series.items(), "osD^vPX" * 9, strict=False):
        means = [interval.mean for interval in points.values()]
        errors = [
            [interval.mean - interval.low for interval in points.values()],
            [interval.high - interval.mean for interval in points.values()],
        ]
        axis.errorbar(list(points), means, errors, label=label, marker=marker, capsize=4)
    axis.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axis.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=0))
    if percent_x:
        axis.set_xticks(sorted({x for points in series.values() for x in points}))
        axis.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=0))
    if log_x:
        axis.set_xscale("symlog" if any(0 in points for points in series.values()) else "log")
        axis.set_xticks(sorted({x for points in series.values() for x in points}))
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    if shade is not None:
        axis.axvspan(*shade, color="#eeeeee", zorder=0)
    axis.legend()
    return figure


@styled
def interval_panels(
    panels: Mapping[str, Mapping[str, Mapping[float, Interval]]],
    *,
    xlabel: str,
    ylabel: str = "test accuracy",
    percent_x: bool = True,
    lowest: float = 0.0,
) -> Figure:
    """Draw curves of means with their intervals, as percent, in panels that share both axes and one legend.

    Shared: chapters 02, 04, 06 and 08 draw it.

    Args:
        panels: {panel title: {label: {x: interval}}}, the same labels in each panel.
        xlabel: with its unit.
        ylabel: with its unit.
        percent_x: show x in [0, 1] as percent.
        lowest: accuracy at which the vertical axis begins, in [0, 1).
    """
    figure = Figure(figsize=(7.2, 3.4))
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (name, series) in zip(axes, panels.items(), strict=True):
        for (label, points), marker in zip(series.items(), "osD^vPX" * 9, strict=False):
            means = [interval.mean for interval in points.values()]
            errors = [
                [interval.mean - interval.low for interval in points.values()],
                [interval.high - interval.mean for interval in points.values()],
            ]
            axis.errorbar(
                list(points),
                means,
                errors,
                label=label,
                marker=marker,
                markersize=4,
                linewidth=1.4,
                capsize=2,
            )
        axis.set_title(name, fontsize=10, loc="center")
        axis.set_ylim(lowest, 1 + 0.02 * (1 - lowest))  # an interval may reach further; no accuracy does
        if percent_x:
            axis.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=0))
        else:
            axis.set_xticks(sorted({x for points in series.values() for x in points}))
        axis.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=0))
        axis.tick_params(labelsize=9)
    axes[0].set_ylabel(ylabel)
    axes[len(panels) // 2].set_xlabel(xlabel)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)
    return figure


@styled
def run_panels(
    panels: Mapping[str, Mapping[str, Mapping[float, Sequence[float]]]],
    *,
    xlabel: str,
    ylabel: str = "test accuracy",
) -> Figure:
    """Draw every run as a dot and join the medians, in panels that share both axes and one legend.

    Nothing is averaged, so that runs that fall into two heaps are seen.

    Chapter 03 draws it.

    Args:
        panels: {panel title: {label: {x: one number in [0, 1] for each run}}}, the same labels and x in each panel.
        xlabel: of the shares x, which are shown as percent.
        ylabel: with its unit.
    """
    figure = Figure(figsize=(7.2, 3.6))
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (name, series) in zip(axes, panels.items(), strict=True):
        places = sorted({x for points in series.values() for x in points})
        step = 0.16 * min(np.diff(places), default=1.0)
        for number, ((label, points), marker, colour) in enumerate(
            zip(series.items(), "osD^vPX" * 9, COLOURS * 9, strict=False)
        ):
            aside = step * (number - (len(series) - 1) / 2)  # side by side, not one over another
            for x, values in points.items():
                axis.plot([x + aside] * len(values), values, marker, color=colour, markersize=4, alpha=0.6)
            middle = [np.median(values) for values in points.values()]
            axis.plot(
                np.array(list(points)) + aside, middle, color=colour, marker=marker, markersize=0, label=label
            )
        axis.set_title(name, fontsize=10, loc="center")
        axis.set_ylim(0, 1.02)
        axis.set_xticks(places)
        axis.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=0))
        axis.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=0))
        axis.tick_params(labelsize=9)
    axes[0].set_ylabel(ylabel)
    axes[len(panels) // 2].set_xlabel(xlabel)
    handles, labels = axes[0].get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)
    for line in legend.get_lines():
        line.set_markersize(5)
    return figure


@styled
def line_panels(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]], *, xlabel: str, ylabel: str
) -> Figure:
    """Draw curves in panels side by side that share both axes, each curve with a marker of its own.

    The horizontal axis is logarithmic.

    Chapter 05 draws it.

    Args:
        panels: {panel title: {label: (x values, y values)}}; each panel has the same labels.
        xlabel: with its unit.
        ylabel: with its unit.
    """
    figure = Figure(figsize=(7.2, 3.0))
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (name, series) in zip(axes, panels.items(), strict=True):
        for (label, (x, y)), marker in zip(series.items(), "osD^vPX" * 9, strict=False):
            axis.plot(x, y, label=label, marker=marker)
        axis.set_title(name, fontsize=10, loc="center")
        axis.set_xscale("log")
        measured = sorted({value for x, _ in series.values() for value in x})
        axis.set_xticks(measured, [f"{value:,g}" for value in measured])
        axis.set_xticks([], minor=True)
    axes[0].set_ylabel(ylabel)
    axes[0].legend(fontsize=9)
    figure.supxlabel(xlabel, fontsize=11)
    return figure
