"""Concatenation and padding of integers."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Integer
from torch import Tensor

from course_lib.quantization.affine import QuantParams, dequantize, quantize
from course_lib.quantization.integer._values import check, scale_of
from course_lib.validation import check_count, check_number


def concat(
    *inputs: Integer[Tensor, "..."],
    x_params: Sequence[QuantParams],
    y_params: QuantParams,
    dim: int = 1,
) -> Integer[Tensor, "..."]:
    r"""Concatenate integers, each of which has a scale of its own, and bring them to that of the output.

    .. math:: q_y = \mathrm{clip}(\mathrm{round\_half\_even}(s_x (q_x - z_x) / s_y) + z_y,\ q_{min},\ q_{max})

    Product and quotient are rounded to float32. Bit-equal to ONNX Runtime's QLinearConcat, which looks the same numbers
    up in a table. Integers whose parameters are those of the output stay as they are.

    Args:
        inputs: one tensor or more; integers of the dtypes of their parameters, of equal shapes but for one axis.
        x_params: of each input, with one scale each.
        y_params: with one scale.
        dim: the axis along which they are put together.

    Returns:
        Integers of the dtype of `y_params`.

    Raises:
        TypeError, ValueError: as `conv2d`; no inputs, not as many parameters, shapes that do not go together, or no
            such axis.

    Example:
        >>> one, two = (QuantParams(torch.tensor(s), torch.tensor(0).int(), bits=8, signed=True) for s in (0.5, 2.0))
        >>> a, b = torch.tensor([[4, 12]], dtype=torch.int8), torch.tensor([[7]], dtype=torch.int8)
        >>> concat(a, b, x_params=(one, two), y_params=two)
        tensor([[1, 3, 7]], dtype=torch.int8)
    """
    if not isinstance(x_params, Sequence):
        raise TypeError(f"x_params are {type(x_params).__name__}; they must be a list of QuantParams.")
    if len(x_params) != len(inputs) or not inputs:
        raise ValueError(
            f"there are {len(x_params)} x_params for {len(inputs)} tensors; give one or more tensors, and QuantParams "
            "for each."
        )
    for place, (x, params) in enumerate(zip(inputs, x_params, strict=True)):
        check(x, params, f"input {place}")
    scale_of(y_params, "y_params")
    shapes = [list(x.shape) for x in inputs]
    if not isinstance(dim, int) or isinstance(dim, bool) or not -len(shapes[0]) <= dim < len(shapes[0]):
        raise ValueError(f"dim is {dim!r}; it must be an axis of tensors of shape {shapes[0]}.")
    axis = dim % len(shapes[0])
    if len({(len(shape), *shape[:axis], *shape[axis + 1 :]) for shape in shapes}) > 1:
        raise ValueError(f"the inputs have shapes {shapes}; they must be equal but for axis {axis}.")
    return torch.cat(
        [_brought(x, params, y_params) for x, params in zip(inputs, x_params, strict=True)], axis
    )


def pad(
    x: Integer[Tensor, "*shape"],
    pad: Sequence[int],
    *,
    x_params: QuantParams,
    y_params: QuantParams | None = None,
    value: float = 0.0,
) -> Integer[Tensor, "*shape2"]:
    """Pad integers with what stands for a constant: for 0 that is the zero point.

    Args:
        x: integers of the dtype of `x_params`.
        pad: values before and after, for the last axis first, as in `torch.nn.functional.pad`; negative ones cut off.
        x_params: with one scale.
        y_params: of the output, to which x is brought as in `concat`; those of x where not given.
        value: a number, finite; it is clipped to the range of the output.

    Returns:
        Integers of the dtype of `y_params`.

    Raises:
        TypeError, ValueError: as `conv2d`; `pad` is no even number of whole numbers, or nothing is left.

    Example:
        >>> params = QuantParams(torch.tensor(0.5), torch.tensor(3, dtype=torch.int32), bits=8, signed=False)
        >>> pad(torch.tensor([[7, 9]], dtype=torch.uint8), (1, 2), x_params=params)
        tensor([[3, 7, 9, 3, 3]], dtype=torch.uint8)
    """
    check(x, x_params, "x")
    y_params = x_params if y_params is None else y_params
    scale_of(y_params, "y_params")
    check_number(value, "value")
    sizes = list(pad) if isinstance(pad, Sequence) and not isinstance(pad, str) else None
    if not sizes or len(sizes) % 2 or len(sizes) > 2 * x.ndim:
        raise ValueError(
            f"pad is {pad!r}; for x of shape {list(x.shape)} it must be pairs (before, after), last axis first."
        )
    sizes = [check_count(size, f"pad[{place}]", low=-(2**31)) for place, size in enumerate(sizes)]
    room = [
        size + before + after
        for size, before, after in zip(x.shape[::-1], sizes[::2], sizes[1::2], strict=False)
    ]
    if min(room) < 1:
        raise ValueError(
            f"pad is {tuple(sizes)}, which leaves nothing of x, whose shape is {list(x.shape)}; at least one value "
            "must stay. Cut off less."
        )
    filling = quantize(torch.tensor(value, dtype=torch.float32), y_params)
    return F.pad(_brought(x, x_params, y_params), sizes, value=int(filling))


def _brought(x: Tensor, params: QuantParams, y_params: QuantParams) -> Tensor:
    """Integers of the output that are nearest to those of the input."""
    same = (
        params.dtype == y_params.dtype
        and params.bits == y_params.bits
        and torch.equal(params.scale, y_params.scale)
        and torch.equal(params.zero_point, y_params.zero_point)
    )
    return x if same else quantize(dequantize(x, params), y_params)
