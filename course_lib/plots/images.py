"""Figures of images and of the class probabilities that a network gives them."""

from collections.abc import Mapping, Sequence

from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from torch import Tensor

from course_lib.plots.style import COLOURS, styled


@styled
def image_grid(
    images: UInt8[Tensor, "N C H W"], titles: Sequence[str] | None = None, *, columns: int = 10
) -> Figure:
    """Draw images in rows, in grey or colour, each with a title if there are titles.

    Shared: chapters 01 and 04 draw it.

    Args:
        images: uint8 [N, C, H, W], C = 1 or 3.
        titles: N short titles.
        columns: images per row.
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
    """Draw class probabilities as bars, a panel for each distribution; all panels share the vertical axis.

    Chapter 01 draws it.

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
    """Draw images in a row, and below each its class probabilities as bars, a row for each set of probabilities.

    Chapter 01 draws it.

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
