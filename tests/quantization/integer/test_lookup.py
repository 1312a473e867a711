"""Activation functions on integers: tables by hand, against ONNX Runtime, and what every table obeys."""

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from course_lib.quantization import integer
from course_lib.quantization.affine import QuantParams, choose_params, dequantize, quantize
from tests.quantization.test_integer import X86, drawn_params, onnx_runtime, pair, per_tensor

ALL = torch.arange(256, dtype=torch.uint8)
FUNCTIONS = {  # of torch, and the operator of ONNX with its options here and there
    "elu": (F.elu, "Elu", {"alpha": 0.7}, {"alpha": 0.7}),
    "gelu": (F.gelu, "Gelu", {"approximate": "tanh"}, {"approximate": "tanh"}),
    "hardsigmoid": (F.hardsigmoid, "HardSigmoid", {}, {"alpha": 1 / 6, "beta": 0.5}),
    "leaky_relu": (F.leaky_relu, "LeakyRelu", {"negative_slope": 0.3}, {"alpha": 0.3}),
    "sigmoid": (torch.sigmoid, "Sigmoid", {}, {}),
    "tanh": (torch.tanh, "Tanh", {}, {}),
}


def session_between(operator, **attributes):
    """An operator on real numbers between DequantizeLinear and QuantizeLinear, as a quantized file has it."""
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["x"]),
        helper.make_node(operator, ["x"], ["y"], **attributes),
        helper.make_node("QuantizeLinear", ["y", "sy", "zy"], ["qy"]),
    ]
    kinds = {"q": [256], "s": [], "z": [], "sy": [], "zy": []}
    inputs = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT if n[0] == "s" else TensorProto.UINT8, shape)
        for n, shape in kinds.items()
    ]
    output = helper.make_tensor_value_info("qy", TensorProto.UINT8, [256])
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, [output]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def run(x_params, y_params):
        values = (ALL, *pair(x_params), *pair(y_params))
        return torch.from_numpy(
            session.run(None, {n: v.numpy() for n, v in zip(kinds, values, strict=True)})[0]
        )

    return run


def random_params(generator):
    """Parameters of 256 inputs, and of what a function of them gives."""
    scale = float(np.float32(2 ** generator.uniform(-9, -2)))
    return per_tensor(scale, int(generator.integers(256)), False)


def params_for(function, x_params):
    y = function(dequantize(ALL, x_params))
    return choose_params(y.min(), y.max(), symmetric=False)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_activations_are_those_of_onnx_runtime_but_for_halves_of_its_approximations(name):
    function, operator, options, attributes = FUNCTIONS[name]
    theirs = session_between(operator, **attributes)
    generator = np.random.default_rng(0)
    apart = []
    for _ in range(80):
        x_params = random_params(generator)
        y_params = params_for(lambda x: function(x, **options), x_params)
        ours = integer.activation(ALL, name, x_params=x_params, y_params=y_params, **options)
        apart.append(ours.int() - theirs(x_params, y_params).int())
    apart = torch.stack(apart)
    assert apart.abs().max() <= 1
    if X86:
        exact = name in ("hardsigmoid", "leaky_relu")
        assert (apart != 0).sum() <= (0 if exact else 10 if name == "tanh" else 2)


@given(st.booleans(), st.data(), st.sampled_from(["Sigmoid", "LeakyRelu"]))
@settings(max_examples=40)
def test_integer_operators_of_onnx_runtime_give_the_same(signed, data, operator):
    x_params, y_params = (drawn_params(data.draw, signed) for _ in range(2))
    x = torch.arange(x_params.low, x_params.high + 1, dtype=x_params.dtype)
    name, options, attributes = "sigmoid", {}, {}
    if operator == "LeakyRelu":
        slope = data.draw(st.floats(-2, 2, width=32))
        name, options, attributes = "leaky_relu", {"negative_slope": slope}, {"alpha": slope}
    y = integer.activation(x, name, x_params=x_params, y_params=y_params, **options)
    theirs = onnx_runtime(
        f"QLinear{operator}", x, *pair(x_params), *pair(y_params), domain="com.microsoft", **attributes
    )
    assert y.dtype == theirs.dtype
    apart = (y.int() - theirs.int()).abs()
    assert apart.max() <= 1
    assert (apart != 0).sum() <= (0 if name == "leaky_relu" and X86 else 2)


@given(st.integers(2, 8), st.booleans(), st.integers(2, 8), st.integers(0, 2**32 - 1))
def test_a_look_up_is_the_function_of_the_real_number(bits, symmetric, y_bits, seed):
    generator = torch.Generator().manual_seed(seed)
    low, high = (torch.rand(2, generator=generator) * 6 - torch.tensor([6, 0])).tolist()
    x_params = choose_params(low, high, bits=bits, symmetric=symmetric)
    y_params = choose_params(-1.0, 1.0, bits=y_bits, symmetric=False)
    x = torch.randint(x_params.low, x_params.high + 1, (3, 4, 5), generator=generator).to(x_params.dtype)
    entries = integer.table(torch.sin, x_params=x_params, y_params=y_params)
    found = integer.lookup(x, entries, x_params=x_params)
    assert entries.shape == (2**bits,)
    assert found.dtype == y_params.dtype
    assert torch.equal(found, quantize(torch.sin(dequantize(x, x_params)), y_params))
    assert (dequantize(found, y_params) - torch.sin(dequantize(x, x_params))).abs().max() <= y_params.scale


def test_the_integer_below_a_symmetric_range_has_an_entry_too():
    params = choose_params(-127.0, 127.0, symmetric=True)
    q = torch.tensor([-128, -127, 0, 127], dtype=torch.int8)
    half = integer.table(lambda x: x / 2, x_params=params, y_params=params)
    assert integer.lookup(q, half, x_params=params).tolist() == [-64, -64, 0, 64]
    assert len(half) == 256


def test_a_table_is_computed_once_for_its_parameters_and_options(monkeypatch):
    calls = []

    def counted(x, **options):
        calls.append(options["alpha"])
        return F.elu(x, **options)

    monkeypatch.setitem(integer.ACTIVATIONS, "elu", counted)
    params, others = per_tensor(0.123456, 7, False), per_tensor(0.123456, 8, False)
    for x_params, y_params, alpha in [
        (params, params, 1.5),
        (params, params, 1.5),
        (params, params, 2.5),
        (others, params, 1.5),
        (params, others, 1.5),
        (per_tensor(0.123456, 7, False), params, 1.5),
    ]:
        integer.activation(ALL, "elu", x_params=x_params, y_params=y_params, alpha=alpha)
    assert calls == [1.5, 2.5, 1.5, 1.5]


P = per_tensor(0.1, 3, False)
CHANNELS = QuantParams(torch.ones(2), torch.zeros(2, dtype=torch.int32), bits=8, signed=False, axis=0)
ENTRIES = torch.zeros(256, dtype=torch.uint8)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: integer.table("sin", x_params=P, y_params=P), TypeError, "function is"),
        (lambda: integer.table(torch.sin, x_params=3, y_params=P), TypeError, "x_params is a int"),
        (lambda: integer.table(torch.sin, x_params=P, y_params=CHANNELS), ValueError, "y_params has scales"),
        (lambda: integer.table(torch.log, x_params=P, y_params=P), ValueError, r"NaN for -0\.3, which"),
        (lambda: integer.table(torch.sum, x_params=P, y_params=P), ValueError, r"the shape \[\] for \[256\]"),
        (lambda: integer.table(lambda x: x > 0, x_params=P, y_params=P), TypeError, "a tensor of torch.bool"),
        (lambda: integer.table(lambda x: None, x_params=P, y_params=P), TypeError, "gives a NoneType"),
        (lambda: integer.lookup(ALL.float(), ENTRIES, x_params=P), TypeError, "x has dtype torch.float32"),
        (lambda: integer.lookup(ALL.char(), ENTRIES, x_params=P), TypeError, "x has dtype torch.int8, but"),
        (lambda: integer.lookup(ALL[:0], ENTRIES, x_params=P), ValueError, "at least one value"),
        (lambda: integer.lookup(ALL, ENTRIES[:255], x_params=P), ValueError, r"shape \[255\]; 8 bits have 256"),
        (lambda: integer.lookup(ALL, ENTRIES.float(), x_params=P), TypeError, "entries has dtype"),
        (lambda: integer.lookup(ALL, None, x_params=P), TypeError, "entries is a NoneType"),
        (lambda: integer.activation(ALL, "relu7", x_params=P, y_params=P), ValueError, "relu7"),
        (lambda: integer.activation(ALL, ["tanh"], x_params=P, y_params=P), ValueError, "unknown activation"),
        (lambda: integer.activation(None, "tanh", x_params=P, y_params=P), TypeError, "x is a NoneType"),
        (lambda: integer.activation(ALL, "tanh", x_params=P, y_params=None), TypeError, "y_params is a None"),
        (lambda: integer.activation(ALL, "tanh", x_params=P, y_params=P, alpha=1), TypeError, "tanh takes no 'alpha'"),
        (lambda: integer.activation(ALL, "elu", x_params=P, y_params=P, alpha="1"), TypeError, "alpha is '1'"),
        (lambda: integer.activation(ALL, "elu", x_params=P, y_params=P, alpha=torch.nan), ValueError, "alpha is nan"),
        (lambda: integer.activation(ALL, "gelu", x_params=P, y_params=P, approximate="erf"), ValueError, "erf"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(call, error, words):
    with pytest.raises(error, match=words):
        call()
