"""Measure the statistics of batch norm anew: after pruning, those of the whole network no longer fit."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from course_lib.validation import check_model

_BatchNorm = nn.modules.batchnorm._BatchNorm
_Batch = Float[Tensor, "_ ..."] | Sequence[Tensor]  # images, or images and labels; each batch of its own size


@torch.no_grad()
def recalibrate_batch_norm(model: nn.Module, batches: Iterable[_Batch]) -> None:
    r"""Measure the statistics of every batch norm anew, in place; no weight changes.

    Running mean and variance are set back and become the plain average over the batches:

    .. math:: \mu = \frac{1}{B} \sum_b \mu_b, \qquad \sigma^2 = \frac{1}{B} \sum_b \sigma_b^2

    Only batch norms are in train mode while the batches go through; dropout is off. All modes and momenta are as before
    afterwards. A batch norm that no batch reaches in evaluation, such as one of an auxiliary head, keeps the statistics
    that it had.

    Args:
        model: network with batch norm that keeps running statistics.
        batches: inputs [N, ...] as the model takes them, on its device, in a list, a generator or a DataLoader; a few
            hundred training images in all are plenty. Of a list or tuple, (images, labels) or (images,), the images are
            taken. Not test images: the statistics would have seen them.

    Raises:
        TypeError: batches is one tensor, or nothing that can be iterated over.
        ValueError: no batch norm with running statistics; no batches, or a batch that the model does not accept or that
            gives NaN or infinite activations. The statistics are then what they were.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm1d(1))
        >>> recalibrate_batch_norm(model, [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [7.0]])])
        >>> model[0].running_mean, model[0].running_var
        (tensor([4.]), tensor([2.]))

    References:
        Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning", ECCV 2020, section 3.3
        (whose code does not set the statistics back).
    """
    _check_batches(batches)
    check_model(model)
    layers = [
        layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats
    ]
    if not layers:
        raise ValueError(
            "the model has no batch norm with running statistics, so there is nothing to recalibrate. Evaluate it "
            "as it is."
        )
    modes = [(module, module.training) for module in model.modules()]
    before = [
        (layer, layer.momentum, {name: value.clone() for name, value in layer.named_buffers(recurse=False)})
        for layer in layers
    ]
    count = 0
    done = False
    try:
        for module, _ in modes:
            module.training = False
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # a cumulative average instead of an exponential one
            layer.training = True
        for batch in batches:
            try:
                model(_images(batch))
            except (RuntimeError, ValueError, TypeError) as error:
                raise ValueError(
                    f"the model does not accept batch {count}: {str(error).partition(chr(10))[0]}. Each of the batches "
                    "must be what its forward() takes, or a list that begins with it; give float images [N, C, H, W]."
                ) from error
            count += 1
        if not count:
            raise ValueError("there are no batches; give at least one, such as [images[:500]].")
        _check_statistics(model)
        done = True
    finally:
        for module, mode in modes:
            module.training = mode
        for layer, momentum, buffers in before:
            layer.momentum = momentum
            if not done or not layer.num_batches_tracked:  # what saw no batch keeps what it had
                for name, value in buffers.items():
                    getattr(layer, name).copy_(value)


def _images(batch: _Batch) -> Tensor:
    """The images of a batch; a DataLoader gives them in a list or a tuple, alone or with their labels."""
    return batch[0] if isinstance(batch, list | tuple) and len(batch) in (1, 2) else batch


def _check_batches(batches: object) -> None:
    if isinstance(batches, Tensor):
        raise TypeError(
            f"batches is one tensor of shape {list(batches.shape)}, which would be read image by image; it must be "
            "a list of batches. Wrap it in a list: [images] is one batch, such as you may give."
        )
    if not isinstance(batches, Iterable):
        raise TypeError(
            f"batches is {batches!r:.80} ({type(batches).__name__}); it must be batches of inputs, such as "
            "[images[:500]] or a DataLoader."
        )


def _check_statistics(model: nn.Module) -> None:
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")) and not torch.isfinite(buffer).all():
            raise ValueError(
                f"{name} became NaN or infinite. Look for such values in the batches, and in the weights of a network "
                "that diverged."
            )
