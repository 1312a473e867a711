"""Network slimming: the penalty's gradient, and the global ranking of scales."""

import copy

import numpy as np
import pytest
import torch
import torch_pruning
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib import models
from course_lib.models.vgg import conv_bn_relu
from course_lib.pruning.slimming import add_sparsity_gradient, channel_scales, slimming_plan
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
    with pytest.raises(ValueError, match="no batch norm follows"):
        slimming_plan(only_input, EXAMPLE, 0.5)
    broken = chain([0.5, float("nan")])
    with pytest.raises(ValueError, match="NaN"):
        slimming_plan(broken, EXAMPLE, 0.5)
