"""Exercise checks, one module a chapter. A check prints one line, or raises NotYet with a hint."""

from collections.abc import Callable
from typing import Any


class NotYet(AssertionError):
    """The answer is not right yet; the message names the likely mistake."""


def expect(condition: object, hint: str) -> None:
    """Raise NotYet with `hint` unless `condition` holds.

    Raises:
        NotYet: the condition does not hold.
    """
    if not condition:
        raise NotYet(hint)


def call(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """Call a learner's function; what it raises becomes a NotYet that shows the call and the error.

    Raises:
        NotYet: the function is not written yet, raised an error, or returned nothing.
    """
    name = getattr(function, "__name__", "your function")
    try:
        result = function(*arguments, **keywords)
    except NotImplementedError as error:
        raise NotYet(
            f"{name} is not written yet: replace the line that raises NotImplementedError."
        ) from error
    except Exception as error:
        raise NotYet(f"{name} raised {type(error).__name__}: {error}") from error
    expect(result is not None, f"{name} returned None. Is a `return` missing?")
    return result


def passed(message: str) -> None:
    """Say that the exercise is right, in the one form that all chapters share."""
    print(f"Correct: {message}")
