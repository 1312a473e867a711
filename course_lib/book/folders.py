"""Folders that a command writes: outside the checkout, and complete or not at all."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from course_lib import files
from course_lib.book import CourseError

_OWN = ("course_lib", "data", "notebooks", "tests", ".git")


def _require_free(out: Path, *, force: bool = False) -> Path:
    """Return the absolute path of a folder that may be written.

    Args:
        out: as typed.
        force: it may hold something already.

    Raises:
        CourseError: it is a file, is not empty, belongs to the checkout, or holds it.
    """
    out = out.expanduser().absolute()
    place, root = out.resolve(), files.root()
    own = [root / name for name in _OWN]
    if place == root or place in root.parents or any(place == part or part in place.parents for part in own):
        raise CourseError(f"{out} is part of the course itself or holds it; choose another folder")
    if out.exists() and not out.is_dir():
        raise CourseError(f"{out} is a file; name a folder")
    if out.is_dir() and any(out.iterdir()) and not force:
        raise CourseError(f"{out} is not empty. Choose another folder, or write over what is there: --force")
    return out


@contextlib.contextmanager
def fresh(out: Path, *, force: bool = False) -> Iterator[Path]:
    """Give an empty folder that becomes `out` when the block ends without an error; `out` is never half made.

    Args:
        out: the folder to write. Other files that lie in it stay.
        force: it may hold something already.

    Raises:
        CourseError: `out` is a file, is not empty, belongs to the checkout, or holds it.
        OSError: the folder cannot be written to.
    """
    out = _require_free(out, force=force)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        made = Path(temporary) / "made"
        made.mkdir()
        yield made
        if out.is_dir():
            shutil.copytree(made, out, dirs_exist_ok=True)
        else:
            made.rename(out)
