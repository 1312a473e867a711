"""Chapter 06 on a network that the course has not trained: EfficientNet-Lite0 with ImageNet weights in few bits.

The images may be ones that the network has learnt: accuracies mean nothing by themselves, and differences between the
arms may be of another size on new images.
"""

import copy
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from course_lib import data, models, training
from course_lib.data import Dataset
from course_lib.experiments.budget import affordable
from course_lib.experiments.chapter06 import DRAWS, Ranges, ranges_for
from course_lib.experiments.common import drawn, photographs
from course_lib.experiments.experiment import Experiment, Run, Scale
from course_lib.quantization import bias, equalization, rounding, workflow
from course_lib.quantization.calibration import Histogram
from course_lib.quantization.simulated import QuantizedNetwork

__all__ = ["CALIBRATION", "FITTED", "IMAGENET", "METHODS", "WEIGHTS", "WEIGHT_ARMS"]

IMAGES = "imagenet:imagenet-samples"
CALIBRATION = 125
"""Images whose activations are counted."""

FITTED = 125
"""Images that GPTQ and the correction of biases work with: those whose activations are counted."""

SEED = "the calibration images, 125 of the same 400; the network and its weights stay the same"

METHODS = ("max", "percentile 99.99", "mse", "entropy")
FORMS = (
    (8, "channel", (*METHODS, "published entropy")),
    (8, "tensor", ("max", "mse")),
    (8, "tensor, equalized", ("mse",)),
    (6, "channel", METHODS),
    (4, "channel", METHODS),
)
"""(bits of activations, what has a scale in a weight, methods)."""

WEIGHT_ARMS = (
    "rounding",
    "range by MSE",
    "equalized",
    "equalized, biases corrected",
    "biases corrected",
    "GPTQ",
    "GPTQ, biases corrected",
    "GPTQ, biases corrected, depthwise in 8 bits",
    "GPTQ, biases corrected, depthwise, first and last in 8 bits",
)
"""Activations: 8 bits, percentile 99.99. Weights: their ranges by MSE from the second arm on.

To be equalized, the network has ReLU in the place of ReLU6.
"""

_ACTIVATIONS = "percentile 99.99"  # beside weights of 4 bits
_PART = 50  # images of a forward pass
_TINY = {"stem": 4, "stages": ((1, 4, 1, 3, 1), (2, 6, 2, 5, 2)), "head": 8, "classes": 10, "image_size": 32}


@dataclass(frozen=True)
class RealNetwork:
    """What the runs share.

    Attributes:
        network: trained on ImageNet.
        dataset: its training part to calibrate on, its test part to judge with.
        answers: of the network in float32, for each test image.
        histograms: {seed: {tensor: histogram}}.
        facts: for the record.
    """

    network: nn.Module
    dataset: Dataset
    answers: Tensor
    histograms: Mapping[int, Mapping[str, Histogram]]
    facts: dict[str, Any]

    def calibration(self, seed: int, count: int = CALIBRATION) -> Tensor:
        """Images of a draw."""
        return drawn(self.dataset.train, count, seed).images


def network_of(scale: Scale) -> nn.Module:
    """EfficientNet-Lite0 with ImageNet weights; in a test, which may lack them, a tiny one with random weights."""
    if scale.images is None:
        return models.efficientnet_lite0(pretrained=True).eval()
    return models.build("efficientnet_lite0", **_TINY).eval()


def prepare(runs: Sequence[Run], scale: Scale, images: str = IMAGES) -> RealNetwork:
    """Count activations on each draw, and take so many test images as the budget pays for, 500 at least.

    Args:
        runs: of the experiment.
        scale: how much is done.
        images: name of a data set with ImageNet's classes, for `data.load_dataset`.
    """
    dataset = photographs(scale) if scale.images is not None else data.load_dataset(images)
    network, count = network_of(scale), len(dataset.test)
    shared = RealNetwork(network, dataset, torch.empty(0), {}, {})
    seeds = sorted({run["seed"] for run in runs})
    found = {
        seed: workflow.collect(network, shared.calibration(seed), batch_size=min(_PART, count))
        for seed in seeds
    }
    if scale.minutes is not None:
        small = workflow.quantize_model(network, ranges_for(found[seeds[0]], "max", 8))
        started = time.perf_counter()
        training.predict(small, dataset.test.images[:20])
        seconds = 5 * (time.perf_counter() - started) * len(runs)  # for 100 images
        # Half of the budget: what comes before an evaluation takes as long again in some arms.
        minutes, most = 0.5 * scale.minutes * (os.cpu_count() or 1), max(1, count // 100)
        count = min(count, 100 * affordable(minutes, seconds, least=min(5, most), most=most))
    test = drawn(dataset.test, count)
    dataset = Dataset(dataset.name, dataset.train, dataset.validation, test, dataset.classes)
    answers = training.predict(network, test.images, batch_size=_PART).argmax(1)
    facts = {
        "network": "EfficientNet-Lite0",
        "images": dataset.name,
        "float32": (answers == test.labels).double().mean().item(),
        "test images": count,
        "calibration images": CALIBRATION,
    }
    return RealNetwork(network, dataset, answers, found, facts)


def judged(network: nn.Module, shared: RealNetwork) -> dict[str, Any]:
    """Accuracy on the test images, and how often the answer is that of the network in float32; whole, in 20 parts."""
    test = shared.dataset.test
    answers = shared.answers
    if network is not shared.network:
        answers = training.predict(network, test.images, batch_size=_PART).argmax(1)
    right, same = ((answers == wanted).double() for wanted in (test.labels, shared.answers))
    return {
        "test": right.mean().item(),
        "test_parts": _in_parts(right),
        "same_answer": same.mean().item(),
        "same_answer_parts": _in_parts(same),
    }


def _in_parts(found: Tensor) -> list[float]:
    return [round(part.mean().item(), 6) for part in found.chunk(20)]


def without_ceiling(network: nn.Module) -> nn.Module:
    """A copy with ReLU in the place of ReLU6.

    Example:
        >>> without_ceiling(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU6()))[1]
        ReLU(inplace=True)
    """
    network = copy.deepcopy(network)
    for name, layer in list(network.named_modules()):
        if isinstance(layer, nn.ReLU6):
            network.set_submodule(name, nn.ReLU(inplace=True))
    return network


def equalized(shared: RealNetwork, seed: int) -> tuple[nn.Module, Mapping[str, Histogram]]:
    """The network with ReLU in the place of ReLU6, equalized, and its own activations on a draw."""
    network = equalization.equalize(without_ceiling(shared.network))
    return network, workflow.collect(network, shared.calibration(seed), batch_size=_PART)


# Activations of few bits


def measure_activations(run: Run, shared: RealNetwork, method: None) -> dict[str, Any]:
    """Weights of 8 bits, activations of so many, the images among them; logits of 8. 32 is the network as it is."""
    network, found = shared.network, shared.histograms[run["seed"]]
    if run["bits"] == 32:
        return judged(network, shared)
    if run["scales"].endswith("equalized"):
        network, found = equalized(shared, run["seed"])
    ranges, fine = ranges_for(found, run["method"], run["bits"]), run["scales"] == "channel"
    small = workflow.quantize_model(network, ranges, activation_bits=run["bits"], per_channel=fine)
    return judged(small, shared)


IMAGENET = Experiment(
    "06-imagenet",
    tuple(
        {"bits": bits, "scales": scales, "method": method, "seed": seed}
        for bits, scales, methods in ((32, "channel", ("float32",)), *FORMS)
        for method in methods
        for seed in DRAWS
    ),
    measure_activations,
    prepare,
    live=(),
    seed=SEED,
    dataset="ImageNet samples (1,000, one a class)",
    minutes=40,
)
"""Activations of 8, 6 and 4 bits by several methods; one scale for a whole weight against one for each channel."""


# Weights of 4 bits


def prepare_weights(runs: Sequence[Run], scale: Scale) -> RealNetwork:
    """As `prepare`; the record says how many images weights and biases are fitted on."""
    shared = prepare(runs, scale)
    return replace(shared, facts={**shared.facts, "images of GPTQ and bias correction": FITTED})


def with_depthwise_of(
    fine: QuantizedNetwork, coarse: QuantizedNetwork, *, ends: bool = False
) -> QuantizedNetwork:
    """A copy of `coarse` with the depthwise layers of `fine`; with `ends`, the first and the last layer too."""
    mended = copy.deepcopy(coarse)
    first, *_, last = fine.weights
    for name in fine.weights:
        layer = fine.network.get_submodule(name)
        if getattr(layer, "groups", 1) > 1 or (ends and name in (first, last)):
            mended.network.get_submodule(name).load_state_dict(layer.state_dict())
            mended.weights[name], mended.biases[name] = fine.weights[name], fine.biases[name]
    return mended


def with_four_bits(network: nn.Module, ranges: Ranges, by: str, images: Tensor) -> QuantizedNetwork:
    """Weights of 4 bits by one of the arms; activations have 8 bits."""
    grid = "max" if by == "rounding" else "mse"
    small = workflow.quantize_model(network, ranges, weight_bits=4, weight_method=grid)
    if by.endswith("in 8 bits"):
        fine = workflow.quantize_model(network, ranges)
        small = with_depthwise_of(fine, small, ends="first and last" in by)
    if by.startswith("GPTQ"):
        small = rounding.round_network(network, small, images)
    return bias.correct_biases(network, small, images) if "biases corrected" in by else small


def measure_weights(run: Run, shared: RealNetwork, method: None) -> dict[str, Any]:
    """Weights of 4 bits, activations and logits of 8; or the network in float32, as it is or with ReLU for ReLU6."""
    network, found, by = shared.network, shared.histograms[run["seed"]], run["by"]
    if by == "float32":
        return judged(network, shared)
    if by == "float32 with ReLU":
        return judged(without_ceiling(network), shared)
    if by.startswith("equalized"):
        network, found = equalized(shared, run["seed"])
    images = shared.calibration(run["seed"], FITTED)
    return judged(with_four_bits(network, ranges_for(found, _ACTIVATIONS, 8), by, images), shared)


WEIGHTS = Experiment(
    "06-imagenet-weights",
    tuple(
        {"by": by, "seed": seed} for by in ("float32", "float32 with ReLU", *WEIGHT_ARMS) for seed in DRAWS
    ),
    measure_weights,
    prepare_weights,
    live=(),
    seed=SEED,
    dataset="ImageNet samples (1,000, one a class)",
    minutes=40,
)
"""Weights of 4 bits: rounded to nearest, equalized, with corrected biases, by GPTQ, and with finer depthwise layers."""
