"""Chapter 03: what its pages show of the experiments, as rows, panels and named figures."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from course_lib.experiments import chapter03 as lab
from course_lib.experiments import chapter03_real as real
from course_lib.experiments import chapter03_studies as studies
from course_lib.experiments.results import Results
from course_lib.statistics import Interval

__all__ = [
    "GROUPS",
    "NAMES",
    "WHOLE",
    "beside_sources",
    "bug_rows",
    "cifar_figures",
    "in_turns",
    "losses",
    "mend_figures",
    "mend_panels",
    "paths",
    "prices",
    "reached",
    "scratch_arms",
    "scratch_figures",
    "shown",
    "slimming_panels",
    "start_rows",
    "threshold",
]

NAMES = dict(zip(lab.STRENGTHS, ("no penalty", "weak", "medium", "strong"), strict=True))
GROUPS = {"first three layers": range(112), "last three layers": range(112, 496)}
WHOLE = {"ratio": 0.0, "stage": "whole"}
STAGES = {"at once": "at once", "recalibrated": "recalibrated", "tuned": "fine-tuned"}


def threshold(scales: Sequence[float], ratio: float = 0.7) -> float:
    """The absolute gamma of the last channel that goes at a ratio."""
    return float(np.sort(np.asarray(scales))[round(ratio * len(scales)) - 1])


def paths(slimming: Results, live: Mapping[float, Any]) -> dict[float, np.ndarray]:
    """The scale of every channel of the first network of each strength; those of `live` have just been measured."""
    recorded = {s: slimming.values("scales", strength=s, seed=0)[0] for s in lab.STRENGTHS}
    return {s: np.asarray(path) for s, path in (recorded | dict(live)).items()}


def slimming_panels(cuts: Results) -> dict[str, dict[str, dict[float, list[float]]]]:
    """Every run over the ratio, a panel for each stage, as `plots.run_panels` takes them."""
    return {
        title: {
            NAMES[s]: {r: cuts.values("test", strength=s, ratio=r, stage=stage) for r in lab.RATIOS}
            for s in lab.STRENGTHS
        }
        for stage, title in STAGES.items()
    }


def losses(cuts: Results, stage: str = "tuned") -> dict[tuple[float, float], Interval]:
    """What a cut loses against the same network before it, for each strength and ratio."""
    return {
        (s, r): cuts.gain(
            "test",
            of={"strength": s, "ratio": r, "stage": stage},
            over={"strength": s, **WHOLE},
        )
        for s in lab.STRENGTHS
        for r in lab.RATIOS
    }


def reached(cuts: Results, within: float = 0.01) -> dict[float, float]:
    """The largest ratio at which the fine-tuned network is within a point of the whole one, on validation images."""
    found = {}
    for s in lab.STRENGTHS:
        whole = np.mean(cuts.values("validation", strength=s, **WHOLE))
        fine = [
            r
            for r in lab.RATIOS
            if np.mean(cuts.values("validation", strength=s, ratio=r, stage="tuned")) > whole - within
        ]
        found[s] = max(fine, default=0.0)
    return found


def prices(cuts: Results) -> dict[str, Interval]:
    """What the strong penalty costs before any cut, and what its network keeps at 70 % against one without penalty."""
    plain, strong = {"strength": 0.0, **WHOLE}, {"strength": lab.STRENGTHS[-1]}
    tuned = strong | {"ratio": 0.7, "stage": "tuned"}
    pairs = {"price_strong": (strong | WHOLE, plain), "against_plain": (tuned, plain)}
    return {name: cuts.gain("test", of=of, over=over) for name, (of, over) in pairs.items()}


def start_rows(starts: Results, slimmed: Results, cuts: Results) -> list[dict[str, str]]:
    """Gamma that starts at 0.25 and 1, beside the first three networks of the chapter, which start at 0.5."""
    weak, medium, strong = lab.STRENGTHS[1:]
    arms = [
        (weak, 0.25),
        (weak, 0.5),
        (medium, 0.25),
        (medium, 0.5),
        (medium, 1.0),
        (strong, 0.5),
        (strong, 1.0),
    ]
    rows = []
    for s, gamma in arms:
        if gamma == 0.5:
            ways = {"whole": WHOLE} | {
                stage: {"ratio": 0.7, "stage": stage} for stage in ("at once", "tuned")
            }
            found = {"silent": slimmed.values("silent", strength=s)}
            found |= {name: cuts.values("test", strength=s, **way) for name, way in ways.items()}
        else:
            metrics = ("silent", "whole", "at once", "tuned")
            found = {name: starts.values(name, strength=s, gamma=gamma) for name in metrics}
        way = lab.reach(s, lab.RECIPE, 10_000) / gamma
        row = {"penalty": NAMES[s], "gamma starts at": f"{gamma:g}", "reach over start": f"{way:.1f}"}
        rows.append(row | {name: shown(values[:3]) for name, values in found.items()})
    return rows


def scratch_arms(cuts: Results, scratch: Results, strength: float) -> dict[str, list[float]]:
    """Test accuracies of the pruned networks of a strength and of new ones: {arm: runs}."""
    pruned = {"strength": strength, "ratio": 0.7}
    long = lab.RECIPE.epochs + lab.LONG
    arms = {
        "slimmed, 6 + 1 epochs": cuts.values("test", **pruned, stage="tuned"),
        "new weights, 7": scratch.values("test", strength=strength, widths="slimmed", epochs=lab.LONG),
        "uniform widths, 7": scratch.values("test", strength=strength, widths="uniform", epochs=lab.LONG),
        "slimmed, 6 + 7 epochs": cuts.values("test", **pruned, stage="tuned long"),
    }
    if strength == lab.STRENGTHS[-1]:
        arms |= {
            "new weights, 13": scratch.values("test", strength=strength, widths="slimmed", epochs=long),
            "uniform widths, 13": scratch.values("test", strength=strength, widths="uniform", epochs=long),
        }
    return arms


def standing(gain: Interval) -> str:
    """Say where an arm stands against another: ahead or behind only if the interval leaves zero out."""
    return "ahead of" if gain.low > 0 else "behind" if gain.high < 0 else "level with"


def scratch_figures(cuts: Results, scratch: Results) -> dict[str, Any]:
    """What new weights gain over slimmed ones, and slimmed widths over uniform ones, at the strong penalty."""
    strong = {"strength": lab.STRENGTHS[-1]}
    long = lab.RECIPE.epochs + lab.LONG
    gains = {}
    for epochs, stage in ((lab.LONG, "tuned"), (long, "tuned long")):
        slimmed = strong | {"ratio": 0.7, "stage": stage}
        arms = {name: strong | {"widths": name, "epochs": epochs} for name in ("slimmed", "uniform")}
        gains[f"new_{epochs}"] = scratch.over(cuts, "test", of=arms["slimmed"], over=slimmed)
        gains[f"uniform_{epochs}"] = scratch.over(cuts, "test", of=arms["uniform"], over=slimmed)
        gains[f"widths_{epochs}"] = scratch.gain("test", of=arms["slimmed"], over=arms["uniform"])
    numbers = {name: (gain, "+.1%") for name, gain in gains.items()}
    return numbers | {f"{name}_stands": standing(gain) for name, gain in gains.items()}


def shown(values: Sequence[float]) -> str:
    """Every run, the lowest first."""
    return ", ".join(f"{value:.0%}" for value in sorted(values))


def mend_figures(mend: Results) -> dict[str, Any]:
    """Every run of the collapsed cuts and their best mends; what absorbed constants gain where nothing collapsed."""
    weak, medium, strong = (
        {"strength": s, "ratio": r} for s, r in ((0.0015, 0.7), (0.005, 0.7), (0.015, 0.8))
    )
    arms = {
        "weak_as_is": weak | {"by": "as it is"},
        "weak_fifth": weak | {"by": "a fifth of each layer stays"},
        "medium_as_is": medium | {"by": "as it is"},
        "medium_tenth": medium | {"by": "a tenth of each layer stays"},
    }
    found: dict[str, Any] = {name: shown(mend.values("tuned test", **arm)) for name, arm in arms.items()}
    bare, absorbed = (strong | {"by": by} for by in ("as it is", "constants absorbed"))
    for stage in STAGES:
        gain = mend.gain(f"{stage} test", of=absorbed, over=bare)
        found[f"absorbed_{stage.replace(' ', '_')}"] = (gain, "+.1%")
    share = mend.gain("tuned test", of=strong | {"by": "a tenth of each layer stays"}, over=bare)
    return found | {"share_costs": (share, "+.1%")}


def in_turns(networks: Mapping[str, nn.Module], images: Tensor, calls: int = 30) -> dict[str, float]:
    """Median seconds of a call of each network, which take turns, so that a busy machine slows all alike."""
    times: dict[str, list[float]] = {name: [] for name in networks}
    with torch.inference_mode():
        for _ in range(calls):
            for name, network in networks.items():
                started = time.perf_counter()
                network(images)
                times[name].append(time.perf_counter() - started)
    return {name: float(np.median(values)) for name, values in times.items()}


def _mean_or_runs(values: Sequence[float]) -> str:
    """The mean; every run where they lie far apart."""
    return shown(values) if max(values) - min(values) > 0.05 else f"{np.mean(values):.1%}"


def beside_sources(cuts: Results, slimmed: Results) -> list[dict[str, str]]:
    """Rows of this chapter for the table of the sources."""
    whole = lab.parameters(lab.build(0)) / 1000
    plain = np.mean(cuts.values("test", strength=0.0, **WHOLE))
    rows = []
    for s in lab.STRENGTHS[1:]:
        cut = {"strength": s, "ratio": 0.7}
        left = whole * np.mean(slimmed.values("parameters 70", strength=s))
        rows.append(
            {
                "network": f"here, glyphs, {NAMES[s]} penalty",
                "no penalty": f"{plain:.1%}",
                "sparse-trained": f"{np.mean(cuts.values('test', strength=s, **WHOLE)):.1%}",
                "70 % cut, at once": f"{np.mean(cuts.values('test', **cut, stage='at once')):.1%}",
                "fine-tuned": _mean_or_runs(cuts.values("test", **cut, stage="tuned")),
                "parameters": f"{whole:.0f}k -> {left:.1f}k",
            }
        )
    return rows


def cifar_figures() -> dict[str, Any]:
    """Every run on CIFAR-10."""
    record = real.CIFAR10.recorded()

    def runs(metric: str, penalty: str) -> str:
        return ", ".join(f"{value:.1%}" for value in sorted(record.values(metric, penalty=penalty)))

    at_once = record.values("at_once", penalty="none") + record.values("at_once", penalty="L1")
    return {
        "cifar_at_once": (max(at_once), ".1%"),
        "cifar_tuned": runs("tuned", "L1"),
        "cifar_plain_tuned": runs("tuned", "none"),
        "cifar_whole": runs("unpruned", "none"),
        "cifar_sparse": runs("unpruned", "L1"),
    }


def mend_panels(mend: Results) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Every run of each way to mend a cut, a panel for each strength, as `plots.run_rows` takes them."""
    pairs = dict.fromkeys(zip(mend.frame["strength"], mend.frame["ratio"], strict=True))
    return {
        f"{NAMES[s]}, {r:.0%} cut": {
            by: {
                title: mend.values(f"{stage} test", strength=s, ratio=r, by=by)
                for stage, title in STAGES.items()
            }
            for by in lab.MENDS
            if ((mend.frame["strength"] == s) & (mend.frame["by"] == by)).any()
        }
        for s, r in pairs
    }


def bug_rows(bugs: Results, cuts: Results) -> dict[str, dict[str, list[float]]]:
    """Every run of the bugs that need training, and of the right method beside them."""
    right = {"strength": lab.STRENGTHS[-1], "ratio": 0.7}
    rows = {
        "right": {title: cuts.values("test", **right, stage=stage)[:3] for stage, title in STAGES.items()}
    }
    titles = {
        "per layer": "a threshold for each layer",
        "weight decay": "weight decay instead of L1",
        "wrong sign": "penalty with the wrong sign",
    }
    return rows | {
        titles[by]: {title: bugs.values(f"{stage} test", by=by) for stage, title in STAGES.items()}
        for by in studies.PENALTIES
    }
