"""Each check accepts what the library does, and refuses typical wrong answers, each with the hint that names it."""

import numpy as np
import pytest
import torch

from course_lib.checks import NotYet, chapter08
from course_lib.experiments import chapter08_trained
from course_lib.factorization import break_even_rank, rank_for_energy
from course_lib.hashing import HashedLinear, assignment
from course_lib.quantization import affine, aware
from tests.checks import solutions

RIGHT = solutions.of("08")
largest, by_energy, of_rounding = RIGHT["largest-rank"], RIGHT["rank-by-energy"], RIGHT["my-rounding"]


def of_buckets(*arguments):
    return np.array(RIGHT["bucket-gradient"](*arguments))


def library_largest(m, n):
    return break_even_rank(torch.nn.Linear(n, m))


def library_by_energy(values, share):
    layer = torch.nn.Linear(len(values), len(values), dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor(values)))
    return rank_for_energy(layer, share)


def library_of_rounding(x, scale, low, high):
    """The library's, with ranges that have these scales: one for each row or filter."""
    ends = high * scale.detach().flatten()
    params = affine.choose_params(-ends, ends, bits=high.bit_length() + 1, symmetric=True, axis=0)
    return aware.straight_through(x, params)


def test_a_gradient_may_be_a_tensor():
    chapter08.check_bucket_gradient(
        lambda g, p, s, k: torch.zeros(k).index_add_(
            0, torch.tensor(p).flatten(), torch.tensor(s * g, dtype=torch.float32).flatten()
        )
    )


def test_the_library_passes_the_checks():
    chapter08.check_largest_rank(library_largest)
    chapter08.check_rank_by_energy(library_by_energy)
    chapter08.check_my_rounding(library_of_rounding)


def test_the_gradient_of_buckets_is_that_of_the_library():
    layer = HashedLinear(3, 4, 5, seed=2, bias=False)
    gradient = torch.arange(12.0).reshape(4, 3)
    layer.virtual_weight().backward(gradient)
    places, signs = assignment(3, 4, 5, seed=2)
    np.testing.assert_allclose(
        layer.buckets.grad, of_buckets(gradient.numpy(), places.numpy(), signs.numpy(), 5)
    )


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda m, n: m * n // (m + n), "as many numbers"),
        (lambda m, n: largest(m, n) + 1, "One too many"),
        (lambda m, n: min(m, n), "largest rank the matrix can have"),
        (lambda m, n: min(m, n) - 1, "not yet a saving"),
        (lambda m, n: max(1, largest(m, n)), "not even rank 1"),
        (lambda m, n: round(m * n / (m + n)), "Do not round up"),
        (lambda m, n: min(m, n) // 2, "square matrix only"),
        (lambda m, n: 5, "it should be 170"),
        (lambda m, n: m * n / (m + n), "Divide with //"),
        (lambda m, n: None, "returned None"),
    ],
)
def test_largest_rank_names_the_mistake(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter08.check_largest_rank(wrong)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda values, share: by_energy([value**0.5 for value in values], share), "sum of the squares"),
        (lambda values, share: by_energy(values, share) - 1, "One too few"),
        (lambda values, share: by_energy(values, share) + 1, "One too many"),
        (
            lambda values, share: min(
                by_energy(values, share + 1e-9) if share < 1 else len(values), len(values)
            ),
            "reaches it exactly",
        ),
        (lambda values, share: max(1, int(np.ceil(share * len(values)))), r"of the \*number\*"),
        (lambda values, share: by_energy(values[::-1], share), "begin with the smallest"),
        (lambda values, share: 3, "it should be"),
        (lambda values, share: None, "returned None"),
    ],
)
def test_rank_by_energy_names_the_mistake(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter08.check_rank_by_energy(wrong)


def added_once(gradient, places, signs, buckets):
    total = np.zeros(buckets)
    total[places] += signs * gradient
    return total


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda g, p, s, k: of_buckets(g, p, np.ones_like(s), k), "signs are missing"),
        (added_once, "only the last one"),
        (
            lambda g, p, s, k: of_buckets(g, p, s, k) / np.maximum(np.bincount(p.flatten(), minlength=k), 1),
            "That is the mean",
        ),
        (lambda g, p, s, k: -of_buckets(g, p, s, k), "turned around"),
        (lambda g, p, s, k: np.bincount(p.flatten(), (s * g).flatten()), "one number for each of the 5"),
        (lambda g, p, s, k: s * g, "shape \\[2, 3\\]"),
        (lambda g, p, s, k: of_buckets(g, p, s, k) + 1, "Bucket 0 gets"),
        (
            lambda g, p, s, k: (
                of_buckets(g, p, np.ones_like(s), k) / np.maximum(np.bincount(p.flatten(), minlength=k), 1)
            ),
            "signs are missing. And: that is the mean",
        ),
        (lambda g, p, s, k: added_once(g, p, np.ones_like(s), k), "signs are missing. And: of the weights"),
        (lambda g, p, s, k: of_buckets(g, p, s, k) * np.nan, "holds NaN"),
        (lambda g, p, s, k: "buckets", "Return numbers"),
        (lambda g, p, s, k: None, "returned None"),
    ],
)
def test_bucket_gradient_names_the_mistake(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter08.check_bucket_gradient(wrong)


def rounding(gradient_of, forward=lambda x, s, lo, hi: (x / s).round().clamp(lo, hi) * s):
    """A learner's function with another gradient, (gradient, x, scale, low, high) -> gradient, or another forward."""

    def wrong(x, scale, low, high):
        class Function(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.save_for_backward(x)
                return forward(x, scale, low, high)

            @staticmethod
            def backward(ctx, gradient):
                (x,) = ctx.saved_tensors
                return gradient_of(gradient, x, scale, low, high)

        return Function.apply(x)

    return wrong


def inside(x, s, lo, hi):
    integers = (x / s).round()
    return (integers >= lo) & (integers <= hi)


OUTSIDE, SCALED = "It passes outside the range too", "The scale is in the gradient"


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda x, s, lo, hi: (x / s).round().clamp(lo, hi) * s, "nothing is learned"),
        (rounding(lambda g, x, s, lo, hi: 0 * g), "nothing is learned"),
        (rounding(lambda g, x, s, lo, hi: g), OUTSIDE),
        (chapter08_trained.passing, OUTSIDE),
        (rounding(lambda g, x, s, lo, hi: g * ((x >= lo) & (x <= hi))), "Divide by the scale"),
        (rounding(lambda g, x, s, lo, hi: g * inside(x, s, lo + 1, hi - 1)), "<= and >="),
        (rounding(lambda g, x, s, lo, hi: g * ((x / s >= lo) & (x / s <= hi))), "Round before you compare"),
        (rounding(lambda g, x, s, lo, hi: g * ~inside(x, s, lo, hi)), "Turned around"),
        (rounding(lambda g, x, s, lo, hi: g * inside(x, s, lo, hi) * s), f"^{SCALED}"),
        (rounding(lambda g, x, s, lo, hi: g * inside(x, s, lo, hi) / s), "divided by the scale"),
        (rounding(lambda g, x, s, lo, hi: inside(x, s, lo, hi).float()), "Times the gradient"),
        (rounding(lambda g, x, s, lo, hi: g * s), f"{OUTSIDE}.* And: {SCALED}"),
        (rounding(lambda g, x, s, lo, hi: g * inside(x, s, lo, hi) + 1), "it should be"),
        (rounding(lambda g, x, s, lo, hi: None), "No gradient arrives at x"),
        (rounding(lambda g, *_: g, lambda x, s, lo, hi: (x / s).round() * s), "not clipped"),
        (
            rounding(lambda g, *_: g, lambda x, s, lo, hi: (x / s).round().clamp(lo, hi)),
            "These are the integers",
        ),
        (rounding(lambda g, *_: g, lambda x, s, lo, hi: x.round().clamp(lo, hi)), "without its scale"),
        (
            rounding(lambda g, *_: g, lambda x, s, lo, hi: (x / s).floor().clamp(lo, hi) * s),
            "floor goes down",
        ),
        (
            rounding(lambda g, *_: g, lambda x, s, lo, hi: (x / s).trunc().clamp(lo, hi) * s),
            "cut off, not rounded",
        ),
        (
            rounding(lambda g, *_: g, lambda x, s, lo, hi: (x.clamp(lo, hi) / s).round() * s),
            "before it is divided",
        ),
        (rounding(lambda g, *_: g, lambda x, s, lo, hi: x.clone()), "x itself"),
        (rounding(lambda g, *_: g, lambda x, s, lo, hi: x * torch.nan), "holds NaN"),
        (rounding(lambda g, *_: g, lambda x, s, lo, hi: x.flatten()), r"has shape \[9\]"),
        (lambda x, s, lo, hi: of_rounding(x, s, lo, hi).double(), "has dtype torch.float64"),
        (lambda x, s, lo, hi: of_rounding(x, s, lo, hi).detach(), "no gradient at all"),
        (lambda x, s, lo, hi: of_rounding(x, s, lo, hi).detach().numpy(), "is a ndarray"),
        (lambda x, s, lo, hi: of_rounding(x, s, lo, hi) + 1, "becomes"),
        (lambda x, s, lo, hi: None, "returned None"),
    ],
)
def test_my_rounding_names_the_mistake(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter08.check_my_rounding(wrong)


def test_a_rounding_that_does_not_train_says_what_it_reached(monkeypatch):
    monkeypatch.setattr(chapter08_trained, "trained_at_two_bits", lambda rounding: 0.123)
    with pytest.raises(NotYet, match=r"reaches 12\.3 % .* 50 % are wanted"):
        chapter08.check_my_rounding(of_rounding)


def test_without_a_gradient_two_bits_stay_below_the_target():
    reached = chapter08_trained.trained_at_two_bits(
        lambda x, s, lo, hi: (x.detach() / s).round().clamp(lo, hi) * s + 0 * x
    )
    assert reached < 0.5 * chapter08_trained.TARGET
