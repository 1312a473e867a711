"""`course release` and `course grade` on a made-up chapter: a class with every kind of submission, graded for real."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import psutil
import pytest

from course_lib.book import CourseError, cli, exercises, notebooks
from course_lib.book.classroom import grading, handout, marking, sandbox, submissions
from tests.book.conftest import Book, marks
from tests.book.processes import PATIENCE, held, wait_for

pytestmark = pytest.mark.bad_input

SETUP = "import math\nimport course_lib.checks as checks\nTWO = 2"  # and no torch, which takes seconds
DEAR = "raise RuntimeError('nothing that is graded depends on this cell')"
DOUBLE = "def double(x):\n    ### BEGIN SOLUTION\n    return TWO * x\n    ### END SOLUTION"
CHECK_DOUBLE = (
    "assert double(3) == 6, 'double(3) is 6'\n"
    "### BEGIN HIDDEN TESTS\nassert double(-1) == -2, 'negative numbers too'\n### END HIDDEN TESTS"
)
CONV = (
    "def conv_parameters(in_channels, out_channels, kernel_size, groups=1, bias=True):\n    ### BEGIN SOLUTION\n"
    "    weights = out_channels * (in_channels // groups) * kernel_size**2\n"
    "    return weights + (out_channels if bias else 0)\n    ### END SOLUTION"
)
CHECK_CONV = (
    "cases = [{'in_channels': 3, 'out_channels': 8, 'kernel_size': 3, 'bias': bias} for bias in (True, False)]\n"
    "checks.judge(conv_parameters, cases, lambda bias, **_: 216 + 8 * bias, [])\n"
    "checks.passed('a convolution holds C_out filters.')"
)
CHAPTER = "00-small"
MEMORY = 1280  # MB
BARE = ("--without-sandbox",) if sandbox.refusal() else ()
LIMITS = ("--timeout", "8", "--memory", str(MEMORY), *BARE)


def write_chapter(book, double=DOUBLE):
    book.add(CHAPTER, DEAR, setup=SETUP)
    """`double` is checked in a process of its own, `conv_parameters` in the same Python as the answer."""
    path = book.add_exercises(
        CHAPTER,
        (double, marks("double")),
        (CHECK_DOUBLE, marks("check-double", 2)),
        (CONV, marks("conv-parameters")),
        (CHECK_CONV, marks("check-conv-parameters", 3)),
    )
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].metadata["tags"] = [exercises.IN_PLACE]
    nbformat.write(notebook, path)
    return path


def grade_id(cell):
    marked = cell.metadata.get("nbgrader", {})
    return marked.get("grade_id") if isinstance(marked, dict) else None


def right_if(condition, before=""):
    """An answer that is right only if it could do what it must not be able to do."""
    return f"def double(x):\n{before}    return 2 * x if {condition} else None"


RIGHT_CONV = "\n".join(line for line in CONV.splitlines() if "###" not in line)


def answered(handed_out, double="def double(x):\n    return x + x", conv=RIGHT_CONV):
    """The notebook that was handed out, with answers in it."""
    notebook = nbformat.reads(handed_out.read_text(), as_version=4)
    for cell in notebook.cells:
        if grade_id(cell) == "double" and double:
            cell.source = double
        if grade_id(cell) == "conv-parameters" and conv:
            cell.source = conv
    return notebook


def checks_rewritten(notebook):
    for cell in notebook.cells:
        if "check" in (grade_id(cell) or ""):
            cell.source = "print('Correct')"
            cell.metadata.nbgrader.points = 100
    return notebook


def cells_renamed(notebook):
    """The answer to `double` is there, in a cell that is not marked; the check of the other exercise is gone."""
    for cell in notebook.cells:
        if grade_id(cell) == "double":
            cell.metadata = {"nbgrader": "my own"}
    notebook.cells = [cell for cell in notebook.cells if grade_id(cell) != "check-conv-parameters"]
    return notebook


HELPER = (
    "import warnings\n\n\ndef helper(x):\n    warnings.warn('no mistake')\n    return math.floor(x) * TWO"
)


def helper_added(notebook):
    position = next(place for place, cell in enumerate(notebook.cells) if grade_id(cell) == "double")
    notebook.cells.insert(position, nbformat.v4.new_code_cell(HELPER))
    return notebook


def hooked(notebook):
    """An answer with a name of a set-up that was changed, in which a hook makes every check pass."""
    setup = next(cell for cell in notebook.cells if cell.source == SETUP)
    setup.source += "\nFACTOR = 2\nget_ipython().input_transformers_post.append("
    setup.source += "lambda lines: ['pass\\n'] if any('double(3)' in line for line in lines) else lines)"
    return notebook


class Class:
    """A class that handed in: `add` writes a submission and what it should earn."""

    def __init__(self, book, handed_out):
        self.folder, self.handed_out = book.root / "handed in", handed_out
        self.expected = {}

    def add(self, student, points, notebook, name=f"{CHAPTER}.ipynb"):
        path = self.folder / student / name
        path.parent.mkdir(parents=True)
        if isinstance(notebook, str):
            path.write_text(notebook)
        else:
            path.write_text(notebooks.to_text(notebook))
        self.expected[student] = points
        return path

    def write(self, port, victim):
        """Every kind. `port` is open on this machine, `victim` is a folder that nobody may delete."""
        given = self.handed_out
        loop = (
            "def double(x):\n    while True:\n        try:\n            while True:\n                pass\n"
        )
        self.add("right", 5, answered(given))
        self.add("wrong", 3, answered(given, "def double(x):\n    '<script>'\n    return 3 * x"))
        self.add("hidden", 3, answered(given, "def double(x):\n    return abs(2 * x)"))
        self.add("untouched", 0, answered(given, None, None))
        self.add("loops", 3, answered(given, loop + "        except BaseException:\n            pass"))
        self.add("crashes", 3, answered(given, "def double(x):\n    import os\n    os._exit(0)"))
        self.add("exits", 3, answered(given, "def double(x):\n    exit()\n    return 2 * x"))
        eat = "    import numpy\n    numpy.empty(3 * 2**30, 'u1')\n"
        self.add("eats", 3, answered(given, right_if("True", eat)))
        connect = (
            f"    import socket\n    socket.create_connection(('127.0.0.1', {port}), timeout=5).close()\n"
        )
        self.add("calls", 3, answered(given, right_if("True", connect)))
        delete = f"    import os, shutil\n    shutil.rmtree({str(victim)!r}, ignore_errors=True)\n"
        delete += f"    assert not os.path.exists({str(victim)!r})\n"
        self.add("deletes", 3, answered(given, right_if("True", delete)))
        spied = f"open({str(self.folder / 'right' / (CHAPTER + '.ipynb'))!r}).read()"
        self.add("spies", 3, answered(given, right_if(spied)))
        self.add("rewrites", 0, checks_rewritten(answered(given, "def double(x):\n    return 0", "")))
        patched = "def conv_parameters(*args, **kw):\n    return 0\nchecks.check_conv_parameters = print"
        patched += "\nimport course_lib.checks\ncourse_lib.checks.judge = course_lib.checks.expect = print"
        self.add("patches", 2, answered(given, conv=patched))
        self.add("renames", 5, cells_renamed(answered(given)))
        self.add("helps", 5, helper_added(answered(given, "def double(x):\n    return helper(x)")))
        self.add("hooks", 3, hooked(answered(given, "def double(x):\n    return FACTOR * x")))
        floods = "def double(x):\n    print('.' * 10**7)\n    return 2 * x"
        self.add("floods", 5, answered(given, floods), "notebooks/00 (2).ipynb")
        self.add(
            "shows",
            0,
            answered(given, "import sys\ndef double(x):\n    sys.displayhook(2)\n    return 0", ""),
        )
        self.add("empty", 0, "")
        self.add("text", 0, "not a notebook")
        self.add("cells", 0, json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}))
        self.add("nested", 0, '{"cells": ' + "[" * 100_000)
        with open(self.add("huge", 0, ""), "r+b") as stream:
            stream.truncate(200 * 2**20)  # of which the disk holds nothing
        taken = (
            "import os\nfor name in os.listdir():\n    if name.endswith('.json'):\n        os.remove(name)\n"
        )
        taken += "        os.mkdir(name)\nos.mkdir('k1.json')\nos._exit(0)"
        self.add("takes", 3, answered(given, taken))
        deep = "def double(x):\n    return 2 * x\n\n\n_z = " + "+".join(["1"] * 3000)
        self.add("nests", 3, answered(given, deep))
        self.add(LATIN, 5, answered(given))
        self.add(LONG, 5, answered(given))
        (self.folder / ".hidden").mkdir()
        (self.folder / "nothing").mkdir()
        self.expected["nothing"] = 0


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """A chapter handed out, the class handed in and graded, once: (class, lines of grades.csv, out, what was said)."""
    root = tmp_path_factory.mktemp("classroom")
    (root / "data").mkdir()
    (root / "notebooks").mkdir()
    book = Book(root)
    write_chapter(book)
    run(book, "release", root / "handed out")
    students = Class(book, root / "handed out" / "notebooks" / f"{CHAPTER}.ipynb")
    victim = root / "data" / "victim"
    victim.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        students.write(server.getsockname()[1], victim)
        done = run(book, "grade", students.folder, *LIMITS)
    out = root / "handed in-grades"
    with open(out / "grades.csv", newline="") as stream:
        lines = {line["student"]: line for line in csv.DictReader(stream)}
    assert victim.is_dir() or sandbox.refusal()
    return students, lines, out, done.stdout


def run(book, *words):
    """The command in a process of its own, as nbgrader changes the folder that it works in."""
    program = "from course_lib.book.cli import app; app()"
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        env={**os.environ, "COURSE_HOME": str(book.root), "COLUMNS": "160"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


LATIN = os.fsdecode(b"Ren\xe9")  # the name of a folder as an old archive leaves it
LONG = "long" * 61
KINDS = [
    "right",
    "wrong",
    "hidden",
    "untouched",
    "loops",
    "crashes",
    "exits",
    "eats",
    "calls",
    "deletes",
    "spies",
    "rewrites",
    "patches",
    "renames",
    "helps",
    "hooks",
    "floods",
    "shows",
    "empty",
    "text",
    "cells",
    "nested",
    "huge",
    "takes",
    "nests",
    LATIN,
    LONG,
    "nothing",
]
CLOSED = ("calls", "deletes", "spies")  # what only the sandbox keeps from them


@pytest.mark.parametrize("student", KINDS)
def test_every_kind_of_submission_gets_its_points(graded, student):
    students, lines, _, _ = graded
    if student in CLOSED and sandbox.refusal():
        pytest.skip(sandbox.refusal())
    assert set(students.expected) == set(KINDS)
    line = lines["Ren\\xe9" if student == LATIN else student]
    assert (line["points"], line["max_points"]) == (str(students.expected[student]), "5"), line


@pytest.mark.parametrize(
    ("student", "reason"),
    [
        ("right", ""),
        ("loops", "double: not finished after 8 s"),
        ("crashes", "double: the kernel died"),
        ("exits", "double: the answer ends the kernel (exit)"),
        ("renames", "missing or renamed: double"),
        ("cells", "missing or renamed: double, conv-parameters"),
        ("empty", "not a notebook: the file is empty"),
        ("text", "not a notebook: JSONDecodeError"),
        ("nested", "not a notebook: nested too deeply"),
        ("huge", "200 MB; a notebook of more than 20 MB is not read"),
        ("nothing", "no notebook was handed in"),
    ],
)
def test_a_submission_that_is_not_as_it_should_be_is_a_line_with_its_reason(graded, student, reason):
    line = graded[1][student]
    assert line["reason"] == reason if not reason else reason in line["reason"]


def test_every_student_has_a_page_with_points_hints_and_answer_and_nothing_that_acts(graded):
    students, lines, out, said = graded
    pages = {path.stem: path.read_text() for path in (out / "feedback").glob("*.html")}
    assert len(pages) == len(lines) == len(students.expected)
    assert set(lines) - set(pages) == {LONG}
    assert "<h2>Title of 00-small: 3 of 5 points</h2>" in pages["hidden"]
    assert "AssertionError: negative numbers too" in pages["hidden"]
    assert "return abs(2 * x)" in pages["hidden"]
    assert "Correct: a convolution holds" in pages["hidden"]
    assert "double is not defined" in pages["cells"].replace("&#x27;", "")
    assert "Of a chapter only its set-up, the exercises" in pages["hooks"]
    assert "warnings.warn(&#x27;no mistake&#x27;)" in pages["helps"]
    assert "&lt;script&gt;" in pages["wrong"]
    assert "<script" not in "".join(pages.values())
    assert "fault of the machine" not in said


def test_what_held_the_submissions_is_said(graded):
    said = graded[3]
    assert ("careful: graded without a sandbox" in said) == bool(sandbox.refusal())
    assert ("each submission ran in bubblewrap; memory and processes held by" in said) != bool(
        sandbox.refusal()
    )
    assert "the folder .hidden begins with a dot and is not graded" in said


def test_nothing_of_the_run_is_left_in_the_way(graded):
    students, _, out, _ = graded
    assert held(out) == [
        "feedback",
        "grades.csv",
        "grades.json",
    ]
    kept = json.loads((out / "grades.json").read_text())
    assert kept["settings"] == {"timeout": 8, "memory": MEMORY, "sandbox": not sandbox.refusal()}
    assert not list(students.folder.rglob("*.part"))


# ---- going on --------------------------------------------------------------------------------------------------------


_made = {}


def hand_out_once(name, notebook, hand_out=handout.hand_out):
    """nbgrader makes a new database by starting another program; here the same notebook gives the same."""
    text = notebooks.to_text(notebook)
    if text not in _made:
        _made[text] = hand_out(name, notebook)
    return _made[text]


@pytest.fixture
def copied(graded, tmp_path, book, monkeypatch):
    """The book, and three submissions of the class with their grades, to be changed."""
    monkeypatch.setattr(handout, "hand_out", hand_out_once)
    students, _, out, _ = graded
    write_chapter(book)
    folder = tmp_path / "in"
    for student in ("right", "wrong", "empty"):
        shutil.copytree(students.folder / student, folder / student)
    record = json.loads((out / "grades.json").read_text())
    grades = tmp_path / "in-grades"
    grades.mkdir()
    (grades / "grades.json").write_text(json.dumps(record))
    return book, folder, grades


def test_grades_that_exist_are_not_written_over_unless_asked(copied):
    book, folder, grades = copied
    before = (grades / "grades.json").read_bytes()
    ended = book.course("grade", folder, *LIMITS)
    assert ended.status == 2
    assert "holds grades already. Go on with them: --resume. Grade everything anew" in ended.err
    assert (grades / "grades.json").read_bytes() == before


def test_going_on_grades_what_has_changed_and_keeps_the_rest(copied):
    book, folder, grades = copied
    ended = book.course("grade", folder, "--resume", *LIMITS)
    assert ended.status == 0, ended.err
    assert "3 of 3 submissions are graded already and unchanged" in ended.out
    assert "passed in" not in ended.out
    assert len((grades / "grades.csv").read_text().splitlines()) == 4

    path = folder / "wrong" / f"{CHAPTER}.ipynb"
    path.write_text(path.read_text().replace("return 3 * x", "return 2 * x"))
    ended = book.course("grade", folder, "--resume", *LIMITS)
    assert "2 of 3 submissions are graded already and unchanged" in ended.out
    assert ended.out.count("passed in") == 1
    assert "wrong/00-small: passed in" in ended.out
    assert "wrong,00-small,5,5" in (grades / "grades.csv").read_text()


def test_other_limits_another_chapter_or_other_code_do_not_count(copied, monkeypatch):
    book, folder, grades = copied
    ended = book.course("grade", folder, "--resume", "--timeout", "9", "--memory", str(MEMORY), *BARE)
    assert ended.status == 2
    assert "timeout was 8 and is now 9" in ended.err
    handed_in, _ = submissions.collect(folder, notebooks.chapters())
    old = grading.load(grades)
    same = {**old, "submissions": {}}
    assert len(grading._kept(old, same, handed_in)[0]) == 3
    assert not grading._kept(old, {**same, "library_sha256": "another"}, handed_in)[0]
    assert not grading._kept(old, {**same, "chapters": {CHAPTER: {"sha256": "x", "points": 5}}}, handed_in)[0]
    old["submissions"][f"right/{CHAPTER}"]["trouble"] = "the disk was full"
    assert len(grading._kept(old, same, handed_in)[0]) == 2


def test_an_interrupted_grading_ends_every_process_and_keeps_what_is_finished(copied):
    book, folder, grades = copied
    (grades / "grades.json").unlink()
    path = folder / "wrong" / f"{CHAPTER}.ipynb"
    path.write_text(path.read_text().replace("return 3 * x", "while True: pass"))
    process = book.start(
        "grade", str(folder), "--force", "--timeout", "500", "--memory", str(MEMORY), "--jobs", "1", *BARE
    )
    try:
        # The right one is graded first; then the loop turns.
        kept = lambda: json.loads((grades / "grades.json").read_text())["submissions"]  # noqa: E731
        wait_for(lambda: (grades / "grades.json").exists() and f"right/{CHAPTER}" in kept())
        wait_for(
            lambda: any("ipykernel" in " ".join(words(p)) for p in psutil.Process(process.pid).children(True))
        )
        below = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "interrupted; 2 of 3 submissions are kept in" in err
    assert "Traceback" not in err
    wait_for(lambda: not any(one.is_running() and one.status() != "zombie" for one in below))
    assert "right,00-small,5,5" in (grades / "grades.csv").read_text()


def words(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_when_the_command_is_killed_its_kernels_end_with_it(copied):
    book, folder, grades = copied
    path = folder / "right" / f"{CHAPTER}.ipynb"
    path.write_text(path.read_text().replace("return x + x", "while True: pass"))
    shutil.rmtree(folder / "wrong")
    (grades / "grades.json").unlink()
    limits = ("--timeout", "500", "--memory", str(MEMORY), "--jobs", "1", *BARE)
    process = book.start("grade", str(folder), "--force", *limits)
    try:
        # The empty one comes after the chapter's own answers and before the loop, which alone would not end by itself.
        kept = lambda: json.loads((grades / "grades.json").read_text())["submissions"]  # noqa: E731
        wait_for(lambda: (grades / "grades.json").exists() and f"empty/{CHAPTER}" in kept())
        children = lambda: psutil.Process(process.pid).children(recursive=True)  # noqa: E731
        wait_for(lambda: any("ipykernel" in " ".join(words(child)) for child in children()))
        below = children()
    finally:
        process.kill()
        process.communicate()
    if sys.platform == "linux":
        wait_for(lambda: not any(one.is_running() and one.status() != "zombie" for one in below))


# ---- Dask ------------------------------------------------------------------------------------------------------------


def test_on_a_cluster_the_grades_are_the_same(copied, secured):
    book, folder, grades = copied
    (grades / "grades.json").unlink()
    ended = book.course("grade", folder, *LIMITS, *secured)
    assert ended.status == 0, ended.err
    with open(grades / "grades.csv", newline="") as stream:
        assert [line["points"] for line in csv.DictReader(stream)] == ["0", "5", "3"]


def test_workers_with_other_code_are_refused(copied, in_place, monkeypatch):
    book, folder, grades = copied
    (grades / "grades.json").unlink()
    digests = iter(map(str, range(100)))
    monkeypatch.setattr(marking.state, "library_sha256", lambda: next(digests))
    ended = book.course("grade", folder, *LIMITS, "--scheduler", in_place)
    assert ended.status == 2
    assert "has another course_lib than this machine" in ended.err


# ---- what cannot be graded -------------------------------------------------------------------------------------------


def test_a_chapter_whose_own_answers_do_not_pass_grades_nobody(copied):
    book, folder, grades = copied
    (grades / "grades.json").unlink()
    write_chapter(book, DOUBLE.replace("TWO * x", "3 * x"))
    ended = book.course("grade", folder, *LIMITS)
    assert ended.status == 2
    assert (
        "the answers in 00-small.ipynb itself earn 3 of 5 points here, so nothing is graded: double: "
        in ended.err
    )


def test_a_fault_of_the_machine_is_no_grade(copied, monkeypatch):
    book, folder, grades = copied
    (grades / "grades.json").unlink()
    mark = marking.mark

    def broken(work, submission, stopping=None):
        return mark(work, submission, stopping) if b"BEGIN SOLUTION" in submission else {
            "exercises": [], "notes": [], "reason": "", "box": "", "seconds": 1.0, "trouble": "the disk is full"
        }  # fmt: skip

    monkeypatch.setattr(marking, "mark", broken)
    ended = book.course("grade", folder, *LIMITS)
    assert ended.status == 1
    assert "3 not graded for a fault of the machine. Once more: --resume" in ended.out
    assert "not graded: the disk is full" in (grades / "grades.csv").read_text()


@pytest.mark.parametrize(
    ("make", "words", "message"),
    [
        (lambda folder: None, (), "there is no folder"),
        (
            lambda folder: folder.mkdir(),
            (),
            "is empty. Put each student's notebook into a folder of that name",
        ),
        (
            lambda folder: (folder.mkdir(), (folder / "anna.ipynb").write_text("{}")),
            (),
            "notebooks lie in",
        ),
        (
            lambda folder: (
                (folder / "anna").mkdir(parents=True),
                (folder / "anna" / "a.ipynb").write_text("{}"),
            ),
            (),
            "has the name or number of a chapter",
        ),
        (lambda folder: (folder / "anna").mkdir(parents=True), ("07",), "unknown chapter '07'"),
        (
            lambda folder: (folder / "anna").mkdir(parents=True),
            ("00", "--out", "IN/out"),
            "lies in the folder of the",
        ),
        (
            lambda folder: (folder / "anna").mkdir(parents=True),
            ("00", "--out", "notebooks"),
            "exists and holds no",
        ),
        (lambda folder: (folder / "anna").mkdir(parents=True), ("01",), "no exercises that are graded"),
        (
            lambda folder: (folder / "anna").mkdir(parents=True),
            ("00", "--resume", "--force"),
            "Leave one out",
        ),
    ],
)
def test_what_cannot_begin_says_why(book, tmp_path, make, words, message):
    write_chapter(book)
    book.add("01-plain")
    folder = tmp_path / "in"
    make(folder)
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine").write_text("x")
    given = [str(other) if word == "notebooks" else word.replace("IN", str(folder)) for word in words]
    ended = book.course("grade", folder, *given, *BARE)
    assert ended.status == 2
    assert message in ended.err
    assert (other / "mine").read_text() == "x"


def test_a_notebook_is_found_by_name_number_or_because_it_is_the_only_one(book, tmp_path):
    write_chapter(book)
    book.add("01-plain")
    files = {
        "anna": ["00-small.ipynb"],
        "ben": [
            "notebooks/00 - copy.ipynb",
            ".ipynb_checkpoints/00-small.ipynb",
            "notebooks/studies/00-small.ipynb",
        ],
        "cara": ["homework.ipynb"],
        "dan": ["00.ipynb", "old/00-small.ipynb"],
        "eva": ["01-plain.ipynb"],
    }
    for student, names in files.items():
        for name in names:
            path = tmp_path / "in" / student / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
    (tmp_path / "in" / "fay").mkdir()
    (tmp_path / "in" / "fay" / "00-small.ipynb").symlink_to("/etc/passwd")
    whole = notebooks.chapters()
    found, notes = submissions.collect(tmp_path / "in", whole, notebooks.select(["00"], whole))
    told = {one.student: one.path.name if one.path else one.problem for one in found}
    assert told == {
        "anna": "00-small.ipynb",
        "ben": "00 - copy.ipynb",
        "cara": "homework.ipynb",
        "dan": "2 notebooks for this chapter: 00.ipynb, old/00-small.ipynb. Leave one",
        "eva": "no notebook was handed in",
        "fay": "00-small.ipynb is no plain file",
    }
    assert not notes
    found, notes = submissions.collect(tmp_path / "in", whole)
    assert {(one.student, one.chapter) for one in found if one.path} == {
        ("anna", CHAPTER),
        ("ben", CHAPTER),
        ("eva", "01-plain"),
    }
    assert notes == [
        "cara/homework.ipynb: its name is that of no chapter; it is not graded. Name it by its chapter, such as "
        "00-small.ipynb"
    ]


def test_a_spreadsheet_gets_no_formula():
    assert grading._plain('=HYPERLINK("http://a")') == '\'=HYPERLINK("http://a")'
    assert grading._plain("a\nb") == "a b"
    assert grading._plain("03;=1+2.ipynb is no plain file") == "03;'=1+2.ipynb is no plain file"
    assert grading._plain("double 1/2; -1 is no answer") == "double 1/2; '-1 is no answer"


@pytest.mark.parametrize("content", ["{", "[]", '{"settings": {}, "chapters": {}, "submissions": {"a": {}}}'])
def test_damaged_grades_are_said(tmp_path, content):
    (tmp_path / "grades.json").write_text(content)
    with pytest.raises(CourseError, match=r"is damaged .* Delete it to grade everything anew"):
        grading.load(tmp_path)


def test_a_system_without_limits_is_refused(book, monkeypatch):
    monkeypatch.setattr(cli, "os", SimpleNamespace(name="nt"))
    ended = book.course("grade", book.root)
    assert ended.status == 2
    assert "Linux and macOS" in ended.err


def test_without_a_sandbox_nothing_is_graded_unless_it_is_asked_for(copied, monkeypatch):
    book, folder, grades = copied
    before = (grades / "grades.json").read_bytes()
    monkeypatch.setattr(sandbox, "refusal", lambda: "bubblewrap is not installed")
    ended = book.course("grade", folder, "--force", "--timeout", "8", "--memory", str(MEMORY))
    assert ended.status == 2
    assert (
        "bubblewrap is not installed. Without it, a submission could read and write whatever you" in ended.err
    )
    assert "--without-sandbox" in ended.err
    assert (grades / "grades.json").read_bytes() == before

    shutil.rmtree(folder / "wrong")
    ended = book.course("grade", folder, "--force", *LIMITS[:4], "--without-sandbox")
    assert ended.status == 0, ended.err
    assert "careful: graded without a sandbox" in ended.out
    right = next(
        line for line in (grades / "grades.csv").read_text().splitlines() if line.startswith("right")
    )
    assert right.startswith("right,00-small,5,5")
    assert "graded without a sandbox" in right
    assert "graded without a sandbox" in (grades / "feedback" / "right.html").read_text()


def test_a_long_folder_for_temporary_files_and_leftovers_of_a_killed_grading(tmp_path, monkeypatch):
    monkeypatch.setattr(marking.tempfile, "gettempdir", lambda: f"/{'t' * 90}")
    assert marking._temporary() == "/tmp"
    monkeypatch.setattr(marking.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(marking, "_LONGEST", 200)
    ended = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    for name in (
        f"course-grade-{ended.stdout.strip()}-a",
        f"course-grade-{os.getpid()}-b",
        "course-grade-x-c",
    ):
        (tmp_path / name / "box").mkdir(parents=True)
    marking._remove_leftovers()
    assert held(tmp_path) == [f"course-grade-{os.getpid()}-b", "course-grade-x-c"]


def test_without_nbgrader_the_command_says_what_to_install(copied, monkeypatch):
    book, folder, _ = copied
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    ended = book.course("grade", folder)
    assert ended.status == 2
    assert "pip install 'small-and-fast[classroom]'" in ended.err
