"""What an experiment gives: its runs as a frame, the numbers of an arm, means, gains, choices and tables."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats

from course_lib import statistics
from course_lib.experiments import records
from course_lib.statistics import Interval
from course_lib.validation import check_choice

__all__ = ["Results", "scatter"]


@dataclass(frozen=True)
class Results:
    """The runs of an experiment with their metrics.

    Attributes:
        frame: a row for each run: settings and metrics.
        record: as it is kept, with where it comes from.
        seed: what another seed changes, in words.

    Example:
        >>> rows = [{"T": T, "seed": s, "test": T / 10 + s / 100} for T in (1, 4) for s in range(5)]
        >>> results = Results(pd.DataFrame(rows), {"name": "none"}, "the order of images")
        >>> print(f"{results.gain('test', of={'T': 4}, over={'T': 1}):+.1%}")
        +30.0 % [+30.0, +30.0]
    """

    frame: pd.DataFrame
    record: Mapping[str, Any]
    seed: str

    def values(self, metric: str, **arm: Any) -> list[Any]:
        """Select the numbers of one arm in the order of its seeds; None selects the runs that lack a setting.

        Raises:
            KeyError: a column is unknown; the message lists the nearest ones.
            ValueError: no run has these settings.
        """
        return records.values(self.frame, metric, **arm)

    def interval(self, metric: str, **arm: Any) -> Interval:
        """Compute the mean of an arm of at least five runs with its interval over seeds and test images.

        Raises:
            ValueError: the arm has fewer than five runs, for which an interval says little: show the runs.
        """
        values = self.values(metric, **arm)
        _check_enough(values, arm)
        return statistics.mean_interval(values, parts=self._parts(metric, **arm))

    def gain(self, metric: str, *, of: Mapping[str, Any], over: Mapping[str, Any]) -> Interval:
        """Compute the paired difference of two arms of at least five runs: of minus over.

        Raises:
            ValueError: the arms have fewer than five runs, or other seeds.
        """
        return self.over(self, metric, of=of, over=over)

    def over(
        self, other: "Results", metric: str, *, of: Mapping[str, Any], over: Mapping[str, Any]
    ) -> Interval:
        """Compute the paired difference of an arm here and one of another experiment with the same seeds.

        Args:
            other: holds the arm that is subtracted.
            metric: the number that is compared.
            of: the arm of these results.
            over: the arm of the others.

        Raises:
            ValueError: an arm has fewer than five runs, or they have other numbers of runs.
        """
        first, second = self.values(metric, **of), other.values(metric, **over)
        _check_enough(first, of)
        one, two = self._parts(metric, **of), other._parts(metric, **over)
        parts = None if one is None or two is None else np.subtract(one, two)
        return statistics.paired_difference(first, second, parts=parts)

    def best(self, metric: str, among: str, **arm: Any) -> dict[str, Any]:
        """Choose a setting by its mean, on validation images as a rule; returns the arm with it filled in.

        Args:
            metric: is the larger, the better.
            among: the setting that is chosen, such as "learning_rate".
            arm: the other settings.

        Raises:
            ValueError: no run has these settings.
        """
        check_choice(among, "column", map(str, self.frame.columns), error=KeyError)
        chosen = records.select(self.frame, arm)
        means = chosen.groupby(among, dropna=False)[metric].mean()
        return {**arm, among: means.idxmax()}

    def table(
        self,
        metric: str,
        arms: Mapping[str, Mapping[str, Any]],
        *,
        over: str | None = None,
        form: str = ".1%",
    ) -> list[dict[str, str]]:
        """Make rows for `page.table`: arm, mean with interval (or the runs, if few), and the gain over one of them.

        Args:
            metric: the number to show.
            arms: {name: settings}.
            over: the name of the arm that the others are compared with; none unless given.
            form: of a number.
        """
        rows = []
        for name, arm in arms.items():
            values = self.values(metric, **arm)
            row = {"arm": name, "runs": str(len(values)), metric: self._shown(metric, arm, form)}
            if over is not None:
                few = len(values) < 5 or name == over
                row[f"gain over {over}"] = (
                    "" if few else f"{self.gain(metric, of=arm, over=arms[over]):+{form.lstrip('+')}}"
                )
            rows.append(row)
        return rows

    @property
    def origin(self) -> str:
        """Where the record comes from, in a line."""
        return records.origin(self.record)

    def _shown(self, metric: str, arm: Mapping[str, Any], form: str) -> str:
        values = self.values(metric, **arm)
        if len(values) >= 5:
            return f"{self.interval(metric, **arm):{form}}"
        return ", ".join(format(value, form) for value in sorted(values))

    def _parts(self, metric: str, **arm: Any) -> Any:
        """Means over the runs of an arm of a metric's parts, one for each part of the test images; None without."""
        column = f"{metric}_parts"
        if column not in self.frame:
            return None
        return np.mean(records.select(self.frame, arm)[column].tolist(), axis=0)


def scatter(frame: pd.DataFrame, metric: str, settings: Sequence[str], *, confidence: float = 0.999) -> float:
    r"""Compute how far a run may lie from the mean of its arm: a quantile times the scatter pooled over all arms.

    .. math:: t \, s, \quad s^2 = \frac{\sum_a \sum_i (x_{ai} - \bar{x}_a)^2}{\sum_a (n_a - 1)}

    Args:
        frame: a row for each run.
        metric: the column of x.
        settings: the columns that name an arm.
        confidence: of the quantile t, between 0 and 1.

    Returns:
        The reach in the unit of the metric; infinity if no arm has two runs.

    Example:
        >>> runs = pd.DataFrame({"T": [1, 1, 4, 4], "seed": [0, 1, 0, 1], "test": [0.0, 0.2, 0.5, 0.7]})
        >>> round(scatter(runs, "test", ["T"], confidence=0.95), 3)  # t = 4.303, s = 0.1414
        0.608
    """
    measured = frame[frame[metric].notna()]
    squares, freedom = 0.0, 0
    # None and lists have no order that pandas could group by; their text has.
    arms = measured[list(settings)].map(str).agg("|".join, axis=1) if settings else [0] * len(measured)
    for _, arm in measured.groupby(arms):
        if len(arm) > 1:
            squares += float(arm[metric].var(ddof=1)) * (len(arm) - 1)
            freedom += len(arm) - 1
    if not freedom:
        return math.inf
    return float(scipy.stats.t.ppf((1 + confidence) / 2, freedom)) * math.sqrt(squares / freedom)


def _check_enough(values: Sequence[float], arm: Mapping[str, Any]) -> None:
    if len(values) < 5:
        raise ValueError(
            f"the arm {dict(arm)} has {len(values)} runs; an interval of fewer than five says little. Show the runs "
            "themselves: values()."
        )
