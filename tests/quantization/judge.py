"""`python -m tests.quantization.judge [--count 200] [--seed 0]`: random networks, all the way, against ONNX Runtime.

Each network of `random_networks` goes from calibration to integers, with the methods, options and kept layers in turn.
Compared are, bit for bit,

- one call: the logits of the file that onnx.export writes of the simulated network with those of the integer network;
- two calls: those of onnx.export of the float network, folded before or not, and onnx.quantize with the same ranges;
- kernels: those of the integer network and of its steps by `integer`, one by one;
- saved: those of each kind of network, saved and loaded again; prepared: those of aware.prepare and the simulation;
- both forms: each step of simulated and integer network on equal input, at most a step apart;
- caller: model and images before and after.

What the docstrings except from equality with ONNX Runtime is counted apart, by the operation where it arises: average
pooling, what is summed in float32 (transposed convolutions, kept layers), and activation functions that ONNX Runtime
approximates. An operation is judged there by what it gives for the very integers that ONNX Runtime has in front of it.
"""

import argparse
import copy
import tempfile
import time
import traceback
import warnings
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from course_lib.data import to_float
from course_lib.quantization import aware, onnx, saving
from course_lib.quantization.affine import dequantize, quantize
from course_lib.quantization.onnx._integers import _steps as steps_of_file
from course_lib.quantization.operations import OPERATIONS
from course_lib.quantization.steps import execute
from course_lib.quantization.workflow import calibrate, collect, fold_batch_norm, quantize_model, to_integer
from tests.quantization.networks import state
from tests.quantization.random_networks import random_network

METHODS = ("max", "mse", "entropy", "percentile")
DIFFER = {"avg_pool2d", "conv_transpose2d", "kept layer"}
DOCUMENTED = DIFFER | {"sigmoid", "tanh", "elu", "gelu"}  # the latter in very few entries of their tables
KINDS = ("simulated", "prepared", "integer")


@dataclass
class Verdict:
    """What was found on a network.

    Attributes:
        wrong: what is neither equal nor documented, in words.
        values, apart: {comparison: logits}, all and those that differ.
        exact: whether nothing in the network but activation functions is documented to differ.
        arose: {(comparison, operation): [values, values apart, largest difference in steps]} of single operations.
    """

    seed: int
    wrong: list[str] = field(default_factory=list)
    values: Counter = field(default_factory=Counter)
    apart: Counter = field(default_factory=Counter)
    exact: bool = True
    operations: Counter = field(default_factory=Counter)
    arose: dict = field(default_factory=lambda: defaultdict(lambda: [0, 0, 0.0]))

    def count(self, comparison: str, operation: str, difference: Tensor) -> None:
        """Count the differences of one operation, in steps."""
        entry = self.arose[comparison, operation]
        entry[0] += difference.numel()
        entry[1] += int((difference > 0).sum())
        entry[2] = max(entry[2], difference.max().item())

    def same(self, comparison: str, found: Tensor, expected: Tensor) -> bool:
        """Say what is wrong unless all numbers are equal."""
        if found.shape == expected.shape and torch.equal(found, expected):
            return True
        share = (found != expected).double().mean() if found.shape == expected.shape else 1.0
        self.wrong.append(f"{comparison}: {share:.1%} of {expected.numel()} values differ")
        return False


def judged(
    seed: int, folder: Path, *, most: int = 15, ways: tuple[str, ...] = ("one call", "two calls")
) -> Verdict:
    """Take a random network all the way."""
    verdict = Verdict(seed)
    try:
        _judge(verdict, *random_network(seed, most), folder, ways)
    except Exception as error:  # to be counted and shown
        place = [
            line
            for line in traceback.format_exc().splitlines()
            if "/course_lib/" in line or "judge.py" in line
        ]
        verdict.wrong.append(f"crash: {type(error).__name__}: {error!s:.400}\n{place[-1]}")
    return verdict


def options_of(seed: int, layers: list[str]) -> dict[str, object]:
    """Options of quantize_model, in turn."""
    keep = (layers[seed % len(layers)], layers[0])[: seed % 3] if seed % 5 == 4 else ()
    return {
        "per_channel": seed // 4 % 2 == 0,
        "weight_bits": 4 if seed % 7 == 6 else 8,
        "weight_method": "mse" if seed % 11 == 10 else "max",
        "keep": tuple(dict.fromkeys(keep)),
    }


def _judge(verdict: Verdict, model: nn.Module, images: Tensor, folder: Path, ways: tuple[str, ...]) -> None:
    seed, given = verdict.seed, images.clone()
    before = copy.deepcopy(state(model))
    x = images if images.is_floating_point() else to_float(images)
    ranges = calibrate(collect(model, images), METHODS[seed % 4], percentile=99.9)
    layers = [step.layer for step in quantize_model(model, ranges).steps if step.layer is not None]
    options = options_of(seed, layers)
    simulated = quantize_model(model, ranges, **options)
    integers = to_integer(simulated)
    expected = integers(x)
    verdict.operations.update(step.operation for step in integers.steps)
    verdict.exact = not DIFFER & {_kind(integers, step) for step in integers.steps}
    if not expected.isfinite().all():
        verdict.wrong.append("logits that are no numbers")
    with torch.no_grad():
        verdict.same(
            "kernels", expected, integers._as_real(execute(integers.steps, integers.compute, x), "logits")
        )
    _both_forms(verdict, simulated, integers, x)
    if "one call" in ways:
        path = onnx.export(simulated, x[:1], folder / f"{seed}-one.onnx").path
        _against_runtime(verdict, "one call", onnx.run(path, images), integers, path, x)
    if "two calls" in ways:
        keep = options["keep"]
        plain = to_integer(quantize_model(model, ranges, keep=keep))
        source = fold_batch_norm(model, x[:2]) if seed % 2 else model
        path, names = onnx.export(source, x[:2], folder / f"{seed}-float.onnx")
        path = onnx.quantize(path, folder / f"{seed}-two.onnx", ranges=ranges, names=names, keep=keep)
        logits = onnx.run(path, images)
        other = None
        if not torch.equal(logits, plain(x)):  # its tensors have names that tell where
            other = onnx.export(plain, x[:1], folder / f"{seed}-plain.onnx").path
        _against_runtime(verdict, "two calls", logits, plain, other, x)
    prepared = aware.prepare(
        model, ranges, batch_norm="kept" if seed % 3 == 0 else "folded", **options
    ).eval()
    with torch.no_grad():
        verdict.same("prepared", prepared(x), simulated(x))
    _saved(verdict, (simulated, prepared, integers), model, x, folder)
    if str(before) != str(state(model)) or any(
        not torch.equal(tensor, model.state_dict()[name]) for name, tensor in before[0].items()
    ):
        verdict.wrong.append("caller: the model is not what it was")
    verdict.same("caller's images", images, given)


def _kind(integers: nn.Module, step) -> str:
    """The operation, for the tables; a layer in float32 is one of its own."""
    kept = step.layer is not None and step.layer not in integers.weights
    return "kept layer" if kept else step.operation


# ---- ONNX Runtime --------------------------------------------------------------------------------------------------


def _against_runtime(
    verdict: Verdict, way: str, found: Tensor, integers: nn.Module, path: Path | None, x: Tensor
) -> None:
    """Compare logits, and where they differ find out which operations do."""
    expected = integers(x)
    verdict.values[way] += expected.numel()
    if torch.equal(found, expected):
        return
    verdict.apart[way] += int((found != expected).sum())
    if "logits" not in integers.activations and torch.allclose(
        found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item()
    ):
        verdict.count(way, "kept layer", (found != expected) * 0.01)  # the last bits of float32
        return
    scale = (
        integers.activations["logits"].scale
        if "logits" in integers.activations
        else expected.abs().max() / 255
    )
    share, largest = (found != expected).double().mean(), (found - expected).abs().max() / scale
    what = f"{way}: {share:.1%} of logits differ, by up to {largest:.2f} steps"
    if path is None:
        if verdict.exact:
            verdict.wrong.append(what)
        return
    arose = _of_runtime(integers, path, x)
    kept = any(operation == "kept layer" for operation, _ in arose)
    if (
        way == "two calls"
        and kept
        and not any(difference.max() > 0 for _, difference in arose)
        and share < 0.1
    ):
        # The float layers of the other file are fused with what follows, and end on other last bits.
        verdict.count(way, "kept layer", (found - expected).abs() / scale)
        return
    for operation, difference in arose:
        verdict.count(way, operation, difference)
    beyond = [
        f"{operation} by {difference.max():g}"
        for operation, difference in arose
        if difference.max() > (1 if operation in DOCUMENTED else 0)
    ]
    if beyond or not any(difference.max() > 0 for _, difference in arose):
        verdict.wrong.append(f"{what}; they arise at {beyond or 'no operation that shows it'}")


def _of_runtime(integers: nn.Module, path: Path, x: Tensor) -> list[tuple[str, Tensor]]:
    """[(operation, difference in steps)] of each step, from the integers that ONNX Runtime has in front of it."""
    steps = steps_of_file(integers)
    results = _exposed(steps, path, x)
    judge = copy.copy(integers)
    judge._tensors = {step.name: step.tensor for step in steps}
    found = []
    for step in steps:
        inputs = [results[name] for name in step.inputs] or [x]
        with torch.no_grad():
            expected = judge.compute(step, *inputs)
        actual = results[step.name]
        if actual.is_floating_point():
            apart = (actual - expected).abs() / expected.abs().max().clamp(min=1e-30)
            found.append((_kind(integers, step), (apart > 1e-4).float() * 2))
        else:
            found.append((_kind(integers, step), (actual.int() - expected.int()).abs().float()))
    return found


def _exposed(steps: list, path: Path, x: Tensor) -> dict[str, Tensor]:
    """{step: what ONNX Runtime gives for it}: integers where it is rounded."""
    import onnx as package
    from onnxruntime import InferenceSession

    proto = package.load(path)
    made = {name for node in proto.graph.node for name in node.output}
    wanted = {}
    for place, step in enumerate(steps):
        names = (f"{place}:{step.tensor}_quantized", f"{place}:{step.tensor}", "logits")
        wanted[step.name] = next(name for name in names if name in made)
    for name in set(wanted.values()) - {"logits"}:
        proto.graph.output.append(package.helper.make_empty_tensor_value_info(name))
    session = InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = list(dict.fromkeys(wanted.values()))
    found = dict(zip(names, session.run(names, {"images": x.numpy()}), strict=True))
    return {name: torch.from_numpy(np.array(found[tensor])) for name, tensor in wanted.items()}


# ---- our own forms -------------------------------------------------------------------------------------------------


def _both_forms(verdict: Verdict, simulated: nn.Module, integers: nn.Module, x: Tensor) -> None:
    """Each step of the two on equal input."""
    tensors = {step.name: step.tensor for step in simulated.steps}

    def compute(step, *inputs):
        found = integers.compute(step, *inputs)
        numbers = [
            integers._as_real(value, tensors[n]) for value, n in zip(inputs, step.inputs, strict=False)
        ]
        real = simulated.compute(step, *(numbers or inputs))
        params = simulated.activations.get(step.tensor)
        if params is None:
            verdict.same(f"both forms at {step.name}", real, found)
            return found
        apart = (quantize(real, params).int() - found.int()).abs()
        verdict.count("both forms", _kind(integers, step), apart.float())
        if apart.max() > 1:
            verdict.wrong.append(f"both forms: {step.operation} {step.name!r} is {apart.max()} steps apart")
        if not torch.equal(dequantize(quantize(real, params), params), real):
            verdict.wrong.append(
                f"both forms: the simulation of {step.name!r} is not on the grid of its integers"
            )
        return found

    with torch.no_grad():
        execute(simulated.steps, compute, x)


def _saved(verdict: Verdict, networks: tuple, model: nn.Module, x: Tensor, folder: Path) -> None:
    """Each kind of network, saved and loaded into a model of other weights."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.fill_(0.5)
    for kind, network in zip(KINDS, networks, strict=True):
        path = saving.save(network, folder / f"{verdict.seed}-{kind}.safetensors")
        again = saving.load(path, other)
        with torch.no_grad():
            verdict.same(f"saved ({kind})", again(x), network(x))


# ---- the command ---------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.quantization.judge", description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the first network")
    parser.add_argument("--layers", type=int, default=15, help="at most")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    verdicts, started = [], time.perf_counter()
    try:
        _judge_all(arguments, verdicts)
    except KeyboardInterrupt:
        print("stopped")
    print_table(verdicts, time.perf_counter() - started)


def _judge_all(arguments: argparse.Namespace, verdicts: list[Verdict]) -> None:
    for seed in range(arguments.seed, arguments.seed + arguments.count):
        if verdicts and len(verdicts) % 25 == 0:
            print(f"# {len(verdicts)} networks, {sum(bool(v.wrong) for v in verdicts)} wrong", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            verdicts.append(judged(seed, Path(folder), most=arguments.layers))
        if verdicts[-1].wrong:
            print(
                f"seed {seed}",
                *verdicts[-1].wrong,
                random_network(seed, arguments.layers)[0],
                sep="\n",
                flush=True,
            )


def print_table(verdicts: list[Verdict], seconds: float) -> None:
    wrong, exact = sum(bool(v.wrong) for v in verdicts), [v for v in verdicts if v.exact]
    print(f"{len(verdicts)} networks in {seconds:.0f} s, {wrong} wrong or crashed")
    print(
        "operations:",
        ", ".join(f"{n} {name}" for name, n in sum((v.operations for v in verdicts), Counter()).items()),
    )
    unused = [name for name in OPERATIONS if not any(v.operations[name] for v in verdicts)]
    print("in none:", ", ".join(unused) or "-")
    for name, group in (("exact", exact), ("documented to differ", [v for v in verdicts if not v.exact])):
        for way in ("one call", "two calls"):
            values, apart = (
                (sum(counts) for counts in zip(*((v.values[way], v.apart[way]) for v in group), strict=True))
                if group
                else (0, 0)
            )
            nets = sum(v.apart[way] > 0 for v in group)
            print(
                f"{name:22} {len(group):4} networks  {way:10} {values:7} logits  {apart:6} differ, in {nets} networks"
            )
    total = defaultdict(lambda: [0, 0, 0.0])
    for verdict in verdicts:
        for key, (values, apart, largest) in verdict.arose.items():
            entry = total[key]
            total[key] = [entry[0] + values, entry[1] + apart, max(entry[2], largest)]
    for (comparison, operation), (values, apart, largest) in sorted(total.items()):
        if apart:
            found = f"{values:9} values {apart:7} apart ({apart / values:.3%}) by up to {largest:g}"
            print(f"{comparison:10} {operation:16} {found}")


if __name__ == "__main__":
    main()
