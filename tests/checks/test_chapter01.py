"""Each check refuses typical wrong answers, each with the hint that names the mistake."""

import pytest
import torch
import torch.nn.functional as F

from course_lib.checks import NotYet, chapter01
from tests.checks import solutions

RIGHT = solutions.of("01")
distillation_loss, choose = RIGHT["distillation-loss"], RIGHT["choose-settings"]


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda z, t: F.softmax(z, 1), "whatever T is"),
        (lambda z, t: F.softmax(z * t, 1), "multiplied by T"),
        (lambda z, t: F.softmax(z, 1) / t, "after the softmax"),
        (lambda z, t: F.softmax(z / t, 0), "over the classes"),
        (lambda z, t: F.log_softmax(z / t, 1), "logarithms"),
        (lambda z, t: (z / t).exp() / (z / t).exp().sum(1, keepdim=True), "overflows"),
        (lambda z, t: F.softmax(z / t, 1)[0], "shape"),
        (lambda z, t: [0.1, 0.9], "return a tensor"),
        (lambda z, t: F.softmax(z / t + torch.arange(3), 1), "Not right yet"),
        (lambda z, t: None, "returned None"),
        (lambda z, t: z / 0 @ z, "raised RuntimeError"),
    ],
)
def test_soften_names_the_mistake(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter01.check_soften(wrong)


def _soft(student, teacher, temperature, reduction="batchmean"):
    return F.kl_div(
        F.log_softmax(student / temperature, 1), F.softmax(teacher / temperature, 1), reduction=reduction
    )


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (
            lambda s, z, y, t, a: a * F.cross_entropy(s, y) + (1 - a) * _soft(s, z, t),
            r"factor T\^2 is missing",
        ),
        (
            lambda s, z, y, t, a: a * F.cross_entropy(s, y) + (1 - a) * t * _soft(s, z, t),
            r"T instead of T\^2",
        ),
        (
            lambda s, z, y, t, a: a * F.cross_entropy(s, y) + (1 - a) * t**2 * _soft(s, z, t, "mean"),
            "divides by the classes",
        ),
        (
            lambda s, z, y, t, a: a * F.cross_entropy(s, y) + (1 - a) * t**2 * _soft(s, z, t, "sum"),
            "adds up the batch",
        ),
        (
            lambda s, z, y, t, a: (
                a * F.cross_entropy(s, y)
                + (1 - a) * F.kl_div(F.softmax(s / t, 1), F.softmax(z / t, 1), reduction="batchmean")
            ),
            r"and T\^2 is missing",
        ),
        (
            lambda s, z, y, t, a: (
                a * F.cross_entropy(s, y)
                + (1 - a) * t**2 * F.kl_div(F.softmax(s / t, 1), F.softmax(z / t, 1), reduction="batchmean")
            ),
            "It takes logarithms",
        ),
        (lambda s, z, y, t, a: distillation_loss(s, z, y, t, 1 - a), "alpha belongs to the labels"),
        (
            lambda s, z, y, t, a: a * F.cross_entropy(s, y) + (1 - a) * t**2 * _soft(z, s, t),
            "Teacher and student are the wrong way round",
        ),
        (lambda s, z, y, t, a: a * F.cross_entropy(s / t, y) + (1 - a) * t**2 * _soft(s, z, t), "at T = 1"),
        (
            lambda s, z, y, t, a: a * F.cross_entropy(s, y) + (1 - a) * t**2 * _soft(s, z, 1),
            "not divided by T",
        ),
        (lambda s, z, y, t, a: F.cross_entropy(s, y, reduction="none"), "one number"),
        (lambda s, z, y, t, a: F.cross_entropy(s, y), "Not right yet"),
    ],
)
def test_distillation_loss_names_the_mistake(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter01.check_distillation_loss(wrong)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda z, t: torch.stack([F.softmax(k / t, 1) for k in z]).mean(0), "arithmetic mean"),
        (
            lambda z, t: torch.stack([F.log_softmax(k / t, 1) for k in z]).mean(0).exp(),
            "no longer sum to one",
        ),
        (lambda z, t: F.softmax(torch.stack(list(z)).sum(0) / t, 1), "take the M-th root"),
        (lambda z, t: F.softmax(torch.stack(list(z)).mean(0), 1), "temperature is not used"),
        (lambda z, t: F.softmax(z[0] / t, 1), "Not right yet"),
    ],
)
def test_geometric_ensemble_names_the_mistake(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter01.check_geometric_ensemble(wrong)


def _by(column, reduce):
    return lambda sweep: getattr(sweep.groupby(["temperature", "alpha"])[column], reduce)().idxmax()


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (_by("test", "mean"), "Test data never chooses"),
        (_by("validation", "max"), "best single run"),
        (lambda sweep: choose(sweep)[::-1], "Temperature first"),
        (lambda sweep: choose(sweep)[0], "two numbers"),
        (lambda sweep: sweep.groupby(["temperature", "alpha"])["validation"].mean().idxmin(), "highest mean"),
    ],
)
def test_choose_settings_names_the_mistake(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter01.check_choose_settings(wrong)
