"""`course sweep` without its command line: run a chapter with many seeds on Dask and merge its key figures."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from course_lib import files, jobs
from course_lib.book import CourseError, folders, notebooks
from course_lib.book.kept import SWEEP
from course_lib.book.notebooks import Chapter
from course_lib.book.run import course, figures, profiles, show, state, worker
from course_lib.book.run.figures import Merged
from course_lib.book.run.seeds import format_seeds, parse_seeds, shared_runs
from course_lib.book.run.task import Failure, Outcome
from course_lib.credentials import TlsFiles
from course_lib.experiments import records

__all__ = [
    "NAME",
    "Sweep",
    "carry_out",
    "keep",
    "load",
    "merged",
    "parse_seeds",
    "plan",
    "together",
]

NAME = SWEEP
_VERSION = 2  # of sweep.json; the first kept rounded texts instead of numbers

# Parameters that make a chapter write into data/; many seeds side by side would write over each other.
_WRITING = {"recompute": True, "retrain": True, "real_data": "record"}


@dataclass(frozen=True)
class Sweep:
    """A sweep that is about to begin.

    Attributes:
        chapter: to run.
        seeds: as asked for, in their order.
        parameters: of every run, beside its seed.
        out: folder of sweep.json and the executed notebooks.
        record: content of sweep.json, which grows as seeds end: name, title, configuration, merged figures, and a
            record for each seed that has ended.
        notes: for the person who starts it.
    """

    chapter: Chapter
    seeds: list[int]
    parameters: dict[str, Any]
    out: Path
    record: dict[str, Any]
    notes: list[str]

    def waiting(self) -> list[int]:
        """List the seeds that are still to be run."""
        return [seed for seed in self.seeds if str(seed) not in self.record["runs"]]

    def failures(self) -> dict[int, Failure]:
        """Find the failures, {seed: failure}, of the seeds asked for."""
        runs = {seed: self.record["runs"].get(str(seed), {}) for seed in self.seeds}
        return {seed: Failure(**run["failure"]) for seed, run in runs.items() if run.get("failure")}


def plan(word: str, seeds: Sequence[int], settings: Mapping[str, Any], out: Path | None = None) -> Sweep:
    """Check everything that can be checked before a worker starts, and write the first sweep.json.

    Seeds that an earlier sweep with the same configuration has finished in the folder are not run again, and count.

    Args:
        word: the chapter as typed (see `notebooks.select`).
        seeds: as `parse_seeds` gives them.
        settings: `profile` and `set` as typed.
        out: folder of the results; by default build/sweep/CHAPTER.

    Raises:
        CourseError: a name is unknown, the seed is set too, the chapter has no parameter `seed` or would write into
            data/, the folder holds a sweep with another configuration or another command is writing into it, or the
            disk is full.
        OSError: the folder cannot be written to.
    """
    book = notebooks.book()
    (chapter,) = notebooks.select([word], book)
    _require_seed(chapter)
    assignments = profiles.parse_assignments(settings["set"])
    for key in assignments:
        if key.rpartition(".")[2] == "seed":
            raise CourseError(f"--set {key}: the seed of every run is given by --seeds; leave this out")
    parameters = profiles.resolve(
        book,
        [chapter],
        profile=profiles.load(settings["profile"], notebooks.folder() / "profiles"),
        seed=seeds[0],
        assignments=assignments,
    )[chapter.name]
    del parameters["seed"]
    whole = {name: value for name, value in {**chapter.parameters, **parameters}.items() if name != "seed"}
    for name, writes in _WRITING.items():
        if whole.get(name) == writes:
            value, other = ("true", "false") if writes is True else (writes, "run")
            raise CourseError(
                f"{name} is {value}: every seed would write the same files in data/ again, one over the other. Do that "
                f"once, with course run {chapter.number} --set {name}={value}; sweep with --set {name}={other}"
            )
    out = course.folder_for(out or files.work() / "build" / "sweep" / chapter.name.replace("/", "-"))
    folders.claim(out)
    configuration = {"chapter": chapter.name, "parameters": whole, "source_sha256": chapter.source_sha256}
    configuration = json.loads(json.dumps(configuration))  # as it will be read again
    record = {
        "name": f"sweep-{chapter.name.replace('/', '-')}",
        "version": _VERSION,
        "title": chapter.title,
        "configuration": configuration,
        "merged": {},
        "runs": {},
    }
    notes = []
    old = load(out)
    if old is not None and old["runs"]:
        _require_same(old["configuration"], configuration, out)
        record["runs"], notes = _kept(old, seeds, out)
    sweep = Sweep(
        chapter, list(seeds), parameters, out, record, notes + shared_runs(record["configuration"], seeds)
    )
    _save(sweep)
    course.require_space(out)
    return sweep


def carry_out(
    sweep: Sweep,
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    timeout: float = 10.0,
    tls: TlsFiles | None = None,
    output: Console,
) -> None:
    """Run the unfinished seeds of a sweep, and write the notebook and sweep.json as each ends.

    A seed whose worker dies is run again by another one, a few times; a seed whose notebook fails is recorded so.

    Args:
        sweep: its `record` gains a run for each seed.
        scheduler: address of a running Dask scheduler; by default workers are started on this machine.
        workers: how many to start here; by default one per core.
        timeout: seconds that the scheduler may take to answer, and may be without any worker.
        tls: credentials for a scheduler with TLS.
        output: shows the progress.

    Raises:
        CourseError: Dask is not installed; no scheduler answers; its workers have other code, or are gone.
        OSError: a file could not be written.
        KeyboardInterrupt: finished seeds are kept. Workers of our own are ended; on a cluster, notebooks under way
            run to their end and are dropped.
    """
    waiting = sweep.waiting()
    if not waiting:
        return
    source = notebooks.to_text(notebooks.read(sweep.chapter.path))
    library = state.library_sha256() if scheduler else None
    origin = None if scheduler else records.provenance()
    calls = {
        seed: (sweep.chapter.name, source, sweep.parameters | {"seed": seed}, library, origin)
        for seed in waiting
    }
    with (
        jobs.connected(
            worker.run_seed,
            "seeds",
            scheduler=scheduler,
            workers=workers,
            most=len(waiting),
            timeout=timeout,
            tls=tls,
            fatal=CourseError,
        ) as connection,
        show.progress(output, len(waiting), "seeds") as reporter,
    ):
        for seed, value, trouble in connection.ended(calls):
            text, run = (None, _broken(trouble)) if trouble else value
            if text is not None:
                files.write_text(_notebook_path(sweep.out, seed), text)
            sweep.record["runs"][str(seed)] = run
            _save(sweep)
            failure = Failure(**run["failure"]) if run["failure"] else None
            reporter.done(Outcome(f"seed {seed}", run["seconds"], None, failure))


def _notebook_path(out: Path, seed: int | str) -> Path:
    """Name the executed notebook of a seed."""
    return out / f"seed-{seed}.ipynb"


def load(out: Path) -> dict[str, Any] | None:
    """Read the record of the sweep in a folder; None if there is none.

    Raises:
        CourseError: the file is not a record, or one of another version.

    Example:
        >>> load(Path("no such folder")) is None
        True
    """
    path = out / NAME
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record["configuration"]["parameters"], dict):
            raise ValueError("parameters must be an object")
        for seed, run in record["runs"].items():
            _ = int(seed), run["provenance"], run["failure"]
            _ = [figures.quantity(figure) for figure in run["figures"].values()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CourseError(f"{path} is damaged ({error!r}). Delete it to run its seeds again") from error
    if record.get("version") != _VERSION:
        raise CourseError(
            f"{path} was written by another version of the course, which kept its figures in another form. Delete it "
            "to run its seeds again"
        )
    return record


def merged(record: Mapping[str, Any]) -> dict[str, Merged]:
    """Merge each key figure over the seeds that passed, in the order in which the chapter reports them.

    Example:
        >>> runs = {"0": {"figures": {"T": 2}, "failure": None}, "1": {"figures": {"T": 4}, "failure": None}}
        >>> print(merged({"runs": runs})["T"])
        3 [-9.706, 15.71]
    """
    passed = {int(seed): run["figures"] for seed, run in record["runs"].items() if not run["failure"]}
    names = dict.fromkeys(name for shown in passed.values() for name in shown)
    return {
        name: figures.merge({seed: passed[seed][name] for seed in sorted(passed) if name in passed[seed]})
        for name in names
    }


def keep(sweep: Sweep) -> Path:
    """Write the key figures of a sweep to data/results/sweep-CHAPTER.json.

    Returns:
        The path of the record.

    Raises:
        CourseError: a seed failed, or none has key figures; a record must not hide that.
    """
    runs = {int(seed): run for seed, run in sweep.record["runs"].items()}
    failed = [seed for seed, run in runs.items() if run["failure"]]
    if failed:
        raise CourseError(
            f"not recorded: seed {format_seeds(failed)} failed. Mend the chapter and sweep again"
        )
    if not merged(sweep.record):
        raise CourseError(f"not recorded: {sweep.chapter.name} reports no key figures (page.report)")
    rows = [
        {"seed": seed} | dict(_column(name, figure) for name, figure in runs[seed]["figures"].items())
        for seed in sorted(runs)
    ]
    origin = together([run["provenance"] for run in runs.values()])
    return records.save(sweep.record["name"], rows, sweep.record["configuration"], origin=origin)


def together(provenances: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Join the provenances of several runs; values that differ stand side by side.

    Example:
        >>> together([{"device": "cpu", "date": "2025-06-01"}, {"device": "cpu", "date": "2025-06-02"}])
        {'device': 'cpu', 'date': '2025-06-01, 2025-06-02'}
    """
    joined: dict[str, Any] = {}
    for key in dict.fromkeys(key for provenance in provenances for key in provenance):
        found = [provenance[key] for provenance in provenances if key in provenance]
        joined[key] = (
            together(found) if isinstance(found[0], dict) else ", ".join(sorted(set(map(str, found))))
        )
    return joined


def _require_seed(chapter: Chapter) -> None:
    if "seed" in chapter.parameters:
        return
    names = ", ".join(chapter.parameters) or "none"
    raise CourseError(
        f"chapter {chapter.name} has no parameter `seed` to sweep over; it has: {names}{_instead(chapter)}"
    )


def _instead(chapter: Chapter) -> str:
    """Advise on a chapter without `seed`: which of its parameters decide on repetitions."""
    ways = []
    if repetitions := [name for name in ("seeds", "draws") if name in chapter.parameters]:
        again = " --set recompute=true" if "recompute" in chapter.parameters else ""
        ways.append(
            f"It repeats its own runs: course run {chapter.number} --set {repetitions[0]}=N{again}"
            + " (that makes its records in data/results anew)" * bool(again)
        )
    if "real_data_seed" in chapter.parameters:
        ways.append(
            "Its experiment on real data has a seed of its own: "
            f"course run {chapter.number} --set real_data=run --set real_data_seed=N"
        )
    return "".join(f". {way}" for way in ways)


def _require_same(old: Mapping[str, Any], new: Mapping[str, Any], out: Path) -> None:
    differing = state.differences(old["parameters"], new["parameters"])
    if old["chapter"] != new["chapter"]:
        differing = [f"the chapter was {old['chapter']} and is now {new['chapter']}"]
    elif old["source_sha256"] != new["source_sha256"]:
        differing.append("the notebook was changed")
    if differing:
        raise CourseError(
            f"{out} holds a sweep of another configuration: {'; '.join(differing)}. Results of different "
            "configurations are not merged: choose another folder with --out, or delete this one"
        )


def _kept(old: Mapping[str, Any], seeds: Sequence[int], out: Path) -> tuple[dict[str, Any], list[str]]:
    """Select the runs of an earlier sweep that count in this one; return them with notes on them."""
    kept, notes = {}, []
    for seed, run in old["runs"].items():
        if run["failure"]:
            if int(seed) not in seeds:
                kept[seed] = run
        elif _notebook_path(out, seed).is_file():
            kept[seed] = run
        else:
            notes.append(
                f"seed {seed}: its executed notebook is gone" + "; it is run again" * (int(seed) in seeds)
            )
    passed = [int(seed) for seed, run in kept.items() if not run["failure"]]
    if done := set(passed) & set(seeds):
        notes.insert(0, f"{len(done)} of {len(seeds)} seeds are finished already: {format_seeds(done)}")
    if others := set(passed) - set(seeds):
        notes.append(f"the folder also holds seeds {format_seeds(others)}; they are merged too")
    changed = [int(seed) for seed, run in kept.items() if run.get("library_sha256") != state.library_sha256()]
    if changed:
        notes.append(
            f"seeds {format_seeds(changed)}: kept, though course_lib has changed since they were run"
        )
    return kept, notes


def _save(sweep: Sweep) -> None:
    record = sweep.record
    record["runs"] = {seed: record["runs"][seed] for seed in sorted(record["runs"], key=int)}
    record["merged"] = {name: figure.as_json() for name, figure in merged(record).items()}
    files.write_text(sweep.out / NAME, json.dumps(record, indent=1) + "\n")


def _broken(trouble: str) -> dict[str, Any]:
    """Make the entry in sweep.json of a run that broke outside its notebook: the worker's disk is full, say."""
    return {"figures": {}, "seconds": 0.0, "failure": asdict(Failure(0, "", trouble)), "provenance": {}}


def _column(name: str, figure: Any) -> tuple[str, Any]:
    """Convert a key figure to a column of a record: a number, with its unit in the name."""
    quantity = figures.quantity(figure)
    if quantity is None:
        return name, str(figure)
    return f"{name} ({quantity.unit})" if quantity.unit else name, quantity.value
