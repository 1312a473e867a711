"""Table of `course progress`: which chapters were run, and how their exercises stand."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from course_lib import files
from course_lib.book import CourseError, exercises, notebooks
from course_lib.book.run import state
from course_lib.checks import attempts
from course_lib.checks.attempts import Standing

__all__ = ["Line", "examine", "table"]


@dataclass(frozen=True)
class Line:
    """One chapter.

    Attributes:
        chapter: its name.
        run: "yes" if `course run` has passed it or every check in it was run, "begun" if some were, else "no".
        standings: {exercise: how it stands, None where its check was never run}, in the order of the chapter.
    """

    chapter: str
    run: str
    standings: dict[str, Standing | None]

    @property
    def passed(self) -> int:
        """Number of exercises that pass."""
        return sum(standing is not None and standing.passed for standing in self.standings.values())


def examine() -> list[Line]:
    """Examine each chapter of the book; a damaged record counts as nothing done."""
    standings, ran = attempts.read(), _passed_runs()
    lines = []
    for chapter in notebooks.chapters():
        names = [exercise.name for exercise in exercises.of(notebooks.read(chapter.path))]
        known = {name: standings.get((chapter.number, name)) for name in names}
        begun = [standing is not None for standing in known.values()]
        finished = chapter.name in ran or (begun and all(begun))
        lines.append(Line(chapter.name, "yes" if finished else "begun" if any(begun) else "no", known))
    return lines


def table(lines: Sequence[Line]) -> Table:
    """Lay out the lines as a table; an exercise that fails says how often in a row."""
    shown = Table()
    for heading in ("chapter", "run", "pass", "exercises"):
        shown.add_column(heading, overflow="fold")
    for line in lines:
        told = (f"{name}: {_told(standing)}" for name, standing in line.standings.items())
        shown.add_row(line.chapter, line.run, f"{line.passed} of {len(line.standings)}", "\n".join(told))
    return shown


def _told(standing: Standing | None) -> str:
    if standing is None:
        return "not begun"
    if standing.passed:
        return "passes"
    return f"not yet ({standing.failures} tries)" if standing.failures else "not written"


def _passed_runs() -> set[str]:
    """The chapters that `course run` has passed, with the folder that it uses by default."""
    try:
        ran = state.load(files.work() / "build" / "course") or {"chapters": {}}
        return {name for name, kept in ran["chapters"].items() if not kept.get("failure")}
    except (CourseError, AttributeError, OSError):
        return set()
