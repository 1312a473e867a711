"""The record of what a learner has tried: a line for each check that was run in a notebook, in build/progress.jsonl.

Lines are only ever added, each in one write, so notebooks that run side by side lose nothing, and a damaged line costs
that line alone. Nothing here may break a notebook: what cannot be written is left unwritten.
"""

import contextlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from course_lib import files

_NAME = "progress.jsonl"
_SWITCH = (
    "COURSE_PROGRESS"  # "off" where the course itself runs notebooks: what passes there is nobody's answer
)

_here: dict[tuple[str, str], int] = {}  # failures in a row in this process, for when nothing can be written


@dataclass(frozen=True)
class Standing:
    """The state of an exercise.

    Attributes:
        passed: whether the last try was right.
        failures: wrong tries in a row since the start or the last right one; an answer not written yet is not a try.
    """

    passed: bool
    failures: int


def path() -> Path:
    """Find the record: in build/ of the checkout or of the folder that was handed out; of a wheel, where one works."""
    return files.work() / "build" / _NAME


def read() -> dict[tuple[str, str], Standing]:
    """Read the record: {(chapter, exercise): its state} of those that were tried; empty if there is no record.

    Damaged lines, or a whole damaged file, are passed over.
    """
    standings: dict[tuple[str, str], Standing] = {}
    try:
        lines = path().read_bytes().splitlines()
    except OSError:
        return standings
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            entry = json.loads(line)
            chapter, exercise, passed, tried = (
                entry[key] for key in ("chapter", "exercise", "passed", "tried")
            )
            if not all(isinstance(word, str) for word in (chapter, exercise)) or not isinstance(passed, bool):
                continue
            before = standings.get((chapter, exercise), Standing(False, 0)).failures
            failures = 0 if passed else before + bool(tried)
            standings[chapter, exercise] = Standing(passed, failures)
    return standings


def add(chapter: str, exercise: str, *, passed: bool, tried: bool = True) -> int:
    """Record that a check was run, if that was in a learner's notebook.

    Args:
        chapter: its number, such as "01".
        exercise: such as "soften".
        passed: whether the answer is right.
        tried: False if there is no answer yet.

    Returns:
        How often the exercise has failed in a row, this time included.

    Example:
        >>> add("00", "example", passed=True), add("00", "example", passed=False)
        (0, 1)
    """
    key = (chapter, exercise)
    _here[key] = 0 if passed else _here.get(key, 0) + tried
    failures = _here[key]
    if not _in_a_notebook():
        return failures
    # Exception, not OSError: a notebook must go on whatever is wrong with a file that it does not need.
    with contextlib.suppress(Exception):
        entry = {"chapter": chapter, "exercise": exercise, "passed": passed, "tried": tried}
        place = path()
        place.parent.mkdir(exist_ok=True)
        handle = os.open(place, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            # The line end before it, too: the last line may be half a line.
            os.write(handle, f"\n{json.dumps(entry)}\n".encode())
        finally:
            os.close(handle)
        if not passed:
            failures = max(failures, read()[key].failures)
    return failures


def _in_a_notebook() -> bool:
    if os.environ.get(_SWITCH) == "off" or "IPython" not in sys.modules:
        return False
    return getattr(sys.modules["IPython"].get_ipython(), "kernel", None) is not None
