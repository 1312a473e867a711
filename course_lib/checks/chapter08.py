"""Checks of the exercises of chapter 08: low rank, hashing, and training with quantization in the loop."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_lib.checks import NotYet, call, exercise, expect, judge, passed
from course_lib.experiments import chapter08_trained


@exercise(
    again="How many numbers do the two factors hold with rank 1? With rank 2? When are these as many as m n?",
    read="A matrix as two thin ones",
)
def check_largest_rank(largest_rank: Callable[[int, int], int]) -> None:
    """Check a learner's break-even rank, `largest_rank(m, n) -> int`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> check_largest_rank(lambda m, n: min(m, n))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: That is the largest rank the matrix can have. Count ...
    """
    cases = [{"m": m, "n": n} for m, n in ((512, 256), (6, 3), (100, 100), (1, 9), (3, 3), (7, 90))]
    judge(
        largest_rank,
        cases,
        lambda m, n: (m * n - 1) // (m + n),
        [
            (
                lambda m, n: m * n // (m + n),
                "Where R (m + n) is exactly m n the factors hold as many numbers: nothing is saved.",
            ),
            (
                lambda m, n: (m * n - 1) // (m + n) + 1,
                "One too many: that is the first rank which saves nothing.",
            ),
            (
                lambda m, n: min(m, n),
                "That is the largest rank the matrix can have. Count the numbers of the two factors: R (m + n).",
            ),
            (
                lambda m, n: min(m, n) - 1,
                "A rank below the full one is not yet a saving. Count the numbers of the two factors: R (m + n).",
            ),
            (
                lambda m, n: max(1, (m * n - 1) // (m + n)),
                "Where not even rank 1 saves anything, such as for one row, the answer is 0.",
            ),
            (
                lambda m, n: round(m * n / (m + n)),
                "Do not round up: above m n / (m + n) the factors are larger than the matrix.",
            ),
            (
                lambda m, n: min(m, n) // 2,
                "Half of the full rank is right for a square matrix only. Count the numbers: R (m + n) < m n.",
            ),
        ],
    )
    passed("R (m + n) numbers are fewer than m n, and no larger rank saves anything.")


@exercise(
    again="For 8, 4, 4, 2: what is the energy of the first value alone, and what is that of all four?",
    read="A matrix as two thin ones",
)
def check_rank_by_energy(rank_by_energy: Callable[[Sequence[float], float], int]) -> None:
    """Check a learner's rank by energy, `rank_by_energy(values, share) -> int`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> check_rank_by_energy(lambda values, share: max(1, round(share * len(values))))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: That is a share of the *number* of values. ...
    """
    spectra = ([8.0, 4.0, 4.0, 2.0], [3.0, 3.0, 3.0, 3.0], [16.0, 1.0, 1.0])
    cases = [
        {"values": list(values), "share": share}
        for values in spectra
        for share in (0.25, 0.5, 0.64, 0.9, 1.0)
    ]

    def kept(values: Sequence[float], power: int) -> np.ndarray:
        energies = np.array(values) ** power
        return energies.cumsum() / energies.sum()

    def right(values: Sequence[float], share: float) -> int:
        return int(np.count_nonzero(kept(values, 2) < share)) + 1

    judge(
        rank_by_energy,
        cases,
        right,
        [
            (
                lambda values, share: int(np.count_nonzero(kept(values, 1) < share)) + 1,
                "Energy is the sum of the squares; you add up the singular values themselves.",
            ),
            (
                lambda values, share: right(values, share) - 1,
                "One too few: counting from 0, the value that reaches the share is itself kept.",
            ),
            (
                lambda values, share: right(values, share) + 1,
                "One too many: with one rank fewer the share is reached already.",
            ),
            (
                lambda values, share: min(int(np.count_nonzero(kept(values, 2) <= share)) + 1, len(values)),
                '"At least" the share: a rank that reaches it exactly is enough.',
            ),
            (
                lambda values, share: max(1, int(np.ceil(share * len(values)))),
                "That is a share of the *number* of values. It is the share of their squares that counts.",
            ),
            (
                lambda values, share: int(np.count_nonzero(kept(values[::-1], 2) < share)) + 1,
                "You begin with the smallest value. The largest come first.",
            ),
        ],
    )
    passed("the fewest singular values whose squares make up the share.")


@exercise(
    again="Take bucket 0 alone. Which weights look it up, and what is the derivative of each of them by it?",
    read="Few numbers, many places",
)
def check_bucket_gradient(
    bucket_gradient: Callable[[np.ndarray, np.ndarray, np.ndarray, int], Sequence[float]],
) -> None:
    """Check a learner's gradient of hashed weights, `bucket_gradient(weight_gradient, places, signs, buckets)`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> def gradient(weight_gradient, places, signs, buckets):
        ...     return np.bincount(places.ravel(), weight_gradient.ravel(), minlength=buckets)
        >>> check_bucket_gradient(gradient)
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: The signs are missing: a weight that is minus its bucket pulls it the other way.
    """
    gradient = np.array([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    places, signs = np.array([[0, 2, 0], [2, 0, 1]]), np.array([[1, -1, -1], [-1, 1, 1]])
    buckets = 5  # no weight takes the last two
    answer = _numbers(call(bucket_gradient, gradient.copy(), places.copy(), signs.copy(), buckets))
    expect(
        answer.shape == (buckets,),
        f"Return one number for each of the {buckets} buckets, also for those that no weight takes; not an array of "
        f"shape {list(answer.shape)}.",
    )

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(places.ravel(), values.ravel(), minlength=buckets)

    right, last, unsigned = total(signs * gradient), np.zeros(buckets), np.zeros(buckets)
    last[places] += signs * gradient
    unsigned[places] += gradient
    counts = np.maximum(np.bincount(places.ravel(), minlength=buckets), 1)
    mistakes = {
        "The signs are missing: a weight that is minus its bucket pulls it the other way.": total(gradient),
        "Of the weights that share a bucket only the last one is left. `total[places] += ...` adds once for each "
        "bucket; use np.add.at, np.bincount or a loop.": last,
        "That is the mean. The bucket stands in the loss once for each weight that takes it: their gradients add up.": (
            right / counts
        ),
        "Every sign is turned around.": -right,
        "The signs are missing. And: of the weights that share a bucket only the last one is left.": unsigned,
        "The signs are missing. And: that is the mean; the gradients add up.": total(gradient) / counts,
    }
    if not np.allclose(answer, right):
        for hint, wrong in mistakes.items():
            expect(not np.allclose(answer, wrong), hint)
        place = int(np.flatnonzero(~np.isclose(answer, right))[0])
        expect(
            False,
            f"Bucket {place} gets {answer[place]:g}; it should be {right[place]:g}. Places are {places.tolist()}, "
            f"signs {signs.tolist()}, gradients {gradient.tolist()}.",
        )
    passed("every weight pulls at its bucket, with its sign.")


_PLACES = {
    "": lambda x, scale, low, high: _integers(x, scale, low, high) == (x / scale).round(),
    "It passes outside the range too. There x / scale is clipped, and no small step of x changes the result.": (
        lambda x, scale, low, high: torch.ones_like(x, dtype=torch.bool)
    ),
    "The range is one of integers, and you compare x with it. Divide by the scale first.": (
        lambda x, scale, low, high: (x >= low) & (x <= high)
    ),
    "The first and the last integer are part of the range: <= and >=.": (
        lambda x, scale, low, high: ((x / scale).round() > low) & ((x / scale).round() < high)
    ),
    "Round before you compare: what rounds to the last integer is not clipped.": (
        lambda x, scale, low, high: (x / scale >= low) & (x / scale <= high)
    ),
    "Turned around: it passes where nothing is clipped.": (
        lambda x, scale, low, high: _integers(x, scale, low, high) != (x / scale).round()
    ),
}
"""{mistake: where the gradient passes}; the right place has no hint."""

_WAYS = {
    "": lambda gradient, scale: gradient,
    "The scale is in the gradient. Divided by it and multiplied by it again, x has the derivative 1.": (
        lambda gradient, scale: gradient * scale
    ),
    "The gradient is divided by the scale. Divided by it and multiplied by it again, x has the derivative 1.": (
        lambda gradient, scale: gradient / scale
    ),
    "That says where it passes. Times the gradient that arrives.": (
        lambda gradient, scale: torch.ones_like(gradient)
    ),
}
"""{mistake: what passes}."""

_VALUES = {
    "The result is not clipped: below `low` and above `high` there are no integers.": (
        lambda x, scale, low, high: (x / scale).round() * scale
    ),
    "These are the integers. Multiply by the scale again.": lambda x, scale, low, high: _integers(
        x, scale, low, high
    ),
    "x is cut off, not rounded: floor and int() go down or towards zero.": (
        lambda x, scale, low, high: (x / scale).trunc().clamp(low, high) * scale
    ),
    "x is cut off, not rounded: floor goes down.": (
        lambda x, scale, low, high: (x / scale).floor().clamp(low, high) * scale
    ),
    "x is rounded without its scale. Divide by the scale first.": (
        lambda x, scale, low, high: x.round().clamp(low, high)
    ),
    "x is clipped at the integers, before it is divided by the scale.": (
        lambda x, scale, low, high: (x.clamp(low, high) / scale).round() * scale
    ),
}


def _integers(x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    return (x / scale).round().clamp(low, high)


@exercise(
    again="Begin with a forward that only rounds, and a backward that returns the gradient as it arrives. Which x must "
    "not pass it on, and what does backward have to know of them?",
    read="A gradient where there is none",
)
def check_my_rounding(my_rounding: Callable[[Tensor, Tensor, int, int], Tensor]) -> None:
    """Check a learner's `my_rounding(x, scale, low, high)`, a straight-through rounding, and train with it.

    Raises:
        NotYet: the answer is not right, or does not train; the message names the likely mistake, or two.

    Example:
        >>> check_my_rounding(lambda x, scale, low, high: (x / scale).round().clamp(low, high) * scale)
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: That is the derivative of rounding: 0 everywhere, and nothing is learned. Pass it on.
    """
    x = torch.tensor([[-9.0, -3.6, -3.5], [-1.4, 0.1, 0.8], [3.5, 3.8, 20.0]], requires_grad=True)
    gradient = torch.tensor([[1.0, 2.0, -3.0], [4.0, -5.0, 6.0], [7.0, 8.0, 9.0]])
    scale, low, high = torch.full((3, 1), 0.5), -7, 7
    answer = call(my_rounding, x, scale, low, high)
    expect(
        isinstance(answer, Tensor),
        f"The result is a {type(answer).__name__}; return a tensor, as apply() does.",
    )
    expect(
        answer.shape == x.shape,
        f"The result has shape {list(answer.shape)}; x has {list(x.shape)}, and so must it.",
    )
    expect(answer.dtype == x.dtype, f"The result has dtype {answer.dtype}; x has {x.dtype}, and so must it.")
    _check_values(answer.detach(), x.detach(), scale, low, high)
    expect(
        answer.requires_grad,
        "The result has no gradient at all. Return what apply() of your Function gives; detach nothing on the way.",
    )
    found = call(torch.autograd.grad, answer, x, gradient, allow_unused=True)[0]
    expect(found is not None, "No gradient arrives at x. Return it first in backward, in the place of x.")
    _check_gradient(found, x.detach(), gradient, scale, low, high)
    reached = call(chapter08_trained.trained_at_two_bits, my_rounding)
    expect(
        reached >= chapter08_trained.TARGET,
        f"Trained with your function, at two bits, the MLP reaches {100 * reached:.1f} % on validation images; "
        f"{100 * chapter08_trained.TARGET:.0f} % are wanted. Is anything kept from one call to the next?",
    )
    passed(
        "it rounds and clips, lets the gradient pass where nothing is clipped, and two bits learn with it."
    )


def _check_values(values: Tensor, x: Tensor, scale: Tensor, low: int, high: int) -> None:
    right = _integers(x, scale, low, high) * scale
    if torch.allclose(values, right, atol=1e-5):
        return
    expect(not values.isnan().any(), "The result holds NaN.")
    expect(not torch.equal(values, x), "The result is x itself. Forward has to round.")
    for hint, wrong in _VALUES.items():
        expect(not torch.allclose(values, wrong(x, scale, low, high), atol=1e-5), hint)
    place = int((values - right).abs().argmax())
    expect(
        False,
        f"x = {x.flatten()[place]:g} with scale 0.5 and integers from {low} to {high} becomes "
        f"{values.flatten()[place]:g}; it should be {right.flatten()[place]:g}.",
    )


def _check_gradient(found: Tensor, x: Tensor, gradient: Tensor, scale: Tensor, low: int, high: int) -> None:
    right = gradient * _PLACES[""](x, scale, low, high)
    if torch.allclose(found, right, atol=1e-5):
        return
    expect(
        found.any(),
        "That is the derivative of rounding: 0 everywhere, and nothing is learned. Pass it on.",
    )
    for one, place in _PLACES.items():
        for other, way in _WAYS.items():
            wrong = way(gradient, scale) * place(x, scale, low, high)
            expect(not torch.allclose(found, wrong, atol=1e-5), " And: ".join(filter(None, (one, other))))
    at = int((found - right).abs().argmax())
    expect(
        False,
        f"At x = {x.flatten()[at]:g}, with scale 0.5 and integers from {low} to {high}, the gradient is "
        f"{found.flatten()[at]:g}; it should be {right.flatten()[at]:g}.",
    )


def _numbers(answer: Any) -> np.ndarray:
    """A learner's numbers as an array; what is none answers plainly."""
    if isinstance(answer, Tensor):
        answer = answer.detach().numpy()
    try:
        found = np.asarray(answer, dtype=float)
    except (TypeError, ValueError):
        raise NotYet(f"Return numbers; {answer!r:.60} is a {type(answer).__name__}.") from None
    expect(not np.isnan(found).any(), "The result holds NaN.")
    return found
