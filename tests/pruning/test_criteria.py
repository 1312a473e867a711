"""Scores of filters: by hand, against NumPy, at every dtype, and every error."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from course_lib.pruning.criteria import bn_scale, l1_norm, l2_norm, lowest, random_scores

NORMS = {"l1": l1_norm, "l2": l2_norm}
DTYPES = [
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.int8,
    torch.uint8,
    torch.int16,
    torch.int32,
    torch.int64,
]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_norms_by_hand():
    weight = torch.tensor([[[[3.0, -4.0]]], [[[0.0, 0.0]]], [[[1.0, 1.0]]]])
    assert l1_norm(weight).tolist() == [7, 0, 2]
    assert l2_norm(weight).tolist() == [5, 0, math.sqrt(2)]


@given(arrays(np.float32, (3, 4, 2), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_norms_agree_with_numpy_in_float64(weight):
    rows = np.abs(weight.astype(np.float64).reshape(3, -1))
    torch.testing.assert_close(l1_norm(torch.from_numpy(weight)), torch.from_numpy(rows.sum(axis=1)))
    torch.testing.assert_close(
        l2_norm(torch.from_numpy(weight)), torch.from_numpy(np.linalg.norm(rows, axis=1))
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_dtype_overflows_or_loses_digits(dtype):
    """1000 numbers at each end of the dtype: the sum is beyond float16, and int8's -128 has no |w| in int8."""
    info = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
    ends = torch.tensor([[info.min] * 1000, [info.max] * 1000, [1] + [0] * 999], dtype=dtype)
    low, high = abs(float(info.min)), abs(float(info.max))
    assert l1_norm(ends).tolist() == pytest.approx([low * 1000, high * 1000, 1], rel=1e-12)
    root = math.sqrt(1000)
    assert l2_norm(ends).tolist() == pytest.approx([low * root, high * root, 1], rel=1e-12)


def test_a_small_weight_beside_a_large_one_still_counts():
    weight = torch.tensor([[1e8, 1.0], [1e8, 0.0]])
    assert lowest(l1_norm(weight), 1).tolist() == [1]


@pytest.mark.parametrize("score", [l1_norm, l2_norm])
def test_scores_have_no_gradient_and_leave_the_weight_alone(score):
    layer = nn.Conv2d(2, 3, 3, groups=1)
    before = layer.weight.detach().clone()
    scores = score(layer.weight)
    assert not scores.requires_grad
    assert scores.dtype == torch.float64
    assert torch.equal(layer.weight, before)


def test_random_scores_depend_on_the_generator_alone():
    weight = torch.zeros(50, 2)
    first, again, other = (random_scores(weight, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert ((first >= 0) & (first < 1)).all()
    assert len(first.unique()) == 50


@pytest.mark.parametrize("bn", [nn.BatchNorm1d(3), nn.BatchNorm2d(3), nn.SyncBatchNorm(3)])
def test_bn_scale_is_the_magnitude_of_gamma(bn):
    with torch.no_grad():
        bn.weight.copy_(torch.tensor([-2.0, 0.0, 0.5]))
        bn.bias.fill_(9)
    assert bn_scale(bn).tolist() == [2, 0, 0.5]
    assert not bn_scale(bn).requires_grad


# The lowest

scores = st.lists(st.integers(-3, 3), min_size=1, max_size=40)


@given(scores, st.data())
def test_lowest_is_a_stable_sort(values, data):
    count = data.draw(st.integers(0, len(values)))
    expected = sorted(np.argsort(values, kind="stable")[:count].tolist())
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.float64):
        assert lowest(torch.tensor(values, dtype=dtype), count).tolist() == expected


def test_lowest_by_hand():
    assert lowest(torch.tensor([2.0, 1.0, 2.0, 0.0, 2.0]), 3).tolist() == [0, 1, 3]
    assert lowest(torch.tensor([math.inf, -math.inf, math.inf]), 2).tolist() == [0, 1]
    assert lowest(torch.tensor([1.0]), 0).dtype == torch.int64
    assert lowest(torch.tensor([2**53, 2**53 + 1, 2**53 - 1]), 2).tolist() == [0, 2]


# Errors

W = torch.ones(3, 2)
SCORERS = {
    "l1": l1_norm,
    "l2": l2_norm,
    "random": lambda weight: random_scores(weight, seeded()),
}


@pytest.mark.bad_input
@pytest.mark.parametrize("score", SCORERS)
@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        ([[1.0]], TypeError, r"weight is a list; it must be a torch\.Tensor, such as layer\.weight"),
        (nn.Linear(2, 2), TypeError, "weight is a Linear"),
        (W > 0, TypeError, r"dtype torch\.bool; it must hold real numbers"),
        (W.cfloat(), TypeError, r"dtype torch\.complex64"),
        (W.to_sparse(), TypeError, r"sparse .*Call \.to_dense\(\)"),
        (torch.zeros(0, 3), ValueError, r"shape \[0, 3\], which holds nothing"),
        (torch.zeros(3, 0), ValueError, r"shape \[3, 0\], which holds nothing"),
        (torch.tensor([[1.0, math.nan]]), ValueError, "holds NaN.*lower the learning rate"),
        (torch.ones(3), ValueError, r"shape \[3\]; filters are rows .* A bias"),
        (torch.tensor(3.0), ValueError, r"shape \[\]; filters are rows"),
    ],
)
def test_a_wrong_weight_is_named(score, weight, error, message):
    with pytest.raises(error, match=message):
        SCORERS[score](weight)


@pytest.mark.bad_input
@pytest.mark.parametrize("generator", [0, None, np.random.default_rng(0)])
def test_a_seed_is_no_generator(generator):
    with pytest.raises(TypeError, match=r"generator is .*torch\.Generator\(\)\.manual_seed\(0\)"):
        random_scores(W, generator)


@pytest.mark.bad_input
def test_bn_scale_wants_a_batch_norm_with_scales():
    with pytest.raises(TypeError, match="bn is a Conv2d; it must be a batch norm"):
        bn_scale(nn.Conv2d(1, 1, 1))
    with pytest.raises(TypeError, match="bn is the class BatchNorm2d"):
        bn_scale(nn.BatchNorm2d)
    with pytest.raises(ValueError, match=r"no gamma \(affine=False\)"):
        bn_scale(nn.BatchNorm2d(2, affine=False))
    bn = nn.BatchNorm2d(2)
    nn.init.constant_(bn.weight, math.nan)
    with pytest.raises(ValueError, match="gamma holds NaN"):
        bn_scale(bn)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("scores", "count", "error", "message"),
    [
        (torch.ones(3), 4, ValueError, "count is 4; it must be from 0 to 3"),
        (torch.ones(3), -1, ValueError, "count is -1"),
        (torch.ones(3), 1.0, TypeError, r"count is 1\.0 \(float\)"),
        (torch.ones(3), True, TypeError, "count is True"),
        (torch.ones(3, 1), 1, ValueError, r"scores has shape \[3, 1\]; it must be \[n\]"),
        (torch.ones(0), 0, ValueError, "which holds nothing"),
        ([1.0, 2.0], 1, TypeError, "scores is a list"),
        (torch.tensor([1.0, math.nan]), 1, ValueError, "scores holds NaN"),
    ],
)
def test_lowest_refuses(scores, count, error, message):
    with pytest.raises(error, match=message):
        lowest(scores, count)
