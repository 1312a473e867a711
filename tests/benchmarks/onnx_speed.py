"""A network in 8 bits beside the same in float32, both in ONNX Runtime: time of 64 images, and bytes of the files."""

import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from course_lib import checkpoints, data
from course_lib.cost import format_bytes
from course_lib.data import to_float
from course_lib.quantization.onnx import export, latency, quantize
from tests.benchmarks.row import Row, spread

GOAL_SPEED = 2.0  # where the processor has VNNI
GOAL_BYTES = 0.27
_NAMES = ("glyphs-vgg", "glyphs-vgg-wide")
_BATCH = 64


def int8_against_float(repeats: int) -> Iterator[Row]:
    """One thread on each side, whatever the other rows take."""
    dataset = data.load_dataset("glyphs")
    with tempfile.TemporaryDirectory() as folder:
        for name in _NAMES:
            example = to_float(dataset.test.images[:1])
            path = export(checkpoints.load(name), example, Path(folder) / f"{name}.onnx").path
            small = quantize(
                path, Path(folder) / f"{name}-int8.onnx", images=dataset.train.images[:500], method="entropy"
            )
            yield _speed(name, path, small, dataset.test.images[:_BATCH], repeats)
            yield _bytes(name, path, small)


def _speed(name: str, path: Path, small: Path, images: Tensor, repeats: int) -> Row:
    """Time both in turn; the ratio is the median of the ratios within the pairs, so slow spells cancel."""
    runs = []
    for repeat in range(repeats):
        pair = (small, path) if repeat % 2 else (path, small)
        seconds = {file: latency(file, images, threads=1).median for file in pair}
        runs.append((seconds[small], seconds[path]))
    ratios = [real / integer for integer, real in runs]
    ratio = statistics.median(ratios)
    return Row(
        f"{name}, int8 (VNNI: {_vnni()}) / float32",
        f"{statistics.median(integer for integer, _ in runs) * 1000:.2f} ms",
        f"{statistics.median(real for _, real in runs) * 1000:.2f} ms",
        f"{ratio:.2f}",
        f">= {GOAL_SPEED:.2f}",
        "yes" if ratio >= GOAL_SPEED else "no",
        spread(ratios),
    )


def _bytes(name: str, path: Path, small: Path) -> Row:
    ours, theirs = small.stat().st_size, path.stat().st_size
    return Row(
        f"file of {name}, int8 / float32",
        format_bytes(ours),
        format_bytes(theirs),
        f"{ours / theirs:.3f}",
        f"<= {GOAL_BYTES:.2f}",
        "yes" if ours / theirs <= GOAL_BYTES else "no",
    )


def _vnni() -> str:
    """Whether the processor multiplies 8-bit numbers in one instruction, as far as Linux says so."""
    try:
        information = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    flags = {flag for line in information.splitlines() if line.startswith("flags") for flag in line.split()}
    if not flags:  # not x86
        return "unknown"
    return "yes" if flags & {"avx512_vnni", "avx_vnni"} else "no"
