"""`course release` without its command line: write a folder to hand out, with chapters without solutions."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from course_lib import files
from course_lib.book import CourseError, folders, notebooks
from course_lib.book.classroom import handout

# What a learner needs of the checkout beside the chapters. The tests stay: they hold solutions.
_FILES = ("LICENSE", "constraints.txt", "pyproject.toml")
_FOLDERS = ("course_lib", "data")
_BESIDE = (
    "*.md",
    "*.bib",
    "images/*",
    "profiles/*.yaml",
)  # of notebooks/; the studies of a chapter go with it
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "downloads", ".*", "*.part")

_README = """# {title}

The chapters to work through, without the solutions of their exercises.

## Set up

With Python 3.11, 3.12 or 3.13, in this folder:

    python3 -m venv .venv
    .venv/bin/pip install -c constraints.txt -e '.[deploy]'

On Windows it is `.venv\\Scripts\\pip`. PyTorch is large: the first installation takes some minutes.

## Start

    .venv/bin/jupyter lab notebooks

{chapters}

Work from top to bottom. In an exercise, write your answer where it says `YOUR CODE HERE`, run the cell, then the check
below it: it says what is likely wrong, and more each time it has to say it again. Keep the names of the notebooks and
the cells of the exercises: they are found by them.

A chapter is not run as a whole when it is graded. What runs is its set-up as it was handed out, the cells of the
exercises, and cells that you add right before one of them. Put there what an answer needs.

    .venv/bin/course progress     # which exercises pass
    .venv/bin/course doctor       # what is missing, if something does not run

Hand in the notebooks that you have worked on.
"""


def write(out: Path, words: Sequence[str], *, force: bool = False) -> list[str]:
    """Write chapters without solutions, the library, the data and a README.

    Args:
        out: the folder.
        words: chapters as typed; all of them by default.
        force: write over what is there; what else lies there stays.

    Returns:
        The names of the chapters.

    Raises:
        CourseError: an unknown chapter, a folder that is not empty or belongs to the checkout, no nbgrader.
        OSError: the folder cannot be written to.
    """
    if files.installed():
        raise CourseError("what is handed out holds the library as its checkout has it: do it in a checkout")
    chosen = notebooks.select(words, notebooks.chapters())
    with folders.fresh(out, force=force) as made:
        _copy(made)
        for chapter in chosen:
            released = handout.hand_out(chapter.name, notebooks.read(chapter.path)).released
            (made / "notebooks" / f"{chapter.name}.ipynb").write_text(released, encoding="utf-8")
        for studies in notebooks.book():
            if studies.studies and studies.path.stem in {chapter.name for chapter in chosen}:
                _copy_file(studies.path, made)
        listed = "\n".join(f"- notebooks/{chapter.name}.ipynb: {chapter.title}" for chapter in chosen)
        (made / "README.md").write_text(_README.format(title=_title(), chapters=listed), encoding="utf-8")
    return [chapter.name for chapter in chosen]


def _copy(made: Path) -> None:
    root = files.root()
    (made / "notebooks").mkdir(parents=True)
    for name in _FOLDERS:
        if (root / name).is_dir():
            shutil.copytree(root / name, made / name, ignore=_LEFT_OUT)
    for name in _FILES:
        if (root / name).is_file():
            shutil.copy(root / name, made)
    for pattern in _BESIDE:
        for path in (root / "notebooks").glob(pattern):
            _copy_file(path, made)


def _copy_file(path: Path, made: Path) -> None:
    place = made / path.relative_to(files.root())
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, place)


def _title() -> str:
    """The first line of the course's own README."""
    readme = files.root() / "README.md"
    lines = readme.read_text(encoding="utf-8").splitlines() if readme.is_file() else []
    return lines[0].removeprefix("# ") if lines else "The course"
