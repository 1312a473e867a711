"""Exercise checks, one module a chapter. A check prints one line, or raises NotYet with a hint.

The second time in a row that an exercise fails, the hint is followed by a stronger one, the third time also by what to
read.
"""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any

from course_lib.checks import attempts

__all__ = ["Case", "NotWritten", "NotYet", "call", "exercise", "expect", "judge", "passed", "written"]

Case = Mapping[str, Any]
"""The keyword arguments of one call of a learner's function."""


class NotYet(AssertionError):
    """The answer is not right yet; the message names the likely mistake."""


class NotWritten(NotYet):
    """There is no answer yet; that is no failed try."""


def exercise(*, again: str, read: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a check remember how often its exercise has failed in a row, and say more each time.

    Args:
        again: the stronger hint, from the second failure on: the first step, or the shape of the answer.
        read: the heading in the chapter to read again, named from the third failure on.

    Returns:
        A decorator of `check_NAME` in a module `chapterNN`.

    Example:
        >>> @exercise(again="Add 2 and 2.", read="Sums")
        ... def check_sum(answer):
        ...     expect(answer == 4, "The sum is wrong.")
        >>> check_sum(5)
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: The sum is wrong.
    """

    def decorate(check: Callable[..., None]) -> Callable[..., None]:
        chapter = check.__module__.rpartition("chapter")[2]
        name = check.__name__.removeprefix("check_").replace("_", "-")

        @functools.wraps(check)
        def checked(*answers: Any, **named: Any) -> None:
            try:
                check(*answers, **named)
            except NotYet as hint:
                failures = attempts.add(chapter, name, passed=False, tried=not isinstance(hint, NotWritten))
                more = [f"Once more: {again}"] * (failures > 1) + [f'Read "{read}" again.'] * (failures > 2)
                hint.args = ("\n".join([*map(str, hint.args), *more]),)
                raise
            attempts.add(chapter, name, passed=True)

        checked.read = read  # a test looks whether the chapter has this heading
        return checked

    return decorate


def expect(condition: object, hint: str) -> None:
    """Raise NotYet with `hint` unless `condition` holds.

    Raises:
        NotYet: the condition does not hold.

    Example:
        >>> expect(2 + 2 == 5, "The sum is wrong.")
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: The sum is wrong.
    """
    if not condition:
        raise NotYet(hint)


def call(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """Call a learner's function; what it raises becomes a NotYet that shows the call and the error.

    Raises:
        NotWritten: the function is not written yet.
        NotYet: it raised an error, or returned None.

    Example:
        >>> call(int, "three")
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: int raised ValueError: invalid literal for int() with base 10: 'three'
    """
    name = getattr(function, "__name__", "your function")
    try:
        result = function(*arguments, **keywords)
    except NotImplementedError as error:  # what an exercise raises in the student's copy until it is written
        raise NotWritten(
            f"{name} is not written yet: replace the line that raises NotImplementedError."
        ) from error
    except NotYet:  # what a check passes to the answer may refuse how it is used
        raise
    except Exception as error:
        raise NotYet(f"{name} raised {type(error).__name__}: {error}") from error
    expect(result is not None, f"{name} returned None. Is a `return` missing?")
    return result


def passed(message: str) -> None:
    """Print that the exercise is right, in the one form that all chapters share.

    Example:
        >>> passed("the sum is 4.")
        Correct: the sum is 4.
    """
    print(f"Correct: {message}")


def judge(
    function: Callable[..., int],
    cases: Sequence[Case],
    right: Callable[..., int],
    mistakes: Sequence[tuple[Callable[..., int], str]],
) -> None:
    """Raise NotYet unless `function` counts as `right` does in all cases.

    The hint is that of the mistake with which it agrees in all cases. If there is none, since mistakes come together,
    it is the first case that is wrong, with the hint of the mistake that explains it.

    Args:
        function: a learner's, which returns a whole number.
        cases: what to call it with.
        right: the right answer to each case.
        mistakes: what a typical mistake answers, and the hint that names it.

    Raises:
        NotYet: an answer is wrong, or not a whole number.

    Example:
        >>> mistakes = [(lambda side: 4 * side, "That is the perimeter.")]
        >>> judge(lambda side: side * 4, [{"side": 3}], lambda side: side**2, mistakes)
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: That is the perimeter.
    """
    name = getattr(function, "__name__", "your function")
    answers = [_whole(call(function, **copy.deepcopy(dict(case))), name) for case in cases]
    wanted = [right(**case) for case in cases]
    if answers == wanted:
        return
    for mistake, hint in mistakes:
        if answers == [mistake(**case) for case in cases]:
            raise NotYet(hint)
    case, answer, want = next(row for row in zip(cases, answers, wanted, strict=True) if row[1] != row[2])
    explained = (hint for mistake, hint in mistakes if mistake(**case) == answer)
    arguments = ", ".join(f"{key}={value!r}" for key, value in case.items())
    raise NotYet(
        f"{name}({arguments}) returns {answer:,}; it should be {want:,}. "
        + next(explained, "Do this one by hand.")
    )


def _whole(answer: object, name: str) -> int:
    if hasattr(answer, "item") and getattr(answer, "ndim", 0) == 0:  # a number of NumPy or PyTorch
        answer = answer.item()
    hint = f"{name} returns {answer!r:.60} ({type(answer).__name__}); a count is a whole number (int)."
    if isinstance(answer, float):
        hint += " Divide with //."
    expect(isinstance(answer, Integral) and not isinstance(answer, bool), hint)
    return int(answer)


def written(answer: Callable[..., Any], otherwise: Callable[..., Any]) -> Callable[..., Any]:
    """Choose a learner's function for the figure behind an exercise, or another until it is written.

    Args:
        answer: raises NotImplementedError in the student's copy until it is written.
        otherwise: does the same.

    Example:
        >>> written(len, otherwise=max).__name__
        'len'
    """
    code = getattr(answer, "__code__", None)
    if code is None or "NotImplementedError" not in code.co_names:
        return answer
    print(f"{answer.__name__} is not written yet; what you see is made without it.")
    return otherwise
