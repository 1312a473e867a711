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
from tests.benchmarks.row import Row, spread

GOAL_SPEED = 1.0  # the aim is 3
GOAL_MEDIAN = 2.0
GOAL_COPIES = 1.0
_NAMES = ("resnet50", "mobilenet_v2", "densenet121")
# A small and a large one of each family of torchvision, as far as both sides may do them.
_FAMILIES = (
    *("alexnet", "vgg11_bn", "vgg13", "squeezenet1_0", "squeezenet1_1"),
    *("resnet18", "resnet34", "resnext50_32x4d", "wide_resnet50_2", "regnet_x_400mf", "regnet_y_800mf"),
    *("densenet121", "densenet169", "googlenet", "inception_v3"),
    *("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "mnasnet0_75", "mnasnet1_3"),
    *("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "efficientnet_b0", "efficientnet_b1", "efficientnet_v2_s"),
    *("convnext_tiny", "convnext_small"),
)
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


def of_every_family(repeats: int) -> Iterator[Row]:
    """Our time beside Torch-Pruning's on networks of every family; then the median and the least of the ratios."""
    ratios = {}
    for name in _FAMILIES:
        options = (
            {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
        )
        model = torchvision.models.get_model(name, weights=None, **options).eval()
        size = 96 if name == "inception_v3" else 64
        example = torch.rand(1, 3, size, size)
        plan = _half(model, example)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                row = _speed(name, model, example, plan, repeats)
                ratios[name] = float(row.ratio)
            except ZeroDivisionError:  # of Torch-Pruning, at the shuffle
                row = _ours_alone(name, model, example, plan, repeats)
        yield row
    yield _over_all("median", statistics.median(ratios.values()), "", GOAL_MEDIAN)
    least = min(ratios, key=ratios.get)
    yield _over_all("least", ratios[least], f" ({least})", GOAL_SPEED)


def _over_all(what: str, ratio: float, which: str, goal: float) -> Row:
    return Row(
        f"half of the channels, {what} of the families{which}",
        "",
        "",
        f"{ratio:.2f}",
        f">= {goal:.2f}",
        "yes" if ratio >= goal else "no",
    )


def _ours_alone(name: str, model: nn.Module, example: Tensor, plan: Plan, repeats: int) -> Row:
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        remove_channels(model, example, plan)
        seconds.append(time.perf_counter() - started)
    ours = statistics.median(seconds[1:])
    return Row(
        f"half of the channels of {name} / Torch-Pruning", f"{ours * 1000:,.0f} ms", "fails", "", "", "yes"
    )


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
    ratios = [their / our for our, their in runs]
    ratio = statistics.median(ratios)
    return Row(
        f"half of the channels of {name} / Torch-Pruning",
        f"{ours * 1000:,.0f} ms",
        f"{theirs * 1000:,.0f} ms",
        f"{ratio:.2f}",
        f">= {GOAL_SPEED:.2f}",
        "yes" if ratio >= GOAL_SPEED else "no",
        spread(ratios),
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
