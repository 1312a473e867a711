"""Checks of the exercises of chapter 06, post-training quantization."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from course_lib.checks import call, exercise, expect, passed

_UNSIGNED = 255  # the largest integer of the exercises, which are about uint8


@exercise(
    again="Widen the range so that it holds zero. 255 steps lie between its ends, and the zero point is the "
    "whole number on which 0.0 falls.",
    read="The mapping for seven numbers",
)
def check_range_to_integers(range_to_integers: Callable[[float, float], tuple[float, int]]) -> None:
    """Check a learner's asymmetric map to uint8, `range_to_integers(low, high) -> (scale, zero_point)`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> check_range_to_integers(lambda low, high: (high - low) / 255)
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: Return two numbers: scale and zero point.
    """
    for low, high in ((-1.0, 3.0), (-0.3, 0.2), (2.0, 6.0), (-5.0, -1.0)):
        answer = call(range_to_integers, low, high)
        shown = f"range_to_integers({low:g}, {high:g})"
        expect(
            isinstance(answer, Sequence | np.ndarray) and len(answer) == 2,
            "Return two numbers: scale and zero point.",
        )
        scale, zero_point = (float(part) for part in answer)
        wide_low, wide_high = min(low, 0.0), max(high, 0.0)
        right = (wide_high - wide_low) / _UNSIGNED
        scales = {
            "256 integers have 255 steps between them: divide by 255.": (wide_high - wide_low) / 256,
            "The range does not hold 0. Widen it first, so that 0 has an integer of its own.": (high - low)
            / _UNSIGNED,
            "That is the symmetric scale for int8, max(|low|, |high|) / 127.": max(-low, high) / 127,
            "Upside down: the scale is the real distance of two neighbouring integers.": 1 / right,
        }
        if not math.isclose(scale, right, rel_tol=1e-6):
            for hint, wrong in scales.items():
                expect(not math.isclose(scale, wrong, rel_tol=1e-6), f"{shown}: {hint}")
            expect(False, f"{shown} gives the scale {scale:g}; it should be {right:g}.")
        exact = -wide_low / right
        expect(
            zero_point == round(exact) or abs(zero_point + exact) > 0.5 or exact < 0.5,
            f"{shown}: the zero point has the wrong sign. It is the integer of 0, counted up from `low`.",
        )
        expect(
            zero_point == round(zero_point),
            f"{shown}: the zero point {zero_point:g} is no whole number. Round it, or 0 has no integer.",
        )
        expect(
            zero_point == round(exact),
            f"{shown} gives the zero point {zero_point:g}; it should be {round(exact)}, since {-wide_low:g} / "
            f"{right:.5f} = {exact:.2f}.",
        )
    passed("scale and zero point, and 0 always has an integer of its own.")


@exercise(
    again="In this order: divide by the scale, round half to even (np.rint), add the zero point, clip to 0 and "
    "255.",
    read="The mapping for seven numbers",
)
def check_to_integers(to_integers: Callable[[Sequence[float], float, int], Sequence[int]]) -> None:
    """Check a learner's quantization to uint8, `to_integers(values, scale, zero_point) -> integers`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> check_to_integers(lambda values, scale, zero_point: np.rint(values / scale) + zero_point)
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: Values outside the range must saturate: clip to [0, 255].
    """
    values, scale = np.array([-9.0, -0.75, -0.25, 0.0, 0.25, 0.4, 0.75, 1.25, 999.0]), 0.5
    for zero_point in (3, 4):
        answer = np.asarray(call(to_integers, values.copy(), scale, zero_point), dtype=float)
        expect(
            answer.shape == values.shape,
            f"Return {len(values)} integers, one for each value; not {list(answer.shape)}.",
        )
        steps = values / scale
        right = np.clip(np.rint(steps) + zero_point, 0, _UNSIGNED)
        mistakes = {
            "Values outside the range must saturate: clip to [0, 255].": np.rint(steps) + zero_point,
            "Integers above 255 must saturate too: clip at both ends.": np.maximum(
                np.rint(steps) + zero_point, 0
            ),
            "Outside the range your integers wrap around instead of saturating. Clip before you convert.": (
                np.rint(steps) + zero_point
            )
            % 256,
            "Round to the nearest integer; cutting off the fraction moves every value towards 0.": np.clip(
                np.trunc(steps) + zero_point, 0, _UNSIGNED
            ),
            "Rounding down moves every value by half a step on average. Round to the nearest.": np.clip(
                np.floor(steps) + zero_point, 0, _UNSIGNED
            ),
            "Halves go to the even integer (np.round, torch.round); yours go up.": np.clip(
                np.floor(steps + 0.5) + zero_point, 0, _UNSIGNED
            ),
            "Round first, then add the zero point: an odd one turns the halves around.": np.clip(
                np.rint(steps + zero_point), 0, _UNSIGNED
            ),
            "The zero point is missing.": np.clip(np.rint(steps), 0, _UNSIGNED),
            "These are the integers of signed int8. uint8 runs from 0 to 255.": np.clip(
                np.rint(steps) + zero_point, -128, 127
            ),
        }
        if not np.array_equal(answer, right):
            for hint, wrong in mistakes.items():
                expect(not np.array_equal(answer, wrong), hint)
            place = int(np.flatnonzero(answer != right)[0])
            expect(
                False,
                f"{values[place]:g} with scale {scale} and zero point {zero_point} gives {answer[place]:g}; "
                f"it should be {right[place]:g}.",
            )
    passed("rounded to the nearest, halves to even, and saturated at both ends.")


@exercise(
    again="np.cumsum(counts) over their sum says what share each bin reaches. Take the first bin with at least "
    "percent / 100, and its left edge: its index times the width.",
    read="Wide or narrow",
)
def check_percentile_threshold(percentile_threshold: Callable[[Sequence[int], float, float], float]) -> None:
    """Check a learner's threshold, `percentile_threshold(counts, width, percent) -> threshold`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> check_percentile_threshold(lambda counts, width, percent: len(counts) * width)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: percentile_threshold(...): That is the largest value: nothing is clipped. Add up ...
    """
    counts, width = np.array([50, 30, 0, 15, 4, 1]), 0.25
    for percent, place in ((90.0, 3), (75.0, 1), (80.0, 1), (99.5, 5)):
        answer = float(call(percentile_threshold, counts.copy(), width, percent))
        right = place * width
        shown = f"percentile_threshold({counts.tolist()}, {width}, {percent:g})"
        mistakes = {
            "That is the right edge of the bin. The value lies somewhere in it; NVIDIA's rule takes the left edge.": (
                right + width
            ),
            "That is the number of the bin. Times the width it is a value.": float(place),
            "That is the largest value: nothing is clipped. Add up the counts from the left.": len(counts)
            * width,
            "That many percent of the *range*. It is the share of the *values* that counts.": percent
            / 100
            * len(counts)
            * width,
            '"At least" that share: a bin that reaches it exactly is the one.': (
                int(np.searchsorted(counts.cumsum(), percent, side="right")) * width
            ),
            "You add up from the right: that is where the first values lie, not the last.": (
                int(np.searchsorted(counts[::-1].cumsum(), percent)) * width
            ),
        }
        if not math.isclose(answer, right, abs_tol=1e-9):
            for hint, wrong in mistakes.items():
                expect(not math.isclose(answer, wrong, abs_tol=1e-9), f"{shown}: {hint}")
            expect(False, f"{shown} gives {answer:g}; it should be {right:g}.")
    passed("the left edge of the bin in which the share of the values is reached.")


@exercise(
    again="Cast to int32 before anything else. The sum over weight * (x - x_zero_point), plus the bias; times "
    "the multiplier; rint; plus y_zero_point; clip.",
    read="A neuron in integers",
)
def check_integer_neuron(
    integer_neuron: Callable[[Sequence[int], int, Sequence[int], int, float, int], int],
) -> None:
    """Check a learner's integer neuron, `integer_neuron(x, x_zero_point, weight, bias, multiplier, y_zero_point)`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> def neuron(x, x_zero_point, weight, bias, multiplier, y_zero_point):
        ...     total = (weight.astype(int) * (x.astype(int) - x_zero_point)).sum()
        ...     return round(total * multiplier) + y_zero_point
        >>> check_integer_neuron(neuron)
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: The bias is missing.
    """
    cases = [
        ([200, 180, 3], 10, [90, -120, 7], 9100, 0.01, 128),
        ([255, 255, 255], 0, [127, 127, 127], -80_000, 0.02, 0),
        ([0, 40, 5], 20, [-3, 5, 1], 36, 0.5, 3),  # a sum of 181, and 90.5 goes to 90
    ]
    for x, x_zero, weight, bias, multiplier, y_zero in cases:
        answer = call(
            integer_neuron, np.array(x, np.uint8), x_zero, np.array(weight, np.int8), bias, multiplier, y_zero
        )
        q, w = np.array(x, np.int64), np.array(weight, np.int64)
        total = int((w * (q - x_zero)).sum()) + bias

        def integer(total: float, multiplier: float = multiplier, y_zero: int = y_zero) -> float:
            return float(np.clip(np.rint(total * multiplier) + y_zero, 0, _UNSIGNED))

        right = integer(total)
        wrapped = int(np.sum((w * (q - x_zero)).astype(np.int8), dtype=np.int8)) + bias
        with np.errstate(over="ignore"):
            raw = int((np.array(weight, np.int8) * (np.array(x, np.uint8) - np.uint8(x_zero))).sum()) + bias
        narrow_bias = int(np.int64(bias).astype(np.int8))
        mistakes = {
            "The products do not fit into 8 bits. Convert to a wider integer (int32) before you multiply.": integer(
                wrapped
            ),
            "x minus its zero point wraps around in uint8. Convert to int32 before you subtract.": integer(
                raw
            ),
            "The zero point of x is not subtracted.": integer(int((w * q).sum()) + bias),
            "The bias is missing.": integer(total - bias),
            "The bias is cut to 8 bits; it belongs to the sum, in 32 bits.": integer(
                total - bias + narrow_bias
            ),
            "The zero point of y is missing, or added before the multiplication.": integer(total, y_zero=0),
            "Add the zero point of y after the multiplication.": float(
                np.clip(np.rint((total + y_zero) * multiplier), 0, _UNSIGNED)
            ),
            "Halves go to the even integer (round, np.rint); yours go up.": float(
                np.clip(np.floor(total * multiplier + 0.5) + y_zero, 0, _UNSIGNED)
            ),
            "Round to the nearest; int() cuts the fraction off.": float(
                np.clip(np.trunc(total * multiplier) + y_zero, 0, _UNSIGNED)
            ),
            "Saturate: clip to [0, 255] at the end.": float(np.rint(total * multiplier) + y_zero),
        }
        if float(answer) != right:
            for hint, wrong in mistakes.items():
                expect(float(answer) != wrong, hint)
            expect(
                False,
                f"integer_neuron({x}, {x_zero}, {weight}, {bias}, {multiplier}, {y_zero}) gives {answer}; it should be "
                f"{right:g}, from a sum of {total:,}.",
            )
    passed("a 32-bit sum of 8-bit products, brought back to 8 bits.")
