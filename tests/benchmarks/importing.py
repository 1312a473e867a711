"""What `import course_lib.distillation` costs a program that has imported torch already."""

import statistics
import subprocess
import sys
from collections.abc import Iterator

from tests.benchmarks.row import Row, spread

GOAL_SECONDS = 0.2
_PROGRAM = """
import time
start = time.perf_counter()
import torch
middle = time.perf_counter()
import course_lib.distillation
print(middle - start, time.perf_counter() - middle)
"""


def beyond_torch(repeats: int) -> Iterator[Row]:
    """The extra seconds, each measured in a fresh process; the first run, which may compile bytecode, is left out."""
    runs = [_run() for _ in range(repeats + 1)][1:]
    torch_seconds = statistics.median(seconds for seconds, _ in runs)
    extras = [seconds for _, seconds in runs]
    extra = statistics.median(extras)
    yield Row(
        "import course_lib.distillation / import torch",
        f"{torch_seconds + extra:.2f} s",
        f"{torch_seconds:.2f} s",
        f"+{extra:.3f} s",
        f"<= +{GOAL_SECONDS:.1f} s",
        "yes" if extra <= GOAL_SECONDS else "no",
        spread(extras, "+.3f") + " s",
    )


def _run() -> tuple[float, float]:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    torch_seconds, extra = map(float, done.stdout.split())
    return torch_seconds, extra
