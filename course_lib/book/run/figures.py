"""Merge the key figures of many runs: the mean of each with its interval."""

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from course_lib.book.run import show
from course_lib.statistics import Interval, mean_interval

__all__ = ["Merged", "Quantity", "merge", "quantity"]


@dataclass(frozen=True)
class Quantity:
    """Number of a key figure, with its format and unit.

    Attributes:
        value: unrounded; 0.954 for "95.4 %".
        form: format specification: ".1f", "+.1%" for a share with its sign, ".4g".
        unit: words behind the number, such as "MB"; may be empty.

    Example:
        >>> Quantity(0.954, ".1%").measure
        '%'
    """

    value: float
    form: str = ".4g"
    unit: str = ""

    @property
    def measure(self) -> str:
        """Unit of the number as it is shown: "%" for a share shown in percent, and the words behind it."""
        return " ".join(filter(None, ("%" * self.form.endswith("%"), self.unit)))


@dataclass(frozen=True)
class Merged:
    """One key figure over several runs; `str` shows its mean, or its values.

    Attributes:
        values: {seed: the figure as it was reported}.
        form: format specification of a number.
        unit: words behind the number.
        interval: mean with its 95 % interval; None if there is nothing to estimate.
        why: the reason why there is no mean; empty if there is one, or if all values are the same.
    """

    values: dict[int, Any]
    form: str = ""
    unit: str = ""
    interval: Interval | None = None
    why: str = ""

    def __str__(self) -> str:
        if self.interval is not None:
            mean, _, ends = format(self.interval, self.form).partition(" [")
            return " ".join(filter(None, (mean, self.unit, f"[{ends}")))
        if not self.why:
            shown = show.figure(next(iter(self.values.values())))
            return shown if len(self.values) == 1 else f"{shown}, in every run"
        listed = "; ".join(f"{seed}: {show.figure(value)}" for seed, value in self.values.items())
        return f"not merged ({self.why}); {listed}"

    def as_json(self) -> dict[str, Any]:
        """Make the part of a record that is kept beside the single values: the text shown, n, mean and interval."""
        kept: dict[str, Any] = {"shown": str(self), "n": len(self.values)}
        if self.interval is not None:
            kept |= {"mean": self.interval.mean, "low": self.interval.low, "high": self.interval.high}
            kept |= {"form": self.form, "unit": self.unit}
        return kept


def quantity(figure: object) -> Quantity | None:
    """Read the number of a key figure; None if it is not a finite number.

    Args:
        figure: as `course_lib.page.report` keeps it in a notebook, or a value in a row of a record. A figure with an
            interval gives its mean: the interval is about the runs inside one run of the chapter.

    Example:
        >>> quantity({"value": 1.5, "form": ".1f", "unit": "MB", "shown": "1.5 MB"})
        Quantity(value=1.5, form='.1f', unit='MB')
    """
    if isinstance(figure, Mapping):
        return Quantity(figure["value"], figure["form"], figure["unit"])
    if isinstance(figure, numbers.Real) and not isinstance(figure, bool) and math.isfinite(figure):
        return Quantity(float(figure))
    return None


def merge(values: Mapping[int, Any]) -> Merged:
    """Merge a key figure over runs that differ only in their seed: the mean and Student's 95 % interval.

    There is no mean if a value is not a number (see `quantity`) or the runs show it in different forms or units; the
    values are then kept side by side. There is no interval for a single run, nor if all runs have the same value: a
    chapter that reads the figure from a record has it at every seed, and an interval of no width would claim
    certainty.

    Args:
        values: {seed: figure as reported}, at least one.

    Example:
        >>> print(merge({0: 0.71, 1: 0.74, 2: 0.73}))
        0.7267 [0.6887, 0.7646]
        >>> print(merge({0: "vgg", 1: "vgg"}))
        vgg, in every run
    """
    values = dict(values)
    found = [quantity(value) or str(value) for value in values.values()]
    first = found[0]
    if all(one == first for one in found):
        return Merged(values) if isinstance(first, str) else Merged(values, first.form, first.unit)
    quantities = [one for one in found if isinstance(one, Quantity)]
    if len(quantities) < len(found):
        return Merged(values, why="not a number in every run")
    forms = sorted({(one.form, one.unit) for one in quantities})
    if len(forms) > 1:
        named = ", ".join(" ".join(filter(None, form)) for form in forms)
        return Merged(values, why=f"shown in different forms: {named}")
    form, unit = forms[0]
    return Merged(values, form, unit, mean_interval([one.value for one in quantities]))
