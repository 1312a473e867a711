"""`course solution` without its command line: one solution of the course, for who has tried."""

from pathlib import Path

from course_lib.book import CourseError, notebooks
from course_lib.book.learner import edition, exercise, folder
from course_lib.book.learner.exercise import UNTOUCHED, Exercise

__all__ = ["find", "require_try", "text"]


def find(chapter: str, word: str) -> tuple[str, Exercise]:
    """Find an exercise by its number or its name.

    Args:
        chapter: as typed.
        word: such as "2" or "soften".

    Returns:
        The name of the chapter, and the exercise.

    Raises:
        CourseError: there is no such chapter or exercise, or this copy of the course holds no solutions.
    """
    (chosen,) = notebooks.select([chapter], notebooks.chapters())
    known = exercise.of(notebooks.read(chosen.path))
    meant = [
        one for one in known if word.lower() in (f"{one.number}", f"0{one.number}", one.name, one.solution)
    ]
    if not meant:
        listed = ", ".join(f"{one.number} {one.name}" for one in known) or "none"
        raise CourseError(f"{chosen.name} has no exercise {word!r}. It has: {listed}")
    if not edition.has_solution(meant[0].source):
        raise CourseError("this copy of the course was handed out without solutions; ask who gave it to you")
    return chosen.name, meant[0]


def require_try(where: Path, chapter: str, one: Exercise) -> None:
    """Raise CourseError unless the learner has written something in the cell of an exercise.

    Args:
        where: the learner's folder.
        chapter: its name.
        one: the exercise.
    """
    again = f"To see it all the same: course solution {chapter.split('-')[0]} {one.number} --anyway"
    paths = folder.versions(where, chapter)
    if not paths:
        raise CourseError(
            f"{chapter}.ipynb is not in {where}, so there is no try of yours. Begin: course learn "
            f"{chapter.split('-')[0]}. {again}"
        )
    saved = [read for path in paths if (read := exercise.read(path)) is not None]
    if not saved:
        raise CourseError(f"{paths[0]} is no notebook that can be read. {again}")
    if exercise.standing(one, saved) == UNTOUCHED:
        raise CourseError(
            f"exercise {one.number} ({one.name}) is still as it was given. Try it first: its check says what is "
            f"likely wrong, and more each time. If you have written something, save the notebook. {again}"
        )


def text(chapter: str, one: Exercise) -> str:
    """The solution as it is printed: where it is from, the code, and what its check says of it."""
    lines = [
        f"One solution of exercise {one.number} ({one.name}) of {chapter}:",
        "",
        edition.shown(one.source),
    ]
    return "\n".join([*lines, *(["", f"Its check says: {one.said}"] if one.said else [])])
