"""Answers put together from parts, each done rightly or with a mistake; mistakes and pairs of them are named."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from course_lib.checks import Case, NotYet, expect

__all__ = ["RIGHT", "Part", "judge_ways", "number", "shown", "ways"]

RIGHT = ""
Part = Mapping[str, Any]
"""The ways to do one part of an answer: {the hint of a wrong way, or RIGHT: the way}."""


def ways(parts: Mapping[str, Part]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The right way and all with one or two mistakes: (the hint, the way of each part), fewest mistakes first.

    Example:
        >>> [hint for hint, _ in ways({"a": {"": 0, "one": 1}, "b": {"": 0, "ten": 10}})]
        ['', 'one', 'ten', 'one And: ten']
    """
    yield RIGHT, {name: part[RIGHT] for name, part in parts.items()}
    wrong = {name: [hint for hint in part if hint] for name, part in parts.items()}
    for count in (1, 2):
        for names in itertools.combinations(parts, count):
            for hints in itertools.product(*(wrong[name] for name in names)):
                chosen = dict(zip(names, hints, strict=True))
                yield (
                    " And: ".join(hints),
                    {name: part[chosen.get(name, RIGHT)] for name, part in parts.items()},
                )


def judge_ways(
    name: str,
    answers: Sequence[Any],
    cases: Sequence[Case],
    parts: Mapping[str, Part],
    compute: Callable[..., Any],
    alike: Callable[[Any, Any], bool] = np.array_equal,
) -> None:
    """Raise NotYet unless the answers are right, with the hint of the mistake or pair that explains all of them.

    Example:
        >>> judge_ways("double", [3], [{"x": 2}], {"by": {"": 2, "Times two.": 1.5}}, lambda way, x: way["by"] * x)
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: Times two.
    """
    every = ways(parts)
    _, right = next(every)
    wanted = [compute(right, **case) for case in cases]
    if all(map(alike, answers, wanted)):
        return
    for hint, way in every:
        with np.errstate(all="ignore"):
            if all(alike(answer, compute(way, **case)) for answer, case in zip(answers, cases, strict=True)):
                raise NotYet(hint)
    case, answer, want = next(
        row for row in zip(cases, answers, wanted, strict=True) if not alike(row[1], row[2])
    )
    arguments = ", ".join(f"{key}={shown(value)}" for key, value in case.items())
    raise NotYet(
        f"{name}({arguments}) gives {shown(answer)}; it should be {shown(want)}. Do this one by hand."
    )


def shown(value: Any) -> str:
    """Write a number, an array or a tensor short.

    Example:
        >>> shown(np.array([1, 2])), shown(0.1 + 0.2)
        ('[1, 2]', '0.3')
    """
    value = value.tolist() if isinstance(value, np.ndarray | Tensor) else value
    return f"{value:.6g}" if isinstance(value, float) else f"{value}"


def number(value: Any, what: str) -> float:
    """Convert a number of Python, NumPy or PyTorch to a float.

    Raises:
        NotYet: it is no number, or not finite.

    Example:
        >>> number(np.int64(3), "The scale")
        3.0
    """
    try:
        found = float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise NotYet(f"{what} is {value!r:.60} ({type(value).__name__}); it must be a number.") from error
    expect(np.isfinite(found), f"{what} is {found}; it must be a finite number. Is something divided by 0?")
    return found
