"""Chapter 08: what its pages show of the experiments, as rows, curves and named figures."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from course_lib import cost, factorization, hashing, training
from course_lib.data import Dataset
from course_lib.experiments import chapter08, chapter08_studies, chapter08_trained
from course_lib.experiments.common import example_of
from course_lib.experiments.results import Results
from course_lib.statistics import Interval

__all__ = [
    "ARMS",
    "ENERGIES",
    "bucket_gradient",
    "bug_rows",
    "curves",
    "hash_arm",
    "hashing_prose",
    "largest_rank",
    "last_weight_alone",
    "leads",
    "learn_buckets",
    "live_rows",
    "losses",
    "low_rank_prose",
    "quantized",
    "rank_by_energy",
    "ranks_wanted",
    "rounding_prose",
    "rounding_rows",
]

ARMS = {
    "MLP, 1/2": ("mlp", "channel", "1/2"),
    "MLP, 1/3": ("mlp", "channel", "1/3"),
    "MLP, 1/6": ("mlp", "channel", "1/6"),
    "VGG, channel form, 1/2": ("vgg", "channel", "1/2"),
    "VGG, channel form, 1/3": ("vgg", "channel", "1/3"),
    "VGG, spatial form, 1/2": ("vgg", "spatial", "1/2"),
    "VGG, spatial form, 1/3": ("vgg", "spatial", "1/3"),
}
"""{row of a figure: network, form and share}."""


# Low rank


def largest_rank(m: int, n: int) -> int:
    """The break-even rank of an m x n matrix."""
    return (m * n - 1) // (m + n)


def rank_by_energy(values: Sequence[float], share: float) -> int:
    """The smallest rank that keeps at least a share of the energy."""
    energies = np.square(values)
    return 1 + int((energies.cumsum() < share * energies.sum()).sum())


ENERGIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


def ranks_wanted(
    layers: Mapping[str, nn.Module],
    by_energy: Callable[[list[float], float], int] = rank_by_energy,
    by_size: Callable[[int, int], int] = largest_rank,
) -> dict[str, tuple[Sequence[float], list[float]]]:
    """The rank that keeps a share of the energy, divided by the largest that saves: {layer: (shares, quotients)}."""
    found: dict[str, tuple[Sequence[float], list[float]]] = {}
    for name, layer in layers.items():
        values = factorization.singular_values(layer).tolist()
        most = by_size(*factorization.matricized(layer).shape)
        found[name] = ENERGIES, [by_energy(values, share) / most for share in ENERGIES]
    return found


def losses(results: Results) -> dict[str, Interval]:
    """What each arm gains over the whole network tuned as long, each at its own rate."""
    found = {}
    for title, (name, form, share) in ARMS.items():
        of = chapter08.tuned(chapter08.LOW_RANK, network=name, form=form, share=share)
        over = chapter08.tuned(chapter08.LOW_RANK, network=name, form="channel", share="whole")
        found[title] = results.gain("test", of=of, over=over)
    return found


def low_rank_prose(results: Results, lost: Mapping[str, Interval]) -> dict[str, Any]:
    """Figures of the prose about low rank, as `page.figures` takes them."""

    def accuracy(metric: str, *arm: str) -> tuple[float, str]:
        named = dict(zip(("network", "form", "share"), arm, strict=True))
        return results.interval(metric, **chapter08.tuned(chapter08.LOW_RANK, **named)).mean, ".1%"

    return {
        "mlp_cut": accuracy("cut", "mlp", "channel", "1/3"),
        "mlp_whole": accuracy("test", "mlp", "channel", "whole"),
        "vgg_whole": accuracy("test", "vgg", "channel", "whole"),
        "channel_cut": accuracy("cut", "vgg", "channel", "1/3"),
        "spatial_cut": accuracy("cut", "vgg", "spatial", "1/3"),
        "mlp_sixth": (lost["MLP, 1/6"], "+.1%"),
    }


# Hashing


def bucket_gradient(
    weight_gradient: np.ndarray, places: np.ndarray, signs: np.ndarray, buckets: int
) -> np.ndarray:
    """The gradient of each bucket: that of all weights which take it, each with its sign."""
    return np.bincount(places.ravel(), (signs * weight_gradient).ravel(), minlength=buckets)


def last_weight_alone(
    weight_gradient: np.ndarray, places: np.ndarray, signs: np.ndarray, buckets: int
) -> np.ndarray:
    """The bug: of the weights that share a bucket, only the last one is heard."""
    total = np.zeros(buckets)
    total[places] = signs * weight_gradient
    return total


def learn_buckets(gradient_of: Callable[..., Any], steps: int = 40) -> list[float]:
    """Let 12 buckets for 8 x 6 weights learn to answer as another hashed layer does; the loss at each step."""
    generator = np.random.default_rng(0)
    inputs, goal = generator.normal(size=(200, 6)), generator.normal(size=12)
    places, signs = (part.numpy() for part in hashing.assignment(6, 8, 12, seed=0))
    stored, losses = np.zeros(12), []
    for _ in range(steps):
        error = inputs @ (signs * (stored - goal)[places]).T  # [200, 8]
        losses.append(float(np.square(error).mean()))
        stored = stored - 0.05 * np.asarray(gradient_of(error.T @ inputs / 200, places, signs, 12))
    return losses


def live_rows(networks: Mapping[str, nn.Module], dataset: Dataset) -> list[dict[str, str]]:
    """Widths, file, MACs and accuracy of the MLPs that the page has trained."""
    return [
        {
            "network": kind,
            "hidden layers": f"{network[1].out_features}, {network[3].out_features}",
            "file": f"{chapter08.file_bytes(network):,} bytes",
            "MACs": f"{cost.macs(hashing.decode_layers(network), example_of(dataset)):,}",
            "test": f"{training.evaluate(network, dataset.test):.1%}",
        }
        for kind, network in networks.items()
    ]


def hash_arm(kind: str, share: str, epochs: int) -> dict[str, Any]:
    """Settings of the runs of a kind of MLP, with its own rate."""
    return chapter08.tuned(chapter08.HASHING, kind=kind, share=share, epochs=epochs)


def curves(results: Results) -> dict[str, dict[float, Interval]]:
    """Accuracy of each kind of MLP over the epochs of its training; an eighth of the weights but for the whole."""
    return {
        kind: {
            epochs: results.interval("test", **hash_arm(kind, "1" if kind == "whole" else "1/8", epochs))
            for epochs in chapter08.LENGTHS
        }
        for kind in ("hashed", "narrow", "low rank", "whole")
    }


def leads(
    results: Results, guess: Mapping[int, float]
) -> tuple[list[dict[str, str]], dict[tuple[int, str], Interval]]:
    """Rows of what the hashed MLP gains over its rivals after each length, and the gains."""
    gains = {
        (epochs, kind): results.gain(
            "test", of=hash_arm("hashed", "1/8", epochs), over=hash_arm(kind, "1/8", epochs)
        )
        for epochs in chapter08.LENGTHS
        for kind in ("narrow", "low rank")
    }
    rows = [
        {"epochs": str(epochs), "your guess": f"{guess[epochs]:+.1f}" if epochs in guess else ""}
        | {"hashed over narrow": f"{gains[epochs, 'narrow']:+.1%}"}
        for epochs in chapter08.LENGTHS
    ]
    return rows, gains


def hashing_prose(results: Results, gains: Mapping[tuple[int, str], Interval]) -> dict[str, Any]:
    """Figures of the prose about hashing, as `page.figures` takes them."""
    first, middle, last = chapter08.LENGTHS
    late = {
        kind: results.gain("test", of=hash_arm(kind, "1/8", last), over=hash_arm(kind, "1/8", middle))
        for kind in ("narrow", "hashed", "low rank")
    }
    small = {
        epochs: results.gain(
            "test", of=hash_arm("hashed", "1/64", epochs), over=hash_arm("narrow", "1/64", epochs)
        )
        for epochs in chapter08.SHORT
    }
    return {
        f"hashed_{first}": (gains[first, "narrow"], "+.1%"),
        "hashed_over_low_rank": (gains[last, "low rank"], "+.1%"),
        "hashed_64": (small[chapter08.SHORT[-1]], "+.1%"),
        **{f"{kind.replace(' ', '_')}_late": (gain, "+.1%") for kind, gain in late.items()},
    }


# Rounding


def quantized(
    calibrated: Results, trained: Results
) -> tuple[dict[str, dict[float, Interval]], dict[tuple[str, int], Interval]]:
    """Accuracy over bits, without training and in both forms of it; and what each form gains over others."""
    curve: dict[str, dict[float, Interval]] = {"calibration alone": {}, "folded": {}, "as usual": {}}
    gains: dict[tuple[str, int], Interval] = {}
    for bits in chapter08_trained.BITS:
        arm = chapter08_trained.start(bits)
        curve["calibration alone"][bits] = calibrated.interval("test", **arm)
        forms = {
            form: chapter08.tuned(chapter08_trained.TRAINED, form=form, **arm) for form in ("folded", "usual")
        }
        whole = chapter08.tuned(chapter08_trained.TRAINED, form="float32", bits=32)
        for form, title in (("folded", "folded"), ("usual", "as usual")):
            curve[title][bits] = trained.interval("test", **forms[form])
            gains[form, bits] = trained.over(calibrated, "test", of=forms[form], over=arm)
        gains["folded over usual", bits] = trained.gain("test", of=forms["folded"], over=forms["usual"])
        gains["against float32", bits] = trained.gain("test", of=forms["folded"], over=whole)
    return curve, gains


def rounding_rows(won: Mapping[tuple[str, int], Interval]) -> list[dict[str, str]]:
    """Rows of what training wins at each number of bits."""
    titles = {
        "folded": "folded over calibration",
        "usual": "usual over calibration",
        "folded over usual": "folded over usual",
        "against float32": "folded against float32",
    }
    return [
        {"bits": str(bits)} | {title: f"{won[key, bits]:+.1%}" for key, title in titles.items()}
        for bits in chapter08_trained.BITS
    ]


def rounding_prose(won: Mapping[tuple[str, int], Interval]) -> dict[str, Any]:
    """Figures of the prose about rounding, as `page.figures` takes them."""
    return {
        **{f"forms_{bits}": (won["folded over usual", bits], "+.1%") for bits in chapter08_trained.BITS},
        **{f"lost_{bits}": (won["against float32", bits], "+.1%") for bits in chapter08_trained.BITS},
    }


def bug_rows(
    bugs: Results, trained: Results, calibrated: Results
) -> tuple[list[dict[str, str]], dict[str, Interval]]:
    """Rows of what each bug costs against right training, and gains over none; and the costs."""
    three = chapter08_trained.start(3)
    right = chapter08.tuned(chapter08_trained.TRAINED, form="folded", **three)
    rows, prices = [], {}
    for name in chapter08_studies.BUG_NAMES:
        prices[name] = bugs.over(trained, "test", of={"by": name}, over=right)
        over = bugs.over(calibrated, "test", of={"by": name}, over=three)
        told = {"against right": f"{prices[name]:+.1%}", "over calibration alone": f"{over.mean:+.1%}"}
        rows.append({"3 bits": name} | told)
    return rows, prices
