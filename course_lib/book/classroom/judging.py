"""Checks in a process of their own, away from the answer: `python -m course_lib.book.classroom.judging`.

The process runs the teacher's set-up and, one after the other, the teacher's checks. A function of the learner is there
an `Answer`, which asks the kernel in the box: nothing that was handed in is run here, and the kernel never sees what is
right. It is told what to do in lines of JSON, and answers in such.
"""

import contextlib
import io
import json
import resource
import select
import socket
import subprocess
import sys
import types
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotInTime
from pathlib import Path
from typing import Any

from course_lib.book.classroom import sandbox
from course_lib.book.classroom.values import Answer, messages

__all__ = ["Judge", "NoVerdict", "NotReady"]

_START = 180  # seconds for the set-up, on a loaded machine
_END = 10  # seconds between the end of the kernel's part of a check and the verdict


class NoVerdict(Exception):
    """A check that ended its process, or did not end."""


class NotReady(Exception):
    """The process of the checks ended, or hung, before anything of an answer reached it: no fault of the answer."""


class Judge:
    """A process that runs checks; the block ends it.

    Args:
        setup: sources of the teacher's set-up.
        names: functions of the learner that checks call.
        address: of the socket that it listens on, in a folder that the kernel can reach.
        memory: bytes that it may take.
        environment: of the process.
    """

    def __init__(
        self,
        setup: Sequence[str],
        names: Sequence[str],
        address: Path,
        memory: int,
        environment: Mapping[str, str],
    ):
        self.address, self._environment = address, environment
        self._begin = {"setup": list(setup), "names": list(names), "address": str(address), "memory": memory}
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> "Judge":
        command = [sys.executable, "-P", "-m", "course_lib.book.classroom.judging"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, env=self._environment, stdin=pipe, stdout=pipe)
        self._ready = False
        self._tell(self._begin)
        try:
            self._get_ready()  # it has its socket before the kernel could put anything there
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.kill()
        self._process.wait()
        self._pool.shutdown()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                stream.close()
        with contextlib.suppress(OSError):  # an answer may have put something else there
            self.address.unlink()

    def begin(self, check: str) -> None:
        """Begin a check: its source. The kernel has to serve it from now on.

        Raises:
            NotReady: the process has never got ready.
        """
        if not self._ready:
            self._get_ready()
            self._ready = True
        self._tell({"check": check})

    def verdict(self) -> dict[str, Any]:
        """Return the verdict on the check that was begun, once the kernel serves it no more.

        Returns:
            `error` (name and text; None where the answer is right) and `printed`.

        Raises:
            NoVerdict: there is none.
        """
        self._tell({"over": True})
        return self._hear(_END)

    def _get_ready(self) -> None:
        try:
            self._hear(_START)
        except NoVerdict:
            raise NotReady("the process of the checks did not start") from None

    def _tell(self, message: Mapping[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def _hear(self, seconds: float) -> Any:
        try:
            return json.loads(self._pool.submit(self._process.stdout.readline).result(seconds))
        except NotInTime:
            self._process.kill()
            raise NoVerdict("the check got no answer: the process of the answer does not serve it.") from None
        except ValueError:
            raise NoVerdict("the check ended: it could not bear what the answer gave it.") from None


# ---- in the process --------------------------------------------------------------------------------------------------


def _main() -> None:
    """Run the set-up, then a check for each line that comes."""
    sandbox.end_with_parent()
    told = sys.stdin.buffer.raw  # no line is read before it is asked for
    begin = json.loads(told.readline())
    for limit, most in ((resource.RLIMIT_DATA, begin["memory"]), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(limit, (most, most))
    answers = {name: Answer(name) for name in begin["names"]}
    module = sys.modules["exercises"] = types.ModuleType("exercises")  # what is defined in it finds itself
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(begin["address"])
        listening.listen()
        print("{}", flush=True)
        trouble = _run("\n".join(begin["setup"]), vars(module))
        vars(module).update(answers)
        print("{}", flush=True)
        for line in iter(told.readline, b""):
            found = trouble
            if listening in select.select([listening, told], [], [])[0]:
                connection, _ = listening.accept()
                with connection, messages(connection) as stream:
                    for answer in answers.values():
                        answer.stream = stream
                    if not trouble["error"]:
                        found = _run(json.loads(line)["check"], vars(module))
            elif not trouble["error"]:  # the kernel's part is over, and it has served nothing
                found = {"error": ["ConnectionError", "the answer does not answer its check"], "printed": ""}
            print(json.dumps(found), flush=True)
            told.readline()  # the kernel's part is over


def _run(source: str, namespace: dict[str, Any]) -> dict[str, Any]:
    """Run a cell: the error that it ended with, if any, and what it printed."""
    error = None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            exec(compile(source, "<check>", "exec"), namespace)
        except Exception as raised:
            error = [type(raised).__name__, str(raised)]
    return {"error": error, "printed": printed.getvalue()}


if __name__ == "__main__":
    _main()
