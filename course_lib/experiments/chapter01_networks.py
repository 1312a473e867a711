"""Chapter 01: small students that come near their teacher, and what more than logits can pass on."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import distillation, models
from course_lib.data import Dataset, to_float
from course_lib.experiments import chapter01
from course_lib.experiments.chapter01 import BATCH, SEED, SEEDS, TEACHER, Shared
from course_lib.experiments.experiment import Experiment, Run, Scale

__all__ = ["COMPRESSION", "CONTROLS", "FEATURES", "METHODS", "PUBLISHED", "SAME_DATA", "WIDTHS"]

WIDTHS = {"small": (8, "M", 16, "M", 32), "medium": (8, "M", 16, 16, "M", 32, 32)}
"""Students of the compression experiment: VGGs with fewer and narrower convolutions."""

METHODS = ("alone", "classic", "decoupled", "hint", "attention")
"""What a student of the experiment with features may learn from."""

PUBLISHED = [
    {"source": source, "student": student, "teacher": teacher, "alone": alone, "distilled": distilled}
    for source, student, teacher, alone, distilled in (
        ("slides, CIFAR-10", "ResNet-18", "WideResNet-28-10", "94.175 %", "94.333 %"),
        ("slides, CIFAR-10", "ResNet-18", "PreResNet-110", "94.175 %", "94.531 %"),
        ("slides, CIFAR-10", "ResNet-18", "DenseNet-100", "94.175 %", "94.729 %"),
        ("slides, CIFAR-10", "ResNet-18", "ResNeXt-29-8", "94.175 %", "94.788 %"),
        ("slides, a set of fireworks", "MobileNetV3", "ResNeXt50-32x4d", "95.22 %", "96.37 %"),
        ("article, MNIST", "one filter", "two convolutions", "65.84 %", "72.86 %"),
        ("Tian and others (2020), CIFAR-100", "resnet20", "resnet56", "69.06 %", "70.66 %"),
    )
]
"""What the sources of the chapter print: accuracies of one run each."""


# Compression: all labels, shifts, long training


def measure_compression(run: Run, shared: Shared, method: Callable[..., nn.Module]) -> dict[str, Any]:
    """Train one small VGG on all images in all their shifts, and judge it."""
    images, labels = chapter01.seen(run, shared.dataset)
    network = models.build("vgg", seed=run["seed"], widths=WIDTHS[run["student"]])
    if run["teacher"] is None:
        targets = torch.zeros(len(images), 1)
    else:
        targets = shared.targets[run["teacher"], run["images"], run["shifts"]]
    epochs = shared.scale.epochs(run["epochs"], images=len(images), batch_size=BATCH)
    student = method(
        network,
        images,
        labels,
        targets,
        chapter01.loss_of(run),
        epochs=epochs,
        rate=run["rate"],
        seed=run["seed"],
        weight_decay=run["weight_decay"],
    )
    return chapter01.judged(student, shared.dataset)


COMPRESSION = Experiment(
    "01-compression",
    tuple(
        {"student": student, "teacher": teacher, "rate": rate, "seed": seed}
        for student in WIDTHS
        for teacher in (None, TEACHER)
        for rate in (0.01, 0.03, 0.1)
        for seed in SEEDS
    ),
    measure_compression,
    chapter01.prepare,
    chapter01.train_student,
    {
        "images": 10_000,
        "shifts": True,
        "epochs": 1,  # of all 25 shifts: each image is seen 25 times
        "weight_decay": 0.01,
        "smoothing": 0.0,
        "temperature": 4,
        "alpha": 0.1,
        "loss": "right",
    },
    live=(),
    seed=SEED,
)
"""Two small VGGs, alone and distilled from one that is 16 and 46 times larger, each at three learning rates."""


# A teacher that has seen no more than its student


class SameData(NamedTuple):
    """As `Shared`, and the accuracy of the teacher."""

    dataset: Dataset
    targets: dict[Any, Tensor]
    scale: Scale
    facts: dict[str, float]


def prepare_same_data(runs: Sequence[Run], scale: Scale) -> SameData:
    """Train a VGG on the shifts of the student's own images, and ask it."""
    dataset = chapter01.cut(chapter01.glyphs(), scale)
    views, labels = chapter01.seen({"images": 1000, "shifts": True}, dataset)
    teacher = chapter01.train_student(
        models.build("vgg", seed=100),
        views,
        labels,
        torch.zeros(len(views), 1),
        chapter01.smoothed(0.0),
        epochs=scale.epochs(8, images=len(views), batch_size=BATCH),
        rate=0.01,
        weight_decay=0.01,
    )
    targets = {}
    for run in runs:
        key = ("same data", run["images"], run["shifts"])
        if key not in targets:
            targets[key] = chapter01.ask(teacher, chapter01.seen(run, dataset)[0])
    return SameData(dataset, targets, scale, {"teacher": chapter01.judged(teacher, dataset)["test"]})


def measure_same_data(run: Run, shared: SameData, method: Callable[..., nn.Module]) -> dict[str, Any]:
    """Train one student of that teacher, and judge it."""
    return chapter01.measure(run, Shared(*shared[:3]), method)


SAME_DATA = Experiment(
    "01-same-data",
    tuple(
        {"teacher": "same data", "shifts": shifts, "temperature": temperature, "rate": rate, "seed": seed}
        for shifts in (False, True)
        for temperature in (4, 8)
        for rate in (0.01, 0.03, 0.1)
        for seed in SEEDS
    ),
    measure_same_data,
    prepare_same_data,
    chapter01.train_student,
    chapter01.DEFAULTS,
    live=(),
    seed=SEED,
)
"""A student of a teacher that has learned from the student's own 1,000 images, and from no other."""


# Is it the teacher's view of each image?

FORMS = ("class means", "shuffled within class", "argmax")
"""What stands in the place of a teacher's logits: their mean over the images of a class; those of another image of the
class; its first choice alone, as a hard label."""


def instead(form: str, logits: Tensor, labels: Tensor) -> Tensor:
    """Put something in the place of a teacher's logits [N, K] that says less."""
    if form == "argmax":
        return 1000.0 * F.one_hot(logits.argmax(1), logits.shape[1])  # one-hot after softmax at any usual T
    changed = logits.clone()
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        order = torch.randperm(len(members), generator=torch.Generator().manual_seed(0))
        changed[members] = logits[members].mean(0) if form == "class means" else logits[members[order]]
    return changed


def prepare_controls(runs: Sequence[Run], scale: Scale) -> Shared:
    """Ask the teacher once for each number of images, and say less than it does."""
    asked = chapter01.prepare([{**run, "teacher": TEACHER} for run in runs], scale)
    targets = {}
    for run in runs:
        logits = asked.targets[TEACHER, run["images"], run["shifts"]]
        labels = chapter01.seen(run, asked.dataset)[1]
        targets[run["teacher"], run["images"], run["shifts"]] = instead(run["teacher"], logits, labels)
    return Shared(asked.dataset, targets, scale)


CONTROLS = Experiment(
    "01-controls",
    tuple(
        {"teacher": form, "images": images, "alpha": alpha, "rate": rate, "seed": seed}
        for form, images, alpha in zip(FORMS, (1000, 1000, 10_000), (0.1, 0.1, 0.0), strict=True)
        for rate in (0.01, 0.03, 0.1)
        for seed in SEEDS
    ),
    chapter01.measure,
    prepare_controls,
    chapter01.train_student,
    chapter01.DEFAULTS,
    live=(),
    seed=SEED,
)
"""Targets that say less than the teacher: how much of its gain is its view of each image, and how much softness."""


# Features: hints, attention maps and decoupled logits beside the classic loss


@functools.cache
def teacher_maps(images: int | None) -> tuple[Tensor, Tensor]:
    """The teacher's logits [N, 10] and its last feature maps [N, 128, 4, 4] for all shifts of the first images."""
    teacher = chapter01.teacher_of(TEACHER).eval()
    split = chapter01.glyphs().train.subset(torch.arange(images))
    views, _ = chapter01.shifted(split.images, split.labels)
    body, head = teacher[:-3], teacher[-3:]
    with torch.no_grad():
        maps = [body(to_float(part)) for part in views.split(500)]
        logits = torch.cat([head(part) for part in maps])
    return logits, torch.cat([part.half() for part in maps])


def feature_loss(
    run: Run,
    logits: Tensor,
    maps: Tensor,
    targets: Tensor,
    taught: Tensor,
    labels: Tensor,
    adapter: nn.Module,
) -> Tensor:
    """What a student of this experiment pays for."""
    method, weight = run["method"], run["weight"]
    hard = F.cross_entropy(logits, labels)
    if method == "alone":
        return hard
    if method == "decoupled":
        return hard + distillation.decoupled_loss(logits, targets, labels, temperature=4.0, beta=weight)
    temperature = weight if method == "classic" else 4.0
    classic = distillation.distillation_loss(logits, targets, labels, temperature=temperature, alpha=0.1)
    if method == "hint":
        return classic + weight * distillation.hint_loss(maps, taught, adapter)
    if method == "attention":
        return classic + weight * distillation.attention_loss(maps, taught)
    return classic


def train_with_features(
    network: nn.Sequential,
    adapter: nn.Module,
    views: Tensor,
    labels: Tensor,
    targets: Any,
    run: Run,
    epochs: int,
) -> None:
    """Train a student on logits and on feature maps of its teacher."""
    body, head = network[:-3], network[-3:]
    learned = [*network.parameters(), *adapter.parameters()]
    optimizer = torch.optim.AdamW(learned, lr=run["rate"], weight_decay=run["weight_decay"])
    steps = epochs * -(-len(views) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, run["rate"], total_steps=steps)
    generator = torch.Generator().manual_seed(run["seed"])
    network.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(views), generator=generator).split(BATCH):
            maps = body(to_float(views[batch]))
            loss = feature_loss(
                run, head(maps), maps, targets[0][batch], targets[1][batch].float(), labels[batch], adapter
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def prepare_features(runs: Sequence[Run], scale: Scale) -> Shared:
    """Cut the glyphs; each process asks the teacher itself, since its maps are large."""
    return Shared(chapter01.cut(chapter01.glyphs(), scale), {}, scale)


def measure_features(run: Run, shared: Shared, method: None) -> dict[str, Any]:
    """Train one small VGG on few labels, with what its arm may see of the teacher, and judge it."""
    count = min(run["images"], len(shared.dataset.train))
    views, labels = chapter01.seen(run, shared.dataset)
    network = models.build("vgg", seed=run["seed"], widths=WIDTHS["small"])
    torch.manual_seed(run["seed"])
    adapter = nn.Sequential(distillation.hint_adapter(32, 128), nn.ReLU())
    epochs = shared.scale.epochs(run["epochs"], images=len(views), batch_size=BATCH)
    train_with_features(network, adapter, views, labels, teacher_maps(count), run, epochs)
    return chapter01.judged(network, shared.dataset)


_WEIGHTS = {"classic": (2.0, 8.0), "decoupled": (1.0, 4.0), "hint": (0.001, 0.01), "attention": (1.0, 10.0)}
FEATURES = Experiment(
    "01-features",
    tuple(
        {"method": "alone", "weight": 0.0, "rate": rate, "seed": seed}
        for rate in (0.003, 0.01, 0.03, 0.1, 0.2, 0.3)
        for seed in SEEDS
    )
    + tuple(
        {"method": method, "weight": weight, "rate": rate, "seed": seed}
        for method, weights in _WEIGHTS.items()
        for weight in weights
        for rate in (0.01, 0.03, 0.1)
        for seed in SEEDS
    ),
    measure_features,
    prepare_features,
    None,
    {"images": 1000, "shifts": True, "epochs": 8, "weight_decay": 0.01},
    live=(),
    seed=SEED,
)
"""Five ways to learn from a teacher (or none), six settings each: logits, decoupled logits, hints, attention maps."""
