"""Each check refuses typical wrong answers, each with the hint that names the mistake."""

import numpy as np
import pytest
import torch

from course_lib.checks import NotYet, chapter06
from tests.checks import solutions

RIGHT = solutions.of("06")
to_map, integers = RIGHT["range-to-integers"], RIGHT["to-integers"]
threshold = RIGHT["percentile-threshold"]


def test_other_right_answers_are_accepted():
    chapter06.check_to_integers(
        lambda v, s, z: (torch.as_tensor(v) / s).round().add(z).clamp(0, 255).to(torch.uint8)
    )
    chapter06.check_percentile_threshold(
        lambda counts, width, percent: (
            np.searchsorted(np.cumsum(counts) / np.sum(counts), percent / 100) * width
        )
    )


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda low, high: ((max(high, 0) - min(low, 0)) / 256, 0), "divide by 255"),
        (lambda low, high: ((high - low) / 255, round(-low / (high - low) * 255)), "Widen it first"),
        (lambda low, high: (max(-low, high) / 127, 0), "symmetric scale"),
        (lambda low, high: (1 / to_map(low, high)[0], 0), "Upside down"),
        (lambda low, high: (to_map(low, high)[0], -to_map(low, high)[1]), "wrong sign"),
        (lambda low, high: (to_map(low, high)[0], -min(low, 0) / to_map(low, high)[0]), "no whole number"),
        (lambda low, high: (to_map(low, high)[0], 0), "it should be 64"),
        (lambda low, high: (0.1, 0), "gives the scale 0.1"),
        (lambda low, high: (0.1, 0, 0), "two numbers"),
        (lambda low, high: 0.1, "two numbers"),
        (lambda low, high: None, "returned None"),
    ],
)
def test_range_to_integers_names_the_mistake(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter06.check_range_to_integers(wrong)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda v, s, z: np.round(v / s) + z, "must saturate"),
        (lambda v, s, z: np.maximum(np.round(v / s) + z, 0), "at both ends"),
        (lambda v, s, z: (np.round(v / s) + z) % 256, "wrap around"),
        (lambda v, s, z: np.clip(np.trunc(v / s) + z, 0, 255), "cutting off the fraction"),
        (lambda v, s, z: np.clip(np.floor(v / s) + z, 0, 255), "Rounding down"),
        (lambda v, s, z: np.clip(np.floor(v / s + 0.5) + z, 0, 255), "to the even integer"),
        (lambda v, s, z: np.clip(np.round(v / s + z), 0, 255), "Round first"),
        (lambda v, s, z: np.clip(np.round(v / s), 0, 255), "zero point is missing"),
        (lambda v, s, z: np.clip(np.round(v / s) + z, -128, 127), "signed int8"),
        (lambda v, s, z: integers(v, s, z) + 1, "it should be 0"),
        (lambda v, s, z: integers(v, s, z)[:3], r"not \[3\]"),
        (lambda v, s, z: None, "returned None"),
    ],
)
def test_to_integers_names_the_mistake(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter06.check_to_integers(wrong)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda c, w, p: threshold(c, w, p) + w, "the right edge"),
        (lambda c, w, p: threshold(c, w, p) / w, "the number of the bin"),
        (lambda c, w, p: len(c) * w, "the largest value"),
        (lambda c, w, p: p / 100 * len(c) * w, r"of the \*range\*"),
        (lambda c, w, p: int(np.searchsorted(np.cumsum(c[::-1]), p)) * w, "from the right"),
        (lambda c, w, p: int(np.searchsorted(np.cumsum(c), p, side="right")) * w, "reaches it exactly"),
        (lambda c, w, p: 0.2, "it should be 0.75"),
        (lambda c, w, p: None, "returned None"),
    ],
)
def test_percentile_threshold_names_the_mistake(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter06.check_percentile_threshold(wrong)


def sums(x, z, w, b, m, zy, *, total=None, after=lambda total, m, zy: np.clip(round(total * m) + zy, 0, 255)):
    exact = sum(int(a) * (int(q) - z) for a, q in zip(w, x, strict=True)) + b
    return after(exact if total is None else total, m, zy)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (
            lambda x, z, w, b, m, zy: sums(
                x,
                z,
                w,
                b,
                m,
                zy,
                total=int((w.astype(np.int8) * (x - np.uint8(z)).astype(np.int8)).sum(dtype=np.int8)) + b,
            ),
            "wider integer",
        ),
        (
            lambda x, z, w, b, m, zy: sums(x, z, w, b, m, zy, total=int((w * (x - np.uint8(z))).sum()) + b),
            "wraps around in uint8",
        ),
        (
            lambda x, z, w, b, m, zy: sums(
                x, z, w, b, m, zy, after=lambda t, m, zy: np.clip(np.floor(t * m + 0.5) + zy, 0, 255)
            ),
            "yours go up",
        ),
        (lambda x, z, w, b, m, zy: sums(x, 0, w, b, m, zy), "zero point of x"),
        (lambda x, z, w, b, m, zy: sums(x, z, w, 0, m, zy), "bias is missing"),
        (lambda x, z, w, b, m, zy: sums(x, z, w, int(np.int64(b).astype(np.int8)), m, zy), "cut to 8 bits"),
        (lambda x, z, w, b, m, zy: sums(x, z, w, b, m, 0), "zero point of y is missing"),
        (
            lambda x, z, w, b, m, zy: sums(
                x, z, w, b, m, zy, after=lambda t, m, zy: np.clip(round((t + zy) * m), 0, 255)
            ),
            "after the multiplication",
        ),
        (
            lambda x, z, w, b, m, zy: sums(
                x, z, w, b, m, zy, after=lambda t, m, zy: np.clip(int(t * m) + zy, 0, 255)
            ),
            "cuts the fraction",
        ),
        (
            lambda x, z, w, b, m, zy: sums(x, z, w, b, m, zy, after=lambda t, m, zy: round(t * m) + zy),
            "Saturate",
        ),
        (lambda x, z, w, b, m, zy: 77, "it should be"),
        (lambda x, z, w, b, m, zy: None, "returned None"),
    ],
)
def test_integer_neuron_names_the_mistake(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter06.check_integer_neuron(wrong)
