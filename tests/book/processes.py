"""Waiting for processes, and asking whether they live."""

import os
import time

from course_lib.book import folders

PATIENCE = 600  # seconds; a loaded machine is slow, not wrong


def wait_for(condition, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def held(folder):
    """The names of what a command has left in a folder, its lock aside."""
    return sorted(path.name for path in folder.iterdir() if path.name != folders.LOCK)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        os.kill(pid, 0)
