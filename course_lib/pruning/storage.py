r"""Count the bytes that a pruned weight takes in a file, for three ways of writing it.

With n numbers in C_out rows, of which z are not zero, and b bytes a number (4 for float32):

- dense: :math:`n b`; zeros cost as much as anything
- CSR: :math:`z (b + 4) + 4 (C_{out} + 1)`; an int32 column index with each value, an int32 end of each row
- bitmap: :math:`z b + \lceil n / 8 \rceil`; one bit for each number

So CSR is smaller than dense where the density z / n falls below b / (b + 4), less the row pointers: for float32 at a
sparsity of more than about 1/2, for int8 of more than about 4/5. The bitmap is smaller where the sparsity exceeds
1 / (8 b): 1/32 for float32, 1/8 for int8. Of the two, the bitmap is smaller until so few values are left that 4 bytes
an index are less than one bit a number: a sparsity of about 31/32, whatever b is.

The tensor is taken as a matrix [C_out, -1]; a vector as a single row. Negative zero counts as zero.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

from course_lib.validation import check_count, check_dense, described

_INDEX_BYTES = 4


def dense_bytes(weight: Shaped[Tensor, "*shape"]) -> int:
    r"""Count the bytes of all numbers, zeros included: :math:`n b`.

    Args:
        weight: not empty, any dtype.

    Raises:
        TypeError: not a tensor, or a sparse or nested one.
        ValueError: empty.

    Example:
        >>> dense_bytes(torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
        16
    """
    return check_dense(weight, "weight", values=False).numel() * weight.element_size()


def csr_bytes(weight: Shaped[Tensor, "*shape"]) -> int:
    r"""Count the bytes in compressed sparse rows with int32 indices: :math:`z (b + 4) + 4 (C_{out} + 1)`.

    Args:
        weight: [C_out, ...], taken as a matrix [C_out, -1]; a vector is one row.

    Raises:
        TypeError: as `dense_bytes`; or a quantized tensor.
        ValueError: empty, or on the device meta, where nothing can be counted.

    Example:
        >>> csr_bytes(torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
        28
    """
    matrix = torch.atleast_2d(check_dense(weight, "weight"))
    return (
        int(weight.count_nonzero()) * (weight.element_size() + _INDEX_BYTES)
        + (len(matrix) + 1) * _INDEX_BYTES
    )


def bitmap_bytes(weight: Shaped[Tensor, "*shape"]) -> int:
    r"""Count the bytes of what `pack_bitmap` returns: :math:`z b + \lceil n / 8 \rceil`.

    Args:
        weight: not empty, any dtype.

    Raises:
        TypeError: as `dense_bytes`; or a quantized tensor.
        ValueError: empty, or on the device meta, where nothing can be counted.

    Example:
        >>> bitmap_bytes(torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
        9
    """
    return int(check_dense(weight, "weight").count_nonzero()) * weight.element_size() + -(
        -weight.numel() // 8
    )


def pack_bitmap(weight: Shaped[Tensor, "*shape"]) -> tuple[UInt8[Tensor, "bytes"], Shaped[Tensor, "nonzero"]]:
    """Pack a weight into one bit for each number (1: not zero) and the numbers that are not zero, in order.

    Bit i % 8 of byte i // 8, counted from the lowest, stands for number i of the flattened weight.

    Args:
        weight: not empty, any dtype.

    Returns:
        uint8 [ceil(n / 8)]; and values [z] in the dtype of the weight. Both are new, on its device.

    Raises:
        TypeError: as `dense_bytes`; or a quantized tensor.
        ValueError: empty, or on the device meta, where nothing can be counted.

    Example:
        >>> pack_bitmap(torch.tensor([0.0, 1.0, 2.0, 0.0]))
        (tensor([6], dtype=torch.uint8), tensor([1., 2.]))
    """
    flat = check_dense(weight, "weight").detach().flatten()
    keep = flat != 0
    padded = torch.nn.functional.pad(keep.to(torch.uint8), (0, -len(keep) % 8)).reshape(-1, 8)
    places = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=flat.device)
    return (padded * places).sum(dim=1, dtype=torch.uint8), flat[keep]


def unpack_bitmap(
    bits: UInt8[Tensor, "bytes"], values: Shaped[Tensor, "nonzero"], shape: Sequence[int]
) -> Shaped[Tensor, "..."]:
    """Unpack the weight that `pack_bitmap` was given, number for number (a negative zero comes back as zero).

    Args:
        bits: uint8 [ceil(n / 8)].
        values: [z], one for each bit that is set.
        shape: of the weight, with n numbers.

    Returns:
        A new tensor of that shape, in the dtype and on the device of the values.

    Raises:
        TypeError: bits are not a uint8 tensor, values not a tensor, or the shape does not hold ints.
        ValueError: bits, values and shape do not belong together.

    Example:
        >>> unpack_bitmap(torch.tensor([6], dtype=torch.uint8), torch.tensor([1.0, 2.0]), (2, 2))
        tensor([[0., 1.],
                [2., 0.]])
    """
    if not isinstance(bits, Tensor) or bits.dtype != torch.uint8:
        given = f"has dtype {bits.dtype}" if isinstance(bits, Tensor) else f"is {described(bits)}"
        raise TypeError(
            f"bits {given}; it must be the uint8 tensor of pack_bitmap. Pass the first that it gives."
        )
    if not isinstance(values, Tensor) or values.layout != torch.strided or values.is_nested:
        given = "not dense" if isinstance(values, Tensor) else described(values)
        raise TypeError(
            f"values is {given}; it must be the tensor of pack_bitmap. Pass the second that it gives."
        )
    if bits.is_meta or values.is_meta:
        raise ValueError(
            "bits or values is on the device meta, where tensors hold no values; both must hold some. Pass the tensors "
            "of pack_bitmap."
        )
    if not isinstance(shape, Sequence) or isinstance(shape, str | bytes):
        raise TypeError(f"shape is {shape!r:.80}; it must be a sequence of ints, such as weight.shape.")
    count = 1
    for size in shape:
        count *= check_count(size, "a size in shape")
    if bits.shape != (-(-count // 8),):
        raise ValueError(
            f"bits has shape {list(bits.shape)}; a weight of shape {list(shape)} has {count} numbers, and so needs "
            f"[{-(-count // 8)}]. Give the shape of the weight that was packed."
        )
    places = torch.arange(8, device=bits.device, dtype=torch.uint8)
    flags = ((bits[:, None] >> places) & 1).bool().flatten()
    keep = flags[:count].to(values.device)
    if values.shape != (int(flags.sum()),) or flags[count:].any():
        raise ValueError(
            f"values has shape {list(values.shape)} and {int(flags.sum())} bits are set, {int(flags[:count].sum())} of "
            f"them for the {count} numbers; each set bit must have one value. bits and values must come from one call."
        )
    weight = torch.zeros(count, dtype=values.dtype, device=values.device)
    weight[keep] = values
    return weight.reshape(tuple(shape))
