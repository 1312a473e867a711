"""Exercises of a notebook as nbgrader marks them, and the cells of a submission that run to grade them."""

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "BESIDE", "IN_PLACE", "SETUP", "Exercise", "functions", "grade_id", "in_place", "of", "prepare", "setup", "text",
]  # fmt: skip

SETUP = "exercise-setup"
"""Tag of the cells that exercises need: imports, and data or parameters that a check uses."""

IN_PLACE = "checked-in-place"
"""Tag of a check that needs more of an answer than values, and so runs in the same Python as the answer."""

BESIDE = "beside"
"""Metadata of a cell that a learner added: the grade_id of the cell that it stands before."""

_CHECKS = "course_lib.checks"


@dataclass(frozen=True)
class Exercise:
    """One exercise: the cell to be written and the cell that checks it.

    Attributes:
        check: grade_id of the check, such as `check-soften`.
        solution: grade_id of the cell to be written, such as `soften`.
        points: that the check gives.
    """

    check: str
    solution: str
    points: float

    @property
    def name(self) -> str:
        """Name for people: the grade_id of the check without its `check-`.

        Example:
            >>> Exercise("check-soften", "soften", 1).name
            'soften'
        """
        return self.check.removeprefix("check-")


def of(notebook: Any) -> list[Exercise]:
    """List the exercises of a notebook in its order: each graded check with the solution cell before it."""
    found, solution = [], ""
    for cell in notebook.cells:
        entry = cell.metadata.get("nbgrader", {})
        if entry.get("solution"):
            solution = entry["grade_id"]
        elif entry.get("grade"):
            found.append(Exercise(entry["grade_id"], solution, float(entry["points"])))
    return found


def setup(notebook: Any) -> list[str]:
    """List the sources of the set-up: of the cells tagged `exercise-setup`."""
    return [cell.source for cell in notebook.cells if SETUP in cell.metadata.get("tags", [])]


def functions(released: Any) -> list[str]:
    """List the functions that a learner is to write: those of the solution cells as they were handed out."""
    written = {exercise.solution for exercise in of(released)}
    cells = (cell for name, cell in _marked(released).items() if name in written)
    return [
        node.name
        for cell in cells
        for node in ast.parse(cell.source).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def in_place(check: Any) -> bool:
    """Tell whether a check runs in the same Python as the answer; the others run in a process of their own."""
    return IN_PLACE in check.metadata.get("tags", [])


def prepare(submission: Any, released: Any) -> tuple[Any, list[str]]:
    """Build the notebook to grade: the teacher's set-up, the learner's answers, the teacher's checks.

    The set-up is the cells tagged `exercise-setup`, as they were handed out: what a learner changes in them has no
    effect on the grade. Of the learner's notebook run the cells of the exercises, and the cells added right before
    one of them (helpers of an answer). Everything else in a chapter trains networks, and none of it is graded.

    Before each check the modules of checks are imported anew, so that an answer that has changed them in memory
    changes nothing where the check runs in place.

    Args:
        submission: the learner's notebook, read as format 4; its metadata may be anything.
        released: the notebook as handed out, with nbgrader's metadata.

    Returns:
        A new notebook without outputs, and notes on what was missing.
    """
    from nbformat.v4 import new_notebook

    solutions = {exercise.solution for exercise in of(released)}
    begin = setup(released)
    imports = [line for source in begin for line in source.splitlines() if _CHECKS in line]
    answers, added = _written(submission, released)
    cells = [_cell(source) for source in begin]
    for name, cell in _marked(released).items():
        cells += [_cell(source, {BESIDE: name}) for source in added[name]]
        marks = {"nbgrader": dict(cell.metadata.nbgrader)}
        if name not in solutions:
            tags = {"tags": [IN_PLACE]} if in_place(cell) else {}
            cells += [_cell("\n".join([_FORGET, *imports])), _cell(cell.source, {**marks, **tags})]
        elif name in answers:
            cells.append(_cell(answers[name], marks))
    notebook = new_notebook(cells=cells)
    if "kernelspec" in released.metadata:
        notebook.metadata["kernelspec"] = dict(released.metadata["kernelspec"])
    gone = [name for name in _marked(released) if name in solutions - answers.keys()]
    said = f"the cells of these exercises are missing or renamed: {', '.join(gone)}"
    return notebook, [said] if gone else []


_FORGET = f"""import sys
for _name in [_name for _name in sys.modules if _name.startswith({_CHECKS!r})]:
    del sys.modules[_name]"""


def _written(submission: Any, released: Any) -> tuple[dict[str, str], dict[str, list[str]]]:
    """What a learner wrote: {grade_id: source} and {grade_id: sources of the cells added right before it}.

    Of two cells with one grade_id (a copied cell) the last counts, as for nbgrader.
    """
    marked = _marked(released)
    others = [cell for cell in released.cells if "nbgrader" not in cell.metadata]
    handed_out = [cell.id for cell in others] + [cell.source for cell in others]
    answers: dict[str, str] = {}
    added: dict[str, list[str]] = {name: [] for name in marked}
    waiting: list[str] = []
    for cell in submission.cells:
        name, source = grade_id(cell), text(cell.get("source"))
        if name in marked:
            answers[name] = source
            added[name] += waiting
            waiting = []
        elif cell.get("cell_type") == "code" and source.strip():
            old = source in handed_out or cell.get("id") in handed_out
            waiting = [] if old else [*waiting, source]
    return answers, added


def _marked(notebook: Any) -> dict[str, Any]:
    """{grade_id: cell} of the solutions and checks of a teacher's notebook, in its order."""
    entries = ((cell.metadata.get("nbgrader", {}), cell) for cell in notebook.cells)
    return {entry["grade_id"]: cell for entry, cell in entries if entry.get("grade") or entry.get("solution")}


def grade_id(cell: Any) -> str | None:
    """What a cell of a submission says that it is; its metadata may be anything."""
    metadata = cell.get("metadata")
    entry = metadata.get("nbgrader") if isinstance(metadata, Mapping) else None
    name = entry.get("grade_id") if isinstance(entry, Mapping) else None
    return name if isinstance(name, str) else None


def text(source: Any) -> str:
    """The source of a cell, or what one printed, as one text; it may be anything."""
    whole = "".join(map(str, source)) if isinstance(source, list) else str(source or "")
    return re.sub(
        r"[\ud800-\udfff]", "?", whole
    )  # half of a character, which JSON can hold and a file cannot


def _cell(source: str, metadata: Mapping[str, Any] | None = None) -> Any:
    from nbformat.v4 import new_code_cell

    return new_code_cell(source, metadata=dict(metadata or {}))
