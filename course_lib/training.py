"""Train and evaluate a network: one recipe, one loop, the data set as tensors on the model's device."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from course_lib.data import Dataset, Split, augment, to_float
from course_lib.data.augmentation import AUGMENTATIONS
from course_lib.progress import progress
from course_lib.validation import check_choice, check_count, check_number

__all__ = [
    "OPTIMIZERS", "PRECISIONS", "SCHEDULES", "Batch", "History", "Loss", "Recipe", "cross_entropy", "evaluate", "fit",
    "learning_rate", "make_optimizer", "predict",
]  # fmt: skip

OPTIMIZERS = ("sgd", "adam")
SCHEDULES = ("constant", "step", "cosine", "one_cycle")
PRECISIONS = ("float32", "bfloat16")
# Batches that are gathered, converted and augmented at once. Part of the random stream: with another number `augment`
# draws other shifts, and no checkpoint comes out as it was.
_CHUNK = 32


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run except the network and the data.

    Args:
        epochs: passes over the training split.
        batch_size: most images in a step; an epoch is cut into equal batches, so none is tiny and none is dropped.
        optimizer: "sgd" (Nesterov) or "adam".
        learning_rate: the peak of the schedule.
        momentum: of SGD.
        weight_decay: L2 penalty on weight matrices and kernels; biases and batch-norm parameters have none.
        schedule: "constant"; "step" (a tenth at one half and again at three quarters of the steps); "cosine" (to zero);
            "one_cycle" (up over the first three tenths, then down to nearly zero). `learning_rate` has the formulae.
        label_smoothing: of the cross-entropy, in [0, 1); used where no other loss is given.
        augment: "none", "shift" or "shift_flip"; see `course_lib.data.augment`.
        precision: "float32", or "bfloat16" for the forward pass under autocast.
        channels_last: store activations with the channels innermost, which is faster on GPUs and with bfloat16.
        seed: of the order of images, the augmentation and dropout. Initial weights have a seed of their own.

    Raises:
        TypeError, ValueError: a field is of another type or out of range; the message names it.
    """

    epochs: int = 10
    batch_size: int = 128
    optimizer: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "one_cycle"
    label_smoothing: float = 0.0
    augment: str = "none"
    precision: str = "float32"
    channels_last: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_count(self.epochs, "epochs", low=0)
        check_count(self.batch_size, "batch_size")
        check_choice(self.optimizer, "optimizer", OPTIMIZERS)
        check_number(self.learning_rate, "learning_rate", low=0, low_open=True)
        check_number(self.momentum, "momentum", low=0, high=1)
        check_number(self.weight_decay, "weight_decay", low=0)
        check_choice(self.schedule, "schedule", SCHEDULES)
        check_number(self.label_smoothing, "label_smoothing", low=0, high=0.999)
        check_choice(self.augment, "augment", AUGMENTATIONS)
        check_choice(self.precision, "precision", PRECISIONS)
        if not isinstance(self.channels_last, bool):
            raise TypeError(f"channels_last is {self.channels_last!r}; it must be True or False.")
        check_count(self.seed, "seed", low=0)


class Batch(NamedTuple):
    """The images behind the logits, as a loss may need them.

    `images` are the (augmented) inputs that the network has just seen, so a teacher can be shown the same view;
    `indices` are their places in the training split, so a teacher's logits can be looked up.
    """

    images: Float[Tensor, "N C H W"]
    labels: Int64[Tensor, "N"]
    indices: Int64[Tensor, "N"]


Loss = Callable[[Tensor, Batch], Tensor]


@dataclass
class History:
    """Measurements of a run of `fit`, one entry per epoch.

    Attributes:
        train_loss: mean loss over the epoch's images.
        validation_accuracy: top-1 accuracy on the validation split, in [0, 1]; NaN if that split is empty. The list
            stays empty if `fit` was told not to validate.
        seconds: time spent on training steps, without validation.
        images: training images seen, over all epochs.
    """

    train_loss: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    images: int = 0

    @property
    def images_per_second(self) -> float:
        """Training images per second over the whole run; NaN if nothing was trained."""
        total = sum(self.seconds)
        return self.images / total if total else math.nan


def cross_entropy(label_smoothing: float = 0.0) -> Loss:
    """Make the default loss of `fit`: the mean cross-entropy with the labels of the batch.

    Example:
        >>> cross_entropy()(torch.tensor([[0.0, 0.0]]), Batch(torch.rand(1, 1, 8, 8), torch.tensor([1]), None))
        tensor(0.6931)
    """
    return lambda logits, batch: F.cross_entropy(logits, batch.labels, label_smoothing=label_smoothing)


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Make the optimizer of a recipe, with weight decay on parameters of two or more dimensions only.

    Example:
        >>> [group["weight_decay"] for group in make_optimizer(nn.Linear(2, 1), Recipe()).param_groups]
        [0.0005, 0.0]
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "adam":
        return torch.optim.Adam(groups, lr=recipe.learning_rate, fused=True)
    nesterov = recipe.momentum > 0
    return torch.optim.SGD(
        groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=nesterov, fused=True
    )


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    r"""Compute the learning rate of step `step`, from 0, out of `steps`: the rate of the recipe times a factor f.

    .. math::

        p &= \text{step} / \text{steps} \\
        \text{constant:} \quad f &= 1 \\
        \text{step:} \quad f &= 0.1^{[p \ge 0.5] + [p \ge 0.75]} \\
        \text{cosine:} \quad f &= (1 + \cos \pi p) / 2 \\
        \text{one\_cycle:} \quad f &= 0.04 + 0.96 \, p / 0.3 \text{ for } p < 0.3, \text{ then }
            (1 + \cos(\pi (p - 0.3) / 0.7)) / 2

    Example:
        >>> [learning_rate(Recipe(schedule="step", learning_rate=1.0), step, 4) for step in (0, 1, 2)]
        [1.0, 1.0, 0.1]
    """
    share = step / max(steps, 1)
    if recipe.schedule == "constant":
        factor = 1.0
    elif recipe.schedule == "step":
        factor = 0.1 ** ((share >= 0.5) + (share >= 0.75))
    elif recipe.schedule == "cosine":
        factor = (1 + math.cos(math.pi * share)) / 2
    elif share < 0.3:  # one_cycle: linear up, cosine down
        factor = 0.04 + 0.96 * share / 0.3
    else:
        factor = (1 + math.cos(math.pi * (share - 0.3) / (1 - 0.3))) / 2
    return recipe.learning_rate * factor


def fit(
    model: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    *,
    loss: Loss | None = None,
    after_backward: Callable[[nn.Module], None] | None = None,
    on_epoch: Callable[[int, nn.Module], None] | None = None,
    validate: bool = True,
) -> History:
    """Train `model` in place on the training split, on the device it lies on.

    Args:
        model: takes float [N, C, H, W] in [0, 1], returns logits [N, K].
        dataset: `train` is learned from, `validation` scored after every epoch; `test` is not touched.
        recipe: see `Recipe`.
        loss: maps (logits [N, K], batch) to a scalar; mean cross-entropy unless given.
        after_backward: called with the model between the backward pass and the optimizer's step, for instance to
            add a sparsity gradient or to hold pruned weights at zero.
        on_epoch: called with (epoch, model) after each epoch, counted from 1, with the model in eval mode.
        validate: False leaves the validation split alone and `History.validation_accuracy` empty: faster if the
            network is scored once, at the end. What is learned is the same.

    Returns:
        The history of the run. The model is left in eval mode.

    Raises:
        TypeError: `validate` is not True or False.
        ValueError: the training split is empty, the logits do not fit the labels, or the loss is not a scalar that
            depends on them.
        FloatingPointError: the loss or the logits are no longer finite; the message names epoch and learning rate.

    Example:
        >>> split = Split(torch.zeros(8, 1, 1, 1, dtype=torch.uint8), torch.tensor([0, 1] * 4))
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
        >>> fit(network, Dataset("none", split, split, split, ("a", "b")), Recipe(epochs=3)).images
        24
    """
    if not len(dataset.train):
        raise ValueError(f"the training split of {dataset.name!r} is empty; fit needs at least one image.")
    if not isinstance(validate, bool):
        raise TypeError(f"validate is {validate!r}; it must be True or False.")
    loss = loss or cross_entropy(recipe.label_smoothing)
    device = next(model.parameters()).device
    memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
    model.to(memory_format=memory_format)
    train = _on(dataset.train, device)
    validation = _on(dataset.validation, device) if validate else None
    optimizer = make_optimizer(model, recipe)
    generator = torch.Generator().manual_seed(recipe.seed)
    batches = math.ceil(len(train) / recipe.batch_size)
    half = recipe.precision == "bfloat16"
    history = History()
    step = 0
    fork = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    shows = progress("fit", recipe.epochs, parts=batches, unit="batch")
    with _denormals_flushed(), fork, shows as shown:
        torch.manual_seed(recipe.seed)
        for epoch in range(1, recipe.epochs + 1):
            model.train()
            started = time.perf_counter()
            losses, sizes = [], []
            for chunk in _chunks(train, batches, recipe, generator, memory_format):
                for batch in chunk:
                    rate = learning_rate(recipe, step, recipe.epochs * batches)
                    for group in optimizer.param_groups:
                        group["lr"] = rate
                    optimizer.zero_grad(set_to_none=True)
                    with torch.autocast(device.type, torch.bfloat16) if half else contextlib.nullcontext():
                        logits = model(batch.images)
                    if step == 0:
                        _check_logits(logits, dataset)
                    value = loss(logits.float(), batch)
                    if step == 0:
                        _check_loss(value)
                    value.backward()
                    if after_backward is not None:
                        after_backward(model)
                    optimizer.step()
                    losses.append(value.detach())
                    sizes.append(len(batch.labels))
                    step += 1
                shown.part(len(chunk))
            values = torch.stack(losses).tolist()  # waits for the device
            mean_loss = sum(value * size for value, size in zip(values, sizes, strict=True)) / len(train)
            history.seconds.append(time.perf_counter() - started)
            history.images += len(train)
            where = (
                f"in epoch {epoch} (learning rate {recipe.learning_rate:g}, {recipe.optimizer}). Lower the learning "
                "rate, or look for NaN in the inputs."
            )
            if not math.isfinite(mean_loss):
                raise FloatingPointError(f"the loss became {mean_loss} {where}")
            history.train_loss.append(mean_loss)
            measured = {"loss": f"{mean_loss:.3f}"}
            if validation is not None:
                try:
                    accuracy = evaluate(model, validation) if len(validation) else math.nan
                except ValueError as error:  # the last step of the epoch was one too many
                    raise FloatingPointError(f"{error} It happened {where}") from error
                history.validation_accuracy.append(accuracy)
                if len(validation):
                    measured["validation"] = f"{accuracy:.1%}"
            model.eval()
            shown.step(**measured)
            if on_epoch is not None:
                on_epoch(epoch, model)
    model.eval()
    return history


@contextlib.contextmanager
def _denormals_flushed() -> Iterator[None]:
    """Count denormal numbers as zero inside the block: they slow a CPU down many times."""
    already = sys.float_info.min / 2 == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(already)


def _chunks(
    train: Split, batches: int, recipe: Recipe, generator: torch.Generator, memory_format: torch.memory_format
) -> Iterable[list[Batch]]:
    """Prepare the batches of one epoch in random order, many at a time so that it costs next to nothing."""
    order = torch.randperm(len(train), generator=generator)
    groups = torch.tensor_split(order, batches)
    for start in range(0, batches, _CHUNK):
        group = groups[start : start + _CHUNK]
        sizes = [len(indices) for indices in group]
        indices = torch.cat(group).to(train.images.device)
        chosen = train.images.index_select(0, indices)  # ten times as fast as [indices] on bytes
        images = augment(to_float(chosen), recipe.augment, generator)
        images = images.contiguous(memory_format=memory_format)
        parts = zip(
            images.split(sizes), train.labels[indices].split(sizes), indices.split(sizes), strict=True
        )
        yield [Batch(*part) for part in parts]


def _on(split: Split, device: torch.device) -> Split:
    return Split(split.images.to(device), split.labels.to(device))


def _check_logits(logits: Tensor, dataset: Dataset) -> None:
    if logits.ndim != 2 or logits.shape[1] < len(dataset.classes):
        raise ValueError(
            f"the model returns {list(logits.shape)}; for the {len(dataset.classes)} classes of {dataset.name!r} it "
            f"must return logits [N, {len(dataset.classes)}]."
        )


def _check_loss(value: Tensor) -> None:
    if value.ndim != 0 or not value.requires_grad:
        raise ValueError(
            f"the loss returned a tensor of shape {list(value.shape)} (requires_grad={value.requires_grad}); it "
            "must return one number that depends on the logits."
        )


def predict(model: nn.Module, images: Tensor, *, batch_size: int = 1000) -> Float[Tensor, "N K"]:
    """Compute the logits of all images, in eval mode and without gradients.

    Args:
        model: takes float [N, C, H, W] in [0, 1]; its train/eval mode is restored.
        images: uint8 [N, C, H, W] on any device, at least one.
        batch_size: most images in a forward pass; batches are equal to within one image.

    Returns:
        float32 [N, K] on the CPU.

    Raises:
        ValueError: there are no images, or `batch_size` is below 1.

    Example:
        >>> images = torch.tensor([[0, 255]], dtype=torch.uint8).reshape(1, 2, 1, 1)
        >>> predict(nn.Sequential(nn.BatchNorm2d(2), nn.Flatten()), images)
        tensor([[0.0000, 1.0000]])
    """
    if not len(images):
        raise ValueError("there are no images to predict; the split is empty.")
    device = next(model.parameters()).device
    parts = torch.tensor_split(images, math.ceil(len(images) / check_count(batch_size, "batch_size")))
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode():
            logits = [model(to_float(part.to(device))).float().cpu() for part in parts]
    finally:
        for module, mode in modes.items():
            module.training = mode
    return torch.cat(logits).clone()


def evaluate(model: nn.Module, split: Split) -> float:
    """Measure the top-1 accuracy of a model on a split, in [0, 1]; in eval mode, the model is left as it was.

    Raises:
        ValueError: the split is empty, or the logits hold NaN (which would otherwise count as class 0).

    Example:
        >>> images = torch.tensor([[0, 255], [255, 0]], dtype=torch.uint8).reshape(2, 2, 1, 1)
        >>> evaluate(nn.Sequential(nn.BatchNorm2d(2), nn.Flatten()), Split(images, torch.tensor([1, 1])))
        0.5
    """
    logits = predict(model, split.images)
    if torch.isnan(logits).any():
        raise ValueError("the model returns NaN; its weights or running statistics have diverged.")
    return (logits.argmax(dim=1) == split.labels.cpu()).double().mean().item()
