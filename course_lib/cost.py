"""The costs of a network: parameters, operations, bytes on disk, activation memory and time.

All but the time are counted, and are the same on every machine; the time is measured, and is not.
"""

import contextlib
import itertools
import logging
import operator
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import safetensors.torch
import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from course_lib import tracing
from course_lib.validation import check_count, check_number

__all__ = ["Cost", "Latency", "format_bytes", "format_count", "latencies", "latency", "macs", "measure"]

_Example = Shaped[Tensor, "N *rest"]


@dataclass(frozen=True)
class Cost:
    """The counted costs of one forward pass.

    Attributes:
        parameters: numbers that training can change; a shared parameter counts once, buffers do not count.
        nonzero_parameters: those that are not exactly zero.
        macs: multiply-accumulates of convolutions and matrix products, for the whole batch.
        bytes: size of the state_dict, buffers included, as a safetensors file.
        peak_activation_bytes: most bytes of activations alive at one operation, for the whole batch.

    Example:
        >>> print(Cost(288_170, 288_170, 9_500_000, 1_160_000, 65_536))
        288 k parameters (288 k not zero), 9.50 M MACs, 1.16 MB stored, 65.5 kB of activations at the peak
    """

    parameters: int
    nonzero_parameters: int
    macs: int
    bytes: int
    peak_activation_bytes: int

    def __str__(self) -> str:
        return (
            f"{format_count(self.parameters)} parameters ({format_count(self.nonzero_parameters)} not zero), "
            f"{format_count(self.macs)} MACs, {format_bytes(self.bytes)} stored, "
            f"{format_bytes(self.peak_activation_bytes)} of activations at the peak"
        )


@dataclass(frozen=True)
class Latency:
    """Seconds per call of the model: the median of the timed blocks and the quartiles around it.

    Example:
        >>> print(Latency(0.0012, 0.0011, 0.0014))
        1.2 ms [1.1, 1.4]
    """

    median: float
    lower_quartile: float
    upper_quartile: float

    def __str__(self) -> str:
        low, high = self.lower_quartile * 1e3, self.upper_quartile * 1e3
        return f"{self.median * 1e3:.3g} ms [{low:.3g}, {high:.3g}]"


def measure(model: nn.Module, example: _Example) -> Cost:
    r"""Count what one forward pass of `model` on `example` costs.

    .. math::

        \text{MACs(convolution)} &= N \cdot C_{out} \cdot H_{out} \cdot W_{out} \cdot (C_{in} / g) \cdot k_h \cdot k_w
        \\ \text{MACs(linear)} &= N \cdot C_{out} \cdot C_{in} \\
        \text{peak} &= \max_t \sum_{s: \; \text{birth}(s) \le t \le \text{death}(s)} \text{bytes}(s)

    with :math:`H_{out} \times W_{out}` the size of a convolution's output, k the size of its kernel and g its groups; t
    runs over the operations and s over the storages. A storage is born at the operation that makes it and dies after
    the last one that reads it. So an operation's inputs and outputs are alive at it, and a residual branch holds its
    input until the addition. Views and in-place results share their storage and cost nothing. The example is alive from
    the start, the output to the end; weights are not activations. Side results that nothing reads, such as the indices
    of max pooling, are left out, and so are the scratch space of convolutions and the allocator's slack. This is the
    least that an executor needs which runs the operations in order and frees promptly; a forward() that holds on to a
    variable needs more.

    The model is run once, so that PyTorch itself judges the example, and traced once without arithmetic. Both happen
    in evaluation mode without gradients. The model, its mode, its buffers and the random number generators are left
    as they were; its hooks run and stay. The costs do not depend on the values in the example, NaN included.

    Args:
        model: network that maps one tensor to tensors. Parametrisations count as stored: `torch.nn.utils.prune` keeps
            the dense `weight_orig`, and its masked copy is an activation; call `prune.remove` first.
        example: input [N, ...] of the dtype and on the device that the model runs on. MACs are proportional to N, and
            so is the activation peak of a network that treats images alike; parameters and bytes do not depend on N.

    Returns:
        The counts. MACs are half of what `torch.utils.flop_counter` reports, since it counts the multiplication and the
        addition; batch norm, activations, pooling and element-wise sums count nothing there, and are a small share.
        Fused recurrent layers (LSTM, GRU) count nothing either, and are not small: do not measure those.

    Raises:
        TypeError: `model` is not an nn.Module, or a compiled or scripted one; or `example` is not a tensor.
        ValueError: the example is empty, on another device than the model, or not accepted by it; the model's
            parameters hold no values yet; or its path depends on the data, so that no single graph describes it.

    Example:
        >>> cost = measure(nn.Linear(10, 5), torch.rand(2, 10))
        >>> cost.parameters, cost.macs, cost.peak_activation_bytes  # 10 + 5 float32 numbers of two samples are alive
        (55, 100, 120)

    References:
        Lin et al., "MCUNet: Tiny Deep Learning on IoT Devices", NeurIPS 2020 (peak activation memory as the limit).
        Sze et al., "Efficient Processing of Deep Neural Networks", Proceedings of the IEEE, 2017 (MACs as the unit).
    """
    tracing.check(model, example, one=True, plain=False)
    if isinstance(model, torch.jit.ScriptModule) or hasattr(model, "_orig_mod"):
        raise TypeError(
            f"model is a {type(model).__name__}, which hides its operations; it must be a plain torch.nn.Module. "
            "Measure the network that it was compiled from (model._orig_mod after torch.compile); latency() takes both."
        )
    operations = macs(model, example)
    with tracing.borrowed(model), _attention_in_parts():
        peak = _peak_bytes(_trace(model, example))
    parameters = [p.detach() for p in _without_aliases(dict(model.named_parameters()))[0].values()]
    return Cost(
        parameters=sum(p.numel() for p in parameters),
        nonzero_parameters=sum(int(torch.count_nonzero(p)) for p in parameters),
        macs=operations,
        bytes=_stored_bytes(model),
        peak_activation_bytes=peak,
    )


def macs(model: nn.Module, example: tracing.Example) -> int:
    """Count the multiply-accumulates of one forward pass as `measure` does, without its other measurements.

    Args:
        model: as in `measure`.
        example: as in `measure`; or several inputs, as `tracing.call` takes them.

    Returns:
        The MACs of the whole batch.

    Raises:
        TypeError: `model` is not an nn.Module, or one inside of a wrapper; `example` holds no tensor.
        ValueError: the model does not accept the example.

    Example:
        >>> macs(nn.Conv2d(3, 8, 3), torch.rand(1, 3, 10, 10))  # 8 * 8 * 8 values of 3 * 3 * 3 products each
        13824
    """
    tracing.check(model, example)
    counter = FlopCounterMode(display=False)
    with tracing.borrowed(model), _attention_in_parts(), counter:
        tracing.run(model, example)
    return counter.get_total_flops() // 2


def latency(model: nn.Module, example: _Example, *, threads: int = 1, min_seconds: float = 0.2) -> Latency:
    """Time forward passes of `model` on `example`.

    After a warm-up, blocks of calls are timed by `torch.utils.benchmark.Timer.adaptive_autorange` for at least
    `min_seconds`, and up to five times as long while the quartiles lie more than a tenth of the median apart. The
    median withstands the odd slow call; quartiles that lie far apart say that the machine is busy with other things.

    The model runs in evaluation mode and inference mode; it, its mode and the number of threads are left as they were.

    Args:
        model: network that maps one tensor to tensors.
        example: input [N, ...]; a call computes all N images, so divide by N for the time per image.
        threads: threads of PyTorch's pool. Compare only figures of the same number, on the same machine.
        min_seconds: time to spend on timing, in seconds.

    Returns:
        Median, lower and upper quartile over the blocks, in seconds per call.

    Raises:
        TypeError: `model` is not an nn.Module, `example` is not a tensor, `threads` is not an int, or `min_seconds` is
            not a number.
        ValueError: `threads` or `min_seconds` is not positive, or the example is one that `measure` refuses.

    Example:
        >>> 0 < latency(nn.Linear(10, 5), torch.rand(1, 10), min_seconds=0.01).median < 1
        True

    References:
        Hoefler and Belli, "Scientific Benchmarking of Parallel Computing Systems", SC 2015 (median and quartiles).
    """
    tracing.check(model, example, one=True, plain=False)
    check_count(threads, "threads")
    check_number(
        min_seconds, "min_seconds", low=0, low_open=True, hint="A fifth of a second is a good start."
    )
    timer_class = _benchmark_timer()
    with tracing.borrowed(model), torch.inference_mode():
        tracing.run(model, example)
        timer = timer_class(
            "model(example)", globals={"model": model, "example": example}, num_threads=threads
        )
        timing = timer.adaptive_autorange(0.1, min_run_time=min_seconds, max_run_time=5 * min_seconds)
    return _quartiles(timing.times)


def latencies(
    models: Mapping[str, nn.Module], example: _Example, *, threads: int = 1, rounds: int = 10
) -> dict[str, Latency]:
    """Time several models in turns, so that a busy moment of the machine hits them alike: compare these.

    Args:
        models: {name: model}; `example` and `threads` are as in `latency`, and so is what is raised.
        rounds: turns of each model, about a fiftieth of a second each.

    Returns:
        {name: median and quartiles over the turns}.

    Example:
        >>> list(latencies({"a": nn.ReLU(), "b": nn.Tanh()}, torch.rand(1, 4), rounds=2))
        ['a', 'b']
    """
    turns = [name for _ in range(check_count(rounds, "rounds")) for name in models]
    times: dict[str, list[float]] = {name: [] for name in models}
    for name in turns:
        times[name].append(latency(models[name], example, threads=threads, min_seconds=0.02).median)
    return {name: _quartiles(measured) for name, measured in times.items()}


def _quartiles(times: Sequence[float]) -> Latency:
    values = torch.tensor(times, dtype=torch.float64)
    low, median, high = values.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
    return Latency(median, low, high)


def format_count(count: float | int) -> str:
    """Format a count with three significant digits and a decimal prefix.

    Example:
        >>> format_count(1_818_000_000), format_count(640)
        ('1.82 G', '640')
    """
    return _with_prefix(count, "").rstrip()


def format_bytes(count: float | int) -> str:
    """Format a number of bytes with three significant digits in decimal units, 1 MB being 10^6 bytes.

    Example:
        >>> format_bytes(46_830_000)
        '46.8 MB'
    """
    return _with_prefix(count, "B")


def _with_prefix(count: float | int, unit: str) -> str:
    prefixes = ["", "k", "M", "G", "T"]
    while abs(count) >= 999.5 and len(prefixes) > 1:  # 999.6 would be written as 1000
        count /= 1000
        del prefixes[0]
    digits = 0 if prefixes[0] == "" or abs(count) >= 99.95 else 1 if abs(count) >= 9.995 else 2
    return f"{count:.{digits}f} {prefixes[0]}{unit}"


@contextlib.contextmanager
def _attention_in_parts() -> Iterator[None]:
    """Compute attention as separate matrix products: the flop counter cannot see into the fused inference kernel."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _trace(model: nn.Module, example: Tensor) -> Graph:
    """Trace the forward pass as a list of ATen operations on tensors that have shapes and storages but no values."""
    weights = dict(itertools.chain(model.named_parameters(), model.named_buffers()))
    # A dense tensor of its own: the example may be a few rows of a data set, whose storage is all of it.
    example = torch.empty_like(example)
    tracer = make_fx(
        lambda weights, example: torch.func.functional_call(model, weights, (example,)),
        tracing_mode="fake",
        _allow_non_fake_inputs=True,  # tensors that the model keeps as plain attributes
    )
    try:
        graph = tracer(weights, example).graph
        for node in graph.nodes:
            if not all(isinstance(size, int) for tensor in _tensors(node) for size in tensor.shape):
                raise ValueError(
                    f"the shape of the result of {node.target} depends on the values of its input"
                )
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no further explanation"
        raise ValueError(
            "the model cannot be traced, so its activation memory cannot be counted: "
            f"{type(error).__name__}: {reason}. A traceable forward() runs the same operations whatever the values: "
            "without `if` or loops over the values of tensors and without shapes that depend on them, also in hooks. "
            "Measure the part of the model that is free of them."
        ) from error
    return graph


def _tensors(node: Node) -> list[Tensor]:
    """List the (fake) tensors that a node of a traced graph stands for: one for most, several for a split."""
    return [value for value in tree_leaves(node.meta.get("val")) if isinstance(value, Tensor)]


def _storages(nodes: Iterable[Node]) -> dict[int, int]:
    """Find the storages behind the tensors of some nodes, and their sizes in bytes."""
    storages = [tensor.untyped_storage() for node in nodes for tensor in _tensors(node)]
    return {storage._cdata: storage.nbytes() for storage in storages}


def _peak_bytes(graph: Graph) -> int:
    """Find the most bytes of activations alive at any operation of a traced forward pass (see `measure`).

    Not counted, because the graph does not show them: the allocator's rounding and slack, the scratch space of
    convolution algorithms, and memory inside one ATen operation. Not counted either are side results that nothing
    reads, such as the indices of max pooling: PyTorch's eager mode makes them for a backward pass that never comes.
    """
    *weights, example = graph.find_nodes(op="placeholder")
    constants = graph.find_nodes(op="get_attr")
    # operator.getitem only picks one result of the operation before it.
    operations = [n for n in graph.nodes if n.op == "call_function" and n.target is not operator.getitem]
    (output,) = graph.find_nodes(op="output")

    not_activations = set(_storages([*weights, *constants]))
    size = _storages([example])
    birth = dict.fromkeys(size, 0)  # step 0 is before the first operation
    death = dict.fromkeys(size, 0)
    for step, operation in enumerate(operations, start=1):
        inputs, results = _storages(operation.all_input_nodes), _storages([operation])
        if getattr(operation.target, "is_view", False) and not_activations.issuperset(inputs):
            not_activations.update(results)  # a view of a constant
        for storage in results:
            birth.setdefault(storage, step)
        for storage in [*inputs, *results] if len(results) == 1 else inputs:
            death[storage] = step
        size |= results
    death |= dict.fromkeys(_storages(output.all_input_nodes), len(operations))

    change = [0] * (len(operations) + 2)
    for storage in (birth.keys() & death.keys()) - not_activations:
        change[birth[storage]] += size[storage]
        change[death[storage] + 1] -= size[storage]
    return max(itertools.accumulate(change))


def _without_aliases(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Keep each tensor once, under the first of its names in the alphabet; map the other names to it."""
    first: dict[tuple, str] = {}
    kept, dropped = {}, {}
    for name in sorted(tensors):
        tensor = tensors[name]
        alias = (tensor.device, tensor.data_ptr() or name, tensor.dtype, tensor.shape, tensor.stride())
        if first.setdefault(alias, name) == name:
            kept[name] = tensor
        else:
            dropped[name] = first[alias]
    return kept, dropped


def _stored_bytes(model: nn.Module) -> int:
    """Compute the size of the file that `safetensors.torch.save_model` writes.

    A shared tensor is stored once, its other names as notes in the header.
    """
    state = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    kept, dropped = _without_aliases(state)
    uses = Counter(value.untyped_storage().data_ptr() for value in kept.values())
    for name, value in kept.items():
        if uses[value.untyped_storage().data_ptr()] > 1:  # parts of one storage, stored each as its own
            kept[name] = value.clone()
    return len(safetensors.torch.save({k: v.contiguous() for k, v in kept.items()}, dropped or None))


def _benchmark_timer() -> type:
    """Import `torch.utils.benchmark.Timer` when it is first needed: the import takes a third of a second.

    It also imports the compiler tools of PyTorch, which warn where CUDA is installed and no GPU is present. Nothing is
    compiled here, so that warning would only puzzle the reader of a notebook.
    """
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        from torch.utils.benchmark import Timer
    finally:
        logger.setLevel(level)
    return Timer
