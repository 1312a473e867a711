"""Checks of the exercises of chapter 07, putting it together."""

import copy
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from numbers import Real

import torch
from torch import Tensor, nn

from course_lib import checkpoints, data, distillation, jobs, training
from course_lib.checks import call, exercise, expect, judge, passed
from course_lib.data import Dataset
from course_lib.pruning.filters import filter_plan
from course_lib.pruning.recalibration import recalibrate_batch_norm
from course_lib.pruning.surgery import remove_channels
from course_lib.quantization import workflow

_Points = Mapping[str, tuple[float, float]]
"""{network: (cost, accuracy)}."""


@exercise(
    again="Parameters that are kept, times bits, divided by 8 bits a byte; then add the fixed bytes.",
    read="Shares multiply, and what is fixed stays",
)
def check_file_bytes(file_bytes: Callable[[int, float, int, int], int]) -> None:
    """Check a learner's size of a file, `file_bytes(parameters, kept, bits, fixed) -> int`.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> check_file_bytes(lambda parameters, kept, bits, fixed: round(parameters * kept * bits) + fixed)
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: That many bits, not bytes. A byte has 8 bits.
    """
    cases = [
        {"parameters": 1000, "kept": 0.25, "bits": 8, "fixed": 100},
        {"parameters": 1000, "kept": 0.75, "bits": 32, "fixed": 40},
        {"parameters": 4000, "kept": 0.125, "bits": 4, "fixed": 0},
    ]

    def right(parameters: int, kept: float, bits: int, fixed: int) -> int:
        return round(parameters * kept * bits / 8) + fixed

    judge(
        file_bytes,
        cases,
        right,
        [
            (
                lambda parameters, kept, bits, fixed: right(parameters, kept, bits, 0),
                "What is fixed is missing.",
            ),
            (
                lambda parameters, kept, bits, fixed: round((parameters * 4 + fixed) * kept * bits / 32),
                "What is fixed does not shrink: neither the cut nor the bits reach it. Add it at the end.",
            ),
            (
                lambda parameters, kept, bits, fixed: right(parameters, 1 - kept, bits, fixed),
                "`kept` is the share that stays, not the share that goes.",
            ),
            (
                lambda parameters, kept, bits, fixed: round(parameters * kept * bits) + fixed,
                "That many bits, not bytes. A byte has 8 bits.",
            ),
            (
                lambda parameters, kept, bits, fixed: round(parameters * kept * bits / 32) + fixed,
                "A parameter in float32 takes 4 bytes. bits / 32 is a share of those, not a number of bytes.",
            ),
            (
                lambda parameters, kept, bits, fixed: round(parameters * bits / 8) + fixed,
                "All parameters are counted, also those that are gone.",
            ),
        ],
    )
    passed("shares multiply, and what is fixed stays.")


@exercise(
    again="Keep p if no other q has q[0] <= p[0] and q[1] >= p[1]; a point does not beat itself.",
    read="Accuracy against cost",
)
def check_front(front: Callable[[_Points], Iterable[str]]) -> None:
    """Check a learner's Pareto front, `front(points) -> names`, with `points` {network: (cost, accuracy)}.

    Raises:
        NotYet: the answer is not right; the message names the likely mistake.

    Example:
        >>> check_front(lambda points: max(points))
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: Return the names of the networks that are left, such as a list.
    """
    cases: list[tuple[_Points, set[str]]] = [
        ({"a": (1, 0.5), "b": (2, 0.7), "c": (3, 0.6), "d": (4, 0.9), "e": (5, 0.2)}, {"a", "b", "d"}),
        ({"a": (5, 0.8), "b": (5, 0.7), "c": (6, 0.8), "d": (1, 0.1)}, {"a", "d"}),
    ]
    for points, right in cases:
        answer = call(front, dict(points))
        expect(
            isinstance(answer, Iterable) and not isinstance(answer, str),
            "Return the names of the networks that are left, such as a list.",
        )
        found = set(answer)
        unknown = found - set(points)
        expect(
            not unknown, f"{sorted(map(str, unknown))} are no networks; return names, the keys of `points`."
        )
        mistakes = {
            "Dearer is not better here: a network is beaten by one that costs no more and is right no less often.": (
                _left(points, lambda p, q: q[0] >= p[0] and q[1] >= p[1] and p != q)
            ),
            "Equal in one figure and worse in the other is beaten too: ask for 'no better' in both.": (
                _left(points, lambda p, q: q[0] < p[0] and q[1] > p[1])
            ),
            "Those are the networks that are beaten. Return the others.": set(points) - right,
            "The most accurate network alone is no front: a cheaper one that nothing beats belongs to it.": {
                max(points, key=lambda name: points[name][1])
            },
        }
        if found != right:
            for hint, wrong in mistakes.items():
                expect(found != wrong, hint)
            shown = ", ".join(
                f"{name}: {cost:g}, {accuracy:.0%}" for name, (cost, accuracy) in points.items()
            )
            expect(False, f"Of {shown} you keep {sorted(found)}; it should be {sorted(right)}.")
    passed("a network stays if no other is as cheap and as good, and better in one of the two.")


def _left(points: _Points, beaten: Callable[[tuple[float, float], tuple[float, float]], bool]) -> set[str]:
    """List the points that none of the others beats."""
    return {
        name
        for name, p in points.items()
        if not any(beaten(p, q) for other, q in points.items() if other != name)
    }


TARGET = 0.93
"""Validation accuracy, in int8, that is wanted after one epoch."""

_WIDTHS = (9, 27, 30, 20, 28, 45)
"""Filters that the chapter's cut of seed 0 leaves in each convolution."""

_USUAL = {"rate": 0.1, "batch_size": 128, "temperature": 4.0, "alpha": 0.5}
_RANGES = {"rate": (0, 10), "temperature": (0.1, 100), "alpha": (0, 1)}


@exercise(
    again="Change the learning rate alone, by a factor of three down and up, and look which way it goes. "
    "Then do the same with the temperature.",
    read="Mend a pipeline",
)
def check_my_settings(my_settings: Callable[[], Mapping[str, float]]) -> None:
    """Check a learner's settings of one epoch after the cut, `my_settings() -> {setting: number}`.

    Raises:
        NotYet: the settings are none, or the int8 network does not reach the target on validation images.

    Example:
        >>> check_my_settings(lambda: {"rate": 0.03})
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: Settings are missing: alpha, batch_size, temperature.
    """
    settings = call(my_settings)
    reached = one_epoch(settings)
    if reached < TARGET:
        told = f"Your settings reach {100 * reached:.1f} % on validation images; {100 * TARGET:.1f} % are wanted."
        if reached < 0.5:
            hint = "The training has come apart: the learning rate is far too high for this batch size."
        elif settings["batch_size"] > _USUAL["batch_size"]:
            hint = "One epoch with such large batches is few updates. Try smaller ones."
        elif settings["rate"] >= _USUAL["rate"]:
            hint = "The weights that stay are trained already: large steps undo what they know."
        else:
            hint = "Change one setting at a time: the learning rate first, then the teacher's part."
        expect(False, f"{told} {hint}")
    passed(f"one epoch after the cut reaches at least {100 * TARGET:.1f} % on validation images, in int8.")


def one_epoch(settings: object, on: str = "validation") -> float:
    """Train the chapter's cut of seed 0 for one epoch with these settings, round it, and measure it on a split.

    Args:
        settings: "rate", "batch_size", "temperature" and "alpha".
        on: "validation" or "test".

    Raises:
        NotYet: a setting is missing, unknown, of another type, or out of range.

    Example:
        >>> one_epoch({})
        Traceback (most recent call last):
            ...
        course_lib.checks.NotYet: Settings are missing: alpha, batch_size, rate, temperature.
    """
    _check_settings(settings)
    network = _trained(tuple(sorted(settings.items())))
    return 0.0 if network is None else training.evaluate(network, getattr(_dataset(), on))


def _check_settings(settings: object) -> None:
    expect(
        isinstance(settings, Mapping),
        f"my_settings returned {settings!r:.60}; return a dict with {', '.join(sorted(_USUAL))}.",
    )
    missing, unknown = sorted(set(_USUAL) - set(settings)), sorted(set(map(str, settings)) - set(_USUAL))
    expect(not missing, f"Settings are missing: {', '.join(missing)}.")
    expect(not unknown, f"Unknown settings: {', '.join(unknown)}.")
    for name, value in settings.items():
        number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        expect(number, f"{name} is {value!r:.60}; it must be a number.")
    batch = settings["batch_size"]
    expect(
        batch == int(batch) and 16 <= batch <= 1024,
        f"batch_size is {batch!r}; it must be a whole number from 16 to 1024.",
    )
    for name, (low, high) in _RANGES.items():
        value = settings[name]
        expect(low <= value <= high, f"{name} is {value!r}; it must lie between {low} and {high}.")
    expect(settings["rate"] > 0, "rate is 0: nothing would be learned.")


@functools.cache
def _dataset() -> Dataset:
    return data.load_dataset("glyphs")


@functools.cache
def _networks() -> tuple[nn.Module, nn.Module]:
    """The given network, and its cut."""
    given, dataset = checkpoints.load("glyphs-vgg"), _dataset()
    example = data.to_float(dataset.train.images[:1])
    layers = {name: layer for name, layer in given.named_modules() if isinstance(layer, nn.Conv2d)}
    ratios = {
        name: 1 - left / layer.out_channels
        for (name, layer), left in zip(layers.items(), _WIDTHS, strict=True)
    }
    small = remove_channels(given, example, filter_plan(given, example, ratios))
    recalibrate_batch_norm(small, [data.to_float(dataset.train.images[:500])])
    return given, small


@functools.cache  # settings that are tried again, as after their check, cost nothing
def _trained(settings: tuple[tuple[str, float], ...]) -> nn.Module | None:
    """The cut after one epoch, in int8; None if it has diverged."""
    return jobs.on_one_thread(_train, dict(settings))


def _train(settings: dict[str, float]) -> nn.Module | None:
    dataset, (given, small) = _dataset(), _networks()
    recipe = replace(
        checkpoints.CATALOGUE["glyphs-vgg"].recipe,
        epochs=1,
        schedule="cosine",
        channels_last=True,
        learning_rate=float(settings["rate"]),
        batch_size=int(settings["batch_size"]),
    )
    network = copy.deepcopy(small)
    teacher = copy.deepcopy(given).to(memory_format=torch.channels_last)

    def loss(logits: Tensor, batch: training.Batch) -> Tensor:
        with torch.no_grad():
            targets = teacher(batch.images)
        how = {name: float(settings[name]) for name in ("temperature", "alpha")}
        return distillation.distillation_loss(logits, targets, batch.labels, **how)

    training.fit(network, dataset, recipe, loss=loss, validate=False)
    network.to(memory_format=torch.contiguous_format).eval()
    if not all(parameter.isfinite().all() for parameter in network.parameters()):
        return None
    ranges = workflow.calibrate(workflow.collect(network, dataset.train.images[:500]), "mse")
    return workflow.quantize_model(network, ranges)
