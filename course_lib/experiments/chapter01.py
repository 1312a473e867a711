"""Chapter 01: what a teacher adds, by labels, temperature, regularization, form of the loss and size of the student."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import checkpoints, distillation, models
from course_lib.data import Dataset, to_float
from course_lib.experiments.common import cut, glyphs, judged
from course_lib.experiments.experiment import Experiment, Run, Scale

__all__ = [
    "BUGS",
    "FAIR",
    "GAIN",
    "LABELS",
    "LOSSES",
    "RATES",
    "TEMPERATURE_ALPHA",
    "WHO",
    "ask",
    "by_autograd",
    "choose",
    "shifted",
    "train_student",
]

UPDATES, BATCH = 1200, 128
SEEDS = range(5)
TEACHER = "glyphs-vgg"
WHO = {"alone": None, "distilled": TEACHER}
"""The two arms of most comparisons, and their teacher."""

STUDENT = {"image_size": 16, "patch": 4, "filters": 64}
SEED = "the student's initial weights and the order of its images; teacher, training and test images stay"


# The method, as the chapter shows it


def ask(teacher: nn.Module, images: Tensor) -> Tensor:
    """Ask a teacher for its logits, [N, K]: in eval mode, without gradient, once, since the images do not change."""
    teacher.eval()
    with torch.no_grad():
        return torch.cat([teacher(to_float(part)) for part in images.split(500)])


def train_student(
    student, images, labels, targets, loss, *, epochs, rate, seed=0, weight_decay=0.0, watch=None
):
    """Train a student on labels and on the teacher's logits, `targets`; `loss` says what it pays for."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=rate, weight_decay=weight_decay)
    steps = epochs * -(-len(images) // 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        student.train()
        for batch in torch.randperm(len(images), generator=generator).split(128):
            logits = student(to_float(images[batch]))
            error = loss(logits, targets[batch], labels[batch])
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
            schedule.step()
        if watch is not None:
            watch(epoch, student)
    return student


# The losses that are compared


def smoothed(amount: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Make the loss of a student alone, with label smoothing or without."""
    return lambda logits, targets, labels: F.cross_entropy(logits, labels, label_smoothing=amount)


def _soft_term(logits: Tensor, targets: Tensor, temperature: float, form: str) -> Tensor:
    """The distillation term, right or with one of the bugs that look right."""
    student, teacher = logits / temperature, F.softmax(targets / temperature, 1)
    first = F.softmax(student, 1) if "probabilities" in form else F.log_softmax(student, 1)
    terms = F.kl_div(first, teacher, reduction="none")
    # The mean of all terms is what reduction="mean" computes; PyTorch itself warns about it.
    term = terms.mean() if "mean" in form else terms.sum(1).mean()
    return term if "no T²" in form else temperature**2 * term


LOSSES = (
    "right",
    "probabilities",
    "probabilities, no T²",
    "no T²",
    "mean",
    "no T², mean",
    "teacher in train mode",
)
"""Forms of the distillation loss: the right one, and bugs that look right."""


def loss_of(run: Run) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Make the loss of a run; a run without a teacher pays for labels alone."""
    if run["teacher"] is None:
        return smoothed(run["smoothing"])
    temperature, alpha, form = run["temperature"], run["alpha"], run["loss"]

    def loss(logits: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
        soft = _soft_term(logits, targets, temperature, form)
        return alpha * F.cross_entropy(logits, labels) + (1 - alpha) * soft

    return loss


# What the exercises ask for


def by_autograd(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """The gradient of the soft term for the student's logits, [N, K]."""
    logits = student_logits.clone().requires_grad_()
    distillation.distillation_loss(logits, teacher_logits, temperature=temperature, alpha=0).backward()
    return logits.grad


def choose(frame: pd.DataFrame, settings: list[str]) -> dict[str, Any]:
    """The values of the columns `settings` that are best on validation, in the mean over seeds."""
    means = frame.groupby(settings, dropna=False)["validation"].transform("mean")
    return frame.loc[means.idxmax(), settings].to_dict()


# What runs share


class Shared(NamedTuple):
    """What the runs of an experiment share.

    Attributes:
        dataset: to learn from and to judge on.
        targets: {(teacher, images, shifts): its logits for what a run sees, [N, K]}.
        scale: how much is done.
    """

    dataset: Dataset
    targets: dict[Any, Tensor]
    scale: Scale


def shifted(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Make all shifts of uint8 images by up to two pixels: [25 N, C, H, W], and their labels.

    An epoch of these is 25 epochs of images that are shifted at random, and a teacher is asked about each once.

    Example:
        >>> views, labels = shifted(torch.ones(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([3, 4]))
        >>> views.shape, labels[:3]
        (torch.Size([50, 1, 8, 8]), tensor([3, 4, 3]))
    """
    padded = F.pad(images, (2, 2, 2, 2))
    height, width = images.shape[2:]
    views = [padded[:, :, top : top + height, left : left + width] for top in range(5) for left in range(5)]
    return torch.cat(views), labels.repeat(len(views))


def seen(run: Run, dataset: Dataset) -> tuple[Tensor, Tensor]:
    """The training images and labels of a run: the first so many, and their shifts where it has them."""
    split = dataset.train.subset(torch.arange(min(run["images"], len(dataset.train))))
    return shifted(split.images, split.labels) if run["shifts"] else (split.images, split.labels)


def prepare(runs: Sequence[Run], scale: Scale) -> Shared:
    """Ask each teacher once for each set of images."""
    dataset = cut(glyphs(), scale)
    targets: dict[Any, Tensor] = {}
    for run in runs:
        key = (run["teacher"], run["images"], run["shifts"])
        if run["teacher"] is not None and key not in targets and run["loss"] != "teacher in train mode":
            targets[key] = ask(teacher_of(run["teacher"]), seen(run, dataset)[0])
    return Shared(dataset, targets, scale)


def teacher_of(name: str) -> nn.Module:
    """Load a teacher."""
    return checkpoints.load(name)


def student_of(run: Run) -> nn.Module:
    """Build the student of a run: one convolution and one linear layer, with dropout between them where it has it."""
    network = models.build("convnet_student", seed=run["seed"], **(STUDENT | {"filters": run["filters"]}))
    return nn.Sequential(
        network.conv1, network.relu, network.flatten, nn.Dropout(run["dropout"]), network.fc1
    )


def measure(run: Run, shared: Shared, method: Callable[..., nn.Module]) -> dict[str, Any]:
    """Train one student and judge it."""
    torch.manual_seed(run["seed"])  # of dropout
    images, labels = seen(run, shared.dataset)
    if run["teacher"] is None:
        targets = torch.zeros(len(images), 1)
    elif run["loss"] == "teacher in train mode":
        targets = AskedInTrainMode(teacher_of(run["teacher"]), images)
    else:
        targets = shared.targets[run["teacher"], run["images"], run["shifts"]]
    epochs = shared.scale.epochs(
        max(1, round(UPDATES * BATCH / len(images))), images=len(images), batch_size=BATCH
    )
    student = method(
        student_of(run),
        images,
        labels,
        targets,
        loss_of(run),
        epochs=epochs,
        rate=run["rate"],
        seed=run["seed"],
        weight_decay=run["weight_decay"],
    )
    return judged(student, shared.dataset)


class AskedInTrainMode:
    """Targets from a teacher left in train mode: they depend on the batch, and its statistics drift with each."""

    def __init__(self, teacher: nn.Module, images: Tensor):
        self.teacher, self.images = teacher.train(), images

    def __getitem__(self, batch: Tensor) -> Tensor:
        with torch.no_grad():
            return self.teacher(to_float(self.images[batch]))


DEFAULTS = {
    "teacher": None,
    "images": 1000,
    "shifts": False,
    "filters": 64,
    "rate": 0.01,
    "weight_decay": 0.0,
    "dropout": 0.0,
    "smoothing": 0.0,
    "temperature": 8,
    "alpha": 0.1,
    "loss": "right",
}


def experiment(name: str, runs: Sequence[Run], live: Sequence[Run] = ()) -> Experiment:
    """Make an experiment of this chapter."""
    places = tuple(list(runs).index(run) for run in live)
    return Experiment(name, tuple(runs), measure, prepare, train_student, DEFAULTS, live=places, seed=SEED)


# The experiments of the main line

RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
COUNTS = (250, 1000, 2500, 10_000)

GAIN = experiment(
    "01-gain",
    [
        {"teacher": teacher, "rate": rate, "seed": seed}
        for teacher, rate in ((None, 0.03), (TEACHER, 0.01))
        for seed in range(10)
    ],
    live=[{"teacher": None, "rate": 0.03, "seed": 0}, {"teacher": TEACHER, "rate": 0.01, "seed": 0}],
)
"""Alone against distilled on 1,000 labelled images, each at the rate that `LABELS` finds best for it on validation."""

LABELS = experiment(
    "01-labels",
    [
        {"images": images, "teacher": teacher, "alpha": alpha, "rate": rate, "seed": seed}
        for images in COUNTS
        for teacher, alpha in ((None, 0.1), (TEACHER, 0.1), (TEACHER, 0.0))
        if alpha or images == COUNTS[-1]
        for rate in RATES
        for seed in SEEDS
    ],
    live=[
        {"images": 10_000, "teacher": None, "alpha": 0.1, "rate": 0.01, "seed": 0},
        {"images": 10_000, "teacher": TEACHER, "alpha": 0.0, "rate": 0.03, "seed": 0},
    ],
)
"""Alone and distilled on few and many labelled images, and without any label (alpha 0), at five learning rates."""

TEMPERATURE_ALPHA = experiment(
    "01-temperature-alpha",
    [
        {"teacher": TEACHER, "temperature": temperature, "alpha": alpha, "seed": seed}
        for temperature in (1, 2, 4, 8, 16, 32)
        for alpha in (0.0, 0.1, 0.3, 0.6, 0.9)
        for seed in SEEDS
    ],
)
"""Every pair of temperature and weight of the labels."""

_TRIES = [
    {"shifts": shifts, "weight_decay": decay, "dropout": dropout, "rate": rate, "seed": seed}
    for shifts in (False, True)
    for decay in (0.0, 0.1)
    for dropout in (0.0, 0.3)
    for rate in (0.01, 0.03, 0.1)
    for seed in SEEDS
]
FAIR = experiment(
    "01-fair",
    [{"teacher": None, "smoothing": amount, **run} for amount in (0.0, 0.1) for run in _TRIES]
    + [{"teacher": TEACHER, "temperature": temperature, **run} for temperature in (4, 8) for run in _TRIES],
    live=[
        {
            "teacher": None,
            "smoothing": 0.1,
            "shifts": True,
            "weight_decay": 0.0,
            "dropout": 0.0,
            "rate": 0.01,
            "seed": 0,
        },
        {
            "teacher": TEACHER,
            "temperature": 8,
            "shifts": True,
            "weight_decay": 0.0,
            "dropout": 0.0,
            "rate": 0.01,
            "seed": 0,
        },
    ],
)
"""A student alone and a distilled one, each with 48 ways to regularize it, to choose from on validation images."""

BUGS = experiment(
    "01-bugs",
    [{"teacher": None, "rate": 0.03, "alpha": 0.1, "loss": "right", "seed": seed} for seed in SEEDS]
    + [
        {"teacher": "glyphs-vgg-narrow", "rate": 0.01, "alpha": alpha, "loss": loss, "seed": seed}
        for alpha in (0.1, 0.5)
        for loss in LOSSES
        for seed in SEEDS
    ],
    live=[{"teacher": "glyphs-vgg-narrow", "rate": 0.01, "alpha": 0.5, "loss": "probabilities", "seed": 0}],
)
"""Each bug that looks right beside the right loss and beside no teacher at all, at two weights of the labels."""
