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

from course_lib import cost, training
from course_lib.cost import format_bytes, format_count
from course_lib.data import Dataset, Split, to_float
from course_lib.experiments import chapter02, chapter02_granularity
from course_lib.pruning import criteria, masks, storage, surgery
from course_lib.training import Recipe

__all__ = [
    "Product",
    "break_even",
    "gradient_steps",
    "granularity_costs",
    "revived",
    "scan",
    "small_chain",
    "spoken",
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
    times = cost.latencies(models, batch)
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
    times = cost.latencies(models, batch, rounds=12)
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
