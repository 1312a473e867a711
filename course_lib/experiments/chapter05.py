"""Chapter 05: pruned candidates judged with old and with new statistics of batch norm, and what a search then finds."""

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from course_lib import checkpoints, cost, training
from course_lib.data import Dataset, to_float
from course_lib.experiments.common import cut, drawn, example_of, glyphs
from course_lib.experiments.experiment import FULL, Experiment, Run, Scale
from course_lib.experiments.results import Results
from course_lib.jobs import run_parallel
from course_lib.pruning.eagleeye import Strategy, sample_strategies
from course_lib.pruning.filters import filter_plan, ratios_for_macs
from course_lib.pruning.graph import Channels, follow
from course_lib.pruning.surgery import remove_channels
from course_lib.training import Recipe

__all__ = [
    "ARMS",
    "BUDGET",
    "BUDGETS",
    "CANDIDATES",
    "CHOICE",
    "FULL",
    "POOLS",
    "draw",
    "drawn",
    "leave_one_out",
    "outcomes",
    "pruned",
    "recalibrate",
    "regret",
    "regret_by_pool",
    "tune",
]

CHECKPOINT = {"vgg": "glyphs-vgg-narrow", "mobilenet": "glyphs-mobilenet"}
BUDGETS = (0.5, 0.35, 0.2)
BUDGET = {"vgg": 0.35, "mobilenet": 0.5}
"""Share of the MACs that the whole workflow leaves of each network."""

ARMS = ("adaptive", "plain", "random", "uniform", "adaptive, best of 3", "random, best of 3")
BASE_EPOCHS = 15
MAX_RATIO = 0.95
CALIBRATION, SCORING = 500, 1000
POOLS = (2, 5, 10, 20, 40)
TUNE = Recipe(epochs=2, learning_rate=0.03, schedule="cosine", augment="shift", channels_last=True)


# The method, as the chapter shows it


@torch.no_grad()
def recalibrate(network, batches):
    """Measure the statistics of every batch norm anew, as plain averages over the batches; no weight changes."""
    network.eval()  # dropout and all else as in use
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
        norm.train()  # batch norm alone measures
    for batch in batches:
        network(batch)
    for norm in norms:
        norm.momentum = 0.1
        norm.eval()


# What a search does with it


def draw(
    network: nn.Module, channels: Any, budget: float, count: int, seed: int = 0, max_ratio: float = MAX_RATIO
) -> list[Strategy]:
    """Draw random strategies that leave the budget of MACs, to half a point."""
    span = (budget - 0.005, budget + 0.005)
    return sample_strategies(network, channels, count=count, mac_range=span, max_ratio=max_ratio, seed=seed)


def pruned(network: nn.Module, channels: Any, ratios: Any) -> nn.Module:
    """Remove the filters with the smallest L1 norm; nothing is trained and nothing recalibrated."""
    return remove_channels(network, channels, filter_plan(network, channels, ratios))


def tune(network: nn.Module, dataset: Dataset, scale: Scale, seed: int, recipe: Recipe = TUNE) -> nn.Module:
    """Fine-tune a network in place."""
    epochs = scale.epochs(recipe.epochs, images=len(dataset.train), batch_size=recipe.batch_size)
    training.fit(network, dataset, replace(recipe, seed=seed, epochs=epochs), validate=False)
    return network


def judge(
    network: nn.Module,
    channels: Channels,
    dataset: Dataset,
    strategies: Sequence[Strategy],
    recalibration: Callable[..., None] | None,
    *,
    images: int = CALIBRATION,
    seed: int = 0,
) -> list[float]:
    """Score each strategy: prune, recalibrate unless there is no `recalibration`, measure accuracy on the hold-out."""
    calibration, scoring = drawn(dataset.train, images, seed), drawn(dataset.validation, SCORING, seed)
    scores = []
    for strategy in strategies:
        candidate = pruned(network, channels, strategy.ratios)
        if recalibration is not None:
            recalibration(candidate, [to_float(part) for part in calibration.images.split(500)])
        scores.append(training.evaluate(candidate, scoring))
    return scores


def with_statistics(network: nn.Module, source: nn.Module) -> nn.Module:
    """Copy a network and give its batch norms the running statistics of another."""
    mixed = copy.deepcopy(network)
    theirs = dict(source.named_buffers())
    for name, buffer in mixed.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.copy_(theirs[name])
    return mixed


# What runs share


class Shared(NamedTuple):
    """What the runs of an experiment share.

    Attributes:
        dataset: to calibrate, tune and judge with.
        networks: {(network, seed): trained, whole}.
        channels: of each network, followed once.
        strategies: {(network, seed): random strategies}, or {budget: random strategies}.
        scale: how much is done.
        facts: for the record.
    """

    dataset: Dataset
    networks: dict[Any, nn.Module]
    channels: dict[Any, Channels]
    strategies: dict[Any, list[Strategy]]
    scale: Scale
    facts: dict[str, Any]


def followed(networks: dict[Any, nn.Module], dataset: Dataset) -> dict[Any, Channels]:
    """Follow the channels of each network."""
    return {key: follow(network, example_of(dataset)) for key, network in networks.items()}


def few(count: int, scale: Scale) -> int:
    """How many strategies are drawn: all of them, or three for a test."""
    return count if scale.steps is None else min(count, 3)


def trained(key: tuple[str, int], dataset: Dataset, scale: Scale) -> nn.Module:
    """Load the checkpoint for seed 0; train one more network by the same recipe for another seed."""
    name, seed = key
    images = len(dataset.train)
    epochs = scale.epochs(BASE_EPOCHS, images=images, batch_size=128) if seed else BASE_EPOCHS
    network = checkpoints.another(CHECKPOINT[name], seed, dataset, epochs=epochs, augment="shift")
    return network.to(memory_format=torch.contiguous_format)


def train_all(
    keys: Sequence[Any], dataset: Dataset, scale: Scale, train: Callable[..., nn.Module] = trained
) -> dict[Any, nn.Module]:
    """Train the networks that are asked for, side by side where there are many."""
    missing = list(dict.fromkeys(keys))
    call = functools.partial(train, dataset=dataset, scale=scale)
    workers = None if any(seed for _, seed in missing) else 1  # a checkpoint is only read
    return dict(
        zip(missing, run_parallel(call, missing, workers=workers, label="base networks"), strict=True)
    )


def facts(**more: Any) -> dict[str, Any]:
    """What decided the runs beside their settings, for the record."""
    tuning = {"epochs": TUNE.epochs, "learning rate": TUNE.learning_rate, "schedule": TUNE.schedule}
    return {
        "dataset": "glyphs",
        "widths": [16, 16, "M", 32, 32, "M", 64, 64],
        "base epochs": BASE_EPOCHS,
        "augment": TUNE.augment,
        "tuning": tuning,
        "max ratio": MAX_RATIO,
        **more,
    }


# Does the score foretell the outcome, and what makes the gain?


def prepare_candidates(runs: Sequence[Run], scale: Scale) -> Shared:
    """Load the network and draw the candidates of each budget."""
    dataset = cut(glyphs(), scale)
    networks = {("vgg", 0): trained(("vgg", 0), dataset, scale)}
    channels = followed(networks, dataset)
    largest = max(run.get("candidate", 0) for run in runs) + 1
    pools = {run["budget"]: (run["max_ratio"], max(largest, few(run["pool"], scale))) for run in runs}
    strategies = {
        budget: draw(networks["vgg", 0], channels["vgg", 0], budget, count, max_ratio=ratio)
        for budget, (ratio, count) in pools.items()
    }
    return Shared(dataset, networks, channels, strategies, scale, facts())


def measure_candidate(run: Run, shared: Shared, method: Callable[..., None]) -> dict[str, float]:
    """Judge one candidate before training, tune it, and exchange statistics between before and after."""
    dataset = shared.dataset
    strategy = shared.strategies[run["budget"]][run["candidate"]]
    inherited = pruned(shared.networks["vgg", 0], shared.channels["vgg", 0], strategy.ratios)
    recalibrated = copy.deepcopy(inherited)
    method(recalibrated, [to_float(drawn(dataset.train, CALIBRATION).images)])
    tuned = tune(copy.deepcopy(inherited), dataset, shared.scale, run["seed"])
    scoring = drawn(dataset.validation, SCORING)
    return {
        "plain": training.evaluate(inherited, scoring),
        "adaptive": training.evaluate(recalibrated, scoring),
        "at once": training.evaluate(inherited, dataset.test),
        "recalibrated": training.evaluate(recalibrated, dataset.test),
        "tuned": training.evaluate(tuned, dataset.test),
        "tuned, old statistics": training.evaluate(with_statistics(tuned, inherited), dataset.test),
    }


def outcomes(results: Results, **arm: Any) -> pd.DataFrame:
    """Average the fine-tunings of each candidate; a row for each, in the order in which they were drawn."""
    frame = results.frame
    for column, value in arm.items():
        frame = frame[frame[column] == value]
    return frame.groupby("candidate").mean(numeric_only=True)


Numbers = Sequence[float] | np.ndarray | pd.Series
"""One number for each candidate, [n]."""


def regret(scores: Numbers, outcomes: Numbers) -> float:
    """Compute what a search gives away: the best outcome minus that of the candidate with the highest score."""
    return float(max(outcomes) - outcomes[int(np.argmax(scores))])


def regret_by_pool(
    regret: Callable[[Numbers, Numbers], float],
    scores: Numbers | None,
    outcomes: Numbers,
    sizes: Sequence[int] = POOLS,
    draws: int = 2000,
) -> list[float]:
    """Average the regret of a search over random pools of the candidates, for each size; None picks at random."""
    rng, found = np.random.default_rng(0), np.asarray(outcomes)
    means = []
    for size in sizes:
        pools = [rng.permutation(len(found))[:size] for _ in range(draws)]
        told = [rng.random(size) if scores is None else np.asarray(scores)[pool] for pool in pools]
        means.append(
            float(np.mean([regret(one, found[pool]) for one, pool in zip(told, pools, strict=True)]))
        )
    return means


def leave_one_out(frame: pd.DataFrame, score: str) -> tuple[float, float]:
    """Compute the smallest and the largest Pearson correlation with the outcome when one candidate is left out."""
    left = [frame.drop(gone)[[score, "tuned"]].corr().iloc[0, 1] for gone in frame.index]
    return min(left), max(left)


CANDIDATES = Experiment(
    "05-candidates",
    tuple(
        {"budget": budget, "candidate": place, "seed": seed}
        for budget in BUDGETS
        for place in range(40)
        for seed in range(2)
    ),
    measure_candidate,
    prepare_candidates,
    recalibrate,
    {"max_ratio": MAX_RATIO, "pool": 40},
    live=(80,),  # at 35 % of the MACs, the first candidate
    seed="order and shifts of the images in fine-tuning; candidate, whole network and calibration images stay",
)
"""Forty random strategies at each of three budgets: both scores, and what becomes of them in two fine-tunings."""


# The whole workflow


def prepare_choice(runs: Sequence[Run], scale: Scale) -> Shared:
    """Train the network of each repetition and draw its strategies."""
    dataset = cut(glyphs(), scale)
    networks = train_all([(run["network"], run["seed"]) for run in runs], dataset, scale)
    channels, count = followed(networks, dataset), few(max(run["strategies"] for run in runs), scale)
    strategies = {
        (name, seed): draw(network, channels[name, seed], BUDGET[name], count, seed)
        for (name, seed), network in networks.items()
    }
    return Shared(dataset, networks, channels, strategies, scale, facts(candidates=count))


def chosen(run: Run, shared: Shared, method: Callable[..., None]) -> list[Any]:
    """Choose the ratios that an arm fine-tunes."""
    key = (run["network"], run["seed"])
    network, channels, strategies = shared.networks[key], shared.channels[key], shared.strategies[key]
    if run["by"] == "uniform":
        return [ratios_for_macs(network, channels, lambda t: t, BUDGET[run["network"]])]
    count = 3 if "best of 3" in run["by"] else 1
    if not run["by"].startswith("random"):
        recalibration = method if run["by"].startswith("adaptive") else None
        scores = judge(network, channels, shared.dataset, strategies, recalibration, seed=run["seed"])
        strategies = [strategies[place] for place in np.argsort(-np.array(scores), kind="stable")]
    return [strategy.ratios for strategy in strategies[:count]]


def measure_choice(run: Run, shared: Shared, method: Callable[..., None]) -> dict[str, float]:
    """Fine-tune what one arm chooses; of three, validation images pick one."""
    key, dataset = (run["network"], run["seed"]), shared.dataset
    network, channels, example = shared.networks[key], shared.channels[key], example_of(dataset)
    tuned = [
        tune(pruned(network, channels, ratios), dataset, shared.scale, run["seed"])
        for ratios in chosen(run, shared, method)
    ]
    final = max(tuned, key=lambda small: training.evaluate(small, dataset.validation))
    share = cost.macs(final, example) / cost.macs(network, example)
    return {"test": training.evaluate(final, dataset.test), "macs": share}


CHOICE = Experiment(
    "05-choice",
    tuple({"network": name, "by": arm, "seed": seed} for name in BUDGET for arm in ARMS for seed in range(5)),
    measure_choice,
    prepare_choice,
    recalibrate,
    {"strategies": 60},
    live=(15,),  # the uniform strategy on the first VGG; the chapter's own loop repeats the adaptive choice
    seed="the whole network, the strategies drawn, the images to calibrate and score with, and the fine-tuning",
)
"""What is chosen by each score, at random, or uniformly, fine-tuned: five whole chains on each of two networks."""
