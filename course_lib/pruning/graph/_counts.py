"""Numbers of channels that a forward() reads from a shape: ordinary ints that remember which channels they count."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch
from torch import Tensor


class Count(int):
    """An int that counts channels, or a multiple or share of them.

    Products with and exact quotients by plain numbers stay proportional to the channels, and so go on counting. Of
    any other arithmetic, and of a comparison with a number, the result depends on how many channels there are: they
    have to stay. Two equal counts that are compared stay equal where their channels go together.

    Attributes:
        labels: of the channels, one for each.
        times: the number is `times` the number of channels; None if it is not proportional.
        run: the `_Follower` of the network.
    """

    labels: Tensor
    times: Fraction | None
    run: Any

    def __new__(cls, value: int, labels: Tensor, times: Fraction | None, run: Any) -> Count:
        count = super().__new__(cls, value)
        count.labels, count.times, count.run = labels, times, run
        return count

    def __reduce__(self) -> tuple:
        return int, (int(super().__int__()),)  # a copy is a plain number

    def _fix(self, how: str) -> None:
        if self.run.listens:
            with self.run.quiet():
                self.run.fix(
                    self.labels,
                    f"forward() computes with their number ({how})",
                    "write it as -1 or a share of it",
                )

    def _scaled(self, value: int, times: Fraction | None) -> Count:
        return Count(value, self.labels, times, self.run)

    def _with(self, other: Count, value: int, times: Fraction | None) -> Count:
        with self.run.quiet():
            return Count(value, torch.cat([self.labels, other.labels]), times, self.run)

    def __mul__(self, other: object) -> object:
        value = int.__mul__(self, other)
        if isinstance(other, Count):  # proportional to the product of two numbers
            return self._with(other, value, None)
        if not isinstance(value, int):
            self._fix("*")
            return value
        return self._scaled(value, self.times * other if self.times is not None and other else None)

    __rmul__ = __mul__

    def __floordiv__(self, other: object) -> object:
        value = int.__floordiv__(self, other)
        if isinstance(other, Count) or not isinstance(value, int):
            for count in (self, other):
                if isinstance(count, Count):
                    count._fix("//")
            return value
        exact = self.times is not None and value * other == int.__int__(self)
        return self._scaled(value, self.times / other if exact else None)

    def __mod__(self, other: object) -> object:
        """A number that divides them goes on doing so if the same places go from each share."""
        value = int.__mod__(self, other)
        if (
            isinstance(other, int)
            and not isinstance(other, Count)
            and value == 0
            and self._is_multiple(other)
        ):
            return value
        for count in (self, other):
            if isinstance(count, Count):
                count._fix("mod")
        return value

    def _is_multiple(self, parts: int) -> bool:
        """Tie the channels such that their number is always a multiple of this one, if they are counted once each."""
        if not self.run.listens:
            return True
        with self.run.quiet():
            if parts <= 0 or self.times != 1 or len(self.labels) != int.__int__(self):
                return False
            rows = self.labels.reshape(parts, -1)
            self.run.ties.tie(rows, rows[:1])
        return True

    def __add__(self, other: object) -> object:
        value = int.__add__(self, other)
        if not isinstance(value, int):
            self._fix("+")
            return value
        if not isinstance(other, Count) and other == 0:  # as sum() begins
            return self
        if not isinstance(other, Count):
            return self._scaled(value, None)
        return self._with(other, value, Fraction(1) if self.times == other.times == 1 else None)

    __radd__ = __add__

    def __eq__(self, other: object) -> bool:
        if self._is_foreign(other):
            return False
        equal = int.__eq__(self, other)
        self._compared(other, equal is True)
        return equal

    def __ne__(self, other: object) -> bool:
        if self._is_foreign(other):
            return True
        differs = int.__ne__(self, other)
        self._compared(other, differs is False)
        return differs

    __hash__ = int.__hash__

    def _is_foreign(self, other: object) -> bool:
        """Whether one of both is left from another run, as the key of a cache: what was made for it is made anew."""
        return (
            isinstance(other, Count) and other.run is not self.run and (other.run.listens or self.run.listens)
        )

    def _compared(self, other: object, equal: bool) -> None:
        if not self.run.listens or not isinstance(other, int):
            return
        if isinstance(other, Count):
            with self.run.quiet():
                if self.labels.equal(other.labels):
                    return
                if equal and self.times == other.times == 1:
                    self.run.ties.tie(self.labels, other.labels)
                    return
            other._fix("compared")
        self._fix("compared")


def _fixing(name: str) -> None:
    """Every other operation of ints gives a plain number, and the channels stay."""
    plain = getattr(int, name)

    def method(self: Count, *others: object) -> object:
        self._fix(name.strip("_"))
        for other in others:
            if isinstance(other, Count):
                other._fix(name.strip("_"))
        return plain(self, *others)

    setattr(Count, name, method)


for _name in (
    "sub",
    "rsub",
    "rmod",
    "truediv",
    "rtruediv",
    "rfloordiv",
    "pow",
    "rpow",
    "divmod",
    "rdivmod",
):
    _fixing(f"__{_name}__")
for _name in ("lt", "le", "gt", "ge", "neg", "abs", "float", "int", "round", "trunc", "floor", "ceil"):
    _fixing(f"__{_name}__")
for _name in ("str", "format"):  # the name of a layer or the key of a cache
    _fixing(f"__{_name}__")
for _name in ("and", "rand", "or", "ror", "xor", "rxor", "lshift", "rlshift", "rshift", "rrshift", "invert"):
    _fixing(f"__{_name}__")


def plain(number: int) -> int:
    """The number without its memory."""
    return int.__int__(number)
