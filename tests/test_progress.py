"""Who watches a terminal sees a bar, a file gets a line for each step, and a worker process keeps quiet."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

import course_lib
from course_lib.jobs import run_parallel
from course_lib.progress import progress, tracked

PROGRAM = """
from course_lib.progress import progress
with progress("fit", 3, done=1, parts=4, unit="batch") as shown:
    for epoch in range(2):
        for part in range(4):
            shown.part(1)
        shown.step(loss="0.5", validation=f"{epoch} %")
"""
LINES = ["fit: 2 of 3, loss 0.5, validation 0 % (0 s)", "fit: 3 of 3, loss 0.5, validation 1 % (0 s)"]


@pytest.fixture(autouse=True)
def wanted(monkeypatch):
    """`make test` keeps notebooks quiet by this variable."""
    monkeypatch.delenv("TQDM_DISABLE", raising=False)


def shown_by(program, stderr, **variables):
    """Run a program whose stderr goes to a terminal or to a pipe: what it wrote there."""
    environment = os.environ | {"PYTHONPATH": str(Path(course_lib.__file__).parents[1])} | variables
    command = [sys.executable, "-c", program]
    if stderr == "pipe":
        return subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=True).stderr
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen(command, env=environment, stderr=theirs)
    os.close(theirs)
    text = b""
    try:
        while piece := os.read(ours, 1000):
            text += piece
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert process.wait() == 0
    return text.decode()


def test_a_terminal_has_a_bar_that_moves_with_each_part_and_is_gone_in_the_end():
    text = shown_by(PROGRAM, "terminal", TQDM_MININTERVAL="0")
    bars = [piece for piece in text.split("\r") if piece.strip()]
    moves = [int(re.search(r"(\d+)/12", bar)[1]) for bar in bars]
    assert moves == sorted(moves)
    assert set(moves) == set(range(4, 13))
    assert "loss=0.5, validation=1 %]" in bars[-1]
    assert text.rpartition("\r")[2].strip() == ""
    assert "nan" not in text


def test_a_pipe_has_a_line_for_each_step_and_nothing_else():
    assert shown_by(PROGRAM, "pipe").splitlines() == LINES


@pytest.mark.parametrize("stderr", ["terminal", "pipe"])
def test_who_has_switched_tqdm_off_sees_nothing(stderr):
    assert shown_by(PROGRAM, stderr, TQDM_DISABLE="1") == ""


def test_a_kernel_has_the_bars_of_a_notebook_unless_they_are_switched_off(monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(Path(course_lib.__file__).parents[1]))
    show = "from IPython.display import display\nfrom course_lib import progress\nimport os\n"
    seen = "with progress.progress('fit', 2) as shown:\n    print(type(shown).__name__)"
    for switch, kind in (("", "_Bar"), ("os.environ['TQDM_DISABLE'] = '1'\n", "_Nothing")):
        cell = nbformat.v4.new_code_cell(show + switch + seen)
        notebook = nbformat.v4.new_notebook(cells=[cell])
        NotebookClient(notebook, kernel_name="python3").execute()
        assert f"{kind}\n" in [output.text for output in cell.outputs if output.get("name") == "stdout"]


def test_items_are_counted_as_they_are_done(capsys):
    for number in tracked("ab", "runs", 2):
        print(number, file=sys.stderr)
    assert [line.partition(" (")[0] for line in capsys.readouterr().err.splitlines()] == [
        "a",
        "runs: 1 of 2",
        "b",
        "runs: 2 of 2",
    ]


def with_a_progress_of_its_own(number):
    os.environ.pop("TQDM_DISABLE", None)
    with progress("inner", 1) as shown:
        shown.step()
    return number


def test_workers_are_quiet_and_their_parent_tells_of_each_call(capfd):
    assert run_parallel(with_a_progress_of_its_own, [1, 2, 3], workers=2, label="trainings") == [1, 2, 3]
    told = [line.partition(" (")[0] for line in capfd.readouterr().err.splitlines()]
    assert told == [f"trainings: {number} of 3" for number in (1, 2, 3)]
    assert run_parallel(with_a_progress_of_its_own, [1], workers=1) == [1]
    assert "inner: 1 of 1" in capfd.readouterr().err
