"""`python -m tests.benchmarks` measures the library beside its peers, side by side, and keeps what it finds."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from course_lib.book.run import quiet
from tests.benchmarks import (
    calibration_accuracy,
    calibration_speed,
    grading_speed,
    importing,
    integer_speed,
    onnx_speed,
    reaching,
    record,
    search_speed,
    surgery_speed,
    sweep_speed,
    training_speed,
    weight_rounding,
)
from tests.benchmarks.row import Row


@dataclass(frozen=True)
class Group:
    """Rows that are measured together: a function of how many pairs of runs stand behind each median."""

    rows: Callable[[int], Iterator[Row]]
    pairs: int | None = 5  # None: counts, accuracies, or a single run
    timed: bool = True  # a busy machine spoils it


GROUPS = {
    "data-loader": Group(training_speed.against_data_loader),
    "bare-loop": Group(training_speed.against_bare_loop),
    "surgery": Group(surgery_speed.against_torch_pruning),
    "families": Group(surgery_speed.of_every_family, pairs=3),
    "reach": Group(
        lambda _: (row for name in reaching.GOALS for row in reaching.networks_of(name)), None, timed=False
    ),
    "following": Group(search_speed.following),
    "judging": Group(search_speed.judging),
    "sweep": Group(sweep_speed.two_workers, pairs=3),
    "thresholds": Group(calibration_speed.against_candidate_loop),
    "accuracy": Group(lambda _: calibration_accuracy.against_onnx_runtime(), None, timed=False),
    "few-bits": Group(lambda _: weight_rounding.of_shipped_networks(), None, timed=False),
    "onnx": Group(onnx_speed.int8_against_float),
    "integers": Group(integer_speed.integers_against_float),
    "grading": Group(lambda _: grading_speed.submissions(100), None),
    "import": Group(importing.beyond_torch),
}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"all, or some of {', '.join(GROUPS)}")
    parser.add_argument(
        "--threads", type=int, default=1, help="threads that both sides compute with (default 1)"
    )
    parser.add_argument("--repeats", type=int, help="pairs of runs behind every median (default: 5, or 3)")
    parser.add_argument(
        "--print", dest="only_print", action="store_true", help="keep nothing; on a busy machine too"
    )
    arguments = parser.parse_args(words)
    if unknown := sorted(set(arguments.groups) - set(GROUPS)):
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(GROUPS)}")
    if not arguments.only_print and (changed := record.changed()):
        parser.error(f"commit first, since a record names the commit that it measured: {changed}")
    torch.set_num_threads(arguments.threads)
    left = [
        f"{name} is left as it was: {why}"
        for name in arguments.groups or GROUPS
        if (why := _measure(name, GROUPS[name], arguments))
    ]
    if left:
        sys.exit("\n".join(left))


def _measure(name: str, group: Group, arguments: argparse.Namespace) -> str:
    """Measure, print and keep a group; say why it was not kept."""
    checked = group.timed and not arguments.only_print
    if checked and (busy := quiet.trouble()):
        return busy
    pairs = group.pairs and (arguments.repeats or group.pairs)
    rows = list(group.rows(pairs or 1))
    table = Table("what", "ours", "peer", "ratio", "goal", "reached", "spread", title=name, box=box.SIMPLE)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)
    if checked and (busy := quiet.trouble()):
        return busy
    if not arguments.only_print:
        record.keep(name, rows, threads=arguments.threads, pairs=pairs)
    return ""


if __name__ == "__main__":
    main()
