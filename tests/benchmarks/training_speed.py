"""Images a second of `training.fit`, beside the DataLoader loop of many tutorials and beside a bare loop."""

import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import MNIST

from course_lib import files, models, training
from course_lib.data import Dataset, Split, to_float
from course_lib.training import Recipe
from tests.benchmarks.row import Row, spread

GOAL_DATA_LOADER = 3.0
GOAL_BARE = 0.90
_CLASSES = 10


def mnist_images() -> tuple[Split, str]:
    """MNIST's training images where they lie under the data root, else random bytes of the same shape; and which."""
    try:
        mnist = MNIST(files.data_root(), train=True)
    except RuntimeError:
        return random_split(12_000, 28), "random bytes in MNIST's shape"
    return Split(mnist.data[:, None], mnist.targets), "MNIST"


def random_split(count: int, size: int) -> Split:
    """Bytes and labels without meaning: a step takes as long whatever the images show."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 1, size, size), generator=generator, dtype=torch.uint8)
    return Split(images, torch.randint(0, _CLASSES, (count,), generator=generator))


def against_data_loader(repeats: int) -> Iterator[Row]:
    """The loop of the source document: torchvision's MNIST, ToTensor, DataLoader, batch 32, Adam at 1e-4."""
    images, source = mnist_images()
    for name, label, count in (
        ("convnet_student", "one-filter student", 6_400),
        ("convnet_teacher", "64-128-1024 teacher", 320),
    ):
        split = images.subset(torch.arange(count))
        recipe = Recipe(1, 32, "adam", 1e-4, weight_decay=0.0, schedule="constant")
        yield _row(
            f"fit / DataLoader loop: {label}, batch 32, {source}",
            lambda model, s=split, r=recipe: _fit(model, s, r),
            lambda model, s=split: _data_loader_loop(model, s),
            lambda name=name: models.build(name, image_size=28),
            count,
            repeats,
            GOAL_DATA_LOADER,
        )


def against_bare_loop(repeats: int) -> Iterator[Row]:
    """Forward, backward, step, over float batches that lie ready in memory, with the optimizer that fit uses."""
    for name, label, size, batch_size, count, options in (
        ("convnet_student", "one-filter student", 28, 32, 12_800, {"image_size": 28}),
        ("convnet_student", "one-filter student", 28, 128, 25_600, {"image_size": 28}),
        ("vgg", "small VGG", 16, 128, 1_024, {"widths": [16, 16, "M", 32, 32, "M", 64, 64]}),
    ):
        split = random_split(count, size)
        recipe = Recipe(1, batch_size, learning_rate=0.01)
        batches = _ready_batches(split, batch_size)
        yield _row(
            f"fit / bare loop: {label}, batch {batch_size}",
            lambda model, s=split, r=recipe: _fit(model, s, r),
            lambda model, b=batches, r=recipe: _bare_loop(model, b, r),
            lambda name=name, options=options: models.build(name, **options),
            count,
            repeats,
            GOAL_BARE,
        )


def _row(
    what: str,
    ours: Callable[[nn.Module], None],
    peer: Callable[[nn.Module], None],
    make: Callable[[], nn.Module],
    count: int,
    repeats: int,
    goal: float,
) -> Row:
    """Run both sides in turn; the ratio is the median of the ratios within the pairs, so slow spells cancel."""
    runs = []
    for repeat in range(repeats + 1):
        sides = (ours, peer) if repeat % 2 else (peer, ours)  # neither side always goes first
        seconds = {side: _seconds(side, make()) for side in sides}
        if repeat:  # the first pair warms up caches and the allocator
            runs.append((count / seconds[ours], count / seconds[peer]))
    ratios = [our / their for our, their in runs]
    ratio = statistics.median(ratios)
    return Row(
        what,
        f"{statistics.median(our for our, _ in runs):,.0f} images/s",
        f"{statistics.median(their for _, their in runs):,.0f} images/s",
        f"{ratio:.2f}",
        f">= {goal:.2f}",
        "yes" if ratio >= goal else "no",
        spread(ratios),
    )


def _seconds(side: Callable[[nn.Module], None], model: nn.Module) -> float:
    started = time.perf_counter()
    side(model)
    return time.perf_counter() - started


def _fit(model: nn.Module, split: Split, recipe: Recipe) -> None:
    """The whole call is timed, set-up included, but without validation, as neither peer validates."""
    classes = tuple(map(str, range(_CLASSES)))
    training.fit(model, Dataset("benchmark", split, split, split, classes), recipe, validate=False)


class _InMemoryMNIST(MNIST):
    """torchvision's MNIST, `__getitem__` and all, without its files."""

    def __init__(self, split: Split):
        self.data, self.targets = split.images[:, 0], split.labels
        self.transform, self.target_transform = transforms.ToTensor(), None


def _data_loader_loop(model: nn.Module, split: Split) -> None:
    loader = DataLoader(_InMemoryMNIST(split), batch_size=32, shuffle=True)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    model.train()
    for data, targets in loader:
        optimizer.zero_grad()
        loss = criterion(model(data), targets)
        loss.backward()
        optimizer.step()


def _ready_batches(split: Split, batch_size: int) -> list[tuple[Tensor, Tensor]]:
    images = to_float(split.images)
    return list(zip(images.split(batch_size), split.labels.split(batch_size), strict=True))


def _bare_loop(model: nn.Module, batches: list[tuple[Tensor, Tensor]], recipe: Recipe) -> None:
    torch.set_flush_denormal(True)  # as fit does
    optimizer = training.make_optimizer(model, recipe)
    criterion = nn.CrossEntropyLoss()
    model.train()
    for images, labels in batches:
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
