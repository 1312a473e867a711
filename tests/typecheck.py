"""The type checker of the suite: beartype, which takes an int where a float is asked for, as Python itself does."""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(thing: Callable[..., Any]) -> Callable[..., Any]:
    """Check the calls of a function or the fields of a class, but not those of a function inside another.

    Such a one is made anew each time the outer one runs, and to prepare its check takes milliseconds: most of what the
    suite did when networks were followed.
    """
    return thing if "<locals>" in thing.__qualname__ else _beartype(thing)
