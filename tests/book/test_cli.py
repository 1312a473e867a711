"""The command line itself: what it imports, what it says, how it ends."""

import json
import signal
import subprocess
import sys

import pytest

from course_lib import __version__, checkpoints, data, names
from course_lib.book import cli, notebooks
from course_lib.data import remote

pytestmark = pytest.mark.bad_input


def test_help_imports_neither_torch_nor_papermill():
    program = (
        "import sys\nfrom course_lib.book.cli import app\n"
        "try:\n    app(['run', '--help'])\nexcept SystemExit as ended:\n    assert not ended.code\n"
        "heavy = {'torch', 'distributed', 'papermill', 'nbformat', 'rich.progress', 'yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "--resume" in ended.stdout


WRONG = (
    ("run", "99"),
    ("run", "--profile", "fats"),
    ("run", "--set", "sead=3"),
    ("run", "--jobs", "0"),
    ("run", "--out", ""),
    ("refresh", "99"),
    ("sweep", "99", "--seeds", "0-3"),
    ("sweep", "00", "--seeds", "3-0"),
    ("sweep", "00", "--seeds", "0", "--set", "sead=3"),
    ("results", "nothing"),
    ("learn", "99"),
    ("learn", "--folder", "data"),
    ("progress", "--folder", "nowhere"),
    ("solution", "99", "1"),
    ("release", "handout", "99"),
    ("slides", "slides", "99"),
    ("grade", "nowhere"),
    ("train", "smal-net"),
    ("data", "fetch", "fashion"),
    ("no-such-command",),
)


def test_a_mistake_is_answered_before_anything_large_is_imported(book):
    book.add("00-first")
    program = (
        "import sys\nfrom course_lib.book.cli import app\n"
        f"for words in {WRONG}:\n"
        "    try:\n        app(list(words))\n"
        "    except SystemExit as ended:\n        assert ended.code == 2, (words, ended.code)\n"
        "    large = {'torch', 'jsonschema', 'papermill', 'distributed', 'pandas', 'scipy'} & set(sys.modules)\n"
        "    assert not large, (words, large)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("chapter", [*notebooks.book(), None], ids=lambda chapter: chapter and chapter.name)
def test_a_chapter_is_known_without_nbformat_as_with_it(book, chapter):
    """The title, the parameters and the digest of each, and of one whose sources are whole texts instead of lists."""
    if chapter is None:
        path = book.add("00-first", parameters="seed = 0\nrate = 1")
        content = json.loads(path.read_text())
        for cell in content["cells"]:
            cell["source"] = "".join(cell["source"])
        path.write_text(json.dumps(content))
        (chapter,) = notebooks.book()
    whole = notebooks.read(chapter.path)
    assert (chapter.title, chapter.parameters) == (notebooks.title(whole), notebooks.parameters(whole))
    assert chapter.source_sha256 == notebooks.source_sha256(whole)


def test_the_names_that_are_known_without_torch_are_those_there_are():
    assert tuple(checkpoints.CATALOGUE) == names.CHECKPOINTS
    assert ("glyphs", *remote.REMOTES) == names.DATA_SETS


def test_version_and_list(book):
    assert book.course("--version").out == f"course {__version__}\n"
    book.add("00-first", parameters="seed = 0\nrate = 1e-3")
    assert book.course("list").out == "00-first  Title of 00-first\n    seed = 0\n    rate = 0.001\n"


def test_train_and_fetch_hand_over_known_names(book, monkeypatch):
    monkeypatch.setattr(cli, "CHECKPOINTS", ("small-net",))
    monkeypatch.setattr(checkpoints, "retrain", lambda name: f"/weights/{name}")
    monkeypatch.setattr(data, "fetch", lambda name: f"/data/{name}")
    assert book.course("train", "small-net").out == "saved /weights/small-net\n"
    assert book.course("data", "fetch", "mnist").out == "mnist is in /data/mnist\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "smal-net"), "course: unknown checkpoint 'smal-net'. Did you mean 'small-net'?"),
        (("data", "fetch", "fashion"), "course: unknown data set 'fashion'. Did you mean 'fashion_mnist'?"),
        (("refresh", "7"), "course: unknown chapter '7'."),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(book, monkeypatch, words, message):
    book.add("00-first")
    monkeypatch.setattr(cli, "CHECKPOINTS", ("small-net",))
    ended = book.course(*words)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith(message)


def test_what_the_library_says_of_a_damaged_file_is_the_message(book, monkeypatch):
    def damaged(name):
        raise data.DatasetError("mnist: the archive is truncated; fetch it again")

    monkeypatch.setattr(data, "fetch", damaged)
    ended = book.course("data", "fetch", "mnist")
    assert (ended.status, ended.err) == (1, "course: mnist: the archive is truncated; fetch it again\n")


def test_a_mistake_of_the_program_is_not_disguised(book, monkeypatch):
    def broken(name):
        raise RuntimeError("a bug")

    monkeypatch.setattr(data, "fetch", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.app(["data", "fetch", "mnist"])


def test_a_checkout_without_data_is_a_clear_error(book):
    (book.root / "data").rmdir()
    ended = book.course("list")
    assert ended.status == 2
    assert "holds no data folder" in ended.err


def test_the_command_to_go_on_with_repeats_every_setting():
    settings = {"profile": "full", "seed": 3, "set": ["01.title=a b", "n=[1, 2]"]}
    assert "--jobs" not in cli._resume_command([], settings, None, None, None)
    command = cli._resume_command(["01"], settings, None, 2, 1800.0)
    assert command == (
        "course run 01 --profile full --set '01.title=a b' --set 'n=[1, 2]' --seed 3 --jobs 2 "
        "--cell-timeout 1800 --resume"
    )


@pytest.mark.parametrize("command", [("run", "00"), ("sweep", "00", "--seeds", "0-1")])
@pytest.mark.parametrize(
    ("out", "said"), [("", "it is empty"), ("~nobody-of-this-name/x", "~nobody-of-this-name")]
)
def test_a_folder_that_cannot_be_meant_is_refused_at_once(book, command, out, said):
    book.add("00-first")
    ended = book.course(*command, "--out", out)
    assert ended.status == 2
    assert "Invalid value for '--out'" in ended.err
    assert said in ended.err
    assert not (book.root / "build").exists()


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="needs a POSIX system")
def test_a_reader_that_goes_away_is_no_error(book):
    for number in range(30):
        book.add(f"{number:02}-a", parameters="\n".join(f"parameter_{n} = {n}" for n in range(200)))
    command = book.start("list")
    command.stdout.readline()
    command.stdout.close()
    assert command.stderr.read() == ""
    command.wait()
