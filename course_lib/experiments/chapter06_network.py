"""Chapter 06: the VGG in integers, by functions of one's own and as a file in ONNX Runtime."""

import functools
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from course_lib import training
from course_lib.data import to_float
from course_lib.experiments.chapter06 import Ranges, calibration, network_of, ranges_for
from course_lib.experiments.common import drawn, example_of, glyphs
from course_lib.quantization import affine, integer, onnx, workflow

__all__ = ["Deployed", "deployed", "integer_vgg"]


def integer_vgg(network, ranges, images, range_to_integers, to_integers, fold, quantized_conv2d):
    """Run a plain chain of layers in integers by four functions; uint8 images -> float32 logits."""

    def params_of(name):
        scale, zero_point = range_to_integers(*ranges[name], 8)
        return affine.QuantParams(torch.tensor(scale), torch.tensor(zero_point).int(), bits=8, signed=False)

    x = params_of("images")
    q = torch.as_tensor(to_integers(to_float(images).numpy(), x.scale.item(), int(x.zero_point), 8)).byte()
    for place, layer in enumerate(network):
        if isinstance(layer, nn.MaxPool2d):
            q = integer.max_pool2d(q, layer.kernel_size)
        if isinstance(layer, nn.AdaptiveAvgPool2d):
            y = params_of(str(place))
            q, x = integer.global_avg_pool(q, x_params=x, y_params=y), y
        if isinstance(layer, nn.Conv2d):
            weight, bias, y = *fold(layer, network[place + 1]), params_of(str(place))
        if isinstance(layer, nn.Linear):  # a convolution of one position
            weight, bias, y = layer.weight[..., None, None], layer.bias, params_of("logits")
        if isinstance(layer, nn.Conv2d | nn.Linear):
            w_scale = weight.abs().amax((1, 2, 3)) / 127
            q_w = (weight / w_scale[:, None, None, None]).round().to(torch.int8)
            q_b = (bias / (x.scale * w_scale)).round().int()
            multiplier = x.scale * w_scale / y.scale
            q, x = quantized_conv2d(q, int(x.zero_point), q_w, q_b, multiplier, int(y.zero_point)), y
    return (q.flatten(1).int() - x.zero_point) * x.scale


@dataclass(frozen=True)
class Deployed:
    """The VGG in ONNX Runtime, as int8 file.

    Attributes:
        network: in float32.
        ranges: that its tensors have.
        images: test images, uint8.
        labels: of them.
        logits: of the float32 network in PyTorch, and of the int8 file.
        sizes: bytes of the float32 file and of the int8 file.
        latencies: of 64 images on one thread, of both files.
    """

    network: nn.Module
    ranges: Ranges
    images: Tensor
    labels: Tensor
    logits: Mapping[str, Tensor]
    sizes: Mapping[str, int]
    latencies: Mapping[str, Any]

    def accuracy(self, logits: Tensor) -> float:
        """Share of the images whose largest logit is the right one."""
        return (logits.argmax(1) == self.labels).double().mean().item()


@functools.cache
def deployed(count: int = 1000) -> Deployed:
    """Write the VGG as float32 and as int8 file, ranges by MSE, and run it on test images."""
    dataset, network = glyphs(), network_of("vgg")
    ranges = ranges_for(workflow.collect(network, calibration(dataset, 0)), "mse", 8)
    test, example = drawn(dataset.test, count), example_of(dataset)
    with tempfile.TemporaryDirectory() as folder:
        paths = {kind: Path(folder) / f"{kind}.onnx" for kind in ("float32", "int8")}
        _, names = onnx.export(workflow.fold_batch_norm(network, example), example, paths["float32"])
        onnx.quantize(paths["float32"], paths["int8"], ranges=ranges, names=names)
        logits = {
            "float32": training.predict(network, test.images),
            "int8": onnx.run(paths["int8"], test.images),
        }
        sizes = {kind: path.stat().st_size for kind, path in paths.items()}
        latencies = {kind: onnx.latency(path, test.images[:64]) for kind, path in paths.items()}
    return Deployed(network, ranges, test.images, test.labels, logits, sizes, latencies)
