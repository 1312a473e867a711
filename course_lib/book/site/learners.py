"""Learner's editions on the site: a solution is folded up behind "Show one solution", and downloads hold none."""

import copy
import re
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from course_lib.book import exercises, notebooks
from course_lib.book.learner import edition

__all__ = ["HIDE", "SHOW", "SOLUTION", "folded", "in_the_open", "of_the_book", "write_downloads"]

SHOW = "Show one solution"
HIDE = "Hide the solution"
SOLUTION = "solution"
"""Tag, and so a class of the page, of a cell with a solution."""


def folded(notebook: Any) -> Any:
    """Copy a notebook for the site: before each solution what is to be written, and the solution itself folded up.

    Args:
        notebook: the course's; without solutions the copy is equal to it.
    """
    made = copy.deepcopy(notebook)
    cells = []
    for cell in made.cells:
        if edition.has_solution(cell.source):
            cells.append(_stub(cell))
            cell.source = edition.shown(cell.source)
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), "hide-cell", SOLUTION]
            cell.metadata["mystnb"] = {"code_prompt_show": SHOW, "code_prompt_hide": HIDE}
        cells.append(cell)
    made.cells = cells
    return made


def _stub(cell: Any) -> Any:
    stub = copy.deepcopy(cell)
    stub.id = f"{cell.id}-stub"[-64:]
    stub.source = edition.cleared(cell.source)
    if cell.cell_type == "code":
        stub.outputs, stub.execution_count = [], None
    return stub


def write_downloads(source: Path, out: Path, copied: Iterable[tuple[str, str]]) -> None:
    """Write the learner's edition over each chapter that Sphinx has copied to be downloaded.

    Args:
        source: folder of the notebooks.
        out: folder of the downloads.
        copied: (name in `source`, name in `out`) of each file.
    """
    for name, copy_of_it in copied:
        if name.endswith(".ipynb") and not name.startswith(f"{notebooks.STUDIES}/"):
            text = notebooks.to_text(edition.learners(notebooks.read(source / name)))
            (out / copy_of_it).write_text(text, encoding="utf-8")


class _Open(HTMLParser):
    """The text of a page that is read without opening anything: not in <details>, unless they stand open."""

    def __init__(self, text: str):
        super().__init__()
        self.texts: list[str] = []
        self._closed: list[bool] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "details":
            self._closed.append("open" not in dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        if tag == "details" and self._closed:
            self._closed.pop()

    def handle_data(self, data: str) -> None:
        if not any(self._closed):
            self.texts.append(data)


def in_the_open(folder: Path, solutions: Iterable[str]) -> list[str]:
    """List the solutions that stand in the open below a folder, one line each: on pages and slides, in notebooks.

    Args:
        folder: of a built site, of slides, or of a learner.
        solutions: as `edition.regions` gives them.
    """
    sought = {_bare(solution): solution for solution in solutions if _bare(solution)}
    found = []
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".html", ".ipynb") and path.is_file():
            said = _bare(_seen(path))
            for bare, solution in sought.items():
                if bare in said:
                    first = solution.strip().splitlines()[0].strip()
                    found.append(f"{path.relative_to(folder)}: a solution stands in the open: {first}")
            found += [f"{path.relative_to(folder)}: a mark of a solution"] * ("###BEGINSOLUTION" in said)
    return found


def of_the_book() -> Iterator[str]:
    """Every solution of the book."""
    for chapter in notebooks.chapters():
        for cell in notebooks.read(chapter.path).cells:
            yield from edition.regions(cell.source)


def _seen(path: Path) -> str:
    if path.suffix == ".html":
        return "".join(_Open(path.read_text(encoding="utf-8")).texts)
    return "\n".join(
        cell.source
        + "".join(
            exercises.text(shown)
            for output in cell.get("outputs", [])
            for shown in (output.get("text"), output.get("traceback"), *output.get("data", {}).values())
        )
        for cell in notebooks.read(path).cells
    )


def _bare(text: str) -> str:
    return re.sub(r"\s+", "", text)
