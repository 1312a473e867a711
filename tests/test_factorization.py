"""The law of Eckart and Young on layers, geometry carried over, ranks counted, and every refusal."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune

from course_lib import cost, models
from course_lib.factorization import (
    FORMS,
    break_even_rank,
    factorize,
    factorize_layer,
    matricized,
    rank_for_budget,
    rank_for_energy,
    singular_values,
    truncated_svd,
)

pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))


@st.composite
def layers(draw):
    """A linear layer or a convolution of any geometry that some rank makes smaller, with its form."""
    form = draw(st.sampled_from(FORMS))
    torch.manual_seed(draw(st.integers(0, 2**32 - 1)))
    channels, bias = draw(st.tuples(st.integers(1, 6), st.integers(1, 6))), draw(st.booleans())
    if draw(st.booleans()):
        layer = nn.Linear(*channels, bias=bias, dtype=torch.float64)
    else:
        padding = draw(st.one_of(st.sampled_from(["same", "valid"]), st.tuples(*[st.integers(0, 3)] * 2)))
        layer = nn.Conv2d(
            *channels,
            kernel_size=draw(pairs),
            stride=1 if padding == "same" else draw(pairs),
            padding=padding,
            dilation=draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
            padding_mode=draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])),
            bias=bias,
            dtype=torch.float64,
        )
    m, n = by_hand(layer, form).shape
    assume(m + n < m * n)
    return layer, form


def by_hand(layer, form):
    """The matrix of a layer, number by number."""
    weight = layer.weight.detach().numpy()
    if isinstance(layer, nn.Linear):
        return weight
    c_out, c_in, rows, columns = weight.shape
    matrix = np.zeros((c_out, c_in * rows * columns) if form == "channel" else (c_in * rows, c_out * columns))
    for o, i, y, x in np.ndindex(*weight.shape):
        if form == "channel":
            matrix[o, (i * rows + y) * columns + x] = weight[o, i, y, x]
        else:
            matrix[i * rows + y, o * columns + x] = weight[o, i, y, x]
    return matrix


def combined(factors):
    """The one weight that two layers in a row apply, from their own weights alone."""
    first, second = (factor.weight.detach() for factor in factors)
    if first.ndim == 2:
        return second @ first
    return torch.einsum("riyk,orlx->oiyx" if second.shape[3] > 1 else "riyx,orkl->oiyx", first, second)


def example_for(layer):
    shape = (3, layer.in_features) if isinstance(layer, nn.Linear) else (2, layer.in_channels, 11, 12)
    return torch.randn(shape, dtype=layer.weight.dtype)


# The laws


@settings(max_examples=100)
@given(layers(), st.data())
def test_the_squared_error_is_the_sum_of_the_discarded_singular_values_squared(drawn, data):
    layer, form = drawn
    rank = data.draw(st.integers(1, break_even_rank(layer, form=form)))
    error = (layer.weight - combined(factorize_layer(layer, rank, form=form))).square().sum().item()
    values = np.linalg.svd(by_hand(layer, form), compute_uv=False)
    assert error == pytest.approx((values[rank:] ** 2).sum(), rel=1e-9, abs=1e-20)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@settings(max_examples=150)
@given(layers(), st.data())
def test_the_factors_compute_what_the_layer_does_with_its_nearest_weight(drawn, data):
    """So stride, padding and its mode, dilation and bias are where they belong."""
    layer, form = drawn
    factors = factorize_layer(layer, data.draw(st.integers(1, break_even_rank(layer, form=form))), form=form)
    nearest = copy.deepcopy(layer)
    with torch.no_grad():
        nearest.weight.copy_(combined(factors))
    x = example_for(layer)
    torch.testing.assert_close(factors(x), nearest(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_weight_of_that_rank_is_kept_as_it_is(form, dtype):
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 8, (3, 5), (2, 1), (1, 2), (1, 2), dtype=dtype)
    with torch.no_grad():
        if form == "channel":
            left, right = torch.randn(8, 3, dtype=dtype), torch.randn(3, 90, dtype=dtype)
            conv.weight.copy_((left @ right).reshape(8, 6, 3, 5))
        else:
            left, right = torch.randn(6, 3, 3, dtype=dtype), torch.randn(3, 8, 5, dtype=dtype)
            conv.weight.copy_(torch.einsum("iyr,rox->oiyx", left, right))
    x = torch.randn(2, 6, 9, 14, dtype=dtype)
    torch.testing.assert_close(factorize_layer(conv, 3, form=form)(x), conv(x))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(factorize_layer(conv, 2, form=form)(x), conv(x))


@given(layers())
def test_at_full_rank_the_product_is_the_matrix(drawn):
    layer, form = drawn
    matrix = matricized(layer, form=form)
    assert np.array_equal(matrix.numpy(), by_hand(layer, form))
    left, right = truncated_svd(matrix, min(matrix.shape))
    torch.testing.assert_close(left @ right, matrix, rtol=1e-12, atol=1e-12)


@given(layers(), st.data())
def test_both_factors_get_the_root_of_each_singular_value(drawn, data):
    layer, form = drawn
    matrix = matricized(layer, form=form)
    rank = data.draw(st.integers(1, min(matrix.shape)))
    left, right = truncated_svd(matrix, rank)
    root = np.sqrt(np.linalg.svd(matrix.numpy(), compute_uv=False)[:rank])
    assert torch.linalg.svdvals(left).numpy() == pytest.approx(root)
    assert torch.linalg.svdvals(right).numpy() == pytest.approx(root)


def test_a_matrix_worked_by_hand():
    """[[3, 0], [0, 2]]: the better half of it, with the root of 3 on either side."""
    left, right = truncated_svd(torch.tensor([[3.0, 0.0], [0.0, 2.0]]), 1)
    assert left.abs().flatten().tolist() == pytest.approx([math.sqrt(3), 0])
    assert right.abs().flatten().tolist() == pytest.approx([math.sqrt(3), 0])
    assert (left @ right).flatten().tolist() == pytest.approx([3, 0, 0, 0])


# Ranks


def test_break_even_by_hand():
    """At 75 of 300 x 100, and at 128 of a 3 x 3 convolution in the spatial form, the factors are as large exactly."""
    assert break_even_rank(nn.Linear(300, 100)) == 74
    assert break_even_rank(nn.Linear(300, 100), form="spatial") == 74
    assert break_even_rank(nn.Conv2d(64, 128, 3)) == 104  # 128 * 576 / 704 = 104.7
    assert break_even_rank(nn.Conv2d(64, 128, 3), form="spatial") == 127  # 192 * 384 / 576
    assert break_even_rank(nn.Conv2d(1, 32, 3)) == 7  # 32 * 9 / 41 = 7.02
    for small in (nn.Linear(1, 50), nn.Linear(50, 1), nn.Linear(2, 2)):
        assert break_even_rank(small) == 0


@given(layers())
def test_the_break_even_rank_is_the_last_that_saves(drawn):
    layer, form = drawn
    rank = break_even_rank(layer, form=form)
    stored = [p.numel() for p in factorize_layer(layer, rank, form=form).parameters() if p.ndim > 1]
    m, n = by_hand(layer, form).shape
    assert sum(stored) == rank * (m + n) < m * n <= (rank + 1) * (m + n)


@given(layers(), st.floats(1e-6, 1))
def test_the_rank_for_an_energy_is_the_smallest(drawn, energy):
    layer, form = drawn
    squares = np.linalg.svd(by_hand(layer, form), compute_uv=False) ** 2
    rank = rank_for_energy(layer, energy, form=form)
    assert squares[:rank].sum() >= energy * squares.sum() * (1 - 1e-12)
    assert squares[: rank - 1].sum() < energy * squares.sum() * (1 + 1e-12)
    torch.testing.assert_close(singular_values(layer, form=form).square().numpy(), squares)


def test_energy_by_hand():
    layer = nn.Linear(2, 3, dtype=torch.float64)
    for size in (1.0, 1e-200, 1e200):  # squares leave the range of float64
        with torch.no_grad():
            layer.weight.copy_(size * torch.tensor([[4.0, 0], [0, 3], [0, 0]], dtype=torch.float64))
        assert [rank_for_energy(layer, energy) for energy in (0.6, 0.63, 0.65, 1)] == [1, 1, 2, 2]


@given(layers(), st.data())
def test_a_budget_of_just_so_many_numbers_is_used_up(drawn, data):
    layer, form = drawn
    m, n = by_hand(layer, form).shape
    rank = data.draw(st.integers(1, break_even_rank(layer, form=form)))
    fraction = rank * (m + n) / (m * n)
    assert rank_for_budget(layer, fraction, form=form) == rank
    if rank > 1:
        assert rank_for_budget(layer, np.nextafter(fraction, 0).item(), form=form) == rank - 1


def test_three_times_smaller_by_hand():
    assert rank_for_budget(nn.Linear(600, 300), 1 / 3) == 66  # 60,000 numbers in ranks of 900
    assert rank_for_budget(nn.Linear(300, 150), 1 / 3) == 33
    assert rank_for_budget(nn.Linear(100, 100), 0.58) == 29  # 0.58 * 10000 is 5799.999... in floating point


# What is returned


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv2d])
def test_a_weight_of_zeros_becomes_zeros(form, kind):
    layer = kind(4, 6) if kind is nn.Linear else kind(4, 6, 3)
    nn.init.zeros_(layer.weight)
    assert rank_for_energy(layer, 1, form=form) == 1
    factors = factorize_layer(layer, 2, form=form)
    assert all((factor.weight == 0).all() for factor in factors)
    x = example_for(layer)
    assert torch.equal(factors(x), layer(x))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_state_is_carried_over(form, dtype):
    layer = nn.Conv2d(4, 6, 3, dtype=dtype).eval()
    layer.weight.requires_grad_(False)
    random = torch.get_rng_state()
    factors = factorize_layer(layer, 2, form=form)
    assert torch.equal(torch.get_rng_state(), random)
    assert {parameter.dtype for parameter in factors.parameters()} == {dtype}
    assert [parameter.requires_grad for parameter in factors.parameters()] == [False, False, True]
    assert not any(module.training for module in factors.modules())
    assert torch.equal(factors[1].bias, layer.bias)
    assert factors[1].bias.data_ptr() != layer.bias.data_ptr()
    assert factors[0].bias is None
    assert all(parameter.is_contiguous() for parameter in factors.parameters())
    assert factorize_layer(layer.train(), 2, form=form)[0].training


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(9, 9), nn.ReLU())
        self.head = nn.Linear(9, 7, bias=False)

    def forward(self, x):
        return self.head(self.body(self.body(x)))


def test_a_layer_in_a_network_is_replaced_wherever_it_is_used():
    torch.manual_seed(0)
    model, x = Twice(), torch.randn(5, 9)
    small = factorize(model, {"body.0": 3})
    left, right = truncated_svd(model.body[0].weight, 3)
    with torch.no_grad():
        near = copy.deepcopy(model)
        near.body[0].weight.copy_(left @ right)
    torch.testing.assert_close(small(x), near(x))
    assert type(small) is Twice
    assert sum(p.numel() for p in small.parameters()) == sum(p.numel() for p in model.parameters()) - 81 + 54
    small(x).sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


@pytest.mark.parametrize("form", FORMS)
def test_the_argument_is_left_alone_and_shares_no_memory(form):
    model = models.build("vgg", widths=(4, "M", 6))
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    ranks = {"4": 2, "0": 1}
    small = factorize(model, ranks, form=form)
    assert ranks == {"4": 2, "0": 1}
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    old = {value.data_ptr() for value in model.state_dict().values()}
    assert not old & {value.data_ptr() for value in small.state_dict().values()}
    assert [type(layer) for layer in (small[0], small[1], small[4])] == [
        nn.Sequential,
        nn.BatchNorm2d,
        nn.Sequential,
    ]


def test_no_ranks_give_a_copy_and_a_network_may_be_one_layer():
    layer, x = nn.Linear(6, 6), torch.randn(2, 6)
    copied = factorize(layer, {})
    assert copied is not layer
    assert torch.equal(copied(x), layer(x))
    torch.testing.assert_close(factorize(layer, {"": 2})(x), factorize_layer(layer, 2)(x))


@pytest.mark.parametrize(("form", "macs"), [("channel", 3 * (8 + 36)), ("spatial", 3 * (12 + 24))])
def test_operations_shrink_as_parameters_do(form, macs):
    model, example = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, bias=False)), torch.zeros(1, 4, 10, 10)
    counted = cost.measure(factorize(model, {"0": 3}, form=form), example)
    assert (counted.parameters, counted.macs) == (macs, macs * 100)
    assert cost.macs(model, example) == 288 * 100


@pytest.mark.bad_input  # the exporter traces with tensors of its own
@pytest.mark.parametrize("form", FORMS)
def test_a_factorized_network_becomes_an_onnx_file(form, tmp_path):
    from course_lib.quantization import onnx

    model = models.build("vgg", widths=(4, "M", 6)).eval()
    small = factorize(model, {"0": 1, "4": 3, "9": 2}, form=form)
    path = onnx.export(small, torch.rand(2, 1, 16, 16), tmp_path / "small.onnx").path
    images = torch.randint(0, 256, (3, 1, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(onnx.run(path, images), small(images / 255), rtol=1e-4, atol=1e-5)


# Errors

LINEAR = nn.Linear(8, 6)
NAN = nn.Linear(8, 6)
nn.init.constant_(NAN.weight, math.nan)
INFINITE = nn.Conv2d(4, 6, 3)
nn.init.constant_(INFINITE.weight, math.inf)
ON_LAYER = {
    "matricized": matricized,
    "singular_values": singular_values,
    "break_even_rank": break_even_rank,
    "rank_for_energy": lambda layer, **form: rank_for_energy(layer, 0.5, **form),
    "rank_for_budget": lambda layer, **form: rank_for_budget(layer, 0.5, **form),
    "factorize_layer": lambda layer, **form: factorize_layer(layer, 1, **form),
}


@pytest.mark.bad_input
@pytest.mark.parametrize("function", ON_LAYER)
@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        (nn.Conv2d(4, 6, 3, groups=2), ValueError, "layer has groups=2; it must have groups=1"),
        (nn.ConvTranspose2d(4, 6, 3), TypeError, "layer is a ConvTranspose2d; it must be a Linear or Conv2d"),
        (nn.Conv1d(4, 6, 3), TypeError, "layer is a Conv1d"),
        (nn.LazyLinear(3), TypeError, "layer is a LazyLinear"),
        (nn.Linear, TypeError, "layer is the class Linear"),
        (torch.ones(3, 3), TypeError, "layer is a Tensor"),
        (NAN, ValueError, "weight of layer holds NaN; it must be finite"),
        (INFINITE, ValueError, "weight of layer holds infinity"),
        (prune.identity(nn.Linear(3, 3), "weight"), ValueError, r"computed at each call.*prune\.remove"),
        (
            parametrizations.orthogonal(nn.Linear(3, 3)),
            TypeError,
            "ParametrizedLinear.*Take parametrisations",
        ),
        (nn.Linear(3, 3, device="meta"), ValueError, "on meta, which holds no values"),
        (nn.Linear(3, 3, dtype=torch.complex64), TypeError, r"dtype torch\.complex64"),
    ],
)
def test_a_wrong_layer_is_named(function, layer, error, message):
    with pytest.raises(error, match=message):
        ON_LAYER[function](layer)


@pytest.mark.bad_input
@pytest.mark.parametrize("function", ON_LAYER)
def test_a_wrong_form_is_named(function):
    with pytest.raises(ValueError, match=r"unknown form 'spacial'\. Did you mean 'spatial'\?"):
        ON_LAYER[function](LINEAR, form="spacial")


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("layer", "rank", "error", "message"),
    [
        (
            LINEAR,
            4,
            ValueError,
            r"rank is 4, which saves nothing.*6 x 8.*56 numbers instead of 48.*rank is 3: give 1",
        ),
        (nn.Linear(300, 100), 75, ValueError, "30000 numbers instead of 30000.*break-even rank is 74"),
        (LINEAR, 0, ValueError, "rank is 0; it must be at least 1"),
        (LINEAR, 2.0, TypeError, r"rank is 2\.0 \(float\)"),
        (LINEAR, True, TypeError, "rank is True"),
        (nn.Linear(1, 9), 1, ValueError, "9 x 1 matrix in this form, which no rank makes smaller"),
    ],
)
def test_a_rank_that_saves_nothing_is_refused(layer, rank, error, message):
    with pytest.raises(error, match=message):
        factorize_layer(layer, rank)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: rank_for_energy(LINEAR, 0), ValueError, r"energy is 0\.0; .*\(0, 1\]"),
        (lambda: rank_for_energy(LINEAR, 1.1), ValueError, r"energy is 1\.1"),
        (lambda: rank_for_energy(LINEAR, math.nan), ValueError, "energy is nan"),
        (lambda: rank_for_energy(LINEAR, "most"), TypeError, "energy is 'most'"),
        (lambda: rank_for_budget(LINEAR, 1), ValueError, r"fraction is 1\.0; .*\(0, 1\)"),
        (lambda: rank_for_budget(LINEAR, 3), ValueError, "1/3 is three times smaller"),
        (lambda: rank_for_budget(LINEAR, 0.2), ValueError, r"rank 1 already takes 0\.2917 of a 6 x 8 matrix"),
        (lambda: truncated_svd([[1.0]], 1), TypeError, "matrix is a list"),
        (lambda: truncated_svd(torch.ones(2, 2).int(), 1), TypeError, r"dtype torch\.int32"),
        (lambda: truncated_svd(torch.ones(2), 1), ValueError, r"shape \[2\]; it must be \[m, n\]"),
        (lambda: truncated_svd(torch.ones(0, 2), 1), ValueError, r"shape \[0, 2\]"),
        (lambda: truncated_svd(torch.full((2, 2), math.nan), 1), ValueError, "NaN or infinity"),
        (lambda: truncated_svd(torch.ones(2, 3), 3), ValueError, "rank is 3; it must be from 1 to 2"),
    ],
)
def test_wrong_numbers_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def tied():
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5))
    model[1].weight = model[0].weight
    return model


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("model", "ranks", "error", "message"),
    [
        (tied(), {"0": 1}, ValueError, "layers '0' and '1' share one weight"),
        (nn.Sequential(LINEAR), {"1": 1}, KeyError, "unknown layer '1'.*Known: 0"),
        (nn.Sequential(LINEAR), {0: 1}, KeyError, "unknown layer 0.*Did you mean '0'"),
        (nn.Sequential(nn.ReLU()), {"0": 1}, TypeError, "layer '0' is a ReLU"),
        (nn.Sequential(LINEAR), {"0": 4}, ValueError, "the rank of '0' is 4, which saves nothing"),
        (nn.Sequential(NAN), {"0": 1}, ValueError, "weight of layer '0' holds NaN"),
        (nn.Sequential(LINEAR), [("0", 1)], TypeError, "ranks is a list; it must be a mapping"),
        (nn.Linear, {}, TypeError, "model is the class Linear"),
        (None, {}, TypeError, "model is a NoneType"),
    ],
)
def test_a_wrong_plan_is_named(model, ranks, error, message):
    with pytest.raises(error, match=message):
        factorize(model, ranks)


@pytest.mark.bad_input
def test_a_wrong_form_is_named_even_where_nothing_is_factorized():
    with pytest.raises(ValueError, match="unknown form"):
        factorize(nn.Sequential(LINEAR), {}, form="both")
