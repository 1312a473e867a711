"""An experiment as a value: what varies, how it is measured, which runs are repeated live, and what comes out."""

import functools
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from course_lib import files, jobs
from course_lib.experiments import code, records
from course_lib.experiments.results import Results, scatter
from course_lib.validation import check_count

__all__ = ["FULL", "Experiment", "Run", "Scale"]

Run = Mapping[str, Any]
"""Settings of one run."""

_LEAST, _MOST = 0.01, 0.05  # a live run of another processor may differ by the scatter of seeds, within these


@dataclass(frozen=True)
class Scale:
    """How much of an experiment is done: all of it, what fits into some minutes, or as little as a test needs.

    Attributes:
        minutes: budget of an experiment on real data, whose `prepare` cuts epochs, seeds or images to fit.
        images: at most so many images of each split.
        steps: at most so many updates of each training.

    Example:
        >>> Scale(images=64, steps=2).epochs(30, images=64, batch_size=32), FULL.epochs(30, images=64, batch_size=32)
        (1, 30)
    """

    minutes: float | None = None
    images: int | None = None
    steps: int | None = None

    def epochs(self, wanted: int, *, images: int, batch_size: int) -> int:
        """Cut a number of epochs so that its updates are about `steps`, and at least one epoch is left."""
        if self.steps is None:
            return wanted
        return max(1, min(wanted, self.steps // max(1, images // batch_size)))

    def cut(self, split: Any) -> Any:
        """Take the first `images` images of a split, or all of it."""
        return split if self.images is None else split.subset(torch.arange(min(self.images, len(split))))


FULL = Scale()
"""All of an experiment, as it is recorded."""


@dataclass(frozen=True)
class Experiment:
    """A comparison that is measured once with many runs, recorded, and repeated in part wherever a chapter runs.

    `measure`, `prepare` and `method` are functions of a module, so that they can be imported, pickled and tested.

    Attributes:
        name: of the record in data/results, such as "01-labels".
        runs: what varies, a mapping for each run; "seed" is among its keys. Runs that differ in their seed alone are
            an arm.
        measure: (run with the defaults filled in, what `prepare` returned, the method) -> {metric: number}. A metric
            may also be a list of numbers, one for each part of the test images.
        prepare: (runs, scale) -> what the runs share: base networks, logits of teachers, calibration sets; None if they
            share nothing.
        method: the function that the chapter shows and a learner may change, if the experiment has one.
        defaults: settings of every run that does not say otherwise.
        live: places in `runs` of those that are repeated wherever the chapter runs.
        seed: what another seed changes, in words for a caption.
        dataset: its printed name.
        minutes: budget of an experiment on real data.

    Example:
        >>> def measure(run, shared, method):
        ...     return {"test": run["T"] / 10}
        >>> example = Experiment("none", ({"T": 1, "seed": 0}, {"T": 4, "seed": 0}), measure, seed="nothing")
        >>> example.measured().values("test", T=4)
        [0.4]
    """

    name: str
    runs: tuple[Run, ...]
    measure: Callable[[Run, Any, Any], Mapping[str, Any]]
    prepare: Callable[[Sequence[Run], Scale], Any] | None = None
    method: Callable[..., Any] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    live: tuple[int, ...] = (0,)
    seed: str = "initial weights and order of images"
    dataset: str = "glyphs"
    minutes: float | None = None

    def results(
        self,
        *,
        method: Callable[..., Any] | None = None,
        recompute: bool = False,
        seeds: int | None = None,
        workers: int | None = None,
    ) -> Results:
        """Read the recorded runs and repeat the live ones to show that the record holds.

        With a method that does something else than the recorded one, all runs are measured with it now, and nothing is
        kept: what a learner has changed is what the learner sees.

        Args:
            method: the method as the chapter shows it; the module's own unless given.
            recompute: measure all runs now and replace the record.
            seeds: take only the first so many seeds of each arm, where a changed method has to wait for fewer.
            workers: processes; as many as there are cores unless given.

        Returns:
            The runs with their metrics.

        Raises:
            KeyError: there is no such record.
            ValueError: the record belongs to other runs or settings, or a repeated run does not agree with its own
                record.
        """
        if method is not None and self.method is not None and not code.same(method, self.method):
            return self.measured(method=method, seeds=seeds, workers=workers)
        if recompute:
            self.record(workers=workers)
            return self.recorded()
        results = self.recorded()
        self._check_live(results, workers)
        return results

    def recorded(self) -> Results:
        """Read the record and compare its runs and settings with those of the experiment.

        Raises:
            KeyError: there is no such record.
            ValueError: the record belongs to other runs or other settings.
        """
        record = records.load(self.name)
        told = [run["settings"] for run in record.get("runs", ())]
        # On real data the budget decides how many runs there are.
        if self.minutes is None and (
            told != _as_json(self.runs) or record["defaults"] != _as_json(self.defaults)
        ):
            raise ValueError(
                f"the record {self.name!r} was made with other runs or settings than the experiment has now; "
                f"measure it again: python -m course_lib.experiments {self.name}"
            )
        return Results(records.frame(record), record, self.seed)

    def measured(
        self,
        *,
        method: Callable[..., Any] | None = None,
        scale: Scale = FULL,
        seeds: int | None = None,
        workers: int | None = None,
    ) -> Results:
        """Measure all runs now, and keep nothing.

        Args:
            method: in the place of the experiment's own.
            scale: how much is done.
            seeds: only the first so many seeds of each arm.
            workers: processes; as many as there are cores unless given.

        Returns:
            The runs with their metrics.
        """
        runs = list(self.runs)
        if seeds is not None:
            kept = sorted({run["seed"] for run in runs})[: check_count(seeds, "seeds")]
            runs = [run for run in runs if run["seed"] in kept]
        started = time.perf_counter()
        measured, shared = self._execute(runs, scale, method, workers)
        record = self._record(runs, measured, shared, (time.perf_counter() - started) / 60)
        return Results(records.frame(record), record, self.seed)

    def record(self, *, workers: int | None = None, extend: bool = False) -> Path:
        """Measure all runs now and keep them in the place of the record; returns its path.

        Args:
            workers: processes; as many as there are cores unless given.
            extend: keep the runs of the record that the same code has measured, and measure those that it lacks.
        """
        files.require_own(f"a new record of {self.name}")
        scale = Scale(minutes=self.minutes)
        if not extend:
            return records.keep(self.measured(scale=scale, workers=workers).record)
        old = records.load(self.name)
        if self.stale() or old["defaults"] != _as_json(self.defaults):
            raise ValueError(
                f"the record {self.name!r} was made by other code or settings; measure all of it again."
            )
        known = {json.dumps(run["settings"], sort_keys=True): run for run in old["runs"]}
        keys = [json.dumps(_as_json(run), sort_keys=True) for run in self.runs]
        missing = tuple(run for run, key in zip(self.runs, keys, strict=True) if key not in known)
        new = replace(self, runs=missing).measured(scale=scale, workers=workers).record
        known |= {json.dumps(run["settings"], sort_keys=True): run for run in new["runs"]}
        both = {
            part: [record["provenance"][part] for record in (old, new)]
            for part in ("commit", "date", "minutes")
        }
        origin = new["provenance"] | {
            "commit": ", ".join(dict.fromkeys(both["commit"])),
            "date": ", ".join(dict.fromkeys(both["date"])),
            "minutes": round(sum(both["minutes"]), 1),
        }
        return records.keep({**new, "provenance": origin, "runs": [known[key] for key in keys]})

    def stale(self) -> str:
        """Say how the code that measures has changed since the record was made; empty if it has not."""
        record = records.load(self.name)
        return "" if record.get("code") == self.digest() else "the code that measures has changed since"

    def digest(self) -> str:
        """Compute the digest of the code that measures: `measure`, `prepare`, `method` and what they call here."""
        return code.digest(*filter(None, (self.measure, self.prepare, self.method)))

    def _execute(
        self, runs: Sequence[Run], scale: Scale, method: Callable[..., Any] | None, workers: int | None
    ) -> tuple[list[Mapping[str, Any]], Any]:
        whole = [{**self.defaults, **run} for run in runs]
        shared = self.prepare(whole, scale) if self.prepare else None
        call = functools.partial(_measure, self.measure, shared, method or self.method)
        return jobs.run_parallel(call, whole, workers=workers, label=self.name), shared

    def _record(
        self, runs: Sequence[Run], measured: Sequence[Mapping[str, Any]], shared: Any, minutes: float
    ) -> dict[str, Any]:
        return {
            "name": self.name,
            "dataset": self.dataset,
            "seed": self.seed,
            "defaults": _as_json(self.defaults),
            "facts": _as_json(getattr(shared, "facts", {})),
            "budget": self.minutes,
            "code": self.digest(),
            "provenance": records.provenance()
            | {
                "threads": "1 for each run",
                "cores": os.cpu_count(),
                "minutes": round(minutes, 1),
            },
            "runs": [
                {"settings": _as_json(run), "metrics": _as_json(dict(metrics))}
                for run, metrics in zip(runs, measured, strict=True)
                if metrics  # a run that the budget of an experiment on real data did not pay for has none
            ],
        }

    def _check_live(self, results: Results, workers: int | None) -> None:
        """Repeat the live runs and compare each with its own recorded run."""
        if not self.live:
            return
        runs = [self.runs[place] for place in self.live]
        settings = sorted({name for run in self.runs for name in run} - {"seed"})
        again, _ = self._execute(runs, FULL, None, workers)
        for place, metrics in zip(self.live, again, strict=True):
            recorded = results.record["runs"][place]["metrics"]
            for metric, value in metrics.items():
                if isinstance(value, list):
                    continue
                # Two runs of one arm differ by sqrt(2) times what a run differs from the mean of its arm.
                reach = min(_MOST, max(_LEAST, 2**0.5 * scatter(results.frame, metric, settings)))
                if not abs(value - recorded[metric]) <= reach:
                    raise ValueError(
                        f"run {dict(self.runs[place])} of the record {self.name!r} gives {metric} = {value:.4f} "
                        f"here and {recorded[metric]:.4f} in the record; {reach:.3f} is what seeds explain. If the "
                        "code or the data changed, set recompute = True."
                    )


def _measure(measure: Callable[..., Any], shared: Any, method: Any, run: Run) -> Mapping[str, Any]:
    return measure(run, shared, method)


def _as_json(value: Any) -> Any:
    """Convert `value` as writing it to JSON and reading it again would: tuples become lists."""
    return json.loads(json.dumps(value, default=dict))
