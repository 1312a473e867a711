"""One line of the printed table."""

from typing import NamedTuple


class Row(NamedTuple):
    what: str
    ours: str
    peer: str
    ratio: str
    goal: str
    reached: str
