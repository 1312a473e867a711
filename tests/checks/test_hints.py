"""A check says more each time that its exercise fails in a row."""

import importlib
import inspect
import re
from pathlib import Path

import nbformat
import pytest

from course_lib.checks import NotWritten, NotYet, attempts, chapter00, exercise, expect
from tests.checks import solutions

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
CHAPTERS = sorted(path for path in FOLDER.glob("*.ipynb") if "SOLUTION" in path.read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def _nothing_tried(monkeypatch):
    monkeypatch.setattr(attempts, "_here", {})


@exercise(again="Add one.", read="The method")
def check_more(answer):
    if answer is None:
        raise NotWritten("not written")
    expect(answer == 1, f"{answer} is too small.")


def hint_for(answer):
    with pytest.raises(NotYet) as caught:
        check_more(answer)
    return str(caught.value)


def test_the_hint_then_a_stronger_one_then_where_to_read():
    assert hint_for(0) == "0 is too small."
    assert hint_for(-1) == "-1 is too small.\nOnce more: Add one."
    assert hint_for(0) == '0 is too small.\nOnce more: Add one.\nRead "The method" again.'
    assert hint_for(0) == '0 is too small.\nOnce more: Add one.\nRead "The method" again.'
    check_more(1)
    assert hint_for(0) == "0 is too small."


def test_an_answer_that_is_not_written_is_no_failure():
    assert [hint_for(None) for _ in range(3)] == ["not written"] * 3
    assert hint_for(0) == "0 is too small."


def test_each_exercise_is_counted_alone():
    @exercise(again="Other.", read="Recap")
    def check_other(answer):
        expect(answer, "No.")

    assert hint_for(0) == "0 is too small."
    with pytest.raises(NotYet, match=r"^No\.$"):
        check_other(False)


def test_a_mistake_in_the_check_itself_is_not_hidden_and_not_counted():
    @exercise(again="Other.", read="Recap")
    def check_broken(answer):
        raise KeyError(answer)

    with pytest.raises(KeyError):
        check_broken(1)
    assert attempts._here == {}


def test_a_right_answer_prints_the_same_however_often_it_failed(capsys):
    right = solutions.of("00")["conv-parameters"]
    chapter00.check_conv_parameters(right)
    first = capsys.readouterr().out
    for _ in range(3):
        with pytest.raises(NotYet):
            chapter00.check_conv_parameters(lambda **sizes: 0)
    chapter00.check_conv_parameters(right)
    assert capsys.readouterr().out == first
    assert first.startswith("Correct: ")


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_check_belongs_to_an_exercise_of_its_chapter_and_names_a_heading_there(path):
    module = importlib.import_module(f"course_lib.checks.chapter{path.stem[:2]}")
    checks = {name: check for name, check in inspect.getmembers(module) if name.startswith("check_")}
    notebook = nbformat.read(path, as_version=4)
    headings = re.findall(
        r"^##+ (.+)$", "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown"), re.MULTILINE
    )
    graded = {
        cell.metadata.nbgrader.grade_id: cell.source
        for cell in notebook.cells
        if cell.metadata.get("nbgrader", {}).get("grade")
    }
    assert {name.replace("_", "-") for name in checks} == set(graded)
    for name, check in checks.items():
        assert check.read in headings, f"{name} names the heading {check.read!r}"
        assert f"{name}(" in graded[name.replace("_", "-")]
