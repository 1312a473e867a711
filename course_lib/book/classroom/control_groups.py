"""Control groups of Linux (cgroup v2): limits on memory and processes that hold for all of a command together."""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

__all__ = ["limited", "out_of_memory", "parent"]


def parent(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Path | None:
    """Find the group in which this process may make others with limits; None where there is none.

    Args:
        root: where the hierarchy is mounted.
        own: the file that names this process's group.

    Example:
        >>> parent(Path("nowhere"), Path("nowhere")) is None
        True
    """
    with contextlib.suppress(OSError):
        named = [line[3:] for line in own.read_text().splitlines() if line.startswith("0::")]
        above = (root / named[0].lstrip("/")).parent if named else root
        inside = root in (above, *above.parents)
        given = (above / "cgroup.subtree_control").read_text().split() if inside else []
        if {"memory", "pids"} <= set(given) and os.access(above, os.W_OK):
            return above
    return None


@contextlib.contextmanager
def limited(above: Path | None, memory: int, processes: int) -> Iterator[Path | None]:
    """Make a group with limits, gone after the block; None where it cannot be had.

    Args:
        above: the group in which it is made, as `parent` finds it.
        memory: bytes.
        processes: threads included.

    Example:
        >>> with limited(None, 2**30, 100) as group:
        ...     print(group)
        None
    """
    group = _made(above, memory, processes) if above is not None else None
    try:
        yield group
    finally:
        if group is not None:
            with contextlib.suppress(OSError):
                group.rmdir()


def _made(above: Path, memory: int, processes: int) -> Path | None:
    group = above / f"course-{os.getpid()}-{threading.get_ident()}"
    try:
        group.mkdir()
        (group / "memory.max").write_text(str(memory))
        (group / "pids.max").write_text(str(processes))
        with contextlib.suppress(OSError):
            (group / "memory.swap.max").write_text("0")
        return group
    except OSError:
        with contextlib.suppress(OSError):
            group.rmdir()
        return None


def out_of_memory(group: Path) -> bool:
    """Tell whether the kernel has ended a process of a group for want of memory.

    Example:
        >>> out_of_memory(Path("nowhere"))
        False
    """
    with contextlib.suppress(OSError, ValueError):
        events = dict(line.split() for line in (group / "memory.events").read_text().splitlines())
        return int(events.get("oom_kill", 0)) > 0
    return False
