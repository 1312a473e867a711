"""`course grade` without its command line: collect submissions, mark each, write grades and feedback."""

import csv
import hashlib
import io
import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from course_lib import files
from course_lib.book import CourseError, exercises, folders, notebooks
from course_lib.book.classroom import feedback, handout, marking, submissions
from course_lib.book.classroom.marking import Settings, Work
from course_lib.book.classroom.submissions import Submission
from course_lib.book.notebooks import Chapter
from course_lib.book.run import course, show, state
from course_lib.book.run.task import Failure, Outcome
from course_lib.credentials import TlsFiles
from course_lib.jobs import connected

__all__ = ["COLUMNS", "Grading", "boxes", "carry_out", "load", "plan"]

NAME, GRADES, PAGES = "grades.json", "grades.csv", "feedback"
COLUMNS = ("student", "chapter", "points", "max_points", "exercises", "reason")
_LONGEST = 200  # bytes of a page's name
_OPEN = "graded without a sandbox: the submission could read and write the teacher's files"


@dataclass(frozen=True)
class Grading:
    """Plan and state of one grading; `record` is the content of grades.json and grows as submissions end.

    Attributes:
        chapters: those graded.
        submissions: one for each student and chapter.
        out: the folder of grades.csv, feedback/ and grades.json.
        work: {chapter: what it is graded with}; empty where nothing is left to grade.
        record: settings, a digest for each chapter, and a record for each submission that has ended.
        notes: what a person should know before it begins.
    """

    chapters: list[Chapter]
    submissions: list[Submission]
    out: Path
    work: dict[str, Work]
    record: dict[str, Any]
    notes: list[str]

    def waiting(self) -> list[Submission]:
        """List the submissions that are still to be marked."""
        return [one for one in self.submissions if one.key not in self.record["submissions"]]

    def rows(self) -> list[dict[str, Any]]:
        """List the rows of grades.csv, for the submissions that have ended."""
        done = self.record["submissions"]
        return [
            _row(one, done[one.key], self.most(one.chapter)) for one in self.submissions if one.key in done
        ]

    def most(self, chapter: str) -> float:
        """Return the most points that a chapter gives."""
        return self.record["chapters"][chapter]["points"]

    def troubles(self) -> list[Submission]:
        """List the submissions that a fault of the machine kept from being graded."""
        done = self.record["submissions"]
        return [one for one in self.submissions if done.get(one.key, {}).get("trouble")]


def plan(
    folder: Path,
    words: Sequence[str],
    settings: Settings,
    out: Path | None = None,
    *,
    resume: bool = False,
    force: bool = False,
) -> Grading:
    """Check everything before the first submission is marked, and write the first grades.json.

    Args:
        folder: of the submissions (see `submissions.collect`).
        words: chapters as typed; by default those of which somebody handed in a notebook.
        settings: the limits.
        out: the folder of the grades; by default FOLDER-grades beside it.
        resume: keep what an earlier grading there has marked, of submissions, chapters and code that are unchanged.
        force: grade all anew and write over what is there.

    Raises:
        CourseError: no nbgrader, no sandbox; no such folder, or an empty one; an unknown chapter; grades that exist.
        OSError: the folder cannot be written to.
    """
    handout.require_nbgrader()
    if settings.sandbox:
        marking.require_sandbox()
    folder = folder.expanduser().absolute()
    book = notebooks.chapters()
    chosen = notebooks.select(words, book) if words else None
    handed_in, notes = submissions.collect(folder, book, chosen)
    chapters = [chapter for chapter in book if any(one.chapter == chapter.name for one in handed_in)]
    for chapter in chapters:
        if not exercises.of(notebooks.read(chapter.path)):
            raise CourseError(f"chapter {chapter.name} has no exercises that are graded")
    out = course.folder_for(out or folder.with_name(f"{folder.name}-grades"))
    if out.resolve() == folder.resolve() or folder.resolve() in out.resolve().parents:
        raise CourseError(f"{out} lies in the folder of the submissions; choose another with --out")
    record = {
        "settings": marking.described(settings),
        "library_sha256": state.library_sha256(),
        "chapters": {chapter.name: _described(chapter) for chapter in chapters},
        "submissions": {},
    }
    folders.claim(out)
    old, held = load(out), {entry.name for entry in out.iterdir()} - {folders.LOCK}
    if old is None and held and not force:
        raise CourseError(
            f"{out} exists and holds no grades. Choose another folder with --out, or write there: --force"
        )
    if old is not None and not (resume or force):
        raise CourseError(
            f"{out} holds grades already. Go on with them: --resume. Grade everything anew and write over them: --force"
        )
    if old is None and resume:
        notes.append(f"there are no earlier grades in {out}; everything is graded")
    if old is not None and resume:
        state.check_settings(old["settings"], record["settings"], out)
        record["submissions"], kept = _kept(old, record, handed_in)
        notes += kept
    waiting = {one.chapter for one in handed_in if one.path and one.key not in record["submissions"]}
    work = {chapter.name: _work(chapter, settings) for chapter in chapters if chapter.name in waiting}
    grading = Grading(chapters, handed_in, out, work, record, notes)
    _save(grading)
    course.require_space(out)
    return grading


def carry_out(
    grading: Grading,
    *,
    jobs: int | None = None,
    scheduler: str | None = None,
    tls: TlsFiles | None = None,
    timeout: float = 10.0,
    output: Console,
) -> None:
    """Mark the waiting submissions; write grades.json as each ends, then grades.csv and the feedback pages.

    Before that, the teacher's own notebook of each chapter is marked in the same way: it must earn every point.

    Args:
        grading: its `record` gains a record for each submission.
        jobs: how many to mark side by side on this machine; by default one a core.
        scheduler: address of a running Dask scheduler, to mark there instead.
        tls: credentials for a scheduler with TLS.
        timeout: seconds that the scheduler may take to answer, and may be without any worker.
        output: where progress is shown.

    Raises:
        CourseError: a chapter whose own answers do not pass; a scheduler that does not answer.
        OSError: a file could not be written.
        KeyboardInterrupt: every process is ended; what is finished is kept.
    """
    for one in grading.waiting():
        if one.path is None:
            _keep(
                grading, one, {"exercises": [], "notes": [], "reason": one.problem, "box": "", "seconds": 0.0}
            )
    waiting = grading.waiting()
    try:
        if waiting:
            with show.progress(output, len(waiting), "submissions") as reporter:
                for one, result in _marked(grading, waiting, jobs, scheduler, tls, timeout):
                    _keep(grading, one, result)
                    failure = (
                        Failure(0, "", result["reason"]) if result["reason"] or result["trouble"] else None
                    )
                    reporter.done(Outcome(one.key, result["seconds"], None, failure))
    finally:
        _save(grading)
        _write_csv(grading)
    for student in dict.fromkeys(one.student for one in grading.submissions):
        feedback.write(grading.out / PAGES / _page(student), student, _sections(grading, student))


def load(out: Path) -> dict[str, Any] | None:
    """Load grades.json of a folder; None where there is none.

    Raises:
        CourseError: the file cannot be read as a record.
    """
    path = out / NAME
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        for part in ("settings", "chapters", "submissions"):
            if not isinstance(record[part], dict):
                raise ValueError(f"{part} must be an object")
        for one in record["submissions"].values():
            _ = one["sha256"], one["exercises"], one["reason"]
        return record
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CourseError(
            f"{path} is damaged ({error!r}). Delete it to grade everything anew, with --force"
        ) from error


def boxes(grading: Grading) -> list[str]:
    """List by what the submissions of a grading were held, in words."""
    ran = [one for one in grading.record["submissions"].values() if one["exercises"]]
    held = sorted({one.get("box", "") for one in ran})
    return [f"each submission ran in {box}" if box else f"careful: {_OPEN}" for box in held]


def _kept(
    old: Mapping[str, Any], new: Mapping[str, Any], handed_in: Sequence[Submission]
) -> tuple[dict[str, Any], list[str]]:
    """The records of an earlier grading that count in this one, and notes."""
    same_code = old.get("library_sha256") == new["library_sha256"]
    kept = {
        one.key: old["submissions"][one.key]
        for one in handed_in
        if one.key in old["submissions"]
        and same_code
        and one.path is not None
        and old["submissions"][one.key]["sha256"] == one.sha256
        and not old["submissions"][one.key].get("trouble")
        and old["chapters"].get(one.chapter) == new["chapters"][one.chapter]
    }
    notes = [f"{len(kept)} of {len(handed_in)} submissions are graded already and unchanged"]
    if not same_code:
        notes.append(
            "course_lib has changed since; everything is graded again, so that all are graded by the same code"
        )
    return kept, notes


def _described(chapter: Chapter) -> dict[str, Any]:
    notebook = notebooks.read(chapter.path)
    marks = [
        [cell.source, cell.metadata.get("nbgrader"), cell.metadata.get("tags")] for cell in notebook.cells
    ]
    digest = hashlib.sha256(json.dumps(marks, sort_keys=True).encode()).hexdigest()
    return {"sha256": digest, "points": sum(exercise.points for exercise in exercises.of(notebook))}


def _work(chapter: Chapter, settings: Settings) -> Work:
    notebook = notebooks.read(chapter.path)
    made = handout.hand_out(chapter.name, notebook)
    cells = 2 * len(exercises.of(notebook)) + 2
    return Work(chapter.name, notebooks.to_text(notebook), made, cells, settings)


# ---- marking ---------------------------------------------------------------------------------------------------------


def _marked(
    grading: Grading,
    waiting: Sequence[Submission],
    jobs: int | None,
    scheduler: str | None,
    tls: TlsFiles | None,
    timeout: float,
) -> Iterator[tuple[Submission, dict[str, Any]]]:
    """(submission, result of `marking.mark`) of each as it ends; the teacher's own notebooks first."""
    own = {name: (work, work.source.encode()) for name, work in grading.work.items()}
    calls = {one: (grading.work[one.chapter], one.path.read_bytes()) for one in waiting if one.path}
    if scheduler is None:
        with _Here(jobs) as here:
            _require_right(here.ended(own), grading)
            yield from here.ended(calls)
        return
    library = state.library_sha256()
    with connected(
        marking.mark, "submissions", scheduler=scheduler, timeout=timeout, tls=tls, fatal=CourseError
    ) as there:

        def ended(calls: Mapping[Any, tuple]) -> Iterator[tuple[Any, dict[str, Any]]]:
            sent = {key: (replace(work, library=library), content) for key, (work, content) in calls.items()}
            for key, result, trouble in there.ended(sent):
                yield key, result if result is not None else {**_BROKEN, "trouble": trouble}

        _require_right(ended(own), grading)
        yield from ended(calls)


_BROKEN = {"exercises": [], "notes": [], "reason": "", "box": "", "seconds": 0.0}


class _Here:
    """Processes of this machine, a few at a time; leaving the block early ends them."""

    def __init__(self, jobs: int | None):
        import joblib

        self._pool = ThreadPoolExecutor(jobs or joblib.cpu_count())
        self._stopping = threading.Event()

    def __enter__(self) -> "_Here":
        return self

    def __exit__(self, *_: Any) -> None:
        self._stopping.set()
        self._pool.shutdown(cancel_futures=True)

    def ended(self, calls: Mapping[Any, tuple]) -> Iterator[tuple[Any, dict[str, Any]]]:
        futures = {self._pool.submit(marking.mark, *call, self._stopping): key for key, call in calls.items()}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _require_right(results: Iterator[tuple[str, dict[str, Any]]], grading: Grading) -> None:
    """Raise CourseError unless the teacher's own notebooks earn every point: nobody could, then."""
    for chapter, result in results:
        wrong = [one for one in result["exercises"] if one["points"] < one["max_points"]]
        earned = sum(one["points"] for one in result["exercises"])
        if wrong or result["reason"] or result.get("trouble") or earned < grading.most(chapter):
            why = [f"{one['name']}: {one['said']}" for one in wrong] or [
                result["reason"] or result.get("trouble", "")
            ]
            raise CourseError(
                f"the answers in {chapter}.ipynb itself earn {earned:g} of {grading.most(chapter):g} points here, so "
                f"nothing is graded: {'; '.join(why)}"
            )


def _keep(grading: Grading, one: Submission, result: Mapping[str, Any]) -> None:
    grading.record["submissions"][one.key] = {"sha256": one.sha256, **result}
    _save(grading)


# ---- what is written -------------------------------------------------------------------------------------------------


def _save(grading: Grading) -> None:
    files.write_text(grading.out / NAME, json.dumps(grading.record, indent=1) + "\n")


def _row(one: Submission, result: Mapping[str, Any], most: float) -> dict[str, Any]:
    found = result["exercises"]
    earned = sum(exercise["points"] for exercise in found)
    stopped = [f"{exercise['name']}: {exercise['said']}" for exercise in found if exercise["stopped"]]
    trouble = f"not graded: {result['trouble']}" if result.get("trouble") else ""
    bare = _OPEN if found and not result.get("box") else ""
    reasons = [text for text in (trouble, result["reason"], bare, *result["notes"], *stopped) if text]
    listed = ", ".join(f"{e['name']} {e['points']:g}/{e['max_points']:g}" for e in found)
    values = (one.student, one.chapter, f"{earned:g}", f"{most:g}", listed, "; ".join(reasons))
    return dict(zip(COLUMNS, values, strict=True))


def _write_csv(grading: Grading) -> None:
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _plain(value) for name, value in row.items()} for row in grading.rows())
    files.write_text(grading.out / GRADES, table.getvalue())


def _plain(value: str) -> str:
    """A cell that a spreadsheet does not take for a formula: part of it comes from the submission.

    Some take a semicolon for the end of a cell, too.
    """
    return re.sub(r"(^|;)( ?)(?=[=+\-@])", r"\1\2'", " ".join(value.split()))


def _page(student: str) -> str:
    """The name of a student's page; a file's name has at most 255 bytes, and a temporary one is longer."""
    if len(student.encode()) <= _LONGEST:
        return f"{student}.html"
    digest = hashlib.sha256(student.encode()).hexdigest()[:8]
    return f"{student.encode()[: _LONGEST - 9].decode(errors='ignore')}-{digest}.html"


def _sections(grading: Grading, student: str) -> list[dict[str, Any]]:
    titles = {chapter.name: chapter.title or chapter.name for chapter in grading.chapters}
    sections = []
    for one in grading.submissions:
        if one.student == student:
            result = grading.record["submissions"][one.key]
            row = _row(one, result, grading.most(one.chapter))
            sections.append({**row, "title": titles[one.chapter], "found": result["exercises"]})
    return sections
