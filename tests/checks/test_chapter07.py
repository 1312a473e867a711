"""Each check refuses typical wrong answers, each with the hint that names the mistake."""

import pytest

from course_lib.checks import NotYet, chapter07
from tests.checks import solutions

RIGHT = solutions.of("07")
size, best, beyond_the_sum = RIGHT["file-bytes"], RIGHT["front"], RIGHT["interaction"]


def test_a_front_may_be_a_set():
    chapter07.check_front(lambda points: set(best(points)))


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda parameters, kept, bits, fixed: size(parameters, kept, bits, 0), "fixed is missing"),
        (
            lambda parameters, kept, bits, fixed: round((4 * parameters + fixed) * kept * bits / 32),
            "does not shrink",
        ),
        (
            lambda parameters, kept, bits, fixed: size(parameters, 1 - kept, bits, fixed),
            "the share that stays",
        ),
        (lambda parameters, kept, bits, fixed: int(parameters * kept * bits) + fixed, "bits, not bytes"),
        (lambda parameters, kept, bits, fixed: round(parameters * kept * bits / 32) + fixed, "takes 4 bytes"),
        (lambda parameters, kept, bits, fixed: size(parameters, 1, bits, fixed), "also those that are gone"),
        (lambda parameters, kept, bits, fixed: parameters * kept * bits / 8 + fixed, "a whole number"),
        (lambda parameters, kept, bits, fixed: 1, "it should be 350"),
        (lambda parameters, kept, bits, fixed: None, "returned None"),
    ],
)
def test_file_bytes_names_the_mistake(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter07.check_file_bytes(wrong)


def not_beaten_by(beaten):
    def front(points):
        return [
            name
            for name, p in points.items()
            if not any(beaten(p, q) for n, q in points.items() if n != name)
        ]

    return front


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (not_beaten_by(lambda p, q: q[0] >= p[0] and q[1] >= p[1]), "Dearer is not better"),
        (not_beaten_by(lambda p, q: q[0] < p[0] and q[1] > p[1]), "Equal in one figure"),
        (lambda points: set(points) - set(best(points)), "that are beaten"),
        (lambda points: [max(points, key=lambda name: points[name][1])], "alone is no front"),
        (lambda points: list(points), "you keep"),
        (lambda points: list(points.values()), "return names"),
        (lambda points: "abd", "such as a list"),
        (lambda points: 3, "such as a list"),
        (lambda points: None, "returned None"),
    ],
)
def test_front_names_the_mistake(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter07.check_front(wrong)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda base, first, second, both: -beyond_the_sum(base, first, second, both), "turned round"),
        (lambda base, first, second, both: both - base, "the two together"),
        (lambda base, first, second, both: both - second, "the first changes alone"),
        (lambda base, first, second, both: both - first, "the second changes alone"),
        (lambda base, first, second, both: both - first - second, "differences from `base`"),
        (lambda base, first, second, both: both / base - first * second / base**2, "another question"),
        (lambda base, first, second, both: 7, "it should be -0.02"),
        (lambda base, first, second, both: None, "returned None"),
    ],
)
def test_interaction_names_the_mistake(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter07.check_interaction(wrong)
