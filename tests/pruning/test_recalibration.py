"""The recalibration of batch norm: plain averages, nothing else changed."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib import models
from course_lib.pruning.recalibration import recalibrate_batch_norm


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
