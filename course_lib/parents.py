"""A worker process ends when the process that sent its calls has gone, however that ended."""

import functools
import os
import threading
import time
from collections.abc import Callable
from typing import Any

__all__ = ["in_worker"]

_POLL = 2.0  # seconds between two looks for the parent


def in_worker(parent: int, function: Callable[..., Any], arguments: tuple) -> Any:
    """Make a call in a worker process, which from then on ends when the process that sent the call does.

    Args:
        parent: number of the process that sends the call.
        function: called with the arguments.
        arguments: of the function.

    Returns:
        The result of the function.

    Example:
        >>> in_worker(os.getpid(), pow, (2, 3))  # in the same process: nothing to end
        8
    """
    _end_with(parent)
    return function(*arguments)


@functools.cache  # one thread in each worker
def _end_with(parent: int) -> None:
    # Another parent: a thread of the sender itself, or a worker that a cluster has started.
    if os.getppid() == parent:
        threading.Thread(target=_watch, args=(parent,), name="ends with its parent", daemon=True).start()


def _watch(parent: int) -> None:
    """End this process when its parent has gone. joblib's workers would go on computing: nobody tells them."""
    while not _gone(parent):
        time.sleep(_POLL)
    os._exit(1)


def _gone(parent: int) -> bool:
    if os.name == "nt":  # keeps the number of a parent that has gone
        import psutil

        return not psutil.pid_exists(parent)
    return os.getppid() != parent  # somebody else adopts the child
