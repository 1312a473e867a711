"""Checks of the exercises of chapter 03, network slimming."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from course_lib import data, jobs, models, training
from course_lib.checks import call, exercise, expect, passed
from course_lib.data import Dataset, Split

_Plan = Mapping[str, Tensor]

UNSEEN_WHOLE = 0.986
"""Test accuracy of the network of the build task, whole and without a penalty: six epochs, mean of three seeds."""

_LETTERS, _MOST_CHANNELS, _MOST_LOST = "OSE", 0.3, 0.01


@exercise(
    again="What is the slope of |gamma| to the right of zero, and what to the left of it?",
    read="How scales get to zero",
)
def check_penalise(penalise: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """Check a learner's `penalise(gradient [C], gamma [C], strength) -> [C]`, the gradient with the penalty in it.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> check_penalise(lambda gradient, gamma, strength: gradient + strength * gamma.abs())
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: This adds |gamma| itself. The gradient of |gamma| is its sign.
    """
    gradient = torch.tensor([0.3, 0.2, -0.1, 0.05])
    gamma = torch.tensor([0.5, -0.4, 0.02, 0.0])
    strength = 0.01
    given = gradient.clone(), gamma.clone()
    answer = call(penalise, gradient, gamma, strength)
    expect(isinstance(answer, Tensor), f"The result is a {type(answer).__name__}; return a tensor.")
    expect(
        answer.shape == gamma.shape,
        f"The result has shape {list(answer.shape)}; it must be {list(gamma.shape)}, one number for each channel.",
    )
    expect(
        torch.equal(gradient, given[0]) and torch.equal(gamma, given[1]),
        "The tensors passed in were changed. Return a new one.",
    )
    decay = "This pulls in proportion to gamma: it is weight decay (L2), which reaches no zero. L1 pulls by the sign."
    mistakes = {
        "Two mistakes: the penalty has the wrong sign, and pulls in proportion to gamma (L2).": (
            gradient - strength * gamma
        ),
        "Two mistakes: the gradient of the loss is lost, and the pull is in proportion to gamma (L2).": (
            strength * gamma
        ),
        "Two mistakes: the gradient of the loss is lost, and the penalty has the wrong sign.": -strength
        * gamma.sign(),
        decay: gradient + strength * gamma,
        decay + " ": gradient + 2 * strength * gamma,
        "This adds |gamma| itself. The gradient of |gamma| is its sign.": gradient + strength * gamma.abs(),
        "The sign of gamma is missing: a negative gamma would be pushed away from zero.": gradient + strength,
        "The gradient of the loss is lost: add the penalty's to it.": strength * gamma.sign(),
        "The penalty has the wrong sign: the optimizer steps against the gradient, so this one makes |gamma| grow.": (
            gradient - strength * gamma.sign()
        ),
        "The strength is not used.": gradient + gamma.sign(),
        "The sign of the gradient was used; the penalty needs the sign of gamma.": (
            gradient + strength * gradient.sign()
        ),
        "The penalty is averaged over the channels. It is a sum, so each channel feels the whole strength.": (
            gradient + strength * gamma.sign() / len(gamma)
        ),
        "At gamma = 0 the sign is 0: a scale that has arrived at zero is left there. Use torch.sign.": (
            gradient + strength * torch.where(gamma < 0, -1.0, 1.0)
        ),
    }
    right = gradient + strength * gamma.sign()
    for hint, wrong in mistakes.items():
        expect(not torch.allclose(answer, wrong, atol=1e-7), hint.strip())
    expect(
        torch.allclose(answer, right, atol=1e-7),
        f"Not right yet: expected {_numbers(right)}, got {_numbers(answer)}.",
    )
    passed("every scale is pulled towards zero by the same amount, and the gradient of the loss stays.")


@exercise(
    again="Put the magnitudes of all layers into one list. How do you keep the best channel of each layer from being "
    "among the lowest there?",
    read="One threshold for all layers",
)
def check_global_plan(global_plan: Callable[[Mapping[str, Tensor], float], _Plan]) -> None:
    """Check a learner's `global_plan(scales {layer: gamma}, ratio) -> {layer: indices of the channels that go}`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> check_global_plan(lambda scales, ratio: {layer: gamma < 0.1 for layer, gamma in scales.items()})
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: The plan holds a mask of True and False. Return the indices of the channels that go.
    """
    plain = {
        "a": torch.tensor([0.9, 0.02, -0.8, 0.5]),
        "b": torch.tensor([0.01, 0.7, 0.03, -0.6, 0.04, 0.05]),
    }
    answer = _plan(call(global_plan, plain, 0.5), plain)
    kept = {name: sorted(set(range(len(gamma))) - set(answer[name])) for name, gamma in plain.items()}
    wanted = {"a": [1], "b": [0, 2, 4, 5]}
    expect(
        kept != wanted, "These are the channels that stay, the largest. Return those that go, the smallest."
    )
    expect(
        answer != {"a": [1, 3], "b": [0, 2, 4]},
        "Half of each layer goes: every layer has a threshold of its own. Rank the channels of all layers in one list.",
    )
    expect(
        answer != {"a": [1, 2], "b": [0, 2, 3]},
        "A negative gamma counts as the smallest here. What scales a channel is |gamma|.",
    )
    expect(
        answer != {"a": [1, 3], "b": [0, 2, 4, 5]},
        "One channel too many goes: the threshold itself is removed too. Exactly round(ratio * channels) go.",
    )
    _expect_plan(answer, wanted)

    tied = {"a": torch.tensor([0.5, 0.1, 0.1]), "b": torch.tensor([0.1, 0.1, 0.5])}
    answer = _plan(call(global_plan, tied, 0.5), tied)
    count = sum(len(indices) for indices in answer.values())
    expect(
        count == 3,
        f"Of six channels, four of them equal, {count} go at ratio 0.5; three should. A comparison with a threshold "
        "takes all ties or none: count instead.",
    )
    expect(
        answer == {"a": [1, 2], "b": [0]},
        f"The right number goes, but {answer} and not {{'a': [1, 2], 'b': [0]}}. Of equal scales the one of the "
        "earlier layer goes first, and then the lower index: sort with stable=True.",
    )

    thin = {"a": torch.tensor([0.01, 0.02]), "b": torch.tensor([0.5, 0.9, 0.7, 0.8])}
    answer = _plan(call(global_plan, thin, 0.5), thin)
    expect(
        len(answer["a"]) < 2,
        "Both channels of a thin layer go, and the network is cut in two. The best channel of each layer must stay.",
    )
    expect(
        answer != {"a": [0], "b": [0]},
        "A layer is kept alive, but now fewer channels go than asked for. The next one in the list goes instead.",
    )
    _expect_plan(answer, {"a": [0], "b": [0, 2]})
    third = _plan(call(global_plan, plain, 0.28), plain)
    expect(
        third == {"a": [1], "b": [0, 2]},
        f"At ratio 0.28 of 10 channels {sum(map(len, third.values()))} go; round(0.28 * 10) is 3: "
        "round, do not cut off.",
    )
    empty = _plan(call(global_plan, plain, 0.0), plain)
    expect(not any(empty.values()), "At ratio 0 nothing may go.")
    passed("one list for all layers, exactly as many channels as asked for, and no layer vanishes.")


@exercise(
    again="Begin with one removed channel: which number does it say at every place, and how many weights of an output "
    "channel meet it?",
    read="What a batch norm does to a channel",
)
def check_left_behind(left_behind: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """Check a learner's `left_behind(beta [C_in], next_weight [C_out, C_in, k, k], removed [n]) -> [C_out]`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> check_left_behind(lambda beta, next_weight, removed: next_weight[:, removed].sum((1, 2, 3)))
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: beta is not used: the constant of a channel is ReLU(beta), not 1.
    """
    beta = torch.tensor([0.4, -0.3, 0.2, 0.1])
    weight = torch.linspace(-1, 1, 3 * 4 * 2 * 2).reshape(3, 4, 2, 2)
    removed = torch.tensor([0, 1, 2])
    answer = call(left_behind, beta.clone(), weight.clone(), removed.clone())
    expect(isinstance(answer, Tensor), f"The result is a {type(answer).__name__}; return a tensor.")
    constant = beta.relu()
    hints = {
        "Two mistakes: the ReLU is missing, and all channels are in it instead of the removed ones.": torch.einsum(
            "oikl,i->o", weight, beta
        ),
        "Two mistakes: the ReLU is missing, and the sum over the places of the kernel is a mean.": torch.einsum(
            "oikl,i->o", weight[:, removed], beta[removed]
        )
        / 4,
        "The ReLU is missing: a channel with a negative beta hands on zero.": (
            torch.einsum("oikl,i->o", weight[:, removed], beta[removed])
        ),
        "All channels are in it. Only the removed ones leave something behind.": torch.einsum(
            "oikl,i->o", weight, constant
        ),
        "These are the channels that stay. The removed ones leave something behind.": torch.einsum(
            "oikl,i->o", weight[:, 3:], constant[3:]
        ),
        "The sum over the places of the kernel is missing; this is their mean.": torch.einsum(
            "oikl,i->o", weight[:, removed], constant[removed]
        )
        / 4,
        "beta is not used: the constant of a channel is ReLU(beta), not 1.": weight[:, removed].sum(
            (1, 2, 3)
        ),
    }
    right = torch.einsum("oikl,i->o", weight[:, removed], constant[removed])
    expect(
        answer.shape == right.shape,
        f"The result has shape {list(answer.shape)}; it must be {list(right.shape)}, one number for each output "
        "channel of the next convolution: sum over input channels and both axes of the kernel.",
    )
    for hint, wrong in hints.items():
        expect(not torch.allclose(answer, wrong, atol=1e-6), hint)
    expect(
        torch.allclose(answer, right, atol=1e-6),
        f"Not right yet: expected {_numbers(right)}, got {_numbers(answer)}.",
    )
    others = torch.tensor([3, 1])
    right = torch.einsum("oikl,i->o", weight[:, others], constant[others])
    expect(
        torch.allclose(call(left_behind, beta, weight, others), right, atol=1e-6),
        "It is right for removed = [0, 1, 2] and wrong for [3, 1]. Index with `removed`, not with fixed places.",
    )
    passed("a silent channel still hands on ReLU(beta), and you know how much the next layer misses.")


def unseen(seed: int = 0) -> tuple[nn.Module, Dataset]:
    """Make the network of the build task, untrained, and its data: three letters of the glyphs.

    Example:
        >>> network, dataset = unseen()
        >>> len(dataset.train), dataset.classes
        (3000, ('O', 'S', 'E'))
    """
    glyphs = data.load_dataset("glyphs")
    letters = torch.tensor([glyphs.classes.index(letter) for letter in _LETTERS])

    def part(split: Split) -> Split:
        chosen = split.subset(torch.isin(split.labels, letters).nonzero().flatten())
        return Split(chosen.images, torch.searchsorted(letters, chosen.labels))

    parts = {name: part(getattr(glyphs, name)) for name in ("train", "validation", "test")}
    network = models.build("vgg", widths=[16, "M", 64, "M", 64, 64], gamma=0.5, classes=3, seed=seed)
    return network, replace(glyphs, name="three letters", classes=tuple(_LETTERS), **parts)


@exercise(
    again="Choose the recipe first: epochs, batch size, learning rate. Which strength reaches some times the 0.5 "
    "at which gamma starts? Train with it and count the silent channels before you cut.",
    read="How far can the penalty pull?",
)
def check_slim_unseen(slim_unseen: Callable[[nn.Module, Dataset], nn.Module]) -> None:
    """Check a learner's `slim_unseen(network, dataset) -> network` by its channels and its accuracy on test images.

    Raises:
        NotYet: the answer is not right; the message says how far it is from the target.

    Example:
        >>> check_slim_unseen(lambda network, dataset: network)
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: 208 of 208 channels are left; at most 62 may be (30 %). Remove them, do not zero them.
    """
    network, dataset = unseen()
    hidden = replace(dataset, test=dataset.validation)  # the test images judge, and are not handed out
    answer = call(slim_unseen, network, hidden)
    expect(isinstance(answer, nn.Module), f"The result is a {type(answer).__name__}; return the network.")
    whole, left = _channels(unseen()[0]), _channels(answer)
    most = whole - round((1 - _MOST_CHANNELS) * whole)
    expect(
        left <= most,
        f"{left} of {whole} channels are left; at most {most} may be (30 %). Remove them, do not zero them.",
    )
    reached = jobs.on_one_thread(training.evaluate, answer, dataset.test)
    target = UNSEEN_WHOLE - _MOST_LOST
    expect(
        reached > 0.6,
        f"{reached:.1%} of the test images: the cut has nearly emptied a layer, or nothing was trained. Are there "
        "silent channels before the cut? If not, the reach is too small. And fine-tune after it.",
    )
    expect(
        reached > target,
        f"{reached:.1%} of the test images; the target is more than {target:.1%}. Too weak a penalty leaves too few "
        "silent channels, too strong a one costs accuracy before the cut. Fine-tune for some epochs after it.",
    )
    passed("your network has at most 30 % of its channels and loses less than one point.")


def _channels(network: nn.Module) -> int:
    return sum(layer.out_channels for layer in network.modules() if isinstance(layer, nn.Conv2d))


def _plan(answer: object, scales: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """Read the answer as sorted lists, one for each layer; a layer that is left out loses nothing."""
    expect(
        isinstance(answer, Mapping),
        f"The plan is a {type(answer).__name__}; return a dict {{layer: indices}}.",
    )
    unknown = [name for name in answer if name not in scales]
    expect(not unknown, f"The plan names {unknown}; the layers are {list(scales)}.")
    plan = {}
    for name, gamma in scales.items():
        indices = torch.as_tensor(answer.get(name, []))
        expect(
            indices.dtype != torch.bool,
            "The plan holds a mask of True and False. Return the indices of the channels that go.",
        )
        plan[name] = sorted(int(index) for index in indices.flatten())
        expect(
            all(0 <= index < len(gamma) for index in plan[name]),
            f"{name!r} has {len(gamma)} channels, and the plan names {plan[name]}. Count from the start of each layer.",
        )
    return plan


def _expect_plan(answer: dict[str, list[int]], wanted: dict[str, list[int]]) -> None:
    expect(answer == wanted, f"Not right yet: {answer} goes; it should be {wanted}.")


def _numbers(tensor: Tensor) -> str:
    return str([round(value, 4) for value in tensor.tolist()])
