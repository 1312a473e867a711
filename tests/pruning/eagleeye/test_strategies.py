"""Strategies, and their operations as a function of the widths."""

import copy
import math
import random

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib import cost, models
from course_lib.pruning.eagleeye import sample_strategies
from course_lib.pruning.filters import filter_plan
from course_lib.pruning.surgery import remove_channels
from tests.pruning.reference import Net
from tests.pruning.zoo import ALL, IMAGE

EXAMPLE = torch.rand(2, 1, 16, 16)


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
            "nothing can be removed from this model: '1': they are the network's output",
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
