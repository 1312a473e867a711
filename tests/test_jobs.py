"""Calls in processes and on clusters: results in order, a thread each, and a deadly call takes no other with it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import joblib
import pytest
import torch

from course_lib import jobs, training
from course_lib.jobs import Failed, Lost, Processes, isolated, on_one_thread, run_parallel
from tests.book.processes import alive, wait_for
from tests.test_training import dataset, recipe


def deadly(number: int, parent: int, marker: str) -> int:
    """Kills its worker where the number is 3, and at 5 the first time."""
    if os.getpid() != parent and (number == 3 or (number == 5 and not Path(marker).exists())):
        if number == 5:
            Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def test_a_call_that_kills_its_worker_takes_no_other_with_it(tmp_path):
    calls = {n: (n, os.getpid(), str(tmp_path / "died")) for n in range(8)}
    found = dict(isolated(Processes(deadly, workers=2), calls, tries=2))
    assert (tmp_path / "died").exists()
    assert isinstance(found.pop(3), Lost)
    assert found == {n: n * n for n in range(8) if n != 3}


def test_a_silent_worker_counts_as_dead():
    found = dict(isolated(Processes(time.sleep, workers=2, patience=1), {"long": (20,), "short": (0,)}))
    assert found["short"] is None
    assert isinstance(found["long"], Lost)


CALLS = {
    "run_parallel": "jobs.run_parallel(sleeper, paths, workers=2)",
    "Processes": "list(jobs.Processes(sleeper, workers=2)({path: (path,) for path in paths}))",
}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a POSIX system")
@pytest.mark.parametrize("way", CALLS)
def test_no_worker_outlives_a_killed_parent(tmp_path, way):
    paths = [tmp_path / "first", tmp_path / "second"]
    program = (
        "import os, pathlib, time\nfrom course_lib import jobs\n"
        "def sleeper(path):\n    pathlib.Path(path).write_text(str(os.getpid()))\n    time.sleep(9999)\n"
        f"paths = {list(map(str, paths))}\n{CALLS[way]}"
    )
    parent = subprocess.Popen([sys.executable, "-c", program])
    try:
        wait_for(lambda: all(path.exists() and path.read_text() for path in paths))
    finally:
        parent.kill()
        parent.wait()
    workers = [int(path.read_text()) for path in paths]
    assert parent.pid not in workers
    try:
        wait_for(lambda: not any(map(alive, workers)), seconds=60)
    finally:
        for worker in filter(alive, workers):
            os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize("tries", [1, 3])
def test_a_lost_call_is_made_again_alone_so_often_and_no_more(tries):
    made = []

    def pool(calls):
        made.append(list(calls))
        for key in calls:
            yield key, Lost("") if key == "b" else key

    assert list(isolated(pool, {"a": (), "b": (), "c": ()}, tries=tries)) == [
        ("a", "a"),
        ("c", "c"),
        ("b", Lost("")),
    ]
    assert made == [["a", "b", "c"]] + [["b"]] * tries


def test_what_ends_well_the_second_time_is_not_lost():
    times = iter([Lost(""), 7])
    assert list(isolated(lambda calls: ((key, next(times)) for key in calls), {"a": ()}, tries=5)) == [
        ("a", 7)
    ]


def test_a_call_that_raises_is_not_made_again():
    made = []

    def pool(calls):
        made.append(list(calls))
        return ((key, Failed("broken")) for key in calls)

    assert list(isolated(pool, {"a": ()})) == [("a", Failed("broken"))]
    assert made == [["a"]]


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_call_raises_reaches_the_caller(workers):
    with pytest.raises(ZeroDivisionError):
        list(isolated(Processes(divmod, workers=workers), {"a": (1, 0), "b": (1, 1)}))


def test_joblibs_own_setting_is_obeyed():
    with joblib.parallel_config("threading", n_jobs=2):
        found = dict(Processes(lambda: os.getpid())({"a": (), "b": ()}))
    assert set(found.values()) == {os.getpid()}


def test_no_call_is_made_twice_and_none_is_forgotten():
    assert sorted(Processes(pow, workers=2)({n: (n, 2) for n in range(40)})) == [
        (n, n * n) for n in range(40)
    ]
    assert list(isolated(Processes(pow, workers=2), {})) == []


# Runs side by side


@pytest.fixture
def three_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("three_threads")
def test_runs_side_by_side_keep_their_order_and_do_not_depend_on_the_workers():
    data, plan = dataset(), recipe(epochs=1, augment="shift")

    def one_run(seed):  # a function of the caller's own, as in a notebook
        import time

        from course_lib.models import build

        time.sleep(0.3 if seed == 0 else 0.0)  # the first is the last to finish
        model = build("mlp", image_size=4, in_channels=3, classes=3, hidden=(5,), seed=seed)
        history = training.fit(model, data, plan, loss=None)
        processes.append(os.getpid())
        return seed, torch.get_num_threads(), history.train_loss, history.validation_accuracy

    processes = []
    alone = run_parallel(one_run, range(4), workers=1)
    assert processes == [os.getpid()] * 4
    assert torch.get_num_threads() == 3
    together = run_parallel(one_run, range(4), workers=2)
    assert len(processes) == 4  # the others wrote into lists of their own, in processes of their own
    assert torch.get_num_threads() == 3
    assert alone == together
    assert [seed for seed, *_ in together] == [0, 1, 2, 3]
    assert {threads for _, threads, *_ in alone + together} == {1}


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_a_run_reaches_the_caller(workers):
    def fails_at_two(number):
        if number == 2:
            raise ZeroDivisionError("run 2 went wrong")
        return number

    with pytest.raises(ZeroDivisionError, match="run 2 went wrong"):
        run_parallel(fails_at_two, range(4), workers=workers)
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_a_call_on_one_thread_takes_any_arguments_and_gives_the_threads_back():
    assert on_one_thread(lambda *all: (*all, torch.get_num_threads()), "a", 2) == ("a", 2, 1)
    assert torch.get_num_threads() == 3
    with pytest.raises(ZeroDivisionError):
        on_one_thread(lambda: 1 / 0)
    assert torch.get_num_threads() == 3


def test_no_arguments_give_no_results():
    assert run_parallel(len, []) == []


@pytest.mark.bad_input
@pytest.mark.parametrize(("workers", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError)])
def test_a_wrong_number_of_workers_is_named(workers, error):
    with pytest.raises(error, match=f"workers is {workers}"):
        run_parallel(len, ["a"], workers=workers)


def test_a_cluster_that_is_not_installed_is_said(monkeypatch):
    import builtins

    real = builtins.__import__

    def without(name, *rest, **keywords):
        if name == "distributed":
            raise ImportError(name)
        return real(name, *rest, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(jobs.ClusterError, match="pip install"), jobs.connected(len, "runs", scheduler=None):
        pass


@pytest.mark.bad_input
def test_a_lost_call_is_tried_again_at_least_once():
    with pytest.raises(ValueError, match="tries is 0"):
        list(isolated(lambda calls: [("a", Lost(""))], {"a": ()}, tries=0))
