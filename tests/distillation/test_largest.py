"""A teacher's k largest logits: hand values, the whole divergence at k = K, and a bound below it otherwise."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.distillation import TopK, distillation_loss, top_k, top_k_loss
from tests.distillation import reference
from tests.distillation.reference import random_logits

laws = settings(max_examples=40)
sizes = st.integers(2, 7).flatmap(lambda k: st.tuples(st.integers(1, 5), st.just(k), st.integers(1, k)))
seeds = st.integers(0, 10**6)
temperatures = st.floats(0.5, 20)


def test_largest_and_rest_by_hand():
    """Odds 16 : 4 : 1 : 4 at T = 2 are 4 : 2 : 1 : 2; the rest of the largest has 5, whose logit at T = 2 is 2 ln 5."""
    kept = top_k(torch.tensor([[1.0, 4.0, 16.0, 4.0]], dtype=torch.float64).log(), 1, temperature=2.0)
    assert kept.values.item() == pytest.approx(math.log(16))
    assert kept.indices.tolist() == [[2]]
    assert kept.rest.item() == pytest.approx(2 * math.log(5))
    assert (kept.temperature, kept.classes, len(kept)) == (2.0, 4, 1)


def test_the_loss_by_hand():
    """Teacher 4/9, rest 5/9 at T = 2; the student is uniform: 1/4, rest 3/4; label 0 costs it ln 4."""
    teacher = top_k(torch.tensor([[1.0, 4.0, 16.0, 4.0]], dtype=torch.float64).log(), 1, temperature=2.0)
    soft = 4 / 9 * math.log(4 / 9 * 4) + 5 / 9 * math.log(5 / 9 / (3 / 4))
    loss = top_k_loss(torch.zeros(1, 4, dtype=torch.float64), teacher, torch.tensor([0]), alpha=0.25)
    assert loss.item() == pytest.approx(0.25 * math.log(4) + 0.75 * 4 * soft, rel=1e-12)


@laws
@given(sizes, seeds, temperatures, st.floats(0, 1))
def test_the_loss_agrees_with_plain_numpy(size, seed, temperature, alpha):
    n, classes, k = size
    student, logits = random_logits(n, classes, seed=seed), random_logits(n, classes, seed=seed + 1)
    labels = torch.arange(n) % classes
    loss = top_k_loss(student, top_k(logits, k, temperature=temperature), labels, alpha=alpha)
    soft = [
        reference.lumped(s, t, k, temperature) for s, t in zip(student.tolist(), logits.tolist(), strict=True)
    ]
    expected = alpha * F.cross_entropy(student, labels).item() + (1 - alpha) * temperature**2 * sum(soft) / n
    assert loss.item() == pytest.approx(expected, rel=1e-8, abs=1e-9)


@laws
@given(sizes, seeds, temperatures)
def test_what_is_lumped_is_a_bound_below_that_grows_with_k_up_to_the_whole(size, seed, temperature):
    """The data-processing inequality: telling fewer classes apart can only lower the divergence."""
    n, classes, _ = size
    student, logits = random_logits(n, classes, seed=seed), random_logits(n, classes, seed=seed + 1)
    losses = [
        top_k_loss(student, top_k(logits, k, temperature=temperature), alpha=0.0).item()
        for k in range(1, classes + 1)
    ]
    whole = distillation_loss(student, logits, temperature=temperature, alpha=0.0).item()
    assert all(a <= b + 1e-9 * (1 + b) for a, b in zip([0, *losses], losses, strict=False))
    assert losses[-1] == pytest.approx(whole, rel=1e-9, abs=1e-10)
    assert losses[-2] == pytest.approx(whole, rel=1e-9, abs=1e-10)  # a rest of one class is that class


@laws
@given(sizes, seeds, temperatures)
def test_gradients_are_those_of_the_whole_loss_where_all_is_kept(size, seed, temperature):
    n, classes, _ = size
    student, logits = random_logits(n, classes, seed=seed), random_logits(n, classes, seed=seed + 1)
    student.requires_grad_()
    slopes = [
        torch.autograd.grad(loss, student)[0]
        for loss in (
            top_k_loss(student, top_k(logits, classes, temperature=temperature), alpha=0.0),
            distillation_loss(student, logits, temperature=temperature, alpha=0.0),
        )
    ]
    torch.testing.assert_close(*slopes, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("k", [1, 3, 4])
@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_the_gradient_is_the_derivative(k, alpha):
    teacher = top_k(random_logits(3, 4, seed=2), k, temperature=3.0)
    assert torch.autograd.gradcheck(
        lambda z: top_k_loss(z, teacher, torch.tensor([0, 3, 1]), alpha=alpha),
        random_logits(3, 4, seed=1).requires_grad_(),
    )


def test_how_the_student_divides_the_rest_does_not_matter():
    teacher = top_k(torch.tensor([[5.0, 3.0, 0.0, 1.0]]), 2, temperature=1.0)
    student = torch.tensor([[2.0, 1.0, 0.0, 0.0]])
    other = torch.tensor([[2.0, 1.0, math.log(1.5), math.log(0.5)]])
    torch.testing.assert_close(top_k_loss(student, teacher, alpha=0.0), top_k_loss(other, teacher, alpha=0.0))


@pytest.mark.parametrize("temperature", [1e-3, 0.02, 33.0, 1e4])
def test_at_the_ends_of_the_range_of_temperatures_float32_logits_lose_nothing(temperature):
    student, logits = (random_logits(5, 6, seed=s, dtype=torch.float32) for s in (1, 2))
    loss = top_k_loss(student, top_k(logits, 6, temperature=temperature), alpha=0.0)
    whole = distillation_loss(student.double(), logits.double(), temperature=temperature, alpha=0.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(whole.item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_and_autocast_compute_in_float32(dtype):
    student, logits = (random_logits(32, 20, seed=s, dtype=dtype) for s in (1, 2))
    labels = torch.arange(32) % 20
    teacher = top_k(logits, 5, temperature=4.0)
    assert teacher.values.dtype == teacher.rest.dtype == dtype
    wide = TopK(teacher.values.double(), teacher.indices, teacher.rest.double(), 4.0, 20)
    loss = top_k_loss(student, teacher, labels, alpha=0.2)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(
        top_k_loss(student.double(), wide, labels, alpha=0.2).item(), rel=1e-5
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(top_k_loss(student, teacher, labels, alpha=0.2), loss)


@pytest.mark.parametrize(
    ("shape", "axis", "stated"), [((2, 5, 3, 4), 1, None), ((2, 3, 5), 2, -1), ((2, 5, 3), 1, 1)]
)
def test_pixels_and_tokens_without_those_that_are_ignored(shape, axis, stated):
    student, logits = random_logits(*shape, seed=1), random_logits(*shape, seed=2)
    places = [size for a, size in enumerate(shape) if a != axis]
    labels = torch.randint(0, 5, places, generator=torch.Generator().manual_seed(3))
    labels.view(-1)[::2] = -100
    teacher = top_k(logits, 2, temperature=4.0, class_axis=stated)
    assert list(teacher.rest.shape) == places
    loss = top_k_loss(student, teacher, labels, alpha=0.3, ignore_index=-100, class_axis=stated)
    rows = zip(
        reference.positions(student, axis),
        reference.positions(logits, axis),
        labels.flatten().tolist(),
        strict=True,
    )
    each = [
        0.3 * reference.cross_entropy(s, label) + 0.7 * 16 * reference.lumped(s, t, 2, 4.0)
        for s, t, label in rows
        if label != -100
    ]
    assert loss.item() == pytest.approx(sum(each) / len(each), rel=1e-9)


def test_soft_labels_and_no_position_at_all():
    student, teacher = random_logits(3, 4, seed=1), top_k(random_logits(3, 4, seed=2), 2, temperature=4.0)
    soft = random_logits(3, 4, seed=3).softmax(dim=1)
    assert torch.equal(
        top_k_loss(student, teacher, soft, alpha=1.0),
        distillation_loss(student, student, soft, temperature=4.0, alpha=1.0),
    )
    student.requires_grad_()
    nothing = top_k_loss(student, teacher, torch.full((3,), -1), alpha=0.5, ignore_index=-1)
    nothing.backward()
    assert nothing.item() == 0
    assert torch.equal(student.grad, torch.zeros_like(student))


@pytest.mark.parametrize(
    "index", [slice(1, 3), torch.tensor([3, 0]), torch.tensor([True, False, False, True])]
)
def test_an_index_selects_images(index):
    logits = random_logits(4, 5)
    some, whole = top_k(logits, 2, temperature=4.0)[index], top_k(logits[index], 2, temperature=4.0)
    for name in ("values", "indices", "rest"):
        assert torch.equal(getattr(some, name), getattr(whole, name))
    assert (some.temperature, some.classes) == (4.0, 5)


def test_the_teacher_s_logits_are_kept_without_their_graph():
    logits = random_logits(2, 3).requires_grad_()
    kept = top_k(logits, 2, temperature=4.0)
    assert not kept.values.requires_grad
    assert not kept.rest.requires_grad
