"""`course grade` on chapter 01: seconds for one submission, beside the whole chapter run as nbgrader alone would."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import nbformat
from rich.console import Console

from course_lib.book import notebooks
from course_lib.book.classroom import grading, handout
from course_lib.book.classroom.marking import Settings
from course_lib.book.run import runner
from course_lib.book.run.runner import Task
from tests.benchmarks.row import Row

GOAL_RATIO = 3.0
_CHAPTER = "01"


def submissions(count: int) -> Iterator[Row]:
    """Grade `count` copies of the right answers, as many side by side as there are cores, all of them for real.

    The figure is seconds of the clock divided by submissions; the chapter's own answers, which are graded first, are in
    it. Beside it, the whole chapter, run once.
    """
    (chapter,) = notebooks.select([_CHAPTER], notebooks.chapters())
    with tempfile.TemporaryDirectory() as folder:
        handed_in = Path(folder) / "in"
        text = handout.hand_out(chapter.name, notebooks.read(chapter.path)).released
        right = {
            cell.metadata["nbgrader"]["grade_id"]: cell for cell in _solutions(notebooks.read(chapter.path))
        }
        notebook = nbformat.reads(text, as_version=4)
        for cell in _solutions(notebook):
            cell.source = right[cell.metadata["nbgrader"]["grade_id"]].source
        for number in range(count):
            (handed_in / f"student-{number:03}").mkdir(parents=True)
            path = handed_in / f"student-{number:03}" / f"{chapter.name}.ipynb"
            path.write_text(notebooks.to_text(notebook), encoding="utf-8")
        planned = grading.plan(handed_in, [], Settings())
        started = time.perf_counter()
        grading.carry_out(planned, output=Console(quiet=True))
        seconds = time.perf_counter() - started
        rows = planned.rows()
        assert all(row["points"] == row["max_points"] for row in rows), rows
    whole = runner.execute(Task(chapter.name, notebooks.read(chapter.path), {}, chapter.path.parent)).seconds
    each = seconds / count
    yield Row(
        f"course grade {_CHAPTER}, {count} submissions on {joblib.cpu_count()} cores / the whole chapter",
        f"{each:.1f} s each",
        f"{whole:.0f} s",
        f"{whole / each:.2f}",
        f">= {GOAL_RATIO:.2f}",
        "yes" if whole / each >= GOAL_RATIO else "no",
    )


def _solutions(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("solution")]
