"""The simulated network against the same written out, and layers kept in float32."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_lib.data import to_float
from course_lib.quantization.affine import choose_params, fake_quantize, params_of
from course_lib.quantization.workflow import calibrate, fold_batch_norm, quantize_model, to_integer
from tests.quantization.networks import (
    NETWORKS,
    histograms_of,
    network,
    quantized,
    tensors_of,
    traces,
)


@traces
def test_the_simulation_is_the_network_with_rounded_weights_and_results():
    model, images = network("vgg")
    ranges = calibrate(histograms_of("vgg"), "mse", bits=5)
    simulated = quantize_model(model, ranges, weight_bits=4, activation_bits=5, per_channel=False)

    def rounded(x, tensor):
        return fake_quantize(
            x, choose_params(*ranges[tensor], bits=8 if tensor == "logits" else 5, symmetric=False)
        )

    folded = fold_batch_norm(model, to_float(images[:1]))
    x = rounded(to_float(images), "images")
    scale = choose_params(*ranges["images"], bits=5, symmetric=False).scale
    for place, layer in enumerate(folded):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            tensor = "logits" if isinstance(layer, nn.Linear) else str(place)
            params = params_of(layer.weight, bits=4, symmetric=True)
            step = (scale * params.scale).double()
            layer.weight.data = fake_quantize(layer.weight, params)
            layer.bias.data = ((layer.bias.double() / step).round() * step).float()
            scale = choose_params(*ranges[tensor], bits=5, symmetric=False).scale
            assert len(simulated.network.get_submodule(str(place)).weight.unique()) <= 15
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            x = rounded(x, tensor)
        if isinstance(layer, nn.AdaptiveAvgPool2d):
            x = rounded(x, str(place))
            scale = choose_params(*ranges[str(place)], bits=5, symmetric=False).scale
    assert torch.equal(simulated(to_float(images)), rounded(x, "logits"))


@traces
@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_lie_in_the_range_that_the_method_finds(per_channel):
    model, images = network("vgg")
    axis = 0 if per_channel else None
    folded = fold_batch_norm(model, to_float(images[:1]))
    for method in ("max", "mse"):
        simulated = quantized("vgg", weight_bits=3, per_channel=per_channel, weight_method=method)
        for name, params in simulated.weights.items():
            weight = folded.get_submodule(name).weight
            expected = params_of(weight, bits=3, symmetric=True, axis=axis, method=method)
            assert torch.equal(params.scale, expected.scale)
            assert torch.equal(simulated.network.get_submodule(name).weight, fake_quantize(weight, expected))


@traces
@pytest.mark.parametrize("name", NETWORKS)
def test_sixteen_bits_are_nearly_the_network_itself(name):
    model, images = network(name)
    simulated = quantized(name, weight_bits=16, activation_bits=16)
    with torch.no_grad():
        expected, found = model(to_float(images)), simulated(to_float(images))
    assert (found - expected).abs().max() < 2e-3 * expected.abs().max()


@traces
def test_bits_are_those_asked_for_and_logits_have_eight():
    simulated = quantized("resnet", weight_bits=3, activation_bits=2)
    reals = tensors_of(simulated, to_float(network("resnet")[1]))
    for step in simulated.steps:
        assert len(reals[step.name].unique()) <= (256 if step.tensor == "logits" else 4)
    assert {params.bits for name, params in simulated.activations.items() if name != "logits"} == {2}
    assert simulated.activations["logits"].bits == 8
    assert quantized("resnet", activation_bits=10).activations["logits"].bits == 10
    for name, layer in to_integer(simulated).network.named_modules():
        if name in simulated.weights:
            assert layer.weight.dtype == torch.int8
            assert layer.weight.abs().max() == 3
            assert simulated.weights[name].scale.shape == (len(layer.weight),)
    whole = quantized("resnet", per_channel=False)
    assert all(params.scale.ndim == 0 for params in whole.weights.values())


@traces
def test_kept_layers_compute_in_float():
    model, images = network("vgg")
    folded = fold_batch_norm(model, to_float(images[:1]))
    simulated = quantized("vgg", weight_bits=4, activation_bits=4, keep=("0", "12"))
    for name in ("0", "12"):
        kept, whole = (net.get_submodule(name) for net in (simulated.network, folded))
        assert torch.equal(kept.weight, whole.weight)
        assert torch.equal(kept.bias, whole.bias)
    assert list(simulated.weights) == ["4", "7"]
    # Nothing on integers reads the images or writes the logits, so neither are rounded.
    assert list(simulated.activations) == ["0", "4", "7", "10"]
    reals = tensors_of(simulated, to_float(images))
    first = list(reals.values())[1]
    expected = F.relu(F.conv2d(to_float(images), folded[0].weight, folded[0].bias, padding=1))
    assert torch.equal(first, fake_quantize(expected, simulated.activations["0"]))
    integers = to_integer(simulated)
    assert isinstance(integers.network.get_submodule("0"), nn.Conv2d)
    with torch.no_grad():
        torch.testing.assert_close(integers(to_float(images)), simulated(to_float(images)), atol=0.05, rtol=0)
        assert (integers(to_float(images)) == simulated(to_float(images))).float().mean() > 0.9


@traces
def test_with_every_layer_kept_additions_and_pooling_are_still_rounded():
    model, images = network("resnet")
    layers = [n for n, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    simulated = quantized("resnet", keep=layers)
    assert simulated.weights == {}
    assert "images" not in simulated.activations
    assert {"3.add", "6"} <= simulated.activations.keys()
    found = to_integer(simulated)(to_float(images))
    torch.testing.assert_close(found, simulated(to_float(images)), atol=0.02, rtol=0)


def test_activations_cut_off_where_the_given_range_goes_on():
    model = nn.Sequential(
        nn.Conv2d(1, 1, 1, bias=False), nn.ReLU6(), nn.Conv2d(1, 1, 1, bias=False), nn.Flatten()
    )
    with torch.no_grad():
        model[0].weight.fill_(1.27)
        model[2].weight.fill_(1.0)
    simulated = quantize_model(model, {"images": (-128.0, 127.0), "0": (-5.5, 20.0), "logits": (-5.5, 20.0)})
    images = torch.tensor([-100.0, -1.0, 2.0, 4.0, 50.0]).reshape(5, 1, 1, 1)
    expected = torch.tensor([0.0, 0.0, 2.5, 5.1, 6.0])
    torch.testing.assert_close(simulated(images).flatten(), expected, atol=0.06, rtol=0)
    torch.testing.assert_close(to_integer(simulated)(images).flatten(), expected, atol=0.06, rtol=0)
