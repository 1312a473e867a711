"""The form of a data set: three splits of byte images in memory, and one mapping from bytes to numbers."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

_VALIDATION_SEED = 20_240_502


class DatasetError(RuntimeError):
    """A data file is absent, truncated or corrupted; the message names it and says what to do."""


@dataclass(frozen=True)
class Split:
    """Images with their labels.

    Args:
        images: uint8 [N, C, H, W], 0 to 255.
        labels: int64 [N], class indices.

    Raises:
        TypeError: the dtypes are others.
        ValueError: the shapes are others, or there are not as many labels as images.

    Example:
        >>> split = Split(torch.zeros(3, 1, 16, 16, dtype=torch.uint8), torch.tensor([7, 8, 9]))
        >>> len(split), split.subset(torch.tensor([2, 0])).labels
        (3, tensor([9, 7]))
    """

    images: UInt8[Tensor, "N C H W"]
    labels: Int64[Tensor, "N"]

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.labels.dtype != torch.int64:
            raise TypeError(
                f"images are {self.images.dtype} and labels {self.labels.dtype}; a Split holds uint8 images (0 to "
                "255) and int64 labels."
            )
        if self.images.ndim != 4 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"images have shape {list(self.images.shape)} and labels {list(self.labels.shape)}; a Split holds "
                "images [N, C, H, W] and labels [N]."
            )

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, indices: Tensor) -> "Split":
        """Select the images and labels at `indices` (int64 [M] or bool [N]), in that order."""
        return Split(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class Dataset:
    """A named data set: train to learn from, validation to choose with, test to report.

    `validation` is cut from the original training images with a fixed seed; no image stands in two splits.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]


def cut_validation(whole: Split, count: int) -> tuple[Split, Split]:
    """Cut `count` images off a training set: (the rest, the validation split), each in the original order.

    The choice depends on nothing but the number of images and a fixed seed.

    Example:
        >>> whole = Split(torch.zeros(20, 1, 16, 16, dtype=torch.uint8), torch.arange(20))
        >>> cut_validation(whole, 5)[1].labels
        tensor([ 4, 10, 12, 14, 18])
    """
    order = np.random.default_rng(_VALIDATION_SEED).permutation(len(whole))
    chosen, rest = np.sort(order[:count]), np.sort(order[count:])
    return whole.subset(torch.from_numpy(rest)), whole.subset(torch.from_numpy(chosen))


def to_float(images: UInt8[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
    """Map bytes to numbers, the same way for every data set: x / 255.

    Args:
        images: uint8 [N, C, H, W].

    Returns:
        float32 [N, C, H, W] in [0, 1].

    Raises:
        TypeError: the images are not bytes (dividing twice by 255 is a classic bug).

    Example:
        >>> to_float(torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 1, 1, 3))
        tensor([[[[0.0000, 0.2000, 1.0000]]]])
    """
    if images.dtype != torch.uint8:
        raise TypeError(
            f"images have dtype {images.dtype}; to_float takes uint8 images, and takes them once."
        )
    return images.float().div_(255)
