"""`course sweep` with two local workers beside one."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from course_lib import files
from tests.benchmarks.row import Row, spread

GOAL_WORKERS = 1.7
_SEEDS = "0-7"
_PARAMETERS = "seed = 0"
# One thread a run, as in a chapter that trains small networks; about ten seconds of work.
_TRAINING = """
import torch
from course_lib import data, models, page, training
torch.set_num_threads(1)
model = models.build("vgg", widths=[16, "M", 32, "M", 64], seed=seed)
dataset = data.load_dataset("glyphs")
training.fit(model, dataset, training.Recipe(epochs=4, seed=seed))
page.report(accuracy=f"{training.evaluate(model, dataset.test):.1%}")
"""


def two_workers(repeats: int) -> Iterator[Row]:
    """Both in turn, each with a cluster of its own; the ratio is the median of the ratios within the pairs."""
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        home = _book(Path(folder))
        for repeat in range(repeats):
            seconds = {}
            for workers in (1, 2) if repeat % 2 else (2, 1):
                seconds[workers] = _sweep(home, workers, home / f"{repeat}-{workers}")
            runs.append((seconds[2], seconds[1]))
    ratios = [one / two for two, one in runs]
    ratio = statistics.median(ratios)
    yield Row(
        "course sweep over 8 seeds, two workers / one",
        f"{statistics.median(two for two, _ in runs):.0f} s",
        f"{statistics.median(one for _, one in runs):.0f} s",
        f"{ratio:.2f}",
        f">= {GOAL_WORKERS:.2f}",
        "yes" if ratio >= GOAL_WORKERS else "no",
        spread(ratios),
    )


def _book(home: Path) -> Path:
    """A checkout with one chapter and the data of this one."""
    (home / "data").symlink_to(files.root() / "data")
    (home / "notebooks").mkdir()
    cells = [
        new_markdown_cell("# One small network", id="title"),
        new_code_cell(_PARAMETERS, metadata={"tags": ["parameters"]}, id="parameters"),
        new_code_cell(_TRAINING, id="training"),
    ]
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3 (ipykernel)"}
    notebook = new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, home / "notebooks" / "00-small.ipynb")
    return home


def _sweep(home: Path, workers: int, out: Path) -> float:
    command = "from course_lib.book.cli import app; app()"
    words = [
        "sweep",
        "00",
        "--seeds",
        _SEEDS,
        "--workers",
        str(workers),
        "--out",
        str(out),
        "--timeout",
        "60",
    ]
    started = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-c", command, *words],
        env=os.environ | {"COURSE_HOME": str(home)},
        capture_output=True,
        text=True,
    )
    if ended.returncode:  # a seed that failed is named in what it printed
        raise RuntimeError(f"the sweep ended with {ended.returncode}:\n{ended.stdout}\n{ended.stderr}")
    return time.perf_counter() - started
