"""Numbers in the prose of the book and of the README are those of the committed runs, or say where they come from."""

import re

import pytest

from course_lib.book import notebooks, prose
from tests.notebooks.new_form import NEW_FORM

BOOK = {chapter.name: chapter.path for chapter in notebooks.book()}


def texts(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def test_every_number_between_marks_is_that_of_the_committed_run():
    found = prose.refresh(write=False)
    assert not found, "\n".join(found)


def test_the_new_form_names_notebooks_that_are_there():
    assert set(NEW_FORM) <= BOOK.keys()


@pytest.mark.parametrize("name", NEW_FORM)
def test_no_number_of_a_run_is_typed(name):
    text = "\n\n".join(texts(notebooks.read(BOOK[name])))
    found = prose.typed(text)
    assert not found, f"{', '.join(found)}: name it (page.figures) and mark it, or say where it comes from"


@pytest.mark.parametrize("name", NEW_FORM)
def test_a_published_number_names_a_source_of_the_bibliography_or_the_source_document(name):
    keys = re.findall(r"^@\w+\{([^,]+),", (notebooks.folder() / "references.bib").read_text(), re.MULTILINE)
    sources = re.findall(r"<!--published:([^>]*)-->", "\n".join(texts(notebooks.read(BOOK[name]))))
    unknown = [one for one in sources if one.split(",")[0].strip() not in [*keys, "source document"]]
    assert not unknown, f"{unknown}: begin with a key of references.bib, or with 'source document'"
