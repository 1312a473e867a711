"""Run many calls side by side, in processes or on a Dask cluster; a call that kills its worker costs no other."""

import asyncio
import contextlib
import logging
import multiprocessing
import os
import pkgutil
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

from course_lib import credentials, parents
from course_lib.credentials import ClusterError, TlsFiles
from course_lib.progress import tracked

__all__ = [
    "Cluster", "ClusterError", "Failed", "Lost", "Pool", "Processes", "connected", "isolated",
    "on_one_thread", "run_parallel",
]  # fmt: skip

_PATIENCE = 3600.0  # seconds without any result: joblib is not told when a Dask cluster gives a call up
_POLL = 2.0  # seconds after which the scheduler is asked whether it is still there
_RESTART = 60.0  # seconds that a worker of our own may take to come back on a loaded machine
_MEMORY = "Lack of memory is the usual reason"


class Lost(NamedTuple):
    """Result of a call whose worker died during it, though another call may be to blame."""

    reason: str


class Failed(NamedTuple):
    """Result of a call that raised."""

    reason: str


Pool = Callable[[Mapping[Hashable, tuple]], Iterator[tuple[Hashable, Any]]]
"""Makes calls, {key: arguments}, and yields (key, value) of each as it ends; `Lost` if its worker died."""


def run_parallel(
    function: Callable[[Any], Any],
    arguments: Sequence[Any],
    *,
    workers: int | None = None,
    label: str = "runs",
) -> list[Any]:
    """Call a function on every argument, in processes of one thread each; results in order.

    Small networks gain nothing from a second thread, so two one-thread runs side by side finish in half the time.
    Every call has one thread whatever the number of workers, so the results do not depend on it.

    Args:
        function: of one argument; what it needs is pickled, functions of a notebook included.
        arguments: one for each call.
        workers: processes; as many as the machine has cores unless given. One worker runs in this process.
        label: of the progress that is shown.

    Returns:
        One result for each argument, in order.

    Raises:
        TypeError, ValueError: `workers` is not a whole number of at least 1. Whatever the function raises.

    Example:
        >>> run_parallel(abs, [-1, 2, -3], workers=1)
        [1, 2, 3]
    """
    import joblib

    from course_lib.validation import check_count

    workers = min(
        check_count(workers, "workers") if workers is not None else joblib.cpu_count(), len(arguments) or 1
    )
    if workers == 1:
        calls = (on_one_thread(function, argument) for argument in arguments)
    else:
        call = joblib.delayed(parents.in_worker)
        tasks = (call(os.getpid(), on_one_thread, (function, argument)) for argument in arguments)
        calls = joblib.Parallel(n_jobs=workers, return_as="generator")(tasks)
    return list(tracked(calls, label, len(arguments)))


def on_one_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function with PyTorch on one thread, so that its result does not depend on the machine's cores.

    Args:
        function: called with the arguments.
        arguments: of the function.

    Returns:
        The result of the function.

    Example:
        >>> import torch
        >>> on_one_thread(torch.get_num_threads)
        1
    """
    import torch  # here and not above: the command line answers a mistake before that

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return function(*arguments)
    finally:
        torch.set_num_threads(threads)


def isolated(
    pool: Pool, calls: Mapping[Hashable, tuple], *, tries: int = 1
) -> Iterator[tuple[Hashable, Any]]:
    """Make calls together, then repeat lost ones alone, so that a call that kills its worker costs no other.

    Args:
        pool: makes the calls.
        calls: {key: arguments}.
        tries: how often a lost call is repeated.

    Yields:
        (key, value) of each call as it ends; `Lost` if its worker died each time.

    Example:
        >>> list(isolated(Processes(pow, workers=1), {"a": (2, 3), "b": (3, 2)}))
        [('a', 8), ('b', 9)]
    """
    from course_lib.validation import check_count

    suspects = []
    for key, value in pool(calls):
        if isinstance(value, Lost):
            suspects.append(key)
        else:
            yield key, value
    for key in suspects:
        for _ in range(check_count(tries, "tries")):
            ((_, value),) = pool({key: calls[key]})
            if not isinstance(value, Lost):
                break
        yield key, value


class Processes:
    """Pool of processes on this machine, or on the backend of `joblib.parallel_config`. What a call raises is raised.

    Args:
        function: called with the arguments of each call.
        workers: processes; -1 for one per core, None for the number of `joblib.parallel_config`.
        patience: seconds without any result after which workers count as dead.

    Example:
        >>> dict(Processes(pow, workers=1)({"a": (2, 3)}))
        {'a': 8}
    """

    def __init__(
        self, function: Callable[..., Any], *, workers: int | None = None, patience: float = _PATIENCE
    ) -> None:
        self.function, self.workers, self.patience = function, workers, patience

    def __call__(self, calls: Mapping[Hashable, tuple]) -> Iterator[tuple[Hashable, Any]]:
        """Make the calls. When a worker dies, the calls under way are lost and the others go on."""
        import joblib  # here, since most users of this module need no processes

        left = dict(calls)
        while left:
            sent: list[Hashable] = []
            patience = self.patience if joblib.effective_n_jobs(self.workers) > 1 else None
            # batch_size 1: what is finished comes back at once, and is kept if another call's worker dies.
            parallel = joblib.Parallel(
                n_jobs=self.workers, batch_size=1, return_as="generator_unordered", timeout=patience
            )
            try:
                for key, value in parallel(self._tasks(dict(left), sent)):
                    del left[key]
                    yield key, value
            except (BrokenExecutor, multiprocessing.TimeoutError) as error:
                for key in [key for key in sent if key in left]:
                    del left[key]
                    yield key, Lost(f"a worker process died ({type(error).__name__})")

    def _tasks(self, calls: Mapping[Hashable, tuple], sent: list[Hashable]) -> Iterator[tuple]:
        """Yield the calls in joblib's form; `sent` lists those that it has taken."""
        import joblib

        for key, arguments in calls.items():
            sent.append(key)
            yield joblib.delayed(parents.in_worker)(os.getpid(), _keyed, (key, self.function, arguments))


def _keyed(key: Hashable, function: Callable[..., Any], arguments: tuple) -> tuple[Hashable, Any]:
    return key, function(*arguments)


@dataclass(frozen=True)
class Cluster:
    """Pool on a connected Dask cluster: see `connected`.

    Attributes:
        function: called with the arguments of each call.
        what: the subject of the calls in a word, such as "seeds"; for messages.
        client: of `distributed`.
        address: of the scheduler.
        security: of `distributed`: how the scheduler is talked to.
        timeout: seconds that the scheduler may take to answer.
        patience: seconds that it may be without a worker.
        fatal: exception by which one call ends them all.
    """

    function: Callable[..., Any]
    what: str
    client: Any
    address: str
    security: Any
    timeout: float
    patience: float
    fatal: type[Exception]

    def __call__(self, calls: Mapping[Hashable, tuple]) -> Iterator[tuple[Hashable, Any]]:
        """Make the calls: `Lost` for one that Dask gave up because its workers died, `Failed` for one that raised.

        Raises:
            ClusterError: the scheduler or its workers are gone. Also a `fatal` exception of a call.
        """
        import distributed

        for key, future in self._done(calls):
            try:
                yield key, future.result()
            except self.fatal:
                raise
            except distributed.KilledWorker:
                yield (
                    key,
                    Lost(
                        f"KilledWorker: worker processes died time and again while they ran it. {_MEMORY}: fewer "
                        "--workers, or a larger machine"
                    ),
                )
            except Exception as error:
                yield key, Failed(f"{type(error).__name__}: {error}")

    def ended(self, calls: Mapping[Hashable, tuple]) -> Iterator[tuple[Any, Any, str]]:
        """Make the calls, lost ones again alone; yield (key, value, "") of each, or (key, None, reason) if it broke."""
        for key, value in isolated(self, calls):
            broken = isinstance(value, Lost | Failed)
            yield (key, None, value.reason) if broken else (key, value, "")

    def _done(self, calls: Mapping[Hashable, tuple]) -> Iterator[tuple[Any, Any]]:
        """Submit the calls and yield (key, future) of each as it ends or fails."""
        import distributed

        keys = {self.client.submit(self.function, *call, pure=False): key for key, call in calls.items()}
        waiting, deserted = set(keys), time.monotonic()
        while waiting:
            try:
                done, waiting = distributed.wait(waiting, timeout=_POLL, return_when="FIRST_COMPLETED")
            except distributed.CancelledError as error:
                raise ClusterError(
                    f"the Dask scheduler at {self.address} is gone; finished {self.what} are kept. Start it "
                    "again, then go on with the same command"
                ) from error
            except TimeoutError:
                if _ask(self.address, self.timeout, self.security)["n_workers"]:
                    deserted = time.monotonic()
                elif time.monotonic() - deserted > self.patience:
                    raise ClusterError(
                        f"the Dask scheduler at {self.address} has had no worker for {self.patience:g} s. Start some: "
                        f"dask worker {self.address}{' with its --tls-... options' * self.security.require_encryption}"
                    ) from None
                continue
            deserted = time.monotonic()
            yield from ((keys[future], future) for future in done)


@contextlib.contextmanager
def connected(
    function: Callable[..., Any],
    what: str,
    *,
    scheduler: str | None,
    workers: int | None = None,
    most: int = 1,
    timeout: float = 10.0,
    tls: TlsFiles | None = None,
    fatal: type[Exception] = ClusterError,
) -> Iterator[Cluster]:
    """Connect to a Dask scheduler, with a warning where it has no TLS, or start one here that nobody else can use.

    Args:
        function: called with the arguments of each call; every worker must be able to import it.
        what: the subject of the calls in a word, such as "seeds"; for messages.
        scheduler: address of a running scheduler; None to start workers on this machine.
        workers: how many to start here; by default one per core.
        most: upper limit of `workers`, such as the number of calls.
        timeout: seconds that the scheduler may take to answer, and may be without any worker.
        tls: credentials for a running scheduler with TLS.
        fatal: exception by which one call ends them all.

    Yields:
        The cluster; the end of the block stops a scheduler that was started here.

    Raises:
        ClusterError: Dask is not installed; credentials are missing or wrong; no scheduler answers; its workers cannot
            import the function.
    """
    try:
        import distributed
    except ImportError as error:
        raise ClusterError(
            "this runs on Dask, which is not installed: pip install 'small-and-fast[cluster]'"
        ) from error
    if scheduler is not None:
        security = credentials.read(scheduler, tls)
        _ask(scheduler, timeout, security)
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what it would say is said here
        with distributed.Client(scheduler, timeout=timeout, security=security) as client:
            _require_library(client, scheduler, function)
            if exposed := credentials.exposure(scheduler):
                logging.getLogger(__name__).warning(exposed)
            yield Cluster(function, what, client, scheduler, security, timeout, timeout, fatal)
        return
    import joblib

    security = credentials.temporary()
    # memory_limit: what a run takes is in its kernel, of which Dask knows nothing.
    local = distributed.LocalCluster(
        n_workers=min(workers or joblib.cpu_count(), most),
        threads_per_worker=1,
        memory_limit=None,
        host="127.0.0.1",
        protocol="tls",
        security=security,
        dashboard_address="127.0.0.1:0",
        silence_logs="CRITICAL",
    )
    with local, distributed.Client(local) as client:
        yield Cluster(function, what, client, local.scheduler_address, security, _RESTART, _RESTART, fatal)


def _require_library(client: Any, scheduler: str, function: Callable[..., Any]) -> None:
    """Raise ClusterError if the scheduler or a worker has no course_lib: such a worker would die of its first call."""
    place = f"{function.__module__}:{function.__qualname__}"
    try:
        client.run_on_scheduler(pkgutil.resolve_name, place)
        client.run(pkgutil.resolve_name, place)
    except ImportError as error:
        raise ClusterError(
            f"the cluster at {scheduler} cannot import what a run needs ({error}). Install the same checkout there, "
            "for the scheduler and every worker: pip install -e '.[cluster]'"
        ) from error


def _ask(scheduler: str, timeout: float, security: Any) -> dict[str, Any]:
    """Ask a scheduler what it is.

    Raises:
        ClusterError: nothing answers in time, or not as a scheduler. `distributed.Client` alone would wait for ever
            for what accepts the connection and then says nothing, whatever its time-out.
    """
    import distributed

    arguments = security.get_connection_args("client")

    async def ask() -> dict[str, Any]:
        async with asyncio.timeout(timeout), distributed.rpc(scheduler, connection_args=arguments) as remote:
            return await remote.identity()

    try:
        return asyncio.run(ask())
    except TimeoutError:
        why = f"nothing answered within {timeout:g} s"
    except Exception as error:  # whatever a stranger's answer does to Dask's reader
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        why = f"{type(cause).__name__}: {cause}"
        refused = (
            isinstance(error, distributed.comm.CommClosedError) and "WRONG_VERSION" not in why
        )  # no TLS there
        if refused and security.require_encryption:
            raise ClusterError(
                f"the Dask scheduler at {scheduler} and these credentials do not match ({why}). Give those that were "
                "made for this cluster, none of them expired: --tls-ca-file, --tls-cert, --tls-key"
            ) from error
    raise ClusterError(
        f"no Dask scheduler answers at {scheduler} ({why}). Look at the address, such as tcp://10.0.0.1:8786, or "
        "tls://10.0.0.1:8786 where it asks for credentials, and that the scheduler runs (dask scheduler); without "
        "--scheduler it runs on this machine"
    )
