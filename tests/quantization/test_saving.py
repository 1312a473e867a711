"""States and files of quantized networks: the logits to the bit, or a refusal that names what is wrong."""

import json
import os

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from course_lib.data import to_float
from course_lib.quantization.aware import convert, prepare
from course_lib.quantization.saving import load, save
from course_lib.quantization.workflow import calibrate, collect, quantize_model, to_integer
from tests.quantization.networks import NETWORKS, hand_made, histograms_of, network, state, traces

KINDS = {
    "simulated": quantize_model,
    "prepared": prepare,
    "integer": lambda *args, **options: to_integer(quantize_model(*args, **options)),
}
SOME = ["vgg", "resnet", "odd", "pooled"]


def made(kind, name, method="max", **options):
    return KINDS[kind](network(name)[0], calibrate(histograms_of(name), method), **options)


def logits(net, name):
    with torch.no_grad():
        return net(to_float(network(name)[1]))


def same_logits(net, other, name):
    """Of the networks, and of the integers that they become."""
    assert type(net) is type(other)
    assert torch.equal(logits(net, name), logits(other, name))
    for step in (convert, to_integer):
        if hasattr(net, "plan") == (step is convert) and not isinstance(net, type(made("integer", "mlp"))):
            net, other = step(net), step(other)
            assert torch.equal(logits(net, name), logits(other, name))


@traces
@pytest.mark.parametrize("kind", KINDS)
def test_a_state_goes_into_a_network_with_other_ranges_to_the_bit(kind, tmp_path):
    net = made(kind, "odd", weight_method="mse")
    stored = net.state_dict()
    safetensors.torch.save_file(stored, tmp_path / "state.safetensors")  # all of it are tensors
    ranges = {name: (2 * low, 3 * high) for name, (low, high) in calibrate(histograms_of("odd")).items()}
    for given in (stored, safetensors.torch.load_file(tmp_path / "state.safetensors")):
        # A network in training finds its weights' scales by this method at every call, so that it has to be the same.
        other = KINDS[kind](network("odd")[0], ranges, weight_method="mse" if kind == "prepared" else "max")
        assert not torch.equal(logits(net, "odd"), logits(other, "odd"))
        other.load_state_dict(given)
        same_logits(net, other, "odd")


@traces
def test_a_state_inside_of_a_larger_network():
    net, other = (nn.Sequential(made("integer", "vgg", method), nn.Softmax(1)) for method in ("max", "mse"))
    assert not torch.equal(logits(net, "vgg"), logits(other, "vgg"))
    other.load_state_dict(net.state_dict())
    assert torch.equal(logits(net, "vgg"), logits(other, "vgg"))
    with pytest.raises(ValueError, match=r"another network: activations, images, bits is 5 .* and 8 in this"):
        other.load_state_dict(nn.Sequential(made("integer", "vgg", activation_bits=5)).state_dict())


@traces
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SOME)
def test_a_file_gives_the_logits_to_the_bit(kind, name, tmp_path):
    for options in ({}, {"weight_bits": 3, "activation_bits": 5, "per_channel": False}):
        net = made(kind, name, **options)
        path = save(net, tmp_path / "new" / "net.safetensors")
        fresh = NETWORKS[name][0]().train()
        before = state(fresh)
        again = load(path, fresh)
        same_logits(net, again, name)
        assert not again.training
        assert str(before) == str(state(fresh))
        assert again.record() == net.record()


@traces
def test_kept_and_frozen_layers_are_kept_and_frozen_in_the_file(tmp_path):
    for kind in KINDS:
        net = made(kind, "vgg", keep=("0", "12"), weight_bits=4)
        if kind == "prepared":
            net.network[4].requires_grad_(False)
        again = load(save(net, tmp_path / "net.safetensors"), NETWORKS["vgg"][0]())
        same_logits(net, again, "vgg")
        frozen = {name: parameter.requires_grad for name, parameter in net.named_parameters()}
        assert frozen == {name: parameter.requires_grad for name, parameter in again.named_parameters()}
        assert kind != "prepared" or set(frozen.values()) == {True, False}
    with safetensors.safe_open(tmp_path / "net.safetensors", framework="pt") as stream:
        assert {str(stream.get_tensor(n).dtype) for n in stream.keys() if n.endswith("weight")} == {  # noqa: SIM118
            "torch.int8",
            "torch.float32",
        }


@pytest.mark.parametrize("batch_norm", ["folded", "kept"])
@pytest.mark.parametrize("range_update", ["fixed", "average", "max"])
def test_kept_norms_and_moved_ranges_are_in_the_file(batch_norm, range_update, tmp_path):
    def fresh():
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
        )

    model, images = fresh(), torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    ranges = calibrate(collect(model.eval(), images))
    options = {"batch_norm": batch_norm, "range_update": range_update, "keep": ("0",)}
    net = prepare(model, ranges, weight_bits=4, **options).train()
    net(2 * images)  # moves statistics and ranges
    net.freeze()
    again = load(save(net, tmp_path / "net.safetensors"), fresh())
    assert torch.equal(net.eval()(images), again(images))
    assert torch.equal(convert(net)(images), convert(again)(images))
    assert torch.equal(net.train()(images), again.train()(images))  # still frozen


@traces
def test_training_goes_on_after_loading_as_it_would_have(tmp_path):
    images = to_float(network("vgg")[1])
    results = []
    for again in (False, True):
        net = made("prepared", "vgg", weight_bits=3)
        if again:
            net = load(save(net, tmp_path / "net.safetensors"), NETWORKS["vgg"][0]())
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        net(images).square().sum().backward()
        optimizer.step()
        results.append(logits(net, "vgg"))
    assert torch.equal(*results)


class Strided(nn.Sequential):
    def __init__(self, stride=1, channels=4):
        super().__init__(nn.Conv2d(1, channels, 3, stride), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.fixture
def path(tmp_path):
    ranges = {"images": (0, 1), "0": (0, 2), "logits": (0, 2)}
    return save(quantize_model(Strided(), ranges), tmp_path / "strided.safetensors")


@pytest.mark.bad_input
def test_a_model_that_computes_something_else_is_refused(path):
    for model, message in (
        (Strided(stride=2), r"step, 1 is \"conv2d\(0\).*stride \(1, 1\).* and .*stride \(2, 2\)"),
        (Strided(channels=5), r"\[4, 1, 3, 3\].* in .*strided.* and .*\[5, 1, 3, 3\].*same class"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), "step, 1 is .*conv2d.* and .*flatten"),
        (Strided().double(), "has dtype torch.float64"),
    ):
        with pytest.raises(ValueError, match=message):
            load(path, model)
    for model in (None, Strided):
        with pytest.raises(TypeError, match="it must be a torch"):
            load(path, model)


@pytest.mark.bad_input
def test_every_byte_of_a_file_counts(path):
    content = path.read_bytes()
    for place in range(0, len(content), 37):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(ValueError, match=r"strided.safetensors is (damaged|no file of|\d)|version of"):
            load(path, Strided())
    for part in (b"", content[:50], content[:-1], content + b"\0"):
        path.write_bytes(part)
        with pytest.raises(ValueError, match=r"is no file of a quantized network .* unchanged"):
            load(path, Strided())


@pytest.mark.bad_input
def test_other_files_are_refused(path, tmp_path):
    other = tmp_path / "other.safetensors"
    safetensors.torch.save_file(Strided().state_dict(), other)
    with pytest.raises(ValueError, match=r"other.safetensors is no file .*no record of a quantized network"):
        load(other, Strided())
    for record, message in (
        ([1], "no file of a quantized network"),
        ({"format": "course_lib quantized network", "version": 2}, "this library reads version 1"),
    ):
        metadata = {"quantization": json.dumps(record)}
        safetensors.torch.save_file(Strided().state_dict(), other, metadata=metadata)
        with pytest.raises(ValueError, match=message):
            load(other, Strided())
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none", Strided())
    for wrong in (tmp_path, ""):
        with pytest.raises(ValueError, match="a folder"):
            load(wrong, Strided())
    with pytest.raises(TypeError, match="path is 3"):
        load(3, Strided())


@pytest.mark.bad_input
def test_what_cannot_be_saved(path, monkeypatch):
    net, before = made("simulated", "mlp"), path.read_bytes()
    for wrong in (Strided(), None, net.network):
        with pytest.raises(
            TypeError, match="must be one of QuantizedNetwork, PreparedNetwork, IntegerNetwork"
        ):
            save(wrong, path)
    with pytest.raises(TypeError, match="path is None"):
        save(net, None)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="the earlier file, if any, is untouched"):
        save(net, path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@traces
@pytest.mark.bad_input
@pytest.mark.parametrize("kind", KINDS)
def test_the_state_of_another_network_is_refused_and_changes_nothing(kind):
    net = made(kind, "vgg")
    before = state(net)
    good = net.state_dict()
    others = {
        r"kind is '\w+' in the state and '\w+' in this network": made(
            "integer" if kind == "simulated" else "simulated", "vgg"
        ).state_dict(),
        r"weight_bits is 4 .* and 8|weights, 0, bits is 4 in the state and 8": made(
            kind, "vgg", weight_bits=4
        ).state_dict(),
        r"activations, images is in this network and not": made(kind, "vgg", keep=("0",)).state_dict(),
        r"axis is None .* and 0|per_channel is False .* True": made(
            kind, "vgg", per_channel=False
        ).state_dict(),
        "steps, 1 is .*conv2d": made(kind, "mlp").state_dict(),
        "has no entry '_extra_state'": {n: v for n, v in good.items() if n != "_extra_state"},
        "network.4.weight is in this network and not in the state": {
            n: v for n, v in good.items() if n != "network.4.weight"
        },
        "more is in the state and not": good | {"more": torch.zeros(1)},
        r"network.0.bias is 'float64 \[8\]'": good | {"network.0.bias": torch.zeros(8, dtype=torch.float64)},
        "the scales in the state are damaged": good | {"_extra_state": good["_extra_state"][:-5]},
        "are None, not what state_dict": good | {"_extra_state": None},
    }
    for strict in (True, False):
        for message, wrong in others.items():
            with pytest.raises(ValueError, match=message):
                net.load_state_dict(wrong, strict=strict)
    with pytest.raises(TypeError, match="state_dict is a list"):
        net.load_state_dict([])
    assert str(before) == str(state(net))


def test_a_file_by_hand(tmp_path):
    model, ranges = hand_made()
    path = save(to_integer(quantize_model(model, ranges)), tmp_path / "hand.safetensors")
    with safetensors.safe_open(path, framework="pt") as stream:
        found = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        record = json.loads(stream.metadata()["quantization"])
    assert found["network.1.weight"].tolist() == [[127, -63], [63, 127]]
    assert found["network.1.bias"].tolist() == [50, -1000]
    assert found["weights.1.scale"].tolist() == pytest.approx([0.1, 0.02])
    assert (found["activations.logits.scale"], found["activations.logits.zero_point"]) == (10, 100)
    assert record["activations"]["1"] == {"bits": 8, "signed": False, "axis": None, "symmetric": False}
    assert record["steps"][2] == "linear(1), tensor '1', layer '1' [[2, 2], [2]], ReLU to inf"
