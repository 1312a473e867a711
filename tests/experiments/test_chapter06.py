"""What chapter 06 measures with: its own threshold beside the library's, forms of the map, bugs, a VGG by hand."""

import copy

import numpy as np
import pytest
import torch

from course_lib import checkpoints, data, training
from course_lib.data import to_float
from course_lib.experiments import (
    chapter06,
    chapter06_imagenet,
    chapter06_network,
    chapter06_real,
    chapter06_studies,
)
from course_lib.experiments.common import drawn
from course_lib.quantization import affine, equalization, workflow
from course_lib.quantization.calibration import Histogram

pytestmark = (
    pytest.mark.bad_input
)  # torch.fx hands proxies through networks, which the type checker would refuse


@pytest.fixture(scope="module")
def glyphs():
    return data.load_dataset("glyphs")


@pytest.fixture(scope="module")
def vgg():
    return checkpoints.load("glyphs-vgg")


@pytest.fixture(scope="module")
def found(vgg, glyphs):
    return workflow.collect(vgg, chapter06.calibration(glyphs, 0, 100))


def shared_of(name, network, found, glyphs):
    """On few images, so that a run takes a moment."""
    small = chapter06.cut(glyphs, chapter06.Scale(images=200))
    return chapter06.Shared(small, {name: network}, {(name, 0, chapter06.CALIBRATION): found}, {})


@pytest.mark.parametrize("bits", [8, 4, 3])
def test_the_threshold_by_hand_is_that_of_the_library(found, bits):
    assert chapter06.ranges_for(found, "mse", bits) == workflow.calibrate(found, "mse", bits=bits)


@pytest.mark.parametrize("bits", [8, 4, 3])
def test_the_threshold_by_hand_is_that_of_the_library_for_values_of_both_signs(bits):
    histogram = Histogram()
    histogram.update(torch.randn(20_000, generator=torch.Generator().manual_seed(0)))
    both = {"layer": histogram}
    assert chapter06.ranges_for(both, "mse", bits) == workflow.calibrate(both, "mse", bits=bits)


@pytest.mark.filterwarnings("ignore::course_lib.quantization.calibration.ClippingWarning")
@pytest.mark.parametrize(
    ("arm", "method", "percent"),
    [
        ("percentile 99", "percentile", 99.0),
        ("percentile 99.9", "percentile", 99.9),
        ("entropy", "entropy", 50.0),
    ],
)
def test_the_other_arms_are_those_of_the_library_at_their_own_bits_and_percentage(
    found, arm, method, percent
):
    for bits in (8, 3):
        wanted = workflow.calibrate(found, method, bits=bits, percentile=percent)
        assert chapter06.ranges_for(found, arm, bits) == wanted


def test_calibration_images_are_training_images_of_the_draw_that_is_asked_for(glyphs, monkeypatch):
    assert torch.equal(chapter06.calibration(glyphs, 2, 10), drawn(glyphs.train, 10, 2).images)
    seen = []
    monkeypatch.setattr(workflow, "collect", lambda network, images: seen.append(images) or {})
    runs = [{"network": "vgg", "seed": 1, "images": 20}, {"network": "vgg", "seed": 0}]
    shared = chapter06.prepare(runs, chapter06.Scale(images=64))
    few = chapter06.cut(glyphs, chapter06.Scale(images=64)).train
    assert list(shared.histograms) == [("vgg", 1, 20), ("vgg", 0, 500)]
    assert torch.equal(seen[0], drawn(few, 20, 1).images)
    assert torch.equal(seen[1], drawn(few, 500, 0).images)


def test_errors_of_rounding_and_clipping_make_up_the_whole_error():
    counts = np.array([10, 0, 4, 2, 1])
    values = np.repeat(np.arange(5) + 0.5, counts)  # at the centres of bins of width 1
    rounding, clipping = chapter06.errors(counts, 1.0, 3.0, 4)
    params = affine.choose_params(0.0, 3.0, bits=2, symmetric=False)
    back = affine.fake_quantize(torch.tensor(values), params).numpy()
    assert rounding + clipping == pytest.approx(((back - values) ** 2).mean())
    assert clipping == pytest.approx(((3.0 - values[values > 3]) ** 2).sum() / len(values))


def test_a_wide_range_clips_nothing_and_a_narrow_one_hardly_rounds():
    counts = np.ones(1000, dtype=int)
    narrow, wide = (chapter06.errors(counts, 0.01, t, 16) for t in (1.0, 10.0))
    assert wide[1] == 0 < narrow[1]
    assert 0 < narrow[0] < wide[0]


def test_other_errors_give_other_ranges(found):
    def clips_for_free(counts, width, threshold, levels):
        return chapter06.errors(counts, width, threshold, levels)[0], 0.0

    usual, changed = (chapter06.ranges_for(found, "mse", 4, f) for f in (chapter06.errors, clips_for_free))
    assert changed["0"][1] < usual["0"][1]
    assert changed["logits"] == usual["logits"]


def test_symmetric_ranges_have_their_zero_in_the_middle(found):
    for bits in (8, 4):
        for name, (low, high) in chapter06.symmetric_ranges(found, bits).items():
            wide = 8 if name == "logits" else bits
            params = affine.choose_params(low, high, bits=wide, symmetric=False)
            assert int(params.zero_point) == 2 ** (wide - 1)
            assert float(params.scale) == pytest.approx(high / (2 ** (wide - 1) - 1))


def test_one_scale_a_weight_and_symmetric_activations_are_other_networks(vgg, found, glyphs):
    shared = shared_of("vgg", vgg, found, glyphs)
    runs = [{"network": "vgg", "seed": 0, "bits": 3, "form": form} for form in chapter06.FORM_ARMS]
    usual, symmetric, one = (chapter06.measure_forms(run, shared, None) for run in runs)
    assert usual["test"] > symmetric["test"] != one["test"]


@pytest.fixture
def quantized(monkeypatch):
    """What is quantized: (ranges, keywords) of each call; and what is judged."""
    asked, build = [], workflow.quantize_model

    def quantize_model(network, ranges, **keywords):
        asked.append((ranges, keywords))
        return build(network, ranges, **keywords)

    monkeypatch.setattr(workflow, "quantize_model", quantize_model)
    return asked


def test_a_form_differs_from_the_usual_one_in_what_it_names_alone(vgg, found, glyphs, quantized):
    shared = shared_of("vgg", vgg, found, glyphs)
    for form in chapter06.FORM_ARMS:
        chapter06.measure_forms({"network": "vgg", "seed": 0, "bits": 4, "form": form}, shared, None)
    mse, bits = chapter06.ranges_for(found, "mse", 4), {"weight_bits": 4, "activation_bits": 4}
    assert quantized == [
        (mse, bits | {"per_channel": True}),
        (chapter06.symmetric_ranges(found, 4), bits | {"per_channel": True}),
        (mse, bits | {"per_channel": False}),
    ]


def test_a_method_rounds_weights_and_activations_alike_and_32_bits_are_the_network_itself(
    vgg, found, glyphs, quantized, monkeypatch
):
    seen = []
    monkeypatch.setattr(chapter06, "judged", lambda network, dataset: seen.append(network) or {})
    shared = shared_of("vgg", vgg, found, glyphs)
    for bits, method in ((32, "float32"), (4, "entropy")):
        run = {"network": "vgg", "seed": 0, "bits": bits, "method": method}
        chapter06.measure_methods(run, shared, chapter06.errors)
    assert seen[0] is vgg
    ranges = chapter06.ranges_for(found, "entropy", 4)
    assert quantized == [(ranges, {"weight_bits": 4, "activation_bits": 4})]


def test_weights_of_few_bits_are_made_with_the_images_of_the_seed(vgg, found, glyphs, monkeypatch):
    seen = []
    monkeypatch.setattr(chapter06, "with_few_bits", lambda *arguments: seen.append(arguments) or vgg)
    shared = shared_of("vgg", vgg, found, glyphs)
    shared.histograms["vgg", 1, chapter06.CALIBRATION] = found
    chapter06.measure_weights({"network": "vgg", "seed": 1, "bits": 3, "by": "GPTQ"}, shared, None)
    ((network, ranges, by, bits, images),) = seen
    assert network is vgg
    assert (ranges, by, bits) == (chapter06.ranges_for(found, "mse", 8), "GPTQ", 3)
    assert torch.equal(images, drawn(shared.dataset.train, 200, 1).images)


def test_a_codebook_of_few_bits_has_so_few_numbers_in_each_layer(vgg, found, glyphs):
    images = chapter06.calibration(glyphs, 0, 20)
    ranges = chapter06.ranges_for(found, "max", 8)
    for by, most in (("codebook", 8), ("rounding", None), ("GPTQ", None)):
        weight = chapter06.with_few_bits(vgg, ranges, by, 3, images).network.get_submodule("3").weight
        if most:
            assert len(weight.unique()) <= most
        else:  # of each channel, on its own grid
            assert all(len(channel.unique()) <= 7 for channel in weight)


def test_gptq_moves_the_output_of_the_first_layer_less_than_rounding_to_nearest(vgg, found, glyphs):
    images = chapter06.calibration(glyphs, 0, 50)
    ranges = chapter06.ranges_for(found, "max", 8)
    x, folded = to_float(images), workflow.fold_batch_norm(vgg, to_float(images[:1]))

    def apart(by):
        weight = chapter06.with_few_bits(vgg, ranges, by, 3, images).network[0].weight
        return torch.nn.functional.conv2d(x, weight - folded[0].weight, padding=1).norm().item()

    assert apart("GPTQ") < apart("range by MSE")


def test_corrected_biases_are_other_biases_on_the_same_weights(vgg, found, glyphs):
    images = chapter06.calibration(glyphs, 0, 20)
    ranges = chapter06.ranges_for(found, "max", 8)
    one, two = (
        chapter06.with_few_bits(vgg, ranges, by, 3, images).network
        for by in ("range by MSE", "range by MSE, biases corrected")
    )
    assert torch.equal(one[3].weight, two[3].weight)
    assert not torch.equal(one[3].bias, two[3].bias)


def test_each_bug_changes_what_it_names_and_nothing_else(vgg, found, glyphs, monkeypatch):
    seen, counted, collect = {}, [], workflow.collect
    monkeypatch.setattr(
        chapter06, "judged", lambda small, dataset: seen.update({by: copy.deepcopy(small)}) or {}
    )
    monkeypatch.setattr(
        workflow, "collect", lambda network, images: counted.append(images) or collect(network, images)
    )
    shared = shared_of("vgg", vgg, found, glyphs)
    for by in chapter06.BUG_ARMS:
        chapter06.measure_bugs({"network": "vgg", "seed": 0, "by": by}, shared, None)
    right = seen.pop("right")

    def differs(small):
        return {
            name
            for name in right.activations
            if small.activations[name].scale != right.activations[name].scale
        }

    assert differs(seen["logits clipped"]) == {"logits"}
    assert differs(seen["bias in 8 bits"]) == set()
    assert not torch.equal(seen["bias in 8 bits"].network[0].bias, right.network[0].bias)
    assert differs(seen["batch norm not folded"]) == {"0", "3", "7", "10", "14", "17"}
    assert "0" in differs(seen["calibrated on test images"])
    (images,) = counted
    assert torch.equal(images, drawn(shared.dataset.test, chapter06.CALIBRATION, 0).images)


def test_published_entropy_collapses_on_the_slimmed_network(glyphs):
    network = chapter06.network_of("slimmed")
    counted = workflow.collect(network, chapter06.calibration(glyphs, 0))
    shared = shared_of("slimmed", network, counted, glyphs)
    tests = {
        by: chapter06.measure_bugs({"network": "slimmed", "seed": 0, "by": by}, shared, None)["test"]
        for by in chapter06.COLLAPSE_ARMS
    }
    assert tests["published entropy"] < 0.5 < tests["float32"] - 0.05 < min(tests["entropy"], tests["mse"])


def test_one_layer_alone_leaves_the_others_as_they_are(vgg, found, glyphs, monkeypatch):
    seen = []
    monkeypatch.setattr(chapter06_studies, "judged", lambda small, dataset: seen.append(small) or {})
    shared = shared_of("vgg", vgg, found, glyphs)
    chapter06_studies.measure_layers({"network": "vgg", "layer": "7", "seed": 0}, shared, None)
    assert list(seen[0].weights) == ["7"]
    assert set(seen[0].activations) == {"3", "7"}


def test_the_vgg_by_hand_is_the_integer_network_of_the_library(vgg, found, glyphs):
    def range_to_integers(low, high, bits):
        params = affine.choose_params(low, high, bits=bits, symmetric=False)
        return params.scale.item(), int(params.zero_point)

    def to_integers(values, scale, zero_point, bits):
        return np.clip(np.rint(values / np.float32(scale)) + zero_point, 0, 2**bits - 1)

    def fold(conv, norm):
        factor = norm.weight / (norm.running_var + norm.eps).sqrt()
        return conv.weight * factor[:, None, None, None], norm.bias - factor * norm.running_mean

    def quantized_conv2d(x, x_zero_point, weight, bias, multiplier, y_zero_point):
        padded = torch.nn.functional.pad(x.double() - x_zero_point, (weight.shape[-1] // 2,) * 4)
        total = torch.nn.functional.conv2d(padded, weight.double(), bias.double())
        return ((total.float() * multiplier[:, None, None]).round() + y_zero_point).clamp(0, 255).byte()

    ranges = workflow.calibrate(found, "mse")
    images = drawn(glyphs.test, 100).images
    functions = (range_to_integers, to_integers, fold, quantized_conv2d)
    with torch.no_grad():
        ours = chapter06_network.integer_vgg(vgg, ranges, images, *functions)
        library = workflow.to_integer(workflow.quantize_model(vgg, ranges))(to_float(images))
    assert (ours == library).double().mean() > 0.995
    assert (ours - library).abs().max() < 0.5


def test_the_file_says_what_the_network_says(vgg, glyphs):
    told = chapter06_network.deployed(100)
    assert told.accuracy(told.logits["float32"]) == training.evaluate(vgg, drawn(glyphs.test, 100))
    assert (told.logits["float32"] - told.logits["int8"]).abs().max() < 2
    assert told.sizes["int8"] < 0.27 * told.sizes["float32"]


@pytest.fixture(scope="module")
def noise():
    runs = [{"seed": 0}]
    return chapter06_real.prepare_cifar10(runs, chapter06.Scale(images=64))


def test_a_remedy_changes_the_layer_that_it_names(noise):
    ranges = chapter06.ranges_for(noise.histograms[0], "mse", 3)
    simulated = workflow.quantize_model(noise.network, ranges, weight_bits=3, activation_bits=3)
    before = copy.deepcopy(simulated.network)

    def changed(remedy):
        mended = chapter06_real.remedied(simulated, remedy, noise, 0).network
        return [
            name
            for (name, one), two in zip(before.named_parameters(), mended.parameters(), strict=True)
            if not torch.equal(one, two)
        ]

    assert changed("none") == []
    assert changed("first weights in 8 bits") == ["0.weight", "0.bias"]
    assert changed("first bias corrected") == ["0.bias"]
    every = changed("all biases corrected")
    assert len(every) > 3
    assert all(name.endswith("bias") for name in every)
    assert all(
        torch.equal(a, b) for a, b in zip(before.parameters(), simulated.network.parameters(), strict=True)
    )


def test_the_other_method_is_put_in_one_tensor_alone(noise, monkeypatch):
    seen = []

    def watch(simulated, remedy, shared, seed):
        seen.append(simulated)
        return simulated

    monkeypatch.setattr(chapter06_real, "remedied", watch)
    for but in ("nowhere", "4"):
        chapter06_real.measure_why({"method": "max", "but": but, "remedy": "none", "seed": 0}, noise, None)
    whole, swapped = (simulated.activations for simulated in seen)
    assert [name for name in whole if whole[name].scale != swapped[name].scale] == ["4"]


def test_the_tensors_that_are_tried_are_all_but_the_logits(noise):
    assert [*chapter06_real.TENSORS, "logits"] == list(noise.histograms[0])


def test_a_histogram_of_zeros_keeps_its_range():
    histogram = Histogram()
    histogram.update(torch.zeros(10))
    assert chapter06.ranges_for({"images": histogram}, "mse", 8) == {"images": (0.0, 0.0)}


# A network that the course has not trained


@pytest.fixture  # for each test: the checker of types is off in a test, and not in what a module shares
def real():
    """A tiny EfficientNet-Lite0 with random weights, and noise."""
    return chapter06_imagenet.prepare([{"seed": 0}, {"seed": 3}], chapter06.Scale(images=40))


def test_every_run_on_the_network_gives_accuracy_in_parts_and_agreement(real):
    for experiment in (chapter06_imagenet.IMAGENET, chapter06_imagenet.WEIGHTS):
        for run in (run for run in experiment.runs if run["seed"] == 0):
            metrics = experiment.measure(run, real, None)
            for metric in ("test", "same_answer"):
                assert len(metrics[f"{metric}_parts"]) == 20
                assert sum(metrics[f"{metric}_parts"]) / 20 == pytest.approx(metrics[metric])
            named = run.get("by", run.get("method"))
            assert 0 <= metrics["same_answer"] <= 1
            assert (metrics["same_answer"] == 1) or named != "float32"


def test_answers_are_compared_with_those_of_float32(real):
    exact = training.predict(real.network, real.dataset.test.images).argmax(1)
    assert torch.equal(real.answers, exact)
    assert real.facts["float32"] == (exact == real.dataset.test.labels).double().mean()
    stubborn = copy.deepcopy(real.network)
    stubborn.classifier.bias.data[7] += 1000
    found = chapter06_imagenet.judged(stubborn, real)
    assert found["same_answer"] == (exact == 7).double().mean() < 1
    assert found["test"] == (real.dataset.test.labels == 7).double().mean()


def test_a_part_of_the_test_images_is_judged_by_its_own_answers(real):
    real.answers[:2] = (real.answers[:2] + 1) % 10  # of 40 images, 2 are a part
    exact = copy.deepcopy(real.network)
    assert chapter06_imagenet.judged(exact, real)["same_answer_parts"] == [0.0] + [1.0] * 19


@pytest.mark.parametrize(("paid", "taken"), [(2, 500), (6, 600), (9, 700)])
def test_a_budget_takes_hundreds_of_test_images_and_500_in_any_case(monkeypatch, paid, taken):
    def affordable(minutes, seconds, least, most):
        assert minutes == 0.5 * (chapter06_imagenet.os.cpu_count() or 1)
        return min(max(paid, least), most)

    monkeypatch.setattr(chapter06_imagenet, "affordable", affordable)
    shared = chapter06_imagenet.prepare([{"seed": 0}], chapter06.Scale(minutes=1, images=700))
    assert len(shared.dataset.test) == len(shared.answers) == shared.facts["test images"] == taken


@pytest.mark.parametrize("count", [40, 300])
def test_of_fewer_images_than_500_the_smallest_budget_takes_all(count):
    scale = chapter06.Scale(minutes=1e-9, images=count)
    assert len(chapter06_imagenet.prepare([{"seed": 0}], scale).dataset.test) == count


def test_the_record_names_the_images_of_gptq_where_it_is_measured(real):
    runs, scale = [{"seed": 0}], chapter06.Scale(images=40)
    weights, activations = (
        experiment.prepare(runs, scale).facts
        for experiment in (chapter06_imagenet.WEIGHTS, chapter06_imagenet.IMAGENET)
    )
    assert activations == real.facts
    assert weights == real.facts | {"images of GPTQ and bias correction": 125}


def test_draws_are_of_training_images_and_differ(real):
    first, other = real.calibration(0, 10), real.calibration(3, 10)
    assert not torch.equal(first, other)
    assert torch.equal(real.calibration(0, 30)[:10], first)
    assert real.histograms[0]["images"].counts.sum() > 0


def test_without_a_ceiling_only_what_is_above_six_changes():
    network = torch.nn.Sequential(torch.nn.Sequential(torch.nn.ReLU6()), torch.nn.ReLU6())
    x = torch.tensor([-1.0, 5.0, 9.0])
    assert chapter06_imagenet.without_ceiling(network)(x.clone()).tolist() == [0, 5, 9]
    assert network(x.clone()).tolist() == [0, 5, 6]


def four_bits(real, by):
    ranges = chapter06.ranges_for(real.histograms[0], "mse", 8)
    images = real.calibration(0, chapter06_imagenet.FITTED)
    return chapter06_imagenet.with_four_bits(real.network, ranges, by, images)


def test_an_arm_changes_weights_or_biases_as_it_says(real):
    nearest = four_bits(real, "range by MSE")

    def changed(by):
        found = [
            name
            for (name, one), two in zip(
                nearest.network.named_parameters(), four_bits(real, by).network.parameters(), strict=True
            )
            if not torch.equal(one, two)
        ]
        return {name.rpartition(".")[2] for name in found}

    assert changed("rounding") == {"weight", "bias"}  # other grids, and biases in steps of them
    assert changed("biases corrected") == {"bias"}
    assert changed("GPTQ") == {"weight"}
    assert changed("GPTQ, biases corrected") == {"weight", "bias"}


def test_depthwise_layers_alone_get_eight_bits(real):
    mended = four_bits(real, "GPTQ, biases corrected, depthwise in 8 bits")
    ends = four_bits(real, "GPTQ, biases corrected, depthwise, first and last in 8 bits")
    bits = {name: params.bits for name, params in mended.weights.items()}
    depthwise = {name for name in bits if ".depthwise." in name}
    assert len(depthwise) == 3
    assert {name for name in bits if bits[name] == 8} == depthwise
    assert {bits[name] for name in bits if name not in depthwise} == {4}
    eight = {name for name, params in ends.weights.items() if params.bits == 8}
    assert eight == depthwise | {"stem.conv", "classifier"}
    assert {params.bits for name, params in ends.weights.items() if name not in eight} == {4}
    integers = ends.network.classifier.weight / ends.weights["classifier"].scale.reshape(-1, 1)
    assert integers.abs().max() > 100
    layer = mended.network.get_submodule("blocks.1.depthwise.conv")
    assert max(len(channel.unique()) for channel in layer.weight) > 16  # more values than 4 bits have


@pytest.fixture
def collected(monkeypatch):
    """What is collected: (network, images) of each call."""
    seen, original = [], workflow.collect

    def watch(network, images, **options):
        seen.append((network, images))
        return original(network, images, **options)

    monkeypatch.setattr(workflow, "collect", watch)
    return seen


def without_ceiling_or_imbalance(network):
    relus = [layer for layer in network.modules() if isinstance(layer, torch.nn.ReLU | torch.nn.ReLU6)]
    block = network.blocks[1]
    scales = equalization.equalizing_scales(
        block.expand.conv.weight, block.depthwise.conv.weight, groups=len(block.depthwise.conv.weight)
    )
    return {type(layer) for layer in relus} == {torch.nn.ReLU} and (scales - 1).abs().max() < 1e-3


@pytest.mark.parametrize("by", [by for by in chapter06_imagenet.WEIGHT_ARMS if "equalized" in by])
def test_equalizing_takes_ranges_of_its_own_on_the_same_draw(real, collected, by):
    chapter06_imagenet.measure_weights({"by": by, "seed": 3}, real, None)
    ((network, images),) = collected
    assert torch.equal(images, real.calibration(3))
    assert without_ceiling_or_imbalance(network)


def test_one_scale_for_a_weight_of_the_equalized_network(real, collected, quantized):
    run = {"bits": 8, "scales": "tensor, equalized", "method": "mse", "seed": 3}
    chapter06_imagenet.measure_activations(run, real, None)
    ((network, images),) = collected
    ((ranges, options),) = quantized
    assert torch.equal(images, real.calibration(3))
    assert without_ceiling_or_imbalance(network)
    assert options == {"activation_bits": 8, "per_channel": False}
    assert ranges != chapter06.ranges_for(real.histograms[3], "mse", 8)


def test_weights_of_four_bits_are_beside_activations_by_percentile_and_fitted_on_their_images(
    real, monkeypatch
):
    seen = []
    monkeypatch.setattr(
        chapter06_imagenet, "with_four_bits", lambda *arguments: seen.append(arguments) or real.network
    )
    chapter06_imagenet.measure_weights({"by": "GPTQ", "seed": 3}, real, None)
    ((network, ranges, by, images),) = seen
    assert (network, by) == (real.network, "GPTQ")
    assert ranges == chapter06.ranges_for(real.histograms[3], "percentile 99.99", 8)
    assert torch.equal(images, real.calibration(3))
    assert chapter06_imagenet.FITTED == chapter06_imagenet.CALIBRATION


def test_every_arm_has_every_draw():
    for experiment in (chapter06_imagenet.IMAGENET, chapter06_imagenet.WEIGHTS):
        arms = {}
        for run in experiment.runs:
            arms.setdefault(tuple(run[key] for key in run if key != "seed"), []).append(run["seed"])
        assert set(map(tuple, arms.values())) == {tuple(chapter06.DRAWS)}
