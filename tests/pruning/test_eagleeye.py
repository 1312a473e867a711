"""EagleEye: strategies and their operations, the recalibration of batch norm, and a search that can be stopped."""

import copy
import json
import math
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib import cost, models, training
from course_lib.data import Dataset, Split, to_float
from course_lib.pruning import eagleeye
from course_lib.pruning.eagleeye import (
    SearchResult,
    Strategy,
    recalibrate_batch_norm,
    sample_strategies,
    search,
)
from course_lib.pruning.filters import filter_plan
from course_lib.pruning.surgery import remove_channels
from tests.pruning.reference import Net
from tests.pruning.zoo import ALL, IMAGE

EXAMPLE = torch.rand(2, 1, 16, 16)


# ---- recalibration ---------------------------------------------------------------------------------------------------


def batches(count=3, size=8):
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(size, 1, 16, 16, generator=generator) * (b + 1) for b in range(count)]


def test_the_statistics_are_the_plain_average_over_the_batches():
    model = models.build("vgg").eval()
    given = batches()
    recalibrate_batch_norm(model, given)
    maps = [
        model[0](batch).transpose(0, 1).flatten(1) for batch in given
    ]  # [C, N*H*W] of the first convolution
    mean = torch.stack([m.mean(1) for m in maps]).mean(0)
    variance = torch.stack([m.var(1) for m in maps]).mean(0)  # unbiased, as PyTorch keeps it
    torch.testing.assert_close(model[1].running_mean, mean)
    torch.testing.assert_close(model[1].running_var, variance)


def test_what_was_there_before_does_not_matter():
    first, second = models.build("vgg"), models.build("vgg")
    second.load_state_dict(first.state_dict())
    for layer in second.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean += 100
            layer.num_batches_tracked += 50  # as after training
            layer.momentum = 0.5
    for model in (first, second):
        recalibrate_batch_norm(model, batches())
    for (name, a), (_, b) in zip(first.named_buffers(), second.named_buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_weights_modes_momenta_and_dropout_are_left_alone():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Dropout(0.9), nn.BatchNorm2d(4, momentum=0.3), nn.ReLU()
    ).train()
    model[0].eval()
    weights = copy.deepcopy(dict(model.named_parameters()))
    recalibrate_batch_norm(model, batches(1))
    assert [layer.training for layer in model] == [False, True, True, True]
    assert model[2].momentum == 0.3
    torch.testing.assert_close(model[2].running_mean, model[0](batches(1)[0]).mean((0, 2, 3)))
    assert all(torch.equal(p, weights[name]) and p.grad is None for name, p in model.named_parameters())


@pytest.mark.bad_input
def test_bad_batches_leave_the_statistics_as_they_were():
    model = models.build("vgg")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="there are no batches"):
        recalibrate_batch_norm(model, [])
    with pytest.raises(ValueError, match="does not accept batch 1"):
        recalibrate_batch_norm(model, [batches(1)[0], torch.rand(2, 3, 16, 16)])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model[1].momentum == 0.1


@pytest.mark.bad_input
def test_a_model_without_statistics_is_told_so():
    with pytest.raises(ValueError, match="nothing to recalibrate"):
        recalibrate_batch_norm(models.build("mlp"), batches())


class Witness(nn.Module):
    """Notes the mode that it runs in."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(self.training)
        return x


@given(sizes=st.lists(st.integers(2, 9), min_size=1, max_size=4), training_mode=st.booleans())
@settings(max_examples=20)
def test_no_parameter_changes_whatever_the_batches(sizes, training_mode):
    model = models.build("vgg", widths=(4, "M", 6))
    model.insert(3, nn.Dropout(0.5))
    model.train(training_mode).requires_grad_(True)
    before = copy.deepcopy(dict(model.named_parameters()))
    images = torch.rand(sum(sizes), 1, 16, 16)
    recalibrate_batch_norm(model, (part for part in images.split(sizes)))  # a generator, read once
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())
    assert all(layer.training == training_mode for layer in model.modules())
    assert int(model[1].num_batches_tracked) == len(sizes)
    means = [model[0](part).mean((0, 2, 3)) for part in images.split(sizes)]
    torch.testing.assert_close(model[1].running_mean, torch.stack(means).mean(0), rtol=1e-4, atol=1e-6)


def test_all_but_batch_norm_run_as_in_evaluation():
    model = nn.Sequential(
        Witness(), nn.Conv2d(1, 4, 3), nn.Dropout(0.9), nn.BatchNorm2d(4), Witness()
    ).train()
    recalibrate_batch_norm(model, batches(2))
    assert model[0].seen == model[4].seen == [False, False]
    whole = torch.stack([model[1](batch).mean((0, 2, 3)) for batch in batches(2)]).mean(0)
    torch.testing.assert_close(model[3].running_mean, whole)  # nothing was dropped


def test_layers_with_frozen_statistics_are_left_alone():
    never, stopped = nn.BatchNorm2d(4, track_running_stats=False), nn.BatchNorm2d(4)
    stopped.running_mean += 3
    stopped.track_running_stats = False
    model = nn.Sequential(nn.Conv2d(1, 4, 3), never, stopped, nn.BatchNorm2d(4)).train()
    recalibrate_batch_norm(model, batches(1))
    assert never.running_mean is None
    assert stopped.running_mean.tolist() == [3.0] * 4
    assert int(stopped.num_batches_tracked) == 0
    expected = stopped.eval()(never(model[0](batches(1)[0]))).mean((0, 2, 3))
    torch.testing.assert_close(model[3].running_mean, expected)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["batch", "weight"])
def test_values_that_are_not_finite_are_refused_by_the_name_of_the_buffer(value, where):
    model, given = models.build("vgg", widths=(4, "M", 6)), batches()
    target = given[1] if where == "batch" else model[4].weight.data
    target[1, 0, 1, 1] = value
    before = copy.deepcopy(model.state_dict())
    name = "1.running_mean" if where == "batch" else "5.running_mean"
    with pytest.raises(ValueError, match=f"^{name} became NaN or infinite. Look for such values"):
        recalibrate_batch_norm(model, given)
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in before.items() if "running" in key)
    assert model[1].momentum == 0.1


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.rand(1, 16, 16), "expected 4D input"),
        (torch.rand(2, 1, 16, 16).double(), "batch 1: .*[Dd]ouble"),
        ("images", "batch 1: .*str"),
    ],
)
def test_batches_of_another_kind_are_refused_by_their_place(bad, message):
    model = models.build("vgg", widths=(4, "M", 6))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=f"does not accept batch 1: .*{message.removeprefix('batch 1: ')}"):
        recalibrate_batch_norm(model, [batches(1)[0], bad])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_error_of_the_loader_is_its_own():
    def loader():
        yield batches(1)[0]
        raise RuntimeError("the disk is gone")

    model = models.build("vgg", widths=(4, "M", 6)).train()
    mean = model[1].running_mean.clone()
    with pytest.raises(RuntimeError, match="the disk is gone"):
        recalibrate_batch_norm(model, loader())
    assert torch.equal(model[1].running_mean, mean)
    assert model.training


# ---- strategies ------------------------------------------------------------------------------------------------------


def built(model, example, strategy):
    """The network that a strategy describes."""
    return remove_channels(model, example, filter_plan(model, example, strategy.ratios))


def three_filters():
    """MACs of 3 and 6 a position, in proportion to the filters that are left: shares of 1/3, 2/3 and 1."""
    layers = (
        nn.Conv2d(1, 3, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(3, 2, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return nn.Sequential(*layers)


KINDS = {
    "concat": IMAGE,
    "dense": IMAGE,
    "depthwise_multiplier": IMAGE,
    "flatten_linear": IMAGE,
    "grouped": IMAGE,
    "sequence": IMAGE,
    "shared_weight": IMAGE,
    "train_branch": IMAGE,  # with layers that eval mode does not call
    "transposed": IMAGE,
    "twice": IMAGE,
    "uneven_sum": IMAGE,  # not every draw can be built
    "conv1d": (2, 3, 6),
}


def zoo(name):
    torch.manual_seed(0)
    return ALL[name][0](), torch.rand(KINDS[name])


def keyword_only():
    """Layers called by keyword, without a batch axis."""
    up = Net(lambda s, x: s.b(input=s.a(input=x)), a=nn.Conv2d(3, 5, 3), b=nn.ConvTranspose2d(5, 4, 2))
    return nn.Sequential(up, nn.ReLU(), nn.Conv2d(4, 2, 1)), torch.rand(3, 7, 9)


NETWORKS = {
    **{
        name: (lambda name=name: (models.build(name), EXAMPLE))
        for name in ("mlp", "vgg", "resnet", "mobilenet")
    },
    **{name: (lambda name=name: zoo(name)) for name in KINDS},
    "keyword_only": keyword_only,
    **{
        name: (lambda name=name: (torchvision.models.get_model(name, weights=None), torch.rand(1, 3, 32, 32)))
        for name in ("resnet18", "mobilenet_v2", "densenet121")
    },
}


@pytest.mark.bad_input  # traced: proxies are no tensors
@pytest.mark.parametrize("name", NETWORKS)
def test_the_operations_are_those_of_the_network_that_is_built(name):
    model, example = NETWORKS[name]()
    whole = cost.macs(model, example)
    count = 2 if name in ("resnet18", "mobilenet_v2", "densenet121") else 3
    found = sample_strategies(model, example, count=count, mac_range=(0, 1), max_ratio=0.95, seed=3)
    for strategy in found:
        assert strategy.macs == cost.macs(built(model, example, strategy), example)
        assert strategy.mac_share == strategy.macs / whole
    assert min(strategy.mac_share for strategy in found) < 1


def test_the_operations_are_those_of_a_full_measurement():
    model = models.build("vgg", widths=(8, "M", 12))
    [strategy] = sample_strategies(model, EXAMPLE, count=1, mac_range=(0.3, 0.5), max_ratio=0.7, seed=0)
    assert strategy.macs == cost.measure(built(model, EXAMPLE, strategy), EXAMPLE).macs


@pytest.mark.bad_input
def test_no_strategy_takes_all_channels_of_a_layer_that_is_tied_to_a_part_of_another():
    model, example = zoo("uneven_sum")  # 3 and 4 channels beside each other, added to 7
    found = sample_strategies(model, example, count=5, mac_range=(0, 1), max_ratio=0.99, seed=0)
    assert all(built(model, example, strategy).a.out_channels for strategy in found)
    with pytest.raises(
        ValueError, match=r"only [56] different ones do"
    ):  # 7 widths, some of which leave none of `a`
        sample_strategies(model, example, count=7, mac_range=(0, 1), max_ratio=0.99, seed=0)


@given(
    seed=st.integers(0, 2**64),
    low=st.floats(0.05, 0.9),
    reach=st.floats(0.02, 0.4),
    max_ratio=st.floats(0.05, 0.95),
    count=st.integers(1, 20),
)
@settings(max_examples=12)
def test_strategies_lie_in_their_range_and_differ(seed, low, reach, max_ratio, count):
    model = models.build("vgg", widths=(8, "M", 12))
    options = {"mac_range": (low, min(low + reach, 1)), "max_ratio": max_ratio, "seed": seed}
    try:
        found = sample_strategies(model, EXAMPLE, count=count, **options)
    except ValueError as error:
        assert "Widen mac_range" in str(error)  # noqa: PT017
        return
    assert len(found) == count
    widths = {
        tuple(layer.out_channels for layer in built(model, EXAMPLE, s) if hasattr(layer, "out_channels"))
        for s in found
    }
    assert len(widths) == count
    for strategy in found:
        assert low <= strategy.mac_share <= low + reach
        assert list(strategy.ratios) == ["0", "4"]
        assert all(0 <= ratio < max_ratio for ratio in strategy.ratios.values())
    fewer = (count + 1) // 2
    assert sample_strategies(model, EXAMPLE, count=fewer, **options) == found[:fewer]


def test_another_seed_gives_other_strategies_and_ratios_spread_over_their_range():
    model = models.build("vgg")
    options = {"count": 200, "mac_range": (0, 1), "max_ratio": 0.6}
    found, other = (sample_strategies(model, EXAMPLE, seed=seed, **options) for seed in (0, 1))
    assert not {tuple(s.ratios.values()) for s in found} & {tuple(s.ratios.values()) for s in other}
    ratios = torch.tensor([list(s.ratios.values()) for s in found])  # [200, layers]
    # Uniform on [0, 0.6): mean 0.3 and deviation 0.173 in every layer, independent of the others.
    torch.testing.assert_close(ratios.mean(0), torch.full((6,), 0.3), atol=0.05, rtol=0)
    torch.testing.assert_close(ratios.std(0), torch.full((6,), 0.173), atol=0.03, rtol=0)
    assert (torch.corrcoef(ratios.T) - torch.eye(6)).abs().max() < 0.3


@pytest.mark.bad_input  # the type checker draws random numbers itself
def test_the_model_and_the_random_numbers_are_left_alone_by_sampling():
    model = models.build("vgg", widths=(8, "M", 12)).train()
    model[1].eval()
    state = copy.deepcopy(model.state_dict())
    random.seed(0), np.random.seed(0), torch.manual_seed(0)  # noqa: NPY002
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    sample_strategies(model, EXAMPLE, count=3, mac_range=(0, 1), max_ratio=0.5, seed=0)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    assert before == after
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [layer.training for layer in model] == [True, False, *[True] * (len(model) - 2)]
    assert not any(layer._forward_hooks for layer in model.modules())


@pytest.mark.parametrize(
    ("mac_range", "max_ratio", "nearest"),
    [
        ((0.4, 0.5), 0.9, "33.33%"),
        ((0.5, 0.6), 0.9, "66.67%"),
        ((0.01, 0.1), 0.9, "33.33%"),
        ((0.7, 0.9), 0.9, r"66.67%"),
        ((0.7, 0.9), 0.1, "100.00%"),
        ((0.2, 0.3), 0.50001, "33.33%"),  # which one draw in 50,000 reaches
    ],
)
def test_a_range_out_of_reach_says_how_near_the_draws_came(mac_range, max_ratio, nearest):
    with pytest.raises(
        ValueError, match=f"of 100,000 .* 0 leave .* the nearest has {nearest}. Widen mac_range"
    ):
        sample_strategies(three_filters(), EXAMPLE, count=1, mac_range=mac_range, max_ratio=max_ratio, seed=1)


@pytest.mark.parametrize(("gone", "mac_range"), [(1, (0.6, 0.7)), (2, (0.3, 0.4))])
def test_a_range_too_narrow_for_so_many_says_how_many_there_are(gone, mac_range):
    ratios = 0.9 * np.random.default_rng(7).random(100_000)
    inside = int((np.rint(3 * ratios).clip(max=2) == gone).sum())  # of three filters one stays
    low, high = (f"{end:.2%}" for end in mac_range)
    with pytest.raises(ValueError, match=f" {inside:,} leave {low} to {high} .* only 1 different ones do"):
        sample_strategies(three_filters(), EXAMPLE, count=2, mac_range=mac_range, max_ratio=0.9, seed=7)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"mac_range": (0.5, 0.4)}, ValueError, r"mac_range is \(0.5, 0.4\), which is inverted"),
        ({"mac_range": (0.5, 0)}, ValueError, r"high end of mac_range is 0.*\(0, 1\]"),
        ({"mac_range": (-0.1, 0.5)}, ValueError, "low end of mac_range is -0.1"),
        ({"mac_range": (0.5, 50)}, ValueError, "high end of mac_range is 50.* such as"),
        ({"mac_range": (math.nan, 0.5)}, ValueError, "low end of mac_range is nan"),
        ({"mac_range": (0.4, math.inf)}, ValueError, "high end of mac_range is inf"),
        ({"mac_range": ("0.4", 0.5)}, TypeError, "low end of mac_range is '0.4'"),
        ({"mac_range": ()}, ValueError, r"mac_range is \(\), with 0 numbers. mac_range is \(low, high\)"),
        ({"mac_range": (0.1, 0.2, 0.3)}, ValueError, "with 3 numbers"),
        ({"mac_range": 0.5}, TypeError, "mac_range is 0.5. mac_range is"),
        ({"mac_range": "ab"}, TypeError, "mac_range is 'ab'"),
        ({"max_ratio": 0}, ValueError, r"max_ratio is 0.0; .*\(0, 1\).* such as 0.7"),
        ({"max_ratio": 1}, ValueError, "max_ratio is 1.0"),
        ({"max_ratio": math.nan}, ValueError, "max_ratio is nan"),
        ({"max_ratio": None}, TypeError, "max_ratio is None"),
        ({"count": 0}, ValueError, "count is 0"),
        ({"count": 2.0}, TypeError, "count is 2.0"),
        ({"seed": -1}, ValueError, "seed is -1"),
        ({"seed": None}, TypeError, "seed is None"),
        ({"model": "vgg"}, TypeError, "model is a str"),
        ({"example": torch.rand(1, 2, 16, 16)}, ValueError, "does not run on an example"),
        (
            {"model": nn.Sequential(nn.Flatten(), nn.Linear(256, 3))},
            ValueError,
            "no layer of the model has filters",
        ),
        (
            {
                "model": Net(
                    lambda s, x: s.inner(x @ s.w), inner=three_filters(), w=nn.Parameter(torch.rand(16, 16))
                )
            },
            ValueError,
            "4,608 of the 12,800 MACs are in convolutions and linear layers that are called as modules",
        ),
    ],
)
def test_sampling_refuses_what_has_no_meaning(changed, error, message):
    given = {
        "model": three_filters(),
        "example": EXAMPLE,
        "count": 1,
        "mac_range": (0.5, 0.8),
        "max_ratio": 0.7,
    }
    given |= {"seed": 0} | changed
    with pytest.raises(error, match=message):
        sample_strategies(given.pop("model"), given.pop("example"), **given)


@pytest.mark.bad_input
def test_a_ratio_may_be_a_number_of_numpy_or_torch():
    options = {"count": 3, "mac_range": (0, 1), "seed": 0}
    expected = sample_strategies(models.build("vgg"), EXAMPLE, max_ratio=0.5, **options)
    for half in (np.float64(0.5), torch.tensor(0.5)):
        assert sample_strategies(models.build("vgg"), EXAMPLE, max_ratio=half, **options) == expected


# ---- searching -------------------------------------------------------------------------------------------------------


def stripes(count, seed):
    """Noise images of 8x8 pixels with a slightly brighter third, which says the class."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 150, (count, 1, 8, 8), dtype=np.uint8)
    labels = rng.integers(0, 3, count)
    for image, label in zip(images, labels, strict=True):
        image[..., 3 * label : 3 * label + 2] += 50
    return Split(torch.from_numpy(images), torch.from_numpy(labels))


def narrow(norm=nn.BatchNorm2d):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = nn.Conv2d(1, 8, 3), norm(8), nn.ReLU(), nn.Conv2d(8, 10, 3), norm(10), nn.ReLU()
        last = nn.Conv2d(10, 12, 1), norm(12), nn.ReLU(), nn.AdaptiveAvgPool2d((1, 4)), nn.Flatten()
        return nn.Sequential(*first, *last, nn.Linear(48, 3))


@pytest.fixture(scope="module")
def case():
    """A trained network, its images (none to test on) and strategies whose scores differ."""
    dataset = Dataset("stripes", stripes(300, 0), stripes(200, 1), stripes(0, 0), ("left", "middle", "right"))
    model = narrow()
    training.fit(model, dataset, training.Recipe(epochs=4, batch_size=50, learning_rate=0.05))
    strategies = sample_strategies(
        model, to_float(dataset.train.images[:1]), count=8, mac_range=(0.2, 0.7), max_ratio=0.8, seed=0
    )
    return SimpleNamespace(model=model, dataset=dataset, strategies=strategies)


@pytest.fixture(scope="module")
def undisturbed(case):
    return judge(case)


def judge(case, *, strategies=None, dataset=None, **options):
    options = {"calibration_images": 100, "scoring_images": 200} | options
    return search(case.model, dataset or case.dataset, strategies or case.strategies, **options)


@pytest.fixture
def judged(monkeypatch):
    """The places of the strategies that are judged in this process."""
    places, original = [], eagleeye._judge

    def note(place, *rest):
        places.append(place)
        return original(place, *rest)

    monkeypatch.setattr(eagleeye, "_judge", note)
    return places


def by_hand(case, calibrate):
    """The scores with all images of both splits."""
    for strategy in case.strategies:
        small = built(case.model, to_float(case.dataset.train.images[:1]), strategy).eval()
        if calibrate:
            for norm in (small[1], small[4], small[7]):
                norm.momentum, norm.training = 1.0, True  # statistics of the last batch alone
            small(to_float(case.dataset.train.images))
            small.eval()
        predicted = small(to_float(case.dataset.validation.images)).argmax(1)
        yield (predicted == case.dataset.validation.labels).double().mean().item()


@pytest.mark.parametrize("calibration_images", [300, 0])
def test_scores_are_those_of_a_loop_written_by_hand(case, calibration_images):
    found = judge(case, calibration_images=calibration_images)
    with torch.no_grad():
        assert list(found.scores) == list(by_hand(case, calibration_images > 0))
    assert len(set(found.scores)) > 4
    assert found.strategies == tuple(case.strategies)
    assert len(found.seconds) == 8
    assert min(found.seconds) > 0


def test_searching_leaves_network_and_random_numbers_as_they_were(case):
    state, random_state, threads = (
        copy.deepcopy(case.model.state_dict()),
        torch.get_rng_state(),
        torch.get_num_threads(),
    )
    case.model.train()
    judge(case, strategies=case.strategies[:2])
    assert all(layer.training for layer in case.model.modules())
    case.model.eval()
    assert all(torch.equal(value, state[name]) for name, value in case.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.get_num_threads() == threads


@pytest.mark.bad_input  # the type checker would refuse this split
def test_neither_the_test_split_nor_the_labels_of_training_images_are_looked_at(case, undisturbed):
    class Untouchable:
        def __getattr__(self, name):
            raise AssertionError(f"the test split was asked for its {name}")

    train = replace(case.dataset.train, labels=case.dataset.train.labels * 0)
    poisoned = replace(case.dataset, train=train, test=Untouchable())
    assert judge(case, dataset=poisoned) == undisturbed


@pytest.mark.parametrize("split", ["train", "validation"])
def test_calibration_and_scoring_images_are_drawn_from_their_own_splits(case, split, monkeypatch):
    """The first pixel of an image says which it is; so what reaches the network can be read."""
    seen = []
    run = nn.Conv2d.forward

    def forward(layer, x):
        if layer.in_channels == 1 and len(x) > 1:
            seen.append((x[:, 0, 0, 0] * 255).round().long().tolist())
        return run(layer, x)

    numbered = {
        name: replace(part, images=part.images.clone())
        for name, part in vars(case.dataset).items()
        if name in ("train", "validation")
    }
    for name, start in (("train", 0), ("validation", 200)):
        numbered[name] = numbered[name].subset(torch.arange(50))
        numbered[name].images[:, 0, 0, 0] = start + torch.arange(50)
    monkeypatch.setattr(nn.Conv2d, "forward", forward)
    dataset = replace(case.dataset, **numbered)
    draws = []
    for seed in (0, 0, 1):
        seen.clear()
        judge(
            case,
            dataset=dataset,
            strategies=case.strategies[:2],
            calibration_images=20,
            scoring_images=30,
            seed=seed,
        )
        first, second = seen[:2], seen[2:]
        assert first == second  # the same images for all strategies
        draws.append(first[split == "validation"])
    assert draws[0] == draws[1]
    assert set(draws[0]) != set(draws[2])
    start, count = (0, 20) if split == "train" else (200, 30)
    for draw in draws:
        assert len(set(draw)) == count
        assert all(start <= number < start + 50 for number in draw)
        assert draw != sorted(draw)


def test_many_calibration_images_go_through_in_equal_batches(case, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        eagleeye, "recalibrate_batch_norm", lambda model, parts: sizes.append([len(p) for p in parts])
    )
    dataset = replace(case.dataset, train=stripes(1100, 0))
    for count in (1, 500, 501, 1100):
        judge(case, dataset=dataset, strategies=case.strategies[:1], calibration_images=count)
    assert sizes == [[1], [500], [251, 250], [367, 367, 366]]


def test_the_best_are_those_with_the_highest_scores_and_of_equals_the_earlier():
    strategies = tuple(Strategy({"0": place / 10}, 1, 1.0) for place in range(5))
    result = SearchResult(strategies, (0.5, 0.9, 0.2, 0.9, 0.9), (1.0,) * 5)
    assert result.best() == [strategies[1]]
    assert result.best(4) == [strategies[place] for place in (1, 3, 4, 0)]
    assert result == replace(result, seconds=(2.0,) * 5)
    assert result != replace(result, scores=(0.5, 0.9, 0.2, 0.9, 0.8))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("count", "error"), [(0, ValueError), (3, ValueError), (1.0, TypeError), (True, TypeError)]
)
def test_there_are_no_more_best_than_strategies(count, error):
    with pytest.raises(error, match=f"count is {count}"):
        SearchResult((Strategy({}, 1, 1.0),) * 2, (0.5, 0.5), (1.0, 1.0)).best(count)


# Workers


def test_one_worker_and_two_find_the_same(case, undisturbed):
    assert judge(case, workers=1) == judge(case, workers=2) == undisturbed


def test_a_dask_cluster_finds_the_same(case, undisturbed, tmp_path):
    import distributed

    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
        distributed.get_task_stream(client) as stream,
        joblib.parallel_config("dask"),
    ):
        assert judge(case, path=tmp_path / "found.jsonl") == undisturbed
        assert judge(case, path=tmp_path / "found.jsonl") == undisturbed  # from the file
    tasks = [task for task in stream.data if "judge" in task["key"]]
    assert len({task["key"] for task in tasks}) == len(
        case.strategies
    )  # on the cluster, each of them, and once


def test_threads_of_one_process_take_turns(case, undisturbed, monkeypatch):
    """Tracing changes nn.Module for all threads while it lasts."""
    inside, original = [], eagleeye._judge

    def watched(*arguments):
        inside.append("in")
        assert (len(inside), torch.get_num_threads()) == (1, 1)
        time.sleep(0.002)
        found = original(*arguments)
        inside.remove("in")
        return found

    monkeypatch.setattr(eagleeye, "_judge", watched)
    with joblib.parallel_config("threading", n_jobs=3):
        assert judge(case) == undisturbed


PROGRAM = """
import pickle, sys
from course_lib.pruning.eagleeye import search
with open(sys.argv[1], "rb") as stream:
    arguments = pickle.load(stream)
search(*arguments, calibration_images=100, scoring_images=200, path=sys.argv[2])
"""


def test_a_search_that_is_killed_and_started_again_equals_one_that_is_not(case, tmp_path):
    example = to_float(case.dataset.train.images[:1])
    strategies = sample_strategies(
        case.model, example, count=200, mac_range=(0.1, 0.9), max_ratio=0.9, seed=1
    )
    given, path = tmp_path / "arguments", tmp_path / "found.jsonl"
    given.write_bytes(pickle.dumps((case.model, case.dataset, strategies)))
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, given, path], stderr=subprocess.DEVNULL)
    while process.poll() is None and not (path.exists() and path.read_bytes().count(b"\n") > 100):
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith(b"\n")]
    assert 101 <= len(kept) < 201
    # In workers, which run without the type checker of the suite and so many times faster.
    again = judge(case, strategies=strategies, path=path, workers=2)
    whole = judge(case, strategies=strategies, workers=2)
    assert again == whole
    assert whole.strategies == tuple(strategies)
    assert len(set(whole.scores)) > 20
    after = path.read_bytes().splitlines(keepends=True)
    assert len(after) == 201
    assert after[: len(kept)] == kept  # those are not judged again


def test_a_worker_that_dies_takes_no_other_candidate_with_it(case, tmp_path, judged):
    """One candidate kills its process each time, another the first time; the rest is judged, and the search goes on."""
    parent, marker = os.getpid(), str(tmp_path / "died")

    class Killer:  # local, so that it is pickled as a whole
        def __call__(self, layer, inputs):
            width = inputs[0].shape[1]
            if os.getpid() != parent and (width == 9 or (width == 5 and not os.path.exists(marker))):
                if width == 5:
                    open(marker, "w").close()
                os.kill(os.getpid(), signal.SIGKILL)

    model, path = copy.deepcopy(case.model), tmp_path / "found.jsonl"
    # 9, 8, ... 3 filters left
    strategies = [Strategy({"0": 0.25, "3": gone / 10}, 1, 1.0) for gone in range(1, 8)]
    expected = judge(case, strategies=strategies)
    model[5].register_forward_pre_hook(Killer())
    deadly = SimpleNamespace(model=model, dataset=case.dataset)
    judged.clear()
    with pytest.raises(
        RuntimeError, match=r"^strategies \[0\] are not judged: with each .* died.* All others are"
    ):
        judge(deadly, strategies=strategies, workers=2, path=path)
    assert os.path.exists(marker)
    assert len(path.read_text().splitlines()) == 1 + 6
    assert judged == []
    assert judge(deadly, strategies=strategies, workers=1, path=path) == expected
    assert judged == [0]


def test_what_a_worker_refuses_comes_back_with_its_place(case):
    strategies = [*case.strategies[:2], Strategy({"8": 0.5}, 1, 1.0)]
    with pytest.raises(KeyError, match="strategy 2 cannot be judged: unknown layer '8'"):
        judge(case, strategies=strategies, workers=2)


# The file of results


def test_results_are_written_one_by_one_and_read_again(case, undisturbed, tmp_path, judged, monkeypatch):
    path, lines, note = tmp_path / "new" / "found.jsonl", [], eagleeye._judge
    monkeypatch.setattr(
        eagleeye, "_judge", lambda *rest: lines.append(path.read_text().count("\n")) or note(*rest)
    )
    assert judge(case, path=path) == undisturbed
    assert lines == list(range(1, 9))
    content = path.read_bytes()
    again = judge(case, path=str(path))
    assert again == undisturbed
    assert again.seconds == tuple(json.loads(line)["seconds"] for line in content.splitlines()[1:])
    assert judged == list(range(8))
    assert path.read_bytes() == content


def test_only_what_the_file_lacks_is_judged(case, undisturbed, tmp_path, judged):
    path = tmp_path / "found.jsonl"
    judge(case, strategies=case.strategies[3:6], path=path)
    judged.clear()
    assert judge(case, path=path) == undisturbed
    assert judged == [0, 1, 2, 6, 7]
    backwards = judge(case, strategies=case.strategies[::-1], path=path)
    assert backwards.scores == undisturbed.scores[::-1]
    assert len(judged) == 5


@pytest.mark.parametrize("cut", [1, 40])
def test_a_last_line_that_was_cut_off_is_judged_again(case, undisturbed, tmp_path, judged, cut):
    path = tmp_path / "found.jsonl"
    judge(case, path=path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    judged.clear()
    assert judge(case, path=path) == undisturbed
    assert judged == [7]
    ratios = [json.loads(line)["ratios"] for line in path.read_text().splitlines()[1:]]
    assert ratios == [strategy.ratios for strategy in case.strategies]


def test_an_empty_file_is_a_new_one(case, tmp_path, judged):
    path = tmp_path / "found.jsonl"
    path.touch()
    judge(case, strategies=case.strategies[:2], path=path)
    assert len(path.read_text().splitlines()) == 1 + 2


def test_an_interrupted_search_keeps_what_was_finished(case, undisturbed, tmp_path, judged, monkeypatch):
    path, note = tmp_path / "found.jsonl", eagleeye._judge

    def interrupted(place, *rest):
        if place == 4:
            raise KeyboardInterrupt
        return note(place, *rest)

    monkeypatch.setattr(eagleeye, "_judge", interrupted)
    with pytest.raises(KeyboardInterrupt):
        judge(case, path=path)
    monkeypatch.setattr(eagleeye, "_judge", note)
    assert len(path.read_text().splitlines()) == 1 + 4
    assert judge(case, path=path) == undisturbed
    assert judged == list(range(8))


DAMAGES = {
    "half a line": lambda lines: [*lines[:2], lines[2][:20], *lines[3:]],
    "no score": lambda lines: [*lines[:2], '{"ratios": {}}', *lines[3:]],
    "no number": lambda lines: [
        *lines[:2],
        lines[2].replace('"score": ', '"score": "a" , "was": '),
        *lines[3:],
    ],
    "blank": lambda lines: [*lines[:2], "", *lines[3:]],
    "a list": lambda lines: [*lines[:2], "[]", *lines[3:]],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_line_is_refused_by_its_number(case, tmp_path, judged, damage):
    path = tmp_path / "found.jsonl"
    judge(case, strategies=case.strategies[:4], path=path)
    path.write_text("\n".join(DAMAGES[damage](path.read_text().splitlines())) + "\n")
    content, calls = path.read_bytes(), len(judged)
    with pytest.raises(
        ValueError, match=r"^line 3 of .*found.jsonl is damaged .* Give another path, or delete the file"
    ):
        judge(case, path=path)
    assert path.read_bytes() == content
    assert len(judged) == calls


@pytest.mark.parametrize(
    "other", ["weights", "network", "validation", "labels", "train", "seed", "count", "plain"]
)
def test_the_file_of_another_search_is_refused(case, tmp_path, judged, other):
    path = tmp_path / "found.jsonl"
    judge(case, strategies=case.strategies[:2], path=path)
    content, calls = path.read_bytes(), len(judged)
    model, dataset, options = copy.deepcopy(case.model), case.dataset, {}
    if other == "weights":
        model[0].weight.data[0, 0, 0, 0] += 1e-6
    elif other == "network":
        model[2] = nn.ReLU6()
    elif other == "labels":
        dataset = replace(
            dataset, validation=replace(dataset.validation, labels=2 - dataset.validation.labels)
        )
    elif other in ("train", "validation"):
        dataset = replace(dataset, **{other: stripes(300, 5)})
    else:
        options = {"seed": {"seed": 1}, "count": {"scoring_images": 199}, "plain": {"calibration_images": 0}}[
            other
        ]
    with pytest.raises(
        ValueError, match=r"found.jsonl holds the results of another search.* Give another path"
    ):
        judge(SimpleNamespace(model=model, strategies=case.strategies), dataset=dataset, path=path, **options)
    assert path.read_bytes() == content
    assert len(judged) == calls


@pytest.mark.parametrize(
    "content", [b"a diary", b"a diary\n", b'{"a": 1}', b'{"search": 1}\n', b"\x89PNG\r\n\x1a\n\0\xff"]
)
def test_a_file_that_is_no_search_is_left_as_it_is(case, tmp_path, judged, content):
    path = tmp_path / "thesis.tex"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"thesis.tex (is damaged|holds the results of another search)"):
        judge(case, path=path)
    assert path.read_bytes() == content
    assert judged == []


# Bad input


def without_batch_norm(case):
    return {"model": narrow(lambda width: nn.Identity())}


def broken(layer, value=math.nan):
    def change(case):
        model = copy.deepcopy(case.model)
        model[layer].weight.data[1] = value
        return {"model": model}

    return change


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": "vgg"}, TypeError, "model is a str; it must be a trained torch.nn.Module"),
        ({"strategies": []}, ValueError, "no strategies; sample_strategies draws some"),
        (
            {"strategies": [{"0": 0.5}]},
            TypeError,
            r"strategies is \[\{'0': 0.5\}\]; it must be a list of Strategy",
        ),
        ({"strategies": Strategy({}, 1, 1.0)}, TypeError, "strategies is Strategy"),
        ({"strategies": iter([Strategy({}, 1, 1.0)])}, TypeError, "strategies is <list_iterator"),
        (
            {"strategies": [Strategy({"0": 1.0}, 1, 1.0)]},
            ValueError,
            r"strategy 0 cannot be judged: the ratio of '0' is",
        ),
        (
            {"strategies": [Strategy({"1": 0.5}, 1, 1.0)]},
            KeyError,
            "strategy 0 cannot be judged: unknown layer '1'",
        ),
        ({"calibration_images": 301}, ValueError, "calibration_images is 301, but its split has 300 images"),
        ({"calibration_images": -1}, ValueError, "calibration_images is -1"),
        ({"calibration_images": 1.5}, TypeError, "calibration_images is 1.5"),
        ({"scoring_images": 201}, ValueError, "scoring_images is 201, but its split has 200 images"),
        ({"scoring_images": 0}, ValueError, "scoring_images is 0; it must be at least 1"),
        ({"seed": -1}, ValueError, "seed is -1"),
        ({"workers": 0}, ValueError, "workers is 0; it must be at least 1"),
        ({"workers": -2}, ValueError, "workers is -2"),
        ({"workers": 1.5}, TypeError, "workers is 1.5"),
        ({"workers": True}, TypeError, "workers is True"),
        (
            without_batch_norm,
            ValueError,
            "strategy 0 cannot be judged: the model has no batch norm with running stat",
        ),
        (broken(3), ValueError, "strategy 0 cannot be judged: weight holds NaN"),
        (broken(1), ValueError, "strategy 0 cannot be judged: 4.running_mean became NaN or infinite"),
        (broken(11), ValueError, "strategy 0 cannot be judged: the model returns NaN"),
    ],
)
def test_a_search_refuses_what_has_no_meaning(case, change, error, message):
    given = {"model": case.model, "strategies": [Strategy({"3": 0.5}, 1, 1.0)], "scoring_images": 10}
    given |= {"calibration_images": 10} | (change(case) if callable(change) else change)
    with pytest.raises(error, match=message):
        search(given.pop("model"), case.dataset, given.pop("strategies"), **given)


def test_without_batch_norm_the_plain_judgement_is_left(case):
    plain = SimpleNamespace(model=without_batch_norm(case)["model"], dataset=case.dataset)
    found = judge(plain, strategies=case.strategies[:2], calibration_images=0)
    assert all(0 <= score <= 1 for score in found.scores)
