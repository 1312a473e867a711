"""Studies of chapter 00: networks for ImageNet, and the course's networks on other images."""

from dataclasses import dataclass, replace

import torch
import torchvision
from torch import Tensor, nn

from course_lib import checkpoints, cost, models, training
from course_lib.cost import Cost, Latency
from course_lib.data import Dataset
from course_lib.experiments.budget import affordable, seconds_per_epoch
from course_lib.experiments.chapter00 import kept_for_training, layer_costs
from course_lib.training import Recipe

__all__ = ["IMAGENET", "Large", "large", "trained"]

IMAGENET = {"VGG-16": "vgg16", "ResNet-18": "resnet18", "MobileNetV2": "mobilenet_v2"}
"""Networks of torchvision, under the names that a page shows."""


@dataclass(frozen=True)
class Large:
    """What a large network costs.

    Attributes:
        cost: counted.
        latency: on one thread.
        kept: bytes of activations that wait for a backward pass.
        layers: parameters and MACs of each convolution and linear layer.
    """

    cost: Cost
    latency: Latency
    kept: int
    layers: list[dict]


def large(title: str, photo: Tensor, *, min_seconds: float = 0.1) -> Large:
    """Measure a network of `IMAGENET` with random weights, since costs do not depend on the values."""
    name = IMAGENET[title]
    options = {"init_weights": False} if name == "vgg16" else {}  # quicker to build
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torchvision.models.get_model(name, weights=None, **options).eval()
    return Large(
        cost.measure(network, photo),
        cost.latency(network, photo, min_seconds=min_seconds),
        kept_for_training(network, photo),
        layer_costs(network, photo),
    )


def trained(name: str, dataset: Dataset, *, minutes: float, seed: int = 0) -> nn.Module:
    """A network of the chapter for other images, trained for as many epochs as the minutes allow, 30 at most.

    Args:
        name: of the glyph network, without "glyphs-".
        dataset: that it learns; the glyphs themselves come from the checkpoint.
        minutes: budget.
        seed: of the initial weights and of the training.
    """
    if dataset.name == "glyphs":
        return checkpoints.load(f"glyphs-{name}")
    blueprint = checkpoints.CATALOGUE[f"glyphs-{name}"]
    channels, _, side = dataset.train.images.shape[1:]
    options = {**blueprint.options, "in_channels": channels, "classes": len(dataset.classes)}
    if blueprint.model == "mlp":
        options["image_size"] = side
    network = models.build(blueprint.model, seed=seed, **options)
    network.to("cuda" if torch.cuda.is_available() else "cpu")
    recipe = Recipe(augment="shift_flip", precision="bfloat16", channels_last=True, seed=seed)
    seconds = seconds_per_epoch(network, dataset, recipe)
    recipe = replace(recipe, epochs=affordable(minutes, seconds, most=30))
    print(f"{name}: {recipe.epochs} epochs on {dataset.name}, {seconds:.0f} s each")
    training.fit(network, dataset, recipe)
    return network.cpu().to(memory_format=torch.contiguous_format).eval()
