"""Chapter 08 beside its main line: mistakes in training with rounding in the loop."""

import copy
from dataclasses import replace
from typing import Any
from unittest import mock

from torch import Tensor, nn

from course_lib import training
from course_lib.experiments.chapter08 import tuned
from course_lib.experiments.chapter08_trained import (
    QAT,
    TRAINED,
    Shared,
    calibration_images,
    measure_trained,
    prepare,
    start,
)
from course_lib.experiments.common import judged
from course_lib.experiments.experiment import Experiment, Run
from course_lib.quantization import affine, aware, workflow

__all__ = ["BUGS", "BUG_NAMES", "no_gradient_of_weights"]

BUG_NAMES = (
    "no straight-through on the weights",
    "rounded at the end",
    "learning rate of float32",
)

_RIGHT = aware.straight_through


def no_gradient_of_weights(x: Tensor, params: affine.QuantParams) -> Tensor:
    """The bug: weights are rounded as autograd differentiates rounding."""
    if isinstance(x, nn.Parameter):
        return affine.fake_quantize(x.detach(), params) + 0 * x
    return _RIGHT(x, params)


def measure_bug(run: Run, shared: Shared, method: None) -> dict[str, Any]:
    """Train with rounding at three bits, with a bug."""
    if run["by"] == "no straight-through on the weights":
        with mock.patch.object(aware, "straight_through", no_gradient_of_weights):
            return measure_trained(run, shared, method)
    if run["by"] == "rounded at the end":
        return _rounded_at_the_end(run, shared)
    with mock.patch(f"{measure_trained.__module__}.QAT", replace(QAT, schedule="one_cycle")):
        return measure_trained(run, shared, method)


def _rounded_at_the_end(run: Run, shared: Shared) -> dict[str, Any]:
    """As many epochs in float32, and then calibration."""
    network = copy.deepcopy(shared.network)
    images = len(shared.dataset.train)
    epochs = shared.scale.epochs(QAT.epochs, images=images, batch_size=QAT.batch_size)
    recipe = replace(QAT, epochs=epochs, learning_rate=run["rate"], seed=run["seed"])
    training.fit(network, shared.dataset, recipe, validate=False)
    found = workflow.collect(network, calibration_images(shared.dataset, run["seed"]))
    ranges = workflow.calibrate(found, run["activations"], bits=run["bits"])
    simulated = workflow.quantize_model(
        network,
        ranges,
        weight_bits=run["bits"],
        activation_bits=run["bits"],
        weight_method=run["weights"],
    )
    return judged(simulated, shared.dataset)


_THREE = start(3)
_SETTINGS = {
    "no straight-through on the weights": tuned(TRAINED, form="folded", **_THREE),
    "rounded at the end": tuned(TRAINED, form="float32", bits=32) | _THREE,
    "learning rate of float32": {"form": "folded", "rate": 0.1} | _THREE,
}
BUGS = Experiment(
    "08-bugs",
    tuple({"by": by, "seed": seed} | _SETTINGS[by] for by in BUG_NAMES for seed in range(5)),
    measure_bug,
    prepare,
    live=(),
    seed=TRAINED.seed,
)
"""Three bits, trained with rounding in the loop and a mistake."""
