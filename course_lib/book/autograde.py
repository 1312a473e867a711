"""One submission, graded by nbgrader in this process: `python -m course_lib.book.autograde FOLDER`.

The folder holds job.json; result.json is left in it. nbgrader, its database and the teacher's notebook stay outside
the box in which the learner's kernel runs (see `box`).
"""

import copy
import json
import logging
import os
import re
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import nbformat
import psutil
from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbgrader.api import Gradebook
from nbgrader.converters import Autograde
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import Execute, SaveAutoGrades

from course_lib.book import box, exercises, handout, notebooks
from course_lib.book.box import Box, Limits
from course_lib.book.marking import JOB, RESULT
from course_lib.book.runner import QUIET
from course_lib.book.worker import ONE_CORE

OUTPUT = 2**20  # characters that a cell may show; what follows is dropped
LONGEST = 20_000  # characters of an answer, and of a message, that are kept
DISK = 2**30  # bytes that a submission may leave in its folder

_STUDENT = "student"
SETUP = 120  # seconds for a cell that is no exercise, such as the imports: a busy machine is no fault of the learner
_LOOK = 0.2  # seconds between two looks at memory and disk


class Unreadable(ValueError):
    """A submission that cannot be graded; the message is the reason."""


def grade(folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    """Grade one submission.

    Args:
        folder: private to this submission; it holds source.ipynb (the teacher's), released.ipynb and gradebook.db (see
            `handout`), and submission.ipynb.
        job: `chapter`, `timeout` (seconds for a cell), `memory` (bytes) and `hidden` (folders).

    Returns:
        `exercises`: name, points, max_points, what was said, and the answer, of each; `notes`: a list of texts.

    Raises:
        Unreadable: the submission is no notebook.
    """
    chapter, course = job["chapter"], folder / "course"
    source, released = (notebooks.read(folder / name) for name in ("source.ipynb", "released.ipynb"))
    to_grade, notes = exercises.prepare(read(folder / "submission.ipynb"), released, source)
    handout.write(to_grade, course / "submitted" / _STUDENT / chapter / f"{chapter}.ipynb")
    shutil.copy(folder / handout.GRADEBOOK, course)
    directory = handout.course_directory(course, chapter, _STUDENT)

    inside = folder / "box"
    inside.mkdir()
    closed = Box(
        inside,
        Limits(job["memory"]),
        hidden=tuple(map(Path, (*job["hidden"], folder.parent))),
        environment={**ONE_CORE, **QUIET},
    )
    execute = InBox(closed, job["timeout"])
    Autograde(coursedir=directory, autograde_preprocessors=[execute, SaveAutoGrades]).start()
    return {
        "exercises": _results(directory, chapter, source, execute.executed),
        "notes": notes + execute.notes,
    }


def read(path: Path) -> Any:
    """A submission as a notebook of format 4.

    Raises:
        Unreadable: it is none; the message says why.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if not text.strip():
            raise Unreadable("not a notebook: the file is empty")
        raw = json.loads(text)
        if not isinstance(raw, dict) or not ("cells" in raw or "worksheets" in raw):
            raise Unreadable("not a notebook: it is JSON without cells")
        logging.disable(logging.CRITICAL)
        notebook = nbformat.reads(text, as_version=4)
        if not all(isinstance(cell, dict) for cell in notebook.cells):
            raise Unreadable("not a notebook: its cells are no cells")
        return notebook
    except Unreadable:
        raise
    except RecursionError:
        raise Unreadable("not a notebook: nested too deeply") from None
    except Exception as error:  # nbformat on strange input raises whatever Python does
        first = str(error).strip().splitlines() or [""]
        raise Unreadable(f"not a notebook: {type(error).__name__}: {first[0][:200]}") from error
    finally:
        logging.disable(logging.NOTSET)


class InBox(Execute):
    """nbgrader's execution, in a box, in which a cell that does not end or kills its kernel costs no other cell.

    Such a cell is noted and left out, and the notebook is run again without it.
    """

    def __init__(self, closed: Box, timeout: int):
        super().__init__(interrupt_on_timeout=False, startup_timeout=300)
        self.timeout_func = lambda cell: timeout if cell.metadata.get("nbgrader") else max(timeout, SETUP)
        self.shutdown_kernel = "immediate"
        self.closed, self.executed, self.notes = closed, None, []

    def preprocess(self, nb: Any, resources: Any = None, km: Any = None) -> tuple[Any, Any]:
        fatal: dict[int, dict[str, Any]] = {}
        for attempt in range(len(nb.cells) + 1):
            trial = copy.deepcopy(nb)
            for position in fatal:
                trial.cells[position].source = ""
            self.kernel_manager_class = _kernels(self.closed, attempt)
            self.position = self.shown = 0
            watch = _Watch(self.closed)
            try:
                with watch:
                    trial, resources = super().preprocess(trial, resources, km)
                break
            except (DeadKernelError, CellTimeoutError, _Left) as error:
                reason = watch.reason or self._reason(error, trial.cells[self.position])
                fatal[self.position] = {"ename": "Stopped", "evalue": reason, "traceback": [reason]}
        for position, error in fatal.items():
            if not nb.cells[position].metadata.get("nbgrader"):
                line = nb.cells[position].source.strip().splitlines()[0]
                self.notes.append(f"the cell that begins with {line!r:.80}: {error['evalue']}")
            trial.cells[position].source = nb.cells[position].source
            trial.cells[position].outputs = [nbformat.v4.new_output("error", **error)]
        for cell in trial.cells:
            # A warning is no mistake, and a number on show no grade: what counts is that the check raised nothing.
            if cell.metadata.get("nbgrader", {}).get("grade"):
                cell.outputs = [shown for shown in cell.outputs if _counts(shown)]
        self.executed = trial
        return trial, resources

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:
        self.position, self.shown = index, 0
        return super().preprocess_cell(cell, resources, index)

    def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] in ("stream", "display_data", "execute_result", "update_display_data"):
            self.shown += len(str(msg["content"]))
            if self.shown > OUTPUT:
                return None
        return super().process_message(msg, cell, cell_index)

    def on_cell_executed(self, **keywords: Any) -> None:
        super().on_cell_executed(**keywords)
        payload = keywords["execute_reply"]["content"].get("payload", [])
        if any(entry.get("source") == "ask_exit" for entry in payload):
            raise _Left

    def _reason(self, error: Exception, cell: Any) -> str:
        if isinstance(error, CellTimeoutError):
            return f"not finished after {self.timeout_func(cell)} s. Look for a loop that does not end."
        if isinstance(error, _Left):
            return "the answer ends the kernel (exit). A function returns its result."
        return "the kernel died: the answer ended the process, or crashed it."


class _Left(Exception):
    """A cell asked the kernel to end."""


class _Watch(threading.Thread):
    """Looks after what no limit of a single process holds: memory of all of them together, and the disk."""

    def __init__(self, closed: Box):
        super().__init__(daemon=True)
        self.closed, self.reason, self._over = closed, "", threading.Event()

    def __enter__(self) -> "_Watch":
        self.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        self.join()
        _end_children()

    def run(self) -> None:
        most = self.closed.limits.memory
        while not self._over.wait(_LOOK):
            if sum(map(_resident, psutil.Process().children(recursive=True))) > most:
                self.reason = f"more than {most / 2**20:.0f} MB of memory in all processes."
            elif _size(self.closed.writable) > DISK:
                self.reason = f"more than {DISK / 2**20:.0f} MB written to disk."
            if self.reason:
                _end_children()
                return


def _kernels(closed: Box, attempt: int) -> type[AsyncKernelManager]:
    """Managers of kernels in the box. Sockets are files: no port leads through a network namespace."""

    class Boxed(AsyncKernelManager):
        def __init__(self, **keywords: Any):
            connection = str(closed.writable / f"k{attempt}.json")
            super().__init__(**keywords, transport="ipc", connection_file=connection)

        async def _async_pre_start_kernel(self, **keywords: Any) -> Any:
            command, keywords = await super()._async_pre_start_kernel(**keywords)
            return command, {**keywords, "preexec_fn": box.end_with_parent}

        @property
        def kernel_spec(self) -> KernelSpec:
            own = get_kernel_dict()
            return KernelSpec(resource_dir=RESOURCES, **{**own, "argv": closed.command(own["argv"])})

    return Boxed


def _results(directory: CourseDirectory, chapter: str, source: Any, executed: Any) -> list[dict[str, Any]]:
    """Points from nbgrader's database, messages and answers from the executed notebook."""
    with Gradebook(directory.db_url) as gradebook:
        grades = gradebook.find_submission_notebook(chapter, chapter, _STUDENT).grades
        points = {grade.name: (float(grade.auto_score or 0), float(grade.max_score)) for grade in grades}
    cells = {cell.metadata.nbgrader.grade_id: cell for cell in executed.cells if "nbgrader" in cell.metadata}
    found = []
    for exercise in exercises.of(source):
        answer, check = cells.get(exercise.solution), cells[exercise.check]
        said = (_error(answer) if answer else "") or _error(check)
        if answer is None and "NameError" in said:
            said = f"the cell of this exercise ({exercise.solution}) is missing: {said}"
        printed = "".join(shown.text for shown in check.outputs if shown.output_type == "stream")
        earned, most = points[exercise.check]
        found.append(
            {
                "name": exercise.name,
                "points": earned,
                "max_points": most,
                "said": (printed if earned == most else said or printed).strip()[:LONGEST],
                "stopped": any(
                    shown.get("ename") == "Stopped"
                    for cell in (answer, check)
                    if cell
                    for shown in cell.outputs
                ),
                "answer": answer.source[:LONGEST] if answer else "",
            }
        )
    return found


def _counts(shown: Any) -> bool:
    return shown.output_type != "execute_result" and shown.get("name") != "stderr"


def _error(cell: Any) -> str:
    """The error that a cell ended with, in words; empty where there is none."""
    for shown in cell.outputs:
        if shown.output_type == "error":
            text = re.sub(r"\x1b\[[0-9;]*m", "", str(shown.evalue))
            told = shown.ename in ("NotYet", "NotWritten", "Stopped")
            return text if told else f"{shown.ename}: {text}"
    return ""


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0


def _size(folder: Path) -> int:
    total = 0
    for where, _, names in os.walk(folder, onerror=None):
        for name in names:
            try:
                total += os.lstat(os.path.join(where, name)).st_size
            except OSError:
                continue
    return total


def _end_children() -> None:
    """Kill everything that this process has started, and what that has started."""
    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.Error:
            continue


def main(folder: Path) -> None:
    """Grade the job in a folder and leave the result beside it."""
    box.end_with_parent()
    box.adopt_orphans()
    job = json.loads((folder / JOB).read_text(encoding="utf-8"))
    try:
        result = grade(folder, job)
    except Unreadable as error:
        result = {"exercises": [], "notes": [], "reason": str(error)}
    _end_children()
    (folder / RESULT).write_text(json.dumps({"reason": "", "box": box.level(), **result}), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
