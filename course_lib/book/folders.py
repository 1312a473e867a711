"""Folders that a command writes: outside the checkout, complete or not at all, and by one command at a time."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from course_lib import files
from course_lib.book import CourseError

LOCK = ".lock"
_claimed: list[FileLock] = []  # a lock that nobody refers to is given back
_OWN = ("course_lib", "data", "notebooks", "tests", ".git")


def require_free(out: Path, *, force: bool = False) -> Path:
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
    out = require_free(out, force=force)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        made = Path(temporary) / "made"
        made.mkdir()
        yield made
        if out.is_dir():
            shutil.copytree(made, out, dirs_exist_ok=True)
        else:
            made.rename(out)


def claim(out: Path) -> None:
    """Claim a folder for this process until it ends, however it ends; it may claim a folder of its own again.

    Args:
        out: made if there is none.

    Raises:
        CourseError: another process has claimed it.
        OSError: the folder cannot be written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / LOCK, is_singleton=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise CourseError(
            f"another command is writing into {out}. Wait until it has ended, or choose another folder with --out"
        ) from error
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write into {out} ({error.strerror}). Choose another folder, or mend its rights",
        ) from error
    _claimed.append(lock)
