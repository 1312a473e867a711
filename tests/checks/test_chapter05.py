"""Each check refuses typical wrong answers, each with the hint that names the mistake."""

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import stats

from course_lib.checks import NotYet, chapter05
from tests.checks import solutions

RIGHT = solutions.of("05")
draw, average, kendall = RIGHT["draw-ratios"], RIGHT["average-statistics"], RIGHT["kendall"]


def signs(x, y):
    return [np.sign((x[i] - x[j]) * (y[i] - y[j])) for i, j in combinations(range(len(x)), 2)]


def test_other_right_answers_are_accepted():
    chapter05.check_draw_ratios(lambda g, n, low, high: [float(g.uniform(low, high)) for _ in range(n)])
    chapter05.check_kendall(lambda x, y: stats.kendalltau(x, y).statistic)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda g, n, low, high: low + high * g.random(n), "`low` is added"),
        (lambda g, n, low, high: high * g.random(n), "`low` is not used"),
        (lambda g, n, low, high: draw(np.random.default_rng(0), n, low, high), "same strategy"),
        (lambda g, n, low, high: np.full(n, g.uniform(low, high)), "share their ratios"),
        (lambda g, n, low, high: low + (high - low) * g.random(n) ** 2, "have mean 0.43"),
        (lambda g, n, low, high: g.normal(0.5, 0.02, n), "they should fill"),
        (lambda g, n, low, high: g.uniform(low, high), r"shape \[\]"),
        (lambda g, n, low, high: draw(g, n + 1, low, high), r"shape \[4001\]"),
        (lambda g, n, low, high: ["a"] * n, "one ratio for each layer"),
        (lambda g, n, low, high: None, "returned None"),
    ],
)
def test_draw_ratios_names_the_mistake(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter05.check_draw_ratios(wrong)


def changed(batches):
    answer = average(batches)
    batches[0].zero_()
    return answer


def exponential(batches):
    mean = torch.zeros(2)
    for batch in batches:
        mean = 0.9 * mean + 0.1 * batch.mean(0)
    return mean, average(batches)[1]


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda b: (b[-1].mean(0), b[-1].var(0)), "last batch alone"),
        (lambda b: (len(b) * average(b)[0], average(b)[1]), "added up"),
        (lambda b: (torch.cat(b).mean(0), average(b)[1]), "Large batches count for more"),
        (exponential, "momentum 0.1"),
        (
            lambda b: (average(b)[0], torch.stack([x.var(0, correction=0) for x in b]).mean(0)),
            "divides by N - 1",
        ),
        (lambda b: (average(b)[0], torch.cat(b).var(0)), "all images together"),
        (lambda b: (average(b)[0], torch.stack([x.std(0) for x in b]).mean(0)), "standard deviations"),
        (lambda b: (average(b)[0], 2 * average(b)[1]), "variances should be"),
        (lambda b: (2.5 * average(b)[0], average(b)[1]), "means should be"),
        (lambda b: (torch.stack([x.mean(1).mean() for x in b]), average(b)[1]), "dimension 0"),
        (lambda b: average(b)[0], "two tensors"),
        (changed, "were changed"),
        (lambda b: None, "returned None"),
    ],
)
def test_average_statistics_names_the_mistake(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter05.check_average_statistics(wrong)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda m, b: 1 - (1 - m) ** b, "share of the new batches"),
        (lambda m, b: m**b, "not momentum"),
        (lambda m, b: 1 - m * b, "do not subtract"),
        (lambda m, b: 1 / (b + 1), "count alike"),
        (lambda m, b: (1 - m) ** max(b, 1), "it should be 1"),
    ],
)
def test_inherited_share_names_the_mistake(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter05.check_inherited_share(wrong)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda x, y: float(np.mean([s > 0 for s in signs(x, y)])), "same order. Subtract"),
        (lambda x, y: sum(signs(x, y)), "Divide by the number of pairs"),
        (lambda x, y: kendall(x, y) / 2, "Every pair counts once"),
        (lambda x, y: 2 * kendall(x, y), "Twice as much"),
        (lambda x, y: -kendall(x, y), "sign is turned"),
        (lambda x, y: stats.pearsonr(x, y).statistic, "Pearson's correlation of the values"),
        (lambda x, y: stats.spearmanr(x, y).statistic, "Spearman"),
        (lambda x, y: 0.123, "it should be"),
    ],
)
def test_kendall_names_the_mistake(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter05.check_kendall(wrong)
