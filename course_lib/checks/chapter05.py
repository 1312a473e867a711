"""Checks of the exercises of chapter 05, EagleEye."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from course_lib.checks import call, exercise, expect, passed


@exercise(
    again="generator.random(layers) is uniform in [0, 1). Stretch it by high - low and shift it by low.",
    read="What a strategy costs",
)
def check_draw_ratios(
    draw_ratios: Callable[[np.random.Generator, int, float, float], Sequence[float]],
) -> None:
    """Check a learner's random strategy, `draw_ratios(generator, layers, low, high) -> [layers]`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> check_draw_ratios(lambda generator, layers, low, high: [generator.uniform(low, high)] * layers)
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: The layers share their ratios. Draw one number for each layer.
    """
    layers, low, high = 4000, 0.3, 0.7
    generator = np.random.default_rng(0)
    first, second = (call(draw_ratios, generator, layers, low, high) for _ in range(2))
    try:
        drawn = np.asarray(first, dtype=float)
    except (TypeError, ValueError):
        drawn = np.empty(0)
    expect(
        drawn.shape == (layers,),
        f"Return {layers} numbers, one ratio for each layer; this has shape {list(drawn.shape)}.",
    )
    expect(
        not np.array_equal(drawn, np.asarray(second)),
        "Two calls give the same strategy. Draw from the generator that is passed in; a new one with a fixed seed "
        "starts anew each time.",
    )
    expect(
        len(np.unique(drawn)) > layers / 2,
        "The layers share their ratios. Draw one number for each layer.",
    )
    span = f"Your ratios run from {drawn.min():.2f} to {drawn.max():.2f}; they should fill [{low}, {high})."
    expect(
        drawn.max() < high + 0.2,
        f"{span} `low` is added to numbers that already run up to `high`: stretch them by high - low.",
    )
    expect(drawn.min() > low / 2, f"{span} `low` is not used, or is taken from the wrong end.")
    inside = low <= drawn.min() < low + 0.01 and high - 0.01 < drawn.max() <= high
    expect(inside, span)
    middle = (low + high) / 2
    expect(
        abs(drawn.mean() - middle) < 0.01 and abs(np.median(drawn) - middle) < 0.015,
        f"The ratios have mean {drawn.mean():.3f}; with every value as likely it is {middle}.",
    )
    passed("every layer has a ratio of its own, and no value is likelier than another.")


@exercise(
    again="For each batch batch.mean(dim=0) and batch.var(dim=0), which divides by N - 1. Then the plain mean "
    "of the means, and of the variances.",
    read="An average that takes too long",
)
def check_average_statistics(average_statistics: Callable[[list[Tensor]], tuple[Tensor, Tensor]]) -> None:
    """Check a learner's recalibration, `average_statistics(batches of [N, C]) -> (mean [C], variance [C])`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> check_average_statistics(lambda batches: (batches[-1].mean(0), batches[-1].var(0)))
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: This is the last batch alone. Average over all batches.
    """
    generator = torch.Generator().manual_seed(0)
    sizes, offsets = (4, 8, 3), (0.0, 1.0, 4.0)
    batches = [
        torch.randn(n, 2, generator=generator) + shift for n, shift in zip(sizes, offsets, strict=True)
    ]
    given = [batch.clone() for batch in batches]
    answer = call(average_statistics, batches)
    expect(
        isinstance(answer, Sequence)
        and len(answer) == 2
        and all(isinstance(part, Tensor) for part in answer),
        "Return two tensors: the means and the variances.",
    )
    expect(
        all(torch.equal(a, b) for a, b in zip(batches, given, strict=True)), "The batches given were changed."
    )
    mean, variance = answer
    expect(
        mean.shape == variance.shape == (2,),
        f"The results have shapes {list(mean.shape)} and {list(variance.shape)}; both must be [2], a number for each "
        "channel. Average over dimension 0.",
    )
    means, variances = torch.stack([b.mean(0) for b in batches]), torch.stack([b.var(0) for b in batches])
    pooled = torch.cat(batches)

    def close(found: Tensor, wanted: Tensor) -> bool:
        return torch.allclose(found.float(), wanted, atol=1e-5)

    expect(not close(mean, means[-1]), "This is the last batch alone. Average over all batches.")
    expect(not close(mean, means.sum(0)), "The means are added up. Divide by the number of batches.")
    expect(
        not close(mean, pooled.mean(0)),
        "Large batches count for more here. Batch norm's cumulative average counts each batch once.",
    )
    exponential = torch.zeros(2)
    for batch_mean in means:
        exponential = 0.9 * exponential + 0.1 * batch_mean
    expect(
        not close(mean, exponential),
        "This is the average with momentum 0.1. Give all batches the same weight.",
    )
    expect(
        close(mean, means.mean(0)), f"The means should be {_numbers(means.mean(0))}, not {_numbers(mean)}."
    )
    expect(
        not close(variance, torch.stack([b.var(0, correction=0) for b in batches]).mean(0)),
        "These variances divide by N. Batch norm keeps the unbiased one, which divides by N - 1.",
    )
    expect(
        not close(variance, pooled.var(0)),
        "This is the variance over all images together. Take it in each batch, then average.",
    )
    expect(
        not close(variance, torch.stack([b.std(0) for b in batches]).mean(0)),
        "These are standard deviations; batch norm keeps variances.",
    )
    expect(
        close(variance, variances.mean(0)),
        f"The variances should be {_numbers(variances.mean(0))}, not {_numbers(variance)}.",
    )
    passed("mean and unbiased variance of each batch, averaged with equal weight.")


@exercise(
    again="Each batch leaves (1 - momentum) of what was there before. After two batches it is (1 - momentum) * "
    "(1 - momentum).",
    read="An average that takes too long",
)
def check_inherited_share(inherited_share: Callable[[float, int], float]) -> None:
    """Check what a learner says is left of the old statistics, `inherited_share(momentum, batches) -> share`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> check_inherited_share(lambda momentum, batches: momentum**batches)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: inherited_share(...): Each batch keeps 1 - momentum of what was there, not momentum.
    """
    for momentum, batches in ((0.1, 5), (0.25, 3), (0.1, 1), (0.1, 0)):
        answer = float(call(inherited_share, momentum, batches))
        right = (1 - momentum) ** batches
        mistakes = {
            "That is the share of the new batches; the old statistics keep the rest.": 1 - right,
            "Each batch keeps 1 - momentum of what was there, not momentum.": momentum**batches,
            "Each batch takes a share of what is left then, not of the beginning: multiply, do not subtract.": 1
            - momentum * batches,
            "That is the average in which all count alike (momentum=None).": 1 / (batches + 1),
        }
        if abs(answer - right) > 1e-6:
            for hint, wrong in mistakes.items():
                expect(abs(answer - wrong) > 1e-6, f"inherited_share({momentum}, {batches}): {hint}")
            expect(False, f"inherited_share({momentum}, {batches}) gives {answer:g}; it should be {right:g}.")
    passed("after 5 batches with momentum 0.1, 59 % of the old statistics are still there.")


@exercise(
    again="Two loops, j below i. The sign of (scores[i] - scores[j]) * (outcomes[i] - outcomes[j]) says whether "
    "a pair agrees; take the mean of the signs.",
    read="Does the score foretell the outcome?",
)
def check_kendall(kendall: Callable[[Sequence[float], Sequence[float]], float]) -> None:
    """Check a learner's rank correlation, `kendall(scores, outcomes)`, for numbers without ties.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> check_kendall(lambda scores, outcomes: stats.pearsonr(scores, outcomes).statistic)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: kendall(...): That is Pearson's correlation of the values.
    """
    cases = [
        ([0.9, 0.1, 0.4, 0.3, 0.8], [0.9, 0.3, 0.1, 0.2, 0.8]),
        ([0.2, 0.5, 0.3, 0.9], [0.70, 0.60, 0.90, 0.95]),
        ([0.1, 0.2, 0.3], [0.9, 0.8, 0.7]),
    ]
    for scores, outcomes in cases:
        answer = float(call(kendall, list(scores), list(outcomes)))
        right = stats.kendalltau(scores, outcomes).statistic
        pairs = len(scores) * (len(scores) - 1) / 2
        shown = f"kendall({scores}, {outcomes})"
        mistakes = {
            "That is the share of pairs in the same order. Subtract those in the opposite order.": (right + 1)
            / 2,
            "Divide by the number of pairs, n (n - 1) / 2.": right * pairs,
            "Every pair counts once: divide by n (n - 1) / 2, or count both orders of a pair.": right / 2,
            "Twice as much: a pair is counted in both orders, so divide by n (n - 1).": right * 2,
            "The sign is turned: pairs in the same order count +1.": -right,
            "That is Pearson's correlation of the values.": stats.pearsonr(scores, outcomes).statistic,
            "That is Spearman's correlation, Pearson's of the ranks.": stats.spearmanr(
                scores, outcomes
            ).statistic,
        }
        if abs(answer - right) > 1e-6:
            for hint, wrong in mistakes.items():
                expect(abs(answer - wrong) > 1e-6, f"{shown}: {hint}")
            expect(False, f"{shown} gives {answer:g}; it should be {right:g}.")
    passed("pairs in the same order minus pairs in the opposite order, over all pairs.")


def _numbers(values: Tensor) -> str:
    return "[" + ", ".join(f"{value:.3f}" for value in values.tolist()) + "]"
