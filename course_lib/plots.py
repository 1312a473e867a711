"""The figures that chapters share. Each takes data and returns a matplotlib Figure; `show` puts it on the page."""

import functools
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import PIL.Image
from jaxtyping import Bool, Float, Shaped, UInt8
from matplotlib.figure import Figure
from torch import Tensor

from course_lib.statistics import Interval, mean_interval, paired_difference

if TYPE_CHECKING:
    from IPython.display import Image

_STYLE = Path(__file__).parent / "course.mplstyle"
COLOURS = mpl.rc_params_from_file(_STYLE, use_default_template=False)["axes.prop_cycle"].by_key()["color"]
COLOURS = tuple(f"#{colour.lstrip('#')}" for colour in COLOURS)


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in the course's style, whatever the caller's own settings are; they are left alone."""

    @functools.wraps(draw)
    def wrapper(*arguments: Any, **keywords: Any) -> Figure:
        with mpl.rc_context(fname=str(_STYLE)):
            return draw(*arguments, **keywords)

    return wrapper


def show(figure: Figure, alt: str) -> None:
    """Put a figure on the page with a text for readers who cannot see it.

    Args:
        figure: what to show.
        alt: what the figure shows, in a sentence or two that stand for it.

    Raises:
        ValueError: an alt text of fewer than 20 characters, which cannot stand for a figure.
    """
    from IPython.display import display

    display(picture(figure, alt))


def picture(figure: Figure, alt: str) -> "Image":
    """The PNG of a figure with a text for readers who cannot see it, as notebooks display it.

    Args:
        figure: what the picture shows.
        alt: what the figure shows, in a sentence or two that stand for it.

    Raises:
        ValueError: an alt text of fewer than 20 characters, which cannot stand for a figure.
    """
    from IPython.display import Image

    if len(alt.strip()) < 20:
        raise ValueError(f"the alt text is {alt!r}; say in a sentence what the figure shows.")
    buffer, small = io.BytesIO(), io.BytesIO()
    with mpl.rc_context(fname=str(_STYLE)):
        figure.savefig(buffer, format="png")
    # A palette keeps flat colours as they are and makes a notebook a third of the size.
    image = PIL.Image.open(buffer).convert("RGB").quantize(64, dither=PIL.Image.Dither.NONE)
    image.save(small, "png", optimize=True)
    return Image(data=small.getvalue(), format="png", alt=alt)


@styled
def image_grid(
    images: UInt8[Tensor, "N C H W"], titles: Sequence[str] | None = None, *, columns: int = 10
) -> Figure:
    """Images in rows, in grey or colour, with an optional title each.

    Args:
        images: uint8 [N, C, H, W], C = 1 or 3.
        titles: N short titles.
        columns: images a row.
    """
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(7.2, (0.95 if titles else 0.75) * rows * 10 / columns))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for number, (axis, image) in enumerate(zip(axes, images, strict=False)):
        axis.imshow(image.permute(1, 2, 0).squeeze(-1).cpu().numpy(), cmap="gray", vmin=0, vmax=255)
        if titles:
            axis.set_title(titles[number], fontsize=9, fontweight="normal", loc="center")
    return figure


@styled
def probability_bars(
    probabilities: Mapping[str, Float[Tensor, "K"]], classes: Sequence[str], *, title: str = ""
) -> Figure:
    """Bars over the classes, a panel for each named distribution; all panels share the vertical axis.

    Args:
        probabilities: {panel title: [K]}.
        classes: the K class names.
        title: over all panels.
    """
    figure = Figure(figsize=(7.2, 2.7))
    axes = figure.subplots(1, len(probabilities), sharey=True, squeeze=False)[0]
    for axis, (name, values) in zip(axes, probabilities.items(), strict=True):
        axis.bar(classes, values.tolist(), color=COLOURS[0])
        axis.set(title=name, ylim=(0, 1))
        axis.grid(visible=False, axis="x")
        if len(classes) <= 4:
            for position, value in enumerate(values.tolist()):
                axis.text(position, value + 0.02, f"{value:.2f}", ha="center", fontsize=9)
    axes[0].set_ylabel("probability")
    if title:
        figure.suptitle(title)
    return figure


@styled
def image_with_probabilities(
    images: UInt8[Tensor, "N C H W"],
    rows: Mapping[str, Float[Tensor, "N K"]],
    classes: Sequence[str],
    *,
    titles: Sequence[str],
) -> Figure:
    """Each image on top, below it one row of class bars for each named set of probabilities.

    Args:
        images: uint8 [N, C, H, W].
        rows: {row title: [N, K]}.
        classes: the K class names.
        titles: N titles for the images.
    """
    figure = Figure(figsize=(7.2, 1.3 + 1.35 * len(rows)))
    axes = figure.subplots(
        1 + len(rows), len(images), squeeze=False, height_ratios=[1.0] + [1.2] * len(rows), sharey="row"
    )
    for column, image in enumerate(images):
        axes[0, column].imshow(
            image.permute(1, 2, 0).squeeze(-1).cpu().numpy(), cmap="gray", vmin=0, vmax=255
        )
        axes[0, column].set_title(titles[column], fontsize=10, loc="center")
        axes[0, column].axis("off")
        for row, (name, values) in enumerate(rows.items(), start=1):
            axis = axes[row, column]
            axis.bar(range(len(classes)), values[column].tolist(), color=COLOURS[row - 1])
            axis.set_xticks(range(len(classes)), classes, fontsize=8)
            axis.grid(visible=False, axis="x")
            axis.set_ylim(0, 1)
            if column == 0:
                axis.set_ylabel(name, fontsize=9)
    return figure


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
) -> Figure:
    """Named curves in one panel, each with a marker of its own so that they differ without colour.

    Args:
        series: {label: (x values, y values)}.
        xlabel: with its unit.
        ylabel: with its unit.
        title: one line.
        log_x: logarithmic horizontal axis.
        log_y: logarithmic vertical axis.
        percent: show y in [0, 1] as percent.
    """
    figure = Figure()
    axis = figure.subplots()
    for (label, (x, y)), marker in zip(series.items(), "osD^vPX" * 9, strict=False):
        axis.plot(x, y, label=label, marker=marker)
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
def compare_arms(
    arms: Mapping[str, Sequence[float]], *, baseline: str, ylabel: str = "test accuracy"
) -> Figure:
    """Runs with several seeds: every run a dot joined by seed on the left, paired differences on the right.

    Args:
        arms: {arm: one figure in [0, 1] for each seed, the same seeds in the same order}.
        baseline: the arm from which the others are subtracted.
        ylabel: of the left panel.

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
        right, {name: paired_difference(list(arms[name]), list(arms[baseline])) for name in others}
    )
    right.set(title=f"gain over {baseline}", xlabel="points, 95 % interval")
    return figure


@styled
def every_run(
    arms: Mapping[str, Sequence[float]], *, xlabel: str = "test accuracy", title: str = ""
) -> Figure:
    """Runs with several seeds: a row for each arm, a marker for each seed. For arms in which single runs fail.

    Args:
        arms: {arm: one figure in [0, 1] for each seed, the same seeds in the same order}.
        xlabel: of the figures.
        title: one line.

    Raises:
        ValueError: no arms, or arms with different numbers of seeds.
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
    axis.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=0))
    axis.set(xlabel=xlabel, title=title)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@styled
def differences(
    intervals: Mapping[str, Interval], *, title: str, xlabel: str = "points, 95 % interval"
) -> Figure:
    """Named intervals of differences in [−1, 1] as horizontal bars around zero, in points.

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
    """A matrix as colours with the number written in each cell.

    Args:
        values: [R, C].
        rows: R labels.
        columns: C labels.
        xlabel: what the columns are.
        ylabel: what the rows are.
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
def accuracy_against_cost(
    points: Mapping[str, tuple[float, float]], *, xlabel: str, title: str = "", log_x: bool = True
) -> Figure:
    """Networks as points: what they cost to the right, how often they are right upwards; the best lie top left.

    Args:
        points: {network: (cost, accuracy in [0, 1])}.
        xlabel: the cost, with its unit.
        title: one line.
        log_x: logarithmic cost axis.
    """
    figure = Figure()
    axis = figure.subplots()
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
    accuracies = [accuracy for _, accuracy in points.values()]
    axis.yaxis.set_major_formatter(
        mpl.ticker.PercentFormatter(1, decimals=0 if np.ptp(accuracies) > 0.05 else 1)
    )
    axis.set(xlabel=xlabel, ylabel="test accuracy", title=title)
    return figure


@styled
def memory_over_time(timelines: Mapping[str, Sequence[int]], *, title: str = "") -> Figure:
    """Bytes of activations alive at each operation, a panel for each network; the peak is marked and named.

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
    """Single calls in the order in which they were timed, with the median and the quartiles as a line and a band.

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
    """Activation memory as a multiple of the weights over batch size, with the line where both are equal.

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


@styled
def granularities(
    weight: Shaped[Tensor, "filters kernels height width"], masks: Mapping[str, Bool[Tensor, "..."]]
) -> Figure:
    """One small convolution several times, each with other weights removed: filters below each other, kernels in a row.

    Args:
        weight: [filters, kernels, height, width], few enough to be read.
        masks: {panel title: bool mask of the shape of the weight, True = keep}.

    Raises:
        ValueError: a mask of another shape.
    """
    filters, kernels, height, width = weight.shape
    figure = Figure(figsize=(7.2, 0.9 + 1.9 * filters * height / (kernels * width) * 0.8))
    axes = figure.subplots(1, len(masks), squeeze=False)[0]
    for axis, (name, mask) in zip(axes, masks.items(), strict=True):
        if mask.shape != weight.shape:
            raise ValueError(
                f"the mask {name!r} has shape {list(mask.shape)}, the weight {list(weight.shape)}; they must agree."
            )
        for place in np.ndindex(*weight.shape):
            f, k, row, column = place
            corner = (k * (width + 0.35) + column, -f * (height + 0.35) - row - 1)
            kept = bool(mask[place])
            colour = COLOURS[f % len(COLOURS)] if kept else "#eeeeee"
            axis.add_patch(
                mpl.patches.Rectangle(corner, 1, 1, facecolor=colour, edgecolor="white", linewidth=1.5)
            )
            axis.text(
                corner[0] + 0.5,
                corner[1] + 0.47,
                f"{weight[place].item():g}",
                ha="center",
                va="center",
                fontsize=9,
                color="white" if kept else "#999999",
            )
        axis.set(
            xlim=(-0.1, kernels * (width + 0.35)), ylim=(-filters * (height + 0.35), 0.1), aspect="equal"
        )
        axis.set_title(name, loc="center")
        axis.axis("off")
    return figure


@styled
def interval_lines(
    series: Mapping[str, Mapping[float, Interval]],
    *,
    xlabel: str,
    ylabel: str = "test accuracy",
    title: str = "",
    percent_x: bool = False,
) -> Figure:
    """Named curves of means with their intervals; shares in [0, 1] upwards as percent.

    Args:
        series: {label: {x: interval}}.
        xlabel: with its unit.
        ylabel: with its unit.
        title: one line.
        percent_x: show x in [0, 1] as percent.
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
    axis.legend()
    return figure


@styled
def pruning_trajectories(logs: Mapping[str, Any], *, title: str = "") -> Figure:
    """Accuracy over the share that is left, a panel for each log of `prune_with_rollback`; every rollback is a cross.

    Accepted attempts are dots joined by a line, from the network given (at 100 %) to the right. A cross stands where
    the rejected network would have been.

    Args:
        logs: {panel title: PruningLog}; all panels share both axes.
        title: over all panels.
    """
    figure = Figure(figsize=(7.2, 3.2))
    axes = figure.subplots(1, len(logs), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (name, log) in zip(axes, logs.items(), strict=True):
        kept = [attempt for attempt in log.attempts if attempt.accepted]
        undone = [a for a in log.attempts if not a.accepted and a.accuracy is not None]
        axis.axhspan(log.baseline - log.tolerance, 1.0, color=COLOURS[2], alpha=0.12, linewidth=0)
        axis.plot(
            [1.0] + [a.complexity for a in kept],
            [log.baseline] + [a.accuracy for a in kept],
            marker="o",
            markersize=4,
            color=COLOURS[0],
            label="kept",
        )
        axis.plot(
            [a.complexity for a in undone],
            [a.accuracy for a in undone],
            linestyle="",
            marker="x",
            color=COLOURS[1],
            label="taken back",
        )
        axis.set_title(f"{name}\n{len(undone)} of {len(log.attempts)} taken back", fontsize=10, loc="center")
        axis.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=0))
        axis.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1))
    values = [a.accuracy for log in logs.values() for a in log.attempts if a.accuracy is not None]
    values += [log.baseline for log in logs.values()]
    room = 0.05 * (max(values) - min(values)) + 0.005
    axes[0].set(ylabel="validation accuracy", ylim=(min(values) - room, max(values) + room), xlim=(1.03, 0))
    figure.supxlabel("parameters left", fontsize=11)
    axes[-1].legend(fontsize=9)
    if title:
        figure.suptitle(title)
    return figure


@styled
def weight_histograms(
    weights: Mapping[str, Float[Tensor, "..."]], *, reach: float, title: str = ""
) -> Figure:
    """How often each size of weight occurs, on a logarithmic scale, a panel for each named tensor.

    Args:
        weights: {panel title: tensor of any shape}.
        reach: the axis runs from -reach to reach; what lies outside is counted in the outermost bins.
        title: over all panels.
    """
    figure = Figure(figsize=(7.2, 2.9))
    axes = figure.subplots(1, len(weights), sharex=True, sharey=True, squeeze=False)[0]
    bins = np.linspace(-reach, reach, 62)  # an odd number of bins: zero is the middle of one
    for axis, (name, values) in zip(axes, weights.items(), strict=True):
        flat = np.clip(values.detach().cpu().numpy().ravel(), -reach, reach)
        axis.hist(flat, bins=bins, color=COLOURS[0])
        axis.set_yscale("log")
        axis.set_title(name, fontsize=10, loc="center")
        axis.set_xlabel("weight")
    axes[0].set_ylabel("number of weights")
    if title:
        figure.suptitle(title)
    return figure


@styled
def scales_over_epochs(
    counts: Mapping[str, Shaped[np.ndarray, "E bins"]],
    edges: Sequence[float],
    thresholds: Mapping[str, Sequence[float]],
    *,
    title: str = "",
) -> Figure:
    """How the scales of batch norm move during training: heat maps over the epochs, and below the last histogram.

    Args:
        counts: {panel title: [E, bins]}, channels in each bin of |gamma| before training and after each epoch.
        edges: of the bins, one more than there are bins; what lies above is counted in the last one.
        thresholds: {panel title: E values of |gamma|}, drawn as a dashed line.
        title: over all panels.
    """
    figure = Figure(figsize=(7.2, 4.6))
    above, below = figure.subplots(2, len(counts), sharey="row", squeeze=False, height_ratios=[1.5, 1])
    most = max(panel.max() for panel in counts.values())
    for top, bottom, (name, panel) in zip(above, below, counts.items(), strict=True):
        picture = top.pcolormesh(
            np.arange(len(panel) + 1) - 0.5,
            edges,
            np.maximum(panel.T, 0.5),  # an empty bin has the darkest colour
            norm=mpl.colors.LogNorm(0.5, most),
            rasterized=True,
        )
        top.plot(range(len(panel)), thresholds[name], "--", color="white", linewidth=1.5)
        top.set_title(name, fontsize=10, loc="center")
        top.set_xlabel("epoch", fontsize=9)
        top.xaxis.set_major_locator(mpl.ticker.MaxNLocator(4, integer=True))
        top.grid(visible=False)
        bottom.bar(edges[:-1], panel[-1], np.diff(edges), align="edge", color=COLOURS[0])
        bottom.axvline(thresholds[name][-1], linestyle="--", color="black", linewidth=1.2)
        bottom.set_yscale("log")
        bottom.set_xlabel("|gamma|", fontsize=9)
        for axis in (top, bottom):
            axis.tick_params(labelsize=8)
    above[0].set_ylabel("|gamma|", fontsize=9)
    below[0].set_ylabel("channels at the end", fontsize=9)
    figure.colorbar(picture, ax=list(above), label="channels")
    if title:
        figure.suptitle(title)
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
    """Named curves of means with their intervals, in panels that share both axes and one legend; upwards in percent.

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
def width_bars(
    before: Sequence[int], after: Mapping[str, Sequence[int]], *, title: str = "channels of each layer"
) -> Figure:
    """Channels of each layer before (grey) and after pruning, with the numbers on the bars.

    Args:
        before: channels of each layer.
        after: {label: channels of each layer}, drawn side by side in front of the grey bars.
        title: one line.

    Raises:
        ValueError: another number of layers.
    """
    figure = Figure(figsize=(7.2, 3.2))
    axis = figure.subplots()
    places = np.arange(1, len(before) + 1)
    axis.bar(places, before, 0.9, color="#dddddd", label="before")
    for place, width in zip(places, before, strict=True):
        axis.text(place, width, str(width), ha="center", va="bottom", fontsize=9, color="#666666")
    each = 0.8 / max(len(after), 1)
    for number, (label, widths) in enumerate(after.items()):
        if len(widths) != len(before):
            raise ValueError(
                f"{label!r} has {len(widths)} layers, {len(before)} were there before; they must agree."
            )
        shifted = places - 0.4 + (number + 0.5) * each
        axis.bar(shifted, widths, 0.9 * each, color=COLOURS[number], label=label)
        for place, width in zip(shifted, widths, strict=True):
            axis.text(place, width, str(width), ha="center", va="bottom", fontsize=8)
    axis.set_xticks(places, [str(place) for place in places])
    axis.set(xlabel="convolution, from the input on", ylabel="channels", title=title)
    axis.grid(visible=False, axis="x")
    axis.legend(loc="upper left", fontsize=9)
    return figure


@styled
def score_scatter(
    panels: Mapping[str, tuple[Sequence[float], Sequence[float], str]],
    *,
    xlabel: str,
    ylabel: str,
) -> Figure:
    """What a score says against what came out, a dot a candidate; one row of panels, sharing the vertical axis.

    Args:
        panels: {panel title: (scores in [0, 1], outcomes in [0, 1], note written into the panel)}.
        xlabel: of all panels.
        ylabel: of all panels.
    """
    figure = Figure(figsize=(7.2, 3.4))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for number, (axis, (name, (scores, outcomes, note))) in enumerate(zip(axes, panels.items(), strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        axis.plot(scores, outcomes, "o", color=colour, markersize=5, alpha=0.75)
        axis.set_title(f"{name}\n{note}", fontsize=10, loc="center")
        axis.set_xlim(0, max(*scores, 0.1) * 1.05)
        for each in (axis.xaxis, axis.yaxis):
            each.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=0))
        axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(5))
    axes[0].set_ylabel(ylabel)
    figure.supxlabel(xlabel, fontsize=11)
    return figure


@styled
def before_and_after(
    panels: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    xlabel: str,
    ylabel: str,
    log: bool = False,
) -> Figure:
    """Pairs of positive numbers as dots beside the line of no change, a panel for each named set of pairs.

    Args:
        panels: {panel title: (values before, values after)}.
        xlabel: what the values before are.
        ylabel: what the values after are.
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


@styled
def ridges(
    panels: Mapping[str, Sequence[Sequence[float]]], *, xlabel: str, step: str = "epoch", bins: int = 40
) -> Figure:
    """How distributions move: one histogram for each step, the first at the bottom, a panel for each quantity.

    Args:
        panels: {panel title: values at each step}, the same number of steps in each panel.
        xlabel: of all panels.
        step: what the steps are.
        bins: of the histograms, shared within a panel.
    """
    figure = Figure(figsize=(7.2, 3.6))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    shades = mpl.colormaps["viridis"]
    for axis, (name, steps) in zip(axes, panels.items(), strict=True):
        edges = np.histogram_bin_edges(np.concatenate([np.asarray(values) for values in steps]), bins)
        middles = (edges[:-1] + edges[1:]) / 2
        counts = [np.histogram(values, edges)[0] for values in steps]
        scale = 1.8 / max(count.max() for count in counts)
        for number, count in reversed(list(enumerate(counts))):
            colour = shades(0.9 * number / max(len(steps) - 1, 1))
            axis.fill_between(middles, number, number + scale * count, color=colour, alpha=0.8, linewidth=0)
            axis.plot(middles, number + scale * count, color="white", linewidth=0.8)
        axis.set_title(name, fontsize=10, loc="center")
        axis.grid(visible=False, axis="y")
        axis.set_yticks(range(len(steps)))
    axes[0].set_ylabel(step)
    figure.supxlabel(xlabel, fontsize=11)
    return figure


@styled
def number_lines(lines: Mapping[str, Sequence[float]], *, xlabel: str, title: str = "") -> Figure:
    """Which numbers there are: a row for each format, a stroke for each number that it holds.

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
    """Where real numbers go: the real line above, the integers below at the places that they stand for.

    A vertical line is a number that an integer stands for exactly; a slanted one is an error. Grey strokes below are
    the integers that there are.

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
    """How often each size occurs, on a logarithmic scale, with the threshold of each method as a line.

    Args:
        panels: {panel title: (counts, width of a bin, {method: threshold})}, one above the other.
        xlabel: what is counted.
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
