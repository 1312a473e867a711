"""What the experiments of several chapters share: the glyphs, cut to a scale, and how a network is judged."""

import functools
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from course_lib import data, training
from course_lib.data import Dataset, Split, to_float
from course_lib.experiments.experiment import Scale

__all__ = ["cut", "drawn", "example_of", "glyphs", "judged", "photographs"]


class Shared(NamedTuple):
    """What the runs of an experiment on given networks share; chapters that need more have a class of their own.

    Attributes:
        dataset: to calibrate, tune and judge with.
        networks: {(network, seed): trained, whole}.
        scale: how much is done.
        facts: for the record.
    """

    dataset: Dataset
    networks: dict[tuple[str, int], nn.Module]
    scale: Scale
    facts: dict[str, Any]


@functools.cache
def glyphs() -> Dataset:
    """Read the glyphs once in each process.

    Example:
        >>> len(glyphs().train), glyphs() is glyphs()
        (10000, True)
    """
    return data.load_dataset("glyphs")


def cut(dataset: Dataset, scale: Scale) -> Dataset:
    """Take as much of each split as the scale says.

    Example:
        >>> len(cut(glyphs(), Scale(images=64)).test)
        64
    """
    return replace(
        dataset, **{part: scale.cut(getattr(dataset, part)) for part in ("train", "validation", "test")}
    )


def drawn(split: Split, count: int, seed: int = 0) -> Split:
    """Draw `count` images of a split at random, or take all if it has fewer.

    Example:
        >>> len(drawn(glyphs().validation, 500)), len(drawn(glyphs().validation, 5000))
        (500, 2000)
    """
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(split)))
    return split.subset(order[:count])


def example_of(dataset: Dataset) -> Tensor:
    """One image, to follow the channels with.

    Example:
        >>> example_of(glyphs()).shape
        torch.Size([1, 1, 16, 16])
    """
    return to_float(dataset.test.images[:1])


def judged(student: nn.Module, dataset: Dataset) -> dict[str, Any]:
    """Accuracy on validation images, to choose with, and on test images, whole and in 20 parts, to report.

    Example:
        >>> always_first = nn.Sequential(nn.Flatten(), nn.Linear(256, 10))
        >>> _ = nn.init.zeros_(always_first[1].weight), nn.init.zeros_(always_first[1].bias)
        >>> found = judged(always_first, glyphs())
        >>> round(found["test"], 3), len(found["test_parts"])
        (0.1, 20)
    """
    right = (training.predict(student, dataset.test.images).argmax(1) == dataset.test.labels).double()
    parts = [part.mean().item() for part in right.chunk(20)]
    return {
        "validation": training.evaluate(student, dataset.validation),
        "test": right.mean().item(),
        "test_parts": [round(part, 6) for part in parts],
    }


def photographs(scale: Scale) -> Dataset:
    """Read CIFAR-10; a test, which has no photographs, gets noise of their shape.

    Example:
        >>> photographs(Scale(images=64)).test.images.shape
        torch.Size([64, 3, 32, 32])
    """
    if scale.images is None:
        return data.load_dataset("cifar10")
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (scale.images, 3, 32, 32), generator=generator).to(torch.uint8)
    split = Split(images, torch.arange(scale.images) % 10)
    return Dataset("noise", split, split, split, tuple("abcdefghij"))
