"""Distillation: laws, values worked by hand, a second implementation in plain NumPy, and every error."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from course_lib.distillation import distillation_loss, ensemble_probabilities, soften

HALF_AND_WHOLE = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
ROUNDING = {torch.float16: 4e-3, torch.bfloat16: 3e-2, torch.float32: 1e-6, torch.float64: 1e-12}

laws = settings(max_examples=50)
temperatures = st.floats(0.5, 20)
alphas = st.floats(0, 1)
sizes = st.tuples(st.integers(1, 6), st.integers(2, 7))


def logits_of(shape):
    return arrays(np.float64, shape, elements=st.floats(-30, 30))


one = sizes.flatmap(logits_of).map(torch.from_numpy)
pairs = sizes.flatmap(lambda shape: st.tuples(logits_of(shape), logits_of(shape)))
several = sizes.flatmap(
    lambda shape: st.lists(logits_of(shape).map(torch.from_numpy), min_size=1, max_size=4)
)


def random_logits(*shape, seed=0, dtype=torch.float64):
    return (3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(
        dtype
    )


# A second implementation: no torch, no log_softmax, loops where loops are clearer


def plain_soften(logits, temperature):
    scaled = logits / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def plain_loss(student, teacher, labels, temperature, alpha):
    """The weighted sum of the two losses, image by image and class by class."""
    hard, soft = 0.0, 0.0
    p, q = plain_soften(teacher, temperature), plain_soften(student, temperature)
    plain = plain_soften(student, 1.0)
    for image in range(len(student)):
        hard += -math.log(plain[image, labels[image]])
        for k in range(student.shape[1]):
            soft += p[image, k] * (math.log(p[image, k]) - math.log(q[image, k])) if p[image, k] else 0.0
    return (alpha * hard + (1 - alpha) * temperature**2 * soft) / len(student)


# Softened probabilities


@laws
@given(one, temperatures)
def test_each_row_sums_to_one_and_keeps_the_order(logits, temperature):
    probabilities = soften(logits, temperature)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(len(logits), dtype=torch.float64))
    assert (probabilities >= 0).all()
    by_logit = logits.argsort(dim=1, stable=True)
    assert (probabilities.gather(1, by_logit).diff(dim=1) >= 0).all()


@laws
@given(one, temperatures, st.floats(-1e3, 1e3))
def test_a_constant_added_to_all_logits_changes_nothing(logits, temperature, constant):
    torch.testing.assert_close(
        soften(logits + constant, temperature), soften(logits, temperature), rtol=1e-9, atol=1e-11
    )


@laws
@given(one)
def test_a_large_temperature_tends_to_uniform(logits):
    classes = logits.shape[1]
    spread = (soften(logits, 1e6) - 1 / classes).abs().max()
    assert spread <= 60 / 1e6
    assert (soften(logits, 1e3) - 1 / classes).abs().max() <= 60 / 1e3


@laws
@given(st.integers(2, 6).flatmap(lambda k: st.permutations(range(k))), st.floats(1e-6, 0.01))
def test_a_small_temperature_tends_to_one_at_the_largest_logit(order, temperature):
    logits = torch.tensor([order], dtype=torch.float64)
    expected = F.one_hot(logits.argmax(dim=1), len(order)).double()
    torch.testing.assert_close(soften(logits, temperature), expected, rtol=0, atol=1e-12)


@laws
@given(one, temperatures, temperatures)
def test_a_higher_temperature_raises_the_entropy(logits, first, second):
    low, high = sorted((first, second))
    entropies = [torch.special.entr(soften(logits, t)).sum(dim=1) for t in (low, high)]
    assert (entropies[1] >= entropies[0] - 1e-12).all()


def test_soft_targets_by_hand():
    """z = ln 16, ln 4, ln 1: at T = 1 the odds are 16 : 4 : 1, at T = 2 their roots 4 : 2 : 1."""
    logits = torch.tensor([[16.0, 4.0, 1.0]], dtype=torch.float64).log()
    expected = {
        1.0: [16 / 21, 4 / 21, 1 / 21],
        2.0: [4 / 7, 2 / 7, 1 / 7],
        0.5: [256 / 273, 16 / 273, 1 / 273],
    }
    for temperature, row in expected.items():
        torch.testing.assert_close(soften(logits, temperature), torch.tensor([row], dtype=torch.float64))


@laws
@given(one, temperatures)
def test_soften_agrees_with_plain_numpy(logits, temperature):
    np.testing.assert_allclose(
        soften(logits, temperature), plain_soften(logits.numpy(), temperature), rtol=1e-10, atol=1e-15
    )


@pytest.mark.parametrize("dtype", HALF_AND_WHOLE)
def test_soften_keeps_the_dtype_and_is_right_within_its_rounding(dtype):
    exact = random_logits(5, 7).to(dtype)
    result = soften(exact, 4.0)
    assert result.dtype == dtype
    torch.testing.assert_close(
        result.double(), soften(exact.double(), 4.0), rtol=ROUNDING[dtype], atol=ROUNDING[dtype]
    )


@pytest.mark.bad_input  # the checker is off: it knows no numbers but Python's own
@pytest.mark.parametrize("temperature", [3, 3.0, np.float64(3), np.float32(3), torch.tensor(3.0)], ids=repr)
def test_a_temperature_is_any_kind_of_number(temperature):
    logits = random_logits(2, 4)
    assert torch.equal(soften(logits, temperature), soften(logits, 3.0))


# The loss


@laws
@given(pairs, temperatures, alphas, st.randoms(use_true_random=False))
def test_the_loss_agrees_with_plain_numpy(logits, temperature, alpha, rng):
    student, teacher = logits
    labels = [rng.randrange(student.shape[1]) for _ in student]
    ours = distillation_loss(
        *map(torch.from_numpy, logits), torch.tensor(labels), temperature=temperature, alpha=alpha
    )
    expected = plain_loss(student, teacher, labels, temperature, alpha)
    assert ours.item() == pytest.approx(expected, rel=1e-10, abs=1e-10)


def test_the_worked_example_of_the_documents():
    """Teacher 0.86 / 0.12 / 0.02, student 0.66 / 0.22 / 0.12: 0.5814, of which 0.4624 is the teacher's entropy."""
    teacher = torch.tensor([[0.86, 0.12, 0.02]], dtype=torch.float64)
    student = torch.tensor([[0.66, 0.22, 0.12]], dtype=torch.float64)
    cross_entropy = -(0.86 * math.log(0.66) + 0.12 * math.log(0.22) + 0.02 * math.log(0.12))
    entropy = -(0.86 * math.log(0.86) + 0.12 * math.log(0.12) + 0.02 * math.log(0.02))
    assert cross_entropy == pytest.approx(0.5814, abs=5e-5)
    divergence = distillation_loss(student.log(), teacher.log(), temperature=1.0, alpha=0.0).item()
    assert divergence == pytest.approx(cross_entropy - entropy, rel=1e-12)
    assert divergence == pytest.approx(0.1191, abs=5e-5)


def test_both_weights_and_the_square_of_t_by_hand():
    """Logits ln 9, 0 against 0, 0 at T = 2: the teacher is 3/4, 1/4; the student 1/2, 1/2; label 1."""
    student = torch.zeros(1, 2, dtype=torch.float64)
    teacher = torch.tensor([[9.0, 1.0]], dtype=torch.float64).log()
    soft = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    loss = distillation_loss(student, teacher, torch.tensor([1]), temperature=2.0, alpha=0.25)
    assert loss.item() == pytest.approx(0.25 * math.log(2) + 0.75 * 4 * soft, rel=1e-12)


@laws
@given(one, temperatures)
def test_equal_logits_cost_nothing_and_pull_nowhere(logits, temperature):
    student = logits.clone().requires_grad_()
    loss = distillation_loss(student, logits, temperature=temperature, alpha=0.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(student.grad, torch.zeros_like(student), rtol=0, atol=1e-12)


@laws
@given(pairs, temperatures, alphas)
def test_the_loss_is_never_negative(logits, temperature, alpha):
    student, teacher = map(torch.from_numpy, logits)
    labels = teacher.argmax(dim=1)
    assert distillation_loss(student, teacher, labels, temperature=temperature, alpha=alpha) >= -1e-12


@laws
@given(pairs, temperatures)
def test_alpha_one_is_the_plain_cross_entropy(logits, temperature):
    student, teacher = map(torch.from_numpy, logits)
    labels = teacher.argmax(dim=1)
    loss = distillation_loss(student, teacher, labels, temperature=temperature, alpha=1.0)
    torch.testing.assert_close(loss, F.cross_entropy(student, labels), rtol=1e-12, atol=0)


@laws
@given(pairs, temperatures, alphas)
def test_alpha_mixes_the_two_losses_linearly(logits, temperature, alpha):
    student, teacher = map(torch.from_numpy, logits)
    labels = student.argmin(dim=1)
    soft, hard, mixed = (
        distillation_loss(student, teacher, labels, temperature=temperature, alpha=weight)
        for weight in (0.0, 1.0, alpha)
    )
    torch.testing.assert_close(mixed, alpha * hard + (1 - alpha) * soft)


@laws
@given(pairs, temperatures, alphas, st.integers(2, 4))
def test_a_batch_repeated_costs_what_the_batch_costs(logits, temperature, alpha, times):
    student, teacher = map(torch.from_numpy, logits)
    labels = teacher.argmax(dim=1)
    once = distillation_loss(student, teacher, labels, temperature=temperature, alpha=alpha)
    repeated = distillation_loss(
        student.repeat(times, 1),
        teacher.repeat(times, 1),
        labels.repeat(times),
        temperature=temperature,
        alpha=alpha,
    )
    torch.testing.assert_close(repeated, once, rtol=1e-10, atol=1e-12)


@laws
@given(pairs, temperatures, st.floats(-50, 50))
def test_only_differences_between_logits_count(logits, temperature, constant):
    student, teacher = map(torch.from_numpy, logits)
    plain = distillation_loss(student, teacher, temperature=temperature, alpha=0.0)
    moved = distillation_loss(student + constant, teacher - constant, temperature=temperature, alpha=0.0)
    torch.testing.assert_close(moved, plain, rtol=1e-8, atol=1e-9)


def test_the_direction_of_the_divergence_is_from_the_teacher():
    student, teacher = random_logits(4, 5, seed=1), random_logits(4, 5, seed=2)
    forward = distillation_loss(student, teacher, temperature=2.0, alpha=0.0)
    assert not torch.isclose(
        forward, distillation_loss(teacher, student, temperature=2.0, alpha=0.0), rtol=0.01
    )


# Gradients


def gradient(student, teacher, temperature, alpha=0.0, labels=None):
    student = student.clone().requires_grad_()
    loss = distillation_loss(student, teacher, labels, temperature=temperature, alpha=alpha)
    return torch.autograd.grad(loss, student)[0]


@laws
@given(pairs, temperatures)
def test_the_gradient_is_t_times_the_difference_of_the_softened_probabilities(logits, temperature):
    student, teacher = map(torch.from_numpy, logits)
    expected = temperature * (soften(student, temperature) - soften(teacher, temperature)) / len(student)
    torch.testing.assert_close(gradient(student, teacher, temperature), expected, rtol=1e-8, atol=1e-10)


def test_the_gradient_keeps_its_size_for_every_temperature_and_would_not_without_the_square():
    student, teacher = random_logits(200, 10, seed=3), random_logits(200, 10, seed=4)
    with_square = torch.stack([gradient(student, teacher, t).norm() for t in (1.0, 2.0, 4.0, 8.0, 20.0)])
    assert with_square.max() / with_square.min() < 4
    without = with_square / torch.tensor([1.0, 2, 4, 8, 20]).square()
    assert without.max() / without.min() > 100


def test_at_high_temperature_the_gradient_is_that_of_matching_centred_logits():
    """Hinton et al., equation 4: (z - v) / K for logits that sum to zero, here with the mean over N images."""
    student, teacher = random_logits(6, 5, seed=5), random_logits(6, 5, seed=6)
    student, teacher = (z - z.mean(dim=1, keepdim=True) for z in (student, teacher))
    torch.testing.assert_close(
        gradient(student, teacher, 1e4), (student - teacher) / (5 * 6), rtol=5e-3, atol=1e-5
    )


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_no_gradient_flows_into_the_teacher(alpha):
    student = random_logits(3, 4, seed=1).requires_grad_()
    teacher = random_logits(3, 4, seed=2).requires_grad_()
    distillation_loss(student, teacher, torch.tensor([0, 1, 2]), temperature=4.0, alpha=alpha).backward()
    assert teacher.grad is None
    assert student.grad.abs().max() > 0


def test_the_gradient_is_the_derivative():
    labels = torch.tensor([0, 3, 1])
    teacher = random_logits(3, 4, seed=2)
    assert torch.autograd.gradcheck(
        lambda z: distillation_loss(z, teacher, labels, temperature=3.0, alpha=0.4),
        random_logits(3, 4, seed=1).requires_grad_(),
    )


def test_what_is_passed_in_is_left_alone():
    student, teacher, labels = (
        random_logits(3, 4, seed=1),
        random_logits(3, 4, seed=2),
        torch.tensor([0, 1, 2]),
    )
    copies = student.clone(), teacher.clone(), labels.clone()
    distillation_loss(student, teacher, labels, temperature=4.0, alpha=0.5)
    soften(student, 2.0)
    ensemble_probabilities([student, teacher], 2.0)
    assert all(torch.equal(a, b) for a, b in zip((student, teacher, labels), copies, strict=True))


# Number formats and extremes


@pytest.mark.parametrize("dtype", HALF_AND_WHOLE)
def test_the_loss_is_right_within_the_rounding_of_float32(dtype):
    student, teacher = random_logits(8, 10, seed=1, dtype=dtype), random_logits(8, 10, seed=2, dtype=dtype)
    labels = torch.arange(8)
    loss = distillation_loss(student, teacher, labels, temperature=4.0, alpha=0.3)
    exact = distillation_loss(student.double(), teacher.double(), labels, temperature=4.0, alpha=0.3)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert loss.item() == pytest.approx(exact.item(), rel=1e-12 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_extreme_logits_give_neither_nan_nor_infinity(dtype, temperature, alpha):
    student = torch.tensor([[1e4, -1e4, 0.0], [0.0, 1e4, -1e4]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[-1e4, 1e4, 0.0], [1e4, 1e4, -1e4]], dtype=dtype)
    loss = distillation_loss(student, teacher, torch.tensor([1, 2]), temperature=temperature, alpha=alpha)
    loss.backward()
    assert loss.isfinite()
    assert loss > 1e3
    assert student.grad.isfinite().all()
    for result in (
        soften(teacher, temperature),
        *(ensemble_probabilities([student.detach(), teacher], temperature, mean=m) for m in MEANS),
    ):
        assert result.isfinite().all()
        torch.testing.assert_close(result.sum(dim=1), torch.ones(2, dtype=dtype))


# Ensembles

MEANS = ("arithmetic", "geometric")


@laws
@given(one, temperatures, st.integers(1, 4), st.sampled_from(MEANS))
def test_an_ensemble_of_equal_teachers_is_one_teacher(logits, temperature, count, mean):
    torch.testing.assert_close(
        ensemble_probabilities([logits] * count, temperature, mean=mean), soften(logits, temperature)
    )


@laws
@given(several, temperatures, st.sampled_from(MEANS), st.randoms(use_true_random=False))
def test_the_order_of_the_teachers_is_irrelevant(teachers, temperature, mean, rng):
    mixed = list(teachers)
    rng.shuffle(mixed)
    torch.testing.assert_close(
        ensemble_probabilities(mixed, temperature, mean=mean),
        ensemble_probabilities(teachers, temperature, mean=mean),
    )


@laws
@given(several, temperatures)
def test_both_means_agree_with_plain_numpy(teachers, temperature):
    softened = np.stack([plain_soften(teacher.numpy(), temperature) for teacher in teachers])
    np.testing.assert_allclose(
        ensemble_probabilities(teachers, temperature), softened.mean(axis=0), rtol=1e-9, atol=1e-14
    )
    roots = np.exp(np.log(np.maximum(softened, 1e-300)).mean(axis=0))
    np.testing.assert_allclose(
        ensemble_probabilities(teachers, temperature, mean="geometric"),
        roots / roots.sum(axis=1, keepdims=True),
        rtol=1e-9,
        atol=1e-14,
    )
    logits = torch.stack(teachers).mean(dim=0)
    torch.testing.assert_close(
        ensemble_probabilities(teachers, temperature, mean="geometric"), soften(logits, temperature)
    )


def test_the_two_means_by_hand():
    """Teachers 0.9 / 0.1 and 0.5 / 0.5: means 0.7 / 0.3; roots of the products 3 : 1."""
    teachers = [torch.tensor([row], dtype=torch.float64).log() for row in ([0.9, 0.1], [0.5, 0.5])]
    arithmetic = ensemble_probabilities(teachers, 1.0)
    torch.testing.assert_close(arithmetic, torch.tensor([[0.7, 0.3]], dtype=torch.float64))
    geometric = ensemble_probabilities(teachers, 1.0, mean="geometric")
    torch.testing.assert_close(geometric, torch.tensor([[0.75, 0.25]], dtype=torch.float64))


@pytest.mark.bad_input  # the checker is off: a tensor is no Sequence to it
def test_teachers_stacked_in_one_tensor_are_as_good_as_a_list():
    stacked = random_logits(3, 4, 5)
    assert torch.equal(ensemble_probabilities(stacked, 2.0), ensemble_probabilities(list(stacked), 2.0))


# Errors

Z = torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 0.0]])
LABELS = torch.tensor([2, 0])

CALLS = {
    "soften": lambda logits=Z, temperature=4.0: soften(logits, temperature),
    "student": lambda logits=Z, temperature=4.0: distillation_loss(
        logits, Z, temperature=temperature, alpha=0
    ),
    "teacher": lambda logits=Z, temperature=4.0: distillation_loss(
        Z, logits, temperature=temperature, alpha=0
    ),
    "ensemble": lambda logits=Z, temperature=4.0: ensemble_probabilities([Z, logits], temperature),
}
NAMES = {
    "soften": "logits",
    "student": "student_logits",
    "teacher": "teacher_logits",
    "ensemble": r"logits_list\[1\]",
}


@pytest.mark.bad_input
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("temperature", "error", "message"),
    [
        (0, ValueError, r"temperature is 0\.0; it must be a finite number in \(0, inf\)"),
        (-2.0, ValueError, r"temperature is -2\.0; it must be a finite number"),
        (math.nan, ValueError, "temperature is nan"),
        (math.inf, ValueError, "temperature is inf"),
        (-math.inf, ValueError, "temperature is -inf"),
        (True, TypeError, r"temperature is True \(bool\); it must be a number"),
        ("4", TypeError, r"temperature is '4' \(str\); it must be a number"),
        (None, TypeError, r"temperature is None \(NoneType\)"),
        (torch.tensor([1.0, 2.0]), TypeError, r"temperature is tensor\(\[1\., 2\.\]\) \(Tensor\)"),
    ],
)
def test_a_wrong_temperature_is_named_with_a_hint(call, temperature, error, message):
    with pytest.raises(error, match=f"{message}.*T = 1 is the plain softmax"):
        CALLS[call](temperature=temperature)


@pytest.mark.bad_input
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("logits", "error", "message"),
    [
        (Z.tolist(), TypeError, r"is a list; it must be a torch\.Tensor of shape \[N, K\]"),
        (Z.numpy(), TypeError, "is a ndarray; it must be a torch"),
        (Z.long(), TypeError, r"has dtype torch\.int64; logits are floating point\. Call \.float\(\)"),
        (Z > 1, TypeError, r"has dtype torch\.bool"),
        (torch.tensor([[1.0, math.nan, 0.0], [0.0, 0.0, 0.0]]), ValueError, "holds NaN. Look for a diverged"),
        (torch.zeros(0, 3), ValueError, r"has shape \[0, 3\]; it must be \[N, K\]"),
        (torch.zeros(3, 0), ValueError, r"has shape \[3, 0\]"),
        (torch.zeros(3), ValueError, r"has shape \[3\]"),
        (torch.zeros(2, 3, 1), ValueError, r"has shape \[2, 3, 1\]"),
    ],
)
def test_wrong_logits_are_named(call, logits, error, message):
    with pytest.raises(error, match=f"{NAMES[call]} {message}"):
        CALLS[call](logits=logits)


@pytest.mark.bad_input
@pytest.mark.parametrize("other", [torch.zeros(2, 4), torch.zeros(1, 3), torch.zeros(3, 2)])
def test_logits_of_different_shapes_are_refused_with_both_shapes(other):
    for pair in ((Z, other), (other, Z)):
        shapes = [str(list(z.shape)).replace("[", r"\[") for z in pair]
        with pytest.raises(
            ValueError, match=f"student_logits has shape {shapes[0]}.*{shapes[1]}; both must be"
        ):
            distillation_loss(*pair, temperature=4, alpha=0)
    with pytest.raises(
        ValueError, match=r"logits_list\[1\] has shape .* all teachers must have seen the same"
    ):
        ensemble_probabilities([Z, other], 4)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("alpha", "error", "message"),
    [
        (-0.1, ValueError, r"alpha is -0\.1; it must be a finite number in \[0, 1\]"),
        (1.5, ValueError, r"alpha is 1\.5; it must be a finite number in \[0, 1\]"),
        (math.nan, ValueError, "alpha is nan"),
        (math.inf, ValueError, "alpha is inf"),
        (True, TypeError, r"alpha is True \(bool\)"),
        ("0.5", TypeError, r"alpha is '0\.5' \(str\)"),
        (None, TypeError, r"alpha is None \(NoneType\)"),
    ],
)
def test_a_wrong_alpha_is_named_with_a_hint(alpha, error, message):
    with pytest.raises(error, match=f"{message}.*alpha weighs the labels"):
        distillation_loss(Z, Z, LABELS, temperature=4, alpha=alpha)


@pytest.mark.bad_input
@pytest.mark.parametrize("alpha", [0.3, 1.0])
@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (None, ValueError, r"labels are missing and alpha is (0\.3|1); only alpha = 0"),
        (
            torch.tensor([0, 3]),
            ValueError,
            r"labels run from 0 to 3; with 3 classes they must lie in \[0, 2\]",
        ),
        (torch.tensor([-1, 2]), ValueError, "labels run from -1 to 2"),
        (torch.tensor([-100, 2]), ValueError, "labels run from -100 to 2"),
        (
            LABELS.int(),
            TypeError,
            r"labels has dtype torch\.int32; class indices are int64\. Call \.long\(\)",
        ),
        (LABELS.float(), TypeError, r"labels has dtype torch\.float32"),
        (
            torch.zeros(2, 3),
            ValueError,
            "labels are probabilities and the sum over the classes differs from 1",
        ),
        (torch.zeros(3, 2), TypeError, r"labels has dtype torch\.float32.* or give probabilities"),
        (torch.tensor([0, 1, 2]), ValueError, r"labels has shape \[3\]; with 2 images it must be \[2\]"),
        (torch.tensor([[0, 1]]), ValueError, r"labels has shape \[1, 2\]"),
        ([2, 0], TypeError, "labels is a list; it must be an int64 tensor"),
    ],
)
def test_wrong_labels_are_named(alpha, labels, error, message):
    with pytest.raises(error, match=message):
        distillation_loss(Z, Z, labels, temperature=4, alpha=alpha)


def test_labels_may_be_left_out_where_alpha_is_zero():
    with_labels = distillation_loss(Z, Z.flip(1), LABELS, temperature=4.0, alpha=0.0)
    assert torch.equal(distillation_loss(Z, Z.flip(1), temperature=4.0, alpha=0.0), with_labels)


@pytest.mark.bad_input
def test_an_ensemble_needs_teachers_and_a_known_mean():
    with pytest.raises(ValueError, match="logits_list is empty; an ensemble needs at least one teacher"):
        ensemble_probabilities([], 4)
    with pytest.raises(ValueError, match=r"logits_list\[0\] has shape \[3\]"):
        ensemble_probabilities(Z, 4)  # one teacher, not in a list
    with pytest.raises(ValueError, match=r"unknown mean 'geometrc'\. Did you mean 'geometric'"):
        ensemble_probabilities([Z], 4, mean="geometrc")
    with pytest.raises(ValueError, match=r"logits_list\[0\] has shape \[0, 3\]"):
        ensemble_probabilities([Z[:0]], 4)
