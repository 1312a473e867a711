"""The distillation loss in half precision, under autocast, and at temperatures from the smallest to the largest."""

import math

import mpmath
import pytest
import torch

from course_lib.distillation import distillation_loss, ensemble_probabilities, soften
from tests.distillation.reference import random_logits

HALVES = [torch.bfloat16, torch.float16]
EXTREME = [1e-300, 1e-160, 1e-45, 1e-40, 1e-5, 1 / 33, 33, 100, 1e4, 1e6, 1e10, 1e20, 1e150, 1e300, 1.7e308]


def loss_and_gradient(student, teacher, **options):
    student = student.clone().requires_grad_()
    loss = distillation_loss(student, teacher, **options)
    loss.backward()
    return loss.detach(), student.grad


def exact(student, teacher, temperature):
    """The second term and its gradient with as many digits as it takes; float64 itself has too few."""
    with mpmath.workdps(40 + 2 * max(0, round(math.log10(temperature)))):
        t, total, gradient = mpmath.mpf(temperature), mpmath.mpf(0), []
        for rows in zip(student.double().tolist(), teacher.double().tolist(), strict=True):
            logs = []
            for row in rows:
                scaled = [(mpmath.mpf(z) - mpmath.mpf(max(row))) / t for z in row]
                norm = mpmath.log(mpmath.fsum(map(mpmath.exp, scaled)))
                logs.append([z - norm for z in scaled])
            q, p = ([mpmath.exp(z) for z in row] for row in logs)
            total += mpmath.fsum(a * (y - x) for a, x, y in zip(p, *logs, strict=True))
            gradient.append([float(t * (b - a) / len(student)) for a, b in zip(p, q, strict=True)])
        return float(t * t * total / len(student)), torch.tensor(gradient, dtype=torch.float64)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_half_precision_near_the_teacher_is_computed_in_float32(dtype, temperature):
    teacher = random_logits(128, 100, dtype=dtype)
    student = (teacher + random_logits(128, 100, seed=1, dtype=dtype, scale=0.1)).to(dtype)
    labels = torch.arange(128) % 100
    options = {"labels": labels, "temperature": temperature, "alpha": 0.1}
    loss, gradient = loss_and_gradient(student, teacher, **options)
    expected, wide = loss_and_gradient(student.double(), teacher.double(), **options)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert gradient.dtype == dtype
    # What is left is the rounding of the gradient itself, once.
    assert (gradient.double() - wide).norm() <= torch.finfo(dtype).eps * wide.norm()


def test_a_large_batch_in_float16_does_not_overflow():
    student, teacher = (random_logits(1024, 1000, seed=s, dtype=torch.float16) for s in (0, 1))
    loss = distillation_loss(student, teacher, temperature=4.0, alpha=0.0)
    wide = distillation_loss(student.double(), teacher.double(), temperature=4.0, alpha=0.0)
    assert loss.item() == pytest.approx(wide.item(), rel=1e-5)


def test_a_loss_beyond_what_float16_holds_is_no_infinity():
    student = torch.tensor([[0.0, 10_000.0]], dtype=torch.float16)
    loss = distillation_loss(student, student.flip(1), temperature=20.0, alpha=0.0)
    assert loss.item() == pytest.approx(20 * 10_000)


@pytest.mark.parametrize("function", ["soften", "arithmetic", "geometric"])
@pytest.mark.parametrize("dtype", HALVES)
def test_probabilities_in_half_precision_are_rounded_once(function, dtype):
    teachers = [random_logits(64, 50, seed=s, dtype=dtype) for s in (0, 1, 2)]

    def probabilities(teachers):
        if function == "soften":
            return soften(teachers[0], 4.0)
        return ensemble_probabilities(teachers, 4.0, mean=function)

    result = probabilities(teachers)
    assert result.dtype == dtype
    assert torch.equal(result, probabilities([logits.float() for logits in teachers]).to(dtype))


def test_student_and_teacher_may_differ_in_precision():
    student, teacher = random_logits(4, 5, seed=1), random_logits(4, 5, seed=2)
    half = student.bfloat16()
    loss = distillation_loss(half, teacher.float(), temperature=4.0, alpha=0.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(
        distillation_loss(half.double(), teacher.float().double(), temperature=4.0, alpha=0.0).item(),
        rel=1e-5,
    )
    assert distillation_loss(half, teacher, temperature=4.0, alpha=0.0).dtype == torch.float64


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
def test_under_autocast_the_loss_is_the_same(dtype):
    student, teacher = (random_logits(16, 10, seed=s, dtype=dtype) for s in (0, 1))
    options = {"labels": torch.arange(16) % 10, "temperature": 4.0, "alpha": 0.3}
    outside = loss_and_gradient(student, teacher, **options)
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss_and_gradient(student, teacher, **options)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(outside, inside, strict=True))


@pytest.mark.parametrize("temperature", EXTREME)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_any_temperature_loss_and_gradient_are_exact(temperature, dtype):
    student, teacher = random_logits(3, 5, seed=1, dtype=dtype), random_logits(3, 5, seed=2, dtype=dtype)
    loss, gradient = loss_and_gradient(student, teacher, temperature=temperature, alpha=0.0)
    expected, slope = exact(student, teacher, temperature)
    assert loss.dtype == dtype
    precision = 1e-6 if dtype == torch.float32 else 1e-9
    assert loss.item() == pytest.approx(expected, rel=precision, abs=1e-37)
    torch.testing.assert_close(
        gradient.double(), slope, rtol=precision, atol=precision * slope.abs().max().item() + 1e-37
    )


def test_at_an_infinite_temperature_it_is_half_the_variance_of_the_difference():
    """T^2 KL tends to Var(student - teacher) / 2 under the uniform distribution (Hinton et al., equation 4)."""
    student, teacher = random_logits(1, 7, seed=1), random_logits(1, 7, seed=2)
    expected = (student - teacher).var(correction=0).item() / 2
    loss = distillation_loss(student, teacher, temperature=1e20, alpha=0.0)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_where_the_two_ways_of_computing_meet_they_agree():
    student, teacher = random_logits(8, 10, seed=1), random_logits(8, 10, seed=2)
    for edge in (1 / 32, 32.0):
        inside, outside = (
            loss_and_gradient(student, teacher, temperature=t, alpha=0.2, labels=torch.arange(8))
            for t in (edge, edge * (1 + (1e-9 if edge > 1 else -1e-9)))
        )
        torch.testing.assert_close(inside, outside, rtol=1e-6, atol=1e-7)


def test_the_gradient_at_extreme_temperatures_is_the_derivative():
    student, teacher = random_logits(3, 4, seed=1).requires_grad_(), random_logits(3, 4, seed=2)
    for temperature in (0.02, 50.0, 1e3, 1e8):
        assert torch.autograd.gradcheck(
            lambda z, t=temperature: distillation_loss(z, teacher, temperature=t, alpha=0.0), student
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_at_any_temperature_probabilities_are_those_of_the_limits(dtype):
    logits = torch.tensor([[3.0, 1.0, -60.0], [0.0, 5.0, -1.0]]).to(dtype)
    largest, uniform = torch.eye(3)[[0, 1]].to(dtype), torch.full((2, 3), 1 / 3).to(dtype)
    for small, large in zip((5e-324, 1e-45, 1e-40), (1e20, 1e300, 1.7e308), strict=True):
        assert torch.equal(soften(logits, small), largest)
        torch.testing.assert_close(soften(logits, large), uniform)
        for mean in ("arithmetic", "geometric"):
            assert torch.equal(ensemble_probabilities([logits, logits], small, mean=mean), largest)
            torch.testing.assert_close(ensemble_probabilities([logits, logits], large, mean=mean), uniform)


def test_teachers_who_disagree_at_a_small_temperature():
    """Means 0.5, 0.5 of the one and (2 + 0) / 2 against (0 + 1) / 2 of the other kind."""
    teachers = [torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]])]
    for temperature in (1e-320, 1e-40):
        assert ensemble_probabilities(teachers, temperature).tolist() == [[0.5, 0.5]]
        assert ensemble_probabilities(teachers, temperature, mean="geometric").tolist() == [[1.0, 0.0]]


def test_huge_logits_at_any_temperature():
    student, teacher = torch.tensor([[9e29, -9e29]]), torch.tensor([[-9e29, 9e29]])
    for temperature in (1e-300, 0.05, 1.0, 4.0):
        loss = distillation_loss(student, teacher, temperature=temperature, alpha=0.0)
        assert loss.item() == pytest.approx(1.8e30 * temperature, rel=1e-6)
    assert math.isinf(distillation_loss(student, teacher, temperature=1e20, alpha=0.0))  # 1e60 is no float32
