"""Checks of the exercises of chapter 01, knowledge distillation."""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import checkpoints, cost, data, training
from course_lib.checks import NotYet, call, exercise, expect, passed


@exercise(
    again="First divide the logits by T. Then let each row become positive numbers that sum to one, and think of what "
    "exp does to a row when its largest number is subtracted first.",
    read="The idea by hand",
)
def check_soften(soften: Callable[[Tensor, float], Tensor]) -> None:
    """Check a learner's softmax with temperature, `soften(logits [N, K], temperature) -> [N, K]`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> check_soften(lambda logits, temperature: logits.softmax(dim=1))
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: It is the plain softmax, whatever T is. Divide the logits by T first.
    """
    logits = torch.tensor([[6.0, 3.0, -3.0], [0.5, 0.0, 2.0]])
    answer = _same_shape(call(soften, logits.clone(), 4.0), logits)
    mistakes = {
        "It is the plain softmax, whatever T is. Divide the logits by T first.": F.softmax(logits, 1),
        "The logits were multiplied by T. Dividing is what softens.": F.softmax(logits * 4, 1),
        "The probabilities were divided by T after the softmax. Divide the logits, before it.": F.softmax(
            logits, 1
        )
        / 4,
        "The sum runs over the images. It must run over the classes: dim=1.": F.softmax(logits / 4, 0),
        "These are logarithms of the probabilities. Return the probabilities.": F.log_softmax(logits / 4, 1),
    }
    _compare(answer, F.softmax(logits / 4, 1), mistakes)
    large = call(soften, torch.tensor([[1000.0, 0.0]]), 1.0)
    expect(
        torch.isfinite(large).all(),
        "With a logit of 1000 the result is not finite: exp(1000) overflows. Subtract the largest logit of each row "
        "first; it changes nothing else.",
    )
    passed("your soften divides the logits by T, sums over the classes, and survives large logits.")


@exercise(
    again="Begin with one image and no T^2: what is the derivative of -sum_i y_i log x_i with respect to one logit, "
    "where x = softmax(student / T)? Then let T^2 and the mean over the images act on it.",
    read="Why $T^2$",
)
def check_loss_gradient(gradient: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """Check a learner's gradient of the distillation loss, `gradient(student_logits, teacher_logits, T) -> [N, K]`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake, or two or three that come together.

    Example:
        >>> check_loss_gradient(lambda student, teacher, T: (F.softmax(student / T, 1) - F.softmax(teacher / T, 1)) / 7)
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: The factor is 1 instead of T: KL at T has the gradient (x - y) / T, times T^2.
    """
    generator = torch.Generator().manual_seed(3)
    student, teacher = torch.randn(2, 7, 5, generator=generator) * 2
    temperature = 3.0
    with torch.no_grad():  # by hand: autograd finds nothing to differentiate here
        answer = _same_shape(call(gradient, student.clone(), teacher.clone(), temperature), student)
    _compare(answer, *_gradients(student, teacher, temperature))
    passed("your gradient is T times the difference of the softened probabilities, mean over the batch.")


def _gradients(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, dict[str, Tensor]]:
    """The right gradient, and what each mistake and each combination of mistakes gives; the fewest mistakes first."""
    x, y = F.softmax(student / temperature, 1), F.softmax(teacher / temperature, 1)
    divergence = (x * (x / y).log()).sum(1, keepdim=True)
    images, classes = student.shape
    differences = {
        "": x - y,
        "The student is not softened: divide its logits by T too.": F.softmax(student, 1) - y,
        "The teacher is not softened: divide its logits by T too.": x - F.softmax(teacher, 1),
        "Neither is softened: divide both logits by T.": F.softmax(student, 1) - F.softmax(teacher, 1),
        "This is the difference of log-probabilities. The gradient holds probabilities.": x.log() - y.log(),
        "Teacher and student are the wrong way round in KL: the teacher's probabilities weigh the logarithms.": x
        * ((x / y).log() - divergence),
        "The softmax runs over the images. It must run over the classes: dim=1.": F.softmax(
            student / temperature, 0
        )
        - F.softmax(teacher / temperature, 0),
    }
    factors = {
        "": temperature,
        "The factor T^2 is missing: KL at T has the gradient (x - y) / T, times T^2.": 1 / temperature,
        "The factor is 1 instead of T: KL at T has the gradient (x - y) / T, times T^2.": 1.0,
        "The factor is T^2 instead of T: the derivative of student / T brings 1 / T.": temperature**2,
        "The factor is 1 / T^2 instead of T: T^2 stands before KL.": 1 / temperature**2,
    }
    means = {
        "": 1 / images,
        "The loss is the mean over the batch: divide by the number of images.": 1.0,
        "The mean runs over the classes too. Divide by the number of images alone.": 1 / (images * classes),
        "Divided by the number of classes. Divide by the number of images.": 1 / classes,
    }
    signs = {
        "": 1.0,
        "The sign is wrong: student minus teacher, so that a step against it brings them closer.": -1.0,
    }
    found = []
    for kinds in itertools.product(differences.items(), factors.items(), means.items(), signs.items()):
        hints = [hint for hint, _ in kinds if hint]
        (_, value), *numbers = kinds
        found.append((hints, value * float(np.prod([number for _, number in numbers]))))
    found.sort(key=lambda pair: len(pair[0]))
    (_, right), *wrong = found
    return right, {" And: ".join(hints): value for hints, value in wrong}


@exercise(
    again="First a number for each combination of settings: group the rows by `settings` (dropna=False keeps None) and "
    "take a mean. Then ask which combination has the largest.",
    read="Is it fair?",
)
def check_choose_settings(choose: Callable[[pd.DataFrame, list[str]], Mapping[str, Any]]) -> None:
    """Check a learner's choice from the runs of an experiment, `choose(frame, settings) -> {setting: value}`.

    `frame` has a row for each run, with the columns named in `settings`, and seed, validation and test.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> check_choose_settings(lambda frame, settings: dict(frame.loc[frame["validation"].idxmax(), settings]))
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: These settings hold the best single run. Average over the seeds first.
    """
    two = _runs(
        ["rate", "dropout"],
        {
            (0.01, 0.0): ([0.70, 0.72, 0.71, 0.70], 0.70),  # one seed more: the largest sum
            (0.01, 0.3): ([0.60, 0.61, 0.62], 0.90),  # the best on test
            (0.03, 0.0): ([0.55, 0.56, 0.54], 0.52),
            (0.03, 0.3): ([0.74, 0.75, 0.76], 0.72),  # the best mean on validation
            (0.1, 0.0): ([0.82, 0.66, 0.62], 0.69),  # the best single run
            (0.1, 0.3): ([0.72, 0.72, 0.70], 0.71),  # the best rate and the best dropout, each on its own
        },
    )
    _compare_choice(choose, two, ["rate", "dropout"])
    one = _runs(["width"], {(8,): ([0.5, 0.7], 0.6), (16,): ([0.65, 0.65], 0.6), (32,): ([0.6, 0.6], 0.7)})
    _compare_choice(choose, one, ["width"])
    none = _runs(
        ["teacher", "rate"],
        {
            (None, 0.1): ([0.80, 0.82], 0.75),
            (None, 0.3): ([0.70, 0.72], 0.74),
            ("vgg", 0.1): ([0.78, 0.79], 0.76),
            ("vgg", 0.3): ([0.60, 0.60], 0.76),
        },
    )
    _compare_choice(choose, none, ["teacher", "rate"])
    passed("you choose by the mean over seeds, on the validation split.")


def _runs(settings: list[str], arms: Mapping[tuple, tuple[list[float], float]]) -> pd.DataFrame:
    """A row for each run, in no order; the test accuracy is the same for all seeds of an arm."""
    rows = [
        dict(zip(settings, arm, strict=True)) | {"seed": seed, "validation": value, "test": test}
        for arm, (validation, test) in arms.items()
        for seed, value in enumerate(validation)
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


def _compare_choice(choose: Callable, frame: pd.DataFrame, settings: list[str]) -> None:
    """Accept the arm with the best mean on validation; name the mistake that leads to another one."""
    answer = call(choose, frame.copy(), list(settings))
    expect(
        isinstance(answer, Mapping) and set(answer) == set(settings),
        f"With settings = {settings} it returns {answer!r:.80}; return a dict with these keys, {{setting: value}}.",
    )
    answer = {name: _plain(answer[name]) for name in settings}

    def arm(score: pd.Series) -> dict[str, Any]:
        row = frame.loc[score.idxmax()]
        return {name: _plain(row[name]) for name in settings}

    def by(column: str, how: str, names: list[str] = settings) -> pd.Series:
        return frame.groupby(names, dropna=False)[column].transform(how)

    mistakes = {
        "These settings hold the best single run. Average over the seeds first.": arm(frame["validation"]),
        "These settings are the best on the test split. Test data never chooses: use validation.": arm(
            by("test", "mean")
        ),
        "These settings are the worst: the largest accuracy is the best.": arm(-by("validation", "mean")),
        "The sum is largest where there are most runs. Take the mean.": arm(by("validation", "sum")),
        "Each setting was chosen on its own. The best rate may be another one with dropout: group by all `settings` at "
        "once.": {name: arm(by("validation", "mean", [name]))[name] for name in settings},
        "Rows with None were dropped: groupby leaves them out unless dropna=False.": arm(
            by("validation", "mean").where(frame[settings].notna().all(axis=1))
        ),
    }
    right = arm(by("validation", "mean"))
    if answer == right:
        return
    for hint, wrong in mistakes.items():
        expect(answer != wrong, hint)
    raise NotYet(f"{answer} does not have the highest mean validation accuracy; {right} has.")


def _plain(value: Any) -> Any:
    """A number of NumPy as one of Python, and None for nan, as which pandas keeps it."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and math.isnan(value) else value


_MOST_PARAMETERS, _MOST_MACS, _LEAST_ACCURACY = 8_000, 250_000, 0.80
"""What the student to be built may cost, and the share of validation images on which it must be right."""


@exercise(
    again="Start from the teacher's own kind of network with fewer and narrower convolutions, count what it costs "
    "before you train it, and give it all 10,000 images: the teacher answers for each.",
    read="Images without labels",
)
def check_build_student(student: Any) -> None:
    """Check a small student that was taught by the teacher's answers alone.

    Args:
        student: a trained network; or a function that trains one, `build(teacher, images) -> network`, which is then
            called with the teacher and the 10,000 training images, and with no label.

    Raises:
        NotYet: the student costs too much or is right too rarely; the message says by how much.

    Example:
        >>> check_build_student(nn.Sequential(nn.Flatten(), nn.Linear(256, 40), nn.Linear(40, 10)))
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: The student has 10,690 parameters, 2,690 more than the 8,000 that it may have.
    """
    glyphs = data.load_dataset("glyphs")
    if not isinstance(student, nn.Module):
        expect(
            callable(student), f"The student is a {type(student).__name__}; it must be a network, nn.Module."
        )
        student = call(student, checkpoints.load("glyphs-vgg").eval(), glyphs.train.images.clone())
        expect(
            isinstance(student, nn.Module),
            f"A {type(student).__name__} was returned; return the trained network.",
        )
    try:
        logits = training.predict(student, glyphs.validation.images)
    except Exception as error:
        raise NotYet(
            f"The student cannot answer for images of shape [N, 1, 16, 16]: {type(error).__name__}: {error}"
        ) from error
    expect(
        logits.shape == (len(glyphs.validation), 10),
        f"The student's output has shape {list(logits.shape)} for {len(glyphs.validation):,} images; it must have ten "
        "logits for each.",
    )
    measured = cost.measure(student, data.to_float(glyphs.validation.images[:1]))
    said = [
        f"The student has {have:,} {name}, {have - most:,} more than the {most:,} that it may have."
        for have, most, name in (
            (measured.parameters, _MOST_PARAMETERS, "parameters"),
            (measured.macs, _MOST_MACS, "MACs"),
        )
        if have > most
    ]
    accuracy = (logits.argmax(1) == glyphs.validation.labels).double().mean().item()
    if not said and accuracy < _LEAST_ACCURACY:
        said.append(
            f"The student is right on {accuracy:.1%} of the validation images, {_LEAST_ACCURACY - accuracy:.1%} short "
            f"of {_LEAST_ACCURACY:.0%}. {_why(accuracy, logits)}"
        )
    expect(not said, " ".join(said))
    passed(
        f"your student has at most {_MOST_PARAMETERS:,} parameters and {_MOST_MACS:,} MACs, and is right on at least "
        f"{_LEAST_ACCURACY:.0%} of the validation images."
    )


def _why(accuracy: float, logits: Tensor) -> str:
    """What a student that is right too rarely points at."""
    if not logits.isfinite().all():
        return "Its outputs are not finite: the training diverged. Take a lower learning rate."
    if accuracy < 0.2:
        return (
            "That is little more than guessing: was it trained, and does the loss reach the teacher's logits?"
        )
    if accuracy < 0.7:
        return "That is what 1,000 images teach, or one layer. Use all 10,000, and more than one convolution."
    return "It is on the way: try a higher learning rate, or more epochs."


def _same_shape(answer: object, like: Tensor) -> Tensor:
    expect(isinstance(answer, Tensor), f"The result is a {type(answer).__name__}; return a tensor.")
    expect(
        answer.shape == like.shape,
        f"The result has shape {list(answer.shape)}; it must be {list(like.shape)}, images by classes.",
    )
    return answer


def _compare(answer: Tensor, right: Tensor, mistakes: dict[str, Tensor]) -> None:
    """Accept `right`; name the mistake whose result the answer is."""
    if torch.allclose(answer, right, atol=1e-5):
        return
    for hint, wrong in mistakes.items():
        expect(not torch.allclose(answer, wrong, atol=1e-5), hint)
    expect(False, f"Not right yet: expected\n{right}\nbut got\n{answer}")
