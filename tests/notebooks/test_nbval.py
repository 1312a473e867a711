"""`make test` compares what is tagged, exactly, and nothing else: one made-up notebook, run once."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[2]
CHECK = "nbval-check-output"


def printing(text):
    return new_output("stream", name="stdout", text=text)


# name: (source, committed outputs, tags, whether nbval passes the cell)
CELLS = {
    "the same": ("print(8)", [printing("8\n")], [CHECK], True),
    "a metric that differs": ("print('accuracy 0.731')", [printing("accuracy 0.732\n")], [CHECK], False),
    "a metric that differs, not tagged": ("print(1)", [printing("2\n")], [], True),
    "an output that is gone": ("pass", [printing("1\n")], [CHECK], False),
    "an error": ("1 / 0", [], [], False),
    "a warning": (
        "import sys\nprint('careful', file=sys.stderr)\nprint(3)",
        [printing("3\n")],
        [CHECK],
        True,
    ),
    "an address": ("print(object())", [printing("<object object at 0x7f00deadbeef>\n")], [CHECK], True),
    "a duration": ("print('took 1.25 s, 3 ms')", [printing("took 0.75 s, 14 ms\n")], [CHECK], True),
    "a date": ("print('2026-01-31 10:20:30')", [printing("2025-12-01 09:08:07\n")], [CHECK], True),
    "a path": ("print('in /home/anna/data/a.npz')", [printing("in /srv/b.npz\n")], [CHECK], True),
    "a count that differs": ("print('12 images')", [printing("13 images\n")], [CHECK], False),
    "progress": ("import tqdm\nprint(tqdm.tqdm([1]).disable)", [printing("True\n")], [CHECK], True),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """{cell: whether it passed}, from one run with the options of the Makefile."""
    folder = tmp_path_factory.mktemp("nbval")
    cells = [
        new_code_cell(source, outputs=outputs, metadata={"tags": tags}, execution_count=number)
        for number, (source, outputs, tags, _) in enumerate(CELLS.values(), start=1)
    ]
    nbformat.write(new_notebook(cells=cells), folder / "made-up.ipynb")
    recipe = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    options = re.search(r"-m pytest (.*?)\s+tests/book/classroom", recipe)[1].split()
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-rA", "-p", "no:cacheprovider", str(folder)],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"},
        capture_output=True,
        text=True,
        check=False,
    )
    outcomes = re.findall(r"^(PASSED|FAILED) .*::Cell (\d+)", ended.stdout, re.MULTILINE)
    assert len(outcomes) == len(CELLS), ended.stdout + ended.stderr
    names = list(CELLS)
    return {names[int(number)]: outcome == "PASSED" for outcome, number in outcomes}


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_passes_or_fails_as_it_should(results, name):
    assert results[name] == CELLS[name][-1]


def test_every_sanitising_rule_is_read():
    """nbval silently drops a rule whose second line is empty."""
    from nbval.plugin import get_sanitize_patterns

    text = (ROOT / "tests" / "notebooks" / "nbval_sanitize.cfg").read_text()
    assert len(get_sanitize_patterns(text)) == text.count("regex: ") == 4
