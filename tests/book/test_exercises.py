"""What of a notebook runs to grade it: the cells on which the checks depend, and no others."""

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from course_lib.book import exercises, notebooks
from tests.book.conftest import marks

pytestmark = pytest.mark.bad_input


def notebook_of(*cells):
    """A notebook; a cell is a source, or (source, marks)."""
    pairs = [cell if isinstance(cell, tuple) else (cell, None) for cell in cells]
    return new_notebook(
        cells=[new_code_cell(source, metadata={"nbgrader": m} if m else {}) for source, m in pairs]
    )


def graded(*sources):
    """The sources that stay when the last of them is a check."""
    notebook = notebook_of(
        *sources[:-1], ("def answer(): ...", marks("answer")), (sources[-1], marks("check", 1))
    )
    prepared, notes = exercises.prepare(notebook, notebook, notebook)
    assert not notes
    kept = [cell.source for cell in prepared.cells]
    return [source for source in sources if source in kept]


@pytest.mark.parametrize(
    ("before", "check", "stays"),
    [
        (["a = 1", "b = 2"], "assert a", ["a = 1"]),
        (["a = 1", "b = a", "c = 3"], "assert b", ["a = 1", "b = a"]),
        (["def f(x):\n    return x", "x = 1"], "assert f(2)", ["def f(x):\n    return x"]),
        (["k = 2", "def f(x):\n    return k * x"], "assert f(2)", ["k = 2", "def f(x):\n    return k * x"]),
        (["x = [1]", "y = 1"], "assert [x for y in [1]]", ["x = [1]"]),
        (["a = {}", "a['b'] = 1", "c = a"], "assert a", ["a = {}", "a['b'] = 1"]),
        (["a = []", "a.append(1)"], "assert a", ["a = []", "a.append(1)"]),
        (["import math", "math.floor(1.5)", "a = 1"], "assert math", ["import math"]),
        (["from math import *", "a = 1"], "assert 1", ["from math import *"]),
        (["%matplotlib inline", "a = 1"], "assert 1", ["%matplotlib inline"]),
        (["%%time\na = 1", "b = 1"], "assert 1", ["%%time\na = 1"]),
        (["a = = 1", "b = 1"], "assert 1", ["a = = 1"]),
        (["a = 1", "b = 1"], "a = 2\nassert a", []),
        (["a = 1", "b = 1"], "assert a\na = 2", ["a = 1"]),
        (["a = 1", "b = 1"], "a += 2", ["a = 1"]),
        (["import os.path as p", "from math import pi as q", "import json"], "assert p, q",
         ["import os.path as p", "from math import pi as q"]),
        (["class A:\n    b = c", "c = 1"], "assert A", ["class A:\n    b = c", "c = 1"]),
        (["def f():\n    global g\n    g = 1", "f()"], "assert g", ["def f():\n    global g\n    g = 1"]),
        (["if True:\n    a = 1", "for b in [1]:\n    pass", "with open('x') as d:\n    pass"], "assert a, b",
         ["if True:\n    a = 1", "for b in [1]:\n    pass"]),
    ],
)  # fmt: skip
def test_a_cell_stays_if_something_depends_on_it(before, check, stays):
    assert graded(*before, check) == [*stays, check]


@st.composite
def programs(draw):
    """Cells that assign, define and change names at random, and one name to ask for in the end."""
    names = st.sampled_from("abcdef")
    forms = [
        "{0} = [{1}]",
        "{0} = lambda {2}: [{1}, {2}]",
        "def {0}({2}={1}):\n    return [{2}, {1}]",
        "{0} = [1]\n{0}.append({1})",
        "{0} = {{1: {1}}}\n{0}[2] = {2}",
        "{0} = [{2} for {2} in [{1}]]",
        "for {0} in [{1}]:\n    pass",
    ]
    cells = draw(st.lists(st.tuples(st.sampled_from(forms), names, names, names), max_size=12))
    return [form.format(*chosen) for form, *chosen in cells], draw(names)


def value_after(sources, name):
    space = dict.fromkeys("abcdef", 0)
    for source in sources:
        exec(source, space)
    value = space[name]
    return repr(value() if callable(value) and value.__name__ != "<lambda>" else value).split(" at ")[0]


@given(programs())
def test_what_stays_gives_the_same_value_as_everything(program):
    sources, name = program
    check = f"{name}"
    notebook = notebook_of(*sources, (check, marks("check", 1)))
    prepared, _ = exercises.prepare(notebook, notebook, notebook)
    kept = [cell.source for cell in prepared.cells if "nbgrader" not in cell.metadata]
    try:
        expected = value_after(sources, name)
    except RecursionError:
        return
    assert value_after(kept, name) == expected


def chapter():
    return notebook_of(
        "from course_lib.checks import chapter00 as checks\nimport math",
        ("def one(): ...", marks("one")),
        ("checks.check_one(one)", marks("check-one", 1)),
        ("def two(): ...", marks("two")),
        ("assert two()", marks("check-two", 2)),
    )


def test_exercises_are_checks_with_the_cell_before_them():
    found = exercises.of(chapter())
    assert [(one.name, one.solution, one.points) for one in found] == [
        ("one", "one", 1.0),
        ("two", "two", 2.0),
    ]


def test_checks_stand_behind_the_learners_cells_and_import_their_modules_anew():
    submission = chapter()
    submission.cells = [submission.cells[3], submission.cells[1]]
    prepared, notes = exercises.prepare(submission, chapter(), chapter())
    sources = [cell.source for cell in prepared.cells]
    assert [sources[0], sources[1], sources[2], sources[4]] == [
        "def two(): ...", "assert two()", "def one(): ...", "checks.check_one(one)",
    ]  # fmt: skip
    assert sources[3].endswith("from course_lib.checks import chapter00 as checks")
    assert "del sys.modules" in sources[3]
    assert not notes


def test_of_two_cells_with_one_mark_the_last_counts_and_missing_ones_are_said():
    submission = notebook_of(("def one(): return 1", marks("one")), ("def one(): return 2", marks("one")))
    prepared, notes = exercises.prepare(submission, chapter(), chapter())
    marked = {
        cell.metadata.nbgrader.grade_id: cell.source for cell in prepared.cells if "nbgrader" in cell.metadata
    }
    assert marked == {
        "one": "def one(): return 2", "check-one": "checks.check_one(one)", "check-two": "assert two()",
    }  # fmt: skip
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
                "cell_type": anything,
                "source": anything | st.just("def one(): pass"),
                "metadata": anything | st.fixed_dictionaries({"nbgrader": anything | st.just(marks("one"))}),
            },
        ),
        max_size=5,
    )
)
def test_whatever_a_submission_holds_every_check_is_in_what_is_graded_and_it_is_a_notebook(cells):
    submission = nbformat.from_dict({"cells": cells})
    prepared, _ = exercises.prepare(submission, chapter(), chapter())
    nbformat.validate(nbformat.reads(notebooks.to_text(prepared), as_version=4))
    found = [cell.metadata.get("nbgrader", {}).get("grade_id") for cell in prepared.cells]
    assert found.count("check-one") == found.count("check-two") == 1


def test_markdown_is_left_out():
    submission = chapter()
    submission.cells.insert(0, new_markdown_cell("# one"))
    prepared, _ = exercises.prepare(submission, chapter(), chapter())
    assert {cell.cell_type for cell in prepared.cells} == {"code"}
