"""Calibration methods: from the counts of a histogram and the width of its bins to a threshold."""

import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64

_Counts = Int64[np.ndarray, "bins"]

_START = 128  # the first threshold that is tried, in bins
_SHARE = 0.01  # of the values, which any range may clip


def most_clipped(levels: int) -> float:
    r"""The share of the values other than 0 that a range may clip without a word: :math:`\max(1/levels,\ 1\,\%)`.

    What is clipped takes no more than one level's equal share, since few levels are best spent on a narrow range: the
    least squared error clips up to 8 % at 2 bits, 4 % at 3, 1.5 % at 4, 0.05 % at 8. The 1 % is measured at 8 bits on
    the checkpoints of this course, where healthy ranges clip up to 0.9 %. Where published entropy collapses it clips
    12 %. Kept to 1 % it loses 0.4 points against the best method there; kept to 2 %, 1.2 points.
    """
    return max(1 / levels, _SHARE)


def largest(counts: _Counts, width: float, **_) -> float:
    """The right edge of the last bin. The histogram, which knows the largest value exactly, takes no more than that."""
    return len(counts) * width


def percentile(counts: _Counts, width: float, *, percentile: float, **_) -> float:
    r"""The left edge of the first bin k with :math:`\sum_{i \le k} counts_i / total \ge percentile / 100`.

    The shares are summed in floating point, bin by bin, as NVIDIA's and ONNX Runtime's code does: where one of them is
    the percentage exactly, such as 9,999 values of 10,000, rounding decides between its bin and the next that is not
    empty. At least one bin, where most values are 0: a threshold of 0 would clip everything.
    """
    shares = (counts / counts.sum()).cumsum()
    return max(int(np.searchsorted(shares, percentile / 100)), 1) * width


def mse(counts: _Counts, width: float, *, levels: int, **_) -> float:
    r"""The bin centre t, from bin 128 on, with the least squared error.

    .. math::
        \sum_{bins} counts \cdot (c - s \cdot \min(\mathrm{round}(c / s),\ levels - 1))^2, \qquad
        s = \frac{t}{levels - 1}

    where c are the centres of the bins. Of equal ones the smallest.
    """
    _check_used(counts, levels)
    centres = np.arange(len(counts)) + 0.5
    errors = []
    for tried in _blocks(centres[_START:], len(counts)):
        scale = tried[:, None] / (levels - 1)
        rounded = np.minimum(np.rint(centres / scale), levels - 1) * scale
        errors.append((rounded - centres) ** 2 @ counts)
    return (_START + np.concatenate(errors).argmin() + 0.5) * width


def entropy(counts: _Counts, width: float, *, levels: int, **_) -> float:
    r"""As `published_entropy`, but no candidate clips more than `most_clipped` of the values outside of bin 0.

    Published as it is, the divergence says nothing of how much is clipped: where few bins are filled, each has a level
    of its own, p and q are alike, and clipping nearly everything is free. Of the remedies that were tried on the
    checkpoints of this course this is the one that moves no other threshold. ONNX Runtime and MXNet give each empty bin
    of p and q 0.0001 counts, which leaves the collapse of the network `glyphs-slimming-strong` and of numbers in
    [20, 30] as it is. Smoothing p and q over all bins, clipped ones too, mends these, but moves thresholds that were
    right.
    """
    _check_used(counts, levels)
    outside = counts.copy()
    outside[0] = 0
    beyond = outside.sum() - _cumulative(outside)
    first = int(np.argmax(beyond <= most_clipped(levels) * beyond[0]))
    return _least_divergent(counts, levels, max(_START, first)) * width


def published_entropy(counts: _Counts, width: float, *, levels: int, **_) -> float:
    r"""The edge of i bins, i from 128 on, with the least relative entropy :math:`\mathrm{KL}(p \| q)`.

    p is the histogram clipped at i: the counts r of the first i bins, the last with all that lies beyond it. q shares
    the counts of the first i bins among the levels, bin j going to level :math:`\lfloor j \cdot levels / i \rfloor`,
    and gives each bin that is not empty the mean m of those of its level. With R and M their sums,

    .. math:: \mathrm{KL} = \frac{1}{R} \left(\sum r \log r - \sum r \log m\right) - \log R + \log M

    Bin 0 counts as bin 1 does: the zeros after ReLU, which cost nothing to round, would outweigh the rest.
    """
    _check_used(counts, levels)
    return _least_divergent(counts, levels, _START) * width


def _least_divergent(counts: _Counts, levels: int, start: int) -> int:
    """The number of bins, `start` or more, with the least divergence.

    Sums over runs of bins are differences of cumulative sums, so that a table of candidates by levels is all that is
    worked out.
    """
    counts = counts.copy()
    counts[0] = counts[1]
    before = _cumulative(counts)
    filled = _cumulative(counts > 0)
    own = _cumulative(_x_log_x(counts))
    total = before[-1]
    divergences = []
    for tried in _blocks(np.arange(start, len(counts) + 1), levels):
        first = tried[:, None] * np.arange(levels + 1) / levels  # exact, since levels is a power of two
        borders = np.ceil(first).astype(np.int64)
        inside = np.diff(before[borders])
        mean_log = _log(inside / np.maximum(np.diff(filled[borders]), 1))
        last, beyond = counts[tried - 1], total - before[tried]
        last_log = mean_log[np.arange(len(tried)), (tried - 1) * levels // tried]
        reference = own[tried - 1] + _x_log_x(last + beyond)
        quantized = (inside * mean_log).sum(1) + beyond * last_log
        divergence = (reference - quantized) / total - np.log(total) + _log(before[tried])
        only_beyond = (last == 0) & (beyond > 0)  # p has mass where q has none
        divergences.append(np.where(only_beyond, np.inf, divergence))
    return start + int(np.concatenate(divergences).argmin())


def _check_used(counts: np.ndarray, levels: int) -> None:
    least = max(_START, levels)
    if len(counts) <= least:
        raise ValueError(
            f"the values lie in {len(counts)} bins, too few to choose a threshold for {levels} levels: that takes more "
            f"than {least}, which Histogram(bins={2 * least}) always has. Or take fewer bits, or the method 'max'."
        )


def _blocks(candidates: np.ndarray, columns: int) -> Iterator[np.ndarray]:
    """Parts of the candidates, such that a float64 table with so many columns fits into a processor's cache."""
    yield from np.array_split(candidates, math.ceil(len(candidates) * columns / 2**16))


def _cumulative(values: np.ndarray) -> np.ndarray:
    """Sums of the first 0, 1, 2, ... values."""
    return np.concatenate([[0], values.cumsum()])


def _log(values: np.ndarray) -> np.ndarray:
    """The logarithm, and 0 at 0."""
    return np.log(values, out=np.zeros(values.shape), where=values > 0)


def _x_log_x(values: np.ndarray) -> np.ndarray:
    return values * _log(values)
