"""`course progress` and `course solution` in a learner's folder: what the saved notebooks say."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_markdown_cell

from course_lib.book import notebooks
from course_lib.book.learner import exercise, folder, progress
from course_lib.checks import attempts
from tests.book.learner.conftest import RIGHT, WRONG, change

pytestmark = pytest.mark.bad_input
MINE = Path("my-course/00-first.ipynb")


@pytest.fixture
def begun(course):
    assert course.course("learn", "--no-open").status == 0
    return course


def standings(name="00-first"):
    (line,) = (line for line in progress.examine(Path("my-course"))[0] if line.chapter == name)
    return [*line.standings.values()]


@pytest.mark.parametrize(
    ("answer", "check", "standing"),
    [
        ({}, {}, "not begun"),
        ({}, {"count": 3, "outputs": WRONG}, "not begun"),
        ({"source": "def one():\n\n    raise NotImplementedError()", "count": 1}, {}, "not begun"),
        ({"source": "mine", "count": 1}, {}, "not checked"),
        ({"source": "mine"}, {"count": 3, "outputs": WRONG}, "not yet"),
        ({"source": "mine", "count": 2}, {"count": 3, "outputs": RIGHT}, "passes"),
        ({"source": ["mine\n", "too"]}, {"count": 3, "outputs": RIGHT}, "passes"),
        ({"source": "mine", "count": 4}, {"count": 3, "outputs": RIGHT}, "not checked"),  # changed since
        ({"source": "mine", "count": 2}, {"count": 3, "outputs": RIGHT + WRONG}, "not yet"),
    ],
)
def test_an_exercise_stands_as_its_saved_outputs_say(begun, answer, check, standing):
    change(MINE, "one", **answer)
    change(MINE, "check-one", **check)
    assert standings() == [standing, "not begun"]


def test_a_table_a_sum_the_minutes_left_and_what_is_next(begun):
    notebook = notebooks.read(begun.path("00-first"))
    notebook.cells[0].source += "\n" + "word " * 3000
    notebook.cells.append(new_markdown_cell("word " * 2000, id="end"))
    begun.path("00-first").write_text(notebooks.to_text(notebook))
    assert begun.course("learn", "--no-open").status == 0
    told = begun.course("progress").out
    assert re.search(r"│ 00-first  │ +│ 0 of 2 │ 0 of 2 │ 25 ", told)
    assert "Next: exercise 1 (one) of 00-first.ipynb" in told
    change(MINE, "one", "mine", count=1)
    change(MINE, "check-one", count=2, outputs=RIGHT)
    change(MINE, "two", "mine, too", count=3)
    change(MINE, "check-two", count=4, outputs=WRONG)
    told = begun.course("progress").out
    assert "1 one: passes" in told
    assert "2 two: not yet" in told
    assert "│ 2 of 2 │ 1 of 2 │ 10 " in told  # what stands behind the last cell that was run
    assert re.search(r"│ in all    │ +│ 2 of 4 │ 1 of 4 │ 10 ", told)
    assert "Next: exercise 2 (two) of 00-first.ipynb" in told


def test_when_all_passes_what_is_next_is_a_chapter_that_is_not_there_or_nothing(course):
    course.course("learn", "--no-open", "00")
    for word in ("one", "two"):
        change(MINE, word, "mine", count=1)
        change(MINE, f"check-{word}", count=2, outputs=RIGHT)
    assert "Every exercise here passes. Next: course learn 01" in course.course("progress").out
    assert progress.next_step(progress.examine(Path("my-course"))[0], []).startswith("Every exercise passes")


def test_what_passes_in_the_version_beside_passes(begun):
    change(MINE, "one", "mine", count=1)
    change(MINE, "check-one", count=2, outputs=WRONG)
    beside = MINE.with_name("00-first.new.ipynb")
    beside.write_bytes(MINE.read_bytes())
    change(beside, "check-one", count=2, outputs=RIGHT)
    assert standings()[0] == "passes"


def test_nothing_is_written_by_looking(begun):
    before = {path: path.read_bytes() for path in begun.root.rglob("*") if path.is_file()}
    begun.course("progress")
    begun.course("solution", "00", "1", "--anyway")
    assert {path: path.read_bytes() for path in begun.root.rglob("*") if path.is_file()} == before


def test_without_a_folder_the_record_of_the_course_is_shown(course):
    assert "Make a folder to work in: course learn" in course.course("progress").out
    ended = course.course("progress", "--folder", "nowhere")
    assert ended.status == 2
    assert "Make it: course learn --folder" in ended.err


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
CELL = ANYTHING | st.fixed_dictionaries(
    {
        "metadata": st.just({"nbgrader": {"grade_id": "check-one"}})
        | st.just({"nbgrader": {"grade_id": "one"}})
    },
    optional={
        "source": ANYTHING,
        "outputs": ANYTHING
        | st.lists(st.fixed_dictionaries({"output_type": st.just("stream"), "text": ANYTHING})),
        "execution_count": ANYTHING,
        "id": ANYTHING,
    },
)
ONE = exercise.Exercise(1, "one", "one", "### BEGIN SOLUTION\n### END SOLUTION", ("check-one",), "")


@given(st.lists(CELL, max_size=4) | ANYTHING, st.sampled_from([4, 3, None]))
def test_a_notebook_may_hold_anything(tmp_path_factory, cells, version):
    path = tmp_path_factory.getbasetemp() / "anything.ipynb"
    path.write_text(json.dumps({"cells": cells, "nbformat": version}))
    read = exercise.read(path)
    assert (read is None) == (not isinstance(cells, list) or version != 4)
    assert exercise.standing(ONE, [read] if read else []) in ("not begun", "not checked", "not yet", "passes")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 10**5, b'{"cells": 1, "nbformat": 4}'])
def test_a_file_that_is_no_notebook_is_said_and_costs_itself_alone(begun, content):
    MINE.write_bytes(content)
    told = begun.course("progress")
    assert (told.status, told.err) == (0, "")
    assert "00-first.ipynb is no notebook that can be read" in told.out
    assert "01-second" in told.out
    ended = begun.course("solution", "00", "1")
    assert ended.status == 2
    assert "is no notebook that can be read" in ended.err


# One solution


def test_a_solution_is_shown_after_a_try(begun):
    ended = begun.course("solution", "00", "2")
    assert (ended.status, ended.out) == (2, "")
    assert "exercise 2 (two) is still as it was given. Try it first" in ended.err
    assert "course solution 00 2 --anyway" in ended.err
    change(MINE, "two", "def two():\n    return 'a try'")
    ended = begun.course("solution", "first", "two")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out == (
        "One solution of exercise 2 (two) of 00-first:\n\ndef two():\n    return 'the two answer'\n\n"
        "Its check says: check(two).\n"
    )
    assert begun.course("solution", "00", "1").status == 2


def test_anyway_needs_no_folder(course):
    ended = course.course("solution", "00", "1")
    assert "there is no try of yours. Begin: course learn 00" in ended.err
    assert "the one answer" in course.course("solution", "00", "1", "--anyway").out


@pytest.mark.parametrize("word", ["0", "3", "-1", "", "check-one", "²", "9" * 5000, "tow"])
def test_an_exercise_that_is_not_there_is_answered_with_those_that_are(begun, word):
    ended = begun.course("solution", "--anyway", "--", "00", word)
    assert ended.status == 2
    assert "It has: 1 one, 2 two" in ended.err


def test_an_unknown_chapter_is_answered(begun):
    assert "unknown chapter '99'" in begun.course("solution", "99", "1").err


def test_a_copy_without_solutions_says_so(begun, monkeypatch):
    for name in ("00-first", "01-second"):
        begun.path(name).write_bytes(Path(f"my-course/{name}.ipynb").read_bytes())
    ended = begun.course("solution", "00", "1", "--anyway")
    assert ended.status == 2
    assert "handed out without solutions" in ended.err


def test_the_numbers_are_those_of_the_chapters_text_and_every_solution_has_its_why():
    for chapter in notebooks.chapters():
        notebook = notebooks.read(chapter.path)
        text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        known = exercise.of(notebook)
        assert [one.number for one in known] == [*range(1, len(known) + 1)]
        assert all(one.said.endswith(".") for one in known)
        numbered = [number for number in range(1, 9) if f"**Exercise {number}" in text]
        assert numbered == [*range(1, len(numbered) + 1)]
        assert len(numbered) in (len(known), len(known) - 1)  # a build stands last, with a name of its own


def test_the_real_chapters_begin_with_nothing_done_and_all_to_read(tmp_path):
    folder.give(tmp_path / "mine", ["00", "06"])
    lines, missing = progress.examine(tmp_path / "mine")
    assert [line.chapter[:2] for line in lines] == ["00", "06"]
    assert "01" in missing
    for line in lines:
        whole = notebooks.read(notebooks.folder() / f"{line.chapter}.ipynb")
        assert (line.tried, line.passed, line.minutes) == (0, 0, notebooks.reading_minutes(whole))


def test_a_check_in_a_kernel_records_for_hints_and_progress_reads_the_notebook_alone(begun, monkeypatch):
    monkeypatch.setattr(attempts, "_in_a_notebook", lambda: True)
    attempts.add("00", "one", passed=True)
    assert standings() == ["not begun", "not begun"]
