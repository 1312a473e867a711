"""`course run` on a made-up book, with real kernels."""

import asyncio
import errno
import gc
import json
import os
import shutil
import signal
from collections import namedtuple
from threading import Thread

import joblib
import nbformat
import pytest

from course_lib import files
from course_lib.book import notebooks
from course_lib.book.run import runner, state
from tests.book.processes import alive, held, wait_for

pytestmark = pytest.mark.bad_input

WRONG = "\nvalue = 1\nraise ValueError('[bold]no[/bold] good')"


def test_studies_are_run_from_their_folder_with_all_and_when_they_are_named(book, figures):
    where = "import pathlib\nprint(pathlib.Path.cwd().name, seed)"
    book.add("01-a", where)
    source = book.add("studies/01-a", where, figures(gain="95%"))
    before = source.read_bytes()

    ended = book.course("run", "01", "--set", "01.seed=1")
    assert (ended.status, list(book.state()["chapters"])) == (0, ["01-a"])

    ended = book.course("run", "studies/01", "--set", "studies/01.seed=2")
    assert (ended.status, ended.err) == (0, "")
    assert book.printed("studies/01-a") == "studies 2\n"
    assert "gain: 95%" in ended.out
    assert source.read_bytes() == before

    ended = book.course("run", "--set", "seed=3")
    assert (ended.status, sorted(book.state()["chapters"])) == (0, ["01-a", "studies/01-a"])
    assert (book.printed("01-a"), book.printed("studies/01-a")) == ("notebooks 3\n", "studies 3\n")
    assert "2 of 2 chapters are finished already" in book.course("run", "--set", "seed=3", "--resume").out

    assert "studies/01-a  Title of studies/01-a\n    seed = 0\n" in book.course("list").out
    assert "holds the notebooks themselves" in book.course("run", "--out", source.parent).err


def test_a_failing_cell_ends_its_chapter_and_the_others_go_on(book, figures):
    where = "import os, pathlib\nprint(os.environ['TQDM_DISABLE'], pathlib.Path.cwd().name)"
    size = {"value": 4.186, "form": ".2f", "unit": "MB", "shown": "4.19 MB"}
    book.add("00-good", figures(test_accuracy=0.73456, teacher="vgg", size=size), where)
    book.add("01-bad", "print('before')", WRONG, "print('after')")
    book.add("02-next", figures(images=4000))
    sources = {path: path.read_bytes() for path in (book.root / "notebooks").glob("*.ipynb")}

    ended = book.course("run")

    assert ended.status == 1
    assert "Traceback" not in ended.out + ended.err
    assert ended.err == ""
    table = ended.out[ended.out.index("┏") :]
    rows = [line for line in table.splitlines() if line.startswith("│")]
    assert any("00-good" in row and "test accuracy: 0.7346" in row and "passed" in row for row in rows)
    assert any("teacher: vgg" in row for row in rows)
    assert any("size: 4.19 MB" in row for row in rows)
    assert any("01-bad" in row and "failed in In [3] (cell code-1): value = 1" in row for row in rows)
    assert any("ValueError: [bold]no[/bold] good" in row for row in rows)
    assert any("02-next" in row and "images: 4000" in row and "passed" in row for row in rows)
    assert "1 of 3 chapters failed" in ended.out
    for name in ("00-good", "01-bad", "02-next"):
        assert f"{name}: " in ended.out[: ended.out.index("┏")]

    assert held(book.out) == [
        "00-good.ipynb",
        "01-bad.ipynb",
        "02-next.ipynb",
        "run.json",
    ]
    assert book.printed("00-good") == "1 notebooks\n"
    assert book.printed("01-bad") == "before\n"
    failed = nbformat.read(book.out / "01-bad.ipynb", as_version=4)
    assert any(
        output.get("ename") == "ValueError" for cell in failed.cells for output in cell.get("outputs", [])
    )
    records = book.state()["chapters"]
    assert records["00-good"]["figures"] == {"test_accuracy": 0.73456, "teacher": "vgg", "size": size}
    assert records["01-bad"]["failure"] == {
        "cell": 3,
        "line": "value = 1",
        "error": "ValueError: [bold]no[/bold] good",
        "id": "code-1",
    }
    assert 0 < records["02-next"]["seconds"] < 60
    assert {path: path.read_bytes() for path in sources} == sources


def test_parameters_reach_the_notebook_from_profile_seed_and_set(book):
    book.add(
        "00-a", "print(seed, rate, sizes, title)", parameters="seed = 0\nrate = 0.1\nsizes = [1]\ntitle = 'x'"
    )
    book.profile("tiny", 'rate: 0.5\n"00.title": from profile\n')
    out = book.root / "out {seed}"
    ended = book.course("run", "--profile", "tiny", "--seed", "3", "--set", "sizes=[4, 1e-1]", "--out", out)
    assert ended.status == 0, ended.err
    assert book.printed("00-a", out) == "3 0.5 [4, 0.1] from profile\n"


def test_what_kills_or_leaves_the_kernel_is_a_failure_of_that_chapter_alone(book):
    book.add("00-dies", "# gone\nimport os\nos._exit(3)", "print('never')")
    book.add("01-leaves", "import sys\nsys.exit(0)", "print('never')")
    book.add("02-good", "print('here')")
    assert book.course("run", "--jobs", "3").status == 1
    failures = {name: record["failure"] for name, record in book.state()["chapters"].items()}
    assert failures["00-dies"]["cell"] == 2
    assert failures["00-dies"]["line"] == "# gone"
    assert "DeadKernelError" in failures["00-dies"]["error"]
    assert (failures["01-leaves"]["cell"], failures["01-leaves"]["line"]) == (2, "import sys")
    assert "SystemExit" in failures["01-leaves"]["error"]
    assert failures["02-good"] is None
    assert book.printed("02-good") == "here\n"


@pytest.mark.parametrize("jobs", [(), ("--jobs", "2")])
def test_chapters_run_side_by_side_and_give_the_same_results(book, monkeypatch, jobs):
    """With meet=True each chapter waits until the other has begun: one after the other would never end."""
    for mine, other in (("00-a", "01-b"), ("01-b", "00-a")):
        meeting = (
            "import pathlib, time\n"
            f"here = pathlib.Path({str(book.root)!r})\n"
            f"(here / '{mine}.begun').touch()\n"
            "deadline = time.monotonic() + 300\n"
            f"while meet and not (here / '{other}.begun').exists():\n"
            "    assert time.monotonic() < deadline, 'the other has not begun'\n"
            "    time.sleep(0.05)"
        )
        book.add(
            mine,
            meeting,
            f"import random\nrandom.seed(3)\nprint('{mine}', random.random())",
            "meet = 0\n1 + 1",
        )
    for name in ("00-a", "01-b"):
        notebook = notebooks.read(book.path(name))
        notebook.cells[1].source = "meet = False"
        book.path(name).write_text(notebooks.to_text(notebook))
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    one, two = book.root / "one", book.root / "two"
    assert book.course("run", "--set", "meet=false", "--jobs", "1", "--out", one).status == 0
    for path in book.root.glob("*.begun"):
        path.unlink()
    ended = book.course("run", "--set", "meet=true", *jobs, "--out", two)
    assert ended.status == 0, ended.out
    for name in ("00-a", "01-b"):
        first, second = (
            [cell.get("outputs") for cell in notebooks.normalise(notebooks.read(out / f"{name}.ipynb")).cells]
            for out in (one, two)
        )
        assert first == second
        assert book.printed(name, two).startswith(name)


def test_a_cell_that_measures_times_runs_while_no_other_cell_does(book, monkeypatch):
    """Each cell notes when it begins and ends. Two that measure wait for each other, and for the cells of a third."""
    monkeypatch.setattr(joblib, "cpu_count", lambda: 6)
    for name in runner.ONE_THREAD:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("LOKY_MAX_CPU_COUNT", raising=False)

    def noted(name, sleep):
        return (
            "import os, time\n"
            f"log = open({str(book.root / 'log')!r}, 'a', buffering=1)\n"
            "asked = [os.environ.get(n, '-') for n in ('OMP_NUM_THREADS', 'LOKY_MAX_CPU_COUNT')]\n"
            f"print('{name} begins', *asked, file=log)\n"
            f"time.sleep({sleep})\n"
            f"print('{name} ends', file=log)"
        )

    def log():
        return (book.root / "log").read_text().splitlines()

    book.add("00-times", *[noted("00", 0.2)] * 4, times=True)
    book.add("01-times", *[noted("01", 0.2)] * 4, times=True)
    book.add("02-a", *[noted("02", 0.1)] * 20)
    book.add("03-b", *[noted("03", 0.1)] * 20)

    assert book.course("run", "--jobs", "4").status == 0
    lines = log()
    assert {line.partition(" begins ")[2] for line in lines if "begins" in line} == {"1 1"}
    running, beside = [], set()
    for line in lines:
        name, what, *_ = line.split()
        running.append(name) if what == "begins" else running.remove(name)
        beside.add(frozenset(running))
    assert beside <= {frozenset(names) for names in ([], ["00"], ["01"], ["02"], ["03"], ["02", "03"])}
    assert {"02", "03"} in beside
    last = {name: len(lines) - 1 - lines[::-1].index(f"{name} ends") for name in ("00", "02")}
    assert last["00"] < last["02"]  # it waits for a cell of the others, not for their end

    (book.root / "log").unlink()
    assert book.course("run", "00", "02", "--jobs", "1").status == 0
    assert [line.split()[0] for line in log()] == ["00"] * 8 + ["02"] * 40
    assert log()[0] == "00 begins - -"


def test_an_interrupted_run_keeps_what_is_finished_and_resumes(book):
    book.add("00-quick", book.counting("quick"))
    gate, pid = book.root / "gate", book.root / "pid"
    slow = (
        "import os, pathlib, time\n"
        f"pathlib.Path({str(pid)!r}).write_text(str(os.getpid()))\n"
        f"while not pathlib.Path({str(gate)!r}).exists():\n"
        "    time.sleep(0.1)"
    )
    book.add("01-slow", book.counting("slow"), slow)
    book.add("02-last", book.counting("last"))

    process = book.start("run", "--jobs", "1", "--seed", "4")
    try:
        wait_for(lambda: pid.exists() and pid.read_text())
        kernel = int(pid.read_text())
        assert alive(kernel)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "Traceback" not in out + err
    assert "1 of 3 chapters have passed and are kept" in err
    assert "course run --profile fast --seed 4 --jobs 1 --resume" in err
    wait_for(lambda: not alive(kernel))
    assert held(book.out) == [
        "00-quick.ipynb",
        "run.json",
    ]
    assert list(book.state()["chapters"]) == ["00-quick"]

    refused = book.course("run", "--seed", "5", "--resume")
    assert refused.status == 2
    assert "seed was 4 and is now 5" in refused.err
    assert "leave out --resume" in refused.err
    assert list(book.state()["chapters"]) == ["00-quick"]

    gate.touch()
    resumed = book.course("run", "--seed", "4", "--resume")
    assert resumed.status == 0
    assert "1 of 3 chapters are finished already" in resumed.out
    assert [book.times(name) for name in ("quick", "slow", "last")] == [1, 2, 1]
    table = resumed.out[resumed.out.index("┏") :]
    assert all(name in table for name in ("00-quick", "01-slow", "02-last"))
    assert len(book.state()["chapters"]) == 3


def test_nothing_outlives_a_killed_run(book):
    """The kernel ends, and so do the processes among which its chapter has divided its work."""
    pids = [book.root / name for name in ("kernel", "first", "second")]
    book.add(
        "00-a",
        "import os, pathlib, time\nfrom course_lib.jobs import run_parallel\n"
        "def begin(path):\n    pathlib.Path(path).write_text(str(os.getpid()))\n"
        "def sleeper(path):\n    begin(path)\n    time.sleep(9999)\n"
        f"begin({str(pids[0])!r})\nrun_parallel(sleeper, {list(map(str, pids[1:]))}, workers=2)",
    )
    process = book.start("run")
    try:
        wait_for(lambda: all(path.exists() and path.read_text() for path in pids))
    finally:
        process.kill()
        process.communicate()
    left = [int(path.read_text()) for path in pids]
    assert len(set(left)) == 3
    try:
        wait_for(lambda: not any(map(alive, left)), seconds=60)
    finally:
        for pid in filter(alive, left):
            os.kill(pid, signal.SIGKILL)


def test_resume_runs_again_what_failed_and_what_was_changed_and_nothing_else(book):
    book.add("00-same", book.counting("same"))
    book.add("01-changed", book.counting("changed"))
    book.add(
        "02-failed",
        book.counting("failed"),
        f"import pathlib\nassert pathlib.Path({str(book.root)!r}, 'ok').exists()",
    )
    assert book.course("run", "--jobs", "3").status == 1
    (book.root / "ok").touch()
    book.add("01-changed", book.counting("changed"), "print('new')")
    resumed = book.course("run", "--resume", "--jobs", "2")
    assert resumed.status == 0
    assert "01-changed: the notebook has changed since; it is run again" in resumed.out
    assert [book.times(name) for name in ("same", "changed", "failed")] == [1, 2, 2]
    assert book.printed("01-changed") == "new\n"


def test_resume_without_an_earlier_run_says_so_and_a_damaged_state_is_refused(book):
    book.add("00-a", "pass")
    assert "there is no earlier run" in book.course("run", "--resume").out
    damages = ("{", "[]", '{"settings": {}}', '{"settings": {}, "chapters": []}')
    for text in (
        *damages,
        '{"settings": {}, "chapters": {"00-a": 5}}',
        '{"settings": {}, "chapters": {"00-a": {}}}',
    ):
        (book.out / "run.json").write_text(text)
        ended = book.course("run", "--resume")
        assert ended.status == 2
        assert "run.json is damaged" in ended.err
        assert (book.out / "run.json").read_text() == text


def test_a_folder_keeps_what_was_run_there_with_the_same_settings(book):
    book.add("00-a")
    book.add("01-b")
    book.course("run")
    assert (book.course("run", "00").status, list(book.state()["chapters"])) == (0, ["01-b", "00-a"])
    book.course("run", "01", "--set", "seed=3")
    assert list(book.state()["chapters"]) == ["01-b"]  # those of other settings say nothing about these


def test_one_command_at_a_time_writes_into_a_folder_and_a_killed_one_holds_nothing(book):
    book.add("00-a", book.counting("00-a"), "import time\ntime.sleep(600)")
    book.add("01-b")
    first = book.start("run", "00")
    wait_for(lambda: book.times("00-a"))
    for words in (("run", "01"), ("run", "01", "--resume")):
        refused = book.course(*words)
        assert refused.status == 2
        assert f"another command is writing into {book.out}. Wait" in refused.err
    assert "00-a" not in book.state()["chapters"]
    first.kill()
    first.wait()
    assert book.course("run", "01").status == 0


def test_finished_says_why_a_chapter_is_run_again(book):
    book.add("00-a")
    (chapter,) = notebooks.chapters()
    book.out.mkdir(parents=True)
    record = {
        "source_sha256": chapter.source_sha256,
        "library_sha256": state.library_sha256(),
        "parameters": {"seed": 1},
        "failure": None,
    }

    def finished(parameters=None, **changes):
        old = {"chapters": {"00-a": record | changes}}
        return state.finished(old, [chapter], {"00-a": parameters or {"seed": 1}}, book.out)

    assert finished() == ({}, ["00-a: its executed notebook is gone; it is run again"])
    (book.out / "00-a.ipynb").touch()
    assert finished() == ({"00-a": record}, [])
    assert finished({"seed": 2}) == ({}, ["00-a: the profile has changed since; it is run again"])
    assert finished(source_sha256="")[1] == ["00-a: the notebook has changed since; it is run again"]
    assert finished(failure={"cell": 1}) == ({}, [])
    kept, notes = finished(library_sha256="")
    assert list(kept) == ["00-a"]
    assert notes == ["00-a: kept, though course_lib has changed since it was run"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["07"], "unknown chapter '07'"),
        (["frist"], r"Did you mean '00-first'"),
        (["--profile", "fats"], "unknown profile 'fats'. Did you mean 'fast'"),
        (["--set", "sead=3"], "Did you mean 'seed'"),
        (["--set", "seed"], "write name=value"),
        (["--set", "01.seed=3", "00"], "not part of this run"),
        (["--profile", "wrong"], "unknown key of the profile 'epochs'"),
        (["--out", "notebooks"], "holds the notebooks themselves"),
        (["--out", "file"], "cannot write into"),
        (["--out", "file/below"], "cannot write into"),
        (["--seed", "-1"], "--seed"),
        (["--jobs", "0"], "--jobs"),
        (["--cell-timeout", "0"], "--cell-timeout"),
    ],
)
def test_a_mistake_is_one_message_on_stderr_and_nothing_is_run(book, monkeypatch, words, message):
    book.add("00-first", book.counting("first"))
    book.add("01-second")
    book.profile("wrong", "epochs: 3")
    (book.root / "file").write_text("mine")
    monkeypatch.chdir(book.root)
    ended = book.course("run", *words)
    assert ended.status == 2
    assert message.replace("\\", "") in ended.err
    assert "Traceback" not in ended.err
    assert ended.out == ""
    assert book.times("first") == 0
    assert not book.out.exists()
    assert (book.root / "file").read_text() == "mine"


def test_no_notebooks_is_a_clear_error(book):
    ended = book.course("run")
    assert ended.status == 2
    assert "there are no notebooks in" in ended.err


def test_a_disk_without_room_is_refused_before_anything_runs(book, monkeypatch):
    book.add("00-a", book.counting("a"))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 99, 2**20))
    ended = book.course("run")
    assert ended.status == 2
    assert "only 1 MB are free" in ended.err
    assert book.times("a") == 0


def test_a_disk_that_fills_up_ends_the_run_and_keeps_what_is_whole(book, monkeypatch):
    """The second notebook meets the full disk: the first stays, the third is not begun."""
    book.add("00-a", "pass")
    book.add("01-b", "pass")
    book.add("02-c", book.counting("c"))
    write = files.Path.write_text

    def full(path, *arguments, **options):
        if "01-b" in path.name:
            write(path, "half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, *arguments, **options)

    monkeypatch.setattr(files.Path, "write_text", full)
    ended = book.course("run", "--jobs", "1")
    assert ended.status == 1
    assert "No space left on device" in ended.err
    assert "1 of 3 chapters have passed and are kept" in ended.err
    assert "Traceback" not in ended.err
    assert held(book.out) == [
        "00-a.ipynb",
        "run.json",
    ]
    assert list(json.loads((book.out / "run.json").read_text())["chapters"]) == ["00-a"]
    assert book.times("c") == 0


def test_no_event_loop_is_left_open_by_a_thread_that_ran_a_notebook(book):
    """Collected open, a loop may print a traceback into the output of something else."""

    def open_loops():
        gc.collect()
        return {
            id(loop)
            for loop in gc.get_objects()
            if isinstance(loop, asyncio.BaseEventLoop) and not loop.is_closed()
        }

    book.add("00-a", "pass")
    source = notebooks.read(book.path("00-a"))
    before = open_loops()
    seen = []

    def work():
        seen.append(runner.execute(runner.Task("00-a", source, {"seed": 1}, book.root)))
        seen.append(open_loops() - before)

    thread = Thread(target=work)
    thread.start()
    thread.join()
    outcome, left = seen
    assert outcome.failure is None
    assert not left
