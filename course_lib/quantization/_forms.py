"""What rows of the table compute, where that is no function of PyTorch or of `integer` as it is."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.quantization import integer
from course_lib.quantization.affine import quantize


def with_params(function: Callable[..., Tensor], *names: str) -> Callable[..., Tensor]:
    """A function of `integer` with its parameters in one sequence, in the order of these names."""
    return lambda *inputs, params, **options: function(
        *inputs, **dict(zip(names, params, strict=True)), **options
    )


def without_params(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function that picks integers, whatever they stand for."""
    return lambda *inputs, params, **options: function(*inputs, **options)


def looked_up(name: str) -> Callable[..., Tensor]:
    """An activation function of `integer` on its parameters in one sequence."""

    def function(x: Tensor, *, params: tuple, **options: object) -> Tensor:
        return integer.activation(x, name, x_params=params[0], y_params=params[1], **options)

    return function


def images(x: Tensor, prologue: Sequence[Callable[[Tensor], Tensor]] = ()) -> Tensor:
    """The images as the network makes them before anything else, normalised for instance."""
    for arithmetic in prologue:
        x = arithmetic(x)
    return x


def cut(x: Tensor, high: float) -> Tensor:
    return x.clamp(0.0, high)  # of one type, which the exporter to ONNX wants


def cut_integers(x: Tensor, *, params: tuple, high: float) -> Tensor:
    """This changes nothing where the range begins at 0 and ends no higher than the activation does."""
    _, y_params = params
    return integer.relu(x, params=y_params).clamp_(max=int(quantize(torch.tensor(high), y_params)))


def unsqueezed(x: Tensor, dims: tuple[int, ...] = (2, 3)) -> Tensor:
    for dim in dims:
        x = x.unsqueeze(dim)
    return x


def flat(x: Tensor) -> Tensor:
    return x.flatten(1)


def concatenated(*inputs: Tensor, params: tuple, dim: int) -> Tensor:
    return integer.concat(*inputs, x_params=params[:-1], y_params=params[-1], dim=dim)


def padded(x: Tensor, *, params: tuple, pad: tuple, value: float = 0.0) -> Tensor:
    return integer.pad(x, pad, x_params=params[0], y_params=params[1], value=value)


def part(x: Tensor, *, cut: str, sizes: int | tuple, dim: int, index: int) -> Tensor:
    return (x.chunk if cut == "chunk" else x.split)(sizes, dim)[index]


def shuffled(x: Tensor, groups: int) -> Tensor:
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def of_size(x: Tensor, size: tuple) -> Tensor:
    if any(wanted not in (None, given) for wanted, given in zip(size, x.shape[2:], strict=True)):
        raise ValueError(
            f"it pools {list(x.shape[2:])} to {list(size)}; accepted are images of such a size that it changes "
            "nothing (in VGG and AlexNet 224 x 224 pixels), or pooling to 1."
        )
    return x


def mean(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, 1) if x.ndim == 4 else F.adaptive_avg_pool1d(x, 1)


def mean_integers(x: Tensor, *, params: tuple) -> Tensor:
    sequences = x.ndim == 3
    means = integer.global_avg_pool(x[..., None] if sequences else x, x_params=params[0], y_params=params[1])
    return means[..., 0] if sequences else means


def max_pool1d(x: Tensor, *, kernel_size: int, stride: int, padding: int, ceil_mode: bool = False) -> Tensor:
    rows = {"stride": (1, stride), "padding": (0, padding), "ceil_mode": ceil_mode}
    return integer.max_pool2d(x[:, :, None], (1, kernel_size), **rows)[:, :, 0]
