"""What the functions of quantization must refuse, by kind of argument; and the small things that they take.

Quantized networks are made once for all tests: that none is changed is tested with each row.
"""

import functools
import tempfile
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from course_lib import quantization as q
from tests.pruning.bad_values import MODELS as OF_PRUNING
from tests.pruning.bad_values import NO_MODULES, Made, nested
from tests.quantization.onnx.files import linear_file, written

NAN, INF = float("nan"), float("inf")

# ---- what is right -------------------------------------------------------------------------------------------------


def network(channels: int = 3, classes: int = 2) -> nn.Sequential:
    """Layers '0' and '3' are a pair that can be equalized; '5' gives the logits."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(64, classes)).eval()


def images(channels: int = 3) -> torch.Tensor:
    return torch.rand(2, channels, 8, 8, generator=torch.Generator().manual_seed(0))


def ranges() -> dict[str, tuple[float, float]]:
    return {"images": (0.0, 1.0), "0": (0.0, 2.0), "3": (-1.0, 1.0), "logits": (-1.0, 1.0)}


@functools.cache
def simulated(**options) -> q.QuantizedNetwork:
    return q.quantize_model(network(), ranges(), **options)


@functools.cache
def prepared(**options) -> q.PreparedNetwork:
    return q.prepare(network(), ranges(), **options)


@functools.cache
def integers() -> q.IntegerNetwork:
    return q.to_integer(simulated())


def histogram(bins: int = 256) -> q.Histogram:
    result = q.Histogram(bins)
    result.update(torch.linspace(-1, 3, 1000))
    return result


def params(**changes) -> q.QuantParams:
    fields = {"scale": torch.tensor(0.5), "zero_point": torch.tensor(0, dtype=torch.int32), "bits": 8}
    return q.QuantParams(**{**fields, "signed": True, **changes})


def per_channel(axis: int = 0, count: int = 4) -> q.QuantParams:
    return params(
        scale=torch.ones(count),
        zero_point=torch.zeros(count, dtype=torch.int32),
        symmetric=True,
        axis=axis,
    )


def codebook(*shape: int) -> q.Codebook:
    return q.cluster(torch.rand(shape, generator=torch.Generator().manual_seed(0)), bits=2)


# ---- numbers, flags and names --------------------------------------------------------------------------------------

NO_FLAG = {"none": None, "number": 1, "text": "yes", "tensor": torch.tensor(True), "list": [True]}
NO_COUNT = {"none": None, "text": "2", "float": 1.5, "nan": NAN, "negative": -1, "bool": True, "list": [1]}
NO_SIZE = {**NO_COUNT, "zero": 0}
NO_BITS = {**NO_COUNT, "one": 1, "too many": 17, "tensor": torch.tensor(8)}
NO_NUMBER = {
    "none": None,
    "text": "1",
    "nan": NAN,
    "infinite": INF,
    "bool": True,
    "list": [1.0],
    "complex": 1j,
}
NO_POSITIVE = {**NO_NUMBER, "zero": 0.0, "minus zero": -0.0, "negative": -0.5}
NO_NAME = {"none": None, "number": 3, "unknown": "kl", "list": ["max"], "case": "MAX"}
NO_PERCENTILE = {**NO_POSITIVE, "share": (0.9999, "percentile.*99.99"), "above": 100.5}
NO_WINDOW = {
    **{name: value for name, value in NO_SIZE.items() if name != "list"},
    "three": [1, 1, 1],
    "empty": [],
    "float inside": [1, 1.5],
    "mapping": {1: 1},
}
NO_PADDING = {name: value for name, value in NO_WINDOW.items() if name != "zero"}

# ---- tensors -------------------------------------------------------------------------------------------------------

NO_TENSOR = {
    "none": None,
    "text": "weight",
    "number": 0.5,
    "list": [0.5, 1.0],
    "numpy": np.ones((2, 2), dtype=np.float32),
    "class": torch.Tensor,
    "layer": Made(nn.ReLU),
    "sparse": Made(lambda: torch.eye(4).to_sparse()),
    "nested": Made(nested),
    "meta": Made(lambda: torch.ones(4, 4, device="meta")),
}
NO_REALS = {
    **NO_TENSOR,
    "int64": torch.ones(4, 3, dtype=torch.int64),
    "uint8": torch.ones(4, 3, dtype=torch.uint8),
    "bool": torch.ones(4, 3, dtype=torch.bool),
    "complex": torch.ones(4, 3, dtype=torch.complex64),
    "quantized": Made(lambda: torch.quantize_per_tensor(torch.ones(4, 3), 0.1, 0, torch.qint8)),
}
NOT_NAN = {"nan": torch.full((4, 3), NAN)}
NOT_INFINITE = {"infinite": torch.full((4, 3), -INF)}
EMPTY = {"empty": torch.ones(0, 3)}
NO_FINITE = {**NO_REALS, **NOT_NAN, **NOT_INFINITE, **EMPTY}
NO_INTEGERS = {
    **NO_TENSOR,
    "sparse": Made(lambda: torch.eye(4).to(torch.int8).to_sparse()),
    "meta": Made(lambda: torch.ones(1, 1, 2, 2, device="meta").to(torch.int8)),
    "float32": torch.ones(4, 3),
    "float16": torch.ones(4, 3, dtype=torch.float16),
    "float64": torch.ones(4, 3, dtype=torch.float64),
    "bool": torch.ones(4, 3, dtype=torch.bool),
    "complex": torch.ones(4, 3, dtype=torch.complex64),
    "nan": torch.full((4, 3), NAN),
}


def no_integers(shape: tuple[int, ...]) -> dict[str, object]:
    """Instead of int8 integers of this shape."""
    return {
        **NO_INTEGERS,
        "int64": torch.ones(shape, dtype=torch.int64),
        "uint8": torch.ones(shape, dtype=torch.uint8),
        "empty": torch.ones((0, *shape[1:]), dtype=torch.int8),
        "too small": (torch.full(shape, -129, dtype=torch.int16), ""),
    }


NO_PARAMS = {
    "none": None,
    "text": "int8",
    "number": 0.5,
    "pair": Made(lambda: (0.5, 0)),
    "mapping": {"scale": 0.5},
    "class": q.QuantParams,
    "tensor": torch.tensor(0.5),
}
NO_PARAMS_OF_ONE_SCALE = {**NO_PARAMS, "channels": (Made(per_channel), "axis 0")}

# ---- images, ranges, histograms ------------------------------------------------------------------------------------

NO_NUMBERS = {  # what a quantized network does not take
    **{name: value for name, value in NO_REALS.items() if name != "quantized"},
    "float64": torch.rand(2, 3, 8, 8, dtype=torch.float64),
    "float16": torch.rand(2, 3, 8, 8).half(),
    "bytes": torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
}
NO_IMAGES = {
    **{name: value for name, value in NO_REALS.items() if name not in ("quantized", "uint8")},
    "float64": torch.rand(2, 3, 8, 8, dtype=torch.float64),
    "float16": torch.rand(2, 3, 8, 8).half(),
    "int8": torch.zeros(2, 3, 8, 8, dtype=torch.int8),
    "empty": torch.zeros(0, 3, 8, 8),
    "vector": torch.zeros(8),
    "five axes": torch.zeros(1, 1, 3, 8, 8),
    "nan": (torch.full((2, 3, 8, 8), NAN), "images.*NaN"),
    "infinite": (torch.full((2, 3, 8, 8), INF), "images.*infinity"),
}
NO_IMAGES_OF_THE_NETWORK = {
    **NO_IMAGES,
    "channels": (torch.rand(2, 1, 8, 8), r"\[2, 1, 8, 8\]"),
    "size": (torch.rand(2, 3, 9, 9), r"\[2, 3, 9, 9\]"),
}
NO_RANGES = {
    "none": None,
    "text": "max",
    "list": [(0, 1)],
    "number": 3,
    "empty": ({}, "ranges lack"),
    "lacks one": (Made(lambda: {k: v for k, v in ranges().items() if k != "3"}), "ranges lack.*'3'"),
    "of another": (Made(lambda: {**ranges(), "conv1": (0, 1)}), "'conv1'.*Known"),
    "number for a name": (Made(lambda: {**ranges(), 3: (0, 1)}), "tensor 3.*Known"),
    "histograms": (Made(lambda: dict.fromkeys(ranges(), histogram())), "'images'.*Histogram"),
    **{
        f"range {name}": (Made(lambda value=value: {**ranges(), "3": value}), "'3'")
        for name, value in {
            "none": None,
            "number": 1.0,
            "text": "01",
            "three": (0, 1, 2),
            "empty": (),
            "nan": (NAN, 1),
            "infinite": (0, INF),
            "beyond float32": (0, 1e39),
            "texts": ("0", "1"),
            "bools": (False, True),
            "nothing": (None, 1),
            "swapped": (1, -1),
            "tensor": torch.tensor([0.0, 1.0]),
        }.items()
    },
}
NO_KEEP = {
    "none": None,
    "text": "5",
    "number": 5,
    "numbers": ([5], "layer 5.*Known"),
    "nothing": ([None], "layer None.*Known"),
    "unknown": (["conv1"], "conv1.*Known"),
    "batch norm": (["1"], "'1'.*Known"),
    "layer": (Made(lambda: [nn.Linear(3, 4)]), "layer.*Known"),
}
NO_HISTOGRAMS = {
    "none": None,
    "list": [],
    "empty": ({}, "histograms are empty"),
    "histogram": Made(histogram),
    "ranges": (Made(ranges), "'images'.*tuple"),
    "nothing": ({"images": None}, "'images'.*None"),
    "unfilled": (Made(lambda: {"images": q.Histogram()}), "'images'.*empty"),
}

# ---- networks ------------------------------------------------------------------------------------------------------


def hooked(place: str, kind: str = "register_forward_hook") -> nn.Module:
    model = network()
    getattr(model.get_submodule(place), kind)(lambda module, *_: None)
    return model


def parametrized() -> nn.Module:
    model = network()
    parametrizations.weight_norm(model[3])
    return model


def masked() -> nn.Module:
    model = network()
    prune.random_unstructured(model[3], "weight", 0.5)
    return model


def with_weight(value: float, layer: int = 3) -> nn.Module:
    model = network()
    model[layer].weight.data.fill_(value)
    return model


def without_statistics() -> nn.Module:
    model = network()
    model[1] = nn.BatchNorm2d(4, track_running_stats=False)
    return model


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(192, 2)

    def forward(self, x):
        return self.layer(x.flatten(1)) if x.sum() > 0 else self.layer(-x.flatten(1))


class Two(Branching):
    def forward(self, x):
        return self.layer(x.flatten(1)), x


@functools.cache
def exported() -> nn.Module:
    return torch.export.export(network(), (images(),)).module()


def dynamic() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(network(), {nn.Linear})


IN_WRAPPERS = {
    **{name: value for name, value in OF_PRUNING.items() if name not in ("compiled", "parallel", "scripted")},
    "parallel": (Made(lambda: nn.DataParallel(network())), r"model is a DataParallel.*model\.module"),
    "compiled": (Made(lambda: torch.compile(network())), r"model is .*torch\.compile.*model\._orig_mod"),
    "compiled layer": (
        Made(lambda: nn.Sequential(torch.compile(nn.Flatten()), nn.Linear(192, 2))),
        r"model is .*layer '0'.*torch\.compile.*_orig_mod",
    ),
    "scripted": (Made(lambda: torch.jit.script(network())), "model is .*TorchScript"),
}
OF_ANOTHER_FORM = {
    "half": (Made(lambda: network().half()), "float16.*float"),
    "bfloat16": (Made(lambda: network().bfloat16()), "bfloat16.*float"),
    "double": (Made(lambda: network().double()), "float64.*float"),
    "simulated": (Made(simulated), "model is a QuantizedNetwork"),
    "prepared": (Made(prepared), "model is a PreparedNetwork"),
    "integers": (Made(integers), "model is a IntegerNetwork"),
}
NOT_TRANSLATED = {
    "hook": (Made(hooked, "3"), "layer '3' has a hook"),
    "hook before": (Made(hooked, "3", "register_forward_pre_hook"), "layer '3' has a hook"),
    "hook on relu": (Made(hooked, "2"), "layer '2' has a hook"),
    "hook on all": (Made(hooked, ""), "model.* has a hook"),
    "parametrized": (Made(parametrized), "layer '3' has a hook, or a weight that is computed"),
    "masked": (Made(masked), "layer '3' has a hook, or a weight that is computed"),
    "without statistics": (Made(without_statistics), "batch norm '1'"),
    "branching": (Made(Branching), "torch.fx cannot trace the model"),
    "two results": (Made(Two), "something else than one tensor|gives a tuple"),
    "no layer": (Made(lambda: nn.Sequential(nn.Flatten(), nn.ReLU())), "model has no convolution"),
    "unknown layer": (
        Made(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.Softplus())),
        "'2'.*Softplus",
    ),
    "exported": (Made(exported), "integer form|cannot trace"),
    "dynamic": (Made(dynamic), "'5'.*(integer form|computed)"),
    "same layer twice": (
        Made(lambda: nn.Sequential(nn.Flatten(), *[nn.Linear(192, 192)] * 2)),
        "'1' has no integer form.*several places",
    ),
    "float constant": (Made(lambda: Constant()), "has no integer form"),
}
NO_NETWORK_OF_IMAGES = {
    "pools to two": (
        Made(
            lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 2))
        ),
        "pools",
    ),
}
NO_STEPS = {
    **IN_WRAPPERS,
    **{
        name: value
        for name, value in OF_ANOTHER_FORM.items()
        if name in ("simulated", "prepared", "integers")
    },
    **{name: NOT_TRANSLATED[name] for name in ("hook on all", "branching", "no layer", "same layer twice")},
    "batch norm": (Made(network), "'1'.*BatchNorm2d"),
}
NO_NETWORKS = {**IN_WRAPPERS, **OF_ANOTHER_FORM, **NOT_TRANSLATED}
SOME_NETWORKS = {  # where the same checks are called: one of each kind
    name: NO_NETWORKS[name]
    for name in (
        *("none", "class", "meta", "lazy", "nested", "parallel", "compiled", "scripted", "half", "simulated"),
        *("integers", "hook", "hook on all", "masked", "branching", "two results", "no layer", "dynamic"),
    )
}
NAN_WEIGHT = {"nan weight": (Made(with_weight, NAN), "'3'.*NaN")}
INFINITE_WEIGHT = {"infinite weight": (Made(with_weight, INF), "'3'.*infinity")}
OTHER_NETWORKS = {
    "other classes": (Made(network, 3, 5), "model has other layers|not built like"),
    "other network": (
        Made(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 2))),
        "model has other layers|not built like",
    ),
}
NO_QUANTIZED = {
    **NO_MODULES,
    "float": Made(network),
    "class": q.QuantizedNetwork,
    "parallel": Made(lambda: nn.DataParallel(simulated())),
}


class Constant(Branching):
    def forward(self, x):
        return self.layer(x.flatten(1)) + 1.5


# ---- files ---------------------------------------------------------------------------------------------------------


def folder() -> Path:
    return Path(tempfile.mkdtemp())


def filled(content: bytes) -> Path:
    path = folder() / "file"
    path.write_bytes(content)
    return path


@functools.cache
def saved_bytes() -> bytes:
    return q.save(simulated(), folder() / "small.safetensors").read_bytes()


@functools.cache
def onnx_file() -> Path:
    """Takes [N, 1, 1, 2]."""
    return linear_file(folder() / "linear.onnx")


def saved() -> Path:
    return filled(saved_bytes())


def flipped() -> Path:
    content = bytearray(saved_bytes())
    content[-1] ^= 1
    return filled(bytes(content))


def other_tensors() -> Path:
    return filled(safetensors.torch.save({"weight": torch.ones(2)}))


NO_PATH = {
    "none": None,
    "number": 3,
    "bytes": b"small",
    "bool": True,
    "list": ["small"],
    "nul": "a\0b",
}
NO_TARGET = {**NO_PATH, "folder": Made(folder), "empty": ("", "'.'")}
NO_SAVED_FILE = {
    **NO_TARGET,
    "missing": (Made(lambda: folder() / "small.safetensors"), "missing"),
    "missing folder": (Made(lambda: folder() / "no" / "small.safetensors"), "missing"),
    "empty file": (Made(filled, b""), "no file of a quantized network"),
    "text file": (Made(filled, b"pickled" * 9), "no file of a quantized network"),
    "huge header": (Made(filled, b"\xff" * 16), "no file of a quantized network"),
    "truncated": (Made(lambda: filled(saved_bytes()[:-9])), "no file of a quantized network"),
    "truncated header": (Made(lambda: filled(saved_bytes()[:99])), "no file of a quantized network"),
    "flipped": (Made(flipped), "damaged"),
    "other tensors": (Made(other_tensors), "no record of a quantized network"),
    "onnx": (Made(onnx_file), "no file of a quantized network"),
}


def two_inputs() -> Path:
    return written(folder() / "integers.onnx", [("Identity", ["images"], ["y"], {})], kind=6)


def without_layers() -> Path:
    return written(folder() / "relu.onnx", [("Relu", ["images"], ["y"], {})])


@functools.cache
def quantized_file() -> Path:
    ranges = {"images": (0, 1), "x": (0, 1), "y": (-1, 1)}
    return q.onnx.quantize(onnx_file(), folder() / "int8.onnx", ranges=ranges)


NO_ONNX_FILE = {
    **NO_PATH,
    "empty": "",
    "folder": Made(folder),
    "below a file": __file__ + "/small",
    "missing": (Made(lambda: folder() / "small.onnx"), "missing"),
    "empty file": (Made(filled, b""), "no ONNX file"),
    "text file": (Made(filled, b"pickled" * 9), "no ONNX file"),
    "truncated": (Made(lambda: filled(onnx_file().read_bytes()[:-20])), "no ONNX file"),
    "saved": (Made(saved), "no ONNX file"),
    "of integers": (Made(two_inputs), "tensor\\(int32\\)|no layer"),
}
NO_FLOAT_FILE = {
    **NO_ONNX_FILE,
    "without layers": (Made(without_layers), "has no layer"),
    "old": (Made(lambda: linear_file(folder() / "old.onnx", opset=12)), "opset 12"),
    "quantized": (Made(quantized_file), "quantized already"),
}
