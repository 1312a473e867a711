"""Networks, examples and data sets that the functions of pruning must refuse, each with the words of its remedy."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from course_lib import pruning
from course_lib.data import Dataset, Split


class Made:
    """A value that each test makes anew."""

    def __init__(self, function: Callable, *arguments: Any, **options: Any) -> None:
        self.make = functools.partial(function, *arguments, **options)


# ---- what is right -------------------------------------------------------------------------------------------------


def chain() -> nn.Sequential:
    """Two convolutions with batch norm; the last layer, '7', is the output."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()


def images() -> torch.Tensor:
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def split(count: int = 16, channels: int = 3) -> Split:
    return Split(torch.zeros(count, channels, 8, 8, dtype=torch.uint8), torch.arange(count) % 2)


def dataset() -> Dataset:
    return Dataset("small", split(), split(), split(), ("a", "b"))


# ---- what is wrong -------------------------------------------------------------------------------------------------


def plain_chain() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def nested() -> torch.Tensor:
    return torch.nested.nested_tensor([torch.rand(2, 3), torch.rand(1, 3)])


def with_nested_weight() -> nn.Module:
    model = chain()
    model[7].weight = nn.Parameter(nested())
    return model


@functools.cache
def exported() -> nn.Module:
    return torch.export.export(chain(), (images(),)).module()


def quantized() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 2))
    return torch.ao.quantization.quantize_dynamic(model.eval(), {nn.Linear})


def functional() -> nn.Module:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(8, 3, 3, 3))

        def forward(self, x):
            return torch.relu(nn.functional.conv2d(x, self.weight)).mean((2, 3))

    return Functional()


def only_output() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192), nn.Linear(192, 2)).eval()


def other_channels() -> pruning.Channels:
    return pruning.follow(plain_chain(), images())


def loader() -> DataLoader:
    return DataLoader(TensorDataset(images(), torch.arange(2)), batch_size=2)


NO_MODULES = {
    "none": None,
    "text": "resnet",
    "number": 3,
    "class": nn.Linear,
    "layers": Made(lambda: list(chain())),
    "weights": Made(lambda: dict(chain().state_dict())),
    "function": chain,
    "tensor": Made(images),
}
MODELS = {
    **NO_MODULES,
    "meta": (Made(lambda: chain().to("meta")), "model.*meta.*Build the model"),
    "lazy": (
        Made(lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3))),
        "model.*lazy",
    ),
    "nested": (Made(with_nested_weight), "'7.weight' of the model is a nested"),
    "parallel": (Made(lambda: nn.DataParallel(chain())), r"model is a DataParallel.*Pass .*model\.module"),
    "compiled": (Made(lambda: torch.compile(chain())), r"model is .*torch\.compile.*Pass .*model\._orig_mod"),
    "scripted": (Made(lambda: torch.jit.script(chain())), "model is .*TorchScript.*Pass .*scripted"),
}
WITHOUT_CHANNELS = {
    "exported": (Made(exported), "nothing can be removed from this model|no batch norm"),
    "quantized": (Made(quantized), "nothing can be removed from this model|no batch norm"),
    "functional": (Made(functional), "nothing can be removed from this model|no batch norm"),
    "only output": (Made(only_output), "nothing can be removed from this model.*'2'.*output"),
}
WITHOUT_PARAMETERS = {
    "without parameters": Made(lambda: nn.Sequential(nn.Flatten())),
    "quantized": Made(quantized),
    "functional": (Made(functional), "batch norm"),
}
EXAMPLES = {
    "list": [[1.0]],
    "text": "image",
    "number": 3,
    "class": torch.Tensor,
    "numpy": np.ones((2, 3, 8, 8), dtype=np.float32),
    "shape": [2, 3, 8, 8],
    "loader": Made(loader),
    "scalar": torch.tensor(1.0),
    "empty": torch.ones(0, 3, 8, 8),
    "empty tuple": Made(tuple),
    "empty dict": Made(dict),
    "texts": Made(lambda: ("image", "label", 3)),
    "meta": torch.ones(2, 3, 8, 8, device="meta"),
    "nested": Made(nested),
    "bytes": torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
    "double": torch.zeros(2, 3, 8, 8, dtype=torch.float64),
    "channels": torch.ones(2, 1, 8, 8),
    "image and label": Made(lambda: (images(), torch.arange(2), 3)),
    "another name": Made(lambda: {"pixels": images()}),
    "of another": (Made(other_channels), "model.*Follow it again|example is a Channels"),
}
NORMS = {
    "none": None,
    "text": "bn1",
    "class": nn.BatchNorm2d,
    "convolution": Made(nn.Conv2d, 3, 4, 1),
    "tensor": torch.ones(3),
    "without gamma": (Made(functools.partial(nn.BatchNorm2d, affine=False), 3), "batch norm"),
    "meta": (Made(functools.partial(nn.BatchNorm2d, device="meta"), 3), "gamma.*meta"),
    "lazy": (Made(nn.LazyBatchNorm2d), "gamma has no shape yet"),
    "nan": (Made(lambda: nan_norm()), "gamma"),
}
DATASETS = {
    "none": None,
    "text": "cifar10",
    "path": Path("data"),
    "split": Made(split),
    "tensor": Made(images),
    "mapping": {"train": None},
    "class": Dataset,
    "loader": Made(loader),
    "of gray images": (
        Made(lambda: Dataset("gray", split(16, 1), split(16, 1), split(16, 1), ("a", "b"))),
        "model",
    ),
    "without validation": (
        Made(lambda: Dataset("small", split(), split(0), split(), ("a", "b"))),
        "scoring_images.*validation",
    ),
}


def nan_norm() -> nn.Module:
    norm = nn.BatchNorm2d(3)
    norm.weight.data.fill_(torch.nan)
    return norm
