"""Decoupled distillation: the divergence from the teacher as two terms, the target class and the others."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from course_lib.distillation import _checks
from course_lib.distillation._divergence import divergence_of_logs

_WEIGHT_HINT = (
    "alpha weighs the target class and beta the others; the paper has alpha = 1 and beta from 1 to 8."
)


class DecoupledTerms(NamedTuple):
    """The two divergences of each position that counts, and how sure the teacher is there.

    Example:
        >>> logits = torch.zeros(1, 4)
        >>> decoupled_terms(logits, logits, torch.tensor([0]), temperature=4.0).certainty
        tensor([0.2500])
    """

    target: Float[Tensor, "M"]
    """KL divergence of the target class against all others (TCKD)."""
    others: Float[Tensor, "M"]
    """KL divergence among the other classes (NCKD)."""
    certainty: Float[Tensor, "M"]
    """The teacher's softened probability of the target class."""


def decoupled_terms(
    student_logits: Float[Tensor, "*shape"],
    teacher_logits: Float[Tensor, "*shape"],
    labels: Int64[Tensor, "..."],
    *,
    temperature: float,
    ignore_index: int | None = None,
    class_axis: int | None = None,
) -> DecoupledTerms:
    r"""Take the KL divergence from the teacher apart into the target class and the other classes.

    .. math::

        \mathrm{KL}(p^T \,\|\, p^S) = \underbrace{\mathrm{KL}(b^T \,\|\, b^S)}_{\text{TCKD}}
            + (1 - p^T_t) \, \underbrace{\mathrm{KL}(\hat p^T \,\|\, \hat p^S)}_{\text{NCKD}}

    where :math:`b = (p_t, 1 - p_t)` tells the target class t from the rest, and :math:`\hat p_i = p_i / (1 - p_t)` are
    the probabilities of the other classes among themselves. All are softened at T. The second term has a factor that is
    small where the teacher is sure: what it knows of the other classes is then hardly taught.

    Args:
        student_logits: floating point [N, K] or [N, K, H, W] with K >= 2; any other shape with `class_axis`.
        teacher_logits: of the same shape; no gradient flows into them.
        labels: int64, in the shape of the logits without the classes: the target class.
        temperature: T in [0.001, 10000], a constant.
        ignore_index: label of positions that do not count, such as -100 for padding.
        class_axis: where the K classes are, as in `distillation.soften`.

    Returns:
        The terms, without the factor :math:`T^2`; float64 if the logits are or T is outside of [1/32, 32], else
        float32.

    Raises:
        TypeError: a tensor has a wrong dtype, or temperature is not a number or requires a gradient.
        ValueError: the shapes or devices differ; logits hold NaN, infinity or a number beyond 1e30; there is one class
            only; or temperature or labels are out of range.

    Example:
        >>> student, teacher = torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[2.0, 2.0, 0.0]])
        >>> decoupled_terms(student, teacher, torch.tensor([2]), temperature=1.0).others
        tensor([0.])

    References:
        Zhao, Cui, Song, Qiu and Liang, "Decoupled Knowledge Distillation", CVPR 2022, section 3.1, equations 5 to 7.
    """
    axis = _checks.check_pair(student_logits, teacher_logits, class_axis)
    temperature = _checks.check_usual_temperature(temperature)
    if student_logits.shape[axis] < 2:
        raise ValueError(
            f"student_logits has shape {list(student_logits.shape)} with one class; there must be 2 at least, the "
            "target and another. Of a binary task stack 0 and the logit."
        )
    targets = _checks.check_indices(labels, student_logits, axis, ignore_index)
    pair = [
        _checks.rows(logits, axis) / temperature
        for logits in _checks.widened(temperature, student_logits, teacher_logits.detach())
    ]
    if ignore_index is not None:
        counted = targets != ignore_index
        targets, pair = targets[counted], [logits[counted] for logits in pair]
    apart = [_apart(logits, targets) for logits in pair]
    binary = [torch.stack((target, others.logsumexp(dim=1)), dim=1) for target, others in apart]
    return DecoupledTerms(
        target=divergence_of_logs(*binary),
        others=divergence_of_logs(*(others for _, others in apart)),
        certainty=binary[1].softmax(dim=1)[:, 0],
    )


def decoupled_loss(
    student_logits: Float[Tensor, "*shape"],
    teacher_logits: Float[Tensor, "*shape"],
    labels: Int64[Tensor, "..."],
    *,
    temperature: float,
    alpha: float = 1.0,
    beta: float = 8.0,
    ignore_index: int | None = None,
    class_axis: int | None = None,
) -> Float[Tensor, ""]:
    r"""Weighted sum of the divergences of the target class and of the other classes.

    .. math:: L = T^2 \, (\alpha \, \mathrm{TCKD} + \beta \, \mathrm{NCKD})

    with the terms of `decoupled_terms`, mean over the positions that count. With alpha = 1 and, image by image, beta =
    1 - p_t of the teacher, it is the second term of `distillation.distillation_loss`. The cross-entropy with the labels
    is not part of it: add it, as the paper does. Here alpha is the paper's, no weight of the labels.

    Args:
        student_logits: floating point [N, K] or [N, K, H, W] with K >= 2; any other shape with `class_axis`.
        teacher_logits: of the same shape; no gradient flows into them.
        labels: int64, in the shape of the logits without the classes.
        temperature: T in [0.001, 10000], a constant.
        alpha, beta: weights of the target class and of the others, 0 or more.
        ignore_index: label of positions that do not count. If none counts, the loss is 0 and so is its gradient.
        class_axis: where the K classes are, as in `distillation.soften`.

    Returns:
        A scalar; float64 if the logits are, else float32.

    Raises:
        TypeError: as `decoupled_terms`; or a weight is not a number or requires a gradient.
        ValueError: as `decoupled_terms`; or a weight is negative or not finite.

    Example:
        >>> student, teacher = torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[2.0, 2.0, 0.0]])
        >>> decoupled_loss(student, teacher, torch.tensor([2]), temperature=1.0, alpha=1.0, beta=8.0)
        tensor(0.2132)

    References:
        Zhao, Cui, Song, Qiu and Liang, "Decoupled Knowledge Distillation", CVPR 2022, section 3.2, equation 8. The
        factor :math:`T^2` is that of the authors' code, and of Hinton et al., 2015.
    """
    alpha = _checks.check_factor(alpha, "alpha", _WEIGHT_HINT)
    beta = _checks.check_factor(beta, "beta", _WEIGHT_HINT)
    terms = decoupled_terms(
        student_logits,
        teacher_logits,
        labels,
        temperature=temperature,
        ignore_index=ignore_index,
        class_axis=class_axis,
    )
    each = alpha * terms.target + beta * terms.others
    mean = each.sum() / max(len(each), 1)  # of nothing: 0, with a gradient of 0
    return (float(temperature) ** 2 * mean).to(_checks.result_dtype(student_logits, teacher_logits))


def _apart(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The logit of the target [M], and those of the other classes [M, K - 1] in their order."""
    is_target = torch.zeros_like(logits, dtype=torch.bool).scatter(1, targets[:, None], True)
    return logits[is_target], logits[~is_target].reshape(len(logits), logits.shape[1] - 1)
