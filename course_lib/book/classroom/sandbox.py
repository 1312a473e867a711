"""Sandbox for code that nobody has read: what it can see, write and take.

bubblewrap builds it: an empty root that holds, read-only, the system's programs, this interpreter, this library and
the course's data; /tmp, /dev/shm and one folder can be written to. It has no network, no sockets of the machine, no
other processes and no rights, and it ends with its parent. What namespaces do not bound is bounded by a control group
(cgroup v2) where this user may make one; everywhere it is looked at a few times a second.

`run` is the one way in. `refusal` says why there is no sandbox on a machine, and what would give one.
"""

import contextlib
import ctypes
import functools
import os
import resource
import shutil
import signal
import site
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import course_lib
from course_lib.book.classroom import control_groups

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

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_SHARED_MEMORY = 256 * 2**20  # bytes of /dev/shm inside, and of /tmp
_LOOK = 0.2  # seconds between two looks at memory, processes and disk
_KEPT = 2**20  # bytes of what a command prints that are kept


@dataclass(frozen=True)
class Limits:
    """Limits of a command in the sandbox.

    Attributes:
        memory: bytes of data (heap, stacks, anonymous maps) of one process, and of the memory of all of them together,
            files that have no name any more included; importing PyTorch takes one GB of data.
        file: bytes of the largest file it may write.
        disk: bytes that it may leave in its folder.
        processes: it may have at one time, threads included.
        seconds: until it is ended; None for no limit.
    """

    memory: int
    file: int = 256 * 2**20
    disk: int = 2**30
    processes: int = 512
    seconds: float | None = None


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
    closed: bool = True,
    environment: Mapping[str, str] | None = None,
    stopping: threading.Event | None = None,
) -> Outcome:
    """Run a command in the sandbox, and end whatever it leaves running.

    One command at a time in a process: all that this process starts meanwhile is taken for the command's.

    Args:
        command: the program and its arguments.
        folder: the one folder of this machine that can be written to; the command starts there.
        limits: what it may take.
        closed: in bubblewrap; False leaves the limits alone.
        environment: added to the few variables that are passed on of ours.
        stopping: set it to end the command before its time.

    Returns:
        How it ended. A sandbox that does not close says so in `err`.
    """
    folder = folder.resolve()
    words = [*(_walls(folder) if closed else []), *(_most_processes(limits) if closed else []), *command]
    before = _below()
    _libc()  # found here, so that nothing is imported between fork and exec
    with (
        control_groups.limited(control_groups.parent(), limits.memory, limits.processes) as group,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
    ):
        process = subprocess.Popen(
            words,
            cwd=folder,
            env=_environment(folder, environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
            preexec_fn=functools.partial(_begin, limits, group),
        )
        try:
            reason = _watched(process, folder, limits, before, stopping or threading.Event())
        finally:
            _end_all(process, before)
        if group is not None and control_groups.out_of_memory(group):
            reason = _too_much_memory(limits)
        return Outcome(process.returncode, _printed(out), _printed(err), reason)


@functools.cache
def refusal() -> str:
    """Say why there is no sandbox on this machine and what would give one; empty where there is one."""
    if sys.platform != "linux":
        return "the sandbox (bubblewrap) needs Linux"
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed (apt-get install bubblewrap, or dnf install bubblewrap)"
    with tempfile.TemporaryDirectory() as folder:
        words = [*_walls(Path(folder).resolve()), sys.executable, "-c", ""]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    return (
        f"bubblewrap does not close here ({said}). It needs user namespaces: user.max_user_namespaces above 0, and "
        "neither a container nor AppArmor that forbids them"
    )


def described(disk: int | None) -> str:
    """Say by what the limits of a closed sandbox are held here.

    Args:
        disk: bytes of the folder in memory that holds what is written (see `room`); None where it is on disk.
    """
    held = "a control group" if control_groups.parent() is not None else f"a look every {_LOOK:g} s"
    kept = f"a folder in memory of {disk / 2**20:.0f} MB" if disk is not None else f"a look every {_LOOK:g} s"
    return f"bubblewrap; memory and processes held by {held}, disk by {kept}"


@functools.cache
def room(folder: Path, size: int) -> tuple[str, ...]:
    """Find the words that start a command with an empty folder in memory, which nothing outside sees.

    It bounds what can be written there to the byte, files without a name included.

    Args:
        folder: that exists.
        size: bytes.

    Returns:
        What stands before the command; empty where the system does not allow it.
    """
    words = (
        "bwrap",
        "--dev-bind",
        "/",
        "/",
        "--size",
        str(size),
        "--tmpfs",
        str(folder),
        "--die-with-parent",
        "--",
    )
    if sys.platform != "linux" or shutil.which("bwrap") is None:
        return ()
    done = subprocess.run([*words, "true"], capture_output=True, check=False)
    return words if done.returncode == 0 else ()


def adopt_orphans() -> None:
    """Adopt descendants whose own parent has ended, so that they can be found and ended (Linux)."""
    if sys.platform == "linux":
        _libc().prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_with_parent() -> None:
    """End this process as soon as its parent ends, in whatever way (Linux)."""
    if sys.platform == "linux":
        _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


# ---- the walls -------------------------------------------------------------------------------------------------------


def _walls(folder: Path) -> list[str]:
    """The words of bubblewrap that close everything but what is needed, with one folder to write in."""
    words = ["bwrap", "--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL"]
    words += ["--new-session", "--die-with-parent", "--proc", "/proc", "--dev", "/dev"]
    for place in ("/dev/shm", "/tmp"):
        words += ["--size", str(_SHARED_MEMORY), "--tmpfs", place]
    for place in map(Path, ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")):
        if place.is_symlink():
            words += ["--symlink", os.readlink(place), str(place)]
        else:
            words += ["--ro-bind-try", str(place), str(place)]
    for place in ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime", "/sys/devices/system/cpu"):
        words += ["--ro-bind-try", place, place]
    for place in _needed():
        words += ["--ro-bind-try", str(place), str(place)]
    return [*words, "--bind", str(folder), str(folder), "--remount-ro", "/", "--chdir", str(folder), "--"]


def _needed() -> list[Path]:
    """What a kernel of the course reads outside the system's own folders."""
    library = Path(course_lib.__file__).resolve().parent
    home = Path(os.environ.get("COURSE_HOME") or library.parent).expanduser().resolve()
    places = [sys.base_prefix, sys.prefix, *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    data = [home / "data", *([os.environ["COURSE_DATA"]] if os.environ.get("COURSE_DATA") else [])]
    return [Path(place) for place in (*places, library, *data) if not str(place).startswith("/usr/")]


def _environment(folder: Path, added: Mapping[str, str]) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    places = {
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "IPYTHONDIR": f"{folder}/.ipython",
        "MPLCONFIGDIR": f"{folder}/.mpl",
        "USER": "student",
    }
    return {**kept, **places, **added}


def _begin(limits: Limits, group: Path | None) -> None:
    """Between fork and exec: end with the parent, take the limits, join the control group."""
    end_with_parent()
    for kind, most in (
        (resource.RLIMIT_DATA, limits.memory),
        (resource.RLIMIT_FSIZE, limits.file),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))
    if group is not None:
        (group / "cgroup.procs").write_text(str(os.getpid()))


def _most_processes(limits: Limits) -> list[str]:
    """A limit that counts those of the box alone, and so has to be set inside (util-linux)."""
    return ["prlimit", f"--nproc={limits.processes}", "--"] if shutil.which("prlimit") else []


# ---- looking after it ------------------------------------------------------------------------------------------------


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
        below = _below(before)
        if sum(map(_threads, below)) > limits.processes:
            return f"more than {limits.processes} processes and threads."
        if sum(map(_memory, below)) + _nameless(below) > limits.memory:
            return _too_much_memory(limits)
        if _size(folder) > limits.disk:
            return f"more than {limits.disk / 2**20:.0f} MB written to disk."
        if time.monotonic() > deadline:
            return f"not finished after {limits.seconds:g} s."
    return ""


def _too_much_memory(limits: Limits) -> str:
    return f"more than {limits.memory / 2**20:.0f} MB of memory in all processes."


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
    with contextlib.suppress(FileNotFoundError):  # of psutil, where one is gone in this moment
        psutil.wait_procs([one for one in started if one.pid != process.pid], timeout=10)


def _threads(process: Any) -> int:
    import psutil

    with contextlib.suppress(psutil.Error):
        return process.num_threads()
    return 0


def _memory(process: Any) -> int:
    """Resident bytes of a process; of pages that several share, its share (Linux)."""
    import psutil

    with contextlib.suppress(psutil.Error):
        found = process.memory_full_info()
        return getattr(found, "pss", found.rss)
    return 0


def _nameless(processes: Sequence[Any]) -> int:
    """Bytes of open files that have no name: in memory (memfd), or deleted. No folder shows them (Linux)."""
    found: dict[tuple[int, int], int] = {}
    for process in processes:
        with contextlib.suppress(OSError):
            for entry in os.scandir(f"/proc/{process.pid}/fd"):
                with contextlib.suppress(OSError):
                    one = entry.stat()
                    if stat.S_ISREG(one.st_mode) and one.st_nlink == 0:
                        found[one.st_dev, one.st_ino] = one.st_blocks * 512
    return sum(found.values())


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


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
