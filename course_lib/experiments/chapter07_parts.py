"""The parts of chapter 07's pipeline and of its controls: strategies, losses, ranges, files, narrow networks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from course_lib import checkpoints, cost, distillation, models, training
from course_lib.experiments.common import example_of, glyphs
from course_lib.pruning import eagleeye
from course_lib.pruning.filters import filter_plan
from course_lib.pruning.surgery import remove_channels
from course_lib.quantization import onnx, workflow
from course_lib.training import Loss

__all__ = [
    "CANDIDATES",
    "GIVEN",
    "HALF",
    "MACS_LEFT",
    "PARAMETERS_LEFT",
    "WIDTHS",
    "deploy",
    "find_ranges",
    "narrow",
    "narrow_widths",
    "parameters",
    "renewed",
    "strategies_of",
    "taught",
]

GIVEN, HALF = "glyphs-vgg", "glyphs-vgg-narrow"
WIDTHS = (32, 32, 64, 64, 128, 128)
"""Those of the given network."""

MACS_LEFT, PARAMETERS_LEFT = 0.2, 0.13
CANDIDATES = 96
"""Strategies that are drawn within the budget of MACs; those that also meet that of parameters are judged."""


def strategies_of(seed: int, count: int = CANDIDATES) -> list[eagleeye.Strategy]:
    """Draw random strategies for the given network that meet its budget of MACs; keep those that meet that of bytes."""
    network, example = checkpoints.load(GIVEN), example_of(glyphs())
    drawn_ = eagleeye.sample_strategies(
        network,
        example,
        count=count,
        mac_range=(0.75 * MACS_LEFT, 0.98 * MACS_LEFT),
        max_ratio=0.8,
        seed=seed,
    )
    most = PARAMETERS_LEFT * parameters(network)

    def left(strategy: eagleeye.Strategy) -> int:
        return parameters(remove_channels(network, example, filter_plan(network, example, strategy.ratios)))

    return [strategy for strategy in drawn_ if left(strategy) <= most]


def parameters(network: nn.Module) -> int:
    """Count the parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def taught(teacher: nn.Module, temperature: float, alpha: float) -> Loss:
    """Make the loss of a student whose teacher sees the same images."""

    def loss(logits: Tensor, batch: training.Batch) -> Tensor:
        with torch.no_grad():
            targets = teacher(batch.images)
        return distillation.distillation_loss(
            logits, targets, batch.labels, temperature=temperature, alpha=alpha
        )

    return loss


def find_ranges(network: nn.Module, images: Tensor) -> dict[str, tuple[float, float]]:
    """Measure the range of every activation, by the least squared error."""
    return workflow.calibrate(workflow.collect(network, images), "mse")


def deploy(network: nn.Module, ranges: Mapping[str, Any] | None, example: Tensor, folder: Path) -> Path:
    """Write the file of a network: int8 with these ranges, float32 without; returns its path."""
    path, names = onnx.export(workflow.fold_batch_norm(network, example), example, folder / "float32.onnx")
    return path if ranges is None else onnx.quantize(path, folder / "int8.onnx", ranges=ranges, names=names)


def narrow_widths(macs: int, least: int) -> tuple[int, int, int]:
    """Widths of the three stages of a VGG that has at least these MACs and parameters, and at most 2 % more of both.

    Of all that fit, the most evenly narrow one is taken.

    Example:
        >>> narrow_widths(2_396_800, 72_666)
        (16, 32, 64)
    """
    grids = (np.arange(2, width + 1) for width in WIDTHS[::2])
    a, b, c = (part.ravel() for part in np.meshgrid(*grids, indexing="ij"))
    kernels = {256: a + a * a, 64: a * b + b * b, 16: b * c + c * c}  # {positions: pairs of channels}
    found = sum(positions * 9 * pairs for positions, pairs in kernels.items()) + 10 * c
    counts = sum(9 * pairs for pairs in kernels.values()) + 4 * (a + b + c) + 10 * c + 10
    fits = (found >= macs) & (found <= 1.02 * macs) & (counts >= least) & (counts <= 1.02 * least)
    if not fits.any():
        raise ValueError(f"no VGG has {macs:,} MACs and {least:,} parameters, to within 2 %.")
    shares = np.log(np.stack([a / WIDTHS[0], b / WIDTHS[2], c / WIDTHS[4]]))
    place = np.where(fits, np.ptp(shares, axis=0), np.inf).argmin()
    return int(a[place]), int(b[place]), int(c[place])


def narrow(like: nn.Module, seed: int) -> nn.Module:
    """Build a new VGG with about the MACs and parameters of another network."""
    a, b, c = narrow_widths(cost.macs(like, example_of(glyphs())), parameters(like))
    return models.build("vgg", widths=[a, a, "M", b, b, "M", c, c], in_channels=1, seed=seed).eval()


def renewed(network: nn.Module, seed: int) -> nn.Module:
    """Give a network new weights, in place."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in network.modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
    return network
