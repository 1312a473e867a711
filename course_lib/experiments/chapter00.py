"""Chapter 00: what a network costs, counted and timed by hand, and what accuracy its width buys."""

import copy
import io
import statistics
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from course_lib import cost, models, training
from course_lib.data import Dataset
from course_lib.experiments.common import cut, example_of, glyphs, judged
from course_lib.experiments.experiment import Experiment, Run, Scale
from course_lib.training import Recipe

__all__ = [
    "BASE_WIDTHS",
    "WIDTHS",
    "chain_peak",
    "chain_sizes",
    "checkpoint_bytes",
    "conv_macs",
    "kept_for_training",
    "layer_costs",
    "memory_over_time",
    "ratios",
    "time_in_turns",
    "vgg_widths",
    "with_zeros",
]


# The method, as the chapter shows it


def layer_costs(model, example):
    """Parameters, MACs and output values of each convolution and linear layer, in one forward pass."""
    rows = []

    def note(layer, inputs, output):
        parameters = sum(p.numel() for p in layer.parameters())
        values = output.numel()
        macs = values * layer.weight[0].numel()  # weight[0]: one filter or row, which makes one value
        rows.append({"layer": type(layer).__name__, "parameters": parameters, "macs": macs, "values": values})

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    training = model.training
    with torch.no_grad():
        model.eval()(example)  # in train mode batch norm would learn from this image
    for hook in hooks:
        hook.remove()
    model.train(training)
    return rows


def time_in_turns(cases, *, rounds=15, calls=10):
    """The median time of a call, in seconds, for each of {name: (network, example)} in each round."""
    seconds = {name: [] for name in cases}
    with torch.inference_mode():  # no gradients
        for network, example in cases.values():
            network.eval()  # dropout off, batch norm left alone
            for _ in range(calls):
                network(example)  # warm-up, not counted
        for _ in range(rounds):
            for name, (network, example) in cases.items():  # in turns: a busy moment falls on all of them
                taken = []
                for _ in range(calls):
                    start = time.perf_counter()
                    network(example)
                    taken.append(time.perf_counter() - start)
                seconds[name].append(statistics.median(taken))
    return seconds


def ratios(seconds, to):
    """The time of each network relative to one of them: the median of what the rounds say, one by one.

    Example:
        >>> ratios({"a": [1.0, 2.0, 9.0], "b": [3.0, 6.0, 9.0]}, to="a")
        {'a': 1.0, 'b': 3.0}
    """
    pairs = {name: zip(times, seconds[to], strict=True) for name, times in seconds.items()}
    return {name: statistics.median(own / base for own, base in pair) for name, pair in pairs.items()}


# Memory


class Recorder(TorchDispatchMode):
    """Notes what every operation reads and makes. The notes keep all tensors alive, so no address is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any]] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = operation(*args, **(kwargs or {}))
        self.operations.append((args, made))
        return made


def storages(anything: Any) -> dict[int, int]:
    """The pieces of memory behind all tensors in it: {address: bytes}. A view shares the piece of its base."""
    tensors = [leaf for leaf in tree_leaves(anything) if isinstance(leaf, Tensor)]
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}


def memory_over_time(model: nn.Module, example: Tensor) -> list[int]:
    """Bytes of activations alive at each operation of a forward pass; the largest is what `cost.measure` gives.

    Example:
        >>> memory_over_time(nn.Sequential(nn.ReLU(), nn.Linear(10, 5)), torch.rand(2, 10))[0]
        160
    """
    with torch.no_grad(), Recorder() as recorder:
        output = model(example)
    size = storages(example)
    birth, death = dict.fromkeys(size, 0), dict[int, int]()
    for step, (read, made) in enumerate(recorder.operations):
        size |= storages(made)
        for piece in storages(made):
            birth.setdefault(piece, step)
        for piece in storages(read):
            death[piece] = step  # the last reader so far
    last = len(recorder.operations) - 1
    death |= dict.fromkeys(storages(output), last)
    weights = storages([list(model.parameters()), list(model.buffers())])
    activations = (birth.keys() & death.keys()) - weights.keys()
    return [sum(size[a] for a in activations if birth[a] <= step <= death[a]) for step in range(last + 1)]


def kept_for_training(model: nn.Module, example: Tensor) -> int:
    """Bytes of activations that a forward pass keeps for the backward pass.

    Example:
        >>> kept_for_training(nn.Linear(10, 5), torch.rand(2, 10).requires_grad_())  # its input
        80
    """
    kept = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(example)
    pieces, weights = storages(kept), storages([list(model.parameters()), list(model.buffers())])
    return sum(pieces[piece] for piece in pieces.keys() - weights.keys())


def vgg_widths(base: int) -> tuple[int | str, ...]:
    """The widths of the course's VGG at another scale; 32 is the course's own.

    Example:
        >>> vgg_widths(8)
        (8, 8, 'M', 16, 16, 'M', 32, 32)
    """
    return (base, base, "M", 2 * base, 2 * base, "M", 4 * base, 4 * base)


def chain_sizes(side: int, base: int = 32) -> list[int]:
    """The number of values in each tensor of the course's VGG on a grey image of side x side, as a chain.

    A convolution makes one, and so do the batch norm behind it and a pooling; ReLU works in place.

    Example:
        >>> chain_sizes(16, base=1)
        [256, 256, 256, 256, 256, 64, 128, 128, 128, 128, 32, 64, 64, 64, 64, 4, 10]
    """
    sizes, channels, pixels = [side**2], 1, side**2
    for width in vgg_widths(base):
        if isinstance(width, str):
            pixels //= 4
            sizes.append(channels * pixels)
        else:
            channels = width
            sizes += [channels * pixels] * 2
    return [*sizes, channels, 10]


# Variants of a network, and what gets called its size


def with_zeros(network: nn.Module, share: float, *, at_random: bool = False) -> nn.Module:
    """A copy in which so many of the weights, the smallest of all layers together, are zero; biases and norms stay.

    As a control the weights that become zero can be drawn at random.

    Example:
        >>> with_zeros(nn.Linear(10, 4), 0.5).weight.count_nonzero()
        tensor(20)
    """
    pruned = copy.deepcopy(network)
    weights = [parameter.data for parameter in pruned.parameters() if parameter.ndim > 1]
    generator = torch.Generator().manual_seed(0)
    ranks = [torch.rand(w.shape, generator=generator) if at_random else w.abs() for w in weights]
    threshold = torch.cat([rank.flatten() for rank in ranks]).quantile(share)
    for weight, rank in zip(weights, ranks, strict=True):
        weight *= rank >= threshold
    return pruned


def checkpoint_bytes(network: nn.Module, example: Tensor) -> int:
    """Bytes of a file to go on training from: weights and the state of Adam, which holds two numbers for each."""
    trained, buffer = copy.deepcopy(network).train(), io.BytesIO()
    optimizer = torch.optim.Adam(trained.parameters())
    trained(example).sum().backward()
    optimizer.step()
    torch.save({"model": trained.state_dict(), "optimizer": optimizer.state_dict()}, buffer)
    return buffer.tell()


# What the exercises ask for, where they are not written yet


def conv_macs(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    height: int,
    width: int,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> int:
    """Multiply-accumulates of a convolution on one image, as the library counts them.

    Example:
        >>> conv_macs(1, 2, 3, 4, 4, padding=1)
        288
    """
    layer = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups)
    return cost.macs(layer, torch.zeros(1, in_channels, height, width))


def chain_peak(sizes: Sequence[int], shortcut: tuple[int, int] | None = None) -> int:
    """The most bytes alive at one step of a chain of float32 tensors without a shortcut.

    Example:
        >>> chain_peak([16, 32, 8, 3])
        192
    """
    return 4 * max(one + other for one, other in pairwise(sizes))


# The experiment of the main line: what does width buy?

BASE_WIDTHS = (2, 4, 8, 16, 32)
"""Channels of the first layer; the others follow."""


def prepare(runs: Sequence[Run], scale: Scale) -> tuple[Dataset, Scale]:
    """Read the glyphs."""
    return cut(glyphs(), scale), scale


def measure(run: Run, shared: tuple[Dataset, Scale], method: Any) -> dict[str, Any]:
    """Train the course's VGG at one width and judge it."""
    dataset, scale = shared
    network = models.build("vgg", widths=vgg_widths(run["base"]), seed=run["seed"])
    epochs = scale.epochs(run["epochs"], images=len(dataset.train), batch_size=128)
    recipe = Recipe(epochs=epochs, augment="shift", channels_last=True, seed=run["seed"])
    training.fit(network, dataset, recipe)
    network = network.to(memory_format=torch.contiguous_format)
    counted = cost.measure(network, example_of(dataset))
    return {"parameters": counted.parameters, "macs": counted.macs, **judged(network, dataset)}


WIDTHS = Experiment(
    "00-widths",
    tuple({"base": base, "seed": seed} for base in BASE_WIDTHS for seed in range(5)),
    measure,
    prepare,
    defaults={"epochs": 6},
    live=(5,),
    seed="initial weights, order of the images and their shifts",
)
"""The course's VGG at five widths, each trained for the same epochs on all images."""
