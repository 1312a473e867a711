"""Hints and attention transfer: values by hand, plain NumPy, gradients and laws; and the notes on named layers."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib.distillation import attention_loss, attention_map, captured, hint_adapter, hint_loss
from tests.distillation.reference import random_logits as random_features

laws = settings(max_examples=30)
shapes = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))


# Hints


def test_a_hint_by_hand():
    """Distances 3, 4 in one image and 0 in the other: (9 + 16) / 2, mean over two images."""
    student = torch.zeros(2, 2, 1, 1)
    teacher = torch.tensor([[3.0, 4.0], [0.0, 0.0]]).reshape(2, 2, 1, 1)
    assert hint_loss(student, teacher).item() == 6.25


def test_a_hint_through_an_adapter_by_hand():
    """One channel into two, by weights 2 and -1 and biases 0 and 1: 3 becomes 6 and -2, the hint is 5 and 0."""
    adapter = hint_adapter(1, 2)
    with torch.no_grad():
        adapter.weight.copy_(torch.tensor([2.0, -1.0]).reshape(2, 1, 1, 1))
        adapter.bias.copy_(torch.tensor([0.0, 1.0]))
    loss = hint_loss(torch.full((1, 1, 1, 1), 3.0), torch.tensor([5.0, 0.0]).reshape(1, 2, 1, 1), adapter)
    assert loss.item() == (1 + 4) / 2


@laws
@given(shapes, st.integers(1, 5), st.integers(0, 10**6))
def test_a_hint_agrees_with_plain_numpy(shape, channels, seed):
    n, own, height, width = shape
    student, teacher = (
        random_features(*shape, seed=seed),
        random_features(n, channels, height, width, seed=seed + 1),
    )
    adapter = hint_adapter(own, channels).double()
    weight, bias = adapter.weight.detach().numpy()[:, :, 0, 0], adapter.bias.detach().numpy()
    adapted = np.einsum("dc,nchw->ndhw", weight, student.numpy()) + bias[None, :, None, None]
    expected = sum(((a - h) ** 2).sum() / 2 for a, h in zip(adapted, teacher.numpy(), strict=True)) / n
    assert hint_loss(student, teacher, adapter).item() == pytest.approx(expected, rel=1e-10)


def test_a_hint_teaches_student_and_adapter_and_not_the_teacher():
    student, teacher = (random_features(2, c, 3, 3, dtype=torch.float32).requires_grad_() for c in (4, 6))
    adapter = hint_adapter(4, 6)
    hint_loss(student, teacher, adapter).backward()
    assert teacher.grad is None
    assert all(tensor.grad.abs().sum() > 0 for tensor in (student, adapter.weight, adapter.bias))


def test_no_gradient_flows_into_the_teacher_s_attention():
    student, teacher = (random_features(2, c, 3, 3).requires_grad_() for c in (4, 6))
    attention_loss(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


def test_gradients_of_both_losses_are_derivatives():
    student = random_features(2, 3, 2, 2, seed=1).requires_grad_()
    teacher = random_features(2, 4, 2, 2, seed=2)
    adapter = hint_adapter(3, 4).double()
    assert torch.autograd.gradcheck(lambda a: hint_loss(a, teacher, adapter), student)
    assert torch.autograd.gradcheck(lambda a: attention_loss(a, teacher), student)


def test_a_hint_of_vectors_and_an_adapter_without_bias():
    assert hint_loss(torch.ones(2, 3), torch.zeros(2, 3)).item() == 1.5
    assert hint_adapter(3, 4, bias=False).bias is None


# Attention


def test_attention_by_hand():
    """Channels (3, 0), (0, 2), (0, 0) at three positions: squares 9, 4, 0 of length sqrt(97)."""
    features = torch.tensor([[[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]]])
    expected = torch.tensor([[9.0, 4.0, 0.0]]) / math.sqrt(97)
    torch.testing.assert_close(attention_map(features), expected)
    elsewhere = torch.tensor([[[0.0, 0.0, -7.0]]])
    assert attention_loss(features, elsewhere).item() == pytest.approx(1.0)  # nowhere together
    here = torch.tensor([[[1.0, 0.0, 0.0]]])
    assert attention_loss(features, here).item() == pytest.approx(1 - 9 / math.sqrt(97))  # 1 - cosine


@laws
@given(shapes, st.integers(1, 5), st.integers(0, 10**6))
def test_attention_agrees_with_plain_numpy(shape, channels, seed):
    n, _, height, width = shape
    student, teacher = (
        random_features(*shape, seed=seed),
        random_features(n, channels, height, width, seed=seed + 1),
    )
    total = 0.0
    for a, b in zip(student.numpy(), teacher.numpy(), strict=True):
        maps = [(x**2).sum(axis=0).ravel() for x in (a, b)]
        q, t = (m / np.sqrt((m**2).sum()) for m in maps)
        total += ((q - t) ** 2).sum() / 2
    assert attention_loss(student, teacher).item() == pytest.approx(total / n, rel=1e-9, abs=1e-12)


@laws
@given(shapes, st.integers(0, 10**6), st.floats(1e-6, 1e6))
def test_attention_does_not_depend_on_the_size_or_order_or_sign_of_channels(shape, seed, factor):
    features = random_features(*shape, seed=seed)
    torch.testing.assert_close(attention_map(-factor * features.flip(1)), attention_map(features))
    assert attention_loss(features, factor * features).item() == pytest.approx(0, abs=1e-12)
    assert 0 <= attention_loss(features, random_features(*shape, seed=seed + 1)) <= 1 + 1e-12


def test_an_image_without_activity_has_no_map_and_no_gradient():
    """ReLUs that are all off: no division by zero."""
    student = torch.zeros(2, 3, 2, 2, requires_grad=True)
    loss = attention_loss(student, torch.ones(2, 5, 2, 2))
    loss.backward()
    assert loss.item() == pytest.approx(0.5)
    assert torch.equal(student.grad, torch.zeros_like(student))


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e12, 1e15])
def test_squares_neither_overflow_nor_vanish(size):
    features = torch.tensor([[[3.0, 0.0], [0.0, 2.0]]])
    torch.testing.assert_close(
        attention_map(features / 3 * size), torch.tensor([[9.0, 4.0]]) / math.sqrt(97), rtol=1e-5, atol=0
    )
    assert hint_loss(features / 3 * size, torch.zeros_like(features)).isfinite()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", [hint_loss, attention_loss])
def test_half_precision_is_computed_in_float32(dtype, loss):
    student, teacher = (random_features(8, 4, 5, 5, seed=s, dtype=dtype, scale=300) for s in (1, 2))
    student.requires_grad_()
    value, wide = loss(student, teacher), loss(student.double(), teacher.double())
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(wide.item(), rel=1e-5)
    assert torch.autograd.grad(value, student)[0].dtype == dtype
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(student, teacher), value)


def test_under_autocast_the_adapter_runs_in_half_and_the_loss_in_float32():
    adapter = hint_adapter(4, 6)
    student, teacher = (random_features(8, c, 5, 5, dtype=torch.float32, scale=30) for c in (4, 6))
    with torch.autocast("cpu", torch.bfloat16):
        adapted, loss = adapter(student), hint_loss(student, teacher, adapter)
    assert adapted.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    expected = (adapted.double() - teacher.double()).square().sum().item() / 16
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_what_is_passed_in_is_left_alone():
    student, teacher = random_features(2, 3, 2, 2, seed=1), random_features(2, 3, 2, 2, seed=2)
    copies = student.clone(), teacher.clone()
    hint_loss(student, teacher)
    attention_loss(student, teacher)
    assert torch.equal(student, copies[0])
    assert torch.equal(teacher, copies[1])


# Layers


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


def test_named_layers_are_noted_in_order_with_their_gradients():
    model, images = network(), torch.rand(2, 1, 4, 4)
    with captured(model, ["2", "0.0"]) as features:
        assert features == {}
        model(images)
        assert set(features) == {"2", "0.0"}
        features["0.0"].square().sum().backward()
    assert torch.equal(features["0.0"], model[0][0](images))
    assert model[0][0].weight.grad.abs().sum() > 0


def test_a_later_layer_that_works_in_place_does_not_change_what_was_noted():
    model, images = network().eval(), torch.rand(2, 1, 4, 4)
    with captured(model, ["0.1", "0"]) as features:
        model(images)
    assert (features["0.1"] < 0).any()
    assert torch.equal(features["0"], F.relu(features["0.1"]))


def test_each_call_of_the_model_replaces_what_was_noted():
    model = network().eval()
    first, second = torch.rand(2, 2, 1, 4, 4)
    with captured(model, ["0"]) as features:
        model(first)
        model(second)
    assert torch.equal(features["0"], model[0](second))


class Stop(Exception):
    pass


@pytest.mark.parametrize("error", [None, Stop])
def test_the_model_is_left_as_it_was_after_an_error_too(error):
    model = network()
    own = model[0].register_forward_hook(lambda *_: None)
    before = {name: dict(layer.__dict__) for name, layer in model.named_modules()}
    hooks = [dict(layer._forward_hooks) for layer in model.modules()]
    try:
        with captured(model, ["0", "0.0"]):
            assert len(model[0]._forward_hooks) == 2
            if error:
                raise error
    except Stop:
        pass
    assert [dict(layer._forward_hooks) for layer in model.modules()] == hooks
    assert not any(layer._forward_pre_hooks for layer in model.modules())
    assert own.id in model[0]._forward_hooks
    assert model.training
    for name, layer in model.named_modules():
        assert layer.__dict__.keys() == before[name].keys()


def test_a_student_learns_its_teacher_s_features():
    """The three parts together: named layers, an adapter, and both losses go down."""
    torch.manual_seed(0)
    teacher, student = nn.Conv2d(1, 6, 3), nn.Conv2d(1, 3, 3)
    teacher, student = nn.Sequential(teacher, nn.ReLU()), nn.Sequential(student, nn.ReLU())
    adapter, images = hint_adapter(3, 6), torch.rand(16, 1, 6, 6)
    parameters, losses = [*student.parameters(), *adapter.parameters()], []
    for _ in range(60):
        with captured(student, ["0"]) as own, captured(teacher, ["0"]) as shown:
            student(images), teacher(images)
        loss = hint_loss(own["0"], shown["0"], adapter) + attention_loss(own["0"], shown["0"])
        losses.append(loss.item())
        with torch.no_grad():
            for parameter, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter -= 0.02 * slope
    assert losses[-1] < losses[0] / 5
