"""`course slides`: what stands on a slide, what the speaker sees, and what is left out."""

import re

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

from course_lib import files
from course_lib.book import CourseError, notebooks
from course_lib.book.learner import edition
from course_lib.book.site import learners, offline, slides

LINES = st.lists(
    st.sampled_from(["word", "- item", "", "## Head", "$$x$$", "| a |", "```", "<details>", "</details>"])
)


def printed(text="seen\n"):
    return new_output("stream", name="stdout", text=text)


def shown(**data):
    return new_output("display_data", data=data)


def made(*cells):
    return slides.to_slides(nbformat.v4.new_notebook(cells=[new_markdown_cell("# Title"), *cells])).cells[1:]


def kinds(cells):
    return [(cell.metadata.slideshow.slide_type, cell.source) for cell in cells]


@given(LINES)
def test_no_line_of_a_text_is_lost_or_moved(lines):
    taken_apart = [line for block in slides.blocks("\n".join(lines)) for line in block.split("\n")]
    assert [line for line in taken_apart if line.strip()] == [line for line in lines if line.strip()]


def test_empty_lines_inside_code_and_folded_answers_do_not_part_them():
    code, folded = "```\na\n\n## b\n```", "<details><summary>Why?</summary>\n\nSo.\n</details>"
    assert slides.blocks(f"first\n\n{code}\n\n{folded}\nlast") == ["first", code, f"{folded}\nlast"]


def test_headings_begin_slides_and_plain_prose_goes_to_the_speaker():
    top = "## Top\nFirst.\n\nSecond.\n\n- item\n\n$$x$$\n\nThird."
    source = top + "\n\n### Below\n\n**Word.** Stays.\n\nFourth.\n\nFifth."
    assert kinds(made(new_markdown_cell(source))) == [
        ("slide", "## Top\n\nFirst.\n\n- item\n\n$$x$$"),
        ("notes", "Second.\n\nThird."),
        ("subslide", "### Below\n\n**Word.** Stays.\n\nFourth."),
        ("notes", "Fifth."),
    ]


def test_a_sentence_said_twice_is_shown_once_and_told_once():
    assert kinds(made(new_markdown_cell("## A\n\nLook.\n\nLook."))) == [
        ("slide", "## A\n\nLook."),
        ("notes", "Look."),
    ]


def test_prose_without_a_heading_is_told_of_the_slide_before_it():
    cells = made(new_code_cell("print(1)", outputs=[printed()]), new_markdown_cell("Look left.\n\n| a | b |"))
    assert kinds(cells) == [("-", "print(1)"), ("-", "| a | b |"), ("notes", "Look left.")]


def test_outputs_stand_under_a_heading_that_stands_alone_or_on_a_slide_with_the_heading_again():
    cells = made(
        new_markdown_cell("## Idea"),
        new_markdown_cell("### By hand"),
        new_code_cell("print(1)", outputs=[printed()]),
        new_code_cell("print(2)", outputs=[printed()]),
        new_markdown_cell("### In code\n\nSo."),
        new_code_cell("print(3)", outputs=[printed()]),
    )
    assert kinds(cells) == [
        ("slide", "## Idea"),
        ("-", "### By hand"),
        ("-", "print(1)"),
        ("subslide", "#### By hand"),
        ("-", "print(2)"),
        ("subslide", "### In code\n\nSo."),
        ("subslide", "#### In code"),
        ("-", "print(3)"),
    ]


def test_setup_and_references_are_for_the_notebook():
    cells = [
        new_markdown_cell("## Setup\n\nInstall."),
        new_code_cell("import torch", outputs=[printed("2 threads\n")]),
        new_markdown_cell("Now it is installed.\n\n## Idea\n\nThink.\n\n## References\n\n- A book"),
        new_markdown_cell("- Another"),
    ]
    assert kinds(made(*cells)) == [("slide", "## Idea\n\nThink.")]


@pytest.mark.parametrize(
    ("lines", "outputs", "code"),
    [
        (slides.SHOWN_LINES, [printed()], True),
        (slides.SHOWN_LINES + 1, [printed()], False),
        (1, [shown(**{"image/png": "aGk="})], False),
        (1, [printed(), shown(**{"text/html": "<table></table>"})], False),
    ],
)
def test_code_is_shown_where_it_is_short_and_prints(lines, outputs, code):
    source = "\n".join(f"secret_{n} = 1" for n in range(lines))
    [cell] = made(new_code_cell(source, outputs=outputs))
    assert len(cell.outputs) == len(outputs)
    page = slides.page(nbformat.v4.new_notebook(cells=[new_markdown_cell("# T"), cell]))
    assert ("secret_0" in page) == code


@pytest.mark.parametrize(
    "cell",
    [
        new_code_cell("x = 1"),
        new_code_cell("warn()", outputs=[new_output("stream", name="stderr", text="careful")]),
        new_code_cell("print()", outputs=[printed("\n")]),
        new_code_cell("figures", outputs=[shown(**{notebooks.FIGURES_MIME: {}})]),
        new_code_cell("widget", outputs=[shown(**{notebooks.WIDGET_MIME: {}, "text/plain": "Box()"})]),
        new_code_cell("### BEGIN SOLUTION\nx\n### END SOLUTION", outputs=[printed()]),
        new_code_cell("answer", outputs=[printed()], metadata={"nbgrader": {"solution": True}}),
    ],
)
def test_cells_with_nothing_for_a_class_are_left_out(cell):
    assert made(cell) == []


def test_links_to_files_that_are_not_there_keep_their_words_alone():
    text = "## A\n\nSee the [glossary](glossary.md), [this](https://example.org) and ![a net](net.png)."
    [cell] = made(new_markdown_cell(text))
    assert cell.source == "## A\n\nSee the glossary, [this](https://example.org) and ![a net](net.png)."


@pytest.mark.parametrize(
    "path", sorted((files.root() / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem
)
def test_every_chapter_makes_slides_that_ask_no_other_machine_and_show_no_solution(path, tmp_path):
    notebook = notebooks.read(path)
    before = notebooks.to_text(notebook)
    page = slides.page(notebook)
    assert notebooks.to_text(notebook) == before
    loaded = re.findall(r"<(?:script|link|img|iframe)[^>]* (?:src|href)=\"([^\"]+)\"", page)
    assert [address for address in loaded if address.startswith(("http:", "https:", "//"))] == []
    assert page.count("<section") > 25
    (tmp_path / "slides.html").write_text(page)
    solutions = [region for cell in notebook.cells for region in edition.regions(cell.source)]
    assert len(solutions) >= 3
    assert learners.in_the_open(tmp_path, solutions) == []
    assert len(re.findall("<img", page)) == len(re.findall('<img[^>]* alt="[^"]{15,}', page)) > 0


@pytest.mark.bad_input
def test_nothing_is_written_without_the_programs_that_show_slides(tmp_path, monkeypatch):
    monkeypatch.setattr(offline.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CourseError, match=r"sphinx-revealjs is not installed.*small-and-fast\[site\]"):
        slides.write(tmp_path / "out", ["01"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("out", "words", "message"),
    [
        ("full", ["01"], "is not empty.*--force"),
        ("file", ["01"], "is a file; name a folder"),
        ("new", ["99"], "unknown chapter '99'"),
    ],
)
def test_a_folder_that_is_not_free_or_an_unknown_chapter_is_named(tmp_path, out, words, message):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    (tmp_path / "file").touch()
    with pytest.raises(CourseError, match=message):
        slides.write(tmp_path / out, words)
    with pytest.raises(CourseError, match="part of the course itself"):
        slides.write(files.root() / "notebooks" / "slides", ["01"])
