"""What checks record in a learner's folder, and what `course progress` shows of it."""

import json
import multiprocessing
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from course_lib.book.run import progress
from course_lib.book.run.runner import QUIET
from course_lib.checks import attempts
from course_lib.checks.attempts import Standing
from tests.book.conftest import marks

pytestmark = pytest.mark.bad_input


@pytest.fixture
def learner(book, monkeypatch):
    """A book with two chapters, as if this process were a notebook."""
    for name in ("00-first", "01-second"):
        book.add(name)
        book.add_exercises(
            name,
            *(
                (f"# {kind}", marks(f"{kind}{one}", kind == "check-"))
                for one in "ab"
                for kind in ("", "check-")
            ),
        )
    monkeypatch.setattr(attempts, "_in_a_notebook", lambda: True)
    monkeypatch.setattr(attempts, "_here", {})
    return book


def line(chapter, book):
    return next(line for line in progress.examine() if line.chapter == chapter)


def test_it_shows_what_was_run_and_what_passes(learner):
    assert line("00-first", learner).run == "no"
    assert attempts.add("00", "a", passed=True) == 0
    assert attempts.add("01", "a", passed=False) == 1
    assert attempts.add("01", "a", passed=False) == 2
    assert attempts.add("01", "b", passed=False, tried=False) == 0
    first, second = progress.examine()
    assert (first.run, first.passed, second.run, second.passed) == ("begun", 1, "yes", 0)
    assert second.standings == {"a": Standing(False, 2), "b": Standing(False, 0)}
    shown = learner.course("progress").out
    assert "a: passes" in shown
    assert "b: not begun" in shown
    assert "a: not yet (2 tries)" in shown
    assert "b: not written" in shown
    assert "1 of 2" in shown


def test_failures_are_counted_across_kernels_and_a_right_answer_begins_anew(learner):
    attempts.add("00", "a", passed=False)
    attempts._here.clear()  # the kernel is started again
    assert attempts.add("00", "a", passed=False) == 2
    attempts.add("00", "a", passed=True)
    assert attempts.read()["00", "a"] == Standing(True, 0)
    assert attempts.add("00", "a", passed=False) == 1
    assert attempts.read()["00", "a"] == Standing(False, 1)


def test_nothing_recorded_yet_is_said(learner):
    ended = learner.course("progress")
    assert ended.status == 0
    assert "No check of an exercise was run in a notebook yet" in ended.out


def test_a_chapter_that_the_command_has_run_counts_as_run(learner):
    out = learner.root / "build" / "course"
    out.mkdir(parents=True)
    told = {"source_sha256": "", "parameters": {}, "seconds": 1.0, "figures": {}}
    chapters = {"00-first": told | {"failure": None}, "01-second": told | {"failure": {"cell": 1}}}
    (out / "run.json").write_text(json.dumps({"settings": {}, "chapters": chapters}))
    assert [one.run for one in progress.examine()] == ["yes", "no"]
    (out / "run.json").write_text("{")
    assert [one.run for one in progress.examine()] == ["no", "no"]


@given(st.binary(max_size=60), st.lists(st.binary(max_size=30), max_size=4))
def test_a_damaged_file_costs_its_damaged_lines_alone(tmp_path_factory, noise, more):
    place = tmp_path_factory.mktemp("record") / "progress.jsonl"
    good = b'{"chapter": "00", "exercise": "a", "passed": true, "tried": true}'
    place.write_bytes(noise + b"\n" + good + b"\n" + b"\n".join(more))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(attempts, "path", lambda: place)
        patched.setattr(attempts, "_in_a_notebook", lambda: True)
        patched.setattr(attempts, "_here", {})
        assert attempts.read()["00", "a"].passed
        attempts.add("00", "b", passed=False)
        assert attempts.read()["00", "b"] == Standing(False, 1)
    shutil.rmtree(place.parent)


@pytest.mark.parametrize(
    "text",
    [
        '{"chapter": 0, "exercise": "a", "passed": true, "tried": 1}',
        '{"chapter": "00"}',
        "[1]",
        "null",
        "[" * 10**5,
    ],
)
def test_a_line_that_is_no_record_is_passed_over(learner, text):
    attempts.path().parent.mkdir()
    attempts.path().write_text(text)
    assert attempts.read() == {}
    attempts.add("00", "a", passed=True)
    assert attempts.read() == {("00", "a"): Standing(True, 0)}


@pytest.mark.parametrize("broken", ["file", "folder", "no checkout", "bad path"])
def test_what_cannot_be_written_does_not_break_the_check_and_is_counted_in_memory(
    learner, monkeypatch, broken
):
    if broken == "file":
        (learner.root / "build").write_text("")  # a folder cannot be made here
    elif broken == "folder":
        attempts.path().mkdir(parents=True)
    elif broken == "no checkout":
        monkeypatch.setenv("COURSE_HOME", str(learner.root / "gone"))
    else:
        monkeypatch.setattr(attempts, "path", lambda: Path("a name that no file can have \0"))
    assert [attempts.add("00", "a", passed=False) for _ in range(3)] == [1, 2, 3]


def _add_many(chapter):
    attempts._in_a_notebook = lambda: True
    for _ in range(200):
        attempts.add(chapter, "a", passed=False)


def test_notebooks_side_by_side_lose_nothing(learner):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.map(_add_many, ["00", "01", "00", "01"])
    assert attempts.read() == {("00", "a"): Standing(False, 400), ("01", "a"): Standing(False, 400)}


CELL = (
    "from course_lib.checks import NotYet, chapter00 as checks\n"
    "def wrong(in_channels, out_channels, kernel_size, groups=1, bias=True):\n    return 1\n"
    "for _ in range(3):\n    try:\n        checks.check_conv_parameters(wrong)\n"
    "    except NotYet as hint:\n        print(str(hint).count('\\n'))"
)


@pytest.mark.parametrize("quiet", [False, True])
def test_in_a_kernel_it_is_recorded_but_not_where_the_course_runs_the_notebook(book, monkeypatch, quiet):
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value) if quiet else monkeypatch.delenv(name, raising=False)
    notebook = new_notebook(cells=[new_code_cell(CELL)])
    kernel = {"name": "python3", "language": "python", "display_name": "x"}
    NotebookClient(notebook, kernel_name=kernel["name"]).execute()
    assert notebook.cells[0].outputs[0].text == "0\n1\n2\n"
    assert attempts.path().is_file() is not quiet
    if not quiet:
        assert attempts.read() == {("00", "conv-parameters"): Standing(False, 3)}


def test_course_run_records_nothing(book):
    book.add("00-a", CELL)
    assert book.course("run").status == 0
    assert not attempts.path().exists()


def test_this_process_is_no_notebook():
    assert not attempts._in_a_notebook()
