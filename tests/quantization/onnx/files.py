"""Small networks of the course as ONNX files, and files written by hand."""

import hashlib

import jaxtyping
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from course_lib import models
from course_lib.quantization.onnx import export

NETWORKS = {
    "mlp": {"image_size": 8, "hidden": (6,)},
    "convnet_teacher": {"image_size": 8, "channels": (4, 5), "hidden": 6},
    "convnet_student": {"image_size": 8, "filters": 2, "patch": 4},
    "vgg": {"widths": (4, "M", 6)},
    "resnet": {"widths": (4, 6), "blocks": (1, 1)},
    "mobilenet": {"stem": 4, "widths": ((6, 2), (8, 1))},
}


def network(name):
    """A small network of the course whose batch norm is not the identity."""
    generator = torch.Generator().manual_seed(1)
    model = models.build(name, **NETWORKS[name])
    # Small variances, so that images make a difference in the logits.
    bounds = {
        "weight": (0.5, 1.5),
        "bias": (-0.3, 0.7),
        "running_mean": (0, 0.1),
        "running_var": (0.02, 0.07),
    }
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for key, (low, high) in bounds.items():
                getattr(module, key).data.uniform_(low, high, generator=generator)
    return model


def pictures(count, seed=0, channels=1, size=8):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)


class Exported(dict):
    """{name: (network, file)} for the networks of the course, each exported when first asked for."""

    def __init__(self, folder):
        self.folder = folder

    def __missing__(self, name):
        model, checks = network(name), jaxtyping.config.jaxtyping_disable
        # Folding passes proxies through forward(), which the checker of types refuses; see networks.traces.
        jaxtyping.config.update("jaxtyping_disable", True)
        path = export(model, torch.rand(1, 1, 8, 8), self.folder / f"{name}.onnx").path
        jaxtyping.config.update("jaxtyping_disable", checks)
        self[name] = model, path
        return self[name]


def written(
    path, nodes, constants=(), outputs=("y",), shape=("N", 1, 1, 2), kind=TensorProto.FLOAT, opset=20
):
    """A file of nodes that read `images`; all in float32, and constants by name."""
    graph = helper.make_graph(
        [helper.make_node(operator, *names, **attributes) for operator, *names, attributes in nodes],
        "graph",
        [helper.make_tensor_value_info("images", kind, shape)],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in dict(constants).items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def linear_file(path, shape=("N", 1, 1, 2), **options):
    """The images as rows, and a linear layer [2, 2] with bias."""
    nodes = [
        ("Reshape", ["images", "rows"], ["x"], {}),
        ("Gemm", ["x", "weight", "bias"], ["y"], {"transB": 1}),
    ]
    constants = {
        "rows": np.int64([-1, 2]),
        "weight": np.float32([[1.27, -0.5], [0.254, 0.1]]),
        "bias": np.float32([0.1, 0]),
    }
    return written(path, nodes, constants, shape=shape, **options)


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def operators(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def constants_of(path):
    return {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in onnx.load(path).graph.initializer}
