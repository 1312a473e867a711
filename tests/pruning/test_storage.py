"""Bytes of pruned weights: by hand, against PyTorch's own sparse tensors, and packed and unpacked again."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from course_lib.pruning.storage import bitmap_bytes, csr_bytes, dense_bytes, pack_bitmap, unpack_bitmap

DTYPES = [np.float16, np.float32, np.float64, np.int8, np.int64, np.bool_]
sparse = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays(
        dtype, array_shapes(min_dims=0, max_dims=4, max_side=6), elements=st.sampled_from([0, 0, 0, 1])
    )
)


def test_bytes_by_hand():
    """Two rows of eight float32, three of them not zero."""
    weight = torch.zeros(2, 2, 2, 2)
    weight[0, 0, 0, 0], weight[1, 0, 1, 0], weight[1, 1, 1, 1] = 1.0, -2.0, 3.0
    assert dense_bytes(weight) == 64
    assert csr_bytes(weight) == 3 * 8 + 3 * 4
    assert bitmap_bytes(weight) == 3 * 4 + 2
    bits, values = pack_bitmap(weight)
    assert bits.tolist() == [1, 4 + 128]
    assert values.tolist() == [1, -2, 3]


@given(sparse)
def test_a_bitmap_comes_back_as_it_was_and_takes_the_bytes_counted(array):
    weight = torch.from_numpy(np.asarray(array).copy())
    bits, values = pack_bitmap(weight)
    again = unpack_bitmap(bits, values, weight.shape)
    assert again.dtype == weight.dtype
    assert again.shape == weight.shape
    assert torch.equal(again, weight)
    assert bits.nbytes + values.nbytes == bitmap_bytes(weight)
    assert np.array_equal(bits.numpy(), np.packbits(weight.numpy() != 0, bitorder="little"))
    assert dense_bytes(weight) == weight.nbytes


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8])
@pytest.mark.parametrize("shape", [(5, 7), (4, 3, 3, 3), (9,), (1, 1)])
def test_csr_agrees_with_pytorch(dtype, shape):
    weight = torch.randint(-1, 2, shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    matrix = weight.reshape(1, -1) if weight.ndim == 1 else weight.flatten(1)
    csr = matrix.to_sparse_csr()
    parts = csr.values(), csr.col_indices().int(), csr.crow_indices().int()
    assert csr_bytes(weight) == sum(part.nbytes for part in parts)


def test_special_numbers_survive_the_bitmap():
    weight = torch.tensor([math.nan, math.inf, -0.0, 1e-45, -math.inf], dtype=torch.float32)
    again = unpack_bitmap(*pack_bitmap(weight), weight.shape)
    assert torch.equal(again.nan_to_num(nan=7), weight.nan_to_num(nan=7))
    assert torch.equal(pack_bitmap(weight.bfloat16())[0], torch.tensor([1 + 2 + 16], dtype=torch.uint8))


def test_the_documented_break_even_points():
    """A square float32 weight of 256 x 256: CSR pays just below a density of one half, the bitmap of 31/32."""
    count, weight = 2**16, torch.zeros(2**16)
    for bytes_of, even in ((csr_bytes, count // 2 - 257 * 4 / 8), (bitmap_bytes, count - count / 32)):
        for nonzero, smaller in ((math.ceil(even) - 1, True), (math.floor(even) + 1, False)):
            weight.zero_()[:nonzero] = 1
            assert (bytes_of(weight.reshape(256, 256)) < dense_bytes(weight)) is smaller


def test_packing_neither_shares_nor_changes_the_weight():
    weight = torch.nn.Parameter(torch.ones(3, 3))
    _, values = pack_bitmap(weight)
    values.zero_()
    assert torch.equal(weight, torch.ones(3, 3))
    assert not values.requires_grad


# Errors


@pytest.mark.bad_input
@pytest.mark.parametrize("function", [dense_bytes, csr_bytes, bitmap_bytes, pack_bitmap])
@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        ([1.0], TypeError, r"weight is a list; it must be a torch\.Tensor"),
        (torch.zeros(0, 3), ValueError, r"weight has shape \[0, 3\], which holds nothing"),
        (torch.ones(2, 2).to_sparse(), TypeError, r"weight is sparse .*Call \.to_dense\(\)"),
    ],
)
def test_a_wrong_weight_is_named(function, weight, error, message):
    with pytest.raises(error, match=message):
        function(weight)


BITS, VALUES = pack_bitmap(torch.tensor([[1.0, 0.0, 2.0]]))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("bits", "values", "shape", "error", "message"),
    [
        (BITS.int(), VALUES, (1, 3), TypeError, r"bits has dtype torch\.int32; it must be the uint8"),
        ([5], VALUES, (1, 3), TypeError, "bits is a list"),
        (BITS, [1.0, 2.0], (1, 3), TypeError, "values is a list"),
        (BITS, VALUES, 3, TypeError, "shape is 3; it must be a sequence of ints"),
        (BITS, VALUES, (1.0, 3), TypeError, r"a size in shape is 1\.0"),
        (BITS, VALUES, (0, 3), ValueError, "a size in shape is 0"),
        (
            BITS,
            VALUES,
            (3, 3),
            ValueError,
            r"bits has shape \[1\]; a weight of shape \[3, 3\] has 9 numbers.*\[2\]",
        ),
        (BITS, VALUES[:1], (1, 3), ValueError, r"values has shape \[1\] and 2 bits are set"),
        (BITS, VALUES, (1, 2), ValueError, "2 bits are set, 1 of them for the 2 numbers"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(bits, values, shape, error, message):
    with pytest.raises(error, match=message):
        unpack_bitmap(bits, values, shape)
