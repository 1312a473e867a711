"""`course results` without its command line: records of data/results and of sweeps, as tables and as a figure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from course_lib import files
from course_lib.book import CourseError, kept
from course_lib.book.run import figures, sweep
from course_lib.book.run.figures import Merged
from course_lib.book.run.seeds import format_seeds, shared_runs
from course_lib.experiments import catalogue
from course_lib.statistics import Interval

__all__ = ["Record", "heading", "listing", "of_rows", "of_runs", "of_sweep", "save_plot", "select", "table"]

_PLOTS = (".png", ".pdf", ".svg")

NOW, CHANGED, NOT_KEPT, GONE = "as now", "changed since", "digest not kept", "no longer there"
"""What is said of the code that measured a record; records of an earlier form have no digest of it."""


@dataclass(frozen=True)
class Record:
    """Measurements of an experiment or a sweep, in one form.

    Attributes:
        name: as `course results` takes it.
        what: the settings that are compared, or the title of the chapter that was swept.
        seeds: of all runs.
        configuration: the settings that all runs share.
        provenance: date, commit, device, machine and versions.
        arms: {arm: {figure: merged over the runs of that arm}}.
        code: whether the code that measured is that of now, in words; empty for a sweep.
        varies: what differs from one seed to the next, in words; empty where the record does not say it.

    Example:
        >>> Record("01-labels", "T", [0, 1], {"dataset": "glyphs"}, {}, {}).data_set
        'glyphs'
    """

    name: str
    what: str
    seeds: list[int]
    configuration: dict[str, Any]
    provenance: dict[str, Any]
    arms: dict[str, dict[str, Merged]]
    code: str = ""
    varies: str = ""

    @property
    def data_set(self) -> str:
        """Name of the data set; empty if the configuration does not say it."""
        places = (self.configuration, self.configuration.get("parameters", {}))
        names = [place[key] for place in places for key in ("dataset", "dataset_name") if key in place]
        return str(names[0]) if names else ""


def select(words: Sequence[str]) -> list[Record]:
    """Read the records that the words name, or all records if there are no words.

    Args:
        words: as in `kept.find`.

    Raises:
        CourseError: a name is unknown, a file is damaged, or nothing is recorded at all.
    """
    found = [_read(name, path) for name, path in kept.find(words)]
    if not found:
        raise CourseError("nothing is recorded yet. course sweep CHAPTER --seeds 0-4 makes a first record")
    return found


def of_sweep(content: Mapping[str, Any], name: str | None = None) -> Record:
    """Convert the content of sweep.json to a record.

    Args:
        content: as `sweep.load` returns it.
        name: of the record; by default that of the content.

    Example:
        >>> content = {"name": "sweep-01", "title": "Distillation", "configuration": {}, "runs": {}}
        >>> of_sweep(content).what
        'Distillation'
    """
    passed = {int(seed): run for seed, run in content["runs"].items() if not run["failure"]}
    failed = [int(seed) for seed, run in content["runs"].items() if run["failure"]]
    what = content["title"] + (f" (failed: seed {format_seeds(failed)})" if failed else "")
    provenance = sweep.together([run["provenance"] for run in passed.values()])
    arms = {"": sweep.merged(content)}
    return Record(name or content["name"], what, sorted(passed), content["configuration"], provenance, arms)


def of_runs(content: Mapping[str, Any], code: str = "") -> Record:
    """Convert the record of an `Experiment`, as `course_lib.experiments.records.keep` wrote it.

    Runs that differ only in their seed are an arm. A metric that is a list, of parts of the test images, is left out.

    Args:
        content: with "defaults" and "runs", which have "settings" and "metrics".
        code: see `Record`.

    Example:
        >>> runs = [{"settings": {"T": T, "seed": 0}, "metrics": {"test": T / 10}} for T in (1, 4)]
        >>> head = {"name": "x", "dataset": "glyphs", "defaults": {"T": 2}, "budget": None, "provenance": {}}
        >>> record = of_runs(head | {"runs": runs})
        >>> record.what, list(record.arms), record.configuration
        ('T', ['T 1', 'T 4'], {'dataset': 'glyphs', 'T': 2})
    """
    names = list(dict.fromkeys(name for run in content["runs"] for name in run["settings"] if name != "seed"))
    rows = []
    for run in content["runs"]:
        settings = {name: (content["defaults"] | run["settings"]).get(name) for name in names}
        seed = {"seed": run["settings"].get("seed", 0)}
        rows.append(settings | seed | {k: v for k, v in run["metrics"].items() if not isinstance(v, list)})
    told = {key: content.get(key) for key in ("dataset", "budget") if content.get(key) is not None}
    told |= content["defaults"]
    record = of_rows({**content, "configuration": told, "rows": rows})
    return replace(record, code=code, varies=content.get("seed") or "")


def of_rows(content: Mapping[str, Any]) -> Record:
    """Convert a record as `course_lib.experiments.records.save` wrote it.

    In a row the settings of a run come first, with "seed" as the last, then the measurements. Runs that differ only
    in their seed are an arm. In rows without a seed, every value that is not a number counts as a setting.

    Example:
        >>> rows = [{"T": T, "seed": seed, "accuracy": T / 10} for T in (1, 4) for seed in (0, 1)]
        >>> record = of_rows({"name": "x", "configuration": {}, "provenance": {}, "rows": rows})
        >>> record.what, list(record.arms), record.seeds
        ('T', ['T 1', 'T 4'], [0, 1])
    """
    rows = content["rows"]
    names = list(dict.fromkeys(name for row in rows for name in _settings(row)))
    varying = [name for name in names if len({json.dumps(row.get(name)) for row in rows}) > 1]
    arms: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        arms.setdefault(", ".join(f"{name} {row[name]}" for name in varying if name in row), []).append(row)
    return Record(
        content["name"],
        ", ".join(varying) or "one arm",
        sorted({row["seed"] for row in rows if "seed" in row}),
        content["configuration"],
        content["provenance"],
        {arm: _merge(runs) for arm, runs in arms.items()},
        NOT_KEPT,
    )


def listing(records: Sequence[Record]) -> Table:
    """Make a table with a line for each record.

    Example:
        >>> listing([Record("01-labels", "T", [0, 1], {}, {}, {})]).row_count
        1
    """
    table = Table()
    for heading in ("name", "what is compared", "seeds", "data", "device", "date", "commit", "its code"):
        table.add_column(heading, overflow="fold")
    for record in records:
        origin = record.provenance
        where = [str(origin.get(key, "")) for key in ("device", "date", "commit")]
        table.add_row(
            record.name, record.what, format_seeds(record.seeds), record.data_set, *where, record.code
        )
    return table


def heading(record: Record) -> str:
    """Describe in a few lines what a reader must know to judge the figures of a record.

    Example:
        >>> origin = {"device": "cpu", "versions": {"torch": "2.7"}}
        >>> print(heading(Record("01-labels", "T", [0, 1], {"epochs": 5}, origin, {})))
        01-labels: T
        seeds 0-1; device cpu; torch 2.7
        configuration {"epochs": 5}
    """
    origin = dict(record.provenance)
    versions = ", ".join(f"{name} {version}" for name, version in origin.pop("versions", {}).items())
    where = ", ".join(f"{key} {value}" for key, value in origin.items())
    lines = [
        f"{record.name}: {record.what}",
        f"seeds {format_seeds(record.seeds) or 'none'}; {where}; {versions}",
        f"configuration {json.dumps(record.configuration, ensure_ascii=False)}",
        *([f"the code that measured: {record.code}"] if record.code else []),
        *shared_runs(record.configuration, record.seeds),
    ]
    return "\n".join(lines)


def table(record: Record) -> Table:
    """Make a table of every figure of every arm: number of runs, mean and 95 % interval.

    Example:
        >>> record = Record("01-labels", "T", [0, 1], {}, {}, {"T 4": {"accuracy": figures.merge({0: 0.8, 1: 0.9})}})
        >>> list(table(record).columns[-1].cells)
        ['0.85 [0.2147, 1.485]']
    """
    shown = Table()
    several = list(record.arms) != [""]
    for heading in (["arm"] if several else []) + ["figure", "runs", "mean [95 % interval]"]:
        shown.add_column(heading, overflow="fold", justify="right" if heading == "runs" else "left")
    for arm, measured in record.arms.items():
        for place, (name, figure) in enumerate(measured.items()):
            cells = [arm if place == 0 else ""] if several else []
            shown.add_row(*cells, name.replace("_", " "), str(len(figure.values)), str(figure))
        shown.add_section()
    return shown


def save_plot(record: Record, path: Path) -> None:
    """Draw the means and intervals of a record into a file.

    Args:
        record: at least one of its figures is a number.
        path: ends in .png, .pdf or .svg.

    Raises:
        CourseError: the file has another ending, or no figure is a number.
        OSError: the file cannot be written.

    Example:
        >>> save_plot(Record("01-labels", "T", [], {}, {}, {}), Path("labels.gif"))
        Traceback (most recent call last):
        course_lib.book.CourseError: --plot labels.gif: give a file that ends in .png, .pdf, .svg
    """
    if path.suffix.lower() not in _PLOTS:
        raise CourseError(f"--plot {path}: give a file that ends in {', '.join(_PLOTS)}")
    panels = _panels(record)
    if not panels:
        raise CourseError(f"{record.name} holds no figure that is a number; there is nothing to draw")
    figure = _draw(panels, record.name)
    with files.atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower())


def _panels(record: Record) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Make {panel: {row: (mean, low, high)}}: a panel for each figure if arms are compared, else one for each unit."""
    panels: dict[str, dict[str, tuple[float, float, float]]] = {}
    for arm, measured in record.arms.items():
        for name, figure in measured.items():
            first = figures.quantity(next(iter(figure.values.values())))
            if first is None or figure.why:
                continue
            mean = figure.interval or Interval(
                first.value, first.value, first.value, 1
            )  # the same in every run
            scale = 100 if first.measure.startswith("%") else 1
            point = (mean.mean * scale, mean.low * scale, mean.high * scale)
            panel, row = (name.replace("_", " "), arm) if arm else (first.measure, name.replace("_", " "))
            panels.setdefault(panel, {})[row] = point
    return panels


def _draw(panels: Mapping[str, Mapping[str, tuple[float, float, float]]], title: str) -> Any:
    from matplotlib.figure import Figure

    from course_lib import plots

    def draw() -> Figure:
        columns = min(len(panels), 3)
        lines = -(-len(panels) // columns)
        tallest = max(map(len, panels.values()))
        figure = Figure(figsize=(2.2 + 3 * columns, 0.6 + lines * (0.9 + 0.28 * tallest)))
        axes = figure.subplots(lines, columns, squeeze=False)
        for place, axis in enumerate(axes.flat):
            if place >= len(panels):
                axis.axis("off")
                continue
            name, rows = list(panels.items())[place]
            for row, (mean, low, high) in enumerate(rows.values()):
                axis.errorbar(
                    mean, row, xerr=[[mean - low], [high - mean]], fmt="D", color=plots.COLOURS[0], capsize=4
                )
            # Arms are the same in every panel, so their names stand once.
            axis.set_yticks(range(len(rows)), list(rows), fontsize=8)
            axis.set(title=name, ylim=(len(rows) - 0.5, -0.5))
        figure.suptitle(f"{title}: means with 95 % intervals")
        return figure

    return plots.styled(draw)()


def _read(name: str, path: Path) -> Record:
    if path.name == sweep.NAME:
        content = sweep.load(path.parent)
        return of_sweep(content, name)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return of_runs(content, _code(content["name"])) if "runs" in content else of_rows(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CourseError(
            f"{path} is damaged ({error!r}). Restore it: {files.remedy(str(path.relative_to(files.root())))}"
        ) from error


def _code(name: str) -> str:
    """Say whether the code of the experiment of this name is that of its record."""
    experiment = catalogue.experiments().get(name)
    if experiment is None:
        return GONE
    return CHANGED if catalogue.fault(experiment) else NOW


def _settings(row: Mapping[str, Any]) -> list[str]:
    names = list(row)
    if "seed" in row:
        return names[: names.index("seed")]
    return [name for name, value in row.items() if figures.quantity(value) is None]


def _merge(rows: Sequence[Mapping[str, Any]]) -> dict[str, Merged]:
    """Merge each figure over the runs of an arm that have it."""
    names = dict.fromkeys(
        name for row in rows for name in row if name != "seed" and name not in _settings(row)
    )
    return {
        name: figures.merge({place: row[name] for place, row in enumerate(rows) if name in row})
        for name in names
    }
