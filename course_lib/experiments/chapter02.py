"""Chapter 02: when weights go, under which threshold, and by which score."""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from course_lib import checkpoints, training
from course_lib.data import Dataset, to_float
from course_lib.experiments.common import cut, drawn, glyphs, judged
from course_lib.experiments.experiment import Experiment, Run, Scale
from course_lib.jobs import run_parallel
from course_lib.pruning import gradients, masks, patterns, storage
from course_lib.training import Recipe

__all__ = [
    "CRITERIA",
    "FINE",
    "NARROW",
    "RESNET",
    "SCHEDULES",
    "SCORES",
    "SPARSITIES",
    "kept_shares",
    "one_a_layer",
    "one_for_all",
    "parameters",
    "prune_and_tune",
    "stored",
    "weights_of",
]

RESNET, NARROW = "glyphs-resnet", "glyphs-vgg-narrow"
SEEDS = range(5)
WHOLE_CHAIN = (
    "the whole chain: the trained network, the order of images in fine-tuning, and what chance picks"
)


# What the experiments share


class Shared(NamedTuple):
    """What the runs of an experiment share.

    Attributes:
        dataset: to train and judge with.
        networks: {seed: trained, whole}.
        shares: {branches: share of filters that goes to cut as much}.
        scale: how much is done.
        facts: for the record.
    """

    dataset: Dataset
    networks: dict[int, nn.Module]
    shares: dict[int, float]
    scale: Scale
    facts: dict[str, Any]


def trained(seed: int, name: str, dataset: Dataset, scale: Scale) -> nn.Module:
    """Load the checkpoint for seed 0; train one more network by the same recipe for another seed."""
    epochs = checkpoints.CATALOGUE[name].recipe.epochs
    if seed:
        epochs = scale.epochs(epochs, images=len(dataset.train), batch_size=128)
    return checkpoints.another(name, seed, dataset, epochs=epochs).to(memory_format=torch.contiguous_format)


def train_all(name: str, runs: Sequence[Run], dataset: Dataset, scale: Scale) -> dict[int, nn.Module]:
    """Train the networks of all seeds, side by side where there are many."""
    seeds = sorted({run["seed"] for run in runs})
    call = functools.partial(trained, name=name, dataset=dataset, scale=scale)
    workers = None if any(seeds) else 1  # a checkpoint is only read
    return dict(zip(seeds, run_parallel(call, seeds, workers=workers, label="base networks"), strict=True))


def tuned(recipe: Recipe, dataset: Dataset, scale: Scale, seed: int) -> Recipe:
    """A recipe of fine-tuning with as many epochs as the scale allows."""
    epochs = scale.epochs(recipe.epochs, images=len(dataset.train), batch_size=recipe.batch_size)
    return replace(recipe, seed=seed, epochs=epochs)


def parameters(model: nn.Module) -> int:
    """Count all parameters, zeros included."""
    return sum(parameter.numel() for parameter in model.parameters())


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Collect the weights of convolutions and linear layers by the name of the layer."""
    return {name.removesuffix(".weight"): p.detach() for name, p in model.named_parameters() if p.ndim > 1}


def stored(model: nn.Module, count: Callable[[Tensor], int]) -> int:
    """Count the bytes of all parameters: weights by `count`, all others dense."""
    return sum((count if p.ndim > 1 else storage.dense_bytes)(p.detach()) for p in model.parameters())


# When, and under which threshold

SPARSITIES = (0.8, 0.9, 0.95)
FINE = Recipe(epochs=2, learning_rate=0.05, augment="shift", channels_last=True)
UNTIL = 0.63
"""Share of the steps of fine-tuning after which gradual pruning ends."""

Choose = Callable[[nn.Module, float], Mapping[str, Tensor]]
"""(network, share of the whole cut) -> masks of what stays."""


def prune_and_tune(network, choose, dataset, recipe, until=0):
    """Hold at zero what `choose` gives up, and fine-tune; gradually up to step `until`, or all of it before."""
    step = 0

    def prune_more(network):  # called in each step, behind the backward pass
        nonlocal step
        step += 1
        if step <= until and (step % 10 == 0 or step == until):
            masks.freeze(network, choose(network, 1 - (1 - step / until) ** 3))

    if not until:
        masks.freeze(network, choose(network, 1))
    training.fit(network, dataset, recipe, after_backward=prune_more, validate=False)
    masks.make_permanent(network)
    return network


def one_for_all(scores: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Keep the highest scores by one threshold for all layers; returns masks by the name of the weight."""
    keep = masks.global_magnitude_masks(scores, sparsity)
    return {f"{name}.weight": mask for name, mask in keep.items()}


def one_a_layer(scores: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Keep the highest scores by one threshold a layer; the first layer stays whole, and the others make up for it."""
    first, *others = scores
    count = {name: score.numel() for name, score in scores.items()}
    share = min(sparsity * sum(count.values()) / sum(count[name] for name in others), 1)
    keep = {f"{name}.weight": masks.magnitude_mask(scores[name], share) for name in others}
    return {f"{first}.weight": torch.ones_like(scores[first], dtype=torch.bool), **keep}


THRESHOLDS = {"one for all": one_for_all, "one a layer": one_a_layer}


def by_chance(weights: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Score all weights at random."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(weight.shape, generator=generator) for name, weight in weights.items()}


def kept_shares(keep: Mapping[str, Tensor]) -> dict[str, float]:
    """Compute the share of weights that stays in each layer."""
    return {name.removesuffix(".weight"): mask.double().mean().item() for name, mask in keep.items()}


def prepare_narrow(runs: Sequence[Run], scale: Scale) -> Shared:
    """Train the narrow VGG of each seed."""
    dataset = cut(glyphs(), scale)
    told = {"epochs": FINE.epochs, "rate": FINE.learning_rate, "augment": FINE.augment}
    return Shared(dataset, train_all(NARROW, runs, dataset, scale), {}, scale, told)


def steps_of(recipe: Recipe, dataset: Dataset) -> int:
    """Count the steps of a training."""
    return recipe.epochs * -(-len(dataset.train) // recipe.batch_size)


def measure_schedule(run: Run, shared: Shared, method: Callable[..., nn.Module]) -> dict[str, Any]:
    """Prune one network at once or gradually, under either threshold, and tune it."""
    dataset, seed = shared.dataset, run["seed"]
    network = copy.deepcopy(shared.networks[seed])
    chance = by_chance(weights_of(network), seed) if run["which"] == "random" else None

    def choose(network: nn.Module, share: float) -> Mapping[str, Tensor]:
        scores = chance or weights_of(_dense(network))
        return THRESHOLDS[run["threshold"]](scores, share * run["sparsity"])

    whole = choose(network, 1)
    at_once = copy.deepcopy(network)
    masks.zero(at_once, whole)
    recipe = tuned(FINE, dataset, shared.scale, seed)
    until = max(1, round(UNTIL * steps_of(recipe, dataset))) if run["when"] == "gradually" else 0
    method(network, choose, dataset, recipe, until)
    left = sum(int(w.count_nonzero()) for w in weights_of(network).values())
    return {
        "at once": training.evaluate(at_once, dataset.test),
        "emptiest": min(w.count_nonzero().item() / w.numel() for w in weights_of(network).values()),
        "left": left / sum(w.numel() for w in weights_of(network).values()),
        **judged(network, dataset),
    }


def _dense(network: nn.Module) -> nn.Module:
    """A plain copy of a network that may be frozen, under its plain names."""
    plain = copy.deepcopy(network)
    masks.make_permanent(plain)
    return plain


_SCHEDULES = tuple(
    {"which": which, "when": when, "threshold": threshold, "sparsity": sparsity, "seed": seed}
    for sparsity in SPARSITIES
    for which, when, threshold in (
        ("magnitude", "at once", "one for all"),
        ("magnitude", "at once", "one a layer"),
        ("magnitude", "gradually", "one for all"),
        ("magnitude", "gradually", "one a layer"),
        ("random", "at once", "one a layer"),
    )
    for seed in SEEDS
)
SCHEDULES = Experiment(
    "02-schedules",
    _SCHEDULES,
    measure_schedule,
    prepare_narrow,
    prune_and_tune,
    live=(
        _SCHEDULES.index(
            {
                "which": "magnitude",
                "when": "at once",
                "threshold": "one a layer",
                "sparsity": 0.95,
                "seed": 0,
            }
        ),
    ),
    seed=WHOLE_CHAIN,
)
"""A VGG pruned at once or gradually, under one threshold or one a layer, and by chance; two epochs for each."""


# By which score

SCORES = ("magnitude", "taylor", "obd", "random")
SCORING_IMAGES = 4000


def scores_of(network: nn.Module, by: str, dataset: Dataset, seed: int) -> dict[str, Tensor]:
    """Score every weight by its magnitude, by what its removal does to the loss of training images, or by chance."""
    if by == "magnitude":
        return weights_of(network)
    if by == "random":
        return by_chance(weights_of(network), seed)
    some = drawn(dataset.train, SCORING_IMAGES, seed)
    rule = {"taylor": gradients.taylor_scores, "obd": gradients.obd_scores}[by]
    found = rule(network, to_float(some.images), some.labels)
    return {name.removesuffix(".weight"): scores for name, scores in found.items()}


def two_of_four(scores: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Keep two of each four weights; the first layer, whose filters have nine inputs, stays whole."""
    return {
        f"{name}.weight": patterns.n_of_m_mask(score, keep=round(4 * (1 - sparsity)), of=4)
        if score[0].numel() % 4 == 0
        else torch.ones_like(score, dtype=torch.bool)
        for name, score in scores.items()
    }


def measure_criterion(run: Run, shared: Shared, method: Callable[..., nn.Module]) -> dict[str, Any]:
    """Prune one network once, by one score and under one threshold, and tune it."""
    dataset, seed = shared.dataset, run["seed"]
    network = copy.deepcopy(shared.networks[seed])
    scores = scores_of(network, run["by"], dataset, seed)
    rule = {**THRESHOLDS, "two of four": two_of_four}[run["threshold"]]
    keep = rule(scores, run["sparsity"])
    at_once = copy.deepcopy(network)
    masks.zero(at_once, keep)
    method(network, lambda network, share: keep, dataset, tuned(FINE, dataset, shared.scale, seed))
    return {"at once": training.evaluate(at_once, dataset.test), **judged(network, dataset)}


_CRITERIA = tuple(
    {"by": by, "threshold": threshold, "sparsity": sparsity, "seed": seed}
    for sparsity, thresholds, scores in (
        (0.7, tuple(THRESHOLDS), SCORES),
        (0.9, tuple(THRESHOLDS), SCORES),
        (0.5, ("one a layer", "two of four"), ("magnitude",)),
    )
    for by in scores
    for threshold in thresholds
    for seed in SEEDS
)
CRITERIA = Experiment(
    "02-criteria",
    _CRITERIA,
    measure_criterion,
    prepare_narrow,
    prune_and_tune,
    live=(_CRITERIA.index({"by": "taylor", "threshold": "one a layer", "sparsity": 0.9, "seed": 0}),),
    seed=WHOLE_CHAIN,
)
"""A VGG pruned once by four scores under two thresholds, and in the pattern of two of four; two epochs for each."""
