"""Sandbox for code that nobody has read: no network, one writable folder, and limits that it cannot lift.

Linux gives every process its own view of network, files and processes if it is asked (namespaces); the program
`unshare` of util-linux asks, as root or as anybody where the system lets users make namespaces. Where it does not,
only the limits remain, and `missing` says what is not closed off.

`run` is the one way in. `python -m course_lib.book.classroom.sandbox SETTINGS COMMAND...` is the inside: it closes the
box behind itself and becomes COMMAND.
"""

import contextlib
import ctypes
import fcntl
import functools
import glob
import json
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

# What a program needs of the environment; the rest (tokens, addresses of agents) is nobody's business in the box.
_PASSED_ON = (
    "COURSE_DATA",
    "COURSE_HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "PATH",
    "PYTHONPATH",
    "VIRTUAL_ENV",
)

FULL, NETWORK, NONE = "full", "network", "none"
_KILLED_WITH_IT = ["--fork", "--kill-child=KILL"]
_FULL = ["--net", "--mount", "--pid", "--mount-proc", *_KILLED_WITH_IT]
# As root of a namespace of its own where that is allowed; the true root needs no leave.
_WAYS = {
    FULL: (["--user", "--map-root-user", *_FULL], _FULL),
    NETWORK: (["--user", "--map-root-user", "--net"], ["--net"]),
}

_MS_BIND, _AT_RECURSIVE, _READ_ONLY = 4096, 0x8000, 1
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 24, 36, 38
_MOUNT_SETATTR = 442  # the number of the system call, the same on every architecture
_SOCKETS = (
    "/run",
    "/tmp/.X11-unix",
    *glob.glob("/tmp/ssh-*"),
)  # where the services of a machine are spoken to
_SHARED_MEMORY = 256 * 2**20  # bytes of /dev/shm inside

_LOOK = 0.2  # seconds between two looks at memory and disk
_KEPT = 2**20  # bytes of what a command prints that are kept


@dataclass(frozen=True)
class Limits:
    """Limits of a command in the sandbox.

    Attributes:
        memory: bytes of data (heap, stacks, anonymous maps) of one process, and of resident memory of all of them
            together; importing PyTorch takes one GB of data.
        file: bytes of the largest file it may write.
        disk: bytes that it may leave in its folder.
        processes: it may have at one time, threads included; held where the box is a namespace of its own.
        seconds: until it is ended; None for no limit.
        hidden: folders that are empty inside, such as those of other people's work.
    """

    memory: int
    file: int = 256 * 2**20
    disk: int = 2**30
    processes: int = 512
    seconds: float | None = None
    hidden: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """Result of a command in the sandbox.

    Attributes:
        status: its exit status; negative where a signal ended it.
        out: what it printed, at most one MB.
        err: what it printed on stderr, at most one MB.
        reason: the limit for which it was ended; empty where it ended by itself or was asked to.
    """

    status: int
    out: str
    err: str
    reason: str


def run(
    command: Sequence[str],
    folder: Path,
    limits: Limits,
    *,
    environment: Mapping[str, str] | None = None,
    stopping: threading.Event | None = None,
) -> Outcome:
    """Run a command in the sandbox, as closed as this machine allows, and end whatever it leaves running.

    One command at a time in a process: all that this process starts meanwhile is taken for the command's.

    Args:
        command: the program and its arguments.
        folder: the one folder that can be written to; the command starts there.
        limits: what it may take and see.
        environment: added to the few variables that are passed on of ours.
        stopping: set it to end the command before its time.

    Returns:
        How it ended. A box that does not close says so in `err`.
    """
    level, way = _way()
    words = [*way, *_inside(level, folder, limits, environment or {}), *command]
    before = _below()
    _libc()  # found here, so that nothing is imported between fork and exec
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
        try:
            reason = _watched(process, folder, limits, before, stopping or threading.Event())
        finally:
            _end_all(process, before)
        return Outcome(process.returncode, _printed(out), _printed(err), reason)


def _watched(
    process: subprocess.Popen, folder: Path, limits: Limits, before: Sequence[Any], stopping: threading.Event
) -> str:
    """Wait for a process, looking after what no limit of a single process holds; the reason to end it, if any."""
    deadline = time.monotonic() + limits.seconds if limits.seconds is not None else float("inf")
    while not stopping.is_set():
        try:
            process.wait(_LOOK)
            return ""
        except subprocess.TimeoutExpired:
            pass
        if sum(map(_resident, _below(before))) > limits.memory:
            return f"more than {limits.memory / 2**20:.0f} MB of memory in all processes."
        if _size(folder) > limits.disk:
            return f"more than {limits.disk / 2**20:.0f} MB written to disk."
        if time.monotonic() > deadline:
            return f"not finished after {limits.seconds:g} s."
    return ""


def _below(before: Sequence[Any] = ()) -> list[Any]:
    """Everything that this process has started, and what that has started, but for what was there before."""
    import psutil

    return [one for one in psutil.Process().children(recursive=True) if one not in before]


def _end_all(process: subprocess.Popen, before: Sequence[Any]) -> None:
    """Kill a process and what it started, and wait until they are gone."""
    import psutil

    started = _below(before)
    for one in started:
        with contextlib.suppress(psutil.Error):
            one.kill()
    process.wait()  # by the one that keeps its status
    psutil.wait_procs([one for one in started if one.pid != process.pid], timeout=10)


def _resident(process: Any) -> int:
    import psutil

    with contextlib.suppress(psutil.Error):
        return process.memory_info().rss
    return 0


def _size(folder: Path) -> int:
    total = 0
    for where, _, names in os.walk(folder, onerror=None):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(where, name)).st_size
    return total


def _printed(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read(_KEPT).decode(errors="replace")


def level() -> str:
    """Return how far the sandbox closes here: FULL, NETWORK (files are open) or NONE (limits alone)."""
    return _way()[0]


def missing(level: str) -> str:
    """Say what a sandbox of a level leaves open and what would close it; empty where nothing is open.

    Example:
        >>> missing(FULL)
        ''
    """
    cure = (
        "As root, or where the system lets users make namespaces (user.max_user_namespaces above 0, and a container "
        "that does not forbid `unshare`), they are closed off"
    )
    if level == NETWORK:
        return f"submissions have no network here, but can read and write your files. {cure}"
    if level == NONE:
        return (
            f"submissions can reach the network and your files here; only time and memory are limited. {cure}"
        )
    return ""


def adopt_orphans() -> None:
    """Adopt descendants whose own parent has ended, so that they can be found and ended (Linux)."""
    if sys.platform == "linux":
        _libc().prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_with_parent() -> None:
    """End this process as soon as its parent ends, in whatever way (Linux)."""
    if sys.platform == "linux":
        _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


@functools.cache
def _way() -> tuple[str, list[str]]:
    """The most closed level that works here, with the words that stand before the inside."""
    program = shutil.which("unshare")
    if program is None:
        return NONE, []
    with tempfile.TemporaryDirectory() as folder:
        place, limits = Path(folder).resolve(), Limits(2**40)
        for level, ways in _WAYS.items():
            for way in ways:
                words = [program, *way, *_inside(level, place, limits, {}), sys.executable, "-c", ""]
                done = subprocess.run(words, capture_output=True, check=False)
                if done.returncode == 0:
                    return level, [program, *way]
    return NONE, []


def _inside(level: str, folder: Path, limits: Limits, environment: Mapping[str, str]) -> list[str]:
    places = {
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "IPYTHONDIR": f"{folder}/.ipython",
        "MPLCONFIGDIR": f"{folder}/.mpl",
    }
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    settings = {
        "level": level,
        "writable": str(folder),
        "limits": {**asdict(limits), "hidden": list(map(str, limits.hidden))},
        "environment": {**kept, **places, **environment},
    }
    return [sys.executable, "-P", "-m", __name__, json.dumps(settings)]


# ---- the inside ------------------------------------------------------------------------------------------------------


def _enter(settings: dict, command: list[str]) -> None:
    """Close the box and become the command."""
    level, limits = settings["level"], settings["limits"]
    if level != NONE:
        _raise_loopback()
    if level == FULL:
        _close_files(Path(settings["writable"]), [Path(path) for path in limits["hidden"]])
        _give_up_rights()
        _limit(resource.RLIMIT_NPROC, limits["processes"])
    _limit(resource.RLIMIT_DATA, limits["memory"])
    _limit(resource.RLIMIT_FSIZE, limits["file"])
    _limit(resource.RLIMIT_CORE, 0)
    os.chdir(settings["writable"])
    os.execvpe(command[0], command, settings["environment"])


def _limit(kind: int, most: int) -> None:
    hard = resource.getrlimit(kind)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))


def _raise_loopback() -> None:
    """A new network namespace has only a loopback device, and that is down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        up = struct.pack("16sh", b"lo", 0x1 | 0x40)  # IFF_UP | IFF_RUNNING
        fcntl.ioctl(any_socket, 0x8914, up.ljust(40, b"\0"))  # SIOCSIFFLAGS


def _close_files(writable: Path, hidden: list[Path]) -> None:
    """Make every file read-only but those under `writable`, and the hidden folders empty."""
    handle = os.open(writable, os.O_PATH | os.O_DIRECTORY)
    for folder in (*hidden, *map(Path, _SOCKETS)):
        if folder.is_dir():
            _mount("tmpfs", folder, "tmpfs", 0, "size=1m")
    writable.mkdir(parents=True, exist_ok=True)  # it is gone if it lay in a hidden folder
    _mount(f"/proc/self/fd/{handle}", writable, None, _MS_BIND)
    os.close(handle)
    shared = Path("/dev/shm")
    if shared.is_dir():
        _mount("tmpfs", shared, "tmpfs", 0, f"size={_SHARED_MEMORY},mode=1777")
    _set_read_only(Path("/"), True)
    for place in filter(Path.is_dir, (writable, shared)):
        _set_read_only(place, False)


def _give_up_rights() -> None:
    """Root of the namespace could undo all this: what it becomes next has no rights, and no way to get any."""
    for right in range(64):
        _libc().prctl(_PR_CAPBSET_DROP, right, 0, 0, 0)
    if _libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")


def _mount(source: str, target: Path, kind: str | None, flags: int, options: str = "") -> None:
    words = [None if word is None else str(word).encode() for word in (source, target, kind)]
    if _libc().mount(*words, ctypes.c_ulong(flags), options.encode()):
        raise OSError(ctypes.get_errno(), f"mount {target}")


def _set_read_only(path: Path, read_only: bool) -> None:
    change = struct.pack("QQQQ", *((_READ_ONLY, 0) if read_only else (0, _READ_ONLY)), 0, 0)
    flags = _AT_RECURSIVE if read_only else 0
    if _libc().syscall(_MOUNT_SETATTR, -1, str(path).encode(), flags, change, len(change)):
        raise OSError(ctypes.get_errno(), f"mount_setattr {path}")


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


if __name__ == "__main__":
    try:
        _enter(json.loads(sys.argv[1]), sys.argv[2:])
    except OSError as error:
        sys.exit(f"the box does not close: {error}")
