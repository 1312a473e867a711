"""Chapter 08: layers of low rank, and weights that share few stored numbers."""

import copy
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import checkpoints, factorization, hashing, models, training
from course_lib.data import Dataset
from course_lib.experiments.common import Shared, cut, glyphs, judged
from course_lib.experiments.experiment import Experiment, Run, Scale
from course_lib.jobs import run_parallel
from course_lib.training import Recipe

__all__ = [
    "BEST",
    "CHECKPOINT",
    "CHOSEN",
    "FORMS",
    "HASHING",
    "LAYERS",
    "LENGTHS",
    "LOW_RANK",
    "RATE_OF",
    "SHARES",
    "SHORT",
    "SIZES",
    "decoding_mlp",
    "file_bytes",
    "hashed_mlp",
    "low_rank_network",
    "narrow_mlp",
    "new_mlp",
    "places_and_signs",
    "thin",
    "thin_mlp",
    "trials",
    "tuned",
    "whole_mlp",
]

CHECKPOINT = {"mlp": "glyphs-mlp", "vgg": "glyphs-vgg", "narrow": "glyphs-vgg-narrow"}
BASE_EPOCHS = 30  # of another MLP, by the recipe of its checkpoint

LAYERS = {"mlp": ("1", "3"), "vgg": ("3", "7", "10", "14", "17")}  # not the first and the last


# The methods, as the chapter shows them


def thin(layer, rank):
    """Two layers in place of one: a truncated SVD of its weight matrix, and its bias."""
    weight = layer.weight.detach()  # [C_out, C_in], or [C_out, C_in, k, k]
    u, s, vt = torch.linalg.svd(weight.flatten(1), full_matrices=False)
    left, right = u[:, :rank] * s[:rank].sqrt(), s[:rank].sqrt()[:, None] * vt[:rank]
    if isinstance(layer, nn.Linear):
        first = nn.Linear(layer.in_features, rank, bias=False)
        second = nn.Linear(rank, layer.out_features)
    else:  # k x k to few channels, then 1 x 1
        size, padding = layer.kernel_size, layer.padding
        first = nn.Conv2d(layer.in_channels, rank, size, padding=padding, bias=False)
        second = nn.Conv2d(rank, layer.out_channels, 1)
    first.weight.data = right.reshape(first.weight.shape)
    second.weight.data = left.reshape(second.weight.shape)
    second.bias = copy.deepcopy(layer.bias)
    return nn.Sequential(first, second)


def places_and_signs(rows, columns, buckets, seed):
    """Choose a bucket and a sign for each weight by a hash of its place: two tensors [rows, columns]."""

    def mix(x):
        for _ in range(3):
            x = (x ^ x >> 16) * 0x45D9F3B % 2**32
        return x ^ x >> 16

    places = torch.arange(rows * columns).reshape(rows, columns)
    slots = mix(places ^ mix(seed)) * 2 * buckets >> 32  # below 2 * buckets; the upper half are the negatives
    return slots % buckets, torch.where(slots < buckets, 1, -1)


# What runs share


def trials(
    arms: Iterable[tuple[Run, Sequence[float], float]], seeds: Sequence[int] = range(5)
) -> tuple[Run, ...]:
    """Make the runs of arms that each have their own learning rate.

    Args:
        arms: settings, the grid of rates, and the rate that is best on validation images with the first seed.
        seeds: the first tries every rate, the others have the best one.

    Example:
        >>> [(run["rate"], run["seed"]) for run in trials([({}, (0.1, 0.2, 0.3), 0.2)], seeds=(0, 1))]
        [(0.1, 0), (0.2, 0), (0.2, 1), (0.3, 0)]
    """
    return tuple(
        {**arm, "rate": rate, "seed": seed}
        for arm, grid, best in arms
        for rate in grid
        for seed in (seeds if rate == best else seeds[:1])
    )


def tuned(experiment: Experiment, **arm: Any) -> dict[str, Any]:
    """Fill in the rate that an arm was given for all its seeds.

    Example:
        >>> tuned(LOW_RANK, network="mlp", form="channel", share="1/3")["rate"]
        0.00025
    """
    rates = [
        run["rate"] for run in experiment.runs if run["seed"] == 1 and all(run[k] == arm[k] for k in arm)
    ]
    (rate,) = set(rates)
    return {**arm, "rate": rate}


def train(network: nn.Module, recipe: Recipe, shared: Any) -> dict[str, Any]:
    """Train a network in place, with as many epochs as the scale allows, and judge it."""
    images = len(shared.dataset.train)
    epochs = shared.scale.epochs(recipe.epochs, images=images, batch_size=recipe.batch_size)
    training.fit(network, shared.dataset, replace(recipe, epochs=epochs), validate=False)
    return judged(network, shared.dataset)


# Low rank


FORMS = factorization.FORMS
SHARES = {"whole": 1.0, "1/2": 1 / 2, "1/3": 1 / 3, "1/6": 1 / 6}
TUNING = {
    "mlp": Recipe(epochs=2, optimizer="adam", schedule="cosine", augment="shift"),
    "vgg": Recipe(epochs=1, schedule="cosine", augment="shift", channels_last=True),
}


def base(key: tuple[str, int], dataset: Dataset, scale: Scale) -> nn.Module:
    """Load the checkpoint; of the MLP, train one more by the same recipe for another seed."""
    name, seed = key
    if name != "mlp" or not seed:
        return checkpoints.load(CHECKPOINT[name])
    epochs = scale.epochs(BASE_EPOCHS, images=len(dataset.train), batch_size=128)
    return checkpoints.another(CHECKPOINT[name], seed, dataset, epochs=epochs)


def prepare(runs: Sequence[Run], scale: Scale) -> Shared:
    """Load or train the networks that are cut."""
    dataset = cut(glyphs(), scale)
    keys = list(dict.fromkeys((run["network"], run["seed"]) for run in runs))
    call = functools.partial(base, dataset=dataset, scale=scale)
    workers = None if any(name == "mlp" and seed for name, seed in keys) else 1
    found = run_parallel(call, keys, workers=workers, label="whole networks")
    facts = {"tuning epochs": {name: recipe.epochs for name, recipe in TUNING.items()}}
    return Shared(dataset, dict(zip(keys, found, strict=True)), scale, facts)


def low_rank_network(
    network: nn.Module,
    name: str,
    share: str,
    form: str = "channel",
    method: Callable[[nn.Module, int], nn.Module] = thin,
) -> nn.Module:
    """Copy a network and give its layers at most a share of their weights.

    Args:
        network: an MLP or a VGG.
        name: which of the two.
        share: one of `SHARES`; "whole" leaves it as it is.
        form: "channel", which `method` builds, or "spatial", which the library builds.
        method: (layer, rank) -> two layers.
    """
    if share == "whole":
        return copy.deepcopy(network)
    layers = {key: network.get_submodule(key) for key in LAYERS[name]}
    ranks = {
        key: factorization.rank_for_budget(layer, SHARES[share], form=form) for key, layer in layers.items()
    }
    if form == "spatial":
        return factorization.factorize(network, ranks, form=form)
    small = copy.deepcopy(network)
    for key, layer in layers.items():
        small[int(key)] = method(layer, ranks[key])
    return small


def measure_low_rank(run: Run, shared: Shared, method: Callable[..., nn.Module]) -> dict[str, Any]:
    """Replace the layers by thin ones, and tune; or tune the whole network as long."""
    name = run["network"]
    network = low_rank_network(shared.networks[name, run["seed"]], name, run["share"], run["form"], method)
    before = judged(network, shared.dataset)
    recipe = replace(TUNING[name], learning_rate=run["rate"], seed=run["seed"])
    found = {"cut": before["test"], "cut_parts": before["test_parts"]}
    return found | train(network, recipe, shared)


_GRID = {
    "mlp": (0.00003, 0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.004),
    "vgg": (0.001, 0.003, 0.01, 0.03, 0.1),
}
BEST = {
    ("mlp", "channel", "whole"): 0.0001,
    ("mlp", "channel", "1/2"): 0.00025,
    ("mlp", "channel", "1/3"): 0.00025,
    ("mlp", "channel", "1/6"): 0.0001,
    ("vgg", "channel", "whole"): 0.003,
    ("vgg", "channel", "1/2"): 0.01,
    ("vgg", "channel", "1/3"): 0.01,
    ("vgg", "spatial", "1/2"): 0.003,
    ("vgg", "spatial", "1/3"): 0.01,
}
LOW_RANK = Experiment(
    "08-low-rank",
    trials(
        ({"network": name, "form": form, "share": share}, _GRID[name], best)
        for (name, form, share), best in BEST.items()
    ),
    measure_low_rank,
    prepare,
    thin,
    live=(),
    seed="the trained network and the order of images for the MLP; for the VGG, which is one, the order of images",
)
"""Layers of low rank in an MLP and in a VGG, tuned, beside the whole network tuned as long."""


# Hashing


SIZES = {"1/8": 1 / 8, "1/64": 1 / 64}
LENGTHS = (10, 30, 120)
SHORT = (30, 60)
FROM_SCRATCH = Recipe(optimizer="adam", augment="shift")


class Hashed(hashing.HashedLinear):
    """A hashed layer that keeps the places of its weights, which trains faster, and takes more memory.

    Args:
        layer: the plain one, which gives the sizes and the bias.
        buckets: how many numbers are stored.
        seed: of the hash.
        method: chooses places and signs, as `places_and_signs` does.
    """

    def __init__(
        self, layer: nn.Linear, buckets: int, seed: int, method: Callable[..., tuple[Tensor, Tensor]]
    ) -> None:
        super().__init__(layer.in_features, layer.out_features, buckets, seed=seed)
        places, signs = method(layer.out_features, layer.in_features, buckets, seed)
        self.slots: Tensor
        self.register_buffer("slots", (places + buckets * (signs < 0)).flatten(), persistent=False)
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer: look every weight up, then multiply."""
        signed = torch.cat([self.buckets, -self.buckets])
        weight = signed.index_select(0, self.slots).reshape(self.out_features, self.in_features)
        return F.linear(x, weight, self.bias)


def started(network: nn.Module, seed: int) -> nn.Module:
    """Draw new weights, in place, that keep the size of the signal from layer to layer; alike for every kind."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in network.modules():
            if isinstance(
                layer, nn.Linear
            ):  # without a bias it is the first of two thin ones, and no ReLU follows
                kind = "linear" if layer.bias is None else "relu"
                nn.init.kaiming_uniform_(layer.weight, nonlinearity=kind)
            elif isinstance(layer, Hashed):
                bound = (6 / layer.in_features) ** 0.5  # of the same formula
                nn.init.uniform_(layer.buckets, -bound, bound)
    return network


def whole_mlp(seed: int) -> nn.Module:
    """The whole MLP, with new weights."""
    return started(models.build("mlp", hidden=[512, 256], seed=seed), seed)


def hashed_mlp(
    share: str, seed: int, method: Callable[..., tuple[Tensor, Tensor]] = places_and_signs
) -> nn.Module:
    """The MLP with both hidden layers hashed, a share of their weights as buckets."""
    network = whole_mlp(seed)
    for number, key in enumerate(LAYERS["mlp"]):
        layer = network.get_submodule(key)
        buckets = round(SIZES[share] * layer.weight.numel())
        network[int(key)] = Hashed(layer, buckets, 2 * seed + number, method)
    return started(network, seed)


def decoding_mlp(share: str, seed: int) -> nn.Module:
    """The same network in the library's form, which keeps no places and decodes at each call."""
    network = hashed_mlp(share, seed)
    counts = {key: len(network[int(key)].buckets) for key in LAYERS["mlp"]}
    library = hashing.hash_layers(whole_mlp(seed), counts, seed=2 * seed)
    library.load_state_dict(network.state_dict())
    return library.eval()


def file_bytes(network: nn.Module) -> int:
    """Size of the file of a network."""
    return len(safetensors.torch.save(network.state_dict()))


def narrow_mlp(share: str, seed: int) -> nn.Module:
    """The widest MLP of the same proportions whose file is not larger than that of the hashed one."""
    width, room = 1, file_bytes(hashed_mlp(share, seed))
    while file_bytes(models.build("mlp", hidden=[2 * width + 2, width + 1])) <= room:
        width += 1
    return started(models.build("mlp", hidden=[2 * width, width], seed=seed), seed)


def thin_mlp(share: str, seed: int) -> nn.Module:
    """The MLP with both hidden layers of the rank that has a share of their weights, with new weights."""
    network = whole_mlp(seed)
    layers = {key: network.get_submodule(key) for key in LAYERS["mlp"]}
    ranks = {key: factorization.rank_for_budget(layer, SIZES[share]) for key, layer in layers.items()}
    return started(factorization.factorize(network, ranks), seed)


def new_mlp(
    kind: str, share: str, seed: int, method: Callable[..., tuple[Tensor, Tensor]] = places_and_signs
) -> nn.Module:
    """An MLP of a kind with new weights; `method` hashes."""
    if kind == "whole":
        return whole_mlp(seed)
    if kind == "hashed":
        return hashed_mlp(share, seed, method)
    return narrow_mlp(share, seed) if kind == "narrow" else thin_mlp(share, seed)


def prepare_hashing(runs: Sequence[Run], scale: Scale) -> Shared:
    """Read the images."""
    return Shared(cut(glyphs(), scale), {}, scale, {"schedule": FROM_SCRATCH.schedule})


def measure_hashing(run: Run, shared: Shared, method: Callable[..., Any]) -> dict[str, Any]:
    """Train an MLP from scratch."""
    network = new_mlp(run["kind"], run["share"], run["seed"], method)
    recipe = replace(FROM_SCRATCH, epochs=run["epochs"], learning_rate=run["rate"], seed=run["seed"])
    return train(network, recipe, shared)


_RATES = (0.001, 0.002, 0.005, 0.01)
CHOSEN = 30  # epochs of the runs in which each kind of MLP is given its learning rate

RATE_OF = {
    ("whole", "1"): 0.002,
    ("hashed", "1/8"): 0.005,
    ("narrow", "1/8"): 0.005,
    ("low rank", "1/8"): 0.005,
    ("hashed", "1/64"): 0.005,
    ("narrow", "1/64"): 0.005,
}
HASHING = Experiment(
    "08-hashing",
    trials(
        (
            {"kind": kind, "share": share, "epochs": epochs},
            _RATES if epochs == CHOSEN else (rate,),
            rate,
        )
        for (kind, share), rate in RATE_OF.items()
        for epochs in (SHORT if share == "1/64" else LENGTHS)
    ),
    measure_hashing,
    prepare_hashing,
    places_and_signs,
    live=(),
    seed="initial weights, hash and order of images",
)
"""MLPs from scratch: hashed, narrower, of low rank, whole; for several lengths, each at its own learning rate."""
