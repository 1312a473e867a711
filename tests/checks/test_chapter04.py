"""Each check accepts the solution, and refuses typical wrong answers, each with the hint that names the mistake."""

import pytest

from course_lib.checks import NotYet, chapter04


def norms(weight):
    return weight.abs().flatten(1).sum(dim=1)


def pair(weight, following, count):
    keep = norms(weight).argsort()[count:].sort().values
    return weight[keep], following[:, keep]


def stay(removed, channels, pixels):
    return [i for i in range(channels * pixels) if i // pixels not in removed]


def read(ratios, accuracies, least):
    chosen = 0.0
    for ratio, accuracy in zip(ratios, accuracies, strict=True):
        if accuracy < least:
            break
        chosen = ratio
    return chosen


def todo(*arguments):
    raise NotImplementedError


def test_solutions_are_accepted_with_one_line(capsys):
    chapter04.check_filter_norms(norms)
    chapter04.check_filter_norms(lambda w: norms(w.double()))
    chapter04.check_prune_pair(pair)
    chapter04.check_inputs_that_stay(stay)
    chapter04.check_read_ratio(read)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 5
    assert all(line.startswith("Correct: ") for line in printed)


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
        (todo, "not written yet"),
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
        (todo, "not written yet"),
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
        (todo, "not written yet"),
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
        (todo, "not written yet"),
    ],
)
def test_read_ratio_names_the_mistake(wrong, hint):
    with pytest.raises(NotYet, match=hint):
        chapter04.check_read_ratio(wrong)
