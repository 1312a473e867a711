"""`course sweep` on a made-up book: real kernels, real Dask workers, and one that is killed."""

import contextlib
import http.server
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import dask
import distributed
import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib import jobs, page
from course_lib.book import CourseError, notebooks
from course_lib.book.run import state, sweep, worker
from course_lib.book.run.seeds import format_seeds, parse_seeds
from course_lib.experiments import records
from course_lib.statistics import Interval, mean_interval
from tests.book.clusters import cluster_in_place
from tests.book.processes import PATIENCE, alive, held, wait_for

pytestmark = pytest.mark.bad_input


@contextlib.contextmanager
def aside(function):
    """Run a function beside the block, in a thread; what it raises fails the test."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(function)
        yield
        done.result()


@contextlib.contextmanager
def in_time():
    """Fail the test, instead of hanging it, when the block takes very much longer than its time-out of 1 or 2 s."""

    def late(*_):
        raise AssertionError("the command hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def record(book, chapter="00-a", out=None):
    return json.loads(((out or book.root / "build" / "sweep" / chapter) / "sweep.json").read_text())


def percent(value):
    """A share as `page.report` keeps it."""
    return page._key_figure("share", (value, ".1%"))


def figures_of(content):
    return {seed: run["figures"] for seed, run in content["runs"].items()}


@pytest.fixture
def accuracy():
    """The source of a cell whose figure depends on the seed alone: 90.0, 90.5, 91.0, ... %."""
    return (
        "from IPython.display import display\n"
        "figure = {'value': 0.9 + seed / 200, 'form': '.1%', 'unit': '', 'shown': f'{90 + seed / 2:.1f}%'}\n"
        "display({'text/plain': 'accuracy', 'application/vnd.course.key-figures+json': {'accuracy': figure}}, raw=True)"
    )


def plant(book, figures, failure=None, **plan):
    """A sweep that has ended, without having run: {seed: figures}; it gives the folder."""
    settings = {"profile": "fast", "set": plan.pop("set", [])}
    planned = sweep.plan("00", list(figures), settings, plan.pop("out", None))
    for seed, shown in figures.items():
        run = {"figures": shown, "seconds": 1.0, "failure": failure, "provenance": records.provenance()}
        planned.record["runs"][str(seed)] = run | {"library_sha256": state.library_sha256()}
        sweep._notebook_path(planned.out, seed).write_text("{}")
    sweep._save(planned)
    return planned.out


# ---- the seeds -------------------------------------------------------------------------------------------------------


@given(st.sets(st.integers(0, 300), min_size=1))
def test_seeds_that_are_written_out_are_read_back_in_rising_order(seeds):
    assert parse_seeds(format_seeds(seeds)) == sorted(seeds)


@given(st.permutations([(0, 3), (5, 5), (7, 9), (12, 12)]), st.sampled_from(["", " "]))
def test_parts_may_stand_in_any_order_and_with_spaces(parts, space):
    text = f"{space},{space}".join(str(a) if a == b else f"{a}{space}-{space}{b}" for a, b in parts)
    assert parse_seeds(text) == [seed for a, b in parts for seed in range(a, b + 1)]


@given(st.lists(st.integers(0, 20), min_size=2).filter(lambda seeds: len(set(seeds)) < len(seeds)))
def test_a_seed_given_twice_is_an_error(seeds):
    with pytest.raises(CourseError, match="given twice"):
        parse_seeds(",".join(map(str, seeds)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no seed"),
        ("0,,2", "'' is no seed"),
        ("a", "'a' is no seed. Write numbers and ranges, such as --seeds 0-9"),
        ("0-x", "'0-x' is no seed"),
        ("1.5", "'1.5' is no seed"),
        ("0-3-5", "'0-3-5' is no seed"),
        ("-1", "'-1' is negative; seeds are 0 or larger"),
        ("2,-3-5", "'-3-5' is negative"),
        ("9-0", "the range 9-0 is inverted; write 0-9"),
        ("0-3,2-5", "2-3 is given twice"),
        ("0-99999", "more than 10,000 seeds"),
        ("4294967296", "too large; the largest seed is 4294967295"),
        ("9" * 5000, "too large"),
    ],
)
def test_a_wrong_text_of_seeds_is_answered_with_what_is_wrong(text, message):
    with pytest.raises(CourseError) as caught:
        parse_seeds(text)
    assert message in str(caught.value)


# ---- what is refused before anything runs ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["07"], "unknown chapter '07'"),
        (["frist"], "Did you mean '00-first'"),
        (["01"], "chapter 01-none has no parameter `seed` to sweep over; it has: rate\n"),
        (
            ["02"],
            "chapter 02-many has no parameter `seed` to sweep over; it has: seeds. It repeats its own runs: course run "
            "02 --set seeds=N\n",
        ),
        (["00", "--seeds", "0,1,0"], "0 is given twice"),
        (["00", "--set", "seed=3"], "--set seed: the seed of every run is given by --seeds"),
        (["00", "--set", "00.seed=3"], "--set 00.seed: the seed of every run is given by --seeds"),
        (["00", "--set", "rat=3"], "Did you mean 'rate'"),
        (["00", "--set", "recompute=true"], "recompute is true: every seed would write the same files"),
        (["00", "--set", "real_data=record"], "real_data is record: every seed would write the same files"),
        (["00", "--profile", "fats"], "Did you mean 'fast'"),
        (["03"], "parameter (--seed) seed is 0, a number; chapter 03-text expects a text"),
        (["00", "--out", "notebooks"], "holds the notebooks themselves"),
        (["00", "--out", "file"], "cannot write into"),
        (["00", "--workers", "0"], "--workers"),
        (["00", "--tls-cert", "me.pem"], "are for a running cluster: name it with --scheduler tls://..."),
        (["00", "--workers", "2", "--scheduler", "tcp://127.0.0.1:9"], "Leave one out"),
    ],
)
def test_a_mistake_is_one_message_on_stderr_and_nothing_is_run(book, monkeypatch, words, message):
    book.add(
        "00-first",
        book.counting("first"),
        parameters="seed = 0\nrate = 1\nrecompute = False\nreal_data = 'run'",
    )
    book.add("01-none", parameters="rate = 1")
    book.add("02-many", parameters="seeds = 5")
    book.add("03-text", parameters="seed = 'a'")
    (book.root / "file").write_text("mine")
    monkeypatch.chdir(book.root)
    ended = book.course("sweep", *words, *([] if "--seeds" in words else ["--seeds", "0-3"]))
    assert ended.status == 2
    assert message in ended.err
    assert "Traceback" not in ended.err
    assert ended.out == ""
    assert book.times("first") == 0
    assert not (book.root / "build").exists()


def test_without_dask_the_extra_is_named(book, monkeypatch):
    book.add("00-a", book.counting("a"))
    monkeypatch.setitem(sys.modules, "distributed", None)
    ended = book.course("sweep", "0", "--seeds", "0-1")
    assert (ended.status, ended.out) == (2, "")
    assert "pip install 'small-and-fast[cluster]'" in ended.err


def test_seeds_of_another_configuration_are_refused_by_what_differs_and_left_alone(book):
    book.add("00-a", "print(rate)", parameters="seed = 0\nrate = 1\nsizes = (1, 2)")
    out = plant(book, {0: {"accuracy": percent(0.9)}}, set=["rate=2"])
    before = (out / "sweep.json").read_text()
    ended = book.course("sweep", "0", "--seeds", "0-1")
    assert (ended.status, ended.out) == (2, "")
    assert f"{out} holds a sweep of another configuration: rate was 2 and is now 1. Results of" in ended.err
    book.add("00-a", "print(-rate)", parameters="seed = 0\nrate = 1\nsizes = (1, 2)")
    changed = book.course("sweep", "0", "--seeds", "0-1", "--set", "rate=2")
    assert "another configuration: the notebook was changed." in changed.err
    book.add("01-b")
    other = book.course("sweep", "1", "--seeds", "0", "--out", out)
    assert "another configuration: the chapter was 00-a and is now 01-b." in other.err
    assert (out / "sweep.json").read_text() == before


def test_a_default_written_out_is_the_same_configuration(book):
    book.add("00-a", parameters="seed = 0\nsizes = (1, 2)")
    plant(book, {0: {"accuracy": percent(0.9)}})
    assert book.course("sweep", "0", "--seeds", "0", "--set", "sizes=[1, 2]").status == 0


def test_a_damaged_record_is_named_and_left_alone(book):
    book.add("00-a", parameters="seed = 0")
    out = book.root / "build" / "sweep" / "00-a"
    out.mkdir(parents=True)
    for text in (
        "{",
        "[]",
        '{"configuration": {}}',
        '{"configuration": {"parameters": {}}, "runs": {"a": {}}}',
        '{"configuration": {"parameters": {}}, "runs": {"0": {"provenance": {}, "failure": null, '
        '"figures": {"a": {}}}}}',
    ):
        (out / "sweep.json").write_text(text)
        ended = book.course("sweep", "0", "--seeds", "0")
        assert ended.status == 2
        assert "sweep.json is damaged" in ended.err
        assert (out / "sweep.json").read_text() == text


def test_a_sweep_of_the_time_when_figures_were_texts_is_named_with_what_to_do(book):
    book.add("00-a", parameters="seed = 0")
    out = plant(book, {0: {"accuracy": "90.0%"}})
    old = record(book)
    del old["version"]
    (out / "sweep.json").write_text(json.dumps(old))
    for words in (["sweep", "0", "--seeds", "0"], ["results", "sweep/00-a"], ["results"]):
        ended = book.course(*words)
        assert (ended.status, ended.out) == (2, "")
        assert "sweep.json was written by another version of the course" in ended.err
        assert "Delete it to run its seeds again" in ended.err
    assert json.loads((out / "sweep.json").read_text()) == old


@pytest.mark.parametrize("repetitions", ["draws", "seeds"])
def test_a_chapter_whose_default_run_reads_no_seed_is_not_swept(book, repetitions):
    book.add("00-a", parameters=f"{repetitions} = 5\nrecompute = False\nreal_data_seed = 0")
    ended = book.course("sweep", "00", "--seeds", "0-1")
    assert ended.status == 2
    said = " ".join(ended.err.split())
    assert "has no parameter `seed` to sweep over" in said
    assert f"course run 00 --set {repetitions}=N --set recompute=true" in said
    assert "course run 00 --set real_data=run --set real_data_seed=N" in said


# ---- what is kept ----------------------------------------------------------------------------------------------------


def test_finished_seeds_are_not_run_again_and_are_merged(book):
    book.add("00-a", book.counting("a"))
    shown = {seed: {"accuracy": percent(0.9 + seed / 100), "net": "vgg"} for seed in (0, 1, 5)}
    plant(book, shown)
    ended = book.course("sweep", "0", "--seeds", "0-1")  # nothing is left to run, so no worker is started
    assert ended.status == 0
    assert "2 of 2 seeds are finished already: 0-1" in ended.out
    assert "the folder also holds seeds 5; they are merged too" in ended.out
    assert "92.0 % [85.4, 98.6]" in ended.out
    assert "vgg, in every run" in ended.out
    assert book.times("a") == 0
    interval = mean_interval([0.90, 0.91, 0.95])
    merged = record(book)["merged"]["accuracy"]
    assert merged == {
        "shown": "92.0 % [85.4, 98.6]",
        "n": 3,
        "mean": pytest.approx(interval.mean),
        "low": pytest.approx(interval.low),
        "high": pytest.approx(interval.high),
        "form": ".1%",
        "unit": "",
    }


def test_what_failed_or_lost_its_notebook_is_run_again_and_other_code_is_said(book, monkeypatch):
    book.add("00-a")
    plant(book, {0: {}, 1: {}})
    out = plant(book, {2: {}}, failure={"cell": 1, "line": "", "error": "E"})
    sweep._notebook_path(out, 1).unlink()
    planned = sweep.plan("0", [0, 1, 2], {"profile": "fast", "set": []})
    assert planned.waiting() == [1, 2]
    assert planned.notes[1:] == ["seed 1: its executed notebook is gone; it is run again"]
    monkeypatch.setattr(state, "library_sha256", lambda: "another")
    notes = sweep.plan("0", [0], {"profile": "fast", "set": []}).notes
    assert notes[-1] == "seeds 0: kept, though course_lib has changed since they were run"


def test_a_chapter_that_runs_seeds_of_its_own_is_warned_of_runs_in_common(book):
    book.add("00-a", parameters="seed = 0\nseeds = 5")
    plant(book, {0: {}, 1: {}, 5: {}, 10: {}})
    ended = book.course("sweep", "0", "--seeds", "0,1")
    assert "share runs and the interval is too narrow. Take seeds 5 apart: --seeds 0,5" in ended.out
    assert "too narrow" not in book.course("sweep", "0", "--seeds", "10,0,5").out


def test_record_keeps_numbers_seeds_and_where_they_were_measured(book):
    book.add("00-a", parameters="seed = 0\ndataset = 'glyphs'")
    gain = page._key_figure("gain", (Interval(0.01501, 0.01, 0.02, 3), "+.1%"))
    size = page._key_figure("size", (4.186, ".2f", "MB"))
    out = plant(book, {1: {"gain": gain, "size": size, "net": "vgg"}, 0: {"loss": 0.25}})
    content = record(book)
    for seed, commit in (("0", "aaa"), ("1", "bbb")):
        content["runs"][seed]["provenance"] |= {"commit": commit, "device": "cuda"}
    (out / "sweep.json").write_text(json.dumps(content))
    ended = book.course("sweep", "0", "--seeds", "0-1", "--record")
    assert ended.status == 0
    kept = records.load("sweep-00-a")
    assert kept["rows"] == [
        {"seed": 0, "loss": 0.25},
        {"seed": 1, "gain": 0.01501, "size (MB)": 4.186, "net": "vgg"},
    ]
    assert kept["configuration"]["parameters"] == {"dataset": "glyphs"}
    assert kept["provenance"] == records.provenance() | {"commit": "aaa, bbb", "device": "cuda"}
    assert "sweep-00-a" in book.course("results").out


# ---- runs ------------------------------------------------------------------------------------------------------------


def test_a_killed_worker_and_a_failing_seed_cost_no_other_and_going_on_equals_an_undisturbed_sweep(
    book, accuracy
):
    gate = book.root / "gate"
    waits = (
        "import os, pathlib, time\n"
        f"here = pathlib.Path({str(book.root)!r})\n"
        "(here / f'{seed}.pids').write_text(f'{os.getppid()} {os.getpid()}')\n"
        "with open(here / f'seed{seed}.times', 'a') as stream:\n    stream.write('x')\n"
        "while seed == 1 and not (here / 'gate').exists():\n    time.sleep(0.1)"
    )
    fails = "# needs ok\nassert seed != 2 or (here / 'ok').exists()"
    book.add("00-a", waits, accuracy, fails)
    pids = book.root / "1.pids"

    def kill():
        wait_for((book.root / "build/sweep/00-a/seed-0.ipynb").exists)
        wait_for(lambda: pids.exists() and len(pids.read_text().split()) == 2)
        its_worker, its_kernel = map(int, pids.read_text().split())
        os.kill(its_worker, signal.SIGKILL)
        wait_for(lambda: book.times("seed1") == 2 and not alive(its_worker) and not alive(its_kernel))
        gate.touch()

    with aside(kill):
        ended = book.course("sweep", "0", "--seeds", "0-3", "--workers", "2")
    assert ended.status == 1, ended.err
    assert re.search(r"seed 2 failed in In \[5\] \(cell code-\d\): # needs ok", ended.out)
    assert "1 of 4 seeds failed. The same command" in ended.out
    assert "│ accuracy │    3 │" in ended.out
    assert "Traceback" not in ended.out
    assert [book.times(f"seed{seed}") for seed in range(4)] == [1, 2, 1, 1]
    assert record(book)["merged"]["accuracy"]["n"] == 3

    (book.root / "ok").touch()
    resumed = book.course("sweep", "0", "--seeds", "0-3", "--workers", "1")
    assert resumed.status == 0, resumed.err
    assert "3 of 4 seeds are finished already: 0-1,3" in resumed.out
    assert [book.times(f"seed{seed}") for seed in range(4)] == [1, 2, 2, 1]

    other = book.root / "other"
    assert book.course("sweep", "0", "--seeds", "3,1,2,0", "--workers", "2", "--out", other).status == 0
    first, second = record(book), record(book, out=other)
    assert first["merged"] == second["merged"]
    assert first["merged"]["accuracy"]["shown"] == "90.8 % [89.7, 91.8]"
    assert (
        figures_of(first)
        == figures_of(second)
        == {str(s): {"accuracy": percent(0.9 + s / 200)} for s in range(4)}
    )
    for seed in range(4):
        one, two = (
            [
                cell.get("outputs")
                for cell in notebooks.normalise(notebooks.read(folder / f"seed-{seed}.ipynb")).cells
            ]
            for folder in (book.root / "build/sweep/00-a", other)
        )
        assert one == two


def test_a_seed_that_kills_its_worker_each_time_fails_alone(book, accuracy):
    """With one death allowed and one worker, Dask itself gives up the innocent seed as well."""
    book.add("00-a", "import os, signal\nif seed == 1:\n    os.kill(os.getppid(), signal.SIGKILL)", accuracy)
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        ended = book.course("sweep", "0", "--seeds", "1,0", "--workers", "1")
    assert ended.status == 1, ended.err
    assert "Traceback" not in ended.out
    assert "seed 0: passed" in ended.out
    assert (
        "seed 1 failed before the first cell\nKilledWorker: worker processes died time and again" in ended.out
    )
    assert figures_of(record(book)) == {"0": {"accuracy": percent(0.9)}, "1": {}}


def test_an_interrupted_sweep_ends_its_workers_and_kernels_and_keeps_what_is_finished(book, accuracy):
    waits = (
        "import os, pathlib, time\n"
        f"here = pathlib.Path({str(book.root)!r})\n"
        "(here / f'{seed}.pids').write_text(f'{os.getppid()} {os.getpid()}')\n"
        "while seed == 1:\n    time.sleep(0.1)"
    )
    book.add("00-a", accuracy, waits)
    pids, folder = book.root / "1.pids", book.root / "build/sweep/00-a"
    process = book.start("sweep", "0", "--seeds", "0-1", "--workers", "1")
    try:
        wait_for(lambda: pids.exists() and len(pids.read_text().split()) == 2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "Traceback" not in out + err
    assert "interrupted; 1 of 2 seeds are kept in" in err
    for pid in map(int, pids.read_text().split()):
        wait_for(lambda pid=pid: not alive(pid))
    assert held(folder) == [
        "seed-0.ipynb",
        "sweep.json",
    ]
    assert list(record(book)["runs"]) == ["0"]


def test_on_a_cluster_every_seed_runs_on_one_core_in_a_folder_of_its_own(book, in_place, accuracy):
    where = (
        "import os, pathlib\n"
        "print(seed, rate, *(os.environ[name] for name in ('OMP_NUM_THREADS', 'LOKY_MAX_CPU_COUNT')))\n"
        "print(pathlib.Path.cwd())\npathlib.Path('left').touch()"
    )
    book.add("00-a", where, accuracy, parameters="seed = 0\nrate = 1\ndevice = 'cpu'")
    ended = book.course("sweep", "0", "--seeds", "3,8", "--set", "rate=2", "--scheduler", in_place)
    assert ended.status == 0, ended.err
    folder = book.root / "build" / "sweep" / "00-a"
    printed = [book.printed(f"seed-{seed}", folder).splitlines() for seed in (3, 8)]
    assert [lines[0] for lines in printed] == ["3 2 1 1", "8 2 1 1"]
    folders = {lines[1] for lines in printed}
    assert len(folders) == 2
    assert not any(os.path.exists(path) or path.startswith(str(book.root)) for path in folders)
    run = record(book)["runs"]["3"]
    assert run["provenance"] == records.provenance() | {"device": "cpu"}
    assert run["library_sha256"] == state.library_sha256()
    assert record(book)["configuration"] == {
        "chapter": "00-a",
        "parameters": {"rate": 2, "device": "cpu"},
        "source_sha256": notebooks.chapters()[0].source_sha256,
    }
    assert not list(book.root.rglob("*.part"))


def test_a_cluster_with_tls_is_used_with_its_credentials_and_refused_without(book, secured, accuracy, caplog):
    book.add("00-a", accuracy)
    without = book.course("sweep", "0", "--seeds", "0-1", *secured[:2])
    assert without.status == 2
    assert f"course: {secured[1]} asks for credentials. Give --tls-ca-file" in without.err
    ended = book.course("sweep", "0", "--seeds", "0-1", *secured)
    assert ended.status == 0, ended.err
    assert figures_of(record(book)) == {str(s): {"accuracy": percent(0.9 + s / 200)} for s in range(2)}
    assert "TLS" not in caplog.text


def test_a_cluster_without_tls_is_used_and_the_danger_is_told_once(book, in_place, accuracy, caplog):
    book.add("00-a", accuracy)
    assert book.course("sweep", "0", "--seeds", "0-1", "--scheduler", in_place).status == 0
    assert (
        caplog.text.count(f"the cluster at {in_place} has no TLS: whoever reaches it can run code there") == 1
    )


def test_workers_with_other_code_are_refused_and_nothing_is_merged(book, in_place, monkeypatch):
    book.add("00-a", book.counting("a"))
    digests = itertools.count()
    monkeypatch.setattr(worker.state, "library_sha256", lambda: str(next(digests)))
    ended = book.course("sweep", "0", "--seeds", "0-1", "--scheduler", in_place)
    assert ended.status == 2
    assert "has another course_lib than this machine" in ended.err
    assert record(book)["runs"] == {}
    assert book.times("a") == 0


def test_a_run_that_breaks_outside_its_notebook_is_the_failure_of_that_seed(book, in_place, monkeypatch):
    book.add("00-a")

    def broken(task):
        raise OSError("no space left")

    monkeypatch.setattr(worker.runner, "execute", broken)
    ended = book.course("sweep", "0", "--seeds", "0-1", "--scheduler", in_place)
    assert ended.status == 1
    assert "OSError: no space left" in ended.out
    assert "2 of 2 seeds failed" in ended.out


WITHOUT_COURSE = "import sys\nsys.modules['course_lib'] = None\nfrom dask.__main__ import main\nmain()"


@contextlib.contextmanager
def dask_processes(folder, **programs):
    """A scheduler and a worker as processes of their own: (address, process of the scheduler).

    `scheduler` and `worker` may be programs to run in place of `python -m dask`.
    """
    contact = folder / "scheduler.json"
    words = {
        "scheduler": ["--host", "127.0.0.1", "--port", "0"],
        "worker": ["--nthreads", "1", "--no-nanny"],
    }
    processes = []
    try:
        for role, options in words.items():
            program = ["-c", programs[role]] if role in programs else ["-m", "dask"]
            command = [
                sys.executable,
                *program,
                role,
                *options,
                "--no-dashboard",
                "--scheduler-file",
                str(contact),
            ]
            processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            wait_for(lambda: contact.exists() and contact.read_text().endswith("}"))  # not half of it
        address = json.loads(contact.read_text())["address"]
        with distributed.Client(address) as client:
            client.wait_for_workers(1, timeout=PATIENCE)
        yield address, processes[0]
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.parametrize("without", ["scheduler", "worker"])
def test_a_cluster_without_the_course_is_refused(book, without):
    book.add("00-a")
    with dask_processes(book.root, **{without: WITHOUT_COURSE}) as (address, _):
        ended = book.course("sweep", "0", "--seeds", "0-1", "--scheduler", address, "--timeout", "60")
    assert ended.status == 2
    assert f"the cluster at {address} cannot import what a run needs (" in ended.err
    assert "Traceback" not in ended.err
    assert record(book)["runs"] == {}


# ---- schedulers that do not answer -----------------------------------------------------------------------------------


@contextlib.contextmanager
def nobody():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = free.getsockname()[1]
    yield address


@contextlib.contextmanager
def silent():
    """Accepts the connection, as the system does for whoever listens, and says nothing."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


@contextlib.contextmanager
def stranger():
    """A web server."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize("listener", [nobody, silent, stranger])
def test_a_scheduler_that_does_not_answer_is_an_error_in_time(book, listener):
    book.add("00-a", book.counting("a"))
    with listener() as port, in_time():
        ended = book.course(
            "sweep", "0", "--seeds", "0", "--scheduler", f"127.0.0.1:{port}", "--timeout", "1"
        )
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith(f"course: no Dask scheduler answers at 127.0.0.1:{port} (")
    assert "Traceback" not in ended.err
    assert book.times("a") == 0


@pytest.mark.parametrize("address", ["nonsense", "foo://here:1", ""])
def test_an_address_that_is_none_is_an_error(book, address):
    book.add("00-a")
    ended = book.course("sweep", "0", "--seeds", "0", "--scheduler", address)
    assert ended.status == 2
    assert f"no Dask scheduler answers at {address} (ValueError: " in ended.err


def test_a_scheduler_without_workers_is_an_error_in_time(book, monkeypatch):
    book.add("00-a")
    monkeypatch.setattr(jobs, "_POLL", 0.2)
    with cluster_in_place(workers=0) as empty, in_time():
        ended = book.course(
            "sweep", "0", "--seeds", "0", "--scheduler", empty.scheduler_address, "--timeout", "2"
        )
    assert ended.status == 2
    assert "has had no worker for 2 s. Start some: dask worker tcp://127.0.0.1" in ended.err


def test_a_scheduler_that_goes_away_ends_the_sweep_and_finished_seeds_are_kept(book, accuracy):
    waits = (
        "import pathlib, time\n"
        f"here = pathlib.Path({str(book.root)!r})\n"
        "(here / f'{seed}.begun').touch()\n"
        "while seed == 1 and not (here / 'gate').exists():\n    time.sleep(0.1)"
    )
    book.add("00-a", accuracy, waits)

    with dask_processes(book.root) as (address, scheduler):

        def kill():
            wait_for((book.root / "1.begun").exists)
            scheduler.kill()

        with aside(kill):
            ended = book.course("sweep", "0", "--seeds", "0-1", "--scheduler", address, "--timeout", "60")
        (book.root / "gate").touch()
    assert ended.status == 2
    assert "is gone; finished seeds are kept" in ended.err
    assert "Traceback" not in ended.err
    assert list(record(book)["runs"]) == ["0"]
