"""Draw random pruning strategies whose operations fall in a range."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from course_lib.pruning.eagleeye.widths import _Widths
from course_lib.pruning.graph import Channels
from course_lib.tracing import Example
from course_lib.validation import check_count, check_number

_DRAWS = 100_000  # random strategies that are tried before a range counts as out of reach
_AT_ONCE = 1000


@dataclass(frozen=True)
class Strategy:
    """Share of each layer that goes, and what is left of the operations.

    Attributes:
        ratios: {layer: share of its filters that go}, as `filters.filter_plan` takes them.
        macs: multiply-accumulates of the pruned network, as `cost.measure` counts them.
        mac_share: the same as a share of the whole network's.

    Example:
        >>> Strategy({"0": 0.5}, macs=1200, mac_share=0.5).ratios
        {'0': 0.5}
    """

    ratios: dict[str, float]
    macs: int
    mac_share: float


def sample_strategies(
    model: nn.Module,
    example: Example | Channels,
    *,
    count: int,
    mac_range: tuple[float, float],
    max_ratio: float,
    seed: int,
    round_to: int = 1,
) -> list[Strategy]:
    r"""Draw random pruning strategies whose operations fall in a range.

    For every group of filters that go together (see `graph.channel_groups`) a ratio is drawn,

    .. math:: r_g \sim U[0, r_{max}), \qquad
        low \le \frac{\mathrm{MACs}(pruned)}{\mathrm{MACs}(whole)} \le high

    and a draw outside the range is thrown away, like one that leaves the same widths as an earlier one, and one that
    takes every channel of a layer whose channels are tied to a part of another's. The MACs are computed from the
    widths, without building the network: the weights of a layer are used once at each of its output positions, and
    pruning changes how many weights there are, not how many positions. They are exactly those that `cost.measure`
    counts of the network that `filters.filter_plan` and `surgery.remove_channels` make.

    Args:
        model: network; it is left as it was.
        example: input [N, ...] of the dtype and on the device that the model runs on; or the channels of the model,
            as `graph.follow` gives them.
        count: how many strategies, all different.
        mac_range: (low, high), shares of the MACs that may be left, in (0, 1].
        max_ratio: the largest share of a layer's filters that may go, in (0, 1).
        seed: of the draws. The same seed gives the same strategies, and a smaller count the first of them.
        round_to: number that the widths become multiples of, such as 8; see `rounding`. The ratios of a strategy are
            then those of its rounded widths, which `filter_plan` meets without rounding; one of them may exceed
            `max_ratio` by what the rounding takes.

    Returns:
        `count` strategies, in the order in which they were drawn.

    Raises:
        TypeError: a number of another kind.
        ValueError: an empty or inverted range, a ratio outside (0, 1); operations outside of convolutions and linear
            layers; or a range that the draws do not meet often enough, with how near they came. Or as
            `channel_groups`.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 4, 3))
        >>> options = {"mac_range": (0.4, 0.6), "max_ratio": 0.7, "seed": 0}
        >>> [strategy] = sample_strategies(model, torch.rand(1, 1, 8, 8), count=1, **options)
        >>> strategy.macs, list(strategy.ratios)
        (3600, ['0'])

    References:
        Li et al., "EagleEye", ECCV 2020, section 3.2 (whose code adds its `min_rate` to ratios drawn up to `max_rate`,
        so that it moves both ends).
    """
    check_count(count, "count")
    check_count(seed, "seed", low=0)
    hint = "It is the largest share of a layer's filters that may go, such as 0.7."
    max_ratio = check_number(max_ratio, "max_ratio", low=0, high=1, low_open=True, high_open=True, hint=hint)
    low, high = _check_range(mac_range)
    widths = _Widths(model, example, check_count(round_to, "round_to"))
    generator = np.random.default_rng(seed)
    found: dict[bytes, Strategy] = {}
    nearest, inside = math.nan, 0
    for _ in range(0, _DRAWS, _AT_ONCE):
        ratios = max_ratio * generator.random((_AT_ONCE, len(widths.groups)))
        counts = widths.counts(ratios)
        if round_to > 1:
            ratios = counts / widths.sizes
        macs = widths.macs(counts)
        shares = widths.shares(macs)
        kept = (low <= shares) & (shares <= high)
        inside += int(kept.sum())
        distance = np.maximum(low - shares, shares - high)
        closest = distance.argmin()
        if not distance[closest] >= max(low - nearest, nearest - high):  # also while `nearest` is NaN
            nearest = float(shares[closest])
        for place in np.flatnonzero(kept):
            ratios_here = dict(zip(widths.names, ratios[place].tolist(), strict=True))
            strategy = Strategy(ratios_here, int(macs[place]), float(shares[place]))
            found.setdefault(counts[place].tobytes(), strategy)
            if len(found) == count:
                return list(found.values())
    came = f"the nearest has {nearest:.2%}" if not found else f"only {len(found)} different ones do"
    raise ValueError(
        f"of {_DRAWS:,} random strategies with ratios up to {max_ratio:g}, {inside:,} leave {low:.2%} to {high:.2%} of "
        f"the MACs, and {count} different ones were asked for: {came}. Widen mac_range, or change max_ratio; the range "
        f"must be one that draws meet, and they leave {_spread(widths, max_ratio)} of the MACs."
    )


def _spread(widths: _Widths, max_ratio: float) -> str:
    """The middle 90 % of the shares of MACs that ratios up to `max_ratio` leave, as a text."""
    ratios = max_ratio * np.random.default_rng(0).random((_AT_ONCE, len(widths.groups)))
    shares = widths.shares(widths.macs(widths.counts(ratios)))
    low, high = np.quantile(shares[np.isfinite(shares)], [0.05, 0.95])
    return f"{low:.0%} to {high:.0%} (the middle nine tenths of them)"


def _check_range(mac_range: object) -> tuple[float, float]:
    hint = "mac_range is (low, high), shares of the MACs that may be left, such as (0.48, 0.52)."
    if not isinstance(mac_range, Sequence) or isinstance(mac_range, str | bytes):
        raise TypeError(f"mac_range is {mac_range!r:.80}. {hint}")
    if len(mac_range) != 2:
        raise ValueError(f"mac_range is {mac_range!r:.80}, with {len(mac_range)} numbers. {hint}")
    low = check_number(mac_range[0], "the low end of mac_range", low=0, high=1, hint=hint)
    high = check_number(mac_range[1], "the high end of mac_range", low=0, high=1, low_open=True, hint=hint)
    if low > high:
        raise ValueError(f"mac_range is ({low:g}, {high:g}), which is inverted. {hint}")
    return low, high
