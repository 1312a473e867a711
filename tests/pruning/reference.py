"""What a pruned network has to compute, worked out without the code that prunes."""

import copy

import numpy as np
import torch
from torch import Tensor, nn

from course_lib.pruning.graph import ChannelGroup

Norm = nn.modules.batchnorm._NormBase


class Net(nn.Module):
    """A network whose forward pass is the given function of the network and its input."""

    def __init__(self, function, **members):
        super().__init__()
        self.function = function
        for name, member in members.items():
            setattr(self, name, member)

    def forward(self, x):
        return self.function(self, x)


def liven(model: nn.Module, example: Tensor, seed: int = 0) -> nn.Module:
    """Random values in every parameter and statistic, such that all signals are of order 1 and no column is idle."""
    generator = torch.Generator().manual_seed(seed)

    def fill(tensor, low, high):
        tensor.copy_(torch.empty_like(tensor).uniform_(low, high, generator=generator))

    seen = set()

    def rescale(layer, inputs, output):
        if layer in seen:
            return output
        seen.add(layer)
        size = output.std().clamp_min(1e-3)
        layer.weight /= size
        if layer.bias is not None:
            layer.bias /= size
        return output / size

    def observe(layer, inputs):
        if layer.running_mean is None or layer in seen:
            return
        seen.add(layer)
        axes = [axis for axis in range(inputs[0].ndim) if axis != 1]
        layer.running_mean += inputs[0].mean(axes)
        layer.running_var *= inputs[0].var(axes, correction=0) + 0.1

    with torch.no_grad():
        weighted = {
            layer: layer.weight
            for layer in model.modules()
            if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)
        }
        for parameter in model.parameters():
            if not any(parameter is weight for weight in weighted.values()):
                fill(parameter, 0.5, 1.5)
        for layer in model.modules():
            if isinstance(layer, Norm) and layer.running_mean is not None:
                fill(layer.running_mean, -0.5, 0.5)
                fill(layer.running_var, 0.5, 1.5)
        handles = [layer.register_forward_hook(rescale) for layer in weighted]
        handles += [
            layer.register_forward_pre_hook(observe) for layer in model.modules() if isinstance(layer, Norm)
        ]
        mode = model.training
        model.eval()
        noise = torch.randn(4, *example.shape[1:], generator=generator, dtype=torch.float64)
        model(noise.to(example.dtype))
        model.train(mode)
    for handle in handles:
        handle.remove()
    return model


def random_plan(
    groups: list[ChannelGroup], rng: np.random.Generator, share: float | None = None
) -> dict[str, list[int]]:
    """Random units of random groups, each group addressed through a random one of its producers and followers.

    With `share`, that share of the units of every group; at least one channel of every layer stays.
    """
    plan: dict[str, list[int]] = {}
    for group in groups:
        outputs = group.producers + group.followers
        address = outputs[rng.integers(len(outputs))]
        available = np.setdiff1d(address.units.numpy(), [-1])
        if share is None:
            count = rng.integers(0, len(available)) if rng.random() < 0.8 else 0
        else:
            count = min(int(share * group.size), len(available) - 1)
        gone = set(rng.permutation(available)[:count].tolist())
        for axis in group.axes:
            own = set(axis.units.tolist()) - {-1}
            if own and own <= gone and (axis.units >= 0).all():
                gone.discard(min(own))
        indices = []
        for unit in gone:
            places = np.flatnonzero(address.units.numpy() == unit)
            # One index names its whole unit; sometimes all of them are given.
            indices += places.tolist() if rng.random() < 0.5 else [int(rng.choice(places))]
        if indices:
            plan.setdefault(address.layer, []).extend(rng.permutation(indices).tolist())
    return plan


def removed_units(groups: list[ChannelGroup], plan: dict[str, list[int]]) -> list[set[int]]:
    """The units of each group that the plan names."""
    gone: list[set[int]] = [set() for _ in groups]
    for units, group in zip(gone, groups, strict=True):
        for axis in group.producers + group.followers:
            if axis.layer in plan:
                units |= set(axis.units[plan[axis.layer]].tolist()) - {-1}
    return gone


def zeroed(model: nn.Module, groups: list[ChannelGroup], plan: dict[str, list[int]]) -> nn.Module:
    """A copy of the whole network in which every reader of the channels has zeros for them.

    Layer and group norm are replaced by ones that take their statistics over the channels that stay.
    """
    model = copy.deepcopy(model)
    kept: dict[str, Tensor] = {}
    for group, gone in zip(groups, removed_units(groups, plan), strict=True):
        marks = {axis: torch.isin(axis.units, torch.tensor(sorted(gone))) for axis in group.axes}
        for axis in group.consumers:
            layer = model.get_submodule(axis.layer)
            names = ("weight", "in_proj_weight", "weight_ih", "weight_ih_l0", "weight_ih_l0_reverse")
            for weight in (getattr(layer, name, None) for name in names):
                if weight is not None:
                    with torch.no_grad():
                        weight.index_fill_(axis.axis, marks[axis].nonzero()[:, 0], 0)
        for axis in group.followers:
            kept[axis.layer] = kept.get(axis.layer, torch.tensor(True)) & ~marks[axis]
    for name, keep in kept.items():
        if name in dict(model.named_parameters()) or name in dict(model.named_buffers()):
            continue
        layer = model.get_submodule(name)
        if isinstance(layer, nn.LayerNorm | nn.GroupNorm | nn.RMSNorm) and not keep.all():
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, _NormOfKept(layer, keep))
    return model


class _NormOfKept(nn.Module):
    """Layer norm or group norm with mean and deviation of some channels alone."""

    def __init__(self, layer: nn.Module, keep: Tensor):
        super().__init__()
        self.layer, self.keep = layer, keep

    def forward(self, x):
        layer = self.layer
        if isinstance(layer, nn.GroupNorm):
            groups = layer.num_groups
            keep = self.keep.reshape(groups, -1, *[1] * (x.ndim - 2)).to(x.dtype)
            parts = x.reshape(x.size(0), groups, -1, *x.shape[2:])
            axes = tuple(range(2, parts.ndim))
            shape = [-1] + [1] * (x.ndim - 2)
        else:
            channels_first = type(layer).__name__ == "LayerNorm2d"
            parts = x.movedim(1, -1) if channels_first else x
            keep, axes, shape, groups = self.keep.to(x.dtype), (-1,), [-1], None
        count = keep.expand(parts.shape).sum(axes, keepdim=True).clamp_min(1)
        mean = (parts * keep).sum(axes, keepdim=True) / count
        if isinstance(layer, nn.RMSNorm):
            mean = torch.zeros_like(mean)
        variance = ((parts - mean) ** 2 * keep).sum(axes, keepdim=True) / count
        normal = (parts - mean) / (variance + (layer.eps or torch.finfo(x.dtype).eps)).sqrt()
        if groups is not None:
            normal = normal.reshape(x.shape)
        if layer.weight is not None:
            normal = normal * layer.weight.reshape(shape) + (
                layer.bias.reshape(shape) if getattr(layer, "bias", None) is not None else 0
            )
        return normal.movedim(-1, 1) if groups is None and channels_first else normal
