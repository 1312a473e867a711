"""Chapter 06's exercises in parts: the right way to do each, and the typical wrong ones with their hints."""

from collections.abc import Mapping

import numpy as np

from course_lib.checks.ways import RIGHT, Part

__all__ = ["BIASES", "CLIPS", "INTEGERS", "PERCENTILE", "RANGE", "ROUNDINGS", "SUMS", "ZEROS"]

ROUNDINGS: Part = {
    RIGHT: np.rint,
    "Halves go to the even integer (np.rint, round); yours go up.": lambda v: np.floor(v + 0.5),
    "Rounding down moves every value by half a step on average. Round to the nearest.": np.floor,
    "Round to the nearest integer; cutting off the fraction moves every value towards 0.": np.trunc,
}


RANGE: Mapping[str, Part] = {
    "range": {
        RIGHT: lambda low, high: (min(low, 0.0), max(high, 0.0)),
        "The range does not hold 0. Widen it first, so that 0 has an integer of its own.": lambda low, high: (
            low,
            high,
        ),
    },
    "scale": {
        RIGHT: lambda low, high, bits: (high - low) / (2**bits - 1),
        "256 integers have 255 steps between them: divide by 2**bits - 1.": lambda low, high, bits: (
            (high - low) / 2**bits
        ),
        "You divide by 255 whatever the bits are.": lambda low, high, bits: (high - low) / 255,
        "That is the symmetric scale, max(|low|, |high|) / (2**(bits - 1) - 1).": lambda low, high, bits: (
            max(-low, high) / (2 ** (bits - 1) - 1)
        ),
        "Upside down: the scale is the real distance of two neighbouring integers.": lambda low, high, bits: (
            (2**bits - 1) / (high - low)
        ),
    },
    "zero": {
        RIGHT: lambda low, high, step, bits: round(-low / step),
        "The zero point has the wrong sign. It is the integer of 0, counted up from `low`.": (
            lambda low, high, step, bits: round(low / step)
        ),
        "That is the zero point of signed integers. Unsigned ones begin at 0.": (
            lambda low, high, step, bits: round(-low / step) - 2 ** (bits - 1)
        ),
        "The zero point is no whole number. Round it, or 0 has no integer.": (
            lambda low, high, step, bits: -low / step
        ),
        "The zero point is cut off. Round it to the nearest.": lambda low, high, step, bits: int(-low / step),
        "The zero point is counted from the wrong end: from `high`.": (
            lambda low, high, step, bits: round(high / step)
        ),
        "That is the zero point of a symmetric map, 0.": lambda low, high, step, bits: 0,
    },
}


INTEGERS: Mapping[str, Part] = {
    "steps": {
        RIGHT: lambda v, s: v / s,
        "You multiply by the scale. Divide: how many steps is the value away from 0?": lambda v, s: v * s,
    },
    "round": ROUNDINGS | {"Round to whole numbers.": lambda v: v},
    "zero": {
        RIGHT: lambda v, z, near: near(v) + z,
        "Round first, then add the zero point: an odd one turns the halves around.": lambda v, z, near: near(
            v + z
        ),
        "You subtract the zero point. That is the way back; here it is added.": lambda v, z, near: (
            near(v) - z
        ),
        "The zero point is missing.": lambda v, z, near: near(v),
    },
    "clip": {
        RIGHT: lambda q, z, n: np.clip(q, 0, n),
        "Values outside the range must saturate: clip to [0, 2**bits - 1].": lambda q, z, n: q,
        "Integers above the highest must saturate too: clip at both ends.": lambda q, z, n: np.maximum(q, 0),
        "Integers below 0 must saturate too: clip at both ends.": lambda q, z, n: np.minimum(q, n),
        "Outside the range your integers wrap around instead of saturating. Clip before you convert.": (
            lambda q, z, n: q % (n + 1)
        ),
        "These are the integers of a signed map. Unsigned ones run from 0 on.": (
            lambda q, z, n: np.clip(q, -(n + 1) // 2, n // 2)
        ),
        "You clip before the zero point is added. Clip last.": lambda q, z, n: np.clip(q - z, 0, n) + z,
        "You clip to 255 whatever the bits are.": lambda q, z, n: np.clip(q, 0, 255),
    },
}


PERCENTILE: Mapping[str, Part] = {
    "bin": {
        RIGHT: lambda c, p: int(np.searchsorted(c.cumsum(), p)),
        '"At least" that share: a bin that reaches it exactly is the one.': (
            lambda c, p: int(np.searchsorted(c.cumsum(), p, side="right"))
        ),
        "You add up from the right: that is where the first values lie, not the last.": (
            lambda c, p: int(np.searchsorted(c[::-1].cumsum(), p))
        ),
        "You look for `percent` as a share of 1: divide it by 100.": lambda c, p: 0,
        "That is the largest value: nothing is clipped. Add up the counts from the left.": lambda c, p: len(
            c
        ),
        "That many percent of the *range*. It is the share of the *values* that counts.": (
            lambda c, p: p / 100 * len(c)
        ),
    },
    "edge": {
        RIGHT: lambda place, width: place * width,
        "That is the right edge of the bin. The value lies somewhere in it; NVIDIA's rule takes the left edge.": (
            lambda place, width: (place + 1) * width
        ),
        "That is the centre of the bin; NVIDIA's rule takes the left edge.": (
            lambda place, width: (place + 0.5) * width
        ),
        "That is the number of the bin. Times the width it is a value.": lambda place, width: float(place),
    },
}


_NARROW = "The products do not fit into 8 bits. Convert to a wider integer (int32) before you multiply."
SUMS: Part = {
    RIGHT: lambda w, q, z: int((w.astype(int) * (q.astype(int) - z)).sum()),
    _NARROW: lambda w, q, z: int((w.astype(int) * (q.astype(int) - z)).astype(np.int8).sum(dtype=np.int8)),
    "x minus its zero point wraps around in uint8. Convert to int32 before you subtract.": (
        lambda w, q, z: int((w * (q - np.uint8(z))).sum())
    ),
    "The zero point of x is not subtracted.": lambda w, q, z: int((w.astype(int) * q).sum()),
    "The zero point of x is added; it must be subtracted.": lambda w, q, z: int(
        (w.astype(int) * (q.astype(int) + z)).sum()
    ),
}
BIASES: Part = {
    RIGHT: lambda total, bias: total + bias,
    "The bias is missing.": lambda total, bias: total,
    "The bias is cut to 8 bits; it belongs to the sum, in 32 bits.": (
        lambda total, bias: total + np.asarray(bias).astype(np.int8).astype(int)
    ),
}
ZEROS: Part = {
    RIGHT: lambda total, m, z, near: near(total * m) + z,
    "Round first, then add the zero point of y: an odd one turns the halves around.": (
        lambda total, m, z, near: near(total * m + z)
    ),
    "The zero point of y is missing.": lambda total, m, z, near: near(total * m),
    "Add the zero point of y after the multiplication.": lambda total, m, z, near: near((total + z) * m),
    "The multiplier is missing.": lambda total, m, z, near: near(total) + z,
}
CLIPS: Part = {
    RIGHT: lambda q: np.clip(q, 0, 255),
    "Saturate: clip to [0, 255] at the end.": lambda q: q,
    "The result wraps around in uint8. Clip to [0, 255] before you convert.": lambda q: q % 256,
}
