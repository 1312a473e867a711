"""Trained networks that chapters start from: weights as safetensors, everything else in a JSON file beside them."""

import functools
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from course_lib import data, files, models, training
from course_lib.names import CHECKPOINTS
from course_lib.provenance import provenance
from course_lib.training import Recipe
from course_lib.validation import check_choice

__all__ = [
    "CATALOGUE",
    "NAMES",
    "Blueprint",
    "CheckpointError",
    "another",
    "folder",
    "info",
    "load",
    "retrain",
    "save",
    "verify",
]


class CheckpointError(RuntimeError):
    """A checkpoint is missing or damaged; the message names the file and the command that makes it again."""


@dataclass(frozen=True)
class Blueprint:
    """Everything that decides the training of a checkpoint.

    Args:
        model: name of the architecture (see `models.build`).
        options: of the architecture.
        dataset: name of the data set (see `data.load_dataset`).
        recipe: of the training.
        seed: of the initial weights.
        sparsity: strength of the penalty on ``|gamma|`` during training (see `pruning.slimming.add_sparsity_gradient`).

    Example:
        >>> CATALOGUE["glyphs-slimming-weak"].sparsity
        0.0015
    """

    model: str
    options: dict[str, Any] = field(default_factory=dict)
    dataset: str = "glyphs"
    recipe: Recipe = field(default_factory=Recipe)
    seed: int = 0
    sparsity: float = 0.0


# Shifting the images keeps a teacher unsure of its own training images, which is what a student learns from.
_SHIFTED = Recipe(epochs=15, augment="shift")
# Wide where the image is small, so that many channels can be spared; gamma starts at 0.5 as in the paper.
_SLIMMING = Blueprint(
    "vgg",
    {"widths": [16, "M", 32, "M", 64, "M", 128, 128, 128], "gamma": 0.5},
    recipe=Recipe(epochs=6, channels_last=True),
)
# Half precision and channels innermost make a processor or GPU that has units for it several times as fast.
_CIFAR = Recipe(
    epochs=16,
    batch_size=256,
    learning_rate=0.2,
    label_smoothing=0.1,
    augment="shift_flip",
    precision="bfloat16",
    channels_last=True,
)
CATALOGUE = {
    "glyphs-mlp": Blueprint(
        "mlp",
        {"hidden": [512, 256]},
        recipe=replace(_SHIFTED, epochs=30, optimizer="adam", learning_rate=2e-3),
    ),
    "glyphs-vgg-narrow": Blueprint("vgg", {"widths": [16, 16, "M", 32, 32, "M", 64, 64]}, recipe=_SHIFTED),
    "glyphs-vgg": Blueprint("vgg", recipe=_SHIFTED),
    "glyphs-vgg-wide": Blueprint("vgg", {"widths": [64, 64, "M", 128, 128, "M", 256, 256]}, recipe=_SHIFTED),
    "glyphs-resnet": Blueprint("resnet", recipe=_SHIFTED),
    "glyphs-mobilenet": Blueprint("mobilenet", recipe=_SHIFTED),
    "glyphs-slimming-none": _SLIMMING,
    "glyphs-slimming-weak": replace(_SLIMMING, sparsity=0.0015),
    "glyphs-slimming-medium": replace(_SLIMMING, sparsity=0.005),
    "glyphs-slimming-strong": replace(_SLIMMING, sparsity=0.015),
    "cifar10-vgg": Blueprint(
        "vgg",
        {"in_channels": 3, "widths": [64, "M", 128, "M", 256, 256, "M", 256, 256]},
        "cifar10",
        _CIFAR,
    ),
}
NAMES = CHECKPOINTS


def folder() -> Path:
    """Find the folder of the checkpoints: data/checkpoints in the checkout."""
    return files.root() / "data" / "checkpoints"


def load(name: str) -> nn.Module:
    """Load a trained network, in eval mode on the CPU.

    Args:
        name: one of `NAMES`.

    Raises:
        KeyError: the name is unknown; the message lists the nearest ones.
        CheckpointError: the files are missing or damaged; the message says how to make them again.
    """
    verify(name)
    record = info(name)
    path = _weights_path(name)
    try:
        model = models.build(record["architecture"]["name"], **record["architecture"]["options"])
        model.load_state_dict(safetensors.torch.load_file(path))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        record_path = folder() / f"{name}.json"
        raise CheckpointError(f"{record_path} does not describe {path} ({error}). {_remedy(name)}") from error
    return model.eval()


def info(name: str) -> dict[str, Any]:
    """Read the record beside the weights: architecture, recipe, data set, metrics, where it comes from, sha256.

    Checkpoints that were trained before records held a "provenance" have "versions" and "threads" alone.

    Raises:
        KeyError: the name is unknown; the message lists the nearest ones.
        CheckpointError: the record is missing or damaged.
    """
    _check_name(name)
    path = folder() / f"{name}.json"
    try:
        return dict(json.loads(files.read_verified(path)))
    except (OSError, TypeError, ValueError) as error:  # absent, damaged, no JSON, or no mapping
        raise CheckpointError(f"{path} cannot be read ({error}). {_remedy(name)}") from error


def verify(name: str) -> None:
    """Compare the weights with the recorded digest.

    Raises:
        KeyError: the name is unknown.
        CheckpointError: a file is missing or damaged.
    """
    record = info(name)
    path = _weights_path(name)
    if not path.exists():
        raise CheckpointError(f"{path} is missing. {_remedy(name)}")
    digest = files.sha256(path)
    if digest != record.get("sha256"):
        raise CheckpointError(
            f"{path} is damaged: its sha256 is {digest}, not {record.get('sha256')}. {_remedy(name)}"
        )
    try:
        with safetensors.safe_open(path, framework="pt") as stream:
            stream.keys()
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file ({error}). {_remedy(name)}") from error


def retrain(name: str) -> Path:
    """Train a network from its blueprint and save it; the earlier checkpoint stays until the new one is complete.

    Args:
        name: one of `NAMES`.

    Returns:
        The path of the weights.

    Raises:
        KeyError: the name is unknown.
    """
    _check_name(name)
    files.require_own(f"training {name} again")
    started = time.perf_counter()
    blueprint = CATALOGUE[name]
    dataset = data.load_dataset(blueprint.dataset)
    model = models.build(blueprint.model, seed=blueprint.seed, **blueprint.options)
    history = training.fit(model, dataset, blueprint.recipe, after_backward=_penalty(blueprint))
    metrics = {
        "validation_accuracy": training.evaluate(model, dataset.validation),
        "test_accuracy": training.evaluate(model, dataset.test),
        "train_seconds": round(sum(history.seconds), 1),
    }
    minutes = (time.perf_counter() - started) / 60
    return save(name, model, replace(blueprint, dataset=dataset.name), metrics, minutes=minutes)


def another(
    name: str,
    seed: int,
    dataset: data.Dataset,
    *,
    options: dict[str, Any] | None = None,
    device: str = "cpu",
    **changes: Any,
) -> nn.Module:
    """Train a network like a checkpoint from another seed, so that an experiment can be repeated.

    If everything is as in the blueprint, the seed too, nothing is trained: the checkpoint itself is returned.

    Args:
        name: of the checkpoint.
        seed: of the initial weights and of the training.
        dataset: to train on; the network gets as many input channels and classes as it has.
        options: of the architecture; they win over those of the blueprint.
        device: to train on.
        changes: to the recipe, such as `epochs=40`.

    Returns:
        The network, in eval mode, on that device.

    Raises:
        KeyError: the name is unknown.
        CheckpointError: the checkpoint is missing or damaged.
        TypeError, ValueError: as `models.build`, `Recipe` and `training.fit`.
    """
    blueprint = CATALOGUE[_check_name(name)]
    own = {"in_channels": dataset.train.images.shape[1], "classes": len(dataset.classes)}
    model = models.build(blueprint.model, seed=seed, **(blueprint.options | own | (options or {}))).eval()
    recipe = replace(blueprint.recipe, **changes)
    if (seed, recipe) == (blueprint.seed, blueprint.recipe) and dataset.name == info(name)["dataset"]:
        checkpoint = load(name)
        if str(checkpoint) == str(model):  # as wide, and with as many layers
            return checkpoint.to(device)
    # Another layout in memory is faster for all but depthwise convolutions; checkpoints were trained without.
    recipe = replace(recipe, seed=seed, channels_last=blueprint.model != "mobilenet")
    training.fit(model.to(device), dataset, recipe, after_backward=_penalty(blueprint), validate=False)
    return model


def save(
    name: str,
    model: nn.Module,
    blueprint: Blueprint,
    metrics: dict[str, float],
    *,
    minutes: float | None = None,
) -> Path:
    """Write the weights and the record of a network, and enter both into data/SHA256SUMS.

    The record holds when and where it was made: date, commit, device, processor, versions, threads. Both files are
    written under temporary names and then renamed.

    Args:
        name: of the checkpoint; its files are NAME.safetensors and NAME.json.
        model: whose weights are kept.
        blueprint: it was trained from.
        metrics: {name: value}, such as its accuracies.
        minutes: that it took, data and evaluation included, if known.

    Returns:
        The path of the weights.
    """
    path = _weights_path(name)
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    content = safetensors.torch.save(weights)
    took = {} if minutes is None else {"minutes": round(minutes, 1)}
    record = {
        "architecture": {"name": blueprint.model, "options": blueprint.options},
        "dataset": blueprint.dataset,
        "recipe": asdict(blueprint.recipe),
        "sparsity": blueprint.sparsity,
        "seed": blueprint.seed,
        "metrics": metrics,
        "provenance": provenance() | {"threads": torch.get_num_threads()} | took,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    record_path = folder() / f"{name}.json"
    # Neither takes its name before both are written: weights without their record would count as damaged.
    files.write_verified({path: content, record_path: (json.dumps(record, indent=2) + "\n").encode()})
    return path


def _penalty(blueprint: Blueprint) -> Callable[[nn.Module], None] | None:
    """Make the `after_backward` of a blueprint with sparsity; None for one without."""
    if not blueprint.sparsity:
        return None
    from course_lib.pruning.slimming import add_sparsity_gradient  # here, since most users only load

    return functools.partial(add_sparsity_gradient, strength=blueprint.sparsity)


def _check_name(name: str) -> str:
    return check_choice(name, "checkpoint", NAMES, error=KeyError)


def _weights_path(name: str) -> Path:
    return folder() / f"{name}.safetensors"


def _remedy(name: str) -> str:
    if files.installed():
        return f"Restore it: {files.remedy()}"
    kept = " ".join(f"data/checkpoints/{name}.{kind}" for kind in ("json", "safetensors"))
    return f"Restore it: git checkout -- {kept} data/SHA256SUMS, or make it again: `course train {name}`."
