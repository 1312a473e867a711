"""Thresholds of a histogram by NVIDIA's formulas, one bin at a time, as its two toolkits compute them.

Written from the description of calib/histogram.py in pytorch-quantization and in TensorRT Model Optimizer: a loop over
the candidates, in float64, and without the code that is tested.
"""

import math
from fractions import Fraction

import numpy as np
from scipy.stats import entropy as relative_entropy


def percentile(counts, width, percent):
    """The left edge where the cumulative share of values reaches the percentage, without rounding."""
    total, seen = int(counts.sum()), 0
    for place, count in enumerate(counts):
        seen += int(count)
        if Fraction(seen, total) >= Fraction(str(percent)) / 100:
            return place * width
    raise AssertionError("no bin reaches the percentage")


def squared_errors(counts, levels, start=128):
    """{place: error, in squared bins} of the centre of each bin as a threshold."""
    centres = np.arange(len(counts)) + 0.5
    found = {}
    for place in range(start, len(counts)):
        scale = (levels - 1) / centres[place]
        kept = np.clip(np.round(centres * scale), 0, levels - 1) / scale
        found[place] = float(((kept - centres) ** 2 * counts).sum())
    return found


def mse(counts, width, levels, start=128):
    errors = squared_errors(counts, levels, start)
    return (min(errors, key=errors.get) + 0.5) * width


def divergences(counts, levels, start=128):
    """{bins kept: relative entropy} of each candidate."""
    bins = np.array(counts, dtype=np.int64)
    bins[0] = bins[1]
    found = {}
    for kept in range(start, len(bins) + 1):
        inner = np.linspace(0, kept, levels + 1)
        level = np.searchsorted(inner, np.arange(kept), side="right") - 1
        sums, members = [0] * levels, [0] * levels
        for place in range(kept):
            if bins[place]:
                sums[level[place]] += int(bins[place])
                members[level[place]] += 1
        coarse = [sums[level[place]] / members[level[place]] if bins[place] else 0.0 for place in range(kept)]
        clipped = bins[:kept].copy()
        clipped[-1] += bins[kept:].sum()
        # Nothing kept is as bad as can be; scipy divides by zero there.
        found[kept] = relative_entropy(clipped, coarse) if any(coarse) else math.inf
    return found


def entropy(counts, width, levels, start=128):
    found = divergences(counts, levels, start)
    return min(found, key=found.get) * width
