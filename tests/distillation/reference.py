"""A second implementation in plain NumPy, in float64 and position by position, and random logits to try it on."""

import math

import numpy as np
import torch


def random_logits(*shape, seed=0, dtype=torch.float64, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype)


def soften(row, temperature):
    powers = [math.exp((z - max(row)) / temperature) for z in row]
    return [power / sum(powers) for power in powers]


def divergence(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def cross_entropy(row, target):
    """With a class index, or with a list of probabilities."""
    q = soften(row, 1.0)
    if isinstance(target, list):
        return -sum(a * math.log(b) for a, b in zip(target, q, strict=True))
    return -math.log(q[target])


def mean_loss(student, teacher, targets, temperature, alpha, ignored=None):
    """The distillation loss over lists of positions, each a list of logits; mean over those that count."""
    total, count = 0.0, 0
    for s, t, target in zip(student, teacher, targets, strict=True):
        if ignored is not None and target == ignored:
            continue
        soft = divergence(soften(t, temperature), soften(s, temperature))
        total += (alpha and alpha * cross_entropy(s, target)) + (1 - alpha) * temperature**2 * soft
        count += 1
    return total / count


def positions(logits, class_axis):
    """A tensor as a list of positions, in the order of its labels, read off index by index."""
    array = logits.double().numpy()
    others = [size for axis, size in enumerate(array.shape) if axis != class_axis]
    found = []
    for place in np.ndindex(*others):
        index = (*place[:class_axis], slice(None), *place[class_axis:])
        found.append([float(z) for z in array[index]])
    return found


def decoupled(student, teacher, target, temperature):
    """TCKD, NCKD and the certainty of one position, from probabilities as in the paper."""
    q, p = soften(student, temperature), soften(teacher, temperature)
    binary = divergence([p[target], 1 - p[target]], [q[target], 1 - q[target]])
    others = [[r[i] / (1 - r[target]) for i in range(len(r)) if i != target] for r in (p, q)]
    return binary, divergence(*others), p[target]


def lumped(student, teacher, k, temperature):
    """The divergence of one position over the teacher's k most probable classes and the sum of the others."""
    q, p = soften(student, temperature), soften(teacher, temperature)
    kept = sorted(range(len(p)), key=lambda i: -p[i])[:k]
    parts = [[r[i] for i in kept] + [sum(r[i] for i in range(len(r)) if i not in kept)] for r in (p, q)]
    return divergence(*parts) if k < len(p) else divergence(parts[0][:-1], parts[1][:-1])
