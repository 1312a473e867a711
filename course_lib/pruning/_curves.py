"""The accuracy of a network over the share that one layer loses: rows of `filters.sensitivity` and curves of them."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from course_lib.validation import check_number, described


def _check_rows(rows: object) -> list[tuple[str, float, float]]:
    """Return the rows of `sensitivity` as (layer, ratio, accuracy).

    Raises:
        TypeError: not a list of rows, or a value of another kind in one.
        ValueError: no rows, or a number out of range.
    """
    remedy = "Give the rows that sensitivity() returns."
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Sequence):
        raise TypeError(f"rows is {described(rows)}; it must be a list of mappings. {remedy}")
    if not rows:
        raise ValueError(f"there are no rows, but rows must hold one at least. {remedy}")
    return [_checked_row(row, place) for place, row in enumerate(rows)]


def _checked_row(row: Mapping[str, str | float], number: int) -> tuple[str, float, float]:
    """Layer, ratio and accuracy of a row of `sensitivity`."""
    where = f"rows[{number}]"
    if not isinstance(row, Mapping) or not {"layer", "ratio", "accuracy"} <= row.keys():
        raise ValueError(
            f"{where} is {row!r:.80}; it must have layer, ratio and accuracy. Give what "
            "sensitivity() returns."
        )
    if not isinstance(row["layer"], str):
        raise TypeError(
            f"the layer in {where} is {row['layer']!r:.60}; it must be a name. Give the rows of sensitivity()."
        )
    name = f"of layer {row['layer']!r}, {where}"
    ratio = check_number(row["ratio"], f"the ratio {name},", low=0, high=1, high_open=True)
    hint = "Give a share of all images, 0.93 and not 93; leave the row out, or evaluate on images that give a number."
    accuracy = check_number(row["accuracy"], f"the accuracy {name},", low=0, high=1, hint=hint)
    return row["layer"], ratio, accuracy


def _first_below(curve: Sequence[tuple[float, float]], least: float) -> float:
    """Where a curve of (ratio, accuracy) points joined by straight lines first goes below `least`."""
    for (ratio, accuracy), (next_ratio, next_accuracy) in pairwise(curve):
        if next_accuracy < least:
            return ratio + (next_ratio - ratio) * (accuracy - least) / (accuracy - next_accuracy)
    return curve[-1][0]
