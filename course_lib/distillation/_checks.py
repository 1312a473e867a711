"""Checks of logits, labels and temperatures, and how logits of any shape become rows of float32 or float64."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from course_lib.validation import check_count, check_dense, check_number

_TEMPERATURE_HINT = "T = 1 is the plain softmax; distillation commonly uses 2 to 10."
_ALPHA_HINT = "alpha weighs the labels and 1 - alpha the teacher."
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_MOST = 1e30
"""A logit beyond this is no answer of a network, and a few of them overflow float32."""
_ORDINARY = (1 / 32, 32)
"""Temperatures at which float32 is precise enough. Outside, everything is computed in float64."""
_USUAL = (1e-3, 1e4)


def check_temperature(temperature: object) -> float:
    """Return T as a float above 0; a constant, without a gradient."""
    check_constant(temperature, "temperature")
    return check_number(temperature, "temperature", low=0, low_open=True, hint=_TEMPERATURE_HINT)


def check_usual_temperature(temperature: object) -> float:
    """Return T as a float in the range where logarithms of sums over classes keep their digits in float64."""
    check_constant(temperature, "temperature")
    low, high = _USUAL
    return check_number(temperature, "temperature", low=low, high=high, hint=_TEMPERATURE_HINT)


def check_alpha(alpha: object, labels: object) -> float:
    """Return the weight of the labels as a float in [0, 1]; it is 0 where there are none."""
    check_constant(alpha, "alpha")
    alpha = check_number(alpha, "alpha", low=0, high=1, hint=_ALPHA_HINT)
    if labels is None and alpha > 0:
        raise ValueError(
            f"labels are missing and alpha is {alpha:g}; only alpha = 0 learns from the teacher alone."
        )
    return alpha


def check_factor(value: object, name: str, hint: str) -> float:
    """Return the weight of a term as a float, 0 or more; a constant, without a gradient."""
    check_constant(value, name)
    return check_number(value, name, low=0, hint=hint)


def check_constant(value: object, name: str) -> None:
    """Refuse a number that is to be learned: as a constant it would get no gradient, and nobody would notice."""
    if isinstance(value, Tensor) and value.requires_grad:
        raise TypeError(
            f"{name} is a tensor that requires a gradient; it must be a constant, since none would flow into it. "
            f"Pass float({name}), or {name}.detach()."
        )


def is_ordinary(temperature: float) -> bool:
    return _ORDINARY[0] <= temperature <= _ORDINARY[1]


def widened(temperature: float, *tensors: Tensor) -> list[Tensor]:
    """Tensors in one dtype: float64 if one of them has it or the temperature asks for it, else float32."""
    double = not is_ordinary(temperature) or any(tensor.dtype == torch.float64 for tensor in tensors)
    return [tensor.to(torch.float64 if double else torch.float32) for tensor in tensors]


def result_dtype(*tensors: Tensor) -> torch.dtype:
    """What a loss is given in: float64 if one of the tensors has it, else float32, also for half precision."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def check_class_logits(logits: object, name: str, class_axis: object = None) -> int:
    """Return the axis of the classes if `logits` is a tensor of finite logits with one.

    [N, K] and [N, K, H, W] have it at 1, as in torch.nn.functional.cross_entropy; for any other shape it must be
    stated, since three axes are [N, L, K] to one user and [N, K, L] to another.
    """
    check_float(logits, name, "[N, K]")
    shape = list(logits.shape)
    accepted = "it must be [N, K], images by classes, with N and K at least 1"
    if logits.ndim < 2 or 0 in shape:
        raise ValueError(f"{name} has shape {shape}; {accepted}.")
    if class_axis is None and logits.ndim not in (2, 4):
        raise ValueError(
            f"{name} has shape {shape}; {accepted}, or [N, K, H, W]. For another shape state where the classes are: "
            "class_axis=2 for [N, L, K], class_axis=1 for [N, K, L]."
        )
    axis = 1 if class_axis is None else check_axis(class_axis, logits.ndim, name, shape)
    check_size(logits, name)
    return axis


def check_axis(class_axis: object, ndim: int, name: str, shape: list[int]) -> int:
    """Return the axis of the classes, counted from the front; it is any but the first, which counts images."""
    check_count(class_axis, "class_axis", low=-(2**31))
    axis = class_axis + ndim if class_axis < 0 else class_axis
    if not 1 <= axis < ndim:
        raise ValueError(
            f"class_axis is {class_axis} and {name} has shape {shape}; it must be from 1 to {ndim - 1}, or from "
            f"{1 - ndim} to -1. Axis 0 counts the images."
        )
    return axis


def check_float(tensor: object, name: str, shape: str) -> Tensor:
    """Return `tensor` if it is a dense tensor of a dtype that networks compute in."""
    what = next((word for word in ("logits", "features") if word in name), "they")
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is a {type(tensor).__name__}; it must be a torch.Tensor of shape {shape}.")
    check_plain(tensor, name, "model(images)")
    if tensor.dtype not in _DTYPES:
        raise TypeError(
            f"{name} has dtype {tensor.dtype}; {what} are floating point. Call .float() on them; accepted are "
            f"{', '.join(str(dtype).removeprefix('torch.') for dtype in _DTYPES)}."
        )
    return tensor


def check_plain(tensor: Tensor, name: str, such_as: str) -> None:
    """Refuse a tensor without values or without one shape; one that is merely empty passes."""
    if is_lazy(tensor) or tensor.is_nested or tensor.is_quantized or tensor.is_meta or tensor.numel():
        check_dense(tensor, name, such_as=such_as)


def check_size(tensor: Tensor, name: str, most: float = _MOST) -> None:
    """Refuse what is not finite, and numbers so large that what is made of them overflows."""
    values = tensor.detach()
    largest = float(values.abs().amax())
    if largest <= most:
        return
    advice = "Look for a diverged network: lower the learning rate and train again."
    masked = bool(torch.isneginf(values).any()) and "logits" in name
    if masked and not bool((torch.isnan(values) | torch.isposinf(values)).any()):
        raise ValueError(
            f"{name} holds -infinity, as a mask over classes does; it must hold finite numbers. Leave the masked "
            "classes out of student and teacher, as in logits[:, allowed]; or, if they differ between images, mask "
            "both with a large finite number, such as -1e4."
        )
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"{name} holds {'NaN' if bool(torch.isnan(values).any()) else 'infinity'}. {advice}")
    raise ValueError(f"{name} holds {largest:.3g} in size; accepted are numbers up to {most:.0e}. {advice}")


def check_pair(student: object, teacher: object, class_axis: object = None) -> int:
    """Return the axis of the classes of logits of a student and a teacher for the same images."""
    axis = check_class_logits(student, "student_logits", class_axis)
    check_class_logits(teacher, "teacher_logits", class_axis)
    if student.shape != teacher.shape:
        shape = "[N, K]" if student.ndim == 2 == teacher.ndim else "of one shape,"
        raise ValueError(
            f"student_logits has shape {list(student.shape)} and teacher_logits {list(teacher.shape)}; both must be "
            f"{shape} of the same images and classes."
        )
    check_devices(student_logits=student, teacher_logits=teacher)
    return axis


def check_devices(**tensors: Tensor) -> None:
    """Refuse tensors on several devices."""
    devices = {str(tensor.device) for tensor in tensors.values()}
    if len(devices) > 1:
        where = " and ".join(f"{name} is on {tensor.device}" for name, tensor in tensors.items())
        raise ValueError(f"{where}; they must be on one device. Call .to() on one of them.")


def rows(logits: Tensor, class_axis: int) -> Tensor:
    """[N, ..., K, ...] as [positions, K]; [N, K] as it is."""
    if logits.ndim == 2:
        return logits
    return logits.movedim(class_axis, -1).reshape(-1, logits.shape[class_axis])


def check_targets(labels: object, logits: Tensor, class_axis: int, ignore_index: object) -> Tensor | None:
    """Return labels as int64 [positions], or probabilities [positions, K], that fit the logits; None as None.

    Args:
        labels: class indices, in the shape of the logits without the axis of the classes; or probabilities, in that of
            the logits.
        logits: checked.
        class_axis: of the logits.
        ignore_index: the label that is no class, or None.
    """
    if ignore_index is not None:
        check_count(ignore_index, "ignore_index", low=-(2**63), high=2**63 - 1)
    if labels is None:
        if ignore_index is not None:
            raise ValueError(
                f"ignore_index is {ignore_index} and labels are missing; it marks positions by their label. Pass "
                "labels as well, or leave ignore_index out."
            )
        return None
    if isinstance(labels, Tensor):
        check_plain(labels, "labels", "batch.labels")
    if isinstance(labels, Tensor) and labels.is_floating_point() and labels.shape == logits.shape:
        if ignore_index is not None:
            raise ValueError(
                f"ignore_index is {ignore_index} and labels are probabilities; it marks class indices only. Leave it "
                "out, and select the positions that count yourself."
            )
        check_devices(logits=logits, labels=labels)
        return _check_soft_labels(labels, class_axis)
    shape = [size for axis, size in enumerate(logits.shape) if axis != class_axis]
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels is a {type(labels).__name__}; it must be an int64 tensor of shape {shape}.")
    if labels.dtype != torch.int64:
        raise TypeError(
            f"labels has dtype {labels.dtype}; class indices are int64. Call .long() on them; or give probabilities in "
            f"the shape of the logits, {list(logits.shape)}."
        )
    if list(labels.shape) != shape:
        raise ValueError(
            f"labels has shape {list(labels.shape)}; with {logits.shape[0]} images it must be {shape}."
        )
    check_devices(logits=logits, labels=labels)
    return _check_indices(labels.reshape(-1), logits.shape[class_axis], ignore_index)


def check_indices(labels: object, logits: Tensor, class_axis: int, ignore_index: object) -> Tensor:
    """Return labels as int64 [positions]; here they must be there, and be no probabilities."""
    if labels is None:
        raise TypeError("labels is None; it must be an int64 tensor with the target class of each position.")
    targets = check_targets(labels, logits, class_axis, ignore_index)
    if targets.ndim == 2:
        raise TypeError(
            f"labels has dtype {labels.dtype}; it must be an int64 tensor with the target class of each position. Call "
            "labels.argmax(dim=1)."
        )
    return targets


def _check_indices(labels: Tensor, classes: int, ignore_index: object) -> Tensor:
    counted = labels if ignore_index is None else labels[labels != ignore_index]
    if len(counted) and (int(counted.min()) < 0 or int(counted.max()) >= classes):
        remedy = "A label that is to be left out, such as -100, is named by ignore_index."
        raise ValueError(
            f"labels run from {int(counted.min())} to {int(counted.max())}; with {classes} classes they must lie in "
            f"[0, {classes - 1}]. {remedy}"
        )
    return labels


def _check_soft_labels(labels: Tensor, class_axis: int) -> Tensor:
    check_float(labels, "labels", "[N, K]")
    values = labels.detach().double()
    sums = values.sum(dim=class_axis)
    if not bool(torch.isfinite(values).all()) or bool((values < 0).any()):
        raise ValueError(
            f"labels are probabilities and run from {float(values.min()):g} to {float(values.max()):g}; they must be "
            "finite and not below 0. Pass them through soften, if they are logits."
        )
    off = float((sums - 1).abs().max())
    if off > 0.01:
        raise ValueError(
            f"labels are probabilities and the sum over the classes differs from 1 by up to {off:.3g}; it must be 1. "
            "Divide them by their sum, or give class indices (int64)."
        )
    return rows(labels.detach(), class_axis)


def check_teachers(teachers: object, class_axis: object) -> tuple[Sequence[Tensor], int]:
    """Return the logits of an ensemble, a list, a tuple or stacked in one tensor; and the axis of the classes."""
    if isinstance(teachers, Tensor):
        check_plain(teachers, "logits_list", "torch.stack([teacher(images) for teacher in teachers])")
    if not isinstance(teachers, list | tuple) and not (isinstance(teachers, Tensor) and teachers.ndim):
        raise TypeError(
            f"logits_list is {teachers!r:.60} ({type(teachers).__name__}); it must be a list of tensors, one from each "
            "teacher. Write [teacher(images) for teacher in teachers], or list(...) around an iterator."
        )
    if not len(teachers):
        raise ValueError("logits_list is empty; an ensemble needs at least one teacher.")
    for number, logits in enumerate(teachers):
        axis = check_class_logits(logits, f"logits_list[{number}]", class_axis)
        if logits.shape != teachers[0].shape:
            raise ValueError(
                f"logits_list[{number}] has shape {list(logits.shape)} and logits_list[0] {list(teachers[0].shape)}; "
                "all teachers must have seen the same images and know the same classes."
            )
        check_devices(**{"logits_list[0]": teachers[0], f"logits_list[{number}]": logits})
    return teachers, axis
