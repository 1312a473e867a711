"""`python -m tests.benchmarks` prints the figures of the library beside its peers, measured side by side."""

import argparse
import platform

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from tests.benchmarks import (
    calibration_accuracy,
    calibration_speed,
    grading_speed,
    importing,
    integer_speed,
    onnx_speed,
    reaching,
    search_speed,
    surgery_speed,
    sweep_speed,
    training_speed,
    weight_rounding,
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "--threads", type=int, default=1, help="threads that both sides compute with (default 1)"
    )
    parser.add_argument(
        "--repeats", type=int, default=5, help="pairs of runs behind every median (default 5)"
    )
    parser.add_argument("--submissions", type=int, default=4, help="to grade for real (default 4)")
    parser.add_argument(
        "--no-reach",
        dest="reach",
        action="store_false",
        help="leave out which networks can be pruned at all (20 minutes)",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    images, source = training_speed.mnist_images()
    table = Table("what", "ours", "peer", "ratio", "goal", "reached", box=box.SIMPLE)
    for column in table.columns[1:]:
        column.justify = "right"
    console = Console(width=110)
    for row in (
        *training_speed.against_data_loader(images, arguments.repeats),
        *training_speed.against_bare_loop(arguments.repeats),
        *surgery_speed.against_torch_pruning(arguments.repeats),
        *surgery_speed.of_every_family(min(arguments.repeats, 3)),
        *(row for name in reaching.GOALS if arguments.reach for row in reaching.networks_of(name)),
        *search_speed.following(arguments.repeats),
        *search_speed.judging(arguments.repeats),
        *sweep_speed.two_workers(min(arguments.repeats, 3)),
        *calibration_speed.against_candidate_loop(arguments.repeats),
        *calibration_accuracy.against_onnx_runtime(),
        *weight_rounding.of_shipped_networks(),
        *onnx_speed.int8_against_float(arguments.repeats),
        *integer_speed.integers_against_float(arguments.repeats),
        *grading_speed.submissions(arguments.submissions),
        importing.beyond_torch(arguments.repeats),
    ):
        table.add_row(*row)
    console.print(table)
    console.print(
        f"Images of the DataLoader rows: {source}. CPU, {arguments.threads} thread(s), torch {torch.__version__}, "
        f"Python {platform.python_version()}. Medians of {arguments.repeats} pairs of runs that take turns; a machine "
        "that is busy with other work gives provisional figures.",
        highlight=False,
    )


if __name__ == "__main__":
    main()
