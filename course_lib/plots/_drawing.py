"""What all diagrams are drawn with: a canvas in pixels of the page, boxes, arrows, channels, labels."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine

from course_lib.plots.style import COLOURS

BLUE, RED, GREEN, PINK, ORANGE, SKY, BLACK = COLOURS
GREY, PALE = "#767676", "#eeeeee"
WIDTH = 720  # pixels of a page's column, 100 to the inch
SMALL, NORMAL, LARGE = 9, 10, 11  # points
LEADING = 1.75  # pixels between lines for each point of the font

Point = tuple[float, float]


def canvas(height: float, alt: str) -> tuple[Figure, Axes]:
    """Make an empty figure, 720 wide; its axes count pixels from the upper left corner, downwards.

    Args:
        height: in pixels.
        alt: stands for the diagram where it cannot be seen; the label of the figure, which `page.show` reads.
    """
    # An engine that does nothing: without one, `savefig` would leave the figure with the style's constrained layout.
    figure = Figure(figsize=(WIDTH / 100, height / 100), layout=PlaceHolderLayoutEngine(True, False))
    figure.set_label(alt)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(height, 0))
    axes.axis("off")
    return figure, axes


def tint(colour: str, share: float = 0.15) -> str:
    """Mix a colour with white.

    Args:
        colour: as matplotlib takes it.
        share: of the colour; 0 is white.
    """
    return mpl.colors.to_hex([1 - share * (1 - part) for part in mpl.colors.to_rgb(colour)])


class Box(NamedTuple):
    """Rectangle on a canvas, with the points where arrows begin and end."""

    x: float
    y: float
    width: float
    height: float

    @property
    def centre(self) -> Point:
        """The middle."""
        return self.x + self.width / 2, self.y + self.height / 2

    def left(self, shift: float = 0) -> Point:
        """Middle of the left edge, or as far below it as said."""
        return self.x, self.centre[1] + shift

    def right(self, shift: float = 0) -> Point:
        """Middle of the right edge, or as far below it as said."""
        return self.x + self.width, self.centre[1] + shift

    def top(self, shift: float = 0) -> Point:
        """Middle of the upper edge, or as far to the right of it as said."""
        return self.centre[0] + shift, self.y

    def bottom(self, shift: float = 0) -> Point:
        """Middle of the lower edge, or as far to the right of it as said."""
        return self.centre[0] + shift, self.y + self.height


def label(axes: Axes, place: Point, text: str, *, size: float = NORMAL, **how: Any) -> None:
    """Write a text around a point. Each line stands on a baseline of its own, so that neighbours are level.

    Args:
        axes: of a canvas.
        place: the middle of the text, unless `ha` says otherwise.
        text: few words; a line break where it is long.
        size: in points, at least 9.
        how: as `Axes.text` takes it.
    """
    lines = text.split("\n")
    for number, words in enumerate(lines):
        down = (number - (len(lines) - 1) / 2) * LEADING * size
        axes.text(place[0], place[1] + down + size / 2, words, fontsize=size, **({"ha": "center"} | how))


def rectangle(axes: Axes, place: Box, *, edge: str = GREY, fill: str = "white", **how: Any) -> Box:
    """Draw a rectangle without text.

    Args:
        axes: of a canvas.
        place: where.
        edge: colour of the outline.
        fill: colour inside.
        how: as matplotlib's patches take it.
    """
    usual = {"linewidth": 1.2, "edgecolor": edge, "facecolor": fill}
    axes.add_patch(mpl.patches.Rectangle(place[:2], place.width, place.height, **(usual | how)))
    return place


def box(axes: Axes, place: Box, title: str, note: str = "", *, colour: str = GREY) -> Box:
    """Draw a box with round corners: a title in bold, and below it a note of few words.

    Args:
        axes: of a canvas.
        place: where.
        title: one line or two.
        note: smaller; may have several lines.
        colour: of the outline; the inside is a tint of it.
    """
    style = mpl.patches.BoxStyle("round", pad=0, rounding_size=7)
    axes.add_patch(
        mpl.patches.FancyBboxPatch(
            place[:2],
            place.width,
            place.height,
            boxstyle=style,
            linewidth=1.5,
            edgecolor=colour,
            facecolor=tint(colour),
        )
    )
    x, y = place.centre
    heights = [
        LEADING * size * len(text.split("\n")) if text else 0
        for text, size in ((title, LARGE), (note, SMALL))
    ]
    begin = y - sum(heights) / 2
    if title:
        label(axes, (x, begin + heights[0] / 2), title, size=LARGE, weight="bold")
    if note:
        label(axes, (x, begin + heights[0] + heights[1] / 2), note, size=SMALL)
    return place


def cell(axes: Axes, place: Box, text: str, *, colour: str = GREY, share: float = 0.2) -> Box:
    """Draw a number in its place of storage.

    Args:
        axes: of a canvas.
        place: where.
        text: the number.
        colour: of the outline; the inside is a tint of it.
        share: how strong the tint is.
    """
    rectangle(axes, place, edge=colour, fill=tint(colour, share))
    label(axes, place.centre, text)
    return place


def arrow(axes: Axes, *points: Point, colour: str = BLACK, gradient: bool = False, **how: Any) -> None:
    """Draw an arrow through points; a gradient is red and dashed.

    Args:
        axes: of a canvas.
        points: two or more; the head is at the last.
        colour: of the line and its head.
        gradient: whether it stands for a gradient.
        how: as matplotlib's patches take it.
    """
    usual: dict[str, Any] = {"linewidth": 1.5, "color": RED if gradient else colour, "mutation_scale": 11}
    if gradient:
        usual |= {"linestyle": (0, (3, 1.6)), "linewidth": 2}
    path = mpl.path.Path(points)
    axes.add_patch(mpl.patches.FancyArrowPatch(path=path, arrowstyle="-|>", **(usual | how)))


def line(axes: Axes, *points: Point, colour: str = GREY, **how: Any) -> None:
    """Draw a line through points.

    Args:
        axes: of a canvas.
        points: two or more.
        colour: of the line.
        how: as matplotlib's lines take it.
    """
    axes.plot(*zip(*points, strict=True), **({"color": colour, "linewidth": 1.2} | how))


def channel(axes: Axes, place: Box, colour: str = BLUE, *, cut: bool = False, share: float = 0.35) -> Box:
    """Draw a channel, a kernel or a number of one: filled, or grey and struck out where it is cut.

    Args:
        axes: of a canvas.
        place: where.
        colour: of a kept one.
        cut: whether it goes.
        share: how strong the colour inside is.
    """
    if not cut:
        return rectangle(axes, place, edge=colour, fill=tint(colour, share))
    rectangle(axes, place, fill=PALE, linestyle=(0, (3, 2)))
    x, y, width, height = place
    line(axes, (x + 2, y + height - 2), (x + width - 2, y + 2), colour=RED, linewidth=2)
    return place


def grid(
    axes: Axes,
    place: Point,
    cuts: Sequence[Sequence[bool]],
    *,
    size: float = 26,
    gap: Point = (4, 10),
    **how: Any,
) -> list[list[Box]]:
    """Draw rows of channels, kernels or numbers; return where each stands.

    Args:
        axes: of a canvas.
        place: middle of the left edge.
        cuts: for each row, for each in it, whether it is cut.
        size: of a side.
        gap: between two in a row, and between rows.
        how: as `channel` takes it.
    """
    top = place[1] - (len(cuts) * (size + gap[1]) - gap[1]) / 2
    places = []
    for number, row in enumerate(cuts):
        y = top + number * (size + gap[1])
        places.append([Box(place[0] + k * (size + gap[0]), y, size, size) for k in range(len(row))])
        for each, cut in zip(places[-1], row, strict=True):
            channel(axes, each, cut=cut, **how)
    return places


def stack(axes: Axes, place: Point, cuts: Sequence[bool], **how: Any) -> list[Box]:
    """Draw channels below each other; return where each stands.

    Args:
        axes: of a canvas.
        place: middle of the left edge.
        cuts: for each, whether it is cut.
        how: as `grid` takes it.
    """
    return [row[0] for row in grid(axes, place, [[cut] for cut in cuts], **how)]


def need(right: bool, what: str, got: Any) -> None:
    """Refuse an argument that a diagram cannot show.

    Args:
        right: whether it can.
        what: the name of the argument and what it must be.
        got: the argument.

    Raises:
        ValueError: it cannot.
    """
    if not right:
        raise ValueError(f"{what}; it is {got!r}.")


def finite(values: Sequence[float]) -> bool:
    """Say whether all values are numbers, none of them infinite.

    Args:
        values: any.
    """
    return all(map(math.isfinite, values))
