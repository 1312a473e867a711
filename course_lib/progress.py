"""What is shown while something takes long: a bar on a terminal and in a notebook, a line for each step elsewhere."""

import contextlib
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TypeVar

__all__ = ["Progress", "progress", "shows_bars", "tracked"]

_Item = TypeVar("_Item")


class Progress(Protocol):
    """Receiver of what has been done."""

    def part(self, count: int) -> None:
        """So many parts of the step under way are done."""

    def step(self, **measured: str) -> None:
        """A step is done; show what was measured, already written as text."""


@contextlib.contextmanager
def progress(
    label: str, steps: int, *, done: int = 0, parts: int = 1, unit: str = "it"
) -> Iterator[Progress]:
    """Show the progress of a block on stderr; a bar is gone when the block ends.

    Nothing is shown where tqdm's variable TQDM_DISABLE is set, nor in a worker process: whoever sent the call shows
    that it ends.

    Args:
        label: what is done, in a word or two.
        steps: how many there are.
        done: how many of them were done earlier.
        parts: of a step, such as the batches of an epoch; a bar moves with each.
        unit: name of a part.

    Example:
        >>> with progress("runs", 3) as shown:
        ...     shown.step(accuracy="71 %")
    """
    if os.environ.get("TQDM_DISABLE") or multiprocessing.parent_process() is not None:
        yield _Nothing()
    elif shows_bars():
        from tqdm.auto import tqdm  # here: many an import of the library never shows anything

        with tqdm(total=steps * parts, initial=done * parts, desc=label, unit=unit, leave=False) as bar:
            yield _Bar(bar, done, parts)
    else:
        yield _Lines(label, steps, done)


def tracked(items: Iterable[_Item], label: str, steps: int) -> Iterator[_Item]:
    """Yield each item, and show that a step is done when the next one is asked for.

    Example:
        >>> list(tracked([1, 2], "runs", 2))
        [1, 2]
    """
    with progress(label, steps) as shown:
        for item in items:
            yield item
            shown.step()


def shows_bars() -> bool:
    """Say whether a bar can move where stderr goes: in a notebook or on a terminal, not in a file or a pipe.

    Example:
        >>> type(shows_bars())
        <class 'bool'>
    """
    from tqdm import auto, std

    in_notebook = auto.notebook_tqdm is not std.tqdm
    return in_notebook or sys.stderr.isatty()


class _Nothing:
    def part(self, count: int) -> None:
        pass

    def step(self, **measured: str) -> None:
        pass


class _Bar:
    def __init__(self, bar: Any, done: int, parts: int):
        self._bar, self._done, self._parts = bar, done, parts

    def part(self, count: int) -> None:
        self._bar.update(count)

    def step(self, **measured: str) -> None:
        self._done += 1
        self._bar.update(self._done * self._parts - self._bar.n)
        if measured:
            self._bar.set_postfix(measured)


class _Lines:
    def __init__(self, label: str, steps: int, done: int):
        self._label, self._steps, self._done = label, steps, done
        self._begun = time.monotonic()

    def part(self, count: int) -> None:
        pass

    def step(self, **measured: str) -> None:
        self._done += 1
        told = "".join(f", {name} {text}" for name, text in measured.items())
        seconds = time.monotonic() - self._begun
        line = f"{self._label}: {self._done} of {self._steps}{told} ({seconds:.0f} s)"
        print(line, file=sys.stderr, flush=True)
