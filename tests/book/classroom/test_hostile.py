"""A class of which most mean harm, graded together: each loses its own points and no others, and is told why."""

import csv
import os

import pytest

from course_lib.book.classroom import sandbox
from tests.book.classroom.hostile import KINDS
from tests.book.classroom.test_grade import CHAPTER, LIMITS, Class, answered, run, write_chapter
from tests.book.conftest import Book
from tests.book.processes import held

pytestmark = pytest.mark.bad_input


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """All kinds, graded once: (lines of grades.csv, pages, what lies around)."""
    root = tmp_path_factory.mktemp("hostile")
    for name in ("data", "notebooks"):
        (root / name).mkdir()
    book = Book(root)
    write_chapter(book)
    run(book, "release", root / "handed out")
    students = Class(book, root / "handed out" / "notebooks" / f"{CHAPTER}.ipynb")
    for name, kind in KINDS.items():
        double = kind.double.replace("{home!r}", repr(str(root)))
        notebook = answered(
            students.handed_out, double or "def double(x):\n    return x + x", *[kind.conv][: bool(kind.conv)]
        )
        if kind.change:
            kind.change(notebook)
        students.add(name, kind.points, notebook)
    os.environ["TOKEN"] = "secret"
    try:
        before = held(root)
        said = run(book, "grade", students.folder, *LIMITS).stdout
    finally:
        del os.environ["TOKEN"]
    out = root / "handed in-grades"
    assert held(root) == sorted([*before, out.name])
    assert "fault of the machine" not in said
    with open(out / "grades.csv", newline="") as stream:
        lines = {line["student"]: line for line in csv.DictReader(stream)}
    return lines, {path.stem: path.read_text() for path in (out / "feedback").glob("*.html")}


@pytest.mark.parametrize("name", KINDS)
def test_each_loses_its_own_points_with_the_reason(graded, name):
    lines, pages = graded
    kind = KINDS[name]
    if kind.closed and sandbox.refusal():
        pytest.skip(sandbox.refusal())
    line = lines[name]
    assert (line["points"], line["max_points"]) == (str(kind.points), "5"), pages[name]
    assert kind.said in pages[name]
    assert "by hand" not in line["reason"]
    if kind.points < 5:
        lost = "conv-parameters" if kind.conv else "double"
        assert f"{lost} 0/" in line["exercises"]
        after = pages[name].split(f"<h3>{lost}: 0 of ")[1].split('<p class="said">')[1]
        assert after.split("</p>")[0].strip(), "no reason is given"


def test_the_kinds_are_many_and_honest_ones_are_among_them():
    assert len(KINDS) >= 57
    assert sum(kind.points == 5 for kind in KINDS.values()) >= 5
