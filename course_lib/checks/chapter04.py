"""Checks of the exercises of chapter 04, L1-norm filter pruning."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from course_lib.checks import call, exercise, expect, passed


@exercise(
    again="abs() first, then a sum over every dimension but the first.",
    read="The idea by hand",
)
def check_filter_norms(filter_norms: Callable[[Tensor], Tensor]) -> None:
    """Check a learner's L1 norms, `filter_norms(weight) -> [C_out]`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> check_filter_norms(lambda weight: weight.abs().mean((1, 2, 3)))
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: This is the mean; the norm is the sum.
    """
    weight = torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(0))  # square: a wrong axis runs
    answer = call(filter_norms, weight)
    mistakes = {
        "These are scores of the input channels. Keep dimension 0, the filters, and sum the others.": weight.abs().sum(
            (0, 2, 3)
        ),
        "These are L2 norms. L1 adds absolute values.": weight.flatten(1).norm(dim=1),
        "The weights are added with their signs, so large ones cancel. Take absolute values first.": weight.sum(
            (1, 2, 3)
        ),
        "The absolute value is taken of the sum. Take it of each weight, before adding.": weight.sum(
            (1, 2, 3)
        ).abs(),
        "This is the mean; the norm is the sum.": weight.abs().mean((1, 2, 3)),
    }
    _compare(answer, weight.abs().sum((1, 2, 3)), mistakes, "one number for each of the 4 filters")
    passed("one sum of absolute values for each filter.")


@exercise(
    again="argsort the norms, drop the first `count`, sort the indices that remain; they select dimension 0 of "
    "the first weight and dimension 1 of the second.",
    read="The idea by hand",
)
def check_prune_pair(prune_pair: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]) -> None:
    """Check a learner's surgery on two layers, `prune_pair(weight, following, count) -> (weight, following)`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> check_prune_pair(lambda weight, following, count: (weight[:-count], following[:, :-count]))
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: The last filters were cut, whatever their norm.
    """
    generator = torch.Generator().manual_seed(1)
    one_large = torch.zeros(18)
    one_large[4] = 9.0
    alternating = torch.tensor([2.0, -2.0]).repeat(9)
    # L1 norms 18, 9, 36, 27, 14.4. By L2 norm or largest weight 0 and 4 would go, by sums without abs 1 and 2.
    rows = [torch.full((18,), 1.0), one_large, alternating, torch.full((18,), 1.5), torch.full((18,), 0.8)]
    weight = torch.stack(rows).reshape(5, 2, 3, 3)
    following = torch.randn(5, 5, 3, 3, generator=generator)
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
    keep, by_size = torch.tensor([0, 2, 3]), torch.tensor([0, 3, 2])
    largest_gone = torch.tensor([0, 1, 4])
    _compare(
        answer[0],
        weight[keep],
        {
            "The filters with the largest norms went. Remove the smallest.": weight[largest_gone],
            "The right filters stay, but sorted by norm. Sort the indices that stay.": weight[by_size],
            "These are the filters that go. Return those that stay.": weight[[1, 4]],
            "The last filters were cut, whatever their norm.": weight[:3],
            "These are ranked by the largest weight or by the L2 norm. Sum the magnitudes.": weight[
                [1, 2, 3]
            ],
            "The signs were kept in the sum, so large weights cancel. Take abs() first.": weight[[0, 3, 4]],
        },
        "the three filters that stay",
    )
    _compare(
        answer[1],
        following[:, keep],
        {
            "The next layer was not cut. Its kernels for the removed maps go too.": following,
            "The next layer lost filters. It loses kernels: index its dimension 1.": following[keep],
            "The next layer lost the kernels at its end. Remove those that read the removed maps.": following[
                :, :3
            ],
            "The next layer's kernels are in another order than the filters that they read.": following[
                :, by_size
            ],
        },
        "five filters of three kernels",
    )
    passed("the smallest filters go, and the kernels that read them.")


@exercise(
    again="Input i belongs to channel i // pixels. Go through all channels * pixels inputs and keep those whose "
    "channel stays.",
    read="The method",
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
    again="Go along the curve from the left, remember the last ratio, and leave the loop at the first accuracy "
    "below `least`.",
    read="Which layer can lose how much",
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
