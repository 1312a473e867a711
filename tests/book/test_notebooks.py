"""Notebooks as data, without a kernel."""

import copy
import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course_lib.book import CourseError, notebooks

pytestmark = pytest.mark.bad_input


@pytest.fixture
def chapters(book):
    for name in ("00-why-compress", "01-knowledge-distillation", "02-know-your-costs", "10-hashing"):
        book.add(name)
    return notebooks.chapters()


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("1", "01-knowledge-distillation"),
        ("01", "01-knowledge-distillation"),
        ("10", "10-hashing"),
        ("0", "00-why-compress"),
        ("0" * 5000 + "1", "01-knowledge-distillation"),
        ("00-why-compress", "00-why-compress"),
        ("notebooks/00-why-compress.ipynb", "00-why-compress"),
        ("01-k", "01-knowledge-distillation"),
        ("distil", "01-knowledge-distillation"),
        ("Hashing", "10-hashing"),
    ],
)
def test_a_chapter_answers_to_number_stem_file_and_beginning_of_a_word(chapters, word, name):
    assert [chapter.name for chapter in notebooks.select([word], chapters)] == [name]


@pytest.mark.parametrize(
    ("words", "lines", "pictures", "tables", "minutes"),
    [
        (0, 0, 0, 0, 0),
        (20_000, 0, 0, 0, 100),
        (0, 4000, 0, 0, 100),
        (0, 0, 80, 120, 100),
        (1000, 200, 5, 5, 15),
    ],
)
def test_reading_takes_time_for_words_lines_pictures_and_tables(words, lines, pictures, tables, minutes):
    outputs = [new_output("display_data", {"image/png": "aGk=", "text/plain": "f"})] * pictures
    outputs += [new_output("execute_result", {"text/html": "<table>", "text/plain": "t"})] * tables
    outputs += [new_output("stream", name="stdout", text="not counted")]
    cells = [new_markdown_cell("word, " * words), new_code_cell("x = 1\n\n" * lines, outputs=outputs)]
    assert notebooks.reading_minutes(new_notebook(cells=cells)) == minutes


def test_no_word_means_the_whole_book_and_the_order_is_the_books(chapters):
    assert len(notebooks.select([], chapters)) == 4
    assert [c.number for c in notebooks.select(["10", "0", "hashing"], chapters)] == ["00", "10"]


def test_studies_follow_their_chapter_and_answer_to_their_folder_alone(book, chapters):
    path = book.add("studies/01-knowledge-distillation")
    whole = notebooks.book()
    numbers = ["00", "01", "studies/01", "02", "10"]
    assert [chapter.number for chapter in whole] == numbers
    assert [chapter.number for chapter in notebooks.select([], whole)] == numbers
    assert [chapter.number for chapter in notebooks.chapters()] == ["00", "01", "02", "10"]
    for word in ("1", "01", "distil", "01-knowledge-distillation"):
        assert [c.number for c in notebooks.select([word], whole)] == ["01"]
        assert [c.number for c in notebooks.select([f"studies/{word}"], whole)] == ["studies/01"]
    (studies,) = notebooks.select([str(path)], whole)
    assert (studies.name, studies.path) == ("studies/01-knowledge-distillation", path)
    with pytest.raises(CourseError, match=r"unknown chapter 'studies/2'.* studies/01-knowledge-distillation"):
        notebooks.select(["studies/2"], whole)


def test_studies_of_no_chapter_are_refused(book, chapters):
    book.add("studies/01-distillation")
    with pytest.raises(
        CourseError, match=r"01-distillation\.ipynb has the name of no chapter; name it as one: 00-"
    ):
        notebooks.book()


def test_an_ambiguous_word_names_the_candidates(chapters):
    with pytest.raises(
        CourseError, match=r"'know' names 2 chapters: 01-knowledge-distillation, 02-know-your-costs"
    ):
        notebooks.select(["know"], chapters)


@pytest.mark.parametrize("word", ["3", "nowledge", ""])
def test_an_unknown_word_names_the_chapters(chapters, word):
    with pytest.raises(CourseError, match=r"unknown chapter .*00-why-compress"):
        notebooks.select([word], chapters)


def test_a_misspelt_name_is_answered_with_the_nearest(chapters):
    with pytest.raises(CourseError, match=r"Did you mean '01-knowledge-distillation'"):
        notebooks.select(["01-knowlege-destillation"], chapters)


def test_no_notebooks_is_an_error_with_the_remedy(book):
    with pytest.raises(CourseError, match=r"no notebooks in .*git checkout -- notebooks"):
        notebooks.chapters()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[]", "no list of cells"),
        ('{"nbformat": 3, "worksheets": []}', "no list of cells"),
        ('{"nbformat": 3, "metadata": {}, "cells": []}', "it has format 3; format 4 is read"),
        ('{"nbformat": 4, "cells": [{}]}', "source"),
    ],
)
def test_a_file_that_is_no_notebook_is_named(book, text, reason):
    book.path("00-torn").write_text(text)
    with pytest.raises(CourseError, match=rf"00-torn\.ipynb is not a readable notebook: .*{reason}"):
        notebooks.chapters()


def test_parameters_are_the_literals_of_the_tagged_cell(book):
    path = book.add("00-a", "other = 5", parameters="a = 1\nb: float = -1e-3\nc = d = [1, 'x']\n# e = 3")
    assert notebooks.parameters(notebooks.read(path)) == {"a": 1, "b": -1e-3, "c": [1, "x"], "d": [1, "x"]}


@pytest.mark.parametrize("source", ["a = 2 * b", "import torch", "a.b = 1", "a, b = 1, 2", "a = = 2"])
def test_a_parameters_cell_with_anything_else_is_refused_by_chapter(book, source):
    book.add("00-a", parameters=source)
    with pytest.raises(CourseError, match=r"00-a\.ipynb"):
        notebooks.chapters()


def test_two_parameters_cells_are_refused(book):
    path = book.add("00-a", "b = 1")
    notebook = notebooks.read(path)
    notebook.cells[2].metadata["tags"] = ["parameters"]
    with pytest.raises(CourseError, match="2 cells are tagged"):
        notebooks.parameters(notebook)


def test_the_digest_sees_sources_and_tags_and_is_blind_to_outputs(book):
    notebook = notebooks.read(book.add("00-a", "print(1)"))
    before = notebooks.source_sha256(notebook)
    run = copy.deepcopy(notebook)
    run.cells[2].outputs = [new_output("stream", name="stdout", text="1\n")]
    run.cells[2].execution_count = 7
    assert notebooks.source_sha256(run) == before
    for change in ({"source": "print(2)"}, {"metadata": {"tags": ["nbval-check-output"]}}):
        changed = copy.deepcopy(notebook)
        changed.cells[2].update(nbformat.from_dict(change))
        assert notebooks.source_sha256(changed) != before


def test_key_figures_of_all_reports_are_gathered_and_the_quiet_ones_are_for_prose_alone():
    def reporting(values, **shown):
        data = {notebooks.FIGURES_MIME: values, **shown}
        return new_code_cell("", outputs=[new_output("display_data", data)])

    printing = new_code_cell("", outputs=[new_output("stream", text="x")])
    size = {"value": 4.186, "form": ".2f", "unit": "MB", "shown": "4.19 MB"}
    reports = [reporting({"a": "1", "b": "2"}, **{"text/plain": ""}), printing]
    reports += [reporting({"b": size}, **{"text/plain": ""}), reporting({"c": "5"})]
    notebook = new_notebook(cells=reports)
    assert notebooks.key_figures(notebook) == {"a": "1", "b": size}
    assert notebooks.shown_figures(notebook) == {"a": "1", "b": "4.19 MB", "c": "5"}


@pytest.fixture
def untidy(book):
    """A notebook as a run in JupyterLab leaves it: times, versions, stderr, widgets, split prints, no ids."""
    notebook = json.loads(book.add("00-a", "print(1)", "pass").read_text())
    notebook["metadata"] |= {
        "language_info": {"name": "python", "version": "3.11.7", "codemirror_mode": {"name": "ipython"}},
        "papermill": {"duration": 3.2},
        "widgets": {"application/vnd.jupyter.widget-state+json": {"state": {}}},
    }
    grading = {"grade_id": "a", "solution": True}
    notebook["cells"][2]["metadata"] = {
        "tags": ["nbval-check-output"],
        "nbgrader": grading,
        "execution": {"iopub.execute_input": "2026-01-01"},
        "papermill": {"duration": 1},
        "collapsed": False,
    }
    notebook["cells"][2]["outputs"] = [
        {"output_type": "stream", "name": "stdout", "text": ["1\n", "2\n"]},
        {"output_type": "stream", "name": "stderr", "text": "100%|####|"},
        {"output_type": "stream", "name": "stdout", "text": "3\n"},
        {
            "output_type": "display_data",
            "data": {notebooks.WIDGET_MIME: {"model_id": "1f"}, "text/plain": "IntSlider()"},
            "metadata": {},
        },
        {
            "output_type": "display_data",
            "data": {"image/png": "iVBORw0KGgo=", "text/plain": "<Figure>"},
            "metadata": {"image/png": {"alt": "a curve that falls"}},
        },
        {"output_type": "stream", "name": "stdout", "text": "4\n"},
    ]
    for number, cell in enumerate(cell for cell in notebook["cells"] if cell["cell_type"] == "code"):
        cell["execution_count"] = number + 1
    del notebook["cells"][3]["id"]
    book.path("00-a").write_text(json.dumps(notebook))
    return book.path("00-a")


def test_normalising_drops_what_changes_from_run_to_run_and_keeps_the_rest(untidy):
    before = notebooks.read(untidy)
    normal = notebooks.normalise(before)
    assert normal.metadata == notebooks.METADATA
    assert [cell.source for cell in normal.cells] == [cell.source for cell in before.cells]
    assert [cell.id for cell in normal.cells] == ["title", "parameters", "code-0", "cell-03"]
    assert [cell.get("execution_count") for cell in normal.cells] == [None, 1, 2, 3]
    cell = normal.cells[2]
    assert cell.metadata == {"tags": ["nbval-check-output"], "nbgrader": {"grade_id": "a", "solution": True}}
    assert [output.output_type for output in cell.outputs] == ["stream", "display_data", "stream"]
    assert cell.outputs[0].text == "1\n2\n3\n"
    assert cell.outputs[1].metadata == {"image/png": {"alt": "a curve that falls"}}
    assert cell.outputs[2].text == "4\n"
    nbformat.validate(normal)


def test_the_tag_alone_decides_whether_code_is_folded(untidy):
    notebook = notebooks.read(untidy)
    folded, open_ = notebook.cells[1], notebook.cells[2]
    folded.metadata = nbformat.from_dict({"tags": ["hide-input"], "jupyter": {"outputs_hidden": False}})
    open_.metadata = nbformat.from_dict({"jupyter": {"source_hidden": True}})
    normal = notebooks.normalise(notebook)
    wanted = {"tags": ["hide-input"], "jupyter": {"outputs_hidden": False, "source_hidden": True}}
    assert normal.cells[1].metadata == wanted
    assert normal.cells[2].metadata == {}
    assert notebooks.normalise(normal) == normal
    del normal.cells[1].metadata["jupyter"]
    untidy.write_text(notebooks.to_text(normal))
    assert notebooks.faults(untidy) == ["cell 1: metadata to mend"]


def test_normalising_leaves_its_argument_alone_and_twice_is_once(untidy):
    before = notebooks.read(untidy)
    kept = copy.deepcopy(before)
    once = notebooks.normalise(before)
    assert before == kept
    assert notebooks.to_text(notebooks.normalise(once)) == notebooks.to_text(once)


def test_faults_names_each_and_a_normalised_file_has_none(untidy):
    found = "\n".join(notebooks.faults(untidy))
    for part in (
        "notebook metadata",
        "cell 2: metadata to drop: collapsed, execution, papermill",
        "cell 2: stderr",
    ):
        assert part in found
    untidy.write_text(notebooks.to_text(notebooks.normalise(notebooks.read(untidy))))
    assert notebooks.faults(untidy) == []


@pytest.mark.parametrize("counts", [[1, 2, None], [1, 3, 2], [2, 3, 4], [None, None, None]])
def test_faults_sees_counts_that_no_run_from_top_to_bottom_gives(untidy, counts):
    notebook = notebooks.normalise(notebooks.read(untidy))
    for cell, count in zip(notebook.cells[1:], counts, strict=True):
        cell.execution_count = count
    untidy.write_text(notebooks.to_text(notebook))
    assert notebooks.faults(untidy) == ["execution counts are not 1, 2, 3, ... from top to bottom"]


def test_faults_sees_a_file_laid_out_otherwise(untidy):
    notebook = notebooks.normalise(notebooks.read(untidy))
    untidy.write_text(json.dumps(json.loads(notebooks.to_text(notebook)), indent=2))
    assert notebooks.faults(untidy) == [
        "the file is laid out differently (indentation, order of keys, missing ids)"
    ]
