"""How a learner stands with an exercise, read from the notebooks that were saved; nothing else is recorded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_lib.book import exercises, raw
from course_lib.book.learner import edition

__all__ = ["FAILED", "PASSED", "UNCHECKED", "UNTOUCHED", "Exercise", "Saved", "of", "read", "standing"]

UNTOUCHED = "not begun"
UNCHECKED = "not checked"
FAILED = "not yet"
PASSED = "passes"
_ORDER = (UNTOUCHED, UNCHECKED, FAILED, PASSED)
_RIGHT = "Correct: "  # how `course_lib.checks.passed` begins


@dataclass(frozen=True)
class Exercise:
    """An exercise of a chapter: one cell to be written, and the checks behind it.

    Attributes:
        number: as in the text of the chapter, from 1.
        solution: grade_id of the cell, such as `soften`.
        name: for people.
        source: the cell in the course, with its solution.
        checks: their grade_ids.
        said: the line that the check prints for the solution, without "Correct: "; "" where there is none.
    """

    number: int
    solution: str
    name: str
    source: str
    checks: tuple[str, ...]
    said: str


@dataclass(frozen=True)
class Saved:
    """A learner's notebook as it lies on the disk; whatever may be wrong with it.

    Attributes:
        cells: {grade_id: cell}; of two with one grade_id the last counts, as in grading.
        run: ids of the code cells that were run.
    """

    cells: dict[str, dict[str, Any]]
    run: frozenset[str]


def of(notebook: Any) -> list[Exercise]:
    """List the exercises of a chapter in its order.

    Args:
        notebook: the course's, with its outputs.
    """
    cells = {exercises.grade_id(cell): cell for cell in notebook.cells}
    checks: dict[str, list[exercises.Exercise]] = {}
    for one in exercises.of(notebook):
        checks.setdefault(one.solution, []).append(one)
    return [
        Exercise(
            number,
            solution,
            ones[0].name,
            cells[solution].source,
            tuple(one.check for one in ones),
            _printed(cells[ones[0].check]).removeprefix(_RIGHT).strip(),
        )
        for number, (solution, ones) in enumerate(checks.items(), start=1)
    ]


def read(path: Path) -> Saved | None:
    """Read a notebook of a learner; None where the file is none."""
    try:
        cells = [cell for cell in raw.content(path)["cells"] if isinstance(cell, dict)]
    except (OSError, ValueError, RecursionError):
        return None
    named = {name: cell for cell in cells if (name := exercises.grade_id(cell)) is not None}
    run = (cell.get("id") for cell in cells if isinstance(cell.get("execution_count"), int))
    return Saved(named, frozenset(name for name in run if isinstance(name, str)))


def standing(exercise: Exercise, notebooks: Sequence[Saved]) -> str:
    """How an exercise stands: the best of what the notebooks of a chapter say."""
    return max((_standing(exercise, saved) for saved in notebooks), key=_ORDER.index, default=UNTOUCHED)


def _standing(exercise: Exercise, saved: Saved) -> str:
    answer = saved.cells.get(exercise.solution, {})
    if _untouched(exercises.text(answer.get("source")), edition.cleared(exercise.source)):
        return UNTOUCHED
    results = [_result(saved.cells.get(check, {}), answer) for check in exercise.checks]
    return min(results, key=(FAILED, UNCHECKED, PASSED).index)


def _untouched(answer: str, stub: str) -> bool:
    """Whether the cell holds no line but today's stub; a stub of an older course counts as begun."""
    return (
        not {line.strip() for line in answer.splitlines()}
        - {line.strip() for line in stub.splitlines()}
        - {""}
    )


def _result(check: dict[str, Any], answer: dict[str, Any]) -> str:
    """What the saved outputs of a check say, unless the answer was run again since in the same kernel."""
    counts = [cell.get("execution_count") for cell in (answer, check)]
    if all(isinstance(count, int) for count in counts) and counts[0] > counts[1]:
        return UNCHECKED
    outputs = check.get("outputs")
    kinds = (
        [one.get("output_type") for one in outputs if isinstance(one, dict)]
        if isinstance(outputs, list)
        else []
    )
    if "error" in kinds:
        return FAILED
    return PASSED if _printed(check).startswith(_RIGHT) else UNCHECKED


def _printed(cell: Any) -> str:
    outputs = cell.get("outputs")
    return "".join(
        exercises.text(one.get("text"))
        for one in (outputs if isinstance(outputs, list) else [])
        if isinstance(one, dict) and one.get("output_type") == "stream" and one.get("name") == "stdout"
    )
