"""Rows of the tables of chapter 00: costs counted and timed, what fits a device, variants, and the sources' numbers."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import torchvision

from course_lib.cost import Cost, Latency, format_bytes, format_count
from course_lib.experiments.chapter00 import ratios

__all__ = ["FLASH", "MEMORY", "VGG16", "counted", "fits", "sources", "timed", "variants"]

FLASH, MEMORY = 1_000_000, 320_000
"""Bytes of the microcontroller STM32F746 (Lin et al., "MCUNet", NeurIPS 2020)."""

VGG16: Mapping[str, Any] = torchvision.models.VGG16_Weights.IMAGENET1K_V1.meta
"""What torchvision states of VGG-16, without a download."""

_VGG16_CONVOLUTIONS = 14_714_688  # parameters; the rest of VGG-16 lies in three linear layers
_PHOTO = 4000 * 3000 / 224**2  # a photograph in images of 224 x 224


def counted(costs: Mapping[str, Cost], of_batch: Mapping[str, Cost]) -> list[dict[str, str]]:
    """Costs of each network on one image, and its peak on a batch."""
    return [
        {
            "network": name,
            "parameters": f"{c.parameters:,}",
            "file": format_bytes(c.bytes),
            "MACs": format_count(c.macs),
            "peak, 1 image": format_bytes(c.peak_activation_bytes),
            "peak, 64 images": format_bytes(of_batch[name].peak_activation_bytes),
        }
        for name, c in costs.items()
    ]


def timed(
    on_one: Mapping[str, Sequence[float]],
    on_batch: Mapping[str, Sequence[float]],
    library: Mapping[str, Latency],
) -> list[dict[str, str]]:
    """Times of one image and of a batch, in milliseconds and relative to the first network."""
    first = next(iter(on_one))
    one, batch = (ratios(seconds, to=first) for seconds in (on_one, on_batch))
    return [
        {
            "network": name,
            "1 image, our loop": f"{median(on_one[name]) * 1e3:.3g} ms",
            "cost.latency": str(library[name]),
            "64 images, our loop": f"{median(on_batch[name]) * 1e3:.3g} ms",
            f"1 image, to {first}": f"{one[name]:.2f}",
            f"64 images, to {first}": f"{batch[name]:.2f}",
        }
        for name in on_one
    ]


def fits(costs: Mapping[str, Cost]) -> list[dict[str, str]]:
    """Whether the weights of each network fit the flash and its activations the memory; with VGG-16 at the end."""
    sizes = {name: (c.bytes, c.peak_activation_bytes) for name, c in costs.items()}
    # The peak of VGG-16 on one photograph lies at its second convolution, 64 channels in and out.
    sizes["VGG-16, ImageNet"] = (4 * VGG16["num_params"], 4 * 2 * 64 * 224**2)
    return [
        {
            "network": name,
            "weights": format_bytes(weights),
            "1 MB of flash": _fit(weights, FLASH),
            "activations": format_bytes(peak),
            "320 kB of memory": _fit(peak, MEMORY),
        }
        for name, (weights, peak) in sizes.items()
    ]


def _fit(size: float, most: float) -> str:
    return "fits" if size <= most else f"{size / most:,.{0 if size >= 10 * most else 1}f} times too large"


def variants(costs: Mapping[str, Cost], times: Mapping[str, float]) -> list[dict[str, str]]:
    """Costs of each variant as a fraction of the first."""
    base = next(iter(costs.values()))
    return [
        {
            "variant": name,
            "not zero": f"{c.nonzero_parameters / base.nonzero_parameters:.2f}",
            "file": f"{c.bytes / base.bytes:.2f}",
            "peak activations": f"{c.peak_activation_bytes / base.peak_activation_bytes:.2f}",
            "MACs": f"{c.macs / base.macs:.2f}",
            "time": f"{times[name]:.2f}",
        }
        for name, c in costs.items()
    ]


def sources(
    costs: Mapping[str, Cost], *, zeros: Mapping[str, str], macs_a_second: float
) -> list[dict[str, str]]:
    """The sources' statements beside what was found here.

    Args:
        costs: of the chapter's networks.
        zeros: the row of `variants` for the network with nine in ten weights zero.
        macs_a_second: of the chapter's VGG on this machine, one thread.
    """
    every = (
        torchvision.models.get_model_weights(name)
        for name in torchvision.models.list_models(torchvision.models)
    )
    megabytes = sorted(weights.DEFAULT.meta["_file_size"] * 2**20 / 1e6 for weights in every)
    above = sum(size > 300 for size in megabytes) / len(megabytes)
    shares = (f"{name} {c.peak_activation_bytes / c.bytes:.2f}" for name, c in costs.items() if name != "MLP")
    operations = VGG16["_ops"] * 1e9
    minutes = operations * _PHOTO / macs_a_second / 60
    linear = VGG16["num_params"] - _VGG16_CONVOLUTIONS  # each weight of a linear layer is used once
    rows = [
        (
            "a CNN trained on ImageNet usually takes 300 MB",
            f"{len(megabytes)} networks of torchvision: median {median(megabytes):.0f} MB, {above:.0%} above 300 MB",
            "it lies between AlexNet, 244 MB, and VGG-16, 553 MB; later ones come in every size",
        ),
        (
            "activations far exceed the parameters even at batch size 1",
            f"peak to file: {', '.join(shares)}",
            "not so for these networks and images; the peak grows with batch and image, the file does not",
        ),
        (
            "one image can take minutes on an embedded device",
            f"VGG-16 on 4000×3000 pixels at the MACs a second of our VGG: {minutes:.2g} minutes",
            "ours is a guess, scaled by MACs; it was not run on such a device",
        ),
        (
            "low rank: linear layers three times smaller, little speed",
            f"VGG-16's linear layers: {linear / VGG16['num_params']:.0%} of the parameters, {linear / operations:.1%} "
            "of the MACs",
            "they agree: the operations lie in the convolutions",
        ),
        (
            "zeroed weights need special libraries; activations stay dense",
            f"nine in ten zero: file {zeros['file']}, peak {zeros['peak activations']}, time {zeros['time']}",
            "they agree on what ordinary code does; no special library was tried",
        ),
        (
            "VGG from 20.04M to 2.25M parameters: operations fall by 88.8 %",
            f"1 − 2.25 / 20.04 = {1 - 2.25 / 20.04:.1%}",
            "that is the cut in parameters; chapter 03 counts both",
        ),
    ]
    return [dict(zip(("the sources say", "here", "why they differ"), row, strict=True)) for row in rows]
