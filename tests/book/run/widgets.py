"""Execute a notebook with widgets time and again, beside busy processes, and count how many executions end.

    python -m tests.book.run.widgets --count 300

No part of `make test`: an execution takes a few seconds. A reply that is lost on its way (nbclient issue 312) leaves a
runner waiting for ever: never with the course's own cells, but it may with `--cell interact`, what ipywidgets offers.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import course_lib
from course_lib.progress import tracked
from tests.book.conftest import Book

ROOT = Path(course_lib.__file__).parents[1]
NAME = "00-widgets"
CELLS = {
    "page": """
import ipywidgets
from matplotlib.figure import Figure

from course_lib import page


def draw(height):
    figure = Figure()
    figure.subplots().bar(["here"], [height])
    return figure, f"A bar in the middle of the figure, with the height {height:g}."


for start in range(5):
    page.interact(draw, ipywidgets.FloatSlider(value=start))
""",
    "interact": """
import ipywidgets


def draw(height):
    for line in range(20):
        print(line, height)


for start in range(5):
    ipywidgets.interact(draw, height=ipywidgets.FloatSlider(value=start))
""",
}
BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(10**5))"


@dataclass(frozen=True)
class Execution:
    """How one execution ended.

    Attributes:
        way: the runner.
        seconds: how long it took, the start of the runner included.
        trouble: what went wrong; empty where nothing did.
    """

    way: str
    seconds: float
    trouble: str


def papermill(folder: Path) -> None:
    """Run the notebook with papermill, as anybody would."""
    import papermill

    papermill.execute_notebook(str(notebook(folder)), None, kernel_name="python3", progress_bar=False)


def nbval(folder: Path) -> None:
    """Run the cells in the kernel of nbval, and wait for them as its plugin does."""
    import nbformat
    from nbval.kernel import CURRENT_ENV_KERNEL_NAME, RunningKernel

    kernel = RunningKernel(CURRENT_ENV_KERNEL_NAME, str(folder))
    try:
        for cell in nbformat.read(notebook(folder), as_version=4).cells:
            if cell.cell_type == "code":
                request = kernel.execute_cell_input(cell.source, allow_stdin=False)
                kernel.await_reply(request)
                kernel.await_idle(request, timeout=None)
    finally:
        kernel.stop()


def course_run(folder: Path) -> None:
    """Run the notebook with `course run`."""
    from course_lib.book.cli import app

    app(["run", "--out", tempfile.mkdtemp(dir=folder)])


WAYS = {"papermill": papermill, "nbval": nbval, "course run": course_run}


def notebook(folder: Path) -> Path:
    """Where the notebook lies."""
    return Book(folder).path(NAME)


def execute(way: str, folder: Path, limit: float) -> Execution:
    """Execute the notebook in a process of its own, which is ended after `limit` seconds; so is its kernel then."""
    command = [sys.executable, "-m", "tests.book.run.widgets", "--once", way, str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COURSE_HOME": str(folder), "TQDM_DISABLE": "1"}
    begun, trouble = time.monotonic(), ""
    try:
        subprocess.run(
            command, cwd=ROOT, env=environment, timeout=limit, check=True, capture_output=True, text=True
        )
    except subprocess.TimeoutExpired:
        trouble = f"still ran after {limit:g} s"
    except subprocess.CalledProcessError as error:
        trouble = f"failed: {(error.stderr + error.stdout).strip()[-300:]}"
    return Execution(way, time.monotonic() - begun, trouble)


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep so many processes busy; they also end when this one does."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def report(executions: list[Execution]) -> list[str]:
    """Write a line for each way, and one for each execution that did not end well."""
    lines = []
    for way in WAYS:
        ours = [one for one in executions if one.way == way]
        ended = [one.seconds for one in ours if not one.trouble]
        slowest = f", the slowest in {max(ended):.1f} s" if ended else ""
        lines += [f"{way}: {len(ended)} of {len(ours)} ended{slowest}"] if ours else []
    return lines + [f"{one.way}: {one.trouble}" for one in executions if one.trouble]


def main() -> int:
    """Execute, report; 1 if an execution did not end well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=30, help="executions in all, by each runner in turn")
    parser.add_argument("--cell", choices=CELLS, default="page", help="what the notebook holds")
    parser.add_argument("--busy", type=int, default=2 * (os.cpu_count() or 1), help="busy processes beside")
    parser.add_argument("--jobs", type=int, default=1, help="executions side by side")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds after which one counts as hung")
    parser.add_argument("--once", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.once:
        WAYS[given.once[0]](Path(given.once[1]))
        return 0
    ways = [list(WAYS)[number % len(WAYS)] for number in range(given.count)]
    with tempfile.TemporaryDirectory() as name, busy(given.busy), ThreadPoolExecutor(given.jobs) as pool:
        (Path(name) / "data").mkdir()  # as in a checkout
        Book(Path(name)).add(NAME, *[CELLS[given.cell]] * 3)
        begun = pool.map(lambda way: execute(way, Path(name), given.limit), ways)
        executions = list(tracked(begun, "executions", given.count))
    print(*report(executions), sep="\n")
    return int(any(one.trouble for one in executions))


if __name__ == "__main__":
    sys.exit(main())
