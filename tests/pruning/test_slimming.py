"""Network slimming: the penalty's gradient, and the global ranking of scales."""

import copy
import math
import re

import numpy as np
import pytest
import torch
import torch_pruning
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib import models
from course_lib.models.vgg import conv_bn_relu
from course_lib.pruning import masks
from course_lib.pruning.slimming import (
    _add_constant,
    _check_reader,
    absorb_constants,
    add_sparsity_gradient,
    channel_scales,
    slimming_plan,
)
from course_lib.pruning.surgery import remove_channels

EXAMPLE = torch.rand(2, 1, 16, 16)
# Tracing runs the models on proxies, which are no tensors.
pytestmark = pytest.mark.bad_input


def batch_norms(model):
    return [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]


def with_scales(name, seed=0, **options):
    """A network whose scales are all different, of both signs."""
    model = models.build(name, seed=seed, **options)
    generator = torch.Generator().manual_seed(seed)
    for layer in batch_norms(model):
        scales = torch.rand(layer.num_features, generator=generator) + 0.01
        layer.weight.data = scales * torch.where(
            torch.rand(len(scales), generator=generator) < 0.5, -1.0, 1.0
        )
    return model


def chain(*scales):
    """One convolution and batch norm for each list of scales, then a linear layer."""
    layers, channels = [], 1
    for values in scales:
        layers += conv_bn_relu(channels, len(values))
        layers[-2].weight.data = torch.tensor(values)
        channels = len(values)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 2))


def as_lists(plan):
    return {layer: indices.tolist() for layer, indices in plan.items()}


# ---- the penalty ---------------------------------------------------------------------------------------------------


def test_the_gradient_is_that_of_the_penalty_by_autograd():
    model, strength = with_scales("vgg"), 0.03
    penalised = copy.deepcopy(model)
    model(EXAMPLE).square().mean().backward()
    add_sparsity_gradient(model, strength)
    loss = penalised(EXAMPLE).square().mean()
    (loss + strength * sum(layer.weight.abs().sum() for layer in batch_norms(penalised))).backward()
    for (name, mine), (_, theirs) in zip(model.named_parameters(), penalised.named_parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, msg=name)


def test_a_scale_of_zero_gets_nothing_and_strength_zero_changes_nothing():
    model = chain([0.5, 0.0, -0.5])
    model(EXAMPLE).sum().backward()
    before = [parameter.grad.clone() for parameter in model.parameters()]
    add_sparsity_gradient(model, 0.0)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))
    add_sparsity_gradient(model, 0.25)
    assert (model[1].weight.grad - before[1]).tolist() == pytest.approx([0.25, 0.0, -0.25])


def test_frozen_scales_are_left_alone():
    model = chain([0.5, 0.5], [0.5, 0.5])
    model[1].weight.requires_grad_(False)
    model(EXAMPLE).sum().backward()
    add_sparsity_gradient(model, 1.0)
    assert model[1].weight.grad is None


@pytest.mark.parametrize("strength", [-1e-4, float("nan"), float("inf")])
def test_a_strength_out_of_range_is_refused(strength):
    with pytest.raises(ValueError, match="strength is"):
        add_sparsity_gradient(chain([0.5]), strength)


def test_a_model_without_batch_norm_and_one_without_gradients_are_told_so():
    with pytest.raises(ValueError, match=r"no batch norm whose scales are trained.*filters"):
        add_sparsity_gradient(models.build("mlp"), 1e-4)
    with pytest.raises(ValueError, match=r"after loss.backward\(\)"):
        add_sparsity_gradient(chain([0.5]), 1e-4)


# ---- the plan ------------------------------------------------------------------------------------------------------


def test_a_plan_by_hand():
    model = chain([0.1, 0.9, -0.05], [0.3, 0.02, 0.8, 0.7])
    assert as_lists(slimming_plan(model, EXAMPLE, 3 / 7)) == {"0": [0, 2], "3": [1]}


def test_ties_go_by_place_and_a_layer_keeps_its_best_channel():
    # All of the first layer lie below all of the second: its best, the last, stays; one more of the second goes.
    model = chain([0.1, 0.2, 0.2], [0.5, 0.5, 0.5, 0.5])
    assert as_lists(slimming_plan(model, EXAMPLE, 4 / 7)) == {"0": [0, 1], "3": [0, 1]}


def test_ratio_zero_removes_nothing():
    assert slimming_plan(with_scales("resnet"), EXAMPLE, 0) == {}


@given(st.sampled_from(["vgg", "resnet", "mobilenet"]), st.floats(0, 0.9), st.integers(0, 50))
@settings(max_examples=25)
def test_the_count_is_exact_and_every_removed_scale_is_below_every_kept_one(name, ratio, seed):
    model = with_scales(name, seed)
    plan = slimming_plan(model, EXAMPLE, ratio)
    gone, kept, best = [], [], []
    for group, scales in channel_scales(model, EXAMPLE):
        axis = group.producers[0]
        removed = torch.zeros(group.size, dtype=torch.bool)
        removed[axis.units[plan.get(axis.layer, torch.zeros(0, dtype=torch.int64))]] = True
        best.append(int((scales == scales.max()).nonzero()[-1]))
        assert not removed[best[-1]]
        gone += scales[removed].tolist()
        kept += scales[~removed & (torch.arange(group.size) != best[-1])].tolist()
    assert len(gone) == round(ratio * (len(gone) + len(kept) + len(best)))
    assert max(gone, default=0) <= min(kept, default=1)


@pytest.mark.parametrize("name", ["vgg", "resnet", "mobilenet"])
@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.75])
def test_the_widths_are_those_of_torch_pruning_up_to_its_rounding(name, ratio):
    model = with_scales(name).eval()
    mine = remove_channels(model, EXAMPLE, slimming_plan(model, EXAMPLE, ratio))
    theirs = copy.deepcopy(model)
    head = [layer for layer in theirs.modules() if isinstance(layer, nn.Linear)]
    torch_pruning.pruner.MagnitudePruner(
        theirs,
        EXAMPLE,
        importance=torch_pruning.importance.BNScaleImportance(normalizer=None),
        global_pruning=True,
        pruning_ratio=ratio,
        ignored_layers=head,
    ).step()
    widths = [
        np.array([layer.out_channels for layer in network.modules() if isinstance(layer, nn.Conv2d)])
        for network in (mine, theirs)
    ]
    # One unit more or less changes all layers that are tied in it.
    most_tied = 2 * max(len(group.producers) for group, _ in channel_scales(model, EXAMPLE))
    assert np.abs(widths[0] - widths[1]).max() <= 1
    assert np.abs(widths[0] - widths[1]).sum() <= most_tied


@pytest.mark.parametrize("ratio", [1, -0.1, 1.5, float("nan")])
def test_a_ratio_out_of_range_is_refused(ratio):
    with pytest.raises(ValueError, match=r"ratio is .*in \[0, 1\)"):
        slimming_plan(chain([0.5, 0.4]), EXAMPLE, ratio)


def test_a_ratio_that_would_empty_a_layer_is_refused_with_the_largest_that_works():
    model = chain([0.1, 0.2], [0.3, 0.4])
    with pytest.raises(ValueError, match=r"at most 0\.500"):
        slimming_plan(model, EXAMPLE, 0.75)
    assert as_lists(slimming_plan(model, EXAMPLE, 0.5)) == {"0": [0], "3": [0]}


def test_models_without_scales_are_told_so():
    with pytest.raises(ValueError, match=r"no batch norm with scales.*filters"):
        slimming_plan(models.build("mlp"), EXAMPLE, 0.5)
    only_input = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(256, 10))
    with pytest.raises(ValueError, match="nothing can be removed from this model"):
        slimming_plan(only_input, EXAMPLE, 0.5)
    broken = chain([0.5, float("nan")])
    with pytest.raises(ValueError, match="NaN"):
        slimming_plan(broken, EXAMPLE, 0.5)


# ---- the penalty, with masks and shared scales ---------------------------------------------------------------------


def shared_and_frozen(seed, frozen, share):
    """Three batch norms of six channels with gradients; the first may be frozen, and share its scales with the last."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(*[part for _ in range(3) for part in (nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6))])
    for layer in batch_norms(model):
        layer.weight.data = torch.randn(6, generator=generator)
    if share:
        model[5].weight = model[1].weight
    mask = torch.rand(6, generator=generator) < 0.5
    if frozen:
        masks.freeze(model, {"1.weight": mask})
        with torch.no_grad():  # as momentum or weight decay would move it
            model[1].parametrizations.weight.original.add_(0.5)
    model(torch.rand(2, 6, 4, 4, generator=generator)).square().mean().backward()
    return model, mask


@given(st.integers(0, 99), st.booleans(), st.booleans(), st.floats(0, 2))
@settings(max_examples=30)
def test_each_trained_scale_gets_the_penalty_once_and_only_where_its_mask_keeps(
    seed, frozen, share, strength
):
    model, mask = shared_and_frozen(seed, frozen, share)
    scales = {
        name: parameter
        for name, parameter in model.named_parameters()
        if name.endswith("weight.original") or (parameter.ndim == 1 and name.endswith("weight"))
    }
    assert len(scales) == 3 - share
    before = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    add_sparsity_gradient(model, strength)
    for name, parameter in model.named_parameters():
        expected = before[name]
        if name in scales:
            sign = parameter.detach().sign()
            expected = expected + strength * (sign * mask if frozen and "original" in name else sign)
        torch.testing.assert_close(parameter.grad, expected, msg=name)


def test_scales_that_are_computed_from_others_are_none_that_are_trained():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    torch.nn.utils.parametrize.register_parametrization(model[0], "weight", nn.Softplus())
    model(torch.rand(3, 2)).sum().backward()
    before = model[0].parametrizations.weight.original.grad.clone()
    add_sparsity_gradient(model, 0.5)
    assert torch.equal(model[0].parametrizations.weight.original.grad, before)
    with pytest.raises(ValueError, match="no batch norm whose scales are trained"):
        add_sparsity_gradient(model[0], 0.5)


# ---- the least share of each group ---------------------------------------------------------------------------------


def test_the_least_share_by_hand():
    model = chain([0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8])
    assert as_lists(slimming_plan(model, EXAMPLE, 0.5)) == {"0": [0, 1, 2], "3": [0]}
    assert as_lists(slimming_plan(model, EXAMPLE, 0.5, min_share=0.25)) == {"0": [0, 1, 2], "3": [0]}
    assert as_lists(slimming_plan(model, EXAMPLE, 0.5, min_share=0.26)) == {"0": [0, 1], "3": [0, 1]}
    tied = chain([0.1, 0.1, 0.1, 0.1], [0.5, 0.5, 0.5, 0.5])
    assert as_lists(slimming_plan(tied, EXAMPLE, 0.375, min_share=0.5)) == {"0": [0, 1], "3": [0]}


@given(
    st.sampled_from(["vgg", "resnet", "mobilenet"]),
    st.floats(0, 0.99),
    st.floats(0, 0.99),
    st.integers(0, 20),
)
@settings(max_examples=40)
def test_the_count_is_exact_every_group_keeps_its_share_and_its_best(name, ratio, min_share, seed):
    model = with_scales(name, seed)
    ranked = channel_scales(model, EXAMPLE)
    sizes = [group.size for group, _ in ranked]
    least = [max(1, math.ceil(min_share * size - 1e-9)) for size in sizes]
    count = round(ratio * sum(sizes))
    if count > sum(sizes) - sum(least):
        with pytest.raises(ValueError, match=r"Choose a ratio of at most 0\.\d{3}") as caught:
            slimming_plan(model, EXAMPLE, ratio, min_share=min_share)
        most = float(re.search(r"at most (0\.\d{3})", str(caught.value)).group(1))
        slimming_plan(model, EXAMPLE, most, min_share=min_share)  # it can be reached
        assert (sum(sizes) - sum(least)) / sum(sizes) - most < 0.001
        return
    plan = slimming_plan(model, EXAMPLE, ratio, min_share=min_share)
    gone, kept = [], []
    for (group, scales), stay in zip(ranked, least, strict=True):
        axis = group.producers[0]
        removed = torch.zeros(group.size, dtype=torch.bool)
        removed[axis.units[plan.get(axis.layer, torch.zeros(0, dtype=torch.int64))]] = True
        assert (~removed).sum() >= stay
        best = scales.argsort(descending=True)[:stay]
        assert not removed[best].any()
        gone += scales[removed].tolist()
        kept += scales[~removed & ~torch.isin(torch.arange(group.size), best)].tolist()
    assert len(gone) == count
    assert max(gone, default=0) <= min(kept, default=1)


@pytest.mark.parametrize(
    ("min_share", "round_to", "kept"), [(0, 8, 8), (0.4, 8, 8), (0.45, 8, 16), (0.85, 8, 20), (0.5, 1, 10)]
)
def test_rounding_leaves_every_group_its_share(min_share, round_to, kept):
    model = chain([float(i) for i in range(1, 21)], [100.0] * 100)
    plan = slimming_plan(
        model,
        EXAMPLE,
        (20 - max(10, math.ceil(20 * min_share))) / 120,
        min_share=min_share,
        round_to=round_to,
    )
    assert 20 - len(plan.get("0", ())) == kept


@pytest.mark.parametrize(
    ("min_share", "size", "kept"), [(0.07, 100, 7), (0.3, 10, 3), (0.31, 10, 4), (0, 5, 1)]
)
def test_the_least_share_is_not_rounded_up_by_floating_point(min_share, size, kept):
    model = chain([0.5] * size)
    plan = slimming_plan(model, EXAMPLE, (size - kept) / size, min_share=min_share)
    assert plan["0"].tolist() == list(range(size - kept))
    if kept > 1:
        with pytest.raises(ValueError, match=f"so that {size - kept} can go"):
            slimming_plan(model, EXAMPLE, (size - kept + 1) / size, min_share=min_share)


@pytest.mark.parametrize("share", [1, -0.1, float("nan")])
def test_a_least_share_out_of_range_is_refused_and_one_in_the_way_is_named(share):
    with pytest.raises(ValueError, match=r"min_share is .*in \[0, 1\)"):
        slimming_plan(chain([0.5, 0.4]), EXAMPLE, 0.5, min_share=share)
    with pytest.raises(
        ValueError, match=r"a share of 0\.9, or one, must stay.*0\.000, or a smaller min_share"
    ):
        slimming_plan(chain([0.5, 0.4]), EXAMPLE, 0.5, min_share=0.9)


# ---- constants that are moved into biases --------------------------------------------------------------------------

ACTIVATIONS = [nn.ReLU, nn.Sigmoid, nn.GELU, nn.Identity]


def silenced(model, seed):
    """In evaluation, with other betas and statistics, and gamma 0 in about half of the channels."""
    generator = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            size = layer.num_features
            layer.weight.data = torch.rand(size, generator=generator) + 0.5
            layer.weight.data[torch.randperm(size, generator=generator)[: size // 2]] = 0
            layer.bias.data = torch.randn(size, generator=generator) + 1
            layer.running_mean.copy_(torch.rand(size, generator=generator))
    return model.double().eval()


def cut(model, x, *, absorb):
    """The network without the channels whose scale is 0."""
    ranked = channel_scales(model, x)
    ratio = sum(int((scales == 0).sum()) for _, scales in ranked) / sum(len(s) for _, s in ranked)
    plan = slimming_plan(model, x, ratio)
    return remove_channels(absorb_constants(model, x, plan) if absorb else model, x, plan)


@st.composite
def constant_chains(draw):
    """Layers of every kind that read channels, without zeros as padding, which keep a constant a constant."""
    layers, channels = [], 3
    for _ in range(draw(st.integers(1, 3))):
        width, bias = draw(st.sampled_from([4, 8])), draw(st.booleans())
        kind = draw(st.sampled_from(["1x1", "3x3", "strided", "grouped", "reflect", "transposed"]))
        groups = 2 if kind == "grouped" and channels % 2 == 0 else 1
        kernel = 1 if kind in ("1x1", "transposed") else 3
        if kind == "transposed":
            layers.append(nn.ConvTranspose2d(channels, width, 1, bias=bias))
        else:
            padding = {"padding": 1, "padding_mode": "reflect"} if kind == "reflect" else {}
            stride = 2 if kind == "strided" else 1
            layers.append(nn.Conv2d(channels, width, kernel, stride, groups=groups, bias=bias, **padding))
        layers += [nn.BatchNorm2d(width), draw(st.sampled_from(ACTIVATIONS))()]
        channels = width
    if draw(st.booleans()):
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 5))
    return nn.Sequential(*layers, nn.Conv2d(channels, 5, 1, bias=draw(st.booleans())))


@given(constant_chains(), st.integers(0, 999))
@settings(max_examples=40)
def test_nothing_is_lost_where_the_channels_are_constant(model, seed):
    model = silenced(model, seed)
    x = torch.rand(2, 3, 24, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    before = copy.deepcopy(model.state_dict())
    expected = model(x)
    small = cut(model, x, absorb=True)
    torch.testing.assert_close(small(x), expected, rtol=1e-9, atol=1e-9)
    smaller = [sum(p.numel() for p in net.parameters() if p.ndim > 1) for net in (small, model)]
    silent = any(
        (scales == 0).any() for _, scales in channel_scales(model, x)
    )  # not if all are tied to others
    assert (smaller[0] < smaller[1]) == silent
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    other = torch.rand(1, 3, 24, 24, dtype=torch.float64) - 2
    torch.testing.assert_close(small(other), model(other), rtol=1e-9, atol=1e-9)  # whatever the input


def test_plain_removal_loses_what_is_kept_here():
    model = silenced(
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1, bias=False)), 0
    )
    x = torch.rand(2, 3, 5, 5, dtype=torch.float64)
    loss = {absorb: (cut(model, x, absorb=absorb)(x) - model(x)).abs().max() for absorb in (False, True)}
    assert loss[False] > 0.1
    assert loss[True] < 1e-12


def test_groups_transposed_layers_and_shortcuts():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
            self.block = nn.Sequential(nn.Conv2d(8, 8, 1, groups=2), nn.BatchNorm2d(8))
            self.up = nn.ConvTranspose2d(8, 6, 3)
            self.head = nn.Conv2d(6, 2, 1)

        def forward(self, x):
            x = self.stem(x).relu()
            return self.head(self.up((x + self.block(x)).relu()).relu())

    model = Net().double().eval()
    for layer in (model.stem[1], model.block[1]):
        layer.weight.data[[1, 5]] = 0  # one unit of the grouped convolution
        layer.bias.data += torch.rand(8)
    x = torch.rand(2, 3, 6, 6, dtype=torch.float64)
    plan = {"stem.0": [1, 5]}
    small = remove_channels(absorb_constants(model, x, plan), x, plan)
    assert small.up.in_channels == small.block[0].out_channels == 6
    difference = (small(x) - model(x)).abs()
    assert difference[:, :, 2:-2, 2:-2].max() < 1e-12  # the inside of what a 3 x 3 kernel writes
    assert difference.max() > 1e-3


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (2, 2), (4, 2), (3, 2)])
def test_a_transposed_layer_gets_the_mean_over_its_pattern(groups, kernel, stride):
    layer = nn.ConvTranspose2d(4, 6, kernel, stride, groups=groups).double()
    gone, mean = torch.tensor([True, False, True, True]), torch.tensor([1.0, 5.0, -2.0, 0.5])
    constant = (mean * gone).double().reshape(1, 4, 1, 1).expand(1, 4, 9, 9)
    # A whole number of periods, away from the borders.
    expected = layer(constant)[0, :, 4:8, 4:8].mean((1, 2))
    _add_constant(layer, gone, mean.double())
    torch.testing.assert_close(layer.bias.data, expected)


def test_with_zeros_as_padding_the_borders_differ_by_what_they_would_have_read():
    model = silenced(
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1)), 1
    )
    x = torch.rand(2, 3, 6, 6, dtype=torch.float64)
    small, silent = cut(model, x, absorb=True), model[1].weight == 0
    difference = small(x) - model(x)
    assert difference[:, :, 1:-1, 1:-1].abs().max() < 1e-12
    means = (model[1].bias.relu() * silent).reshape(1, 8, 1, 1).expand(1, 8, 6, 6)
    inside = nn.functional.conv2d(means, model[3].weight, padding=1)
    whole = nn.functional.conv2d(nn.functional.pad(means, (1, 1, 1, 1), mode="replicate"), model[3].weight)
    torch.testing.assert_close(difference, (whole - inside).expand_as(difference))
    assert difference.abs().max() > 0.01


def test_the_copy_is_of_the_same_kind_and_channels_that_vary_are_right_on_average():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2, bias=False)
        x = torch.randn(50, 3)
    model = nn.Sequential(*layers).train()
    model[3].weight.requires_grad_(False)
    copied = absorb_constants(model, x, {"0": [0, 4]})
    assert all(module.training for module in copied.modules())
    assert copied[3].bias.shape == (2,)
    assert not copied[3].bias.requires_grad
    assert copied[3].bias.dtype == torch.float32
    assert torch.equal(copied[1].running_mean, model[1].running_mean)
    assert copied[3]._forward_pre_hooks == {}
    assert model[3].bias is None
    small = remove_channels(copied, x, {"0": [0, 4]}).eval()
    torch.testing.assert_close(small(x).mean(0), model.eval()(x).mean(0))
    assert not torch.allclose(small(x), model(x))


def test_a_bias_that_is_shared_is_changed_where_it_is_read_alone():
    model = nn.Sequential(
        *[part for _ in range(3) for part in (nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU())]
    )
    model[3].bias = model[6].bias
    model.append(nn.Linear(4, 2))
    x = torch.rand(9, 4)
    silenced(model, 2)
    model[1].bias.data[0] = 5
    shared = model[6].bias.detach().clone()
    copied = absorb_constants(model, x.double(), {"0": [0]})
    assert torch.equal(copied[6].bias, shared)
    assert not torch.equal(copied[3].bias, shared)
    assert copied[3].weight is not model[3].weight
    assert torch.equal(copied[3].weight, model[3].weight)


def test_what_cannot_take_a_constant_is_named():
    model = chain([0.5, 0.5], [0.5, 0.5])
    with pytest.raises(KeyError, match="unknown layer 'x'"):
        absorb_constants(model, EXAMPLE, {"x": [0]})
    with pytest.raises(ValueError, match=r"inputs of '3' hold NaN or infinity"):
        absorb_constants(model, EXAMPLE * float("inf"), {"0": [0]})
    with pytest.raises(ValueError, match=r"'w', a parameter, reads channels.*Leave these"):
        _check_reader(None, "w")
    with pytest.raises(ValueError, match=r"'rnn', a GRU, reads channels"):
        _check_reader(nn.GRU(2, 2), "rnn")
    masks.freeze(model, {"8.bias": torch.tensor([True, False])})
    with pytest.raises(ValueError, match=r"bias of '8' is computed.*make_permanent"):
        absorb_constants(model, EXAMPLE, {"3": [0]})
