"""Each check refuses typical wrong answers, each with the hint that names the mistake."""

import pytest

from course_lib.checks import NotYet, chapter04
from tests.checks import solutions

RIGHT = solutions.of("04")
pair, taylor = RIGHT["prune-pair"], RIGHT["taylor-scores"]
stay, read, ratios = RIGHT["inputs-that-stay"], RIGHT["read-ratio"], RIGHT["my-ratios"]


def norms(w):
    return w.abs().sum((1, 2, 3))


def by(scores):
    """Prune by other scores of the pair, but cut rightly."""

    def wrong(w, f, n):
        keep = scores(w, f).argsort(stable=True)[n:].sort().values
        return w[keep], f[:, keep]

    return wrong


def cut(way, scores=lambda w, f: norms(w)):
    """Cut in another way, by these scores."""
    return lambda w, f, n: way(w, f, scores(w, f).argsort(stable=True)[n:].sort().values)


def _order(w):
    return norms(w).argsort()


def _changes(weight, following, count):
    result = pair(weight, following, count)
    weight[0] = 0
    return result


FIRST_WRONG = "This layer is cut along the wrong dimension: it lost inputs"
NEXT_WRONG = "The next layer is cut along the wrong dimension: it lost filters"
OVER_FILTERS = "sums run over the filters, dimension 0"


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda w, f, n: pair(w, f, n)[0], "Return two tensors"),
        (by(lambda w, f: -norms(w)), r"^The filters with the largest norms went. Remove the smallest.(\n|$)"),
        (by(lambda w, f: w.sum((1, 2, 3)).abs()), "^The signs were kept in the sum"),
        (by(lambda w, f: w.flatten(1).norm(dim=1)), "largest weight or by the L2 norm"),
        (by(lambda w, f: w.abs().amax((1, 2, 3))), "largest weight or by the L2 norm"),
        (by(lambda w, f: w.abs().sum((0, 2, 3))), OVER_FILTERS),
        (by(lambda w, f: f.abs().sum((0, 2, 3))), "norms are those of the next layer"),
        (
            lambda w, f, n: (w[_order(w)[:n].sort().values], f[:, _order(w)[:n].sort().values]),
            "Return those that stay",
        ),
        (lambda w, f, n: (w[:-n], f[:, :-n]), "whatever their norm"),
        (cut(lambda w, f, k: (w[k], f)), "^The next layer was not cut"),
        (cut(lambda w, f, k: (w[k], f[k])), f"^{NEXT_WRONG}"),
        (cut(lambda w, f, k: (w[:, k], f[:, k])), f"^{FIRST_WRONG}"),
        (cut(lambda w, f, k: (w[:, k], f[k])), "^Both layers are cut along the wrong dimension"),
        (cut(lambda w, f, k: (w[k], f[:, : len(k)])), "kernels at its end"),
        (lambda w, f, n: (w[_order(w)[n:]], f[:, _order(w)[n:]]), "but sorted by norm"),
        (lambda w, f, n: (pair(w, f, n)[0], f[:, _order(w)[n:]]), "in another order"),
        (lambda w, f, n: (w * 1.0, f), r"shape \[5, 5, 3, 3\]; it must be \[3, 5, 3, 3\]"),
        (_changes, "were changed"),
    ],
)
def test_prune_pair_names_the_mistake(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter04.check_prune_pair(wrong)


@pytest.mark.parametrize(
    ("wrong", "first", "second"),
    [
        (cut(lambda w, f, k: (w[k], f[k]), lambda w, f: w.abs().sum((0, 2, 3))), OVER_FILTERS, NEXT_WRONG),
        (
            cut(lambda w, f, k: (w[:, k], f[:, k]), lambda w, f: w.abs().sum((0, 2, 3))),
            OVER_FILTERS,
            FIRST_WRONG,
        ),
        (cut(lambda w, f, k: (w[k], f), lambda w, f: -norms(w)), "largest norms went", "was not cut"),
    ],
)
def test_prune_pair_names_two_mistakes_that_come_together(wrong, first, second):
    with pytest.raises(NotYet) as told:
        chapter04.check_prune_pair(wrong)
    one, other = str(told.value).split(" And: ")
    assert first in one
    assert second in other.split("\n")[0]


def products(w, g):
    return w * g


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda w, g: products(w, g).abs().sum((2, 3, 4)).mean(0), "lost their signs"),
        (lambda w, g: products(w, g).square().sum((2, 3, 4)).mean(0), "Each was squared"),
        (lambda w, g: products(w, g).sum((2, 3, 4)).mean(0).square(), "of different batches cancel"),
        (lambda w, g: products(w, g).sum((2, 3, 4)).mean(0).abs(), "cancel.* And: A magnitude"),
        (lambda w, g: products(w, g).sum((2, 3, 4)).mean(0), "none is squared"),
        (lambda w, g: products(w, g).sum((2, 3, 4)).abs().mean(0), "^A magnitude is taken"),
        (lambda w, g: products(w, g).sum((2, 3, 4)).square().sum(0), "^The batches are added"),
        (lambda w, g: products(w, g).sum((2, 3, 4)).abs().sum(0), "A magnitude.* And: The batches are added"),
        (
            lambda w, g: products(w, g).sum((1, 3, 4)).square().mean(0),
            "^These are scores of the input channels",
        ),
        (lambda w, g: products(w, g).sum((1, 3, 4)).abs().mean(0), "input channels.* And: A magnitude"),
        (lambda w, g: g.sum((2, 3, 4)).square().mean(0), "The weights are missing"),
        (lambda w, g: w.sum((1, 2, 3)).square(), "The gradients are missing"),
        (lambda w, g: products(w, g).mean((2, 3, 4)).square().mean(0), "averaged within a filter"),
        (lambda w, g: products(w, g).sum((2, 3, 4)).square(), r"shape \[6, 4\]; it must be \[4\]"),
        (lambda w, g: taylor(w, g).tolist(), "return a tensor"),
        (lambda w, g: 2 * taylor(w, g), "Not right yet"),
    ],
)
def test_taylor_scores_names_the_mistake(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter04.check_taylor_scores(wrong)


def _judges_well_and_returns_the_uniform_ones(judge):
    ratios(judge)
    return judge.uniform


def _asks_again_and_again(judge):
    while True:
        judge(judge.uniform)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda judge: 0.5, "a score. Return the ratios"),
        (lambda judge: {"9": 0.5}, "is no strategy"),
        (lambda judge: dict.fromkeys(judge.layers, 1.5), r"outside \[0, 1\)"),
        (lambda judge: dict.fromkeys(judge.layers, 0.2), "leave .* % of the MACs; at most 35.5 %"),
        (lambda judge: dict.fromkeys(judge.layers, 0.6), "you may spend up to"),
        (lambda judge: judge.uniform, "You judged 0; 40 are allowed"),
        (_judges_well_and_returns_the_uniform_ones, "return the best that you saw"),
        (_asks_again_and_again, "40 candidates are judged"),
    ],
)
def test_my_ratios_names_what_is_missing(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter04.check_my_ratios(wrong)


def test_ratios_read_off_the_curves_of_single_layers_are_not_enough():
    def scanned(judge):
        for layer in judge.layers:
            for ratio in (0.1, 0.3, 0.5, 0.7):
                judge({layer: ratio})
        return judge.uniform

    with pytest.raises(NotYet, match="how cuts act together"):
        chapter04.check_my_ratios(scanned)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda r, c, p: [i for i in range(c * p) if i not in r], "as many as it has pixels"),
        (lambda r, c, p: [i for i in range(c) if i not in r], "These are channels"),
        (lambda r, c, p: [i for i in range(c * p) if i % c not in r], "divide by the pixels"),
        (lambda r, c, p: [i for i in range(c * p) if i // p in r], "inputs that go"),
        (lambda r, c, p: stay(r, c, p)[::-1], "not in ascending order"),
        (lambda r, c, p: [0], r"gives \[0\]; it should be"),
    ],
)
def test_inputs_that_stay_names_the_mistake(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter04.check_inputs_that_stay(wrong)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda r, a, least: min([*a, 0.95], key=lambda v: (v < least, v)), "This is an accuracy"),
        (
            lambda r, a, least: next((x for x, y in zip(r, a, strict=True) if y < least), 0.9),
            "first that is too much",
        ),
        (
            lambda r, a, least: max((x for x, y in zip(r, a, strict=True) if y >= least), default=0.0),
            "stop at the first fall",
        ),
        (lambda r, a, least: read(r, a, least + 1e-9), "exactly at the level"),
        (lambda r, a, least: read(r, a, least) or 0.05, "cannot lose anything"),
    ],
)
def test_read_ratio_names_the_mistake(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter04.check_read_ratio(wrong)
