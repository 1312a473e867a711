"""A run ends where its kernel is idle and a cell is still waited for, and never while the kernel computes."""

import math
import os
import signal
import threading

import pytest
from jupyter_client.channels import AsyncZMQSocketChannel

from course_lib.book import notebooks
from course_lib.book.run import runner
from tests.book.processes import PATIENCE, alive, wait_for

COMPUTES = {
    "sleep": "import time\ntime.sleep({})",
    "awaits": "import asyncio\nawait asyncio.sleep({})",
    "counts": "import time\nend = time.monotonic() + {}\nwhile time.monotonic() < end:\n    pass",
    "waits for a process": "import subprocess\nsubprocess.run(['sleep', '{}'])",
}


def the_task(book, name):
    return runner.Task(name, notebooks.read(book.path(name)), {}, book.root)


def watchdogs():
    return [thread for thread in threading.enumerate() if thread.name.startswith("watchdog")]


@pytest.fixture
def a_reply_is_lost(monkeypatch):
    """The reply to the second code cell never reaches nbclient; every later one does."""
    receive, lost = AsyncZMQSocketChannel.get_msg, []

    async def lossy(channel, *arguments, **options):
        message = await receive(channel, *arguments, **options)
        second = message["msg_type"] == "execute_reply" and message["content"]["execution_count"] == 2
        if second and not lost:
            lost.append(message)
            return await receive(channel, *arguments, **options)
        return message

    monkeypatch.setattr(AsyncZMQSocketChannel, "get_msg", lossy)


def test_an_idle_kernel_whose_cell_is_waited_for_ends_the_chapter(book, monkeypatch, a_reply_is_lost):
    monkeypatch.setattr(runner, "_IDLE", 1.0)
    book.add(
        "00-waits",
        "import os, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(9999)'])\n"
        "print(os.getpid(), child.pid)",
        "print('never')",
    )
    task = the_task(book, "00-waits")
    rescue = threading.Timer(PATIENCE, lambda: runner._signal([task], signal.SIGKILL))
    rescue.start()
    try:
        outcome = runner.execute(task)
    finally:
        rescue.cancel()
    failure = outcome.failure
    assert (failure.cell, failure.id, failure.line) == (2, "code-0", "import os, subprocess, sys")
    assert "the kernel has been idle for 1 s, but the run still waits for this cell" in outcome.failure.error
    assert "Run the chapter again" in outcome.failure.error
    kernel, child = map(int, outcome.notebook.cells[2].outputs[0].text.split())
    wait_for(lambda: not alive(kernel) and not alive(child))
    assert kernel != os.getpid()
    assert watchdogs() == []


@pytest.mark.bad_input  # the checker does not know typer
def test_the_other_chapters_of_the_run_go_on(book, monkeypatch, a_reply_is_lost):
    monkeypatch.setattr(runner, "_IDLE", 1.0)
    book.add("00-waits", "print('lost')")
    book.add("01-next", "print('here')")
    ended = book.course("run", "--jobs", "1")
    assert ended.status == 1
    assert "failed in In [2] (cell code-0): print('lost')" in ended.out
    assert "the kernel has been idle for 1 s" in " ".join(ended.out.split())
    assert book.printed("01-next") == "here\n"


@pytest.mark.bad_input
@pytest.mark.parametrize("way", [*COMPUTES, "prints"])
def test_a_cell_that_takes_too_long_is_named_and_the_other_chapters_go_on(book, way):
    source = COMPUTES.get(way, "import time\nwhile True:\n    print('on')\n    time.sleep({0} / {0} / 50)")
    book.add("00-long", "import time\ntime.sleep(1.2)", "time.sleep(1.2)", source.format(9999))
    book.add("01-next", "print('here')")
    ended = book.course("run", "--cell-timeout", "2")
    assert ended.status == 1
    failure = book.state()["chapters"]["00-long"]["failure"]
    first = source.format(9999).splitlines()[0]
    assert (failure["cell"], failure["id"], failure["line"]) == (4, "code-2", first)
    assert failure["error"].startswith("the cell took longer than 2 s and was ended; --cell-timeout")
    assert f"failed in In [4] (cell code-2): {first}" in ended.out
    assert book.printed("01-next") == "here\n"
    assert watchdogs() == []


@pytest.mark.parametrize(
    ("parameters", "given", "limit"),
    [
        ({}, None, 900),
        ({"recompute": False, "real_data": "recorded"}, None, 900),
        ({"recompute": True}, None, math.inf),
        ({"real_data": "run"}, None, math.inf),
        ({"real_data": "run"}, 60.0, 60),
    ],
)
def test_a_cell_has_a_quarter_of_an_hour_unless_hours_are_asked_for(book, parameters, given, limit):
    book.add("00-a")
    source = notebooks.read(book.path("00-a"))
    assert runner.Task("00-a", source, parameters, book.root, cell_seconds=given).limit == limit


@pytest.mark.parametrize("way", COMPUTES)
def test_a_kernel_that_computes_in_silence_is_left_alone(book, monkeypatch, way):
    monkeypatch.setattr(runner, "_IDLE", 0.5)
    book.add("00-long", COMPUTES[way].format(4), "print('done')")
    outcome = runner.execute(the_task(book, "00-long"))
    assert outcome.failure is None
    assert outcome.notebook.cells[-1].outputs[0].text == "done\n"
    assert watchdogs() == []


def test_between_its_cells_a_kernel_may_be_idle(book, monkeypatch):
    """What follows a cell here (the progress shown, a full pipe) may take as long as it likes."""
    monkeypatch.setattr(runner, "_IDLE", 0.3)
    book.add("00-a", "print('done')")
    outcome = runner.execute(the_task(book, "00-a"), on_cell=lambda task: threading.Event().wait(1.5))
    assert outcome.failure is None
    assert outcome.notebook.cells[-1].outputs[0].text == "done\n"


def test_a_notebook_that_fails_or_has_no_code_leaves_no_thread(book):
    book.add("00-fails", "1 / 0")
    book.add("01-dies", "import os\nos._exit(1)")
    for name in ("00-fails", "01-dies"):
        assert "idle" not in runner.execute(the_task(book, name)).failure.error
    book.add("02-empty", parameters="")
    assert runner.execute(the_task(book, "02-empty")).failure is None
    assert watchdogs() == []
