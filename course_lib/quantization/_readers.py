"""Readers of calls: from the arguments, as a network spells them, to what an operation of the table takes."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

BATCH = object()
"""Stands in the arguments of a call for the number of images, `x.size(0)`."""

SIZE = object()
"""Stands there for another size of a tensor, such as `x.size(1)`."""


@dataclass(frozen=True)
class Call:
    """Call of an operation in a network, its arguments read.

    Attributes:
        inputs: tensors that it reads.
        options: keyword arguments of `Operation.numbers` and `Operation.integers`.
        in_place: whether the result takes the place of the first input.
        then: operation on the result that belongs to the same call, such as flattening after a mean without keepdim.
        gates: whether `then` reads the first input before the result, as x * sigmoid(x) does.
        before: options of `pad` for the first input, which belongs to the same call.
        layer: name of the layer whose weight it reads, where that is not the module that is called.
        operation: where it is not the one that is spelled so.

    Example:
        >>> call = mean("x", (2, 3))
        >>> call.inputs, call.then
        (('x',), 'flatten')
    """

    inputs: tuple[object, ...]
    options: dict[str, object] = field(default_factory=dict)
    in_place: bool = False
    then: str | None = None
    gates: bool = False
    before: dict[str, object] | None = None
    layer: str | None = None
    operation: str | None = None


class Refused(Exception):
    """Reason why a call has no integer form, in words that follow "has no integer form here:"."""


def of_module(read: Callable[..., Call], *attributes: str) -> Callable[..., Call]:
    """A reader for a module, which has as attributes what a function takes as arguments."""
    return lambda layer, input: read(input, *(getattr(layer, name) for name in attributes))


def linear(layer: nn.Linear, input: object) -> Call:
    return Call((input,))


def relu(input: object, inplace: bool = False) -> Call:
    return Call((input,), {"high": math.inf}, in_place=inplace)


def relu_in_place(input: object) -> Call:
    return relu(input, inplace=True)


def relu6(input: object, inplace: bool = False) -> Call:
    return Call((input,), {"high": 6.0}, in_place=inplace)


def add(input: object, other: object, *, alpha: float = 1) -> Call:
    if alpha != 1:
        raise Refused(f"it adds with alpha={alpha}")
    return Call((input, other))


def add_in_place(input: object, other: object, *, alpha: float = 1) -> Call:
    return Call(add(input, other, alpha=alpha).inputs, in_place=True)


def sub(input: object, other: object, *, alpha: float = 1) -> Call:
    if alpha != 1:
        raise Refused(f"it subtracts with alpha={alpha}")
    return Call((input, other))


def sub_in_place(input: object, other: object, *, alpha: float = 1) -> Call:
    return Call(sub(input, other, alpha=alpha).inputs, in_place=True)


def mul(input: object, other: object) -> Call:
    return Call((input, other))


def mul_in_place(input: object, other: object) -> Call:
    return Call((input, other), in_place=True)


def activation(input: object, inplace: bool = False) -> Call:
    return Call((input,), in_place=inplace)


def activation_in_place(input: object) -> Call:
    return activation(input, inplace=True)


def gate(input: object, inplace: bool = False) -> Call:
    """SiLU and Hardswish: the product of x and an activation function of it."""
    return Call((input,), in_place=inplace, then="mul", gates=True)


def leaky_relu(input: object, negative_slope: float = 0.01, inplace: bool = False) -> Call:
    return Call((input,), {"negative_slope": negative_slope}, in_place=inplace)


def elu(input: object, alpha: float = 1.0, inplace: bool = False) -> Call:
    return Call((input,), {"alpha": alpha}, in_place=inplace)


def gelu(input: object, approximate: str = "none") -> Call:
    return Call((input,), {"approximate": approximate})


def max_pool2d(
    input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
) -> Call:
    if dilation not in (1, (1, 1)) or return_indices:
        raise Refused("its dilation or return_indices is set")
    options = window(kernel_size, stride, padding)
    return Call((input,), options | ({"ceil_mode": True} if ceil_mode else {}))


def avg_pool2d(
    input,
    kernel_size,
    stride=None,
    padding=0,
    ceil_mode=False,
    count_include_pad=True,
    divisor_override=None,
) -> Call:
    leaves_out = not count_include_pad and padding not in (0, (0, 0))
    if ceil_mode or leaves_out or divisor_override is not None:
        raise Refused("its ceil_mode or divisor_override is set, or padding does not count")
    return Call((input,), window(kernel_size, stride, padding))


def window(kernel_size: object, stride: object, padding: object) -> dict[str, object]:
    if stride is None or stride == ():
        stride = kernel_size
    sizes = {"kernel_size": kernel_size, "stride": stride, "padding": padding}
    return {name: size if isinstance(size, int) else tuple(size) for name, size in sizes.items()}


def adaptive_avg_pool2d(input: object, output_size: object) -> Call:
    """The mean of the whole image; for any other size an image that has this size already, as is checked later."""
    if output_size in (1, (1, 1), [1, 1]):
        return Call((input,))
    size = tuple(output_size) if isinstance(output_size, tuple | list) else (output_size, output_size)
    if len(size) != 2 or not all(side is None or isinstance(side, int) for side in size):
        raise Refused(f"it pools to the size {output_size}, which is no (height, width) that the code states")
    return Call((input,), {"size": size}, operation="same_size")


def mean(input: object, dim: object = None, keepdim: bool = False) -> Call:
    if not isinstance(dim, tuple | list) or sorted(axis % 4 for axis in dim) != [2, 3]:
        raise Refused(f"it takes the mean over the axes {dim}, not over height and width, (2, 3)")
    return Call((input,), then=None if keepdim else "flatten")


def flatten(input: object, start_dim: int = 0, end_dim: int = -1) -> Call:
    if (start_dim, end_dim) != (1, -1):
        raise Refused(f"it flattens from axis {start_dim} to {end_dim}, not from 1 to the last")
    return Call((input,))


def view(input: object, *shape: object) -> Call:
    shape = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
    pixel = len(shape) == 4 and shape[2:] == (1, 1)
    # [N, -1], or [N, C] where these are all; and [-1, length], where a wrong length does not go with the next layer
    flat = (len(shape) == 2 or pixel) and (shape[0] is BATCH or shape[0] == -1)
    if not flat or not (shape[1] is SIZE or isinstance(shape[1], int)) or (shape[0] == -1 and shape[1] == -1):
        raise Refused(
            "it reshapes to something else than [N, all the rest], or [N, all the rest, 1, 1]; flatten(1) does that"
        )
    return Call((input,), then="unsqueeze" if pixel else None)


def unsqueeze(input: object, dim: int) -> Call:
    return Call((input,), {"dims": (dim,)})


def expand_as(input: object, other: object) -> Call:
    return Call((input, other))
