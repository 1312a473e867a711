"""Chapter 08: what low rank, hashing and int8 save: disk, memory, MACs and time, counted and measured in turns."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from course_lib import cost, factorization, hashing
from course_lib.data import Dataset, to_float
from course_lib.experiments import chapter00, chapter08, chapter08_trained
from course_lib.experiments.chapter08_tables import ARMS
from course_lib.experiments.results import Results
from course_lib.quantization import onnx, workflow
from course_lib.statistics import Interval

__all__ = [
    "beside_document",
    "in_int8",
    "in_pytorch",
    "points",
    "saved",
    "saved_prose",
    "saved_rows",
    "time_share",
    "width_shares",
]


def time_share(part: nn.Module, whole: nn.Module, x: Tensor, rounds: int = 9) -> float:
    """Measure the time of a network as a share of another's, in turns."""
    seconds = chapter00.time_in_turns({"part": (part, x), "whole": (whole, x)}, rounds=rounds, calls=3)
    return float(chapter00.ratios(seconds, to="whole")["part"])


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


_Shares = Mapping[tuple[str, str], Mapping[str, float]]  # {(network, method): {cost: share of float32's}}.


def saved(
    mlp: nn.Module,
    vgg: nn.Module,
    hashed: nn.Module,
    dataset: Dataset,
    method: Callable[[nn.Module, int], nn.Module],
) -> _Shares:
    """Count and time each method on 64 images: disk, memory, MACs and time as shares of float32's."""
    pixels = dataset.test.images[:64]
    x, images = to_float(pixels), chapter08_trained.calibration_images(dataset)
    thin = chapter08.low_rank_network(mlp, "mlp", "1/3", "channel", method)
    decoded = hashing.decode_layers(hashed)
    found = {
        ("MLP", "low rank, 1/3"): in_pytorch(thin, mlp, x),
        ("MLP", "hashed 1/8, decoded at each call"): in_pytorch(hashed, mlp, x),
        ("MLP", "hashed 1/8, decoded once"): in_pytorch(decoded, mlp, x, file=chapter08.file_bytes(hashed)),
        ("MLP", "int8"): in_int8(mlp, images, pixels),
    }
    for form in factorization.FORMS:
        part = chapter08.low_rank_network(vgg, "vgg", "1/3", form, method)
        found["VGG", f"low rank, {form} form, 1/3"] = in_pytorch(part, vgg, x)
    return found | {("VGG", "int8"): in_int8(vgg, images, pixels)}


def saved_rows(shares: _Shares) -> list[dict[str, str]]:
    """Rows of the table of costs."""
    return [
        {"network": network, "method": method} | {cost: f"{share:.2f}" for cost, share in row.items()}
        for (network, method), row in shares.items()
    ]


def saved_prose(shares: _Shares, hashed: nn.Module) -> dict[str, Any]:
    """Figures of the prose about costs, as `page.figures` takes them."""
    return {
        "decode_time": (shares["MLP", "hashed 1/8, decoded at each call"]["time"], ".0f", "times"),
        "spatial_time": (shares["VGG", "low rank, spatial form, 1/3"]["time"], ".0%"),
        "file_hashed": f"{chapter08.file_bytes(hashed):,} bytes",
        "file_decoded": f"{chapter08.file_bytes(hashing.decode_layers(hashed)):,} bytes",
    }


def points(
    results: Results, mlp: nn.Module, vgg: nn.Module, method: Callable[[nn.Module, int], nn.Module]
) -> dict[str, tuple[float, float]]:
    """MACs and mean test accuracy of networks of low rank."""
    found = {}
    for title in ("MLP, 1/3", "VGG, spatial form, 1/3"):
        name, form, share = ARMS[title]
        whole = {"mlp": mlp, "vgg": vgg}[name]
        part = chapter08.low_rank_network(whole, name, share, form, method)
        arm = chapter08.tuned(chapter08.LOW_RANK, network=name, form=form, share=share)
        macs = cost.macs(part, torch.zeros(1, 1, 16, 16))
        found[title.replace(" form", "")] = float(macs), results.interval("test", **arm).mean
    return found


def beside_document(lost: Mapping[str, Interval], shares: _Shares) -> list[dict[str, str]]:
    """Rows of what the source document says, beside what was measured."""
    decoding, once = (shares["MLP", f"hashed 1/8, decoded {when}"] for when in ("at each call", "once"))
    vgg, mlp = shares["VGG", "low rank, spatial form, 1/3"], shares["MLP", "low rank, 1/3"]
    told = {
        "low rank: linear layers three times smaller": f"an MLP at a third: {lost['MLP, 1/3']:+.1%}",
        "low rank: hardly faster": f"time {vgg['time']:.2f} on the VGG, {mlp['time']:.2f} on the MLP",
        "hashing saves storage": f"{decoding['disk']:.2f} of the file",
        "hashing saves no memory": f"decoded once {once['memory']:.2f}, at each call {decoding['memory']:.2f}",
        "hashing saves no time": f"decoded at each call {decoding['time']:.0f} times the time",
    }
    return [{"the document": said, "here": found} for said, found in told.items()]
