"""A chapter for learners: what nbgrader would make of it, made without nbgrader, and no solution anywhere."""

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course_lib.book import CourseError, notebooks
from course_lib.book.learner import edition
from tests.book.conftest import marks

pytestmark = pytest.mark.bad_input

SOURCE = "def two():\n    before = 1\n    ### BEGIN SOLUTION\n    return before + 1\n    ### END SOLUTION\n"
CHECK = (
    "assert two() == 2\n### BEGIN HIDDEN TESTS\nassert two() is two()\n### END HIDDEN TESTS\nprint('well')"
)


NBGRADERS_OWN = ("checksum", "cell_type")


def chapter():
    printed = new_output("stream", name="stdout", text="Correct: two.\n")
    return new_notebook(
        cells=[
            new_markdown_cell("# Two", id="title"),
            new_code_cell(
                "import math", metadata={"tags": ["exercise-setup"]}, id="setup", execution_count=1
            ),
            new_code_cell(SOURCE, metadata={"nbgrader": marks("two")}, id="two", execution_count=2),
            new_code_cell(
                CHECK,
                metadata={"nbgrader": marks("check-two", 1)},
                id="check",
                execution_count=3,
                outputs=[printed],
            ),
            new_code_cell("everything = 1", metadata={"nbgrader": marks("all")}, id="all", execution_count=4),
            new_code_cell("assert everything", metadata={"nbgrader": marks("check-all", 2)}, id="check-all"),
            new_code_cell("two()", id="use", execution_count=5, outputs=[printed]),
        ],
        metadata=notebooks.METADATA,
    )


def compared(notebook):
    """What a learner sees and cannot do; nbgrader also keeps a checksum."""
    return [
        (
            cell.cell_type,
            cell.id,
            cell.source,
            cell.get("outputs"),
            cell.get("execution_count"),
            {key: value for key, value in cell.metadata.items() if key != "nbgrader"},
            {key: value for key, value in cell.metadata.get("nbgrader", {}).items() if key not in NBGRADERS_OWN},
        )
        for cell in notebook.cells
    ]  # fmt: skip


def released(notebook, folder):
    from course_lib.book.classroom import handout

    path = folder / "released.ipynb"
    path.write_text(handout.hand_out("01-two", notebook).released)
    return notebooks.read(path)


@pytest.mark.parametrize("name", [None, "00-why-compress", "06-post-training-quantization"])
def test_learners_get_what_a_class_gets(tmp_path, name):
    notebook = chapter() if name is None else notebooks.read(notebooks.folder() / f"{name}.ipynb")
    assert compared(edition.learners(notebook)) == compared(released(notebook, tmp_path))


def test_stub_and_checks_stand_and_solution_outputs_and_hidden_tests_do_not():
    before = notebooks.to_text(chapter())
    notebook = chapter()
    made = edition.learners(notebook)
    assert notebooks.to_text(notebook) == before
    text = notebooks.to_text(made)
    for gone in ("before + 1", "SOLUTION", "HIDDEN", "two() is two()", "Correct"):
        assert gone not in text
    sources = {cell.id: cell.source for cell in made.cells}
    assert sources["two"] == (
        "def two():\n    before = 1\n    # YOUR CODE HERE\n    raise NotImplementedError()\n"
    )
    assert sources["all"] == "# YOUR CODE HERE\nraise NotImplementedError()"
    assert sources["check"] == "assert two() == 2\nprint('well')"
    assert notebooks.to_text(edition.learners(made)) == text  # of what was handed out nothing more is taken


def test_a_solution_that_is_not_marked_for_nbgrader_goes_too():
    made = edition.learners(new_notebook(cells=[new_code_cell(SOURCE)]))
    assert "before + 1" not in made.cells[0].source


@pytest.mark.parametrize("chapter", notebooks.chapters(), ids=lambda one: one.name)
def test_no_solution_of_the_book_is_left(chapter):
    notebook = notebooks.read(chapter.path)
    solutions = [region for cell in notebook.cells for region in edition.regions(cell.source)]
    assert len(solutions) >= 3
    text = "\n".join(cell.source for cell in edition.learners(notebook).cells)
    assert [region for region in solutions if region.strip() in text] == []
    assert text.count("# YOUR CODE HERE") == len(solutions)


@pytest.mark.parametrize(
    "source", ["### BEGIN SOLUTION\nx", "### BEGIN SOLUTION\n### BEGIN SOLUTION\n### END SOLUTION"]
)
def test_marks_that_do_not_fit_are_refused(source):
    with pytest.raises(CourseError, match="mend the marks"):
        edition.cleared(source)


def test_a_solution_is_shown_without_its_marks():
    assert edition.shown(SOURCE) == "def two():\n    before = 1\n    return before + 1"
    assert edition.regions(SOURCE) == ["    return before + 1"]
