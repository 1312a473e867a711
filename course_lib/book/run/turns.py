"""Notebooks that run side by side take turns: a cell that measures times runs while no other cell does."""

import threading
from dataclasses import dataclass

__all__ = ["Turn", "Turns"]


class Turns:
    """Who may run a cell now: any number of notebooks, or one whose cell measures times and nobody else.

    A notebook that waits to measure keeps the others from beginning another cell, or it would wait for their end.
    """

    def __init__(self):
        self._changed = threading.Condition()
        self._running: set[Turn] = set()
        self._to_measure: list[Turn] = []

    def of(self, stopping: threading.Event) -> "Turn":
        """Give the turn of one notebook, which waits for nothing any more once `stopping` is set."""
        return Turn(self, stopping)

    def take(self, turn: "Turn", *, alone: bool) -> None:
        """Wait until the cell may run."""
        with self._changed:
            if alone:
                self._to_measure.append(turn)
            while not turn.stopping.is_set() and not self._may_run(turn, alone):
                self._changed.wait(timeout=0.5)
            self._running.add(turn)

    def give_back(self, turn: "Turn") -> None:
        """Say that the cell has ended; once more does no harm."""
        with self._changed:
            self._running.discard(turn)
            if turn in self._to_measure:
                self._to_measure.remove(turn)
            self._changed.notify_all()

    def _may_run(self, turn: "Turn", alone: bool) -> bool:
        if alone:
            return not self._running and self._to_measure[0] is turn
        return not self._to_measure


@dataclass(frozen=True, eq=False)
class Turn:
    """One notebook among those that take turns."""

    turns: Turns
    stopping: threading.Event

    def begin(self, alone: bool) -> None:
        """A cell is to run; returns when it may."""
        self.turns.take(self, alone=alone)

    def end(self) -> None:
        """The cell has ended."""
        self.turns.give_back(self)
