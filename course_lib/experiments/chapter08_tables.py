"""Chapter 08: what its pages show of the experiments and of times, as rows, curves and named figures."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from course_lib import cost, factorization
from course_lib.data import to_float
from course_lib.experiments import chapter00, chapter08, chapter08_trained
from course_lib.experiments.results import Results
from course_lib.quantization import onnx, workflow
from course_lib.statistics import Interval

__all__ = [
    "ARMS",
    "curves",
    "in_int8",
    "in_pytorch",
    "losses",
    "quantized",
    "ranks_wanted",
    "time_share",
    "width_shares",
]

ARMS = {
    "MLP, 1/2": ("mlp", "channel", "1/2"),
    "MLP, 1/3": ("mlp", "channel", "1/3"),
    "MLP, 1/6": ("mlp", "channel", "1/6"),
    "VGG, channel form, 1/2": ("vgg", "channel", "1/2"),
    "VGG, channel form, 1/3": ("vgg", "channel", "1/3"),
    "VGG, spatial form, 1/2": ("vgg", "spatial", "1/2"),
    "VGG, spatial form, 1/3": ("vgg", "spatial", "1/3"),
}
"""{row of a figure: network, form and share}."""


def time_share(part: nn.Module, whole: nn.Module, x: Tensor, rounds: int = 9) -> float:
    """Measure the time of a network as a share of another's, in turns."""
    seconds = chapter00.time_in_turns({"part": (part, x), "whole": (whole, x)}, rounds=rounds, calls=3)
    return float(chapter00.ratios(seconds, to="whole")["part"])


# Low rank


def ranks_wanted(
    layers: Mapping[str, nn.Module],
    shares: Sequence[float],
    rank_by_energy: Callable[[list[float], float], int],
    largest_rank: Callable[[int, int], int],
) -> dict[str, tuple[Sequence[float], list[float]]]:
    """The rank that keeps a share of the energy, divided by the largest that saves: {layer: (shares, quotients)}."""
    found: dict[str, tuple[Sequence[float], list[float]]] = {}
    for name, layer in layers.items():
        values = factorization.singular_values(layer).tolist()
        most = largest_rank(*factorization.matricized(layer).shape)
        found[name] = shares, [rank_by_energy(values, share) / most for share in shares]
    return found


def losses(results: Results) -> dict[str, Interval]:
    """What each arm gains over the whole network tuned as long, each at its own rate."""
    found = {}
    for title, (name, form, share) in ARMS.items():
        of = chapter08.tuned(chapter08.LOW_RANK, network=name, form=form, share=share)
        over = chapter08.tuned(chapter08.LOW_RANK, network=name, form="channel", share="whole")
        found[title] = results.gain("test", of=of, over=over)
    return found


# Hashing


def curves(results: Results, share: str, lengths: Sequence[int]) -> dict[str, dict[float, Interval]]:
    """Accuracy of each kind of MLP over the epochs of its training, each at its own rate."""
    found: dict[str, dict[float, Interval]] = {}
    for kind, size in dict.fromkeys((run["kind"], run["share"]) for run in chapter08.HASHING.runs):
        if size not in (share, "1"):
            continue
        found[kind] = {
            epochs: results.interval(
                "test", **chapter08.tuned(chapter08.HASHING, kind=kind, share=size, epochs=epochs)
            )
            for epochs in lengths
        }
    return found


# Rounding


def quantized(
    calibrated: Results, trained: Results
) -> tuple[dict[str, dict[float, Interval]], dict[tuple[str, int], Interval]]:
    """Accuracy over bits, without training and in both forms of it; and what each form gains over others."""
    curve: dict[str, dict[float, Interval]] = {"calibration alone": {}, "folded": {}, "as usual": {}}
    gains: dict[tuple[str, int], Interval] = {}
    for bits in chapter08_trained.BITS:
        arm = chapter08_trained.start(bits)
        curve["calibration alone"][bits] = calibrated.interval("test", **arm)
        forms = {
            form: chapter08.tuned(chapter08_trained.TRAINED, form=form, **arm) for form in ("folded", "usual")
        }
        whole = chapter08.tuned(chapter08_trained.TRAINED, form="float32", bits=32)
        for form, title in (("folded", "folded"), ("usual", "as usual")):
            curve[title][bits] = trained.interval("test", **forms[form])
            gains[form, bits] = trained.over(calibrated, "test", of=forms[form], over=arm)
        gains["folded over usual", bits] = trained.gain("test", of=forms["folded"], over=forms["usual"])
        gains["against float32", bits] = trained.gain("test", of=forms["folded"], over=whole)
    return curve, gains


# What saves disk, memory and time


def in_pytorch(part: nn.Module, whole: nn.Module, x: Tensor, *, file: int | None = None) -> dict[str, float]:
    """Disk, memory and time of a network as shares of another's; memory is its weights and the peak of activations."""
    full, own = cost.measure(whole, x), cost.measure(part, x)
    memory = (own.bytes + own.peak_activation_bytes) / (full.bytes + full.peak_activation_bytes)
    return {
        "disk": (file or own.bytes) / full.bytes,
        "memory": memory,
        "MACs": own.macs / full.macs,
        "time": time_share(part, whole, x),
    }


def in_int8(network: nn.Module, images: Tensor, x: Tensor) -> dict[str, float]:
    """The same of the network in int8, against float32, both in ONNX Runtime.

    Args:
        network: in float32.
        images: to calibrate with, bytes.
        x: the batch that is timed, bytes.
    """
    example = to_float(images[:1])
    with tempfile.TemporaryDirectory() as folder:
        whole, part = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        onnx.export(workflow.fold_batch_norm(network, example), example, whole)
        onnx.quantize(whole, part, images=images, method="mse")
        ratios = [
            onnx.latency(part, x, min_seconds=0.03).median / onnx.latency(whole, x, min_seconds=0.03).median
            for _ in range(5)
        ]
        sizes = part.stat().st_size, whole.stat().st_size
    activations = cost.measure(network, to_float(x)).peak_activation_bytes
    # One byte for each number in place of four; the sums in 32 bits are gone before the next layer.
    memory = (sizes[0] + activations / 4) / (sizes[1] + activations)
    return {"disk": sizes[0] / sizes[1], "memory": memory, "MACs": 1.0, "time": sorted(ratios)[2]}


def width_shares(
    widths: Sequence[int], *, share: float = 1 / 3
) -> dict[str, tuple[Sequence[float], list[float]]]:
    """Time of one 3 x 3 convolution in two thin parts, as a share of the whole one's, over its channels."""
    found: dict[str, tuple[Sequence[float], list[float]]] = {}
    for form in factorization.FORMS:
        values = []
        for width in widths:
            conv, x = nn.Conv2d(width, width, 3, padding=1), torch.rand(16, width, 16, 16)
            rank = factorization.rank_for_budget(conv, share, form=form)
            values.append(time_share(factorization.factorize_layer(conv, rank, form=form), conv, x, rounds=5))
        found[f"time, {form} form"] = widths, values
    return found | {"MACs": (widths, [share] * len(widths))}
