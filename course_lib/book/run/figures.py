"""Key figures of many runs: the number read from what a chapter shows, and the mean with its interval."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from course_lib.statistics import Interval, mean_interval

_NUMBER = r"[+\-−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][+\-]?\d+)?"
_SHOWN = re.compile(rf"({_NUMBER})\s*([^\d\[\]]*?)\s*(?:\[\s*{_NUMBER}\s*,\s*{_NUMBER}\s*\])?")


@dataclass(frozen=True)
class Quantity:
    """A number as a chapter shows it.

    Attributes:
        value: in the unit; 95.4 for "95.4 %".
        unit: what stands behind the number, such as "%" or "MB"; may be empty.
        form: format specification that shows the number as it was: ".1f", "+.1f" for one with a sign, ".4g".
    """

    value: float
    unit: str = ""
    form: str = ".4g"


@dataclass(frozen=True)
class Merged:
    """One figure over several runs.

    Attributes:
        values: {seed: the figure as it was reported}.
        unit: that they share.
        form: format specification of a number.
        interval: mean with its 95 % interval; None where there is nothing to estimate.
        why: what stands in the way of a mean; empty where nothing does.
    """

    values: dict[int, Any]
    unit: str = ""
    form: str = ""
    interval: Interval | None = None
    why: str = ""

    def __str__(self) -> str:
        if self.interval is not None:
            mean, ends = format(self.interval, self.form).split(" ", 1)
            return " ".join(filter(None, (mean, self.unit, ends)))
        if not self.why:
            shown = _text(next(iter(self.values.values())))
            return shown if len(self.values) == 1 else f"{shown}, in every run"
        listed = "; ".join(f"{seed}: {_text(value)}" for seed, value in self.values.items())
        return f"not merged ({self.why}); {listed}"

    def as_json(self) -> dict[str, Any]:
        """What a record keeps of it beside the single values."""
        kept: dict[str, Any] = {"shown": str(self), "n": len(self.values)}
        if self.interval is not None:
            kept |= {"mean": self.interval.mean, "low": self.interval.low, "high": self.interval.high}
            kept["unit"] = self.unit
        return kept


def read(shown: object) -> Quantity | None:
    """The number of a key figure, None where it is not one number with its unit.

    Read are numbers, and texts that are a number, then perhaps a unit without digits, then perhaps an interval, which
    is left out: it is about the seeds inside one run.

        "95.4%" -> 95.4 %        "+13.2 % [+3.4, +23.0]" -> 13.2 %        "4.19 MB" -> 4.19 MB

    A text that holds another number ("0.42× the MACs, 1.68× the latency") is not read: half of it would be lost.
    """
    if isinstance(shown, (int, float)) and not isinstance(shown, bool):
        return Quantity(float(shown)) if abs(shown) < float("inf") else None
    found = _SHOWN.fullmatch(shown.strip()) if isinstance(shown, str) else None
    if found is None:
        return None
    number, unit = found.groups()
    plain = number.replace(",", "").replace("−", "-")
    sign = "+" if number.startswith("+") else ""
    decimals = len(plain.partition(".")[2])
    return Quantity(float(plain), unit, f"{sign}.4g" if "e" in plain.lower() else f"{sign}.{decimals}f")


def merge(values: Mapping[int, Any]) -> Merged:
    """One figure of runs that differ in their seed alone: the mean and Student's 95 % interval.

    There is no mean where a value is no number (see `read`) or where the units differ; the values are then kept side
    by side. There is no interval for a single run, nor where all runs show the same: a chapter that reads the figure
    from a record shows it at every seed, and an interval of no width would claim certainty.

    Args:
        values: {seed: figure as reported}, at least one.
    """
    values = dict(values)
    quantities = [read(value) for value in values.values()]
    if len({str(value) for value in values.values()}) == 1:
        first = quantities[0]
        return Merged(values, first.unit if first else "", first.form if first else "")
    if None in quantities:
        return Merged(values, why="not one number in every run")
    units = sorted({quantity.unit for quantity in quantities})
    if len(units) > 1:
        named = ", ".join(unit or "none" for unit in units)
        return Merged(values, why=f"the units differ: {named}")
    # The form with most decimals; "+" sorts before ".", so a sign that any run shows is kept.
    decimals = max((quantity.form.lstrip("+") for quantity in quantities), key=_decimals)
    sign = "+" if any(quantity.form.startswith("+") for quantity in quantities) else ""
    interval = mean_interval([quantity.value for quantity in quantities])
    return Merged(values, units[0], sign + decimals, interval)


def _decimals(form: str) -> int:
    return 99 if form.endswith("g") else int(form[1:-1])


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
