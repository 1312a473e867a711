"""Widths that are multiples: one rounding for all planners, the lowest scores first, and layers of those widths."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib import cost, models
from course_lib.pruning import (
    ChannelGroup,
    LayerAxis,
    filter_plan,
    follow,
    prune_iteratively,
    ratios_for_macs,
    remove_channels,
    rounded_width,
    sample_strategies,
    slimming_plan,
    unit_scores,
)
from course_lib.pruning.rounding import _rounded
from course_lib.pruning.slimming import channel_scales
from tests.pruning.reference import liven
from tests.pruning.zoo import ALL

# Tracing runs the models on proxies, which are no tensors.
pytestmark = pytest.mark.bad_input

EXAMPLE = torch.rand(2, 1, 16, 16)
VGG = models.build("vgg", seed=3)
VGG_CHANNELS = follow(VGG, EXAMPLE)
NETWORKS = {}


def network(name):
    """A network of the zoo with its channels, built once: nothing here changes it."""
    if name not in NETWORKS:
        torch.manual_seed(0)
        make, shape = ALL[name]
        example = torch.rand(shape)
        model = liven(make(), example).eval()
        NETWORKS[name] = model, follow(model, example)
    return NETWORKS[name]


def widest(group):
    """Channels of each unit in the widest layer that computes the group, None where they differ; and that width."""
    owned = max(([unit for unit in axis.units.tolist() if unit >= 0] for axis in group.producers), key=len)
    each = {owned.count(unit) for unit in range(group.size)}
    return (each.pop() if len(each) == 1 else None), len(owned)


def kept_units(group, plan):
    gone = set()
    for axis in group.producers:
        gone |= set(axis.units[plan.get(axis.layer, torch.zeros(0, dtype=torch.int64))].tolist())
    return sorted(set(range(group.size)) - gone)


def assert_multiple(group, kept, round_to):
    each = widest(group)[0] or 1
    if any(units * each % round_to == 0 for units in range(1, group.size + 1)):
        assert kept * each % round_to == 0
    else:
        assert kept == group.size


@given(st.integers(1, 200), st.integers(1, 40), st.data())
def test_the_nearest_multiple_that_is_there(size, step, data):
    kept = data.draw(st.integers(1, size))
    multiples = range(step, size + 1, step)
    best = max(multiples, key=lambda n: (-abs(n - kept), n)) if multiples else size  # of two the larger
    assert int(_rounded(kept, size, step)) == best
    several = np.array([kept, size])
    assert _rounded(several, np.array([size, size]), np.array([step, 1])).tolist() == [best, size]


@given(st.integers(1, 64), st.integers(1, 63), st.integers(1, 16))
def test_more_kept_is_never_less_after_rounding(size, kept, step):
    kept = min(kept, size)
    assert _rounded(kept, size, step) <= _rounded(min(kept + 1, size), size, step)


def test_where_a_unit_stands_for_several_channels_fewer_units_make_a_multiple():
    grouped = nn.Sequential(nn.Conv2d(3, 24, 1), nn.Conv2d(24, 24, 1, groups=4), nn.Conv2d(24, 2, 1))
    group, _ = follow(grouped, torch.rand(1, 3, 5, 5)).groups
    assert (group.size, widest(group)) == (6, (4, 24))
    assert [rounded_width(group, kept, 8) for kept in range(1, 7)] == [2, 2, 4, 4, 6, 6]
    assert [rounded_width(group, kept, 3) for kept in range(1, 7)] == [3, 3, 3, 3, 6, 6]
    assert rounded_width(group, 1, 32) == 6  # no multiple is there


def test_units_of_different_sizes_are_counted_themselves():
    uneven = ChannelGroup(3, (LayerAxis("a", 0, torch.tensor([0, 0, 1, 2])),), (), ())
    assert [rounded_width(uneven, kept, 2) for kept in (1, 2, 3)] == [2, 2, 2]


@given(st.sampled_from(sorted(ALL)), st.floats(0, 0.99), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_every_width_of_a_plan_is_a_multiple_and_the_lowest_go(name, ratio, round_to):
    model, channels = network(name)
    plan = filter_plan(model, channels, ratio, round_to=round_to)
    for group in channels.groups:
        kept = kept_units(group, plan)
        assert_multiple(group, len(kept), round_to)
        scores = unit_scores(model, group)
        gone = sorted(set(range(group.size)) - set(kept))
        # Sums in another order differ in the last bit, so that equal scores may change places.
        assert not gone or scores[kept].min() >= scores[gone].max() * (1 - 1e-5)
    if round_to == 1:
        plain = filter_plan(model, channels, ratio)
        assert {layer: indices.tolist() for layer, indices in plain.items()} == {
            layer: indices.tolist() for layer, indices in plan.items()
        }


@given(st.floats(0, 0.99), st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_the_layers_that_are_left_have_those_widths(ratio, round_to):
    small = remove_channels(
        VGG, VGG_CHANNELS, filter_plan(VGG, VGG_CHANNELS, {"0": ratio, "7": ratio}, round_to=round_to)
    )
    for name, layer in VGG.named_modules():
        if isinstance(layer, nn.Conv2d):
            width = small.get_submodule(name).out_channels
            assert width % round_to == 0 if name in ("0", "7") else width == layer.out_channels
            assert width > 0


@given(st.floats(0.05, 0.9), st.integers(1, 3), st.sampled_from([3, 8]))
@settings(max_examples=6, deadline=None)
def test_rounds_end_at_the_widths_of_the_plan(ratio, rounds, round_to):
    model = models.build("vgg", widths=(20, "M", 24), seed=1)
    tuned = []
    small = prune_iteratively(
        model,
        EXAMPLE,
        ratio,
        rounds=rounds,
        fine_tune=lambda network: tuned.append(network[0].out_channels),
        round_to=round_to,
    )
    once = remove_channels(model, EXAMPLE, filter_plan(model, EXAMPLE, ratio, round_to=round_to))
    assert [p.shape for p in small.parameters()] == [p.shape for p in once.parameters()]
    assert all(width % round_to == 0 for width in tuned)
    assert tuned == sorted(tuned, reverse=True)


@pytest.mark.parametrize("round_to", [1, 8])
def test_a_budget_of_macs_is_kept_with_the_rounded_widths(round_to):
    model = models.build("vgg", widths=(24, "M", 40))

    def left(ratio):
        small = remove_channels(model, EXAMPLE, filter_plan(model, EXAMPLE, ratio, round_to=round_to))
        return cost.macs(small, EXAMPLE) / cost.macs(model, EXAMPLE)

    found = ratios_for_macs(model, EXAMPLE, lambda t: t, 0.4, round_to=round_to)
    assert left(found) <= 0.4 < left(found - 1 / 1024)


@pytest.mark.parametrize("name", ["vgg", "resnet", "mobilenet"])
def test_strategies_have_rounded_widths_and_the_macs_they_say(name):
    model = models.build(name)
    channels = follow(model, EXAMPLE)
    options = {"count": 5, "mac_range": (0.2, 0.8), "max_ratio": 0.8, "seed": 4}
    for strategy in sample_strategies(model, channels, round_to=4, **options):
        plan = filter_plan(model, channels, strategy.ratios)
        for group in channels.groups:
            assert_multiple(group, len(kept_units(group, plan)), 4)
        assert cost.macs(remove_channels(model, channels, plan), EXAMPLE) == strategy.macs
    assert sample_strategies(model, channels, round_to=1, **options) == sample_strategies(
        model, channels, **options
    )


@given(st.sampled_from(["vgg", "resnet", "mobilenet"]), st.floats(0, 0.8), st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_slimming_rounds_every_group_and_takes_its_lowest(name, ratio, round_to):
    if name not in NETWORKS:
        model = liven(models.build(name), EXAMPLE)
        NETWORKS[name] = model, follow(model, EXAMPLE)
    model, channels = NETWORKS[name]
    plain = slimming_plan(model, channels, ratio)
    plan = slimming_plan(model, channels, ratio, round_to=round_to)
    for group, scales in channel_scales(model, channels):
        kept = kept_units(group, plan)
        assert_multiple(group, len(kept), round_to)
        assert kept == sorted(scales.argsort(stable=True).tolist()[group.size - len(kept) :])
        if round_to == 1:
            assert kept == kept_units(group, plain)


@pytest.mark.parametrize(
    ("round_to", "error"),
    [(0, ValueError), (-8, ValueError), (8.0, TypeError), (None, TypeError), (True, TypeError)],
)
def test_what_is_no_number_to_round_to_is_named(round_to, error):
    with pytest.raises(error, match=f"round_to is {round_to}"):
        filter_plan(VGG, VGG_CHANNELS, 0.5, round_to=round_to)
    with pytest.raises(error, match=f"round_to is {round_to}"):
        slimming_plan(VGG, VGG_CHANNELS, 0.5, round_to=round_to)
    with pytest.raises(error, match=f"round_to is {round_to}"):
        ratios_for_macs(VGG, VGG_CHANNELS, lambda t: t, 0.5, round_to=round_to)
    with pytest.raises(error, match=f"round_to is {round_to}"):
        prune_iteratively(VGG, EXAMPLE, 0.5, rounds=1, fine_tune=print, round_to=round_to)
    options = {"count": 1, "mac_range": (0.2, 0.8), "max_ratio": 0.8, "seed": 4}
    with pytest.raises(error, match=f"round_to is {round_to}"):
        sample_strategies(VGG, VGG_CHANNELS, round_to=round_to, **options)
