"""Chapter 03: networks trained with a penalty on gamma, cut by one threshold, and what mends a cut."""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import checkpoints, cost, models, training
from course_lib.data import Dataset, to_float
from course_lib.experiments.common import cut, example_of, glyphs, judged
from course_lib.experiments.experiment import FULL, Experiment, Run, Scale
from course_lib.experiments.results import Results
from course_lib.jobs import run_parallel
from course_lib.pruning.recalibration import recalibrate_batch_norm
from course_lib.pruning.slimming import absorb_constants, slimming_plan
from course_lib.pruning.surgery import remove_channels
from course_lib.training import Recipe

__all__ = [
    "CHECKPOINT",
    "FULL",
    "MEND",
    "MENDS",
    "RATIOS",
    "RECIPE",
    "SCRATCH",
    "SILENT",
    "SLIMMING",
    "STAGES",
    "STRENGTHS",
    "build",
    "by_cut",
    "reach",
    "scales_of",
    "slim",
    "train_sparse",
    "tune",
    "widths_of",
]

CHECKPOINT = {
    0.0: "glyphs-slimming-none",
    0.0015: "glyphs-slimming-weak",
    0.005: "glyphs-slimming-medium",
    0.015: "glyphs-slimming-strong",
}
STRENGTHS = tuple(CHECKPOINT)
RATIOS = (0.3, 0.5, 0.7, 0.8)
STAGES = ("at once", "recalibrated", "tuned")
WIDTHS = (16, "M", 32, "M", 64, "M", 128, 128, 128)
RECIPE = checkpoints.CATALOGUE[CHECKPOINT[0.0]].recipe
TUNE = replace(RECIPE, epochs=1, learning_rate=RECIPE.learning_rate / 4)
LONG = RECIPE.epochs + TUNE.epochs
SILENT = 0.01
"""A channel whose absolute gamma is below this is called silent."""

CALIBRATION = 1000


# The method, as the chapter shows it


def train_sparse(network, split, strength, recipe, watch=None):
    """Train with an L1 penalty of this strength on gamma, the scales of all batch norms."""
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    optimizer = training.make_optimizer(network, recipe)  # SGD with momentum
    batches = -(-len(split) // recipe.batch_size)
    generator = torch.Generator().manual_seed(recipe.seed)
    for step in range(recipe.epochs * batches):
        if step % batches == 0:  # an epoch begins
            network.train()
            order = torch.randperm(len(split), generator=generator).tensor_split(batches)
        batch = order[step % batches]
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate(recipe, step, recipe.epochs * batches)
        loss = F.cross_entropy(network(to_float(split.images[batch])), split.labels[batch])
        optimizer.zero_grad()
        loss.backward()
        for norm in norms:  # the penalty
            norm.weight.grad += strength * norm.weight.detach().sign()
        optimizer.step()
        if watch is not None and step % batches == batches - 1:
            watch(network)
    return network.eval()


# What surrounds it


def build(seed: int, widths: Sequence[Any] = WIDTHS, gamma: float = 0.5) -> nn.Module:
    """Make the chapter's VGG, untrained; channels innermost, which is faster to train."""
    network = models.build("vgg", widths=list(widths), gamma=gamma, seed=seed)
    return network.to(memory_format=torch.channels_last)


def scales_of(network: nn.Module) -> Tensor:
    """Collect the absolute gamma of all channels in one list, from the input on."""
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    return torch.cat([norm.weight.detach().abs() for norm in norms])


def widths_of(network: nn.Module) -> list[int]:
    """Count the channels of each convolution."""
    return [layer.out_channels for layer in network.modules() if isinstance(layer, nn.Conv2d)]


def parameters(network: nn.Module) -> int:
    """Count the weights of a network, biases and scales included."""
    return sum(parameter.numel() for parameter in network.parameters())


def reach(strength: float, recipe: Recipe, images: int) -> float:
    """Compute how far a penalty alone can move a gamma in a training: strength / (1 - momentum) times all rates."""
    steps = recipe.epochs * -(-images // recipe.batch_size)
    rates = sum(training.learning_rate(recipe, step, steps) for step in range(steps))
    return strength * rates / (1 - recipe.momentum)


def slim(network: nn.Module, example: Tensor, ratio: float, **how: Any) -> nn.Module:
    """Remove the channels with the smallest gamma of the whole network; nothing is trained."""
    return remove_channels(network, example, slimming_plan(network, example, ratio, **how))


def random_cut(network: nn.Module, example: Tensor, ratio: float, seed: int) -> nn.Module:
    """Remove as many channels of each layer as slimming does, whatever their gamma."""
    generator = torch.Generator().manual_seed(seed)
    layers = dict(network.named_modules())
    plan = {
        name: torch.randperm(layers[name].out_channels, generator=generator)[: len(goes)]
        for name, goes in slimming_plan(network, example, ratio).items()
    }
    return remove_channels(network, example, plan)


def tune(
    network: nn.Module, dataset: Dataset, scale: Scale, seed: int, recipe: Recipe = TUNE, **how: Any
) -> nn.Module:
    """Train a copy of a network, and leave the network as it was."""
    tuned = copy.deepcopy(network)
    training.fit(tuned, dataset, replace(fitted(recipe, dataset, scale), seed=seed), validate=False, **how)
    return tuned


def fitted(recipe: Recipe, dataset: Dataset, scale: Scale) -> Recipe:
    """Cut the epochs of a recipe to a scale."""
    epochs = scale.epochs(recipe.epochs, images=len(dataset.train), batch_size=recipe.batch_size)
    return replace(recipe, epochs=epochs)


def recalibrated(network: nn.Module, dataset: Dataset) -> nn.Module:
    """Copy a network and measure the statistics of its batch norms anew on training images."""
    fresh = copy.deepcopy(network)
    recalibrate_batch_norm(fresh, to_float(dataset.train.images[:CALIBRATION]).split(250))
    return fresh


def named(name: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Put a name before each metric."""
    return {f"{name} {key}": value for key, value in metrics.items()}


def staged(network: nn.Module, dataset: Dataset, scale: Scale, seed: int, at: str = "") -> dict[str, Any]:
    """Judge a pruned network at once, recalibrated, and after an epoch of fine-tuning."""
    return (
        named(f"at once{at}", judged(network, dataset))
        | named(f"recalibrated{at}", judged(recalibrated(network, dataset), dataset))
        | named(f"tuned{at}", judged(tune(network, dataset, scale, seed), dataset))
    )


class Shared(NamedTuple):
    """What the runs of an experiment share.

    Attributes:
        dataset: to train and judge with.
        networks: {(strength, seed): trained with the penalty, whole}.
        scale: how much is done.
        facts: for the record.
    """

    dataset: Dataset
    networks: dict[Any, nn.Module]
    scale: Scale
    facts: dict[str, Any]


def facts() -> dict[str, Any]:
    """What decided the runs beside their settings, for the record."""
    return {
        "widths": list(WIDTHS),
        "epochs": RECIPE.epochs,
        "learning rate": RECIPE.learning_rate,
        "tuning": {"epochs": TUNE.epochs, "learning rate": TUNE.learning_rate},
    }


def prepare_nothing(runs: Sequence[Run], scale: Scale) -> Shared:
    """Read the images; each run trains its own network."""
    return Shared(cut(glyphs(), scale), {}, scale, facts())


def trained(key: tuple[float, int], scale: Scale) -> nn.Module:
    """Load the checkpoint of a strength for seed 0; train one more network by the same recipe for another seed."""
    strength, seed = key
    dataset = cut(glyphs(), scale)
    recipe = fitted(RECIPE, dataset, scale) if seed else RECIPE
    network = checkpoints.another(CHECKPOINT[strength], seed, dataset, epochs=recipe.epochs)
    return network.to(memory_format=torch.contiguous_format)


def prepare_networks(runs: Sequence[Run], scale: Scale) -> Shared:
    """Train the networks that several runs cut, side by side."""
    keys = list(dict.fromkeys((run["strength"], run["seed"]) for run in runs))
    workers = None if any(seed for _, seed in keys) else 1  # a checkpoint is only read
    networks = run_parallel(
        functools.partial(trained, scale=scale), keys, workers=workers, label="base networks"
    )
    return Shared(cut(glyphs(), scale), dict(zip(keys, networks, strict=True)), scale, facts())


# Does the penalty make the cut harmless?


def measure_slimming(run: Run, shared: Shared, method: Callable[..., nn.Module]) -> dict[str, Any]:
    """Train a network with a penalty, and cut copies of it at each ratio."""
    dataset, scale, seed = shared.dataset, shared.scale, run["seed"]
    example = example_of(dataset)
    network, path = build(seed), []
    recipe = replace(fitted(RECIPE, dataset, scale), seed=seed)
    path.append(scales_of(network))
    method(network, dataset.train, run["strength"], recipe, watch=lambda net: path.append(scales_of(net)))
    network.to(memory_format=torch.contiguous_format)
    found = {"silent": (path[-1] < SILENT).double().mean().item()}
    if seed == 0:  # the picture needs one network
        found["scales"] = [[round(value, 4) for value in scales.tolist()] for scales in path]
    found |= named("whole 0", judged(network, dataset))
    found |= named("tuned 0", judged(tune(network, dataset, scale, seed), dataset))
    for ratio in RATIOS:
        small = slim(network, example, ratio)
        percent = round(100 * ratio)
        found |= staged(small, dataset, scale, seed, f" {percent}") | {
            f"widths {percent}": widths_of(small),
            f"parameters {percent}": parameters(small) / parameters(network),
            f"macs {percent}": cost.macs(small, example) / cost.macs(network, example),
        }
    random = random_cut(network, example, 0.7, seed)
    found |= named("random 70", judged(random, dataset))
    found |= named("random tuned 70", judged(tune(random, dataset, scale, seed), dataset))
    longer = tune(slim(network, example, 0.7), dataset, scale, seed, replace(TUNE, epochs=LONG))
    return found | named("tuned long 70", judged(longer, dataset))


def by_cut(results: Results) -> Results:
    """Turn a row for each network into a row for each network, ratio and stage, with one column of each metric."""
    rows = []
    for _, row in results.frame.iterrows():
        for name in row.index:
            stage, _, rest = str(name).rpartition(" ")
            if rest != "test":
                continue
            stage, _, percent = stage.rpartition(" ")
            metrics = {key: row[f"{stage} {percent} {key}"] for key in ("validation", "test", "test_parts")}
            arm = {"strength": row["strength"], "ratio": int(percent) / 100, "stage": stage}
            rows.append({**arm, "seed": row["seed"], **metrics})
    return Results(pd.DataFrame(rows), results.record, results.seed)


SLIMMING = Experiment(
    "03-slimming",
    tuple({"strength": strength, "seed": seed} for strength in STRENGTHS for seed in range(5)),
    measure_slimming,
    prepare_nothing,
    train_sparse,
    live=(),  # the chapter's own loop repeats the strongest penalty, and a checkpoint the weakest
    seed="the whole network: initial weights, order of the images, and the fine-tuning",
)
"""Four strengths of the penalty, four ratios: at once, recalibrated, fine-tuned, beside the network before the cut."""


# The weights or the widths?


def uniform_widths(macs: float, example: Tensor) -> list[Any]:
    """Scale all widths of the VGG by one factor so that its MACs come as near as they can to a number."""

    def scaled(factor: float) -> list[Any]:
        return [width if width == "M" else max(1, round(factor * width)) for width in WIDTHS]

    def apart(widths: Sequence[Any]) -> float:
        return abs(cost.macs(models.build("vgg", widths=list(widths)), example) - macs)

    low, high = 0.0, 1.0
    for _ in range(10):
        middle = (low + high) / 2
        few = cost.macs(models.build("vgg", widths=scaled(middle)), example) < macs
        low, high = (middle, high) if few else (low, middle)
    return min(scaled(low), scaled(high), key=apart)


def measure_scratch(run: Run, shared: Shared, method: None) -> dict[str, Any]:
    """Train new weights in the widths that slimming found, or in uniform ones of as many MACs."""
    dataset, example = shared.dataset, example_of(shared.dataset)
    (found,) = SLIMMING.recorded().values("widths 70", strength=run["strength"], seed=run["seed"])
    numbers = iter(found)
    widths = [width if width == "M" else next(numbers) for width in WIDTHS]
    macs = cost.macs(models.build("vgg", widths=widths), example)
    if run["widths"] == "uniform":
        widths = uniform_widths(macs, example)
    recipe = replace(RECIPE, epochs=run["epochs"])
    small = tune(build(run["seed"], widths), dataset, shared.scale, run["seed"], recipe)
    share = cost.macs(small, example) / macs
    return judged(small, dataset) | {"macs against slimmed": share, "parameters": parameters(small)}


SCRATCH = Experiment(
    "03-scratch",
    tuple(
        {"strength": strength, "widths": widths, "epochs": epochs, "seed": seed}
        for strength, epochs in ((0.0015, LONG), (0.015, LONG), (0.015, RECIPE.epochs + LONG))
        for widths in ("slimmed", "uniform")
        for seed in range(5)
    ),
    measure_scratch,
    prepare_nothing,
    live=(10,),  # widths of the strongest penalty, seven epochs
    seed="the whole network: initial weights and order of the images, and the network that slimming cut",
)
"""The widths that are left at 70 %, and uniform ones of as many MACs, trained from new weights."""


# What mends a cut?

MENDS = {
    "as it is": (0.0, False),
    "constants absorbed": (0.0, True),
    "a tenth of each layer stays": (0.1, False),
    "a tenth stays, constants absorbed": (0.1, True),
    "a fifth of each layer stays": (0.2, False),
}
"""{arm: (share of its channels that each layer keeps at least, whether constants are absorbed)}."""


def measure_mend(run: Run, shared: Shared, method: None) -> dict[str, Any]:
    """Cut a network in one of the ways of `MENDS`."""
    dataset, network = shared.dataset, shared.networks[run["strength"], run["seed"]]
    example, (share, absorb) = example_of(dataset), MENDS[run["by"]]
    plan = slimming_plan(network, example, run["ratio"], min_share=share)
    if absorb:
        network = absorb_constants(network, to_float(dataset.train.images[:500]), plan)
    small = remove_channels(network, example, plan)
    kept = {"narrowest": min(widths_of(small)), "macs": cost.macs(small, example)}
    return kept | staged(small, dataset, shared.scale, run["seed"])


MEND = Experiment(
    "03-mend",
    tuple(
        {"strength": strength, "ratio": ratio, "by": by, "seed": seed}
        for strength, ratio in ((0.0015, 0.7), (0.005, 0.7), (0.015, 0.8))
        for by, (share, _) in MENDS.items()
        if share + ratio < 0.99  # if a fifth stays everywhere, fewer than 80 % can go
        for seed in range(5)
    ),
    measure_mend,
    prepare_networks,
    live=(35,),  # the medium penalty, a tenth stays
    seed="the whole network: initial weights, order of the images, and the fine-tuning",
)
"""Cuts that go too far: as they are, with constants absorbed, and with a share of each layer that stays."""
