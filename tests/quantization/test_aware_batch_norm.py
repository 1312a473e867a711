"""Training with batch norms kept and folded in the forward pass, and with ranges that move."""

import copy
import functools
import pickle
import warnings

import pytest
import torch
from torch import nn

from course_lib import training
from course_lib.data import to_float
from course_lib.quantization import aware
from course_lib.quantization._ranges import MovingRanges
from course_lib.quantization._state import EXTRA
from course_lib.quantization.affine import fake_quantize
from course_lib.quantization.aware import convert, prepare
from course_lib.quantization.onnx import export, quantize, run
from course_lib.quantization.workflow import calibrate, collect, fold_batch_norm, quantize_model, to_integer
from tests.quantization.networks import (
    check_that_both_forms_agree,
    histograms_of,
    network,
    quantized,
    seeded,
    state,
    traces,
)
from tests.quantization.test_aware import dataset_of, trained
from tests.quantization.test_integer_network import EXACT

NORMED = ["vgg", "resnet", "mobilenet", "convnet_student", "odd"]


def kept(name, bits=8, **options):
    """A network of the room, prepared with its batch norms."""
    ranges = calibrate(histograms_of(name), bits=bits)
    options = {"weight_bits": bits, "activation_bits": bits, "batch_norm": "kept"} | options
    return prepare(network(name)[0], ranges, **options)


def norms_of(net):
    return [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def by_hand():
    """A linear layer with one output and its batch norm, and ranges of steps of 1."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1), nn.BatchNorm1d(1, eps=1e-12, momentum=0.5))
    values = {"1.weight": [[3.0, -1.4]], "1.bias": [0.25], "2.weight": [22.0], "2.bias": [5.0]}
    statistics = {"2.running_mean": [2.0], "2.running_var": [22.0**2], "2.num_batches_tracked": 0}
    model.load_state_dict({key: torch.tensor(value) for key, value in (values | statistics).items()})
    return model, {"images": (0.0, 255.0), "logits": (-128.0, 127.0)}


IMAGES = torch.tensor([[10.0, 10.0], [20.0, 0.0]]).reshape(2, 1, 1, 2)


# ---- batch norm in the forward pass --------------------------------------------------------------------------------


def test_the_logits_by_hand_in_training_frozen_and_in_evaluation():
    model, ranges = by_hand()
    net = prepare(model, ranges, weight_bits=3, batch_norm="kept")
    # Folded weights 3 and -1.4 are 3 and -1 steps, the bias (0.25 - 2) + 5 = 3.25 is 3.
    assert net.eval()(IMAGES).tolist() == [[23], [63]]
    # Without rounding the layer gives 16.25 and 60.25: mean 38.25, deviation 22. With it 20.25 and 60.25.
    assert net.train()(IMAGES).tolist() == [[-18 + 5], [22 + 5]]
    norm = net.network[2]
    assert (norm.running_mean.item(), norm.running_var.item()) == (20.125, 726)  # with 968, unbiased
    # Now in steps of 22 / sqrt(726) = 0.8165; the bias of -11.23 is -14 of them.
    assert net.eval()(IMAGES).tolist() == [[5], [38]]
    net.freeze()
    assert net.train()(IMAGES).tolist() == [[5], [38]]
    assert (norm.running_mean.item(), norm.running_var.item()) == (20.125, 726)
    assert norm.num_batches_tracked == 1


def linear():
    """Linear layers with and without bias, ReLU6 behind batch norm, a batch norm without scale and shift."""
    layers = (nn.Linear(48, 9, bias=False), nn.BatchNorm1d(9), nn.ReLU6(), nn.Linear(9, 5))
    model = seeded(lambda: nn.Sequential(nn.Flatten(), *layers, nn.BatchNorm1d(5, affine=False)))
    return model, network("mlp")[1][:, :, :4, :4]


@traces
@pytest.mark.parametrize("name", ["vgg", "resnet", "mobilenet", "linear"])
def test_without_rounding_logits_and_gradients_are_those_of_batch_norm(name, monkeypatch):
    monkeypatch.setattr(aware, "straight_through", lambda x, params: x)
    model, images = linear() if name == "linear" else network(name)
    ranges = calibrate(
        collect(model, images), bits=16
    )  # steps too small to matter for biases without batch norm
    net = prepare(model, ranges, weight_bits=16, activation_bits=16, batch_norm="kept")
    reference, images = copy.deepcopy(model).train(), to_float(images)
    found, expected = net.train()(images), reference(images)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
    found.backward(upstream)
    expected.backward(upstream)
    largest = max(parameter.grad.abs().max().item() for parameter in reference.parameters())
    assert [key for key, _ in net.network.named_parameters()] == [k for k, _ in reference.named_parameters()]
    for key, parameter in reference.named_parameters():
        other = net.network.get_parameter(key).grad
        torch.testing.assert_close(other, parameter.grad, atol=1e-5 * largest, rtol=1e-3, msg=key)
    assert all(norm.weight is None or norm.weight.grad.abs().max() > 0 for norm in norms_of(net))
    for key, buffer in reference.named_buffers():
        torch.testing.assert_close(net.network.get_buffer(key), buffer, msg=key)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_is_that_of_pytorch(per_channel, bias):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 3, 7, 7), generator=generator) / 256  # all of them on the grid
    ranges = {"images": (0.0, 65535 / 65536), "logits": (-32.0, 32767 / 1024)}  # steps of 2^-16 and 2^-10
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3, bias=bias, stride=2), nn.BatchNorm2d(5, momentum=0.3), nn.Flatten()
    )
    for tensor in (*model.parameters(), model[1].running_mean):
        nn.init.normal_(tensor, 0, 1, generator=generator)
    nn.init.uniform_(model[1].running_var, 0.5, 2, generator=generator)
    with torch.no_grad():
        model[1].weight[0] = 0.0
    net = prepare(
        model, ranges, weight_bits=3, activation_bits=16, per_channel=per_channel, batch_norm="kept"
    )
    upstream = torch.randn((6, 45), generator=generator)
    theirs = fused_by_pytorch(model, per_channel)
    found, expected = net.train()(images), theirs(images).flatten(1)
    torch.testing.assert_close(found, expected, atol=2**-11 + 1e-5, rtol=0)  # half a step of the logits
    found.backward(upstream)
    expected.backward(upstream)
    for ours, other in (
        (net.network[0].weight, theirs.weight),
        (net.network[1].weight, theirs.bn.weight),
        (net.network[1].bias, theirs.bn.bias),
    ):
        torch.testing.assert_close(ours.grad, other.grad, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(
        net.network[1].running_mean, theirs.bn.running_mean, rtol=4e-7, atol=4e-7
    )  # sums in another order
    torch.testing.assert_close(
        net.network[1].running_var, theirs.bn.running_var, rtol=4e-7, atol=4e-7
    )  # sums in another order


def fused_by_pytorch(model, per_channel):
    """Their layer for training, with weights of 3 bits; it is deprecated, and its slow form is that of the paper."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao.nn.intrinsic.qat import ConvBn2d
        from torch.ao.quantization import FakeQuantize, MinMaxObserver, PerChannelMinMaxObserver, QConfig

        observer, scheme = (
            (PerChannelMinMaxObserver, torch.per_channel_symmetric)
            if per_channel
            else (MinMaxObserver, torch.per_tensor_symmetric)
        )
        weight = FakeQuantize.with_args(
            observer=observer, quant_min=-3, quant_max=3, dtype=torch.qint8, qscheme=scheme
        )
        conv, norm, _ = copy.deepcopy(model)
        fused = ConvBn2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            conv.bias is not None,
            "zeros",
            norm.eps,
            norm.momentum,
            qconfig=QConfig(activation=nn.Identity, weight=weight),
        )
    fused._enable_slow_path_for_better_numerical_stability = True
    fused.weight, fused.bias, fused.bn = conv.weight, conv.bias, norm
    return fused.train()


@traces
@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
def test_the_running_statistics_are_those_of_batch_norm_to_the_bit(momentum):
    model = copy.deepcopy(network("vgg")[0])
    images = to_float(network("vgg")[1])
    norm = norms_of(model)[0]
    norm.momentum = momentum
    net = prepare(model, calibrate(histograms_of("vgg"), bits=4), weight_bits=4, batch_norm="kept").train()
    norm.train()
    x_params = net.plan.activations["images"]
    for part in images.split(7):
        norm(model[0](fake_quantize(part, x_params)))
        net(part)
    found = norms_of(net)[0]
    assert all(torch.equal(found.state_dict()[key], value) for key, value in norm.state_dict().items())
    assert norm.num_batches_tracked == found.num_batches_tracked == 4


# ---- conversion ----------------------------------------------------------------------------------------------------


@traces
@pytest.mark.parametrize("name", NORMED)
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_the_trained_network_is_the_simulated_one(name, bits):
    method = "mse" if bits == 2 else "max"
    net = kept(name, bits, range_update="average", range_momentum=0.3, weight_method=method)
    images = to_float(network(name)[1])
    untrained = net.eval()(images)
    assert torch.equal(
        untrained, quantized(name, weight_bits=bits, activation_bits=bits, weight_method=method)(images)
    )
    trained(net, name, epochs=1)
    simulated, logits = convert(net), net.eval()(images)
    assert not torch.equal(logits, untrained)
    assert torch.equal(simulated(images), logits)
    net.freeze()
    assert torch.equal(net.train()(images), logits)
    assert torch.equal(convert(net)(images), logits)


@traces
@pytest.mark.parametrize("options", [{}, {"per_channel": False}, {"keep": ("0", "12")}])
def test_converting_is_quantizing_the_trained_network_with_its_ranges(options):
    net = kept("vgg", 4, range_update="max", **options)
    before = copy.deepcopy(net)
    trained(net, "vgg", epochs=1)
    images = to_float(network("vgg")[1])
    folded = fold_batch_norm(net.network, images)
    expected = quantize_model(folded, net.plan.ranges, weight_bits=4, activation_bits=4, **options)
    found = convert(net)
    assert torch.equal(found(images), expected(images))
    assert torch.equal(found(images), net.eval()(images))
    assert torch.equal(to_integer(found)(images), to_integer(expected)(images))
    for key, value in net.named_parameters():
        assert not torch.equal(value, before.get_parameter(key)), key
    assert all(
        torch.equal(net.plan.network.get_parameter(k), value) for k, value in folded.named_parameters()
    )
    for name in options.get("keep", ()):
        assert torch.equal(found.network.get_submodule(name).weight, folded.get_submodule(name).weight)


@EXACT
@traces
@pytest.mark.parametrize("name", ["resnet"])
def test_the_file_is_the_trained_network(name, tmp_path):
    net = kept(name, range_update="average", range_momentum=0.2)
    images = network(name)[1]
    trained(net, name, epochs=1)
    path, names = export(net.plan.network, to_float(images), tmp_path / "a.onnx")
    small = quantize(path, tmp_path / "b.onnx", ranges=net.plan.ranges, names=names)
    simulated, found = convert(net), run(small, images)
    assert torch.equal(found, to_integer(simulated)(to_float(images)))
    check_that_both_forms_agree(simulated, to_float(images))  # but for halves
    apart = (found - net.eval()(to_float(images))).abs() / simulated.activations["logits"].scale
    assert apart.max() < 1.5
    assert (apart > 0.5).float().mean() < 0.1


# ---- ranges --------------------------------------------------------------------------------------------------------


def test_ranges_by_hand():
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 1, bias=False))
    model[1].weight.data.fill_(-1.0)
    ranges = {"images": (-4.0, 10.0), "logits": (-25.5, 0.0)}
    images = torch.tensor([2.0, 20.0]).reshape(2, 1, 1, 1)
    for update, expected in (
        # 20 is cut off at 10 by the range that the batch begins with. The averages are -1, then 0.5; 0 stays in.
        ("average", [{"images": (-1.0, 15.0), "logits": (-17.75, 0.0)}, {"images": (0.0, 17.5)}]),
        ("max", [{"images": (-4.0, 20.0), "logits": (-25.5, 0.0)}, {"images": (-4.0, 20.0)}]),
        ("fixed", [ranges, ranges]),
    ):
        net = prepare(model, ranges, activation_bits=16, range_update=update, range_momentum=0.5)
        for moved in expected:
            net.train()(images)
            assert {key: pytest.approx(net.plan.ranges[key], abs=1e-3) for key in moved} == moved
        after = net.plan.ranges
        net.eval()(9 * images)
        assert net.plan.ranges == after
        net.freeze()
        net.train()(9 * images)
        assert net.plan.ranges == after
        assert ranges == {"images": (-4.0, 10.0), "logits": (-25.5, 0.0)}


@traces
@pytest.mark.parametrize("update", ["average", "max"])
@pytest.mark.parametrize("batch_norm", ["folded", "kept"])
def test_ranges_move_as_the_observers_of_pytorch_have_it(update, batch_norm, monkeypatch):
    net = kept("odd", 4, range_update=update, batch_norm=batch_norm).train()
    observers = observers_of_pytorch(update, net.plan.ranges)
    before = net.plan
    record = MovingRanges.update
    seen = []

    def recorded(self, tensor, values):
        seen.append((tensor, values.detach()))
        record(self, tensor, values)

    monkeypatch.setattr(MovingRanges, "update", recorded)
    for part in to_float(network("odd")[1]).split(8):
        net(1.5 * part - 0.2)
    assert [tensor for tensor, _ in seen] == 3 * list(before.activations)
    for tensor, values in seen:
        observers[tensor](values)
    for tensor, observer in observers.items():
        low, high = observer.min_val.clamp(max=0).item(), observer.max_val.clamp(min=0).item()
        assert net.plan.ranges[tensor] == pytest.approx((low, high), rel=1e-5), tensor
        assert net.plan.ranges[tensor] != before.ranges[tensor]


def observers_of_pytorch(update, ranges):
    """Of each tensor, with the range that it has already."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao.quantization import MinMaxObserver, MovingAverageMinMaxObserver

        made = {}
        for tensor, (low, high) in ranges.items():
            observer = MinMaxObserver() if update == "max" else MovingAverageMinMaxObserver(0.01)
            observer.min_val, observer.max_val = torch.tensor(low), torch.tensor(high)
            made[tensor] = observer
    return made


# ---- frozen, and what is changed -----------------------------------------------------------------------------------


@traces
@pytest.mark.parametrize("update", ["fixed", "average"])
def test_what_is_frozen_stays_and_all_parameters_are_trained(update):
    net = kept("odd", 4, range_update=update, range_momentum=0.5)
    trained(net, "odd", epochs=1)
    moving = dict(net.named_buffers()).keys() - {"frozen", "moving.low"}
    start = dict(kept("odd", 4, range_update=update).named_buffers())
    assert all(not torch.equal(net.get_buffer(key), start[key]) for key in moving)
    net.freeze()
    before = copy.deepcopy(net.state_dict())
    trained(net, "odd", epochs=1)
    buffers = dict(net.named_buffers()).keys()
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key]) == (key in buffers or key == EXTRA), key


@traces
def test_a_batch_norm_in_evaluation_mode_is_frozen_alone():
    net, images = kept("vgg"), to_float(network("vgg")[1])
    logits = net.eval()(images)
    net.train()
    first, *others = norms_of(net)
    for norm in others:
        norm.eval()
    net(images)
    assert [norm.num_batches_tracked.item() for norm in norms_of(net)] == [1] + [0] * len(others)
    first.eval()
    net.load_state_dict(kept("vgg").state_dict())
    assert torch.equal(net(images), logits)


@traces
def test_networks_can_be_copied_sent_and_restored():
    images = to_float(network("odd")[1])
    options = {"range_update": "average", "range_momentum": 0.5}
    net = kept("odd", 4, **options)
    trained(net, "odd", epochs=1)
    net.freeze()
    logits = net.eval()(images)
    restored = kept("odd", 4, **options)
    restored.load_state_dict(net.state_dict())
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), restored):
        assert torch.equal(other.train()(images), logits)  # still frozen
        assert torch.equal(convert(other)(images), logits)
        trained(other, "odd", epochs=1)
        assert not torch.equal(other(images), logits)
    assert torch.equal(net(images), logits)


@traces
def test_what_is_passed_in_and_what_was_converted_stay_as_they_were():
    model, images = copy.deepcopy(network("resnet")[0]), to_float(network("resnet")[1])
    before, modes = state(model)
    ranges = calibrate(histograms_of("resnet"), bits=4)
    given = dict(ranges)
    net = prepare(model, ranges, weight_bits=4, batch_norm="kept", range_update="max")
    started, train_modes = state(net)
    simulated = convert(net)
    logits = simulated(images)
    assert train_modes == state(net)[1]
    assert all(torch.equal(value, started[key]) for key, value in state(net)[0].items())
    trained(net, "resnet", epochs=1)
    assert torch.equal(simulated(images), logits)
    assert ranges == given
    assert modes == state(model)[1]
    assert all(torch.equal(value, before[key]) for key, value in state(model)[0].items())


@traces
def test_what_the_model_does_not_train_stays_and_what_has_no_batch_norm_has_nothing_to_freeze():
    model = copy.deepcopy(network("vgg")[0])
    model[0].requires_grad_(False)
    norms_of(model)[1].requires_grad_(False)
    net = prepare(model, calibrate(histograms_of("vgg")), batch_norm="kept")
    before = copy.deepcopy(dict(net.named_parameters()))
    trained(net, "vgg", epochs=1)
    for key, value in net.named_parameters():
        assert torch.equal(value, before[key]) != value.requires_grad, key
    usual = prepare(network("mlp")[0], calibrate(histograms_of("mlp")), batch_norm="kept")
    assert all(key.startswith("network.") for key in usual.state_dict() if key != EXTRA)
    usual.freeze()
    assert torch.equal(usual(to_float(network("mlp")[1])), quantized("mlp")(to_float(network("mlp")[1])))


@traces
@pytest.mark.parametrize("options", [{}, {"precision": "bfloat16", "channels_last": True}])
def test_few_bits_are_learned_until_an_epoch_freezes_the_statistics(options):
    net = kept("vgg", 4, range_update="average")
    history = training.fit(
        net,
        dataset_of("vgg"),
        training.Recipe(epochs=13, batch_size=8, learning_rate=0.1, schedule="constant", **options),
        on_epoch=lambda epoch, prepared: prepared.freeze() if epoch == 12 else None,
        validate=False,
    )
    assert history.train_loss[11] < 0.96 * history.train_loss[0]
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    assert norms_of(net)[0].num_batches_tracked == 12 * 3
    images = to_float(network("vgg")[1])
    assert torch.equal(convert(net)(images), net(images))


# ---- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"batch_norm": "fold"}, ValueError, "unknown batch_norm 'fold'. Did you mean 'folded'"),
        ({"batch_norm": True}, ValueError, "unknown batch_norm True.*Known: folded, kept"),
        ({"batch_norm": None}, ValueError, "unknown batch_norm None"),
        ({"batch_norm": torch.ones(2)}, ValueError, "unknown batch_norm tensor"),
        ({"range_update": "ema"}, ValueError, "unknown range_update 'ema'.*Known: fixed, average, max"),
        ({"range_update": ["max"]}, ValueError, r"unknown range_update \['max'\]"),
        ({"range_momentum": 0}, ValueError, r"range_momentum is 0.0; it must be a finite number in \(0, 1\]"),
        ({"range_momentum": 1.5}, ValueError, "range_momentum is 1.5"),
        ({"range_momentum": torch.nan}, ValueError, "range_momentum is nan"),
        ({"range_momentum": "0.1"}, TypeError, "range_momentum is '0.1'"),
        ({"range_momentum": None}, TypeError, "range_momentum is None"),
        ({"model": nn.Sequential(nn.BatchNorm1d(3))}, ValueError, "batch norm '0' cannot be folded"),
        ({"ranges": {"images": (0, 1)}}, KeyError, "ranges lack the tensor"),
    ],
)
def test_wrong_arguments_are_named(changes, error, words):
    model, ranges = by_hand()
    arguments = {"model": model, "ranges": ranges, "batch_norm": "kept", "range_update": "average"}
    prepare(**arguments)
    with pytest.raises(error, match=words):
        prepare(**arguments | changes)


@pytest.mark.bad_input
def test_a_batch_norm_without_running_statistics_is_named():
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1), nn.BatchNorm1d(1, track_running_stats=False))
    with pytest.raises(ValueError, match="batch norm '2' has no running statistics"):
        prepare(model, by_hand()[1], batch_norm="kept")


@pytest.mark.bad_input
def test_batches_that_no_statistics_can_be_taken_of_are_refused_and_change_nothing():
    model, ranges = by_hand()
    net = prepare(model, ranges, batch_norm="kept", range_update="average", range_momentum=0.5)
    before, _ = state(net)
    with pytest.raises(TypeError, match=r"images have dtype uint8.*to_float"):
        net(IMAGES.byte())
    with pytest.raises(ValueError, match="tensor 'images' runs from 0 to inf, which no range covers"):
        net(torch.tensor([0.0, 1.0, 2.0, torch.inf]).reshape(2, 1, 1, 2))
    with pytest.raises(ValueError, match="NaN"):
        net(torch.tensor([0.0, 1.0, 2.0, torch.nan]).reshape(2, 1, 1, 2))
    after, _ = state(net)
    assert all(torch.equal(value, before[key]) for key, value in after.items())
    with pytest.raises(ValueError, match=r"layer '1' cannot take statistics .*\[1, 1\].*larger batches"):
        net(IMAGES[:1])
    net.freeze()
    assert net(IMAGES[:1]).shape == (1, 1)


@pytest.mark.bad_input
@traces
def test_a_network_that_diverges_names_its_layer_and_is_not_converted():
    net = kept("vgg")
    with torch.no_grad():
        net.network[4].weight[0] = torch.nan
    for call in (functools.partial(net, to_float(network("vgg")[1])), functools.partial(convert, net)):
        with pytest.raises(ValueError, match=r"layer '\d+': x holds NaN"):
            call()
