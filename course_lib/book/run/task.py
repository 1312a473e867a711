"""One notebook to run, and how its run ended; apart from `runner`, whose import takes seconds."""

import math
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from course_lib.book.run.turns import Turns

__all__ = ["CELL_SECONDS", "Failure", "Outcome", "Task", "has_code"]

CELL_SECONDS = 900.0  # that a cell of a chapter may take, unless told otherwise
# Parameters that ask for experiments of minutes to hours, and the values that do.
_LONG = {"recompute": [True], "retrain": [True], "real_data": ["run", "record"]}


@dataclass(frozen=True)
class Failure:
    """Place and error at which a notebook failed.

    Attributes:
        cell: its number as in `In [4]`; 0 if the notebook failed before the first cell.
        line: first line of the cell.
        error: name of the exception and its message.
        id: of the cell, as in the file; empty before the first.
    """

    cell: int
    line: str
    error: str
    id: str = ""


@dataclass(frozen=True)
class Outcome:
    """Result of running one chapter.

    Attributes:
        chapter: its name.
        seconds: duration of the run.
        notebook: executed as far as the run got; None if its kernel never started.
        failure: None if the chapter passed.
    """

    chapter: str
    seconds: float
    notebook: Any
    failure: Failure | None = None


@dataclass
class Task:
    """One notebook to run and, while it runs, how far it is.

    Attributes:
        chapter: its name.
        source: the notebook.
        parameters: of the run.
        folder: of the run.
        environment: variables for the kernel, added to those of this process.
        cell_seconds: after which a cell is ended; None for `CELL_SECONDS`, or for no limit if the parameters ask for
            experiments that are sized in hours.
        notebook: executed as far as the run is.
        client: of the running kernel.
        position: of the running cell.
        cell_id: of the running cell.
        stuck: reason why the run was ended from outside; empty if it was not.
        stopping: set when the whole run is to end.
        turns: which cells of notebooks that run side by side may run now.
    """

    chapter: str
    source: Any
    parameters: dict[str, Any]
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    cell_seconds: float | None = None
    notebook: Any = None
    client: Any = None
    position: int = 0
    cell_id: str = ""
    stuck: str = ""
    stopping: threading.Event = field(default_factory=threading.Event)
    turns: Turns = field(default_factory=Turns)

    @property
    def cells(self) -> int:
        """Number of code cells that the run goes through."""
        return sum(map(has_code, self.source.cells)) + bool(self.parameters)

    @property
    def limit(self) -> float:
        """Seconds that a cell may take."""
        if self.cell_seconds is not None:
            return self.cell_seconds
        long = any(self.parameters.get(name) in values for name, values in _LONG.items())
        return math.inf if long else CELL_SECONDS


def has_code(cell: Any) -> bool:
    """Whether a cell is one that runs."""
    return cell.cell_type == "code" and bool(cell.source.strip())
