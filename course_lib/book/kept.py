"""Where records lie: those of data/results by name, and those of sweeps; found without reading them."""

from collections.abc import Sequence
from pathlib import Path

from course_lib import files
from course_lib.book import CourseError
from course_lib.names import unknown_name

__all__ = ["SWEEP", "find"]

SWEEP = "sweep.json"
"""Name of the file that a sweep keeps in its folder."""


def find(words: Sequence[str]) -> list[tuple[str, Path]]:
    """Find (name, file) of the records that the words name, or of all records if there are no words.

    Args:
        words: each the name of a file in data/results, `sweep/CHAPTER` for a sweep in build/sweep, or a folder with a
            sweep in it.

    Raises:
        CourseError: a name is unknown.
    """
    recorded, swept = files.root() / "data" / "results", files.work() / "build" / "sweep"
    known = {path.stem: path for path in sorted(recorded.glob("*.json"))}
    known |= {f"sweep/{path.parent.name}": path for path in sorted(swept.glob(f"*/{SWEEP}"))}
    found = [(word, known.get(word, Path(word).expanduser() / SWEEP)) for word in words or known]
    for word, path in found:
        if not path.is_file():
            raise CourseError(unknown_name(word, "record", known))
    return found
