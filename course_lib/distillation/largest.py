"""Distillation from a teacher's k largest logits, with all other classes as one.

A teacher of many classes says little about most of them. Its k largest logits, and what the rest amounts to, are
2 k + 1 numbers in place of K.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from course_lib.distillation import _checks
from course_lib.distillation._divergence import divergence_of_logs
from course_lib.validation import check_count


@dataclass(frozen=True, eq=False)
class TopK:
    r"""A teacher's k largest logits, and all other classes lumped into one, at one temperature.

    The rest is :math:`T \log \sum_{i \,\text{not kept}} \exp(z_i / T)`: the logit of a class with the probability of
    all of them. It holds at that T only, since the sum at another one cannot be computed from it; so T belongs to it.
    An index selects images: `answers[batch.indices]`.

    Attributes:
        values: floating point [N, ..., k], the logits.
        indices: int64 [N, ..., k], their classes.
        rest: floating point [N, ...]; -infinity if k = K and nothing is left.
        temperature: T.
        classes: K.

    Raises:
        TypeError: a part has a wrong type or dtype, or the index has.
        ValueError: the parts do not fit together, or hold NaN or infinity.
        IndexError: there is no such image.

    Example:
        >>> answers = top_k(torch.tensor([[3.0, 0.0, 1.0, 0.0]]), 2, temperature=1.0)
        >>> answers.values, answers.indices, answers.rest
        (tensor([[3., 1.]]), tensor([[0, 2]]), tensor([0.6931]))
    """

    values: Float[Tensor, "... k"]
    indices: Int64[Tensor, "... k"]
    rest: Float[Tensor, "..."]
    temperature: float
    classes: int

    def __post_init__(self) -> None:
        _checks.check_float(self.values, "values", "[N, k]")
        _checks.check_float(self.rest, "rest", "[N]")
        object.__setattr__(self, "temperature", _checks.check_usual_temperature(self.temperature))
        check_count(self.classes, "classes")
        if isinstance(self.indices, Tensor):
            _checks.check_plain(self.indices, "indices", "top_k(...).indices")
        if not isinstance(self.indices, Tensor) or self.indices.dtype != torch.int64:
            given = getattr(self.indices, "dtype", type(self.indices).__name__)
            raise TypeError(
                f"indices is {given}; it must be an int64 tensor of shape [N, k]. Make it with top_k(...)."
            )
        shape = list(self.values.shape)
        if len(shape) < 2 or list(self.indices.shape) != shape or list(self.rest.shape) != shape[:-1]:
            raise ValueError(
                f"values, indices and rest have the shapes {shape}, {list(self.indices.shape)} and "
                f"{list(self.rest.shape)}; they must be [N, k], [N, k] and [N]. Make them with top_k(...)."
            )
        check_count(shape[-1], "k", high=self.classes)
        self._check_values()

    def _check_values(self) -> None:
        kept = self.indices.sort(dim=-1).values
        if kept.numel() and (
            int(kept.min()) < 0 or int(kept.max()) >= self.classes or bool((kept.diff(dim=-1) == 0).any())
        ):
            raise ValueError(
                f"indices run from {int(kept.min())} to {int(kept.max())}; they must lie in [0, {self.classes - 1}], "
                "each once in a row. Make them with top_k(...)."
            )
        whole = self.values.shape[-1] == self.classes
        if kept.numel():
            _checks.check_size(self.values, "values")
        if not whole and kept.numel():
            _checks.check_size(self.rest, "rest")
        if whole and not bool(torch.isneginf(self.rest).all()):
            raise ValueError(
                "rest is above -infinity although all classes are kept. Make it with top_k(...)."
            )

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Int64[Tensor, "B"] | Bool[Tensor, "N"] | slice) -> "TopK":
        chosen = isinstance(index, Tensor) and index.ndim == 1 and index.dtype in (torch.int64, torch.bool)
        if not isinstance(index, slice) and not chosen:
            raise TypeError(
                f"index is {index!r:.60} ({type(index).__name__}); it must be a slice, or a tensor of indices (int64 "
                "[B]) or of booleans [N]. Write answers[i : i + 1] for one image."
            )
        if isinstance(index, Tensor):
            index = index.to(self.values.device)
        parts = (part[index] for part in (self.values, self.indices, self.rest))
        return TopK(*parts, self.temperature, self.classes)

    def to(self, device: torch.device | str) -> "TopK":
        """Move the tensors to a device."""
        parts = (part.to(device) for part in (self.values, self.indices, self.rest))
        return TopK(*parts, self.temperature, self.classes)


def top_k(
    logits: Float[Tensor, "*shape"], k: int, *, temperature: float, class_axis: int | None = None
) -> TopK:
    r"""Keep the k largest logits, and lump all other classes into one.

    Args:
        logits: floating point [N, K] or [N, K, H, W]; any other shape with `class_axis`.
        k: from 1 to K.
        temperature: T in [0.001, 10000] at which the student will be taught; the rest is lumped at it.
        class_axis: where the K classes are, as in `distillation.soften`. In the result they are last.

    Returns:
        The largest logits in descending order, their classes and the rest, in the dtype of the logits.

    Raises:
        TypeError: logits is not a floating-point tensor, k is not an int, or temperature is not a number.
        ValueError: logits has another shape, or holds NaN, infinity or a number beyond 1e30; or k or temperature is out
            of range.

    Example:
        >>> top_k(torch.tensor([[3.0, 0.0, 1.0, 0.0]]), 1, temperature=2.0).rest  # 2 ln(exp(1/2) + 2)
        tensor([2.5888])
    """
    axis = _checks.check_class_logits(logits, "logits", class_axis)
    temperature = _checks.check_usual_temperature(temperature)
    classes = logits.shape[axis]
    check_count(k, "k", high=classes)
    (wide,) = _checks.widened(temperature, logits.detach().movedim(axis, -1))
    values, indices = wide.topk(k, dim=-1)
    rest = temperature * _others(wide / temperature, indices)
    return TopK(values.to(logits.dtype), indices, rest.to(logits.dtype), temperature, classes)


def top_k_loss(
    student_logits: Float[Tensor, "*shape"],
    teacher: TopK,
    labels: Int64[Tensor, "..."] | Float[Tensor, "*shape"] | None = None,
    *,
    alpha: float,
    ignore_index: int | None = None,
    class_axis: int | None = None,
) -> Float[Tensor, ""]:
    r"""Distillation loss against a teacher's k largest logits.

    .. math::

        L = \alpha \, \mathrm{CE}(\text{student}, \text{labels})
            + (1 - \alpha) \, T^2 \, \mathrm{KL}(\tilde p_{\text{teacher}} \,\|\, \tilde p_{\text{student}})

    where :math:`\tilde p` has k + 1 entries: the classes that the teacher kept, and the sum of all others, for the
    teacher and for the student alike. With k = K it is `distillation.distillation_loss`. Otherwise the second term is
    at most that of the whole logits, by the data-processing inequality: what is lumped cannot be told apart any more.
    The student is free in how it divides the rest.

    T is the one that the teacher's rest was lumped at; for another, ask `top_k` again.

    Args:
        student_logits: floating point [N, K] or [N, K, H, W]; any other shape with `class_axis`.
        teacher: what `top_k` kept of the teacher's logits for the same images, in the same order.
        labels: int64, in the shape of the logits without the classes; or probabilities, in the shape of the logits.
            They may be left out only if alpha is 0.
        alpha: weight of the labels, in [0, 1].
        ignore_index: label of positions that count for neither term. If none counts, the loss and its gradient are 0.
        class_axis: where the K classes of the student are, as in `distillation.soften`.

    Returns:
        A scalar; float64 if the student's or the teacher's logits are, else float32.

    Raises:
        TypeError: a tensor has a wrong dtype, teacher is no `TopK`, or alpha is not a number or requires a gradient.
        ValueError: student and teacher differ in the number of classes, the shape or the device; or as
            `distillation.distillation_loss`.

    Example:
        >>> teacher = top_k(torch.tensor([[2.0, 1.0, 1.0]]).log(), 1, temperature=1.0)  # 1/2, and 1/2 for the rest
        >>> top_k_loss(torch.zeros(1, 3), teacher, alpha=0.0)  # the student: 1/3 and 2/3
        tensor(0.0589)

    References:
        Cover and Thomas, "Elements of Information Theory", 2006, theorem 2.7.1 (the log sum inequality), of which the
        data-processing inequality for lumped classes is a case.
    """
    axis = _checks.check_class_logits(student_logits, "student_logits", class_axis)
    if not isinstance(teacher, TopK):
        raise TypeError(
            f"teacher is a {type(teacher).__name__}; it must be a TopK. Make it with top_k(teacher_logits, k, "
            "temperature=4); whole logits go to distillation_loss."
        )
    positions = [size for a, size in enumerate(student_logits.shape) if a != axis]
    if student_logits.shape[axis] != teacher.classes or positions != list(teacher.rest.shape):
        raise ValueError(
            f"student_logits has {student_logits.shape[axis]} classes at the positions {positions}, and teacher "
            f"{teacher.classes} at {list(teacher.rest.shape)}; both must be for the same images and classes. Select "
            "those of the batch: teacher[batch.indices]."
        )
    _checks.check_devices(student_logits=student_logits, teacher=teacher.values)
    alpha = _checks.check_alpha(alpha, labels)
    targets = _checks.check_targets(labels, student_logits, axis, ignore_index)
    k, temperature = teacher.values.shape[-1], teacher.temperature
    wide, values, rest = _checks.widened(temperature, student_logits, teacher.values, teacher.rest)
    student, values, rest = _checks.rows(wide, axis), values.reshape(-1, k), rest.reshape(-1, 1)
    indices = teacher.indices.reshape(-1, k)
    if ignore_index is not None:
        counted = targets != ignore_index
        student, values, rest, indices, targets = (
            part[counted] for part in (student, values, rest, indices, targets)
        )
    dtype = _checks.result_dtype(student_logits, teacher.values)
    if not len(student):
        return student.sum().to(dtype)  # of nothing: 0, with a gradient of 0
    loss = student.new_zeros(())
    if alpha > 0:
        loss = alpha * F.cross_entropy(student, targets.to(student.dtype) if targets.ndim == 2 else targets)
    if alpha < 1:
        each = _lumped_divergence(student / temperature, values / temperature, rest / temperature, indices)
        loss = loss + (1 - alpha) * temperature**2 * each.mean()
    return loss.to(dtype)


def _lumped_divergence(student: Tensor, values: Tensor, rest: Tensor, indices: Tensor) -> Tensor:
    """KL divergence over the kept classes and the rest: [M, K], [M, k], [M, 1], [M, k] -> [M]."""
    kept = student.gather(1, indices)
    if kept.shape == student.shape:  # nothing is left
        return divergence_of_logs(kept, values)
    others = _others(student, indices)[:, None]
    return divergence_of_logs(torch.cat((kept, others), dim=1), torch.cat((values, rest), dim=1))


def _others(logits: Tensor, indices: Tensor) -> Tensor:
    """Log of the sum of exp over the classes that are not among the indices, which are on the last axis."""
    return logits.scatter(-1, indices, -torch.inf).logsumexp(dim=-1)
