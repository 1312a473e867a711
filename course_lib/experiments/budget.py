"""What fits into a budget in minutes, from what a piece of the work takes on this machine."""

import copy
from dataclasses import replace

import torch
from torch import nn

from course_lib import training
from course_lib.data import Dataset
from course_lib.training import Recipe
from course_lib.validation import check_count, check_number


def seconds_per_epoch(model: nn.Module, dataset: Dataset, recipe: Recipe, *, images: int = 2048) -> float:
    """About how long an epoch of `fit` takes here, from a short run on a copy of the network.

        epoch = (time of the short run) * (images of the training split) / (images of the short run)

    Args:
        model: as in `fit`; it is not changed.
        dataset: as in `fit`; only its training split is used.
        recipe: as in `fit`; its epochs do not matter.
        images: of the short run, at most; a shorter one before it warms up.

    Returns:
        Seconds, without validation.

    Raises:
        ValueError: as `fit`, or `images` below 1.
    """
    count = min(check_count(images, "images"), len(dataset.train))
    seconds = 0.0
    for part in (min(count, 4 * recipe.batch_size), count):
        short = replace(dataset, train=dataset.train.subset(torch.arange(part)))
        history = training.fit(copy.deepcopy(model), short, replace(recipe, epochs=1), validate=False)
        seconds = sum(history.seconds)
    return seconds * len(dataset.train) / count


def affordable(minutes: float, seconds: float, *, least: int = 1, most: int) -> int:
    """How many pieces of work fit into a budget: floor(60 * minutes / seconds), but within [least, most].

    Args:
        minutes: the budget.
        seconds: of one piece, as measured on this machine.
        least: what is done in any case, though the budget be too small for it.
        most: what is wanted at full scale.

    Raises:
        TypeError, ValueError: minutes or seconds that are not above 0, counts below 1, or least above most.
    """
    check_number(minutes, "minutes", low=0, low_open=True)
    check_number(seconds, "seconds", low=0, low_open=True)
    check_count(most, "most")
    check_count(least, "least", high=most)
    return min(max(int(60 * minutes / seconds), least), most)
