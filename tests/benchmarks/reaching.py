"""How many networks can be pruned, and rightly, by an independent check of each; beside Torch-Pruning on the same."""

from collections.abc import Iterator

from tests.benchmarks.row import Row
from tests.pruning import reach

# How many have to be lawful: nothing of torchvision is refused; of timm 75 of 85; 100 of the small modules.
GOALS = {"torchvision": None, "timm": 75, "user": 100}
_TITLES = {
    "torchvision": "networks of torchvision",
    "timm": "CNNs and hybrids of timm",
    "user": "small modules as users write them",
}


def networks_of(collection: str) -> Iterator[Row]:
    """Those that are pruned lawfully beside those that run after Torch-Pruning; and those that are pruned wrongly."""
    rows = reach.reach(collection)
    lawful, theirs = (sum(test(row) for row in rows) for test in (_lawful, _runs))
    goal = GOALS[collection] or len(rows)
    yield Row(
        f"{_TITLES[collection]}, of {len(rows)}: lawful / run after Torch-Pruning",
        f"{lawful}",
        f"{theirs}",
        f"{lawful / max(1, theirs):.2f}",
        f">= {goal} ours",
        "yes" if lawful >= goal and lawful > theirs else "no",
    )
    wrong = [row["name"] for row in rows if row["status"] in ("wrong", "failed")]
    unlawful = sum(row["peer"] == "runs wrongly" for row in rows)
    yield Row(
        f"{_TITLES[collection]}: pruned wrongly{''.join(f' {name}' for name in wrong[:3])}",
        f"{len(wrong)}",
        f"{unlawful}",
        "",
        "0 ours",
        "no" if wrong else "yes",
    )


def _lawful(row: dict) -> bool:
    return row["status"] == "lawful"


def _runs(row: dict) -> bool:
    return row["peer"].startswith("runs")
