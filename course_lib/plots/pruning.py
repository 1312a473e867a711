"""Figures of pruning: weights, masks, scales, widths, attempts, scores."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Bool, Float, Shaped
from matplotlib.figure import Figure
from torch import Tensor

from course_lib.plots.style import COLOURS, styled


@styled
def granularities(
    weight: Shaped[Tensor, "filters kernels height width"], masks: Mapping[str, Bool[Tensor, "..."]]
) -> Figure:
    """Draw the weights of a small convolution once for each mask; removed weights are grey.

    Filters stand below each other, the kernels of a filter in a row; each square is a weight with its number.

    Shared: chapters 02 and 04 draw it.

    Args:
        weight: [filters, kernels, height, width], few enough to be read.
        masks: {panel title: bool mask of the shape of the weight, True = keep}.

    Raises:
        ValueError: a mask has another shape than the weight.
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
        for k in range(kernels):
            middle = k * (width + 0.35) + width / 2
            axis.text(middle, 0.15, f"kernel {k}", ha="center", fontsize=7, color="#777777")
        axis.set_title(name, loc="center", pad=12)
        axis.axis("off")
    for f in range(filters):
        middle = -f * (height + 0.35) - height / 2
        axes[0].text(
            -0.3,
            middle,
            f"filter {f}",
            ha="right",
            va="center",
            fontsize=8,
            color=COLOURS[f % len(COLOURS)],
        )
    return figure


@styled
def layer_shares(shares: Mapping[str, Mapping[str, float]], *, title: str = "") -> Figure:
    """Draw the share of weights that stays in each layer as bars with their numbers, on a logarithmic axis.

    Chapter 02 draws it.

    Args:
        shares: {label: {layer: share in [0, 1]}}, the same layers for each label, drawn side by side. A layer that
            keeps nothing has no bar, and the number 0.
        title: one line.

    Raises:
        ValueError: a label has other layers than the first.
    """
    figure = Figure(figsize=(7.2, 3.4))
    axis = figure.subplots()
    layers = list(next(iter(shares.values())))
    each = 0.84 / len(shares)
    least = min([share for kept in shares.values() for share in kept.values() if share > 0], default=1.0)
    for number, (label, kept) in enumerate(shares.items()):
        if list(kept) != layers:
            raise ValueError(
                f"{label!r} has the layers {list(kept)}, the first has {layers}; they must agree."
            )
        places = np.arange(len(layers)) - 0.42 + (number + 0.5) * each
        axis.bar(places, list(kept.values()), 0.92 * each, color=COLOURS[number], label=label)
        for place, share in zip(places, kept.values(), strict=True):
            text = f"{100 * share:.2g}" if share < 0.995 else "100"
            axis.text(place, max(share, least / 2), text, ha="center", va="bottom", fontsize=7)
    axis.set_yscale("log")
    axis.set_ylim(least / 2, 2.5)
    axis.yaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    axis.set_xticks(range(len(layers)), layers, fontsize=9)
    axis.set(xlabel="layer: weights", ylabel="weights that stay", title=title)
    axis.grid(visible=False, axis="x")
    figure.legend(loc="outside lower center", ncols=len(shares), fontsize=9)
    return figure


@styled
def pruning_trajectories(logs: Mapping[str, Any], *, title: str = "") -> Figure:
    """Draw validation accuracy over the share of parameters left, a panel for each log of `prune_with_rollback`.

    Accepted attempts are dots joined by a line, from the given network (at 100 %) to the right. A cross is a rejected
    attempt, at the accuracy and size of the rejected network. The band above baseline - tolerance is shaded.

    Chapter 02 draws it.

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
    """Draw histograms of weights with logarithmic counts, a panel for each tensor.

    Chapter 02 draws it.

    Args:
        weights: {panel title: tensor of any shape}.
        reach: the axis runs from -reach to reach; weights outside are counted in the outermost bins.
        title: over all panels.
    """
    columns = min(len(weights), 4)
    rows = -(-len(weights) // columns)
    figure = Figure(figsize=(7.2, 0.9 + 2 * rows))
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    axes = list(grid.flat)[: len(weights)]
    for axis in list(grid.flat)[len(weights) :]:
        axis.remove()
    bins = np.linspace(-reach, reach, 62)  # an odd number of bins: zero is the middle of one
    for axis, (name, values) in zip(axes, weights.items(), strict=True):
        flat = np.clip(values.detach().cpu().numpy().ravel(), -reach, reach)
        axis.hist(flat, bins=bins, color=COLOURS[0])
        axis.set_yscale("log")
        axis.set_title(name, fontsize=10, loc="center")
    for axis in axes[-columns:]:
        axis.set_xlabel("weight")
        axis.xaxis.set_tick_params(labelbottom=True)
    for first in axes[::columns]:
        first.set_ylabel("number of weights")
    if title:
        figure.suptitle(title)
    return figure


@styled
def scales_over_epochs(
    paths: Mapping[str, Shaped[np.ndarray, "E channels"]],
    thresholds: Mapping[str, float],
    groups: Mapping[str, Sequence[int]],
    *,
    highest: float = 0.9,
) -> Figure:
    """Draw the scale of every channel during training as a line, and the threshold that cuts them in the end.

    Chapter 03 draws it.

    Args:
        paths: {panel title: [E, channels]}, ``|gamma|`` before training and after each epoch.
        thresholds: {panel title: ``|gamma|``}, drawn as a dashed line; the channels below it at the end go.
        groups: {name: numbers of channels} of one or two groups, each in a colour of its own.
        highest: upper end of the vertical axis; a few scales may lie above it.
    """
    rows = -(-len(paths) // 2)
    figure = Figure(figsize=(7.2, 0.6 + 2.7 * rows))
    axes = figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False).ravel()
    for axis, (name, path) in zip(axes, paths.items(), strict=False):
        for (group, channels), colour in zip(groups.items(), ("#222222", COLOURS[5]), strict=False):
            drawn = axis.plot(np.asarray(path)[:, channels], color=colour, linewidth=0.7, alpha=0.35)
            drawn[0].set_label(group)
        axis.axhline(
            thresholds[name], linestyle="--", color="#B00020", linewidth=2, label="threshold", zorder=3
        )
        axis.set_title(name, fontsize=11, loc="left")
        axis.set_ylim(-0.02, highest)
        axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    for axis in axes[-2:]:
        axis.set_xlabel("epoch")
    figure.supylabel("|gamma|", fontsize=11)
    handles, labels = axes[0].get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9)
    for line in legend.get_lines():
        line.set(linewidth=2, alpha=1)
    return figure


@styled
def width_bars(
    before: Sequence[int],
    after: Mapping[str, Sequence[int]],
    *,
    colours: Sequence[int] = tuple(range(len(COLOURS))),
    title: str = "channels of each layer",
) -> Figure:
    """Draw the channels of each layer before (grey) and after pruning as bars with their numbers.

    Shared: chapters 03 and 04 draw it.

    Args:
        before: channels of each layer.
        after: {label: channels of each layer}, drawn side by side in front of the grey bars.
        colours: place in the palette of each label.
        title: one line.

    Raises:
        ValueError: a list in `after` has another number of layers than `before`.
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
        axis.bar(shifted, widths, 0.9 * each, color=COLOURS[colours[number]], label=label)
        for place, width in zip(shifted, widths, strict=True):
            axis.text(place, width, str(width), ha="center", va="bottom", fontsize=8)
    axis.set_xticks(places, [str(place) for place in places])
    axis.set(xlabel="convolution, from the input on", ylabel="channels", title=title)
    axis.grid(visible=False, axis="x")
    axis.legend(loc="upper left", fontsize=9)
    return figure


@styled
def score_scatter(
    rows: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float], str]]],
    *,
    xlabel: str,
    ylabel: str,
) -> Figure:
    """Draw the outcome of each candidate over its score as a dot; all panels share both axes.

    A ring marks the candidate with the highest score, which a search picks.

    Chapter 05 draws it.

    Args:
        rows: {row title: {panel title: (scores in [0, 1], outcomes in [0, 1], note in the panel)}}; each row has the
            same panels.
        xlabel: of all panels.
        ylabel: of all panels.
    """
    columns = max(len(panels) for panels in rows.values())
    figure = Figure(figsize=(7.2, 0.9 + 2.1 * len(rows)))
    axes = figure.subplots(len(rows), columns, sharex=True, sharey=True, squeeze=False)
    for axis, name in zip(axes[0], next(iter(rows.values())), strict=True):
        axis.set_title(name, fontsize=10, loc="center")
    for line, (row, panels), colour in zip(axes, rows.items(), COLOURS * 9, strict=False):
        for axis, (scores, outcomes, note) in zip(line, panels.values(), strict=True):
            pick = int(np.argmax(scores))
            axis.plot(scores, outcomes, "o", color=colour, markersize=5, alpha=0.7)
            axis.plot(scores[pick], outcomes[pick], "o", color="none", markeredgecolor="black", markersize=11)
            axis.text(0.97, 0.05, f"{row}\n{note}", transform=axis.transAxes, ha="right", fontsize=10)
            for each in (axis.xaxis, axis.yaxis):
                each.set_major_formatter(mpl.ticker.PercentFormatter(1, decimals=0))
                each.set_major_locator(mpl.ticker.MaxNLocator(5))
    axes[0, 0].set_xlim(left=0)
    figure.supylabel(ylabel, fontsize=11)
    figure.supxlabel(xlabel, fontsize=11)
    return figure
