"""Every public function says of bad input what it was, what is accepted and what to do, and leaves all as it was.

A row of the table is a function, one argument, a bad value for it, and words that the message must hold: the name of
the argument or of the layer, unless others are given. All other arguments are those of a call that works.
"""

import functools
import inspect
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrizations

from course_lib import pruning
from course_lib.pruning.log import PruningLog
from tests.pruning import bad_values as bad

pytestmark = [
    pytest.mark.bad_input,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"),
]

NAN = float("nan")
RNG = torch.Generator().manual_seed(0)


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

MODEL = {"model": bad.chain}
FOLLOWED = {**MODEL, "example": bad.images}
PLAN = {"plan": lambda: {"0": [0, 1]}}
LOSS = {**MODEL, "images": bad.images, "labels": lambda: torch.tensor([0, 1]), "chunk": lambda: 2}
WEIGHT = {"weight": lambda: torch.arange(12.0).reshape(4, 3)}


def strategies():
    return [pruning.Strategy({"0": 0.5}, 100, 0.5), pruning.Strategy({"0": 0.25}, 150, 0.75)]


def rows():
    return [{"layer": "0", "ratio": 0.5, "accuracy": 0.5}, {"layer": "3", "ratio": 0.5, "accuracy": 0.9}]


def group():
    return pruning.channel_groups(bad.chain(), bad.images())[0]


def with_gradients():
    model = bad.chain()
    model(bad.images()).sum().backward()
    return model


def result():
    return pruning.SearchResult(tuple(strategies()), (0.5, 0.6), (0.1, 0.1))


def best(self, count):
    return self.best(count)


def log_text():
    return PruningLog(baseline=0.9, start=100.0, mode="hard", tolerance=0.01, target=0.5).to_json()


def lambdas(value):
    """A function that returns this value whatever it is given."""
    return lambda *_, **__: value


def a_plan():
    return pruning.Plan.of(bad.chain(), bad.images(), {"0": [0, 1]})


def smaller():
    return pruning.remove_channels(bad.chain(), bad.images(), {"0": [0, 1]})


def saved():
    return pruning.save_pruned(Path(tempfile.mkdtemp()) / "small.safetensors", smaller(), a_plan())


CALLS: dict[str, dict[str, Callable[[], Any]]] = {
    "bn_scale": {"bn": lambda: nn.BatchNorm2d(3)},
    "l1_norm": WEIGHT,
    "l2_norm": WEIGHT,
    "lowest": {"scores": lambda: torch.arange(3.0), "count": lambda: 1},
    "random_scores": {**WEIGHT, "generator": lambda: RNG},
    "sample_strategies": {
        **FOLLOWED,
        "count": lambda: 2,
        "mac_range": lambda: (0.3, 0.9),
        "max_ratio": lambda: 0.9,
        "seed": lambda: 0,
    },
    "search": {
        **MODEL,
        "dataset": bad.dataset,
        "strategies": strategies,
        "calibration_images": lambda: 8,
        "scoring_images": lambda: 8,
        "workers": lambda: 1,
    },
    "filter_plan": {**FOLLOWED, "ratios": lambda: 0.5},
    "prune_iteratively": {
        **FOLLOWED,
        "ratios": lambda: 0.5,
        "rounds": lambda: 2,
        "fine_tune": lambda: lambdas(None),
    },
    "ratios_for_macs": {**FOLLOWED, "ratios_at": lambda: lambda t: t, "share": lambda: 0.5},
    "ratios_from_sensitivity": {"rows": rows, "least": lambda: 0.8, "baseline": lambda: 0.9},
    "sensitivity": {**FOLLOWED, "evaluate": lambda: lambdas(0.9), "ratios": lambda: [0.5]},
    "unit_scores": {**MODEL, "group": group},
    "untied_layers": FOLLOWED,
    "channel_groups": FOLLOWED,
    "follow": FOLLOWED,
    "freeze": {**MODEL, "masks": lambda: {"0.bias": torch.arange(8) > 3}},
    "global_magnitude_masks": {"weights": bad.chain, "sparsity": lambda: 0.5},
    "magnitude_mask": {**WEIGHT, "sparsity": lambda: 0.5},
    "make_permanent": MODEL,
    "random_mask": {**WEIGHT, "sparsity": lambda: 0.5, "generator": lambda: RNG},
    "n_of_m_mask": {"weight": lambda: torch.arange(12.0).reshape(3, 4), "keep": lambda: 2, "of": lambda: 4},
    "fisher_diagonal": LOSS,
    "obd_scores": LOSS,
    "taylor_scores": LOSS,
    "zero": {**MODEL, "masks": lambda: {"0.bias": torch.arange(8) > 3}},
    "recalibrate_batch_norm": {**MODEL, "batches": lambda: [bad.images()]},
    "prune_with_rollback": {
        **FOLLOWED,
        "propose": lambda: lambdas({"0": [0]}),
        "evaluate": lambda: lambdas(0.9),
        "tolerance": lambda: 0.1,
        "target": lambda: 0.9,
    },
    "add_sparsity_gradient": {"model": with_gradients, "strength": lambda: 0.1},
    "channel_scales": FOLLOWED,
    "slimming_plan": {**FOLLOWED, "ratio": lambda: 0.5},
    "absorb_constants": {**FOLLOWED, **PLAN},
    "rounded_width": {"group": group, "kept": lambda: 2, "round_to": lambda: 2},
    "Plan.of": {**FOLLOWED, **PLAN},
    "Plan.from_json": {"text": lambda: a_plan().to_json()},
    "Plan.replay": {"self": lambda: a_plan(), **MODEL},
    "save_pruned": {"path": lambda: "x.safetensors", "model": smaller, "plans": lambda: a_plan()},
    "load_pruned": {"path": saved, **MODEL},
    "bitmap_bytes": WEIGHT,
    "csr_bytes": WEIGHT,
    "dense_bytes": WEIGHT,
    "pack_bitmap": WEIGHT,
    "unpack_bitmap": {
        "bits": lambda: torch.tensor([6], dtype=torch.uint8),
        "values": lambda: torch.tensor([1.0, 2.0]),
        "shape": lambda: (2, 2),
    },
    "channel_masks": {**FOLLOWED, **PLAN},
    "remove_channels": {**FOLLOWED, **PLAN},
    "SearchResult.best": {"self": result, "count": lambda: 1},
    "PruningLog.from_json": {"text": log_text},
}
WITHOUT_ARGUMENTS = {
    "PruningLog.to_json",
    "Plan.to_json",
    "Plan.get",
    "Plan.items",
    "Plan.keys",
    "Plan.values",
}
OF_THE_GRAPH = {
    "ChannelGroup.channels",
    "ChannelGroup.lowest_units",
    "ChannelGroup.mean_scores",
    "Channels.check",
    "Channels.zeros",
}
"""Methods of what `follow` returns, tested beside it."""


def function_of(name: str) -> Callable:
    return functools.reduce(getattr, name.split("."), pruning)


# ---- the table -----------------------------------------------------------------------------------------------------


def each(functions: str, argument: str, values: dict[str, Any], **fixed: Any) -> Iterator[Row]:
    """A row for each function and value; a value is what it is, or (value, words), functions of bad.py are called."""
    for function in functions.split():
        for case, given in values.items():
            value, words = given if isinstance(given, tuple) and len(given) == 2 else (given, "")
            make = value.make if isinstance(value, bad.Made) else functools.partial(lambda v: v, value)
            yield Row(function, argument, case, make, words, **fixed)


FOLLOWING = (
    "follow channel_groups filter_plan untied_layers sensitivity ratios_for_macs prune_iteratively "
    "sample_strategies remove_channels channel_masks slimming_plan channel_scales"
)
PLANNING = "filter_plan sensitivity ratios_for_macs prune_iteratively sample_strategies slimming_plan"
NO_FUNCTION = {"none": None, "text": "l1", "number": 0.9, "result": torch.ones(4)}
NO_SHARE = {
    "none": None,
    "text": "half",
    "nan": NAN,
    "infinite": float("inf"),
    "negative": -0.1,
    "percent": 50,
    "bool": True,
    "list": [0.5, 0.5],
}
NO_COUNT = {"none": None, "text": "2", "float": 1.5, "nan": NAN, "negative": -1, "bool": True, "list": [1]}
NO_RNG = {"none": None, "seed": 0, "class": torch.Generator, "numpy": np.random.default_rng(0)}
NO_CRITERION = {
    **NO_FUNCTION,
    "of two arguments": (pruning.random_scores, r"criterion is random_scores.*generator.*partial|lambda"),
    "of a batch norm": (pruning.bn_scale, "criterion.*'0'"),
    "one number": (lambdas(1.0), "criterion.*'0'"),
    "the weight": (lambda weight: weight, "criterion.*'0'"),
    "nan": (lambda weight: torch.full((len(weight),), torch.nan), "criterion.*'0'"),
    "nothing": (lambdas(None), "criterion.*'0'"),
}
NO_RATIOS = {
    **NO_SHARE,
    "list": [0.5, 0.5],
    "tensor": torch.rand(2),
    "unknown layer": ({"conv1": 0.5}, "conv1.*Known"),
    "number for a name": ({0: 0.5}, "layer 0.*Did you mean '0'"),
    "no ratio": ({"0": None}, "'0'"),
    "percent of a layer": ({"0": 50}, "'0'"),
    "nan of a layer": ({"0": NAN}, "'0'"),
    "batch norm": ({"1": 0.5}, "BatchNorm2d"),
    "last layer": ({"7": 0.5}, "'7'.*output"),
}
NO_INDICES = {
    "none": (None, "'0'.*Give whole numbers"),
    "number": (3, "'0'.*Give whole numbers"),
    "text": ("01", "'0'.*Give whole numbers"),
    "floats": ([0.0, 1.0], "'0'.*Give whole numbers"),
    "nan": ([NAN], "'0'.*Give whole numbers"),
    "bools": ([True, False], "'0'.*Give whole numbers"),
    "numpy bools": (np.array([True] * 8), "'0'.*Give whole numbers"),
    "mask": (torch.ones(8, dtype=torch.bool), "'0'.*Give whole numbers"),
    "too large": ([8], "'0'.*8 channels"),
    "negative": ([-1], "'0'.*8 channels"),
    "huge": ([10**30], "'0'.*Give whole numbers"),
    "twice": ([1, 1], "'0'.*more than once"),
    "all": (list(range(8)), "'0'.*at least one must stay"),
    "matrix": ([[0, 1]], "'0'.*Give whole numbers"),
    "ragged": ([[0], 1], "'0'.*Give whole numbers"),
    "names": (["0"], "'0'.*Give whole numbers"),
    "none inside": ([0, None], "'0'.*Give whole numbers"),
    "mapping": ({0: 1}, "'0'.*Give whole numbers"),
}
NO_PLAN = {
    "none": None,
    "list": [0, 1],
    "pairs": [("0", [1])],
    "unknown layer": ({"conv1": [0]}, "conv1.*Known"),
    "number for a name": ({0: [0]}, "layer 0.*Did you mean '0'"),
    "relu": ({"2": [0]}, "'2'.*ReLU"),
    "last layer": ({"7": [0]}, "'7'.*output"),
    **{f"channels {name}": ({"0": value}, words) for name, (value, words) in NO_INDICES.items()},
}
NO_MASKS = {
    "none": None,
    "list": [torch.ones(8)],
    "unknown": ({"conv1": torch.ones(8) > 0}, "conv1.*Known"),
    "layer": ({"0": torch.ones(8) > 0}, "'0'.*Known"),
    "number for a name": ({0: torch.ones(8) > 0}, "parameter 0"),
    "floats": ({"0.bias": torch.ones(8)}, "0.bias.*float32"),
    "list of bools": ({"0.bias": [True] * 8}, "0.bias.*list"),
    "indices": ({"0.bias": torch.tensor([0, 1])}, "0.bias.*int64"),
    "nothing": ({"0.bias": None}, "0.bias"),
    "shape": ({"0.bias": torch.ones(7) > 0}, r"0.bias.*\[7\].*\[8\]"),
    "without values": ({"0.bias": torch.ones(8, device="meta") > 0}, "0.bias.*meta"),
    "second is wrong": ({"0.bias": torch.zeros(8) > 0, "0.weight": None}, "0.weight"),
}
NO_WEIGHT = {
    "none": None,
    "number": 3.0,
    "list": [[1.0, 2.0]],
    "numpy": np.ones((2, 3)),
    "class": torch.Tensor,
    "layer": bad.Made(lambda: nn.Conv2d(3, 8, 3)),
    "sparse": torch.eye(3).to_sparse(),
    "empty": torch.ones(0, 3),
    "meta": torch.ones(4, 3, device="meta"),
    "nested": bad.Made(bad.nested),
    "quantized": bad.Made(lambda: torch.quantize_per_tensor(torch.rand(4, 3), 0.1, 0, torch.qint8)),
}
NO_REAL_WEIGHT = {
    **NO_WEIGHT,
    "complex": torch.ones(4, 3, dtype=torch.complex64),
    "bool": torch.ones(4, 3) > 0,
    "nan": torch.full((4, 3), torch.nan),
}
NO_ROWS = {
    "none": None,
    "empty": [],
    "text": "rows",
    "mapping": {"0": 0.5},
    "path": Path("rows.json"),
    "nothing": [None],
    "pairs": [("0", 0.5, 0.9)],
    **{
        name: ([{"layer": "0", "ratio": 0.5, "accuracy": 0.5} | changed], words + ".*rows\\[0\\]")
        for name, (changed, words) in {
            "ratio none": ({"ratio": None}, "ratio"),
            "ratio text": ({"ratio": "a"}, "ratio"),
            "ratio nan": ({"ratio": NAN}, "ratio"),
            "ratio percent": ({"ratio": 50}, "ratio"),
            "ratio negative": ({"ratio": -0.5}, "ratio"),
            "accuracy none": ({"accuracy": None}, "accuracy"),
            "accuracy nan": ({"accuracy": NAN}, "accuracy"),
            "accuracy percent": ({"accuracy": 93}, "accuracy"),
            "accuracy text": ({"accuracy": "good"}, "accuracy"),
            "layer none": ({"layer": None}, "layer"),
            "layer number": ({"layer": 0}, "layer"),
        }.items()
    },
    "no accuracy": ([{"layer": "0", "ratio": 0.5}], "rows\\[0\\].*accuracy"),
    "empty row": ([{}], "rows\\[0\\]"),
    "second row": ([{"layer": "0", "ratio": 0.5, "accuracy": 0.5}, {"layer": "0"}], "rows\\[1\\]"),
}
NO_ACCURACY = {
    "gives none": (lambdas(None), "evaluate"),
    "gives text": (lambdas("good"), "evaluate"),
    "gives nan": (lambdas(NAN), "evaluat"),
    "gives percent": (lambdas(93), "evaluate.*0.93 and not 93"),
    "gives negative": (lambdas(-0.1), "evaluate"),
    "gives several": (lambdas(torch.rand(3)), "evaluate"),
}
MODELS_AND_EXAMPLES = [
    *each(FOLLOWING, "model", bad.MODELS),
    *each(FOLLOWING, "example", bad.EXAMPLES),
    *each(PLANNING, "model", bad.WITHOUT_CHANNELS),
    *each(
        "remove_channels channel_masks",
        "model",
        {"exported": (bad.Made(bad.exported), "nothing can be removed")},
    ),
    *each("channel_scales", "model", {"exported": (bad.Made(bad.exported), "batch norm|nothing can be")}),
]
CRITERIA = [
    *each("bn_scale", "bn", bad.NORMS),
    *each("l1_norm l2_norm random_scores", "weight", NO_REAL_WEIGHT),
    *each("l1_norm l2_norm random_scores", "weight", {"bias": torch.ones(4)}),
    *each("random_scores random_mask", "generator", NO_RNG),
    *each("lowest", "scores", {**NO_REAL_WEIGHT, "matrix": torch.ones(2, 2)}),
    *each("lowest", "count", {**NO_COUNT, "too many": 4}),
    *each("unit_scores", "model", bad.MODELS | {"another": (bad.Made(nn.Linear, 3, 4), "'0'")}),
    *each("unit_scores", "group", {"none": None, "text": "0", "list": bad.Made(lambda: [group()])}),
    *each("unit_scores filter_plan sensitivity prune_iteratively", "criterion", NO_CRITERION),
]
FILTERS = [
    *each("filter_plan prune_iteratively", "ratios", NO_RATIOS),
    *each("prune_iteratively", "rounds", {**NO_COUNT, "zero": 0}),
    *each("prune_iteratively", "fine_tune", {"none": None, "text": "fit", "number": 3}),
    *each("ratios_for_macs", "ratios_at", {"none": None, "text": "x", "number": 0.5}),
    *each(
        "ratios_for_macs",
        "ratios_at",
        {
            "gives none": (lambdas(None), "ratios"),
            "gives one": (lambdas(1.0), "ratios"),
            "gives nan": (lambdas(NAN), "ratios"),
            "gives another layer": (lambdas({"x": 0.5}), "'x'"),
        },
    ),
    *each("ratios_for_macs", "share", {**NO_SHARE, "zero": 0, "out of reach": 1e-6}),
    *each("ratios_from_sensitivity", "rows", NO_ROWS),
    *each("ratios_from_sensitivity", "least", {**NO_SHARE, "above all": 0.95}),
    *each("ratios_from_sensitivity", "baseline", NO_SHARE),
    *each("sensitivity", "evaluate", {**NO_FUNCTION, **NO_ACCURACY}),
    *each(
        "sensitivity",
        "ratios",
        {
            "none": None,
            "number": 0.5,
            "text": "0.5",
            "empty": [],
            "mapping": {"0": 0.5},
            "nothing": [None],
            "percent": [10, 50],
            "nan": [NAN],
            "names": ["0.5"],
        },
    ),
    *each(
        "sensitivity",
        "layers",
        {
            "number": 3,
            "text": "conv1",
            "empty": [],
            "mapping": {"0": 0.5},
            "numbers": [0],
            "nothing": [None],
            "layer": bad.Made(lambda: [nn.Conv2d(3, 8, 3)]),
            "unknown": (["conv1"], "conv1.*Known"),
            "batch norm": (["1"], "BatchNorm2d"),
            "last layer": (["7"], "'7'.*output"),
        },
    ),
]
SURGERY = [*each("remove_channels channel_masks", "plan", NO_PLAN)]
MASKS = [
    *each("magnitude_mask random_mask", "weight", NO_REAL_WEIGHT),
    *each("magnitude_mask random_mask global_magnitude_masks", "sparsity", NO_SHARE),
    *each("magnitude_mask random_mask", "granularity", {"none": None, "number": 1, "plural": "filters"}),
    *each(
        "magnitude_mask",
        "weight",
        {"bias": (torch.ones(4), "weight")},
        others={"granularity": lambda: "filter"},
    ),
    *each(
        "global_magnitude_masks",
        "weights",
        {
            "none": None,
            "text": "resnet",
            "class": nn.Linear,
            "list": bad.Made(lambda: list(bad.chain().parameters())),
            "empty": {},
            "model without": bad.Made(nn.ReLU),
            "quantized": bad.Made(bad.quantized),
            "meta": bad.Made(lambda: bad.chain().to("meta")),
            "nothing": {"a": None},
            "nan": {"a": torch.full((2, 2), torch.nan)},
            "nested": {"a": bad.nested()},
        },
    ),
    *each("freeze zero", "model", bad.NO_MODULES),
    *each("make_permanent", "model", bad.NO_MODULES),
    *each("freeze zero", "masks", NO_MASKS),
    *each(
        "freeze",
        "model",
        {
            "weight norm": (
                bad.Made(lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 4)))),
                "0.weight.*remove_parametrizations",
            )
        },
        others={"masks": lambda: {"0.weight": torch.ones(4, 3) > 0}},
    ),
]
BY_LOSS = "taylor_scores fisher_diagonal obd_scores"
LOSSES = [
    *each(BY_LOSS, "model", {**bad.MODELS, "without weights": bad.Made(lambda: nn.BatchNorm2d(3))}),
    *each(
        BY_LOSS,
        "images",
        {
            **NO_WEIGHT,
            "bytes": torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
            "nan": torch.full((2, 3, 8, 8), NAN),
        },
    ),
    *each(
        BY_LOSS,
        "labels",
        {"none": None, "list": [0, 1], "floats": torch.zeros(2), "bools": torch.ones(2) > 0}
        | {"one": torch.tensor([0]), "matrix": torch.zeros(2, 1, dtype=torch.int64)},
    ),
    *each(BY_LOSS, "chunk", NO_COUNT),
    *each(
        "n_of_m_mask", "weight", {**NO_REAL_WEIGHT, "bias": torch.ones(4), "three inputs": torch.ones(4, 3)}
    ),
    *each("n_of_m_mask", "keep", {**NO_COUNT, "more than of": 5}),
    *each("n_of_m_mask", "of", {**NO_COUNT, "zero": (0, "of is 0")}),
]
STORAGE = [
    *each("csr_bytes bitmap_bytes pack_bitmap", "weight", NO_WEIGHT),
    *each("dense_bytes", "weight", {k: v for k, v in NO_WEIGHT.items() if k not in ("meta", "quantized")}),
    *each(
        "unpack_bitmap",
        "bits",
        {
            "none": None,
            "list": [6],
            "bytes": b"6",
            "floats": torch.tensor([6.0]),
            "matrix": torch.tensor([[6]], dtype=torch.uint8),
            "too many": torch.tensor([6, 0], dtype=torch.uint8),
            "beyond": torch.tensor([128 + 64], dtype=torch.uint8),
            "meta": torch.ones(1, dtype=torch.uint8, device="meta"),
        },
    ),
    *each(
        "unpack_bitmap",
        "values",
        {
            "none": None,
            "list": [1.0, 2.0],
            "number": 1.0,
            "too few": torch.ones(1),
            "matrix": torch.ones(2, 1),
            "sparse": torch.ones(2).to_sparse(),
            "nested": bad.Made(bad.nested),
            "meta": torch.ones(2, device="meta"),
        },
    ),
    *each(
        "unpack_bitmap",
        "shape",
        {
            "none": None,
            "number": 4,
            "text": "22",
            "floats": [2.0, 2.0],
            "nothing": [2, None],
            "negative": [-1, 4],
            "zero": [0, 4],
            "too large": [9, 9],
            "tensor": torch.ones(2, 2),
            "mapping": {2: 2},
        },
    ),
]
LOG = [
    *each(
        "PruningLog.from_json",
        "text",
        {
            "none": None,
            "number": 3,
            "path": Path("log.json"),
            "mapping": {"attempts": []},
            "empty": "",
            "no json": "pruned",
            "list": "[]",
            "nothing": "{}",
            "attempts number": '{"attempts": 3}',
            "attempt number": '{"attempts": [3]}',
            "other fields": '{"attempts": [], "epochs": 3}',
            "cut off": bad.Made(lambda: log_text()[:40]),
            "baseline text": bad.Made(lambda: log_text().replace("0.9", '"good"')),
            "start none": bad.Made(lambda: log_text().replace("100.0", "null")),
            "baseline nan": bad.Made(lambda: log_text().replace("0.9", "NaN")),
            "mode": bad.Made(lambda: log_text().replace('"hard"', '"firm"')),
        },
    ),
]
EAGLEEYE = [
    *each("SearchResult.best", "count", {**NO_COUNT, "zero": 0, "too many": 3}),
    *each("sample_strategies", "count", {**NO_COUNT, "zero": 0}),
    *each("sample_strategies search", "seed", NO_COUNT),
    *each("sample_strategies", "max_ratio", {**NO_SHARE, "zero": 0, "one": 1}),
    *each(
        "sample_strategies",
        "mac_range",
        {
            "none": None,
            "number": 0.5,
            "text": "01",
            "one": [0.5],
            "inverted": bad.Made(lambda: (0.9, 0.5)),
            "percent": bad.Made(lambda: (40, 60)),
            "nan": bad.Made(lambda: (NAN, 0.5)),
            "nothing": bad.Made(lambda: (0.5, None)),
            "out of reach": bad.Made(lambda: (1e-9, 2e-9)),
            "mapping": {0: 0.5, 1: 0.6},
        },
    ),
    *each("search", "model", bad.MODELS | bad.WITHOUT_PARAMETERS),
    *each("search", "dataset", bad.DATASETS),
    *each(
        "search",
        "strategies",
        {
            "none": None,
            "empty": [],
            "text": "strategies",
            "one": bad.Made(lambda: strategies()[0]),
            "nothing": [None],
            "ratios": [{"0": 0.5}],
            "mapping": {"0": 0.5},
            "unknown layer": (bad.Made(lambda: [pruning.Strategy({"x": 0.5}, 1, 0.5)]), "strategy 0.*'x'"),
            "percent": (bad.Made(lambda: [pruning.Strategy({"0": 50}, 1, 0.5)]), "strategy 0.*'0'"),
            "nan": (bad.Made(lambda: [pruning.Strategy({"0": NAN}, 1, 0.5)]), "strategy 0.*'0'"),
            "no ratios": (bad.Made(lambda: [pruning.Strategy(None, 1, 0.5)]), "strategy 0.*ratios"),
            "no mapping": (bad.Made(lambda: [pruning.Strategy(0.5, 1, 0.5)]), "strategy 0.*ratios"),
        },
    ),
    *each("search", "calibration_images", {**NO_COUNT, "too many": 99}),
    *each("search", "scoring_images", {**NO_COUNT, "zero": 0, "too many": 99}),
    *each("search", "workers", {"text": "all", "float": 1.5, "zero": 0, "minus two": -2, "bool": True}),
    *each("search", "path", {"number": 3, "bytes": b"x", "list": [], "directory": bad.Made(Path.cwd)}),
    *each("search", "path", {"bool": True, "nul": "a\0b", "below a file": __file__ + "/results"}),
    *each("search", "channels", {"text": "0", "list": [], "tensor": bad.Made(bad.images)}),
    *each("search", "channels", {"of another": (bad.Made(bad.other_channels), "model.*Follow it again")}),
    *each("search", "model", {"without norm": (bad.Made(bad.plain_chain), "batch norm")}),
]
NO_MULTIPLE = {"none": None, "text": "8", "float": 8.0, "zero": 0, "negative": -8, "bool": True}
FILES = [
    *each("Plan.of load_pruned", "model", bad.NO_MODULES),
    *each("Plan.of", "example", {"none": None, "text": "x", "number": 3}),
    *each("Plan.of", "plan", {"none": None, "text": "0", "list": [0], "unknown layer": ({"x": [0]}, "'x'")}),
    *each(
        "Plan.from_json",
        "text",
        {"none": None, "number": 3, "no json": ("{", "text"), "list": ("[]", "plan")},
    ),
    *each("Plan.replay", "model", {"none": None, "text": "x", "another": (bad.Made(smaller), "0.weight")}),
    *each("Plan.replay", "example", {"text": "x", "number": 3}),
    *each("save_pruned", "path", {"none": None, "number": 3}),
    *each("save_pruned", "model", {"none": None, "text": "x", "whole": (bad.Made(bad.chain), "0.weight")}),
    *each("save_pruned", "plans", {"none": None, "text": "x", "empty": [], "mapping": {"0": [0]}}),
    *each("load_pruned", "path", {"none": None, "number": 3}),
    *each("load_pruned", "model", {"another": (bad.Made(smaller), "0.weight")}),
    *each("rounded_width", "group", {"none": None, "text": "x"}),
    *each("rounded_width", "kept", {"none": None, "zero": 0, "too many": 999, "float": 1.5}),
    *each("rounded_width", "round_to", NO_MULTIPLE),
    *each(
        "filter_plan prune_iteratively ratios_for_macs sample_strategies slimming_plan",
        "round_to",
        NO_MULTIPLE,
    ),
]
SLIMMING = [
    *each("absorb_constants", "model", bad.NO_MODULES),
    *each("absorb_constants", "example", {"none": None, "text": "x", "number": 3}),
    *each(
        "absorb_constants",
        "plan",
        {"none": None, "text": "0", "list": [0], "unknown layer": ({"x": [0]}, "'x'")},
    ),
    *each("slimming_plan", "min_share", {**NO_SHARE, "one": 1, "too high": (0.99, "min_share")}),
    *each("add_sparsity_gradient", "model", bad.NO_MODULES),
    *each(
        "add_sparsity_gradient",
        "model",
        {"without norm": bad.Made(bad.plain_chain), "without gradients": (bad.Made(bad.chain), "backward")},
    ),
    *each(
        "add_sparsity_gradient",
        "strength",
        {"none": None, "text": "x", "nan": NAN, "infinite": float("inf"), "negative": -1, "bool": True},
    ),
    *each("slimming_plan", "ratio", {**NO_SHARE, "one": 1, "too high": 0.99}),
    *each("slimming_plan channel_scales", "model", {"without norm": bad.Made(bad.plain_chain)}),
]
RECALIBRATION = [
    *each("recalibrate_batch_norm", "model", bad.NO_MODULES),
    *each("recalibrate_batch_norm", "model", {"without norm": bad.Made(bad.plain_chain)}),
    *each(
        "recalibrate_batch_norm",
        "batches",
        {
            "none": None,
            "number": 3,
            "text": "images",
            "tensor": bad.Made(bad.images),
            "empty": ([], "batches"),
            "nothing": ([None], "batch 0"),
            "bytes": ([torch.zeros(2, 3, 8, 8, dtype=torch.uint8)], "batch 0"),
            "channels": ([torch.rand(2, 1, 8, 8)], "batch 0"),
            "nan": [torch.full((2, 3, 8, 8), torch.nan)],
            "split": bad.Made(lambda: bad.dataset().train),
            "second is wrong": (bad.Made(lambda: [bad.images(), None]), "batch 1"),
        },
    ),
]
ROLLBACK = [
    *each("prune_with_rollback", "model", bad.NO_MODULES),
    *each("prune_with_rollback", "propose", {"none": None, "text": "x", "number": 3}),
    *each(
        "prune_with_rollback",
        "propose",
        {
            "gives list": lambdas([0]),
            "gives text": lambdas("0"),
            "gives empty": lambdas({}),
            "unknown layer": (lambdas({"conv1": [0]}), "propos.*conv1.*Known"),
            **{
                f"channels {case}": (lambdas({"0": value}), "propos.*'0'")
                for case, (value, _) in NO_INDICES.items()
            },
            "mask": (lambdas({"0": torch.ones(8) > 0}), "propos.*'0'"),
            "both": (lambdas({"0.bias": torch.ones(8) > 0, "3": [0]}), "propose"),
            "mask shape": (lambdas({"0.bias": torch.ones(7) > 0}), "propos.*0.bias"),
        },
    ),
    *each("prune_with_rollback", "evaluate", {**NO_FUNCTION, **NO_ACCURACY}),
    *each("prune_with_rollback", "tolerance", NO_SHARE),
    *each("prune_with_rollback", "target", {**NO_SHARE, "zero": 0, "one": 1}),
    *each("prune_with_rollback", "mode", {"none": None, "number": 1, "unknown": "firm"}),
    *each("prune_with_rollback", "example", bad.EXAMPLES),
    *each("prune_with_rollback", "complexity", {"text": "macs", "number": 3}),
    *each(
        "prune_with_rollback", "complexity", {"none": lambdas(None), "nan": lambdas(NAN), "zero": lambdas(0)}
    ),
    *each("prune_with_rollback", "train", {"text": "fit", "number": 3}),
    *each("prune_with_rollback", "max_attempts", {**NO_COUNT, "zero": 0}),
    *each("prune_with_rollback", "log", {"text": "log", "number": 3, "mapping": {}}),
]
TABLE = [
    row
    for part in (
        MODELS_AND_EXAMPLES,
        CRITERIA,
        FILTERS,
        SURGERY,
        MASKS,
        LOSSES,
        STORAGE,
        LOG,
        EAGLEEYE,
        SLIMMING,
        FILES,
        RECALIBRATION,
        ROLLBACK,
    )
    for row in part
]

# ---- what is asked of each -----------------------------------------------------------------------------------------

ACCEPTED = re.compile(
    r"\bmust\b|\baccepted\b|Known: |cannot be|such as |Follow it again|Give |needs |"
    r"nothing can be removed|no batch norm|indices are integers|propose one kind|became NaN"
)
REMEDY = re.compile(
    r"such as |Did you mean|as .* returns|Known: \w|"
    r"must be (at least|at most|below|from|a whole number|a finite number|a number)|"
    r"\b(Add|Ask|Bind|Build|Call|Choose|Cut|Draw|Evaluate|Flatten|Follow|Give|Keep|Leave|Look|Make|Name|Pass|Prune|Put|"
    r"Raise|Read|Return|Score|Take|Train|Use|Widen|Write|add|choose|come from|give|keep|pass|propose|use)\b"
)
INTERNALS = (
    "Traceback",
    "Proxy",
    "NoneType' object",
    "immutable_list",
    "TORCH_",
    "tlparse",
    "Internal error",
)
INTERNALS += ("dispatch", "unsupported operand", "not subscriptable", "not iterable", "has no attribute")


def state_of(value: object) -> object:
    """What must be the same afterwards."""
    if not isinstance(value, nn.Module):
        return None
    odd = any(p.is_nested or is_lazy(p) for p in value.parameters())
    if odd or isinstance(value, torch.jit.ScriptModule):
        return [name for name, _ in value.named_parameters()]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in value.modules()]
    tensors = [
        (name, tensor) for name, tensor in value.state_dict().items() if isinstance(tensor, torch.Tensor)
    ]
    copied = [
        (name, list(tensor.shape) if tensor.is_meta else torch.nan_to_num(tensor.detach()).tolist())
        for name, tensor in tensors
    ]
    return copied, hooks, [module.training for module in value.modules()]


def arguments_of(row: Row) -> dict[str, Any]:
    made = {
        name: make() for name, make in {**CALLS[row.function], **row.others}.items() if name != row.argument
    }
    return made | {row.argument: row.value()}


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_bad_input_is_named_with_what_to_do(row, tmp_path, monkeypatch):
    arguments = arguments_of(row)
    monkeypatch.chdir(tmp_path)
    before = {name: state_of(value) for name, value in arguments.items()}
    with pytest.raises((TypeError, ValueError, KeyError)) as raised:
        function_of(row.function)(**arguments)
    assert type(raised.value) in (TypeError, ValueError, KeyError)
    message = str(raised.value.args[0])
    assert re.search(row.words or rf"\b{row.argument}\b", message, re.DOTALL)
    assert ACCEPTED.search(message), message
    assert REMEDY.search(message), message
    assert not [word for word in INTERNALS if word in message], message
    assert len(message) < 700, message
    assert before == {name: state_of(value) for name, value in arguments.items()}
    assert list(tmp_path.iterdir()) == []  # nor is a file half written


@pytest.mark.parametrize("name", CALLS)
def test_the_call_that_each_row_changes_works(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function_of(name)(**{argument: make() for argument, make in CALLS[name].items()})


def test_every_public_function_is_in_the_table():
    functions = set()
    for name in pruning.__all__:
        value = getattr(pruning, name)
        if inspect.isfunction(value):
            functions.add(name)
        elif not issubclass(value, Exception):
            methods = inspect.getmembers(value, lambda m: inspect.isfunction(m) or inspect.ismethod(m))
            functions |= {f"{name}.{method}" for method, _ in methods if not method.startswith("_")}
    assert functions - OF_THE_GRAPH - WITHOUT_ARGUMENTS == set(CALLS)
    for name in CALLS:
        named = {row.argument for row in TABLE if row.function == name}
        required = {
            argument
            for argument, parameter in inspect.signature(function_of(name)).parameters.items()
            if argument != "self"
        }
        assert named == required, name
    assert len(TABLE) == len({str(row) for row in TABLE}), "two rows of one name"
