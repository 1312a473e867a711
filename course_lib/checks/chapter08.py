"""Checks of the exercises of chapter 08: low rank, hashing, and training with quantization in the loop."""

from collections.abc import Callable, Sequence

import numpy as np

from course_lib.checks import call, exercise, expect, judge, passed


@exercise(
    again="Write the condition R (m + n) < m n in whole numbers: the largest R is (m n - 1) // (m + n).",
    read="Low rank: a matrix as two thin ones",
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
    again="Square the values, add them up from the front, divide by the sum, count how many reach the share.",
    read="Low rank: a matrix as two thin ones",
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
    again="Start from zeros, one for each bucket. Add gradient * sign at the place of each weight: np.add.at.",
    read="Hashing: few numbers, many places",
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
    answer = np.asarray(
        call(bucket_gradient, gradient.copy(), places.copy(), signs.copy(), buckets), dtype=float
    )
    expect(
        answer.shape == (buckets,),
        f"Return one number for each of the {buckets} buckets, also for those that no weight takes; not an array of "
        f"shape {list(answer.shape)}.",
    )

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(places.ravel(), values.ravel(), minlength=buckets)

    right, last = total(signs * gradient), np.zeros(buckets)
    last[places] += signs * gradient
    counts = np.maximum(np.bincount(places.ravel(), minlength=buckets), 1)
    mistakes = {
        "The signs are missing: a weight that is minus its bucket pulls it the other way.": total(gradient),
        "Of the weights that share a bucket only the last one is left. `total[places] += ...` adds once for each "
        "bucket; use np.add.at, np.bincount or a loop.": last,
        "That is the mean. The bucket stands in the loss once for each weight that takes it: their gradients add up.": (
            right / counts
        ),
        "Every sign is turned around.": -right,
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


@exercise(
    again="The gradient passes unchanged where round(x / s) lies in the range, ends included, and is 0 elsewhere.",
    read="Rounding: a gradient where there is none",
)
def check_gradient_of_rounding(
    gradient_of_rounding: Callable[[np.ndarray, np.ndarray, float, int, int], Sequence[float]],
) -> None:
    """Check a learner's straight-through gradient, `gradient_of_rounding(gradient, x, scale, low, high)`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> check_gradient_of_rounding(lambda gradient, x, scale, low, high: gradient[:3])
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: Return 9 gradients, one for each x; not [3].
    """
    x = np.array([-9.0, -3.6, -3.5, -1.4, 0.1, 2.5, 3.5, 3.8, 20.0])
    gradient = np.array([1.0, 2.0, -3.0, 4.0, -5.0, 6.0, 7.0, 8.0, 9.0])
    scale, low, high = 0.5, -7, 7
    answer = np.asarray(call(gradient_of_rounding, gradient.copy(), x.copy(), scale, low, high), dtype=float)
    expect(answer.shape == x.shape, f"Return {len(x)} gradients, one for each x; not {list(answer.shape)}.")
    integers = np.rint(x / scale)
    right = gradient * ((integers >= low) & (integers <= high))
    mistakes = {
        "That is the derivative that rounding has: 0 everywhere, and nothing would be learned. Let it pass.": 0
        * gradient,
        "It passes outside the range too. There x / scale is clipped, and no small step of x changes the result.": (
            gradient
        ),
        "The range is one of integers, and you compare x with it. Divide by the scale first.": gradient
        * ((x >= low) & (x <= high)),
        "The first and the last integer are part of the range: <= and >=.": gradient
        * ((integers > low) & (integers < high)),
        "Round before you compare: what rounds to the last integer is not clipped.": gradient
        * ((x / scale >= low) & (x / scale <= high)),
        "Turned around: it passes where nothing is clipped.": gradient - right,
        "The scale is in the gradient. Divided by it and multiplied by it again, x has the derivative 1.": right
        * scale,
        "The gradient is divided by the scale. Divided by it and multiplied by it again, x has the derivative 1.": right
        / scale,
        "That says where it passes. Times the gradient that arrives.": (right != 0).astype(float),
    }
    if not np.allclose(answer, right):
        for hint, wrong in mistakes.items():
            expect(not np.allclose(answer, wrong), hint)
        place = int(np.flatnonzero(~np.isclose(answer, right))[0])
        expect(
            False,
            f"x = {x[place]:g} with scale {scale} and integers from {low} to {high} gets {answer[place]:g}; it should "
            f"be {right[place]:g}.",
        )
    passed("it passes where nothing is clipped, and is 0 where it is.")
