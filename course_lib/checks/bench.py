"""The bench of chapter 05: a search may judge so many candidates of the chapter's network, at so many of its MACs."""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from course_lib import checkpoints, data, jobs, training
from course_lib.checks import NotYet
from course_lib.data import Split, to_float
from course_lib.pruning.filters import filter_plan
from course_lib.pruning.graph import Channels, follow
from course_lib.pruning.recalibration import recalibrate_batch_norm
from course_lib.pruning.surgery import remove_channels

__all__ = ["JUDGEMENTS", "MOST_MACS", "UNIFORM", "Judge"]

JUDGEMENTS, MOST_MACS, UNIFORM = 40, 0.355, 0.407
"""Candidates that may be judged, share of the MACs that may be left, and the ratio of the uniform strategy."""


class Judge:
    """Scores strategies of the chapter's network for a search, counts them, and remembers the best.

    Called with {layer: ratio}, it prunes, recalibrates on 500 training images and returns the accuracy on 1,000
    images of the hold-out. It raises NotYet if it is called more often than allowed, or with no strategy.

    Attributes:
        layers: names of the layers that can be pruned, from the input on.
        count: how many candidates have been judged.
        best: (score, ratios) of the best so far that leaves no more MACs than allowed.

    Example:
        >>> judge = Judge()
        >>> judge({"0": 0.0}) > 0.9, judge.count, judge.best
        (True, 1, (0.0, {}))
        >>> round(judge.share(judge.uniform), 3)
        0.345
    """

    def __init__(self) -> None:
        self.layers = _network().layers
        self.count = 0
        self.best: tuple[float, dict[str, float]] = (0.0, {})

    def __call__(self, ratios: Mapping[str, float]) -> float:
        self.check(ratios)
        self.count += 1
        if self.count > JUDGEMENTS:
            raise NotYet(
                f"{JUDGEMENTS} candidates are judged, and your search asks for one more. Stop before."
            )
        found = self.score(ratios)
        if self.share(ratios) <= MOST_MACS:
            self.best = max(self.best, (found, dict(ratios)), key=lambda pair: pair[0])
        return found

    @property
    def uniform(self) -> dict[str, float]:
        """The strategy in which every layer loses the same share."""
        return dict.fromkeys(self.layers, UNIFORM)

    def score(self, ratios: Mapping[str, float]) -> float:
        """Judge without counting."""
        return _score(self._widths(ratios))

    def share(self, ratios: Mapping[str, float]) -> float:
        """Compute the share of the MACs that is left, from the widths alone; that is free."""
        return _macs(self._widths(ratios)) / _macs(self._widths({}))

    def check(self, ratios: object) -> None:
        """Raise NotYet unless `ratios` gives layers of the network a ratio in [0, 1)."""
        if not isinstance(ratios, Mapping) or set(ratios) - set(self.layers):
            raise NotYet(f"{ratios!r:.80} is no strategy. Give a ratio for each layer: {{layer: ratio}}.")
        if not all(0 <= ratio < 1 for ratio in ratios.values()):
            raise NotYet(f"A ratio lies outside [0, 1): {dict(ratios)!r:.120}.")

    def _widths(self, ratios: Mapping[str, float]) -> tuple[int, ...]:
        whole = [_network().model.get_submodule(name).out_channels for name in self.layers]
        return tuple(
            n - min(round(ratios.get(name, 0.0) * n), n - 1)
            for name, n in zip(self.layers, whole, strict=True)
        )


class _Network(NamedTuple):
    model: nn.Module
    channels: Channels
    calibration: Tensor
    scoring: Split
    layers: list[str]


@functools.cache
def _network() -> _Network:
    dataset, model = data.load_dataset("glyphs"), checkpoints.load("glyphs-vgg-narrow")
    calibration = to_float(dataset.train.images[_drawn(len(dataset.train), 500)])
    scoring = dataset.validation.subset(_drawn(len(dataset.validation), 1000))
    layers = [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)]
    return _Network(model, follow(model, calibration[:1]), calibration, scoring, layers)


def _drawn(length: int, count: int) -> Tensor:
    """The images that `pruning.search` draws with seed 0."""
    return torch.from_numpy(np.random.default_rng(0).permutation(length))[:count]


@functools.cache  # a search that is run again, as after its check, costs nothing
def _score(widths: tuple[int, ...]) -> float:
    on = _network()
    whole = [on.model.get_submodule(name).out_channels for name in on.layers]
    ratios = {name: 1 - left / n for name, left, n in zip(on.layers, widths, whole, strict=True)}
    candidate = remove_channels(on.model, on.channels, filter_plan(on.model, on.channels, ratios))
    recalibrate_batch_norm(candidate, [on.calibration])
    return jobs.on_one_thread(training.evaluate, candidate, on.scoring)


def _macs(widths: Sequence[int]) -> int:
    """MACs of the VGG on 16x16 images: 3x3 convolutions at 16, 8 and 4 pixels, then a linear layer to 10 classes."""
    positions = (256, 256, 64, 64, 16, 16)
    pairs = zip(positions, (1, *widths[:-1]), widths, strict=True)
    return sum(p * 9 * a * b for p, a, b in pairs) + 10 * widths[-1]
