"""Chapter 06 beside its main line: few calibration images, and one layer at a time."""

from typing import Any

from course_lib.experiments.chapter06 import (
    DRAWS,
    SEED,
    Shared,
    histograms_of,
    layers_of,
    prepare,
    ranges_for,
)
from course_lib.experiments.common import judged
from course_lib.experiments.experiment import Experiment, Run
from course_lib.quantization import workflow

__all__ = ["COUNTS", "IMAGES", "LAYERS"]

COUNTS = (1, 4, 16, 64, 256, 1024)


def measure_images(run: Run, shared: Shared, method: None) -> dict[str, Any]:
    """The ResNet at 4 bits, its ranges from so many images."""
    ranges = ranges_for(histograms_of(run, shared), run["method"], 4)
    small = workflow.quantize_model(shared.networks[run["network"]], ranges, weight_bits=4, activation_bits=4)
    return judged(small, shared.dataset)


IMAGES = Experiment(
    "06-images",
    tuple(
        {"method": arm, "images": count, "seed": seed}
        for arm in ("max", "mse")
        for count in COUNTS
        for seed in DRAWS
    ),
    measure_images,
    prepare,
    None,
    {"network": "resnet"},
    live=(40,),  # MSE with 16 images
    seed=SEED,
)
"""A few calibration images, or many."""


def measure_layers(run: Run, shared: Shared, method: None) -> dict[str, Any]:
    """One layer of a plain chain at 3 bits, with its input and output, and all else in float32."""
    network, found = shared.networks[run["network"]], histograms_of(run, shared)
    if run["layer"] == "none":
        return judged(network, shared.dataset)
    others = [layer for layer in layers_of(network) if layer != run["layer"]]
    ranges = ranges_for(found, "mse", 3)
    small = workflow.quantize_model(network, ranges, weight_bits=3, activation_bits=3, keep=others)
    # Tensors of a pooling are rounded too, wherever it is.
    output = "logits" if run["layer"] == "22" else run["layer"]
    own = (list(found)[list(found).index(output) - 1], output)
    small.activations = {name: params for name, params in small.activations.items() if name in own}
    return judged(small, shared.dataset)


LAYERS = Experiment(
    "06-layers",
    tuple(
        {"layer": layer, "seed": seed}
        for layer in ("none", "0", "3", "7", "10", "14", "17", "22")
        for seed in DRAWS
    ),
    measure_layers,
    prepare,
    None,
    {"network": "vgg"},
    live=(5,),  # the first layer
    seed=SEED,
)
"""Each layer of the VGG alone at 3 bits."""
