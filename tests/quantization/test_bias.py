"""Bias correction: the mean error of every layer, by hand and on networks."""

import pytest
import torch
from torch import nn

from course_lib.data import to_float
from course_lib.quantization.bias import correct_biases
from course_lib.quantization.operations import OPERATIONS
from course_lib.quantization.steps import execute
from course_lib.quantization.workflow import fold_batch_norm, quantize_model, to_integer
from tests.quantization.networks import hand_made, network, quantized, state, tensors_of, traces


def mean_outputs(steps, network, compute, images):
    """{layer: mean output of each channel before the activation function}, from the inputs that `compute` gives."""
    found = {}

    def note(step, *inputs):
        if step.layer is not None:
            y = OPERATIONS[step.operation].numbers(*inputs, *step.weights(network), **step.options)
            found[step.layer] = y.double().transpose(0, 1).flatten(1).mean(1)
        return compute(step, *inputs)

    with torch.no_grad():
        execute(steps, note, images)
    return found


@traces
@pytest.mark.parametrize("name", ["vgg", "resnet", "odd", "mobilenet", "pooled"])
def test_the_mean_output_of_every_layer_is_that_of_its_float_weights(name):
    model, images = network(name)
    simulated = quantized(name, weight_bits=3)
    before = state(model), state(simulated), dict(simulated.biases)
    found = correct_biases(model, simulated, images)
    for had, kept in zip(before, (state(model), state(simulated)), strict=False):
        assert all(torch.equal(had[0][key], kept[0][key]) for key in kept[0])
        assert had[1] == kept[1]
    assert before[2] == simulated.biases

    x, folded = to_float(images), fold_batch_norm(model, to_float(images[:1]))
    exact = mean_outputs(found.steps, folded, found.compute, x)
    ours = mean_outputs(found.steps, found.network, found.compute, x)
    nearest = mean_outputs(found.steps, simulated.network, found.compute, x)
    tensors = {step.name: step.tensor for step in found.steps}
    inputs = {step.layer: tensors[step.inputs[0]] for step in found.steps if step.layer is not None}
    worst = {"ours": 0.0, "nearest": 0.0}
    for layer in found.weights:
        step = found.activations[inputs[layer]].scale.double() * found.weights[layer].scale.double()
        size = exact[layer].abs().max() + 1
        assert ((ours[layer] - exact[layer]).abs() <= 0.5 * step + 2e-6 * size).all(), layer
        assert torch.equal(
            found.network.get_submodule(layer).weight, simulated.network.get_submodule(layer).weight
        )
        worst["nearest"] = max(worst["nearest"], (nearest[layer] - exact[layer]).abs().max().item())
        worst["ours"] = max(worst["ours"], (ours[layer] - exact[layer]).abs().max().item())
    assert worst["ours"] < worst["nearest"] / 2


@traces
def test_integers_have_the_corrected_biases_and_layers_without_one_get_it():
    model, images = network("pooled")  # conv2 has no bias
    found = correct_biases(model, quantized("pooled", weight_bits=4), images)
    integers = to_integer(found)
    assert "conv2" not in quantized("pooled").biases
    for name, bias in found.biases.items():
        assert torch.equal(integers.network.get_submodule(name).bias, bias)
        assert bias.dtype == torch.int32
    assert set(found.biases) == set(found.weights)
    assert found.biases["conv2"].any()
    x = to_float(images)
    assert (integers(x) - found(x)).abs().max() <= 4 * found.activations["logits"].scale


@traces
def test_layers_kept_in_float_stay_as_they_are():
    model, images = network("mlp")
    simulated = quantized("mlp", weight_bits=3, keep=("1",))
    found = correct_biases(model, simulated, images)
    assert torch.equal(found.network.get_submodule("1").bias, simulated.network.get_submodule("1").bias)
    assert not torch.equal(found.biases["3"], simulated.biases["3"])


@traces
def test_a_bias_moves_no_further_than_int32_goes():
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 1))
    model[1].weight.data, model[1].bias.data = torch.tensor([[1e-7]]), torch.tensor([100.0])
    simulated = quantize_model(model, {"images": (0, 255), "logits": (-1, 1000)})
    model[1].bias.data += 1000
    found = correct_biases(model, simulated, torch.ones(1, 1, 1, 1))
    assert found.biases["1"].tolist() == [2**31 - 1]


@traces
def test_a_network_without_error_keeps_its_biases():
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1))
    model[1].weight.data, model[1].bias.data = torch.tensor([[127.0, -3.0]]), torch.tensor([5.0])
    simulated = quantize_model(model, {"images": (0, 255), "logits": (-128, 127)})
    images = torch.arange(6.0).reshape(3, 1, 1, 2)
    found = correct_biases(model, simulated, images)
    assert found.biases["1"].tolist() == simulated.biases["1"].tolist() == [5]
    given, kept = tensors_of(simulated, images), tensors_of(found, images)
    assert all(torch.equal(given[name], kept[name]) for name in given)


@pytest.mark.bad_input
def test_bad_input_is_named():
    model, ranges = hand_made()
    simulated, images = quantize_model(model, ranges), torch.ones(2, 1, 1, 2)
    with pytest.raises(TypeError, match="simulated is a Linear; it must be a QuantizedNetwork"):
        correct_biases(model, model[1], images)
    with pytest.raises(ValueError, match="other layers than the network"):
        correct_biases(model[:2], simulated, images)
    with pytest.raises(ValueError, match="images hold NaN"):
        correct_biases(model, simulated, images * torch.nan)
    model[1].weight.data.fill_(3e38)
    with pytest.raises(ValueError, match="layer '1': its output holds NaN or infinity"):
        correct_biases(model, simulated, images)
