"""An integer network beside float32 and beside ONNX Runtime's in 8 bits: time of 1 and of 64 images, bytes of files."""

import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import safetensors.torch
from torch import Tensor, nn

from course_lib import checkpoints, data
from course_lib.cost import format_bytes, latency
from course_lib.data import to_float
from course_lib.quantization import onnx
from course_lib.quantization.workflow import calibrate, collect, fold_batch_norm, quantize_model, to_integer
from tests.benchmarks.row import Row, spread

GOAL_SPEED = 1.0  # of the network in float32
GOAL_BYTES = 1.0  # of the file for ONNX Runtime
_NAMES = ("glyphs-vgg", "glyphs-vgg-wide", "glyphs-resnet", "glyphs-mobilenet")
_BATCHES = (1, 64)


def integers_against_float(repeats: int) -> Iterator[Row]:
    """One thread on each side, whatever the other rows take."""
    dataset = data.load_dataset("glyphs")
    with tempfile.TemporaryDirectory() as folder:
        for name in _NAMES:
            yield from _rows(name, dataset, Path(folder), repeats)


def _rows(name: str, dataset: data.Dataset, folder: Path, repeats: int) -> Iterator[Row]:
    real, images = checkpoints.load(name), dataset.test.images
    ranges = calibrate(collect(real, dataset.train.images[:500]))
    integers = to_integer(quantize_model(real, ranges))
    folded = fold_batch_norm(real, to_float(images[:2]))
    path, names = onnx.export(folded, to_float(images[:1]), folder / f"{name}.onnx")
    small = onnx.quantize(path, folder / f"{name}-int8.onnx", ranges=ranges, names=names)
    for batch in _BATCHES:
        yield from _speed(name, real, integers, small, images[:batch], repeats)
    yield _bytes(name, integers, small, folder)


def _speed(
    name: str, real: nn.Module, integers: nn.Module, small: Path, images: Tensor, repeats: int
) -> Iterator[Row]:
    """Time all in turn; a ratio is the median of those within the turns, so slow spells cancel."""
    numbers, turns = to_float(images), []
    for _ in range(repeats):
        pair = [latency(network, numbers, threads=1).median for network in (integers, real)]
        turns.append((*pair, onnx.latency(small, images, threads=1).median))
    ours, float32, runtime = zip(*turns, strict=True)
    for peer, seconds in (("float32", float32), ("int8 in ONNX Runtime", runtime)):
        ratios = [theirs / mine for mine, theirs in zip(ours, seconds, strict=True)]
        ratio = statistics.median(ratios)
        yield Row(
            f"{name}, {len(images)} image(s), integers / {peer}",
            f"{statistics.median(ours) * 1000:.2f} ms",
            f"{statistics.median(seconds) * 1000:.2f} ms",
            f"{ratio:.2f}",
            f">= {GOAL_SPEED:.2f}" if peer == "float32" else "",
            ("yes" if ratio >= GOAL_SPEED else "no") if peer == "float32" else "",
            spread(ratios),
        )


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
