"""Chapter 01, beside the main line: schedules, teachers and ensembles, sizes of both, a head for another task."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import distillation, training
from course_lib.data import to_float
from course_lib.experiments import chapter01
from course_lib.experiments.chapter01 import SEED, SEEDS, TEACHER, Shared
from course_lib.experiments.experiment import Experiment, Run, Scale
from course_lib.experiments.results import Results
from course_lib.statistics import Interval
from course_lib.training import Recipe

__all__ = [
    "CAPACITY", "ENSEMBLES", "SCHEDULES", "SIZES", "TEACHERS", "TEACHER_NAMES", "all_schedules", "fit_head",
    "gain_at_own_rates", "gains_by_rate",
]  # fmt: skip

RATES = (0.003, 0.01, 0.03, 0.1)


def gain_at_own_rates(results: Results, of: Mapping[str, Any], over: Mapping[str, Any]) -> Interval:
    """Gain of one arm over another on test images, each at the learning rate that is best for it on validation images.

    Example:
        >>> rows = [
        ...     {"T": T, "rate": rate, "seed": seed, "validation": T * rate, "test": T + rate}
        ...     for T, rate in ((1, 0.1), (1, 0.3), (2, 0.1), (2, -0.3))
        ...     for seed in range(5)
        ... ]
        >>> gain_at_own_rates(Results(pd.DataFrame(rows), {}, ""), {"T": 2}, {"T": 1}).mean  # 2.1 - 1.3
        0.8
    """
    best = (results.best("validation", "rate", **arm) for arm in (of, over))
    return results.gain("test", of=next(best), over=next(best))


# Which learning rate, which schedule


def train_with_schedule(
    student: nn.Module,
    images: Tensor,
    labels: Tensor,
    targets: Tensor,
    loss: Callable[[Tensor, Tensor, Tensor], Tensor],
    *,
    epochs: int,
    rate: float,
    schedule: str,
    seed: int = 0,
    weight_decay: float = 0.0,
) -> nn.Module:
    """Train as `train_student` does, with another schedule of the learning rate."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=rate, weight_decay=weight_decay)
    recipe, steps = Recipe(learning_rate=rate, schedule=schedule), epochs * -(-len(images) // 128)
    generator = torch.Generator().manual_seed(seed)
    step = 0
    student.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images), generator=generator).split(128):
            optimizer.param_groups[0]["lr"] = training.learning_rate(recipe, step, steps)
            error = loss(student(to_float(images[batch])), targets[batch], labels[batch])
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
            step += 1
    return student


def measure_schedule(run: Run, shared: Shared, method: None) -> dict[str, Any]:
    """Train one student with the schedule of its run and judge it."""
    return chapter01.measure(run, shared, functools.partial(train_with_schedule, schedule=run["schedule"]))


_BY_SCHEDULE = tuple(
    {"images": images, "teacher": teacher, "schedule": schedule, "rate": rate, "seed": seed}
    for images in (1000, 10_000)
    for teacher in (None, TEACHER)
    for schedule in ("cosine", "step", "constant")
    for rate in RATES
    for seed in SEEDS
)
SCHEDULES = Experiment(
    "01-schedules",
    _BY_SCHEDULE,
    measure_schedule,
    chapter01.prepare,
    None,
    chapter01.DEFAULTS,
    live=(
        _BY_SCHEDULE.index(
            {"images": 1000, "teacher": TEACHER, "schedule": "cosine", "rate": 0.01, "seed": 0}
        ),
    ),
    seed=SEED,
)
"""Alone and distilled under three schedules, each at four rates; one_cycle stands in "01-labels"."""


def all_schedules(schedules: Results, labels: Results) -> Results:
    """Put the runs of "01-labels", whose schedule is one_cycle, beside those of "01-schedules"."""
    frame = labels.frame
    same = (frame["alpha"] == 0.1) & frame["images"].isin([1000, 10_000]) & frame["rate"].isin(RATES)
    one_cycle = frame[same].assign(schedule="one_cycle")
    whole = pd.concat([one_cycle, schedules.frame], ignore_index=True)
    return Results(whole, schedules.record, schedules.seed)


def gains_by_rate(results: Results, images: int, schedule: str) -> dict[str, Interval]:
    """Gain of the distilled student, with both arms at each of the rates, and with each arm at its own."""
    arm = {"images": images, "schedule": schedule}
    alone, taught = arm | {"teacher": None}, arm | {"teacher": TEACHER}
    found = {
        f"both at {rate}": results.gain("test", of=taught | {"rate": rate}, over=alone | {"rate": rate})
        for rate in RATES
    }
    return found | {"each at its own": gain_at_own_rates(results, taught, alone)}


# Which teacher

TEACHER_NAMES = ("glyphs-mlp", "glyphs-vgg", "glyphs-resnet", "glyphs-mobilenet")
ENSEMBLES = ("ensemble, arithmetic", "ensemble, geometric")
"""Mean of the four teachers' softened probabilities; of their logarithms."""


def prepare_teachers(runs: Sequence[Run], scale: Scale) -> Shared:
    """Ask each teacher once, and let the ensembles answer with one voice."""
    first = {**runs[0], "loss": "right"}
    asked = chapter01.prepare([first | {"teacher": name} for name in TEACHER_NAMES], scale)
    images, shifts, temperature = first["images"], first["shifts"], first["temperature"]
    logits = [asked.targets[name, images, shifts] for name in TEACHER_NAMES]
    for name in ENSEMBLES:
        mean = name.removeprefix("ensemble, ")
        together = distillation.ensemble_probabilities(logits, temperature, mean=mean)
        # Logits that soften to these probabilities at this temperature.
        asked.targets[name, images, shifts] = temperature * together.clamp_min(1e-12).log()
    return asked


_BY_TEACHER = tuple(
    {"teacher": teacher, "rate": rate, "seed": seed}
    for teacher in (None, *TEACHER_NAMES, *ENSEMBLES)
    for rate in (0.01, 0.03)
    for seed in SEEDS
)
TEACHERS = Experiment(
    "01-teachers",
    _BY_TEACHER,
    chapter01.measure,
    prepare_teachers,
    chapter01.train_student,
    chapter01.DEFAULTS,
    live=(_BY_TEACHER.index({"teacher": "ensemble, geometric", "rate": 0.01, "seed": 0}),),
    seed=SEED,
)
"""One student, taught by nobody, by four teachers and by two ensembles of them, each at two learning rates."""


# How large a teacher, how large a student

SIZES = ("glyphs-vgg-narrow", "glyphs-vgg", "glyphs-vgg-wide")
"""Three teachers of one family, each about four times larger than the one before."""

_BY_SIZE = tuple(
    {"filters": filters, "teacher": teacher, "rate": rate, "seed": seed}
    for filters in (4, 16, 64, 256)
    for teacher in (None, *SIZES)
    for rate in (0.01, 0.03, 0.1)
    for seed in SEEDS
)
CAPACITY = Experiment(
    "01-capacity",
    _BY_SIZE,
    chapter01.measure,
    chapter01.prepare,
    chapter01.train_student,
    chapter01.DEFAULTS,
    live=(_BY_SIZE.index({"filters": 16, "teacher": "glyphs-vgg", "rate": 0.03, "seed": 0}),),
    seed=SEED,
)
"""Four sizes of student with no teacher and with three, each at three learning rates."""


# The same teacher for another task


def fit_head(features: Tensor, labels: Tensor, *, penalty: float = 0.01) -> nn.Module:
    """Fit a linear layer on features of a network, each scaled to mean 0 and variance 1; as transfer learning does.

    Args:
        features: [N, D].
        labels: [N], 0 to K - 1.
        penalty: on the squared weights.

    Returns:
        A network from features to logits [N, K].

    Example:
        >>> features, labels = torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([0, 0, 1, 1])
        >>> fit_head(features, labels)(features).argmax(1)
        tensor([0, 0, 1, 1])
    """
    scale = nn.BatchNorm1d(features.shape[1], affine=False, momentum=None)
    scale(features)  # notes mean and variance
    head = nn.Linear(features.shape[1], int(labels.max()) + 1)
    nn.init.zeros_(head.weight)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=100)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(head(scale.eval()(features)), labels) + penalty * head.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return nn.Sequential(scale, head).eval()
