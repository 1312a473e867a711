"""GPTQ against the paper's formulas written out, brute force and rounding to nearest; whole networks layer by layer."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_lib.data import to_float
from course_lib.quantization.affine import choose_params, fake_quantize, params_of, quantize
from course_lib.quantization.rounding import gptq, input_hessian, output_error, round_network
from course_lib.quantization.steps import execute
from course_lib.quantization.workflow import fold_batch_norm, quantize_model, to_integer
from tests.quantization.networks import hand_made, network, quantized, state, traces


def correlated(rows, columns, seed, rank=3):
    """Inputs of a layer that rise and fall together."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, rank, generator=generator) @ torch.randn(rank, columns, generator=generator)
    return x + 0.1 * torch.randn(rows, columns, generator=generator)


def random_weight(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


CONVOLUTIONS = {
    "plain": ((4, 6, 3, 3), {}),
    "strided": ((4, 6, 3, 2), {"stride": (2, 1), "padding": (1, 0)}),
    "dilated": ((4, 6, 2, 3), {"dilation": 2, "padding": 2}),
    "grouped": ((4, 3, 3, 3), {"groups": 2, "padding": 1}),
    "depthwise": ((6, 1, 3, 3), {"groups": 6, "stride": 2, "padding": 1}),
    "pointwise": ((5, 6, 1, 1), {}),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_the_error_by_the_hessian_is_that_of_the_convolution(kind, monkeypatch):
    monkeypatch.setattr("course_lib.quantization.rounding._PATCHES", 1000)  # several parts
    shape, options = CONVOLUTIONS[kind]
    x, weight, other = (random_weight(*s, seed=i) for i, s in enumerate(((5, 6, 8, 9), shape, shape)))
    found = output_error(weight, other, input_hessian(x, weight, **options))
    expected = (F.conv2d(x, weight, **options) - F.conv2d(x, other, **options)).double().square()
    torch.testing.assert_close(found, expected.sum((0, 2, 3)), rtol=1e-5, atol=0)


def test_the_error_by_the_hessian_is_that_of_the_linear_layer():
    x, weight, other = random_weight(7, 2, 5), random_weight(3, 5, seed=1), random_weight(3, 5, seed=2)
    found = output_error(weight, other, input_hessian(x, weight))
    expected = (F.linear(x, weight) - F.linear(x, other)).double().square().sum((0, 1))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def written_out(weight, hessian, params, dampening):
    """The paper's equation 2 one weight at a time: the inverse of the Hessian of the open columns, each time anew."""
    h = hessian.numpy() + dampening * np.diagonal(hessian.numpy()).mean() * np.eye(len(hessian))
    rows = []
    for exact, scale in zip(weight.double().numpy(), params.scale.double().numpy(), strict=True):
        nearest = scale * np.clip(np.rint(exact / scale), params.low, params.high)
        w, q = exact.copy(), np.zeros(len(exact))
        for j in range(len(w)):
            inverse = np.linalg.inv(h[j:, j:])
            q[j] = scale * np.clip(np.rint(w[j] / scale), params.low, params.high)
            w[j:] -= (w[j] - q[j]) / inverse[0, 0] * inverse[0]
        rows.append(min(q, nearest, key=lambda found: (exact - found) @ hessian.numpy() @ (exact - found)))
    return torch.tensor(np.array(rows)).float()


def test_gptq_is_the_formula_of_the_paper_without_cholesky():
    gained = 0
    for seed in range(10):
        x, weight = correlated(40, 12, seed), random_weight(8, 12, seed=seed)
        hessian, params = input_hessian(x, weight), params_of(weight, bits=3, symmetric=True, axis=0)
        found = gptq(weight, hessian, params, dampening=0.03)
        torch.testing.assert_close(found, written_out(weight, hessian[0], params, 0.03))
        gained += (found != fake_quantize(weight, params)).any(1).sum().item()
    assert gained > 70  # of 80 channels


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_each_channel_is_at_most_as_wrong_as_rounded_to_nearest(kind):
    """On inputs after ReLU; two channels of them are always 0, so that the Hessian has no inverse undampened."""
    shape, options = CONVOLUTIONS[kind]
    better = 0
    for seed in range(5):
        x = correlated(4 * 8 * 9, 6, seed).relu().reshape(4, 8, 9, 6).permute(0, 3, 1, 2)
        x[:, 1:3] = 0
        weight = random_weight(*shape, seed=seed)
        hessian = input_hessian(x, weight, **options)
        params = params_of(weight, bits=4, symmetric=True, axis=0 if seed % 2 else None)
        found = gptq(weight, hessian, params)
        assert torch.equal(fake_quantize(found, params), found)  # on the grid
        ours, nearest = (output_error(weight, q, hessian) for q in (found, fake_quantize(weight, params)))
        assert (ours <= nearest).all()
        better += (ours < 0.9 * nearest).sum().item()
    assert better >= 3


def test_three_weights_against_all_ways_of_rounding_them():
    """Never better than the best of all integers, and that one more often than rounding to nearest is."""
    params = choose_params(-7.0, 7.0, bits=4, symmetric=True)
    every = torch.cartesian_prod(*3 * (torch.arange(-7.0, 8.0),))
    best = nearest_best = 0
    for seed in range(60):
        weight, x = 2 * random_weight(1, 3, seed=seed), correlated(20, 3, seed, rank=2)
        hessian = input_hessian(x, weight)
        least = output_error(weight.expand(len(every), 3), every, hessian).min()
        rounded = gptq(weight, hessian, params, dampening=1e-4)
        found, nearest = (output_error(weight, q, hessian) for q in (rounded, weight.round()))
        assert least <= found * (1 + 1e-9)
        assert found <= nearest
        best += bool(found <= least * (1 + 1e-9))
        nearest_best += bool(nearest <= least * (1 + 1e-9))
    assert best > 1.5 * nearest_best


def test_inputs_that_have_nothing_in_common_are_rounded_to_nearest():
    weight, params = random_weight(4, 9), choose_params(-3.0, 3.0, bits=4, symmetric=True)
    hessian = torch.diag(torch.arange(9.0).double())[None]
    assert torch.equal(gptq(weight, hessian, params), fake_quantize(weight, params))
    assert torch.equal(gptq(weight, 0 * hessian, params), fake_quantize(weight, params))


def test_a_weight_of_zero_stays_zero():
    weight = random_weight(6, 12)
    weight[:, ::3] = 0
    params = params_of(weight, bits=4, symmetric=True, axis=0)
    found = gptq(weight, input_hessian(correlated(40, 12, 0), weight), params)
    assert (found[:, ::3] == 0).all()
    assert not torch.equal(found, fake_quantize(weight, params))


@traces
@pytest.mark.parametrize("name", ["vgg", "odd", "mobilenet", "mlp"])
def test_every_layer_of_a_network_is_rounded_for_what_it_reads(name):
    model, images = network(name)
    simulated = quantized(name, weight_bits=3)
    before = state(model), state(simulated)
    found = round_network(model, simulated, images)
    for had, kept in zip(before, (state(model), state(simulated)), strict=True):
        assert all(torch.equal(had[0][key], kept[0][key]) for key in had[0])
        assert had[1] == kept[1]
    folded, steps = fold_batch_norm(model, to_float(images[:1])), {}

    def compute(step, *inputs):
        if step.layer is not None:
            steps[step.layer] = step, *inputs
        return found.compute(step, *inputs)

    execute(found.steps, compute, to_float(images))
    changed = 0
    for layer, (step, x) in steps.items():
        exact, rounded = folded.get_submodule(layer).weight, found.network.get_submodule(layer).weight
        hessian = input_hessian(x, exact, **step.options)
        nearest = fake_quantize(exact, found.weights[layer])
        ours, theirs = output_error(exact, rounded, hessian), output_error(exact, nearest, hessian)
        assert (ours <= theirs * (1 + 1e-6)).all(), layer
        expected = gptq(exact, hessian, found.weights[layer])
        assert torch.equal(rounded, expected), layer
        changed += not torch.equal(rounded, nearest)
    assert changed >= len(steps) - 2


@traces
def test_integers_of_the_rounded_network_are_its_weights():
    model, images = network("resnet")
    found = round_network(model, quantized("resnet", weight_bits=4, keep=("0",)), images)
    integers = to_integer(found)
    for name, params in found.weights.items():
        expected = quantize(found.network.get_submodule(name).weight, params)
        assert torch.equal(integers.network.get_submodule(name).weight.data, expected)
        assert expected.abs().max() <= 7
    x = to_float(images)
    assert (integers(x) - found(x)).abs().max() <= 4 * found.activations["logits"].scale


def bad_calls():
    weight, x = torch.ones(4, 6), torch.ones(5, 6)
    hessian, params = input_hessian(x, weight), params_of(weight, bits=4, symmetric=True)
    image = torch.ones(2, 3, 5, 5)
    model, ranges = hand_made()
    simulated, images = quantize_model(model, ranges), torch.ones(2, 1, 1, 2)
    nan = torch.full((1, 6, 6), torch.nan).double()
    other = nn.Sequential(nn.Flatten(), nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    by_input = params_of(weight, bits=4, symmetric=True, axis=1)
    yield from (
        (lambda: input_hessian([1.0], weight), TypeError, "x is a list"),
        (lambda: input_hessian(x, weight.int()), TypeError, "weight has dtype torch.int32"),
        (lambda: input_hessian(x[:, :5], weight), ValueError, r"x has shape \[5, 5\]"),
        (lambda: input_hessian(image, torch.ones(4, 2, 3, 3)), ValueError, r"weight \[4, 2, 3, 3\]"),
        (lambda: input_hessian(image, torch.ones(4, 3, 6, 6)), ValueError, r"\[6, 6\].* does not fit"),
        (lambda: input_hessian(image, torch.ones(4, 3, 3, 3), stride=0), ValueError, "stride"),
        (
            lambda: input_hessian(image, torch.ones(4, 3, 3, 3), stride=(1, 1, 1)),
            ValueError,
            "stride is .* a pair",
        ),
        (lambda: input_hessian(image, torch.ones(4, 3, 3, 3), padding="same"), TypeError, "padding"),
        (lambda: input_hessian(image, torch.ones(4, 3, 3, 3), groups=0), ValueError, "groups is 0"),
        (lambda: gptq(weight.long(), hessian, params), TypeError, "weight has dtype"),
        (lambda: gptq(weight, None, params), TypeError, "hessian is a NoneType"),
        (lambda: gptq(weight, hessian, 4), TypeError, "params is a int"),
        (lambda: gptq(weight, hessian, by_input), ValueError, "axis=1"),
        (
            lambda: gptq(weight, hessian, choose_params(0, 1, bits=4, symmetric=False)),
            ValueError,
            "symmetric",
        ),
        (lambda: gptq(weight, hessian[0], params), ValueError, r"hessian \[6, 6\]"),
        (lambda: gptq(weight[:, :5], hessian, params), ValueError, r"weight has shape \[4, 5\]"),
        (lambda: gptq(weight, nan, params), ValueError, "hessian holds NaN"),
        (lambda: gptq(weight / 0, hessian, params), ValueError, "weight holds NaN or infinity"),
        (lambda: gptq(weight, -hessian, params), ValueError, "no negative eigenvalue"),
        (lambda: gptq(weight, hessian, params, dampening=0), ValueError, "dampening is 0"),
        (lambda: gptq(weight, hessian, params, dampening="1"), TypeError, "dampening"),
        (lambda: output_error(weight, weight[:2], hessian), ValueError, r"rounded \[2, 6\]"),
        (lambda: round_network(model, model, images), TypeError, "simulated is a Sequential"),
        (lambda: round_network(None, simulated, images), TypeError, "model is a NoneType"),
        (lambda: round_network(other, simulated, images), ValueError, "other layers than the network"),
        (lambda: round_network(model, simulated, images[0, 0]), ValueError, r"images have shape \[1, 2\]"),
        (lambda: round_network(model, simulated, images[:0]), ValueError, "at least one image"),
        (lambda: round_network(model, simulated, images.double()), TypeError, "images have dtype"),
        (lambda: round_network(model, simulated, images / 0), ValueError, "images hold NaN or infinity"),
        (lambda: round_network(model, simulated, torch.ones(2, 1, 1, 3)), ValueError, "does not run on"),
        (lambda: round_network(model, simulated, images, dampening=-1), ValueError, "dampening is -1"),
    )


@pytest.mark.bad_input
@pytest.mark.parametrize("number", range(len(list(bad_calls()))))
def test_bad_input_is_named(number):
    call, error, words = list(bad_calls())[number]
    with pytest.raises(error, match=words):
        call()
