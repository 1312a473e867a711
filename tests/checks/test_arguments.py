"""What an answer does to its arguments changes nothing in what its check expects."""

import pytest
import torch

from course_lib.checks import NotYet, attempts, chapter00, chapter01, chapter03, chapter05, chapter08


@pytest.fixture(autouse=True)
def _nothing_tried(monkeypatch):
    monkeypatch.setattr(attempts, "_here", {})


def all_zero(sizes, shortcut=None):
    sizes[:] = [0] * len(sizes)
    return 0


def one_value(values, share):
    values[:] = [1.0]
    return 1


def level(logits, temperature):
    logits.zero_()
    return torch.full_like(logits, 1 / logits.shape[1])


def no_gradient(student, teacher, temperature):
    teacher.copy_(student)
    return torch.zeros_like(student)


def nothing_left(beta, weight, removed):
    weight.zero_()
    return torch.zeros(len(weight))


@pytest.mark.parametrize(
    ("check", "answer"),
    [
        (chapter00.check_chain_peak, all_zero),
        (chapter08.check_rank_by_energy, one_value),
        (chapter01.check_soften, level),
        (chapter01.check_loss_gradient, no_gradient),
        (chapter03.check_left_behind, nothing_left),
    ],
)
def test_an_answer_that_writes_over_its_arguments_is_wrong(check, answer):
    with pytest.raises(NotYet):
        check(answer)


def test_a_number_that_is_none_is_no_regret():
    with pytest.raises(NotYet, match="a finite number"):
        chapter05.check_regret(lambda scores, outcomes: float("nan"))
