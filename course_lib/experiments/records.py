"""Records of runs: kept with all that is needed to judge and repeat them, read again, and repeated in part."""

import json
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import scipy.stats
import torch

from course_lib import files
from course_lib.provenance import provenance
from course_lib.validation import check_choice, unknown_name

__all__ = [
    "frame",
    "keep",
    "load",
    "on_real_data",
    "origin",
    "provenance",
    "repeat",
    "save",
    "select",
    "values",
]

_MODES = ("recorded", "run", "record")


def save(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    configuration: Mapping[str, Any],
    *,
    origin: Mapping[str, Any] | None = None,
) -> Path:
    """Keep the rows of a run in data/results/NAME.json, with what is needed to judge and repeat it.

    Args:
        name: of the record, for instance "01-temperature-alpha".
        rows: one mapping for each measurement, of numbers and strings.
        configuration: everything that decided the run: data set, recipe, seeds, grid.
        origin: the `provenance` of the runs, if they were made at another time or on another machine.

    Returns:
        The path of the record.

    Raises:
        ValueError: there are no rows, or a number is not finite (JSON has no NaN, and a record must not hide a failed
            run).
        TypeError: a value has a type that JSON does not know, such as a tensor.
    """
    if not rows:
        raise ValueError(f"the record {name!r} would hold no rows; nothing was written.")
    record = {
        "name": name,
        "configuration": dict(configuration),
        "provenance": provenance() if origin is None else dict(origin),
        "rows": [dict(row) for row in rows],
    }
    try:
        text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"the record {name!r} cannot be kept ({error}); nothing was written. Rows hold finite numbers and "
            "strings: call .item() on tensors, and look at the run that gave NaN."
        ) from error
    path = files.root() / "data" / "results" / f"{name}.json"
    files.write_verified({path: text.encode()})
    return path


def keep(record: Mapping[str, Any]) -> Path:
    """Keep the record of an `Experiment` in data/results, in the place of an earlier one; returns its path.

    Args:
        record: with "name" and "runs"; a run has "settings" and "metrics".

    Raises:
        ValueError: there are no runs, or a number is not finite: a record must not hide a failed run.
    """
    name = record["name"]
    if not record["runs"]:
        raise ValueError(f"the record {name!r} would hold no runs; nothing was written.")
    try:
        # A run a line: a file that can be read, and compared with an earlier one.
        lines = [json.dumps(run, allow_nan=False) for run in record["runs"]]
    except ValueError as error:
        raise ValueError(
            f"the record {name!r} cannot be kept ({error}); nothing was written. Look at the run that gave NaN."
        ) from error
    head = json.dumps({key: value for key, value in record.items() if key != "runs"}, indent=1)
    text = head[:-2] + ',\n "runs": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n"
    path = files.root() / "data" / "results" / f"{name}.json"
    files.write_verified({path: text.encode()})
    return path


def frame(record: Mapping[str, Any]) -> pd.DataFrame:
    """Make a frame of a record: a row for each run, its settings with the defaults filled in, and its metrics.

    Example:
        >>> run = {"settings": {"seed": 0}, "metrics": {"test": 0.9}}
        >>> frame({"defaults": {"T": 4}, "runs": [run]}).to_dict("records")
        [{'T': 4, 'seed': 0, 'test': 0.9}]
    """
    return pd.DataFrame([record["defaults"] | run["settings"] | run["metrics"] for run in record["runs"]])


def load(name: str) -> dict[str, Any]:
    """Read a record as `save` wrote it: name, configuration, provenance, rows.

    Raises:
        KeyError: there is no such record; the message lists the nearest ones.
        DamagedFile: it is not as data/SHA256SUMS records it, is missing though listed there, or is no record.
    """
    folder = files.root() / "data" / "results"
    path = folder / f"{name}.json"
    again = f"python -m course_lib.experiments {name}"
    remedy = (
        f"Restore it: git checkout -- data/results/{name}.json data/SHA256SUMS, or make it again: {again}"
    )
    if not path.exists():
        if f"results/{name}.json" in files.checksums():
            raise files.DamagedFile(f"{path} is missing. {remedy}")
        raise KeyError(unknown_name(name, "record", sorted(file.stem for file in folder.glob("*.json"))))
    content = files.read_verified(path, again)
    try:
        record = json.loads(content)
        if not isinstance(record, dict) or "provenance" not in record:
            raise ValueError("it has no provenance")
        return record
    except (ValueError, RecursionError) as error:  # written so, and listed
        raise files.DamagedFile(f"{path} is no record ({error}). {remedy}") from error


def on_real_data(
    name: str,
    measure: Callable[[], tuple[Sequence[Mapping[str, Any]], Mapping[str, Any]]],
    mode: str,
) -> dict[str, Any]:
    """Read the record of an experiment on real data, or measure the same now, with a thread for every core.

    Args:
        name: of the record in data/results.
        measure: returns rows and configuration (see `save`); the configuration holds "dataset", its printed name, and
            "budget", in minutes.
        mode: "recorded": read the record; "run": measure now and keep nothing; "record": measure now and keep it.

    Returns:
        A mapping with name, configuration, provenance and rows; the provenance holds the minutes that it took.

    Raises:
        KeyError: the mode is unknown, there is no such record, or the configuration lacks "dataset" or "budget".
    """
    if check_choice(mode, "mode", _MODES, error=KeyError) == "recorded":
        return load(name)
    threads = torch.get_num_threads()
    # A chapter may have taken one thread, so that its times can be compared.
    torch.set_num_threads(joblib.cpu_count())
    started = time.perf_counter()
    try:
        rows, configuration = measure()
    finally:
        torch.set_num_threads(threads)
    for needed in ("dataset", "budget"):
        if needed not in configuration:
            raise KeyError(
                f"the configuration of {name!r} lacks {needed!r}; a reader needs it to judge the figures."
            )
    source = provenance() | {"minutes": round((time.perf_counter() - started) / 60, 1)}
    if mode == "record":
        save(name, rows, configuration, origin=source)
        return load(name)
    return _as_json(
        {
            "name": name,
            "configuration": dict(configuration),
            "provenance": source,
            "rows": [dict(row) for row in rows],
        }
    )


def origin(record: Mapping[str, Any]) -> str:
    """Describe a record in a line: data set, budget, time taken, device, PyTorch, commit and date.

    Example:
        >>> record = {
        ...     "configuration": {"dataset": "MNIST", "budget": 5},
        ...     "provenance": provenance() | {"device": "cpu", "cpu": "a processor"},
        ... }
        >>> origin(record).partition(", PyTorch")[0]
        'MNIST, budget 5 minutes, cpu (a processor)'
    """
    source = record["provenance"]
    told = record.get("configuration", record)
    budget = f", budget {told['budget']:g} minutes" if told.get("budget") else ""
    took = f", took {source['minutes']:g} minutes" if "minutes" in source else ""
    took = took.removesuffix(" minutes") if budget else took
    machine = source.get("cpu") or source["machine"]
    return (
        f"{told['dataset']}{budget}{took}, {source['device']} ({machine}), PyTorch {source['versions']['torch']}, "
        f"commit {source['commit']}, {source['date']}"
    )


def repeat(
    name: str,
    runs: Sequence[Mapping[str, Any]],
    execute: Callable[[Sequence[Mapping[str, Any]]], Sequence[Mapping[str, float]]],
    *,
    live: Sequence[int] = (0,),
    recompute: bool = False,
    configuration: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    r"""Read the recorded measurements of many runs, and repeat a few of them now to show that the record holds.

    Runs that differ only in "seed" form an arm. Training gives slightly other weights on another processor, so a
    repeated run agrees if it falls into the 99.9 % prediction interval of its arm's n runs:

    .. math:: \text{mean} \pm \max\Big(0.03,\; t \, s \sqrt{1 + 1/n}\Big)

    where t is a quantile of Student's distribution and s the standard deviation within the arm, or within all arms
    together (pooled) if the arm has two runs. For an arm of one run 0.03 alone counts.

    Args:
        name: of the record in data/results; for a data set other than "glyphs", the name of the data set is added.
        runs: one mapping for each run, with "seed" among its keys.
        execute: measures a list of runs and returns one mapping of metrics for each, in order.
        live: the places in `runs` of those that are repeated now.
        recompute: measure every run now and replace the record.
        configuration: the settings that all runs share; kept with the record, and compared with it.

    Returns:
        A data frame with a row for each run: its settings and its metrics.

    Raises:
        KeyError: there is no such record.
        ValueError: the record belongs to other runs or another configuration, or a repeated run does not agree.
    """
    runs = [_as_json(dict(run)) for run in runs]
    shared = dict(configuration or {})
    if (dataset := shared.get("dataset", "glyphs")) != "glyphs":  # never in the place of the glyphs' record
        name += "-" + re.sub(r"[^a-z0-9]+", "-", dataset.lower()).strip("-")
    if recompute:
        files.require_own(f"a new record of {name}")
        rows = [run | dict(metrics) for run, metrics in zip(runs, execute(runs), strict=True)]
        save(name, rows, shared)
        return pd.DataFrame(rows)
    record = load(name)
    recorded_runs = [
        {key: row.get(key) for key in run} for run, row in zip(runs, record["rows"], strict=False)
    ]
    if (
        recorded_runs != runs
        or len(record["rows"]) != len(runs)
        or record["configuration"] != _as_json(shared)
    ):
        raise ValueError(
            f"the record {name!r} was made with other settings than these; set recompute = True to make it again."
        )
    frame = pd.DataFrame(record["rows"])
    arms: dict[str, list[dict]] = {}
    for row, run in zip(record["rows"], runs, strict=True):
        arms.setdefault(_arm(run), []).append(row)
    for place, metrics in zip(live, execute([runs[place] for place in live]) if live else [], strict=True):
        for metric, value in metrics.items():
            own = [row[metric] for row in arms[_arm(runs[place])]]
            # Arms may have metrics of their own, such as the accuracy after a fine-tuning that only they had.
            measured = [[row[metric] for row in rows if metric in row] for rows in arms.values()]
            low, high = _prediction_interval(own, measured)
            if not low <= value <= high:
                raise ValueError(
                    f"run {runs[place]} of the record {name!r} gives {metric} = {value:.4f} here, outside "
                    f"[{low:.4f}, {high:.4f}]. If the code or the data changed, set recompute = True."
                )
    return frame


def values(frame: pd.DataFrame, metric: str, **settings: Any) -> list[Any]:
    """Select the measurements of one arm in the order of its seeds, so that arms can be compared in pairs.

    Args:
        frame: a row for each run, as `repeat` returns it, with a column "seed".
        metric: the column to read.
        settings: column=value, which together name the arm; None finds the runs that lack the setting.

    Returns:
        One number for each run of the arm.

    Raises:
        KeyError: a column is unknown; the message lists the nearest ones.
        ValueError: no run has these settings.

    Example:
        >>> frame = pd.DataFrame({"T": [1, 4, 4], "seed": [0, 1, 0], "accuracy": [0.7, 0.8, 0.9]})
        >>> values(frame, "accuracy", T=4)
        [0.9, 0.8]
    """
    check_choice(metric, "column", map(str, frame.columns), error=KeyError)
    return select(frame, settings)[metric].tolist()


def select(frame: pd.DataFrame, arm: Mapping[str, Any]) -> pd.DataFrame:
    """Select the runs of an arm, in the order of their seeds; None finds the runs that lack a setting.

    Args:
        frame: a row for each run.
        arm: {column: value}.

    Raises:
        KeyError: a column is unknown; the message lists the nearest ones.
        ValueError: no run has these settings.

    Example:
        >>> frame = pd.DataFrame({"T": [1, 4, 4], "seed": [0, 1, 0], "accuracy": [0.7, 0.8, 0.9]})
        >>> select(frame, {"T": 4})["seed"].tolist()
        [0, 1]
    """
    for column, value in arm.items():
        check_choice(column, "column", map(str, frame.columns), error=KeyError)
        # A data frame keeps None as NaN, which equals nothing, not even itself.
        missing = value is None or (isinstance(value, float) and math.isnan(value))
        frame = frame[frame[column].isna() if missing else frame[column] == value]
    if frame.empty:
        raise ValueError(
            f"no run has the settings {dict(arm)}. Look at the runs of the record for those it has."
        )
    return frame.sort_values("seed") if "seed" in frame else frame


def _arm(run: Mapping[str, Any]) -> str:
    """Write the settings that name the arm of a run: all except the seed."""
    return json.dumps({key: value for key, value in run.items() if key != "seed"}, sort_keys=True)


def _prediction_interval(
    values: Sequence[float],
    arms: Iterable[Sequence[float]],
    confidence: float = 0.999,
    least: float = 0.03,
) -> tuple[float, float]:
    """Compute where one more run like these would fall: mean +- t * s * sqrt(1 + 1/n), at least `least` either way.

    Two runs alone say next to nothing about their scatter (t is 637); s is then that of all arms, pooled.
    """
    mean, count = float(np.mean(values)), len(values)
    pooled = arms if count == 2 else [values]
    squares = [(float(np.var(arm, ddof=1)) * (len(arm) - 1), len(arm) - 1) for arm in pooled if len(arm) > 1]
    freedom = sum(degrees for _, degrees in squares)
    reach = least
    if freedom:
        spread = math.sqrt(sum(square for square, _ in squares) / freedom)
        reach = max(
            least, scipy.stats.t.ppf((1 + confidence) / 2, freedom) * spread * math.sqrt(1 + 1 / count)
        )
    return mean - reach, mean + reach


def _as_json(value: Any) -> Any:
    """Convert `value` as writing it to JSON and reading it again would: tuples become lists."""
    return json.loads(json.dumps(value))
