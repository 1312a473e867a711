"""nbgrader's execution of a notebook, with the kernel in a box, and what looks after it."""

import copy
import json
import secrets
import shutil
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbgrader.preprocessors import Execute

from course_lib.book import exercises
from course_lib.book.classroom.judging import Judge, NotReady, NoVerdict
from course_lib.book.classroom.sandbox import Outcome

_OUTPUT = 2**20  # characters that a cell may show; what follows is dropped
_SETUP = (
    120  # seconds for a cell of the set-up, such as the imports: a busy machine is no fault of the learner
)

_SERVE = "from course_lib.book.classroom import values as _values\n_values.serve({address!r}, globals())"


class InBox(Execute):
    """nbgrader's execution, in a box, in which a cell that does not end or kills its kernel costs no other cell.

    Such a cell is noted and left out, and the notebook is run again without it.

    Args:
        boxed: runs a command in the box until it ends or the event is set, as `sandbox.run`.
        folder: that can be written to in the box.
        timeout: seconds that a cell of the learner may take.
        judging: makes, for the address of a socket, what runs the checks outside the box.

    Attributes:
        executed: the notebook with its outputs, once it was run.
        notes: what happened to cells that are no answers.
    """

    def __init__(
        self,
        boxed: Callable[[list[str], threading.Event], Outcome],
        folder: Path,
        timeout: int,
        judging: Callable[[Path], Judge],
    ):
        super().__init__(interrupt_on_timeout=False, startup_timeout=300)
        self.timeout_func = lambda cell: timeout if _by_learner(cell) else max(timeout, _SETUP)
        self.shutdown_kernel = "immediate"
        self.boxed, self.folder, self.executed, self.notes = boxed, folder, None, []
        self.stopped: list[str] = []
        self.store_widget_state = False
        self.judging = judging

    def preprocess(self, nb: Any, resources: Any = None, km: Any = None) -> tuple[Any, Any]:
        fatal: dict[int, dict[str, Any]] = {}
        for _ in range(len(nb.cells) + 1):
            trial = copy.deepcopy(nb)
            for position in fatal:
                trial.cells[position].source = ""
            self.position = self.shown = 0
            # Names that no answer knows, so that none can take them for the next attempt.
            number = secrets.token_hex(8)
            _empty(self.folder)
            connection, address = self.folder / f"k{number}.json", self.folder / f"v{number}"
            with self.judging(address) as self.judge, _Kernel(self.boxed) as kernel:
                self.kernel_manager_class = _manager(kernel, connection)
                try:
                    trial, resources = super().preprocess(trial, resources, km)
                    break
                except NotReady:
                    raise
                except Exception as error:  # a kernel may send anything
                    if not any(
                        cell.source and _by_learner(cell) for cell in trial.cells[: self.position + 1]
                    ):
                        raise
                    reason = kernel.end().reason or self._reason(error, trial.cells[self.position])
                    fatal[self.position] = {"ename": "Stopped", "evalue": reason, "traceback": [reason]}
        for position, error in fatal.items():
            if not nb.cells[position].metadata.get("nbgrader"):
                line = nb.cells[position].source.strip().splitlines()[0]
                self.notes.append(f"the cell that begins with {line!r:.80}: {error['evalue']}")
            trial.cells[position].source = nb.cells[position].source
            self.stopped.append(nb.cells[position].metadata.get("nbgrader", {}).get("grade_id", ""))
            trial.cells[position].outputs = [nbformat.v4.new_output("error", **error)]
        for cell in trial.cells:
            cell.outputs = _writable(cell.outputs)
            # A warning is no mistake, and a number on show no grade: what counts is that the check raised nothing.
            if _is_check(cell):
                cell.outputs = [shown for shown in cell.outputs if _counts(shown)]
        self.executed = trial
        return trial, resources

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:
        self.position, self.shown = index, 0
        apart = cell.source and _is_check(cell) and not exercises.in_place(cell)
        return (self._judged if apart else super().preprocess_cell)(cell, resources, index)

    def _judged(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:
        """A check outside the box, while the kernel calls the answers that it asks for."""
        check, cell.source = cell.source, _SERVE.format(address=str(self.judge.address))
        try:
            self.judge.begin(check)
            cell, resources = super().preprocess_cell(cell, resources, index)
        finally:
            cell.source = check
        verdict = self.judge.verdict()
        kept = [shown for shown in cell.outputs if shown.get("name") == "stdout"]
        kept.append(nbformat.v4.new_output("stream", text=verdict["printed"]))
        if verdict["error"]:
            name, text = verdict["error"]
            own = [
                shown for shown in cell.outputs if shown.output_type == "error"
            ]  # why the kernel served no more
            kept += own or [
                nbformat.v4.new_output("error", ename=name, evalue=text, traceback=[f"{name}: {text}"])
            ]
        cell.outputs = kept
        return cell, resources

    def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] != "status":
            self.shown += len(str(msg["content"]))
            if self.shown > _OUTPUT:
                return None
        return super().process_message(msg, cell, cell_index)

    def on_cell_executed(self, **keywords: Any) -> None:
        super().on_cell_executed(**keywords)
        payload = keywords["execute_reply"]["content"].get("payload", [])
        if any(entry.get("source") == "ask_exit" for entry in payload):
            raise _Left

    def _reason(self, error: Exception, cell: Any) -> str:
        if isinstance(error, CellTimeoutError):
            return f"not finished after {self.timeout_func(cell)} s. Look for a loop that does not end."
        if isinstance(error, NoVerdict):
            return str(error)
        if isinstance(error, _Left):
            return "the answer ends the kernel (exit). A function returns its result."
        if not isinstance(error, DeadKernelError):
            return f"the answer made its kernel send what is no message ({type(error).__name__})."
        return "the kernel died: the answer ended the process, or crashed it."


class _Left(Exception):
    """A cell asked the kernel to end."""


class _Kernel:
    """A kernel in the box, as jupyter_client wants a process, in a thread of its own; the block ends it."""

    stdin = stdout = stderr = None

    def __init__(self, boxed: Callable[[list[str], threading.Event], Outcome]):
        self._boxed, self._stopping, self._pool = boxed, threading.Event(), ThreadPoolExecutor(1)
        self._ended: Future[Outcome] | None = None

    def __enter__(self) -> "_Kernel":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if self._ended is not None and kind is not None:
            sys.stderr.write(self.end().err)
        self._stopping.set()
        self._pool.shutdown()

    def start(self, command: list[str]) -> None:
        self._ended = self._pool.submit(self._boxed, command, self._stopping)

    def end(self) -> Outcome:
        self._stopping.set()
        return self._ended.result()

    def poll(self) -> int | None:
        return self._ended.result().status if self._ended.done() else None

    def wait(self) -> int:
        return self._ended.result().status

    def send_signal(self, _: int) -> None:
        self._stopping.set()


def _manager(kernel: _Kernel, connection: Path) -> type[AsyncKernelManager]:
    """A manager of one kernel in the box. Sockets are files: no port leads through a network namespace."""

    class Boxed(AsyncKernelManager):
        def __init__(self, **keywords: Any):
            super().__init__(**keywords, transport="ipc", connection_file=str(connection))

        async def _async_launch_kernel(self, kernel_cmd: list[str], **_: Any) -> None:
            kernel.start(kernel_cmd)
            self.provisioner.process = kernel

        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())

    return Boxed


def _is_check(cell: Any) -> bool:
    return bool(cell.metadata.get("nbgrader", {}).get("grade"))


def _by_learner(cell: Any) -> bool:
    return "nbgrader" in cell.metadata or exercises.BESIDE in cell.metadata


def _writable(outputs: Any) -> Any:
    """Outputs without halves of characters, which JSON can hold and a file cannot."""
    return nbformat.from_dict(json.loads(exercises.text(json.dumps(outputs, ensure_ascii=False))))


def _empty(folder: Path) -> None:
    """Remove what an earlier attempt has left, which may have filled the folder or closed it."""
    folder.chmod(0o700)
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _counts(shown: Any) -> bool:
    return shown.output_type != "execute_result" and shown.get("name") != "stderr"
