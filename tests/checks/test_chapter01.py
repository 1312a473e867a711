"""Each check refuses typical wrong answers, each with the hint that names the mistake."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_lib import data
from course_lib.checks import NotYet, attempts, chapter01


@pytest.fixture(autouse=True)
def _nothing_tried(monkeypatch):
    monkeypatch.setattr(attempts, "_here", {})


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


def _difference(student, teacher, temperature):
    return F.softmax(student / temperature, 1) - F.softmax(teacher / temperature, 1)


def _by_autograd(student, teacher, temperature, reduction="batchmean", power=2):
    """What a learner's own loss, with its mistakes, has as gradient."""
    with torch.enable_grad():
        student = student.clone().requires_grad_()
        loss = F.kl_div(
            F.log_softmax(student / temperature, 1), F.softmax(teacher / temperature, 1), reduction=reduction
        )
        (temperature**power * loss).backward()
    return student.grad


def loss_gradient(student, teacher, temperature):
    return temperature * _difference(student, teacher, temperature) / len(student)


def test_the_gradient_of_the_loss_is_accepted(capsys):
    chapter01.check_loss_gradient(loss_gradient)
    chapter01.check_loss_gradient(_by_autograd)
    assert capsys.readouterr().out.startswith("Correct: your gradient")


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda s, z, t: _by_autograd(s, z, t, power=0), r"^The factor T\^2 is missing"),
        (lambda s, z, t: _by_autograd(s, z, t, power=1), "^The factor is 1 instead of T"),
        (lambda s, z, t: t * loss_gradient(s, z, t), r"^The factor is T\^2 instead of T: .*1 / T\.$"),
        (lambda s, z, t: _by_autograd(s, z, t, "sum"), r"^The loss is the mean over the batch[^.]*\.$"),
        (
            lambda s, z, t: _by_autograd(s, z, t, "mean"),
            r"^The mean runs over the classes too[^.]*\. Divide[^.]*\.$",
        ),
        (lambda s, z, t: loss_gradient(s, z, t) * 7 / 5, "^Divided by the number of classes"),
        (lambda s, z, t: -loss_gradient(s, z, t), "^The sign is wrong"),
        (lambda s, z, t: loss_gradient(z, s, t), "^The sign is wrong"),
        (
            lambda s, z, t: t * (F.log_softmax(s / t, 1) - F.log_softmax(z / t, 1)) / 7,
            "difference of log-prob",
        ),
        (lambda s, z, t: t * (F.softmax(s, 1) - F.softmax(z / t, 1)) / 7, "^The student is not softened"),
        (lambda s, z, t: t * (F.softmax(s / t, 1) - F.softmax(z, 1)) / 7, "^The teacher is not softened"),
        (lambda s, z, t: t * (F.softmax(s, 1) - F.softmax(z, 1)) / 7, "^Neither is softened"),
        (lambda s, z, t: t * (F.softmax(s / t, 0) - F.softmax(z / t, 0)) / 7, "over the images"),
        # Pairs, and three at once.
        (
            lambda s, z, t: _by_autograd(s, z, t, "mean", 0),
            r"^The factor T\^2 is missing.* And: The mean runs over the classes too",
        ),
        (lambda s, z, t: -_by_autograd(s, z, t, "sum"), "mean over the batch.* And: The sign is wrong"),
        (
            lambda s, z, t: (F.softmax(z, 1) - F.softmax(s, 1)) / t / 7,
            r"^Neither is softened.* And: The factor T\^2 is missing.* And: The sign is wrong",
        ),
        (lambda s, z, t: F.cross_entropy(s, z).backward(), "raised RuntimeError"),
        (lambda s, z, t: loss_gradient(s, z, t).mean(0), "shape"),
        (lambda s, z, t: loss_gradient(s, z, t + 1), "Not right yet"),
    ],
)
def test_loss_gradient_names_the_mistake_and_mistakes_that_come_together(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter01.check_loss_gradient(wrong)


def test_the_gradient_of_the_other_divergence_is_known():
    def reverse(student, teacher, temperature):
        with torch.enable_grad():
            student = student.clone().requires_grad_()
            x, y = F.log_softmax(student / temperature, 1), F.log_softmax(teacher / temperature, 1)
            (temperature**2 * F.kl_div(y, x, reduction="batchmean", log_target=True)).backward()
        return student.grad

    with pytest.raises(NotYet, match=r"^Teacher and student are the wrong way round"):
        chapter01.check_loss_gradient(reverse)


def test_no_two_mistakes_give_the_same_gradient():
    student, teacher = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(3)) * 2
    right, wrong = chapter01._gradients(student, teacher, 3.0)
    seen = torch.stack([right, *wrong.values()]).flatten(1)
    close = torch.cdist(seen, seen, p=math.inf) < 1e-4
    assert len(wrong) > 200
    assert close.sum() == len(seen)


# Choosing settings


def choose(frame, settings):
    means = frame.groupby(settings, dropna=False)["validation"].transform("mean")
    return frame.loc[means.idxmax(), settings].to_dict()


def _by(column, how, dropna=False, sign=1):
    def wrong(frame, settings):
        scores = sign * frame.groupby(settings, dropna=dropna)[column].transform(how)
        return frame.loc[scores.idxmax(), settings].to_dict()

    return wrong


def _one_by_one(frame, settings):
    return {name: choose(frame, [name])[name] for name in settings}


def test_the_best_mean_on_validation_is_accepted_however_it_is_written(capsys):
    def by_label(frame, settings):
        best = frame.groupby(settings, dropna=False)["validation"].mean().idxmax()
        return dict(zip(settings, best if len(settings) > 1 else [best], strict=True))

    def by_hand(frame, settings):
        arms = {}
        for row in frame.to_dict("records"):
            arms.setdefault(tuple(row[name] for name in settings), []).append(row["validation"])
        best = max(arms, key=lambda arm: sum(arms[arm]) / len(arms[arm]))
        return dict(zip(settings, best, strict=True))

    for right in (choose, by_label, by_hand):
        chapter01.check_choose_settings(right)
    assert capsys.readouterr().out.count("Correct: ") == 3


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (_by("test", "mean"), "Test data never chooses"),
        (_by("validation", "max"), "best single run"),
        (_by("validation", "sum"), "Take the mean"),
        (_by("validation", "mean", sign=-1), "the worst"),
        (_by("validation", "mean", dropna=True), "dropna=False"),
        (_one_by_one, "chosen on its own"),
        (lambda frame, settings: tuple(choose(frame, settings).values()), "return a dict"),
        (lambda frame, settings: choose(frame, ["rate", "dropout"]), "raised KeyError"),
        (lambda frame, settings: choose(frame, settings[:1]), "with these keys"),
        (lambda frame, settings: dict.fromkeys(settings, 0.03), "does not have the highest mean"),
    ],
)
def test_choose_settings_names_the_mistake(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter01.check_choose_settings(wrong)


# A student to be built


def small(*layers):
    return nn.Sequential(nn.Flatten(), *layers)


def reader(value=1.0):
    """A student whose answer is the first of the ten first pixels that is white."""
    student = small(nn.Linear(256, 10))
    nn.init.zeros_(student[1].bias)
    student[1].weight.data = value * torch.eye(10, 256)
    return student


@pytest.fixture
def right(monkeypatch):
    """Sets the share of validation images on which the reader is right."""

    def change(share):
        pixels = torch.arange(1000) % 10
        images = F.pad(255 * F.one_hot(pixels, 10), (0, 246)).to(torch.uint8).reshape(-1, 1, 16, 16)
        labels = (pixels + (torch.arange(1000) >= round(share * 1000))) % 10
        validation = data.Split(images, labels)
        train = data.Split(torch.zeros(10_000, 1, 16, 16, dtype=torch.uint8), torch.zeros(10_000).long())
        dataset = data.Dataset("pixels", train, validation, validation, tuple("BDGOQRSE58"))
        monkeypatch.setattr(data, "load_dataset", lambda name: dataset)

    return change


def test_a_small_student_that_is_right_often_enough_is_accepted(right, capsys):
    right(0.80)
    chapter01.check_build_student(reader())
    assert capsys.readouterr().out.startswith("Correct: your student has at most 8,000 parameters")


def test_a_function_that_builds_gets_the_teacher_and_all_images_and_no_label(right, capsys):
    right(0.9)
    asked = []

    def build(teacher, images):
        asked.append((teacher.training, tuple(images.shape)))
        return reader()

    chapter01.check_build_student(build)
    assert asked == [(False, (10_000, 1, 16, 16))]
    assert capsys.readouterr().out.startswith("Correct: ")


@pytest.mark.parametrize(
    ("share", "value", "hint"),
    [
        (0.78, 1.0, r"78\.0% of the validation images, 2\.0% short of 80%.*on the way"),
        (0.6, 1.0, r"60\.0%.*1,000 images"),
        (0.1, 1.0, "guessing"),
        (1.0, float("nan"), "diverged"),
    ],
)
def test_a_student_that_is_right_too_rarely_hears_by_how_much(right, share, value, hint):
    right(share)
    with pytest.raises(NotYet, match=hint):
        chapter01.check_build_student(reader(value))


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (
            lambda: small(nn.Linear(256, 40), nn.Linear(40, 10)),
            "10,690 parameters, 2,690 more than the 8,000",
        ),
        (
            lambda: nn.Sequential(
                nn.Conv2d(1, 28, 7, padding=3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(28, 10)
            ),
            r"^The student has 351,512 MACs, 101,512 more than the 250,000",
        ),
        (
            lambda: nn.Sequential(
                nn.Conv2d(1, 200, 7, padding=3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(200, 10)
            ),
            "parameters, .* MACs, ",
        ),
        (lambda: small(nn.Linear(256, 9)), r"shape \[2000, 9\] for 2,000 images"),
        (lambda: small(nn.Linear(100, 10)), "cannot answer.*RuntimeError"),
        (lambda: "network", "The student is a str"),
        (lambda: lambda teacher, images: teacher(images), "raised"),
        (lambda: lambda teacher, images: 0.9, "A float was returned"),
    ],
)
def test_build_student_says_what_fails_and_by_how_much(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter01.check_build_student(wrong())
