"""What chapter 02 shows beside its experiments: rows of tables, timings of this machine, and bugs at work."""

import copy
import io
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from course_lib import cost, statistics, training
from course_lib.cost import format_bytes, format_count
from course_lib.data import Dataset, Split, to_float
from course_lib.experiments import chapter02, chapter02_granularity
from course_lib.experiments.results import Results
from course_lib.pruning import criteria, masks, storage, surgery
from course_lib.statistics import Interval
from course_lib.training import Recipe

__all__ = [
    "ARMS",
    "OPTIMIZERS",
    "Product",
    "at_best",
    "break_even",
    "chosen_rows",
    "criteria_rows",
    "gradient_steps",
    "granularity_costs",
    "granularity_panels",
    "over_weights",
    "revived",
    "scan",
    "schedule",
    "schedule_gain",
    "schedule_gains",
    "schedule_rows",
    "schedule_runs",
    "small_chain",
    "spoken",
    "too_high",
    "ways",
    "zeros_alone",
]

Remove = Callable[[nn.Conv2d, nn.BatchNorm2d, nn.Conv2d, Sequence[int]], Sequence[nn.Module]]
"""(convolution, its batch norm, the next convolution, filters) -> the three, smaller."""


def small_chain(network: nn.Sequential, remove: Remove, indices: Sequence[int]) -> nn.Sequential:
    """Copy the VGG and let `remove` make its first convolution, batch norm and second convolution smaller."""
    smaller = copy.deepcopy(network)
    smaller[0], smaller[1], smaller[3] = remove(network[0], network[1], network[3], indices)
    return smaller


def ways(network: nn.Sequential, dataset: Dataset, remove: Remove, sample: Split) -> list[dict[str, Any]]:
    """Rows: half of the filters of the first layer go in four ways, and two steps of training follow."""
    example = to_float(dataset.test.images[:1])
    half = criteria.lowest(criteria.l1_norm(network[0].weight.detach()), 8)
    channel = surgery.channel_masks(network, example, {"0": half})  # filters, gamma and beta
    forms: dict[str, Callable[[nn.Module], nn.Module | None]] = {
        "filters set to zero": lambda model: masks.zero(model, {"0.weight": channel["0.weight"]}),
        "filters, gamma and beta set to zero": lambda model: masks.zero(model, channel),
        "filters, gamma and beta frozen": lambda model: masks.freeze(model, channel),
        "channels removed": lambda model: small_chain(model, remove, half.tolist()),
    }
    few = Dataset(
        dataset.name,
        dataset.train.subset(torch.arange(400)),
        sample,
        sample,
        dataset.classes,
    )
    rows = []
    for name, form in forms.items():
        model = copy.deepcopy(network)
        model = form(model) or model
        row = {"way": name, "accuracy at once": f"{training.evaluate(model, sample):.1%}"}
        training.fit(model, few, Recipe(epochs=1, learning_rate=0.01, batch_size=200), validate=False)
        masks.make_permanent(model)
        alive = int((criteria.l1_norm(model[0].weight.detach()) > 0).sum())
        measured = cost.measure(model, example)
        row |= {"filters not zero after two steps": str(alive)}
        rows.append(row | {"MACs": format_count(measured.macs), "file": format_bytes(measured.bytes)})
    return rows


# Costs


def granularity_costs(
    network: nn.Module, dataset: Dataset, branches: int
) -> tuple[list[dict[str, str]], dict[str, float], dict[str, int]]:
    """Rows of bytes, MACs and time of the four cuts; each one's time over that of the whole network; its MACs."""
    example, batch = to_float(dataset.test.images[:1]), to_float(dataset.test.images[:64])
    share = chapter02_granularity.equal_share(network, example, branches)
    models = {"not pruned": network}
    for granularity in chapter02_granularity.GRANULARITIES:
        models[granularity] = chapter02_granularity.cut_equally(
            network, granularity, branches, share, example
        )
        masks.make_permanent(models[granularity])
    times = cost.latencies(models, batch, rounds=5)
    macs = {name: cost.macs(model, example) for name, model in models.items()}
    rows = [
        {
            "granularity": name,
            "dense file": format_bytes(chapter02.stored(model, storage.dense_bytes)),
            "CSR": format_bytes(chapter02.stored(model, storage.csr_bytes)),
            "bitmap": format_bytes(chapter02.stored(model, storage.bitmap_bytes)),
            "MACs": format_count(macs[name]),
            "64 images, one thread": str(times[name]),
        }
        for name, model in models.items()
    ]
    return rows, {name: time.median / times["not pruned"].median for name, time in times.items()}, macs


def zeros_alone(network: nn.Module, sparse: nn.Module, batch: Tensor) -> tuple[list[dict[str, str]], float]:
    """Rows of a network with and without zeros: its file, zipped and not, and its time; the ratio of the times."""
    models = {"trained": network, "nine in ten zero": sparse}
    times = cost.latencies(models, batch, rounds=9)
    rows = []
    for name, model in models.items():
        content = safetensors_bytes(model.state_dict())
        rows.append(
            {
                "network": name,
                "file": format_bytes(len(content)),
                "file, zipped": format_bytes(_zipped(content)),
                "bitmap": format_bytes(chapter02.stored(model, storage.bitmap_bytes)),
                "MACs": format_count(cost.macs(model, batch[:1])),
                "64 images, one thread": str(times[name]),
            }
        )
    return rows, times["nine in ten zero"].median / times["trained"].median


def _zipped(content: bytes) -> int:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights", content)
    return buffer.tell()


class Product(nn.Module):
    """Multiply vectors by a dense or a sparse matrix."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        return (self.weight @ x.T).T


def break_even(left: Sequence[float], count: int, size: int = 512) -> dict[str, list[float]]:
    """Time a product of a matrix with `count` vectors, dense and in CSR, for several shares of weights left.

    Returns:
        {"dense", "CSR"}: time over that of the full matrix, one for each share.
    """
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
    generator = torch.Generator().manual_seed(0)
    full = torch.randn(size, size, generator=generator)
    x = torch.randn(count, size, generator=generator)
    models: dict[str, nn.Module] = {"full": Product(full)}
    for share in left:
        pruned = full * masks.magnitude_mask(full, 1 - share)
        models |= {
            f"dense {share}": Product(pruned),
            f"CSR {share}": Product(pruned.to_sparse_csr()),
        }
    times = cost.latencies(models, x, rounds=5)
    return {
        form: [times[f"{form} {share}"].median / times["full"].median for share in left]
        for form in ("dense", "CSR")
    }


# The three comparisons


def granularity_panels(cuts: Results, shares: Mapping[int, float]) -> dict[str, Any]:
    """Arrange accuracies for `plots.interval_panels`: {panel: {granularity: {share cut: interval}}}."""
    return {
        title: {
            name: {shares[b]: cuts.interval(metric, granularity=name, branches=b) for b in shares}
            for name in chapter02_granularity.GRANULARITIES
        }
        for title, metric in (("at once", "at once"), ("after one epoch", "test"))
    }


def over_weights(cuts: Results, granularity: str, branches: int) -> Interval:
    """Compute what an arm gains over single weights at the same cut."""
    of, over = ({"granularity": name, "branches": branches} for name in (granularity, "weight"))
    return cuts.gain("test", of=of, over=over)


ARMS = {
    "at once, one for all": ("magnitude", "at once", "one for all"),
    "at once, one a layer": ("magnitude", "at once", "one a layer"),
    "gradually, one for all": ("magnitude", "gradually", "one for all"),
    "gradually, one a layer": ("magnitude", "gradually", "one a layer"),
    "at random, one a layer": ("random", "at once", "one a layer"),
}
"""{arm: (which weights, when, under which threshold)}."""


def schedule(name: str, sparsity: float) -> dict[str, Any]:
    """Look up the settings of an arm of `ARMS`."""
    return {**dict(zip(("which", "when", "threshold"), ARMS[name], strict=True)), "sparsity": sparsity}


def schedule_runs(schedules: Results, sparsity: float) -> dict[str, list[float]]:
    """Select every run of each arm: {arm: test accuracy of each seed}."""
    return {name: schedules.values("test", **schedule(name, sparsity)) for name in ARMS}


def schedule_rows(schedules: Results) -> list[dict[str, str]]:
    """Rows: every arm at every sparsity; where a layer was emptied the runs themselves, which scatter widely."""
    rows = []
    for sparsity in chapter02.SPARSITIES:
        for name in ARMS:
            arm = schedule(name, sparsity)
            if max(schedules.values("emptiest", **arm)) < 0.0005:
                shown = ", ".join(f"{run:.1%}" for run in sorted(schedules.values("test", **arm)))
            else:
                shown = f"{schedules.interval('test', **arm):.1%}"
            least = max(schedules.values("emptiest", **arm))
            rows.append({"sparsity": f"{sparsity:.0%}", "arm": name, "test": shown})
            rows[-1]["emptiest layer keeps"] = f"{least:.2%}"
    return rows


def schedule_gain(schedules: Results, of: str, over: str, sparsity: float) -> Interval:
    """Compute what one arm of `ARMS` gains over another."""
    return schedules.gain("test", of=schedule(of, sparsity), over=schedule(over, sparsity))


def schedule_gains(schedules: Results) -> dict[str, Interval]:
    """Compute the gains that the chapter's text tells."""
    one_shot, per_layer, gradual, gradual_layer, chance = ARMS
    pairs = {
        "gradual_over_layer": (gradual, per_layer, 0.95),
        "gradual_layer_gain": (gradual_layer, per_layer, 0.95),
        "gradual_90": (gradual, one_shot, 0.9),
        "random_loss": (chance, per_layer, 0.9),
    }
    return {name: schedule_gain(schedules, *pair) for name, pair in pairs.items()}


def at_best(scored: Results, by: str, sparsity: float) -> dict[str, Any]:
    """Choose the better threshold of a score on validation images."""
    return scored.best("validation", "threshold", by=by, sparsity=sparsity)


def criteria_rows(scored: Results) -> list[dict[str, str]]:
    """Rows: each score at its better threshold, at two sparsities."""
    rows = []
    for sparsity in (0.7, 0.9):
        for by in chapter02.SCORES:
            best = at_best(scored, by, sparsity)
            row = {"sparsity": f"{sparsity:.0%}", "score": by, "threshold": best["threshold"]}
            row["at once"] = f"{scored.interval('at once', **best).mean:.0%}"
            rows.append(row | {"after two epochs": f"{scored.interval('test', **best):.1%}"})
    return rows


def chosen_rows(
    network: nn.Module,
    split: Split,
    scan: pd.DataFrame,
    pick: Callable[[pd.DataFrame, float, float], Mapping[str, float]],
) -> list[dict[str, str]]:
    """Rows: what `pick` chooses from a scan for three tolerances, and the network with all of it done."""
    whole, weights = training.evaluate(network, split), chapter02.weights_of(network)
    rows = []
    for points in (1, 2, 5):
        chosen = pick(scan.assign(test=0.0), whole, points / 100)
        model = copy.deepcopy(network)
        keep = {f"{name}.weight": masks.magnitude_mask(weights[name], p) for name, p in chosen.items()}
        masks.zero(model, keep)
        row = {"each alone may lose": f"{points} points"}
        row |= {f"layer {name}": f"{p:.0%}" for name, p in chosen.items()}
        rows.append(row | {"all, at once": f"{training.evaluate(model, split):.1%}"})
    return rows


# Which layer bears how much


def scan(network: nn.Module, split: Split, sparsities: Sequence[float]) -> pd.DataFrame:
    """Prune one layer at a time by magnitude and score at once; columns layer, sparsity and validation."""
    rows = []
    for name, weight in chapter02.weights_of(network).items():
        for sparsity in sparsities:
            model = copy.deepcopy(network)
            masks.zero(model, {f"{name}.weight": masks.magnitude_mask(weight, sparsity)})
            accuracy = training.evaluate(model, split)
            rows.append({"layer": name, "sparsity": sparsity, "validation": accuracy})
    return pd.DataFrame(rows)


# Bugs at work


def spoken(network: nn.Sequential, dataset: Dataset, split: Split) -> tuple[list[dict[str, str]], float]:
    """Rows: half of a layer's filters zeroed carelessly, with care, removed; largest value of the careless one."""
    example = to_float(dataset.test.images[:1])
    half = criteria.lowest(criteria.l1_norm(network[3].weight.detach()), 8)
    complete = surgery.channel_masks(network, example, {"3": half})
    careless, careful = copy.deepcopy(network), copy.deepcopy(network)
    masks.zero(careless, {"3.weight": complete["3.weight"]})
    masks.zero(careful, complete)
    removed = surgery.remove_channels(network, example, {"3": half})
    wanted = training.predict(removed, split.images)
    rows, loudest = [], {}
    for name, model in {
        "filters zeroed": careless,
        "filters, gamma and beta zeroed": careful,
        "removed": removed,
    }.items():
        with torch.no_grad():
            hidden = model[:6](to_float(split.images))
        if hidden.shape[1] == 16:
            loudest[name] = hidden[:, half].abs().max().item()
        rows.append(
            {
                "network": name,
                "largest value in a 'removed' channel": f"{loudest[name]:.2f}" if name in loudest else "",
                "logits differ by": f"{(training.predict(model, split.images) - wanted).abs().max():.1f}",
                "accuracy": f"{training.evaluate(model, split):.1%}",
            }
        )
    return rows, loudest["filters zeroed"]


def too_high(splits: Results, split: str) -> Interval:
    """Compute by how much a loop that is judged by the images of a split reports more than the test images show."""
    reported, honest = (splits.values(metric, split=split) for metric in ("reported", "test"))
    return statistics.paired_difference(reported, honest)


def gradient_steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    dataset: Dataset,
    count: int,
    keep: Mapping[str, Tensor] | None = None,
) -> None:
    """Train for some steps; gradients of masked weights are set to zero."""
    order = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(0))
    model.train()
    for indices in order.split(64)[:count]:
        optimizer.zero_grad()
        logits = model(to_float(dataset.train.images[indices]))
        F.cross_entropy(logits, dataset.train.labels[indices]).backward()
        for name, mask in (keep or {}).items():
            model.get_parameter(name).grad.mul_(mask)
        optimizer.step()
    model.eval()


OPTIMIZERS = {
    "SGD, no momentum": lambda p: torch.optim.SGD(p, lr=0.01),
    "SGD, momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.001),
}


def revived(
    network: nn.Module,
    make: Callable[[Any], torch.optim.Optimizer],
    dataset: Dataset,
    *,
    frozen: bool,
) -> float:
    """Train for twenty steps, prune the first layer, train for twenty more; the share of weights that is back."""
    model = copy.deepcopy(network)
    optimizer = make(model.parameters())
    gradient_steps(model, optimizer, dataset, 20)
    keep = {"1.weight": masks.magnitude_mask(model[1].weight, 0.9)}
    (masks.freeze if frozen else masks.zero)(model, keep)
    gradient_steps(model, optimizer, dataset, 20, keep=None if frozen else keep)
    return (model[1].weight.detach() != 0)[~keep["1.weight"]].double().mean().item()
