"""Straight-through gradients against PyTorch's own, and the laws of the way from training to the integer network."""

import copy
import functools
import pickle
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib import checkpoints, models, training
from course_lib.data import Dataset, Split, load_dataset, to_float
from course_lib.quantization.affine import QuantParams, choose_params, fake_quantize, in_range, params_of
from course_lib.quantization.aware import PreparedNetwork, convert, prepare, straight_through
from course_lib.quantization.workflow import (
    QuantizedNetwork,
    calibrate,
    collect,
    fold_batch_norm,
    quantize_model,
    to_integer,
)
from course_lib.training import Recipe
from tests.quantization.networks import (
    NETWORKS,
    check_that_both_forms_agree,
    hand_made,
    histograms_of,
    network,
    quantized,
    state,
    traces,
)


def prepared(name, method="max", **options):
    ranges = calibrate(histograms_of(name), method, bits=options.get("activation_bits", 8))
    return prepare(network(name)[0], ranges, **options)


def dataset_of(name):
    """The images of a network with labels at random, to be learned by heart."""
    images = network(name)[1]
    with torch.no_grad():
        classes = network(name)[0](to_float(images[:1])).shape[1]
    labels = torch.arange(len(images)) % classes
    split = Split(images, labels)
    return Dataset(name, split, split, split, tuple(str(k) for k in range(classes)))


def trained(net, name, *, epochs=2, learning_rate=0.02, **options):
    recipe = Recipe(epochs=epochs, batch_size=8, learning_rate=learning_rate, schedule="constant", **options)
    return training.fit(net, dataset_of(name), recipe)


# ---- the estimator -------------------------------------------------------------------------------------------------


def test_values_are_rounded_and_gradients_stop_at_the_range_by_hand():
    params = choose_params(-1.0, 2.0, bits=2, symmetric=False)  # stands for -1, 0, 1 and 2
    x = torch.tensor([-9.0, -1.4, -0.6, 0.2, 1.3, 2.4, 2.6, 1e9, torch.inf], requires_grad=True)
    y = straight_through(x, params)
    assert y.tolist() == [-1, -1, -1, 0, 1, 2, 2, 2, 2]
    (y * torch.arange(1.0, 10)).sum().backward()
    assert x.grad.tolist() == [0, 2, 3, 4, 5, 6, 0, 0, 0]


@given(
    st.integers(2, 8),
    st.booleans(),
    st.sampled_from([None, 0, 1, 2]),
    st.integers(-6, 6),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60)
def test_values_and_gradients_are_those_of_pytorch(bits, symmetric, axis, exponent, seed):
    generator = torch.Generator().manual_seed(seed)
    count = () if axis is None else (3, 4, 5)[axis : axis + 1]
    # Powers of two, by which PyTorch's product with 1 / scale is the quotient; quarters of steps, halves among them.
    scale = 2.0**exponent * 2 ** torch.randint(0, 3, count, generator=generator).float()
    low, high = (1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)
    zero_point = torch.randint(
        0 if symmetric else low, 1 if symmetric else high + 1, count, generator=generator
    )
    params = QuantParams(scale, zero_point.int(), bits, symmetric, axis, symmetric)
    x = torch.randint(-6 * high, 6 * high, (3, 4, 5), generator=generator) * 2.0 ** (exponent - 2)
    upstream = torch.randn(x.shape, generator=generator)
    ours, theirs = (x.clone().requires_grad_() for _ in range(2))
    y = straight_through(ours, params)
    if axis is None:
        expected = torch.fake_quantize_per_tensor_affine(theirs, scale.item(), zero_point.item(), low, high)
    else:
        expected = torch.fake_quantize_per_channel_affine(theirs, scale, zero_point.int(), axis, low, high)
    y.backward(upstream)
    expected.backward(upstream)
    assert torch.equal(y, expected)
    assert torch.equal(ours.grad, theirs.grad)
    assert torch.equal(ours.grad, upstream * in_range(x, params))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_get_a_gradient_of_their_own(dtype):
    params = choose_params(-1.0, 1.0, bits=3, symmetric=True)
    x = torch.tensor([-3.0, 0.5, 0.75], dtype=dtype, requires_grad=True)
    y = straight_through(x, params)
    assert y.dtype == torch.float32
    assert torch.equal(y, fake_quantize(x, params))
    y.sum().backward()
    assert x.grad.dtype == dtype
    assert x.grad.tolist() == [0, 1, 1]


def test_what_is_estimated_stays_as_it_was_and_the_result_may_be_changed():
    x = torch.tensor([0.3, 5.0], requires_grad=True)
    params = choose_params(-1.0, 1.0, symmetric=True)
    y = straight_through(x, params)
    y.mul_(2).sum().backward()  # in place on the result, as a ReLU may be
    assert x.tolist() == [pytest.approx(0.3), 5]
    assert x.grad.tolist() == [2, 0]
    assert params.scale.grad is None
    assert not straight_through(x.detach(), params).requires_grad
    assert straight_through(torch.zeros(0, 3), params).shape == (0, 3)


# ---- the prepared network ------------------------------------------------------------------------------------------


@traces
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("bits", "weight_method"), [(8, "max"), (3, "max"), (2, "mse")])
def test_before_training_the_logits_are_those_of_the_simulation(name, bits, weight_method):
    options = {"weight_bits": bits, "activation_bits": bits, "weight_method": weight_method}
    net, simulated = prepared(name, **options), quantized(name, **options)
    images = to_float(network(name)[1])
    assert torch.equal(net.train()(images), simulated(images))
    assert torch.equal(net.eval()(images), simulated(images))
    long = images.repeat(6, 1, 1, 1)  # more than are computed at a time
    assert torch.equal(net(long), simulated(long))


@traces
@pytest.mark.parametrize("method", ["max", "mse"])
def test_gradients_are_those_of_a_network_written_with_the_fake_quantization_of_pytorch(method):
    model, images = network("mlp")
    ranges = calibrate(histograms_of("mlp"), "percentile", bits=4, percentile=90)  # so that some is clipped
    net = prepare(model, ranges, weight_bits=3, activation_bits=4, weight_method=method)
    other = copy.deepcopy(model)
    labels = torch.arange(len(images)) % 10
    F.cross_entropy(net(to_float(images)), labels).backward()

    def rounded(x, tensor):
        p = choose_params(*ranges[tensor], bits=8 if tensor == "logits" else 4, symmetric=False)
        return torch.fake_quantize_per_tensor_affine(x, p.scale.item(), p.zero_point.item(), p.low, p.high), p

    x, x_params = rounded(to_float(images).flatten(1), "images")
    linears = {key: layer for key, layer in other.named_modules() if isinstance(layer, nn.Linear)}
    for key, layer in linears.items():
        w = params_of(layer.weight, bits=3, symmetric=True, axis=0, method=method)
        weight = torch.fake_quantize_per_channel_affine(layer.weight, w.scale, w.zero_point, 0, w.low, w.high)
        step = x_params.scale * w.scale
        bias = layer.bias + ((layer.bias / step).round() * step - layer.bias).detach()
        x = F.linear(x, weight, bias)
        last = key == list(linears)[-1]
        x, x_params = rounded(x if last else x.relu(), "logits" if last else key)
    F.cross_entropy(x, labels).backward()
    for key, layer in linears.items():
        for found, expected in zip(
            net.network.get_submodule(key).parameters(), layer.parameters(), strict=True
        ):
            assert expected.grad.abs().max() > 0
            torch.testing.assert_close(found.grad, expected.grad, atol=1e-5, rtol=1e-3)


def test_beyond_the_range_of_the_logits_nothing_is_learned():
    model, ranges = hand_made()
    net = prepare(model, ranges | {"logits": (-10.0, 10.0)})
    inside, beyond = (
        torch.tensor([[[[0.0, 0.2]]]]),
        torch.tensor([[[[51.0, 2.0]]]]),
    )  # logits near 0, and -580
    for images, learns in ((inside, True), (beyond, False)):
        net.zero_grad()
        net(images).sum().backward()
        assert any(p.grad.any() for p in net.parameters()) == learns


@traces
@pytest.mark.parametrize("name", ["resnet", "odd", "pooled"])
def test_the_weights_of_the_folded_network_are_trained_and_nothing_else(name):
    model, images = network(name)
    net = prepared(name, weight_bits=4, activation_bits=4)
    folded = fold_batch_norm(model, to_float(images[:1]))
    before = dict(folded.named_parameters())
    assert [f"network.{key}" for key in before] == [key for key, _ in net.named_parameters()]
    kept = {key: (p.scale.clone(), p.zero_point.clone()) for key, p in net.plan.activations.items()}
    scales = {key: net.plan.rounded(key).params.scale for key in net.plan.inputs}
    trained(net, name)
    for key, value in before.items():
        assert not torch.equal(net.network.get_parameter(key), value), key
    for key, params in net.plan.activations.items():
        assert not params.scale.requires_grad
        assert torch.equal(params.scale, kept[key][0])
        assert torch.equal(params.zero_point, kept[key][1])
    simulated = convert(net)
    for key, params in simulated.weights.items():  # the scales of weights follow them
        assert not torch.equal(params.scale, scales[key])
        weight = net.network.get_submodule(key).weight
        assert torch.equal(params.scale, params_of(weight, bits=4, symmetric=True, axis=0).scale)


@traces
@pytest.mark.parametrize("bits", range(2, 9))
def test_every_number_of_bits_can_be_learned(bits):
    options = {"weight_bits": bits, "activation_bits": bits, "weight_method": "mse"}
    net = prepared("mlp", "mse", **options)
    history = trained(net, "mlp", epochs=12, learning_rate=0.03)
    assert history.train_loss[-1] < 0.97 * history.train_loss[0]  # the range of the logits is narrow
    simulated = convert(net)
    for layer in to_integer(simulated).network.modules():
        if hasattr(layer, "kind"):
            assert layer.weight.dtype == torch.int8
            assert layer.weight.abs().max() <= 2 ** (bits - 1) - 1


# ---- back to integers ----------------------------------------------------------------------------------------------


@traces
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("bits", [8, 3])
def test_the_trained_network_becomes_the_integer_network_as_one_that_was_only_calibrated(name, bits):
    net = prepared(name, weight_bits=bits, activation_bits=bits)
    images = to_float(network(name)[1])
    untrained = net.eval()(images)
    trained(net, name, epochs=1)
    simulated = convert(net)
    assert type(simulated) is QuantizedNetwork
    assert not torch.equal(simulated(images), untrained)
    assert torch.equal(simulated(images), net.eval()(images))
    check_that_both_forms_agree(simulated, to_float(network(name)[1]))


@traces
@pytest.mark.parametrize(
    "options", [{}, {"per_channel": False}, {"keep": ("0", "12"), "weight_method": "mse"}]
)
def test_converting_is_quantizing_the_trained_network(options):
    net = prepared("vgg", weight_bits=4, activation_bits=4, **options)
    trained(net, "vgg", epochs=1)
    ranges = calibrate(histograms_of("vgg"), bits=4)
    found = convert(net)
    expected = quantize_model(net.network, ranges, weight_bits=4, activation_bits=4, **options)
    images = to_float(network("vgg")[1])
    assert torch.equal(found(images), expected(images))
    assert torch.equal(to_integer(found)(images), to_integer(expected)(images))
    assert found.weights.keys() == expected.weights.keys()
    assert all(torch.equal(found.biases[key], expected.biases[key]) for key in expected.biases)
    assert not any(module.training for module in found.network.modules())
    for name in options.get("keep", ()):  # in float32, and trained
        weight = found.network.get_submodule(name).weight
        assert torch.equal(weight, net.network.get_submodule(name).weight)
        assert not torch.equal(weight, fold_batch_norm(network("vgg")[0], images).get_submodule(name).weight)


@traces
def test_training_wins_back_what_few_bits_cost():
    dataset = load_dataset("glyphs")
    model = checkpoints.load("glyphs-vgg-narrow")
    ranges = calibrate(collect(model, dataset.train.images[:200]), "mse", bits=3)
    net = prepare(model, ranges, weight_bits=3, activation_bits=3)
    test = dataset.test.subset(torch.arange(1000))
    before = training.evaluate(net, test)
    few = replace(dataset, train=dataset.train.subset(torch.arange(1500)))
    training.fit(net, few, Recipe(epochs=1, learning_rate=0.01, schedule="cosine"), validate=False)
    simulated = convert(net)
    assert training.evaluate(simulated, test) > before + 0.02
    assert training.evaluate(simulated, test) == training.evaluate(net, test)
    real, integers = (training.predict(form, test.images) for form in (simulated, to_integer(simulated)))
    assert (real.argmax(1) == integers.argmax(1)).float().mean() > 0.99


# ---- nothing is changed --------------------------------------------------------------------------------------------


@traces
def test_what_is_passed_in_stays_as_it_was():
    model, images = copy.deepcopy(network("resnet")[0]).train(), network("resnet")[1]
    before, modes = state(model)
    ranges = calibrate(histograms_of("resnet"), bits=3)
    kept = dict(ranges)
    net = prepare(model, ranges, weight_bits=3, activation_bits=3)
    simulated = convert(net)
    logits = simulated(to_float(images))
    trained(net, "resnet", epochs=1)
    net.plan.activations.clear()
    assert torch.equal(
        simulated(to_float(images)), logits
    )  # what was converted before is no part of the training
    after, modes_after = state(model)
    assert modes_after == modes
    assert ranges == kept
    assert all(torch.equal(after[key], before[key]) for key in before)


@traces
def test_converting_leaves_the_network_ready_for_more_training():
    net = prepared("odd", weight_bits=3, activation_bits=3).train()
    before, modes = state(net)
    convert(net)
    after, modes_after = state(net)
    assert modes_after == modes
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert all(parameter.requires_grad for parameter in net.parameters())
    trained(net, "odd", epochs=1)


@traces
def test_what_the_model_does_not_train_stays_frozen():
    model = copy.deepcopy(network("vgg")[0])
    model[4].requires_grad_(False)
    net = prepare(model, calibrate(histograms_of("vgg")))
    before, _ = state(net)
    trained(net, "vgg", epochs=1)
    after, _ = state(net)
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved == before.keys() - {"network.4.weight", "network.4.bias", "_extra_state"}


@traces
def test_networks_can_be_copied_and_sent_and_copies_learn_alone():
    net = prepared("odd", weight_bits=4, activation_bits=4).eval()
    images = to_float(network("odd")[1])
    logits = net(images)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(other(images), logits)
        trained(other, "odd", epochs=1)
        assert not torch.equal(other(images), logits)
        assert torch.equal(convert(other)(images), other(images))
    assert torch.equal(net(images), logits)
    restored = prepared("odd", weight_bits=4, activation_bits=4)
    restored.load_state_dict(other.state_dict())
    assert torch.equal(restored.eval()(images), other(images))


@traces
def test_half_precision_and_channels_last_can_train_it():
    net = prepared("vgg", weight_bits=4, activation_bits=4)
    history = trained(net, "vgg", epochs=6, precision="bfloat16", channels_last=True)
    assert history.train_loss[-1] < history.train_loss[0]
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}


# ---- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("x", "params", "error", "words"),
    [
        ([1.0], None, TypeError, "x is a list; it must be a torch.Tensor of floating-point"),
        (
            torch.ones(2, dtype=torch.int32),
            None,
            TypeError,
            "x has dtype torch.int32; it must be floating point",
        ),
        (torch.tensor([0, torch.nan]), None, ValueError, "x holds NaN, which no integer stands for"),
        (torch.ones(2), 0.1, TypeError, r"params is a float; it must be QuantParams\. choose_params\(\)"),
        (
            torch.ones(2, 2),
            params_of(torch.ones(3, 2), symmetric=True, axis=0),
            ValueError,
            r"x has shape \[2, 2\], but the parameters are for 3 channels along axis 0",
        ),
    ],
)
def test_wrong_tensors_and_parameters_are_named(x, params, error, words):
    with pytest.raises(error, match=words):
        straight_through(x, params or choose_params(-1.0, 1.0, symmetric=True))


RANGES = {"images": (0.0, 1.0), "1": (0.0, 2.0), "3": (0.0, 2.0), "logits": (-1.0, 1.0)}


def poisoned():
    model = models.build("mlp", in_channels=3, image_size=8, hidden=(20, 10))
    with torch.no_grad():
        model[3].weight[0, 0] = torch.nan
    return model


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"model": 3}, TypeError, "model is a int"),
        ({"model": poisoned()}, ValueError, "layer '3': x holds NaN"),
        ({"weight_bits": 1}, ValueError, "weight_bits is 1; it must be from 2 to 16"),
        ({"weight_bits": 3.0}, TypeError, "weight_bits is 3.0"),
        ({"activation_bits": 17}, ValueError, "activation_bits is 17"),
        ({"per_channel": None}, TypeError, "per_channel is None"),
        ({"weight_method": "MSE"}, ValueError, "unknown weight_method 'MSE'. Did you mean 'mse'"),
        ({"keep": ("2",)}, KeyError, "unknown layer '2'"),
        ({"ranges": {"images": (0, 1)}}, KeyError, "ranges lack the tensor '1'"),
        ({"ranges": RANGES | {"3": (0.0, torch.nan)}}, ValueError, "a bound of '3' is nan"),
    ],
)
def test_wrong_arguments_of_prepare_are_named(changes, error, words):
    arguments = {"model": network("mlp")[0], "ranges": RANGES}
    prepare(**arguments)
    with pytest.raises(error, match=words):
        prepare(**arguments | changes)


@pytest.mark.bad_input
def test_what_is_no_prepared_network_cannot_be_converted():
    with pytest.raises(TypeError, match=r"prepared is a QuantizedNetwork; .*prepare\(\)"):
        convert(quantized("mlp"))
    with pytest.raises(TypeError, match="prepared is a Sequential"):
        convert(network("mlp")[0])
    with pytest.raises(TypeError, match=r"simulated is a PreparedNetwork; .*convert\(\)"):
        to_integer(prepared("mlp"))
    with pytest.raises(TypeError, match=r"images have dtype uint8.*to_float"):
        prepared("mlp")(network("mlp")[1])


@pytest.mark.bad_input
def test_a_network_that_diverges_names_its_layer():
    net = prepared("mlp")
    with torch.no_grad():
        net.network[3].bias[0] = torch.inf
    for call in (functools.partial(net, to_float(network("mlp")[1])), functools.partial(convert, net)):
        with pytest.raises(ValueError, match=r"layer '3': bias holds .*diverged network"):
            call()
    assert isinstance(net, PreparedNetwork)
