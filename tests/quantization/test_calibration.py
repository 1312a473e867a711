"""Histograms that do not depend on how data arrive, and thresholds beside those of NVIDIA's formulas."""

import contextlib
import io
import math
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnxruntime.quantization.calibrate import HistogramCollector

from course_lib.quantization import calibration
from course_lib.quantization.affine import choose_params, fake_quantize
from course_lib.quantization.calibration import METHODS, PUBLISHED, Histogram
from tests.quantization import reference

reals = st.one_of(*[st.floats(-size, size, width=32) for size in (2.0**127, 8, 2.0**-120)])
data = arrays.arrays(np.float32, st.integers(1, 40), elements=reals)
bins = st.sampled_from([2, 3, 7, 16, 2048])


def histogram_of(x, bins=2048):
    histogram = Histogram(bins)
    histogram.update(torch.as_tensor(x))
    return histogram


def state(histogram):
    """All that a histogram knows."""
    return (
        histogram.counts.tolist(),
        histogram.width,
        histogram.count,
        histogram.zeros,
        histogram.minimum,
        histogram.maximum,
    )


def sample(name, count=100_000):
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(count, generator=generator)
    uniform = torch.rand(count, generator=generator)
    return {
        "normal": normal,
        "relu": normal.relu(),
        "laplace": -uniform.log() * normal.sign(),
        "heavy": normal / uniform.sqrt(),  # now and then far out
        "uniform": uniform,
        "silu": normal * normal.sigmoid(),
        "two peaks": torch.where(uniform < 0.01, 20 + normal, normal),
    }[name]


SHAPES = ["normal", "relu", "laplace", "heavy", "uniform", "silu", "two peaks"]


# ---- counting ------------------------------------------------------------------------------------------------------


def test_counts_by_hand():
    histogram = Histogram(4)
    histogram.update(torch.tensor([0.5, -1.0, 3.75]))
    assert (histogram.width, histogram.counts.tolist()) == (1, [1, 1, 0, 1])
    assert histogram.edges.tolist() == [0, 1, 2, 3, 4]
    assert histogram.largest == 3.75
    histogram.update(torch.tensor([[-4.0], [0.0]]))  # does not fit: pairs merge
    assert (histogram.width, histogram.counts.tolist()) == (2, [3, 1, 1])
    histogram.update(torch.tensor(33.0))  # three doublings at once
    assert (histogram.width, histogram.counts.tolist()) == (16, [5, 0, 1])
    assert (histogram.count, histogram.minimum, histogram.maximum) == (6, -4, 33)
    assert repr(histogram) == "Histogram(bins=4): 6 values in [-4, 33]"
    assert histogram.edges.tolist() == [0, 16, 32, 48]
    empty = Histogram()
    assert (repr(empty), empty.largest, empty.counts.tolist()) == ("Histogram(bins=2048): empty", 0, [0])


@given(data, bins)
def test_each_value_is_counted_in_its_bin_and_the_last_lies_in_the_upper_half(values, bins):
    histogram = histogram_of(values, bins)
    sizes = np.abs(values.astype(np.float64))
    expected = np.bincount((sizes / histogram.width).astype(np.int64))
    assert histogram.counts.tolist() == expected.tolist()
    assert histogram.counts.dtype == np.int64
    assert math.frexp(histogram.width)[0] == 0.5
    assert histogram.largest == sizes.max()
    if sizes.max():
        assert bins * histogram.width / 2 <= sizes.max() < bins * histogram.width


@given(data, bins, st.data())
def test_batches_and_their_order_make_no_difference(values, bins, draw):
    order = draw.draw(st.permutations(range(len(values))))
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(values)), max_size=4)))
    parts = np.split(values[order], cuts)
    batched, merged = Histogram(bins), Histogram(bins)
    for part in parts:
        batched.update(torch.from_numpy(part))
        merged.merge(histogram_of(part, bins))
    assert state(batched) == state(merged) == state(histogram_of(values, bins))


def test_merging_leaves_the_other_as_it_is():
    first, second = histogram_of([1.0, 2.0]), histogram_of([-300.0])
    before = state(second)
    first.merge(second)
    assert state(second) == before
    assert state(first) == state(histogram_of([1.0, 2.0, -300.0]))
    first.merge(first)
    assert state(first) == state(histogram_of([1.0, 2.0, -300.0] * 2))
    empty = Histogram()
    empty.merge(Histogram())
    assert state(empty) == state(Histogram())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_count_as_the_float32_numbers_they_are(dtype):
    x = sample("normal", 1000).to(dtype)
    assert state(histogram_of(x)) == state(histogram_of(x.float()))


def test_updates_take_any_shape_and_change_nothing_else():
    x = sample("normal", 24).requires_grad_()
    before = x.detach().clone()
    shaped = histogram_of(x.reshape(2, 3, 4).transpose(0, 2))
    assert state(shaped) == state(histogram_of(before))
    assert torch.equal(x, before)
    kept = state(shaped)
    shaped.update(torch.zeros(0, 3))
    assert state(shaped) == kept


@pytest.mark.parametrize("name", ["relu", "normal"])
def test_asking_never_changes_the_answer(name, monkeypatch):
    def clear(counts, width, **_):
        counts[:] = 0
        return width

    monkeypatch.setitem(METHODS, "clear", clear)
    histogram = histogram_of(sample(name, 5000))
    before = state(histogram)
    histogram.counts[:] = 0
    histogram.edges[:] = 0
    answers = [[histogram.threshold(method) for method in METHODS] for _ in range(2)]
    assert answers[0] == answers[1]
    assert state(histogram) == before


def test_counts_beyond_32_bits_are_exact():
    x = sample("normal", 1001)
    histogram = histogram_of(x)
    before = {method: histogram.threshold(method) for method in METHODS}
    once = histogram.counts
    for _ in range(40):
        histogram.merge(histogram)
    assert {method: histogram.threshold(method) for method in METHODS} == before
    histogram.update(x)
    assert histogram.count == 1001 * (2**40 + 1)
    assert (histogram.counts == once * (2**40 + 1)).all()


# ---- thresholds beside those of others -----------------------------------------------------------------------------


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", SHAPES)
def test_thresholds_are_those_of_the_formulas_bin_by_bin(name, bits, signed):
    histogram = histogram_of(sample(name, 99_991), 512)  # no percentage of a prime number is met exactly
    counts, width, levels = histogram.counts, histogram.width, 2 ** (bits - signed)
    for method, expected in {
        "percentile": reference.percentile(counts, width, 99.99),
        "mse": reference.mse(counts, width, levels),
        "entropy": reference.entropy(counts, width, levels),
        "published entropy": reference.entropy(counts, width, levels),
        "max": len(counts) * width,
    }.items():
        found = histogram.threshold(method, bits=bits, signed=signed)
        assert found == min(expected, histogram.largest), method


def test_thresholds_of_2048_bins_are_those_of_the_formulas():
    histogram = histogram_of(sample("relu"))
    counts, width = histogram.counts, histogram.width
    assert histogram.threshold("entropy") == reference.entropy(counts, width, 128)
    assert histogram.threshold("mse") == reference.mse(counts, width, 128)


def rough_counts(levels, seed, top, empty, falling):
    """Counts of which some or most are 0, but not the last, in just enough bins or twice as many."""
    generator = np.random.default_rng(seed)
    length = generator.integers(max(levels, 128) + 1, 2 * max(levels, 128))
    counts = np.where(generator.random(length) < empty, 0, generator.integers(1, top, length))
    counts = (counts * np.exp(-np.arange(length) / falling)).astype(np.int64)
    counts[-1] = max(counts[-1], 1)
    return counts


@given(
    st.sampled_from([2, 16, 128, 256]),
    st.integers(0, 2**32 - 1),
    st.sampled_from([2, 50, 10**6]),
    st.sampled_from([0, 0.3, 0.9, 0.99]),
    st.sampled_from([10, 50, 1e6]),
)
@settings(max_examples=100)
def test_no_candidate_is_better_on_any_histogram(levels, seed, top, empty, falling):
    counts = rough_counts(levels, seed, top, empty, falling)
    before = counts.copy()
    place = METHODS["mse"](counts, 1.0, levels=levels) - 0.5
    kept = PUBLISHED["published entropy"](counts, 1.0, levels=levels)
    assert (counts == before).all()
    errors = reference.squared_errors(counts, levels)
    assert errors[place] <= min(errors.values()) * (1 + 1e-9) + 1e-12
    divergences = reference.divergences(counts, levels)
    assert divergences[kept] <= min(divergences.values()) + 1e-12


@pytest.mark.parametrize("seed", range(3))
def test_fewer_bins_than_levels_are_tried_too(seed):
    random = np.random.default_rng(seed)
    counts = np.concatenate([random.integers(100, 1000, 200), random.integers(1, 9, 200)])
    expected = reference.entropy(counts, 1.0, 256)
    assert PUBLISHED["published entropy"](counts, 1.0, levels=256) == expected < 256


@pytest.mark.parametrize("percent", [50, 90, 99.9, 99.99])
@pytest.mark.parametrize("name", SHAPES)
def test_percentiles_are_those_of_onnx_runtime(name, percent):
    histogram = histogram_of(sample(name))
    collector = HistogramCollector("percentile", True, histogram.bins, 128, percent, "same")
    edges = histogram.edges.astype(np.float32)
    largest = np.float32(histogram.largest)
    collector.histogram_dict["x"] = (histogram.counts, edges, -largest, largest)
    with contextlib.redirect_stdout(io.StringIO()):
        _, expected, *_ = collector.compute_percentile()["x"]
    assert histogram.threshold("percentile", percentile=percent) == max(expected, histogram.width)


def test_percentiles_by_hand():
    x = torch.cat([torch.linspace(0, 1, 9_995), torch.full((5,), 100.0)])
    histogram = histogram_of(x)
    assert histogram.width == 1 / 16
    assert histogram.threshold("percentile") == 100
    assert histogram.threshold("percentile", percentile=99.9) == 15 / 16  # the left edge: it clips some more
    assert histogram.threshold("percentile", percentile=50) == 0.5  # the 5,000th is 0.5002
    assert histogram.threshold("percentile", percentile=100) == 100


def test_a_percentile_among_zeros_is_not_zero():
    x = torch.zeros(100_000)
    x[0] = 3.0
    assert histogram_of(x).threshold("percentile") == 2.0**-9  # one bin


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("name", ["normal", "laplace", "two peaks"])
def test_the_mse_threshold_loses_the_least_of_the_data_themselves(name, bits):
    x = sample(name, 20_000)
    histogram = histogram_of(x)

    def loss(threshold):
        params = choose_params(-threshold, threshold, bits=bits, symmetric=True)
        return (x - fake_quantize(x, params)).square().mean().item()

    least = min(loss(threshold) for threshold in torch.linspace(0.1, 1, 200) * x.abs().max())
    assert loss(histogram.threshold("mse", bits=bits)) <= 1.01 * least
    assert all(loss(histogram.threshold(method, bits=bits)) >= 0.99 * least for method in METHODS)


# ---- laws of thresholds --------------------------------------------------------------------------------------------


@given(data, st.sampled_from(list(METHODS)), st.integers(2, 8), st.booleans(), st.floats(1, 100))
def test_thresholds_lie_above_zero_and_clip_nothing_that_is_not_there(
    values, method, bits, signed, percentile
):
    histogram = histogram_of(values)
    largest = float(np.abs(values).max())
    found = histogram.threshold(method, bits=bits, signed=signed, percentile=percentile)
    assert 0 < found <= largest or found == largest == 0
    if method == "max":
        assert found == largest
    assert found == histogram_of(-values).threshold(method, bits=bits, signed=signed, percentile=percentile)


@pytest.mark.parametrize("power", [-140, -100, -1, 3, 100, 123])
@pytest.mark.parametrize("method", METHODS)
def test_thresholds_go_with_the_unit_of_the_data(method, power):
    x = sample("normal", 5000).half().float()  # whose digits also the smallest float32 numbers can hold
    x[x.abs() < 0.25] = 0.25
    scaled = (x.double() * 2.0**power).float()
    if power == -140:
        x = scaled.double() / 2.0**power  # what the rounding has left
    assert histogram_of(scaled).threshold(method) == histogram_of(x).threshold(method) * 2.0**power


@pytest.mark.parametrize("size", [1e-30, 5.0, 1e30])
@pytest.mark.parametrize("method", METHODS)
def test_constants_are_met_within_a_bin(method, size):
    histogram = histogram_of(torch.full((100,), -size))
    found = histogram.threshold(method)
    assert abs(found - np.float32(size)) <= histogram.width
    low, high = histogram.range(method)
    assert (-np.float32(size) <= low < 0, high) == (True, 0)


def test_percentiles_rise():
    histogram = histogram_of(sample("heavy"))
    found = [histogram.threshold("percentile", percentile=p) for p in (1, 50, 99, 99.9, 99.99, 100)]
    assert found == sorted(set(found))


def test_zeros_do_not_move_the_entropy_threshold():
    x = sample("relu", 10_000)
    more = torch.cat([x, torch.zeros(1_000_000)])
    assert histogram_of(x).threshold("entropy") == histogram_of(more).threshold("entropy")


@pytest.mark.parametrize("method", METHODS)
def test_zeros_alone_have_the_threshold_zero(method):
    histogram = histogram_of(torch.zeros(5))
    assert histogram.threshold(method) == 0
    assert histogram.range(method) == (0, 0)
    assert choose_params(*histogram.range(method), symmetric=False).scale == 1


# ---- ranges --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_ranges_follow_the_sign_of_the_data(method):
    relu = histogram_of(sample("relu"))
    threshold = relu.threshold(method, signed=False)
    assert relu.range(method) == (0, threshold)
    assert relu.range(method, signed=True) == (0, relu.threshold(method))
    assert histogram_of(-sample("relu")).range(method) == (-threshold, 0)
    assert histogram_of(sample("relu") + 1).range(method)[0] == 0

    normal = histogram_of(sample("normal"))
    threshold = normal.threshold(method)
    assert normal.range(method) == (max(-threshold, normal.minimum), min(threshold, normal.maximum))

    silu = histogram_of(sample("silu"))  # its minimum is -0.28
    assert silu.range(method) == (silu.minimum, silu.threshold(method))


@given(data, st.sampled_from(list(METHODS)))
def test_ranges_hold_zero_and_make_parameters(values, method):
    histogram = histogram_of(values)
    low, high = histogram.range(method, bits=4)
    assert min(histogram.minimum, 0) <= low <= 0 <= high <= max(histogram.maximum, 0)
    if method == "max":
        assert (low, high) == (min(histogram.minimum, 0), max(histogram.maximum, 0))
    choose_params(low, high, bits=4, symmetric=False)
    symmetric = choose_params(low, high, bits=4, symmetric=True, signed=True)
    same = choose_params(-max(-low, high), max(-low, high), bits=4, symmetric=True)
    assert symmetric.scale == same.scale


# ---- methods of one's own ------------------------------------------------------------------------------------------


def test_the_method_in_the_documentation_works(monkeypatch):
    monkeypatch.setattr(calibration, "METHODS", METHODS | {})
    code = textwrap.dedent(calibration.__doc__.split("beside the others::\n")[1])
    exec(code, vars(calibration) | {})
    assert set(calibration.METHODS) - set(METHODS) == {"three sigma"}
    assert histogram_of(sample("normal")).threshold("three sigma") == pytest.approx(3, rel=0.01)
    assert histogram_of([1.0, 1.0]).threshold("three sigma") == 1  # never beyond the largest value


@pytest.mark.parametrize("answer", [math.nan, math.inf, -1.0])
def test_a_method_that_gives_no_threshold_is_named(answer, monkeypatch):
    monkeypatch.setitem(METHODS, "mine", lambda counts, width, **_: answer)
    with pytest.raises(ValueError, match="the threshold of method 'mine' is"):
        histogram_of([1.0]).threshold("mine")


# ---- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ([1.0], TypeError, r"x is a list; it must be a torch\.Tensor"),
        (torch.tensor([1]), TypeError, r"x has dtype torch\.int64; .*float"),
        (torch.tensor([1, torch.nan]), ValueError, "x holds NaN; .*counted nothing"),
        (torch.tensor([9, torch.inf]), ValueError, "x holds infinity"),
        (torch.tensor([9, -torch.inf]), ValueError, "x holds infinity"),
        (torch.tensor([1e300], dtype=torch.float64), ValueError, r"x holds infinity \(in float32\)"),
    ],
)
def test_what_cannot_be_counted_is_refused_and_changes_nothing(x, error, message):
    histogram = histogram_of([1.0, 2.0])
    before = state(histogram)
    with pytest.raises(error, match=message):
        histogram.update(x)
    assert state(histogram) == before


@pytest.mark.bad_input
def test_histograms_that_do_not_match_are_not_merged():
    with pytest.raises(TypeError, match="other is a list; it must be a Histogram"):
        Histogram().merge([1])
    with pytest.raises(ValueError, match="other has 64 bins and this histogram 2048"):
        Histogram().merge(Histogram(64))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("count", "error"), [(1, ValueError), (0, ValueError), (2.0, TypeError), ("9", TypeError)]
)
def test_bins_must_be_at_least_two(count, error):
    with pytest.raises(error, match="bins is"):
        Histogram(count)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("method", "options", "error", "message"),
    [
        ("entropi", {}, ValueError, "unknown calibration method 'entropi'. Did you mean 'entropy'"),
        (None, {}, ValueError, "unknown calibration method None"),
        ("max", {"bits": 1}, ValueError, "bits is 1; it must be from 2 to 16"),
        ("max", {"bits": 17}, ValueError, "bits is 17"),
        ("max", {"bits": 8.0}, TypeError, "bits is 8.0"),
        ("max", {"signed": "int8"}, TypeError, "signed is 'int8'"),
        ("percentile", {"percentile": 0}, ValueError, r"percentile is 0.0; .*\(0, 100\]"),
        ("percentile", {"percentile": 100.1}, ValueError, r"percentile is 100.1"),
        ("percentile", {"percentile": math.nan}, ValueError, "percentile is nan"),
        ("percentile", {"percentile": "99"}, TypeError, "percentile is '99'"),
    ],
)
def test_questions_that_make_no_sense_are_refused(method, options, error, message):
    histogram = histogram_of([1.0])
    for ask in (histogram.threshold, histogram.range):
        with pytest.raises(error, match=message):
            ask(method, **options)


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_histogram_has_no_threshold(method):
    for ask in (Histogram().threshold, Histogram().range):
        with pytest.raises(ValueError, match=r"the histogram is empty; .*update\(\)"):
            ask(method)


@pytest.mark.parametrize("method", ["mse", "entropy"])
@pytest.mark.parametrize(
    ("bits", "signed", "enough"), [(8, True, 256), (8, False, 512), (4, True, 256), (10, True, 1024)]
)
def test_too_few_bins_for_so_many_levels_are_said_so(method, bits, signed, enough):
    for largest in (1.0, 1.9):  # of the bins half are in use, or nearly all
        assert histogram_of([largest], enough).threshold(method, bits=bits, signed=signed) > 0
    largest = 1 - 2 / enough
    few = histogram_of([largest], enough - 2)
    with pytest.raises(ValueError, match=rf"too few .* Histogram\(bins={enough}\) always has"):
        few.threshold(method, bits=bits, signed=signed)
    assert few.threshold("max", bits=bits, signed=signed) == largest
