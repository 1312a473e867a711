"""Chapter 04: filters removed by their norm, judged beside other criteria, other ratios, and training from scratch."""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from course_lib import checkpoints, cost, training
from course_lib.data import Dataset, Split, to_float
from course_lib.experiments.common import Shared, cut, drawn, example_of, glyphs, judged
from course_lib.experiments.experiment import Experiment, Run, Scale
from course_lib.jobs import run_parallel
from course_lib.pruning.criteria import l1_norm, l2_norm, random_scores
from course_lib.pruning.filters import (
    prune_iteratively,
    ratios_for_macs,
    ratios_from_sensitivity,
    sensitivity,
)
from course_lib.pruning.recalibration import recalibrate_batch_norm
from course_lib.training import Recipe

__all__ = [
    "CONTROL",
    "CRITERIA",
    "GUIDED",
    "MOMENTS",
    "RATIOS",
    "SCAN_RATIOS",
    "SCRATCH",
    "SHARES",
    "TRAIN",
    "TUNE",
    "convolutions",
    "gradients_of",
    "prune",
    "recalibrated",
    "scan",
    "taylor",
]

CHECKPOINT = {"vgg": "glyphs-vgg-narrow", "resnet": "glyphs-resnet"}
BASE_EPOCHS, TUNE_EPOCHS = 15, 3
RATIOS = (0.3, 0.5, 0.7)
SHARES = (0.658, 0.25)
"""Shares of the MACs that are left: that of the paper's VGG-16-A, and that of half the filters."""

SCAN_RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9)
MOMENTS = ("at once", "recalibrated", "tuned")
CALIBRATION, SCORING = 1000, 1000
TUNE = Recipe(epochs=TUNE_EPOCHS, learning_rate=0.03, schedule="cosine", augment="shift", channels_last=True)
TRAIN = replace(checkpoints.CATALOGUE["glyphs-vgg-narrow"].recipe, channels_last=True)
RECIPES = {"tuning": TUNE, "training": TRAIN}
"""That of fine-tuning, and that of the whole networks: a higher learning rate with a warm-up."""

Score = Callable[[Tensor], Tensor]
"""Maps the weight of a convolution [C_out, C_in, k, k] to a number for each filter, the lowest of which go."""


# The method, as the chapter shows it


def prune(network, ratios, score=l1_norm):
    """Copy a plain chain and remove the filters with the lowest scores; `ratios` is {layer: share that goes}."""
    small = copy.deepcopy(network)
    places = [place for place, layer in enumerate(network) if isinstance(layer, nn.Conv2d)]
    for place, reader in zip(places, [*places[1:], -1], strict=True):
        conv, norm, following = small[place], small[place + 1], small[reader]
        scores = score(network[place].weight)  # of whole filters, [C_out]
        count = min(round(ratios.get(str(place), 0.0) * len(scores)), len(scores) - 1)
        keep = scores.argsort(stable=True)[count:].sort().values  # in their old order
        conv.weight.data = conv.weight.data[keep]  # the filters
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(norm, name).data = getattr(norm, name).data[keep]  # their entries in batch norm
        following.weight.data = following.weight.data[:, keep]  # the kernels that read their maps
        conv.out_channels = norm.num_features = len(keep)
        setattr(following, "in_channels" if reader > 0 else "in_features", len(keep))
    return small


# What runs share


def trained(key: tuple[str, int], dataset: Dataset, scale: Scale) -> nn.Module:
    """Load the checkpoint for seed 0; train one more network by the same recipe for another seed."""
    name, seed = key
    images = len(dataset.train)
    epochs = scale.epochs(BASE_EPOCHS, images=images, batch_size=128) if seed else BASE_EPOCHS
    network = checkpoints.another(CHECKPOINT[name], seed, dataset, epochs=epochs, augment="shift")
    return network.to(memory_format=torch.contiguous_format)


def prepare(runs: Sequence[Run], scale: Scale) -> Shared:
    """Train the networks that are pruned, side by side where there are many."""
    dataset = cut(glyphs(), scale)
    keys = list(dict.fromkeys((run["network"], run["seed"]) for run in runs))
    call = functools.partial(trained, dataset=dataset, scale=scale)
    workers = None if any(seed for _, seed in keys) else 1  # a checkpoint is only read
    found = run_parallel(call, keys, workers=workers, label="whole networks")
    facts = {
        "base epochs": BASE_EPOCHS,
        "augment": TUNE.augment,
        "tuning": {
            "epochs": TUNE_EPOCHS,
            "learning rate": TUNE.learning_rate,
            "schedule": TUNE.schedule,
        },
        "calibration images": CALIBRATION,
        "scoring images": SCORING,
    }
    return Shared(dataset, dict(zip(keys, found, strict=True)), scale, facts)


def convolutions(network: nn.Module) -> list[str]:
    """Names of the convolutions of a plain chain."""
    return [name for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)]


def tune(network: nn.Module, dataset: Dataset, recipe: Recipe, scale: Scale) -> nn.Module:
    """Train a network in place, with as many epochs as the scale allows."""
    epochs = scale.epochs(recipe.epochs, images=len(dataset.train), batch_size=recipe.batch_size)
    training.fit(network, dataset, replace(recipe, epochs=epochs), validate=False)
    return network


def recalibrated(network: nn.Module, dataset: Dataset, seed: int) -> nn.Module:
    """Measure the statistics of batch norm anew, in place, on a thousand training images."""
    recalibrate_batch_norm(network, [to_float(drawn(dataset.train, CALIBRATION, seed).images)])
    return network


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def moments(small: nn.Module, whole: nn.Module, run: Run, shared: Shared) -> dict[str, Any]:
    """Cost of a pruned network, and its test accuracy at once, recalibrated, and tuned from there."""
    dataset, example = shared.dataset, example_of(shared.dataset)
    costs = {
        "macs": cost.macs(small, example) / cost.macs(whole, example),
        "parameters": _parameters(small) / _parameters(whole),
    }
    steps: dict[str, Callable[[], object]] = {
        "at once": lambda: None,
        "recalibrated": lambda: recalibrated(small, dataset, run["seed"]),
        "tuned": lambda: tune(small, dataset, replace(TUNE, seed=run["seed"]), shared.scale),
    }
    found = {}
    for moment in run["moments"]:
        steps[moment]()
        told = judged(small, dataset)
        found |= {moment: told["test"], f"{moment}_parts": told["test_parts"]}
    return costs | found


# Is smallest first better than another order?


def largest(weight: Tensor) -> Tensor:
    """The largest filters go first."""
    return -l1_norm(weight)


def taylor(weight, gradients):
    """Square what the loss gains or loses to first order when a filter goes, and average over the batches."""
    products = (gradients * weight).flatten(2).sum(dim=2)  # [B, C_out]
    return products.square().mean(dim=0)


def gradients_of(network: nn.Module, images: Split) -> dict[int, Tensor]:
    """Collect the gradients of every convolution for batches of 50 images: {id of its weight: [B, C_out, ...]}."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    found: dict[int, list[Tensor]] = {id(layer.weight): [] for layer in layers}
    network.eval()  # in train mode batch norm undoes any change of a filter's length
    for x, y in zip(images.images.split(50), images.labels.split(50), strict=True):
        loss = nn.functional.cross_entropy(network(to_float(x)), y)
        gradients = torch.autograd.grad(loss, [layer.weight for layer in layers])
        for layer, gradient in zip(layers, gradients, strict=True):
            found[id(layer.weight)].append(gradient)
    return {key: torch.stack(parts) for key, parts in found.items()}


CRITERIA = ("smallest", "random", "largest", "L2", "Taylor")
_OF_WEIGHTS: Mapping[str, Score] = {"smallest": l1_norm, "L2": l2_norm, "largest": largest}


def score_of(by: str, network: nn.Module, dataset: Dataset, seed: int) -> Score:
    """The score of a criterion: of the weights alone, by chance, or from gradients on training images."""
    if by == "random":
        return functools.partial(random_scores, generator=torch.Generator().manual_seed(seed))
    if by == "Taylor":
        gradients = gradients_of(network, drawn(dataset.train, CALIBRATION, seed))
        return lambda weight: taylor(weight.detach(), gradients[id(weight)])
    return _OF_WEIGHTS[by]


def measure_control(run: Run, shared: Shared, method: Callable[..., nn.Module]) -> dict[str, Any]:
    """Remove one share of every layer's filters by a criterion."""
    network = shared.networks[run["network"], run["seed"]]
    score = score_of(run["by"], network, shared.dataset, run["seed"])
    small = method(network, dict.fromkeys(convolutions(network), run["ratio"]), score)
    return moments(small, network, run, shared)


CHAIN = "the whole chain: trained network, random choice, images to calibrate and score with, fine-tuning"
CONTROL = Experiment(
    "04-control",
    tuple(
        {"ratio": ratio, "by": by, "seed": seed} for ratio in RATIOS for by in CRITERIA for seed in range(5)
    ),
    measure_control,
    prepare,
    prune,
    {"network": "vgg", "moments": MOMENTS},
    live=(
        30,
    ),  # half of the filters, at random, on the checkpoint; the chapter's own loop repeats smallest first
    seed=CHAIN,
)
"""Five orders of removal at three ratios, the same ratio in every layer."""


# Where to cut


def scan(network: nn.Module, dataset: Dataset, seed: int = 0, *, anew: bool) -> tuple[float, list[dict]]:
    """Accuracy on validation images of the whole network, and with each layer alone pruned.

    Args:
        network: a plain chain.
        dataset: to score, and to recalibrate with.
        seed: of both draws.
        anew: measure the statistics of batch norm anew behind each cut.
    """
    scoring = drawn(dataset.validation, SCORING, seed)

    def evaluate(small: nn.Module) -> float:
        return training.evaluate(recalibrated(small, dataset, seed) if anew else small, scoring)

    rows = sensitivity(
        network, example_of(dataset), evaluate, ratios=SCAN_RATIOS, layers=convolutions(network)
    )
    return training.evaluate(network, scoring), rows


def measure_guided(run: Run, shared: Shared, method: Callable[..., nn.Module]) -> dict[str, Any]:
    """Prune to a budget of MACs, with one ratio for all layers or with those that a scan gives."""
    network, example = shared.networks[run["network"], run["seed"]], example_of(shared.dataset)
    layers = convolutions(network)
    if run["by"] == "uniform":
        ratios = ratios_for_macs(network, example, lambda t: dict.fromkeys(layers, t), run["share"])
    else:
        anew = run["by"] == "guided, recalibrated scan"
        baseline, rows = scan(network, shared.dataset, run["seed"], anew=anew)
        ratios = ratios_for_macs(
            network,
            example,
            lambda fall: ratios_from_sensitivity(rows, baseline * (1 - fall), baseline=baseline),
            run["share"],
        )
    return moments(method(network, ratios), network, run, shared)


GUIDED = Experiment(
    "04-guided",
    tuple(
        {"share": share, "by": by, "seed": seed}
        for share in SHARES
        for by in ("uniform", "guided", "guided, recalibrated scan")
        for seed in range(5)
    ),
    measure_guided,
    prepare,
    prune,
    {"network": "vgg", "moments": MOMENTS},
    live=(15,),  # uniform, at a quarter of the MACs, on the checkpoint
    seed=CHAIN,
)
"""One ratio for all layers, and ratios read off each network's own sensitivity curves, at equal MACs."""


# What stays: the weights, or the architecture?


def measure_scratch(run: Run, shared: Shared, method: Callable[..., nn.Module]) -> dict[str, Any]:
    """Half of the filters gone: train on with the weights that stayed, with new ones, or between the cuts."""
    network, dataset = shared.networks[run["network"], run["seed"]], shared.dataset
    recipe = replace(RECIPES[run["recipe"]], epochs=run["epochs"], seed=run["seed"])
    if run["rounds"] > 1:

        def one_round(net: nn.Module) -> object:
            return tune(net, dataset, replace(recipe, epochs=run["epochs"] // run["rounds"]), shared.scale)

        small = prune_iteratively(
            network, example_of(dataset), RATIO, rounds=run["rounds"], fine_tune=one_round
        )
        return judged(small, dataset)
    small = method(network, dict.fromkeys(convolutions(network), RATIO))
    if run["weights"] == "new":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run["seed"])
            for layer in small.modules():
                if hasattr(layer, "reset_parameters"):
                    layer.reset_parameters()
    return judged(tune(small, dataset, recipe, shared.scale), dataset)


RATIO = 0.5
SCRATCH_ARMS = (
    {"weights": "kept", "epochs": 3},
    {"weights": "kept", "epochs": 3, "rounds": 3},
    {"weights": "kept", "epochs": 15},
    {"weights": "kept", "epochs": 15, "recipe": "training"},
    {"weights": "new", "epochs": 3, "recipe": "training"},
    {"weights": "new", "epochs": 15},
    {"weights": "new", "epochs": 15, "recipe": "training"},
    {"weights": "new", "epochs": 18, "recipe": "training"},
    {"weights": "new", "epochs": 30, "recipe": "training"},
)
SCRATCH = Experiment(
    "04-scratch",
    tuple(arm | {"seed": seed} for arm in SCRATCH_ARMS for seed in range(5)),
    measure_scratch,
    prepare,
    prune,
    {"network": "vgg", "recipe": "tuning", "rounds": 1},
    live=(),  # the first of its runs is the chapter's own loop
    seed="the whole chain: trained network, new weights, order and shifts of the images",
)
"""Half of the filters gone: kept weights and new ones, trained for a few epochs, for as many as before, or for all."""
