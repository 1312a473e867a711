"""The box: what a program in it can reach, write, see and take. A test is skipped where the system has no such wall."""

import json
import os
import socket
import subprocess
import sys
import threading

import psutil
import pytest

from course_lib.book.classroom import sandbox
from course_lib.book.classroom.sandbox import Limits

pytestmark = pytest.mark.bad_input
MEMORY = 512 * 2**20


@pytest.fixture
def run(tmp_path):
    """Run Python lines in a box; `say(...)` in them prints what the call returns here."""
    inside = tmp_path / "hidden" / "inside"
    inside.mkdir(parents=True)
    (tmp_path / "hidden" / "secret").write_text("x")

    def run(*lines, level=sandbox.FULL, limits=None, **environment):
        if sandbox.level() != level and sandbox.level() != sandbox.FULL:
            pytest.skip(sandbox.missing(sandbox.level()))
        program = "\n".join(["import json, os", "say = lambda what: print(json.dumps(what))", *lines])
        limits = Limits(MEMORY, hidden=(tmp_path / "hidden",), **(limits or {}))
        done = sandbox.run([sys.executable, "-c", program], inside, limits, environment=environment)
        return [json.loads(line) for line in done.out.splitlines()], done

    return run


TRY = "def attempt(function, *arguments):\n    try:\n        function(*arguments)\n        return 'done'\n"
TRY += "    except OSError as error:\n        return error.strerror"


def test_it_writes_in_its_own_folder_and_nowhere_else(run, tmp_path):
    places = [tmp_path / "x", "/tmp/a-new-file", os.path.expanduser("~/a-new-file"), sandbox.__file__]
    said, done = run(TRY, "say(os.getcwd())", "open('mine', 'w').write('1')", "open('/dev/shm/x', 'w').close()",
                     *(f"say(attempt(open, {str(place)!r}, 'a'))" for place in places))  # fmt: skip
    assert said == [str(tmp_path / "hidden" / "inside"), *["Read-only file system"] * 4], done.err
    assert (tmp_path / "hidden" / "inside" / "mine").read_text() == "1"
    assert not os.path.exists("/dev/shm/x")


def test_hidden_folders_and_other_processes_are_not_seen(run, tmp_path):
    said, done = run(
        f"say(os.listdir({str(tmp_path / 'hidden')!r}))",
        "say([name for name in os.listdir('/proc') if name.isdigit()])",
        "say(os.path.exists('/run/systemd') or os.path.exists('/run/user'))",
    )
    assert said == [["inside"], ["1"], False], done.err


def test_it_has_a_loopback_of_its_own_and_no_network(run):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        said, done = run(
            TRY,
            "import socket",
            f"say(attempt(socket.create_connection, ('127.0.0.1', {port}), 5))",
            "own = socket.create_server(('127.0.0.1', 0))",
            "say(attempt(socket.create_connection, own.getsockname(), 5))",
            "say(attempt(socket.create_connection, ('192.0.2.1', 80), 5))",
            level=sandbox.NETWORK,
        )
    assert said == ["Connection refused", "done", "Network is unreachable"], done.err


def test_it_cannot_undo_its_walls(run, tmp_path):
    said, done = run(
        TRY,
        "import ctypes, subprocess",
        "libc = ctypes.CDLL(None, use_errno=True)",
        "say(libc.mount(None, b'/', None, ctypes.c_ulong(4096 | 32), None))",  # remount, read and write
        "say(libc.umount2(b'/dev/shm', 2))",
        "unshare = ['unshare', '--user', '--map-root-user', '--mount', 'true']",
        "say(subprocess.run(unshare, capture_output=True).returncode)",
        f"say(attempt(open, {str(tmp_path / 'x')!r}, 'w'))",
    )
    assert said[:2] == [-1, -1], done.err
    assert said[2] != 0
    assert said[3] == "Read-only file system"


def test_memory_and_files_are_limited(run):
    said, done = run(
        "try:\n    bytearray(2**30)\nexcept MemoryError:\n    say('memory')",
        "import signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)",
        "try:\n    with open('big', 'wb') as stream:\n        stream.truncate(2**40)\n"
        "except OSError as error:\n    say(error.strerror)",
        level=sandbox.NONE,
    )
    assert said == ["memory", "File too large"], done.err


SLEEP = "import time\ntime.sleep(300)"


@pytest.mark.parametrize(
    ("lines", "limits", "reason"),
    [
        ([SLEEP], {"seconds": 1.5}, "not finished after 1.5 s"),
        (["open('a', 'wb').write(bytes(2**20))", SLEEP], {"disk": 2**19}, "more than 0 MB written to disk"),
        (
            ["import subprocess, sys", "eat = 'import time\\na = b\"1\" * 200 * 2**20\\ntime.sleep(300)'",
             "every = [subprocess.Popen([sys.executable, '-c', eat]) for _ in range(4)]", SLEEP],
            {}, "more than 512 MB of memory in all processes",
        ),
    ],
)  # fmt: skip
def test_what_no_limit_of_a_process_holds_is_watched(run, lines, limits, reason):
    before = psutil.Process().children(recursive=True)
    _, done = run(*lines, level=sandbox.NONE, limits={"seconds": 60, **limits})
    assert done.reason.startswith(reason)
    assert done.status == -9
    assert psutil.Process().children(recursive=True) == before


def test_a_command_is_stopped_when_it_is_asked_for_and_what_it_printed_is_kept(tmp_path):
    stopping = threading.Event()
    timer = threading.Timer(2, stopping.set)
    timer.start()
    command = [sys.executable, "-c", f"print('.' * 10**7, flush=True)\n{SLEEP}"]
    done = sandbox.run(command, tmp_path, Limits(MEMORY, seconds=100), stopping=stopping)
    assert (done.status, done.reason, len(done.out)) == (-9, "", 2**20)


LEAVES = """
import pathlib, psutil, sys
from course_lib.book.classroom import sandbox
sandbox._way = lambda: (sandbox.NONE, [])  # no namespace that ends with the command
sandbox.adopt_orphans()
child = "import time; time.sleep(300)"
leave = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}])"
done = sandbox.run([sys.executable, "-c", leave], pathlib.Path.cwd(), sandbox.Limits(2**30))
print(done.status, [one.status() for one in psutil.Process().children()])
"""


def test_what_a_command_leaves_running_ends_with_it(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LEAVES], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=100
    )
    assert done.stdout == "0 []\n"


def test_it_gets_what_it_needs_of_the_environment_and_no_secrets(run, monkeypatch):
    monkeypatch.setenv("TOKEN", "secret")
    said, _ = run(
        "say(sorted(os.environ))", "say(os.environ['HOME'] == os.getcwd())", level=sandbox.NONE, ADDED="1"
    )
    assert "TOKEN" not in said[0]
    assert {"PATH", "ADDED", "TMPDIR"} <= set(said[0])
    assert said[1]


def test_without_unshare_only_the_limits_are_left_and_that_is_said(run, monkeypatch, tmp_path):
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    sandbox._way.cache_clear()
    try:
        assert sandbox.level() == sandbox.NONE
        assert "only time and memory are limited" in sandbox.missing(sandbox.NONE)
        command = [sys.executable, "-c", "print(open('/proc/self/limits').read())"]
        ended = sandbox.run(command, tmp_path, Limits(MEMORY))
        assert (ended.status, ended.reason) == (0, "")
        assert str(MEMORY) in ended.out
    finally:
        sandbox._way.cache_clear()
