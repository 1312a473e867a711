"""Run notebooks with papermill, each in a kernel process of its own, several side by side if asked."""

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from queue import Empty

import joblib
import papermill
from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import ensure_event_loop
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines

from course_lib.book import notebooks
from course_lib.book.run.task import Failure, Outcome, Task, has_code
from course_lib.book.run.turns import Turns

_ENGINE = "course"
# For a kernel that the course runs: no progress bars, and no record of exercises as if a learner had done them.
QUIET = {"TQDM_DISABLE": "1", "COURSE_PROGRESS": "off"}
# What the libraries of numbers ask how many threads they may have.
ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_GRACE = 2.0  # seconds between asking a kernel to stop and killing it
_IDLE = 60.0  # seconds that a kernel may be idle while the run waits for its cell
_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has none
_POLL = 0.1  # seconds between two looks at the kernel

# Papermill and nbclient log what the outcome of a chapter already says.
_quiet = logging.getLogger(__name__)
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


def run(
    tasks: Sequence[Task],
    *,
    jobs: int = 1,
    on_start: Callable[[Task], None] = lambda task: None,
    on_cell: Callable[[Task], None] = lambda task: None,
    on_done: Callable[[Task, Outcome], None] = lambda task, outcome: None,
) -> None:
    """Run notebooks, at most `jobs` at a time, each in a kernel process of its own.

    With several at a time, each computes on one thread and on its share of the cores. A cell tagged as measuring times
    runs alone: it waits until the running cells of the others have ended, and they wait for it.

    A failing notebook does not stop the others. If this function ends early (Ctrl-C, a full disk met by `on_done`), it
    first ends every kernel.

    Args:
        tasks: notebooks, started in this order where it is up to this function.
        jobs: number of kernels that may run at the same time.
        on_start: called as a notebook starts, in a thread of its own.
        on_cell: called after each code cell, in the same thread.
        on_done: called as a notebook ends, in the same thread, but never two at a time.

    Raises:
        Whatever `on_done` raises; KeyboardInterrupt.
    """

    recording = threading.Lock()

    def work(task: Task) -> None:
        on_start(task)
        outcome = execute(task, on_cell)
        with recording:
            if not task.stopping.is_set():
                on_done(task, outcome)

    jobs = max(1, min(jobs, len(tasks)))
    turns = Turns()
    for task in tasks:
        task.turns = turns
        if jobs > 1:
            task.environment = {**_share_of_the_cores(jobs), **task.environment}
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        futures = [pool.submit(work, task) for task in tasks]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            for task in tasks:
                task.stopping.set()
            for future in futures:
                future.cancel()
            _end_kernels(tasks, lambda: bool(wait(futures, timeout=0.1).not_done))
            raise


def _share_of_the_cores(count: int) -> dict[str, str]:
    """Variables for each of `count` kernels: one thread, and as many worker processes as it has cores for itself."""
    cores = max(1, joblib.cpu_count() // count)  # those that this process may use
    return {**dict.fromkeys(ONE_THREAD, "1"), "LOKY_MAX_CPU_COUNT": str(cores)}


def execute(task: Task, on_cell: Callable[[Task], None] = lambda task: None) -> Outcome:
    """Run one notebook to its end or to its first failing cell.

    Args:
        task: the notebook; its `source` is not changed.
        on_cell: called after each code cell.

    Returns:
        The outcome; an error of the notebook or its kernel is a `Failure` in it, not an exception.
    """
    start = time.perf_counter()
    failure = None
    try:
        papermill.execute_notebook(
            task.source,
            None,
            parameters=task.parameters,
            engine_name=_ENGINE,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            task=task,
            on_cell=on_cell,
        )
        failure = _left_out(task)
    except papermill.PapermillExecutionError as error:
        what = f"{error.ename}: {error.evalue}"
        failure = Failure(error.exec_count or 0, _first_line(error.source), what, task.cell_id)
    except Exception as error:
        # A dead kernel, a kernel that does not start: the failure of this chapter, not of the run.
        failure = _failure_at(task, task.stuck or f"{type(error).__name__}: {error}")
    finally:
        _close_event_loop()
    return Outcome(task.chapter, time.perf_counter() - start, task.notebook, failure)


class _ThisPython(AsyncKernelManager):
    """Starts the kernel of the running interpreter, whatever kernels the machine has registered as python3."""

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())


class _Engine(NBClientEngine):
    """Papermill's own engine, with the client kept within reach so that its kernel can be stopped."""

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, *, task, on_cell, **_):
        def before(cell, cell_index):
            task.position, task.cell_id = cell_index, getattr(cell, "id", "")
            if task.stopping.is_set():
                raise RuntimeError("the run was stopped")

        def begins(cell, **_):
            turn.begin(notebooks.TIMES in cell.metadata.get("tags", []))
            if task.stopping.is_set():
                raise RuntimeError("the run was stopped")
            watchdog.cell_begins()

        def after(**_):
            watchdog.cell_ends()
            turn.end()
            on_cell(task)

        watchdog = _Watchdog(task)
        turn = task.turns.of(task.stopping)
        task.notebook = nb_man.nb
        task.client = PapermillNotebookClient(
            nb_man,
            kernel_name=kernel_name,
            kernel_manager_class=_ThisPython,
            startup_timeout=300,  # of a loaded machine; a kernel that dies is noticed at once
            log=_quiet,
            extra_arguments=["--log-level=CRITICAL", _NO_LAST_WORDS],
            on_cell_start=before,
            on_cell_execute=begins,
            on_cell_executed=after,
        )
        before(None, 0)
        try:
            task.client.execute(cwd=str(task.folder), env={**os.environ, **QUIET, **task.environment})
        finally:
            watchdog.end()
            turn.end()


# A kernel that is told to end may find its socket closed, and would print a traceback that is nobody's fault.
_NO_LAST_WORDS = "--IPKernelApp.logging_config={'loggers': {'tornado.general': {'level': 'CRITICAL'}}}"


class _Watchdog:
    """Ends a notebook whose cell takes too long, or whose kernel is idle while the run still waits for a cell.

    nbclient can lose the message that ends a cell and then waits for ever (its issue 312). So the watchdog listens to
    the kernel in a thread and on a connection of its own.
    """

    def __init__(self, task: Task):
        self._task = task
        self._cell_is_open = threading.Event()
        self._began = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"watchdog of {task.chapter}", daemon=True)

    def cell_begins(self) -> None:
        """A cell is about to be sent to the kernel, which runs since before the first one."""
        self._began = time.monotonic()
        self._cell_is_open.set()
        if self._thread.ident is None:
            self._thread.start()

    def cell_ends(self) -> None:
        """The reply to the cell has arrived."""
        self._cell_is_open.clear()

    def end(self) -> None:
        """Stop watching; returns when the thread is gone."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _watch(self) -> None:
        client = BlockingKernelClient()
        client.load_connection_info(self._task.client.km.get_connection_info())
        client.start_channels(stdin=False, hb=False, control=False)
        try:
            self._listen(client)
        finally:
            client.stop_channels()

    def _listen(self, client: BlockingKernelClient) -> None:
        """Wait until the notebook ends, a cell is out of time, or the kernel is silent for long and has nothing to do.

        A silent kernel may be computing. It takes one request after the other, so it answers a question only when it is
        done. Silence is counted in looks, not by the clock: a machine that slept has not waited.
        """
        silence, question = 0.0, None
        while not self._ended.is_set():
            if self._cell_is_open.is_set() and time.monotonic() - self._began > self._task.limit:
                return self._end_it(
                    f"the cell took longer than {self._task.limit:g} s and was ended; --cell-timeout allows more"
                )
            try:
                message = client.iopub_channel.get_msg(timeout=_POLL)
            except Empty:
                silence = silence + _POLL if self._cell_is_open.is_set() else 0.0
                if silence >= _IDLE and question is None:
                    question = client.kernel_info()
                continue
            if message["parent_header"].get("msg_id") != question:
                silence, question = 0.0, None
            elif message["content"].get("execution_state") == "idle" and self._cell_is_open.is_set():
                return self._end_it(
                    f"the kernel has been idle for {_IDLE:g} s, but the run still waits for this cell. The kernel's "
                    "reply was lost on its way, as happens on a busy machine (nbclient issue 312); the cell is not to "
                    "blame. Run the chapter again; --resume keeps those that have passed"
                )

    def _end_it(self, reason: str) -> None:
        self._task.stuck = reason
        _signal([self._task], _KILL)


papermill_engines.register(_ENGINE, _Engine)


def _close_event_loop() -> None:
    """Close the event loop that jupyter_core opened for this thread and leaves open.

    Collected open, it may print a traceback into whatever the program shows at that moment.
    """
    loop = ensure_event_loop()
    if not loop.is_running():
        loop.close()
        asyncio.set_event_loop(None)


def _first_line(source: str) -> str:
    return next((line.strip() for line in source.splitlines() if line.strip()), "")


def _failure_at(task: Task, error: str) -> Failure:
    """A failure at the cell where the task stands."""
    if task.notebook is None:
        return Failure(0, "", error)
    cells = task.notebook.cells[: task.position + 1]
    return Failure(sum(map(has_code, cells)), _first_line(cells[-1].source), error, task.cell_id)


def _left_out(task: Task) -> Failure | None:
    """A notebook that ended early without an error: sys.exit(0), which papermill takes for success."""
    outputs = task.notebook.cells[task.position].get("outputs", [])
    if any(output.get("ename") == "SystemExit" for output in outputs):
        return _failure_at(task, "SystemExit: the cells after this one did not run")
    return None


def _end_kernels(tasks: Sequence[Task], running: Callable[[], bool]) -> None:
    """Interrupt the kernels, then kill those that go on; with them goes every process they started."""
    patience = time.monotonic() + _GRACE
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C once more: no patience
        _signal(tasks, signal.SIGINT)
        while running() and time.monotonic() < patience:
            pass
    while running():
        _signal(tasks, _KILL)


def _signal(tasks: Sequence[Task], number: int) -> None:
    """Send a signal to each running kernel and to the processes that it started: the group it leads."""
    for task in tasks:
        provisioner = getattr(getattr(task.client, "km", None), "provisioner", None)
        if provisioner is None or provisioner.process is None:
            continue
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: of a group of zombies
            if not hasattr(
                os, "killpg"
            ):  # Windows: a kernel cannot be interrupted from a thread, but it can be ended
                if number == _KILL:
                    provisioner.process.kill()
            elif provisioner.pgid == provisioner.pid:
                os.killpg(provisioner.pgid, number)
