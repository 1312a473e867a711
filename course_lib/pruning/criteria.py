"""Score filters: one number for each output channel, the lowest going first.

Scores are added up in float64, whatever the dtype of the weight: nothing overflows, and int8's -128 has a magnitude.
Integers beyond 2^53 are rounded to float64 first.
"""

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Shaped
from torch import Tensor, nn

from course_lib.validation import check_count, check_dense, described

_EXACT = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""dtypes whose _magnitudes are compared as they are; all others go to float64 first."""


def l1_norm(weight: Shaped[Tensor, "C_out *rest"]) -> Float64[Tensor, "C_out"]:
    r"""Sum the _magnitudes of each filter.

    .. math:: s_i = \sum_j |w_{ij}|

    Args:
        weight: of a convolution [C_out, C_in / groups, k, ...] or linear layer [C_out, C_in], any real dtype. (A
            transposed convolution has its input channels first; give `weight.transpose(0, 1)`.)

    Returns:
        float64 [C_out], on the device of the weight, without gradient.

    Raises:
        TypeError: not a dense tensor of real numbers (complex, boolean or sparse ones are not).
        ValueError: fewer than two dimensions, empty, or holding NaN.

    Example:
        >>> l1_norm(torch.tensor([[1.0, -2.0], [0.5, 0.0]]))
        tensor([3.0000, 0.5000], dtype=torch.float64)

    References:
        Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, section 3.1.
    """
    return torch.linalg.vector_norm(_rows(weight), ord=1, dim=1, dtype=torch.float64)


def l2_norm(weight: Shaped[Tensor, "C_out *rest"]) -> Float64[Tensor, "C_out"]:
    r"""Compute the Euclidean length of each filter.

    .. math:: s_i = \sqrt{\sum_j w_{ij}^2}

    Args:
        weight: as for `l1_norm`.

    Returns:
        float64 [C_out], on the device of the weight, without gradient.

    Raises:
        TypeError, ValueError: as `l1_norm`.

    Example:
        >>> l2_norm(torch.tensor([[3.0, -4.0], [1.0, 0.0]]))
        tensor([5., 1.], dtype=torch.float64)

    References:
        He et al., "Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks", IJCAI 2018, eq. 2.
    """
    return torch.linalg.vector_norm(_rows(weight), ord=2, dim=1, dtype=torch.float64)


def random_scores(
    weight: Shaped[Tensor, "C_out *rest"], generator: torch.Generator
) -> Float64[Tensor, "C_out"]:
    """Draw a score for each filter by chance: the control for every criterion.

    Args:
        weight: as for `l1_norm`; only its shape and device matter.
        generator: decides the scores; the same state gives the same ones.

    Returns:
        float64 [C_out], uniform in [0, 1), on the device of the weight.

    Raises:
        TypeError: `generator` is not a torch.Generator; else as `l1_norm`.
        ValueError: as `l1_norm`.

    Example:
        >>> scores = random_scores(torch.ones(4, 2), torch.Generator().manual_seed(0))
        >>> len(scores), bool(((scores >= 0) & (scores < 1)).all())
        (4, True)
    """
    count = len(_rows(weight))
    _check_generator(generator)
    scores = torch.rand(count, generator=generator, device=generator.device, dtype=torch.float64)
    return scores.to(weight.device)


def bn_scale(bn: nn.Module) -> Float[Tensor, "C"]:
    r"""Return the magnitude of each channel's scale in a batch norm.

    .. math:: s_i = |\gamma_i|

    Args:
        bn: a batch norm layer with learned scales (`affine=True`).

    Returns:
        [C], in the dtype and on the device of gamma, without gradient.

    Raises:
        TypeError: no batch norm.
        ValueError: it has no scales, or they hold NaN.

    Example:
        >>> bn_scale(nn.BatchNorm2d(3))
        tensor([1., 1., 1.])

    References:
        Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017, section 3.
    """
    if not isinstance(bn, nn.modules.batchnorm._BatchNorm):
        raise TypeError(f"bn is {described(bn)}; it must be a batch norm layer such as model.features[1].")
    if bn.weight is None:
        raise ValueError(
            "this batch norm has no gamma (affine=False), so its channels cannot be scored; it must have one. Score "
            "the convolution before it with l1_norm."
        )
    return _magnitudes(bn.weight, "gamma")


def lowest(scores: Shaped[Tensor, "n"], count: int) -> Int64[Tensor, "count"]:
    """Find the `count` lowest scores; of equal scores the one with the lower index comes first.

    Args:
        scores: [n], real numbers.
        count: how many, from 0 to n.

    Returns:
        int64 [count], ascending, on the device of the scores.

    Raises:
        TypeError: scores are not a tensor of real numbers, or count is not an int.
        ValueError: scores are empty, not one-dimensional or hold NaN; count is outside [0, n].

    Example:
        >>> lowest(torch.tensor([3.0, 1.0, 2.0, 1.0]), 2)
        tensor([1, 3])
    """
    _check_weight(scores, "scores")
    if scores.ndim != 1:
        raise ValueError(
            f"scores has shape {list(scores.shape)}; it must be [n], one number for each thing to be ranked. "
            "Flatten it first."
        )
    check_count(count, "count", low=0, high=len(scores))
    return _is_lowest(scores.detach(), count).nonzero().flatten()


# ---- for the modules of this package


def _is_lowest(scores: Tensor, count: int) -> Tensor:
    """Mark the `count` lowest of the checked scores [n], ties by index: bool [n], in linear time on the CPU."""
    if count == 0:
        return torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    if scores.device.type == "cpu":
        # NumPy selects in linear time even at worst, where torch.kthvalue is quadratic; and it knows no bfloat16.
        values = scores.float() if scores.dtype == torch.bfloat16 else scores
        last = np.partition(values.numpy(), count - 1)[count - 1].item()
    else:
        last = scores.sort().values[count - 1]
    chosen = scores < last
    ties = (scores == last).nonzero().flatten()  # ascending
    chosen[ties[: count - int(chosen.sum())]] = True
    return chosen


def _check_weight(weight: object, name: str) -> Tensor:
    """Return `weight` if it is a dense tensor of real numbers, not empty and without NaN.

    Raises:
        TypeError: not a dense tensor of real numbers (complex, boolean or sparse ones are not).
        ValueError: empty, or holding NaN.
    """
    check_dense(weight, name)
    if weight.is_complex() or weight.dtype == torch.bool:
        remedy = "Take its .abs()." if weight.is_complex() else "Call .float() on it."
        raise TypeError(f"{name} has dtype {weight.dtype}; it must hold real numbers, float or int. {remedy}")
    if weight.is_floating_point() and torch.isnan(weight.detach()).any():
        raise ValueError(
            f"{name} holds NaN, which is neither large nor small; all its numbers must be either. Look for a diverged "
            "network: lower the learning rate and train again."
        )
    return weight


def _check_generator(generator: object) -> torch.Generator:
    """Return `generator` if it is one.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator is {generator!r:.80} ({type(generator).__name__}); it must be a torch.Generator, such as "
            "torch.Generator().manual_seed(0)."
        )
    return generator


def _magnitudes(weight: Tensor, name: str) -> Tensor:
    """|weight| without gradient, in the dtype of the weight if that is exact and in float64 if not."""
    weight = _check_weight(weight, name).detach()
    return (weight if weight.dtype in _EXACT else weight.double()).abs()


def _rows(weight: Tensor) -> Tensor:
    """The checked weight as floating point [C_out, n], a row for each filter."""
    weight = _check_weight(weight, "weight").detach()
    if weight.ndim < 2:
        raise ValueError(
            f"weight has shape {list(weight.shape)}; filters are rows of a weight, which must be [C_out, C_in, ...], "
            "that of a convolution or linear layer. A bias or the scale of a norm has none: give the layer's weight, "
            "or `bn_scale` the batch norm."
        )
    weight = weight.flatten(1)
    return weight if weight.dtype in _EXACT else weight.double()
