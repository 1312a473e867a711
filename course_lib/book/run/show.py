"""Output of `course run` and the other commands: progress while they work, a table when they are done."""

import contextlib
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from course_lib.book.run.task import Failure, Outcome, Task

__all__ = ["Reporter", "console", "describe", "figure", "grades", "progress", "summary"]


class Reporter(Protocol):
    """Receiver of the events of a run, called from the threads of the chapters."""

    def started(self, task: Task) -> None: ...
    def cell(self, task: Task) -> None: ...
    def done(self, outcome: Outcome) -> None: ...


def console(*, stderr: bool = False) -> Console:
    """Make a console that prints text without markup, 110 columns wide if it is not a terminal.

    Example:
        >>> console().print("[b]as it is[/b]")
        [b]as it is[/b]
    """
    made = Console(stderr=stderr, markup=False, highlight=False, soft_wrap=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made = Console(stderr=stderr, markup=False, highlight=False, width=110)
    return made


@contextlib.contextmanager
def progress(output: Console, count: int, what: str = "chapters") -> Iterator[Reporter]:
    """Report on a run: bars on a terminal; elsewhere a line when a chapter starts and when it ends.

    Args:
        output: shows the report.
        count: number of chapters that will be run.
        what: name of the things that are run.

    Example:
        >>> with progress(Console(force_terminal=False), count=1) as reporter:
        ...     reporter.done(Outcome("01-distillation", 2.0, None))
        01-distillation: passed in 2.0 s
    """
    if not output.is_terminal:
        yield _Lines(output)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=output) as bars:
        yield _Bars(bars, count, what)


class _Lines:
    def __init__(self, output: Console):
        self._output = output

    def started(self, task: Task) -> None:
        self._output.print(f"{task.chapter}: {task.cells} cells", soft_wrap=True)

    def cell(self, task: Task) -> None:
        pass

    def done(self, outcome: Outcome) -> None:
        self._output.print(_line(outcome), soft_wrap=True)


class _Bars:
    def __init__(self, bars: Progress, count: int, what: str):
        self._bars = bars
        self._all = bars.add_task(what, total=count)
        self._running: dict[str, Any] = {}

    def started(self, task: Task) -> None:
        self._running[task.chapter] = self._bars.add_task(f"{task.chapter}, cells", total=task.cells)

    def cell(self, task: Task) -> None:
        self._bars.advance(self._running[task.chapter])

    def done(self, outcome: Outcome) -> None:
        if outcome.chapter in self._running:  # nobody tells when a seed starts on another machine
            self._bars.remove_task(self._running.pop(outcome.chapter))
        self._bars.advance(self._all)
        self._bars.console.print(_line(outcome), soft_wrap=True)


def _line(outcome: Outcome) -> str:
    return f"{outcome.chapter}: {'failed' if outcome.failure else 'passed'} in {outcome.seconds:.1f} s"


def summary(records: Sequence[tuple[str, dict[str, Any]]]) -> Table:
    """Make the table that ends a run: chapter, seconds, key figures, result.

    Args:
        records: (chapter, its record in run.json), in the order of the book.

    Example:
        >>> summary([("01-distillation", {"seconds": 2.0, "figures": {"gain": 0.05}})]).row_count
        1
    """
    table = Table(show_lines=True)
    table.add_column("chapter", overflow="fold")
    table.add_column("seconds", justify="right")
    table.add_column("key figures", overflow="fold")
    table.add_column("result", overflow="fold")
    for name, record in records:
        failure = record.get("failure")
        result = describe(Failure(**failure)) if failure else "passed"
        figures = "\n".join(
            f"{key.replace('_', ' ')}: {figure(value)}" for key, value in record["figures"].items()
        )
        table.add_row(name, f"{record['seconds']:.1f}", figures, result)
    return table


def grades(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Make a table of the lines of grades.csv.

    Example:
        >>> row = {"student": "ada", "chapter": "01", "points": 3, "max_points": 4, "reason": ""}
        >>> grades([row]).row_count
        1
    """
    table = Table()
    for heading in ("student", "chapter", "points", "reason"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "points" else "left")
    for row in rows:
        points = f"{row['points']} of {row['max_points']}"
        table.add_row(
            row["student"], row["chapter"], points, textwrap.shorten(row["reason"], 200, placeholder=" ...")
        )
    return table


def describe(failure: Failure) -> str:
    """Describe a failure in a few lines: the cell's number and id, its first line, the error.

    Example:
        >>> print(describe(Failure(4, "x = 1 / 0", "ZeroDivisionError: division by zero", "ratio")))
        failed in In [4] (cell ratio): x = 1 / 0
        ZeroDivisionError: division by zero
    """
    error = "\n".join(failure.error.strip().splitlines()[:4])
    error = error if len(error) <= 400 else error[:400] + " ..."
    if not failure.cell:
        return f"failed before the first cell\n{error}"
    cell = f"In [{failure.cell}]" + (f" (cell {failure.id})" if failure.id else "")
    return f"failed in {cell}: {failure.line}\n{error}"


def figure(value: Any) -> str:
    """Write a key figure as text.

    Args:
        value: as `course_lib.page.report` keeps it in a notebook, or a value in a row of a record.

    Example:
        >>> figure({"value": 1.5, "form": ".1f", "unit": "MB", "shown": "1.5 MB"}), figure(0.123456)
        ('1.5 MB', '0.1235')
    """
    if isinstance(value, Mapping) and "shown" in value:
        return str(value["shown"])
    return f"{value:.4g}" if isinstance(value, float) else str(value)
