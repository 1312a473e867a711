"""Each check refuses typical wrong answers, each with the hint that names the mistake."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from course_lib import cost
from course_lib.checks import NotWritten, NotYet, bench, chapter05, written
from tests.checks import solutions

RIGHT = solutions.of("05")
needed, layers, regret = RIGHT["batches-needed"], RIGHT["recalibrate-layers"], RIGHT["regret"]


def exact(m, share):
    return math.log(share) / math.log(1 - m)


def test_other_right_answers_are_accepted():
    chapter05.check_batches_needed(lambda momentum, share: max(0, math.ceil(exact(momentum, share) - 1e-9)))
    chapter05.check_regret(lambda x, y: sorted(y)[-1] - y[sorted(range(len(x)), key=x.__getitem__)[-1]])


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda momentum, share: int(exact(momentum, share) + 1e-9), "^Rounded down: after that"),
        (lambda momentum, share: round(exact(momentum, share)), "^Rounded to the nearest"),
        (lambda momentum, share: needed(1 - momentum, share), "^Each batch keeps 1 - momentum"),
        (lambda momentum, share: int(exact(1 - momentum, share) + 1e-9), "not momentum. And: Rounded down"),
        (lambda momentum, share: math.ceil((1 - share) / momentum - 1e-9), "a power, not a product"),
        (lambda momentum, share: int((1 - share) / momentum + 1e-9), "not a product. And: Rounded down"),
        (lambda momentum, share: needed(momentum, 1 - share) if share < 1 else -1, "The old statistics are"),
        (lambda momentum, share: needed(momentum, share) + 1, "One batch too many"),
        (lambda momentum, share: exact(momentum, share), "whole number"),
        (lambda momentum, share: 3, "should be 7"),
        (lambda momentum, share: None, "returned None"),
    ],
)
def test_batches_needed_names_the_mistake(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter05.check_batches_needed(wrong)


def by_layer(
    *, variance=lambda x: x.var((0, 2, 3)), mean=lambda x: x.mean((0, 2, 3)), passed="new", out=True
):
    """A recalibration layer by layer with one or more mistakes."""

    @torch.no_grad()
    def recalibrate(network, images):
        x = images
        for layer in network:
            if not isinstance(layer, nn.BatchNorm2d):
                x = layer(x)
                continue
            old = copy.deepcopy(layer)
            layer.running_mean, layer.running_var = mean(x), variance(x)
            if passed == "plain":
                x = nn.functional.batch_norm(x, layer.running_mean, layer.running_var)
            elif passed != "skipped":
                x = old(x) if passed == "old" else layer(x)
        return x if out else images

    return recalibrate


def with_a_weight_changed(network, images):
    out = layers(network, images)
    with torch.no_grad():
        network[1].weight.mul_(2)
    return out


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (by_layer(variance=lambda x: x.var((0, 2, 3), correction=0)), "^The variance divides by N"),
        (by_layer(variance=lambda x: x.std((0, 2, 3))), "^running_var holds standard deviations"),
        (by_layer(variance=lambda x: 2 * x.var((0, 2, 3))), "^The variance of the first batch norm is not"),
        (by_layer(mean=lambda x: 0.5 * x.mean((0, 2, 3))), "^The mean of the first batch norm is not"),
        (by_layer(passed="old"), "^The second batch norm was measured behind the old first one"),
        (by_layer(passed="skipped"), "^The first batch norm is left out"),
        (by_layer(passed="plain"), "^The first batch norm passes x on without its weight and bias"),
        (
            by_layer(variance=lambda x: x.var((0, 2, 3), correction=0), passed="old"),
            "divides by N.* And: The second batch norm was measured behind the old",
        ),
        (by_layer(mean=lambda x: x.mean((2, 3))), r"running_mean of batch norm 1 has shape \[6, 3\]"),
        (by_layer(variance=lambda x: x.var(0)), r"running_var of batch norm 1 has shape \[3, 6, 6\]"),
        (by_layer(out=False), "what you return is not"),
        (with_a_weight_changed, "A weight has changed"),
        (lambda network, images: network(images), "still the old ones"),
        (lambda network, images: None, "returned None"),
    ],
)
def test_recalibrate_layers_names_the_mistake(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter05.check_recalibrate_layers(wrong)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda x, y: y[int(np.argmax(x))], "Subtract it from the best"),
        (lambda x, y: -regret(x, y), "sign is turned"),
        (lambda x, y: max(y) - max(x), "Score and outcome are mixed"),
        (lambda x, y: max(y) - y[int(np.argmin(x))], "not the lowest"),
        (lambda x, y: max(x) - x[int(np.argmax(y))], "These are scores"),
        (lambda x, y: max(y) - float(np.mean(y)), "distance to the mean"),
        (lambda x, y: 2 * regret(x, y), "it should be 0.15"),
        (lambda x, y: sum(o > y[int(np.argmax(x))] for o in y), "rank of the pick"),
        (lambda x, y: list(y), "must be a finite number"),
    ],
)
def test_regret_names_the_mistake(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter05.check_regret(wrong)


def best_and(answer):
    """A search that judges the uniform strategy and a better one, then does something else with it."""

    def search(judge, generator):
        better = dict(zip(judge.layers, (0.29, 0.45, 0.28, 0.36, 0.73, 0.11), strict=True))
        judge(judge.uniform), judge(better)
        return answer(judge, better)

    return search


def random_search(judge, generator):
    best, found = None, 0.0
    while judge.count < bench.JUDGEMENTS:
        ratios = {layer: float(generator.uniform(0, 0.95)) for layer in judge.layers}
        if judge.share(ratios) <= bench.MOST_MACS and (score := judge(ratios)) > found:
            best, found = ratios, score
    return best


def endless(judge, generator):
    while True:
        judge(judge.uniform)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (best_and(lambda judge, better: judge.uniform), "return the best that you saw"),
        (lambda judge, generator: judge.uniform, "You judged 0 candidates; 40 are allowed"),
        (random_search, "Look near the best one so far"),
        (endless, "40 candidates are judged, and your search asks for one more"),
        (lambda judge, generator: dict.fromkeys(judge.layers, 0.3), "48.3 % of the MACs; at most 35.5 %"),
        (lambda judge, generator: judge(judge.uniform), "a score. Return the ratios"),
        (lambda judge, generator: dict.fromkeys(judge.layers, 1.2), r"outside \[0, 1\)"),
        (lambda judge, generator: [0.4] * 6, "is no strategy"),
        pytest.param(
            lambda judge, generator: judge([0.4] * 6), "is no strategy", marks=pytest.mark.bad_input
        ),
        (lambda judge, generator: None, "returned None"),
    ],
)
def test_my_search_names_the_mistake(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter05.check_my_search(wrong)


def test_a_better_strategy_is_accepted():
    chapter05.check_my_search(best_and(lambda judge, better: better))


def test_the_share_of_the_macs_is_that_of_the_pruned_network():
    judge = bench.Judge()
    ratios = dict(zip(judge.layers, (0.29, 0.45, 0.0, 0.36, 0.73, 0.99), strict=True))
    network, example = bench._network().model, bench._network().calibration[:1]
    from course_lib.experiments.chapter05 import pruned

    small = cost.macs(pruned(network, example, ratios), example)
    assert judge.share(ratios) == small / cost.macs(network, example)


def test_until_an_answer_is_written_the_figure_behind_it_is_made_without_it(capsys):
    def answer(*arguments):
        raise NotImplementedError()

    assert written(answer, otherwise=abs) is abs
    assert "answer is not written yet" in capsys.readouterr().out
    assert written(regret, otherwise=abs) is regret
    with pytest.raises(NotWritten):
        chapter05.check_regret(answer)
