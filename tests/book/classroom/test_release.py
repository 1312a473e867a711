"""`course release`: what is handed out holds no solution, and stands on its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

import course_lib
from course_lib.book import notebooks
from tests.book.conftest import marks

pytestmark = pytest.mark.bad_input
ROOT = Path(course_lib.__file__).resolve().parents[1]

SOLUTION = "def secret():\n    ### BEGIN SOLUTION\n    return 'the answer'\n    ### END SOLUTION"
CHECK = "assert secret()\n### BEGIN HIDDEN TESTS\nassert secret() == 'hidden'\n### END HIDDEN TESTS"


@pytest.fixture
def checkout(book):
    """A checkout with two chapters, a library and what else lies in one."""
    for name in ("00-first", "01-second"):
        book.add(name, "print('shown')", setup="import math")
        book.add_exercises(name, (SOLUTION, marks("secret")), (CHECK, marks("check-secret", 1)))
    for name in ("course_lib/__init__.py", "course_lib/__pycache__/x.pyc", "data/glyphs.npz", "data/downloads/mnist",
                 "notebooks/index.md", "notebooks/images/a.png", "notebooks/profiles/full.yaml", "tests/answers.py",
                 "pyproject.toml", "constraints.txt", "LICENSE", ".git/HEAD"):  # fmt: skip
        (book.root / name).parent.mkdir(parents=True, exist_ok=True)
        (book.root / name).write_text("the answer" if "tests" in name else "")
    (book.root / "README.md").write_text("# A course\n\nFor teachers.\n")
    return book


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_the_chapters_go_out_without_solutions_with_library_data_and_readme(checkout, tmp_path):
    out = tmp_path / "out"
    before = {path: path.read_bytes() for path in (checkout.root / "notebooks").glob("*.ipynb")}
    ended = checkout.course("release", out)
    assert (ended.status, ended.err) == (0, "")
    assert ended.out == f"Handed out in {out}: 00-first, 01-second\n"
    assert files_in(out) == [
        "LICENSE", "README.md", "constraints.txt", "course_lib/__init__.py", "data/glyphs.npz",
        "notebooks/00-first.ipynb", "notebooks/01-second.ipynb", "notebooks/images/a.png", "notebooks/index.md",
        "notebooks/profiles/full.yaml", "pyproject.toml",
    ]  # fmt: skip
    for path in out.rglob("*"):
        assert not path.is_file() or "the answer" not in path.read_text()
    handed_out = (out / "notebooks" / "00-first.ipynb").read_text()
    assert "raise NotImplementedError" in handed_out
    assert "hidden" not in handed_out
    notebook = nbformat.reads(handed_out, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    assert [cell.metadata.nbgrader.grade_id for cell in notebook.cells if "nbgrader" in cell.metadata] == [
        "secret",
        "check-secret",
    ]
    assert [cell.source for cell in notebook.cells if "exercise-setup" in cell.metadata.get("tags", [])] == [
        "import math"
    ]
    readme = (out / "README.md").read_text()
    assert readme.startswith("# A course\n")
    assert "pip install -c constraints.txt" in readme
    assert "jupyter lab notebooks" in readme
    assert "notebooks/01-second.ipynb: Title of 01-second" in readme
    assert {path: path.read_bytes() for path in before} == before
    assert not list(tmp_path.glob(".out*"))


def test_chapters_can_be_chosen(checkout, tmp_path):
    assert checkout.course("release", tmp_path / "out", "01").status == 0
    assert [path.name for path in (tmp_path / "out" / "notebooks").glob("*.ipynb")] == ["01-second.ipynb"]


def test_the_studies_of_a_chapter_go_with_it_as_they_are(checkout, tmp_path):
    for name in ("00-first", "01-second"):
        checkout.add(f"studies/{name}", "print('shown')")
    ended = checkout.course("release", tmp_path / "out", "01")
    assert (ended.status, ended.out) == (0, f"Handed out in {tmp_path / 'out'}: 01-second\n")
    (given,) = (tmp_path / "out" / "notebooks" / "studies").iterdir()
    assert given.read_bytes() == checkout.path("studies/01-second").read_bytes()


def test_nothing_is_written_over_unless_asked_and_other_files_stay(checkout, tmp_path):
    out = tmp_path / "out"
    (out / "notebooks").mkdir(parents=True)
    (out / "notebooks" / "mine.txt").write_text("mine")
    (out / "README.md").write_text("mine")
    ended = checkout.course("release", out)
    assert ended.status == 2
    assert f"{out} is not empty. Choose another folder, or write over what is there: --force" in ended.err
    assert files_in(out) == ["README.md", "notebooks/mine.txt"]
    assert checkout.course("release", out, "--force").status == 0
    assert (out / "README.md").read_text() != "mine"
    assert (out / "notebooks" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "place", [".", "notebooks", "notebooks/new", "course_lib/new", "data", "..", "tests/new"]
)
def test_the_course_itself_is_never_written_over(checkout, place):
    before = (checkout.root / "notebooks" / "00-first.ipynb").read_bytes()
    ended = checkout.course("release", checkout.root / place, "--force")
    assert ended.status == 2
    assert "is part of the course itself or holds it" in ended.err
    assert (checkout.root / "notebooks" / "00-first.ipynb").read_bytes() == before


def test_an_unknown_chapter_and_a_file_are_errors(checkout, tmp_path):
    ended = checkout.course("release", tmp_path / "out", "7")
    assert (ended.status, ended.err) == (2, "course: unknown chapter '7'. Known: 00-first, 01-second.\n")
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    assert "is a file; name a folder" in checkout.course("release", tmp_path / "file").err


def test_a_chapter_that_nbgrader_refuses_is_named(checkout, tmp_path):
    checkout.add_exercises("00-first", (SOLUTION.replace("    ### END SOLUTION", ""), marks("other")))
    ended = checkout.course("release", tmp_path / "out")
    assert ended.status == 2
    assert ended.err.startswith("course: nbgrader refuses 00-first.ipynb: ")
    assert not (tmp_path / "out").exists()


def test_what_is_handed_out_works_without_the_checkout(tmp_path, monkeypatch):
    """The real library, handed out with one chapter: its command runs from there, and sees that chapter alone."""
    monkeypatch.setenv("COURSE_HOME", str(ROOT))
    from course_lib.book.classroom import release

    release.write(tmp_path / "out", ["00"])
    text = (tmp_path / "out" / "notebooks" / "00-why-compress.ipynb").read_text()
    assert "SOLUTION" not in text
    assert notebooks.read(tmp_path / "out" / "notebooks" / "00-why-compress.ipynb").cells
    environment = {name: value for name, value in os.environ.items() if name != "COURSE_HOME"}
    done = subprocess.run(
        [sys.executable, "-c", "from course_lib.book.cli import app; app()", "progress"],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(tmp_path / "out"), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "00-why-compress" in done.stdout
    assert "0 of 4" in done.stdout
    shutil.rmtree(tmp_path / "out")
