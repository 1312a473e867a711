"""The box: what a program in it can reach, write, see and take. A test is skipped where the system has no such wall."""

import json
import os
import socket
import subprocess
import sys

import pytest

from course_lib.book.classroom import sandbox
from course_lib.book.classroom.sandbox import Box, Limits

pytestmark = pytest.mark.bad_input
MEMORY = 512 * 2**20


@pytest.fixture
def run(tmp_path):
    """Run Python lines in a box; `say(...)` in them prints what the call returns here."""
    inside = tmp_path / "hidden" / "inside"
    inside.mkdir(parents=True)
    (tmp_path / "hidden" / "secret").write_text("x")

    def run(*lines, level=sandbox.FULL, **environment):
        if sandbox.level() != level and sandbox.level() != sandbox.FULL:
            pytest.skip(sandbox.missing(sandbox.level()))
        program = "\n".join(["import json, os", "say = lambda what: print(json.dumps(what))", *lines])
        closed = Box(inside, Limits(MEMORY), (tmp_path / "hidden",), environment)
        done = subprocess.run(
            closed.command([sys.executable, "-c", program]), capture_output=True, text=True, check=False
        )
        return [json.loads(line) for line in done.stdout.splitlines()], done

    return run


TRY = "def attempt(function, *arguments):\n    try:\n        function(*arguments)\n        return 'done'\n"
TRY += "    except OSError as error:\n        return error.strerror"


def test_it_writes_in_its_own_folder_and_nowhere_else(run, tmp_path):
    places = [tmp_path / "x", "/tmp/a-new-file", os.path.expanduser("~/a-new-file"), sandbox.__file__]
    said, done = run(TRY, "say(os.getcwd())", "open('mine', 'w').write('1')", "open('/dev/shm/x', 'w').close()",
                     *(f"say(attempt(open, {str(place)!r}, 'a'))" for place in places))  # fmt: skip
    assert said == [str(tmp_path / "hidden" / "inside"), *["Read-only file system"] * 4], done.stderr
    assert (tmp_path / "hidden" / "inside" / "mine").read_text() == "1"
    assert not os.path.exists("/dev/shm/x")


def test_hidden_folders_and_other_processes_are_not_seen(run, tmp_path):
    said, done = run(
        f"say(os.listdir({str(tmp_path / 'hidden')!r}))",
        "say([name for name in os.listdir('/proc') if name.isdigit()])",
        "say(os.path.exists('/run/systemd') or os.path.exists('/run/user'))",
    )
    assert said == [["inside"], ["1"], False], done.stderr


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
    assert said == ["Connection refused", "done", "Network is unreachable"], done.stderr


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
    assert said[:2] == [-1, -1], done.stderr
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
    assert said == ["memory", "File too large"], done.stderr


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
        command = Box(tmp_path, Limits(MEMORY)).command(
            [sys.executable, "-c", "print(open('/proc/self/limits').read())"]
        )
        assert command[0] == sys.executable
        assert str(MEMORY) in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    finally:
        sandbox._way.cache_clear()
