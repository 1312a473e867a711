"""`course results` without its command line: records of data/results and of sweeps, as tables and as a figure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from course_lib import files
from course_lib.book import CourseError
from course_lib.book.run import figures, sweep
from course_lib.book.run.figures import Merged
from course_lib.statistics import Interval

PLOTS = (".png", ".pdf", ".svg")


@dataclass(frozen=True)
class Record:
    """What was measured, whoever wrote it.

    Attributes:
        name: as `course results` takes it.
        what: the settings that are compared, or the title of the chapter that was swept.
        seeds: of all runs.
        configuration: what all runs share.
        provenance: date, commit, device, machine and versions.
        arms: {arm: {figure: over the seeds of that arm}}.
    """

    name: str
    what: str
    seeds: list[int]
    configuration: dict[str, Any]
    provenance: dict[str, Any]
    arms: dict[str, dict[str, Merged]]

    @property
    def data_set(self) -> str:
        """Its name, where the configuration says it."""
        places = (self.configuration, self.configuration.get("parameters", {}))
        names = [place[key] for place in places for key in ("dataset", "dataset_name") if key in place]
        return str(names[0]) if names else ""


def select(words: Sequence[str]) -> list[Record]:
    """The records that the words name, all of them when there are no words.

    A word is the name of a file in data/results, `sweep/CHAPTER` for what lies in build/sweep, or a folder with a
    sweep in it.

    Raises:
        CourseError: an unknown name, a damaged file, or nothing recorded at all.
    """
    root = files.root()
    known = {path.stem: path for path in sorted((root / "data" / "results").glob("*.json"))}
    swept = sorted((root / "build" / "sweep").glob(f"*/{sweep.NAME}"))
    known |= {f"sweep/{path.parent.name}": path for path in swept}
    found = []
    for word in words or known:
        path = known.get(word, Path(word).expanduser() / sweep.NAME)
        if not path.is_file():
            from course_lib.validation import unknown_name

            raise CourseError(unknown_name(word, "record", known))
        found.append(_read(word, path))
    if not found:
        raise CourseError("nothing is recorded yet. course sweep CHAPTER --seeds 0-4 makes a first record")
    return found


def of_sweep(content: Mapping[str, Any], name: str | None = None) -> Record:
    """The record of a sweep (see `sweep.load`)."""
    passed = {int(seed): run for seed, run in content["runs"].items() if not run["failure"]}
    failed = [int(seed) for seed, run in content["runs"].items() if run["failure"]]
    what = content["title"] + (f" (failed: seed {sweep.format_seeds(failed)})" if failed else "")
    provenance = sweep.together([run["provenance"] for run in passed.values()])
    arms = {"": sweep.merged(content)}
    return Record(name or content["name"], what, sorted(passed), content["configuration"], provenance, arms)


def of_rows(content: Mapping[str, Any]) -> Record:
    """A record as `course_lib.experiments.records.save` wrote it.

    In a row the settings of a run come first, "seed" the last of them, then what was measured. Runs that differ in
    their seed alone are an arm. In rows without a seed, whatever is no number counts as a setting.
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
    )


def listing(records: Sequence[Record]) -> Table:
    """One line a record."""
    table = Table()
    for heading in ("name", "what is compared", "seeds", "data", "device", "date", "commit"):
        table.add_column(heading, overflow="fold")
    for record in records:
        origin = record.provenance
        where = [str(origin.get(key, "")) for key in ("device", "date", "commit")]
        table.add_row(record.name, record.what, sweep.format_seeds(record.seeds), record.data_set, *where)
    return table


def heading(record: Record) -> str:
    """What a reader must know to judge the figures, in a few lines."""
    origin = dict(record.provenance)
    versions = ", ".join(f"{name} {version}" for name, version in origin.pop("versions", {}).items())
    where = ", ".join(f"{key} {value}" for key, value in origin.items())
    lines = [
        f"{record.name}: {record.what}",
        f"seeds {sweep.format_seeds(record.seeds) or 'none'}; {where}; {versions}",
        f"configuration {json.dumps(record.configuration, ensure_ascii=False)}",
        *sweep.shared_runs(record.configuration, record.seeds),
    ]
    return "\n".join(lines)


def table(record: Record) -> Table:
    """Every figure of every arm: over how many runs, mean and 95 % interval."""
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

    Raises:
        CourseError: a file that is no picture, or no figure that is a number.
        OSError: the file cannot be written.
    """
    if path.suffix.lower() not in PLOTS:
        raise CourseError(f"--plot {path}: give a file that ends in {', '.join(PLOTS)}")
    panels = _panels(record)
    if not panels:
        raise CourseError(f"{record.name} holds no figure that is a number; there is nothing to draw")
    figure = _draw(panels, record.name)
    with files.atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower())


def _panels(record: Record) -> dict[str, dict[str, tuple[float, float, float]]]:
    """{panel: {row: mean, low, high}}: a panel a figure where arms are compared, else one for each unit."""
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
        return of_rows(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CourseError(
            f"{path} is damaged ({error!r}). Restore it: git checkout -- {path.relative_to(files.root())}"
        ) from error


def _settings(row: Mapping[str, Any]) -> list[str]:
    names = list(row)
    if "seed" in row:
        return names[: names.index("seed")]
    return [name for name, value in row.items() if figures.quantity(value) is None]


def _merge(rows: Sequence[Mapping[str, Any]]) -> dict[str, Merged]:
    """What was measured in the runs of one arm, each figure over those that have it."""
    names = dict.fromkeys(
        name for row in rows for name in row if name != "seed" and name not in _settings(row)
    )
    return {
        name: figures.merge({place: row[name] for place, row in enumerate(rows) if name in row})
        for name in names
    }
