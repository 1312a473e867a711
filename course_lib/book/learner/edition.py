"""A chapter for learners: without outputs, and with a stub in place of each solution.

What `course release` makes with nbgrader, here without it, since a learner need not have nbgrader; a test holds the two
to be equal. Solutions stand between the lines that nbgrader looks for.
"""

import copy
from collections.abc import Iterator
from typing import Any

from course_lib.book import CourseError, notebooks

__all__ = ["cleared", "has_solution", "learners", "regions", "shown"]

_BEGIN, _END = "BEGIN SOLUTION", "END SOLUTION"
_HIDDEN = ("HIDDEN TESTS", "MARK SCHEME")
_STUB = ("# YOUR CODE HERE", "raise NotImplementedError()")


def learners(notebook: Any) -> Any:
    """Copy a notebook as learners get it: stubs, no outputs, and checks that cannot be edited by accident.

    Args:
        notebook: the teacher's; it is not changed. One that holds no solution any more is as good.

    Raises:
        CourseError: a solution has no end.
    """
    made = copy.deepcopy(notebook)
    for cell in made.cells:
        marks = cell.metadata.get("nbgrader", {})
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if marks.get("solution") or has_solution(cell.source):
            cell.source = cleared(cell.source)
            cell.metadata["deletable"] = False
        elif marks.get("grade") or marks.get("locked"):
            cell.metadata |= {"deletable": False, "editable": False}
        cell.source = _without_hidden(cell.source)
    return notebooks.normalise(made)


def cleared(source: str) -> str:
    """Put the stub in place of each solution in the source of a cell that is to be written by learners."""
    lines = []
    for line, place in _placed(source):
        if place == "begin":
            indent = line[: len(line) - len(line.lstrip())]
            lines += [indent + stub for stub in _STUB]
        elif place == "open":
            lines.append(line)
    if not has_solution(source) and _STUB[0] not in source:  # the whole cell is the solution
        return "\n".join(_STUB)
    return "\n".join(lines)


def shown(source: str) -> str:
    """The source of a cell with its solution, without the lines that mark it."""
    return "\n".join(line for line, place in _placed(source) if place in ("open", "inside")).strip("\n")


def regions(source: str) -> list[str]:
    """List the solutions in the source of a cell, without the lines that mark them."""
    found: list[list[str]] = []
    for line, place in _placed(source):
        if place == "begin":
            found.append([])
        elif place == "inside":
            found[-1].append(line)
    return ["\n".join(lines) for lines in found]


def has_solution(source: str) -> bool:
    """Whether the source of a cell holds a marked solution.

    Example:
        >>> has_solution("two = 2")
        False
    """
    return any(place == "begin" for _, place in _placed(source))


def _placed(source: str) -> Iterator[tuple[str, str]]:
    """Each line with its place: `open`, `begin`, `inside` or `end` of a solution."""
    inside = False
    for line in source.split("\n"):
        begins, ends = _BEGIN in line, _END in line
        if begins and inside:
            raise CourseError("a solution begins inside of another: mend the marks of the exercise")
        inside = (inside or begins) and not ends
        yield line, "begin" if begins else "end" if ends else "inside" if inside else "open"
    if inside:
        raise CourseError("a solution has no end: mend the marks of the exercise")


def _without_hidden(source: str) -> str:
    lines, hidden = [], False
    for line in source.split("\n"):
        hidden = hidden or any(f"BEGIN {name}" in line for name in _HIDDEN)
        if not hidden:
            lines.append(line)
        hidden = hidden and not any(f"END {name}" in line for name in _HIDDEN)
    return "\n".join(lines)
