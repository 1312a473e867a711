"""Pixels and tokens, labels that are ignored, and labels that are probabilities."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.distillation import distillation_loss, ensemble_probabilities, soften
from tests.distillation import reference
from tests.distillation.reference import random_logits

SHAPES = {  # shape, axis of the classes, what is passed as class_axis
    "images": ((4, 5), 1, None),
    "images, stated": ((4, 5), 1, 1),
    "pixels": ((2, 5, 3, 4), 1, None),
    "pixels, channels last": ((2, 3, 4, 5), 3, -1),
    "tokens": ((2, 3, 5), 2, 2),
    "tokens, from the end": ((2, 3, 5), 2, -1),
    "tokens, as in torch": ((2, 5, 3), 1, 1),
    "voxels": ((2, 5, 2, 2, 3), 1, 1),
}


def case(name, ignored=None):
    shape, axis, stated = SHAPES[name]
    places = [size for a, size in enumerate(shape) if a != axis]
    labels = torch.randint(0, 5, places, generator=torch.Generator().manual_seed(3))
    if ignored is not None:
        labels.view(-1)[::3] = ignored
    return random_logits(*shape, seed=1), random_logits(*shape, seed=2), labels, axis, stated


@pytest.mark.parametrize("ignored", [None, -100, 2])
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("temperature", "alpha"), [(4.0, 0.3), (1.0, 0.0), (50.0, 1.0), (50.0, 0.4)])
def test_the_loss_is_the_mean_over_the_positions_that_count(name, ignored, temperature, alpha):
    student, teacher, labels, axis, stated = case(name, ignored)
    loss = distillation_loss(
        student,
        teacher,
        labels,
        temperature=temperature,
        alpha=alpha,
        ignore_index=ignored,
        class_axis=stated,
    )
    rows = [reference.positions(logits, axis) for logits in (student, teacher)]
    expected = reference.mean_loss(*rows, labels.flatten().tolist(), temperature, alpha, ignored)
    assert loss.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", SHAPES)
def test_probabilities_are_those_of_each_position(name):
    logits, other, _, axis, stated = case(name)
    for result, rows in (
        (soften(logits, 3.0, class_axis=stated), [reference.positions(logits, axis)]),
        (
            ensemble_probabilities([logits, other], 3.0, class_axis=stated),
            [reference.positions(logits, axis), reference.positions(other, axis)],
        ),
        (
            ensemble_probabilities([logits, other], 3.0, mean="geometric", class_axis=stated),
            [reference.positions((logits + other) / 2, axis)],
        ),
    ):
        assert result.shape == logits.shape
        softened = torch.tensor([[reference.soften(row, 3.0) for row in one] for one in rows]).mean(dim=0)
        torch.testing.assert_close(
            torch.tensor(reference.positions(result, axis)), softened, rtol=1e-5, atol=1e-6
        )


def test_a_position_that_is_ignored_gets_no_gradient_and_may_hold_anything():
    student, teacher, labels, _, _ = case("pixels", ignored=-100)
    student.requires_grad_()
    options = {"temperature": 4.0, "alpha": 0.3, "ignore_index": -100}
    loss = distillation_loss(student, teacher, labels, **options)
    loss.backward()
    ignored = (labels == -100)[:, None].expand_as(student)
    assert (student.grad[ignored] == 0).all()
    assert (student.grad[~ignored] != 0).all()
    moved = student.detach().where(~ignored, torch.tensor(7.0, dtype=torch.float64))
    assert torch.equal(distillation_loss(moved, teacher.where(~ignored, moved * 2), labels, **options), loss)


def test_with_class_indices_it_is_torch_s_cross_entropy():
    student, teacher, labels, _, _ = case("pixels", ignored=-100)
    loss = distillation_loss(student, teacher, labels, temperature=4.0, alpha=1.0, ignore_index=-100)
    torch.testing.assert_close(loss, F.cross_entropy(student, labels))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [4.0, 100.0])
def test_if_no_position_counts_loss_and_gradient_are_zero(alpha, temperature):
    student = random_logits(3, 4, dtype=torch.bfloat16).requires_grad_()
    labels = torch.full((3,), -1)
    loss = distillation_loss(
        student, student.detach() + 1, labels, temperature=temperature, alpha=alpha, ignore_index=-1
    )
    loss.backward()
    assert loss.item() == 0
    assert loss.dtype == torch.float32
    assert torch.equal(student.grad, torch.zeros_like(student))


@settings(max_examples=25)
@given(
    st.lists(st.booleans(), min_size=6, max_size=6).filter(any), st.floats(0, 1), st.sampled_from((2.0, 40.0))
)
def test_ignoring_positions_is_leaving_them_out(counts, alpha, temperature):
    student, teacher = random_logits(6, 4, seed=1), random_logits(6, 4, seed=2)
    counts, labels = torch.tensor(counts), torch.tensor([0, 1, 2, 3, 0, 1])
    options = {"temperature": temperature, "alpha": alpha}
    marked = labels.where(counts, -7)
    assert torch.equal(
        distillation_loss(student, teacher, marked, ignore_index=-7, **options),
        distillation_loss(student[counts], teacher[counts], labels[counts], **options),
    )


def test_no_position_changes_where_the_label_to_ignore_does_not_occur():
    student, teacher, labels, _, _ = case("images")
    options = {"temperature": 4.0, "alpha": 0.3}
    assert torch.equal(
        distillation_loss(student, teacher, labels, ignore_index=-100, **options),
        distillation_loss(student, teacher, labels, **options),
    )


# Labels that are probabilities


@pytest.mark.parametrize("name", SHAPES)
def test_soft_labels_are_one_distribution_for_each_position(name):
    student, teacher, _, axis, stated = case(name)
    labels = random_logits(*student.shape, seed=5).softmax(dim=axis)
    loss = distillation_loss(student, teacher, labels, temperature=4.0, alpha=0.3, class_axis=stated)
    rows = [reference.positions(tensor, axis) for tensor in (student, teacher, labels)]
    assert loss.item() == pytest.approx(reference.mean_loss(*rows, 4.0, 0.3), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_soft_labels_that_name_one_class_are_that_class(dtype):
    student, teacher, labels, _, _ = case("images")
    student = student.to(dtype)
    soft = F.one_hot(labels, 5).to(dtype)
    options = {"temperature": 4.0, "alpha": 0.3}
    torch.testing.assert_close(
        distillation_loss(student, teacher, soft, **options),
        distillation_loss(student, teacher, labels, **options),
    )


def test_soft_labels_rounded_to_half_precision_are_accepted_and_get_no_gradient():
    student, teacher, _, _, _ = case("images")
    labels = random_logits(4, 5, seed=4, dtype=torch.float32).softmax(dim=1).bfloat16().requires_grad_()
    student.requires_grad_()
    distillation_loss(student, teacher, labels, temperature=4.0, alpha=0.3).backward()
    assert labels.grad is None
