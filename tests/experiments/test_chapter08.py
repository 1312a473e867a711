"""What chapter 08 measures with: its own methods beside the library's, networks of one size, the forms of training."""

import copy
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from course_lib import checkpoints, cost, data, factorization, hashing, training
from course_lib.data import to_float
from course_lib.experiments import chapter08, chapter08_studies, chapter08_trained
from course_lib.experiments.common import Shared, cut, example_of, judged
from course_lib.experiments.experiment import Scale
from course_lib.quantization import affine, aware, workflow


@pytest.fixture(scope="module")
def glyphs():
    return data.load_dataset("glyphs")


@pytest.fixture(scope="module")
def shared(glyphs):
    """What the runs of two steps with rounding share."""
    scale = Scale(images=64, steps=2)
    dataset, network = cut(glyphs, scale), checkpoints.load("glyphs-vgg-narrow")
    histograms = {0: workflow.collect(network, dataset.train.images)}
    return chapter08_trained.Shared(dataset, network, histograms, scale, {})


@pytest.fixture
def fitted(monkeypatch):
    """What is trained, with all that it is trained with; in place of learning, the weights become zero."""
    calls = []

    def fit(network, dataset, recipe, **keywords):
        calls.append(
            SimpleNamespace(network=network, before=copy.deepcopy(network), recipe=recipe, **keywords)
        )
        for parameter in network.parameters():
            nn.init.zeros_(parameter)

    monkeypatch.setattr(training, "fit", fit)
    return calls


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Linear(40, 30), torch.randn(5, 40)),
        (nn.Linear(40, 30, bias=False), torch.randn(5, 40)),
        (nn.Conv2d(16, 32, 3, padding=1), torch.randn(2, 16, 8, 8)),
    ],
)
def test_two_thin_layers_are_those_of_the_library(layer, x):
    before = copy.deepcopy(layer.state_dict())
    ours, library = chapter08.thin(layer, 10), factorization.factorize_layer(layer, 10)
    torch.testing.assert_close(ours(x), library(x), atol=1e-4, rtol=1e-3)
    assert [p.shape for p in ours.parameters()] == [p.shape for p in library.parameters()]
    ours[0].weight.data.zero_()
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


@pytest.mark.parametrize("seed", [0, 7, 12345])
def test_places_and_signs_are_those_of_the_library(seed):
    places, signs = chapter08.places_and_signs(40, 50, 100, seed)
    wanted = hashing.assignment(50, 40, 100, seed=seed)
    assert torch.equal(places, wanted[0])
    assert torch.equal(signs, wanted[1].long())


def test_a_hashed_layer_that_keeps_its_places_computes_and_learns_what_the_library_s_does():
    network, x = chapter08.hashed_mlp("1/8", 3), torch.randn(5, 1, 16, 16)
    library = hashing.hash_layers(
        chapter08.whole_mlp(3), {"1": round(256 * 512 / 8), "3": round(256 * 512 / 8)}, seed=6
    )
    library.load_state_dict(network.state_dict())  # refuses another seed or shape
    for one in (network, library):
        one(x).square().sum().backward()
    torch.testing.assert_close(network(x), library(x), atol=1e-5, rtol=1e-4)
    for key in ("1", "3"):
        ours, theirs = (one.get_submodule(key).buckets.grad for one in (network, library))
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)
    assert chapter08.file_bytes(network) == chapter08.file_bytes(library)


def test_the_form_that_decodes_at_each_call_computes_the_same():
    ours, library, x = (
        chapter08.hashed_mlp("1/8", 3),
        chapter08.decoding_mlp("1/8", 3),
        torch.randn(5, 1, 16, 16),
    )
    assert not any(isinstance(layer, chapter08.Hashed) for layer in library.modules())
    torch.testing.assert_close(ours(x), library(x), atol=1e-5, rtol=1e-4)


def test_a_hash_of_the_learner_s_chooses_the_places_of_both_layers_each_with_its_own_seed():
    asked = []

    def method(rows, columns, buckets, seed):
        asked.append((rows, columns, seed))
        return torch.zeros(rows, columns, dtype=torch.long), torch.ones(rows, columns, dtype=torch.long)

    network = chapter08.new_mlp("hashed", "1/8", 3, method)
    assert asked == [(512, 256, 6), (256, 512, 7)]
    assert not network[1].slots.any()


@pytest.mark.parametrize("share", chapter08.SIZES)
def test_the_narrow_network_is_the_widest_that_fits_the_file(share):
    narrow, room = chapter08.narrow_mlp(share, 0), chapter08.file_bytes(chapter08.hashed_mlp(share, 0))
    width = narrow[3].out_features
    wider = chapter08.models.build("mlp", hidden=[2 * width + 2, width + 1])
    assert narrow[1].out_features == 2 * width
    assert chapter08.file_bytes(narrow) <= room < chapter08.file_bytes(wider)
    thin = chapter08.file_bytes(chapter08.thin_mlp("1/8", 0))
    assert thin < 1.02 * chapter08.file_bytes(chapter08.hashed_mlp("1/8", 0))


def test_every_kind_starts_with_weights_that_keep_the_size_of_the_signal(glyphs):
    x = to_float(glyphs.train.images[:500])
    x = (x - x.mean()) / x.std()  # of size 1
    for kind, share in (("whole", "1"), ("hashed", "1/8"), ("narrow", "1/8"), ("low rank", "1/8")):
        network = chapter08.new_mlp(kind, share, 0)
        size = network[:4](x).square().mean().sqrt()  # before the second ReLU
        assert 0.7 < size / math.sqrt(2) < 1.4, kind
        again, other = (chapter08.new_mlp(kind, share, seed) for seed in (0, 1))
        assert torch.equal(again(x), network(x))
        assert not torch.allclose(other(x), network(x))


def test_every_kind_draws_from_the_same_bounds_by_its_seed_and_has_the_same_biases():
    """Before a ReLU sqrt(6 / inputs), and sqrt(3 / inputs) for the first of two thin layers, which none follows."""
    whole = chapter08.new_mlp("whole", "1", 0)
    for kind, share in (("whole", "1"), ("hashed", "1/8"), ("narrow", "1/8"), ("low rank", "1/8")):
        one, other = (chapter08.new_mlp(kind, share, seed) for seed in (0, 1))
        for layer, second in zip(one.modules(), other.modules(), strict=True):
            if isinstance(layer, nn.Linear | chapter08.Hashed):
                stored = layer.buckets if isinstance(layer, chapter08.Hashed) else layer.weight
                bound = ((3 if layer.bias is None else 6) / layer.in_features) ** 0.5
                assert 0.97 < stored.abs().max().item() / bound <= 1, kind
                again = second.buckets if isinstance(layer, chapter08.Hashed) else second.weight
                assert not torch.equal(stored, again), kind
        if kind == "hashed":
            assert all(torch.equal(one[key].bias, whole[key].bias) for key in (1, 3))


def test_the_network_that_is_cut_is_that_of_the_seed(monkeypatch, glyphs):
    asked = []

    def another(name, seed, dataset, **changes):
        asked.append((name, seed, changes))
        return nn.Identity()

    monkeypatch.setattr(checkpoints, "another", another)
    monkeypatch.setattr(checkpoints, "load", lambda name: asked.append(name) or nn.Identity())
    for key in (("mlp", 2), ("mlp", 0), ("vgg", 2)):
        chapter08.base(key, glyphs, Scale())
    assert asked == [("glyphs-mlp", 2, {"epochs": 30}), "glyphs-mlp", "glyphs-vgg"]


def test_a_run_of_low_rank_judges_the_cut_and_trains_it_at_its_own_rate(glyphs, fitted, monkeypatch):
    trained, dataset = checkpoints.load("glyphs-mlp"), cut(glyphs, Scale(images=64))
    shared = Shared(dataset, {("mlp", 0): chapter08.whole_mlp(0), ("mlp", 1): trained}, Scale(), {})
    asked, build = [], chapter08.low_rank_network

    def low_rank_network(*arguments):
        asked.append(arguments)
        return build(*arguments)

    monkeypatch.setattr(chapter08, "low_rank_network", low_rank_network)
    run = {"network": "mlp", "form": "channel", "share": "1/2", "rate": 0.07, "seed": 1}
    found = chapter08.measure_low_rank(run, shared, chapter08.thin)
    assert asked == [(trained, "mlp", "1/2", "channel", chapter08.thin)]
    (call,) = fitted
    assert call.recipe == replace(chapter08.TUNING["mlp"], learning_rate=0.07, seed=1)
    assert found["cut"] == judged(call.before, dataset)["test"] > 0.5 > found["test"]


def test_a_run_of_hashing_trains_as_long_and_at_the_rate_that_it_says(shared, fitted):
    few, asked = Shared(shared.dataset, {}, Scale(), {}), []

    def method(*arguments):
        asked.append(arguments)
        return chapter08.places_and_signs(*arguments)

    run = {"kind": "hashed", "share": "1/64", "epochs": 60, "rate": 0.07, "seed": 3}
    chapter08.measure_hashing(run, few, method)
    (call,) = fitted
    assert call.recipe == replace(chapter08.FROM_SCRATCH, epochs=60, learning_rate=0.07, seed=3)
    assert len(asked) == 2
    assert len(call.before[1].buckets) == 2048


def test_a_share_is_kept_and_the_method_builds_the_channel_form_alone(glyphs):
    vgg, seen = checkpoints.load("glyphs-vgg"), []

    def method(layer, rank):
        seen.append(rank)
        return chapter08.thin(layer, rank)

    for form in chapter08.FORMS:
        small = chapter08.low_rank_network(vgg, "vgg", "1/3", form, method)
        for key in chapter08.LAYERS["vgg"]:
            thin = sum(p.numel() for p in small.get_submodule(key).parameters() if p.ndim > 1)
            assert 0.28 < thin / vgg.get_submodule(key).weight.numel() <= 1 / 3
        assert cost.macs(small, example_of(glyphs)) < 0.36 * cost.macs(vgg, example_of(glyphs))
    assert len(seen) == len(chapter08.LAYERS["vgg"])
    whole = chapter08.low_rank_network(vgg, "vgg", "whole")
    assert whole is not vgg
    assert torch.equal(whole[3].weight, vgg[3].weight)


def test_only_the_first_seed_tries_every_rate():
    runs = chapter08.trials([({"by": "a"}, (1, 2, 3), 2), ({"by": "b"}, (4,), 4)], seeds=(0, 1, 2))
    found = sorted((run["by"], run["rate"], run["seed"]) for run in runs)
    assert found == [("a", 1, 0), ("a", 2, 0), ("a", 2, 1), ("a", 2, 2), ("a", 3, 0)] + [
        ("b", 4, seed) for seed in range(3)
    ]


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_rounded_weights_are_those_of_the_library_with_the_gradient_of_the_identity(bits):
    weight = torch.randn(6, 4, 3, 3, requires_grad=True)
    params = affine.params_of(weight.detach(), bits=bits, symmetric=True, axis=0)
    value = chapter08_trained.rounded(weight, bits)
    torch.testing.assert_close(value, affine.fake_quantize(weight.detach(), params), atol=1e-6, rtol=1e-5)
    arriving = torch.randn(6, 4, 3, 3)
    value.backward(arriving)
    assert torch.equal(weight.grad, arriving)


def test_a_network_with_rounded_weights_learns_and_leaves_the_other_alone(shared):
    network = shared.network
    small = chapter08_trained.with_rounded_weights(network, 2)
    assert all(len(row.unique()) <= 3 for row in small[3].weight.detach())
    layers = [layer for layer in small.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert {type(layer) for layer in network.modules()} >= {nn.Conv2d, nn.Linear}
    assert len(layers) == 7
    assert all(parametrize.is_parametrized(layer) for layer in layers)
    before = network[3].weight.clone()
    chapter08.train(small, chapter08_trained.QAT, shared)
    assert torch.equal(network[3].weight, before)
    assert not torch.equal(small[3].parametrizations.weight.original, before)


@pytest.mark.parametrize("states", [[False, True, True], [True]], ids=["three epochs", "one epoch"])
@pytest.mark.parametrize(("form", "norms"), [("folded", 0), ("usual", 6)])
def test_the_usual_form_keeps_batch_norm_and_is_frozen_for_the_last_epoch(
    shared, form, norms, states, monkeypatch
):
    made = []

    def fit(network, dataset, recipe, *, on_epoch, validate):
        made.append(network)
        found = []
        for epoch in range(1, recipe.epochs + 1):
            on_epoch(epoch, network)
            found.append(bool(network.frozen))
        assert found == states

    monkeypatch.setattr(chapter08_trained.training, "fit", fit)
    monkeypatch.setattr(chapter08_trained, "QAT", replace(chapter08_trained.QAT, epochs=len(states)))
    run = {"form": form, "rate": 0.01, "seed": 0} | chapter08_trained.start(4)
    chapter08_trained.measure_trained(run, shared._replace(scale=Scale()), None)
    (network,) = made
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in network.network.modules()) == norms
    assert (network.moving is not None) == (form == "usual")


@pytest.fixture(scope="module")
def drawn_twice(shared):
    """Other activations for seed 3 than for seed 0."""
    images = shared.dataset.train.images[:8]
    return shared._replace(histograms=shared.histograms | {3: workflow.collect(shared.network, images)})


@pytest.mark.parametrize(("activations", "weights"), [("mse", "max"), ("max", "mse")])
def test_ranges_and_keywords_are_those_of_the_run(drawn_twice, activations, weights):
    run = {"bits": 3, "activations": activations, "weights": weights, "seed": 3}
    ranges, keywords = chapter08_trained.ranged(run, drawn_twice)
    assert ranges == workflow.calibrate(drawn_twice.histograms[3], activations, bits=3)
    assert keywords == {"weight_bits": 3, "activation_bits": 3, "weight_method": weights}


@pytest.mark.parametrize("form", ["float32", "folded"])
def test_every_form_trains_a_copy_at_its_own_rate_with_its_own_seed(drawn_twice, fitted, form):
    before = copy.deepcopy(drawn_twice.network.state_dict())
    run = {"form": form, "rate": 0.07, "seed": 3} | chapter08_trained.start(32 if form == "float32" else 4)
    chapter08_trained.measure_trained(run, drawn_twice._replace(scale=Scale()), None)
    (call,) = fitted
    assert call.recipe == replace(chapter08_trained.QAT, learning_rate=0.07, seed=3)
    assert isinstance(call.network, aware.PreparedNetwork) == (form == "folded")
    assert all(torch.equal(value, before[name]) for name, value in drawn_twice.network.state_dict().items())


def test_rounding_at_the_end_trains_a_copy_in_float32_and_rounds_as_the_run_says(shared, fitted, monkeypatch):
    asked, build = [], workflow.quantize_model

    def quantize_model(network, ranges, **keywords):
        asked.append(keywords)
        return build(network, ranges, **keywords)

    monkeypatch.setattr(workflow, "quantize_model", quantize_model)
    before = shared.network[3].weight.clone()
    run = {"by": "rounded at the end", "rate": 0.07, "seed": 0} | chapter08_trained.start(3)
    chapter08_studies.measure_bug(run, shared._replace(scale=Scale()), None)
    (call,) = fitted
    assert call.recipe == replace(chapter08_trained.QAT, learning_rate=0.07)
    assert asked == [{"weight_bits": 3, "activation_bits": 3, "weight_method": "max"}]
    assert torch.equal(shared.network[3].weight, before)


def test_the_other_bugs_change_the_gradient_or_the_schedule_alone(shared, monkeypatch):
    def watch(run, shared, method):
        straight = aware.straight_through is not chapter08_studies.no_gradient_of_weights
        return {"straight": straight, "schedule": chapter08_trained.QAT.schedule}

    watch.__module__ = chapter08_trained.__name__
    monkeypatch.setattr(chapter08_studies, "measure_trained", watch)
    found = [
        chapter08_studies.measure_bug({"by": by}, shared, None) for by in chapter08_studies.BUG_NAMES[::2]
    ]
    assert found == [
        {"straight": False, "schedule": "cosine"},
        {"straight": True, "schedule": "one_cycle"},
    ]
    assert aware.straight_through is not chapter08_studies.no_gradient_of_weights


def test_a_learner_s_rounding_gets_a_scale_for_each_channel_and_the_smallest_and_largest_integer():
    asked = []

    def rounding(weight, scale, low, high):
        asked.append((scale.flatten().tolist(), low, high))
        return weight

    weight = torch.tensor([[1.0, -3.0], [0.5, 0.5]])
    for bits in (2, 3):
        chapter08_trained.by_scale(rounding)(weight, bits)
    assert asked == [([3.0, 0.75], -1, 1), ([1.0, 0.25], -3, 3)]


def test_the_gradient_that_passes_everywhere_passes_beyond_the_range():
    x = torch.tensor([-9.0, 0.4, 0.6, 9.0], requires_grad=True)
    value = chapter08_trained.passing(x, torch.tensor(1.0), -1, 1)
    assert value.tolist() == [-1.0, 0.0, 1.0, 1.0]
    value.sum().backward()
    assert x.grad.tolist() == [1.0] * 4


def test_a_network_that_a_rate_destroys_counts_as_guessing_and_another_error_is_none(shared, monkeypatch):
    run = {"form": "folded", "rate": 1e-6, "seed": 0} | chapter08_trained.start(3)

    def refuse(error):
        def convert(network):
            raise error

        monkeypatch.setattr(aware, "convert", convert)
        return chapter08_trained.measure_trained(run, shared, None)

    assert refuse(ValueError("layer '3': bias holds NaN: a diverged network")) == chapter08_trained.GUESSING
    assert refuse(FloatingPointError("the loss became nan")) == chapter08_trained.GUESSING
    with pytest.raises(ValueError, match="no such thing"):
        refuse(ValueError("no such thing"))


def test_without_straight_through_only_biases_have_a_gradient(shared, monkeypatch):
    monkeypatch.setattr(aware, "straight_through", chapter08_studies.no_gradient_of_weights)
    run = {"form": "folded", "seed": 0} | chapter08_trained.start(3)
    network = chapter08_trained.prepared(run, shared)
    network(to_float(shared.dataset.train.images)).square().sum().backward()
    for layer in network.network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert not layer.weight.grad.any()
            assert layer.bias.grad.any()


# What is chosen is what the records say


@pytest.mark.parametrize(
    ("experiment", "arm"),
    [
        (chapter08.LOW_RANK, dict(zip(("network", "form", "share"), key, strict=True)))
        for key in chapter08.BEST
    ]
    + [(chapter08.HASHING, {"kind": kind, "share": share, "epochs": 30}) for kind, share in chapter08.RATE_OF]
    + [(chapter08_trained.TRAINED, {"form": form, "bits": bits}) for form, bits in chapter08_trained.BEST],
)
def test_the_rate_of_an_arm_is_the_best_on_validation_images_and_no_end_of_its_grid(experiment, arm):
    frame = experiment.recorded().frame
    tried = frame[(frame["seed"] == 0) & (frame[list(arm)] == list(arm.values())).all(axis=1)]
    chosen = chapter08.tuned(experiment, **arm)["rate"]
    assert float(tried[tried["rate"] == chosen]["validation"].iloc[0]) == tried["validation"].max()
    assert tried["rate"].min() < chosen < tried["rate"].max()


@pytest.mark.parametrize("bits", chapter08_trained.BITS)
def test_training_starts_from_the_calibration_that_is_best_on_validation_images(bits):
    frame = chapter08_trained.CALIBRATED.recorded().frame
    means = frame[frame["bits"] == bits].groupby(["activations", "weights"])["validation"].mean()
    assert means.idxmax() == chapter08_trained.START[bits]
