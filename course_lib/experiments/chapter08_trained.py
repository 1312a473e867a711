"""Chapter 08: training with rounding in the loop, in two forms, beside calibration alone and beside more training."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.utils import parametrize

from course_lib import checkpoints, training
from course_lib.data import Dataset
from course_lib.experiments.chapter08 import CHECKPOINT, train, trials
from course_lib.experiments.common import cut, drawn, glyphs, judged
from course_lib.experiments.experiment import Experiment, Run, Scale
from course_lib.quantization import aware, workflow
from course_lib.quantization.calibration import Histogram
from course_lib.training import Recipe

__all__ = [
    "BEST",
    "BITS",
    "CALIBRATED",
    "METHODS",
    "QAT",
    "START",
    "TARGET",
    "TRAINED",
    "TWO_BITS",
    "Rounded",
    "by_scale",
    "calibration_images",
    "losses_at_two_bits",
    "passing",
    "prepared",
    "ranged",
    "rounded",
    "start",
    "trained_at_two_bits",
    "with_rounded_weights",
]

BITS = (4, 3, 2)
METHODS = ("max", "mse")
CALIBRATION = 500
GUESSING = {"validation": 0.1, "test": 0.1, "test_parts": [0.1] * 20}
"""What a network is worth that a learning rate has destroyed."""

QAT = Recipe(epochs=2, learning_rate=0.01, schedule="cosine", augment="shift")


# The method, as the chapter shows it


def rounded(weight, bits):
    """Round a weight to integers times a scale for each channel, and let the gradient pass as if it were not."""
    most = 2 ** (bits - 1) - 1
    scale = weight.detach().abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True) / most
    value = (weight / scale).round() * scale
    return weight + (value - weight).detach()  # the value, with the gradient of the weight


class Rounded(nn.Module):
    """Rounds the weight of a layer whenever it is read, as a parametrization of PyTorch.

    Args:
        rounding: (weight, bits) -> weight.
        bits: of the integers.
    """

    def __init__(self, rounding: Callable[[Tensor, int], Tensor], bits: int) -> None:
        super().__init__()
        self.rounding, self.bits = rounding, bits

    def forward(self, weight: Tensor) -> Tensor:
        """Round a weight."""
        return self.rounding(weight, self.bits)


def with_rounded_weights(
    network: nn.Module, bits: int, rounding: Callable[[Tensor, int], Tensor] = rounded
) -> nn.Module:
    """Copy a network whose convolutions and linear layers round their weights at every call.

    Example:
        >>> layer = nn.Linear(1, 2, bias=False)
        >>> layer.weight.data = layer.weight.new_tensor([[0.4], [-2.0]])
        >>> with_rounded_weights(nn.Sequential(layer), 2)[0].weight.detach().flatten().tolist()
        [0.4000000059604645, -2.0]
    """
    small = copy.deepcopy(network)
    for layer in list(small.modules()):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            parametrize.register_parametrization(layer, "weight", Rounded(rounding, bits))
    return small


# What runs share


class Shared(NamedTuple):
    """What the runs of an experiment share.

    Attributes:
        dataset: to calibrate, train and judge with.
        network: trained, in float32.
        histograms: {seed: of the activations, on calibration images}.
        scale: how much is done.
        facts: for the record.
    """

    dataset: Dataset
    network: nn.Module
    histograms: dict[int, dict[str, Histogram]]
    scale: Scale
    facts: dict[str, Any]


def calibration_images(dataset: Dataset, seed: int = 0) -> Tensor:
    """Draw the training images that ranges are measured on."""
    return drawn(dataset.train, CALIBRATION, seed).images


def prepare(runs: Sequence[Run], scale: Scale) -> Shared:
    """Load the network, and count its activations once for each draw of calibration images."""
    dataset, network = cut(glyphs(), scale), checkpoints.load(CHECKPOINT["narrow"])
    histograms = {
        seed: workflow.collect(network, calibration_images(dataset, seed))
        for seed in sorted({run["seed"] for run in runs})
    }
    facts = {
        "network": CHECKPOINT["narrow"],
        "calibration images": CALIBRATION,
        "epochs": QAT.epochs,
        "float32": training.evaluate(network, dataset.test),
    }
    return Shared(dataset, network, histograms, scale, facts)


def ranged(run: Run, shared: Shared) -> tuple[Any, dict[str, Any]]:
    """Ranges of the activations, and the keywords that quantize_model and prepare share."""
    keywords = {
        "weight_bits": run["bits"],
        "activation_bits": run["bits"],
        "weight_method": run["weights"],
    }
    found = workflow.calibrate(shared.histograms[run["seed"]], run["activations"], bits=run["bits"])
    return found, keywords


# Calibration alone


def measure_calibrated(run: Run, shared: Shared, method: None) -> dict[str, Any]:
    """Quantize without training."""
    ranges, keywords = ranged(run, shared)
    return judged(workflow.quantize_model(shared.network, ranges, **keywords), shared.dataset)


CALIBRATED = Experiment(
    "08-calibrated",
    tuple(
        {"bits": bits, "activations": activations, "weights": weights, "seed": seed}
        for bits in BITS
        for activations in METHODS
        for weights in METHODS
        for seed in range(5)
    ),
    measure_calibrated,
    prepare,
    live=(5,),
    seed="the calibration images; the network is one",
)
"""Four bits and fewer by calibration alone: two ways to choose ranges, for activations and for weights."""


# With rounding in the loop


def prepared(run: Run, shared: Shared) -> aware.PreparedNetwork:
    """Make the network trainable with its rounding: batch norm folded and ranges fixed, or both as usual."""
    ranges, keywords = ranged(run, shared)
    if run["form"] == "usual":
        keywords |= {"batch_norm": "kept", "range_update": "average"}
    return aware.prepare(shared.network, ranges, **keywords)


def measure_trained(run: Run, shared: Shared, method: None) -> dict[str, Any]:
    """Train on from calibration, in one of the forms; or train on in float32."""
    recipe = replace(QAT, learning_rate=run["rate"], seed=run["seed"])
    if run["form"] == "float32":
        return train(copy.deepcopy(shared.network), recipe, shared)
    network = prepared(run, shared)
    images = len(shared.dataset.train)
    epochs = shared.scale.epochs(recipe.epochs, images=images, batch_size=recipe.batch_size)

    def freeze(epoch: int, _: nn.Module) -> None:
        if epoch == max(1, epochs - 1):  # the last epoch has the statistics and ranges of the inference
            network.freeze()

    recipe = replace(recipe, epochs=epochs)
    try:
        training.fit(network, shared.dataset, recipe, on_epoch=freeze, validate=False)
        return judged(aware.convert(network), shared.dataset)
    except (FloatingPointError, ValueError) as error:
        if isinstance(error, ValueError) and "diverged" not in str(error):
            raise
        return GUESSING


START = {4: ("mse", "mse"), 3: ("mse", "max"), 2: ("mse", "mse")}
"""{bits: ranges of activations and of weights}: what is best by calibration alone, on validation images."""

_GRID = (0.003, 0.01, 0.03, 0.1)
BEST = {
    ("float32", 32): 0.03,
    ("folded", 4): 0.01,
    ("folded", 3): 0.01,
    ("folded", 2): 0.01,
    ("usual", 4): 0.03,
    ("usual", 3): 0.01,
    ("usual", 2): 0.03,
}


def start(bits: int) -> dict[str, Any]:
    """Settings of the calibration that training starts from."""
    activations, weights = START.get(bits, (None, None))
    return {"bits": bits, "activations": activations, "weights": weights}


TRAINED = Experiment(
    "08-trained",
    trials(({"form": form} | start(bits), _GRID, best) for (form, bits), best in BEST.items()),
    measure_trained,
    prepare,
    live=(),
    seed="the calibration images and the order of images in training; the network is one",
)
"""Trained on for two epochs with rounding in the loop, in two forms, or in float32."""


# What a learner's own rounding is tried with

TWO_BITS = Recipe(epochs=2, optimizer="adam", learning_rate=0.001, schedule="cosine", augment="shift")
TARGET = 0.5
"""Accuracy on validation images that is reached with a straight-through gradient, and not without one."""


def by_scale(
    rounding: Callable[[Tensor, Tensor, int, int], Tensor],
) -> Callable[[Tensor, int], Tensor]:
    """Make a rounding of weights of one that takes a scale and the smallest and the largest integer.

    At two bits the scale is one and a half times the mean magnitude of a channel, so the largest weights saturate.
    """

    def rounded_by_scale(weight: Tensor, bits: int) -> Tensor:
        most = 2 ** (bits - 1) - 1
        mean = weight.detach().abs().mean(dim=tuple(range(1, weight.ndim)), keepdim=True)
        return rounding(weight, 1.5 * mean / most, -most, most)

    return rounded_by_scale


def passing(x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    """Round and clip; the gradient passes everywhere, beyond the range too."""
    value = (x / scale).round().clamp(low, high) * scale
    return x + (value - x).detach()


def trained_at_two_bits(rounding: Callable[[Tensor, Tensor, int, int], Tensor]) -> float:
    """Train the MLP for two epochs with its weights rounded to two bits; accuracy on validation images."""
    network = with_rounded_weights(checkpoints.load(CHECKPOINT["mlp"]), 2, by_scale(rounding))
    training.fit(network, glyphs(), TWO_BITS, validate=False)
    return training.evaluate(network, glyphs().validation)


def losses_at_two_bits(rounding: Callable[[Tensor, Tensor, int, int], Tensor]) -> list[float]:
    """The same training; the loss, as means of ten updates."""
    values: list[float] = []

    def keep(logits: Tensor, batch: training.Batch) -> Tensor:
        value = nn.functional.cross_entropy(logits, batch.labels)
        values.append(value.item())
        return value

    network = with_rounded_weights(checkpoints.load(CHECKPOINT["mlp"]), 2, by_scale(rounding))
    training.fit(network, glyphs(), TWO_BITS, loss=keep, validate=False)
    return [sum(values[first : first + 10]) / 10 for first in range(0, len(values) - 9, 10)]
