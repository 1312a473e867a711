"""What chapter 04 measures with: its own pruning beside the library's, criteria, scans, bugs."""

import copy

import pytest
import torch
from torch import nn

from course_lib import checkpoints, cost, data, training
from course_lib.data import to_float
from course_lib.experiments import chapter04, chapter04_studies
from course_lib.experiments.common import drawn, example_of
from course_lib.experiments.experiment import Scale
from course_lib.pruning.criteria import l1_norm
from course_lib.pruning.filters import filter_plan
from course_lib.pruning.surgery import remove_channels


@pytest.fixture(scope="module")
def vgg():
    return checkpoints.load("glyphs-vgg-narrow")


@pytest.fixture(scope="module")
def glyphs():
    return data.load_dataset("glyphs")


RATIOS = {"0": 0.5, "3": 0.3, "7": 0.0, "14": 0.7, "17": 0.9}  # and nothing of layer 10


def test_pruning_by_hand_is_that_of_the_library(vgg, glyphs):
    example, before = example_of(glyphs), copy.deepcopy(vgg.state_dict())
    ours = chapter04.prune(vgg, RATIOS)
    library = remove_channels(vgg, example, filter_plan(vgg, example, RATIOS))
    for (name, one), other in zip(ours.state_dict().items(), library.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    assert [str(layer) for layer in ours] == [str(layer) for layer in library]
    assert cost.macs(ours, example) == cost.macs(library, example)
    assert all(torch.equal(value, before[name]) for name, value in vgg.state_dict().items())


def test_one_filter_stays_whatever_the_ratio(vgg):
    small = chapter04.prune(vgg, {"3": 0.99})
    assert small[3].out_channels == 1


def test_largest_first_takes_what_smallest_first_keeps(vgg):
    weight = vgg[0].weight.detach()
    half = len(weight) // 2
    low = l1_norm(weight).argsort(stable=True)
    high = chapter04.largest(weight).argsort(stable=True)
    assert set(low[:half].tolist()) == set(high[half:].tolist())


def test_taylor_is_what_the_loss_changes_by_to_first_order(vgg, glyphs):
    images = drawn(glyphs.train, 50)
    network, x = copy.deepcopy(vgg).double(), to_float(images.images).double()

    def loss():
        return nn.functional.cross_entropy(network(x), images.labels).item()

    gradients = chapter04.gradients_of(vgg, images)
    assert [tuple(stack.shape[1:]) for stack in gradients.values()] == [
        tuple(layer.weight.shape) for layer in vgg if isinstance(layer, nn.Conv2d)
    ]
    weight = vgg[3].weight
    scores = chapter04.taylor(weight.detach(), gradients[id(weight)])
    whole, step = loss(), 1e-4
    for place in (0, 5):
        with torch.no_grad():
            network[3].weight[place] *= 1 - step
        slope = (loss() - whole) / step
        with torch.no_grad():
            network[3].weight[place] /= 1 - step
        assert slope**2 == pytest.approx(scores[place].item(), rel=0.05)


def test_taylor_averages_squares_over_batches_and_squares_the_sum_of_a_filter():
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).reshape(2, 2, 1, 1)
    gradients = torch.tensor([[[1.0, 1], [1, -1]], [[-1, -1], [1, -1]]]).reshape(2, 2, 2, 1, 1)
    assert chapter04.taylor(weight, gradients).tolist() == [9.0, 1.0]


def test_the_moments_are_those_of_one_network_that_goes_on(vgg, glyphs, monkeypatch):
    monkeypatch.setattr(chapter04, "CALIBRATION", 32)  # fewer than there are, so that the seed decides which
    scale = Scale(images=64, steps=2)
    shared = chapter04.Shared(chapter04.cut(glyphs, scale), {}, scale, {})
    small, again, other = (chapter04.prune(vgg, {"3": 0.5}) for _ in range(3))
    at_once = training.evaluate(small, shared.dataset.test)
    run = {"seed": 3, "moments": chapter04.MOMENTS[:2]}
    found = chapter04.moments(small, vgg, run, shared)
    chapter04.recalibrated(again, shared.dataset, 3)
    assert found["at once"] == at_once
    assert found["recalibrated"] == training.evaluate(again, shared.dataset.test)
    assert torch.equal(small[4].running_mean, again[4].running_mean)
    assert not torch.equal(
        small[4].running_mean, chapter04.recalibrated(other, shared.dataset, 4)[4].running_mean
    )
    assert found["macs"] == cost.macs(small, example_of(glyphs)) / cost.macs(vgg, example_of(glyphs))
    more = chapter04.moments(small, vgg, run | {"moments": ("tuned",)}, shared)
    assert more["tuned"] == training.evaluate(small, shared.dataset.test)
    assert not torch.equal(small[3].weight, again[3].weight)  # it has been trained


def test_a_scan_that_recalibrates_sees_other_accuracies(vgg, glyphs, monkeypatch):
    monkeypatch.setattr(chapter04, "SCAN_RATIOS", (0.5,))
    stale, new = (chapter04.scan(vgg, glyphs, anew=anew) for anew in (False, True))
    assert stale[0] == new[0]  # the whole network is not recalibrated
    assert [row["layer"] for row in stale[1]] == chapter04.convolutions(vgg)
    gains = [two["accuracy"] - one["accuracy"] for one, two in zip(stale[1], new[1], strict=True)]
    assert sum(gains) > 0.3
    one = chapter04.prune(vgg, {"3": 0.5})
    assert stale[1][1]["accuracy"] == training.evaluate(one, drawn(glyphs.validation, 1000))


@pytest.mark.parametrize("weights", ["kept", "new"])
def test_new_weights_are_new_and_kept_ones_are_kept(vgg, glyphs, weights):
    scale = Scale(images=64, steps=1)
    seen = []

    def method(network, ratios):
        seen.append(chapter04.prune(network, ratios))
        return seen[-1]

    shared = chapter04.Shared(chapter04.cut(glyphs, scale), {("vgg", 0): vgg}, scale, {})
    run = {"network": "vgg", "weights": weights, "recipe": "tuning", "epochs": 1, "rounds": 1, "seed": 0}
    before = chapter04.prune(vgg, dict.fromkeys(chapter04.convolutions(vgg), 0.5))
    chapter04.measure_scratch(run, shared, method)
    change = (seen[0][3].weight - before[3].weight).norm() / before[3].weight.norm()
    assert (change > 0.5) == (weights == "new")


def test_each_bug_is_another_network_of_the_cost_of_its_right_form(vgg, glyphs):
    example = example_of(glyphs)
    batch = to_float(glyphs.test.images[:50])
    for bug, right in chapter04_studies.BUG_ARMS.items():
        wrong, good = (chapter04_studies.prune_with_bug(vgg, example, by) for by in (bug, right))
        assert not torch.allclose(wrong(batch), good(batch), atol=1e-3), bug
        assert cost.macs(wrong, example) == pytest.approx(cost.macs(good, example), rel=0.05), bug


def test_sums_empty_the_first_layer_and_means_leave_it_whole(vgg, glyphs):
    by_sum, by_mean = (
        chapter04_studies.prune_with_bug(vgg, example_of(glyphs), f"ranked by {what}, a quarter of the MACs")
        for what in ("sum", "mean")
    )
    assert by_sum[0].out_channels < 4
    assert by_mean[0].out_channels == 16


def test_the_bug_in_the_next_layer_keeps_its_first_kernels(vgg, glyphs):
    example = example_of(glyphs)
    wrong = chapter04_studies.prune_with_bug(vgg, example, "next layer's first kernels")
    kept = l1_norm(vgg[3].weight).argsort(stable=True)[8:].sort().values
    assert torch.equal(wrong[3].weight, vgg[3].weight[kept][:, :8])


def test_square_layers_are_those_in_which_a_wrong_dimension_runs(vgg, glyphs):
    assert chapter04_studies.square_layers(vgg, example_of(glyphs)) == ["3", "10", "17"]
