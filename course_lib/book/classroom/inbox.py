"""nbgrader's execution of a notebook, with the kernel in a box, and what looks after it."""

import copy
import os
import threading
from pathlib import Path
from typing import Any

import nbformat
import psutil
from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbgrader.preprocessors import Execute

from course_lib.book import exercises
from course_lib.book.classroom import sandbox
from course_lib.book.classroom.sandbox import Box

OUTPUT = 2**20  # characters that a cell may show; what follows is dropped
DISK = 2**30  # bytes that a submission may leave in its folder
SETUP = (
    120  # seconds for a cell of the set-up, such as the imports: a busy machine is no fault of the learner
)

_LOOK = 0.2  # seconds between two looks at memory and disk


class InBox(Execute):
    """nbgrader's execution, in a box, in which a cell that does not end or kills its kernel costs no other cell.

    Such a cell is noted and left out, and the notebook is run again without it.
    """

    def __init__(self, closed: Box, timeout: int):
        super().__init__(interrupt_on_timeout=False, startup_timeout=300)
        self.timeout_func = lambda cell: timeout if _by_learner(cell) else max(timeout, SETUP)
        self.shutdown_kernel = "immediate"
        self.closed, self.executed, self.notes = closed, None, []

    def preprocess(self, nb: Any, resources: Any = None, km: Any = None) -> tuple[Any, Any]:
        fatal: dict[int, dict[str, Any]] = {}
        for attempt in range(len(nb.cells) + 1):
            trial = copy.deepcopy(nb)
            for position in fatal:
                trial.cells[position].source = ""
            self.kernel_manager_class = _kernels(self.closed, attempt)
            self.position = self.shown = 0
            watch = _Watch(self.closed)
            try:
                with watch:
                    trial, resources = super().preprocess(trial, resources, km)
                break
            except (DeadKernelError, CellTimeoutError, _Left) as error:
                reason = watch.reason or self._reason(error, trial.cells[self.position])
                fatal[self.position] = {"ename": "Stopped", "evalue": reason, "traceback": [reason]}
        for position, error in fatal.items():
            if not nb.cells[position].metadata.get("nbgrader"):
                line = nb.cells[position].source.strip().splitlines()[0]
                self.notes.append(f"the cell that begins with {line!r:.80}: {error['evalue']}")
            trial.cells[position].source = nb.cells[position].source
            trial.cells[position].outputs = [nbformat.v4.new_output("error", **error)]
        for cell in trial.cells:
            # A warning is no mistake, and a number on show no grade: what counts is that the check raised nothing.
            if cell.metadata.get("nbgrader", {}).get("grade"):
                cell.outputs = [shown for shown in cell.outputs if _counts(shown)]
        self.executed = trial
        return trial, resources

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:
        self.position, self.shown = index, 0
        return super().preprocess_cell(cell, resources, index)

    def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] in ("stream", "display_data", "execute_result", "update_display_data"):
            self.shown += len(str(msg["content"]))
            if self.shown > OUTPUT:
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
        if isinstance(error, _Left):
            return "the answer ends the kernel (exit). A function returns its result."
        return "the kernel died: the answer ended the process, or crashed it."


class _Left(Exception):
    """A cell asked the kernel to end."""


class _Watch(threading.Thread):
    """Looks after what no limit of a single process holds: memory of all of them together, and the disk."""

    def __init__(self, closed: Box):
        super().__init__(daemon=True)
        self.closed, self.reason, self._over = closed, "", threading.Event()

    def __enter__(self) -> "_Watch":
        self.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        self.join()
        end_children()

    def run(self) -> None:
        most = self.closed.limits.memory
        while not self._over.wait(_LOOK):
            if sum(map(_resident, psutil.Process().children(recursive=True))) > most:
                self.reason = f"more than {most / 2**20:.0f} MB of memory in all processes."
            elif _size(self.closed.writable) > DISK:
                self.reason = f"more than {DISK / 2**20:.0f} MB written to disk."
            if self.reason:
                end_children()
                return


def _kernels(closed: Box, attempt: int) -> type[AsyncKernelManager]:
    """Managers of kernels in the box. Sockets are files: no port leads through a network namespace."""

    class Boxed(AsyncKernelManager):
        def __init__(self, **keywords: Any):
            connection = str(closed.writable / f"k{attempt}.json")
            super().__init__(**keywords, transport="ipc", connection_file=connection)

        async def _async_pre_start_kernel(self, **keywords: Any) -> Any:
            command, keywords = await super()._async_pre_start_kernel(**keywords)
            return command, {**keywords, "preexec_fn": sandbox.end_with_parent}

        @property
        def kernel_spec(self) -> KernelSpec:
            own = get_kernel_dict()
            return KernelSpec(resource_dir=RESOURCES, **{**own, "argv": closed.command(own["argv"])})

    return Boxed


def _by_learner(cell: Any) -> bool:
    return "nbgrader" in cell.metadata or exercises.BESIDE in cell.metadata


def _counts(shown: Any) -> bool:
    return shown.output_type != "execute_result" and shown.get("name") != "stderr"


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0


def _size(folder: Path) -> int:
    total = 0
    for where, _, names in os.walk(folder, onerror=None):
        for name in names:
            try:
                total += os.lstat(os.path.join(where, name)).st_size
            except OSError:
                continue
    return total


def end_children() -> None:
    """Kill everything that this process has started, and what that has started."""
    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.Error:
            continue
