"""What chapter 05 measures with: recalibration and its bugs, scores of candidates, regret."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from course_lib import checkpoints, data
from course_lib.data import to_float
from course_lib.experiments import chapter05, chapter05_studies
from course_lib.pruning.eagleeye import recalibrate_batch_norm, search
from course_lib.pruning.graph import follow


def network():
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(4, 3, 3),
        nn.BatchNorm2d(3),
    )
    made = nn.Sequential(*layers)
    for norm in (made[1], made[5]):
        norm.running_mean.fill_(5.0)
        norm.running_var.fill_(9.0)
    return made.eval()


def batches(*sizes):
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(size, 1, 8, 8, generator=generator) for size in sizes]


def test_recalibration_is_that_of_the_library_over_several_batches():
    ours, library = network(), network()
    several = batches(20, 20, 7)
    chapter05.recalibrate(ours, several)
    recalibrate_batch_norm(library, several)
    for (name, one), other in zip(ours.state_dict().items(), library.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, msg=name)
    first = torch.stack([ours[0](batch).mean((0, 2, 3)) for batch in several]).mean(0)
    torch.testing.assert_close(ours[1].running_mean, first)
    assert not any(layer.training for layer in ours.modules())
    assert ours[1].momentum == 0.1


@pytest.mark.parametrize("bug", ["1 batches", "5 batches", "dropout on"])
def test_each_bug_of_recalibration_gives_other_statistics(bug):
    right, wrong = network(), network()
    several = batches(*[20] * 5)
    chapter05.recalibrate(right, several)
    chapter05_studies.recalibrate_wrongly(wrong, several, bug)
    assert not torch.allclose(right[5].running_mean, wrong[5].running_mean, atol=1e-3)


def test_statistics_go_over_and_weights_stay():
    one, other = network(), network()
    chapter05.recalibrate(other, batches(20))
    with torch.no_grad():
        other[0].weight.add_(1.0)
    mixed = chapter05.with_statistics(one, other)
    torch.testing.assert_close(mixed[1].running_var, other[1].running_var)
    assert torch.equal(mixed[0].weight, one[0].weight)
    assert torch.equal(one[1].running_mean, torch.full((4,), 5.0))  # the argument is as it was


def test_scores_are_those_of_the_librarys_search():
    vgg, glyphs = checkpoints.load("glyphs-vgg-narrow"), data.load_dataset("glyphs")
    channels = follow(vgg, to_float(glyphs.test.images[:1]))
    strategies = chapter05.draw(vgg, channels, 0.35, 2)
    before = copy.deepcopy(vgg.state_dict())
    adaptive = chapter05.judge(vgg, channels, glyphs, strategies, chapter05.recalibrate)
    plain = chapter05.judge(vgg, channels, glyphs, strategies, None)
    assert adaptive == list(search(vgg, glyphs, strategies, workers=1).scores)
    assert plain == list(search(vgg, glyphs, strategies, calibration_images=0, workers=1).scores)
    assert all(torch.equal(value, before[name]) for name, value in vgg.state_dict().items())


def test_regret_by_hand():
    assert chapter05.regret([0.1, 0.9, 0.5], [0.8, 0.6, 0.7]) == pytest.approx(0.2)
    assert chapter05.regret([0.9, 0.1, 0.5], [0.8, 0.6, 0.7]) == 0


def test_a_perfect_score_has_no_regret_and_a_pick_at_random_the_mean_distance_to_the_best():
    outcomes = np.linspace(0, 1, 5).tolist()
    assert chapter05.regret_by_pool(chapter05.regret, outcomes, outcomes, sizes=(2, 5)) == [0, 0]
    at_random = chapter05.regret_by_pool(chapter05.regret, None, outcomes, sizes=(5,), draws=4000)
    assert at_random[0] == pytest.approx(0.5, abs=0.02)


def test_one_candidate_of_three_decides_a_correlation():
    frame = pd.DataFrame({"plain": [0.0, 1.0, 10.0], "tuned": [1.0, 0.0, 10.0]})
    low, high = chapter05.leave_one_out(frame, "plain")
    assert low == pytest.approx(-1)  # without the third
    assert high == pytest.approx(1)
