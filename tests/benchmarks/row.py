"""One line of the table of benchmarks."""

from collections.abc import Iterable
from typing import NamedTuple


class Row(NamedTuple):
    what: str
    ours: str
    peer: str
    ratio: str
    goal: str
    reached: str
    spread: str = ""  # of the ratio, from the smallest to the largest pair of runs


def spread(ratios: Iterable[float], form: str = ".2f") -> str:
    """From the smallest to the largest, as a row tells it."""
    ratios = list(ratios)
    return f"{min(ratios):{form}} to {max(ratios):{form}}"
