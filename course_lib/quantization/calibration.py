r"""Calibration: from the values that a tensor takes on calibration images to the range that its integers cover.

A wide range rounds coarsely, a narrow one clips; a method picks the point between. A new method is a function of the
histogram's counts and takes its place beside the others::

    def three_sigma(counts, width, **_):
        centres = (np.arange(len(counts)) + 0.5) * width
        return 3 * np.sqrt(np.average(centres**2, weights=counts))

    METHODS["three sigma"] = three_sigma
"""

import math
import warnings
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from course_lib.quantization import _thresholds
from course_lib.quantization._checks import check_flag, check_real
from course_lib.validation import check_choice, check_count, check_number, described

__all__ = ["METHODS", "PUBLISHED", "ClippingWarning", "Histogram"]

_Counts = Int64[np.ndarray, "bins"]

_SMALLEST = 2.0**-149  # float32 above 0


class ClippingWarning(UserWarning):
    """A range clips so many values that it is hardly meant; the message names the tensor, where it has a name."""


class Histogram:
    r"""Histogram of the sizes :math:`|x|` of a tensor's values, however many batches they come in.

    Bin k counts the values with :math:`k \cdot width \le |x| < (k + 1) \cdot width`. The width is the smallest power
    of two at which all values fit, so that it depends on the largest of them alone. Where a larger one comes,
    neighbouring bins merge in pairs, which moves no value across an edge. So the counts are the same for every split
    into batches and every order, and the last value lies in the upper half of the bins.

    Args:
        bins: number of bins, at least 2.

    Attributes:
        bins: as given.
        count: number of values seen.
        zeros: how many of them are exactly 0.
        minimum, maximum: the smallest and largest value seen, exactly; inf and -inf before the first.

    Raises:
        TypeError, ValueError: `bins` is no whole number of at least 2.

    Example:
        >>> histogram = Histogram(bins=4)
        >>> histogram.update(torch.tensor([-0.5, 1.0, 3.5]))
        >>> histogram, histogram.counts.tolist(), histogram.range("max")
        (Histogram(bins=4): 3 values in [-0.5, 3.5], [1, 1, 0, 1], (-0.5, 3.5))
    """

    def __init__(self, bins: int = 2048):
        self.bins = check_count(bins, "bins", low=2)
        self.count = self.zeros = 0
        self.minimum, self.maximum = math.inf, -math.inf
        self._counts = np.zeros(bins, dtype=np.int64)
        self._exponent = _exponent(0.0, bins)

    @property
    def counts(self) -> _Counts:
        """Counts, int64, up to the last bin that is not empty: more than half of `bins`, or one if all values are 0."""
        return self._counts[: int(self.largest / self.width) + 1].copy()

    @property
    def width(self) -> float:
        """Width of each bin: a power of two."""
        return math.ldexp(1.0, self._exponent)

    @property
    def largest(self) -> float:
        r"""Largest :math:`|x|` seen, exactly; 0 before the first value."""
        return max(0.0, -self.minimum, self.maximum)

    @property
    def edges(self) -> Float64[np.ndarray, "edges"]:
        """Edges of the bins, float64, one more than counts: bin k runs from edges[k] to edges[k + 1]."""
        return np.arange(len(self.counts) + 1) * self.width

    def __repr__(self) -> str:
        seen = f"{self.count:,} values in [{self.minimum:g}, {self.maximum:g}]" if self.count else "empty"
        return f"Histogram(bins={self.bins}): {seen}"

    def update(self, x: Float[Tensor, "*shape"]) -> None:
        """Count the values of a tensor, in float32.

        Args:
            x: floating point, finite, of any shape; none of its values is kept. An empty one changes nothing.

        Raises:
            TypeError: `x` is no floating-point tensor.
            ValueError: `x` holds NaN or infinity, or numbers beyond float32. Nothing is counted then.
        """
        check_real(x, "x")
        x = x.detach().float().flatten()
        if not len(x):
            return
        low, high = (bound.item() for bound in x.aminmax())
        if not math.isfinite(low) or not math.isfinite(high):
            raise ValueError(
                f"x holds {'NaN' if math.isnan(low) else 'infinity (in float32)'}; a histogram counts finite numbers, "
                "and has counted nothing of x. Look for a diverged network, or one that overflows in half precision."
            )
        exponent = _exponent(max(-low, high), self.bins)
        # A product with a power of two is exact, but 2^160 is none of float32; so in two steps. What is rounded on the
        # way, being too small for float32, belongs to bin 0 anyway.
        half = -exponent // 2
        places = (x.abs() * 2.0**half * 2.0 ** (-exponent - half)).int()
        counts = torch.bincount(places, minlength=self.bins).cpu().numpy()
        self._add(counts, exponent, len(x), len(x) - int(x.count_nonzero()), low, high)

    def merge(self, other: "Histogram") -> None:
        """Count the values that another histogram has counted, as if they had been given to this one.

        Args:
            other: with as many bins; it is left as it is.

        Raises:
            TypeError: `other` is no Histogram.
            ValueError: it has another number of bins.
        """
        if not isinstance(other, Histogram):
            raise TypeError(f"other is {described(other)}; it must be a Histogram.")
        if other.bins != self.bins:
            raise ValueError(
                f"other has {other.bins} bins and this histogram {self.bins}; give both the same."
            )
        self._add(other._counts, other._exponent, other.count, other.zeros, other.minimum, other.maximum)

    def threshold(
        self, method: str, *, bits: int = 8, signed: bool = True, percentile: float = 99.99
    ) -> float:
        r"""Choose the :math:`|x|` from which on the integers saturate.

        - "max": the largest :math:`|x|`; nothing is clipped.
        - "percentile": the left edge of the bin in which a share of percentile / 100 of the values is reached.
        - "mse": the least squared error of values rounded and clipped.
        - "entropy": the least relative entropy of the clipped histogram to itself in as many levels as integers, among
          the thresholds that clip at most :math:`\max(1/levels, 1\,\%)` of the values outside of the first bin.
        - "published entropy": the same among all thresholds, as published, which can clip nearly everything.

        The last three try the bins from 128 on. They take values for the centre of their bin, and see no rounding that
        is finer than a bin.

        Args:
            method: a name in METHODS or PUBLISHED.
            bits: width of the integers, 2 to 16.
            signed: whether half of the integers are for negative numbers, which leaves :math:`2^{b-1}` levels for
                :math:`|x|`; else it has :math:`2^b`.
            percentile: in percent, from 1 to 100, for the method of that name.

        Returns:
            A number above 0 and at most the largest :math:`|x|`; 0 where all values are 0.

        Raises:
            TypeError: an argument of the wrong type.
            ValueError: an unknown method; the histogram is empty, or has too few bins for so many levels; bits or
                percentile out of range.

        References:
            Migacz, "8-bit Inference with TensorRT", GTC 2017 (entropy); Wu et al., "Integer Quantization for Deep
            Learning Inference: Principles and Empirical Evaluation", 2020, section 3.3 (max, percentile and entropy
            side by side).
        """
        function = _check_method(method)
        check_count(bits, "bits", low=2, high=16)
        check_flag(signed, "signed")
        _check_percentile(percentile)
        self._check_filled()
        if self.largest == 0:
            return 0.0
        found = function(self.counts, self.width, levels=2 ** (bits - signed), percentile=percentile)
        return min(check_number(found, f"the threshold of method {method!r}", low=0), self.largest)

    def clipped(self, threshold: float, *, bits: int = 8, signed: bool = True) -> float:
        r"""Tell the share of the values other than 0 that saturate, and so lose more than rounding would take.

        .. math:: |x| > threshold + s / 2, \qquad s = \frac{threshold}{levels - 1}

        Counted in whole bins: of the one in which that limit lies, none.

        Args:
            threshold: at least 0, as the method `threshold` gives it.
            bits, signed: as there.

        Returns:
            A share in [0, 1]; 0 where all values are 0.

        Raises:
            TypeError, ValueError: an argument of the wrong type, or out of range; the histogram is empty.

        Example:
            >>> histogram = Histogram()
            >>> histogram.update(torch.tensor([0.0, 1.0, 1.0, 1.0, 5.0]))
            >>> histogram.clipped(1.0)
            0.25
        """
        check_number(threshold, "threshold", low=0)
        check_count(bits, "bits", low=2, high=16)
        check_flag(signed, "signed")
        self._check_filled()
        levels = 2 ** (bits - signed)
        limit = threshold * (1 + 0.5 / (levels - 1))
        inside = math.ceil(limit / self.width)
        return int(self.counts[max(inside, 1) :].sum()) / max(self.count - self.zeros, 1)

    def range(
        self,
        method: str,
        *,
        bits: int = 8,
        signed: bool | None = None,
        percentile: float = 99.99,
        name: str | None = None,
    ) -> tuple[float, float]:
        r"""Choose the range that the integers cover, as `affine.choose_params` takes it.

        .. math:: low = \max(-threshold,\ \min(minimum, 0)), \qquad high = \min(threshold,\ \max(maximum, 0))

        After ReLU it is [0, threshold]; with "max" it is the minimum and maximum, widened to hold 0. Both tails are
        clipped at one threshold; where the short one does not reach it (SiLU, GELU), it ends at the minimum.

        Where more than :math:`\max(1/levels, 1\,\%)` of the values other than 0 are `clipped`, a ClippingWarning says
        so. The methods of METHODS stay below that on ordinary data, unless the percentile is low.

        Args:
            method, bits, percentile: as in `threshold`.
            signed: as in `threshold`; where not given, whether values lie on both sides of 0, so that data without
                negative numbers has all 2^bits levels to itself.
            name: of the tensor, for the warning.

        Returns:
            (low, high), with low <= 0 <= high.

        Raises:
            TypeError, ValueError: as `threshold`.
        """
        if name is not None and not isinstance(name, str):
            raise TypeError(
                f"name is {name!r:.80} ({type(name).__name__}); it must be that of a tensor, or None."
            )
        if signed is None:
            signed = self.minimum < 0 < self.maximum
        threshold = self.threshold(method, bits=bits, signed=signed, percentile=percentile)
        share = self.clipped(threshold, bits=bits, signed=signed)
        most = _thresholds.most_clipped(2 ** (bits - signed))
        if share > most:
            warnings.warn(
                f"{'' if name is None else f'tensor {name!r}: '}{method!r} ends the range at {threshold:.3g} and clips "
                f"{share:.1%} of the values other than 0, which reach {self.largest:.3g}; at {bits} bits more than "
                f"{most:.1%} of them is hardly meant. Take 'mse', 'entropy' or 'max', or a percentile nearer to 100.",
                ClippingWarning,
                stacklevel=2,
            )
        return max(min(self.minimum, 0.0), -threshold), min(max(self.maximum, 0.0), threshold)

    def _check_filled(self) -> None:
        if not self.count:
            raise ValueError(
                "the histogram is empty; give it the values on calibration images with update() first."
            )

    def _add(
        self, counts: np.ndarray, exponent: int, count: int, zeros: int, low: float, high: float
    ) -> None:
        """Add the counts of a histogram of as many bins, of the width 2^exponent."""
        wider = max(exponent, self._exponent)
        self._counts = _merged(self._counts, wider - self._exponent) + _merged(counts, wider - exponent)
        self._exponent = wider
        self.count += count
        self.zeros += zeros
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)


def _exponent(largest: float, bins: int) -> int:
    """The smallest e such that largest < bins * 2^e; the largest that is told from 0 is the smallest float32."""
    largest = max(largest, _SMALLEST)
    exponent = math.frexp(largest)[1] - math.frexp(bins)[1]
    return exponent + (largest >= math.ldexp(bins, exponent))


def _merged(counts: np.ndarray, doublings: int) -> np.ndarray:
    """The counts in bins 2^doublings times as wide, filled up with empty ones."""
    merged = np.zeros_like(counts)
    np.add.at(merged, np.arange(len(counts)) >> doublings, counts)
    return merged


METHODS: dict[str, Callable[..., float]] = {
    "max": _thresholds.largest,
    "percentile": _thresholds.percentile,
    "mse": _thresholds.mse,
    "entropy": _thresholds.entropy,
}
"""Name to ``function(counts, width, *, levels, percentile) -> threshold``.

`counts` and `width` are those of the histogram; `levels` is the number of integers for ``|x|``. A function that needs
only some of these takes the rest as ``**_``. A threshold beyond the largest value becomes that value.

:meta hide-value:
"""

PUBLISHED: dict[str, Callable[..., float]] = {"published entropy": _thresholds.published_entropy}
"""As METHODS, for methods as they were published, which can clip nearly everything: to learn from and compare with.

:meta hide-value:
"""


def _check_method(method: object) -> Callable[..., float]:
    known = METHODS | PUBLISHED
    return known[check_choice(method, "calibration method", known)]


def _check_percentile(percentile: object) -> float:
    percentile = check_number(percentile, "percentile", low=0, high=100, low_open=True)
    if percentile < 1:
        raise ValueError(
            f"percentile is {percentile:g}; it is in percent, and this would clip more than 99 of 100 values. "
            f"For a share of {percentile:g} give {100 * percentile:g}."
        )
    return percentile
