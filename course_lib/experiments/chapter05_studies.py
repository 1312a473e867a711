"""Chapter 05 beside its main line: other pools, few images, bugs, and what fine-tuning moves."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from course_lib import checkpoints, models, statistics, training
from course_lib.data import Dataset, to_float
from course_lib.experiments import chapter05
from course_lib.experiments.chapter05 import CANDIDATES, MAX_RATIO, Shared, recalibrate
from course_lib.experiments.experiment import Experiment, Run, Scale
from course_lib.pruning.criteria import l1_norm

__all__ = ["BUGS", "IMAGES", "OPTIMISM", "OWN_IMAGES", "SPREAD", "WEIGHTS"]

SPREAD = Experiment(
    "05-spread",
    tuple({"candidate": place, "seed": seed} for place in range(40) for seed in range(1)),
    chapter05.measure_candidate,
    chapter05.prepare_candidates,
    recalibrate,
    {"budget": 0.35, "max_ratio": 0.7, "pool": 40},
    live=(),
    seed=CANDIDATES.seed,
)
"""Candidates of the same cost with no ratio above 70 %, so that none of them is a wreck."""


# How many images are enough


def measure_images(run: Run, shared: Shared, method: Callable[..., None]) -> dict[str, float]:
    """Score all candidates at 35 % with a number of images, and correlate with their recorded outcome."""
    strategies = shared.strategies[run["budget"]]
    scores = chapter05.judge(
        shared.networks["vgg", 0],
        shared.channels["vgg", 0],
        shared.dataset,
        strategies,
        method,
        images=run["images"],
        seed=run["seed"],
    )
    tuned = chapter05.outcomes(CANDIDATES.recorded(), budget=run["budget"])["tuned"][: len(scores)]
    # The few candidates of a test may all score the same, and have no correlation then.
    varied = len(set(scores)) > 1
    correlation = statistics.correlation(scores, tuned.tolist()).mean if varied else 0.0
    return {"score": float(np.mean(scores)), "correlation": correlation}


IMAGES = Experiment(
    "05-images",
    tuple({"images": count, "seed": seed} for count in (10, 30, 100, 300, 1000, 3000) for seed in range(5)),
    measure_images,
    chapter05.prepare_candidates,
    recalibrate,
    {"budget": 0.35, "max_ratio": MAX_RATIO, "pool": 40},
    live=(0,),
    seed="the images to calibrate with and those to score on",
)
"""The scores with few and many calibration images."""


# What fine-tuning moves


def measure_weights(run: Run, shared: Shared, method: None) -> dict[str, Any]:
    """Tune one candidate and compare filters and running variances before and after."""
    strategy = shared.strategies[run["budget"]][run["candidate"]]
    network = chapter05.pruned(shared.networks["vgg", 0], shared.channels["vgg", 0], strategy.ratios)
    before = _norms_and_variances(network)
    start = torch.cat([weight.detach().flatten() for weight in network.parameters() if weight.ndim > 1])
    chapter05.tune(network, shared.dataset, shared.scale, run["seed"])
    after = _norms_and_variances(network)
    end = torch.cat([weight.detach().flatten() for weight in network.parameters() if weight.ndim > 1])
    change = [(now / then - 1).abs().median().item() for then, now in zip(before, after, strict=True)]
    names = ("norms before", "variances before", "norms after", "variances after")
    return {
        "norms change": change[0],
        "variances change": change[1],
        "way": ((end - start).norm() / start.norm()).item(),
        **{
            name: [round(value, 5) for value in values.tolist()]
            for name, values in zip(names, (*before, *after), strict=True)
        },
    }


def _norms_and_variances(network: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """L1 norm of every filter, and running variance of every channel."""
    layers = list(network.modules())
    norms = [l1_norm(layer.weight).detach() for layer in layers if isinstance(layer, nn.Conv2d)]
    variances = [layer.running_var.clone() for layer in layers if isinstance(layer, nn.BatchNorm2d)]
    return torch.cat(norms), torch.cat(variances)


WEIGHTS = Experiment(
    "05-weights",
    ({"budget": 0.35, "candidate": 0, "seed": 0},),
    measure_weights,
    chapter05.prepare_candidates,
    None,
    {"max_ratio": MAX_RATIO, "pool": 40},
    seed=CANDIDATES.seed,
)
"""One candidate before and after fine-tuning, filter by filter and channel by channel."""


# Bugs that look right

MOMENTUM = ("1 batches", "5 batches", "20 batches", "100 batches")
BATCH = 100


def dropout_vgg(key: tuple[str, int], dataset: Dataset, scale: Scale) -> nn.Module:
    """Train the VGG, or one with a dropout of one half after each halving of the image."""
    name, seed = key
    if name == "vgg":
        return chapter05.trained(key, dataset, scale)
    layers: list[nn.Module] = []
    for layer in models.build("vgg", seed=seed, widths=[16, 16, "M", 32, 32, "M", 64, 64]):
        layers += [layer, nn.Dropout(0.5)] if isinstance(layer, nn.MaxPool2d) else [layer]
    network = nn.Sequential(*layers)
    recipe = replace(checkpoints.CATALOGUE["glyphs-vgg-narrow"].recipe, channels_last=True)
    chapter05.tune(network, dataset, scale, seed, replace(recipe, epochs=chapter05.BASE_EPOCHS))
    return network.to(memory_format=torch.contiguous_format).eval()


def prepare_bugs(runs: Sequence[Run], scale: Scale) -> Shared:
    """Train both networks of each repetition and draw its strategies."""
    dataset = chapter05.cut(chapter05.glyphs(), scale)
    keys = [(run["network"], run["seed"]) for run in runs]
    networks = chapter05.train_all(keys, dataset, scale, dropout_vgg)
    channels = chapter05.followed(networks, dataset)
    strategies = {
        key: chapter05.draw(network, channels[key], 0.35, chapter05.few(24, scale), key[1])
        for key, network in networks.items()
    }
    return Shared(dataset, networks, channels, strategies, scale, chapter05.facts())


@torch.no_grad()
def recalibrate_wrongly(network: nn.Module, batches: Sequence[torch.Tensor], bug: str) -> None:
    """Recalibrate with dropout on, or without a reset and with the momentum of training."""
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    if bug == "dropout on":
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        network.train()
    else:
        batches = batches[: int(bug.split()[0])]
        for norm in norms:
            norm.train()
    for batch in batches:
        network(batch)
    network.eval()


def measure_bug(run: Run, shared: Shared, method: Callable[..., None]) -> dict[str, float]:
    """Mean score of all strategies, recalibrated rightly or with one of the bugs."""
    dataset, seed, bug = shared.dataset, run["seed"], run["by"]
    key = (run["network"], seed)
    order = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(seed))
    batches = [to_float(dataset.train.images[part]) for part in order.split(BATCH)]
    scores = []
    for strategy in shared.strategies[key]:
        small = chapter05.pruned(shared.networks[key], shared.channels[key], strategy.ratios)
        if bug == "right":
            method(small, batches[:10])
        else:
            recalibrate_wrongly(small, batches[:10] if bug == "dropout on" else batches, bug)
        scores.append(training.evaluate(small, dataset.validation))
    return {"score": float(np.mean(scores))}


BUGS = Experiment(
    "05-bugs",
    tuple(
        {"network": name, "by": by, "seed": seed}
        for name, bugs in (("vgg", ("right", *MOMENTUM)), ("with dropout", ("right", "dropout on")))
        for by in bugs
        for seed in range(5)
    ),
    measure_bug,
    prepare_bugs,
    recalibrate,
    live=(10,),  # five batches on the first VGG
    seed="the whole network, the strategies drawn and the images to calibrate with",
)
"""Mean score of 24 candidates, recalibrated rightly and with the bugs that look right."""


class Judged(NamedTuple):
    """Candidates to be chosen from, with what each says to each test image.

    Attributes:
        dataset: to calibrate and judge with.
        candidates: pruned networks.
        correct: [candidates, 2000] 1 where a recalibrated candidate is right.
        facts: for the record.
    """

    dataset: Dataset
    candidates: list[nn.Module]
    correct: np.ndarray
    facts: dict[str, Any]


def prepare_judged(runs: Sequence[Run], scale: Scale) -> Judged:
    """Recalibrate all candidates at 35 % and let them judge 2,000 test images."""
    given = [run | {"budget": 0.35, "max_ratio": MAX_RATIO, "pool": 40} for run in runs]
    shared = chapter05.prepare_candidates(given, scale)
    dataset, key = shared.dataset, ("vgg", 0)
    calibration = to_float(chapter05.drawn(dataset.train, chapter05.CALIBRATION).images)
    judges = dataset.test.subset(torch.arange(min(2000, len(dataset.test))))
    candidates, correct = [], []
    for strategy in shared.strategies[0.35]:
        small = chapter05.pruned(shared.networks[key], shared.channels[key], strategy.ratios)
        recalibrate(small, [calibration])
        candidates.append(small)
        correct.append((training.predict(small, judges.images).argmax(1) == judges.labels).double().numpy())
    return Judged(dataset, candidates, np.stack(correct), chapter05.facts())


def measure_optimism(run: Run, shared: Judged, method: None) -> dict[str, float]:
    """How much better the winner looks on the test images that chose it than on the others, over random cuts."""
    rng = np.random.default_rng(run["seed"])
    gaps, count = [], shared.correct.shape[1]
    size = min(run["images"], count // 2)
    for _ in range(300):
        order = rng.permutation(count)
        choosing, fresh = shared.correct[:, order[:size]].mean(1), shared.correct[:, order[size:]].mean(1)
        gaps.append(choosing.max() - fresh[choosing.argmax()])
    low, high = np.quantile(gaps, [0.025, 0.975])
    return {"gap": float(np.mean(gaps)), "low": float(low), "high": float(high)}


OPTIMISM = Experiment(
    "05-optimism",
    tuple({"images": images, "seed": 0} for images in (250, 1000)),
    measure_optimism,
    prepare_judged,
    live=(),
    seed="300 cuts of the test images; candidates and calibration images stay",
)
"""Test images that choose the winner, and flatter it."""


def measure_own_images(run: Run, shared: Judged, method: None) -> dict[str, float]:
    """Mean score of four candidates that are calibrated on the scoring images, minus on as many training images."""
    generator = torch.Generator().manual_seed(run["seed"])
    validation, train = shared.dataset.validation, shared.dataset.train
    scoring = validation.subset(torch.randperm(len(validation), generator=generator)[: run["images"]])
    other = train.images[torch.randperm(len(train), generator=generator)[: run["images"]]]
    means = []
    for images in (scoring.images, other):
        scores = []
        for small in shared.candidates[:4]:
            recalibrate(small, [to_float(images)])
            scores.append(training.evaluate(small, scoring))
        means.append(float(np.mean(scores)))
    return {"gap": means[0] - means[1]}


OWN_IMAGES = Experiment(
    "05-own-images",
    tuple({"images": images, "seed": seed} for images in (20, 100) for seed in range(10)),
    measure_own_images,
    prepare_judged,
    live=(),
    seed="the images to calibrate with and those to score on",
)
"""Candidates that are recalibrated on the very images that score them."""
