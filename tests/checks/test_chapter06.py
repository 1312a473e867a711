"""Each check refuses typical wrong answers, each with the hint that names the mistake, or two that come together."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from course_lib.checks import NotYet, chapter06
from course_lib.checks.ways import judge_ways, ways
from tests.checks import solutions

RIGHT = solutions.of("06")
to_map, integers = RIGHT["range-to-integers"], RIGHT["to-integers"]
threshold, neuron = RIGHT["percentile-threshold"], RIGHT["integer-neuron"]
folded, convolve = RIGHT["fold"], RIGHT["quantized-conv2d"]


def refused(check, wrong, hint):
    with pytest.raises(NotYet) as error:
        check(wrong)
    told = str(error.value).splitlines()[0]
    assert hint in told, told


def test_the_answers_of_the_notebook_are_right(capsys):
    for name, answer in RIGHT.items():
        if hasattr(chapter06, check := f"check_{name.replace('-', '_')}"):
            getattr(chapter06, check)(answer)
    assert capsys.readouterr().out.count("Correct") == 6


def test_other_right_answers_are_accepted():
    chapter06.check_range_to_integers(lambda *case: [torch.tensor(v) for v in to_map(*case)])
    chapter06.check_range_to_integers(lambda *case: torch.tensor(to_map(*case), dtype=torch.float64))
    chapter06.check_range_to_integers(lambda *case: np.array(to_map(*case)))
    chapter06.check_to_integers(
        lambda v, s, z, bits: (torch.as_tensor(v) / s).round().add(z).clamp(0, 2**bits - 1).to(torch.uint8)
    )
    chapter06.check_percentile_threshold(
        lambda counts, width, percent: (
            np.searchsorted(np.cumsum(counts) / np.sum(counts), percent / 100) * width
        )
    )
    chapter06.check_integer_neuron(lambda *case: torch.tensor(neuron(*case)))
    chapter06.check_fold(lambda conv, norm: list(folded(conv, norm)))


def with_scale(scale, low):
    return scale, round(-min(low, 0) / scale)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda low, high, b: with_scale((max(high, 0) - min(low, 0)) / 2**b, low), "2**bits - 1"),
        (lambda low, high, b: (to_map(low, high, 8)[0], to_map(low, high, 8)[1]), "255 whatever"),
        (
            lambda low, high, b: ((high - low) / (2**b - 1), round(-low / (high - low) * (2**b - 1))),
            "Widen it",
        ),
        (lambda low, high, b: (max(-low, high) / (2 ** (b - 1) - 1), 0), "symmetric scale"),
        (lambda low, high, b: (1 / to_map(low, high, b)[0], to_map(low, high, b)[1]), "Upside down"),
        (lambda low, high, b: (to_map(low, high, b)[0], -to_map(low, high, b)[1]), "wrong sign"),
        (
            lambda low, high, b: (to_map(low, high, b)[0], to_map(low, high, b)[1] - 2 ** (b - 1)),
            "signed integers",
        ),
        (
            lambda low, high, b: (to_map(low, high, b)[0], -min(low, 0) / to_map(low, high, b)[0]),
            "no whole number",
        ),
        (lambda low, high, b: (to_map(low, high, b)[0], 0), "symmetric map, 0"),
        (lambda low, high, b: (0.1, 0), "should be [0.0156"),
        (lambda low, high, b: (0.1, 0, 0), "two numbers"),
        (lambda low, high, b: 0.1, "two numbers"),
        (lambda low, high, b: (torch.ones(3), 0), "must be a number"),
        (lambda low, high, b: (float("nan"), 0), "finite"),
        (lambda low, high, b: None, "returned None"),
        (
            lambda low, high, b: (
                (max(high, 0) - min(low, 0)) / 2**b,
                round(min(low, 0) / ((max(high, 0) - min(low, 0)) / 2**b)),
            ),
            "2**bits - 1. And: The zero point has the wrong sign",
        ),
    ],
)
def test_range_to_integers_names_the_mistake(wrong, hint):
    refused(chapter06.check_range_to_integers, wrong, hint)


def clipped(q, bits):
    return np.clip(q, 0, 2**bits - 1)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda v, s, z, b: np.round(v / s) + z, "must saturate"),
        (lambda v, s, z, b: np.maximum(np.round(v / s) + z, 0), "at both ends"),
        (lambda v, s, z, b: (np.round(v / s) + z) % 2**b, "wrap around"),
        (lambda v, s, z, b: clipped(np.trunc(v / s) + z, b), "cutting off the fraction"),
        (lambda v, s, z, b: clipped(np.floor(v / s) + z, b), "Rounding down"),
        (lambda v, s, z, b: clipped(np.floor(v / s + 0.5) + z, b), "to the even integer"),
        (lambda v, s, z, b: clipped(np.round(v / s + z), b), "Round first"),
        (lambda v, s, z, b: clipped(np.round(v / s), b), "zero point is missing"),
        (lambda v, s, z, b: np.clip(np.round(v / s) + z, -(2 ** (b - 1)), 2 ** (b - 1) - 1), "signed map"),
        (lambda v, s, z, b: clipped(np.round(v * s) + z, b), "You multiply by the scale"),
        (lambda v, s, z, b: clipped(np.round(v / s) - z, b), "You subtract the zero point"),
        (lambda v, s, z, b: clipped(np.round(v / s), b) + z, "clip before the zero point"),
        (lambda v, s, z, b: np.clip(np.round(v / s) + z, 0, 255), "255 whatever"),
        (
            lambda v, s, z, b: clipped(np.round(v * s) - z, b),
            "multiply by the scale. Divide: how many steps is the",
        ),
        (lambda v, s, z, b: integers(v, s, z, b) + 1, "should be"),
        (lambda v, s, z, b: integers(v, s, z, b)[:3], "not [3]"),
        (lambda v, s, z, b: v * float("nan"), "NaN"),
        (lambda v, s, z, b: "q", "array of whole numbers"),
        (lambda v, s, z, b: None, "returned None"),
    ],
)
def test_to_integers_names_the_mistake(wrong, hint):
    refused(chapter06.check_to_integers, wrong, hint)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda c, w, p: threshold(c, w, p) + w, "the right edge"),
        (lambda c, w, p: threshold(c, w, p) + w / 2, "the centre"),
        (lambda c, w, p: threshold(c, w, p) / w, "the number of the bin"),
        (lambda c, w, p: len(c) * w, "the largest value"),
        (lambda c, w, p: p / 100 * len(c) * w, "of the *range*"),
        (lambda c, w, p: int(np.searchsorted(np.cumsum(c[::-1]), p)) * w, "from the right"),
        (lambda c, w, p: int(np.searchsorted(np.cumsum(c), p, side="right")) * w, "reaches it exactly"),
        (
            lambda c, w, p: int(np.searchsorted(np.cumsum(c), p, side="right")) + 0.0,
            "exactly is the one. And: That is the n",
        ),
        (lambda c, w, p: 0.2, "it should be 0.75"),
        (lambda c, w, p: "edge", "must be a number"),
        (lambda c, w, p: float("nan"), "finite"),
        (lambda c, w, p: None, "returned None"),
    ],
)
def test_percentile_threshold_names_the_mistake(wrong, hint):
    refused(chapter06.check_percentile_threshold, wrong, hint)


def sums(x, z, w, b, m, zy, *, total=None, after=lambda total, m, zy: np.clip(round(total * m) + zy, 0, 255)):
    exact = sum(int(a) * (int(q) - z) for a, q in zip(w, x, strict=True)) + b
    return after(exact if total is None else total, m, zy)


def ends(after):
    return lambda x, z, w, b, m, zy: sums(x, z, w, b, m, zy, after=after)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (
            lambda x, z, w, b, m, zy: sums(x, z, w, b, m, zy, total=int((w * (x - np.uint8(z))).sum()) + b),
            "wraps around in uint8",
        ),
        (ends(lambda t, m, zy: np.clip(np.floor(t * m + 0.5) + zy, 0, 255)), "yours go up"),
        (ends(lambda t, m, zy: np.clip(round(t * m + zy), 0, 255)), "Round first"),
        (lambda x, z, w, b, m, zy: sums(x, 0, w, b, m, zy), "not subtracted"),
        (lambda x, z, w, b, m, zy: sums(x, -z, w, b, m, zy), "is added; it must"),
        (lambda x, z, w, b, m, zy: sums(x, z, w, 0, m, zy), "bias is missing"),
        (lambda x, z, w, b, m, zy: sums(x, z, w, int(np.int64(b).astype(np.int8)), m, zy), "cut to 8 bits"),
        (lambda x, z, w, b, m, zy: sums(x, z, w, b, m, 0), "zero point of y is missing"),
        (ends(lambda t, m, zy: np.clip(round((t + zy) * m), 0, 255)), "after the multiplication"),
        (ends(lambda t, m, zy: np.clip(int(t * m) + zy, 0, 255)), "cutting off the fraction"),
        (ends(lambda t, m, zy: round(t * m) + zy), "Saturate"),
        (ends(lambda t, m, zy: (round(t * m) + zy) % 256), "wraps around in uint8. Clip"),
        (lambda x, z, w, b, m, zy: sums(x, 0, w, 0, m, zy), "not subtracted. And: The bias is missing"),
        (lambda x, z, w, b, m, zy: 77, "should be"),
        (lambda x, z, w, b, m, zy: x, "one integer"),
        (lambda x, z, w, b, m, zy: float("nan"), "finite"),
        (lambda x, z, w, b, m, zy: None, "returned None"),
    ],
)
def test_integer_neuron_names_the_mistake(wrong, hint):
    refused(chapter06.check_integer_neuron, wrong, hint)


def with_factor(factor, shift=lambda f, norm: norm.bias - f * norm.running_mean):
    def fold(conv, norm):
        f = factor(norm)
        return conv.weight * f[:, None, None, None], shift(f, norm)

    return fold


def usual(norm):
    return norm.weight / (norm.running_var + norm.eps).sqrt()


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (with_factor(lambda n: n.weight / n.running_var.sqrt()), "eps is missing"),
        (with_factor(lambda n: n.weight / (n.running_var.sqrt() + n.eps)), "under the root"),
        (with_factor(lambda n: n.weight / (n.running_var + n.eps)), "divide by the variance"),
        (with_factor(lambda n: 1 / (n.running_var + n.eps).sqrt()), "Gamma"),
        (with_factor(usual, lambda f, n: n.bias - n.running_mean), "through the factor too"),
        (with_factor(usual, lambda f, n: n.bias + f * n.running_mean), "wrong sign"),
        (with_factor(usual, lambda f, n: -f * n.running_mean), "Beta, the bias"),
        (with_factor(usual, lambda f, n: n.bias), "The mean is missing"),
        (with_factor(usual, lambda f, n: f * (n.bias - n.running_mean)), "Beta does not go"),
        (lambda conv, norm: (conv.weight * usual(norm), folded(conv, norm)[1]), "output channels"),
        (
            with_factor(lambda n: n.weight / n.running_var.sqrt(), lambda f, n: n.bias),
            "eps is missing: batch norm adds it to the variance. And: The mean",
        ),
        (lambda conv, norm: folded(conv, norm)[0], "two tensors"),
        (lambda conv, norm: (folded(conv, norm)[0][0], norm.bias), "shape [2, 3, 3]"),
        (lambda conv, norm: (conv.weight, norm.bias), "nothing is folded"),
        (lambda conv, norm: (1.0, norm.bias), "must be a tensor"),
        (lambda conv, norm: (folded(conv, norm)[0] * float("nan"), norm.bias), "should be"),
        (lambda conv, norm: None, "returned None"),
    ],
)
def test_fold_names_the_mistake(wrong, hint):
    refused(chapter06.check_fold, wrong, hint)


def test_folding_in_place_is_refused():
    def fold(conv, norm):
        weight, bias = folded(conv, norm)
        conv.weight.data = weight.detach()
        return weight, bias

    refused(chapter06.check_fold, fold, "layers have changed")


def conv(
    *,
    inside=lambda x, z, p: F.pad(x.double() - z, (p,) * 4),
    last=lambda q: q.clamp(0, 255).byte(),
    after=None,
    bias=True,
):
    def quantized_conv2d(x, z, w, b, m, zy):
        total = F.conv2d(inside(x, z, w.shape[-1] // 2), w.double(), b.double() if bias else None)
        if after:
            return last(after(total.float(), m[:, None, None], zy))
        return last((total.float() * m[:, None, None]).round() + zy)

    return quantized_conv2d


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (conv(inside=lambda x, z, p: F.pad(x.double(), (p,) * 4) - z), "does not stand for 0"),
        (conv(inside=lambda x, z, p: F.pad(x.double(), (p,) * 4)), "not subtracted"),
        (conv(inside=lambda x, z, p: F.pad((x - z).double(), (p,) * 4)), "wraps around in uint8. Convert"),
        (conv(bias=False), "bias is missing"),
        (conv(last=lambda q: (q % 256).byte()), "Clamp to [0, 255]"),
        (conv(after=lambda t, m, zy: (t * m).floor() + zy), "Rounding down"),
        (conv(after=lambda t, m, zy: (t * m).round()), "zero point of y is missing"),
        (conv(after=lambda t, m, zy: ((t + zy) * m).round()), "after the multiplication"),
        (conv(inside=lambda x, z, p: x.double() - z), "k // 2"),
        (conv(last=lambda q: q.clamp(0, 255)), "torch.uint8"),
        (
            conv(inside=lambda x, z, p: F.pad(x.double(), (p,) * 4), bias=False),
            "not subtracted. And: The bias",
        ),
        (lambda *case: convolve(*case) ^ 1, "should be"),
        (lambda *case: convolve(*case)[:, :2], "must be [2, 3, 5, 5]"),
        (lambda *case: 3, "Return a tensor"),
        (lambda *case: None, "returned None"),
    ],
)
def test_quantized_conv2d_names_the_mistake(wrong, hint):
    refused(chapter06.check_quantized_conv2d, wrong, hint)


def test_the_build_prints_both_figures(capsys):
    chapter06.check_integer_vgg(to_map, integers, folded, convolve)
    told = capsys.readouterr().out
    assert "in float32" in told
    assert "of the logits equal ONNX Runtime's" in told


def test_a_network_that_is_near_but_not_the_same_is_refused():
    rounds_down = conv(after=lambda t, m, zy: (t * m).floor() + zy)
    with pytest.raises(NotYet, match=r"logits equal"):
        chapter06.check_integer_vgg(to_map, integers, folded, rounds_down)


def test_a_network_that_is_far_off_says_so():
    no_bias = conv(bias=False)
    with pytest.raises(NotYet, match="Not within half a point"):
        chapter06.check_integer_vgg(to_map, integers, folded, no_bias)


def test_no_two_single_mistakes_give_the_same_answer_and_a_hint_explains_all_cases():
    parts = {"a": {"": 0, "one": 1, "two": 2}, "b": {"": 0, "ten": 10}}
    assert [hint for hint, _ in ways(parts)] == ["", "one", "two", "ten", "one And: ten", "two And: ten"]

    def compute(way, x):
        return x + way["a"] + way["b"] * x

    for answers, hint in (
        ([1, 2], None),
        ([2, 3], "one"),
        ([12, 23], "one And: ten"),
        ([2, 2], "it should be 1"),
    ):
        if hint is None:
            judge_ways("f", answers, [{"x": 1}, {"x": 2}], parts, compute)
            continue
        with pytest.raises(NotYet, match=hint):
            judge_ways("f", answers, [{"x": 1}, {"x": 2}], parts, compute)
