"""`course sweep` without its command line: one chapter over many seeds on Dask, its key figures merged."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from course_lib import files, jobs
from course_lib.book import CourseError, notebooks
from course_lib.book.notebooks import Chapter
from course_lib.book.run import course, figures, profiles, show, state, worker
from course_lib.book.run.figures import Merged
from course_lib.book.run.runner import Failure, Outcome
from course_lib.experiments import records

NAME = "sweep.json"
VERSION = 2  # of sweep.json; the first kept rounded texts instead of numbers
LARGEST = 2**32 - 1  # seed that NumPy's old generators accept, which some code still uses
MOST = 10_000  # seeds of one sweep; a slip of the finger asks for more

# Parameters that make a chapter write into data/; many seeds side by side would write over each other.
WRITING = {"recompute": True, "retrain": True, "real_data": "record"}


@dataclass(frozen=True)
class Sweep:
    """A sweep that is about to begin. `record` is what sweep.json holds, and grows as seeds end.

    Attributes:
        chapter: what is run.
        seeds: those asked for, in their order.
        parameters: what every run is given beside its seed.
        out: the folder of sweep.json and the executed notebooks.
        record: name, title, configuration, merged figures, and a record for each seed that has ended.
        notes: what a person should know before it begins.
    """

    chapter: Chapter
    seeds: list[int]
    parameters: dict[str, Any]
    out: Path
    record: dict[str, Any]
    notes: list[str]

    def waiting(self) -> list[int]:
        """The seeds that are still to be run."""
        return [seed for seed in self.seeds if str(seed) not in self.record["runs"]]

    def failures(self) -> dict[int, Failure]:
        """{seed: how it failed}, of the seeds asked for."""
        runs = {seed: self.record["runs"].get(str(seed), {}) for seed in self.seeds}
        return {seed: Failure(**run["failure"]) for seed, run in runs.items() if run.get("failure")}


def parse_seeds(text: str) -> list[int]:
    """The seeds that a text such as "0-9" or "0,3,5-7" names, in its order.

    Raises:
        CourseError: not numbers and ranges, an inverted range, a seed given twice, too large or too many.
    """
    hint = "Write numbers and ranges, such as --seeds 0-9 or --seeds 0,3,5-7"
    seeds: list[int] = []
    for part in text.split(","):
        part = part.strip()
        found = re.fullmatch(r"([0-9]+)(?:\s*-\s*([0-9]+))?", part)
        if not found:
            what = "is negative; seeds are 0 or larger" if re.match(r"-\s*[0-9]", part) else "is no seed"
            raise CourseError(f"--seeds {text}: {part!r} {what}. {hint}")
        if any(len(end or "") > 10 or int(end or 0) > LARGEST for end in found.groups()):
            raise CourseError(f"--seeds {text}: {part!r} is too large; the largest seed is {LARGEST}")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise CourseError(f"--seeds {text}: the range {part} is inverted; write {last}-{first}")
        if len(seeds) + last - first >= MOST:
            raise CourseError(f"--seeds {text} names more than {MOST:,} seeds; name fewer")
        seeds += range(first, last + 1)
    if twice := [seed for seed, times in Counter(seeds).items() if times > 1]:
        raise CourseError(
            f"--seeds {text}: {format_seeds(twice)} is given twice. The same run counted twice would make the interval "
            "too narrow; name every seed once"
        )
    return seeds


def format_seeds(seeds: Iterable[int]) -> str:
    """The seeds as a text that `parse_seeds` reads, in rising order: "0-2,5"."""
    spans: list[list[int]] = []
    for seed in sorted(seeds):
        if spans and seed == spans[-1][1] + 1:
            spans[-1][1] = seed
        else:
            spans.append([seed, seed])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def plan(word: str, seeds: Sequence[int], settings: Mapping[str, Any], out: Path | None = None) -> Sweep:
    """Check everything that can be checked before a worker starts, and write the first sweep.json.

    Seeds that an earlier sweep of the same configuration has finished in the folder are not run again, and count.

    Args:
        word: the chapter as typed (see `notebooks.select`).
        seeds: as `parse_seeds` gives them.
        settings: `profile` and `set` as typed.
        out: the folder of results; by default build/sweep/CHAPTER.

    Raises:
        CourseError: an unknown name, a chapter without a parameter `seed`, a folder that holds a sweep of another
            configuration, a full disk.
        OSError: the folder cannot be written to.
    """
    book = notebooks.chapters()
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
    for name, writes in WRITING.items():
        if whole.get(name) == writes:
            value, other = ("true", "false") if writes is True else (writes, "run")
            raise CourseError(
                f"{name} is {value}: every seed would write the same files in data/ again, one over the other. Do that "
                f"once, with course run {chapter.number} --set {name}={value}; sweep with --set {name}={other}"
            )
    out = course.folder_for(out or files.root() / "build" / "sweep" / chapter.name)
    configuration = {"chapter": chapter.name, "parameters": whole, "source_sha256": chapter.source_sha256}
    configuration = json.loads(json.dumps(configuration))  # as it will be read again
    record = {
        "name": f"sweep-{chapter.name}",
        "version": VERSION,
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
    output: Console,
) -> None:
    """Run the seeds of a sweep that are not finished, writing notebook and sweep.json as each ends.

    A seed whose worker dies is run again by another one, a few times; a seed whose notebook fails is recorded as such.

    Args:
        sweep: its `record` gains a run for each seed.
        scheduler: address of a running Dask scheduler; by default workers are started on this machine.
        workers: how many to start here; by default one a core.
        timeout: seconds that the scheduler may take to answer, and may be without any worker.
        output: where progress is shown.

    Raises:
        CourseError: Dask is not installed; no scheduler answers; its workers have other code, or are gone.
        OSError: a file could not be written.
        KeyboardInterrupt: what is finished is kept. Workers of our own are ended; on a cluster, notebooks under way
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
            fatal=CourseError,
        ) as connection,
        show.progress(output, len(waiting), "seeds") as reporter,
    ):
        for seed, value, trouble in connection.ended(calls):
            text, run = (None, _broken(trouble)) if trouble else value
            if text is not None:
                files.write_text(notebook_path(sweep.out, seed), text)
            sweep.record["runs"][str(seed)] = run
            _save(sweep)
            failure = Failure(**run["failure"]) if run["failure"] else None
            reporter.done(Outcome(f"seed {seed}", run["seconds"], None, failure))


def notebook_path(out: Path, seed: int | str) -> Path:
    """Where the executed notebook of a seed lies."""
    return out / f"seed-{seed}.ipynb"


def load(out: Path) -> dict[str, Any] | None:
    """The record of the sweep in a folder, None where there is none.

    Raises:
        CourseError: the file cannot be read as a record.
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
    if record.get("version") != VERSION:
        raise CourseError(
            f"{path} was written by another version of the course, which kept its figures in another form. Delete it "
            "to run its seeds again"
        )
    return record


def merged(record: Mapping[str, Any]) -> dict[str, Merged]:
    """{key figure: what it is over the seeds that passed}, in the order in which the chapter reports them."""
    passed = {int(seed): run["figures"] for seed, run in record["runs"].items() if not run["failure"]}
    names = dict.fromkeys(name for shown in passed.values() for name in shown)
    return {
        name: figures.merge({seed: passed[seed][name] for seed in sorted(passed) if name in passed[seed]})
        for name in names
    }


def keep(sweep: Sweep) -> Path:
    """Write the figures of a sweep to data/results/sweep-CHAPTER.json.

    Raises:
        CourseError: a seed failed, or none has figures; a record must not hide that.
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
    """The provenance of several runs as one: where they differ, all values side by side."""
    joined: dict[str, Any] = {}
    for key in dict.fromkeys(key for provenance in provenances for key in provenance):
        found = [provenance[key] for provenance in provenances if key in provenance]
        joined[key] = (
            together(found) if isinstance(found[0], dict) else ", ".join(sorted(set(map(str, found))))
        )
    return joined


def shared_runs(configuration: Mapping[str, Any], seeds: Iterable[int]) -> list[str]:
    """A warning if the chapter itself runs `seeds` seeds from `seed` on, so that these seeds have runs in common."""
    count = configuration.get("parameters", {}).get("seeds")
    ordered = sorted(seeds)
    if isinstance(count, bool) or not isinstance(count, int) or count < 2:
        return []
    if all(later - earlier >= count for earlier, later in itertools.pairwise(ordered)):
        return []
    apart = ",".join(str(ordered[0] + count * place) for place in range(len(ordered)))
    return [
        f"note: {configuration['chapter']} has seeds = {count} and runs the seeds from `seed` on itself, so neighbours "
        f"share runs and the interval is too narrow. Take seeds {count} apart: --seeds {apart}"
    ]


def _require_seed(chapter: Chapter) -> None:
    if "seed" in chapter.parameters:
        return
    names = ", ".join(chapter.parameters) or "none"
    raise CourseError(
        f"chapter {chapter.name} has no parameter `seed` to sweep over; it has: {names}{_instead(chapter)}"
    )


def _instead(chapter: Chapter) -> str:
    """What to do where a chapter has no `seed`: which parameters of it decide on repetitions."""
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
    """The runs of an earlier sweep that count in this one, and notes on them."""
    kept, notes = {}, []
    for seed, run in old["runs"].items():
        if run["failure"]:
            if int(seed) not in seeds:
                kept[seed] = run
        elif notebook_path(out, seed).is_file():
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
    """What sweep.json keeps of a run that broke outside its notebook: the worker's disk is full, say."""
    return {"figures": {}, "seconds": 0.0, "failure": asdict(Failure(0, "", trouble)), "provenance": {}}


def _column(name: str, figure: Any) -> tuple[str, Any]:
    """A key figure as records have it: a number, its unit in the name."""
    quantity = figures.quantity(figure)
    if quantity is None:
        return name, str(figure)
    return f"{name} ({quantity.unit})" if quantity.unit else name, quantity.value
