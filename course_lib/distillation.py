"""Knowledge distillation: softened probabilities, the two losses, and ensembles of teachers."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from course_lib.validation import check_choice, check_labels, check_logits, check_number

_TEMPERATURE_HINT = "T = 1 is the plain softmax; distillation commonly uses 2 to 10."
_ALPHA_HINT = "alpha weighs the labels and 1 - alpha the teacher."


def soften(logits: Float[Tensor, "N K"], temperature: float) -> Float[Tensor, "N K"]:
    r"""Turn logits into probabilities at a temperature.

    .. math:: q_i = \frac{\exp(z_i / T)}{\sum_j \exp(z_j / T)}

    Args:
        logits: z, floating point [N, K].
        temperature: T > 0; 1 is the plain softmax. A large T tends to the uniform distribution, a small T to a one at
            the largest logit.

    Returns:
        Probabilities [N, K]; each row sums to 1.

    Raises:
        TypeError: logits is not a floating-point tensor, or temperature is not a number.
        ValueError: logits is not [N, K], is empty or holds NaN or infinity; or temperature is zero, negative or not
            finite.

    Example:
        >>> soften(torch.tensor([[2.0, 0.0]]), 2.0)
        tensor([[0.7311, 0.2689]])

    References:
        Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, equation 1.
    """
    check_logits(logits, "logits")
    return F.softmax(logits / _check_temperature(temperature), dim=1)


def distillation_loss(
    student_logits: Float[Tensor, "N K"],
    teacher_logits: Float[Tensor, "N K"],
    labels: Int64[Tensor, "N"] | None = None,
    *,
    temperature: float,
    alpha: float,
) -> Float[Tensor, ""]:
    r"""Weighted sum of the cross-entropy with the labels and the KL divergence from the teacher.

    .. math::

        L = \alpha \, \mathrm{CE}(\text{student}, \text{labels})
            + (1 - \alpha) \, T^2 \, \mathrm{KL}(\text{teacher}_T \,\|\, \text{student}_T)

    It is the mean over the batch; the subscript T stands for `soften` at that temperature. The factor :math:`T^2` keeps
    the gradient of the second term at about the same size for every T, so that alpha keeps its meaning when T is
    changed. Cross-entropy with soft targets would differ from the KL divergence by the teacher's entropy, a constant
    without gradient. No gradient flows into the teacher.

    Args:
        student_logits: floating point [N, K].
        teacher_logits: floating point [N, K], of the same images in the same order.
        labels: int64 [N]; may be left out only if alpha is 0.
        temperature: T > 0, for teacher and student alike.
        alpha: weight of the labels, in [0, 1].

    Returns:
        A scalar.

    Raises:
        TypeError: a tensor has a wrong dtype, or temperature or alpha is not a number.
        ValueError: the shapes differ, logits hold NaN or infinity, temperature or alpha is out of range, or labels are
            missing or out of range.

    Example:
        >>> logits = torch.tensor([[0.0, 0.0]])
        >>> distillation_loss(logits, logits, torch.tensor([1]), temperature=4.0, alpha=0.5)  # 0.5 ln 2 + 0.5 * 0
        tensor(0.3466)

    References:
        Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2.
    """
    check_logits(student_logits, "student_logits")
    check_logits(teacher_logits, "teacher_logits")
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student_logits has shape {list(student_logits.shape)} and teacher_logits "
            f"{list(teacher_logits.shape)}; both must be [N, K] of the same images and classes."
        )
    temperature = _check_temperature(temperature)
    alpha = check_number(alpha, "alpha", low=0, high=1, hint=_ALPHA_HINT)
    if labels is None and alpha > 0:
        raise ValueError(
            f"labels are missing and alpha is {alpha:g}; only alpha = 0 learns from the teacher alone."
        )
    loss = student_logits.new_zeros(())
    if alpha > 0:
        loss = alpha * F.cross_entropy(
            student_logits, check_labels(labels, student_logits.shape[1], len(student_logits))
        )
    if alpha < 1:
        student = F.log_softmax(student_logits / temperature, dim=1)
        teacher = F.log_softmax(teacher_logits.detach() / temperature, dim=1)
        divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
        loss = loss + (1 - alpha) * temperature**2 * divergence
    return loss


def ensemble_probabilities(
    logits_list: Sequence[Float[Tensor, "N K"]], temperature: float, *, mean: str = "arithmetic"
) -> Float[Tensor, "N K"]:
    r"""Average the softened probabilities of several teachers.

    .. math::

        \text{arithmetic:} \quad p_i &= \frac{1}{M} \sum_m \mathrm{softmax}(z^m / T)_i \\
        \text{geometric:} \quad p &= \mathrm{softmax}\Big(\frac{1}{M} \sum_m \log \mathrm{softmax}(z^m / T)\Big)

    The geometric mean is the softmax of the mean logits over T.

    Args:
        logits_list: floating point [N, K] from each of M >= 1 teachers.
        temperature: T > 0.
        mean: "arithmetic" or "geometric".

    Returns:
        Probabilities [N, K]; each row sums to 1.

    Raises:
        TypeError: as `soften`.
        ValueError: as `soften`; or there is no teacher, the shapes differ, or the mean is unknown.

    Example:
        >>> teachers = [torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])]
        >>> ensemble_probabilities(teachers, 1.0)
        tensor([[0.5000, 0.5000]])

    References:
        Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, sections 1 and 5 (either mean).
    """
    check_choice(mean, "mean", ("arithmetic", "geometric"))
    if not len(logits_list):
        raise ValueError("logits_list is empty; an ensemble needs at least one teacher.")
    for number, logits in enumerate(logits_list):
        if check_logits(logits, f"logits_list[{number}]").shape != logits_list[0].shape:
            raise ValueError(
                f"logits_list[{number}] has shape {list(logits.shape)} and logits_list[0] "
                f"{list(logits_list[0].shape)}; all teachers must have seen the same images and know the same classes."
            )
    log_probabilities = torch.stack(
        [F.log_softmax(logits / _check_temperature(temperature), dim=1) for logits in logits_list]
    )  # [M, N, K]
    if mean == "arithmetic":
        return log_probabilities.exp().mean(dim=0)
    return F.softmax(log_probabilities.mean(dim=0), dim=1)


def _check_temperature(temperature: float) -> float:
    return check_number(temperature, "temperature", low=0, low_open=True, hint=_TEMPERATURE_HINT)
