"""What chapter 03 measures with: the sparse training, cuts, widths, wrong penalties."""

import copy
import functools
from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import nn

from course_lib import cost, models, training
from course_lib.data import Dataset, Split
from course_lib.experiments import chapter03, chapter03_studies, chapter03_tables
from course_lib.experiments.experiment import Experiment, Scale
from course_lib.experiments.results import Results
from course_lib.pruning.graph import follow
from course_lib.pruning.slimming import add_sparsity_gradient, slimming_plan
from course_lib.statistics import Interval

WIDTHS = [4, "M", 6, 5]
EXAMPLE = torch.zeros(1, 1, 16, 16)


def network(seed=0):
    made = chapter03.build(seed, WIDTHS)
    generator = torch.Generator().manual_seed(seed)
    for layer in made.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, generator=generator)
            nn.init.normal_(layer.bias, generator=generator)
    return made.eval()


def images(count=50):
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (count, 1, 16, 16), generator=generator).to(torch.uint8)
    split = Split(pixels, torch.arange(count) % 10)
    return Dataset("noise", split, split, split, tuple("abcdefghij"))


RECIPE = training.Recipe(epochs=2, batch_size=20, learning_rate=0.05, seed=3)


@pytest.mark.parametrize("strength", [0.0, 0.02])
def test_the_loop_is_fit_of_the_library_with_the_sparsity_gradient(strength):
    ours, library, dataset = network(), network(), images()
    chapter03.train_sparse(ours, dataset.train, strength, RECIPE)
    pull = functools.partial(add_sparsity_gradient, strength=strength)
    training.fit(library, dataset, RECIPE, after_backward=pull, validate=False)
    for (name, one), other in zip(ours.state_dict().items(), library.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, msg=name, atol=1e-4, rtol=1e-3)
    assert not ours.training


def test_the_loop_shows_the_network_after_each_epoch():
    seen, trained = [], network()
    chapter03.train_sparse(
        trained, images().train, 0.02, RECIPE, watch=lambda net: seen.append(chapter03.scales_of(net).clone())
    )
    assert len(seen) == RECIPE.epochs
    assert torch.equal(seen[-1], chapter03.scales_of(trained))


def test_reach_is_the_way_of_a_gamma_that_the_loss_does_not_hold():
    recipe = replace(RECIPE, epochs=400, momentum=0.5, schedule="constant", learning_rate=0.001)
    gamma = torch.nn.Parameter(torch.tensor([5.0]))
    optimizer = torch.optim.SGD([gamma], lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=True)
    for _ in range(recipe.epochs * 3):  # 50 images in batches of 20
        gamma.grad = 0.1 * gamma.detach().sign()
        optimizer.step()
    assert chapter03.reach(0.1, recipe, images=50) == pytest.approx(5 - gamma.item(), rel=0.01)


def test_a_random_cut_has_the_widths_of_slimming_and_other_channels():
    whole = network()
    slimmed, random = (
        cut(whole, EXAMPLE, 0.5, **how)
        for cut, how in ((chapter03.slim, {}), (chapter03.random_cut, {"seed": 0}))
    )
    assert chapter03.widths_of(slimmed) == chapter03.widths_of(random) != chapter03.widths_of(whole)
    assert not torch.equal(chapter03.scales_of(slimmed), chapter03.scales_of(random))


def test_uniform_widths_share_one_factor_and_meet_the_macs():
    whole = cost.macs(models.build("vgg", widths=list(chapter03.WIDTHS)), EXAMPLE)
    widths = chapter03.uniform_widths(0.25 * whole, EXAMPLE)
    macs = cost.macs(models.build("vgg", widths=widths), EXAMPLE)
    assert macs == pytest.approx(0.25 * whole, rel=0.05)
    shares = [few / many for few, many in zip(widths, chapter03.WIDTHS, strict=True) if few != "M"]
    assert max(shares) - min(shares) < 0.04
    assert chapter03.uniform_widths(whole, EXAMPLE) == list(chapter03.WIDTHS)


def test_tuning_and_recalibrating_leave_the_network_as_it_was():
    whole, dataset = network(), images()
    before = copy.deepcopy(whole.state_dict())
    tuned = chapter03.tune(whole, dataset, Scale(steps=2), 0)
    fresh = chapter03.recalibrated(whole, dataset)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, before[name])
    assert not torch.equal(chapter03.scales_of(tuned), chapter03.scales_of(whole))
    assert torch.equal(chapter03.scales_of(fresh), chapter03.scales_of(whole))


def measure(run, shared, method):
    number = run["seed"] / 100
    return {
        f"{stage} {percent} {key}": number + percent / 1000 + len(stage) / 10
        for stage, percent in (("at once", 70), ("tuned long", 70), ("whole", 0))
        for key in ("validation", "test")
    } | {f"{stage} test_parts": [number] * 2 for stage in ("at once 70", "tuned long 70", "whole 0")}


def test_a_record_of_networks_becomes_a_frame_of_cuts():
    runs = tuple({"strength": 0.5, "seed": seed} for seed in range(5))
    cuts = chapter03.by_cut(Experiment("none", runs, measure).measured(workers=1))
    assert len(cuts.frame) == 15
    assert cuts.values("test", strength=0.5, ratio=0.7, stage="at once")[1] == pytest.approx(
        0.01 + 0.07 + 0.7
    )
    gain = cuts.gain(
        "test",
        of={"strength": 0.5, "ratio": 0.7, "stage": "tuned long"},
        over={"strength": 0.5, "ratio": 0.0, "stage": "whole"},
    )
    assert gain.mean == pytest.approx(0.07 + 0.5)


def test_a_share_that_stays_keeps_every_layer_above_it():
    whole = network()
    for by, (share, _) in chapter03.MENDS.items():
        plan = slimming_plan(whole, EXAMPLE, 0.7, min_share=share)
        left = {name: layer.out_channels for name, layer in whole.named_modules() if name in plan}
        assert all(width - len(plan[name]) >= share * width for name, width in left.items()), by


def test_wrong_penalties_pull_otherwise():
    pulls = {}
    for name, penalty in chapter03_studies.PENALTIES.items():
        norm = nn.BatchNorm2d(2)
        norm.weight.data = torch.tensor([0.5, -0.25])
        norm.weight.grad = torch.zeros(2)
        penalty(norm, 0.5)
        pulls[name] = norm.weight.grad.tolist()
    assert pulls == {"per layer": [0.5, -0.5], "weight decay": [0.25, -0.125], "wrong sign": [-0.5, 0.5]}


def test_a_threshold_for_each_layer_takes_the_same_share_everywhere():
    whole = network()
    plan = chapter03_studies.per_layer_plan(whole, EXAMPLE, 0.5)
    assert sorted(map(len, plan.values())) == [2, 2, 3]
    channels = follow(whole, EXAMPLE)
    assert {len(goes) for goes in slimming_plan(whole, channels, 0.5).values()} != {2, 3}


# What the pages show


def test_the_threshold_is_the_gamma_of_the_last_channel_that_goes():
    assert chapter03_tables.threshold([0.5, 0.1, 0.9, 0.2, 0.3], ratio=0.6) == 0.3


def cuts_of(accuracies):
    """Results of one strength: {(ratio, stage): accuracy of every seed}."""
    rows = [
        {"strength": s, "ratio": ratio, "stage": stage, "seed": seed}
        | dict.fromkeys(("test", "validation"), accuracy + seed / 1000)
        for s in chapter03.STRENGTHS
        for (ratio, stage), accuracy in accuracies.items()
        for seed in range(5)
    ]
    return Results(pd.DataFrame(rows), {"name": "none"}, "nothing")


CUTS = cuts_of(
    {
        (0.0, "whole"): 0.9,
        (0.3, "tuned"): 0.9,
        (0.5, "tuned"): 0.895,
        (0.7, "tuned"): 0.88,
        (0.8, "tuned"): 0.894,
    }
)


def test_a_loss_is_taken_against_the_same_network_before_the_cut():
    loss = chapter03_tables.losses(CUTS)
    assert loss[0.015, 0.7].mean == pytest.approx(-0.02)
    assert loss[0.0, 0.3].mean == pytest.approx(0)


def test_the_largest_cut_within_a_point_is_found_on_validation_images():
    assert set(chapter03_tables.reached(CUTS).values()) == {0.8}
    worse = cuts_of({(0.0, "whole"): 0.9} | {(ratio, "tuned"): 0.85 for ratio in chapter03.RATIOS})
    assert set(chapter03_tables.reached(worse).values()) == {0.0}


@pytest.mark.parametrize(
    ("low", "high", "word"), [(0.01, 0.03, "ahead of"), (-0.03, -0.01, "behind"), (-0.01, 0.02, "level with")]
)
def test_an_arm_is_ahead_or_behind_only_if_the_interval_leaves_zero_out(low, high, word):
    assert chapter03_tables.standing(Interval((low + high) / 2, low, high, 5)) == word


def test_networks_are_timed_in_turns():
    order = []

    class Noting(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, x):
            order.append(self.name)
            return x

    times = chapter03_tables.in_turns({"a": Noting("a"), "b": Noting("b")}, EXAMPLE, calls=2)
    assert order == ["a", "b", "a", "b"]
    assert set(times) == {"a", "b"}
    assert min(times.values()) > 0
