"""Chapter 01 on real data: the article's MNIST student with a sweep of rates, and four teachers on CIFAR-10."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import joblib
import torch
from torch import Tensor, nn

from course_lib import checkpoints, data, models, training
from course_lib.data import Dataset, Split
from course_lib.experiments import chapter01
from course_lib.experiments.budget import affordable, seconds_per_epoch
from course_lib.experiments.chapter01 import SEEDS
from course_lib.experiments.experiment import Experiment, Run, Scale
from course_lib.jobs import on_one_thread, run_parallel
from course_lib.training import Batch, Recipe

__all__ = ["CIFAR10", "CIFAR_TEACHERS", "DOCUMENT", "MNIST"]


class RealShared(NamedTuple):
    """What the runs of an experiment on real data share.

    Attributes:
        dataset: cut to what the budget affords.
        teachers: of MNIST {seed: logits for the training images}, of CIFAR-10 {name: network}.
        epochs: of every training.
        scale: how much is done.
        facts: what the record keeps of these.
    """

    dataset: Dataset
    teachers: Mapping[Any, Any]
    epochs: int
    scale: Scale
    facts: Mapping[str, Any]


def real(name: str, channels: int, side: int, scale: Scale) -> Dataset:
    """Load real images; in a test of two steps, noise of the same shape."""
    if scale.steps is None:
        return data.load_dataset(name)
    # The real images lie on few machines, and the code that measures is to be tested on all.
    count = scale.images or 64
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, channels, side, side), generator=generator, dtype=torch.uint8)
    split = Split(images, torch.arange(count) % 10)
    return Dataset(name, split, split, split, tuple("0123456789"))


def part(dataset: Dataset, share: float, least: int) -> Dataset:
    """Take a share of the training images, drawn at random, and at least so many."""
    count = max(least, math.floor(min(1.0, share) * len(dataset.train)))
    chosen = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(0))[:count]
    return dataset if count >= len(dataset.train) else replace(dataset, train=dataset.train.subset(chosen))


def _place() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _workers(scale: Scale) -> int:
    """Processes for the teachers; a start of one takes longer than the two steps of a test."""
    return joblib.cpu_count() if scale.steps is None else 1


# MNIST, as the article trains: one filter, five epochs, batches of 32

MNIST_EPOCHS, FEW = 5, 200


def mnist_recipe(run: Run, images: int, scale: Scale) -> Recipe:
    """The article's recipe; with few labels another schedule, and as many updates as on all images."""
    few = run["labels"] == "200"
    epochs = max(MNIST_EPOCHS, round(MNIST_EPOCHS * run["all images"] / images))
    return Recipe(
        epochs=scale.epochs(epochs, images=images, batch_size=32),
        batch_size=32,
        optimizer="adam",
        learning_rate=run["rate"],
        weight_decay=0.0,
        schedule="one_cycle" if few else "constant",
        seed=run["seed"],
    )


def mnist_teacher(dataset: Dataset, scale: Scale, seed: int) -> tuple[float, Tensor]:
    """Train a teacher as the article does; its test accuracy, and its logits for the training images."""
    teacher = models.build("convnet_teacher", seed=seed)
    count = len(dataset.train)
    run = {"labels": "all", "all images": count, "rate": 1e-4, "seed": seed}
    training.fit(teacher, dataset, mnist_recipe(run, count, scale), validate=False)
    return training.evaluate(teacher, dataset.test), training.predict(teacher, dataset.train.images)


def prepare_mnist(runs: Sequence[Run], scale: Scale) -> RealShared:
    """Cut the images to the budget and train a teacher for each seed."""
    dataset = real("mnist", 1, 28, scale)
    seeds = sorted({run["seed"] for run in runs})
    if scale.minutes is not None and scale.steps is None:
        recipe = Recipe(batch_size=32, optimizer="adam")
        large, small = (
            on_one_thread(seconds_per_epoch, models.build(name), dataset, recipe)
            for name in ("convnet_teacher", "convnet_student")
        )
        seconds = MNIST_EPOCHS * (len(seeds) * large + len(runs) * small) / _workers(scale)
        dataset = part(dataset, 60 * scale.minutes / seconds, least=5000)
    taught = run_parallel(
        functools.partial(mnist_teacher, dataset, scale),
        seeds,
        workers=_workers(scale),
        label="teachers of MNIST",
    )
    facts = {
        "images": len(dataset.train),
        "epochs": MNIST_EPOCHS,
        "teachers": [test for test, _ in taught],
    }
    logits = {seed: targets for seed, (_, targets) in zip(seeds, taught, strict=True)}
    return RealShared(dataset, logits, MNIST_EPOCHS, scale, facts)


def measure_mnist(run: Run, shared: RealShared, method: None) -> dict[str, Any]:
    """Train one student of 220 parameters and judge it."""
    dataset, everything = shared.dataset, len(shared.dataset.train)
    if run["labels"] == "200" and run["teacher"] is None:
        dataset = replace(dataset, train=dataset.train.subset(torch.arange(min(FEW, everything))))
    student = models.build("convnet_student", seed=run["seed"])
    pays, targets = chapter01.loss_of(run), shared.teachers[run["seed"]]

    def loss(logits: Tensor, batch: Batch) -> Tensor:
        return pays(logits, targets[batch.indices], batch.labels)

    recipe = mnist_recipe(run | {"all images": everything}, len(dataset.train), shared.scale)
    training.fit(student, dataset, recipe, loss=loss, validate=False)
    return chapter01.judged(student, dataset)


DOCUMENT = "probabilities, no T²"
"""The article's form of the loss: probabilities where KLDivLoss takes their logarithms, and no T²."""

MNIST = Experiment(
    "01-mnist",
    tuple(
        {"labels": "all", "teacher": teacher, "loss": loss, "rate": rate, "seed": seed}
        for teacher, loss in ((None, "right"), ("its own", DOCUMENT), ("its own", "right"))
        for rate in (0.0001, 0.001, 0.003, 0.01, 0.03)
        for seed in SEEDS
    )
    # Another setting: 200 images have labels, and the teacher says what it thinks of all.
    + tuple(
        {"labels": "200", "teacher": teacher, "loss": "right", "alpha": 0.0, "rate": rate, "seed": seed}
        for teacher in (None, "its own")
        for rate in (0.001, 0.003, 0.01, 0.03, 0.1)
        for seed in SEEDS
    ),
    measure_mnist,
    prepare_mnist,
    None,
    {"alpha": 0.3, "temperature": 5, "smoothing": 0.0},
    live=(),
    seed="the whole chain: the teacher, the student's initial weights and the order of its images",
    dataset="MNIST",
    minutes=90,
)
"""The article's student alone, with its loss and with the right one, at five rates; and 200 labels with a teacher."""


# CIFAR-10: four teachers of one small VGG

CIFAR_STUDENT = ("vgg", {"widths": (16, "M", 32, "M", 64, "M", 64)})
CIFAR_TEACHERS = {
    "an MLP": ("mlp", {"image_size": 32, "hidden": (512, 256)}),
    "its twin": CIFAR_STUDENT,
    "a ResNet": ("resnet", {}),
    "a wider VGG": ("vgg", {"widths": (32, "M", 64, "M", 128, 128, "M", 256, 256)}),
}
CIFAR_SEEDS = range(3)


def cifar_network(network: tuple[str, Mapping[str, Any]], seed: int) -> nn.Module:
    """Build a network for CIFAR-10 on the GPU, or on the processor where there is none."""
    kind, options = network
    return models.build(kind, in_channels=3, seed=seed, **options).to(_place())


def cifar_recipe(kind: str, epochs: int, seed: int) -> Recipe:
    """One recipe for all but the MLP, which with this one stays at a third of the validation images."""
    own = {"optimizer": "adam", "learning_rate": 1e-3, "weight_decay": 0.0} if kind == "mlp" else {}
    recipe = replace(checkpoints.CATALOGUE["cifar10-vgg"].recipe, label_smoothing=0.0, **own)
    return replace(recipe, epochs=epochs, seed=seed)


def cifar_teacher(dataset: Dataset, epochs: int, name: str) -> tuple[float, nn.Module]:
    """Train a teacher, with a seed that no student has: the twin is another network."""
    network = cifar_network(CIFAR_TEACHERS[name], CIFAR_SEEDS.stop)
    recipe = cifar_recipe(CIFAR_TEACHERS[name][0], epochs, CIFAR_SEEDS.stop)
    training.fit(network, dataset, recipe, validate=False)
    return training.evaluate(network, dataset.test), network.cpu()


def _seconds(network: tuple[str, Mapping[str, Any]], dataset: Dataset) -> float:
    return seconds_per_epoch(cifar_network(network, 0), dataset, cifar_recipe(network[0], 1, 0))


def prepare_cifar10(runs: Sequence[Run], scale: Scale) -> RealShared:
    """Cut epochs, then images, to the budget, and train a teacher of each kind."""
    dataset, epochs = real("cifar10", 3, 32, scale), 60
    side_by_side = 1 if _place() == "cuda" else _workers(scale)
    if scale.minutes is not None and scale.steps is None:
        teaching, learning = (
            sum(on_one_thread(_seconds, network, dataset) for network in networks)
            for networks in (CIFAR_TEACHERS.values(), [CIFAR_STUDENT])
        )
        # To ask a teacher takes about a third of the time of training it.
        asking = teaching / len(CIFAR_TEACHERS) / 3
        seconds = (teaching + len(runs) * (learning + asking)) / side_by_side
        epochs = affordable(scale.minutes, seconds, most=epochs)
        dataset = part(dataset, 60 * scale.minutes / (epochs * seconds), least=128)
    epochs = scale.epochs(epochs, images=len(dataset.train), batch_size=128)
    taught = run_parallel(
        functools.partial(cifar_teacher, dataset, epochs),
        list(CIFAR_TEACHERS),
        workers=side_by_side,
        label="teachers of CIFAR-10",
    )
    facts = {
        "images": len(dataset.train),
        "epochs": epochs,
        "teachers": {name: test for name, (test, _) in zip(CIFAR_TEACHERS, taught, strict=True)},
    }
    networks = {name: network for name, (_, network) in zip(CIFAR_TEACHERS, taught, strict=True)}
    return RealShared(dataset, networks, epochs, scale, facts)


def measure_cifar10(run: Run, shared: RealShared, method: None) -> dict[str, Any]:
    """Train one small VGG, alone or beside a teacher that sees the same shifted and mirrored images; judge it."""
    student = cifar_network(CIFAR_STUDENT, run["seed"])
    pays, teacher = chapter01.loss_of(run), shared.teachers.get(run["teacher"])
    if teacher is not None:
        teacher = teacher.to(_place(), memory_format=torch.channels_last).eval()

    def loss(logits: Tensor, batch: Batch) -> Tensor:
        if teacher is None:
            return pays(logits, logits, batch.labels)
        with torch.no_grad(), torch.autocast(_place(), torch.bfloat16):
            targets = teacher(batch.images).float()
        return pays(logits, targets, batch.labels)

    recipe = cifar_recipe(CIFAR_STUDENT[0], shared.epochs, run["seed"])
    training.fit(student, shared.dataset, recipe, loss=loss, validate=False)
    return chapter01.judged(student, shared.dataset)


CIFAR10 = Experiment(
    "01-cifar10",
    tuple({"teacher": teacher, "seed": seed} for seed in CIFAR_SEEDS for teacher in (None, *CIFAR_TEACHERS)),
    measure_cifar10,
    prepare_cifar10,
    None,
    {"alpha": 0.1, "temperature": 4, "smoothing": 0.0, "loss": "right"},
    live=(),
    seed="the student's initial weights and the order of its images; there is one teacher of each kind",
    dataset="CIFAR-10 (JPEG)",
    minutes=35,
)
"""A small VGG alone and taught by an MLP, by another of its kind, by a ResNet and by a wider VGG, with all labels."""
