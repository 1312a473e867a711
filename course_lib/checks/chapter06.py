"""Checks of the exercises of chapter 06, post-training quantization."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.checks import NotYet, call, exercise, expect, passed
from course_lib.checks.quantized import BIASES, CLIPS, INTEGERS, PERCENTILE, RANGE, ROUNDINGS, SUMS, ZEROS
from course_lib.checks.ways import RIGHT, Part, judge_ways, number, shown
from course_lib.experiments import chapter06_network


@exercise(
    again="Widen the range so that it holds zero. How many steps lie between 2**bits integers? The zero point is the "
    "whole number on which 0.0 falls.",
    read="Seven numbers",
)
def check_range_to_integers(range_to_integers: Callable[[float, float, int], tuple[float, int]]) -> None:
    """Check a learner's asymmetric map, `range_to_integers(low, high, bits) -> (scale, zero_point)`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake, or two that come together.

    Example:
        >>> check_range_to_integers(lambda low, high, bits: (high - low) / 255)
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: Return two numbers, scale and zero point; not 0.0156863.
    """
    ranges = ((-1.0, 3.0, 8), (-0.3, 0.2, 8), (2.0, 6.0, 8), (-5.0, -1.0, 8), (-1.0, 3.0, 4))
    cases = [dict(zip(("low", "high", "bits"), case, strict=True)) for case in ranges]
    answers = []
    for case in cases:
        pair = call(range_to_integers, *case.values())
        try:
            pair = list(pair)
        except TypeError:
            pair = [pair]
        expect(
            len(pair) == 2, f"Return two numbers, scale and zero point; not {', '.join(map(shown, pair))}."
        )
        answers.append([number(pair[0], "The scale"), number(pair[1], "The zero point")])

    def compute(way: Mapping[str, Any], low: float, high: float, bits: int) -> list[float]:
        low, high = way["range"](low, high)
        scale = way["scale"](low, high, bits)
        step = (high - low) / (2**bits - 1)
        # The zero point may be right though the scale is upside down.
        return [scale, way["zero"](low, high, step if np.isclose(scale * step, 1) else scale, bits)]

    def alike(one: Any, two: Any) -> bool:
        return np.allclose(one, two, rtol=1e-5, atol=1e-9)

    judge_ways("range_to_integers", answers, cases, RANGE, compute, alike)
    passed("scale and zero point, and 0 always has an integer of its own.")


@exercise(
    again="What is the value in units of the scale? Round that first.",
    read="Seven numbers",
)
def check_to_integers(to_integers: Callable[[np.ndarray, float, int, int], Sequence[int]]) -> None:
    """Check a learner's quantization, `to_integers(values, scale, zero_point, bits) -> integers`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake, or two that come together.

    Example:
        >>> check_to_integers(lambda values, scale, zero_point, bits: np.rint(values / scale) + zero_point)
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: Values outside the range must saturate: clip to [0, 2**bits - 1].
    """
    values = np.array([-999.0, -9.0, -0.75, -0.25, 0.0, 0.25, 0.4, 0.75, 1.25, 126.6, 999.0])
    cases = [
        {"values": values, "scale": 0.5, "zero_point": zero_point, "bits": bits}
        for zero_point, bits in ((3, 8), (4, 8), (3, 4))
    ]
    answers = []
    for case in cases:
        answer = call(to_integers, *(case | {"values": values.copy()}).values())
        try:
            answer = np.asarray(answer, dtype=float)
        except (TypeError, ValueError, RuntimeError) as error:
            raise NotYet(f"Return an array of whole numbers, not {answer!r:.60}.") from error
        expect(
            answer.shape == values.shape,
            f"Return {len(values)} integers, one for each value; not {list(answer.shape)}.",
        )
        expect(not np.isnan(answer).any(), "Your integers hold NaN.")
        answers += [answer]

    def compute(
        way: Mapping[str, Any], values: np.ndarray, scale: float, zero_point: int, bits: int
    ) -> np.ndarray:
        q = way["zero"](way["steps"](values, scale), zero_point, way["round"])
        return way["clip"](q, zero_point, 2**bits - 1)

    judge_ways("to_integers", answers, cases, INTEGERS, compute)
    passed("rounded to the nearest, halves to even, and saturated at both ends.")


@exercise(
    again="np.cumsum(counts) over their sum says what share each bin reaches. Which is the first with enough?",
    read="What a threshold costs",
)
def check_percentile_threshold(percentile_threshold: Callable[[Sequence[int], float, float], float]) -> None:
    """Check a learner's threshold, `percentile_threshold(counts, width, percent) -> threshold`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake, or two that come together.

    Example:
        >>> check_percentile_threshold(lambda counts, width, percent: len(counts) * width)
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: That is the largest value: nothing is clipped. Add up the counts from the left.
    """
    counts = np.array([50, 30, 0, 15, 4, 1])
    cases = [{"counts": counts, "width": 0.25, "percent": p} for p in (90.0, 75.0, 80.0, 99.5)]
    answers = [
        number(call(percentile_threshold, *(case | {"counts": counts.copy()}).values()), "The threshold")
        for case in cases
    ]

    def compute(way: Mapping[str, Any], counts: np.ndarray, width: float, percent: float) -> float:
        return float(way["edge"](way["bin"](counts, percent), width))

    judge_ways(
        "percentile_threshold",
        answers,
        cases,
        PERCENTILE,
        compute,
        lambda one, two: bool(np.isclose(one, two)),
    )
    passed("the left edge of the bin in which the share of the values is reached.")


@exercise(
    again="Cast to int32 before anything else. Which sum stands in the brackets of the formula?",
    read="A neuron in integers",
)
def check_integer_neuron(
    integer_neuron: Callable[[Sequence[int], int, Sequence[int], int, float, int], int],
) -> None:
    """Check a learner's integer neuron, `integer_neuron(x, x_zero_point, weight, bias, multiplier, y_zero_point)`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake, or two that come together.

    Example:
        >>> def neuron(x, x_zero_point, weight, bias, multiplier, y_zero_point):
        ...     total = (weight.astype(int) * (x.astype(int) - x_zero_point)).sum()
        ...     return np.clip(round(total * multiplier) + y_zero_point, 0, 255)
        >>> check_integer_neuron(neuron)
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: The bias is missing.
    """
    names = "x", "x_zero_point", "weight", "bias", "multiplier", "y_zero_point"
    numbers = (
        ([200, 180, 3], 10, [90, -120, 7], 9100, 0.01, 128),
        ([255, 255, 255], 0, [127, 127, 127], -80_000, 0.02, 0),
        ([0, 40, 5], 20, [-3, 5, 1], 36, 0.5, 3),  # a sum of 181, and 90.5 goes to 90
        ([0, 40, 5], 20, [-3, 5, 1], 38, 0.5, 3),  # 91.5 goes to 92
        ([9, 40, 5], 20, [-3, -5, 1], 3, 0.5, 60),  # below 0
        ([9, 4, 5], 2, [-100, -50, 1], 3, 0.5, 60),  # below 0 with its zero point
    )
    cases = [dict(zip(names, case, strict=True)) for case in numbers]
    for case in cases:
        case["x"], case["weight"] = np.array(case["x"], np.uint8), np.array(case["weight"], np.int8)
    answers = []
    for case in cases:
        answer = call(integer_neuron, *(copy.copy(value) for value in case.values()))
        expect(
            np.size(answer) == 1 if not isinstance(answer, Tensor) else answer.numel() == 1,
            f"Return one integer, the sum over all inputs; not {answer!r:.60}.",
        )
        answers.append(number(answer, "The result"))
    parts = {"sum": SUMS, "bias": BIASES, "round": ROUNDINGS, "zero": ZEROS, "clip": CLIPS}

    def compute(way: Mapping[str, Any], **case: Any) -> float:
        total = way["bias"](way["sum"](case["weight"], case["x"], case["x_zero_point"]), case["bias"])
        q = way["zero"](total, case["multiplier"], case["y_zero_point"], way["round"])
        return float(way["clip"](q))

    judge_ways("integer_neuron", answers, cases, parts, compute, lambda one, two: one == two)
    passed("a 32-bit sum of 8-bit products, brought back to 8 bits.")


@exercise(
    again="Write what batch norm does to an output of the convolution. What multiplies the weight, what is left over?",
    read="An int8 network of your own",
)
def check_fold(fold: Callable[[nn.Module, nn.Module], tuple[Tensor, Tensor]]) -> None:
    """Check a learner's folding, `fold(conv, norm) -> (weight, bias)`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake, or two that come together.

    Example:
        >>> check_fold(lambda conv, norm: (conv.weight, norm.bias))
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: The weight is that of the convolution: nothing is folded into it.
    """
    generator = torch.Generator().manual_seed(0)
    conv, norm = nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3, eps=0.1).eval()
    with torch.no_grad():
        conv.weight.copy_(torch.randn(conv.weight.shape, generator=generator))
        for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            values.copy_(torch.rand(3, generator=generator) + 0.3)
    before = [value.clone() for value in (conv.weight, *norm.state_dict().values())]
    answer = call(fold, conv, norm)
    expect(isinstance(answer, tuple | list) and len(answer) == 2, "Return two tensors: weight and bias.")
    for value, like, name in zip(answer, (conv.weight, norm.bias), ("weight", "bias"), strict=True):
        expect(isinstance(value, Tensor), f"The {name} is {type(value).__name__}; it must be a tensor.")
        expect(
            value.shape == like.shape,
            f"The {name} has shape {list(value.shape)}; it must be {list(like.shape)}.",
        )
    unchanged = zip(before, (conv.weight, *norm.state_dict().values()), strict=True)
    expect(
        all(map(torch.equal, *zip(*unchanged, strict=True))), "The layers have changed. Return new tensors."
    )
    expect(
        not torch.equal(answer[0], conv.weight),
        "The weight is that of the convolution: nothing is folded into it.",
    )
    parts: dict[str, Part] = {
        "deviation": {
            RIGHT: lambda: (norm.running_var + norm.eps).sqrt(),
            "eps is missing: batch norm adds it to the variance.": lambda: norm.running_var.sqrt(),
            "eps belongs under the root, to the variance.": lambda: norm.running_var.sqrt() + norm.eps,
            "You divide by the variance. Divide by the standard deviation.": lambda: (
                norm.running_var + norm.eps
            ),
        },
        "gamma": {
            RIGHT: lambda deviation: norm.weight / deviation,
            "Gamma, the weight of batch norm, is missing.": lambda deviation: 1 / deviation,
        },
        "shift": {
            RIGHT: lambda factor: norm.bias - factor * norm.running_mean,
            "The mean goes through the factor too: beta - factor * mean.": lambda factor: (
                norm.bias - norm.running_mean
            ),
            "The mean has the wrong sign.": lambda factor: norm.bias + factor * norm.running_mean,
            "Beta, the bias of batch norm, is missing.": lambda factor: -factor * norm.running_mean,
            "The mean is missing.": lambda factor: norm.bias,
            "Beta does not go through the factor.": lambda factor: factor * (norm.bias - norm.running_mean),
        },
        "axis": {
            RIGHT: lambda factor: factor[:, None, None, None],
            "The factor runs along the columns of the kernel. It belongs to the output channels: "
            "factor[:, None, None, None].": lambda factor: factor,
        },
    }

    def compute(way: Mapping[str, Any]) -> np.ndarray:
        factor = way["gamma"](way["deviation"]())
        weight, bias = conv.weight * way["axis"](factor), way["shift"](factor)
        return torch.cat([weight.flatten(), bias]).detach().numpy()

    found = torch.cat([value.detach().flatten().float() for value in answer]).numpy()
    judge_ways(
        "fold", [found], [{}], parts, compute, lambda one, two: np.allclose(one, two, rtol=1e-4, atol=1e-5)
    )
    passed("the folded convolution gives what convolution and batch norm give.")


@exercise(
    again="F.conv2d pads with 0. Of which tensor is 0 the right padding: of x, or of x minus its zero point?",
    read="An int8 network of your own",
)
def check_quantized_conv2d(quantized_conv2d: Callable[..., Tensor]) -> None:
    """Check a learner's integer convolution, `quantized_conv2d(x, x_zero_point, weight, bias, multiplier, ...)`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake, or two that come together.

    Example:
        >>> check_quantized_conv2d(lambda x, *rest: x)
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: The result has shape [2, 2, 5, 5]; it must be [2, 3, 5, 5].
    """
    generator = torch.Generator().manual_seed(0)
    cases = []
    for size, zeros in ((3, (60, 31)), (1, (0, 0))):
        multiplier = torch.tensor([0.004, 0.02, 0.5 if size == 1 else 0.001])
        cases.append(
            {
                "x": torch.randint(256, (2, 2, 5, 5), generator=generator).byte(),
                "x_zero_point": zeros[0],
                "weight": torch.randint(-127, 128, (3, 2, size, size), generator=generator).to(torch.int8),
                "bias": torch.tensor([3000, -5000, 4001], dtype=torch.int32),
                "multiplier": multiplier,
                "y_zero_point": zeros[1],
            }
        )
    answers = []
    for case in cases:
        copies = {name: value.clone() if isinstance(value, Tensor) else value for name, value in case.items()}
        answer = call(quantized_conv2d, *copies.values())
        expect(isinstance(answer, Tensor), f"Return a tensor, not {type(answer).__name__}.")
        padding = "" if answer.shape[-2:] == (5, 5) else " Pad with k // 2 on each side."
        expect(
            answer.shape == (2, 3, 5, 5),
            f"The result has shape {list(answer.shape)}; it must be [2, 3, 5, 5].{padding}",
        )
        expect(
            answer.dtype == torch.uint8,
            f"The result is {answer.dtype}; it must be torch.uint8 (clamp, then .byte()).",
        )
        answers.append(answer.numpy().astype(float))

    def convolved(x: Tensor, weight: Tensor, pad: int, value: float) -> np.ndarray:
        return F.conv2d(F.pad(x, (pad,) * 4, value=value), weight.double()).numpy()

    parts: dict[str, Part] = {
        "sum": {
            RIGHT: lambda x, w, z, pad: convolved(x.double() - z, w, pad, 0.0),
            "The padding is 0 in integers, which does not stand for 0. Subtract the zero point before you pad.": (
                lambda x, w, z, pad: convolved(x.double() - z, w, pad, -float(z))
            ),
            "The zero point of x is not subtracted.": lambda x, w, z, pad: convolved(x.double(), w, pad, 0.0),
            "x minus its zero point wraps around in uint8. Convert to double before you subtract.": (
                lambda x, w, z, pad: convolved((x - z).double(), w, pad, 0.0)
            ),
        },
        "bias": {
            RIGHT: lambda total, bias: total + bias,
            "The bias is missing.": lambda total, bias: total,
        },
        "round": ROUNDINGS,
        "zero": ZEROS,
        "clip": {
            RIGHT: lambda q: np.clip(q, 0, 255),
            "The result wraps around in uint8. Clamp to [0, 255] before you convert.": lambda q: q % 256,
        },
    }

    def compute(way: Mapping[str, Any], **case: Any) -> np.ndarray:
        weight = case["weight"]
        total = way["sum"](case["x"], weight, case["x_zero_point"], weight.shape[-1] // 2)
        total = way["bias"](total, case["bias"].numpy()[:, None, None]).astype(np.float32)
        multiplier = case["multiplier"].numpy()[:, None, None]
        return way["clip"](way["zero"](total, multiplier, case["y_zero_point"], way["round"])).astype(float)

    judge_ways("quantized_conv2d", answers, cases, parts, compute)
    passed("a convolution in integers, padded with what stands for 0.")


@exercise(
    again="Let the checks of the four functions pass first, each on its own.",
    read="An int8 network of your own",
)
def check_integer_vgg(*functions: Callable[..., Any]) -> None:
    """Run the VGG by a learner's four functions, and compare it with float32 and with ONNX Runtime.

    Args:
        functions: range_to_integers, to_integers, fold and quantized_conv2d.

    Raises:
        NotYet: it is further than half a point from float32, or more than one logit of 100 differs from ONNX Runtime's.

    Example:
        >>> from course_lib.experiments.chapter06_tables import range_to_integers, to_integers
        >>> check_integer_vgg(range_to_integers, to_integers, lambda conv, norm: conv.weight)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: integer_vgg raised TypeError: ...
    """
    told = chapter06_network.deployed()
    with torch.no_grad():
        logits = call(chapter06_network.integer_vgg, told.network, told.ranges, told.images, *functions)
    mine, floating = told.accuracy(logits), told.accuracy(told.logits["float32"])
    equal = (logits == told.logits["int8"]).double().mean().item()
    figures = (
        f"accuracy {mine:.1%}, in float32 {floating:.1%}; {equal:.2%} of the logits equal ONNX Runtime's"
    )
    expect(abs(mine - floating) <= 0.005 + 1e-9, f"Not within half a point: {figures}.")
    expect(
        equal >= 0.99,
        f"Near, but not the same integers: {figures}. Is the sum multiplied as float32, and rounded to even?",
    )
    passed(f"{figures}.")
