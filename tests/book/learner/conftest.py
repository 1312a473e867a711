"""A made-up course of two chapters, one with studies, and what a learner does in a folder of it."""

import json

import pytest
from nbformat.v4 import new_output

from course_lib.book import notebooks
from tests.book.conftest import marks


def solution(word):
    return f"def {word}():\n    ### BEGIN SOLUTION\n    return 'the {word} answer'\n    ### END SOLUTION"


@pytest.fixture
def course(book, monkeypatch):
    """Chapters 00 and 01 with the exercises `one` and `two`, run, and a folder to begin in."""
    for name in ("00-first", "01-second"):
        book.add(name, "print('shown')", setup="import math")
        book.add_exercises(
            name, *((source, marks(f"{kind}{word}", kind == "check-")) for word in ("one", "two")
                    for kind, source in (("", solution(word)), ("check-", f"check({word})"))),
        )  # fmt: skip
        run(book.path(name))
    book.add("studies/01-second", "print('studies')")
    (book.root / "notebooks" / "glossary.md").write_text("# Glossary\n")
    (book.root / "home").mkdir()
    monkeypatch.chdir(book.root / "home")
    return book


def run(path):
    """Give a notebook the outputs of a right run."""
    notebook = notebooks.read(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for count, cell in enumerate(code, start=1):
        cell.execution_count = count
        if cell.metadata.get("nbgrader", {}).get("grade"):
            cell.outputs = [new_output("stream", name="stdout", text=f"Correct: {cell.source}.\n")]
    path.write_text(notebooks.to_text(notebook))


def change(path, word, source=None, *, count=None, outputs=None):
    """What a learner's JupyterLab saves of one cell, by its grade_id."""
    content = json.loads(path.read_text())
    for cell in content["cells"]:
        if cell.get("metadata", {}).get("nbgrader", {}).get("grade_id") == word:
            cell["source"] = cell["source"] if source is None else source
            cell["execution_count"] = count
            cell["outputs"] = outputs or []
    path.write_text(json.dumps(content))


RIGHT = [{"output_type": "stream", "name": "stdout", "text": ["Correct: well done.\n"]}]
WRONG = [{"output_type": "error", "ename": "NotYet", "evalue": "no", "traceback": []}]


def edit_course(book, name, source="print('a new cell')"):
    """A later version of a chapter."""
    notebook = notebooks.read(book.path(name))
    notebook.cells[3].source += f"\n{source}"
    book.path(name).write_text(notebooks.to_text(notebook))
