"""The box: what a program in it can reach, see, write and take. Skipped where the system has no bubblewrap."""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from course_lib.book.classroom import sandbox
from course_lib.book.classroom.sandbox import Limits

pytestmark = pytest.mark.bad_input
MEMORY = 512 * 2**20
CLOSED = pytest.mark.skipif(bool(sandbox.refusal()), reason=sandbox.refusal())
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")


@pytest.fixture
def run(tmp_path):
    """Run Python lines in a box; `say(...)` in them prints what the call returns here."""
    inside = tmp_path / "class" / "inside"
    inside.mkdir(parents=True)
    (tmp_path / "class" / "secret").write_text("x")

    def run(*lines, closed=True, limits=None, **environment):
        program = "\n".join(["import json, os", "say = lambda what: print(json.dumps(what))", TRY, *lines])
        limits = Limits(**{"memory": MEMORY, **(limits or {})})
        command = [sys.executable, "-c", program]
        done = sandbox.run(command, inside, limits, closed=closed, environment=environment)
        return [json.loads(line) for line in done.out.splitlines()], done

    return run


TRY = """
def attempt(function, *arguments):
    try:
        function(*arguments)
        return 'done'
    except OSError as error:
        return error.strerror
"""


@CLOSED
def test_it_writes_in_its_own_folder_and_in_memory_and_nowhere_else(run, tmp_path):
    library = sandbox.__file__
    said, done = run(
        "say(os.getcwd())",
        "open('mine', 'w').write('1')",
        "for place in ('/dev/shm/x', '/tmp/x'):\n    open(place, 'w').close()",
        *(f"say(attempt(open, {place!r}, 'a'))" for place in ("/x", "/usr/x", library, sys.prefix + "/x")),
        f"say(attempt(os.remove, {library!r}))",
        f"say(attempt(os.rename, {str(Path(library).parent)!r}, '/tmp/moved'))",
    )
    assert said == [
        str(tmp_path / "class" / "inside"),
        *["Read-only file system"] * 5,
        "Invalid cross-device link",
    ], done.err
    assert (tmp_path / "class" / "inside" / "mine").read_text() == "1"
    assert not os.path.exists("/dev/shm/x")
    assert not os.path.exists("/tmp/x")


@CLOSED
def test_nothing_of_the_teachers_is_there(run, tmp_path, monkeypatch):
    """Other submissions, the chapters with their answers, keys, accounts, services, other programs."""
    checkout = Path(sandbox.__file__).parents[3]
    gone = [
        tmp_path / "class" / "secret",
        checkout / "notebooks",
        checkout / "tests",
        checkout / ".git",
        Path.home() / ".ssh",
        Path.home() / ".bash_history",
        Path("/etc/passwd"),
        Path("/etc/shadow"),
        Path("/run"),
        Path("/var"),
        Path("/proc/1/root") / str(tmp_path)[1:] / "class" / "secret",
        Path("/proc/self/fd/3"),
    ]
    said, done = run(
        *(f"say(os.path.exists({str(place)!r}))" for place in gone),
        "say(os.listdir('/tmp'))" if not str(tmp_path).startswith("/tmp/") else "say([])",
        "say(len([name for name in os.listdir('/proc') if name.isdigit()]) <= 2)",
        "from course_lib import data\nsay(len(data.load_dataset('glyphs').classes))",
        limits={"memory": 2**31},  # for torch
    )
    assert said == [False] * len(gone) + [[], True, 10], done.err


@CLOSED
def test_a_link_that_leads_out_leads_nowhere(run, tmp_path):
    said, _ = run(
        f"os.symlink({str(tmp_path / 'class' / 'secret')!r}, 'link')",
        "say(attempt(open, 'link'))",
        "say(attempt(open, '../secret'))",
    )
    assert said == ["No such file or directory"] * 2


@CLOSED
def test_no_service_of_the_machine_is_reached(run, tmp_path):
    """Ports, sockets that are files (tmux, Docker, an agent), sockets without a file."""
    place = str(tmp_path / "class" / "s")
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as named,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        named.bind(place)
        named.listen()
        abstract.bind("\0course-test-socket")
        abstract.listen()
        said, done = run(
            "import socket",
            f"say(attempt(socket.create_connection, ('127.0.0.1', {server.getsockname()[1]}), 5))",
            f"say(attempt(socket.socket(socket.AF_UNIX).connect, {place!r}))",
            "say(attempt(socket.socket(socket.AF_UNIX).connect, '\\0course-test-socket'))",
            "own = socket.create_server(('127.0.0.1', 0))",
            "say(attempt(socket.create_connection, own.getsockname(), 5))",
            "say(attempt(socket.create_connection, ('192.0.2.1', 80), 5))",
        )
    assert said == [
        "Connection refused",
        "No such file or directory",
        "Connection refused",
        "done",
        "Network is unreachable",
    ], done.err


@CLOSED
def test_it_cannot_undo_its_walls(run, tmp_path):
    said, done = run(
        "import ctypes, subprocess",
        "libc = ctypes.CDLL(None, use_errno=True)",
        "say(libc.mount(None, b'/', None, ctypes.c_ulong(4096 | 32), None))",  # remount, read and write
        "say(libc.umount2(b'/dev/shm', 2))",
        "say(libc.setns(os.open('/proc/1/ns/mnt', os.O_RDONLY), 0))",
        "say(attempt(os.chroot, '/tmp'))",
        "say(attempt(os.mknod, 'disk', 0o60600, os.makedev(8, 0)))",
        "unshare = ['unshare', '--user', '--map-root-user', '--mount', 'true']",
        "say(subprocess.run(unshare, capture_output=True).returncode)",
        "say([line.split()[1] for line in open('/proc/self/status') if line.startswith('CapEff')])",
    )
    assert said[:3] == [-1, -1, -1], done.err
    assert said[3:5] == ["Operation not permitted"] * 2
    assert said[5] != 0
    assert said[6] == ["0000000000000000"]


@CLOSED
def test_processes_outside_are_neither_seen_nor_ended(run):
    victim = subprocess.Popen([sys.executable, "-c", SLEEP])
    try:
        said, done = run(
            "import signal",
            f"say(attempt(os.kill, {victim.pid}, signal.SIGKILL))",
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
            "say(attempt(os.kill, -1, signal.SIGTERM))",  # whom it may end
        )
        assert said == ["No such process"] * 2, done.err
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


SLEEP = "import time\ntime.sleep(300)"
EAT = "import time\na = b'1' * 200 * 2**20\ntime.sleep(300)"
MEMFDS = "import os, time\nheld = [os.memfd_create(str(i)) for i in range(4)]\n"
MEMFDS += "for one in held:\n    os.write(one, bytes(2**28 - 2**20))\ntime.sleep(300)"
DELETED = "import os, time\nheld = []\nfor i in range(4):\n    held.append(open(str(i), 'wb'))\n    os.remove(str(i))\n"
DELETED += "    held[-1].write(bytes(200 * 2**20))\n    held[-1].flush()\ntime.sleep(300)"
THREADS = "import threading, time\nfor _ in range(200):\n    threading.Thread(target=time.sleep, args=(300,)).start()"


@LINUX
@pytest.mark.parametrize("closed", [pytest.param(True, marks=CLOSED), False])
@pytest.mark.parametrize(
    ("lines", "limits", "reason"),
    [
        ([SLEEP], {"seconds": 1.5}, "not finished after 1.5 s"),
        (["open('a', 'wb').write(bytes(2**20))", SLEEP], {"disk": 2**19}, "more than 0 MB written to disk"),
        (
            ["import subprocess, sys", f"eat = {EAT!r}",
             "every = [subprocess.Popen([sys.executable, '-c', eat]) for _ in range(4)]", SLEEP],
            {}, "more than 512 MB of memory in all processes",
        ),
        ([MEMFDS], {}, "more than 512 MB of memory in all processes"),
        ([DELETED], {}, "more than 512 MB of memory in all processes"),
        ([THREADS], {"processes": 30}, "more than 30 processes and threads"),
    ],
    ids=["time", "disk", "processes", "memfd", "deleted", "threads"],
)  # fmt: skip
def test_what_no_limit_of_a_process_holds_is_watched(run, monkeypatch, closed, lines, limits, reason):
    monkeypatch.setattr(sandbox, "_most_processes", lambda limits: [])  # it would hold before the look does
    before = psutil.Process().children(recursive=True)
    _, done = run(*lines, closed=closed, limits={"seconds": 60, **limits})
    assert done.reason.startswith(reason), done.err
    assert done.status == -9
    assert psutil.Process().children(recursive=True) == before


@LINUX
def test_pages_that_processes_share_count_once(run):
    """A process of 300 MB and three forks of it take 300 MB, not 1,200."""
    said, done = run(
        "import time\nkept = b'1' * 300 * 2**20\nfor _ in range(3):\n    if os.fork() == 0:\n        time.sleep(300)",
        "time.sleep(2)\nsay('alive')",
        closed=False,
        limits={"seconds": 60},
    )
    assert (said, done.reason) == (["alive"], "")


def test_memory_and_files_are_limited(run):
    said, done = run(
        "try:\n    bytearray(2**30)\nexcept MemoryError:\n    say('memory')",
        "import signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)",
        "try:\n    with open('big', 'wb') as stream:\n        stream.truncate(2**40)\n"
        "except OSError as error:\n    say(error.strerror)",
        closed=False,
    )
    assert said == ["memory", "File too large"], done.err


@CLOSED
def test_a_bomb_of_processes_ends_and_leaves_nothing(run):
    before = psutil.Process().children(recursive=True)
    _, done = run("import time\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass\n"
                  "    time.sleep(0.1)",  # or it leaves the tests beside it no process, where no group limits it
                  limits={"seconds": 20, "processes": 60})  # fmt: skip
    assert done.reason
    assert psutil.Process().children(recursive=True) == before


@CLOSED
def test_a_folder_in_memory_bounds_what_is_written_and_is_unseen_outside(tmp_path):
    words = sandbox.room(tmp_path, 2**20)
    program = f"import os\nos.chdir({str(tmp_path)!r})\nopen('a', 'wb').write(bytes(2**19))\n"
    program += (
        "held = open('b', 'wb')\nos.remove('b')\ntry:\n    held.write(bytes(2**20))\n    held.flush()\n"
    )
    program += "except OSError as error:\n    print(error.strerror)\n    os._exit(0)"
    done = subprocess.run(
        [*words, sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout == "No space left on device\n", done.stderr


def test_a_command_is_stopped_when_it_is_asked_for_and_what_it_printed_is_kept(tmp_path):
    stopping = threading.Event()
    timer = threading.Timer(2, stopping.set)
    timer.start()
    command = [sys.executable, "-c", f"print('.' * 10**7, flush=True)\n{SLEEP}"]
    done = sandbox.run(command, tmp_path, Limits(MEMORY, seconds=100), closed=False, stopping=stopping)
    assert (done.status, done.reason, len(done.out)) == (-9, "", 2**20)


LEAVES = """
import pathlib, psutil, sys
from course_lib.book.classroom import sandbox
sandbox.adopt_orphans()
child = "import time; time.sleep(300)"
leave = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=True)"
done = sandbox.run([sys.executable, "-c", leave], pathlib.Path.cwd(), sandbox.Limits(2**30), closed=CLOSED)
print(done.status, [one.status() for one in psutil.Process().children()])
"""


@pytest.mark.parametrize("closed", [pytest.param(True, marks=CLOSED), False])
def test_what_a_command_leaves_running_ends_with_it(tmp_path, closed):
    program = LEAVES.replace("CLOSED", str(closed))
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=100
    )
    assert done.stdout == "0 []\n"


def test_it_gets_what_it_needs_of_the_environment_and_no_secrets(run, monkeypatch):
    monkeypatch.setenv("TOKEN", "secret")
    said, _ = run(
        "say(sorted(os.environ))", "say(os.environ['HOME'] == os.getcwd())", closed=False, ADDED="1"
    )
    assert "TOKEN" not in said[0]
    assert {"PATH", "ADDED", "TMPDIR"} <= set(said[0])
    assert said[1]


# ---- where it cannot be had ------------------------------------------------------------------------------------------


@pytest.fixture
def fresh():
    for cached in (sandbox.refusal, sandbox.room):
        cached.cache_clear()
    yield
    for cached in (sandbox.refusal, sandbox.room):
        cached.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_without_bubblewrap_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    monkeypatch.setattr(sandbox.sys, "platform", "linux")
    assert sandbox.refusal().startswith("bubblewrap is not installed (apt-get install bubblewrap")
    assert sandbox.room(tmp_path, 2**20) == ()
    monkeypatch.setattr(sandbox.sys, "platform", "darwin")
    sandbox.refusal.cache_clear()
    assert sandbox.refusal() == "the sandbox (bubblewrap) needs Linux"


@pytest.mark.usefixtures("fresh")
def test_where_the_system_allows_no_namespaces_it_says_so(monkeypatch, tmp_path):
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\necho 'bwrap: No permissions to create a new namespace' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(sandbox.sys, "platform", "linux")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert "does not close here (bwrap: No permissions to create a new namespace)" in sandbox.refusal()
    assert "user.max_user_namespaces" in sandbox.refusal()
    assert sandbox.room(tmp_path, 2**20) == ()
