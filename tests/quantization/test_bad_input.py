"""Every public function says of bad input what it was, what is accepted and what to do, and leaves all as it was.

A row of the table is a function, one argument, a bad value for it, and words that the message must hold: the name of
the argument, of the tensor or of the layer, unless others are given. Other arguments are those of a call that works.
"""

import functools
import inspect
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parameter import is_lazy

import course_lib.quantization.onnx
import course_lib.quantization.translate  # noqa: F401
from course_lib import quantization as q
from course_lib.quantization import integer
from tests.quantization import bad_values as bad
from tests.quantization.bad_values import INF, NAN, Made

pytestmark = [
    pytest.mark.bad_input,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"),
]

I8 = functools.partial(torch.ones, dtype=torch.int8)
I32 = functools.partial(torch.ones, dtype=torch.int32)


class Row(NamedTuple):
    function: str
    argument: str
    case: str
    value: Callable[[], Any]  # made anew for each test
    words: str = ""  # a regular expression; the name of the argument where empty
    others: Mapping[str, Callable[[], Any]] = MappingProxyType({})

    def __str__(self) -> str:
        return f"{self.function}-{self.argument}-{self.case}"


# ---- calls that work -----------------------------------------------------------------------------------------------


def given(**values: Any) -> dict[str, Callable[[], Any]]:
    """Arguments, each made anew; a function is called, and what is put into a tuple is not."""
    return {
        name: value.make if isinstance(value, Made) else functools.partial(lambda v: v, value)
        for name, value in values.items()
    }


NETWORK, IMAGES, RANGES = Made(bad.network), Made(bad.images), Made(bad.ranges)
SIMULATED, PARAMS = Made(bad.simulated), Made(bad.params)
X = torch.tensor([[0.5, -1.0, 2.0]] * 4)
SCALES = {"x_params": PARAMS, "y_params": PARAMS}
WINDOW = {"stride": 1, "padding": 0}
OF_LAYER = {"bias": I32(2), "x_params": PARAMS, "weight_params": PARAMS}
CONVOLUTION = {**OF_LAYER, **WINDOW, "dilation": 1, "groups": 1}
TWO = {"a": I8(2, 2), "b": I8(2, 2), "a_params": PARAMS, "b_params": PARAMS, "y_params": PARAMS}
AS_PLANNED = {"weight_bits": 8, "activation_bits": 8, "per_channel": True, "weight_method": "max", "keep": ()}
OF_RANGE = {"method": "mse", "bits": 8, "signed": True, "percentile": 99.9}
ONNX_IMAGES = torch.rand(2, 1, 1, 2)
ONNX_RANGES = {"images": (0.0, 1.0), "x": (0.0, 1.0), "y": (-1.0, 1.0)}

CALLS: dict[str, dict[str, Callable[[], Any]]] = {
    "QuantParams": given(
        scale=torch.ones(2),
        zero_point=torch.zeros(2, dtype=torch.int32),
        bits=8,
        signed=True,
        axis=0,
        symmetric=True,
    ),
    "choose_params": given(low=-1.0, high=1.0, bits=8, symmetric=True, signed=True, axis=None),
    "params_of": given(x=X, bits=8, symmetric=True, signed=True, axis=0, method="mse"),
    **{
        name: given(x=X, params=PARAMS)
        for name in ("quantize", "fake_quantize", "in_range", "straight_through")
    },
    "dequantize": given(q=I8(2, 2), params=PARAMS),
    "prepare": given(
        model=NETWORK,
        ranges=RANGES,
        **AS_PLANNED,
        batch_norm="kept",
        range_update="average",
        range_momentum=0.1,
    ),
    "convert": given(prepared=Made(bad.prepared)),
    "PreparedNetwork.forward": given(self=Made(bad.prepared), images=IMAGES),
    "QuantizedNetwork.forward": given(self=SIMULATED, images=IMAGES),
    "IntegerNetwork.forward": given(self=Made(bad.integers), images=IMAGES),
    "IntegerNetwork": given(simulated=SIMULATED),
    "QuantizedNetwork.load_state_dict": given(
        self=SIMULATED, state_dict=Made(lambda: bad.simulated().state_dict())
    ),
    "correct_biases": given(model=NETWORK, simulated=SIMULATED, images=IMAGES),
    "Histogram": given(bins=8),
    "Histogram.update": given(self=Made(bad.histogram), x=X),
    "Histogram.merge": given(self=Made(bad.histogram), other=Made(bad.histogram)),
    "Histogram.threshold": given(self=Made(bad.histogram), **OF_RANGE),
    "Histogram.range": given(self=Made(bad.histogram), **OF_RANGE, name="conv1"),
    "Histogram.clipped": given(self=Made(bad.histogram), threshold=1.0, bits=8, signed=True),
    "Codebook": given(levels=torch.tensor([0.0, 1.0]), indices=torch.ones(3, dtype=torch.uint8), bits=1),
    "Codebook.size": given(self=Made(bad.codebook, 4, 3), huffman=True),
    "cluster": given(weight=X, bits=2),
    "cluster_layers": given(model=NETWORK, bits={"0": 2}),
    "look_up": given(model=NETWORK, codebooks=Made(lambda: {"3": bad.codebook(4, 4, 3, 3)})),
    "equalize": given(model=NETWORK, sweeps=2),
    "find_pairs": given(model=NETWORK),
    "equalizing_scales": given(first=X, second=torch.rand(2, 4), groups=1),
    "gptq": given(
        weight=X,
        hessian=torch.eye(3, dtype=torch.float64)[None],
        params=Made(bad.per_channel),
        dampening=0.01,
    ),
    "input_hessian": given(
        x=torch.rand(2, 3, 8, 8), weight=torch.rand(4, 3, 3, 3), **WINDOW, dilation=1, groups=1
    ),
    "output_error": given(weight=X, rounded=X, hessian=torch.eye(3, dtype=torch.float64)[None]),
    "round_network": given(model=NETWORK, simulated=SIMULATED, images=IMAGES, dampening=0.01),
    "save": given(network=SIMULATED, path="small.safetensors"),
    "load": given(path=Made(bad.saved), model=NETWORK),
    "execute": given(
        steps=Made(lambda: bad.simulated().steps),
        compute=Made(lambda: bad.simulated().compute),
        images=IMAGES,
        batch_size=1,
    ),
    "calibrate": given(
        histograms=Made(lambda: {"images": bad.histogram()}), method="mse", bits=8, percentile=99.9
    ),
    "collect": given(model=NETWORK, images=IMAGES, bins=64, batch_size=1),
    "fold_batch_norm": given(model=NETWORK, example=IMAGES),
    "quantize_model": given(model=NETWORK, ranges=RANGES, **AS_PLANNED),
    "to_integer": given(simulated=SIMULATED),
    "translate.translate": given(model=Made(lambda: q.fold_batch_norm(bad.network(), bad.images()))),
    "integer.conv2d": given(x=I8(2, 3, 8, 8), weight=I8(2, 3, 3, 3), **CONVOLUTION, y_params=PARAMS),
    "integer.conv2d_accumulator": given(x=I8(2, 3, 8, 8), weight=I8(2, 3, 3, 3), **CONVOLUTION),
    "integer.conv1d": given(x=I8(2, 3, 8), weight=I8(2, 3, 3), **CONVOLUTION, y_params=PARAMS),
    "integer.conv_transpose2d": given(
        x=I8(2, 3, 8, 8), weight=I8(3, 2, 3, 3), **CONVOLUTION, y_params=PARAMS, output_padding=0
    ),
    "integer.linear": given(x=I8(4, 3), weight=I8(2, 3), **OF_LAYER, y_params=PARAMS),
    "integer.linear_accumulator": given(x=I8(4, 3), weight=I8(2, 3), **OF_LAYER),
    "integer.quantize_bias": given(bias=torch.ones(4), x_params=PARAMS, weight_params=PARAMS),
    "integer.activation": given(x=I8(2, 2), name="elu", **SCALES),
    "integer.lookup": given(x=I8(2, 2), entries=I8(256), x_params=PARAMS),
    "integer.table": given(function=(torch.square), **SCALES),
    "integer.add": given(**TWO),
    "integer.mul": given(**TWO),
    "integer.sub": given(**TWO),
    "integer.relu": given(x=I8(2, 2), params=PARAMS),
    "integer.avg_pool2d": given(x=I8(2, 3, 8, 8), kernel_size=2, **WINDOW, **SCALES),
    "integer.max_pool2d": given(x=I8(2, 3, 8, 8), kernel_size=2, **WINDOW, ceil_mode=True),
    "integer.global_avg_pool": given(x=I8(2, 3, 8, 8), **SCALES),
    "integer.output_multiplier": given(**SCALES, weight_params=PARAMS),
    "integer.requantize": given(accumulator=I32(2, 3), multiplier=torch.ones(3), y_params=PARAMS),
    "integer.requantize_fixed_point": given(accumulator=I32(2, 3), multiplier=torch.ones(3), y_params=PARAMS),
    "integer.concat": given(
        inputs=(I8(2, 2), I8(2, 3)), x_params=Made(lambda: [bad.params()] * 2), y_params=PARAMS, dim=1
    ),
    "integer.pad": given(x=I8(2, 2), pad=(1, 1), **SCALES, value=0.5),
    "onnx.export": given(model=NETWORK, example=IMAGES, path="small.onnx"),
    "onnx.collect": given(path=Made(bad.onnx_file), images=ONNX_IMAGES, bins=64, batch_size=1),
    "onnx.quantize": given(
        path=Made(bad.onnx_file),
        target="small.onnx",
        images=ONNX_IMAGES,
        method="mse",
        percentile=99.9,
        ranges=None,
        names=None,
        reduce_range=False,
        keep=(),
    ),
    "onnx.run": given(path=Made(bad.onnx_file), images=ONNX_IMAGES, batch_size=1),
    "onnx.latency": given(path=Made(bad.onnx_file), images=ONNX_IMAGES, threads=1, min_seconds=1e-9),
}
TESTED_ELSEWHERE = {"onnx.export"}  # its call that works takes seconds: tests/quantization/onnx


def function_of(name: str) -> Callable:
    if name == "integer.concat":
        return lambda inputs, **options: integer.concat(*inputs, **options)
    return functools.reduce(getattr, name.split("."), q)


# ---- the table -----------------------------------------------------------------------------------------------------


def each(functions: str, argument: str, values: dict[str, Any], **fixed: Any) -> Iterator[Row]:
    """A row for each function and value; a value is what it is, or (value, words), and what is Made is made anew."""
    for function in functions.split():
        for case, entry in values.items():
            pair = isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[1], str)
            value, words = entry if pair else (entry, "")
            make = value.make if isinstance(value, Made) else functools.partial(lambda v: v, value)
            yield Row(function, argument, case, make, words, **fixed)


CHANNELS = {  # of parameters for four, where there are three
    "other channels": (Made(bad.per_channel, 1, 5), r"\[4, 3\].*5 channels"),
    "no such axis": (Made(bad.per_channel, 3, 4), r"\[4, 3\].*axis 3"),
}
BOUNDS = {
    "none": None,
    "text": "1",
    "bool": True,
    "nan": NAN,
    "infinite": INF,
    "beyond float32": 1e39,
    "list": [1.0],
    "tensor nan": torch.tensor(NAN),
    "integers": torch.tensor(1),
    "matrix": torch.ones(2, 2),
    "empty": torch.ones(0),
    "without axis": (torch.ones(2), "axis"),
    "sparse": Made(lambda: torch.eye(4).to_sparse()),
    "meta": Made(lambda: torch.ones((), device="meta")),
    "nested": Made(bad.nested),
}
AXES = {"text": "0", "float": 0.0, "negative": -1, "bool": False, "list": [0]}
AFFINE = [
    *each(
        "QuantParams",
        "scale",
        {
            **bad.NO_TENSOR,
            "class": (torch.Tensor, "scale has type"),
            "float64": torch.ones(2, dtype=torch.float64),
            "float16": torch.ones(2, dtype=torch.float16),
            "zero": torch.zeros(2),
            "negative": -torch.ones(2),
            "nan": torch.full((2,), NAN),
            "infinite": torch.full((2,), INF),
            "empty": torch.ones(0),
            "matrix": torch.ones(2, 2),
            "scalar": torch.tensor(1.0),
            "three": (torch.ones(3), "zero_point.*scale"),
        },
    ),
    *each(
        "QuantParams",
        "zero_point",
        {
            **bad.NO_TENSOR,
            "class": (torch.Tensor, "zero_point has type"),
            "int64": torch.zeros(2, dtype=torch.int64),
            "float": torch.zeros(2),
            "bool": torch.zeros(2, dtype=torch.bool),
            "too large": I32(2) * 128,
            "not symmetric": I32(2),
            "three": I32(3),
        },
    ),
    *each("QuantParams choose_params params_of", "bits", bad.NO_BITS),
    *each("QuantParams choose_params params_of", "symmetric", bad.NO_FLAG),
    *each("QuantParams", "signed", bad.NO_FLAG),
    *each("choose_params params_of", "signed", {k: v for k, v in bad.NO_FLAG.items() if k != "none"}),
    *each("choose_params", "signed", {"negative numbers": (False, "low is -1.*signed=True")}),
    *each("choose_params params_of QuantParams", "axis", AXES),
    *each("QuantParams", "axis", {"none": (None, "axis is None")}),
    *each("choose_params", "axis", {"of numbers": 0}),
    *each("params_of", "axis", {"no such axis": 2}),
    *each("choose_params", "low", {**BOUNDS, "above high": 2.0}),
    *each("choose_params", "high", {**BOUNDS, "below low": -2.0}),
    *each("params_of", "x", {**bad.NO_FINITE, "scalar": (torch.tensor(1.0), "axis")}),
    *each("params_of", "method", bad.NO_NAME),
    *each("quantize fake_quantize in_range straight_through", "x", {**bad.NO_REALS, **bad.NOT_NAN}),
    *each("quantize fake_quantize in_range straight_through dequantize", "params", bad.NO_PARAMS),
    *each("quantize fake_quantize in_range straight_through", "params", CHANNELS),
    *each("dequantize", "q", {**bad.NO_INTEGERS, "too large": torch.tensor([128])}),
    *each("dequantize", "params", {"channels": (Made(bad.per_channel, 0, 5), r"\[2, 2\].*5 channels")}),
]
PLANNING = "quantize_model prepare"
PLANS = [
    *each(
        f"{PLANNING} collect",
        "model",
        bad.NO_NETWORKS,
    ),
    *each("equalize find_pairs correct_biases round_network load", "model", bad.SOME_NETWORKS),
    *each("translate.translate", "model", bad.NO_STEPS),
    *each(PLANNING, "model", bad.NAN_WEIGHT | bad.INFINITE_WEIGHT),
    *each("collect", "model", bad.NAN_WEIGHT | bad.NO_NETWORK_OF_IMAGES),
    *each("equalize", "model", bad.NAN_WEIGHT | bad.INFINITE_WEIGHT),
    *each("round_network correct_biases load", "model", bad.OTHER_NETWORKS),
    *each("round_network", "model", bad.NAN_WEIGHT | bad.INFINITE_WEIGHT),
    *each("correct_biases", "model", bad.NAN_WEIGHT | bad.INFINITE_WEIGHT),
    *each(
        "equalize",
        "model",
        {
            "no pair": (
                Made(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 2))),
                "no two layers of the model",
            )
        },
    ),
    *each("fold_batch_norm", "model", bad.IN_WRAPPERS),
    *each(
        "fold_batch_norm",
        "model",
        {
            name: bad.NOT_TRANSLATED[name]
            for name in (
                "hook",
                "parametrized",
                "masked",
                "without statistics",
                "branching",
                "two results",
            )
        },
    ),
    *each(PLANNING, "ranges", bad.NO_RANGES),
    *each(PLANNING, "weight_bits", bad.NO_BITS),
    *each(PLANNING, "activation_bits", bad.NO_BITS),
    *each(PLANNING, "per_channel", bad.NO_FLAG),
    *each(PLANNING, "weight_method", bad.NO_NAME),
    *each(PLANNING, "keep", bad.NO_KEEP),
    *each("prepare", "batch_norm", {**bad.NO_NAME, "bool": True}),
    *each("prepare", "range_update", {**bad.NO_NAME, "bool": True}),
    *each("prepare", "range_momentum", {**bad.NO_POSITIVE, "above one": 1.5}),
    *each("convert", "prepared", {**bad.NO_QUANTIZED, "simulated": SIMULATED}),
    *each("to_integer IntegerNetwork", "simulated", {**bad.NO_QUANTIZED, "prepared": Made(bad.prepared)}),
    *each("correct_biases round_network", "simulated", {**bad.NO_QUANTIZED, "prepared": Made(bad.prepared)}),
    *each(
        "to_integer IntegerNetwork",
        "simulated",
        {
            "weights of 9 bits": (Made(lambda: bad.simulated(weight_bits=9)), "'0' has 9 bits"),
            "activations of 9 bits": (Made(lambda: bad.simulated(activation_bits=9)), "'images' has 9 bits"),
        },
    ),
    *each("correct_biases round_network collect", "images", bad.NO_IMAGES_OF_THE_NETWORK),
    *each("round_network gptq", "dampening", bad.NO_POSITIVE),
    *each("collect", "bins", {**bad.NO_SIZE, "one": 1}),
    *each("collect", "batch_size", bad.NO_SIZE),
    *each(
        "fold_batch_norm",
        "example",
        {
            **bad.NO_TENSOR,
            "double": (torch.rand(2, 3, 8, 8, dtype=torch.float64), "float64"),
            "half": (torch.rand(2, 3, 8, 8).half(), "float16"),
            "channels": (torch.rand(2, 1, 8, 8), r"\[2, 1, 8, 8\]"),
            "empty": torch.rand(0, 3, 8, 8),
            "scalar": torch.tensor(1.0),
        },
    ),
    *each("equalize", "sweeps", bad.NO_SIZE),
    *each("calibrate", "histograms", bad.NO_HISTOGRAMS),
]
NETWORKS = "QuantizedNetwork.forward PreparedNetwork.forward IntegerNetwork.forward"
RUNNING = [
    *each(NETWORKS, "images", bad.NO_NUMBERS),
    *each(
        NETWORKS,
        "images",
        {
            "channels": (torch.rand(2, 1, 8, 8), r"'0'.*1, 8, 8\]"),
            "size": (torch.rand(2, 3, 9, 9), "'5'.* 100]"),
            "vector": (torch.rand(8), r"'0'.*\[[18]\]"),
        },
    ),
    *each("IntegerNetwork.forward", "images", {"empty": (torch.rand(0, 3, 8, 8), r"\[0, 3, 8, 8\]")}),
    *each(
        "IntegerNetwork.forward PreparedNetwork.forward",
        "images",
        {"nan": (torch.full((2, 3, 8, 8), NAN), "tensor 'images'.*NaN")},
    ),
    *each(
        "QuantizedNetwork.load_state_dict",
        "state_dict",
        {
            "none": None,
            "list": [],
            "text": "small.safetensors",
            "empty": ({}, "state has no entry"),
            "of float": (Made(lambda: bad.network().state_dict()), "state has no entry"),
            "of integers": (Made(lambda: bad.integers().state_dict()), "state is that of another network"),
            "of other bits": (
                Made(lambda: bad.simulated(weight_bits=4).state_dict()),
                "state is that of another",
            ),
            "scales lost": (
                Made(lambda: bad.simulated().state_dict() | {"_extra_state": None}),
                "scales in the state are None",
            ),
            "scales damaged": (
                Made(
                    lambda: bad.simulated().state_dict() | {"_extra_state": torch.ones(9, dtype=torch.uint8)}
                ),
                "scales in the state are damaged",
            ),
            "weight lost": (
                Made(lambda: bad.simulated().state_dict() | {"network.0.weight": None}),
                "network.0.weight",
            ),
        },
    ),
    *each(
        "execute",
        "steps",
        {"none": None, "text": "steps", "empty": [], "network": NETWORK, "names": ["0"], "nothing": [None]},
    ),
    *each("execute", "compute", {"none": None, "text": "relu", "number": 3}),
    *each("execute", "images", bad.NO_TENSOR),
    *each("execute", "batch_size", {k: v for k, v in bad.NO_SIZE.items() if k != "none"}),
]
CALIBRATION = [
    *each("Histogram", "bins", {**bad.NO_SIZE, "one": 1}),
    *each("Histogram.update", "x", {**bad.NO_REALS, **bad.NOT_NAN, **bad.NOT_INFINITE}),
    *each("Histogram.update", "x", {"beyond float32": torch.full((2,), 1e39, dtype=torch.float64)}),
    *each(
        "Histogram.merge", "other", {"none": None, "text": "x", "tensor": torch.ones(3), "class": q.Histogram}
    ),
    *each("Histogram.merge", "other", {"other bins": (Made(bad.histogram, 128), "128 bins")}),
    *each("Histogram.threshold Histogram.range calibrate onnx.quantize", "method", bad.NO_NAME),
    *each("Histogram.threshold Histogram.range Histogram.clipped calibrate", "bits", bad.NO_BITS),
    *each("Histogram.threshold Histogram.clipped", "signed", bad.NO_FLAG),
    *each("Histogram.range", "signed", {k: v for k, v in bad.NO_FLAG.items() if k != "none"}),
    *each("Histogram.threshold Histogram.range calibrate onnx.quantize", "percentile", bad.NO_PERCENTILE),
    *each("Histogram.range", "name", {"number": 3, "list": ["conv1"]}),
    *each("Histogram.clipped", "threshold", {**bad.NO_NUMBER, "negative": -0.1}),
    *each(
        "calibrate",
        "bits",
        {"too many for the bins": (16, "bins")},
        others=given(histograms=Made(lambda: {"images": bad.histogram()}), method="entropy", percentile=99.9),
    ),
    *each(
        "Histogram.threshold Histogram.range Histogram.clipped",
        "self",
        {"empty": (Made(q.Histogram), "empty")},
    ),
]
NO_BITS_OF_LAYERS = {
    "none": None,
    "number": 2,
    "list": ["0"],
    "unknown": ({"conv1": 2}, "conv1.*Known"),
    "number for a name": ({0: 2}, "layer 0.*Known"),
    "batch norm": ({"1": 2}, "'1'.*BatchNorm2d"),
    **{
        f"bits {name}": ({"0": value}, r"bits\['0'\]")
        for name, value in {**bad.NO_SIZE, "too many": 9}.items()
    },
}
OF_LAYERS = {
    **bad.NO_MODULES,
    "meta": (Made(lambda: bad.network().to("meta")), "'3'.*meta"),
    "masked": (Made(bad.masked), "'3'"),
    "parametrized": (Made(bad.parametrized), "'3'"),
    "half": (Made(lambda: bad.network().half()), ""),
    "nan weight": (Made(bad.with_weight, NAN), "'3'.*NaN"),
    "infinite weight": (Made(bad.with_weight, INF), "'3'.*infinity"),
    "lazy": (Made(lambda: nn.Sequential(*[nn.ReLU()] * 3, nn.LazyLinear(4))), "'3'"),
    "nested": (Made(lambda: with_nested()), "'3'"),
    "parallel": (Made(lambda: nn.DataParallel(bad.network())), "layer '3'.*module.3|model.module"),
}


def with_nested() -> nn.Module:
    model = bad.network()
    model[3].weight = nn.Parameter(bad.nested())
    return model


WEIGHTS = [
    *each("cluster", "weight", bad.NO_FINITE),
    *each("cluster", "bits", {**bad.NO_SIZE, "too many": 9}),
    *each("cluster_layers", "bits", NO_BITS_OF_LAYERS),
    *each(
        "cluster_layers",
        "model",
        {k: v for k, v in OF_LAYERS.items() if k != "half"},
        others=given(bits={"3": 2}),
    ),
    *each("look_up", "model", {k: v for k, v in OF_LAYERS.items() if k != "half"}),
    *each(
        "look_up",
        "codebooks",
        {
            "none": None,
            "list": ["0"],
            "codebook": Made(bad.codebook, 4, 3),
            "unknown": (Made(lambda: {"conv1": bad.codebook(4, 3)}), "conv1.*Known"),
            "nothing": ({"0": None}, r"codebooks\['0'\]"),
            "bits": ({"0": 2}, r"codebooks\['0'\]"),
            "of another": (
                Made(lambda: {"0": bad.codebook(4, 3)}),
                r"codebook of '0'.*\[4, 3\].*\[4, 3, 3, 3\]",
            ),
        },
    ),
    *each(
        "Codebook",
        "levels",
        {
            **bad.NO_TENSOR,
            "float64": torch.ones(2, dtype=torch.float64),
            "empty": torch.ones(0),
            "matrix": torch.ones(2, 1),
            "too many": torch.arange(3.0),
            "nan": torch.tensor([0, NAN]),
            "falling": (torch.tensor([1.0, 0.0]), r"levels are \[1, 0\]"),
        },
    ),
    *each(
        "Codebook",
        "indices",
        {
            **bad.NO_TENSOR,
            "int64": torch.ones(3, dtype=torch.int64),
            "beyond": torch.full((3,), 2, dtype=torch.uint8),
            "empty": torch.ones(0, dtype=torch.uint8),
        },
    ),
    *each("Codebook", "bits", {**bad.NO_SIZE, "too many": 9}),
    *each("Codebook.size", "huffman", bad.NO_FLAG),
    *each(
        "equalizing_scales", "first", {**bad.NO_FINITE, "vector": torch.ones(4), "channels": torch.ones(3, 2)}
    ),
    *each(
        "equalizing_scales",
        "second",
        {**bad.NO_FINITE, "vector": torch.ones(4), "channels": torch.ones(2, 3)},
    ),
    *each("equalizing_scales", "groups", {**bad.NO_SIZE, "three": 3}),
    *each(
        "gptq output_error", "weight", {**bad.NO_FINITE, "vector": torch.ones(3), "columns": torch.ones(4, 2)}
    ),
    *each("output_error", "rounded", {**bad.NO_FINITE, "shape": torch.ones(4, 2)}),
    *each(
        "gptq output_error",
        "hessian",
        {
            **bad.NO_FINITE,
            "matrix": torch.eye(3),
            "columns": torch.eye(4)[None],
            "groups": torch.stack([torch.eye(3)] * 3),
            "not square": torch.ones(1, 3, 2),
            "nan cube": torch.full((1, 3, 3), NAN),
        },
    ),
    *each("gptq", "hessian", {"not definite": (-torch.eye(3)[None], "hessian must be a sum")}),
    *each(
        "gptq",
        "params",
        {
            **bad.NO_PARAMS,
            "asymmetric": (PARAMS, "params.*symmetric=False"),
            "axis 1": (Made(bad.per_channel, 1, 3), "params.*axis=1"),
        },
    ),
    *each("gptq", "params", {"other channels": (Made(bad.per_channel, 0, 5), r"\[4, 3\].*5 channels")}),
    *each(
        "input_hessian",
        "x",
        {
            **bad.NO_FINITE,
            "vector": torch.ones(3),
            "channels": torch.ones(2, 4, 8, 8),
            "small": (torch.ones(2, 3, 2, 2), r"kernel.*\[2, 2\]"),
            "nan cube": torch.full((2, 3, 8, 8), NAN),
        },
    ),
    *each(
        "input_hessian",
        "weight",
        {
            **bad.NO_REALS,
            "vector": torch.ones(3),
            "channels": torch.ones(4, 4, 3, 3),
            "empty": torch.ones(0, 3, 3, 3),
        },
    ),
    *each("input_hessian", "stride", bad.NO_WINDOW),
    *each("input_hessian", "dilation", {**bad.NO_WINDOW, "too large": (9, "kernel")}),
    *each("input_hessian", "padding", bad.NO_PADDING),
    *each("input_hessian", "groups", {**bad.NO_SIZE, "three": 3}),
]
LAYERS4 = "integer.conv2d integer.conv2d_accumulator"
LAYERS2 = "integer.linear integer.linear_accumulator"
LAYERS = f"{LAYERS4} {LAYERS2} integer.conv1d integer.conv_transpose2d"
OUTPUTS = (
    "integer.conv2d integer.conv1d integer.conv_transpose2d integer.linear integer.activation integer.table "
    "integer.add integer.mul integer.sub integer.avg_pool2d integer.global_avg_pool integer.output_multiplier "
    "integer.requantize integer.requantize_fixed_point integer.concat integer.pad"
)
INPUTS = (
    f"{LAYERS} integer.activation integer.lookup integer.table integer.avg_pool2d integer.global_avg_pool "
    "integer.output_multiplier integer.quantize_bias integer.pad"
)
VALUES = "integer.activation integer.lookup integer.relu integer.pad"


def called(values: dict[str, Any], words: str) -> dict[str, Any]:
    """The values, each with other words for the argument, before its own if it has some."""
    pairs = {k: v if isinstance(v, tuple) else (v, "") for k, v in values.items()}
    return {case: (value, f"({words}).*{own}") for case, (value, own) in pairs.items()}


PARAMS_OF_X = called(bad.NO_PARAMS_OF_ONE_SCALE, "x_params|parameters of x")
PARAMS_OF_WEIGHT = called(bad.NO_PARAMS, "weight_params|parameters of weight")
INTEGER = [
    *each(LAYERS4, "x", {**bad.no_integers((2, 3, 8, 8)), "matrix": I8(3, 3), "channels": I8(2, 4, 8, 8)}),
    *each(LAYERS4, "x", {"small": I8(2, 3, 2, 2)}),
    *each("integer.conv1d", "x", {**bad.no_integers((2, 3, 8)), "matrix": I8(3, 3), "channels": I8(2, 4, 8)}),
    *each("integer.conv1d", "x", {"small": I8(2, 3, 2)}),
    *each("integer.conv_transpose2d", "x", {**bad.no_integers((2, 3, 8, 8)), "matrix": I8(3, 3)}),
    *each("integer.conv_transpose2d", "x", {"channels": I8(2, 4, 8, 8)}),
    *each(LAYERS2, "x", {**bad.no_integers((4, 3)), "vector": I8(3), "columns": I8(4, 4)}),
    *each(
        LAYERS4, "weight", {**bad.no_integers((2, 3, 3, 3)), "matrix": I8(3, 3), "channels": I8(2, 4, 3, 3)}
    ),
    *each("integer.conv1d", "weight", {**bad.no_integers((2, 3, 3)), "channels": I8(2, 4, 3)}),
    *each(
        "integer.conv_transpose2d", "weight", {**bad.no_integers((3, 2, 3, 3)), "channels": I8(4, 2, 3, 3)}
    ),
    *each(LAYERS2, "weight", {**bad.no_integers((2, 3)), "vector": I8(3), "columns": I8(2, 4)}),
    *each(
        LAYERS,
        "bias",
        {
            **{k: v for k, v in bad.NO_TENSOR.items() if k != "none"},
            "float": torch.ones(2),
            "int64": torch.ones(2, dtype=torch.int64),
            "shape": I32(3),
            "matrix": I32(2, 1),
        },
    ),
    *each(LAYERS, "bias", {"overflow": (torch.full((2,), 2**31 - 1, dtype=torch.int32), "sums.*2,147,48")}),
    *each(INPUTS, "x_params", PARAMS_OF_X),
    *each(
        "integer.conv2d",
        "x_params",
        {"4 bits": (Made(bad.params, bits=4), "x runs from 99 to 99")},
        others=given(x=I8(2, 3, 8, 8) * 99),
    ),
    *each(
        f"{LAYERS4} {LAYERS2}",
        "x_params",
        {"unsigned": (Made(bad.params, signed=False), "x has dtype.*int8.*uint8")},
    ),
    *each(f"{LAYERS} integer.output_multiplier integer.quantize_bias", "weight_params", PARAMS_OF_WEIGHT),
    *each(
        f"{LAYERS4} {LAYERS2}",
        "weight_params",
        {
            "axis 1": (Made(bad.per_channel, 1, 3), "weight.*axis 1"),
            "channels": (Made(bad.per_channel, 0, 3), "weight.*3 scales"),
            "unsigned": (Made(bad.params, signed=False), "weight.*int8.*uint8"),
        },
    ),
    *each(
        "integer.quantize_bias",
        "weight_params",
        {"channels": (Made(bad.per_channel, 0, 3), "bias.*3 scales")},
    ),
    *each(
        "integer.conv_transpose2d",
        "weight_params",
        {
            "axis 0": (Made(bad.per_channel, 0, 3), "weight_params.*axis 0"),
            "channels": (Made(bad.per_channel, 1, 3), "weight.*3 scales"),
        },
    ),
    *each(OUTPUTS, "y_params", {k: v for k, v in bad.NO_PARAMS_OF_ONE_SCALE.items() if k != "none"}),
    *each(OUTPUTS.replace("integer.pad", ""), "y_params", {"none": None}),
    *each(f"{LAYERS4} integer.conv_transpose2d", "stride", bad.NO_WINDOW),
    *each(f"{LAYERS4} integer.conv_transpose2d", "dilation", bad.NO_WINDOW),
    *each(f"{LAYERS4} integer.conv_transpose2d", "padding", bad.NO_PADDING),
    *each(LAYERS4, "dilation", {"too large": (9, "window")}),
    *each("integer.conv_transpose2d", "padding", {"too large": 9}),
    *each("integer.conv_transpose2d", "output_padding", {**bad.NO_PADDING, "too large": 1}),
    *each("integer.conv1d", "stride", bad.NO_WINDOW),
    *each("integer.conv1d", "dilation", bad.NO_WINDOW),
    *each("integer.conv1d", "padding", bad.NO_PADDING),
    *each(f"{LAYERS4} integer.conv1d integer.conv_transpose2d", "groups", {**bad.NO_SIZE, "two": 2}),
    *each(
        "integer.quantize_bias",
        "bias",
        {
            **bad.NO_FINITE,
            "nan vector": torch.full((4,), NAN),
            "beyond int32": (torch.full((4,), 1e10), r"bias 1e\+10.*beyond int32"),
            "scalar": torch.tensor(1.0),
        },
    ),
    *each(VALUES, "x", bad.no_integers((2, 2))),
    *each(
        "integer.relu",
        "params",
        {
            **bad.NO_PARAMS,
            "unsigned": (Made(bad.params, signed=False), "x has dtype.*int8.*uint8"),
            "channels": (Made(bad.per_channel, 0, 3), "params.*axis 0"),
        },
    ),
    *each(
        "integer.activation",
        "name",
        called({"none": None, "number": 3, "unknown": "swish", "function": torch.tanh}, "unknown activation"),
    ),
    *each("integer.activation", "alpha", bad.NO_NUMBER),
    *each("integer.activation", "beta", {"unknown": (1.0, "takes no 'beta'")}),
    *each("integer.activation", "approximate", {"unknown": "erf", "bool": True}, others=given(name="gelu")),
    *each(
        "integer.lookup",
        "entries",
        {
            **bad.NO_INTEGERS,
            "too few": I8(255),
            "matrix": I8(16, 16),
            "empty": I8(0),
        },
    ),
    *each(
        "integer.table",
        "function",
        {
            "none": None,
            "text": "tanh",
            "number": 3,
            "gives nothing": lambda x: None,
            "gives a number": lambda x: 0.5,
            "gives integers": lambda x: x.int(),
            "gives one": (lambda x: x.sum(), r"function gives the shape \[\]"),
            "gives nan": (torch.log, "function gives NaN for -64"),
            "raises": (lambda x: x @ x.expand(3, 2), "function"),
        },
    ),
    *each("integer.add integer.mul integer.sub", "a", {**bad.no_integers((2, 2)), "shape": I8(2, 3)}),
    *each("integer.add integer.mul integer.sub", "b", {**bad.no_integers((2, 2)), "shape": I8(3, 2)}),
    *each(
        "integer.add integer.mul integer.sub",
        "a_params",
        called(bad.NO_PARAMS_OF_ONE_SCALE, "parameters of a"),
    ),
    *each(
        "integer.add integer.mul integer.sub",
        "b_params",
        called(bad.NO_PARAMS_OF_ONE_SCALE, "parameters of b"),
    ),
    *each(
        "integer.add",
        "a_params",
        {"huge": (Made(bad.params, scale=torch.tensor(3e38)), "multiplier is inf")},
        others=given(y_params=Made(bad.params, scale=torch.tensor(1e-3))),
    ),
    *each(
        "integer.avg_pool2d integer.global_avg_pool",
        "x",
        {**bad.no_integers((2, 3, 8, 8)), "matrix": I8(3, 3)},
    ),
    *each(
        "integer.avg_pool2d integer.max_pool2d", "kernel_size", {**bad.NO_WINDOW, "too large": (9, "window")}
    ),
    *each(
        "integer.avg_pool2d integer.max_pool2d",
        "stride",
        {k: v for k, v in bad.NO_WINDOW.items() if k != "none"},
    ),
    *each("integer.avg_pool2d integer.max_pool2d", "padding", {**bad.NO_PADDING, "too large": 2}),
    *each("integer.max_pool2d", "x", {**bad.NO_INTEGERS, "empty": I8(0, 3, 8, 8), "matrix": I8(3, 3)}),
    *each("integer.max_pool2d", "ceil_mode", bad.NO_FLAG),
    *each(
        "integer.requantize integer.requantize_fixed_point",
        "accumulator",
        {
            **bad.NO_INTEGERS,
            "int8": I8(2, 3),
            "int64": torch.ones(2, 3, dtype=torch.int64),
            "vector": I32(3),
            "channels": I32(2, 4),
        },
    ),
    *each(
        "integer.requantize integer.requantize_fixed_point",
        "multiplier",
        {
            **bad.NO_TENSOR,
            "float64": torch.ones(3, dtype=torch.float64),
            "negative": -torch.ones(3),
            "nan": torch.full((3,), NAN),
            "infinite": torch.full((3,), INF),
            "channels": torch.ones(4),
            "matrix": torch.ones(1, 3),
            "empty": torch.ones(0),
        },
    ),
    *each(
        "integer.requantize_fixed_point",
        "multiplier",
        {"too large": (torch.full((3,), 2.0**31), r"multiplier is 2\.147")},
    ),
    *each(
        "integer.concat",
        "inputs",
        {
            "nothing": ((), "inputs|tensors"),
            "one": ([I8(2, 2)], "1 tensors"),
            "none inside": ([I8(2, 2), None], "input 1"),
            "floats": ([I8(2, 2), torch.ones(2, 2)], "input 1.*float32"),
            "shapes": ([I8(2, 2), I8(3, 3)], r"inputs have shapes \[\[2, 2\], \[3, 3\]\]"),
            "axes": ([I8(2, 2), I8(2, 2, 2)], "inputs have shapes"),
            "empty": ([I8(2, 2), I8(2, 0)], "input 1"),
            "nested": (Made(lambda: [I8(2, 2), bad.nested()]), "input 1"),
        },
    ),
    *each(
        "integer.concat",
        "x_params",
        {
            "none": None,
            "number": 3,
            "params": PARAMS,
            "text": ("ab", "input 0 is a str"),
            "empty": ([], "0 x_params for 2"),
            "three": (Made(lambda: [bad.params()] * 3), "3 x_params for 2"),
            "nothing": ([None, None], "input 0"),
        },
    ),
    *each(
        "integer.concat",
        "dim",
        {"none": None, "text": "1", "float": 1.0, "bool": True, "no axis": 2, "list": [1]},
    ),
    *each(
        "integer.pad",
        "pad",
        {
            "none": None,
            "number": 1,
            "text": "11",
            "empty": [],
            "odd": [1, 1, 1],
            "floats": [1.0, 1.0],
            "nan": [NAN, 1],
            "bools": [True, True],
            "nothing": [1, None],
            "too many": [1] * 6,
            "cuts all": [-1, -1],
            "mapping": {1: 1},
        },
    ),
    *each("integer.pad", "value", bad.NO_NUMBER),
]
FILES = [
    *each("save", "network", {**bad.NO_QUANTIZED, "state": Made(lambda: bad.simulated().state_dict())}),
    *each("save", "path", bad.NO_TARGET | {"below a file": __file__ + "/small"}),
    *each("onnx.export", "path", bad.NO_TARGET),
    *each("load", "path", bad.NO_SAVED_FILE),
    *each("onnx.export", "model", bad.IN_WRAPPERS),
    *each(
        "onnx.export",
        "model",
        {
            "two results": (Made(bad.Two), "model gives a tuple"),
            "4 bits": (Made(lambda: bad.simulated(activation_bits=4)), "'images' has 4 bits"),
            "16 bits": (Made(lambda: bad.simulated(weight_bits=16)), "'0' has 16 bits"),
            "half": (Made(lambda: bad.network().half()), "float16|float32"),
        },
    ),
    *each(
        "onnx.export",
        "example",
        {
            **bad.NO_TENSOR,
            "bytes": (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "example.*uint8"),
            "double": (torch.rand(2, 3, 8, 8, dtype=torch.float64), "example.*float64"),
            "channels": (torch.rand(2, 1, 8, 8), r"example.*\[2, 1, 8, 8\]"),
            "empty": torch.rand(0, 3, 8, 8),
            "scalar": torch.tensor(1.0),
        },
    ),
    *each("onnx.run onnx.latency", "path", bad.NO_ONNX_FILE),
    *each("onnx.collect onnx.quantize", "path", bad.NO_FLOAT_FILE),
    *each(
        "onnx.quantize", "target", {**bad.NO_TARGET, "the source": (Made(bad.onnx_file), "target.*itself")}
    ),
    *each(
        "onnx.run onnx.latency onnx.collect",
        "images",
        {
            **{k: v for k, v in bad.NO_IMAGES.items() if k not in ("nan", "infinite")},
            "channels": torch.rand(2, 3, 8, 8),
        },
    ),
    *each(
        "onnx.collect",
        "images",
        {
            "nan": (torch.full((2, 1, 1, 2), NAN), "'images'.*NaN"),
            "infinite": (torch.full((2, 1, 1, 2), INF), "'images'"),
        },
    ),
    *each(
        "onnx.quantize",
        "images",
        {
            **{k: v for k, v in bad.NO_IMAGES.items() if k not in ("nan", "infinite")},
            "none": (None, "images and ranges are both missing"),
            "channels": torch.rand(2, 3, 8, 8),
            "nan": (torch.full((2, 1, 1, 2), NAN), "'images'.*NaN"),
            "infinite": (torch.full((2, 1, 1, 2), INF), "'images'.*infinity"),
        },
    ),
    *each("onnx.run onnx.collect", "batch_size", bad.NO_SIZE),
    *each("onnx.latency", "threads", bad.NO_SIZE),
    *each("onnx.latency", "min_seconds", bad.NO_POSITIVE),
    *each("onnx.collect", "bins", {**bad.NO_SIZE, "one": 1}),
    *each("onnx.quantize", "reduce_range", bad.NO_FLAG),
    *each("onnx.quantize", "keep", {k: v for k, v in bad.NO_KEEP.items() if k != "batch norm"}),
    *each(
        "onnx.quantize",
        "ranges",
        {
            "text": "max",
            "list": [(0, 1)],
            "number": 3,
            "empty": ({}, "ranges lack"),
            "of workflow": (Made(bad.ranges), "'0'.*Known"),
            "lacks one": ({"images": (0, 1)}, "ranges lack the tensor 'x'"),
            "nan": (ONNX_RANGES | {"y": (NAN, 1)}, "'y'"),
            "swapped": (ONNX_RANGES | {"y": (1, -1)}, "'y'"),
        },
        others=given(images=None),
    ),
    *each("onnx.quantize", "ranges", {"beside images": (ONNX_RANGES, "images and ranges are both given")}),
    *each(
        "onnx.quantize",
        "names",
        {
            "text": "x",
            "list": ["x"],
            "number": 3,
            "empty": ({}, "names are empty"),
            "unknown tensor": ({"x": "conv1"}, "'images'.*Known"),
            "nothing": ({"x": None}, "names hold 'x': None"),
            "of another file": ({"conv": "images", "relu": "x", "gemm": "y"}, "ranges lack|names"),
        },
        others=given(images=None, ranges=ONNX_RANGES),
    ),
    *each("onnx.quantize", "names", {"without ranges": ({"x": "x"}, "names are given without ranges")}),
]
TABLE = [row for part in (AFFINE, PLANS, RUNNING, CALIBRATION, WEIGHTS, INTEGER, FILES) for row in part]

# ---- what is asked of each -----------------------------------------------------------------------------------------

ACCEPTED = re.compile(
    r"\bmust\b|\b[Aa]ccepted\b|Known: |\bcannot be\b|\bneeds?\b|\b[Gg]ive\b|\bsay with\b|\btakes?\b|\bmake it\b|"
    r"no integer stands for|is missing|is quantized already|counts finite|computes in|takes numbers|from float32|"
    r"for 2 to 8|no negative numbers|not built like|of another network|not what state_dict|does not fit|has no entry|"
    r"a symmetric map has|may only lie|has room for|beyond the int32|it is another map|holds NaN or infinity|"
    r"makes Histograms|cuts uint8 off at 8 bits|Build the network from|no ONNX file that ONNX Runtime can run"
)
REMEDY = re.compile(
    r"such as |to_float makes|remove them|put nn.ReLU|networks with convolutions|Did you mean|"
    r"as .* gives?|\w+\(\) (makes|gives|tells)|Known: \w|"
    r"must (be|have|lie|hold|not lie) |\b[Aa]ccepted\b|"
    r"\b(Add|Build|Cut|Call|Choose|Export|Give|Look|Pass|Put|Quantize|Read|Remove|Replace|Rewrite|Swap|Take|Train|Write|choose|"
    r"give|make it permanent|say with)\b"
)
INTERNALS = (
    "Traceback", "Proxy", "NoneType' object", "immutable_list", "TORCH_", "tlparse", "Internal error", "dispatch",
    "unsupported operand", "not subscriptable", "not iterable", "has no attribute", "positional argument", "jaxtyping",
    "beartype", "aten::", "unexpected keyword", "[Errno", "size of tensor",
)  # fmt: skip


def state_of(value: object) -> object:
    """What must be the same afterwards."""
    if isinstance(value, torch.Tensor):
        plain = not (value.is_nested or value.is_meta or value.is_sparse or value.is_quantized)
        return (
            torch.nan_to_num(value.detach().double()).tolist() if plain and not value.is_complex() else None
        )
    if isinstance(value, q.Histogram):
        return value.count, value.counts.tolist(), value.minimum, value.maximum
    if isinstance(value, Path):
        return value.read_bytes() if value.is_file() else None
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [(repr(key), state_of(item)) for key, item in items]
    if not isinstance(value, nn.Module):
        return None
    odd = any(p.is_nested or is_lazy(p) for p in value.parameters())
    if odd or isinstance(value, torch.jit.ScriptModule):
        return [name for name, _ in value.named_parameters()]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in value.modules()]
    copied = [(name, state_of(tensor)) for name, tensor in value.state_dict().items()]
    learning = [parameter.requires_grad for parameter in value.parameters()]
    return copied, hooks, learning, [module.training for module in value.modules()]


def shown(value: object) -> list[str]:
    """Words of which a message holds one that says what was given."""
    words = [f"{type(value).__name__}", repr(value)[:40]]
    if isinstance(value, type):
        words = [f"class {value.__name__}"]
    if isinstance(value, float | int) and not isinstance(value, bool):
        words.append(f"{value:g}")
    if isinstance(value, torch.Tensor):
        words += [
            str(value.dtype),
            str(value.dtype).removeprefix("torch."),
            "meta",
            "sparse",
            "nested",
            "NaN",
        ]
        words += ["infinity", " inf", " nan", "runs from", "scale is [", "zero_point is ["]
        words += [] if value.is_nested else [str(list(value.shape))]
    if isinstance(value, list | tuple):
        words += [word for item in value for word in shown(item)]
    if isinstance(value, str | Path):
        words += [str(value), repr(str(value))]
    return words


def arguments_of(row: Row) -> dict[str, Any]:
    made = {
        name: make() for name, make in {**CALLS[row.function], **row.others}.items() if name != row.argument
    }
    return made | {row.argument: row.value()}


def complaint(row: Row, folder: Path) -> str:
    """What is wrong with the answer to bad input; empty where nothing is."""
    arguments = arguments_of(row)
    before = {name: state_of(value) for name, value in arguments.items()}
    try:
        function_of(row.function)(**arguments)
    except (TypeError, ValueError, KeyError, FileNotFoundError) as error:
        message, kind = str(error.args[0]), type(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    else:
        return "it is accepted"
    named = re.search(row.words or rf"\b{row.argument}\b", message, re.DOTALL)
    faults = {
        "is a class of its own": kind not in (TypeError, ValueError, KeyError, FileNotFoundError),
        "has the words of another error": kind is FileNotFoundError and "is missing" not in message,
        "does not name the argument": not named,
        "does not show the value": not row.words
        and not any(w in message for w in shown(arguments[row.argument])),
        "does not say what is accepted": not ACCEPTED.search(message),
        "does not say what to do": not REMEDY.search(message),
        "shows what is inside": any(word in message for word in INTERNALS),
        "is long": len(message) > 900,
        "comes after a change": before != {name: state_of(value) for name, value in arguments.items()},
        "comes after a file was written": any(folder.iterdir()),
    }
    return (
        "; ".join([fault for fault, found in faults.items() if found] + [message])
        if any(faults.values())
        else ""
    )


@pytest.mark.parametrize("function", CALLS)
def test_bad_input_is_named_with_what_to_do(function, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answers = {str(row): complaint(row, tmp_path) for row in TABLE if row.function == function}
    assert {row: answer for row, answer in answers.items() if answer} == {}


@pytest.mark.parametrize("name", [name for name in CALLS if name not in TESTED_ELSEWHERE])
def test_the_call_that_each_row_changes_works(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function_of(name)(**{argument: make() for argument, make in CALLS[name].items()})


@pytest.mark.parametrize(
    ("function", "argument", "value", "same"),
    [
        *[
            (function, "x", X.to(dtype), X)
            for function in ("quantize", "fake_quantize", "in_range", "straight_through", "params_of")
            for dtype in (torch.float64, torch.float16, torch.bfloat16)
        ],
        ("quantize", "x", torch.tensor([-0.0, INF, -INF]), torch.tensor([0.0, 1e9, -1e9])),
        ("dequantize", "q", torch.ones(2, 2, dtype=torch.int64), I8(2, 2)),
        ("choose_params", "low", torch.tensor([-1.0]).squeeze().double(), -1.0),
        ("choose_params", "high", np.float32(1.0), 1.0),
        ("integer.conv2d", "stride", [1, 1], 1),
        ("integer.pad", "value", -0.0, 0.0),
        ("integer.concat", "dim", -1, 1),
        ("quantize_model", "keep", iter(["0"]), ("0",)),
        ("quantize_model", "keep", {"0": 1}, ["0"]),
        (
            "quantize_model",
            "ranges",
            bad.ranges() | {"images": [-0.0, np.float64(1)], "0": (0, torch.tensor(2.0))},
            bad.ranges(),
        ),
        ("collect", "images", torch.full((2, 3, 8, 8), 255, dtype=torch.uint8), torch.ones(2, 3, 8, 8)),
        ("integer.output_multiplier", "x_params", bad.params(bits=16), bad.params()),
    ],
)
def test_odd_input_that_is_right_gives_the_same(function, argument, value, same):
    results = []
    for given_value in (value, same):
        made = {name: make() for name, make in CALLS[function].items() if name != argument}
        results.append(comparable(function_of(function)(**made | {argument: given_value})))
    assert results[0] == results[1]


def comparable(result: object) -> object:
    if isinstance(result, q.QuantizedNetwork):
        return {name: tensor.tolist() for name, tensor in result.state_dict().items()}
    if isinstance(result, q.QuantParams):
        return result.scale.tolist(), result.zero_point.tolist()
    return (
        {name: repr(found) for name, found in result.items()} if isinstance(result, dict) else result.tolist()
    )


class Same(nn.Conv2d):
    """Static padding inside of a convolution, as in published weights of EfficientNet-Lite."""

    def forward(self, x):
        return super().forward(nn.functional.pad(x, (1, 1, 1, 1)))


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(4, 4, 2, groups=2),
        Same(4, 4, 3),
        nn.Hardtanh(0, 6),
        nn.ZeroPad2d(1),
        nn.AdaptiveAvgPool2d(6),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_that_were_refused_without_need_are_quantized(layer):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), layer, nn.Flatten(), nn.LazyLinear(2)).eval()
    expected = model(bad.images())
    ranges = q.calibrate(q.collect(model, bad.images()))
    found = q.to_integer(q.quantize_model(model, ranges))(bad.images())
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()


@pytest.mark.parametrize("kind", ["symlink_to", "hardlink_to"])
def test_a_file_is_not_overwritten_under_another_name(kind, tmp_path):
    path = shutil.copy(bad.onnx_file(), tmp_path / "linear.onnx")
    getattr(tmp_path / "other.onnx", kind)(path)
    content = path.read_bytes()
    with pytest.raises(ValueError, match=r"target is .*other\.onnx'.*itself.*Give another name"):
        q.onnx.quantize(path, tmp_path / "other.onnx", images=ONNX_IMAGES)
    assert path.read_bytes() == content


@pytest.mark.parametrize("folder", ["/proc/self", __file__])
@pytest.mark.parametrize("function", ["save", "onnx.quantize"])
def test_a_folder_that_takes_no_file_is_named(function, folder):
    made = {name: make() for name, make in CALLS[function].items()}
    argument = "path" if function == "save" else "target"
    with pytest.raises((OSError, ValueError), match=rf"{folder}.*folder"):
        function_of(function)(**made | {argument: f"{folder}/small.file"})


# ---- that nothing is left out --------------------------------------------------------------------------------------

WITHOUT_ARGUMENTS = {"PreparedNetwork.freeze", "Codebook.weight"}
OF_THE_TABLE_OF_OPERATIONS = {
    "Operation",
    "Step.on_integers",
    "Step.on_numbers",
    "Step.rounding",
    "Step.weights",
    "Step",
}
OF_ONE_CLASS_FOR_ANOTHER = {  # made by functions above; their constructors and what saving.py calls
    *("IntegerLayer", "IntegerLayer.extra_repr", "Pair", "PreparedNetwork", "QuantizedNetwork"),
    *("IntegerNetwork.compute", "IntegerNetwork.params", "QuantizedNetwork.compute", "onnx.Exported"),
    *(
        f"{network}.{method}"
        for network in ("IntegerNetwork", "PreparedNetwork", "QuantizedNetwork")
        for method in ("held", "hold", "record", "get_extra_state", "set_extra_state", "load_state_dict")
    ),
}
"""Of these, load_state_dict of a QuantizedNetwork is tested for all three, which share it."""


def public() -> set[str]:
    """Functions, classes and their methods, by name."""
    found = set()
    for home, names in (("", q.__all__), ("integer.", integer.__all__), ("onnx.", q.onnx.__all__)):
        for name in names:
            value = function_of(home + name)
            if not callable(value) or (isinstance(value, type) and issubclass(value, Warning)):
                continue
            found.add(home + name)
            own = [c for c in getattr(value, "__mro__", ()) if c.__module__.startswith("course_lib")]
            found |= {
                f"{home}{name}.{method}"
                for kind in own
                for method, function in vars(kind).items()
                if not method.startswith("_") and inspect.isfunction(function)
            }
    return found


def test_every_public_function_is_in_the_table():
    left_out = WITHOUT_ARGUMENTS | OF_THE_TABLE_OF_OPERATIONS | OF_ONE_CLASS_FOR_ANOTHER
    assert public() - left_out == set(CALLS) - {"translate.translate", "QuantizedNetwork.load_state_dict"}
    for name in CALLS:
        named = {row.argument for row in TABLE if row.function == name}
        parameters = inspect.signature(function_of(name)).parameters.values()
        required = {p.name for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD}
        if name == "integer.concat":
            required = {"inputs", "x_params", "y_params", "dim"}
        if name == "QuantizedNetwork.load_state_dict":
            required = {"state_dict"}  # the others are PyTorch's
        assert required <= named, name
    assert len(TABLE) == len({str(row) for row in TABLE}), "two rows of one name"
