"""Knowledge distillation: softened probabilities, the two losses, and ensembles of teachers."""

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from course_lib.distillation import _checks
from course_lib.distillation._divergence import log_softened, scaled_divergence, softened
from course_lib.validation import check_choice


def soften(
    logits: Float[Tensor, "*shape"], temperature: float, *, class_axis: int | None = None
) -> Float[Tensor, "*shape"]:
    r"""Turn logits into probabilities at a temperature.

    .. math:: q_i = \frac{\exp(z_i / T)}{\sum_j \exp(z_j / T)}

    Half precision is computed in float32 and rounded once, at the end.

    Args:
        logits: z, floating point [N, K] or [N, K, H, W]; any other shape with `class_axis`.
        temperature: T > 0, a constant; 1 is the plain softmax. A large T tends to the uniform distribution, a small T
            to a one at the largest logit.
        class_axis: where the K classes are. It is 1 for [N, K] and [N, K, H, W], as in PyTorch, and must be stated for
            any other shape: 2 or -1 for [N, L, K].

    Returns:
        Probabilities, in the shape and dtype of the logits; their sum over the classes is 1.

    Raises:
        TypeError: logits is not a floating-point tensor, or temperature is not a number or requires a gradient.
        ValueError: logits has another shape, is empty, or holds NaN, infinity or a number beyond 1e30; or temperature
            is zero, negative or not finite; or there is no such axis.

    Example:
        >>> soften(torch.tensor([[2.0, 0.0]]), 2.0)
        tensor([[0.7311, 0.2689]])

    References:
        Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, equation 1.
    """
    axis = _checks.check_class_logits(logits, "logits", class_axis)
    temperature = _checks.check_temperature(temperature)
    (wide,) = _checks.widened(temperature, logits)
    return softened(wide, temperature, axis).to(logits.dtype)


def distillation_loss(
    student_logits: Float[Tensor, "*shape"],
    teacher_logits: Float[Tensor, "*shape"],
    labels: Int64[Tensor, "..."] | Float[Tensor, "*shape"] | None = None,
    *,
    temperature: float,
    alpha: float,
    ignore_index: int | None = None,
    class_axis: int | None = None,
) -> Float[Tensor, ""]:
    r"""Weighted sum of the cross-entropy with the labels and the KL divergence from the teacher.

    .. math::

        L = \alpha \, \mathrm{CE}(\text{student}, \text{labels})
            + (1 - \alpha) \, T^2 \, \mathrm{KL}(\text{teacher}_T \,\|\, \text{student}_T)

    It is the mean over the positions that count: the images of [N, K], the pixels of [N, K, H, W], the tokens of
    [N, L, K], without those whose label is `ignore_index`. The subscript T stands for `soften` at that temperature. The
    factor :math:`T^2` keeps the gradient of the second term at about the same size for every T, so that alpha keeps its
    meaning when T is changed. Cross-entropy with soft targets would differ from the KL divergence by the teacher's
    entropy, a constant without gradient. No gradient flows into the teacher or the labels.

    Half precision is computed in float32, and the loss is given in it: :math:`T^2 \, \mathrm{KL}` can exceed what
    float16 holds. Temperatures outside of [1/32, 32] are computed in float64, so that the loss is right at every T.
    In between, the loss of a student that nearly equals its teacher has an error of about :math:`10^{-7} T^2`, the
    rounding of float32; its gradient has not.

    Args:
        student_logits: floating point [N, K] or [N, K, H, W]; any other shape with `class_axis`.
        teacher_logits: of the same shape, for the same images in the same order.
        labels: int64, in the shape of the logits without the classes; or probabilities, in the shape of the logits.
            They may be left out only if alpha is 0.
        temperature: T > 0, for teacher and student alike; a constant, it is not learned.
        alpha: weight of the labels, in [0, 1].
        ignore_index: label of positions that count for neither term, such as -100 for padding. If no position counts,
            the loss is 0 and so is its gradient. Images without a label on which the teacher shall be heard need a call
            of their own, with alpha = 0.
        class_axis: where the K classes are. It is 1 for [N, K] and [N, K, H, W], as in PyTorch, and must be stated for
            any other shape: 2 or -1 for [N, L, K].

    Returns:
        A scalar; float64 if the logits are, else float32.

    Raises:
        TypeError: a tensor has a wrong dtype, or temperature or alpha is not a number or requires a gradient.
        ValueError: the shapes or devices differ; logits hold NaN, infinity or a number beyond 1e30; temperature or
            alpha is out of range; labels are missing, out of range, or probabilities that do not sum to 1; or
            ignore_index comes without labels to look for it in.

    Example:
        >>> logits = torch.tensor([[0.0, 0.0]])
        >>> distillation_loss(logits, logits, torch.tensor([1]), temperature=4.0, alpha=0.5)  # 0.5 ln 2 + 0.5 * 0
        tensor(0.3466)

    References:
        Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2.
    """
    axis = _checks.check_pair(student_logits, teacher_logits, class_axis)
    temperature = _checks.check_temperature(temperature)
    alpha = _checks.check_alpha(alpha, labels)
    targets = _checks.check_targets(labels, student_logits, axis, ignore_index)
    student, teacher = (
        _checks.rows(logits, axis) for logits in _checks.widened(1.0, student_logits, teacher_logits.detach())
    )
    if ignore_index is not None:
        counted = targets != ignore_index
        student, teacher, targets = student[counted], teacher[counted], targets[counted]
        if not len(targets):
            return student.sum()  # of nothing: 0, with a gradient of 0
    loss = student.new_zeros(())
    if alpha > 0:
        loss = alpha * F.cross_entropy(student, targets.to(student.dtype) if targets.ndim == 2 else targets)
    if alpha < 1:
        loss = loss + _divergence(student, teacher, temperature, 1 - alpha)
    return loss


def _divergence(student: Tensor, teacher: Tensor, temperature: float, weight: float) -> Tensor:
    """The weighted second term: T^2 times the KL divergence from the teacher's rows, mean over the rows."""
    if not _checks.is_ordinary(temperature):
        exact = scaled_divergence(student.double(), teacher.double(), temperature)
        return (weight * exact.mean()).to(student.dtype)
    divergence = F.kl_div(
        F.log_softmax(student / temperature, dim=1),
        F.log_softmax(teacher / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return weight * temperature**2 * divergence


def ensemble_probabilities(
    logits_list: Sequence[Float[Tensor, "*shape"]],
    temperature: float,
    *,
    mean: str = "arithmetic",
    class_axis: int | None = None,
) -> Float[Tensor, "*shape"]:
    r"""Average the softened probabilities of several teachers.

    .. math::

        \text{arithmetic:} \quad p_i &= \frac{1}{M} \sum_m \mathrm{softmax}(z^m / T)_i \\
        \text{geometric:} \quad p &= \mathrm{softmax}\Big(\frac{1}{M} \sum_m \log \mathrm{softmax}(z^m / T)\Big)

    The geometric mean is the softmax of the mean logits over T.

    Args:
        logits_list: floating point [N, K], or another shape as in `soften`, from each of M >= 1 teachers.
        temperature: T > 0, a constant.
        mean: "arithmetic" or "geometric".
        class_axis: where the K classes are, as in `soften`.

    Returns:
        Probabilities, in the shape and dtype of the logits; their sum over the classes is 1.

    Raises:
        TypeError: as `soften`; or logits_list is no list, such as an iterator.
        ValueError: as `soften`; or there is no teacher, the shapes or devices differ, or the mean is unknown.

    Example:
        >>> teachers = [torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])]
        >>> ensemble_probabilities(teachers, 1.0)
        tensor([[0.5000, 0.5000]])

    References:
        Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, sections 1 and 5 (either mean).
    """
    check_choice(mean, "mean", ("arithmetic", "geometric"))
    teachers, axis = _checks.check_teachers(logits_list, class_axis)
    temperature = _checks.check_temperature(temperature)
    dtype = functools.reduce(torch.promote_types, (logits.dtype for logits in teachers))
    wide = torch.stack(_checks.widened(temperature, *teachers))  # [M, N, K]
    axis += 1
    if mean == "arithmetic":
        return log_softened(wide, temperature, axis).exp().mean(dim=0).to(dtype)
    if _checks.is_ordinary(temperature):
        logs = log_softened(wide, temperature, axis).mean(dim=0)
        return F.softmax(logs, dim=axis - 1).to(dtype)
    return softened(wide.mean(dim=0), temperature, axis - 1).to(dtype)
