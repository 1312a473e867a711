"""One submission, graded by nbgrader in this process: `python -m course_lib.book.classroom.autograde FOLDER`.

The folder holds job.json; result.json is left in it. nbgrader, its database and the teacher's notebook stay outside
the box in which the learner's kernel runs (see `sandbox`).
"""

import json
import logging
import os
import re
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

from course_lib.book import exercises, notebooks
from course_lib.book.classroom import handout, sandbox
from course_lib.book.classroom.marking import BOX, JOB, RESULT
from course_lib.book.classroom.sandbox import Limits, Outcome

_LONGEST = 20_000  # characters of an answer, and of a message, that are kept

_STUDENT = "student"
_ALONE = (
    ". Of a chapter only its set-up, the exercises, and cells added right before one of their cells are run."
)


class _Unreadable(ValueError):
    """A submission that cannot be graded; the message is the reason."""


def _grade(folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    """Grade one submission.

    Args:
        folder: private to this submission; it holds released.ipynb and gradebook.db (see `handout`), and
            submission.ipynb.
        job: `chapter`, `timeout` (seconds for a cell), `memory` (bytes) and `sandbox` (whether there is one).

    Returns:
        `exercises`: name, points, max_points, what was said, and the answer, of each; `notes`: a list of texts.

    Raises:
        _Unreadable: the submission is no notebook.
    """
    chapter, course = job["chapter"], folder / "course"
    submission = _read(folder / "submission.ipynb")  # before the imports below, which take seconds
    from nbgrader.converters import Autograde
    from nbgrader.preprocessors import SaveAutoGrades

    from course_lib.book.classroom.inbox import InBox
    from course_lib.book.classroom.judging import Judge
    from course_lib.book.run.runner import QUIET
    from course_lib.book.run.worker import ONE_CORE

    released = notebooks.read(folder / "released.ipynb")
    to_grade, notes = exercises.prepare(submission, released)
    handout.write(to_grade, course / "submitted" / _STUDENT / chapter / f"{chapter}.ipynb")
    shutil.copy(folder / handout.GRADEBOOK, course)
    directory = handout.course_directory(course, chapter, _STUDENT)

    inside, limits = folder / BOX, Limits(job["memory"])

    def boxed(command: list[str], stopping: threading.Event) -> Outcome:
        return sandbox.run(
            command,
            inside,
            limits,
            closed=job["sandbox"],
            environment={**ONE_CORE, **QUIET},
            stopping=stopping,
        )

    def judging(address: Path) -> Judge:
        setup, names = exercises.setup(released), exercises.functions(released)
        return Judge(setup, names, address, job["memory"], {**os.environ, **ONE_CORE, **QUIET})

    execute = InBox(boxed, inside, job["timeout"], judging)
    Autograde(coursedir=directory, autograde_preprocessors=[execute, SaveAutoGrades]).start()
    return {
        "exercises": _results(directory, chapter, released, execute.executed, execute.stopped),
        "notes": notes + execute.notes,
    }


def _read(path: Path) -> Any:
    """A submission as a notebook of format 4.

    Raises:
        _Unreadable: it is none; the message says why.
    """
    import nbformat

    try:
        text = path.read_text(encoding="utf-8")
        if not text.strip():
            raise _Unreadable("not a notebook: the file is empty")
        raw = json.loads(text)
        if not isinstance(raw, dict) or not ("cells" in raw or "worksheets" in raw):
            raise _Unreadable("not a notebook: it is JSON without cells")
        logging.disable(logging.CRITICAL)
        notebook = nbformat.reads(text, as_version=4)
        if not all(isinstance(cell, dict) for cell in notebook.cells):
            raise _Unreadable("not a notebook: its cells are no cells")
        return notebook
    except _Unreadable:
        raise
    except RecursionError:
        raise _Unreadable("not a notebook: nested too deeply") from None
    except Exception as error:  # nbformat on strange input raises whatever Python does
        first = str(error).strip().splitlines() or [""]
        raise _Unreadable(f"not a notebook: {type(error).__name__}: {first[0][:200]}") from error
    finally:
        logging.disable(logging.NOTSET)


def _results(
    directory: Any, chapter: str, released: Any, executed: Any, stopped: list[str]
) -> list[dict[str, Any]]:
    """Points from nbgrader's database, messages and answers from the executed notebook."""
    from nbgrader.api import Gradebook

    with Gradebook(directory.db_url) as gradebook:
        grades = gradebook.find_submission_notebook(chapter, chapter, _STUDENT).grades
        points = {grade.name: (float(grade.auto_score or 0), float(grade.max_score)) for grade in grades}
    cells = {cell.metadata.nbgrader.grade_id: cell for cell in executed.cells if "nbgrader" in cell.metadata}
    found = []
    for exercise in exercises.of(released):
        answer, check = cells.get(exercise.solution), cells[exercise.check]
        said = (_error(answer) if answer else "") or _error(check)
        if answer is None and "NameError" in said:
            said = f"the cell of this exercise ({exercise.solution}) is missing: {said}"
        elif "NameError" in said:
            said += _ALONE
        printed = "".join(shown.text for shown in check.outputs if shown.output_type == "stream")
        earned, most = points[exercise.check]
        found.append(
            {
                "name": exercise.name,
                "points": earned,
                "max_points": most,
                "said": (printed if earned == most else said or printed).strip()[:_LONGEST],
                "stopped": exercise.solution in stopped or exercise.check in stopped,
                "answer": _answer(executed, exercise)[:_LONGEST],
            }
        )
    return found


def _answer(executed: Any, exercise: exercises.Exercise) -> str:
    """Everything that the learner wrote for an exercise and that ran: the answer, and the cells added beside it."""
    own = (exercise.solution, exercise.check)
    return "\n\n".join(
        cell.source
        for cell in executed.cells
        if cell.metadata.get(exercises.BESIDE) in own
        or cell.metadata.get("nbgrader", {}).get("grade_id") == exercise.solution
    )


def _error(cell: Any) -> str:
    """The error that a cell ended with, in words; empty where there is none."""
    for shown in cell.outputs:
        if shown.output_type == "error":
            text = re.sub(r"\x1b\[[0-9;]*m", "", str(shown.evalue))
            told = shown.ename in ("NotYet", "NotWritten", "Stopped")
            return text if told else f"{shown.ename}: {text}"
    return ""


def main(folder: Path) -> None:
    """Grade the job in a folder and leave the result beside it."""
    sandbox.end_with_parent()
    sandbox.adopt_orphans()
    job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    try:
        result = _grade(folder, job)
    except _Unreadable as error:
        result = {"exercises": [], "notes": [], "reason": str(error)}
    (folder / RESULT).write_text(json.dumps({"reason": "", **result}), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
