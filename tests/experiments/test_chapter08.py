"""What chapter 08 measures with: its own methods beside the library's, networks of one size, the forms of training."""

import copy
import math

import pytest
import torch
from torch import nn

from course_lib import checkpoints, cost, data, factorization, hashing
from course_lib.data import to_float
from course_lib.experiments import chapter08, chapter08_studies, chapter08_trained
from course_lib.experiments.common import cut, example_of
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
    before = network[3].weight.clone()
    chapter08.train(small, chapter08_trained.QAT, shared)
    assert torch.equal(network[3].weight, before)
    assert not torch.equal(small[3].parametrizations.weight.original, before)


@pytest.mark.parametrize(("form", "norms"), [("folded", 0), ("usual", 6)])
def test_the_usual_form_keeps_batch_norm_and_is_frozen_for_the_last_epoch(shared, form, norms, monkeypatch):
    made = []

    def fit(network, dataset, recipe, *, on_epoch, validate):
        made.append(network)
        states = []
        for epoch in range(1, recipe.epochs + 1):
            on_epoch(epoch, network)
            states.append(bool(network.frozen))
        assert states == [False, True, True]

    monkeypatch.setattr(chapter08_trained.training, "fit", fit)
    monkeypatch.setattr(chapter08_trained, "QAT", chapter08_trained.replace(chapter08_trained.QAT, epochs=3))
    run = {"form": form, "rate": 0.01, "seed": 0} | chapter08_trained.start(4)
    chapter08_trained.measure_trained(run, shared._replace(scale=Scale()), None)
    (network,) = made
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in network.network.modules()) == norms
    assert (network.moving is not None) == (form == "usual")


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
