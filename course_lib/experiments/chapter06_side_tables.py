"""Chapter 06: what its studies show of the experiments."""

from typing import Any

import numpy as np
from torch import nn

from course_lib.experiments.chapter06 import ARMS, BITS, CHECKPOINT
from course_lib.experiments.chapter06_real import CIFAR_BITS, REMEDIES, TENSORS
from course_lib.experiments.results import Results
from course_lib.quantization import affine

__all__ = ["cifar_figures", "cifar_rows", "method_rows", "remedies", "swaps", "weight_errors"]

Rows = list[dict[str, str]]

TITLES = {
    "none": "nothing",
    "first weights in 8 bits": "first layer's weights in 8 bits",
    "first bias corrected": "first layer's biases corrected",
    "all biases corrected": "all biases corrected",
}
SHORT = dict(zip(REMEDIES, ("none", "weights", "bias", "all"), strict=True))


def method_rows(methods: Results) -> Rows:
    """A row for each network and width, a column for each method."""
    rows = []
    for name in CHECKPOINT:
        floating = methods.values("test", network=name, bits=32, method="float32")[0]
        for bits in BITS:
            arm = {"network": name, "bits": bits}
            rows.append(
                {"network": f"{name}, float {floating:.1%}", "bits": str(bits)}
                | {by: f"{methods.interval('test', method=by, **arm):.1%}" for by in ARMS}
            )
    return rows


def weight_errors(folded: nn.Module, bits: int) -> dict[str, str]:
    """Median over all filters of the length of the rounding error, as a share of the filter's length."""
    found = {}
    for title, axis in (("a scale for each channel", 0), ("one scale", None)):
        ratios: list[float] = []
        for layer in folded.modules():
            if isinstance(layer, nn.Conv2d):
                weight = layer.weight.detach()
                params = affine.params_of(weight, bits=bits, symmetric=True, axis=axis)
                apart = affine.fake_quantize(weight, params) - weight
                ratios += (apart.flatten(1).norm(dim=1) / weight.flatten(1).norm(dim=1)).tolist()
        found[title] = f"{np.median(ratios):.0%}"
    return found


def cifar_rows(real: Results) -> Rows:
    """A row for each width, a column for each method."""
    return [
        {"bits": str(bits)} | {arm: f"{real.interval('test', bits=bits, method=arm):.1%}" for arm in ARMS}
        for bits in CIFAR_BITS
    ]


def cifar_figures(real: Results) -> dict[str, Any]:
    """Losses by MSE at each width, and the lead of max over MSE, in points."""
    floating = {"bits": 32, "method": "float32"}
    losses = {
        f"cifar_{bits}": (real.gain("test", of={"bits": bits, "method": "mse"}, over=floating), "+.1%")
        for bits in CIFAR_BITS
    }
    lead = real.gain("test", of={"bits": 3, "method": "max"}, over={"bits": 3, "method": "mse"})
    return losses | {
        "cifar_max_lead": (100 * lead.mean, ".0f", "points"),
        "cifar_max_over_mse": (lead, "+.1%"),
    }


def swaps(why: Results) -> tuple[Rows, dict[str, Any]]:
    """What MSE in one tensor changes where all others are by max; and max in the first where all are by MSE."""
    whole = {"but": "nowhere", "remedy": "none"}
    base = {arm: whole | {"method": arm} for arm in ("max", "mse")}
    gains = {
        tensor: why.gain("test", of=base["max"] | {"but": tensor}, over=base["max"]) for tensor in TENSORS
    }
    rows = [
        {"tensor by MSE": f"after layer {name}" if name[0].isdigit() else name, "change": f"{gain:+.1%}"}
        for name, gain in gains.items()
    ]
    back = why.gain("test", of=base["mse"] | {"but": "0"}, over=base["mse"])
    return rows, {"swap_0": (gains["0"], "+.1%"), "back_0": (back, "+.1%")}


def remedies(why: Results) -> tuple[Rows, dict[str, Any]]:
    """Accuracy by max and by MSE with each remedy, and MSE minus max."""
    rows, figures = [], {}
    for remedy in REMEDIES:
        arms = {arm: {"method": arm, "but": "nowhere", "remedy": remedy} for arm in ("max", "mse")}
        lead = why.gain("test", of=arms["mse"], over=arms["max"])
        rows.append(
            {"mended": TITLES[remedy]}
            | {arm: f"{why.interval('test', **settings):.1%}" for arm, settings in arms.items()}
            | {"MSE minus max": f"{lead:+.1%}"}
        )
        figures[f"lead_{SHORT[remedy]}"] = (lead, "+.1%")
    return rows, figures
