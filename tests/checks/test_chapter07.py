"""Each check refuses typical wrong answers, each with the hint that names the mistake."""

import pytest

from course_lib.checks import NotYet, chapter07
from tests.checks import solutions

RIGHT = solutions.of("07")
size, best = RIGHT["file-bytes"], RIGHT["front"]


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


GOOD = {"rate": 0.03, "batch_size": 128, "temperature": 4.0, "alpha": 0.5}


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda: None, "returned None"),
        (lambda: 0.03, "return a dict"),
        (lambda: {"rate": 0.03}, "missing: alpha, batch_size, temperature"),
        (lambda: GOOD | {"epochs": 5}, "Unknown settings: epochs"),
        (lambda: GOOD | {"rate": "high"}, "rate is 'high'; it must be a number"),
        (lambda: GOOD | {"alpha": float("nan")}, "alpha is nan; it must be a number"),
        (lambda: GOOD | {"alpha": 2}, "between 0 and 1"),
        (lambda: GOOD | {"rate": 0}, "nothing would be learned"),
        (lambda: GOOD | {"batch_size": 50.5}, "a whole number from 16"),
    ],
)
def test_settings_that_are_none_are_refused_plainly(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter07.check_my_settings(wrong)


@pytest.mark.parametrize(
    ("settings", "reached", "hint"),
    [
        (GOOD | {"batch_size": 512}, 0.9, "few updates"),
        (GOOD | {"rate": 0.1}, 0.9, "undo what they know"),
        (GOOD | {"batch_size": 32}, 0.9, "one setting at a time"),
        (GOOD | {"rate": 3.0}, 0.2, "come apart"),
    ],
)
def test_settings_that_reach_too_little_get_a_hint_that_fits(settings, reached, hint, monkeypatch):
    monkeypatch.setattr(chapter07, "one_epoch", lambda settings: reached)
    with pytest.raises(NotYet, match=hint):
        chapter07.check_my_settings(lambda: settings)


def test_a_training_that_diverges_reaches_nothing():
    assert chapter07.one_epoch(GOOD | {"rate": 10, "batch_size": 1024}) < 0.5
