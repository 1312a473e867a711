"""The recalibration of batch norm: plain averages, nothing else changed."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

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


class WithAuxiliaryHead(nn.Module):
    """In training an auxiliary head runs as well."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
        self.auxiliary = nn.Sequential(nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2, momentum=0.3))

    def forward(self, x):
        x = self.body(x)
        return (x, self.auxiliary(x)) if self.training else x


@given(seed=st.integers(0, 99), training=st.booleans(), steps=st.integers(0, 3))
@settings(max_examples=15)
def test_what_no_batch_reaches_keeps_what_it_had(seed, training, steps):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = WithAuxiliaryHead()
        for _ in range(steps):
            model(torch.rand(4, 1, 8, 8))
    model.train(training)
    before = copy.deepcopy(model.state_dict())
    recalibrate_batch_norm(model, batches(2))
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in after if name.startswith("auxiliary"))
    assert (model.body[1].momentum, model.auxiliary[1].momentum) == (0.1, 0.3)
    assert int(model.auxiliary[1].num_batches_tracked) == steps
    assert int(model.body[1].num_batches_tracked) == 2
    expected = torch.stack([model.body[0](batch).mean((0, 2, 3)) for batch in batches(2)]).mean(0)
    torch.testing.assert_close(after["body.1.running_mean"], expected)


def test_a_data_loader_of_pairs_gives_what_its_images_give():
    images, labels = torch.cat(batches()), torch.arange(24)
    plain = models.build("vgg", widths=(4, "M", 6))
    for dataset in (TensorDataset(images, labels), TensorDataset(images)):
        model = copy.deepcopy(plain)
        recalibrate_batch_norm(model, DataLoader(dataset, batch_size=8))
        other = copy.deepcopy(plain)
        recalibrate_batch_norm(other, images.split(8))
        assert all(torch.equal(a, b) for a, b in zip(model.buffers(), other.buffers(), strict=True))
    recalibrate_batch_norm(model, [(images, labels)])
    recalibrate_batch_norm(other, [images])
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), other.buffers(), strict=True))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            torch.rand(8, 1, 16, 16),
            r"one tensor of shape \[8, 1, 16, 16\].*Wrap it in a list: \[images\] is one batch",
        ),
        (None, r"batches is None \(NoneType\); it must be batches.*DataLoader"),
        (7, r"batches is 7 \(int\)"),
    ],
)
def test_what_is_no_batches_is_told_what_to_write(given, message):
    model = models.build("vgg", widths=(4, "M", 6))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TypeError, match=message):
        recalibrate_batch_norm(model, given)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
