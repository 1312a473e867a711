"""Diagrams of fewer numbers: two thin matrices, shared weights, and the steps from a network to a small file."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from course_lib.plots._drawing import (
    BLUE,
    GREEN,
    GREY,
    LARGE,
    ORANGE,
    PINK,
    SKY,
    SMALL,
    WIDTH,
    Box,
    arrow,
    box,
    canvas,
    cell,
    finite,
    label,
    need,
    rectangle,
    stack,
    tint,
)
from course_lib.plots.style import styled


@styled
def low_rank(*, rows: int = 64, columns: int = 48, rank: int = 8) -> Figure:
    r"""Draw a matrix as the product of two thin ones, to scale, with the numbers that each side stores.

    .. math:: W \approx U V, \qquad m n \to r (m + n)

    Args:
        rows: m, of the matrix.
        columns: n.
        rank: r, the width of both factors, from 1 to the smaller side.

    Raises:
        ValueError: a size is out of range, or one side is over four times the other.

    Example:
        >>> low_rank(rows=10, columns=10, rank=2).get_label().split(". ")[-1]
        'The matrix holds 100 numbers, the factors together 40.'
    """
    need(
        min(rows, columns) >= 1 and max(rows, columns) <= 4 * min(rows, columns),
        "rows and columns must be positive, neither over four times the other",
        (rows, columns),
    )
    need(1 <= rank <= min(rows, columns), f"rank must lie in [1, {min(rows, columns)}]", rank)
    many, few = rows * columns, rank * (rows + columns)
    figure, axes = canvas(
        300,
        f"A matrix of {rows} by {columns} is about the product of one of {rows} by {rank} and one of {rank} by "
        f"{columns}. The matrix holds {many:,} numbers, the factors together {few:,}.",
    )
    unit, middle = 170 / max(rows, columns), 150
    height, width, thin = rows * unit, columns * unit, max(rank * unit, 5)
    whole = Box(150 - width / 2, middle - height / 2, width, height)
    first = Box(380 - thin / 2, middle - height / 2, thin, height)
    second = Box(590 - width / 2, middle - thin / 2, width, thin)
    for place, colour, name, size in (
        (whole, BLUE, "W", f"{rows} × {columns}"),
        (first, GREEN, "U", f"{rows} × {rank}"),
        (second, GREEN, "V", f"{rank} × {columns}"),
    ):
        rectangle(axes, place, edge=colour, fill=tint(colour, 0.3))
        label(axes, (place.centre[0], place.y - 34), name, weight="bold", size=LARGE)
        label(axes, (place.centre[0], place.y - 14), size, size=SMALL)
    label(axes, (300, middle), "≈", size=16)
    label(axes, (460, middle), "×", size=16)
    label(axes, (150, 272), f"{many:,} numbers", color=BLUE)
    label(axes, (485, 272), f"{few:,} numbers", color=GREEN)
    return figure


_BUCKETS = (BLUE, ORANGE, GREEN, PINK, SKY, GREY)


@styled
def hash_buckets(
    places: Sequence[Sequence[int]] = ((0, 2, 1, 3, 0), (3, 1, 1, 0, 2), (2, 0, 3, 2, 1), (1, 3, 0, 2, 2)),
    stored: Sequence[float] = (0.7, -0.2, 0.1, -0.5),
    *,
    signs: Sequence[Sequence[int]] | None = None,
) -> Figure:
    r"""Draw a weight matrix whose entries are picked from few stored numbers by a hash of their place.

    .. math:: W_{ij} = \mathrm{sign}(i, j) \cdot \text{stored}[h(i, j)]

    Args:
        places: h, the bucket of each weight: one to six rows of two to six.
        stored: the number in each bucket, two to six.
        signs: +1 or -1 for each weight; without them all are +1.

    Raises:
        ValueError: rows differ in length, a place is no bucket, or there are too many.

    Example:
        >>> hash_buckets([[0, 1], [1, 0]], [0.5, 2]).get_label().split(". ")[0]
        'A matrix of 2 by 2 weights picks each from 2 stored numbers'
    """
    right = 1 <= len(places) <= 6 and 2 <= len(places[0]) <= 6 and len({len(row) for row in places}) == 1
    need(right, "places must be one to six rows of two to six, all of one length", places)
    need(2 <= len(stored) <= len(_BUCKETS) and finite(stored), "stored must be two to six numbers", stored)
    right = all(place in range(len(stored)) for row in places for place in row)
    need(right, f"places must be buckets, counted from 0 to {len(stored) - 1}", places)
    signs = [[1] * len(row) for row in places] if signs is None else signs
    right = [len(row) for row in signs] == [len(row) for row in places] and {s for r in signs for s in r} <= {
        1,
        -1,
    }
    need(right, "signs must be +1 or -1, one for each place", signs)
    tall = max(len(places), len(stored))
    count = len(places) * len(places[0])
    figure, axes = canvas(
        104 + 36 * tall,
        f"A matrix of {len(places)} by {len(places[0])} weights picks each from {len(stored)} stored numbers. A hash "
        f"of row and column says which: {count} weights, {len(stored)} numbers in the file.",
    )
    middle, colours = 56 + 18 * tall, [tint(colour, 0.35) for colour in _BUCKETS]
    width, left = len(places[0]) * 52 - 4, 40
    for i, (row, own) in enumerate(zip(places, signs, strict=True)):
        for j, (place, sign) in enumerate(zip(row, own, strict=True)):
            y = middle + 36 * (i - (len(places) - 1) / 2)
            where = Box(left + 52 * j, y - 15, 48, 30)
            rectangle(axes, where, edge=_BUCKETS[place], fill=colours[place])
            label(axes, where.centre, f"{sign * stored[place]:g}".replace("-", "−"))
    step = box(axes, Box((left + width + 584) / 2 - 48, middle - 30, 96, 60), "hash", "of row and\ncolumn")
    for k, number in enumerate(stored):
        y = middle + 36 * (k - (len(stored) - 1) / 2)
        where = Box(616, y - 15, 56, 30)
        rectangle(axes, where, edge=_BUCKETS[k], fill=colours[k])
        label(axes, where.centre, f"{number:g}".replace("-", "−"))
        label(axes, (604, y), str(k), size=SMALL, ha="right")
    arrow(axes, (left + width + 14, middle), step.left())
    arrow(axes, step.right(), (584, middle))
    label(axes, (left + width / 2, 24), f"{count} weights", weight="bold", size=LARGE)
    label(axes, (644, 24), "stored", weight="bold", size=LARGE)
    label(axes, (644, middle + 18 * tall + 24), f"{len(stored)} numbers", size=SMALL)
    label(axes, (left + width / 2, middle + 18 * tall + 24), "looked up, never stored", size=SMALL)
    return figure


_STEPS = ("trained\nnetwork", "prune", "fine-tune\nor distill", "quantize", "integer file")
_NOTES = ("float32", "fewer channels", "accuracy returns", "8-bit numbers", "integers only")


@styled
def pipeline(notes: Sequence[str] = _NOTES) -> Figure:
    """Draw the way from a trained network to a small file: prune, fine-tune or distill, quantize, save.

    Args:
        notes: five short texts, one below each step, such as its size or its accuracy.

    Raises:
        ValueError: there are not five.

    Example:
        >>> pipeline(["1.1 MB", "0.4 MB", "0.4 MB", "0.1 MB", "0.1 MB"]).get_label().split(", ")[-1]
        'integer file (0.1 MB).'
    """
    need(len(notes) == len(_STEPS), "notes must be five texts", notes)
    listed = ", ".join(
        f"{step} ({note})".replace("\n", " ") for step, note in zip(_STEPS, notes, strict=True)
    )
    figure, axes = canvas(284, f"The steps from a network to a small file: {listed}.")
    kept, cut = [False] * 5, [False, True, False, True, False]
    pitch = WIDTH / len(_STEPS)
    looks = ((kept, BLUE, 26), (cut, BLUE, 26), (kept[:3], GREEN, 26), (kept[:3], ORANGE, 16))
    for number, (title, note) in enumerate(zip(_STEPS, notes, strict=True)):
        x = pitch * (number + 0.5)
        if number < len(looks):
            cuts, colour, size = looks[number]
            stack(axes, (x - size / 2, 108), cuts, colour=colour, size=size)
        else:
            cell(axes, Box(x - 30, 78, 60, 60), "int8", colour=ORANGE)
        label(axes, (x, 222), title, weight="bold")
        label(axes, (x, 262), note, size=SMALL)
        if number:
            arrow(axes, (x - pitch / 2 - 22, 108), (x - pitch / 2 + 22, 108))
    return figure
