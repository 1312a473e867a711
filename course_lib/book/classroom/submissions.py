"""Submissions of a class: the notebooks of a folder, by student and chapter."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from course_lib import files
from course_lib.book import CourseError
from course_lib.book.notebooks import STUDIES, Chapter

_NO_WORK = ("__MACOSX", STUDIES)  # folders in a student's folder that hold nothing to grade
_LARGEST = 20 * 2**20  # bytes of a notebook that is read; a chapter has 0.3 MB


@dataclass(frozen=True)
class Submission:
    """Submission of one student for one chapter.

    Attributes:
        student: the name of the folder.
        chapter: its name.
        path: of the notebook; None where there is none, or none that is read.
        sha256: of the file, empty where it is not read.
        problem: why there is nothing to grade; empty where there is.
    """

    student: str
    chapter: str
    path: Path | None = None
    sha256: str = ""
    problem: str = ""

    @property
    def key(self) -> str:
        """Name in grades.json, such as `anna/01-knowledge-distillation`."""
        return f"{self.student}/{self.chapter}"


def collect(
    folder: Path, book: Sequence[Chapter], chosen: Sequence[Chapter] | None = None
) -> tuple[list[Submission], list[str]]:
    """Collect the submissions of a folder: FOLDER/STUDENT/NN-name.ipynb, at any depth below the student's folder.

    A notebook belongs to the chapter whose name it has, or whose number it begins with ("01 (2).ipynb"). Where one
    chapter is asked for and a student has one notebook, it is that one, whatever its name. Other files are not used,
    nor are the studies, which have no exercises.

    Args:
        folder: of the submissions.
        book: all chapters.
        chosen: those to grade; None for those of which somebody handed in a notebook.

    Returns:
        A submission for each student and chapter, in the order of their names, and notes on what was left aside.

    Raises:
        CourseError: no folder, or nothing in it to grade.
    """
    if not folder.is_dir():
        raise CourseError(
            f"there is no folder {folder}. Give the folder that holds one folder for each student"
        )
    students = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    loose = sorted(path.name for path in folder.glob("*.ipynb"))
    layout = f"Put each student's notebook into a folder of that name: {folder}/STUDENT/{book[0].name}.ipynb"
    if not students:
        found = (
            f"notebooks lie in {folder} itself ({', '.join(loose[:3])})" if loose else f"{folder} is empty"
        )
        raise CourseError(f"{found}. {layout}")
    found = {_text(student.name): _named(student, book, chosen) for student in students}
    if chosen is None:
        handed_in = {name for named in found.values() for name in named if name}
        chosen = [chapter for chapter in book if chapter.name in handed_in]
    if not chosen:
        raise CourseError(f"no notebook in {folder} has the name or number of a chapter. {layout}")
    notes = [f"{_text(name)} lies outside every student's folder and is not graded" for name in loose]
    notes += [
        f"the folder {_text(path.name)} begins with a dot and is not graded"
        for path in sorted(folder.iterdir())
        if path.is_dir() and path.name.startswith(".")
    ]
    notes += [
        f"{_text(path.relative_to(folder))}: its name is that of no chapter; it is not graded. Name it by its chapter, "
        f"such as {chosen[0].name}.ipynb"
        for named in found.values()
        for path in named.get("", [])
    ]
    submissions = [
        _submission(student, chapter.name, named.get(chapter.name, []))
        for student, named in found.items()
        for chapter in chosen
    ]
    return submissions, notes


def _named(student: Path, book: Sequence[Chapter], chosen: Sequence[Chapter] | None) -> dict[str, list[Path]]:
    """{chapter: the notebooks that have its name}, under "" those that have no chapter's."""
    found: dict[str, list[Path]] = {}
    for where, folders, names in os.walk(student):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _NO_WORK)
        for name in sorted(names):
            if name.lower().endswith(".ipynb") and not name.startswith("."):
                found.setdefault(_chapter_of(name, book), []).append(Path(where) / name)
    if chosen is not None and len(chosen) == 1 and list(found) == [""] and len(found[""]) == 1:
        return {chosen[0].name: found[""]}
    return found


def _chapter_of(name: str, book: Sequence[Chapter]) -> str:
    stem = name.rsplit(".", 1)[0].lower()
    for chapter in book:
        if stem == chapter.name.lower():
            return chapter.name
    number = re.match(r"\d+", stem)
    same = [c.name for c in book if number and c.number.isdecimal() and int(c.number) == int(number[0])]
    return same[0] if len(same) == 1 else ""


def _text(name: str | Path) -> str:
    """A name that any file can hold: bytes that are no UTF-8 are written as \\xe9."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _submission(student: str, chapter: str, paths: Sequence[Path]) -> Submission:
    nothing = Submission(student, chapter)
    if not paths:
        return replace(nothing, problem="no notebook was handed in")
    if len(paths) > 1:
        common = os.path.commonpath([path.parent for path in paths])
        listed = ", ".join(_text(path.relative_to(common)) for path in paths)
        return replace(nothing, problem=f"{len(paths)} notebooks for this chapter: {listed}. Leave one")
    (path,) = paths
    if path.is_symlink() or not path.is_file():
        return replace(nothing, problem=f"{_text(path.name)} is no plain file")
    size = path.stat().st_size
    if size > _LARGEST:
        return replace(
            nothing,
            problem=f"{size / 2**20:.0f} MB; a notebook of more than {_LARGEST / 2**20:.0f} MB is not read",
        )
    try:
        return replace(nothing, path=path, sha256=files.sha256(path))
    except OSError as error:
        return replace(nothing, problem=f"{_text(path.name)} cannot be read: {error.strerror}")
