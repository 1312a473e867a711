"""Is the machine quiet enough for times to be committed? A short piece of work, repeated, says so."""

import time
from collections.abc import Callable

__all__ = ["trouble", "unevenness"]

_PIECES = 100
_BUSY = 1.5
"""On two cores the pieces gave 1.01 to 1.05 with a core of their own, and 3.8 to 23 beside eleven busy processes."""


def unevenness(
    piece: Callable[[], object] | None = None,
    *,
    pieces: int = _PIECES,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Time equal pieces of work and divide the upper quartile by the shortest: near 1 where nothing interrupts them.

    A machine that is slow all the time, as in a saving mode, is not seen.

    Args:
        piece: the work; twenty products of small matrices on one thread unless given, about a millisecond.
        pieces: how many are timed, after one that is not.
        clock: gives seconds.

    Returns:
        A number from 1.

    Example:
        >>> times = iter([0, 1, 1, 2, 2, 3, 3, 4, 4, 7])  # four pieces of 1 s, one of 3 s
        >>> unevenness(lambda: None, pieces=5, clock=lambda: float(next(times)))
        1.0
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        work = piece or _products()
        work()
        taken = sorted(_seconds(work, clock) for _ in range(pieces))
    finally:
        torch.set_num_threads(threads)
    return taken[3 * pieces // 4] / taken[0]


def trouble() -> str:
    """Say that the machine is busy, with what was measured; empty if it is quiet."""
    measured = unevenness()
    if measured <= _BUSY:
        return ""
    return (
        f"this machine is busy: of {_PIECES} equal pieces of work a quarter took {measured:.1f} times as long as the "
        f"shortest, or longer (quiet: at most {_BUSY})"
    )


def _seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    begin = clock()
    work()
    return clock() - begin


def _products() -> Callable[[], object]:
    import torch

    matrix = torch.ones(128, 128)
    return lambda: [torch.mm(matrix, matrix) for _ in range(20)]
