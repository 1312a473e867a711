"""Fit the work into a budget in minutes, from the time of one piece on this machine."""

import copy
from dataclasses import replace

import torch
from torch import nn

from course_lib import training
from course_lib.data import Dataset
from course_lib.training import Recipe
from course_lib.validation import check_count, check_number


def seconds_per_epoch(model: nn.Module, dataset: Dataset, recipe: Recipe, *, images: int = 2048) -> float:
    r"""Estimate the time of an epoch of `fit` on this machine, from a short run on a copy of the network.

    .. math:: t_\text{epoch} = t_\text{short} \, \frac{N_\text{train}}{N_\text{short}}

    Args:
        model: as in `fit`; it is not changed.
        dataset: as in `fit`; only its training split, of :math:`N_\text{train}` images, is used.
        recipe: as in `fit`; its epochs do not matter.
        images: :math:`N_\text{short}`, or the whole training split if that is smaller. A shorter run before, of four
            batches at most, warms up.

    Returns:
        Seconds, without validation.

    Raises:
        ValueError: as `fit`, or `images` is below 1.

    Example:
        >>> from course_lib.data import Split
        >>> split = Split(torch.zeros(8, 1, 1, 1, dtype=torch.uint8), torch.tensor([0, 1] * 4))
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
        >>> seconds_per_epoch(network, Dataset("none", split, split, split, ("a", "b")), Recipe()) > 0
        True
    """
    count = min(check_count(images, "images"), len(dataset.train))
    seconds = 0.0
    for part in (min(count, 4 * recipe.batch_size), count):
        short = replace(dataset, train=dataset.train.subset(torch.arange(part)))
        history = training.fit(copy.deepcopy(model), short, replace(recipe, epochs=1), validate=False)
        seconds = sum(history.seconds)
    return seconds * len(dataset.train) / count


def affordable(minutes: float, seconds: float, *, least: int = 1, most: int) -> int:
    r"""Count the pieces of work that fit into a budget, within bounds.

    .. math:: \min(\max(\lfloor 60 \, \text{minutes} / \text{seconds} \rfloor, \text{least}), \text{most})

    Args:
        minutes: the budget.
        seconds: time of one piece, as measured on this machine.
        least: pieces done in any case, even if the budget is too small for them.
        most: pieces wanted at full scale.

    Raises:
        TypeError: minutes or seconds is not a number, or a count not an integer.
        ValueError: minutes or seconds is not above 0, a count is below 1, or least is above most.

    Example:
        >>> affordable(minutes=2, seconds=50, most=10)
        2
    """
    check_number(minutes, "minutes", low=0, low_open=True)
    check_number(seconds, "seconds", low=0, low_open=True)
    check_count(most, "most")
    check_count(least, "least", high=most)
    return min(max(int(60 * minutes / seconds), least), most)
