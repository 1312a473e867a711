"""`course learn`: what is in the folder, and that no work in it is ever written over."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import course_lib
from course_lib.book import CourseError, notebooks
from course_lib.book.learner import folder, lab
from tests.book.learner.conftest import change, edit_course

pytestmark = pytest.mark.bad_input
ROOT = Path(course_lib.__file__).resolve().parents[1]


def files_in(where):
    return sorted(path.relative_to(where).as_posix() for path in where.rglob("*") if path.is_file())


def contents(where):
    return {name: (where / name).read_bytes() for name in files_in(where) if ".course" not in name}


def learn(course, *words):
    ended = course.course("learn", "--no-open", *words)
    assert (ended.status, ended.err) == (0, ""), ended
    return ended.out


def test_the_folder_holds_chapters_without_solutions_studies_and_glossary(course):
    told = learn(course)
    mine = Path("my-course")
    assert files_in(mine) == [
        ".course.json", ".course.lock", ".gitignore", "00-first.ipynb", "01-second.ipynb", "glossary.md",
        "studies/01-second.ipynb",
    ]  # fmt: skip
    assert not any(b"answer" in content for content in contents(mine).values())
    assert (mine / "studies/01-second.ipynb").read_bytes() == course.path("studies/01-second").read_bytes()
    assert "New, without solutions: 00-first, 01-second, 2 files beside (studies, glossary)" in told
    assert f"Open it: cd {mine.absolute()} && jupyter lab" in told
    assert "Git leaves the folder alone" in told


def test_chapters_can_be_chosen_and_more_come_later(course):
    learn(course, "1", "--folder", "elsewhere/mine")
    assert [path.name for path in Path("elsewhere/mine").glob("*.ipynb")] == ["01-second.ipynb"]
    told = learn(course, "--folder", "elsewhere/mine")
    assert "New, without solutions: 00-first" in told
    assert "01-second" not in told


def test_inside_of_the_folder_no_other_is_made(course, monkeypatch):
    learn(course, "00")
    monkeypatch.chdir("my-course")
    learn(course, "01")
    assert files_in(Path()) == [
        ".course.json", ".course.lock", ".gitignore", "00-first.ipynb", "01-second.ipynb", "glossary.md",
        "studies/01-second.ipynb",
    ]  # fmt: skip


def test_git_leaves_the_folder_alone_unless_it_is_a_repository_or_is_to_be_kept(course):
    subprocess.run(["git", "init", "-q", "."], check=True)
    learn(course)
    seen = subprocess.run(["git", "status", "--porcelain"], check=True, capture_output=True, text=True)
    assert seen.stdout == ""
    Path("my-course/.gitignore").unlink()
    learn(course)
    assert not Path("my-course/.gitignore").exists()
    Path("own").mkdir()
    subprocess.run(["git", "init", "-q", "own"], check=True)
    assert "Git" not in learn(course, "--folder", "own")
    assert not Path("own/.gitignore").exists()


def test_what_was_not_touched_is_renewed_and_what_was_stays_with_the_new_one_beside_it(course):
    learn(course)
    first, second = Path("my-course/00-first.ipynb"), Path("my-course/01-second.ipynb")
    change(second, "one", "def one():\n    return 'mine'")
    mine, old = second.read_bytes(), first.read_bytes()
    for name in ("00-first", "01-second"):
        edit_course(course, name)
    told = learn(course)
    assert second.read_bytes() == mine
    assert b"a new cell" in first.read_bytes() != old
    beside = Path("my-course/01-second.new.ipynb")
    assert b"a new cell" in beside.read_bytes()
    assert "The course has changed, you had not: renewed are 00-first.ipynb" in told
    assert "The course has changed 01-second.ipynb, and so have you: yours stays" in told
    assert "01-second.new.ipynb beside it" in told
    assert "Nothing new" in learn(course)  # said once
    beside.unlink()
    assert "Nothing new" in learn(course)  # and put there once
    assert not beside.exists()


def test_work_in_the_version_beside_is_work(course):
    learn(course)
    change(Path("my-course/01-second.ipynb"), "one", "mine")
    edit_course(course, "01-second")
    learn(course)
    beside = Path("my-course/01-second.new.ipynb")
    edit_course(course, "01-second", "later = 1")
    learn(course)
    assert b"later" in beside.read_bytes()  # not touched, so it is renewed
    change(beside, "one", "mine, too")
    mine = beside.read_bytes()
    edit_course(course, "01-second", "last = 1")
    assert "01-second.new-2.ipynb" in learn(course)
    assert beside.read_bytes() == mine
    assert b"last" in Path("my-course/01-second.new-2.ipynb").read_bytes()


def test_a_chapter_that_is_deleted_can_be_begun_anew(course):
    learn(course)
    path = Path("my-course/01-second.ipynb")
    given_once = path.read_bytes()
    change(path, "one", "mine")
    path.unlink()
    learn(course, "01")
    assert path.read_bytes() == given_once


# The law: what a learner has written is there after every command.

NAMES = ("00-first.ipynb", "00-first.new.ipynb", "00-first.new-2.ipynb", "glossary.md")
ACTIONS = st.lists(
    st.tuples(st.sampled_from(["write", "delete"]), st.sampled_from(NAMES), st.integers(0, 2))
    | st.tuples(st.sampled_from(["publish"]), st.sampled_from(["00-first.ipynb", "glossary.md"]), st.integers(0, 2))
    | st.tuples(st.sampled_from(["forget", "damage", "learn"]), st.just(""), st.just(0)),
    max_size=14,
)  # fmt: skip


@given(ACTIONS)
@settings(max_examples=150)
def test_no_work_is_ever_lost_and_the_new_version_is_always_there(tmp_path_factory, actions):
    mine = tmp_path_factory.mktemp("law") / "mine"
    wanted = {name: f"{name} version 0".encode() for name in ("00-first.ipynb", "glossary.md")}
    published = set(wanted.values())
    folder.place(mine, wanted)
    for action, name, number in [*actions, ("learn", "", 0)]:
        if action == "write":
            (mine / name).write_text(f"work {number}")
        elif action == "delete":
            (mine / name).unlink(missing_ok=True)
        elif action == "publish":
            wanted[name] = f"{name} version {number}".encode()
            published.add(wanted[name])
        elif action == "forget":
            (mine / ".course.json").unlink(missing_ok=True)
        elif action == "damage":
            (mine / ".course.json").write_text('{"given": [' if number else '{"known": 1}')
        else:
            before = contents(mine)
            remembers = folder._State.read(mine).given
            done = folder.place(mine, wanted)
            after = contents(mine)
            for one, content in before.items():
                if content not in published:
                    assert after[one] == content  # work stays as it is, wherever it lies
                elif one in wanted and remembers and after[one] != content:
                    assert after[one] == wanted[one]
            for one in wanted:
                assert after[one] == wanted[one] or before.get(one) == after[one]
                if one in done.beside:
                    assert after[done.beside[one]] == wanted[one]
            assert folder.place(mine, wanted) == folder.Given()  # at once again there is nothing to do
            assert contents(mine) == after
    shutil.rmtree(mine.parent)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_a_file_that_nobody_touches_is_always_the_newest(tmp_path_factory, numbers):
    mine = tmp_path_factory.mktemp("law") / "mine"
    for number in numbers:
        folder.place(mine, {"a.ipynb": b"%d" % number})
        assert contents(mine).keys() - {".gitignore"} == {"a.ipynb"}
        assert (mine / "a.ipynb").read_bytes() == b"%d" % number
    shutil.rmtree(mine.parent)


# Failures


class FullDisk:
    """Makes the n-th write of a file fail, as a full disk does: with half of it written."""

    def __init__(self, monkeypatch, after):
        self.left = after
        for kind in ("write_bytes", "write_text"):
            monkeypatch.setattr(Path, kind, self.patched(getattr(Path, kind)))

    def patched(self, write):
        def failing(path, content, *arguments, **keywords):
            self.left -= 1
            if self.left < 0:
                write(path, content[: len(content) // 2], *arguments, **keywords)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            return write(path, content, *arguments, **keywords)

        return failing


@pytest.mark.parametrize("after", range(7))
def test_a_full_disk_leaves_no_folder_where_there_was_none(course, monkeypatch, after):
    FullDisk(monkeypatch, after)
    ended = course.course("learn", "--no-open")
    assert ended.status == 2
    assert "No space left on device" in ended.err
    assert "Traceback" not in ended.err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("after", range(4))
def test_a_full_disk_leaves_a_folder_as_it_was(course, monkeypatch, after):
    learn(course)
    change(Path("my-course/01-second.ipynb"), "one", "mine")
    for name in ("00-first", "01-second"):
        edit_course(course, name)
    before = contents(Path("my-course")), Path("my-course/.course.json").read_bytes()
    with monkeypatch.context() as patched:
        FullDisk(patched, after)
        ended = course.course("learn", "--no-open")
    assert "no work in it was touched" in ended.err
    assert (contents(Path("my-course")), Path("my-course/.course.json").read_bytes()) == before
    learn(course)
    assert contents(Path("my-course")) != before[0]


@pytest.mark.parametrize("after", range(6))
def test_killed_at_any_rename_it_goes_on_and_nothing_counts_as_work_that_is_none(course, monkeypatch, after):
    learn(course)
    for name in ("00-first", "01-second"):
        edit_course(course, name)
    left, replace = [after], os.replace

    def killed(*places):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        replace(*places)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        try:
            folder.give(Path("my-course"), [])
        except KeyboardInterrupt:
            assert after < 4
    for name in ("00-first", "01-second"):
        edit_course(course, name, "later = 1")
    learn(course)
    assert [path for path in files_in(Path("my-course")) if ".new" in path or "staged" in path] == []
    assert b"later" in Path("my-course/00-first.ipynb").read_bytes()


def test_what_a_killed_command_left_is_taken_away(course):
    learn(course)
    left = Path("my-course/.course-staged-x")
    left.mkdir()
    (left / "0").write_text("half")
    learn(course)
    assert not left.exists()


def test_two_at_once_do_not_mix(course):
    learn(course)
    with folder._alone(Path("my-course")):
        ended = course.course("learn", "--no-open")
    assert (ended.status, ended.out) == (2, "")
    assert "another `course learn` is writing" in ended.err


# Odd folders and arguments


@pytest.mark.parametrize(
    "kind", ["file", "folder of others", "the course", "below a file", "empty", "nobody's"]
)
def test_a_folder_that_cannot_be_meant_is_refused_in_one_line(course, kind):
    Path("file").write_text("")
    Path("others").mkdir()
    Path("others/thesis.tex").write_text("years")
    place, said = {
        "file": ("file", "is a file; name a folder"),
        "folder of others": ("others", "holds other files, such as thesis.tex"),
        "the course": (course.root / "notebooks" / "mine", "is part of the course itself"),
        "below a file": ("file/mine", "cannot write into"),
        "empty": ("", "it is empty"),
        "nobody's": ("~nobody-of-this-name/x", "nobody-of-this-name"),
    }[kind]
    ended = course.course("learn", "--no-open", "--folder", place)
    assert ended.status == 2
    assert said in ended.err
    assert "Traceback" not in ended.err
    assert sorted(path.name for path in Path().rglob("*")) == ["file", "others", "thesis.tex"]


def test_a_folder_in_the_place_of_a_notebook_stays(course):
    Path("my-course/01-second.ipynb").mkdir(parents=True)
    told = learn(course)
    assert "01-second.new.ipynb beside it" in told
    assert Path("my-course/01-second.ipynb").is_dir()


def test_a_file_in_the_place_of_the_studies_is_said(course):
    learn(course, "00")
    Path("my-course/studies").write_text("mine")
    ended = course.course("learn", "--no-open")
    assert ended.status == 2
    assert "cannot write into" in ended.err
    assert Path("my-course/studies").read_text() == "mine"
    assert not Path("my-course/01-second.ipynb").exists()


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[]", '{"given": 1, "known": 2}', '{"given": {"a": 1}, "known": {}}', "[" * 10**5],
)
def test_a_damaged_record_makes_everything_work(course, text):
    learn(course)
    edit_course(course, "00-first")
    before = Path("my-course/00-first.ipynb").read_bytes()
    Path("my-course/.course.json").write_text(text)
    assert "00-first.new.ipynb" in learn(course)
    assert Path("my-course/00-first.ipynb").read_bytes() == before
    assert json.loads(Path("my-course/.course.json").read_text())["known"].keys() >= {"00-first.ipynb"}


def test_a_chapter_whose_marks_do_not_fit_is_named_and_nothing_is_written(course):
    course.add_exercises("01-second", ("### BEGIN SOLUTION\nx", {}))
    ended = course.course("learn", "--no-open")
    assert (ended.status, ended.err) == (
        2,
        "course: 01-second.ipynb: a solution has no end: mend the marks of the exercise\n",
    )
    assert list(Path().iterdir()) == []


# JupyterLab

FAKE = """
import json, os, sys
from course_lib import files
print(json.dumps([os.getcwd(), sys.argv[1:], str(files.root()), os.environ.get("COURSE_DATA")]))
raise SystemExit(3)
"""


def test_jupyterlab_opens_there_and_finds_the_course_from_there(course, tmp_path):
    (tmp_path / "fake" / "jupyterlab").mkdir(parents=True)
    (tmp_path / "fake" / "jupyterlab" / "__init__.py").write_text("")
    (tmp_path / "fake" / "jupyterlab" / "__main__.py").write_text(FAKE)
    paths = os.pathsep.join([str(tmp_path / "fake"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", "from course_lib.book.cli import app; app()", "learn", "01"],
        env={
            **os.environ,
            "PYTHONPATH": paths,
            "COURSE_HOME": os.path.relpath(course.root),
            "COURSE_DATA": "sets",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (3, "")
    where, words, root, sets = json.loads(done.stdout.splitlines()[-1])
    assert Path(where).samefile("my-course")
    assert words == ["01-second.ipynb"]
    assert Path(root).samefile(course.root)
    assert sets == str(Path("sets").absolute())


def test_it_opens_the_first_chapter_that_is_not_done(course, monkeypatch):
    from tests.book.learner.conftest import RIGHT

    opened = []
    monkeypatch.setattr(lab, "start", lambda where, name: opened.append(name) or 0)
    assert course.course("learn").status == 0
    for word in ("one", "two"):
        change(Path("my-course/00-first.ipynb"), word, "mine", count=1)
        change(Path("my-course/00-first.ipynb"), f"check-{word}", count=2, outputs=RIGHT)
    course.course("learn")
    course.course("learn", "00")
    assert opened == ["00-first.ipynb", "01-second.ipynb", "00-first.ipynb"]


def test_without_jupyterlab_the_folder_is_there_and_the_remedy_is_said(monkeypatch):
    monkeypatch.setattr(lab, "find_spec", lambda name: None)
    with pytest.raises(CourseError, match="pip install jupyterlab"):
        lab.start(Path("x"), "01.ipynb")


# The real book


def test_every_link_of_the_real_book_leads_somewhere_in_the_folder(tmp_path):
    folder.give(tmp_path / "mine", [])
    paths = [path for path in (tmp_path / "mine").rglob("*") if path.suffix in (".ipynb", ".md")]
    assert len(paths) > 2 * len(notebooks.chapters())
    lost = []
    for path in paths:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            cells = json.loads(text)["cells"]
            text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        links = re.findall(r"(?:\]\(|src=\"|href=\")([^)#\"\s]+)", text)
        lost += [
            (path.name, link) for link in links if "://" not in link and not (path.parent / link).exists()
        ]
    assert lost == []


def test_a_real_notebook_finds_library_data_and_checkpoints_from_the_folder(tmp_path):
    folder.give(tmp_path / "mine", ["00"])
    program = (
        "from course_lib import checkpoints, data\n"
        "print(len(data.load_dataset().test), type(checkpoints.load('glyphs-vgg')).__name__)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COURSE")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path / "mine",
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("4000 ")
