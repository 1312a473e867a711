"""Calls handed out to a Dask cluster, one running elsewhere or one started here: `course sweep`, `course grade`."""

import asyncio
import contextlib
import logging
import pkgutil
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from course_lib.book import CourseError

_POLL = 2.0  # seconds after which the scheduler is asked whether it is still there
_RESTART = 60.0  # seconds that a worker of our own may take to come back on a loaded machine


@dataclass(frozen=True)
class Cluster:
    """A connected Dask cluster.

    Attributes:
        function: that it calls.
        what: its calls are about, in a word, such as "seeds".
        client: of `distributed`.
        address: of the scheduler.
        timeout: seconds that the scheduler may take to answer.
        patience: seconds that it may be without a worker.
    """

    function: Callable[..., Any]
    what: str
    client: Any
    address: str
    timeout: float
    patience: float

    def ended(self, calls: Mapping[Hashable, tuple]) -> Iterator[tuple[Any, Any, str]]:
        """Hand out calls and give (key, value, "") of each as it ends, or (key, None, what broke it).

        Dask gives up a call whose worker died several times, be it that another one of the same worker was to blame.
        So it is tried again at the end, alone.

        Args:
            calls: {key: arguments of the function}.

        Raises:
            CourseError: the scheduler or its workers are gone, or the function raised one.
        """
        import distributed

        suspects = []
        for key, future in self._done(calls):
            if isinstance(future.exception(), distributed.KilledWorker):
                suspects.append(key)
            else:
                yield key, *self._result(future)
        for suspect in suspects:
            for key, future in self._done({suspect: calls[suspect]}):
                yield key, *self._result(future)

    def _done(self, calls: Mapping[Hashable, tuple]) -> Iterator[tuple[Any, Any]]:
        """Hand out calls and give (key, future) of each as it ends, one way or the other."""
        import distributed

        keys = {self.client.submit(self.function, *call, pure=False): key for key, call in calls.items()}
        waiting, deserted = set(keys), time.monotonic()
        while waiting:
            try:
                done, waiting = distributed.wait(waiting, timeout=_POLL, return_when="FIRST_COMPLETED")
            except distributed.CancelledError as error:
                raise CourseError(
                    f"the Dask scheduler at {self.address} is gone; finished {self.what} are kept. Start it "
                    "again, then go on with the same command"
                ) from error
            except TimeoutError:
                if _ask(self.address, self.timeout)["n_workers"]:
                    deserted = time.monotonic()
                elif time.monotonic() - deserted > self.patience:
                    raise CourseError(
                        f"the Dask scheduler at {self.address} has had no worker for {self.patience:g} s. Start some: "
                        f"dask worker {self.address}"
                    ) from None
                continue
            deserted = time.monotonic()
            yield from ((keys[future], future) for future in done)

    def _result(self, future: Any) -> tuple[Any, str]:
        """What the call gave, or in words what broke it."""
        import distributed

        try:
            return future.result(), ""
        except CourseError:
            raise
        except distributed.KilledWorker:
            return None, (
                "KilledWorker: worker processes died time and again while they ran it. Lack of memory is the usual "
                "reason: fewer --workers, or a larger machine"
            )
        except Exception as error:
            return None, f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def connected(
    function: Callable[..., Any],
    what: str,
    *,
    scheduler: str | None,
    workers: int | None = None,
    most: int = 1,
    timeout: float = 10.0,
) -> Iterator[Cluster]:
    """Connect to a scheduler, or start one here.

    Args:
        function: what the calls will call; every worker must be able to import it.
        what: the calls are about, in a word, such as "seeds".
        scheduler: address of a running scheduler; None to start workers on this machine.
        workers: how many to start here; by default one a core.
        most: of them that can be of use.
        timeout: seconds that the scheduler may take to answer, and may be without any worker.

    Raises:
        CourseError: Dask is not installed; no scheduler answers; its workers cannot import the function.
    """
    try:
        import distributed
    except ImportError as error:
        raise CourseError(
            "this runs on Dask, which is not installed: pip install 'small-and-fast[cluster]'"
        ) from error
    if scheduler is not None:
        _ask(scheduler, timeout)
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what it would say is said here
        with distributed.Client(scheduler, timeout=timeout) as client:
            _require_library(client, scheduler, function)
            yield Cluster(function, what, client, scheduler, timeout, timeout)
        return
    import joblib

    # memory_limit: what a run takes is in its kernel, of which Dask knows nothing.
    local = distributed.LocalCluster(
        n_workers=min(workers or joblib.cpu_count(), most),
        threads_per_worker=1,
        memory_limit=None,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        silence_logs="CRITICAL",
    )
    with local, distributed.Client(local) as client:
        yield Cluster(function, what, client, local.scheduler_address, _RESTART, _RESTART)


def _require_library(client: Any, scheduler: str, function: Callable[..., Any]) -> None:
    """Raise CourseError if the scheduler or a worker has no course_lib: such a worker would die of its first call."""
    place = f"{function.__module__}:{function.__qualname__}"
    try:
        client.run_on_scheduler(pkgutil.resolve_name, place)
        client.run(pkgutil.resolve_name, place)
    except ImportError as error:
        raise CourseError(
            f"the cluster at {scheduler} cannot import what a run needs ({error}). Install the same checkout there, "
            "for the scheduler and every worker: pip install -e '.[cluster]'"
        ) from error


def _ask(scheduler: str, timeout: float) -> dict[str, Any]:
    """What a scheduler says of itself.

    Raises:
        CourseError: nothing answers in time, or not as a scheduler. `distributed.Client` alone would wait for ever
            for what accepts the connection and then says nothing, whatever its time-out.
    """
    import distributed

    async def ask() -> dict[str, Any]:
        async with asyncio.timeout(timeout), distributed.rpc(scheduler) as remote:
            return await remote.identity()

    try:
        return asyncio.run(ask())
    except TimeoutError:
        why = f"nothing answered within {timeout:g} s"
    except Exception as error:  # whatever a stranger's answer does to Dask's reader
        why = f"{type(error).__name__}: {error}"
    raise CourseError(
        f"no Dask scheduler answers at {scheduler} ({why}). Look at the address, such as tcp://10.0.0.1:8786, and that "
        "the scheduler runs (dask scheduler); without --scheduler it runs on this machine"
    )
