"""What of a notebook runs to grade it: the teacher's set-up and checks, and what the learner wrote for them."""

import sys

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import course_lib.checks
from course_lib.book import exercises, notebooks
from tests.book.conftest import marks

pytestmark = pytest.mark.bad_input

IMPORTS = "from course_lib.checks import chapter00 as checks\nimport math"


def code(source, grading=None, **metadata):
    return new_code_cell(source, metadata={"nbgrader": grading, **metadata} if grading else metadata)


def chapter(one="def one(): ...", two="def two(): ..."):
    """A title, a set-up, a network that is trained for a minute, and two exercises."""
    return new_notebook(cells=[
        new_markdown_cell("# A chapter"),
        code("WIDTH = 2", tags=["parameters", exercises.SETUP]),
        code(IMPORTS, tags=[exercises.SETUP]),
        code("network = train()"),
        code(one, marks("one")),
        code("checks.check_one(one)", marks("check-one", 1)),
        code("plot(network)"),
        code(two, marks("two")),
        code("assert two()", marks("check-two", 2)),
    ])  # fmt: skip


def copy_of(released, *changes):
    """What a learner made of a notebook: each change is (position, what stands there now)."""
    submission = nbformat.from_dict(released.copy())
    submission.cells = list(released.cells)
    for position, *cells in sorted(changes, key=lambda change: -change[0]):
        submission.cells[position : position + 1] = cells
    return submission


def run(submission, released):
    """The sources that run, with the fresh import of the checks as `...`, and the notes."""
    prepared, notes = exercises.prepare(submission, released)
    return ["..." if "del sys.modules" in cell.source else cell.source for cell in prepared.cells], notes


def test_exercises_are_checks_with_the_cell_before_them():
    found = exercises.of(chapter())
    assert [(one.name, one.solution, one.points) for one in found] == [
        ("one", "one", 1.0),
        ("two", "two", 2.0),
    ]


RUNS = [
    "WIDTH = 2", IMPORTS, "def one(): return 1", "...", "checks.check_one(one)",
    "def two(): return 2", "...", "assert two()",
]  # fmt: skip
ANSWERS = [(4, code("def one(): return 1", marks("one"))), (7, code("def two(): return 2", marks("two")))]


def test_the_set_up_the_answers_and_the_checks_run_and_nothing_else():
    released = chapter()
    assert run(copy_of(released, *ANSWERS), released) == (RUNS, [])


def test_what_a_learner_changes_in_set_up_and_checks_does_not_run():
    released = chapter()
    changed = copy_of(
        released,
        *ANSWERS,
        (1, code("WIDTH = 3", tags=[exercises.SETUP])),
        (2, code("import hook")),
        (5, code("print('Correct')", marks("check-one", 100))),
    )
    assert run(changed, released) == (RUNS, [])
    changed = copy_of(released, *ANSWERS)
    changed.cells[2] = nbformat.from_dict({**released.cells[2], "source": "import hook"})
    del changed.cells[3]  # so that nothing stands between it and the first exercise
    assert run(changed, released) == (RUNS, [])


def test_where_a_check_runs_is_said_by_the_teacher_alone():
    released = chapter()
    released.cells[5].metadata["tags"] = [exercises.IN_PLACE]
    submission = copy_of(
        released, (8, code("assert two()", marks("check-two", 2), tags=[exercises.IN_PLACE]))
    )
    prepared, _ = exercises.prepare(submission, released)
    checks = [cell for cell in prepared.cells if cell.metadata.get("nbgrader", {}).get("grade")]
    assert [exercises.in_place(check) for check in checks] == [True, False]
    assert exercises.functions(released) == ["one", "two"]
    assert exercises.setup(released) == ["WIDTH = 2", IMPORTS]


def test_the_place_of_a_cell_in_the_submission_does_not_matter():
    released = chapter()
    submission = copy_of(released, *ANSWERS)
    submission.cells = [submission.cells[7], submission.cells[4]]
    assert run(submission, released) == (RUNS, [])


def test_before_each_check_its_module_is_imported_anew(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("course_lib.checks")]:
        monkeypatch.setitem(
            sys.modules, name, sys.modules[name]
        )  # the other tests have these, and get them back
    monkeypatch.setattr(course_lib, "checks", course_lib.checks)
    prepared, _ = exercises.prepare(chapter(), chapter())
    fresh = prepared.cells[3].source
    assert fresh.endswith("\nfrom course_lib.checks import chapter00 as checks")
    space = {}
    exec(IMPORTS, space)
    monkeypatch.setattr(space["checks"], "check_conv_parameters", print)
    exec(fresh, space)
    assert space["checks"].check_conv_parameters is not print


def test_a_cell_added_right_before_an_answer_or_a_check_runs_with_it_and_no_other():
    released = chapter()
    submission = copy_of(
        released,
        (3, code("far = 1"), released.cells[3], new_markdown_cell("my way"), code("near = 1"), code(" ")),
        (5, code("later = 1"), released.cells[5]),
        (8, released.cells[8], code("end = 1")),
    )
    prepared, _ = exercises.prepare(submission, released)
    added = [
        (cell.source, cell.metadata[exercises.BESIDE], prepared.cells[place + 1].source[:10])
        for place, cell in enumerate(prepared.cells)
        if exercises.BESIDE in cell.metadata
    ]
    assert added == [("near = 1", "one", "def one():"), ("later = 1", "check-one", "import sys")]


def test_of_two_cells_with_one_mark_the_last_counts_and_missing_ones_are_said():
    released = chapter()
    cells = [code("def one(): return 0", marks("one")), code("def one(): return 1", marks("one"))]
    sources, notes = run(new_notebook(cells=cells), released)
    assert sources == [*RUNS[:5], "...", "assert two()"]
    assert notes == ["the cells of these exercises are missing or renamed: two"]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "id": anything,
                "cell_type": anything | st.just("code"),
                "source": anything | st.just("def one(): pass"),
                "metadata": anything | st.fixed_dictionaries({"nbgrader": anything | st.just(marks("one"))}),
            },
        ),
        max_size=5,
    )
)
def test_whatever_a_submission_holds_every_check_is_in_what_is_graded_and_it_is_a_notebook(cells):
    submission = nbformat.from_dict({"cells": cells})
    prepared, _ = exercises.prepare(submission, chapter())
    nbformat.validate(nbformat.reads(notebooks.to_text(prepared), as_version=4))
    found = [cell.metadata.get("nbgrader", {}).get("grade_id") for cell in prepared.cells]
    assert found.count("check-one") == found.count("check-two") == 1
    assert {cell.cell_type for cell in prepared.cells} == {"code"}
