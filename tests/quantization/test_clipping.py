"""How much a range clips: what entropy may, what is warned of, and the data on which published entropy collapses."""

import contextlib
import functools
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib import checkpoints, data, training
from course_lib.quantization import workflow
from course_lib.quantization.affine import choose_params, in_range
from course_lib.quantization.calibration import METHODS, PUBLISHED, ClippingWarning, Histogram
from course_lib.quantization.onnx import collect, export, quantize, run
from tests.quantization import reference

COLLAPSES = "glyphs-slimming-strong"  # whose layers 15, 18 and 21 the published formula clips to a tenth


def histogram_of(x):
    histogram = Histogram()
    histogram.update(x)
    return histogram


def samples(count=20_000):
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(count, generator=generator)
    uniform = torch.rand(count, generator=generator)
    return {
        "normal": normal,
        "relu": normal.relu(),
        "laplace": -uniform.log() * normal.sign(),
        "heavy": normal / uniform.sqrt(),
        "cauchy": (math.pi * (uniform - 0.5)).tan(),
        "log-normal": (2 * normal).exp(),
        "silu": normal * normal.sigmoid(),
        "relu6": (3 * normal + 3).clamp(0, 6),
        "pixels": (uniform * 255).round() / 255,
        "two far peaks": torch.where(uniform < 0.01, 20 + normal, normal),
        "constant": torch.full((count,), 5.0),
        "two values": torch.where(uniform < 0.5, 1.0, 3.0),
        "two far values": torch.where(uniform < 0.01, 100.0, 0.1),
        "around 5": 5 + 0.3 * normal,
        "20 to 30": 20 + 10 * uniform,
        "sparse": torch.where(uniform < 0.01, normal, 0.0),
        "sparse after relu": torch.where(uniform < 0.05, -(uniform * 20).log(), 0.0),
    }


SAMPLES = {name: histogram_of(x) for name, x in samples().items()}


def levels_of(histogram, bits):
    return 2 ** (bits - (histogram.minimum < 0 < histogram.maximum))


def most(levels):
    return max(1 / levels, 0.01)


@functools.cache
def collected(name):
    return workflow.collect(checkpoints.load(name), data.load_dataset("glyphs").train.images[:500])


def accuracy(name, method, **options):
    simulated = workflow.quantize_model(
        checkpoints.load(name), workflow.calibrate(collected(name), method, **options)
    )
    return training.evaluate(simulated, data.load_dataset("glyphs").test)


def beyond(counts, kept):
    """The share of the values outside of bin 0 that lie beyond so many bins."""
    return counts[kept:].sum() / counts[1:].sum()


def rough_counts(seed, length=400):
    """Counts with a peak anywhere, of which many are 0, but not the last."""
    generator = np.random.default_rng(seed)
    peak, wide = generator.integers(0, length), generator.choice([3, 30, 300])
    counts = 10**6 * np.exp(-(((np.arange(length) - peak) / wide) ** 2)) * generator.random(length)
    counts = np.where(generator.random(length) < generator.choice([0, 0.5, 0.95]), 0, counts).astype(np.int64)
    counts[-1] = max(counts[-1], 1)
    return counts


# ---- entropy -------------------------------------------------------------------------------------------------------


def test_no_method_loses_a_point_where_published_entropy_loses_sixty():
    found = {method: accuracy(COLLAPSES, method) for method in METHODS}
    assert min(found.values()) >= max(found.values()) - 0.01
    with pytest.warns(ClippingWarning):
        assert accuracy(COLLAPSES, "published entropy") < max(found.values()) - 0.6


@pytest.mark.parametrize(
    ("name", "lost"), [("around 5", 0.98), ("20 to 30", 0.98), ("two values", 0.49), ("two far values", 0)]
)
@pytest.mark.parametrize("bits", [8, 6, 4, 3, 2])
def test_entropy_keeps_values_that_lie_far_from_zero(name, lost, bits):
    histogram, x = SAMPLES[name], samples()[name]
    share = most(levels_of(histogram, bits))
    _, high = histogram.range("entropy", bits=bits)
    assert (x > high).double().mean() <= share
    with pytest.warns(ClippingWarning) if lost else contextlib.nullcontext():
        _, published = histogram.range("published entropy", bits=bits)
    assert (x > published).double().mean() >= lost


@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 4, 16, 128, 256]))
@settings(max_examples=60)
def test_entropy_never_clips_more_than_its_share_and_is_the_best_that_does_not(seed, levels):
    counts = rough_counts(seed)
    before = counts.copy()
    kept = int(METHODS["entropy"](counts, 1.0, levels=levels))
    published = int(PUBLISHED["published entropy"](counts, 1.0, levels=levels))
    assert (counts == before).all()
    assert beyond(counts, kept) <= most(levels)
    assert kept >= published
    if beyond(counts, published) <= most(levels):
        assert kept == published


@given(st.integers(0, 2**32 - 1), st.sampled_from([4, 128]))
@settings(max_examples=12)
def test_entropy_is_the_least_divergence_of_a_loop_over_what_may_be_chosen(seed, levels):
    counts = rough_counts(seed, 300)
    found = reference.divergences(counts, levels)
    allowed = {kept: value for kept, value in found.items() if beyond(counts, kept) <= most(levels)}
    kept = METHODS["entropy"](counts, 1.0, levels=levels)
    assert kept in allowed
    assert found[kept] <= min(allowed.values()) + 1e-12
    assert found[PUBLISHED["published entropy"](counts, 1.0, levels=levels)] <= min(found.values()) + 1e-12


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(
    "name", ["normal", "relu", "laplace", "log-normal", "silu", "relu6", "pixels", "constant"]
)
def test_where_little_is_clipped_entropy_is_as_published(name, bits):
    histogram = SAMPLES[name]
    levels = levels_of(histogram, bits)
    signed = levels == 2 ** (bits - 1)
    published = histogram.threshold("published entropy", bits=bits, signed=signed)
    assert histogram.threshold("entropy", bits=bits, signed=signed) == published


def test_a_share_that_is_met_exactly_is_allowed():
    counts = np.zeros(300, dtype=np.int64)
    counts[[6, 7, 140, 299]] = 100, 1, 889, 10  # to keep all 300 bins would give bins 6 and 7 one level
    assert METHODS["entropy"](counts, 1.0, levels=256) == 141  # beyond it lies exactly 1 %
    counts[299] = 11
    assert METHODS["entropy"](counts, 1.0, levels=256) == 300
    assert PUBLISHED["published entropy"](counts, 1.0, levels=256) == 141


# ---- the share that is clipped -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("name", SAMPLES)
def test_the_share_is_that_of_the_values_that_saturate(name, bits):
    histogram, x = SAMPLES[name], samples()[name]
    threshold = histogram.largest / 3
    params = choose_params(-threshold, threshold, bits=bits, symmetric=True)
    outside = ~in_range(x, params)
    limit = threshold * (1 + 0.5 / (2 ** (bits - 1) - 1))
    in_the_bin = outside & (x.abs() < math.ceil(limit / histogram.width) * histogram.width)  # not counted
    expected = int(outside.sum() - in_the_bin.sum()) / int((x != 0).sum())
    assert histogram.clipped(threshold, bits=bits) == pytest.approx(expected, abs=1e-12)


@given(
    st.integers(-100, 100), st.sampled_from([8, 4]), st.sampled_from(["entropy", "mse", "published entropy"])
)
@settings(max_examples=30)
def test_the_share_does_not_depend_on_the_unit(power, bits, method):
    x = samples(2000)["laplace"]
    here, there = histogram_of(x), histogram_of(x * 2.0**power)
    threshold = here.threshold(method, bits=bits)
    assert there.threshold(method, bits=bits) == threshold * 2.0**power
    for share in (1, 0.5):
        expected = here.clipped(share * threshold, bits=bits)
        assert there.clipped(share * threshold * 2.0**power, bits=bits) == expected


def test_zeros_are_told_from_small_numbers_in_every_batch():
    parts = [torch.tensor([0.0, -0.0, 1e-30, 4.0]), torch.zeros(3), torch.tensor([-0.5, 9000.0])]
    histogram, other = Histogram(), Histogram()
    for part in parts:
        histogram.update(part)
        other.merge(histogram_of(part))
    assert histogram.zeros == other.zeros == 5
    assert histogram.clipped(4.0) == 1 / 4
    assert histogram_of(torch.zeros(4)).clipped(0.0) == 0


# ---- warnings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 6, 4, 3, 2])
def test_ordinary_ranges_of_ordinary_data_do_not_warn(bits):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for histogram in SAMPLES.values():
            for method in METHODS:
                histogram.range(method, bits=bits)


@pytest.mark.parametrize("bits", [8, 4])
def test_ordinary_ranges_of_networks_do_not_warn(bits):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in (COLLAPSES, "glyphs-vgg"):
            for method in METHODS:
                workflow.calibrate(collected(name), method, bits=bits)
            workflow.calibrate(collected(name), "percentile", percentile=99.9, bits=bits)


def test_the_warning_names_the_tensor_and_says_how_much_is_clipped():
    histograms = {"3.conv": SAMPLES["20 to 30"], "logits": SAMPLES["20 to 30"], "5": SAMPLES["normal"]}
    with pytest.warns(ClippingWarning) as found:
        workflow.calibrate(histograms, "published entropy")
    (message,) = (str(entry.message) for entry in found)
    assert message.startswith("tensor '3.conv': 'published entropy' ends the range at 20")
    share = SAMPLES["20 to 30"].clipped(20.015625, signed=False)
    assert share > 0.99
    assert (
        f"clips {share:.1%} of the values other than 0, which reach 30; at 8 bits more than 1.0%" in message
    )
    assert "Take 'mse', 'entropy' or 'max'" in message
    with pytest.warns(ClippingWarning, match="^'percentile' ends the range"):
        SAMPLES["normal"].range("percentile", percentile=90)
    with pytest.warns(ClippingWarning, match="^tensor 'mine': 'percentile'"):
        SAMPLES["normal"].range("percentile", percentile=90, name="mine")


def test_a_percentile_of_sparse_values_is_one_of_those_that_are_not_zero():
    x = torch.zeros(100_000)
    x[:200] = torch.linspace(1, 2, 200)
    with pytest.warns(ClippingWarning, match=r"clips 49.\d% of the values other than 0"):
        histogram_of(x).range("percentile", percentile=99.9)


def test_the_file_of_a_network_warns_by_the_names_of_its_tensors(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 8), torch.nn.Linear(8, 3))
    model[1].weight.data.abs_()
    model[1].bias.data.fill_(20.0)  # far from zero
    path = export(model.eval(), torch.zeros(1, 3, 2, 2), tmp_path / "model.onnx").path
    images = torch.randint(0, 256, (200, 3, 2, 2), dtype=torch.uint8)
    with pytest.warns(ClippingWarning) as found:
        quantize(path, tmp_path / "published.onnx", images=images, method="published entropy")
    (message,) = (str(entry.message) for entry in found)
    assert message.startswith("tensor '")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ClippingWarning)
        quantize(path, tmp_path / "entropy.onnx", images=images, method="entropy")


def test_a_file_that_clips_in_front_of_pooling_keeps_the_biases_after_it(tmp_path):
    """ONNX Runtime would fit them to the range of what the pooling gives, and then take that of what it reads."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 1), torch.nn.MaxPool2d(4), torch.nn.Flatten(), torch.nn.Linear(2, 2)
    ).eval()
    model[0].weight.data = torch.tensor([1.0, 0.5]).reshape(2, 1, 1, 1)
    model[0].bias.data.zero_()
    model[3].weight.data *= 1e-9  # so small that the bias needs a wider scale than they do
    model[3].bias.data = torch.tensor([1.0, -1.0])
    path = export(model, torch.zeros(1, 1, 4, 4), tmp_path / "model.onnx").path
    images = torch.randint(0, 256, (50, 1, 4, 4), dtype=torch.uint8)
    ranges = {name: histogram.range("max") for name, histogram in collect(path, images).items()}
    ranges["conv2d"] = (0.0, 0.3)
    logits = run(quantize(path, tmp_path / "int8.onnx", ranges=ranges), images)
    assert (logits - model[3].bias.data).abs().max() < 0.02


# ---- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.bad_input
@pytest.mark.parametrize("share", [0.9999, 0.5])
def test_a_share_for_a_percentile_is_refused_with_the_remedy(share, tmp_path):
    path = tmp_path / "model.onnx"
    path.touch()
    images = torch.zeros(2, 3, 2, 2, dtype=torch.uint8)
    for call in (
        lambda: SAMPLES["normal"].threshold("percentile", percentile=share),
        lambda: SAMPLES["normal"].range("percentile", percentile=share),
        lambda: workflow.calibrate({"1": SAMPLES["normal"]}, "percentile", percentile=share),
        lambda: quantize(path, tmp_path / "q.onnx", images=images, method="percentile", percentile=share),
    ):
        with pytest.raises(
            ValueError, match=rf"percentile is {share}; it is in percent.* give {100 * share:g}\.$"
        ):
            call()
    assert not (tmp_path / "q.onnx").exists()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("threshold", "options", "error", "message"),
    [
        (-1.0, {}, ValueError, "threshold is -1"),
        (math.nan, {}, ValueError, "threshold is nan"),
        ("1", {}, TypeError, "threshold is '1'"),
        (1.0, {"bits": 1}, ValueError, "bits is 1"),
        (1.0, {"signed": 1}, TypeError, "signed is 1"),
    ],
)
def test_shares_of_no_threshold_are_refused(threshold, options, error, message):
    with pytest.raises(error, match=message):
        SAMPLES["normal"].clipped(threshold, **options)
    with pytest.raises(ValueError, match="the histogram is empty"):
        Histogram().clipped(1.0)


def test_published_methods_are_known_but_not_among_those_to_choose_from():
    assert list(METHODS) == ["max", "percentile", "mse", "entropy"]
    with pytest.raises(
        ValueError, match=r"unknown calibration method 'published'\. Did you mean .*'published entropy'"
    ):
        workflow.calibrate({"1": SAMPLES["normal"]}, "published")
