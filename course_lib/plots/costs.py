"""Figures of the cost of a network: time, memory, parameters, and accuracy over cost."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from course_lib.plots.style import COLOURS, styled
from course_lib.statistics import Interval


@styled
def accuracy_against_cost(
    points: Mapping[str, tuple[float, float]],
    *,
    xlabel: str,
    title: str = "",
    log_x: bool = True,
    earlier: Mapping[str, tuple[float, float]] | None = None,
    curve: Sequence[tuple[float, float]] = (),
    limits: Mapping[str, float] | None = None,
    intervals: Mapping[str, Interval] | None = None,
) -> Figure:
    """Draw networks as points, test accuracy over cost; the best lie at the top left.

    Shared: chapters 00, 01, 02, 03, 04, 05, 06, 07 and 08 draw it.

    Args:
        points: {network: (cost, accuracy in [0, 1])}.
        xlabel: name of the cost, with its unit.
        title: one line.
        log_x: logarithmic cost axis.
        earlier: networks of other chapters, in grey behind the points.
        curve: (cost, accuracy) of networks of one kind, as a line behind the points, in order of their cost.
        limits: {what a device allows: cost}, as dashed upright lines.
        intervals: {network: interval of its accuracy}, as upright bars.
    """
    figure = Figure()
    axis = figure.subplots()
    if curve:
        axis.plot(*zip(*curve, strict=True), "-", color="#bbbbbb", marker=".", zorder=1)
    for name, most in (limits or {}).items():
        axis.axvline(most, color="black", linestyle="--", linewidth=1.2, zorder=1)
        axis.annotate(
            name,
            (most, 0.5),
            xycoords=("data", "axes fraction"),
            xytext=(-4, 0),
            textcoords="offset points",
            rotation=90,
            fontsize=9,
            ha="right",
            va="center",
        )
    for place in (earlier or {}).values():
        axis.plot(*place, "o", color="#bbbbbb", markersize=8, zorder=1)
    for (name, (cost, accuracy)), marker, colour in zip(
        points.items(), "osD^vPX*" * 9, COLOURS * 9, strict=False
    ):
        axis.plot(cost, accuracy, marker, color=colour, markersize=9)
        if intervals and name in intervals:
            axis.vlines(cost, intervals[name].low, intervals[name].high, color=colour, linewidth=1.5)
    if log_x:
        axis.set_xscale("log")
    axis.margins(x=0.18, y=0.15)
    accuracies = [accuracy for _, accuracy in (*points.values(), *(earlier or {}).values(), *curve)]
    axis.yaxis.set_major_locator(
        mpl.ticker.MaxNLocator("auto", steps=[1, 2, 5, 10])
    )  # 2.5 % would be printed as 2 %
    axis.yaxis.set_major_formatter(
        mpl.ticker.PercentFormatter(1, decimals=0 if np.ptp(accuracies) > 0.05 else 1)
    )
    axis.set(xlabel=xlabel, ylabel="test accuracy", title=title)
    _write_beside(axis, points, {"fontsize": 10})
    _write_beside(axis, earlier or {}, {"fontsize": 8, "color": "#777777"})
    return figure


# Above, below, to the right and to the left of a point: how far away, in points, and which edge of the text lies there.
_SIDES = (
    ((0, 9), "center", "bottom"),
    ((0, -9), "center", "top"),
    ((9, 0), "left", "center"),
    ((-9, 0), "right", "center"),
)


def _write_beside(axis: Axes, points: Mapping[str, tuple[float, float]], style: Mapping[str, object]) -> None:
    """Write each name beside its point, on the side where it covers least of markers and names, in the frame."""
    FigureCanvasAgg(axis.figure).draw()  # where things lie is known only afterwards
    markers = [line for line in axis.lines if len(line.get_xdata()) == 1]
    taken = [
        Bbox.from_bounds(x - 6, y - 6, 12, 12)
        for line in markers
        for x, y in axis.transData.transform(np.column_stack(line.get_data()))
    ] + [text.get_window_extent() for text in axis.texts]
    for name, place in points.items():
        text = axis.annotate(name, place, xytext=(0, 0), textcoords="offset points", **style)

        def covered(side: tuple[tuple[float, float], str, str], text: Annotation = text) -> float:
            text.xyann, horizontal, vertical = side
            text.set(ha=horizontal, va=vertical)
            box = text.get_window_extent()
            inside = Bbox.intersection(box, axis.bbox)
            outside = box.width * box.height - (inside.width * inside.height if inside else 0)
            common = (Bbox.intersection(box, other) for other in taken)
            return outside + sum(one.width * one.height for one in common if one)

        best = min(_SIDES, key=covered)
        covered(best)
        taken.append(text.get_window_extent())


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
    _plain_ticks(axis.yaxis)
    axis.set(xlabel="call", ylabel="time [ms], log scale", title=title)
    axis.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.22))
    return figure


@styled
def time_against_macs(
    points: Mapping[str, tuple[float, Sequence[float]]], *, through: str, title: str = ""
) -> Figure:
    """Draw the time of a call over its MACs, with the line of equal MACs a second through one network.

    Times are relative to that network, round by round, so that a busy moment falls on both.

    Chapter 00 draws it.

    Args:
        points: {network: (MACs, seconds of a call in each round)}; the median of the ratios is drawn, with a bar from
            the lower to the upper quartile.
        through: the network that the line goes through; above it, a network does fewer MACs a second.
        title: one line.

    Raises:
        KeyError: `through` is not among the networks.

    Example:
        >>> figure = time_against_macs({"half": (1e6, [0.001]), "whole": (4e6, [0.003])}, through="whole")
        >>> figure.axes[0].get_xscale()
        'log'
    """
    if through not in points:
        raise KeyError(f"the network {through!r} is not among {list(points)}.")
    figure = Figure()
    axis = figure.subplots()
    of_all, of_base = points[through]
    for (name, (macs, seconds)), marker, colour in zip(
        points.items(), "osD^vPX*" * 9, COLOURS * 9, strict=False
    ):
        low, middle, high = np.quantile(np.divide(seconds, of_base), (0.25, 0.5, 0.75))
        axis.errorbar(
            macs,
            middle,
            [[middle - low], [high - middle]],
            fmt=marker,
            color=colour,
            markersize=8,
            capsize=3,
        )
        axis.annotate(
            name, (macs, middle), xytext=(0, 11), textcoords="offset points", fontsize=9, ha="center"
        )
    ends = np.array([min(m for m, _ in points.values()), max(m for m, _ in points.values())])
    axis.plot(ends, ends / of_all, "--", color="black", linewidth=1.2, zorder=1)
    axis.set(xscale="log", yscale="log", xlabel="MACs, log scale", title=title)
    axis.set_ylabel(f"time relative to {through}, log scale")
    axis.margins(x=0.15, y=0.15)
    _plain_ticks(axis.yaxis)
    return figure


def _plain_ticks(axis: Any) -> None:
    """Numbers such as 0.5, 1 and 2 along a logarithmic axis, and more of them where it is short."""
    low, high = axis.get_view_interval()
    subs = (1, 2, 5) if high > 10 * low else (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
    axis.set_major_locator(mpl.ticker.LogLocator(subs=subs))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(mpl.ticker.NullLocator())


@styled
def costs_by_layer(layers: Sequence[str], costs: Mapping[str, Sequence[float]], *, title: str = "") -> Figure:
    """Draw where in a network each cost lies: a row of bars for each cost, as shares of its sum, layer by layer.

    Chapter 00 draws it.

    Args:
        layers: their names, from the input on.
        costs: {name of the cost: its amount in each layer}.
        title: over all rows.

    Raises:
        ValueError: a cost has another number of amounts than there are layers.

    Example:
        >>> [text.get_text() for text in costs_by_layer(["conv", "linear"], {"MACs": [3, 1]}).axes[0].texts]
        ['75%', '25%']
    """
    figure = Figure(figsize=(7.2, 0.9 + 1.0 * len(costs)))
    rows = figure.subplots(len(costs), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (name, amounts) in zip(rows, costs.items(), strict=True):
        if len(amounts) != len(layers):
            raise ValueError(f"{name!r} has {len(amounts)} amounts for {len(layers)} layers.")
        shares = np.asarray(amounts, float) / np.sum(amounts)
        axis.bar(range(len(layers)), shares, color=COLOURS[0], alpha=0.8)
        for place, share in enumerate(shares):
            axis.text(place, share, f"{share:.0%}", ha="center", va="bottom", fontsize=8)
        axis.set_title(name, fontsize=10, loc="left")
        axis.set_ylim(0, 1.3 * shares.max())
        axis.set_yticks([])
        axis.grid(visible=False)
    rows[-1].set_xticks(range(len(layers)), list(layers), fontsize=9)
    if title:
        figure.suptitle(title)
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
    # Colours in the order given, so that they can agree with other figures; the legend in the order of the lines.
    looks = dict(zip(series, zip(COLOURS * 9, "osD^vPX" * 9, strict=False), strict=False))
    for name, (batches, ratios) in sorted(series.items(), key=lambda item: -item[1][1][0]):
        colour, marker = looks[name]
        axis.plot(batches, ratios, color=colour, marker=marker, markersize=5, linewidth=1.5, label=name)
    axis.axhline(1, color="black", linestyle="--", linewidth=1.2, label="equal")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.set(xlabel="images in the batch", ylabel="peak activations / weights", title=title)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
    return figure
