"""Filter pruning: what a ratio takes from each layer, tied layers, sensitivity, schedules."""

import functools
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib import cost, models
from course_lib.pruning.criteria import l1_norm, l2_norm, random_scores
from course_lib.pruning.filters import (
    filter_plan,
    prune_iteratively,
    ratios_for_macs,
    ratios_from_sensitivity,
    sensitivity,
    unit_scores,
    untied_layers,
)
from course_lib.pruning.graph import channel_groups, follow
from course_lib.pruning.surgery import remove_channels

EXAMPLE = torch.rand(2, 1, 16, 16)
# Tracing runs the models on proxies, which are no tensors.
pytestmark = pytest.mark.bad_input


def as_lists(plan):
    return {layer: indices.tolist() for layer, indices in plan.items()}


def three_filters():
    """Norms 6, 2 and 4 in the first layer; the second has one filter a class and stays."""
    first, second = nn.Conv2d(1, 3, 1, bias=False), nn.Conv2d(3, 2, 1, bias=False)
    first.weight.data = torch.tensor([-6.0, 2.0, 4.0]).reshape(3, 1, 1, 1)
    return nn.Sequential(first, nn.ReLU(), second, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def widths(model):
    return [layer.out_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)]


# ---- plans ---------------------------------------------------------------------------------------------------------


def test_a_plan_by_hand():
    model = three_filters()
    assert as_lists(filter_plan(model, EXAMPLE, 1 / 3)) == {"0": [1]}
    assert as_lists(filter_plan(model, EXAMPLE, {"0": 0.5})) == {"0": [1, 2]}  # round(1.5) is 2
    assert as_lists(filter_plan(model, EXAMPLE, 1 / 3, criterion=lambda w: -l1_norm(w))) == {"0": [0]}
    assert filter_plan(model, EXAMPLE, 0) == {}


def test_one_filter_stays_however_large_the_ratio():
    assert as_lists(filter_plan(three_filters(), EXAMPLE, 0.99)) == {"0": [1, 2]}


@given(st.floats(0, 0.999), st.sampled_from([l1_norm, l2_norm]), st.integers(0, 20))
@settings(max_examples=25)
def test_each_layer_of_a_chain_loses_its_own_lowest(ratio, criterion, seed):
    model = models.build("vgg", seed=seed)
    plan = filter_plan(model, EXAMPLE, ratio, criterion=criterion)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            count = min(round(ratio * layer.out_channels), layer.out_channels - 1)
            oracle = criterion(layer.weight).numpy().argsort(kind="stable")[:count]
            assert plan.get(name, torch.zeros(0)).tolist() == sorted(oracle.tolist())


def test_tied_layers_lose_the_same_filters_by_their_mean_score():
    model = models.build("resnet")
    plan = filter_plan(model, EXAMPLE, {"0": 0.5})
    assert set(plan) == {"0", "3.conv2", "4.conv2"}
    total = sum(l1_norm(model.get_submodule(name).weight) for name in plan)
    for indices in plan.values():
        assert indices.tolist() == total.argsort()[:8].sort().values.tolist()
    with pytest.raises(ValueError, match=r"'0' and '3\.conv2' are tied.*0\.5 and 0\.25"):
        filter_plan(model, EXAMPLE, {"0": 0.5, "3.conv2": 0.25})
    assert as_lists(filter_plan(model, EXAMPLE, {"0": 0.5, "3.conv2": 0.5})) == as_lists(plan)


def test_scores_of_a_group_are_means_over_the_filters_that_go_together():
    [group, *_] = channel_groups(three_filters(), EXAMPLE)
    assert unit_scores(three_filters(), group).tolist() == [6.0, 2.0, 4.0]
    assert unit_scores(three_filters(), group, lambda w: -l1_norm(w)).tolist() == [-6.0, -2.0, -4.0]
    model = models.build("resnet")
    tied = channel_groups(model, EXAMPLE)[0]
    scores = unit_scores(model, tied, l2_norm)
    norms = [l2_norm(model.get_submodule(name).weight).double() for name in ("0", "3.conv2", "4.conv2")]
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores, torch.stack(norms).mean(0))


def test_untied_layers_are_the_first_of_each_block_and_all_of_a_chain():
    assert untied_layers(models.build("resnet"), EXAMPLE) == [f"{block}.conv1" for block in range(3, 9)]
    chain = models.build("vgg")
    convolutions = [name for name, layer in chain.named_modules() if isinstance(layer, nn.Conv2d)]
    assert untied_layers(chain, EXAMPLE) == convolutions
    # A pointwise convolution before a depthwise one has a follower, and still its filters go alone.
    assert untied_layers(models.build("mobilenet"), EXAMPLE) == ["0", "3.3", "4.3", "5.3", "6.3", "7.3"]


def test_transposed_convolutions_are_scored_by_their_output_channels():
    up = nn.ConvTranspose2d(1, 3, 1, bias=False)  # weight [C_in, C_out, 1, 1]
    up.weight.data = torch.tensor([3.0, 1.0, 2.0]).reshape(1, 3, 1, 1)
    model = nn.Sequential(up, nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert as_lists(filter_plan(model, EXAMPLE, 1 / 3)) == {"0": [1]}


def test_random_filters_are_those_of_the_generator():
    model = models.build("vgg")

    def plan(seed):
        generator = torch.Generator().manual_seed(seed)
        return as_lists(filter_plan(model, EXAMPLE, 0.5, criterion=lambda w: random_scores(w, generator)))

    assert plan(0) == plan(0) != plan(1)


# ---- sensitivity and schedules -------------------------------------------------------------------------------------


def test_sensitivity_prunes_one_layer_at_a_time():
    model = models.build("vgg")
    seen = []

    def evaluate(network):
        seen.append(widths(network))
        return sum(seen[-1]) / 1000

    rows = sensitivity(model, EXAMPLE, evaluate, ratios=(0, 0.5))
    whole = widths(model)
    assert [row["layer"] for row in rows] == [layer for layer in untied_layers(model, EXAMPLE) for _ in "ab"]
    for place, (row, found) in enumerate(zip(rows, seen, strict=True)):
        expected = list(whole)
        if row["ratio"] == 0.5:
            expected[place // 2] //= 2
        assert found == expected
        assert row["accuracy"] == sum(expected) / 1000
    assert [row["layer"] for row in sensitivity(model, EXAMPLE, evaluate, layers=["7"], ratios=[0.1])] == [
        "7"
    ]


SCAN = [
    {"layer": "a", "ratio": 0.5, "accuracy": 0.6},  # rows may come in any order
    {"layer": "a", "ratio": 0.25, "accuracy": 0.8},
    {
        "layer": "a",
        "ratio": 0.75,
        "accuracy": 0.9,
    },  # up again: what lies behind the first fall does not count
    {"layer": "b", "ratio": 0.25, "accuracy": 0.9},
    {"layer": "b", "ratio": 0.75, "accuracy": 0.85},
]


@pytest.mark.parametrize(
    ("least", "a", "b"),
    [(0.9, 0.0, 0.25), (0.8, 0.25, 0.75), (0.7, 0.375, 0.75), (0.85, 0.125, 0.75), (0.6, 0.75, 0.75)],
)
def test_ratios_are_read_where_the_curve_first_falls_below(least, a, b):
    found = ratios_from_sensitivity(SCAN, least, baseline=0.9)
    assert list(found) == ["a", "b"]
    assert found == pytest.approx({"a": a, "b": b})


@pytest.mark.parametrize("share", [0.3, 1])
def test_the_mildest_ratios_that_keep_a_budget_of_macs(share):
    model = models.build("vgg", widths=(8, "M", 16))

    def left(ratios):
        small = remove_channels(model, EXAMPLE, filter_plan(model, EXAMPLE, ratios))
        return cost.measure(small, EXAMPLE).macs / cost.measure(model, EXAMPLE).macs

    found = ratios_for_macs(model, EXAMPLE, lambda t: t, share)
    assert left(found) <= share
    assert found == 0 or left(found - 1 / 1024) > share


def test_budgets_of_named_layers_and_of_sensitivities():
    model = models.build("vgg", widths=(8, "M", 16))
    found = ratios_for_macs(model, EXAMPLE, lambda t: {"4": t}, 0.6)
    assert set(found) == {"4"}
    rows = [{"layer": "0", "ratio": 0.5, "accuracy": 0.0}, {"layer": "4", "ratio": 0.9, "accuracy": 0.9}]
    guided = ratios_for_macs(
        model, EXAMPLE, lambda t: ratios_from_sensitivity(rows, 0.9 * (1 - t), baseline=0.9), 0.2
    )
    assert guided["4"] == 0.9
    assert 0 < guided["0"] < 0.5


@given(st.floats(0.05, 0.9), st.integers(1, 4))
@settings(max_examples=6)
def test_rounds_end_where_one_shot_does_and_tune_after_each(ratio, rounds):
    model = models.build("vgg")
    tuned = []
    small = prune_iteratively(
        model, EXAMPLE, ratio, rounds=rounds, fine_tune=lambda network: tuned.append(widths(network))
    )
    assert len(tuned) == rounds
    once = remove_channels(model, EXAMPLE, filter_plan(model, EXAMPLE, ratio))
    assert widths(small) == tuned[-1] == widths(once)
    if rounds == 1:
        assert all(torch.equal(a, b) for a, b in zip(small.parameters(), once.parameters(), strict=True))
    assert all(a >= b for first, second in pairwise(tuned) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_rounds_round_halves_as_a_plan_does(rounds):
    small = prune_iteratively(three_filters(), EXAMPLE, 0.5, rounds=rounds, fine_tune=lambda network: None)
    assert small[0].weight.flatten().tolist() == [-6.0]  # 1.5 of 3 filters: two go


def test_rounds_keep_tied_layers_together():
    model = models.build("resnet")
    small = prune_iteratively(model, EXAMPLE, 0.4, rounds=2, fine_tune=lambda network: network(EXAMPLE))
    assert widths(small) == [width - round(0.4 * width) for width in widths(model)]


def test_rounds_score_the_tuned_network_and_not_the_old_one():
    def swap(network):  # what was the largest filter becomes the smallest
        network[0].weight.data = 1 / network[0].weight.data

    model = three_filters()
    once = prune_iteratively(model, EXAMPLE, 0.66, rounds=1, fine_tune=lambda network: None)
    twice = prune_iteratively(model, EXAMPLE, 0.66, rounds=2, fine_tune=swap)
    assert once[0].weight.flatten().tolist() == [-6.0]
    assert twice[0].weight.flatten().tolist() == [4.0]
    assert model[0].weight.flatten().tolist() == [-6.0, 2.0, 4.0]


# ---- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [1, -0.1, float("nan"), float("inf")])
def test_ratios_out_of_range_are_refused(ratio):
    model = three_filters()
    for ratios in (ratio, {"0": ratio}):
        with pytest.raises(ValueError, match=r"ratio.* is .*\[0, 1\)"):
            filter_plan(model, EXAMPLE, ratios)


def test_layers_that_cannot_be_pruned_are_refused_with_the_reason():
    model = models.build("vgg")
    with pytest.raises(KeyError, match="Did you mean"):
        filter_plan(model, EXAMPLE, {"77": 0.5})
    with pytest.raises(KeyError, match="BatchNorm2d computes no channels"):
        filter_plan(model, EXAMPLE, {"1": 0.5})
    with pytest.raises(ValueError, match="'22' cannot be removed: they are the network's output"):
        filter_plan(model, EXAMPLE, {"22": 0.5})


@pytest.mark.parametrize(
    "criterion", [lambda w: w, lambda w: 1.0, lambda w: torch.full((len(w),), torch.nan)]
)
def test_a_criterion_that_gives_no_score_a_filter_is_refused(criterion):
    with pytest.raises(ValueError, match="one finite score for each of the 3 filters"):
        filter_plan(three_filters(), EXAMPLE, 0.5, criterion=criterion)
    with pytest.raises(ValueError, match="one finite score for each of the 3 filters"):
        unit_scores(three_filters(), channel_groups(three_filters(), EXAMPLE)[0], criterion)
    with pytest.raises(TypeError, match="criterion is 'l1'"):
        filter_plan(three_filters(), EXAMPLE, 0.5, criterion="l1")


def test_rounds_must_be_positive_and_bad_ratios_are_found_before_training():
    def never(network):
        raise AssertionError("trained before the ratios were checked")

    with pytest.raises(ValueError, match="rounds is 0"):
        prune_iteratively(three_filters(), EXAMPLE, 0.5, rounds=0, fine_tune=never)
    with pytest.raises(KeyError, match="unknown layer 'x'"):
        prune_iteratively(three_filters(), EXAMPLE, {"x": 0.5}, rounds=2, fine_tune=never)


def test_what_is_unlike_a_list_or_a_plain_function_and_still_right():
    model = three_filters()
    rows = sensitivity(
        model, EXAMPLE, lambda network: torch.tensor(0.5), ratios=np.array([0.1, 0.4]), layers=("0",)
    )
    assert [row["ratio"] for row in rows] == [0.1, 0.4]
    assert as_lists(
        filter_plan(model, EXAMPLE, 1 / 3, criterion=functools.partial(torch.sum, dim=(1, 2, 3)))
    ) == {"0": [0]}
    generator = torch.Generator().manual_seed(0)
    filter_plan(model, EXAMPLE, 0.5, criterion=functools.partial(random_scores, generator=generator))


def test_reasons_are_given_for_three_layers():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.heads = nn.ModuleList(nn.Linear(4, 2) for _ in range(5))

        def forward(self, x):
            return [head(x) for head in self.heads]

    with pytest.raises(
        ValueError,
        match=r"^nothing .*'heads\.0': they are .*'heads\.2': they are [^;]*; and 2 more\. follow\(",
    ):
        filter_plan(Heads(), torch.rand(2, 4), 0.5)


def test_budgets_and_levels_out_of_range_are_refused():
    model = three_filters()
    with pytest.raises(ValueError, match=r"share is 0\.0; .*share of MACs that may be left"):
        ratios_for_macs(model, EXAMPLE, lambda t: t, 0)
    with pytest.raises(
        ValueError, match=r"share is 0\.01, but even the largest ratios leave 0\.333 of the MACs"
    ):
        ratios_for_macs(model, EXAMPLE, lambda t: t, 0.01)
    with pytest.raises(ValueError, match=r"least is 0\.95.*at most that of the whole network"):
        ratios_from_sensitivity(SCAN, 0.95, baseline=0.9)
    with pytest.raises(ValueError, match=r"there are no rows.*sensitivity\(\)"):
        ratios_from_sensitivity([], 0.5, baseline=0.9)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"accuracy": math.nan},
            ValueError,
            r"the accuracy of layer '0', rows\[1\], is nan; .*in \[0, 1\]. .*leave",
        ),
        ({"accuracy": torch.tensor(math.nan)}, ValueError, r"the accuracy of layer '0', rows\[1\], is nan"),
        ({"accuracy": math.inf}, ValueError, r"rows\[1\], is inf"),
        ({"accuracy": -math.inf}, ValueError, r"rows\[1\], is -inf"),
        ({"accuracy": 93.0}, ValueError, r"rows\[1\], is 93\.0; .*0\.93 and not 93"),
        ({"accuracy": 1.0001}, ValueError, r"rows\[1\], is 1\.0001"),
        ({"accuracy": -0.1}, ValueError, r"rows\[1\], is -0\.1"),
        ({"accuracy": None}, TypeError, r"the accuracy of layer '0', rows\[1\], is None"),
        ({"accuracy": "0.9"}, TypeError, r"the accuracy of layer '0', rows\[1\], is '0.9'"),
        ({"ratio": math.nan}, ValueError, r"the ratio of layer '0', rows\[1\], is nan; .*\[0, 1\)"),
        ({"ratio": 1}, ValueError, r"the ratio of layer '0', rows\[1\], is 1\.0"),
        ({"ratio": -0.5}, ValueError, r"the ratio of layer '0', rows\[1\], is -0\.5"),
    ],
)
def test_rows_that_hold_no_share_are_named(change, error, message):
    rows = [
        {"layer": "0", "ratio": 0.3, "accuracy": 0.8},
        {"layer": "0", "ratio": 0.9, "accuracy": 0.7},
        {"layer": "3", "ratio": 0.9, "accuracy": 0.7},
    ]
    assert ratios_from_sensitivity(rows, 0.5, baseline=0.9) == {"0": 0.9, "3": 0.9}
    rows[1] |= change
    with pytest.raises(error, match=message):
        ratios_from_sensitivity(rows, 0.5, baseline=0.9)


@pytest.mark.parametrize("row", [{"layer": "0", "ratio": 0.3}, {}, ("0", 0.3, 0.8), None, "0"])
def test_rows_of_another_form_are_named(row):
    with pytest.raises(ValueError, match=r"rows\[1\] is .*layer, ratio and accuracy.*sensitivity\(\)"):
        ratios_from_sensitivity([*SCAN[:1], row], 0.1, baseline=0.9)


def test_the_largest_and_smallest_accuracies_are_accepted():
    rows = [
        {"layer": "0", "ratio": 0, "accuracy": 1},
        {"layer": "0", "ratio": 0.5, "accuracy": torch.tensor(0.0)},
    ]
    assert ratios_from_sensitivity(rows, 0.5, baseline=1.0) == {"0": 0.25}


def test_the_plan_can_be_cut():
    model = models.build("resnet")
    small = remove_channels(model, EXAMPLE, filter_plan(model, EXAMPLE, 0.5))
    assert widths(small) == [width // 2 for width in widths(model)]


class Halves(nn.Module):
    """Two convolutions side by side that attention ties into units of four channels."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Linear(16, 2)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x):
        x = torch.cat([self.first(x), self.second(x)], 1).flatten(2).transpose(1, 2)
        return self.head((x + self.attention(x, x, x)[0]).mean(1))


@pytest.mark.parametrize("weak", ["first", "second"])
def test_no_layer_of_a_group_loses_all_that_it_has_of_it(weak):
    torch.manual_seed(0)
    model, example = Halves(), torch.rand(2, 3, 4, 4)
    with torch.no_grad():
        getattr(model, weak).weight.mul_(0.01)
        model.attention.out_proj.weight[slice(0, 8) if weak == "first" else slice(8, 16)] *= 0.01
    plan = filter_plan(model, example, 0.5)
    assert {name: len(plan[name]) for name in ("first", "second")} == {"first": 4, "second": 4}
    assert remove_channels(model, example, plan).attention.num_heads == 2
    [group] = follow(model, example).groups
    assert group.lowest_units(torch.tensor([1.0, 2.0, 3.0, 4.0]), 3).tolist() == [0, 2]  # no third can go
    assert group.lowest_units(torch.tensor([4.0, 3.0, 2.0, 1.0]), 1).tolist() == [3]
