"""Arms of an experiment side by side: every run, differences with intervals, before and after."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from course_lib.plots.style import COLOURS, styled
from course_lib.statistics import Interval, mean_interval, paired_difference


@styled
def compare_arms(
    arms: Mapping[str, Sequence[float]],
    *,
    baseline: str,
    ylabel: str = "test accuracy",
    gains: Mapping[str, Interval] | None = None,
) -> Figure:
    """Draw all runs as dots, joined by seed, on the left and the paired differences on the right.

    Shared: chapters 01 and 04 draw it.

    Args:
        arms: {arm: one number in [0, 1] for each seed, the same seeds in the same order}.
        baseline: the arm that is subtracted from the others.
        ylabel: of the left panel.
        gains: intervals for the right panel that cover more than the seeds, such as the test images; those of the
            paired runs unless given.

    Raises:
        KeyError: the baseline is not among the arms.
    """
    if baseline not in arms:
        raise KeyError(f"the baseline {baseline!r} is not among the arms {list(arms)}.")
    others = [name for name in arms if name != baseline]
    figure = Figure(figsize=(7.2, 3.4))
    left, right = figure.subplots(1, 2, width_ratios=[1.3, 1])
    values = np.array([arms[name] for name in arms]).T  # [seeds, arms]
    for run in values:
        left.plot(range(len(arms)), run, color="#999999", linewidth=1, marker="o", markersize=4, zorder=1)
    for position, name in enumerate(arms):
        interval = mean_interval(list(arms[name]))
        errors = [[interval.mean - interval.low], [interval.high - interval.mean]]
        colour = COLOURS[position % len(COLOURS)]
        left.errorbar(position, interval.mean, errors, fmt="D", color=colour, capsize=5, zorder=2)
    left.set_xticks(range(len(arms)), [name.replace(" ", "\n") for name in arms], fontsize=9)
    left.set(ylabel=ylabel, title="every seed", xlim=(-0.4, len(arms) - 0.6))
    # Close runs have ticks at half points.
    decimals = 0 if np.ptp(values) > 0.05 else 1
    left.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=decimals))
    _draw_differences(
        right,
        gains or {name: paired_difference(list(arms[name]), list(arms[baseline])) for name in others},
    )
    right.set(title=f"gain over {baseline}", xlabel="points, 95 % interval")
    return figure


@styled
def every_run(
    arms: Mapping[str, Sequence[float]], *, xlabel: str = "test accuracy", title: str = ""
) -> Figure:
    """Draw a row for each arm with a marker for each seed, so that a single failed run is seen.

    Shared: chapters 01, 02 and 07 draw it.

    Args:
        arms: {arm: one number in [0, 1] for each seed, the same seeds in the same order}.
        xlabel: name of the numbers.
        title: one line.

    Raises:
        ValueError: there are no arms, or they have different numbers of seeds.
    """
    counts = {name: len(values) for name, values in arms.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(
            f"the arms have {counts} runs; give each arm one figure for each seed, the same seeds."
        )
    figure = Figure(figsize=(7.2, 1.3 + 0.38 * len(arms)))
    axis = figure.subplots()
    for seed, (values, marker, colour) in enumerate(
        zip(zip(*arms.values(), strict=True), "osD^vPX*" * 9, COLOURS * 9, strict=False)
    ):
        axis.plot(
            values, range(len(arms)), marker, color=colour, markersize=7, alpha=0.8, label=f"seed {seed}"
        )
    axis.set_yticks(range(len(arms)), list(arms), fontsize=10)
    axis.set_ylim(len(arms) - 0.5, -0.5)
    axis.xaxis.set_major_locator(
        mpl.ticker.MaxNLocator("auto", steps=[1, 2, 5, 10])
    )  # 2.5 % would be printed as 2 %
    axis.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=0))
    axis.set(xlabel=xlabel, title=title)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@styled
def paired_runs(
    arms: Mapping[str, Sequence[float]], *, of: str, xlabel: str = "test accuracy", title: str = ""
) -> Figure:
    """Draw every run as a dot, a row for each arm, and beside it what one arm gains over the others, seed by seed.

    A bar marks the median. Nothing is averaged, so that a run that failed, or an arm with two humps, is seen.

    Shared: chapters 02 and 05 draw it.

    Args:
        arms: {arm: one number in [0, 1] for each seed, the same seeds in the same order}.
        of: the arm whose gain is drawn.
        xlabel: name of the numbers.
        title: one line.

    Raises:
        KeyError: `of` is not among the arms.
    """
    if of not in arms:
        raise KeyError(f"the arm {of!r} is not among the arms {list(arms)}.")
    figure = Figure(figsize=(7.2, 1.3 + 0.36 * len(arms)))
    left, right = figure.subplots(1, 2, sharey=True)
    for row, values in enumerate(arms.values()):
        gains = 100 * (np.array(arms[of]) - np.array(values))
        for axis, numbers in ((left, np.array(values)), (right, gains)):
            if axis is right and not gains.any():
                continue  # the arm itself
            axis.plot(numbers, [row] * len(numbers), "o", color=COLOURS[0], markersize=6, alpha=0.6)
            axis.plot(np.median(numbers), row, "|", color="black", markersize=16, markeredgewidth=1.5)
    right.axvline(0, color="black", linewidth=1)
    left.set_yticks(range(len(arms)), list(arms), fontsize=10)
    left.set_ylim(len(arms) - 0.5, -0.5)
    left.xaxis.set_major_locator(mpl.ticker.MaxNLocator(6, steps=[1, 2, 5, 10]))
    left.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=0))
    left.set(xlabel=xlabel, title=title)
    right.set(xlabel=f"points gained by\n{of}")
    return figure


@styled
def run_rows(
    panels: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]],
    *,
    xlabel: str = "test accuracy",
    zoom: bool = False,
    first: int = 0,
) -> Figure:
    """Draw every run as a dot, a row for each arm and a colour for each label, in panels side by side.

    A bar marks each median. Nothing is averaged, so that runs that fall into two heaps are seen.

    Chapter 03 draws it.

    Args:
        panels: {panel title: {arm: {label: one number in [0, 1] for each run}}}, the same labels everywhere. In the row
            of an arm that a panel lacks stands "not tried".
        xlabel: name of the numbers.
        zoom: the axis spans the runs alone, not 0 to 1.
        first: place in the palette of the first label's colour, where the page has given the others a meaning.
    """
    arms = list(dict.fromkeys(arm for panel in panels.values() for arm in panel))
    labels = list(
        dict.fromkeys(label for panel in panels.values() for arm in panel.values() for label in arm)
    )
    figure = Figure(figsize=(7.2, 1.5 + (0.14 + 0.15 * len(labels)) * len(arms)))
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (title, panel) in zip(axes, panels.items(), strict=True):
        for arm, series in panel.items():
            for label, values in series.items():
                number = labels.index(label)
                row = arms.index(arm) + 0.22 * (number - (len(labels) - 1) / 2)  # one below the other
                marker, colour = "osD^vPX"[number], COLOURS[(first + number) % len(COLOURS)]
                axis.plot(
                    values, [row] * len(values), marker, color=colour, markersize=4.5, alpha=0.6, label=label
                )
                axis.plot(np.median(values), row, "|", color="black", markersize=8, markeredgewidth=1.5)
        for row in (arms.index(arm) for arm in arms if arm not in panel):
            place = axis.get_yaxis_transform()  # the middle of the panel, at the height of the row
            axis.text(
                0.5, row, "not tried", transform=place, ha="center", va="center", fontsize=9, color="0.4"
            )
        axis.set_title(title, fontsize=10, loc="center")
        if not zoom:
            axis.set_xlim(-0.02, 1.02)
            axis.xaxis.set_major_locator(mpl.ticker.MultipleLocator(0.5 if len(panels) > 2 else 0.2))
        axis.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=0))
    axes[0].set_yticks(range(len(arms)), arms, fontsize=9)
    axes[0].set_ylim(len(arms) - 0.5, -0.5)
    axes[len(panels) // 2].set_xlabel(xlabel)
    handles = {line.get_label(): line for line in axes[0].lines if line.get_label() in labels}
    if len(labels) > 1:
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4, fontsize=9)
    return figure


@styled
def differences(
    intervals: Mapping[str, Interval], *, title: str, xlabel: str = "points, 95 % interval"
) -> Figure:
    """Draw intervals of differences in [−1, 1] as horizontal bars around zero, in points.

    An interval that excludes zero has another colour and marker.

    Shared: chapters 01, 02, 04, 06, 07 and 08 draw it.

    Args:
        intervals: {label: interval}.
        title: one line.
        xlabel: with its unit.
    """
    figure = Figure(figsize=(7.2, 1.1 + 0.38 * len(intervals)))
    axis = figure.subplots()
    _draw_differences(axis, intervals)
    axis.set(title=title, xlabel=xlabel)
    return figure


def _draw_differences(axis: Any, intervals: Mapping[str, Interval]) -> None:
    for row, interval in enumerate(intervals.values()):
        errors = [[100 * (interval.mean - interval.low)], [100 * (interval.high - interval.mean)]]
        excluded = not interval.low <= 0 <= interval.high
        colour, marker = (COLOURS[0], "D") if excluded else ("#777777", "o")
        axis.errorbar(100 * interval.mean, row, xerr=errors, fmt=marker, color=colour, capsize=4)
    axis.axvline(0, color="black", linewidth=1)
    axis.set_yticks(range(len(intervals)), list(intervals), fontsize=10)
    axis.set_ylim(len(intervals) - 0.5, -0.5)


@styled
def before_and_after(
    panels: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    xlabel: str,
    ylabel: str,
    log: bool = False,
) -> Figure:
    """Draw pairs of numbers as dots around the line of no change, a panel for each set of pairs.

    Shared: chapters 03 and 05 draw it.

    Args:
        panels: {panel title: (values before, values after)}; the values are positive if `log` is true.
        xlabel: name of the values before.
        ylabel: name of the values after.
        log: logarithmic axes.
    """
    figure = Figure(figsize=(7.2, 3.2))
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for number, (axis, (name, (before, after))) in enumerate(zip(axes, panels.items(), strict=True)):
        low, high = min(*before, *after), max(*before, *after)
        axis.plot([low, high], [low, high], color="black", linewidth=1, zorder=1)
        axis.plot(before, after, "o", color=COLOURS[number % len(COLOURS)], markersize=5, alpha=0.75)
        if log:
            axis.set(xscale="log", yscale="log")
            for each in (axis.xaxis, axis.yaxis):
                each.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
                each.set_major_formatter("{x:g}")
                each.set_minor_locator(mpl.ticker.NullLocator())
        axis.set_title(name, fontsize=10, loc="center")
        axis.set_aspect("equal", adjustable="datalim")
        axis.tick_params(labelsize=8)
    axes[0].set_ylabel(ylabel)
    figure.supxlabel(xlabel, fontsize=11)
    return figure
