"""`course progress` in a learner's folder: exercises tried and passed, minutes left to read, and what is next."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.table import Table

from course_lib.book import notebooks
from course_lib.book.learner import exercise, folder
from course_lib.book.learner.exercise import PASSED, UNTOUCHED, Exercise, Saved

__all__ = ["Line", "examine", "next_step", "table", "to_open"]


@dataclass(frozen=True)
class Line:
    """One chapter of the folder.

    Attributes:
        chapter: its name.
        standings: {exercise: how it stands}, in its order.
        minutes: to read what stands behind the last cell that was run.
        unreadable: files of it that are no notebooks.
    """

    chapter: str
    standings: dict[Exercise, str]
    minutes: int
    unreadable: tuple[str, ...] = ()

    @property
    def passed(self) -> int:
        """Number of exercises that pass."""
        return sum(standing == PASSED for standing in self.standings.values())

    @property
    def tried(self) -> int:
        """Number of exercises that were begun, those that pass included."""
        return sum(standing != UNTOUCHED for standing in self.standings.values())


def examine(where: Path) -> tuple[list[Line], list[str]]:
    """Examine a learner's folder: a line for each of its chapters, and the chapters that it does not have."""
    lines, missing = [], []
    for chapter in notebooks.chapters():
        paths = folder.versions(where, chapter.name)
        if not paths:
            missing.append(chapter.number)
            continue
        read = {path: exercise.read(path) for path in paths}
        saved = [one for one in read.values() if one is not None]
        whole = notebooks.read(chapter.path)
        standings = {one: exercise.standing(one, saved) for one in exercise.of(whole)}
        unreadable = tuple(path.name for path, one in read.items() if one is None)
        lines.append(Line(chapter.name, standings, _minutes_left(whole, saved), unreadable))
    return lines, missing


def _minutes_left(whole: Any, saved: Sequence[Saved]) -> int:
    run = frozenset[str]().union(*(one.run for one in saved))
    behind = max((place for place, cell in enumerate(whole.cells, start=1) if cell.id in run), default=0)
    return notebooks.reading_minutes(SimpleNamespace(cells=whole.cells[behind:]))


def to_open(lines: Sequence[Line], names: Sequence[str]) -> str:
    """Choose the notebook to go on with: the first of the chapters named with an exercise that does not pass yet."""
    open_ones = [
        line.chapter for line in lines if line.chapter in names and line.passed < len(line.standings)
    ]
    return f"{[*open_ones, names[0]][0]}.ipynb"


def table(lines: Sequence[Line]) -> Table:
    """Lay out the lines as a table, with a sum."""
    shown = Table(show_footer=len(lines) > 1)
    count = sum(len(line.standings) for line in lines)
    for heading, total in (
        ("chapter", "in all"),
        ("exercises", ""),
        ("tried", f"{sum(line.tried for line in lines)} of {count}"),
        ("passed", f"{sum(line.passed for line in lines)} of {count}"),
        ("minutes left to read", f"{sum(line.minutes for line in lines)}"),
    ):
        shown.add_column(heading, footer=total, overflow="fold")
    for line in lines:
        begun = line.tried > 0
        told = [f"{one.number} {one.name}: {how}" for one, how in line.standings.items()] if begun else []
        told += [f"{name} is no notebook that can be read" for name in line.unreadable]
        of = f"of {len(line.standings)}"
        shown.add_row(
            line.chapter, "\n".join(told), f"{line.tried} {of}", f"{line.passed} {of}", f"{line.minutes}"
        )
    return shown


def next_step(lines: Sequence[Line], missing: Sequence[str]) -> str:
    """Say what to do next: the first exercise that does not pass yet, else a chapter that the folder does not have."""
    for line in lines:
        for one, how in line.standings.items():
            if how != PASSED:
                return f"Next: exercise {one.number} ({one.name}) of {line.chapter}.ipynb"
    if missing:
        return f"Every exercise here passes. Next: course learn {missing[0]}"
    return "Every exercise passes. You have done the course."
