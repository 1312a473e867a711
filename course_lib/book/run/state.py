"""State of a run for `--resume`: settings and finished chapters, in run.json of its output folder."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from course_lib import files
from course_lib.book import CourseError
from course_lib.book.notebooks import Chapter

__all__ = ["NAME", "check_settings", "differences", "finished", "library_sha256", "load", "save"]

NAME = "run.json"
_TOLD = {"source_sha256", "parameters", "seconds", "figures", "failure"}


def load(folder: Path) -> dict[str, Any] | None:
    """Load the state of the run in a folder; None where there is none.

    Raises:
        CourseError: the file cannot be read as a state.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(state["settings"], dict) or not isinstance(state["chapters"], dict):
            raise ValueError("settings and chapters must be objects")
        for name, record in state["chapters"].items():
            if not isinstance(record, dict) or not record.keys() >= _TOLD:
                raise ValueError(f"what is said of {name} is not what a run writes")
    except (ValueError, KeyError, TypeError) as error:
        raise CourseError(f"{path} is damaged ({error}). Leave out --resume to run afresh") from error
    return state


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write the state atomically; OSError where the folder cannot be written to."""
    files.write_text(folder / NAME, json.dumps(state, indent=1) + "\n")


def check_settings(old: dict[str, Any], new: dict[str, Any], folder: Path) -> None:
    """Refuse to resume a run under other settings.

    Raises:
        CourseError: the settings differ; the message says in what, and what to do.
    """
    if differing := differences(old, new):
        raise CourseError(
            f"the run in {folder} has other settings: {'; '.join(differing)}. Repeat its settings, or leave out "
            "--resume to run everything afresh, or choose another folder with --out"
        )


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """List the differences between two dicts of settings, in words.

    Example:
        >>> differences({"seed": 0, "profile": "fast"}, {"seed": 1, "profile": "fast"})
        ['seed was 0 and is now 1']
    """
    return [
        f"{name} was {json.dumps(old.get(name))} and is now {json.dumps(new.get(name))}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def finished(
    state: dict[str, Any], selected: Iterable[Chapter], parameters: dict[str, dict[str, Any]], folder: Path
) -> tuple[dict[str, Any], list[str]]:
    """Return the records of chapters that need not run again, and a note on each finished one that must.

    Args:
        state: as read by `load`, with the same settings as the run that is beginning.
        selected: the chapters of this run.
        parameters: of each, as they would be now.
        folder: where the executed notebooks lie.
    """
    kept, notes = {}, []
    for chapter in selected:
        record = state["chapters"].get(chapter.name)
        if record is None or record.get("failure"):
            continue
        if record.get("source_sha256") != chapter.source_sha256:
            notes.append(f"{chapter.name}: the notebook has changed since; it is run again")
        elif record.get("parameters") != parameters[chapter.name]:
            notes.append(f"{chapter.name}: the profile has changed since; it is run again")
        elif not (folder / f"{chapter.name}.ipynb").is_file():
            notes.append(f"{chapter.name}: its executed notebook is gone; it is run again")
        else:
            kept[chapter.name] = record
            if record.get("library_sha256") != library_sha256():
                notes.append(f"{chapter.name}: kept, though course_lib has changed since it was run")
    return kept, notes


def library_sha256() -> str:
    """Return the SHA-256 of all source files of course_lib."""
    package = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
