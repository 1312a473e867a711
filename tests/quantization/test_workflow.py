"""The five steps: folding by hand, what is counted and chosen, what is passed in stays, what is refused."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from course_lib.data import to_float
from course_lib.quantization import calibration
from course_lib.quantization.calibration import METHODS, Histogram
from course_lib.quantization.workflow import calibrate, collect, fold_batch_norm, quantize_model, to_integer
from tests.quantization.networks import (
    IMAGES,
    Body,
    histograms_of,
    network,
    quantized,
    state,
    traces,
)


def test_batch_norm_folded_by_hand():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, eps=1.0), nn.ReLU()).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([3.0, -4.0]).reshape(2, 1, 1, 1))
        model[0].bias.copy_(torch.tensor([1.0, 2.0]))
        model[1].running_mean.copy_(torch.tensor([2.0, -2.0]))
        model[1].running_var.copy_(torch.tensor([3.0, 15.0]))
        model[1].weight.copy_(torch.tensor([2.0, 8.0]))
        model[1].bias.copy_(torch.tensor([10.0, 20.0]))
    folded = fold_batch_norm(model, torch.ones(1, 1, 2, 2))
    assert folded[0].weight.flatten().tolist() == [3, -8]
    assert folded[0].bias.tolist() == [9, 28]
    assert isinstance(folded[1], nn.Identity)
    assert isinstance(model[1], nn.BatchNorm2d)


@traces
def test_histograms_are_of_the_folded_network_behind_its_activations():
    model, images = network("vgg")
    found = collect(model, images)
    assert list(found) == ["images", "0", "4", "7", "10", "logits"]
    expected = {name: Histogram() for name in found}
    expected["images"].update(to_float(images))
    places = {"0": 2, "4": 6, "7": 9, "10": 10, "logits": 12}  # modules of the whole network
    x = to_float(images)
    with torch.no_grad():
        for place, layer in enumerate(model):
            x = layer(x)
            for name in [name for name, where in places.items() if where == place]:
                expected[name].update(x)
    for name, histogram in found.items():
        assert histogram.count == expected[name].count, name
        assert histogram.minimum == pytest.approx(expected[name].minimum, abs=1e-5), name
        assert histogram.maximum == pytest.approx(expected[name].maximum, rel=1e-5), name
        moved = np.abs(histogram.counts - expected[name].counts).sum() / histogram.count
        assert moved < 0.01, name  # folding rounds otherwise, which moves values across edges


@traces
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_neither_batches_nor_the_dtype_of_images_matter(batch_size):
    model, images = network("mlp")
    whole, parts = collect(model, images), collect(model, to_float(images), batch_size=batch_size)
    for name in whole:
        assert parts[name].count == whole[name].count
        assert parts[name].maximum == pytest.approx(whole[name].maximum, rel=1e-5)
    assert np.array_equal(parts["images"].counts, whole["images"].counts)
    assert collect(model, images, bins=300)["1"].bins == 300


@traces
def test_ranges_are_those_of_the_histograms_and_logits_are_never_clipped(monkeypatch):
    histograms = histograms_of("resnet")
    for method in METHODS:
        ranges = calibrate(histograms, method, bits=5, percentile=99)
        for name, histogram in histograms.items():
            chosen = "max" if name == "logits" else method
            assert ranges[name] == histogram.range(chosen, bits=5, percentile=99)
    ranges, logits = calibrate(histograms, "percentile", percentile=90), histograms["logits"]
    assert ranges["logits"] == (min(logits.minimum, 0), max(logits.maximum, 0))
    assert ranges["3.conv1"][1] < histograms["3.conv1"].maximum
    monkeypatch.setitem(calibration.METHODS, "half", lambda counts, width, **_: len(counts) * width / 2)
    assert calibrate(histograms, "half")["3.conv1"][1] < 0.6 * histograms["3.conv1"].maximum


@traces
@pytest.mark.parametrize("name", ["resnet", "odd"])
def test_what_is_passed_in_stays_as_it_was(name):
    model, images = copy.deepcopy(network(name)[0]).train(), network(name)[1]
    before, modes = state(model)
    histograms = collect(model, images)
    counts = {key: (histogram.count, histogram.counts) for key, histogram in histograms.items()}
    ranges = calibrate(histograms, "entropy")
    kept = dict(ranges)
    folded = fold_batch_norm(model, to_float(images))
    simulated = quantize_model(model, ranges)
    simulated_before = simulated(to_float(images))
    integers = to_integer(simulated)
    integers(to_float(images))
    after, modes_after = state(model)
    assert modes_after == modes
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert ranges == kept
    assert all(histograms[key].count == count for key, (count, _) in counts.items())
    assert all(np.array_equal(histograms[key].counts, found) for key, (_, found) in counts.items())
    assert torch.equal(simulated(to_float(images)), simulated_before)
    assert not any(module.training for module in folded.modules())
    norms = [layer for layer in folded.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    assert not norms
    with torch.no_grad():
        expected = copy.deepcopy(model).eval()(to_float(images))
        torch.testing.assert_close(folded(to_float(images)), expected, atol=1e-4, rtol=1e-4)


def test_importing_needs_neither_onnx_nor_plots():
    code = "import sys, course_lib.quantization.workflow; print(*sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "course_lib.quantization.integer" in found
    assert not {"onnx", "onnxruntime", "onnxscript", "matplotlib", "dask"} & set(found)


@pytest.mark.bad_input
def test_a_hook_that_tracing_does_not_see_is_found_by_comparing():
    model = copy.deepcopy(network("mlp")[0])
    model.register_forward_hook(lambda layer, inputs, output: output + 1)
    with pytest.raises(ValueError, match=r"computes something else than before\. Look for hooks"):
        collect(model, network("mlp")[1])


def sum_through_an_alias(m, x):
    y = z = m.conv(x)
    y += m.conv2(x)  # torch.fx has it as y = y + ..., which leaves z alone
    return y + z


@pytest.mark.bad_input
def test_what_tracing_or_folding_gets_wrong_is_found_by_comparing():
    with pytest.raises(ValueError, match="computes something else than before"):
        collect(Body(sum_through_an_alias, conv2=nn.Conv2d(3, 4, 3)), IMAGES)
    with pytest.raises(ValueError, match=r"computes something else than before.*at random"):
        fold_batch_norm(Body(lambda m, x: m.conv(x) + torch.rand(1)), to_float(IMAGES))
    # The norm is over the three channels, the linear layer over the last axis.
    model = Body(lambda m, x: m.norm(m.fc(x)), fc=nn.Linear(5, 3), norm=nn.BatchNorm1d(3))
    model.norm.running_mean[0] = 1.0
    for size in (1.0, 1e-6):  # of the results
        with torch.no_grad():
            model.norm.weight.fill_(size)
        with pytest.raises(ValueError, match=r"computes something else than before.*another axis"):
            fold_batch_norm(model.eval(), torch.rand(2, 3, 5))


@traces
def test_folding_may_be_as_far_off_as_float32_is():
    model, x = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval(), to_float(IMAGES)
    with torch.no_grad():
        model[0].bias.add_(1e5)  # leaves two digits behind the point; folded, it is gone
        model[1].running_mean.add_(1e5)
        folded, exact = fold_batch_norm(model, x), copy.deepcopy(model).double()(x.double())
        assert (folded(x) - exact).abs().max() < 1e-3 * (model(x) - exact).abs().max()
    ranges = calibrate(collect(model, IMAGES))
    assert quantize_model(model, ranges)(x).shape == exact.shape


def poisoned(value, place="weight"):
    model = copy.deepcopy(network("vgg")[0])
    with torch.no_grad():
        getattr(model[4], place)[0] = value
    return model


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: collect(nn.Linear, IMAGES), TypeError, "model is the class Linear"),
        (lambda: collect(3, IMAGES), TypeError, "model is a int"),
        (lambda: collect(network("vgg")[0], IMAGES.tolist()), TypeError, "images are a list"),
        (lambda: collect(network("vgg")[0], IMAGES.int()), TypeError, "images have dtype torch.int32"),
        (lambda: collect(network("vgg")[0], IMAGES.double()), TypeError, "images have dtype torch.float64"),
        (lambda: collect(network("vgg")[0], IMAGES[0]), ValueError, r"shape \[3, 8, 8\]"),
        (lambda: collect(network("vgg")[0], IMAGES[:0]), ValueError, r"\[0, 3, 8, 8\].*at least one image"),
        (
            lambda: collect(network("vgg")[0], IMAGES[:, :1]),
            ValueError,
            "does not run on an example of shape",
        ),
        (lambda: collect(network("vgg")[0], IMAGES, bins=1), ValueError, "bins is 1; it must be at least 2"),
        (lambda: collect(network("vgg")[0], IMAGES, batch_size=0), ValueError, "batch_size is 0"),
        (
            lambda: collect(copy.deepcopy(network("mlp")[0]).double(), IMAGES),
            ValueError,
            r"'1.weight' has dtype .*64",
        ),
        (lambda: collect(poisoned(torch.nan), IMAGES), ValueError, "tensor '4': x holds NaN"),
        (lambda: collect(poisoned(3e38), IMAGES), ValueError, "tensor '4': x holds infinity"),
        (lambda: collect(network("vgg")[0], IMAGES / torch.zeros(1)), ValueError, "tensor 'images': x holds"),
        (lambda: fold_batch_norm(3, IMAGES), TypeError, "model is a int"),
        (lambda: fold_batch_norm(network("vgg")[0], IMAGES[:, :1].float()), ValueError, "does not run"),
        (
            lambda: calibrate(histograms_of("vgg"), "maximum"),
            ValueError,
            "unknown calibration method 'maximum'",
        ),
        (lambda: calibrate(histograms_of("vgg"), bits=1), ValueError, "bits is 1; it must be from 2 to 16"),
        (lambda: calibrate(histograms_of("vgg"), bits=8.0), TypeError, "bits is 8.0"),
        (lambda: calibrate(histograms_of("vgg"), percentile=0), ValueError, "percentile is 0"),
        (lambda: calibrate(list(histograms_of("vgg"))), TypeError, "histograms are a list"),
        (lambda: calibrate({}), ValueError, "there are no histograms"),
        (lambda: calibrate({"a": 3}), TypeError, "the histogram of 'a' is a int"),
        (lambda: calibrate({"a": Histogram()}), ValueError, "tensor 'a': the histogram is empty"),
        (
            lambda: calibrate(collect(*network("mlp"), bins=200), "entropy"),
            ValueError,
            "tensor 'images': the values lie in .* bins, too few",
        ),
        (lambda: to_integer(network("mlp")[0]), TypeError, "simulated is a Sequential"),
        (lambda: to_integer(quantized("mlp", weight_bits=9)), ValueError, "'1' has 9 bits; .* 2 to 8"),
        (lambda: to_integer(quantized("mlp", activation_bits=16)), ValueError, "'images' has 16 bits"),
        (lambda: quantized("mlp")(IMAGES), TypeError, "images have dtype uint8.*to_float"),
        (lambda: to_integer(quantized("mlp"))(IMAGES), TypeError, "images have dtype uint8.*to_float"),
        (lambda: to_integer(quantized("mlp"))([1]), TypeError, "images is a list"),
        (
            lambda: to_integer(quantized("mlp"))(torch.full((1, 3, 8, 8), torch.nan)),
            ValueError,
            "x holds NaN",
        ),
    ],
)
def test_wrong_arguments_are_named(call, error, words):
    with pytest.raises(error, match=words):
        call()


RANGES = {"images": (0.0, 1.0), "1": (0.0, 2.0), "3": (0.0, 2.0), "logits": (-1.0, 1.0)}


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"weight_bits": 1}, ValueError, "weight_bits is 1; it must be from 2 to 16"),
        ({"weight_bits": 17}, ValueError, "weight_bits is 17"),
        ({"activation_bits": 0}, ValueError, "activation_bits is 0"),
        ({"activation_bits": "8"}, TypeError, "activation_bits is '8'"),
        ({"per_channel": 1}, TypeError, "per_channel is 1"),
        ({"weight_method": "entropy"}, ValueError, "unknown weight_method 'entropy'.*Known: max, mse"),
        ({"keep": "1"}, TypeError, r"keep is '1'; it must be the names of layers, such as \('1',\)"),
        ({"keep": 3}, TypeError, "keep is 3"),
        ({"keep": ("1", "2")}, KeyError, "unknown layer '2'.*Known: 1, 3, 5"),
        ({"ranges": list(RANGES)}, TypeError, "ranges are a list"),
        ({"ranges": RANGES | {"2": (0, 1)}}, KeyError, "unknown tensor '2'.*Known: images, 1, 3, logits"),
        ({"ranges": {"images": (0, 1)}}, KeyError, "ranges lack the tensor '1'"),
        ({"ranges": RANGES | {"3": 5.0}}, ValueError, "the range of '3' is 5.0; it must be a pair"),
        ({"ranges": RANGES | {"3": (1.0, 0.0)}}, ValueError, r"the range of '3' is \(1, 0\)"),
        ({"ranges": RANGES | {"3": (0.0, torch.inf)}}, ValueError, "a bound of '3' is inf"),
        ({"ranges": RANGES | {"3": (0.0, "1")}}, TypeError, "a bound of '3' is '1'"),
        ({"model": 3}, TypeError, "model is a int"),
    ],
)
def test_wrong_arguments_of_quantize_model_are_named(changes, error, words):
    arguments = {"model": network("mlp")[0], "ranges": RANGES}
    quantize_model(**arguments)
    with pytest.raises(error, match=words):
        quantize_model(**arguments | changes)


@pytest.mark.bad_input
def test_a_weight_that_diverged_and_a_sum_that_overflows_name_their_layer():
    ranges = calibrate(histograms_of("vgg"))
    with pytest.raises(ValueError, match="layer '4': x holds NaN"):
        quantize_model(poisoned(torch.nan), ranges)
    model = nn.Sequential(nn.Flatten(), nn.Linear(80_000, 1, bias=False))
    nn.init.ones_(model[1].weight)
    integers = to_integer(quantize_model(model, {"images": (0.0, 1.0), "logits": (0.0, 1e5)}))
    with pytest.raises(ValueError, match=r"'1': the sums run .* beyond the int32 accumulator"):
        integers(torch.ones(1, 1, 1, 80_000))
