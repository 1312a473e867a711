"""Accuracy of the shipped networks with weights of few bits: GPTQ and bias correction beside rounding to nearest."""

import statistics
from collections.abc import Iterator

from course_lib import checkpoints, data, training
from course_lib.quantization.bias import correct_biases
from course_lib.quantization.rounding import round_network
from course_lib.quantization.workflow import calibrate, collect, quantize_model
from tests.benchmarks.row import Row

GOALS = {4: 0.8, 3: 6.0}
"""Points of accuracy above rounding to nearest, on average of the networks, by bits."""


def of_shipped_networks() -> Iterator[Row]:
    """Calibrated on 500 training images ("mse"), activations of 8 bits, a scale for each channel of a weight."""
    dataset = data.load_dataset("glyphs")
    images = dataset.train.images[:500]
    accuracies = {bits: [] for bits in GOALS}
    for name in checkpoints.NAMES:
        if not name.startswith("glyphs"):
            continue
        model = checkpoints.load(name)
        ranges = calibrate(collect(model, images), "mse")
        for bits, found in accuracies.items():
            nearest = quantize_model(model, ranges, weight_bits=bits)
            better = correct_biases(model, round_network(model, nearest, images), images)
            found.append([100 * training.evaluate(network, dataset.test) for network in (better, nearest)])
    for bits, goal in GOALS.items():
        ours, peer = (statistics.mean(column) for column in zip(*accuracies[bits], strict=True))
        yield Row(
            f"accuracy of {len(accuracies[bits])} shipped networks, {bits}-bit weights: GPTQ and bias correction / "
            "nearest",
            f"{ours:.1f} %",
            f"{peer:.1f} %",
            f"{ours - peer:+.1f}",
            f">= {goal:+.1f}",
            "yes" if ours - peer >= goal else "no",
        )
