"""The answers that stand in the notebooks: the base of the wrong ones that the checks must refuse."""

import functools
from collections.abc import Callable

from course_lib.book import exercises, notebooks


@functools.cache
def of(number: str) -> dict[str, Callable]:
    """{grade_id of the solution: its function}, of a chapter such as `01`."""
    (chapter,) = (one for one in notebooks.chapters() if one.number == number)
    notebook = notebooks.read(chapter.path)
    space: dict = {}
    for cell in notebook.cells:
        entry = cell.metadata.get("nbgrader", {})
        if exercises.SETUP in cell.metadata.get("tags", []) or entry.get("solution"):
            exec(compile(cell.source, cell.id, "exec"), space)
    return {e.solution: space[e.solution.replace("-", "_")] for e in exercises.of(notebook)}
