"""Each check refuses typical wrong answers, each with the hint that names the mistake."""

import pytest
import torch
from torch import nn

from course_lib import data
from course_lib.checks import NotYet, chapter03
from course_lib.pruning.slimming import slimming_plan
from course_lib.pruning.surgery import remove_channels
from tests.checks import solutions

global_plan = solutions.of("03")["global-plan"]


def ranked(scales, key=torch.abs):
    """(score, place of the layer, index, layer) of every channel, the lowest first."""
    entries = [
        (key(value).item(), place, index, name)
        for place, (name, gamma) in enumerate(scales.items())
        for index, value in enumerate(gamma)
    ]
    return sorted(entries)


def as_plan(entries, scales):
    return {name: torch.tensor([i for _, _, i, layer in entries if layer == name]) for name in scales}


def cut_off(scales, ratio):
    entries = ranked(scales)
    best = {name: max(e for e in entries if e[3] == name) for name in scales}
    free = [e for e in entries if e != best[e[3]]]
    return as_plan(free[: int(ratio * len(entries))], scales)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda g, w, s: g + s * w, "weight decay"),
        (lambda g, w, s: g + 2 * s * w, "weight decay"),
        (lambda g, w, s: g + s * w.abs(), r"adds \|gamma\| itself"),
        (lambda g, w, s: g + s, "pushed away from zero"),
        (lambda g, w, s: s * w.sign(), "gradient of the loss is lost"),
        (lambda g, w, s: g - s * w.sign(), "wrong sign"),
        (lambda g, w, s: g + w.sign(), "strength is not used"),
        (lambda g, w, s: g + s * g.sign(), "sign of the gradient"),
        (lambda g, w, s: g + s * w.sign() / len(w), "averaged"),
        (lambda g, w, s: g + s * torch.where(w >= 0, 1.0, -1.0), "At gamma = 0"),
        (lambda g, w, s: g.add_(s * w.sign()), "passed in were changed"),
        (lambda g, w, s: (g + s * w.sign()).sum(), "one number for each channel"),
        (lambda g, w, s: g - s * w, "Two mistakes: the penalty has the wrong sign, and pulls in proportion"),
        (lambda g, w, s: s * w, "Two mistakes: the gradient of the loss is lost, and the pull is in prop"),
        (
            lambda g, w, s: -s * w.sign(),
            "Two mistakes: the gradient of the loss is lost, and the penalty has",
        ),
        (lambda g, w, s: 0.1, "return a tensor"),
        (lambda g, w, s: g + 3 * s, "Not right yet"),
    ],
)
def test_penalise_names_the_mistake(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter03.check_penalise(wrong)


def per_layer(scales, ratio):
    return {name: gamma.abs().argsort()[: round(ratio * len(gamma))] for name, gamma in scales.items()}


def by_sign(scales, ratio):
    entries = ranked(scales, key=lambda value: value)
    return as_plan(entries[: round(ratio * len(entries))], scales)


def up_to_the_threshold(scales, ratio):
    values = torch.cat(list(scales.values())).abs().sort().values
    threshold = values[round(ratio * len(values))]
    return {name: (gamma.abs() <= threshold).nonzero().flatten() for name, gamma in scales.items()}


def below_the_threshold(scales, ratio):
    values = torch.cat(list(scales.values())).abs().sort().values
    threshold = values[round(ratio * len(values))]
    return {name: (gamma.abs() < threshold).nonzero().flatten() for name, gamma in scales.items()}


def largest(scales, ratio):
    entries = ranked(scales)
    return as_plan(entries[len(entries) - round(ratio * len(entries)) :], scales)


def without_protection(scales, ratio):
    entries = ranked(scales)
    return as_plan(entries[: round(ratio * len(entries))], scales)


def with_a_gap(scales, ratio):
    """Keeps the best of each layer, and removes nothing in its place."""
    best = {name: max(e for e in ranked(scales) if e[3] == name) for name in scales}
    chosen = ranked(scales)[: round(ratio * len(ranked(scales)))]
    return as_plan([e for e in chosen if e != best[e[3]]], scales)


def later_layer_first(scales, ratio):
    entries = sorted(ranked(scales), key=lambda e: (e[0], -e[1], e[2]))
    return as_plan(entries[: round(ratio * len(entries))], scales)


def as_masks(scales, ratio):
    plan = global_plan(scales, ratio)
    return {name: torch.isin(torch.arange(len(gamma)), plan[name].long()) for name, gamma in scales.items()}


def across_layers(scales, ratio):
    return {"a": torch.tensor([1]), "b": torch.tensor([4, 6, 8, 9])}


def one_too_few(scales, ratio):
    return {name: plan[1:] for name, plan in global_plan(scales, ratio).items()}


def never_nothing(scales, ratio):
    return global_plan(scales, ratio) if ratio else {"a": torch.tensor([1])}


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (per_layer, "threshold of its own"),
        (cut_off, "round, do not cut off"),
        (by_sign, r"What scales a channel is \|gamma\|"),
        (up_to_the_threshold, "One channel too many"),
        (below_the_threshold, "all ties or none"),
        (largest, "the channels that stay"),
        (without_protection, "best channel of each layer must stay"),
        (with_a_gap, "fewer channels go than asked for"),
        (later_layer_first, "earlier layer goes first"),
        (as_masks, "mask of True and False"),
        (across_layers, "Count from the start of each layer"),
        (one_too_few, "Not right yet"),
        (never_nothing, "At ratio 0"),
        (lambda scales, ratio: [1, 2], "return a dict"),
        (lambda scales, ratio: {"c": torch.tensor([0])}, r"names \['c'\]"),
    ],
)
def test_global_plan_names_the_mistake(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter03.check_global_plan(wrong)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda b, w, r: (w[:, r] * b[r][:, None, None]).sum((1, 2, 3)), "ReLU is missing"),
        (lambda b, w, r: (w * b.relu()[:, None, None]).sum((1, 2, 3)), "All channels are in it"),
        (lambda b, w, r: (w[:, 3:] * b[3:].relu()[:, None, None]).sum((1, 2, 3)), "channels that stay"),
        (lambda b, w, r: (w[:, :3] * b[:3].relu()[:, None, None]).sum((1, 2, 3)), "not with fixed places"),
        (lambda b, w, r: (w[:, r].sum((2, 3)) * b[r]).relu().sum(1), "Not right yet"),
        (lambda b, w, r: (w[:, r] * b[r].relu()[:, None, None]).mean((2, 3)).sum(1), "this is their mean"),
        (lambda b, w, r: w[:, r].sum((1, 2, 3)), "beta is not used"),
        (lambda b, w, r: (w * b[:, None, None]).sum((1, 2, 3)), "Two mistakes: .* all channels"),
        (lambda b, w, r: (w[:, r] * b[r][:, None, None]).mean((2, 3)).sum(1), "Two mistakes: .* is a mean"),
        (lambda b, w, r: (w[:, r] * b[r].relu()[:, None, None]).sum((2, 3)), "both axes of the kernel"),
        (lambda b, w, r: 0.0, "return a tensor"),
        (lambda b, w, r: torch.zeros(3), "Not right yet"),
    ],
)
def test_left_behind_names_the_mistake(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter03.check_left_behind(wrong)


def zeroed(network, dataset):
    """Channels at zero are still there."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.zeros_(layer.weight)
    return network


def untrained(network, dataset):
    example = data.to_float(dataset.train.images[:1])
    return remove_channels(network, example, slimming_plan(network, example, 0.7)).eval()


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda network, dataset: network, "208 of 208 channels are left; at most 62"),
        (zeroed, "Remove them, do not zero them"),
        (untrained, r"nearly emptied a layer, or nothing was trained"),
        (lambda network, dataset: 0.98, "return the network"),
    ],
)
def test_slim_unseen_names_the_mistake(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter03.check_slim_unseen(wrong)


def test_a_point_too_many_is_lost(monkeypatch):
    monkeypatch.setattr(chapter03.training, "evaluate", lambda network, split: 0.975)
    with pytest.raises(NotYet, match=r"97.5% of the test images; the target is more than 97.6%"):
        chapter03.check_slim_unseen(untrained)
    monkeypatch.setattr(chapter03.training, "evaluate", lambda network, split: 0.977)
    chapter03.check_slim_unseen(untrained)


def test_the_unseen_network_is_judged_on_images_that_the_answer_does_not_get():
    given = []

    def answer(network, dataset):
        given.append(dataset)
        return untrained(network, dataset)

    with pytest.raises(NotYet):
        chapter03.check_slim_unseen(answer)
    assert torch.equal(given[0].test.images, chapter03.unseen()[1].validation.images)
    assert not torch.equal(given[0].test.images[:600], chapter03.unseen()[1].test.images[:600])
