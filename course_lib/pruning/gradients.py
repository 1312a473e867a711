"""Score weights by what their removal does to the loss: by the gradient, and by an estimate of the curvature.

Both look at the loss around the trained weights. Removing a weight w changes it, to the second order, by

.. math:: L(w = 0) - L(w) \\approx -w \\, \\frac{\\partial L}{\\partial w} + \\frac{1}{2} h w^2

with h the second derivative. Magnitude asks for w alone.
"""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from course_lib import tracing
from course_lib.pruning import masks
from course_lib.validation import check_count, check_dense

__all__ = ["fisher_diagonal", "obd_scores", "taylor_scores"]

_Scores = dict[str, Tensor]
"""{parameter name: a score for each weight}, of the parameters with two or more dimensions."""


def taylor_scores(
    model: nn.Module, images: Float[Tensor, "N *shape"], labels: Int[Tensor, "N"], *, chunk: int = 50
) -> dict[str, Float[Tensor, "..."]]:
    r"""Score weights by the first-order change of each image's loss when they are set to zero.

    .. math:: s_i = \frac{1}{N} \sum_n \left| w_i \, \frac{\partial L_n}{\partial w_i} \right|

    The magnitude is taken image by image: the mean gradient of a trained network is close to zero, and so would be its
    products with the weights.

    Args:
        model: trained classifier, images -> logits [N, K]; it is used in evaluation mode and left as it is. Dense: end
            `freeze` with `make_permanent` first.
        images: float [N, ...], of the training split, on the device of the model.
        labels: whole numbers [N] in [0, K).
        chunk: images whose gradients are held at once.

    Returns:
        {name: scores in the shape of the weight} for every parameter with two or more dimensions. Rank them with
        `magnitude_mask` or `global_magnitude_masks`, as if they were weights.

    Raises:
        TypeError: not a model; images or labels are not tensors of the right kind; `chunk` is not an int.
        ValueError: no images, or another number of labels; a model that is frozen or has no weights; a loss that is
            not finite.

    Example:
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> layer.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> taylor_scores(layer, torch.tensor([[1.0, 0.0]]), torch.tensor([0]))["weight"].round(decimals=3)
        tensor([[0.2690, 0.0000],
                [0.0000, 0.0000]])

    References:
        Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference", ICLR 2017, eq. 7
        (there for feature maps); Lee et al., "SNIP", ICLR 2019, eq. 6 (for weights).
    """
    weights, sums = _accumulated(
        model, images, labels, chunk, lambda weight, gradient: (weight * gradient).abs()
    )
    return {name: sums[name] / len(images) for name in weights}


def fisher_diagonal(
    model: nn.Module, images: Float[Tensor, "N *shape"], labels: Int[Tensor, "N"], *, chunk: int = 50
) -> dict[str, Float[Tensor, "..."]]:
    r"""Estimate the diagonal of the Hessian of the loss by the mean square of the gradients of single images.

    .. math:: \hat{h}_i = \frac{1}{N} \sum_n \left( \frac{\partial L_n}{\partial w_i} \right)^2

    This is the empirical Fisher information: gradients of the given labels. It is never negative, and needs no second
    derivative; it agrees with the Hessian only where the network fits the data well.

    Args:
        model, images, labels, chunk: as in `taylor_scores`.

    Returns:
        {name: estimate in the shape of the weight}, for every parameter with two or more dimensions.

    Raises:
        TypeError, ValueError: as `taylor_scores`.

    Example:
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> layer.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> fisher_diagonal(layer, torch.tensor([[1.0, 0.0]]), torch.tensor([0]))["weight"].round(decimals=3)
        tensor([[0.0720, 0.0000],
                [0.0720, 0.0000]])

    References:
        Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018, eq. 7.
    """
    weights, sums = _accumulated(model, images, labels, chunk, lambda weight, gradient: gradient.square())
    return {name: sums[name] / len(images) for name in weights}


def obd_scores(
    model: nn.Module, images: Float[Tensor, "N *shape"], labels: Int[Tensor, "N"], *, chunk: int = 50
) -> dict[str, Float[Tensor, "..."]]:
    r"""Score weights by the second-order change of the loss, with the Fisher information in place of the Hessian.

    .. math:: s_i = \frac{1}{2} \, \hat{h}_i \, w_i^2

    Optimal Brain Damage: the gradient is taken as zero, and so are the second derivatives between two weights.

    Args:
        model, images, labels, chunk: as in `taylor_scores`.

    Returns:
        {name: scores in the shape of the weight}, for every parameter with two or more dimensions.

    Raises:
        TypeError, ValueError: as `taylor_scores`.

    Example:
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> layer.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> obd_scores(layer, torch.tensor([[1.0, 0.0]]), torch.tensor([0]))["weight"].round(decimals=3)
        tensor([[0.0360, 0.0000],
                [0.0000, 0.0000]])

    References:
        LeCun, Denker and Solla, "Optimal Brain Damage", NeurIPS 1989, section 2.
    """
    fisher = fisher_diagonal(model, images, labels, chunk=chunk)
    return {
        name: fisher[name] * weight.detach().square() / 2
        for name, weight in model.named_parameters()
        if name in fisher
    }


def _accumulated(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    chunk: int,
    of_image: Callable[[Tensor, Tensor], Tensor],
) -> tuple[_Scores, _Scores]:
    """The weights, and the sum over images of `of_image(weight, gradient of that image's loss)` for each."""
    weights, model = _checked(model, images, labels, chunk)
    rest = {name: value.detach() for name, value in model.named_parameters() if name not in weights}
    rest |= {name: value.detach() for name, value in model.named_buffers()}

    def loss_of_one(weights: _Scores, image: Tensor, label: Tensor) -> Tensor:
        logits = torch.func.functional_call(model, weights | rest, (image[None],))
        return F.cross_entropy(logits, label[None])

    # One gradient for each image: vmap runs the backward passes of a chunk side by side.
    gradients_of = torch.func.vmap(torch.func.grad_and_value(loss_of_one), in_dims=(None, 0, 0))
    sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for some, answers in zip(images.split(chunk), labels.split(chunk), strict=True):
        gradients, losses = gradients_of(weights, some, answers)
        if not torch.isfinite(losses).all():
            raise ValueError(
                "the loss of an image is not finite; it must be, or nothing can be ranked by it. Look for NaN in the "
                "images or in the weights."
            )
        for name, gradient in gradients.items():
            sums[name] += of_image(weights[name], gradient).sum(0)
    return weights, sums


def _checked(model: object, images: object, labels: object, chunk: object) -> tuple[_Scores, nn.Module]:
    """The weights to score and a copy of the model in evaluation mode; raises for what cannot be scored."""
    tracing.check_network(model)
    check_dense(images, "images", such_as="data.to_float(split.images)")
    check_dense(labels, "labels", such_as="split.labels")
    check_count(chunk, "chunk")
    if not images.is_floating_point():
        raise TypeError(f"images has dtype {images.dtype}; it must be float. Use data.to_float.")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(
            f"labels has dtype {labels.dtype}; it must hold whole numbers, a class each. Give split.labels."
        )
    if labels.ndim != 1 or len(labels) != len(images):
        raise ValueError(
            f"labels has shape {list(labels.shape)} for {len(images)} images; it must be [{len(images)}], a class for "
            "each image. Cut both to the same images."
        )
    if masks._frozen_names(model):
        raise ValueError(
            "the model is frozen, and its masked weights have no gradient; it must be dense. Call make_permanent first."
        )
    model = copy.deepcopy(model).eval()
    weights = {name: value.detach() for name, value in model.named_parameters() if value.ndim > 1}
    if not weights:
        raise ValueError(
            "the model has no weights of two or more dimensions; it must have some to be ranked. Give a network with "
            "layers."
        )
    return weights, model
