"""An integer network beside the same in float32 and beside ONNX Runtime's: time of 1 and of 64 images, bytes of files."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from course_lib import checkpoints, data
from course_lib.cost import format_bytes
from course_lib.data import to_float
from course_lib.quantization import onnx
from course_lib.quantization.workflow import calibrate, collect, fold_batch_norm, quantize_model, to_integer
from tests.benchmarks.row import Row

GOAL_SPEED = 1.0  # of the network in float32
GOAL_BYTES = 1.0  # of the file for ONNX Runtime
_NAMES = ("glyphs-vgg", "glyphs-vgg-wide", "glyphs-resnet", "glyphs-mobilenet")
_BATCHES = {1: 50, 64: 3}  # runs of each side that a repeat takes the smallest of


def integers_against_float(repeats: int) -> Iterator[Row]:
    """One thread on each side, whatever the other rows take."""
    dataset, threads = data.load_dataset("glyphs"), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            for name in _NAMES:
                yield from _rows(name, dataset, Path(folder), repeats)
    finally:
        torch.set_num_threads(threads)


def _rows(name: str, dataset: data.Dataset, folder: Path, repeats: int) -> Iterator[Row]:
    real, images = checkpoints.load(name), dataset.test.images
    ranges = calibrate(collect(real, dataset.train.images[:500]))
    integers = to_integer(quantize_model(real, ranges))
    folded = fold_batch_norm(real, to_float(images[:2]))
    path, names = onnx.export(folded, to_float(images[:1]), folder / f"{name}.onnx")
    small = onnx.quantize(path, folder / f"{name}-int8.onnx", ranges=ranges, names=names)
    for batch, runs in _BATCHES.items():
        yield _speed(name, real, integers, small, images[:batch], repeats, runs)
    yield _bytes(name, integers, small, folder)


def _speed(
    name: str, real: nn.Module, integers: nn.Module, small: Path, images: Tensor, repeats: int, runs: int
) -> Row:
    """Time all in turn; the ratio is the median of the ratios within the turns, so slow spells cancel."""
    numbers, turns = to_float(images), []
    for _ in range(repeats):
        with torch.inference_mode():
            pair = [_seconds(network, numbers, runs) for network in (integers, real)]
        turns.append((*pair, onnx.latency(small, images, threads=1).median))
    ratio = statistics.median(real / ours for ours, real, _ in turns)
    ours, theirs, runtime = (f"{statistics.median(side) * 1000:.2f} ms" for side in zip(*turns, strict=True))
    return Row(
        f"{name}, {len(images)} image(s): integers / float32; int8 in ONNX Runtime {runtime}",
        ours,
        theirs,
        f"{ratio:.2f}",
        f">= {GOAL_SPEED:.2f}",
        "yes" if ratio >= GOAL_SPEED else "no",
    )


def _seconds(network: Callable[[Tensor], Tensor], images: Tensor, runs: int) -> float:
    """Smallest processor time of some runs."""
    network(images)
    found = []
    for _ in range(runs):
        start = time.process_time()
        network(images)
        found.append(time.process_time() - start)
    return min(found)


def _bytes(name: str, integers: nn.Module, small: Path, folder: Path) -> Row:
    stored = folder / f"{name}.safetensors"
    safetensors.torch.save_file(integers.state_dict(), stored)
    ours, theirs = stored.stat().st_size, small.stat().st_size
    return Row(
        f"state of {name} in integers / file for ONNX Runtime",
        format_bytes(ours),
        format_bytes(theirs),
        f"{ours / theirs:.3f}",
        f"<= {GOAL_BYTES:.2f}",
        "yes" if ours / theirs <= GOAL_BYTES else "no",
    )
