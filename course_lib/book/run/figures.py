"""Key figures of many runs: the mean of their numbers with its interval."""

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from course_lib.book.run import show
from course_lib.statistics import Interval, mean_interval


@dataclass(frozen=True)
class Quantity:
    """The number of a key figure, and how it is shown.

    Attributes:
        value: unrounded; 0.954 for "95.4 %".
        form: format specification that shows it: ".1f", "+.1%" for a share with its sign, ".4g".
        unit: words behind the number, such as "MB"; may be empty.
    """

    value: float
    form: str = ".4g"
    unit: str = ""

    @property
    def measure(self) -> str:
        """The unit of the number as it is shown: "%" for a share that is shown in percent."""
        return " ".join(filter(None, ("%" * self.form.endswith("%"), self.unit)))


@dataclass(frozen=True)
class Merged:
    """One figure over several runs.

    Attributes:
        values: {seed: the figure as it was reported}.
        form: format specification of a number.
        unit: words behind the number.
        interval: mean with its 95 % interval; None where there is nothing to estimate.
        why: what stands in the way of a mean; empty where nothing does.
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
        """What a record keeps of it beside the single values."""
        kept: dict[str, Any] = {"shown": str(self), "n": len(self.values)}
        if self.interval is not None:
            kept |= {"mean": self.interval.mean, "low": self.interval.low, "high": self.interval.high}
            kept |= {"form": self.form, "unit": self.unit}
        return kept


def quantity(figure: object) -> Quantity | None:
    """The number of a key figure, None where it is no number.

    Args:
        figure: as `course_lib.page.report` keeps it in a notebook, or a value of a record's row. Of a figure with
            an interval this is the mean: the interval is about the runs inside one run of the chapter.
    """
    if isinstance(figure, Mapping):
        return Quantity(figure["value"], figure["form"], figure["unit"])
    if isinstance(figure, numbers.Real) and not isinstance(figure, bool) and math.isfinite(figure):
        return Quantity(float(figure))
    return None


def merge(values: Mapping[int, Any]) -> Merged:
    """One figure of runs that differ in their seed alone: the mean and Student's 95 % interval.

    There is no mean where a value is no number (see `quantity`) or where the runs show it in different forms or units;
    the values are then kept side by side. There is no interval for a single run, nor where all runs have the same
    value: a chapter that reads the figure from a record has it at every seed, and an interval of no width would claim
    certainty.

    Args:
        values: {seed: figure as reported}, at least one.
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
