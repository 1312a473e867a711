"""Intervals: laws, values worked by hand, a second derivation, and every error."""

import math
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from course_lib import statistics
from course_lib.statistics import (
    Interval,
    correlation,
    correlation_difference,
    mean_interval,
    paired_difference,
)

numbers = st.floats(-1e3, 1e3)
samples = st.lists(numbers, min_size=2, max_size=12)
confidences = st.floats(0.05, 0.999)

few_resamples = mock.patch("course_lib.statistics._RESAMPLES", 100)  # where only the estimate matters


def close(first: Interval, second: Interval, *, scale: float = 1.0) -> None:
    ends = [first.mean, first.low, first.high], [second.mean, second.low, second.high]
    np.testing.assert_allclose(*ends, rtol=1e-9, atol=1e-9 * max(scale, 1.0))
    assert first.n == second.n


def reach(values: list[float]) -> float:
    """The size of the numbers in play, for tolerances. With two values, Student's t reaches 600 times their spread."""
    return 1e3 * max(1.0, *map(abs, values))


# The interval itself


def test_a_percentage_is_written_once_and_the_ends_in_the_same_unit():
    assert f"{Interval(0.731, 0.7193, 0.7427, 5):.1%}" == "73.1 % [71.9, 74.3]"


def test_a_sign_in_the_specification_reaches_all_three_numbers():
    assert f"{Interval(0.35, 0.1, 0.6, 5):+.2f}" == "+0.35 [+0.10, +0.60]"
    assert f"{Interval(-0.051, -0.1, 0.0, 5):+.1%}" == "-5.1 % [-10.0, +0.0]"


def test_without_a_specification_four_significant_digits_are_shown():
    interval = Interval(0.123456, -1234.56, 1.0, 3)
    assert f"{interval}" == str(interval) == "0.1235 [-1235, 1]"


def test_an_unknown_specification_is_refused():
    with pytest.raises(ValueError, match="Invalid format"):
        format(Interval(0.0, 0.0, 0.0, 2), "seven")


def test_the_ends_belong_to_the_interval():
    interval = Interval(0.2, 0.1, 0.3, 4)
    assert all(value in interval for value in (0.1, 0.2, 0.3))
    assert 0.0999 not in interval
    assert 0.3001 not in interval


@pytest.mark.parametrize(
    ("low", "high", "excluded"), [(0.1, 0.3, True), (-0.3, -0.1, True), (-0.1, 0.3, False)]
)
def test_zero_is_excluded_from_either_side(low, high, excluded):
    assert Interval(0.1, low, high, 4).excludes() is excluded


def test_a_boundary_at_the_value_does_not_exclude_it():
    assert not Interval(0.1, 0.0, 0.2, 4).excludes(0.0)
    assert Interval(0.1, 0.0, 0.2, 4).excludes(0.21)


def test_an_interval_cannot_be_altered():
    with pytest.raises(AttributeError):
        Interval(0.0, 0.0, 0.0, 2).mean = 1.0


# The mean over seeds


def test_worked_example():
    # 1, 2, 3: mean 2, s = 1, s / sqrt(3) = 0.57735, t(0.975, 2) = 4.302653 from any table: half width 2.48414.
    interval = mean_interval([1, 2, 3])
    assert interval.n == 3
    assert interval.mean == 2
    assert interval.low == pytest.approx(2 - 2.48414, abs=1e-5)
    assert interval.high == pytest.approx(2 + 2.48414, abs=1e-5)


def test_two_values_have_a_closed_form():
    # One degree of freedom is the Cauchy distribution: t = tan(pi * confidence / 2); s / sqrt(2) = |a - b| / 2.
    interval = mean_interval([0.0, 2.0], 0.9)
    assert interval.high - interval.mean == pytest.approx(math.tan(math.pi * 0.45))


@settings(deadline=None)
@given(samples, confidences)
def test_scipy_derives_the_same_interval_from_its_t_test(values, confidence):
    assume(np.ptp(values) > 1e-3)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(confidence)
    close(
        mean_interval(values, confidence),
        Interval(float(np.mean(values)), float(expected.low), float(expected.high), len(values)),
        scale=reach(values),
    )


@settings(deadline=None)
@given(samples, confidences)
def test_the_mean_lies_in_the_middle(values, confidence):
    interval = mean_interval(values, confidence)
    assert interval.mean in interval
    assert interval.high - interval.mean == pytest.approx(
        interval.mean - interval.low, abs=1e-12 * reach(values)
    )


@settings(deadline=None)
@given(samples, numbers, st.floats(-10, 10))
def test_shifting_and_scaling_the_values_shifts_and_scales_the_interval(values, shift, factor):
    before = mean_interval(values)
    after = mean_interval([factor * value + shift for value in values])
    low, high = sorted((factor * before.low + shift, factor * before.high + shift))
    expected = Interval(factor * before.mean + shift, low, high, before.n)
    close(after, expected, scale=reach([*values, shift]) * max(1.0, abs(factor)))


@settings(deadline=None)
@given(samples)
def test_more_confidence_is_a_wider_interval(values):
    assume(np.ptp(values) > 1e-3)
    widths = [i.high - i.low for i in (mean_interval(values, c) for c in (0.5, 0.9, 0.95, 0.99))]
    assert widths == sorted(set(widths))


@settings(deadline=None)
@given(samples, st.randoms(use_true_random=False))
def test_the_order_of_the_runs_does_not_matter(values, random):
    shuffled = random.sample(values, len(values))
    close(mean_interval(values), mean_interval(shuffled), scale=reach(values))


@settings(deadline=None)
@given(numbers, st.integers(2, 9))
def test_equal_values_have_a_zero_width_interval(value, n):
    interval = mean_interval([value] * n)
    assert interval.high - interval.low == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_of_many_intervals_the_promised_share_holds_the_truth(confidence):
    runs = np.random.default_rng(0).normal(0.7, 0.02, size=(2000, 5))
    share = np.mean([0.7 in mean_interval(row, confidence) for row in runs])
    assert share == pytest.approx(confidence, abs=4 * math.sqrt(confidence * (1 - confidence) / 2000))


@pytest.mark.parametrize(
    "values",
    [
        (0.5, 0.75, 1.0),
        np.array([0.5, 0.75, 1.0], dtype=np.float32),
        torch.tensor([0.5, 0.75, 1.0], requires_grad=True),
        [torch.tensor(0.5), torch.tensor(0.75), torch.tensor(1.0)],
        pd.Series([0.5, 0.75, 1.0], index=[7, 8, 9]),
    ],
    ids=["tuple", "array", "tensor", "tensors", "column"],
)
def test_any_row_of_numbers_will_do(values):
    assert mean_interval(values) == mean_interval([0.5, 0.75, 1.0])


def test_the_values_are_left_alone():
    values = np.array([3.0, 1.0, 2.0])
    mean_interval(values)
    correlation(values, values**2)
    assert values.tolist() == [3.0, 1.0, 2.0]


# Paired differences


def test_worked_example_of_students_sleep_data():
    # Additional hours of sleep from two drugs (Student 1908): mean difference 1.58, s 1.230, t(0.975, 9) 2.262157.
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    difference = paired_difference(second, first)
    assert f"{difference:+.2f}" == "+1.58 [+0.70, +2.46]"
    assert difference.n == 10
    assert difference.excludes(0)


@settings(deadline=None)
@given(samples, confidences)
def test_nothing_differs_from_itself(values, confidence):
    assert paired_difference(values, values, confidence) == Interval(0.0, 0.0, 0.0, len(values))


pairs = st.lists(st.tuples(numbers, numbers), min_size=2, max_size=12)


@settings(deadline=None)
@given(pairs)
def test_the_other_order_is_the_other_sign(rows):
    a, b = zip(*rows, strict=True)
    there, back = paired_difference(a, b), paired_difference(b, a)
    close(there, Interval(-back.mean, -back.high, -back.low, back.n), scale=reach([*a, *b]))


@settings(deadline=None)
@given(pairs, numbers)
def test_what_a_pair_shares_cancels(rows, shared):
    a, b = zip(*rows, strict=True)
    noise = [shared * position for position in range(len(rows))]
    noisy = paired_difference(np.add(a, noise), np.add(b, noise))
    close(noisy, paired_difference(a, b), scale=reach([*a, *b, *noise]))


def test_pairs_belong_together_by_position():
    a = [0.1, 0.5, 0.9]
    assert paired_difference(a, [0.0, 0.4, 0.8]).excludes(0)
    assert not paired_difference(a, [0.8, 0.4, 0.0]).excludes(0)


def test_the_confidence_of_a_difference_is_the_one_asked_for():
    a, b = [1.0, 2.0, 4.0], [0.0, 0.0, 0.0]
    assert paired_difference(a, b, 0.5) == mean_interval(a, 0.5)


# Correlation


@few_resamples
def test_kendall_of_five_worked_by_hand():
    # Of the ten pairs of 1 2 3 4 5 with 2 1 3 5 4, two are out of order: tau = (8 - 2) / 10.
    # Spearman: 1 - 6 * sum d^2 / (n (n^2 - 1)) = 1 - 6 * 4 / 120.
    x, y = [1, 2, 3, 4, 5], [2, 1, 3, 5, 4]
    assert correlation(x, y, "kendall").mean == pytest.approx(0.6)
    assert correlation(x, y, "spearman").mean == pytest.approx(0.8)
    assert correlation(x, y, "pearson").mean == pytest.approx(0.8)


@few_resamples
def test_pearson_sees_lines_and_spearman_sees_rankings():
    x = np.arange(1.0, 9.0)
    assert correlation(x, x**5, "spearman").mean == pytest.approx(1)
    assert correlation(x, x**5, "kendall").mean == pytest.approx(1)
    assert correlation(x, x**5, "pearson").mean == pytest.approx(np.corrcoef(x, x**5)[0, 1])
    assert correlation(x, x**5, "pearson").mean < 0.9


@few_resamples
@pytest.mark.parametrize("method", ["pearson", "spearman", "kendall"])
def test_a_perfect_relation_has_no_width(method):
    x = [0.1, 0.4, 0.2, 0.9]
    up, down = correlation(x, x, method), correlation(x, [-v for v in x], method)
    np.testing.assert_allclose([up.mean, up.low, up.high], 1)
    np.testing.assert_allclose([down.mean, down.low, down.high], -1)
    assert up.n == 4


@pytest.fixture(scope="module")
def scatter():
    rng = np.random.default_rng(5)
    x = rng.normal(size=30)
    return x, 0.75 * x + math.sqrt(1 - 0.75**2) * rng.normal(size=30)


def test_the_interval_agrees_with_fishers_formula(scatter):
    # atanh(r) is nearly normal with variance 1 / (n - 3): another road to the same interval.
    interval = correlation(*scatter)
    middle, half = math.atanh(interval.mean), 1.96 / math.sqrt(30 - 3)
    assert interval.low == pytest.approx(math.tanh(middle - half), abs=0.12)
    assert interval.high == pytest.approx(math.tanh(middle + half), abs=0.06)


def test_the_interval_agrees_with_a_bootstrap_of_whole_pairs(scatter):
    x, y = scatter
    rows = np.random.default_rng(99).integers(30, size=(4000, 30))
    drawn = [np.corrcoef(x[row], y[row])[0, 1] for row in rows]
    interval = correlation(x, y, confidence=0.8)
    assert [interval.low, interval.high] == pytest.approx(np.quantile(drawn, [0.1, 0.9]), abs=0.02)


def test_each_resample_is_ranked_by_itself():
    x, y = np.random.default_rng(2).integers(0, 9, size=(2, 20, 7)).astype(float)
    expected = [stats.spearmanr(*rows).statistic for rows in zip(x, y, strict=True)]
    np.testing.assert_allclose(statistics._spearman(x, y), expected)


@pytest.mark.parametrize("method", ["pearson", "spearman", "kendall"])
@few_resamples
def test_a_difference_of_correlations_is_their_difference(method, scatter):
    x, y = scatter
    other = np.random.default_rng(7).normal(size=30)
    found = correlation_difference(x, other, y, method)
    assert found.mean == pytest.approx(correlation(x, y, method).mean - correlation(other, y, method).mean)
    turned = correlation_difference(other, x, y, method)
    assert [turned.mean, turned.low, turned.high] == pytest.approx([-found.mean, -found.high, -found.low])
    assert found.n == 30


def test_the_difference_draws_all_three_figures_of_a_run_together(scatter):
    x, y = scatter
    nearly = x + 0.05 * np.random.default_rng(3).normal(size=30)
    found = correlation_difference(nearly, x, y)
    alone = correlation(x, y)
    assert found.high - found.low < 0.3 * (alone.high - alone.low)  # what they share cancels
    rows = np.random.default_rng(99).integers(30, size=(4000, 30))
    drawn = [np.corrcoef(nearly[r], y[r])[0, 1] - np.corrcoef(x[r], y[r])[0, 1] for r in rows]
    assert [found.low, found.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.01)


@pytest.mark.bad_input
def test_a_difference_of_correlations_needs_three_figures_a_run():
    with pytest.raises(ValueError, match="x holds 3 numbers and other 2"):
        correlation_difference([1, 2, 3], [1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="x holds 3 numbers and y 4"):
        correlation_difference([1, 2, 3], [3, 1, 2], [1, 2, 3, 4])
    with pytest.raises(ValueError, match="other is 1 in all 3 places"):
        correlation_difference([1, 2, 3], [1, 1, 1], [1, 3, 2])
    with pytest.raises(ValueError, match="unknown method 'pearsons'"):
        correlation_difference([1, 2, 3], [1, 3, 1], [1, 3, 2], "pearsons")
    with pytest.raises(ValueError, match="finite"):
        correlation_difference([1, 2, math.nan], [1, 3, 1], [1, 3, 2])


def test_unrelated_figures_do_not_exclude_zero(scatter):
    assert not correlation(scatter[0], np.random.default_rng(1).normal(size=30)).excludes(0)
    assert correlation(*scatter).excludes(0)


def test_the_same_seed_gives_the_same_interval(scatter):
    assert correlation(*scatter, seed=3) == correlation(*scatter, seed=3)
    assert correlation(*scatter, seed=3).low != correlation(*scatter, seed=4).low


steps = st.integers(-100, 100)  # whole numbers stay apart when they are shifted and scaled


@pytest.mark.parametrize("method", ["pearson", "spearman", "kendall"])
@settings(deadline=None, max_examples=10)
@given(st.lists(st.tuples(steps, steps), min_size=3, max_size=6))
def test_correlation_stays_within_its_bounds_and_does_not_mind_the_unit(method, rows):
    x, y = np.array(rows).T
    assume(np.ptp(x) and np.ptp(y))
    with few_resamples:
        interval, other_unit = correlation(x, y, method), correlation(0.5 * x + 1, 8 * y - 3, method)
        reversed_y = correlation(x, -y, method)
    assert -1 <= interval.low <= interval.high <= 1
    close(interval, other_unit)
    assert reversed_y.mean == pytest.approx(-interval.mean)


@settings(deadline=None)
@given(st.lists(st.tuples(steps, steps), min_size=3, max_size=12))
def test_scipy_ranks_alike(rows):
    x, y = np.array(rows).T
    assume(np.ptp(x) and np.ptp(y))
    with few_resamples:
        assert correlation(x, y, "spearman").mean == pytest.approx(stats.spearmanr(x, y).statistic)


@pytest.mark.filterwarnings("error")
def test_resamples_without_variation_are_left_out_silently():
    # With three pairs, a third of the resamples have x = 0 throughout.
    interval = correlation([0, 0, 1], [0, 1, 2])
    assert -1 <= interval.low <= interval.high <= 1


def test_more_confidence_is_a_wider_correlation_interval(scatter):
    narrow, wide = correlation(*scatter, confidence=0.5), correlation(*scatter, confidence=0.99)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


# Bad input

one_dimensional = [
    ([[1.0, 2.0]], r"values has shape \[1, 2\]; it must be \[n\]"),
    (0.7, r"values has shape \[\]"),
    (
        [0.5, math.nan, 0.6],
        r"values\[1\] is nan; every number must be finite. Look for the run that diverged",
    ),
    ([math.inf, 0.5], r"values\[0\] is inf"),
    ([0.71], "values holds 1 number; at least 2 are needed. One run has no interval.*Run more seeds"),
    ([], "values holds 0 numbers; at least 2 are needed"),
]


@pytest.mark.bad_input
@pytest.mark.parametrize(("values", "message"), one_dimensional)
def test_what_has_no_mean_interval_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        mean_interval(values)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "values", ["0.7 0.8", ["0.7", "0.8"], [True, False], [1j, 2.0], {0.7, 0.8}, None, [[1.0], [1.0, 2.0]]]
)
def test_what_is_not_numbers_is_refused(values):
    with pytest.raises(TypeError, match=r"values is .* must be a list, array or tensor of numbers"):
        mean_interval(values)


@pytest.mark.bad_input
@pytest.mark.parametrize("confidence", [0, 1, 95, -0.5, math.nan])
def test_a_confidence_outside_its_range_is_refused(confidence):
    for call in (
        lambda: mean_interval([0.1, 0.2], confidence),
        lambda: paired_difference([0.1, 0.2], [0.1, 0.3], confidence),
        lambda: correlation([1, 2, 3], [1, 3, 2], confidence=confidence),
    ):
        with pytest.raises(ValueError, match=f"confidence is {confidence}.*Write 0.95 for 95 %"):
            call()


@pytest.mark.bad_input
def test_a_confidence_that_is_not_a_number_is_refused():
    with pytest.raises(TypeError, match=r"confidence is '95 %' \(str\); it must be a number"):
        mean_interval([0.1, 0.2], "95 %")


@pytest.mark.bad_input
def test_pairs_of_different_length_are_refused():
    with pytest.raises(ValueError, match=r"a holds 3 numbers and b 2; they must be pairs.*same seeds"):
        paired_difference([0.1, 0.2, 0.3], [0.1, 0.2])
    with pytest.raises(ValueError, match="x holds 3 numbers and y 4; they must be pairs"):
        correlation([1, 2, 3], [1, 2, 3, 4])


@pytest.mark.bad_input
def test_a_number_that_is_not_finite_is_named_by_its_own_list():
    with pytest.raises(ValueError, match=r"b\[1\] is nan"):
        paired_difference([0.1, 0.2], [0.1, math.nan])
    with pytest.raises(ValueError, match=r"y\[0\] is -inf"):
        correlation([1, 2, 3], [-math.inf, 2, 3])


@pytest.mark.bad_input
def test_too_few_pairs_are_refused():
    with pytest.raises(ValueError, match="a and b hold 1 each; at least 2 pairs are needed"):
        paired_difference([0.1], [0.2])
    with pytest.raises(ValueError, match="x and y hold 2 each; at least 3 pairs are needed"):
        correlation([1, 2], [2, 1])


@pytest.mark.bad_input
def test_constant_input_has_no_correlation():
    with pytest.raises(
        ValueError, match=r"y is 0\.5 in all 3 places; correlation is defined only where both vary"
    ):
        correlation([1, 2, 3], [0.5, 0.5, 0.5])


@pytest.mark.bad_input
def test_an_unknown_method_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"unknown method 'Spearmann'. Did you mean 'spearman'"):
        correlation([1, 2, 3], [1, 3, 2], "Spearmann")


@pytest.mark.bad_input
@pytest.mark.parametrize(("seed", "error"), [(-1, ValueError), (0.5, TypeError), (None, TypeError)])
def test_a_seed_is_a_whole_number(seed, error):
    with pytest.raises(error, match="seed is"):
        correlation([1, 2, 3], [1, 3, 2], seed=seed)


@pytest.mark.bad_input
def test_membership_of_nan_is_not_a_question():
    with pytest.raises(ValueError, match="value is nan"):
        Interval(0.0, -1.0, 1.0, 3).excludes(math.nan)


# The test images in the interval


def test_an_interval_over_seeds_and_images_checked_by_hand():
    values, parts = [0.70, 0.74, 0.73], [0.60, 0.80, 0.70, 0.79]
    seeds, images = np.var(values, ddof=1) / 3, np.var(parts, ddof=1) / 4
    freedom = (seeds + images) ** 2 / (seeds**2 / 2 + images**2 / 3)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(seeds + images)
    interval = mean_interval(values, parts=parts)
    assert (interval.high - interval.low) / 2 == pytest.approx(half)
    assert interval.mean == pytest.approx(np.mean(values))
    assert paired_difference(values, [0, 0, 0], parts=parts) == interval


def test_intervals_with_images_hold_the_accuracy_on_all_images():
    """Seeds alone hold it too rarely: all runs are judged on the same 400 images."""
    generator = np.random.default_rng(0)
    held = {"seeds": 0, "seeds and images": 0}
    for _ in range(400):
        hardness = generator.normal(size=400)  # of the test images, for all runs alike
        quality = 0.5 + 0.1 * generator.normal(size=5)
        right = (generator.normal(size=(5, 400)) * 0.3 + quality[:, None] > hardness).astype(float)
        parts = right.mean(0).reshape(20, 20).mean(1)
        truth = stats.norm.cdf(0.5 / math.sqrt(1 + 0.1**2 + 0.3**2))
        held["seeds"] += truth in mean_interval(right.mean(1))
        held["seeds and images"] += truth in mean_interval(right.mean(1), parts=parts)
    assert held["seeds and images"] / 400 > 0.93
    assert held["seeds"] / 400 < 0.9


@pytest.mark.bad_input
@pytest.mark.parametrize("parts", [[0.5], [], [0.5, math.nan]])
def test_parts_that_say_nothing_are_refused(parts):
    with pytest.raises(ValueError, match="parts"):
        mean_interval([0.1, 0.2], parts=parts)


# The bootstrap interval of a mean


def test_the_bootstrap_of_a_mean_is_that_of_scipy():
    values = np.random.default_rng(1).exponential(size=40)
    interval = statistics.bootstrap_mean(values)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=9999, rng=0)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(theirs.confidence_interval.low, abs=0.02)
    assert interval.high == pytest.approx(theirs.confidence_interval.high, abs=0.02)
    assert interval.n == 40
    assert statistics.bootstrap_mean(values) == interval
    narrow = statistics.bootstrap_mean(values, confidence=0.5)
    assert interval.low < narrow.low < narrow.high < interval.high


@pytest.mark.bad_input
@pytest.mark.parametrize("values", [[0.5], [], [0.5, math.nan], ["a", "b"]])
def test_the_bootstrap_of_no_mean_is_refused(values):
    with pytest.raises((TypeError, ValueError), match="values"):
        statistics.bootstrap_mean(values)
