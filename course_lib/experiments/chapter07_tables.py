"""Chapter 07: what its pages show of the experiments, as rows, curves and differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from course_lib import statistics
from course_lib.experiments import chapter07
from course_lib.experiments.results import Results
from course_lib.statistics import Interval

__all__ = [
    "FINAL",
    "Arm",
    "ablation",
    "all_arms",
    "best_rate",
    "best_teacher",
    "beyond_the_sum",
    "costs_of",
    "curves",
    "difference",
    "gains",
    "ordered_runs",
    "photograph_rows",
    "points",
    "rates",
    "rows",
    "run_gaps",
    "teacher_grid",
]


@dataclass(frozen=True)
class Arm:
    """The runs of one arm.

    Attributes:
        results: of the experiment that has it.
        settings: select the runs.
        metric: "test" is the accuracy of the int8 network, "float" that of the one in float32.
    """

    results: Results
    settings: Mapping[str, Any]
    metric: str = "test"

    @property
    def interval(self) -> Interval:
        """The mean with its interval."""
        return self.results.interval(self.metric, **self.settings)

    @property
    def values(self) -> list[float]:
        """One number a seed."""
        return self.results.values(self.metric, **self.settings)

    @property
    def parts(self) -> np.ndarray:
        """Means over the seeds of the parts of the test images."""
        return np.mean(self.results.values(f"{self.metric}_parts", **self.settings), axis=0)


def difference(of: Arm, over: Arm) -> Interval:
    """The paired difference of two arms, which may stand in two experiments: of minus over."""
    return statistics.paired_difference(of.values, over.values, parts=of.parts - over.parts)


FINAL = 25
"""Epochs in all: those of the given network and ten after the cut; and of what is trained anew."""


def all_arms(costs: Results, budget: Results) -> dict[str, Arm]:
    """The networks of the first table, by name, with as many epochs in all."""

    def trained(by: str, epochs: int, metric: str = "test") -> Arm:
        return Arm(budget, {"by": by, "epochs": epochs}, metric)

    return {
        "given network, float32": Arm(costs, {"by": "given"}, "float"),
        "given network, int8": Arm(costs, {"by": "given"}),
        "half width, int8": Arm(costs, {"by": "half"}),
        "cut, int8": Arm(costs, {"by": "cut"}),
        "cut, distilled, float32": trained("pipeline", 10, "float"),
        "pipeline: cut, distilled, int8": trained("pipeline", 10),
        "labels instead of the teacher": trained("labels", 10),
        "cut's widths, new weights": trained("new weights", FINAL),
        "narrow network": trained("narrow", FINAL),
    }


_STRUCTURE = {
    "given network, float32": "given",
    "given network, int8": "given",
    "half width, int8": "half",
    "narrow network": "narrow",
}


def costs_of(name: str, costs: Results) -> dict[str, list[float]]:
    """Bytes of the file and MACs of an image of a network of `all_arms`, one number a seed."""
    by = _STRUCTURE.get(name, "cut")
    size = "float bytes" if name.endswith("float32") else "bytes"
    return {"bytes": costs.values(size, by=by), "macs": costs.values("macs", by=by)}


def rows(costs: Results, arms: Mapping[str, Arm]) -> list[dict[str, str]]:
    """Accuracy and costs of every network, beside the given one in float32."""
    whole = costs_of("given network, float32", costs)
    found = []
    for name, arm in arms.items():
        own = costs_of(name, costs)
        fewer = {metric: whole[metric][0] / np.mean(own[metric]) for metric in own}
        found.append(
            {
                "network": name,
                "test": f"{arm.interval:.1%}",
                "bytes": f"{np.mean(own['bytes']):,.0f}",
                "fewer": f"{fewer['bytes']:.1f} x",
                "MACs": f"{np.mean(own['macs']):,.0f}",
                "fewer ": f"{fewer['macs']:.1f} x",
            }
        )
    return found


def points(
    costs: Results, arms: Mapping[str, Arm], metric: str
) -> tuple[dict[str, tuple[float, float]], dict[str, Interval]]:
    """{network: (mean cost, mean accuracy)} for a plot against bytes or MACs, and the intervals of the accuracy."""
    found = {name: arm.interval for name, arm in arms.items()}
    return (
        {
            name: (float(np.mean(costs_of(name, costs)[metric])), interval.mean)
            for name, interval in found.items()
        },
        found,
    )


def curves(budget: Results) -> dict[str, dict[float, Interval]]:
    """Accuracy in int8 over the epochs that are paid after the network is given."""
    return {
        name: {epochs: budget.interval("test", by=by, epochs=epochs) for epochs in chapter07.BUDGETS}
        for name, by in (("pipeline", "pipeline"), ("narrow network", "narrow"))
    }


def gains(budget: Results, few: Results) -> dict[str, Interval]:
    """The pipeline minus the narrow network: for every budget, for as many epochs in all, and with few labels."""
    found = {
        f"{epochs} epoch{'s' * (epochs != 1)}": budget.gain(
            "test", of={"by": "pipeline", "epochs": epochs}, over={"by": "narrow", "epochs": epochs}
        )
        for epochs in chapter07.BUDGETS[1:]
    }
    found["25 epochs in all"] = budget.gain(
        "test", of={"by": "pipeline", "epochs": 10}, over={"by": "narrow", "epochs": FINAL}
    )
    for images in chapter07.FEW:
        for by, note in (("narrow", ""), ("narrow, taught", ", narrow one taught")):
            found[f"{images:,} labels{note}"] = few.gain(
                "test", of={"by": "pipeline", "images": images}, over={"by": by, "images": images}
            )
    return found


def ablation(arms: Mapping[str, Arm]) -> dict[str, Interval]:
    """What each part of the pipeline adds to its accuracy: the pipeline minus the pipeline without it."""
    whole = arms["pipeline: cut, distilled, int8"]
    without = {
        "the training": "cut, int8",
        "the teacher, over labels": "labels instead of the teacher",
        "the rounding": "cut, distilled, float32",
        "the cut": "given network, int8",
        "the given weights, 25 epochs in all": "cut's widths, new weights",
        "all of it, over the narrow network": "narrow network",
    }
    return {part: difference(whole, arms[name]) for part, name in without.items()}


def _only(results: Results, **settings: Any) -> Any:
    frame = results.frame
    for name, value in settings.items():
        frame = frame[frame[name].isna() if value is None else frame[name] == value]
    return frame


def best_rate(choices: Results, start: str, teacher: str, epochs: int, images: int | None = None) -> float:
    """The learning rate that is best on validation images."""
    found = rates(choices, start, teacher, epochs, images)
    return max(found, key=lambda rate: found[rate])


def teacher_grid(choices: Results, epochs: int, rate: float) -> np.ndarray:
    """Validation accuracy for every temperature (rows) and alpha (columns)."""
    chosen = _only(choices, start="cut", teacher="given", epochs=epochs, images=None, rate=rate)
    table = chosen.pivot(index="temperature", columns="alpha", values="validation")
    return table.loc[list(chapter07.TEMPERATURES), list(chapter07.ALPHAS)].to_numpy()


def best_teacher(choices: Results, epochs: int, rate: float) -> dict[str, float]:
    """Temperature and alpha that are best on validation images."""
    grid = teacher_grid(choices, epochs, rate)
    row, column = np.unravel_index(grid.argmax(), grid.shape)
    return {"temperature": chapter07.TEMPERATURES[row], "alpha": chapter07.ALPHAS[column]}


def ordered_runs(orders: Results, words: Sequence[str]) -> dict[str, list[float]]:
    """Test accuracy of every seed of every order."""
    return {order: orders.values("test", order=order) for order in words}


def rates(
    choices: Results, start: str, teacher: str, epochs: int, images: int | None = None
) -> dict[float, float]:
    """Validation accuracy by learning rate."""
    chosen = _only(choices, start=start, teacher=teacher, epochs=epochs, images=images)
    if teacher == "given":
        chosen = chosen[(chosen["temperature"] == 4.0) & (chosen["alpha"] == 0.5)]
    return chosen.groupby("rate")["validation"].mean().to_dict()


def beyond_the_sum(base: Arm, first: Arm, second: Arm, both: Arm) -> Interval:
    """What two steps change together, minus what each of them changes alone."""
    signs = ((both, 1), (base, 1), (first, -1), (second, -1))
    values = sum(sign * np.array(arm.values) for arm, sign in signs)
    parts = sum(sign * arm.parts for arm, sign in signs)
    return statistics.mean_interval(values.tolist(), parts=parts)


def photograph_rows(real: Results, ways: Sequence[str]) -> list[dict[str, str]]:
    """Every run on photographs, in float32 and in int8, with mean costs."""
    found = []
    for by in ways:
        runs = {
            name: ", ".join(f"{value:.1%}" for value in sorted(real.values(metric, by=by)))
            for name, metric in (("float32", "float"), ("int8", "test"))
        }
        costs = {name: f"{np.mean(real.values(name.lower(), by=by)):,.0f}" for name in ("bytes", "MACs")}
        found.append({"network": by, **runs, **costs})
    return found


def run_gaps(of: Sequence[float], over: Sequence[float]) -> str:
    """Differences run by run, in points, from the lowest."""
    return ", ".join(f"{gap:+.1f}" for gap in sorted(100 * (a - b) for a, b in zip(of, over, strict=True)))
