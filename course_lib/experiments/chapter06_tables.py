"""Chapter 06: what its pages show of the experiments, as rows, panels and named figures."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import checkpoints
from course_lib.data import to_float
from course_lib.experiments.chapter06 import ARMS, BITS, CHECKPOINT, COLLAPSE_ARMS, FORM_ARMS, WEIGHT_ARMS
from course_lib.experiments.chapter06_network import Deployed
from course_lib.experiments.results import Results
from course_lib.quantization import affine, integer, workflow
from course_lib.quantization.calibration import Histogram
from course_lib.quantization.integer_network import IntegerNetwork
from course_lib.quantization.steps import Step, execute
from course_lib.statistics import Interval

__all__ = [
    "accuracies",
    "against_usual",
    "beside_published",
    "bug_figures",
    "bytes_of_networks",
    "collapse_rows",
    "files",
    "form_figures",
    "form_rows",
    "gain_figures",
    "gain_rows",
    "int8_against_float",
    "integer_neuron",
    "logits_by_neurons",
    "outputs_of_steps",
    "over_max",
    "padding_rows",
    "percentile_threshold",
    "points_of_bytes",
    "range_to_integers",
    "ranges_of_steps",
    "to_integers",
    "weight_figures",
    "weight_rows",
]

Rows = list[dict[str, str]]

PUBLISHED = {
    "float32": "76.2",
    "max": "not shown",
    "percentile 99.9": "75.44",
    "percentile 99.99": "76.14",
    "mse": "76.19",
    "entropy": "76.21",
}
"""Top-1 accuracy of ResNet-50 on ImageNet at 8 bits, as NVIDIA's notebook shows it."""


# What stands in for an exercise until it is written


def range_to_integers(low: float, high: float, bits: int) -> tuple[float, int]:
    """Scale and zero point of the asymmetric map.

    Example:
        >>> range_to_integers(-1.0, 2.75, 4)
        (0.25, 4)
    """
    params = affine.choose_params(low, high, bits=bits, symmetric=False)
    return params.scale.item(), int(params.zero_point)


def to_integers(values: np.ndarray, scale: float, zero_point: int, bits: int) -> np.ndarray:
    """Real numbers to unsigned integers.

    Example:
        >>> to_integers(np.array([-9.0, 0.25, 0.75]), 0.5, 3, 4).tolist()
        [0.0, 3.0, 5.0]
    """
    return np.clip(np.rint(values / scale) + zero_point, 0, 2**bits - 1)


def percentile_threshold(counts: np.ndarray, width: float, percent: float) -> float:
    """The left edge of the first bin with which a share of the values is reached.

    Example:
        >>> percentile_threshold(np.array([50, 30, 20]), 0.5, 80.0)
        0.5
    """
    return int(np.argmax(np.cumsum(counts) / np.sum(counts) >= percent / 100)) * width


def integer_neuron(
    x: np.ndarray, x_zero_point: int, weight: np.ndarray, bias: int, multiplier: float, y_zero_point: int
) -> int:
    """A sum of integers, brought back to 8 bits.

    Example:
        >>> integer_neuron(np.array([200], np.uint8), 100, np.array([3], np.int8), 20, 0.5, 7)
        167
    """
    total = int((weight.astype(np.int32) * (x.astype(np.int32) - x_zero_point)).sum()) + bias
    return int(np.clip(np.rint(total * multiplier) + y_zero_point, 0, 255))


# The five steps


def title_of(tensor: str) -> str:
    """The name of a tensor in a table."""
    return f"after layer {tensor}" if tensor[0].isdigit() else tensor


def ranges_of_steps(histograms: Mapping[str, Histogram], ranges: Mapping[str, tuple[float, float]]) -> Rows:
    """A row for each tensor: how many values were seen, the smallest, the largest, and the range chosen."""
    return [
        {
            "tensor": title_of(name),
            "values seen": f"{histogram.count:,}",
            "smallest": f"{histogram.minimum:.2f}",
            "largest": f"{histogram.maximum:.2f}",
            "range": "[{:.2f}, {:.2f}]".format(*ranges[name]),
        }
        for name, histogram in histograms.items()
    ]


def outputs_of_steps(outputs: Mapping[str, Tensor], labels: Tensor) -> Rows:
    """A row for each form of the network: accuracy, and the first logits of the first image."""
    return [
        {
            "network": kind,
            "accuracy": f"{(logits.argmax(1) == labels).double().mean():.1%}",
            "logits of the first image": " ".join(f"{v:.2f}" for v in logits[0, :5].tolist()) + " ...",
        }
        for kind, logits in outputs.items()
    ]


def logits_by_neurons(
    neuron: Callable[..., int], integers: IntegerNetwork, images: Tensor
) -> dict[str, dict[str, str]]:
    """The integers of the ten logits of the first image: by a function for one neuron, and by the library."""
    seen: dict[str, tuple[Any, ...]] = {}

    def compute(step: Step, *inputs: Tensor) -> Tensor:
        result = integers.compute(step, *inputs)
        seen[step.tensor] = (inputs, integers.params(step), result)
        return result

    with torch.no_grad():
        execute(integers.steps, compute, to_float(images[:1]))
    (x,), params, result = seen["logits"]
    x_params, w_params, y_params = params
    layer = integers.network.get_submodule("22")
    multiplier = integer.output_multiplier(x_params, w_params, y_params)
    by_neuron = [
        neuron(
            x.flatten().numpy(),
            int(x_params.zero_point),
            layer.weight[k].numpy(),
            int(layer.bias[k]),
            float(multiplier.expand(10)[k]),
            int(y_params.zero_point),
        )
        for k in range(10)
    ]
    return {
        name: {str(k): str(int(value)) for k, value in enumerate(values)}
        for name, values in (("your neuron", by_neuron), ("the library", result.flatten().tolist()))
    }


# Methods, bits and forms


def accuracies(methods: Results) -> dict[str, dict[str, dict[int, Interval]]]:
    """{network: {method: {bits: test accuracy}}}, as `plots.interval_panels` takes it."""
    return {
        name: {
            arm: {bits: methods.interval("test", network=name, bits=bits, method=arm) for bits in BITS}
            for arm in sorted(ARMS, key="percentile 99.9".__eq__)  # last: the others keep their colours
        }
        for name in CHECKPOINT
    }


def over_max(methods: Results) -> dict[tuple[str, int], Interval]:
    """What ranges by MSE gain over those up to the largest value, at each width."""
    return {
        (name, bits): methods.gain(
            "test",
            of={"network": name, "bits": bits, "method": "mse"},
            over={"network": name, "bits": bits, "method": "max"},
        )
        for name in CHECKPOINT
        for bits in (8, 4, 3)
    }


def gain_rows(gains: Mapping[tuple[str, int], Interval]) -> Rows:
    """A row for each network, a column for each width."""
    return [
        {"network": name} | {f"{bits} bits": f"{gains[name, bits]:+.1%}" for bits in (8, 4, 3)}
        for name in CHECKPOINT
    ]


def gain_figures(gains: Mapping[tuple[str, int], Interval]) -> dict[str, Any]:
    """Named figures of the prose."""
    return {f"{name}_{bits}": (gain, "+.1%") for (name, bits), gain in gains.items()}


def int8_against_float(methods: Results) -> Interval:
    """The VGG at 8 bits, the method chosen on validation images, minus float32."""
    best = methods.best("validation", "method", network="vgg", bits=8)
    return methods.gain("test", of=best, over={"network": "vgg", "bits": 32, "method": "float32"})


def against_usual(forms: Results) -> dict[tuple[str, int, str], Interval]:
    """What another form of the map changes: {(network, bits, form): difference}."""
    return {
        (name, bits, form): forms.gain(
            "test",
            of={"network": name, "bits": bits, "form": form},
            over={"network": name, "bits": bits, "form": FORM_ARMS[0]},
        )
        for name in CHECKPOINT
        for bits in (8, 6, 4)
        for form in FORM_ARMS[1:]
    }


def form_rows(losses: Mapping[tuple[str, int, str], Interval], widths: Sequence[int] = (8, 4)) -> Rows:
    """A row for each network and width, a column for each form."""
    return [
        {"network": name, "bits": str(bits)}
        | {form: f"{losses[name, bits, form]:+.1%}" for form in FORM_ARMS[1:]}
        for name in CHECKPOINT
        for bits in widths
    ]


def form_figures(losses: Mapping[tuple[str, int, str], Interval]) -> dict[str, Any]:
    """Named figures of the prose."""
    short = {"symmetric activations": "symmetric", "one scale a weight": "tensor"}
    return {f"{short[form]}_{name}_{bits}": (loss, "+.1%") for (name, bits, form), loss in losses.items()}


def beside_published(methods: Results) -> Rows:
    """A row for each method at 8 bits: published for ResNet-50, and here for three networks."""
    rows = []
    for arm, published in PUBLISHED.items():
        bits = 32 if arm == "float32" else 8
        row = {"8 bits": arm, "ResNet-50, ImageNet (published)": published}
        for name in CHECKPOINT:
            row[name] = f"{np.mean(methods.values('test', network=name, bits=bits, method=arm)):.2%}"
        rows.append(row)
    return rows


# Weights of few bits, and bugs


def weight_rows(weights: Results) -> Rows:
    """A row for each way to round, a column for each network and width: mean test accuracy."""
    return [
        {"weights": by}
        | {
            f"{name}, {bits} bits": f"{np.mean(weights.values('test', network=name, bits=bits, by=by)):.1%}"
            for bits in (4, 3)
            for name in CHECKPOINT
        }
        for by in WEIGHT_ARMS
    ]


def weight_figures(weights: Results) -> dict[str, Any]:
    """What the other ways gain over rounding, and GPTQ over rounding with the same remedies."""
    found = {}
    for name in CHECKPOINT:
        for bits in (4, 3):
            arm = {"network": name, "bits": bits}
            pairs = {
                "gptq": ("GPTQ, biases corrected", "rounding"),
                "bias": ("range by MSE, biases corrected", "rounding"),
                "alone": ("GPTQ, biases corrected", "range by MSE, biases corrected"),
                "codebook": ("codebook", "rounding"),
            }
            for short, (of, over) in pairs.items():
                gain = weights.gain("test", of=arm | {"by": of}, over=arm | {"by": over})
                found[f"{short}_{name}_{bits}"] = (gain, "+.1%")
    return found


def collapse_rows(bugs: Results) -> Rows:
    """A row for each method on the slimmed network."""
    return [
        {"ranges": by, "test accuracy": f"{np.mean(bugs.values('test', network='slimmed', by=by)):.1%}"}
        for by in COLLAPSE_ARMS
    ]


def bug_figures(bugs: Results) -> dict[str, Any]:
    """What each bug costs the VGG, and what the collapse leaves."""
    short = {
        "bug_logits": "logits clipped",
        "bug_bias": "bias in 8 bits",
        "bug_fold": "batch norm not folded",
        "bug_test": "calibrated on test images",
    }
    right = {"network": "vgg", "by": "right"}
    gains = {
        name: (bugs.gain("test", of=right | {"by": by}, over=right), "+.1%") for name, by in short.items()
    }
    left = {
        f"collapse_{by.split()[0]}": (np.mean(bugs.values("test", network="slimmed", by=by)), ".1%")
        for by in COLLAPSE_ARMS
    }
    return gains | left


def padding_rows(network: nn.Module, images: Tensor) -> Rows:
    """The first layer on centred images, padded rightly and wrongly: largest errors inside and at the border."""
    first = workflow.fold_batch_norm(network, to_float(images[:1])).get_submodule("0")
    centred = to_float(images) - to_float(images).mean()
    with torch.no_grad():
        exact = first(centred)
    x_params, y_params = (
        affine.choose_params(v.min().item(), v.max().item(), symmetric=False) for v in (centred, exact)
    )
    w_params = affine.params_of(first.weight, symmetric=True, axis=0)
    q_x, q_w = affine.quantize(centred, x_params), affine.quantize(first.weight, w_params)
    bias = integer.quantize_bias(first.bias, x_params=x_params, weight_params=w_params)
    options = {"x_params": x_params, "weight_params": w_params, "y_params": y_params}
    border = torch.ones(exact.shape[-2:], dtype=torch.bool)
    border[1:-1, 1:-1] = False
    rows = []
    for title, padded, pad in (("zero point", q_x, 1), ("0", F.pad(q_x, (1, 1, 1, 1)), 0)):
        q = integer.conv2d(padded, q_w, bias, padding=pad, **options)
        error = (affine.dequantize(q, y_params) - exact).abs()
        rows.append(
            {
                "padded with": f"{title} ({int(x_params.zero_point)})" if title != "0" else title,
                "inside": f"{error[..., ~border].max():.3f}",
                "at the border": f"{error[..., border].max():.3f}",
            }
        )
    return rows


# Files and bytes


def files(told: Deployed) -> Rows:
    """A row for each file."""
    return [
        {
            "file": kind,
            "bytes": f"{told.sizes[kind]:,}",
            "test accuracy": f"{told.accuracy(told.logits[kind]):.1%}",
            "64 images": str(told.latencies[kind]),
        }
        for kind in told.sizes
    ]


def bytes_of_networks() -> dict[str, tuple[float, float]]:
    """{network: (bytes of its float32 parameters, test accuracy)} of chapter 00's convolutional networks."""
    names = {"VGG": "glyphs-vgg", "ResNet": "glyphs-resnet", "MobileNet": "glyphs-mobilenet"}
    return {
        title: (
            4.0 * sum(parameter.numel() for parameter in checkpoints.load(name).parameters()),
            checkpoints.info(name)["metrics"]["test_accuracy"],
        )
        for title, name in names.items()
    }


def points_of_bytes(
    methods: Results, weights: Results, earlier: Mapping[str, tuple[float, float]]
) -> dict[str, tuple[float, float]]:
    """The same networks with weights of 8 bits, and of 4 by GPTQ."""
    points = {}
    for title, name in (("VGG", "vgg"), ("ResNet", "resnet"), ("MobileNet", "mobilenet")):
        whole = earlier[title][0]
        eight = methods.values("test", network=name, bits=8, method="mse")
        four = weights.values("test", network=name, bits=4, by="GPTQ, biases corrected")
        points[f"{title}, int8"] = (whole / 4, float(np.mean(eight)))
        points[f"{title}, 4 bits"] = (whole / 8, float(np.mean(four)))
    return points
