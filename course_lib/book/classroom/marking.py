"""Mark one submission, here or on a worker of Dask: a process of its own in a folder of its own, ended in time."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from course_lib.book import CourseError
from course_lib.book.classroom import sandbox
from course_lib.book.classroom.handout import GRADEBOOK, Handout
from course_lib.book.run import state

JOB, RESULT, BOX = "job.json", "result.json", "box"
_START = 180  # seconds that a process may take beside the cells, on a loaded machine
_DISK = 512 * 2**20  # bytes that a submission may write
_LONGEST = 48  # characters of the folder for temporary files: the path of a socket has at most 107
_NAME = "course-grade"
_LOOK = 0.1  # seconds between two looks at the process


@dataclass(frozen=True)
class Settings:
    """Limits of one submission.

    Attributes:
        timeout: seconds for one cell.
        memory: MB for one process, and for all processes of a submission together.
        sandbox: whether each runs in bubblewrap; without, the limits alone are left.
    """

    timeout: int = 30
    memory: int = 2048
    sandbox: bool = True


@dataclass(frozen=True)
class Work:
    """Everything that the submissions of one chapter are graded with.

    Attributes:
        chapter: its name.
        source: text of the teacher's notebook.
        handout: what nbgrader makes of it.
        cells: at most that many cells of a submission can run out of time one after the other.
        settings: the limits.
        library: digest of the course_lib to grade with; None where it is the same files.
    """

    chapter: str
    source: str
    handout: Handout
    cells: int
    settings: Settings
    library: str | None = None


def mark(work: Work, submission: bytes, stopping: threading.Event | None = None) -> dict[str, Any]:
    """Grade one submission in a process of its own.

    Args:
        work: the chapter and the limits.
        submission: the file as it was handed in.
        stopping: set it to end the process before its time.

    Returns:
        `exercises` (name, points, max_points, said, stopped, answer), `notes`, `reason` (why nothing was graded; else
        empty), `box` (what held the submission; empty where nothing did), `seconds`; and `trouble`, where it was the
        machine that failed.

    Raises:
        CourseError: a worker has another course_lib, or no sandbox.
    """
    if work.library not in (None, state.library_sha256()):
        raise CourseError(
            f"a worker on {os.uname().nodename} has another course_lib than this machine. Install the same checkout "
            "there, and start it again"
        )
    if work.settings.sandbox:
        require_sandbox()
    started = time.perf_counter()
    empty = {"exercises": [], "notes": [], "reason": "", "box": "", "trouble": ""}
    _remove_leftovers()
    with tempfile.TemporaryDirectory(
        prefix=f"{_NAME}-{os.getpid()}-", dir=_temporary(), ignore_cleanup_errors=True
    ) as name:
        folder = Path(name).resolve()
        (folder / BOX).mkdir()
        (folder / "released.ipynb").write_text(work.handout.released, encoding="utf-8")
        (folder / GRADEBOOK).write_bytes(work.handout.gradebook)
        (folder / "submission.ipynb").write_bytes(submission)
        job = {
            "chapter": work.chapter,
            "timeout": work.settings.timeout,
            "memory": work.settings.memory * 2**20,
            "sandbox": work.settings.sandbox,
        }
        (folder / JOB).write_text(json.dumps(job), encoding="utf-8")
        limit = _START + work.cells * (work.settings.timeout + _START)
        room = sandbox.room(folder / BOX, _DISK)
        outcome = _in_a_process(folder, room, limit, stopping or threading.Event())
        box = sandbox.described(_DISK if room else None) if work.settings.sandbox else ""
    return {**empty, **outcome, "box": box, "seconds": round(time.perf_counter() - started, 2)}


def require_sandbox() -> None:
    """Raise CourseError where submissions cannot be closed off, with what would change that."""
    if why := sandbox.refusal():
        raise CourseError(
            f"{why}. Without it, a submission could read and write whatever you can: --without-sandbox grades so all "
            "the same, and says it on every page"
        )


def _temporary() -> str:
    found = tempfile.gettempdir()
    return found if len(found) <= _LONGEST else "/tmp"


def _remove_leftovers() -> None:
    """Remove the folders of gradings of this user that were killed."""
    import psutil

    for path in Path(_temporary()).glob(f"{_NAME}-*-*"):
        number = path.name.split("-")[2]
        with contextlib.suppress(OSError):
            own = path.lstat().st_uid == os.getuid() and path.is_dir() and not path.is_symlink()
            if own and number.isdecimal() and not psutil.pid_exists(int(number)):
                shutil.rmtree(path, ignore_errors=True)


def _in_a_process(
    folder: Path, room: Sequence[str], limit: float, stopping: threading.Event
) -> dict[str, Any]:
    import psutil

    log = folder / "log"
    with open(log, "wb") as stream:
        # -P: where the command was typed, there may lie what students handed in; nothing is imported from there.
        command = [*room, sys.executable, "-P", "-m", "course_lib.book.classroom.autograde", str(folder)]
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
