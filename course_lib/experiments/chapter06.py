"""Chapter 06: ranges by five methods, forms of the map to integers, weights of few bits, and bugs."""

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from course_lib import checkpoints, training
from course_lib.data import Dataset, to_float
from course_lib.experiments.common import cut, drawn, glyphs, judged
from course_lib.experiments.experiment import Experiment, Run, Scale
from course_lib.quantization import affine, bias, codebook, rounding, workflow
from course_lib.quantization.calibration import ClippingWarning, Histogram

__all__ = [
    "ARMS",
    "BITS",
    "BUGS",
    "BUG_ARMS",
    "CHECKPOINT",
    "FORMS",
    "FORM_ARMS",
    "METHODS",
    "WEIGHTS",
    "WEIGHT_ARMS",
    "calibration",
    "errors",
    "mse_threshold",
    "ranges_for",
]

CHECKPOINT = {"vgg": "glyphs-vgg", "resnet": "glyphs-resnet", "mobilenet": "glyphs-mobilenet"}
SLIMMED = "glyphs-slimming-strong"
CALIBRATION = 500
BITS = (8, 6, 4, 3)
ARMS = ("max", "percentile 99.9", "percentile 99.99", "mse", "entropy")
DRAWS = range(5)
SEED = "the calibration images; the network and its weights stay the same"

Ranges = dict[str, tuple[float, float]]
Errors = Callable[[np.ndarray, float, float, int], tuple[float, float]]
"""As `errors`: (counts, width, threshold, levels) -> (of rounding, of clipping)."""


# The method, as the chapter shows it


def errors(counts, width, threshold, levels):
    """Mean squared errors of rounding and of clipping; each value stands at the centre of its bin."""
    centres = (np.arange(len(counts)) + 0.5) * width
    scale = threshold / (levels - 1)
    rounded = np.minimum(np.rint(centres / scale), levels - 1) * scale
    square = (rounded - centres) ** 2 * counts / counts.sum()
    beyond = centres > threshold
    return square[~beyond].sum(), square[beyond].sum()


def mse_threshold(counts, width, levels, errors=errors):
    """The threshold with the least error in all, among the centres of the bins from 128 on."""
    candidates = (np.arange(128, len(counts)) + 0.5) * width
    return candidates[np.argmin([sum(errors(counts, width, t, levels)) for t in candidates])]


# What runs share


@dataclass(frozen=True)
class Shared:
    """What the runs of an experiment share.

    Attributes:
        dataset: to calibrate and judge with.
        networks: {name: trained}.
        histograms: {(network, seed, images): {tensor: histogram}}.
        facts: for the record.
    """

    dataset: Dataset
    networks: dict[str, nn.Module]
    histograms: dict[tuple[str, int, int], dict[str, Histogram]]
    facts: dict[str, Any]


@functools.cache
def network_of(name: str) -> nn.Module:
    """Load a network of the chapter."""
    return checkpoints.load({**CHECKPOINT, "slimmed": SLIMMED}[name])


def calibration(dataset: Dataset, seed: int, count: int = CALIBRATION) -> Tensor:
    """Training images to calibrate on, other ones for each seed.

    Example:
        >>> calibration(glyphs(), 0).shape
        torch.Size([500, 1, 16, 16])
    """
    return drawn(dataset.train, count, seed).images


def prepare(runs: Sequence[Run], scale: Scale) -> Shared:
    """Load the networks, and count their activations on the images of each draw."""
    dataset = cut(glyphs(), scale)
    networks = {name: network_of(name) for name in dict.fromkeys(run["network"] for run in runs)}
    keys = dict.fromkeys((run["network"], run["seed"], run.get("images", CALIBRATION)) for run in runs)
    histograms = {key: workflow.collect(networks[key[0]], calibration(dataset, *key[1:])) for key in keys}
    return Shared(dataset, networks, histograms, {"calibration images": CALIBRATION})


def histograms_of(run: Run, shared: Shared) -> dict[str, Histogram]:
    """The histograms of a run's network and draw."""
    return shared.histograms[run["network"], run["seed"], run.get("images", CALIBRATION)]


@contextmanager
def unwarned() -> Iterator[None]:
    """Without the warning of ranges that clip much, which is what some arms are there to show."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ClippingWarning)
        yield


def ranges_for(found: Mapping[str, Histogram], arm: str, bits: int, errors: Errors = errors) -> Ranges:
    """Choose the range of each tensor by an arm; that of "mse" by the chapter's own function.

    Example:
        >>> import torch
        >>> histogram = Histogram()
        >>> histogram.update(torch.rand(1000, generator=torch.Generator().manual_seed(0)))
        >>> ranges_for({"images": histogram}, "percentile 50", 8)["images"][1] < 0.6
        True
    """
    method, _, percent = arm.partition(" ") if arm.startswith("percentile") else (arm, "", "")
    if method != "mse":
        with unwarned():
            return workflow.calibrate(found, method, bits=bits, percentile=float(percent or 99.99))
    ranges = workflow.calibrate(found, "max", bits=bits)
    for name, histogram in found.items():
        if name != "logits" and histogram.largest > 0:
            signed = histogram.minimum < 0 < histogram.maximum
            threshold = mse_threshold(histogram.counts, histogram.width, 2 ** (bits - signed), errors)
            low, high = ranges[name]
            ranges[name] = max(low, -float(threshold)), min(high, float(threshold))
    return ranges


# Is it true? Methods and bits


def measure_methods(run: Run, shared: Shared, method: Errors) -> dict[str, Any]:
    """Quantize weights and activations to so many bits; 32 is the network as it is."""
    network, bits = shared.networks[run["network"]], run["bits"]
    if bits == 32:
        return judged(network, shared.dataset)
    ranges = ranges_for(histograms_of(run, shared), run["method"], bits, method)
    small = workflow.quantize_model(network, ranges, weight_bits=bits, activation_bits=bits)
    return judged(small, shared.dataset)


METHODS = Experiment(
    "06-methods",
    tuple(
        {"network": name, "bits": bits, "method": arm, "seed": seed}
        for name in CHECKPOINT
        for bits, arms in ((32, ("float32",)), *((bits, ARMS) for bits in BITS))
        for arm in arms
        for seed in DRAWS
    ),
    measure_methods,
    prepare,
    errors,
    live=(175,),  # the ResNet with ranges by MSE, at 4 bits
    seed=SEED,
)
"""Three networks at four widths, each tensor's range chosen by five methods."""


# Is it true? Forms of the map


FORM_ARMS = ("as usual", "symmetric activations", "one scale a weight")


def symmetric_ranges(found: Mapping[str, Histogram], bits: int) -> Ranges:
    """Ranges with the zero point in the middle, each as wide as costs the least squared error in that form."""
    ranges = {}
    for name, histogram in found.items():
        threshold = histogram.threshold("max" if name == "logits" else "mse", bits=bits, signed=True)
        half = 2 ** (8 if name == "logits" else bits) // 2
        ranges[name] = -threshold * half / (half - 1), threshold  # integers from -half to half - 1
    return ranges


def measure_forms(run: Run, shared: Shared, method: None) -> dict[str, Any]:
    """Ranges by MSE: asymmetric with a scale for each channel of a weight, or otherwise in one of the two."""
    network, found, bits = shared.networks[run["network"]], histograms_of(run, shared), run["bits"]
    symmetric = run["form"] == "symmetric activations"
    ranges = symmetric_ranges(found, bits) if symmetric else ranges_for(found, "mse", bits)
    small = workflow.quantize_model(
        network,
        ranges,
        weight_bits=bits,
        activation_bits=bits,
        per_channel=run["form"] != "one scale a weight",
    )
    return judged(small, shared.dataset)


FORMS = Experiment(
    "06-forms",
    tuple(
        {"network": name, "bits": bits, "form": form, "seed": seed}
        for name in CHECKPOINT
        for bits in (8, 6, 4)
        for form in FORM_ARMS
        for seed in DRAWS
    ),
    measure_forms,
    prepare,
    live=(35,),  # symmetric activations on the VGG, at 4 bits
    seed=SEED,
)
"""Symmetric activations, and one scale for all channels of a weight, against the usual form."""


# Weights of few bits


WEIGHT_ARMS = (
    "rounding",
    "range by MSE",
    "range by MSE, biases corrected",
    "GPTQ",
    "GPTQ, biases corrected",
    "codebook",
)


def layers_of(network: nn.Module) -> list[str]:
    """Names of the convolutions and linear layers."""
    return [name for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


def with_few_bits(network: nn.Module, ranges: Ranges, by: str, bits: int, images: Tensor) -> nn.Module:
    """Weights of so many bits by one of the arms; activations have 8 bits. A codebook keeps its levels in 16."""
    if by == "codebook":
        folded = workflow.fold_batch_norm(network, to_float(images[:1]))
        books = codebook.cluster_layers(folded, dict.fromkeys(layers_of(folded), bits))
        return workflow.quantize_model(
            codebook.look_up(folded, books), ranges, weight_bits=16, per_channel=False
        )
    method = "max" if by == "rounding" else "mse"
    small = workflow.quantize_model(network, ranges, weight_bits=bits, weight_method=method)
    if by.startswith("GPTQ"):
        small = rounding.round_network(network, small, images)
    return bias.correct_biases(network, small, images) if by.endswith("corrected") else small


def measure_weights(run: Run, shared: Shared, method: None) -> dict[str, Any]:
    """Weights of few bits, activations of 8."""
    network = shared.networks[run["network"]]
    ranges = ranges_for(histograms_of(run, shared), "mse", 8)
    images = calibration(shared.dataset, run["seed"], 200)
    return judged(with_few_bits(network, ranges, run["by"], run["bits"], images), shared.dataset)


WEIGHTS = Experiment(
    "06-weights",
    tuple(
        {"network": name, "bits": bits, "by": by, "seed": seed}
        for name in CHECKPOINT
        for bits in (4, 3)
        for by in WEIGHT_ARMS
        for seed in DRAWS
    ),
    measure_weights,
    prepare,
    live=(0,),  # the VGG, 4 bits by rounding
    seed=SEED,
)
"""Weights of 4 and 3 bits: rounded to nearest, rounded by GPTQ, and looked up in a codebook."""


# Bugs


BUG_ARMS = ("right", "logits clipped", "bias in 8 bits", "batch norm not folded", "calibrated on test images")
COLLAPSE_ARMS = ("float32", "mse", "entropy", "published entropy")


def ranges_before_norm(network: nn.Module, images: Tensor, right: Mapping[str, Histogram]) -> Ranges:
    """The bug: ranges of the convolutions in front of batch norm; cut at 0 where ReLU follows."""
    found: dict[str, Histogram] = {}

    def watch(_layer: nn.Module, _inputs: Any, output: Tensor, *, name: str) -> None:
        values = output.relu() if right[name].minimum >= 0 else output
        found.setdefault(name, Histogram()).update(values)

    hooks = [
        layer.register_forward_hook(functools.partial(watch, name=name))
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d) and name in right
    ]
    training.predict(network, images)
    for hook in hooks:
        hook.remove()
    return {name: histogram.range("mse") for name, histogram in found.items()}


def measure_bugs(run: Run, shared: Shared, method: None) -> dict[str, Any]:
    """Quantize to 8 bits, rightly or with a bug; or the slimmed network with ranges by a method."""
    dataset, network, by = shared.dataset, shared.networks[run["network"]], run["by"]
    found = histograms_of(run, shared)
    if by == "float32":
        return judged(network, dataset)
    if by == "calibrated on test images":
        found = workflow.collect(network, drawn(dataset.test, CALIBRATION, run["seed"]).images)
    ranges = ranges_for(found, by if by in COLLAPSE_ARMS else "mse", 8)
    if by == "logits clipped":
        with unwarned():
            ranges["logits"] = found["logits"].range("percentile", percentile=99)
    if by == "batch norm not folded":
        ranges |= ranges_before_norm(network, calibration(dataset, run["seed"]), found)
    small = workflow.quantize_model(network, ranges)
    if by == "bias in 8 bits":
        for name in small.weights:
            layer = small.network.get_submodule(name)
            layer.bias.data = affine.fake_quantize(layer.bias, affine.params_of(layer.bias, symmetric=True))
    return judged(small, dataset)


BUGS = Experiment(
    "06-bugs",
    tuple(
        {"network": name, "by": by, "seed": seed}
        for name, arms in (("slimmed", COLLAPSE_ARMS), ("vgg", BUG_ARMS), ("resnet", BUG_ARMS))
        for by in arms
        for seed in DRAWS
    ),
    measure_bugs,
    prepare,
    live=(15,),  # the collapse
    seed=SEED,
)
"""Bugs at 8 bits, and a network on which the published entropy method collapses."""
