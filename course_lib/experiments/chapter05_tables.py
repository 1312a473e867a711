"""Chapter 05: what its pages show of the experiments, as rows, panels and named figures."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from course_lib import statistics
from course_lib.experiments import chapter05
from course_lib.statistics import Interval

__all__ = ["agreement", "exchange", "leads", "orders", "panels", "prose"]

SCORES = ("plain", "adaptive")
EXCHANGE = {
    "at once": "old weights, old statistics",
    "recalibrated": "old weights, new statistics",
    "tuned, old statistics": "tuned weights, old statistics",
    "tuned": "tuned weights, new statistics",
}

Frames = Mapping[float, pd.DataFrame]
"""{budget: a row for each candidate}."""


def orders(frames: Frames) -> dict[tuple[float, str], Interval]:
    """Spearman's rho of each score with the outcome at each budget."""
    return {
        (budget, score): statistics.correlation(frame[score], frame["tuned"], "spearman")
        for budget, frame in frames.items()
        for score in SCORES
    }


def leads(frames: Frames, method: str = "spearman") -> dict[float, Interval]:
    """How much better the adaptive score goes with the outcome than the plain one, at each budget."""
    return {
        budget: statistics.correlation_difference(frame["adaptive"], frame["plain"], frame["tuned"], method)
        for budget, frame in frames.items()
    }


def panels(frames: Frames, rho: Mapping[Any, Interval]) -> dict[str, dict[str, Any]]:
    """A row of panels for each score, a panel for each budget, as `plots.score_scatter` takes them."""
    return {
        score: {
            f"{budget:.0%} of the MACs": (
                frame[score].tolist(),
                frame["tuned"].tolist(),
                f"rho = {rho[budget, score].mean:.2f}",
            )
            for budget, frame in frames.items()
        }
        for score in SCORES
    }


def agreement(
    frames: Frames, rho: Mapping[Any, Interval]
) -> tuple[list[dict[str, str]], dict[str, list[int]]]:
    """Rows of the table of scores against outcomes, and the ranks of each score's picks."""
    rows: list[dict[str, str]] = []
    ranks: dict[str, list[int]] = {score: [] for score in SCORES}
    for (budget, score), order in rho.items():
        frame = frames[budget]
        low, high = chapter05.leave_one_out(frame, score)
        pick = frame["tuned"][frame[score].idxmax()]
        ranks[score].append(1 + int((frame["tuned"] > pick).sum()))
        rows.append(
            {
                "MACs left": f"{budget:.0%}",
                "score": score,
                "Spearman's rho": f"{order:.2f}",
                "Pearson's r": f"{frame[score].corr(frame['tuned']):.2f}",
                "r without one candidate": f"from {low:.2f} to {high:.2f}",
                "rank of the pick": str(ranks[score][-1]),
                "regret of the pick": f"{100 * (frame['tuned'].max() - pick):.1f} points",
            }
        )
    return rows, ranks


def exchange(
    frames: Frames, guess: Mapping[float, float]
) -> tuple[list[dict[str, str]], dict[float, Interval]]:
    """Rows of the table of exchanged statistics, and the share of the gain that new ones alone make."""
    rows, part = [], {}
    for budget, frame in frames.items():
        gained = frame["tuned"] - frame["at once"]
        part[budget] = statistics.bootstrap_mean((frame["recalibrated"] - frame["at once"]) / gained)
        means = {title: f"{frame[arm].mean():.0%}" for arm, title in EXCHANGE.items()}
        told = {"share of the gain": f"{part[budget]:.0%}", "your guess": f"{guess[budget]:.0%}"}
        rows.append({"MACs left": f"{budget:.0%}"} | means | told)
    return rows, part


def prose(
    frames: Frames,
    rho: Mapping[Any, Interval],
    ranks: Mapping[str, Sequence[int]],
    regrets: Mapping[float, Mapping[str, Sequence[float]]],
) -> dict[str, Any]:
    """Figures of the prose about scores and outcomes, as `page.figures` takes them; regrets at 20 candidates."""
    hard, mild = min(frames), frames[max(frames)]
    given = {
        name: [100 * lines[name][chapter05.POOLS.index(20)] for lines in regrets.values()]
        for name in regrets[hard]
    }
    return {
        **{f"lead_{100 * budget:.0f}": (found, "+.2f") for budget, found in leads(frames).items()},
        **{f"rho_{score}_{100 * budget:.0f}": (found, ".2f") for (budget, score), found in rho.items()},
        **{f"ranks_{score}": ", ".join(map(str, places)) for score, places in ranks.items()},
        **{
            f"regrets_{name}": ", ".join(f"{value:.1f}" for value in values) for name, values in given.items()
        },
        **{f"regret_{name}": (values[-1], ".1f", "points") for name, values in given.items()},
        "r_plain_50": (mild["plain"].corr(mild["tuned"]), ".2f"),
        "r_plain_50_without": (chapter05.leave_one_out(mild, "plain")[1], ".2f"),
    }
