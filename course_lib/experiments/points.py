"""Accuracy against cost: the points that every chapter's last plot starts from."""

import torch

from course_lib import checkpoints, cost

__all__ = ["starting_points"]

_NETWORKS = {
    "MLP": "glyphs-mlp",
    "VGG, half width": "glyphs-vgg-narrow",
    "MobileNet": "glyphs-mobilenet",
    "ResNet": "glyphs-resnet",
    "VGG": "glyphs-vgg",
}


def starting_points() -> dict[str, tuple[float, float]]:
    """Collect the networks of chapter 00, which nothing has compressed: {network: (MACs of an image, test accuracy)}.

    Example:
        >>> starting_points()["VGG"]
        (9512192.0, 0.954)
    """
    image = torch.zeros(1, 1, 16, 16)
    return {
        network: (
            float(cost.macs(checkpoints.load(name), image)),
            checkpoints.info(name)["metrics"]["test_accuracy"],
        )
        for network, name in _NETWORKS.items()
    }
