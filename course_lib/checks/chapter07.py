"""Checks of the exercises of chapter 07, putting it together."""

import math
from collections.abc import Callable, Iterable, Mapping

from course_lib.checks import call, exercise, expect, judge, passed

_Points = Mapping[str, tuple[float, float]]
"""{network: (cost, accuracy)}."""


@exercise(
    again="Parameters that are kept, times bits, divided by 8 bits a byte; then add the fixed bytes.",
    read="Shares multiply, and what is fixed stays",
)
def check_file_bytes(file_bytes: Callable[[int, float, int, int], int]) -> None:
    """Check a learner's size of a file, `file_bytes(parameters, kept, bits, fixed) -> int`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> check_file_bytes(lambda parameters, kept, bits, fixed: round(parameters * kept * bits) + fixed)
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: That many bits, not bytes. A byte has 8 bits.
    """
    cases = [
        {"parameters": 1000, "kept": 0.25, "bits": 8, "fixed": 100},
        {"parameters": 1000, "kept": 0.75, "bits": 32, "fixed": 40},
        {"parameters": 4000, "kept": 0.125, "bits": 4, "fixed": 0},
    ]

    def right(parameters: int, kept: float, bits: int, fixed: int) -> int:
        return round(parameters * kept * bits / 8) + fixed

    judge(
        file_bytes,
        cases,
        right,
        [
            (
                lambda parameters, kept, bits, fixed: right(parameters, kept, bits, 0),
                "What is fixed is missing.",
            ),
            (
                lambda parameters, kept, bits, fixed: round((parameters * 4 + fixed) * kept * bits / 32),
                "What is fixed does not shrink: neither the cut nor the bits reach it. Add it at the end.",
            ),
            (
                lambda parameters, kept, bits, fixed: right(parameters, 1 - kept, bits, fixed),
                "`kept` is the share that stays, not the share that goes.",
            ),
            (
                lambda parameters, kept, bits, fixed: round(parameters * kept * bits) + fixed,
                "That many bits, not bytes. A byte has 8 bits.",
            ),
            (
                lambda parameters, kept, bits, fixed: round(parameters * kept * bits / 32) + fixed,
                "A parameter in float32 takes 4 bytes. bits / 32 is a share of those, not a number of bytes.",
            ),
            (
                lambda parameters, kept, bits, fixed: round(parameters * bits / 8) + fixed,
                "All parameters are counted, also those that are gone.",
            ),
        ],
    )
    passed("shares multiply, and what is fixed stays.")


@exercise(
    again="Keep p if no other q has q[0] <= p[0] and q[1] >= p[1]; a point does not beat itself.",
    read="Accuracy against cost",
)
def check_front(front: Callable[[_Points], Iterable[str]]) -> None:
    """Check a learner's Pareto front, `front(points) -> names`, with `points` {network: (cost, accuracy)}.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> check_front(lambda points: max(points))
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: Return the names of the networks that are left, such as a list.
    """
    cases: list[tuple[_Points, set[str]]] = [
        ({"a": (1, 0.5), "b": (2, 0.7), "c": (3, 0.6), "d": (4, 0.9), "e": (5, 0.2)}, {"a", "b", "d"}),
        ({"a": (5, 0.8), "b": (5, 0.7), "c": (6, 0.8), "d": (1, 0.1)}, {"a", "d"}),
    ]
    for points, right in cases:
        answer = call(front, dict(points))
        expect(
            isinstance(answer, Iterable) and not isinstance(answer, str),
            "Return the names of the networks that are left, such as a list.",
        )
        found = set(answer)
        unknown = found - set(points)
        expect(
            not unknown, f"{sorted(map(str, unknown))} are no networks; return names, the keys of `points`."
        )
        mistakes = {
            "Dearer is not better here: a network is beaten by one that costs no more and is right no less often.": (
                _left(points, lambda p, q: q[0] >= p[0] and q[1] >= p[1] and p != q)
            ),
            "Equal in one figure and worse in the other is beaten too: ask for 'no better' in both.": (
                _left(points, lambda p, q: q[0] < p[0] and q[1] > p[1])
            ),
            "Those are the networks that are beaten. Return the others.": set(points) - right,
            "The most accurate network alone is no front: a cheaper one that nothing beats belongs to it.": {
                max(points, key=lambda name: points[name][1])
            },
        }
        if found != right:
            for hint, wrong in mistakes.items():
                expect(found != wrong, hint)
            shown = ", ".join(
                f"{name}: {cost:g}, {accuracy:.0%}" for name, (cost, accuracy) in points.items()
            )
            expect(False, f"Of {shown} you keep {sorted(found)}; it should be {sorted(right)}.")
    passed("a network stays if no other is as cheap and as good, and better in one of the two.")


def _left(points: _Points, beaten: Callable[[tuple[float, float], tuple[float, float]], bool]) -> set[str]:
    """List the points that none of the others beats."""
    return {
        name
        for name, p in points.items()
        if not any(beaten(p, q) for other, q in points.items() if other != name)
    }


@exercise(
    again="Take three changes against `base`: of both, of the first, of the second; the last two come off.",
    read="Where the steps help or hurt each other",
)
def check_interaction(interaction: Callable[[float, float, float, float], float]) -> None:
    """Check a learner's interaction of two steps, `interaction(base, first, second, both) -> float`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> check_interaction(lambda base, first, second, both: (both - base) - (second - base))
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: What the first changes alone is not taken off.
    """
    cases = [(0.95, 0.93, 0.94, 0.90), (0.95, 0.60, 0.94, 0.93), (0.90, 0.85, 0.85, 0.80)]
    for base, first, second, both in cases:
        answer = float(call(interaction, base, first, second, both))
        right = (both - base) - ((first - base) + (second - base))
        mistakes = {
            "The sign is turned round: it is negative where the two together lose more than their losses add up to.": (
                -right
            ),
            "That is the change of the two together. Take off what each changes alone.": both - base,
            "What the first changes alone is not taken off.": (both - base) - (second - base),
            "What the second changes alone is not taken off.": (both - base) - (first - base),
            "Changes are differences from `base`; without it a loss is counted twice.": both - first - second,
            "Losses in points add up here. Ratios are another question.": both / base
            - first * second / base**2,
        }
        if not math.isclose(answer, right, abs_tol=1e-9):
            for hint, wrong in mistakes.items():
                expect(not math.isclose(answer, wrong, abs_tol=1e-9), hint)
            expect(
                False,
                f"interaction({base}, {first}, {second}, {both}) gives {answer:g}; it should be {right:g}.",
            )
    passed(
        "0 where losses add up, negative where two steps hurt each other, positive where one mends the other."
    )
