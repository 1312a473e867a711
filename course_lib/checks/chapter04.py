"""Checks of the exercises of chapter 04, L1-norm filter pruning."""

from collections.abc import Callable, Mapping, Sequence
from numbers import Real

import torch
from torch import Tensor

from course_lib.checks import NotYet, call, exercise, expect, passed
from course_lib.checks.bench import JUDGEMENTS, MOST_MACS, Judge


@exercise(
    again="Which two lists of indices do you need? Begin with the norms of this layer's filters: a sum over all "
    "dimensions but one.",
    read="The idea by hand",
)
def check_prune_pair(prune_pair: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]) -> None:
    """Check a learner's surgery on two layers, `prune_pair(weight, following, count) -> (weight, following)`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake, or two that come together.

    Example:
        >>> check_prune_pair(lambda weight, following, count: (weight[:-count], following[:, :-count]))
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: The last filters were cut, whatever their norm.
    """
    weight, following = _pair()
    before = weight.clone(), following.clone()
    answer = call(prune_pair, weight, following, 2)
    expect(
        isinstance(answer, Sequence) and len(answer) == 2,
        "Return two tensors: this layer's weight and the next layer's.",
    )
    expect(
        torch.equal(weight, before[0]) and torch.equal(following, before[1]),
        "The tensors given were changed. Index them; indexing makes new ones.",
    )
    keep = _kept(weight.abs().sum((1, 2, 3)))
    orders, ways = _mistakes_of_pair(weight, following)
    for order, ranked in orders.items():
        for way, cut in ways.items():
            wanted = cut(ranked)
            if (order or way) and all(_same(one, other) for one, other in zip(answer, wanted, strict=True)):
                raise NotYet(" And: ".join(filter(None, (order, way))))
    _compare(answer[0], weight[keep], {}, "the three filters that stay")
    _compare(answer[1], following[:, keep], {}, "five filters of three kernels")
    passed("the smallest filters go, and the kernels that read them.")


def _pair() -> tuple[Tensor, Tensor]:
    """Two weights with as many inputs as filters, so that a cut along the wrong dimension runs too."""
    generator = torch.Generator().manual_seed(5)
    one_large = torch.zeros(45)
    one_large[4] = 22.0
    alternating = torch.tensor([2.0, -2.0]).repeat(23)[:45]
    # L1 norms 45, 22, 90, 67.5, 36. By L2 norm or largest weight 0 and 4 would go, by sums without abs 1 and 2.
    rows = [torch.full((45,), 1.0), one_large, alternating, torch.full((45,), 1.5), torch.full((45,), 0.8)]
    weight = torch.stack(rows).reshape(5, 5, 3, 3)
    tilt = 1 + 0.1 * torch.tensor(
        [0.0, 3.0, 1.0, 2.0, -1.0]
    )  # the inputs differ too: their smallest are 0 and 4
    return weight * tilt.reshape(1, 5, 1, 1), torch.randn(5, 5, 3, 3, generator=generator)


def _kept(scores: Tensor, count: int = 2) -> Tensor:
    return scores.argsort(stable=True)[count:].sort().values


def _mistakes_of_pair(
    weight: Tensor, following: Tensor
) -> tuple[dict[str, Tensor], dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]]]:
    """What may be ranked, and how what stays may be cut; the right way of each has no hint."""
    norms = weight.abs().sum((1, 2, 3))
    by_size = norms.argsort(stable=True)[2:]
    last = torch.arange(3)
    wrong_length = "These are ranked by the largest weight or by the L2 norm. Sum the magnitudes."
    orders = {
        "": _kept(norms),
        "The filters with the largest norms went. Remove the smallest.": _kept(-norms),
        "These are the filters that go. Return those that stay.": norms.argsort(stable=True)[:2]
        .sort()
        .values,
        "The last filters were cut, whatever their norm.": last,
        wrong_length: _kept(weight.flatten(1).norm(dim=1)),
        "The signs were kept in the sum, so large weights cancel. Take abs() first.": _kept(
            weight.sum((1, 2, 3)).abs()
        ),
        "The sums run over the filters, dimension 0, so they score the inputs. A filter is weight[i].": _kept(
            weight.abs().sum((0, 2, 3))
        ),
        "The norms are those of the next layer. This layer's filters are ranked.": _kept(
            following.abs().sum((0, 2, 3))
        ),
    }
    ways: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
        "": lambda keep: (weight[keep], following[:, keep]),
        "The next layer was not cut. Its kernels for the removed maps go too.": lambda keep: (
            weight[keep],
            following,
        ),
        "The next layer is cut along the wrong dimension: it lost filters. It loses kernels, dimension 1.": (
            lambda keep: (weight[keep], following[keep])
        ),
        "This layer is cut along the wrong dimension: it lost inputs. It loses filters, dimension 0.": (
            lambda keep: (weight[:, keep], following[:, keep])
        ),
        "Both layers are cut along the wrong dimension: this one loses filters, dimension 0, the next one kernels, "
        "dimension 1.": lambda keep: (weight[:, keep], following[keep]),
        "The next layer lost the kernels at its end. Remove those that read the removed maps.": lambda keep: (
            weight[keep],
            following[:, : len(keep)],
        ),
        "The right ones stay, but sorted by norm. Sort the indices that stay.": lambda keep: (
            weight[by_size],
            following[:, by_size],
        ),
        "The next layer's kernels are in another order than the filters that they read.": lambda keep: (
            weight[keep],
            following[:, by_size],
        ),
    }
    return orders, ways


@exercise(
    again="Multiply first: weight has no dimension for the batches, and broadcasts. Which dimensions of the products "
    "belong to one filter in one batch?",
    read="Smallest first, random, largest first",
)
def check_taylor_scores(taylor_scores: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Check a learner's Taylor criterion, `taylor_scores(weight, gradients) -> [C_out]`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake, or two that come together.

    Example:
        >>> check_taylor_scores(lambda weight, gradients: (gradients * weight).abs().sum((2, 3, 4)).mean(0))
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: The terms of a filter lost their signs before they were added. Add first.
    """
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 4, 3, 3, generator=generator)
    gradients = torch.randn(6, 4, 4, 3, 3, generator=generator)
    products = gradients * weight
    answer = call(taylor_scores, weight, gradients)
    early = "The terms of a filter lost their signs before they were added. Add first."
    signs = "Gains and losses of different batches cancel. Square each batch's sum, then average."
    no_square = "A magnitude is taken where a square is asked for."
    total = "The batches are added. Average them."
    wrong_axis = "These are scores of the input channels. A filter is weight[i]: keep the dimension behind the batches."
    sums, across = products.sum((2, 3, 4)), products.sum((1, 3, 4))
    mistakes = {
        early: products.abs().sum((2, 3, 4)).mean(0),
        f"{early} Each was squared.": products.square().sum((2, 3, 4)).mean(0),
        signs: sums.mean(0).square(),
        "The batches' sums are averaged with their signs, and none is squared.": sums.mean(0),
        f"{signs} And: {no_square}": sums.mean(0).abs(),
        no_square: sums.abs().mean(0),
        total: sums.square().sum(0),
        f"{no_square} And: {total}": sums.abs().sum(0),
        wrong_axis: across.square().mean(0),
        f"{wrong_axis} And: {no_square}": across.abs().mean(0),
        "The weights are missing. A large gradient of a weight near zero changes little.": gradients.sum(
            (2, 3, 4)
        )
        .square()
        .mean(0),
        "The gradients are missing.": weight.sum((1, 2, 3)).square(),
        "The terms are averaged within a filter. Sum them.": products.mean((2, 3, 4)).square().mean(0),
    }
    _compare(answer, sums.square().mean(0), mistakes, "one number for each of the 4 filters")
    passed("the square of what each batch's loss changes by, to first order, averaged over the batches.")


@exercise(
    again="Write the channel of each input below it, for three channels of four pixels. How do you get from the place "
    "to the channel?",
    read="Bugs that look right",
)
def check_inputs_that_stay(inputs_that_stay: Callable[[Sequence[int], int, int], Sequence[int]]) -> None:
    """Check which inputs of a linear layer a learner keeps, `inputs_that_stay(removed, channels, pixels)`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> check_inputs_that_stay(lambda removed, channels, pixels: {0, 2})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: inputs_that_stay(...): These are channels. Return the inputs of the linear layer.
    """
    for removed, channels, pixels in (([1], 3, 4), ([0, 2], 4, 9)):
        answer = call(inputs_that_stay, list(removed), channels, pixels)
        found = [int(index) for index in answer]
        every = range(channels * pixels)
        right = [i for i in every if i // pixels not in removed]
        shown = f"inputs_that_stay({removed}, {channels}, {pixels})"
        mistakes = {
            "One channel is not one input: it owns as many as it has pixels.": [
                i for i in every if i not in removed
            ],
            "These are channels. Return the inputs of the linear layer.": [
                c for c in range(channels) if c not in removed
            ],
            "Flatten puts the pixels of channel 0 first, then those of channel 1: divide by the pixels.": [
                i for i in every if i % channels not in removed
            ],
            "These are the inputs that go.": [i for i in every if i // pixels in removed],
        }
        if found != right:
            for hint, wrong in mistakes.items():
                expect(found != wrong, f"{shown}: {hint}")
            expect(sorted(found) != right, f"{shown}: the right inputs, but not in ascending order.")
            expect(False, f"{shown} gives {found}; it should be {right}.")
    passed("a channel owns as many inputs as it has pixels, side by side.")


@exercise(
    again="Go along the curve from the left. Which point ends the walk, and what do you know by then?",
    read="Where to cut",
)
def check_read_ratio(read_ratio: Callable[[Sequence[float], Sequence[float], float], float]) -> None:
    """Check a learner's way to read a ratio off a curve, `read_ratio(ratios, accuracies, least) -> ratio`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> check_read_ratio(lambda ratios, accuracies, least: max(accuracies))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: This is an accuracy; return a ratio. ...
    """
    ratios = [0.1, 0.3, 0.5, 0.7, 0.9]
    cases = [
        ([0.95, 0.89, 0.80, 0.42, 0.12], 0.85, 0.3, "a falling curve"),
        ([0.95, 0.89, 0.80, 0.42, 0.12], 0.80, 0.5, "a point exactly at the level is kept"),
        ([0.95, 0.80, 0.89, 0.42, 0.12], 0.85, 0.1, "a curve that falls below and comes up again"),
        ([0.60, 0.52, 0.42, 0.32, 0.12], 0.85, 0.0, "a layer that cannot lose anything"),
        ([0.95, 0.94, 0.93, 0.92, 0.91], 0.85, 0.9, "a layer that hardly matters"),
    ]
    for accuracies, least, right, what in cases:
        answer = call(read_ratio, ratios, accuracies, least)
        hint = f"{what}: accuracies {accuracies}, least {least}: you give {answer}, it should be {right}."
        if answer != right:
            expect(answer not in accuracies, f"This is an accuracy; return a ratio. {hint}")
            first_bad = next((r for r, a in zip(ratios, accuracies, strict=True) if a < least), None)
            expect(answer != first_bad, f"This ratio is the first that is too much. {hint}")
            last_good = max((r for r, a in zip(ratios, accuracies, strict=True) if a >= least), default=0.0)
            expect(
                answer != last_good,
                f"All smaller ratios must keep the level too: stop at the first fall. {hint}",
            )
            expect(False, hint)
    passed("you stop at the first fall below the level.")


_LEAD = 0.03  # above the uniform strategy, as an accuracy


@exercise(
    again="Begin with the uniform strategy. Change one layer, and let all others move together until the budget is "
    "kept. Judge that: is it better?",
    read="Beat the uniform strategy",
)
def check_my_ratios(my_ratios: Callable[[Judge], Mapping[str, float]]) -> None:
    """Check a learner's ratios, `my_ratios(judge) -> {layer: ratio}`, on the chapter's VGG.

    Raises:
        NotYet: it judges too often, costs too much, or does not beat the uniform strategy by enough.

    Example:
        >>> check_my_ratios(lambda judge: dict.fromkeys(judge.layers, 0.3))
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: Your ratios leave 48.3 % of the MACs; at most 35.5 % may be left.
    """
    judging = Judge()
    ratios = call(my_ratios, judging)
    expect(not isinstance(ratios, Real), f"my_ratios returned {ratios!r}, a score. Return the ratios.")
    judging.check(ratios)
    left = judging.share(ratios)
    expect(
        left <= MOST_MACS,
        f"Your ratios leave {100 * left:.1f} % of the MACs; at most {100 * MOST_MACS:.1f} % may be left.",
    )
    reached, target = judging.score(ratios), judging.score(judging.uniform) + _LEAD
    if reached < target:
        told = f"Your ratios score {100 * reached:.1f} %; {100 * target:.1f} % are wanted."
        expect(
            judging.best[0] < target,
            f"{told} You judged some with {100 * judging.best[0]:.1f} %: return the best that you saw.",
        )
        expect(
            left > MOST_MACS - 0.02,
            f"{told} They leave {100 * left:.1f} % of the MACs: you may spend up to {100 * MOST_MACS:.1f} %.",
        )
        expect(
            judging.count > JUDGEMENTS // 2, f"{told} You judged {judging.count}; {JUDGEMENTS} are allowed."
        )
        expect(
            False,
            f"{told} The curves of single layers do not tell how cuts act together: judge whole ratios.",
        )
    passed("your ratios beat the uniform strategy by at least 3 points, at no more MACs.")


def _same(one: object, other: Tensor) -> bool:
    return isinstance(one, Tensor) and one.shape == other.shape and torch.allclose(one.to(other.dtype), other)


def _compare(answer: object, right: Tensor, mistakes: dict[str, Tensor], what: str) -> None:
    """Accept `right`; name the mistake whose result the answer is."""
    expect(isinstance(answer, Tensor), f"The result is a {type(answer).__name__}; return a tensor.")
    if answer.shape == right.shape and torch.allclose(answer.to(right.dtype), right, atol=1e-5):
        return
    for hint, wrong in mistakes.items():
        expect(
            answer.shape != wrong.shape or not torch.allclose(answer.to(wrong.dtype), wrong, atol=1e-5), hint
        )
    expect(
        answer.shape == right.shape,
        f"The result has shape {list(answer.shape)}; it must be {list(right.shape)}, {what}.",
    )
    expect(False, f"Not right yet: expected\n{right}\nbut got\n{answer}")
