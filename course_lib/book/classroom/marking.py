"""Mark one submission, here or on a worker of Dask: a process of its own in a folder of its own, ended in time."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from course_lib import files
from course_lib.book import CourseError
from course_lib.book.classroom.handout import GRADEBOOK, Handout
from course_lib.book.run import state

JOB, RESULT = "job.json", "result.json"
_START = 180  # seconds that a process may take beside the cells, on a loaded machine

# Of the checkout, what holds solutions or other people's work; nothing of it is needed to grade.
_HIDDEN = ("notebooks", "tests", "build", ".git")
_LOOK = 0.1  # seconds between two looks at the process


@dataclass(frozen=True)
class Settings:
    """Limits of one submission.

    Attributes:
        timeout: seconds for one cell.
        memory: MB for one process, and for all processes of a submission together.
    """

    timeout: int = 30
    memory: int = 2048


@dataclass(frozen=True)
class Work:
    """Everything that the submissions of one chapter are graded with.

    Attributes:
        chapter: its name.
        source: text of the teacher's notebook.
        handout: what nbgrader makes of it.
        cells: at most that many cells of a submission can run out of time one after the other.
        settings: the limits.
        hidden: folders that a submission must not see, beside those of the checkout.
        library: digest of the course_lib to grade with; None where it is the same files.
    """

    chapter: str
    source: str
    handout: Handout
    cells: int
    settings: Settings
    hidden: tuple[str, ...] = ()
    library: str | None = None


def mark(work: Work, submission: bytes, stopping: threading.Event | None = None) -> dict[str, Any]:
    """Grade one submission in a process of its own.

    Args:
        work: the chapter and the limits.
        submission: the file as it was handed in.
        stopping: set it to end the process before its time.

    Returns:
        `exercises` (name, points, max_points, said, stopped, answer), `notes`, `reason` (why nothing was graded; else
        empty), `box` (how far the box closed), `seconds`; and `trouble`, where it was the machine that failed.

    Raises:
        CourseError: a worker has another course_lib.
    """
    if work.library not in (None, state.library_sha256()):
        raise CourseError(
            f"a worker on {os.uname().nodename} has another course_lib than this machine. Install the same checkout "
            "there, and start it again"
        )
    started = time.perf_counter()
    empty = {"exercises": [], "notes": [], "reason": "", "box": "", "trouble": ""}
    common = Path(tempfile.gettempdir()) / f"course-grade-{os.getuid()}"  # hidden as a whole in every box
    common.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=common, ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        (folder / "released.ipynb").write_text(work.handout.released, encoding="utf-8")
        (folder / GRADEBOOK).write_bytes(work.handout.gradebook)
        (folder / "submission.ipynb").write_bytes(submission)
        job = {
            "chapter": work.chapter,
            "timeout": work.settings.timeout,
            "memory": work.settings.memory * 2**20,
            "hidden": [*work.hidden, *(str(files.root() / part) for part in _HIDDEN)],
        }
        (folder / JOB).write_text(json.dumps(job), encoding="utf-8")
        limit = _START + work.cells * (work.settings.timeout + _START)
        outcome = _in_a_process(folder, limit, stopping or threading.Event())
    return {**empty, **outcome, "seconds": round(time.perf_counter() - started, 2)}


def _in_a_process(folder: Path, limit: float, stopping: threading.Event) -> dict[str, Any]:
    import psutil

    log = folder / "log"
    with open(log, "wb") as stream:
        # -P: where the command was typed, there may lie what students handed in; nothing is imported from there.
        command = [sys.executable, "-P", "-m", "course_lib.book.classroom.autograde", str(folder)]
        process = psutil.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
        )
    deadline = time.monotonic() + limit
    try:
        while process.poll() is None:
            if stopping.is_set():
                return {"trouble": "stopped"}
            if time.monotonic() > deadline:
                return {"reason": f"not finished after {limit:.0f} s"}
            time.sleep(_LOOK)
    finally:
        _end_tree(process)
    if (folder / RESULT).is_file():
        return json.loads((folder / RESULT).read_text(encoding="utf-8"))
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it said nothing"]
    return {"trouble": f"the process that grades ended with status {process.returncode}: {lines[-1][:300]}"}


def _end_tree(process: Any) -> None:
    """Kill a process and everything below it, children first noted, so that none is lost."""
    import psutil

    below: Sequence[Any] = ()
    with contextlib.suppress(psutil.Error):
        process.suspend()  # it starts nothing more while its children are counted
        below = process.children(recursive=True)
    for one in (process, *below):
        with contextlib.suppress(psutil.Error):
            one.kill()
    process.wait()


def described(settings: Settings) -> dict[str, Any]:
    """Return the settings as a dict, as grades.json keeps them."""
    return asdict(settings)
