"""Removing half of the channels of every group: seconds and extra memory, beside Torch-Pruning."""

import copy
import statistics
import time
import warnings
from collections.abc import Callable, Iterator

import torch
import torch_pruning
import torchvision
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from course_lib.pruning.graph import channel_groups
from course_lib.pruning.surgery import remove_channels
from tests.benchmarks.row import Row

GOAL_SPEED = 1.0  # the aim is 3
GOAL_COPIES = 1.0
_NAMES = ("resnet50", "mobilenet_v2", "densenet121")
Plan = dict[str, list[int]]


def against_torch_pruning(repeats: int) -> Iterator[Row]:
    """Both sides find the groups and give a new network; the plan is made beforehand. Then the memory of each."""
    for name in _NAMES:
        model = torchvision.models.get_model(name, weights=None).eval()
        example = torch.rand(1, 3, 64, 64)
        plan = _half(model, example)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield _speed(name, model, example, plan, repeats)
            yield _memory(name, model, example, plan)


def _half(model: nn.Module, example: Tensor) -> Plan:
    """A random half of the units of every group, named at the first layer of each."""
    generator = torch.Generator().manual_seed(0)
    plan: Plan = {}
    for group in channel_groups(model, example):
        units = torch.randperm(group.size, generator=generator)[: group.size // 2]
        if len(units):
            layer = group.producers[0].layer
            plan.setdefault(layer, []).extend(group.channels(units)[layer].tolist())
    return plan


def _theirs(model: nn.Module, example: Tensor, plan: Plan) -> nn.Module:
    model = copy.deepcopy(model)
    graph = torch_pruning.DependencyGraph().build_dependency(model, example)
    modules = dict(model.named_modules())
    for layer, indices in plan.items():
        prune = graph.get_pruner_of_module(modules[layer]).prune_out_channels
        graph.get_pruning_group(modules[layer], prune, idxs=list(indices)).prune()
    return model


def _speed(name: str, model: nn.Module, example: Tensor, plan: Plan, repeats: int) -> Row:
    """Run both sides in turn; the first pair warms up."""
    runs = []
    for repeat in range(repeats + 1):
        sides = (remove_channels, _theirs) if repeat % 2 else (_theirs, remove_channels)
        seconds = {}
        for side in sides:
            started = time.perf_counter()
            side(model, example, plan)
            seconds[side] = time.perf_counter() - started
        if repeat:
            runs.append((seconds[remove_channels], seconds[_theirs]))
    ours, theirs = (statistics.median(side) for side in zip(*runs, strict=True))
    ratio = theirs / ours
    return Row(
        f"half of the channels of {name} / Torch-Pruning",
        f"{ours * 1000:,.0f} ms",
        f"{theirs * 1000:,.0f} ms",
        f"{ratio:.2f}",
        f">= {GOAL_SPEED:.2f}",
        "yes" if ratio >= GOAL_SPEED else "no",
    )


def _memory(name: str, model: nn.Module, example: Tensor, plan: Plan) -> Row:
    """The most that new tensors held at one time, the new network among them, in copies of the old one."""
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    ours, theirs = (_peak(side, model, example, plan) / size for side in (remove_channels, _theirs))
    return Row(
        f"extra memory for {name}, in copies of it",
        f"{ours:.2f}",
        f"{theirs:.2f}",
        f"{ours / theirs:.2f}",
        f"<= {GOAL_COPIES:.2f} ours",
        "yes" if ours <= GOAL_COPIES else "no",
    )


class _Allocations(TorchDispatchMode):
    """Follows the storages that operations make, and forgets those that are freed."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in self.known:
                storage = tensor.untyped_storage()
                self.alive[storage.data_ptr()] = (StorageWeakRef(storage), storage.nbytes())
        self.alive = {key: entry for key, entry in self.alive.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return result


def _peak(side: Callable, model: nn.Module, example: Tensor, plan: Plan) -> int:
    with _Allocations(model) as allocations:
        side(model, example, plan)
    return allocations.peak
