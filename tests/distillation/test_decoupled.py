"""Decoupled distillation: hand values, probabilities as in the paper, and its identity with the classic loss."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.distillation import decoupled_loss, decoupled_terms, distillation_loss
from tests.distillation import reference
from tests.distillation.reference import random_logits

laws = settings(max_examples=30)
cases = st.tuples(st.integers(1, 6), st.integers(2, 7), st.integers(0, 10**6))


def case(size, seed):
    classes = size[1]
    student, teacher = random_logits(*size, seed=seed), random_logits(*size, seed=seed + 1)
    return (
        student,
        teacher,
        torch.randint(0, classes, size[:1], generator=torch.Generator().manual_seed(seed)),
    )


def test_both_terms_by_hand():
    """Teacher 1/2, 3/8, 1/8 and student 1/4, 1/4, 1/2, target 0: halves against quarters, 3 : 1 against 1 : 2."""
    teacher = torch.tensor([[4.0, 3.0, 1.0]], dtype=torch.float64).log()
    student = torch.tensor([[1.0, 1.0, 2.0]], dtype=torch.float64).log()
    labels = torch.tensor([0])
    target = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    others = 0.75 * math.log(0.75 / (1 / 3)) + 0.25 * math.log(0.25 / (2 / 3))
    terms = decoupled_terms(student, teacher, labels, temperature=1.0)
    assert [part.item() for part in terms] == pytest.approx([target, others, 0.5], rel=1e-12)
    loss = decoupled_loss(student, teacher, labels, temperature=1.0, alpha=2.0, beta=3.0)
    assert loss.item() == pytest.approx(2 * target + 3 * others, rel=1e-12)


def test_the_square_of_t_by_hand():
    """Two classes, so that nothing is left among the others: ln 9 at T = 2 is 3 : 1, against 1 : 1."""
    teacher, student = torch.tensor([[9.0, 1.0]]).log(), torch.zeros(1, 2)
    loss = decoupled_loss(student, teacher, torch.tensor([1]), temperature=2.0)
    assert loss.item() == pytest.approx(4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5)), rel=1e-6)


@laws
@given(cases, st.floats(0.5, 20))
def test_the_terms_are_those_of_the_probabilities(case_, temperature):
    student, teacher, labels = case(case_[:2], case_[2])
    terms = decoupled_terms(student, teacher, labels, temperature=temperature)
    expected = [
        reference.decoupled(s, t, label, temperature)
        for s, t, label in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True)
    ]
    torch.testing.assert_close(
        torch.stack(terms, dim=1), torch.tensor(expected, dtype=torch.float64), rtol=1e-7, atol=1e-7
    )


@laws
@given(cases, st.floats(0.5, 20))
def test_with_the_weights_one_and_uncertainty_it_is_the_classic_loss(case_, temperature):
    student, teacher, labels = case(case_[:2], case_[2])
    student.requires_grad_()
    terms = decoupled_terms(student, teacher, labels, temperature=temperature)
    ours = temperature**2 * (terms.target + (1 - terms.certainty) * terms.others).mean()
    classic = distillation_loss(student, teacher, temperature=temperature, alpha=0.0)
    torch.testing.assert_close(ours, classic, rtol=1e-9, atol=1e-11)
    slopes = [torch.autograd.grad(loss, student)[0] for loss in (ours, classic)]
    torch.testing.assert_close(*slopes, rtol=1e-8, atol=1e-11)


@laws
@given(cases, st.floats(0.5, 20), st.floats(0, 5), st.floats(0, 20))
def test_the_loss_is_the_weighted_mean_and_is_never_negative(case_, temperature, alpha, beta):
    student, teacher, labels = case(case_[:2], case_[2])
    loss = decoupled_loss(student, teacher, labels, temperature=temperature, alpha=alpha, beta=beta)
    terms = [
        reference.decoupled(s, t, label, temperature)
        for s, t, label in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True)
    ]
    mean = sum(alpha * target + beta * others for target, others, _ in terms) / len(terms)
    assert loss.item() == pytest.approx(temperature**2 * mean, rel=1e-7, abs=1e-8)
    assert loss >= -1e-12


@pytest.mark.parametrize("temperature", [1e-3, 0.02, 4.0, 33.0, 1e4])
def test_at_the_ends_of_the_range_it_still_is_the_classic_loss(temperature):
    student, teacher = (random_logits(5, 6, seed=s, dtype=torch.float32) for s in (1, 2))
    terms = decoupled_terms(student, teacher, torch.arange(5), temperature=temperature)
    ours = temperature**2 * (terms.target + (1 - terms.certainty) * terms.others).mean()
    classic = distillation_loss(student.double(), teacher.double(), temperature=temperature, alpha=0.0)
    assert ours.item() == pytest.approx(classic.item(), rel=1e-5)


def test_the_gradient_is_the_derivative_and_none_flows_into_the_teacher():
    student, teacher = (
        random_logits(3, 4, seed=1).requires_grad_(),
        random_logits(3, 4, seed=2).requires_grad_(),
    )
    labels = torch.tensor([0, 3, 1])

    def loss(z):
        return decoupled_loss(z, teacher, labels, temperature=3.0, alpha=0.7, beta=2.0)

    assert torch.autograd.gradcheck(loss, student)
    loss(student).backward()
    assert teacher.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_and_autocast_compute_in_float32(dtype):
    student, teacher = (random_logits(32, 20, seed=s, dtype=dtype) for s in (1, 2))
    labels = torch.arange(32) % 20
    loss = decoupled_loss(student, teacher, labels, temperature=4.0)
    wide = decoupled_loss(student.double(), teacher.double(), labels, temperature=4.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(wide.item(), rel=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(decoupled_loss(student, teacher, labels, temperature=4.0), loss)


@pytest.mark.parametrize(("shape", "axis", "stated"), [((2, 5, 3, 4), 1, None), ((2, 3, 5), 2, -1)])
def test_pixels_and_tokens_without_those_that_are_ignored(shape, axis, stated):
    student, teacher = random_logits(*shape, seed=1), random_logits(*shape, seed=2)
    places = [size for a, size in enumerate(shape) if a != axis]
    labels = torch.randint(0, 5, places, generator=torch.Generator().manual_seed(3))
    labels.view(-1)[::2] = -100
    loss = decoupled_loss(
        student, teacher, labels, temperature=4.0, beta=2.0, ignore_index=-100, class_axis=stated
    )
    rows = zip(
        reference.positions(student, axis),
        reference.positions(teacher, axis),
        labels.flatten().tolist(),
        strict=True,
    )
    terms = [reference.decoupled(s, t, label, 4.0) for s, t, label in rows if label != -100]
    expected = 16 * sum(target + 2 * others for target, others, _ in terms) / len(terms)
    assert loss.item() == pytest.approx(expected, rel=1e-9)


def test_if_no_position_counts_loss_and_gradient_are_zero():
    student = random_logits(2, 3).requires_grad_()
    loss = decoupled_loss(student, student + 1, torch.tensor([-1, -1]), temperature=4.0, ignore_index=-1)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(student.grad, torch.zeros_like(student))
