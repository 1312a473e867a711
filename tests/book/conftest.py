"""A made-up book in a temporary folder: notebooks of a few cells without torch, and the command run on them."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

FIGURES = (
    "from IPython.display import display\n"
    "display({'application/vnd.course.key-figures+json': %r, 'text/plain': 'figures'}, raw=True)"
)


@dataclass
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str


@dataclass
class Book:
    """A checkout with notebooks only; `course(...)` runs the command in it."""

    root: Path
    capture: object = None

    @property
    def out(self) -> Path:
        return self.root / "build" / "course"

    def path(self, name: str) -> Path:
        return self.root / "notebooks" / f"{name}.ipynb"

    def add(
        self, name: str, *sources: str, parameters: str = "seed = 0", setup: str = "", times: bool = False
    ) -> Path:
        """Write a notebook: a title, the cell tagged `parameters`, one that exercises need, then code cells.

        With `times`, the code cells are tagged as measuring times.
        """
        tags = {"tags": ["measures-time"]} if times else {}
        cells = [new_markdown_cell(f"# Title of {name}", id="title")]
        cells.append(new_code_cell(parameters, metadata={"tags": ["parameters"]}, id="parameters"))
        if setup:
            cells.append(new_code_cell(setup, metadata={"tags": ["exercise-setup"]}, id="setup"))
        cells += [
            new_code_cell(source, id=f"code-{number}", metadata=tags) for number, source in enumerate(sources)
        ]
        kernel = {"name": "python3", "language": "python", "display_name": "Python 3 (ipykernel)"}
        self.path(name).parent.mkdir(exist_ok=True)
        nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), self.path(name))
        return self.path(name)

    def add_exercises(self, name: str, *cells: tuple[str, dict]) -> Path:
        """Add code cells with nbgrader's marks to a notebook: (source, marks), the marks as `solution` gives them."""
        notebook = nbformat.read(self.path(name), as_version=4)
        for number, (source, marks) in enumerate(cells):
            notebook.cells.append(
                new_code_cell(source, metadata={"nbgrader": marks} if marks else {}, id=f"exercise-{number}")
            )
        nbformat.write(notebook, self.path(name))
        return self.path(name)

    def counting(self, name: str) -> str:
        """A cell that leaves a mark each time it runs; `times(name)` counts them."""
        return f"with open({str(self.root / (name + '.times'))!r}, 'a') as stream:\n    stream.write('x')"

    def times(self, name: str) -> int:
        path = self.root / f"{name}.times"
        return len(path.read_text()) if path.exists() else 0

    def profile(self, name: str, text: str) -> None:
        (self.root / "notebooks" / "profiles").mkdir(exist_ok=True)
        (self.root / "notebooks" / "profiles" / f"{name}.yaml").write_text(text)

    def state(self) -> dict:
        return json.loads((self.out / "run.json").read_text())

    def printed(self, name: str, folder: Path | None = None) -> str:
        """What an executed notebook printed."""
        notebook = nbformat.read((folder or self.out) / f"{name}.ipynb", as_version=4)
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        return "".join(output.text for output in outputs if output.output_type == "stream")

    def course(self, *words: str) -> Ended:
        """Run the command in this process."""
        from course_lib.book.cli import app

        before = signal.getsignal(signal.SIGTERM)
        self.capture.readouterr()
        with pytest.raises(SystemExit) as ended:
            app(list(map(str, words)))
        signal.signal(signal.SIGTERM, before)
        out, err = self.capture.readouterr()
        return Ended(ended.value.code or 0, out, err)

    def start(self, *words: str) -> subprocess.Popen:
        """Start the command in a process of its own; it hears Ctrl-C even where these tests run in the background."""
        heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
        return subprocess.Popen(
            [sys.executable, "-c", f"{heard}; from course_lib.book.cli import app; app()", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "COURSE_HOME": str(self.root)},
        )


def marks(grade_id: str, points: int = 0) -> dict:
    """What nbgrader wants to know of a cell: a check if it gives points, else a cell to be written."""
    kind = {"grade": True, "locked": True, "points": points} if points else {"grade": False, "locked": False}
    return {"grade_id": grade_id, "schema_version": 3, "solution": not points, "task": False, **kind}


@pytest.fixture
def in_place():
    """The address of a Dask cluster with one worker, inside this process."""
    from tests.book.clusters import cluster_in_place

    with cluster_in_place() as running:
        yield running.scheduler_address


@pytest.fixture
def secured(tmp_path_factory):
    """The same with TLS: how the command is told of it."""
    from tests.book.clusters import cluster_in_place
    from tests.certificates import Authority

    authority = Authority(tmp_path_factory.mktemp("certificates"))
    cert, key = authority.sign("teacher")
    files = ("--tls-ca-file", str(authority.ca_file), "--tls-cert", str(cert), "--tls-key", str(key))
    with cluster_in_place(security=authority.cluster()) as running:
        yield ("--scheduler", running.scheduler_address, *files)


@pytest.fixture
def book(tmp_path, monkeypatch, capfd):
    """An empty book; the checkout that the command sees is this one."""
    (tmp_path / "data").mkdir()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("COURSE_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "160")
    return Book(tmp_path, capfd)


@pytest.fixture
def figures():
    """The source of a cell that reports key figures, as `course_lib.page.report` does."""
    return lambda **values: FIGURES % values
