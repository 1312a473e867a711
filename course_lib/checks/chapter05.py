"""Checks of the exercises of chapter 05, EagleEye."""

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from course_lib.checks import NotYet, call, exercise, expect, judge, passed
from course_lib.checks.bench import JUDGEMENTS, MOST_MACS, Judge
from course_lib.pruning.recalibration import recalibrate_batch_norm


@exercise(
    again="Write down what is left after 1, 2 and 3 batches. When does it first fall to `share`?",
    read="An average that takes too long",
)
def check_batches_needed(batches_needed: Callable[[float, float], int]) -> None:
    """Check how many batches a learner says are needed, `batches_needed(momentum, share) -> count`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake, or two that come together.

    Example:
        >>> check_batches_needed(lambda momentum, share: int(math.log(share) / math.log(1 - momentum)))
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: Rounded down: after that many batches more than `share` is still left.
    """

    def exact(momentum: float, share: float) -> float:
        return math.log(share) / math.log(1 - momentum)

    def up(number: float) -> int:
        return max(0, math.ceil(number - 1e-9))

    def down(number: float) -> int:
        return int(number + 1e-9)

    cases = [(0.1, 0.5), (0.1, 0.01), (0.3, 0.2), (0.05, 0.35), (0.5, 0.25), (0.2, 1.0)]
    kept = "Each batch keeps 1 - momentum of what was there, not momentum."
    new = "That is when the new batches make up `share`. The old statistics are asked for."
    linear = (
        "Each batch takes its part of what is left then, not of the beginning: it is a power, not a product."
    )
    rounded = "Rounded down: after that many batches more than `share` is still left."

    def with_momentum(momentum: float, share: float) -> float:
        return math.log(share) / math.log(momentum)

    def of_new(momentum: float, share: float) -> float:
        return math.log(1 - share) / math.log(1 - momentum) if share < 1 else math.inf

    def as_product(momentum: float, share: float) -> float:
        return (1 - share) / momentum

    ways = [("", exact), (kept, with_momentum), (new, of_new), (linear, as_product)]
    mistakes = []
    for hint, way in ways:
        for rounding, also in ((up, ""), (down, rounded), (round, "Rounded to the nearest: " + rounded[14:])):
            if hint or also:
                name = " And: ".join(filter(None, (hint, also)))
                mistakes.append((_counted(way, rounding), name))
    mistakes.append((lambda momentum, share: up(exact(momentum, share)) + 1, "One batch too many."))
    judge(
        batches_needed,
        [{"momentum": momentum, "share": share} for momentum, share in cases],
        lambda momentum, share: up(exact(momentum, share)),
        mistakes,
    )
    passed("the smallest number of batches that leaves at most that share of the old statistics.")


def _counted(way: Callable[..., float], rounding: Callable[[float], int]) -> Callable[..., int]:
    def count(momentum: float, share: float) -> int:
        number = way(momentum, share)
        return rounding(number) if math.isfinite(number) else -1

    return count


@exercise(
    again="Take the first batch norm alone: which tensor arrives there, and over which three of its four dimensions "
    "are mean and variance taken?",
    read="Recalibration",
)
def check_recalibrate_layers(recalibrate_layers: Callable[[nn.Sequential, Tensor], Tensor]) -> None:
    """Check a learner's recalibration layer by layer, `recalibrate_layers(network, images) -> what comes out`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake, or two that come together.

    Example:
        >>> check_recalibrate_layers(lambda network, images: network(images))
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: The running statistics are still the old ones. Set running_mean and running_var.
    """
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)) + 1
    network, right = _small_network(), _small_network()
    recalibrate_batch_norm(right, [images])
    weights = [value.clone() for value in network.parameters()]
    try:
        out = call(recalibrate_layers, network, images)
    except NotYet:
        _check_shapes(_norms(network))  # PyTorch raises where a statistic has another shape
        raise
    changed = any(not torch.equal(now, then) for now, then in zip(network.parameters(), weights, strict=True))
    expect(not changed, "A weight has changed. Only running_mean and running_var may.")
    found, wanted, old = _norms(network), _norms(right), _norms(_small_network())
    if all(torch.equal(now.running_mean, then.running_mean) for now, then in zip(found, old, strict=True)):
        raise NotYet("The running statistics are still the old ones. Set running_mean and running_var.")
    _check_shapes(found)
    hints = _mistakes_of_first(found[0], wanted[0]) + _mistakes_of_second(found[1], wanted[1], images)
    expect(not hints, " And: ".join(hints))
    expect(
        isinstance(out, Tensor)
        and out.shape == right(images).shape
        and torch.allclose(out, right(images), rtol=0.02, atol=0.02),
        "The statistics are right; what you return is not what comes out of the last layer.",
    )
    passed("each batch norm has the mean and the variance of what arrives there.")


def _check_shapes(norms: Sequence[Any]) -> None:
    for place, norm in enumerate(norms, start=1):
        for name in ("running_mean", "running_var"):
            shape = list(getattr(norm, name).shape)
            expect(
                shape == [norm.num_features],
                f"{name} of batch norm {place} has shape {shape}; it must be [{norm.num_features}], a number for each "
                "channel: take it over images, rows and columns, dim=(0, 2, 3).",
            )


def _small_network() -> nn.Sequential:
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
    ).eval()
    torch.random.set_rng_state(torch_state)
    with torch.no_grad():
        for norm in _norms(network):
            norm.running_mean += torch.arange(norm.num_features)
            norm.running_var *= 4.0
            norm.weight.mul_(torch.linspace(0.5, 1.5, norm.num_features))
            norm.bias.add_(0.2)
    return network


def _norms(network: nn.Module) -> list[Any]:
    return [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]


def _mistakes_of_first(found: Any, wanted: Any) -> list[str]:
    """What the first batch norm says: its input does not depend on any statistics."""
    hints = []
    if not torch.allclose(found.running_mean, wanted.running_mean, atol=1e-4):
        hints.append("The mean of the first batch norm is not that of what the first convolution gives.")
    count = 6 * 6 * 6
    if torch.allclose(found.running_var, wanted.running_var.sqrt(), rtol=1e-4):
        hints.append("running_var holds standard deviations. It must hold variances.")
    elif torch.allclose(found.running_var, wanted.running_var * (count - 1) / count, rtol=1e-5):
        hints.append(
            "The variance divides by N. Batch norm keeps the one that divides by N - 1: x.var(dim=...)."
        )
    elif not torch.allclose(found.running_var, wanted.running_var, rtol=1e-4):
        hints.append("The variance of the first batch norm is not that of what the first convolution gives.")
    return hints


def _mistakes_of_second(found: Any, wanted: Any, images: Tensor) -> list[str]:
    """What the second batch norm says of how its input was made."""
    if torch.allclose(found.running_mean, wanted.running_mean, rtol=0.02, atol=0.02):
        return []
    first, norm, relu, second, *_ = _small_network()
    with torch.no_grad():
        x = first(images)
        inputs = {
            "The second batch norm was measured behind the old first one: replace those, then pass x on.": relu(
                norm(x)
            ),
            "The first batch norm is left out: it must normalise x before x goes on.": relu(x),
            "The first batch norm passes x on without its weight and bias.": relu(
                nn.functional.batch_norm(x, None, None, training=True)
            ),
        }
        for hint, arrives in inputs.items():
            if torch.allclose(second(arrives).mean((0, 2, 3)), found.running_mean, rtol=0.02, atol=0.02):
                return [hint]
    return ["The mean of the second batch norm is not that of what arrives there."]


@exercise(
    again="Find the place of the candidate that the search would take. Its outcome is one of two numbers you need.",
    read="Does the score foretell the outcome?",
)
def check_regret(regret: Callable[[Sequence[float], Sequence[float]], float]) -> None:
    """Check a learner's regret of the pick, `regret(scores, outcomes) -> what was given away`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> check_regret(lambda scores, outcomes: max(outcomes) - max(scores))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: regret(...): Score and outcome are mixed: both numbers must be outcomes.
    """
    cases = [
        ([0.9, 0.2, 0.4, 0.3], [0.80, 0.95, 0.60, 0.71]),
        ([0.2, 0.5, 0.3, 0.4], [0.70, 0.90, 0.65, 0.95]),
        ([0.3, 0.2, 0.1], [0.9, 0.8, 0.7]),
    ]
    for scores, outcomes in cases:
        answer = call(regret, list(scores), list(outcomes))
        fits = isinstance(answer, Real) and math.isfinite(answer)
        expect(fits, f"regret returned {answer!r:.60}; it must be a finite number.")
        best, picked = max(outcomes), outcomes[int(np.argmax(scores))]
        mistakes = {
            "That is the outcome of the pick. Subtract it from the best outcome.": picked,
            "The sign is turned: the best outcome minus that of the pick is never below zero.": picked - best,
            "Score and outcome are mixed: both numbers must be outcomes.": best - max(scores),
            "The pick is the candidate with the highest score, not the lowest.": best
            - outcomes[int(np.argmin(scores))],
            "These are scores. The search is paid in outcomes.": max(scores)
            - scores[int(np.argmax(outcomes))],
            "That is the rank of the pick. The regret is in the unit of the outcomes.": sum(
                outcome > picked for outcome in outcomes
            ),
            "That is the distance to the mean outcome. Compare with the best one.": best
            - float(np.mean(outcomes)),
        }
        if abs(answer - (best - picked)) > 1e-9:
            shown = f"regret({scores}, {outcomes})"
            for hint, wrong in mistakes.items():
                expect(abs(answer - wrong) > 1e-9, f"{shown}: {hint}")
            expect(False, f"{shown} gives {answer:g}; it should be {best - picked:g}.")
    passed("the best outcome of the pool minus the outcome of the candidate with the highest score.")


_LEAD = 0.05  # in points above the uniform strategy, that a search to be built has to find


@exercise(
    again="Begin with the uniform strategy and one neighbour of it: every ratio moved a little, and the MACs still "
    "within the budget. Judge both. Which of the two do you go on from?",
    read="Build a better search",
)
def check_my_search(my_search: Callable[[Judge, np.random.Generator], Mapping[str, float]]) -> None:
    """Check a learner's search, `my_search(judge, generator) -> {layer: ratio}`, on the chapter's VGG.

    Raises:
        NotYet: it judges too often, costs too much, or does not find a strategy that beats the uniform one by enough.

    Example:
        >>> check_my_search(lambda judge, generator: dict.fromkeys(judge.layers, 0.3))
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: Your strategy leaves 48.3 % of the MACs; at most 35.5 % may be left.
    """
    judging = Judge()
    ratios = call(my_search, judging, np.random.default_rng(0))
    expect(not isinstance(ratios, Real), f"my_search returned {ratios!r}, a score. Return the ratios.")
    judging.check(ratios)
    left = judging.share(ratios)
    expect(
        left <= MOST_MACS,
        f"Your strategy leaves {100 * left:.1f} % of the MACs; at most {100 * MOST_MACS:.1f} % may be left.",
    )
    reached, target = judging.score(ratios), judging.score(judging.uniform) + _LEAD
    if reached < target:
        told = f"Your strategy scores {100 * reached:.1f} %; {100 * target:.1f} % are wanted."
        best = judging.best[0]
        expect(best < target, f"{told} You judged one with {100 * best:.1f} %: return the best that you saw.")
        count = judging.count
        expect(count > JUDGEMENTS // 2, f"{told} You judged {count} candidates; {JUDGEMENTS} are allowed.")
        expect(False, f"{told} New random strategies find little more. Look near the best one so far.")
    passed("your search beats the uniform strategy by at least 5 points, at no more MACs.")
