"""Random shifts and mirror images of a batch, so that a network sees each image in many places."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from course_lib.validation import check_choice

AUGMENTATIONS = ("none", "shift", "shift_flip")


def augment(
    images: Float[Tensor, "N C H W"], kind: str, generator: torch.Generator
) -> Float[Tensor, "N C H W"]:
    """Shift (and mirror) each image of a batch by a random amount of its own, in a few tensor operations.

    Args:
        images: float [N, C, H, W].
        kind: "none"; "shift" (up or down by at most an eighth of the height, left or right by at most an eighth of the
            width, rounded down, or one pixel where that is less; every whole number of pixels is as likely, and zeros
            enter); "shift_flip" (and mirrored, left to right, half of the time).
        generator: a CPU generator; the same state gives the same result on every device.

    Returns:
        A new tensor of the same shape; `images` itself if `kind` is "none".

    Raises:
        ValueError: `kind` is unknown; the message names the nearest.

    Example:
        >>> moved = augment(torch.ones(2, 1, 8, 16), "shift", torch.Generator().manual_seed(0))
        >>> moved.shape, moved.unique()
        (torch.Size([2, 1, 8, 16]), tensor([0., 1.]))
    """
    if check_choice(kind, "augment", AUGMENTATIONS) == "none":
        return images
    count, channels, height, width = images.shape
    reaches = max(1, height // 8), max(1, width // 8)
    padded = F.pad(images, (reaches[1], reaches[1], reaches[0], reaches[0]))
    down, right = (
        torch.randint(0, 2 * reach + 1, (count,), generator=generator).to(images.device) for reach in reaches
    )
    rows = down[:, None] + torch.arange(height, device=images.device)  # [N, H]
    columns = right[:, None] + torch.arange(width, device=images.device)  # [N, W]
    if kind == "shift_flip":
        mirrored = torch.rand(count, generator=generator).to(images.device) < 0.5
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    which = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    return padded[which, channel, rows[:, None, :, None], columns[:, None, None, :]]
