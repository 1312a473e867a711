r"""KL divergence of softened logits, right at every temperature.

At an ordinary temperature the textbook's order of operations is precise: divide, take log-softmax, sum. At a very high
one the two distributions are nearly uniform, their logarithms nearly equal, and the difference is lost in rounding; at
a very low one :math:`z / T` overflows. Both are avoided here, for float64 [M, K].
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.distillation import _checks

_FLAT = 1e15
"""Here the loss has reached its limit for T to infinity, to the last digit of float32."""


def softened(logits: Tensor, temperature: float, dim: int) -> Tensor:
    """Softmax at any temperature, in the dtype that `_checks.widened` chose."""
    return torch.softmax(_over(logits, temperature, dim), dim=dim)


def log_softened(logits: Tensor, temperature: float, dim: int) -> Tensor:
    """The logarithm of `softened`; -infinity where that is 0 in float64."""
    return torch.log_softmax(_over(logits, temperature, dim), dim=dim)


def _over(logits: Tensor, temperature: float, dim: int) -> Tensor:
    """z / T, or (z - max) / T where z / T could overflow: it has the same softmax."""
    if _checks.is_ordinary(temperature):
        return logits / temperature
    return _centred(logits, dim) / temperature


def scaled_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    r"""Compute :math:`T^2 \, \mathrm{KL}(\text{teacher}_T \,\|\, \text{student}_T)` of each row at any T > 0.

    With p the teacher's probabilities, d = student - teacher and u = (d - E_p[d]) / T,

        KL = log E_p[exp(u)] = log(1 + E_p[exp(u) - 1 - u]),

    since E_p[u] = 0. Small u, from a large T or from a student near its teacher, lose nothing here. Large u take the
    definition, with logarithms of probabilities that are multiplied by T, and so stay finite for T to 0.
    """
    temperature = min(temperature, _FLAT)
    p = softened(teacher, temperature, 1)
    difference = _centred(student, 1) - _centred(teacher, 1)
    u = (difference - (p * difference).sum(dim=1, keepdim=True)) / temperature
    if u.detach().abs().max() < 0.1:
        return temperature**2 * torch.log1p((p * _exp_after_first(u)).sum(dim=1))
    logs = [_scaled_log(logits, temperature) for logits in (teacher, student)]
    return temperature * (p * (logs[0] - logs[1])).sum(dim=1)


def divergence_of_logs(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of each row, from logits that are divided by T already: [M, K], [M, K] -> [M]."""
    logs = F.log_softmax(student, dim=1), F.log_softmax(teacher, dim=1)
    return F.kl_div(*logs, reduction="none", log_target=True).sum(dim=1)


def _centred(logits: Tensor, dim: int) -> Tensor:
    return logits - logits.detach().amax(dim=dim, keepdim=True)


def _scaled_log(logits: Tensor, temperature: float) -> Tensor:
    """T times the log-probabilities: z - max - T log sum exp((z - max) / T), each term of the size of the logits."""
    z = _centred(logits, 1)
    return z - temperature * torch.logsumexp(z / temperature, dim=1, keepdim=True)


def _exp_after_first(u: Tensor) -> Tensor:
    """exp(u) - 1 - u for |u| < 0.1, by its series: as a difference it would lose the digits of a small u."""
    series = torch.zeros_like(u)
    for power in range(11, 1, -1):
        series = series * u + 1 / math.factorial(power)
    return u.square() * series
