"""The bench of chapter 02: its network with a share of each layer's weights gone, tuned and weighed."""

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real

from torch import Tensor, nn

from course_lib import checkpoints, data, jobs, training
from course_lib.checks import expect
from course_lib.pruning import masks, storage
from course_lib.training import Recipe

__all__ = ["MOST_BYTES", "MOST_LOSS", "Outcome", "advice", "check", "outcome", "sizes", "weighed"]

MOST_BYTES, MOST_LOSS = 0.25, 0.01
"""Share of the dense bytes that may be left, and accuracy that may be lost on validation images."""

_TUNE = Recipe(epochs=3, learning_rate=0.03, augment="shift", channels_last=True)


@dataclass(frozen=True)
class Outcome:
    """What becomes of the network.

    Attributes:
        size: share of the dense bytes, weights as bitmaps.
        lost: validation accuracy before, minus after.
        left: share of weights left in each layer.
        network: pruned and tuned.
    """

    size: float
    lost: float
    left: dict[str, float]
    network: nn.Module


def sizes() -> dict[str, int]:
    """Count the weights of each layer of the chapter's network.

    Example:
        >>> sizes()
        {'0': 144, '3': 2304, '7': 4608, '10': 9216, '14': 18432, '17': 36864, '22': 640}
    """
    named = checkpoints.load("glyphs-vgg-narrow").named_parameters()
    return {name.removesuffix(".weight"): weight.numel() for name, weight in named if weight.ndim > 1}


def outcome(ratios: Mapping[str, float]) -> Outcome:
    """Prune each layer by magnitude, the share that `ratios` says; fine-tune for three epochs; weigh and judge.

    Args:
        ratios: {layer: share that goes, in [0, 1]}; a layer that is missing stays whole.
    """
    return _outcome(_shares(ratios))


def check(ratios: object) -> None:
    """Raise NotYet unless `ratios` gives layers of the network a share in [0, 1].

    Example:
        >>> check({"17": 0.9})
    """
    expect(isinstance(ratios, Mapping), f"Return a dict {{layer: share}}, not a {type(ratios).__name__}.")
    unknown = [name for name in ratios if name not in sizes()]
    expect(not unknown, f"There is no layer {unknown[:1]}. The layers are {list(sizes())}.")
    for name, share in ratios.items():
        fits = isinstance(share, Real) and 0 <= share <= 1
        expect(fits, f"Layer {name!r} has the ratio {share!r:.40}; it is a share that goes, from 0 to 1.")


def advice(ratios: Mapping[str, float]) -> str:
    """Say what ratios that lose too much point at.

    Example:
        >>> advice({"0": 0.9})
        'Layers of few weights save few bytes: leave them whole, or nearly.'
    """
    if max(ratios.get("0", 0.0), ratios.get("22", 0.0)) > 0.5:
        return "Layers of few weights save few bytes: leave them whole, or nearly."
    return "Take less from the layers whose row in the scan goes dark early."


def weighed(ratios: Mapping[str, float]) -> float:
    """Compute the share of the dense bytes that is left, weights as bitmaps; nothing is trained.

    Example:
        >>> round(weighed({}), 3)  # the bits of the bitmap come on top
        1.031
    """
    network = checkpoints.load("glyphs-vgg-narrow")
    whole = _bytes(network, dense=True)
    return _bytes(_pruned(network, _shares(ratios))[0]) / whole


def _shares(ratios: Mapping[str, float]) -> tuple[float, ...]:
    return tuple(round(float(ratios.get(name, 0.0)), 6) for name in sizes())


def _pruned(network: nn.Module, shares: tuple[float, ...]) -> tuple[nn.Module, dict[str, Tensor]]:
    """A copy with the smallest weights of each layer at zero, and its masks."""
    small = copy.deepcopy(network)
    keep = {
        f"{name}.weight": masks.magnitude_mask(small.get_parameter(f"{name}.weight"), share)
        for name, share in zip(sizes(), shares, strict=True)
    }
    masks.zero(small, keep)
    return small, keep


@functools.cache  # the chapter shows what the check has measured
def _outcome(shares: tuple[float, ...]) -> Outcome:
    dataset, network = data.load_dataset("glyphs"), checkpoints.load("glyphs-vgg-narrow")
    before = jobs.on_one_thread(training.evaluate, network, dataset.validation)
    small, keep = _pruned(network, shares)
    masks.freeze(small, keep)
    jobs.on_one_thread(functools.partial(training.fit, validate=False), small, dataset, _TUNE)
    masks.make_permanent(small)
    left = {name.removesuffix(".weight"): mask.double().mean().item() for name, mask in keep.items()}
    after = jobs.on_one_thread(training.evaluate, small, dataset.validation)
    return Outcome(_bytes(small) / _bytes(network, dense=True), before - after, left, small)


def _bytes(network: nn.Module, *, dense: bool = False) -> int:
    """Bytes of all parameters; weights as bitmaps unless `dense`, all others dense."""
    return sum(
        storage.dense_bytes(p.detach()) if dense or p.ndim < 2 else storage.bitmap_bytes(p.detach())
        for p in network.parameters()
    )
