"""Chapter 06 on photographs: methods and bits on a VGG for CIFAR-10, and why the largest value wins there at 3 bits."""

import copy
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from course_lib import checkpoints, training
from course_lib.data import Dataset, Split
from course_lib.experiments.budget import affordable
from course_lib.experiments.chapter06 import ARMS, CALIBRATION, DRAWS, ranges_for
from course_lib.experiments.common import drawn, photographs
from course_lib.experiments.experiment import Experiment, Run, Scale
from course_lib.quantization import bias, workflow
from course_lib.quantization.calibration import Histogram
from course_lib.quantization.simulated import QuantizedNetwork

__all__ = ["CIFAR10", "CIFAR_BITS", "REMEDIES", "TENSORS", "WHY"]

CIFAR_BITS = (8, 4, 3)
TENSORS = ("images", "0", "4", "8", "11", "15", "18", "21")
"""What is rounded in the VGG, from the images on; logits are never clipped."""

REMEDIES = ("none", "first weights in 8 bits", "first bias corrected", "all biases corrected")


@dataclass(frozen=True)
class Photographs:
    """What the runs on CIFAR-10 share.

    Attributes:
        network: trained.
        test: so many test images as the budget pays for.
        calibration: {seed: images}.
        histograms: {seed: {tensor: histogram}}.
        facts: for the record.
    """

    network: nn.Module
    test: Split
    calibration: Mapping[int, Tensor]
    histograms: Mapping[int, Mapping[str, Histogram]]
    facts: dict[str, Any]


def prepare_cifar10(runs: Sequence[Run], scale: Scale) -> Photographs:
    """Count activations on each draw, and time the evaluation of 100 test images."""
    dataset: Dataset = photographs(scale)
    network = checkpoints.load("cifar10-vgg").to(memory_format=torch.channels_last)
    images = {seed: drawn(dataset.train, CALIBRATION, seed).images for seed in {run["seed"] for run in runs}}
    found = {seed: workflow.collect(network, calibration) for seed, calibration in images.items()}
    count = len(dataset.test)
    if scale.minutes is not None:
        small = workflow.quantize_model(network, ranges_for(next(iter(found.values())), "max", 8))
        started = time.perf_counter()
        training.evaluate(small, drawn(dataset.test, 200))
        seconds = 5 * (time.perf_counter() - started) * len(runs)  # for 1,000 images
        # Half of the budget: runs that share a machine are slower than one alone.
        count = 1000 * affordable(0.5 * scale.minutes * (os.cpu_count() or 1), seconds, most=10)
    test = drawn(dataset.test, count)
    facts = {
        "network": "cifar10-vgg",
        "float32": training.evaluate(network, test),
        "test images": count,
        "calibration images": CALIBRATION,
    }
    return Photographs(network, test, images, found, facts)


def accuracy(network: nn.Module, test: Split) -> dict[str, Any]:
    """Accuracy on the test images, whole and in 20 parts."""
    right = (training.predict(network, test.images).argmax(1) == test.labels).double()
    return {"test": right.mean().item(), "test_parts": [part.mean().item() for part in right.chunk(20)]}


def measure_cifar10(run: Run, shared: Photographs, method: None) -> dict[str, Any]:
    """Quantize weights and activations to so many bits; 32 is the network as it is."""
    if run["bits"] == 32:
        return accuracy(shared.network, shared.test)
    ranges = ranges_for(shared.histograms[run["seed"]], run["method"], run["bits"])
    bits = {"weight_bits": run["bits"], "activation_bits": run["bits"]}
    return accuracy(workflow.quantize_model(shared.network, ranges, **bits), shared.test)


CIFAR10 = Experiment(
    "06-cifar10",
    tuple(
        {"bits": bits, "method": arm, "seed": seed}
        for bits, arms in ((32, ("float32",)), *((bits, ARMS) for bits in CIFAR_BITS))
        for arm in arms
        for seed in DRAWS
    ),
    measure_cifar10,
    prepare_cifar10,
    live=(),
    seed="the calibration images; the network and the test images stay the same",
    dataset="CIFAR-10 (JPEG)",
    minutes=3,
)
"""Five methods at three widths on photographs."""


def remedied(simulated: QuantizedNetwork, remedy: str, shared: Photographs, seed: int) -> nn.Module:
    """A quantized network with its first layer, or its biases, made better."""
    if remedy == "none":
        return simulated
    network, mended = shared.network, copy.deepcopy(simulated)
    if remedy == "first weights in 8 bits":
        exact = workflow.quantize_model(network, ranges_for(shared.histograms[seed], "max", 8))
        mended.network.get_submodule("0").load_state_dict(exact.network.get_submodule("0").state_dict())
        return mended
    corrected = bias.correct_biases(network, simulated, shared.calibration[seed][:200])
    if remedy == "all biases corrected":
        return corrected
    mended.network.get_submodule("0").bias = corrected.network.get_submodule("0").bias
    return mended


def measure_why(run: Run, shared: Photographs, method: None) -> dict[str, Any]:
    """At 3 bits: ranges by one method, but in one tensor by the other; and the remedies."""
    found, other = shared.histograms[run["seed"]], {"max": "mse", "mse": "max"}[run["method"]]
    ranges = ranges_for(found, run["method"], 3)
    if run["but"] != "nowhere":
        ranges[run["but"]] = ranges_for(found, other, 3)[run["but"]]
    simulated = workflow.quantize_model(shared.network, ranges, weight_bits=3, activation_bits=3)
    return accuracy(remedied(simulated, run["remedy"], shared, run["seed"]), shared.test)


WHY = Experiment(
    "06-cifar10-why",
    (
        *(
            {"method": "max", "but": tensor, "remedy": "none", "seed": seed}
            for tensor in TENSORS
            for seed in DRAWS
        ),
        *({"method": "mse", "but": "0", "remedy": "none", "seed": seed} for seed in DRAWS),
        *(
            {"method": arm, "but": "nowhere", "remedy": remedy, "seed": seed}
            for remedy in REMEDIES
            for arm in ("max", "mse")
            for seed in DRAWS
        ),
    ),
    measure_why,
    prepare_cifar10,
    live=(),
    seed="the calibration images; the network and the test images stay the same",
    dataset="CIFAR-10 (JPEG)",
    minutes=3,
)
"""Where the largest value is better than MSE at 3 bits, and what takes the difference away."""
