"""The file of a notebook as JSON, read without nbformat, whose import takes as long as a command may."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from course_lib import files
from course_lib.book import CourseError

__all__ = ["content", "readable", "sketch"]


def content(path: Path) -> dict[str, Any]:
    """Parse the file of a notebook; ValueError if it is none of format 4."""
    raw = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(raw, dict) or not isinstance(raw.get("cells"), list):
        raise ValueError("it has no list of cells")
    if raw.get("nbformat") != 4:
        raise ValueError(f"it has format {raw.get('nbformat')}; format 4 is read")
    return raw


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """What goes wrong in the block is the fault of the file."""
    try:
        yield
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise CourseError(
            f"{path} is not a readable notebook: {error}. Restore it: {files.remedy(path.name)}"
        ) from error


def sketch(path: Path) -> SimpleNamespace:
    """Read what the book must know of a notebook before it is run; ValueError, KeyError or the like if it is none."""
    return SimpleNamespace(cells=[_cell(cell) for cell in content(path)["cells"]])


def _cell(cell: dict[str, Any]) -> SimpleNamespace:
    """The parts of a cell that `title`, `parameters` and `source_sha256` look at, as in a cell of nbformat."""
    lines = cell["source"]
    source = lines if isinstance(lines, str) else "".join(lines)
    return SimpleNamespace(
        cell_type=cell["cell_type"], source=source, metadata=dict(cell.get("metadata", {}))
    )
