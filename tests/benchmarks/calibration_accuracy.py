"""Test accuracy in 8 bits on the shipped checkpoints: our calibration methods beside ONNX Runtime's own calibrators.

Both sides start from the same file and the same 500 calibration images, write int8 weights with a scale for each
channel and uint8 activations with one each, and run in ONNX Runtime.
"""

import contextlib
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from torch import Tensor

from course_lib import checkpoints, data
from course_lib.data import DatasetError, to_float
from course_lib.quantization import workflow
from course_lib.quantization.calibration import METHODS
from course_lib.quantization.onnx import export, quantize, run
from tests.benchmarks.row import Row

GOAL_LOSS = 0.01  # against the best of all on that network
_IMAGES = 500
_PEERS = {
    "MinMax": CalibrationMethod.MinMax,
    "Entropy": CalibrationMethod.Entropy,
    "Percentile": CalibrationMethod.Percentile,
}


def against_onnx_runtime() -> Iterator[Row]:
    """A row for each checkpoint whose data set is at hand."""
    for name in checkpoints.NAMES:
        try:
            dataset = data.load_dataset(checkpoints.CATALOGUE[name].dataset)
        except DatasetError:  # not downloaded, and no network
            yield Row(f"int8 accuracy, {name}", "data missing", "", "", "", "")
            continue
        with tempfile.TemporaryDirectory() as folder:
            ours, theirs = _accuracies(name, dataset, Path(folder))
        best = max(*ours.values(), *theirs.values())
        loss = best - min(ours.values())
        yield Row(
            f"int8 accuracy, {name}",
            ", ".join(f"{method} {accuracy:.1%}" for method, accuracy in ours.items()),
            ", ".join(f"{method} {accuracy:.1%}" for method, accuracy in theirs.items()),
            f"-{loss:.1%}",
            f"worst >= best - {GOAL_LOSS:.0%}",
            "yes" if loss <= GOAL_LOSS else "no",
        )


def _accuracies(name: str, dataset: data.Dataset, folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    example = to_float(dataset.test.images[:1])
    folded = workflow.fold_batch_norm(checkpoints.load(name), example)
    path = export(folded, example, folder / "float.onnx").path
    images = dataset.train.images[:_IMAGES]
    file = folder / "int8.onnx"
    ours, theirs = {}, {}
    for method in METHODS:
        quantize(path, file, images=images, method=method)
        ours[method] = _accuracy(file, dataset)
    for label, method in _PEERS.items():
        with contextlib.redirect_stdout(io.StringIO()):  # it prints each histogram
            quantize_static(
                path,
                file,
                _Images(images),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=method,
            )
        theirs[label] = _accuracy(file, dataset)
    return ours, theirs


def _accuracy(file: Path, dataset: data.Dataset) -> float:
    return (run(file, dataset.test.images).argmax(1) == dataset.test.labels).double().mean().item()


class _Images(CalibrationDataReader):
    """All images as one batch: the histograms of Entropy and Percentile depend on how they come."""

    def __init__(self, images: Tensor):
        self.batches = iter([{"images": to_float(images).numpy()}])

    def get_next(self) -> dict | None:
        return next(self.batches, None)
