"""The measures of a chapter in the new form; below, the proof that each is taken.

A rule is a function from a notebook to a list of faults, as in test_form.py. Studies keep the first alone.
"""

import re
import statistics

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course_lib.book import notebooks
from tests.notebooks.new_form import NEW_FORM

LONGEST_CELL = 25  # lines
MEDIAN = 8  # lines of a cell
CODE = 350  # lines
WORDS = 3000
INTERVALS = 40
MINUTES = 40

HEADINGS = [
    "Setup",
    "by hand",
    "Is it true",
    "Bugs that look right",
    "Accuracy against cost",
    "Where it comes from",
    "Recap",
    "Quiz",
    "References",
]
"""Words of the level-2 headings, in this order; others may stand between."""

# As page and statistics write one, behind its mean: 7.2 % [6.4, 8.0].
INTERVAL = re.compile(r"\d(?:\s?%)?\s\[[+-]?[\d.,]+,\s[+-]?[\d.,]+\]")
SOLUTION = re.compile(r"### BEGIN SOLUTION.*?### END SOLUTION", re.DOTALL)


def lines(cell):
    """Lines of code that a learner reads: not blank ones, and one for the solution of an exercise."""
    return sum(bool(line.strip()) for line in SOLUTION.sub("...", cell.source).splitlines())


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook):
    """The text of the markdown cells without fenced code, comments and targets of links."""
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return re.sub(r"(?ms)^(```|~~~).*?^\1|<!--.*?-->|(?<=\])\([^)]*\)", "", text)


def shown(notebook):
    """The text of every output as a page shows it: printed, or a table."""
    for cell in code_cells(notebook):
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            yield output.get("text") or data.get("text/html") or data.get("text/plain", "")


def no_long_cell(notebook):
    return [
        f"{lines(cell)} lines in a cell; at most {LONGEST_CELL}: {cell.source.splitlines()[0]}"
        for cell in code_cells(notebook)
        if lines(cell) > LONGEST_CELL
    ]


def short_cells(notebook):
    median = statistics.median(map(lines, code_cells(notebook)))
    return [f"the median of a cell is {median:g} lines; at most {MEDIAN}"] if median > MEDIAN else []


def little_code(notebook):
    count = sum(map(lines, code_cells(notebook)))
    return [f"{count} lines of code; at most {CODE}"] if count > CODE else []


def few_words(notebook):
    count = sum(bool(re.search(r"\w", word)) for word in prose(notebook).split())
    return [f"{count} words of prose; at most {WORDS}"] if count > WORDS else []


def few_intervals(notebook):
    count = len(INTERVAL.findall("\n".join([prose(notebook), *shown(notebook)])))
    return [f"{count} intervals; at most {INTERVALS}"] if count > INTERVALS else []


def short_to_read(notebook):
    (minutes,) = re.findall(r"^\*\*Time\*\* (\d+) minutes to read", prose(notebook), re.MULTILINE) or ["1000"]
    return [f"{minutes} minutes to read; at most {MINUTES}"] if int(minutes) > MINUTES else []


def headings_in_order(notebook):
    found = re.findall(r"^## +(.+)$", prose(notebook), re.MULTILINE)
    places = [next((n for n, line in enumerate(found) if part in line), None) for part in HEADINGS]
    missing = [part for part, place in zip(HEADINGS, places, strict=True) if place is None]
    if missing:
        return [f"no level-2 heading with {part!r}" for part in missing]
    return [] if places == sorted(places) else [f"the headings stand in another order than {HEADINGS}"]


def exercises_on_the_way(notebook):
    """Exercises stand in at least two sections, the first of them in the first half of the cells."""
    places = [n for n, cell in enumerate(notebook.cells) if cell.metadata.get("nbgrader", {}).get("solution")]
    sections = [sum(bool(re.search(r"(?m)^## ", c.source)) for c in notebook.cells[:n]) for n in places]
    found = [] if len(set(sections)) >= 2 else ["all exercises stand in one section"]
    if not places or places[0] > len(notebook.cells) / 2:
        found.append("no exercise stands in the first half")
    return found


def method_in_full(notebook):
    count = sum("method" in cell.metadata.get("tags", []) for cell in notebook.cells)
    return [] if count else ["no cell is tagged method: the method's own loop, in full"]


RULES = [
    no_long_cell,
    short_cells,
    little_code,
    few_words,
    few_intervals,
    short_to_read,
    headings_in_order,
    exercises_on_the_way,
    method_in_full,
]
PATHS = {chapter.name: chapter.path for chapter in notebooks.book()}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("name", [name for name in NEW_FORM if "/" not in name])
def test_every_chapter_in_the_new_form_keeps_its_measures(name, rule):
    found = rule(notebooks.read(PATHS[name]))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", [name for name in NEW_FORM if "/" in name])
def test_no_cell_of_studies_is_long(name):
    found = no_long_cell(notebooks.read(PATHS[name]))
    assert not found, "\n".join(found)


# The rules themselves: a chapter at every limit, then one step beyond each.


def exercise(name):
    marks = {"grade_id": name, "solution": True, "grade": False}
    source = "def f(x):\n    ### BEGIN SOLUTION\n    y = x\n\n    return y\n    ### END SOLUTION"
    return new_code_cell(source, metadata={"nbgrader": marks})


def code(count, *outputs, tags=()):
    return new_code_cell("\n\n".join(["x = 1"] * count), outputs=list(outputs), metadata={"tags": list(tags)})


def table(intervals):
    text = "<td>1.0\N{NO-BREAK SPACE}% [0.5,\N{NO-BREAK SPACE}1.5]</td>" * intervals
    return new_output("display_data", {"text/html": text, "text/plain": "1.0 % [0.5, 1.5]" * intervals})


def at_the_limit():
    """A chapter of 3,000 words, 350 lines in cells of 8 and fewer but one of 25, 40 intervals, exercises on the way."""
    parts = [new_markdown_cell(f"## {part}") for part in HEADINGS]
    head = new_markdown_cell("# A chapter\n\n**Time** 40 minutes to read, 60 seconds to run.")
    cells = [head, parts[0], code(25, tags=["method"]), exercise("a"), parts[1], exercise("b")]
    cells += [code(8, table(39)), code(1), *(code(8) for _ in range(39)), *parts[2:]]
    cells.append(
        new_markdown_cell("[It is](a.md#b) 0.7 [0.6, 0.8] at [1, 2] <!--=gain-->so<!--/-->\n\n```\ncode\n```")
    )
    notebook = new_notebook(cells=cells)
    left = WORDS - sum(bool(re.search(r"\w", word)) for word in prose(notebook).split())
    notebook.cells[-1].source += "\n" + "word — " * left
    return notebook


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_chapter_at_the_limits_is_let_through(rule):
    assert rule(at_the_limit()) == []


FAULTS = {
    "a long cell": (no_long_cell, "26 lines in a cell; at most 25: x = 1", lambda nb: add(nb, 2, "\ny = 2")),
    "long cells": (
        short_cells,
        "the median of a cell is 9 lines",
        lambda nb: [add(nb, n, "\nz = 1") for n in range(9, 46)],
    ),
    "much code": (little_code, "351 lines of code", lambda nb: add(nb, 7, "\ny = 2")),
    "many words": (few_words, "3001 words of prose", lambda nb: add(nb, -1, " one")),
    "an interval in prose": (few_intervals, "41 intervals", lambda nb: add(nb, -1, " +7.2 % [+6.4, +8.0]")),
    "an interval printed": (
        few_intervals,
        "41 intervals",
        lambda nb: nb.cells[7].outputs.append(new_output("stream", text="r 0.57 [-0.11, 0.95]")),
    ),
    "a long read": (short_to_read, "45 minutes", lambda nb: swap(nb, 0, "40", "45")),
    "no time": (short_to_read, "1000 minutes", lambda nb: swap(nb, 0, "**Time**", "Time")),
    "a part left out": (
        headings_in_order,
        "no level-2 heading with 'by hand'",
        lambda nb: swap(nb, 4, "by hand", ""),
    ),
    "parts in another order": (
        headings_in_order,
        "another order",
        lambda nb: nb.cells.append(nb.cells.pop(-2)) or nb.cells.insert(1, nb.cells.pop(-1)),
    ),
    "exercises in one section": (
        exercises_on_the_way,
        "all exercises stand in one section",
        lambda nb: nb.cells.insert(4, nb.cells.pop(5)),
    ),
    "exercises at the end": (
        exercises_on_the_way,
        "no exercise stands in the first half",
        lambda nb: nb.cells.extend([nb.cells.pop(5), nb.cells.pop(3)]),
    ),
    "no exercise": (
        exercises_on_the_way,
        "no exercise stands in the first half",
        lambda nb: [nb.cells.pop(5), nb.cells.pop(3)],
    ),
    "no method": (method_in_full, "no cell is tagged method", lambda nb: nb.cells.pop(2)),
}


def add(notebook, place, text):
    notebook.cells[place].source += text


def swap(notebook, place, before, after):
    notebook.cells[place].source = notebook.cells[place].source.replace(before, after)


@pytest.mark.parametrize("name", FAULTS)
def test_one_step_beyond_a_limit_is_seen(name):
    rule, fault, change = FAULTS[name]
    notebook = at_the_limit()
    change(notebook)
    assert fault in "\n".join(rule(notebook))
