"""Products and differences of integers: by hand, those of ONNX Runtime, and near those of the real numbers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.quantization import integer
from course_lib.quantization.affine import QuantParams, choose_params, dequantize
from tests.quantization.test_integer import SEEDS, X86, drawn_params, integers, onnx_runtime, pair, per_tensor

SHAPES = st.sampled_from(
    [((3, 7001), (3, 7001)), ((2, 30, 9, 7), (2, 30, 1, 1)), ((2, 30, 1, 1), (2, 30, 9, 7))]
)


def test_products_and_differences_by_hand():
    fields = {
        "a_params": per_tensor(0.5, 10, False),
        "b_params": per_tensor(0.25, 128, False),
        "y_params": per_tensor(1.0, 100, False),
    }
    a = torch.tensor([[[[10, 14], [20, 255]]]], dtype=torch.uint8)  # 0, 2, 5, 122.5
    b = torch.tensor([[[[130]]]], dtype=torch.uint8)  # 0.5
    # 0, 1, 2.5 and 61.25: with the zero point 102.5 goes to the even 102
    assert integer.mul(a, b, **fields).tolist() == [[[[100, 101], [102, 161]]]]
    # -0.5, 1.5, 4.5 and 122: halves to even, before the zero point
    assert integer.sub(a, b, **fields).tolist() == [[[[100, 102], [104, 222]]]]
    low = torch.tensor([[[[0]]]], dtype=torch.uint8)  # -32
    assert integer.mul(a, low, **fields).flatten().tolist() == [100, 36, 0, 0]


def test_the_zero_point_of_a_product_is_added_before_rounding():
    fields = dict.fromkeys(("a_params", "b_params"), per_tensor(1.0, 0, False))
    one, three = (torch.tensor([n], dtype=torch.uint8) for n in (1, 3))
    # 0.5 + 1 goes to 2 and 1.5 + 1 to 2; rounded before, they would be 0 + 1 and 2 + 1
    for q, expected in ((one, 2), (three, 2)):
        assert integer.mul(q, one, y_params=per_tensor(2.0, 1, False), **fields).item() == expected


@given(st.booleans(), SHAPES, st.data(), SEEDS)
@settings(max_examples=40)
def test_products_are_those_of_onnx_runtime(signed, shapes, data, seed):
    a_params, b_params, y_params = (drawn_params(data.draw, signed) for _ in range(3))
    generator = torch.Generator().manual_seed(seed)
    a, b = (integers(s, params, generator) for s, params in zip(shapes, (a_params, b_params), strict=True))
    y = integer.mul(a, b, a_params=a_params, b_params=b_params, y_params=y_params)
    theirs = onnx_runtime(
        "QLinearMul", a, *pair(a_params), b, *pair(b_params), *pair(y_params), domain="com.microsoft"
    )
    assert y.dtype == theirs.dtype
    assert y.shape == theirs.shape
    if X86:
        assert torch.equal(y, theirs)
    else:  # Arm's kernel multiplies in fixed point
        assert (y.int() - theirs.int()).abs().max() <= 1


@given(st.integers(2, 8), st.booleans(), SHAPES, SEEDS)
@settings(max_examples=40)
def test_results_are_those_of_the_real_numbers_to_half_a_step(bits, signed, shapes, seed):
    generator = torch.Generator().manual_seed(seed)
    params = [
        choose_params(
            -3 * torch.rand(1, generator=generator).item(), 2.0, bits=bits, symmetric=False, signed=signed
        )
        for _ in shapes
    ]
    a, b = (integers(shape, p, generator) for shape, p in zip(shapes, params, strict=True))
    real_a, real_b = (dequantize(q, p).double() for q, p in zip((a, b), params, strict=True))
    for function, expected in ((integer.mul, real_a * real_b), (integer.sub, real_a - real_b)):
        y_params = choose_params(expected.min().item(), expected.max().item(), bits=bits, symmetric=False)
        y = function(a, b, a_params=params[0], b_params=params[1], y_params=y_params)
        # The zero point itself is a rounded number, so that the range ends up to half a step before the largest.
        apart = (dequantize(y, y_params) - expected).abs() / y_params.scale
        assert apart.max() <= 1.001
        inside = (y > y_params.low) & (y < y_params.high)
        assert not inside.any() or apart[inside].max() <= 0.5001


@given(st.data(), SEEDS)
@settings(max_examples=40)
def test_products_commute_and_one_changes_nothing(data, seed):
    a_params, b_params = (drawn_params(data.draw, False) for _ in range(2))
    generator = torch.Generator().manual_seed(seed)
    a, b = integers((2, 5, 3, 3), a_params, generator), integers((2, 5, 1, 1), b_params, generator)
    y = integer.mul(a, b, a_params=a_params, b_params=b_params, y_params=a_params)
    assert torch.equal(y, integer.mul(b, a, a_params=b_params, b_params=a_params, y_params=a_params))
    ones = torch.ones(2, 5, 1, 1, dtype=torch.uint8)
    same = integer.mul(a, ones, a_params=a_params, b_params=per_tensor(1.0, 0, False), y_params=a_params)
    assert torch.equal(same, a)
    y_params = per_tensor(a_params.scale.item(), 99, False)
    zero = integer.sub(a, a, a_params=a_params, b_params=a_params, y_params=y_params)
    assert zero.unique().tolist() == [99]


P, W = per_tensor(0.1, 3, False), per_tensor(0.1, 0, True)
CHANNELS = QuantParams(torch.ones(2), torch.zeros(2, dtype=torch.int32), bits=8, signed=False, axis=0)
IMAGE = torch.full((1, 2, 4, 4), 7, dtype=torch.uint8)


@pytest.mark.bad_input
@pytest.mark.parametrize("function", [integer.mul, integer.sub])
@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"a": IMAGE.float()}, TypeError, "a has dtype torch.float32"),
        ({"a": None}, TypeError, "a is a NoneType"),
        ({"b": IMAGE.char()}, TypeError, "b has dtype torch.int8, but its parameters are for torch.uint8"),
        ({"b": IMAGE[:, :, :3]}, ValueError, r"a has shape \[1, 2, 4, 4\] and b \[1, 2, 3, 4\]; they must be equal"),
        ({"b": IMAGE[:0]}, ValueError, "at least one value"),
        ({"a_params": W}, TypeError, "a has dtype torch.uint8"),
        ({"b_params": CHANNELS}, ValueError, "parameters of b has scales along axis 0"),
        ({"y_params": CHANNELS}, ValueError, "y_params has scales along axis 0"),
        ({"y_params": 3}, TypeError, "y_params is a int"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(function, changes, error, words):
    arguments = {"a": IMAGE, "b": IMAGE[:, :1], "a_params": P, "b_params": P, "y_params": P}
    tensors = [arguments.pop(name) for name in ("a", "b")]
    assert function(*tensors, **arguments).shape == IMAGE.shape
    arguments |= {"a": tensors[0], "b": tensors[1]} | changes
    with pytest.raises(error, match=words):
        function(**arguments)
