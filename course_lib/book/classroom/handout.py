"""Notebooks as they are handed out, made by nbgrader: without solutions, outputs and hidden tests."""

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_lib.book import CourseError, notebooks

GRADEBOOK = "gradebook.db"


@dataclass(frozen=True)
class Handout:
    """One notebook as nbgrader prepares it for handing out.

    Attributes:
        released: the text of the notebook for learners.
        gradebook: its database, which remembers every check as the teacher wrote it.
    """

    released: str
    gradebook: bytes


def hand_out(name: str, notebook: Any) -> Handout:
    """Prepare a notebook for learners: without solutions, outputs and hidden tests.

    Args:
        name: of the chapter.
        notebook: the teacher's; it is not changed.

    Raises:
        CourseError: nbgrader is not installed, or refuses the notebook.
    """
    require_nbgrader()
    from nbgrader.converters import GenerateAssignment

    with tempfile.TemporaryDirectory() as folder, _with_own_programs(), _silent() as said:
        course = Path(folder)
        write(notebook, course / "source" / name / f"{name}.ipynb")
        try:
            GenerateAssignment(coursedir=course_directory(course, name)).start()
        except Exception as error:  # nbgrader raises SystemExit's kin and what its parts raise
            why = next((line for line in reversed(said) if "rror" in line), str(error))
            raise CourseError(
                f"nbgrader refuses {name}.ipynb: {why}. Mend the marks of its exercises"
            ) from error
        released = notebooks.read(course / "release" / name / f"{name}.ipynb")
        return Handout(notebooks.to_text(notebooks.normalise(released)), (course / GRADEBOOK).read_bytes())


def require_nbgrader() -> None:
    """Raise CourseError where the extra `classroom` is not installed."""
    from importlib.util import find_spec

    if find_spec("nbgrader") is None:
        raise CourseError(
            "handing out and grading use nbgrader, which is not installed: pip install 'small-and-fast[classroom]'"
        )


def course_directory(course: Path, chapter: str, student: str = "") -> Any:
    """Describe a folder to nbgrader: one assignment, which is one chapter."""
    from nbgrader.coursedir import CourseDirectory
    from traitlets.config import Config

    config = Config()
    config.CourseDirectory.root = str(course)
    config.CourseDirectory.db_url = f"sqlite:///{course / GRADEBOOK}"
    config.CourseDirectory.assignment_id = chapter
    if student:
        config.CourseDirectory.student_id = student
    return CourseDirectory(config=config)


def write(notebook: Any, path: Path) -> None:
    """Write a notebook into a folder that does not exist yet."""
    path.parent.mkdir(parents=True)
    path.write_text(notebooks.to_text(notebook), encoding="utf-8")


@contextlib.contextmanager
def _with_own_programs() -> Iterator[None]:
    """nbgrader calls the program `alembic` by name; it lies beside this interpreter."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), before])
    try:
        yield
    finally:
        os.environ["PATH"] = before


@contextlib.contextmanager
def _silent() -> Iterator[list[str]]:
    """Keep what nbgrader logs from the screen; the list holds its lines."""
    said: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.extend(record.getMessage().splitlines())

    logger = logging.getLogger("traitlets")
    before = logger.handlers[:], logger.propagate
    logger.handlers, logger.propagate = [Keep(logging.ERROR)], False
    try:
        yield said
    finally:
        logger.handlers, logger.propagate = before
