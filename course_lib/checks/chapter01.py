"""Checks of the exercises of chapter 01, knowledge distillation."""

from collections.abc import Callable, Sequence

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.checks import call, exercise, expect, passed


@exercise(
    again="Three lines: logits / T; exp of that minus its row maximum; divided by its row sum, with "
    "keepdim=True.",
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
    answer = _same_shape(call(soften, logits, 4.0), logits)
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
    again="Two terms: alpha * F.cross_entropy(student_logits, labels), and (1 - alpha) * T**2 * "
    'F.kl_div(log_softmax of the student / T, softmax of the teacher / T, reduction="batchmean").',
    read="The method",
)
def check_distillation_loss(loss: Callable[[Tensor, Tensor, Tensor, float, float], Tensor]) -> None:
    """Check a learner's `loss(student_logits, teacher_logits, labels, temperature, alpha) -> scalar`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> check_distillation_loss(lambda *arguments: torch.zeros(6))
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: The loss must be one number in a tensor. Is the mean over the batch missing?
    """
    generator = torch.Generator().manual_seed(1)
    student, teacher = torch.randn(2, 6, 5, generator=generator) * 2
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    temperature, alpha = 3.0, 0.2
    answer = call(loss, student, teacher, labels, temperature, alpha)
    expect(
        isinstance(answer, Tensor) and answer.numel() == 1,
        "The loss must be one number in a tensor. Is the mean over the batch missing?",
    )

    def total(soft: Tensor, weight: float = alpha) -> Tensor:
        return weight * F.cross_entropy(student, labels) + (1 - weight) * soft

    x, y = F.softmax(student / temperature, 1), F.softmax(teacher / temperature, 1)
    soft = F.kl_div(x.log(), y, reduction="batchmean")
    square = temperature**2
    mistakes = {
        "The factor T^2 is missing: the teacher's gradient shrinks as T grows.": total(soft),
        "T instead of T^2.": total(temperature * soft),
        'reduction="mean" divides by the classes too. Use "batchmean".': total(square * soft / 5),
        'reduction="sum" adds up the batch. Use "batchmean".': total(square * soft * 6),
        "F.kl_div got probabilities as its first argument. It takes logarithms: F.log_softmax.": total(
            square * F.kl_div(x, y, reduction="batchmean")
        ),
        "F.kl_div got probabilities as its first argument (it takes F.log_softmax), and T^2 is missing.": total(
            F.kl_div(x, y, reduction="batchmean")
        ),
        "The weights are the wrong way round: alpha belongs to the labels.": total(square * soft, 1 - alpha),
        "Teacher and student are the wrong way round: F.kl_div(student's logarithms, teacher's probabilities).": total(
            square * F.kl_div(y.log(), x, reduction="batchmean")
        ),
        "The labels are compared with the softened student. They are compared at T = 1.": alpha
        * F.cross_entropy(student / temperature, labels)
        + (1 - alpha) * square * soft,
        "The logits were not divided by T.": total(
            square * F.kl_div(F.log_softmax(student, 1), F.softmax(teacher, 1), reduction="batchmean")
        ),
    }
    _compare(answer.reshape(()), total(square * soft), mistakes)
    passed("your loss weighs labels and teacher, carries T^2, and is the mean over the batch.")


@exercise(
    again="Averaging log-probabilities is averaging logits, up to a constant in each row, and softmax removes "
    "it: one mean, one softmax.",
    read="Four teachers and an ensemble",
)
def check_geometric_ensemble(ensemble: Callable[[Sequence[Tensor], float], Tensor]) -> None:
    """Check a learner's geometric mean of teachers, `ensemble(logits_list, temperature) -> [N, K]`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> check_geometric_ensemble(lambda logits_list, temperature: torch.stack(logits_list).mean(0).softmax(-1))
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: The temperature is not used.
    """
    generator = torch.Generator().manual_seed(2)
    logits = list(torch.randn(3, 4, 5, generator=generator) * 3)
    temperature = 2.0
    answer = _same_shape(call(ensemble, logits, temperature), logits[0])
    stacked = torch.stack(logits)
    softened = F.softmax(stacked / temperature, -1)
    mistakes = {
        "This is the arithmetic mean of the probabilities. The geometric one averages their logarithms.": softened.mean(
            0
        ),
        "The geometric mean is right, but its rows no longer sum to one. Divide each row by its sum.": softened.log()
        .mean(0)
        .exp(),
        "The probabilities are multiplied, not averaged: take the M-th root.": F.softmax(
            softened.log().sum(0), -1
        ),
        "The temperature is not used.": F.softmax(stacked.mean(0), -1),
    }
    _compare(answer, F.softmax(stacked.mean(0) / temperature, -1), mistakes)
    passed("the geometric mean of softmaxes is the softmax of the mean logits.")


@exercise(
    again="groupby both settings, take the mean of one column, then idxmax(), which returns the pair.",
    read="Temperature and alpha",
)
def check_choose_settings(choose: Callable[[pd.DataFrame], tuple[float, float]]) -> None:
    """Check a learner's choice from a sweep, `choose(sweep) -> (temperature, alpha)`.

    `sweep` has the columns temperature, alpha, seed, validation and test.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> check_choose_settings(lambda sweep: (8, 0.5))
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: These settings hold the best single run. Average over the seeds first.
    """
    rows = [
        # T, alpha, validation of two seeds, test of two seeds
        (2, 0.1, (0.70, 0.72), (0.69, 0.70)),
        (4, 0.1, (0.75, 0.75), (0.72, 0.71)),  # the best mean on validation
        (8, 0.5, (0.80, 0.66), (0.70, 0.70)),  # the best single run
        (16, 0.9, (0.71, 0.71), (0.90, 0.90)),  # the best on test
    ]
    sweep = pd.DataFrame(
        [
            {"temperature": t, "alpha": a, "seed": seed, "validation": v, "test": e}
            for t, a, validation, test in rows
            for seed, (v, e) in enumerate(zip(validation, test, strict=True))
        ]
    )
    answer = call(choose, sweep.sample(frac=1, random_state=0))
    expect(
        isinstance(answer, Sequence) and len(answer) == 2,
        "Return two numbers: (temperature, alpha).",
    )
    pair = (float(answer[0]), float(answer[1]))
    expect(
        pair != (16, 0.9),
        "These settings are the best on the test split. Test data never chooses: use validation.",
    )
    expect(pair != (8, 0.5), "These settings hold the best single run. Average over the seeds first.")
    expect(pair != (0.1, 4), "Temperature first, then alpha.")
    expect(pair == (4, 0.1), f"{pair} does not have the highest mean validation accuracy.")
    passed("you choose by the mean over seeds, on the validation split.")


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
