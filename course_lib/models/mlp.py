"""Fully connected networks."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from course_lib.validation import check_count


def mlp(
    in_channels: int = 1, image_size: int = 16, hidden: Sequence[int] = (128,), classes: int = 10
) -> nn.Sequential:
    """Linear layers with ReLU between them; `mlp(image_size=28)` is the 784-128-10 network of many tutorials.

    Args:
        in_channels: C of the images.
        image_size: H and W of the images.
        hidden: the widths of the hidden layers, from the image to the logits.
        classes: number of classes, K.

    Raises:
        TypeError: a size is not an int.
        ValueError: a size is below 1.

    Example:
        >>> [layer.weight.shape for layer in mlp(image_size=28) if isinstance(layer, nn.Linear)]
        [torch.Size([128, 784]), torch.Size([10, 128])]
    """
    widths = [in_channels * check_count(image_size, "image_size") ** 2, *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for width, next_width in pairwise(widths):
        layers += [nn.Linear(width, check_count(next_width, "hidden width")), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], check_count(classes, "classes")))
