"""What is shown on a terminal and elsewhere."""

import io
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from rich.console import Console

from course_lib.book.run import show
from course_lib.book.run.runner import Failure, Outcome, Task


def task(name):
    cells = [
        new_markdown_cell("# Title"),
        new_code_cell("a = 1"),
        new_code_cell(" \n"),
        new_code_cell("b = 2"),
    ]
    return Task(name, new_notebook(cells=cells), {"a": 3}, Path())


def shown(terminal):
    stream = io.StringIO()
    output = Console(
        file=stream, force_terminal=terminal, width=100, markup=False, highlight=False, color_system=None
    )
    first, second = task("00-first"), task("01-second")
    with show.progress(output, 2) as reporter:
        for running in (first, second):
            reporter.started(running)
        for _ in range(first.cells):
            reporter.cell(first)
        reporter.cell(second)
        reporter.done(Outcome("00-first", 1.25, None))
        reporter.cell(second)
        reporter.done(Outcome("01-second", 2.5, None, Failure(3, "b = 2", "ValueError: no")))
    return stream.getvalue()


def test_a_terminal_shows_a_bar_for_the_chapters_and_one_for_each_running(monkeypatch):
    monkeypatch.setattr(show.Progress, "remove_task", lambda self, task: None)
    text = shown(terminal=True)
    last = text[text.rindex("chapters") :]
    assert "2/2" in last
    assert "00-first, cells" in last
    assert "3/3" in last  # two cells with code, and the injected parameters
    assert "01-second, cells" in last
    assert "2/3" in last
    assert "00-first: passed in 1.2 s" in text
    assert "01-second: failed in 2.5 s" in text


def test_elsewhere_there_are_plain_lines():
    assert shown(terminal=False).splitlines() == [
        "00-first: 3 cells",
        "01-second: 3 cells",
        "00-first: passed in 1.2 s",
        "01-second: failed in 2.5 s",
    ]


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (Failure(4, "x = 1", "ValueError: a\nb"), "failed in In [4]: x = 1\nValueError: a\nb"),
        (Failure(4, "x = 1", "E: a", "sum"), "failed in In [4] (cell sum): x = 1\nE: a"),
        (Failure(0, "", "NoSuchKernel: python3"), "failed before the first cell\nNoSuchKernel: python3"),
        (Failure(1, "x", "E: " + "\n".join("abcdef")), "failed in In [1]: x\nE: a\nb\nc\nd"),
        (Failure(1, "x", "y" * 900), "failed in In [1]: x\n" + "y" * 400 + " ..."),
    ],
)
def test_a_failure_is_told_in_a_few_lines(failure, text):
    assert show.describe(failure) == text
