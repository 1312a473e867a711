"""Losses between feature maps: hints (FitNets) and attention transfer.

Take the features of a student and its teacher from named layers with `distillation.captured`. The losses are a mean
over the images; their weight beside the other losses is the caller's.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from course_lib.distillation import _checks
from course_lib.validation import check_count

_MOST = 1e15
"""The sum of the squares of features up to this fits into float32."""


def hint_adapter(student_channels: int, teacher_channels: int, *, bias: bool = True) -> nn.Conv2d:
    """Make the regressor that gives a student's features as many channels as its teacher's: a 1x1 convolution.

    Its parameters are drawn from PyTorch's global generator, trained with the student's, and thrown away afterwards.

    Args:
        student_channels, teacher_channels: C of the feature maps [N, C, H, W].
        bias: whether it has one.

    Returns:
        The layer.

    Raises:
        TypeError: a number is not an int, or `bias` is not a bool.
        ValueError: a number is below 1, or above 65536.

    Example:
        >>> hint_adapter(16, 64)(torch.zeros(2, 16, 8, 8)).shape
        torch.Size([2, 64, 8, 8])

    References:
        Romero, Ballas, Kahou, Chassang, Gatta and Bengio, "FitNets: Hints for Thin Deep Nets", ICLR 2015, section 2.2.
        The paper's regressor has a larger kernel, chosen to bring the student's map to the size of the teacher's; a 1x1
        kernel is common where the sizes agree.
    """
    check_count(student_channels, "student_channels", high=2**16)
    check_count(teacher_channels, "teacher_channels", high=2**16)
    if not isinstance(bias, bool):
        raise TypeError(f"bias is {bias!r} ({type(bias).__name__}); it must be True or False.")
    return nn.Conv2d(student_channels, teacher_channels, 1, bias=bias)


def hint_loss(
    student_features: Float[Tensor, "N ..."],
    teacher_features: Float[Tensor, "N ..."],
    adapter: nn.Module | None = None,
) -> Float[Tensor, ""]:
    r"""Half the squared distance between a student's features and its teacher's, mean over the images.

    .. math:: L = \frac{1}{2 N} \sum_n \| r(g_n) - h_n \|^2

    with the student's features g, the teacher's h, and the adapter r. It is a sum over channels and positions, so that
    its weight beside other losses is small, or falls with the size of the map. No gradient flows into the teacher.

    Args:
        student_features: floating point [N, ...], such as [N, C, H, W].
        teacher_features: in the shape of what the adapter puts out.
        adapter: takes the student's features to the teacher's shape, such as `hint_adapter`; None if it is the same. It
            is linear, where the paper asks for the same non-linearity as on the hint: compare features from before it.

    Returns:
        A scalar; float64 if the features are, else float32, in which half precision is computed.

    Raises:
        TypeError: features are not floating-point tensors, or the adapter is not an nn.Module.
        ValueError: the shapes or devices differ, features are empty or hold NaN, infinity or a number beyond 1e15, or
            the adapter does not run.

    Example:
        >>> hint_loss(torch.zeros(2, 3), torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 1.0]]))  # (1 + 5) / 4
        tensor(1.5000)

    References:
        Romero, Ballas, Kahou, Chassang, Gatta and Bengio, "FitNets: Hints for Thin Deep Nets", ICLR 2015, section 2.2,
        equation 3 (one image; the mean over the batch is usual).
    """
    _check_features(student_features, "student_features", 2)
    _check_features(teacher_features, "teacher_features", 2)
    adapted = student_features if adapter is None else _adapted(adapter, student_features)
    if adapted.shape != teacher_features.shape:
        what = "student_features" if adapter is None else "what the adapter makes of student_features"
        raise ValueError(
            f"{what} has shape {list(adapted.shape)} and teacher_features {list(teacher_features.shape)}; they must "
            "agree. Bring the channels together with an adapter, such as hint_adapter(C of the student, C of the "
            "teacher), and the positions with torch.nn.functional.adaptive_avg_pool2d."
        )
    _checks.check_devices(student_features=adapted, teacher_features=teacher_features)
    student, teacher = _checks.widened(1.0, adapted, teacher_features.detach())
    return (student - teacher).square().sum() / (2 * len(student))


def attention_map(features: Float[Tensor, "N C ..."]) -> Float[Tensor, "N positions"]:
    r"""Say where a layer is active: the sum of squares over the channels, as a vector of length 1 for each image.

    .. math:: Q = \mathrm{vec}\Big(\sum_c A_c^2\Big), \qquad \text{map} = Q / \|Q\|_2

    Args:
        features: A, floating point [N, C, H, W], or with any number of axes of positions.

    Returns:
        [N, H W]; zero where all features of an image are. float64 if the features are, else float32.

    Raises:
        TypeError: features is not a floating-point tensor.
        ValueError: features has fewer than three axes, is empty, or holds NaN, infinity or a number beyond 1e15.

    Example:
        >>> attention_map(torch.tensor([[[[1.0, 2.0]], [[1.0, 0.0]]]]))  # sums of squares 2 and 4
        tensor([[0.4472, 0.8944]])

    References:
        Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017, section 3.1, the map F of the sum of
        powers with p = 2.
    """
    _check_features(features, "features", 3)
    (wide,) = _checks.widened(1.0, features)
    # The map does not depend on the size of the features; their squares must not overflow.
    largest = wide.detach().abs().flatten(1).amax(dim=1).clamp_min(torch.finfo(wide.dtype).tiny)
    scaled = wide / largest.reshape(-1, *[1] * (wide.ndim - 1))
    return F.normalize(scaled.square().sum(dim=1).flatten(1), dim=1)


def attention_loss(
    student_features: Float[Tensor, "N C ..."], teacher_features: Float[Tensor, "N D ..."]
) -> Float[Tensor, ""]:
    r"""Half the squared distance between the attention maps of a student and its teacher, mean over the images.

    .. math:: L = \frac{1}{2 N} \sum_n \Big\| \frac{Q^S_n}{\|Q^S_n\|_2} - \frac{Q^T_n}{\|Q^T_n\|_2} \Big\|_2^2

    with the maps of `attention_map`. The channels may differ in number, so that no adapter is needed; the positions
    must agree. It lies in [0, 1], whatever the size of the features. For several pairs of layers add the losses. No
    gradient flows into the teacher.

    Args:
        student_features: floating point [N, C, H, W], or with any number of axes of positions.
        teacher_features: the same, but for the channels.

    Returns:
        A scalar; float64 if the features are, else float32, in which half precision is computed.

    Raises:
        TypeError: features are not floating-point tensors.
        ValueError: images or positions differ, the devices differ, or features are empty or hold NaN, infinity
            or a number beyond 1e15.

    Example:
        >>> left, right = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 3.0]], [[0.0, 4.0]]]])
        >>> attention_loss(left, right)
        tensor(1.)

    References:
        Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017, section 3.1, equation 2, without its
        weight beta. There the norm stands without a square; the authors' code squares it, as here, and takes the mean
        over positions instead of the half.
    """
    _check_features(student_features, "student_features", 3)
    _check_features(teacher_features, "teacher_features", 3)
    shapes = [list(features.shape) for features in (student_features, teacher_features)]
    if shapes[0][:1] + shapes[0][2:] != shapes[1][:1] + shapes[1][2:]:
        raise ValueError(
            f"student_features has shape {shapes[0]} and teacher_features {shapes[1]}; they must be of the same images "
            "and positions, the channels may differ. Pool the larger map first, with "
            "torch.nn.functional.adaptive_avg_pool2d(features, [H, W])."
        )
    _checks.check_devices(student_features=student_features, teacher_features=teacher_features)
    student, teacher = attention_map(student_features), attention_map(teacher_features.detach())
    return (student - teacher).square().sum() / (2 * len(student))


def _adapted(adapter: object, features: Tensor) -> Tensor:
    if not isinstance(adapter, nn.Module):
        raise TypeError(
            f"adapter is {adapter!r:.60} ({type(adapter).__name__}); it must be an nn.Module, such as "
            "hint_adapter(C of the student, C of the teacher), or None."
        )
    try:
        adapted = adapter(features)
    except Exception as error:
        raise ValueError(
            f"the adapter does not run on student_features of shape {list(features.shape)}, {features.dtype}: "
            f"{type(error).__name__}: {str(error).partition(chr(10))[0]}. Make it for their channels, device and dtype."
        ) from error
    _check_features(adapted, "what the adapter makes of student_features", 2)
    return adapted


def _check_features(features: object, name: str, axes: int) -> None:
    accepted = "[N, C, H, W]" if axes > 2 else "[N, ...]"
    _checks.check_float(features, name, accepted)
    if features.ndim < axes or 0 in features.shape:
        raise ValueError(
            f"{name} has shape {list(features.shape)}; it must be {accepted}, with every size at least 1."
        )
    _checks.check_size(features, name, _MOST)
