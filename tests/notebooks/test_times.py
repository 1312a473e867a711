"""Every cell that times something says so: its notebook must not share the machine with another."""

import ast
import functools
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_notebook

import course_lib
from course_lib.book import notebooks

CLOCKS = frozenset({"latency", "latencies", "perf_counter", "process_time", "default_timer", "timeit"})
# How long a whole run takes, for the minutes of a record or for what a budget allows: nothing is compared.
BUDGETS = {"experiment.py", "records.py", "budget.py", "chapter05_cifar10.py", "chapter06_imagenet.py"}
OF_A_BUDGET = ("real-data", "loop")  # chapter 05 sets two epochs against a judgement thirty times as fast


def called_in(node):
    called = (part.func for part in ast.walk(node) if isinstance(part, ast.Call))
    return {getattr(function, "attr", getattr(function, "id", "")) for function in called}


def with_callers(trees, known):
    """The known names, and those of all functions in the trees that call one of them."""
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    while found := {f.name for f in functions if f.name not in known and called_in(f) & known}:
        known = known | found
    return known


@functools.cache
def timing_functions():
    folder = Path(course_lib.__file__).parent / "experiments"
    trees = [ast.parse(path.read_text("utf-8")) for path in folder.glob("*.py") if path.name not in BUDGETS]
    return with_callers(trees, CLOCKS)


def untagged(notebook):
    """The ids of the cells that time something and are not tagged."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.id not in OF_A_BUDGET]
    trees = {cell.id: ast.parse(cell.source) for cell in code}
    timing = with_callers(trees.values(), timing_functions())
    tagged = {cell.id for cell in code if notebooks.TIMES in cell.metadata.get("tags", [])}
    return sorted(id for id, tree in trees.items() if called_in(tree) & timing and id not in tagged)


@pytest.mark.parametrize("chapter", notebooks.book(), ids=lambda chapter: chapter.name)
def test_a_cell_that_times_something_is_tagged(chapter):
    assert untagged(notebooks.read(chapter.path)) == []


@pytest.mark.parametrize(
    "source",
    [
        "cost.latency(model, x)",
        "start = time.perf_counter()",
        "tables.zeros_alone(vgg, sparse, images)",  # which calls cost.latencies
        "rows = lab.time_in_turns(cases)",
    ],
)
def test_a_stopwatch_is_seen_wherever_it_is(source):
    cells = [new_code_cell(source, id="times"), new_code_cell("fit(model)", id="not")]
    assert untagged(new_notebook(cells=cells)) == ["times"]
    cells = [new_code_cell(f"def own(x):\n    {source}", id="own"), new_code_cell("own(3)", id="calls")]
    assert untagged(new_notebook(cells=cells)) == ["calls", "own"]
    cells[0].metadata["tags"] = cells[1].metadata["tags"] = [notebooks.TIMES]
    assert untagged(new_notebook(cells=cells)) == []
