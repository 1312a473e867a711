"""Checks away from the answer: each has its verdict, those of all chapters too; the others are listed."""

import math
import os
import socket
import sys

import pytest

from course_lib import files
from course_lib.book import exercises, notebooks
from course_lib.book.classroom import judging, values
from course_lib.book.classroom.judging import Judge, NotReady, NoVerdict
from tests.checks import solutions

pytestmark = pytest.mark.bad_input
PATH = os.pathsep.join(entry for entry in sys.path if entry)


@pytest.fixture
def judge(tmp_path):
    setup = ["import math\nTWO = 2", "print('set up')"]
    path = {"PYTHONPATH": PATH}
    with Judge(setup, ["double"], tmp_path / "v", 2**31, path) as judge:
        yield judge
    assert not judge.address.exists()


def judged(judge, check, functions):
    judge.begin(check)
    values.serve(str(judge.address), functions)
    return judge.verdict()


def test_a_check_sees_values_and_the_set_up_and_each_has_its_verdict(judge):
    right = {"double": lambda x: 2 * x}
    assert judged(judge, "assert double(3) == 3 * TWO\nprint('Correct')", right) == {
        "error": None,
        "printed": "Correct\n",
    }
    wrong = judged(judge, "assert double(3) == 6, 'double(3) is 6'", {"double": lambda x: 3})
    assert wrong["error"] == ["AssertionError", "double(3) is 6"]
    assert judged(judge, "double(3)", {})["error"] == ["NameError", "name 'double' is not defined"]
    assert judged(judge, "print(double.__name__, math.pi)", right)["printed"] == "double 3.141592653589793\n"


def test_what_the_answer_patches_in_its_own_process_is_not_in_that_of_the_check(judge, monkeypatch):
    def double(x):
        monkeypatch.setattr(math, "isclose", lambda *_: True)
        return 7

    check = "assert math.isclose(double(3), 6), 'away'"
    assert judged(judge, check, {"double": double})["error"] == ["AssertionError", "away"]
    assert math.isclose(1, 2)  # here


def test_an_answer_that_is_not_served_is_wrong_and_one_that_is_held_is_no_verdict(judge, monkeypatch):
    judge.begin("print('Correct')")
    assert judge.verdict()["error"] == ["ConnectionError", "the answer does not answer its check"]
    monkeypatch.setattr(judging, "_END", 0.5)
    judge.begin("double(3)")
    with socket.socket(socket.AF_UNIX) as held:
        held.connect(str(judge.address))
        with pytest.raises(NoVerdict, match="does not serve it"):
            judge.verdict()


def test_a_check_that_ends_its_process_is_no_verdict(judge):
    judge.begin("import os\nos._exit(0)")
    values.serve(str(judge.address), {})
    with pytest.raises(NoVerdict, match="could not bear what the answer gave it"):
        judge.verdict()


def test_a_set_up_that_fails_is_the_error_of_every_check(tmp_path):
    path = {"PYTHONPATH": PATH}
    with Judge(["raise RuntimeError('no data')"], [], tmp_path / "v", 2**31, path) as judge:
        assert judged(judge, "pass", {})["error"] == ["RuntimeError", "no data"]


# ---- the chapters ----------------------------------------------------------------------------------------------------


CHECKS = [
    (chapter.number, cell)
    for chapter in notebooks.chapters()
    for cell in notebooks.read(chapter.path).cells
    if cell.metadata.get("nbgrader", {}).get("grade")
]
APART = [(number, cell) for number, cell in CHECKS if not exercises.in_place(cell)]


@pytest.fixture(scope="module")
def of_chapters(tmp_path_factory):
    """A judge that knows the checks of all chapters, as checks00 and so on."""
    setup = [f"from course_lib.checks import chapter{number} as checks{number}" for number, _ in CHECKS]
    names = {function.__name__ for number, _ in APART for function in solutions.of(number).values()}
    environment = {"PYTHONPATH": PATH, "OMP_NUM_THREADS": "1", "COURSE_PROGRESS": "off"}
    with Judge(setup, [*names], tmp_path_factory.mktemp("j") / "v", 2**33, environment) as judge:
        yield judge


@pytest.mark.parametrize(
    ("number", "cell"), APART, ids=[f"{number}-{cell.metadata.nbgrader.grade_id}" for number, cell in APART]
)
def test_the_answers_of_the_chapters_pass_from_another_process(of_chapters, number, cell):
    answers = {function.__name__: function for function in solutions.of(number).values()}
    check = cell.source.replace("checks.", f"checks{number}.")
    verdict = judged(of_chapters, check, answers)
    assert verdict["error"] is None
    assert verdict["printed"].startswith("Correct: ")
    nothing = {name: lambda *_, **__: None for name in answers}
    assert judged(of_chapters, check, nothing)["error"][0] == "NotYet"


def test_the_teacher_reads_which_checks_run_beside_the_answer():
    listed = ", ".join(
        f"{number} {cell.metadata.nbgrader.grade_id.removeprefix('check-')}"
        for number, cell in CHECKS
        if exercises.in_place(cell)
    )
    text = " ".join((files.root() / "notebooks" / "teaching.md").read_text(encoding="utf-8").split())
    assert f"in the same Python as the answer: {listed}. Read" in text


def test_a_judge_that_does_not_start_is_no_fault_of_an_answer(tmp_path):
    with pytest.raises(NotReady), Judge([], [], tmp_path / ("v" * 200), 2**31, {"PYTHONPATH": PATH}):
        pytest.fail("it has a socket with too long a path")
