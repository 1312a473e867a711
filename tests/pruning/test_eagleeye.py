"""Recalibration of batch norm: which average it takes, and what it leaves alone."""

import copy

import pytest
import torch
from torch import nn

from course_lib import models
from course_lib.pruning.eagleeye import recalibrate_batch_norm


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
