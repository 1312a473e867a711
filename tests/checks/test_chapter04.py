"""Each check refuses typical wrong answers, each with the hint that names the mistake."""

import pytest

from course_lib.checks import NotYet, chapter04
from tests.checks import solutions

RIGHT = solutions.of("04")
norms, pair = RIGHT["filter-norms"], RIGHT["prune-pair"]
stay, read = RIGHT["inputs-that-stay"], RIGHT["read-ratio"]


def test_norms_of_another_precision_are_accepted():
    chapter04.check_filter_norms(lambda w: norms(w.double()))


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda w: w.abs().sum((0, 2, 3)), "scores of the input channels"),
        (lambda w: w.flatten(1).norm(dim=1), "L2 norms"),
        (lambda w: w.sum((1, 2, 3)), "with their signs"),
        (lambda w: w.sum((1, 2, 3)).abs(), "absolute value is taken of the sum"),
        (lambda w: w.abs().mean((1, 2, 3)), "the norm is the sum"),
        (lambda w: w.abs().sum((2, 3)), r"shape \[4, 4\]; it must be \[4\]"),
        (lambda w: 2 * norms(w), "Not right yet"),
        (lambda w: norms(w).tolist(), "return a tensor"),
        (lambda w: None, "returned None"),
    ],
)
def test_filter_norms_names_the_mistake(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter04.check_filter_norms(wrong)


def _order(w):
    return norms(w).argsort()


def _keep_by(weight, following, count, scores):
    keep = scores.argsort()[count:].sort().values
    return weight[keep], following[:, keep]


def _changes(weight, following, count):
    result = pair(weight, following, count)
    weight[0] = 0
    return result


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda w, f, n: pair(w, f, n)[0], "Return two tensors"),
        (lambda w, f, n: (w[_order(w)[:-n].sort().values], f), "largest norms went"),
        (lambda w, f, n: (w[_order(w)[n:]], f[:, _order(w)[n:]]), "but sorted by norm"),
        (lambda w, f, n: (w[_order(w)[:n].sort().values], f), "filters that go. Return those that stay"),
        (lambda w, f, n: (w[:-n], f[:, :-n]), "whatever their norm"),
        (lambda w, f, n: (pair(w, f, n)[0], f), "next layer was not cut"),
        (lambda w, f, n: (pair(w, f, n)[0], f[_order(w)[n:].sort().values]), "index its dimension 1"),
        (lambda w, f, n: (pair(w, f, n)[0], f[:, :-n]), "kernels at its end"),
        (lambda w, f, n: (pair(w, f, n)[0], f[:, _order(w)[n:]]), "in another order"),
        (lambda w, f, n: (w * 1.0, f), r"shape \[5, 2, 3, 3\]; it must be \[3, 2, 3, 3\]"),
        (lambda w, f, n: _keep_by(w, f, n, w.flatten(1).norm(dim=1)), "largest weight or by the L2 norm"),
        (lambda w, f, n: _keep_by(w, f, n, w.abs().amax((1, 2, 3))), "largest weight or by the L2 norm"),
        (lambda w, f, n: _keep_by(w, f, n, w.sum((1, 2, 3)).abs()), "signs were kept in the sum"),
        (_changes, "were changed"),
    ],
)
def test_prune_pair_names_the_mistake(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter04.check_prune_pair(wrong)


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
