"""What the experiments of several chapters share: the glyphs, cut to a scale, and how a network is judged."""

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from course_lib import data, training
from course_lib.data import Dataset, Split, to_float
from course_lib.experiments.experiment import Scale

__all__ = ["cut", "drawn", "example_of", "glyphs", "judged"]


@functools.cache
def glyphs() -> Dataset:
    """Read the glyphs once in each process."""
    return data.load_dataset("glyphs")


def cut(dataset: Dataset, scale: Scale) -> Dataset:
    """Take as much of each split as the scale says."""
    return replace(
        dataset, **{part: scale.cut(getattr(dataset, part)) for part in ("train", "validation", "test")}
    )


def drawn(split: Split, count: int, seed: int = 0) -> Split:
    """Draw `count` images of a split at random, or take all if it has fewer."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(split)))
    return split.subset(order[:count])


def example_of(dataset: Dataset) -> Tensor:
    """One image, to follow the channels with."""
    return to_float(dataset.test.images[:1])


def judged(student: nn.Module, dataset: Dataset) -> dict[str, Any]:
    """Accuracy on validation images, to choose with, and on test images, whole and in 20 parts, to report."""
    right = (training.predict(student, dataset.test.images).argmax(1) == dataset.test.labels).double()
    parts = [part.mean().item() for part in right.chunk(20)]
    return {
        "validation": training.evaluate(student, dataset.validation),
        "test": right.mean().item(),
        "test_parts": [round(part, 6) for part in parts],
    }
