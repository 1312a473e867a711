"""`course run` and `course refresh` without their command line: plan a run, carry it out, write what it gives."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from course_lib import files
from course_lib.book import CourseError, folders, notebooks, prose
from course_lib.book.notebooks import Chapter
from course_lib.book.run import profiles, quiet, show, state
from course_lib.book.run.task import Failure, Outcome, Task

__all__ = ["SPACE", "Plan", "carry_out", "folder_for", "plan", "refresh", "require_space"]

SPACE = 50 * 2**20  # bytes that a run wants free before it starts


@dataclass(frozen=True)
class Plan:
    """Plan and state of one run; `state` is the content of run.json and grows as chapters end."""

    selected: list[Chapter]
    parameters: dict[str, dict[str, Any]]
    out: Path
    state: dict[str, Any]
    notes: list[str]

    def records(self) -> list[tuple[str, dict[str, Any]]]:
        """List (chapter, record) of the selected chapters that have ended, in the order of the book."""
        done = self.state["chapters"]
        return [(chapter.name, done[chapter.name]) for chapter in self.selected if chapter.name in done]


def plan(words: Sequence[str], settings: dict[str, Any], out: Path, *, resume: bool = False) -> Plan:
    """Check everything before the first kernel starts, and write the first run.json.

    Args:
        words: chapters and studies as typed (see `notebooks.select`).
        settings: `profile`, `seed` and `set` as typed.
        out: the folder of the executed notebooks.
        resume: do not run again what an earlier run with these settings has finished there. Chapters that are not
            asked for stay in run.json in any case, if its settings are these.

    Raises:
        CourseError: an unknown name, settings that differ from the run to resume, an unfit folder or one that another
            command is writing into, a full disk.
        OSError: the folder cannot be written to.
    """
    book = notebooks.book()
    selected = notebooks.select(words, book)
    parameters = profiles.resolve(
        book,
        selected,
        profile=profiles.load(settings["profile"], notebooks.folder() / "profiles"),
        seed=settings["seed"],
        assignments=profiles.parse_assignments(settings["set"]),
    )
    out = folder_for(out)
    folders.claim(out)
    old, notes, done = _earlier(out, settings, resume=resume), [], {}
    if resume and old is None:
        notes = [f"there is no earlier run in {out}; everything is run"]
    elif resume:
        done, notes = state.finished(old, selected, parameters, out)
        notes = [f"{len(done)} of {len(selected)} chapters are finished already", *notes]
    others = set(old["chapters"] if old else ()) - {chapter.name for chapter in selected}
    kept = {name: old["chapters"][name] for name in sorted(others)} | done
    first = {"settings": settings, "chapters": kept}
    state.save(out, first)
    require_space(out)
    return Plan(selected, parameters, out, first, notes)


def _earlier(out: Path, settings: dict[str, Any], *, resume: bool) -> dict[str, Any] | None:
    """Read the state of an earlier run with these settings; None if there is none.

    Raises:
        CourseError: it is to be resumed, and is damaged or has other settings.
    """
    try:
        old = state.load(out)
    except CourseError:
        if resume:
            raise
        return None
    if old is not None and resume:
        state.check_settings(old["settings"], settings, out)
    return old if old is not None and old["settings"] == settings else None


def folder_for(out: Path) -> Path:
    """Return the folder of a run as an absolute path; CourseError if it is that of the notebooks themselves."""
    out = out.expanduser().absolute()
    if out.resolve() in (notebooks.folder().resolve(), (notebooks.folder() / notebooks.STUDIES).resolve()):
        raise CourseError(f"{out} holds the notebooks themselves; choose another folder with --out")
    return out


def require_space(out: Path) -> None:
    """Raise CourseError if too little of the disk is free."""
    free = shutil.disk_usage(out).free
    if free < SPACE:
        raise CourseError(
            f"only {free / 2**20:.0f} MB are free for {out}; a run wants {SPACE / 2**20:.0f} MB. "
            "Free some disk space or choose another folder with --out"
        )


def carry_out(
    plan: Plan, *, jobs: int | None = None, cell_seconds: float | None = None, output: Console
) -> None:
    """Run the unfinished chapters of a plan; write notebook and run.json as each ends.

    Args:
        plan: its `state` gains a record for each chapter.
        jobs: how many to run side by side; by default as many as there are cores that this process may use.
        cell_seconds: limit of a cell; by default that of `runner.Task`.
        output: where progress is shown.

    Raises:
        OSError: a notebook could not be written; every kernel is ended first.
        KeyboardInterrupt: likewise.
    """
    import joblib

    from course_lib.book.run import runner  # takes seconds: a mistake is answered before

    waiting = [chapter for chapter in plan.selected if chapter.name not in plan.state["chapters"]]
    tasks = [_task(chapter, plan.parameters[chapter.name], cell_seconds) for chapter in waiting]
    sources = {chapter.name: chapter.source_sha256 for chapter in waiting}
    library = state.library_sha256()

    def record(task: Task, outcome: Outcome) -> None:
        if outcome.notebook is not None:
            files.write_text(plan.out / f"{task.chapter}.ipynb", notebooks.to_text(outcome.notebook))
        plan.state["chapters"][task.chapter] = {
            "source_sha256": sources[task.chapter],
            "library_sha256": library,
            "parameters": task.parameters,
            "seconds": round(outcome.seconds, 3),
            "figures": notebooks.key_figures(outcome.notebook) if outcome.notebook is not None else {},
            "failure": asdict(outcome.failure) if outcome.failure else None,
        }
        state.save(plan.out, plan.state)
        reporter.done(outcome)

    with show.progress(output, len(tasks)) as reporter:
        runner.run(
            tasks,
            jobs=jobs or joblib.cpu_count(),
            on_start=reporter.started,
            on_cell=reporter.cell,
            on_done=record,
        )


def refresh(
    selected: Sequence[Chapter], *, anyway: bool = False, output: Console
) -> tuple[dict[str, Failure], list[str]]:
    """Run notebooks with their defaults and write them back, normalised, where they lie; then fill in the prose.

    Nothing is run on a busy machine, and a notebook after which it is busy is not written: its times would be wrong.

    Args:
        selected: what to run.
        anyway: on a busy machine too.
        output: where progress is shown.

    Returns:
        The failures, by chapter, and what else went wrong: notebooks not written since the machine was busy, marks
        that could not be filled in (see `prose.refresh`). A notebook that failed keeps its outputs.

    Raises:
        CourseError: the machine is busy before the first notebook.
    """
    from course_lib.book.run import runner

    if not anyway and (busy := quiet.trouble()):
        raise CourseError(f"{busy}. Nothing was run: wait until it is quiet, or add --anyway")
    failures, troubles = {}, []
    paths = {chapter.name: chapter.path for chapter in selected}

    def write(task: Task, outcome: Outcome) -> None:
        if outcome.failure:
            failures[task.chapter] = outcome.failure
        elif not anyway and (busy := quiet.trouble()):
            troubles.append(f"{task.chapter} is left as it was: {busy}. Run it again, or add --anyway")
        else:
            files.write_text(paths[task.chapter], notebooks.to_text(notebooks.normalise(outcome.notebook)))
        reporter.done(outcome)

    with show.progress(output, len(selected)) as reporter:
        tasks = [_task(chapter, {}) for chapter in selected]
        runner.run(tasks, on_start=reporter.started, on_cell=reporter.cell, on_done=write)
    return failures, troubles + prose.refresh()


def _task(chapter: Chapter, parameters: dict[str, Any], cell_seconds: float | None = None) -> Task:
    source = notebooks.read(chapter.path)
    # Relative paths of a chapter are those of its folder; that of a wheel is nobody's to write in.
    folder = files.work() if files.installed() else chapter.path.parent
    return Task(chapter.name, source, parameters, folder, cell_seconds=cell_seconds)
