"""Figures of the cost of a network: time, memory, parameters, and accuracy over cost."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from course_lib.plots.style import COLOURS, styled


@styled
def accuracy_against_cost(
    points: Mapping[str, tuple[float, float]],
    *,
    xlabel: str,
    title: str = "",
    log_x: bool = True,
    earlier: Mapping[str, tuple[float, float]] | None = None,
) -> Figure:
    """Draw networks as points, test accuracy over cost; the best lie at the top left.

    Shared: chapters 00, 01, 03, 05, 07 and 08 draw it.

    Args:
        points: {network: (cost, accuracy in [0, 1])}.
        xlabel: name of the cost, with its unit.
        title: one line.
        log_x: logarithmic cost axis.
        earlier: networks of other chapters, in grey behind the points.
    """
    figure = Figure()
    axis = figure.subplots()
    for name, (cost, accuracy) in (earlier or {}).items():
        axis.plot(cost, accuracy, "o", color="#bbbbbb", markersize=8, zorder=1)
        axis.annotate(
            name,
            (cost, accuracy),
            xytext=(0, 9),
            textcoords="offset points",
            fontsize=8,
            color="#777777",
            ha="center",
        )
    in_order = sorted(points, key=lambda name: points[name][0])
    for (name, (cost, accuracy)), marker, colour in zip(
        points.items(), "osD^vPX*" * 9, COLOURS * 9, strict=False
    ):
        axis.plot(cost, accuracy, marker, color=colour, markersize=9)
        offset = 10 if in_order.index(name) % 2 else -18  # neighbours are often equally accurate
        axis.annotate(
            name, (cost, accuracy), xytext=(0, offset), textcoords="offset points", fontsize=10, ha="center"
        )
    if log_x:
        axis.set_xscale("log")
    axis.margins(x=0.18, y=0.15)
    accuracies = [accuracy for _, accuracy in (*points.values(), *(earlier or {}).values())]
    axis.yaxis.set_major_formatter(
        mpl.ticker.PercentFormatter(1, decimals=0 if np.ptp(accuracies) > 0.05 else 1)
    )
    axis.set(xlabel=xlabel, ylabel="test accuracy", title=title)
    return figure


@styled
def memory_over_time(timelines: Mapping[str, Sequence[int]], *, title: str = "") -> Figure:
    """Draw the memory of live activations at each operation, in kB, with its peak marked; a panel for each network.

    Chapter 00 draws it.

    Args:
        timelines: {network: bytes at each operation, in order}; all panels share the vertical axis.
        title: over all panels.
    """
    figure = Figure(figsize=(7.2, 3.0))
    axes = figure.subplots(1, len(timelines), sharey=True, squeeze=False)[0]
    for axis, (name, alive), colour in zip(axes, timelines.items(), COLOURS * 9, strict=False):
        kilobytes = np.asarray(alive) / 1e3
        steps = np.arange(1, len(kilobytes) + 1)
        axis.fill_between(steps, kilobytes, step="mid", color=colour, alpha=0.35, linewidth=0)
        axis.step(steps, kilobytes, where="mid", color=colour, linewidth=1.5)
        peak = int(kilobytes.argmax())
        axis.plot(steps[peak], kilobytes[peak], "o", color="black", markersize=5)
        axis.annotate(
            f"{kilobytes[peak]:.3g} kB",
            (steps[peak], kilobytes[peak]),
            xytext=(6, 4),
            textcoords="offset points",
            fontsize=9,
        )
        axis.set(title=name, xlabel="operation")
    axes[0].set_ylabel("activations alive [kB]")
    axes[0].margins(y=0.12)
    axes[0].set_ylim(bottom=0)
    if title:
        figure.suptitle(title)
    return figure


@styled
def call_times(
    seconds: Sequence[float], *, median: float, low: float, high: float, title: str = ""
) -> Figure:
    """Draw the times of single calls in their order, with the median as a line and the quartiles as a band.

    Chapter 00 draws it.

    Args:
        seconds: time of each call.
        median: of the calls, in seconds.
        low: lower quartile, in seconds.
        high: upper quartile, in seconds.
        title: one line.
    """
    figure = Figure(figsize=(7.2, 3.0))
    axis = figure.subplots()
    calls = np.arange(1, len(seconds) + 1)
    axis.axhspan(low * 1e3, high * 1e3, color=COLOURS[0], alpha=0.25, linewidth=0, label="quartiles")
    axis.axhline(median * 1e3, color=COLOURS[0], label="median")
    axis.plot(calls, np.asarray(seconds) * 1e3, "o", color="black", markersize=4, label="one call")
    axis.plot(calls[:1], [seconds[0] * 1e3], "D", color=COLOURS[1], markersize=8, label="first call")
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(mpl.ticker.LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
    axis.set(xlabel="call", ylabel="time [ms], log scale", title=title)
    axis.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.22))
    return figure


@styled
def activations_against_weights(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, title: str = ""
) -> Figure:
    """Draw activation memory divided by the memory of the weights over batch size, with a line where both are equal.

    Chapter 00 draws it.

    Args:
        series: {network: (batch sizes, peak activation bytes divided by bytes of weights)}.
        title: one line.
    """
    figure = Figure(figsize=(7.2, 3.8))
    axis = figure.subplots()
    from_the_top = sorted(
        series.items(), key=lambda item: -item[1][1][0]
    )  # so the legend is in the order of the lines
    for (name, (batches, ratios)), marker in zip(from_the_top, "osD^vPX" * 9, strict=False):
        axis.plot(batches, ratios, marker=marker, markersize=5, linewidth=1.5, label=name)
    axis.axhline(1, color="black", linestyle="--", linewidth=1.2, label="equal")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.set(xlabel="images in the batch", ylabel="peak activations / weights", title=title)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
    return figure
