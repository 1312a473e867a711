"""Cross-layer equalization: which pairs, that the network computes the same, and that its channels are equally wide."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_lib.data import to_float
from course_lib.quantization.equalization import Pair, equalize, equalizing_scales, find_pairs
from course_lib.quantization.workflow import calibrate, collect, fold_batch_norm, quantize_model
from tests.quantization.networks import Body, network, seeded, state, traces


class Chain(nn.Module):
    """Every kind of layer with every kind of operation between."""

    def __init__(self):
        super().__init__()
        self.plain = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depth = nn.Conv2d(8, 8, 3, groups=8, bias=False)
        self.group = nn.Conv2d(8, 12, 3, groups=4)
        self.point = nn.Conv2d(12, 6, 1)
        self.hidden, self.logits = nn.Linear(6 * 4, 10), nn.Linear(10, 5)
        for layer in (self.plain, self.depth, self.group, self.point, self.hidden, self.logits):
            nn.init.kaiming_normal_(layer.weight)  # so that images make a difference to the logits

    def forward(self, x):
        x = F.relu(self.depth(F.relu(self.norm(self.plain(x)))))
        x = F.max_pool2d(self.group(x), 2).relu()
        x = F.avg_pool2d(torch.relu(self.point(x)), 2)
        return self.logits(F.dropout(F.relu(self.hidden(x.flatten(1))), training=self.training))


class Strided(nn.Module):
    """A block of stride 2 that pads its image on one side, as TensorFlow does, and a classifier."""

    def __init__(self, pad=None):
        super().__init__()
        self.expand, self.norm = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)
        self.pad = pad or nn.ZeroPad2d((0, 1, 0, 1))
        self.depth = nn.Conv2d(8, 8, 3, stride=2, groups=8)
        self.project, self.logits = nn.Conv2d(8, 6, 1), nn.Linear(6, 5)
        for layer in (self.expand, self.depth, self.project, self.logits):
            nn.init.kaiming_normal_(layer.weight)

    def forward(self, x):
        x = self.depth(self.pad(F.relu(self.norm(self.expand(x)))))
        return self.logits(F.relu(self.project(F.relu(x))).mean((2, 3)))


class ChannelsPadded(nn.Module):
    """The channels move by one: a zero comes in front, and the last falls out."""

    def forward(self, x):
        return F.pad(x, (0, 1, 0, 1, 1, -1))


CHAIN = ["plain", "depth", "group", "point", "hidden", "logits"]
IMAGES = torch.randint(0, 256, (24, 3, 14, 14), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@traces
def test_pairs_are_found_through_relu_pooling_and_flattening():
    assert find_pairs(seeded(Chain)) == [Pair(*pair) for pair in itertools.pairwise(CHAIN)]
    assert find_pairs(network("pooled")[0]) == [("conv1", "conv2"), ("conv2", "fc")]
    # ReLU6 behind the stem; two read it; an addition; then the last two
    assert find_pairs(network("odd")[0]) == [("depth", "group"), ("hidden", "logits")]


@traces
def test_padding_of_height_and_width_with_zero_lets_a_factor_through_and_no_other():
    behind = [Pair("depth", "project"), Pair("project", "logits")]
    for pad in (nn.ZeroPad2d((0, 1, 0, 1)), nn.ConstantPad2d(1, 0.0)):
        assert find_pairs(seeded(Strided, pad)) == [Pair("expand", "depth"), *behind]
    for pad in (nn.ConstantPad2d((0, 1, 0, 1), 0.5), ChannelsPadded()):
        assert find_pairs(seeded(Strided, pad)) == behind
    flat = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.ZeroPad2d((1, -1, 0, 0)), nn.Linear(144, 2)]
    assert find_pairs(nn.Sequential(*flat)) == []
    del flat[3]
    assert find_pairs(nn.Sequential(*flat)) == [("0", "3")]


@traces
def test_nothing_else_may_read_what_is_rescaled():
    branch = Body(
        lambda n, x: n.last((n.a(y := n.conv(x).relu()) + n.b(y)).relu().flatten(1)),
        a=nn.Conv2d(4, 4, 1),
        b=nn.Conv2d(4, 4, 1),
        last=nn.Linear(144, 2),
    )
    del branch.scale
    assert find_pairs(branch) == []
    with pytest.raises(ValueError, match="no two layers of the model can be equalized"):
        equalize(branch)


@traces
@pytest.mark.parametrize(
    "name", ["chain", "vgg", "resnet", "mlp", "convnet_teacher", "pooled", "odd", "strided"]
)
def test_the_network_computes_the_same_and_its_channels_are_equally_wide(name):
    own = {"chain": Chain, "strided": Strided}
    model, images = (seeded(own[name]), IMAGES) if name in own else network(name)
    before = state(model)
    found, x = equalize(model), to_float(images)
    assert all(torch.equal(value, before[0][key]) for key, value in state(model)[0].items())
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(found(x), expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    folded, uneven = fold_batch_norm(model, x[:1]), 0
    for first, second in find_pairs(model):
        groups = getattr(found.get_submodule(second), "groups", 1)
        ours, theirs = (
            equalizing_scales(
                net.get_submodule(first).weight, net.get_submodule(second).weight, groups=groups
            )
            for net in (found, folded)
        )
        torch.testing.assert_close(ours, torch.ones_like(ours), rtol=0, atol=1e-3)
        uneven += (theirs.log().abs() > 0.1).sum().item()
    assert uneven > 0


@traces
def test_a_network_out_of_balance_is_rounded_as_if_it_had_never_been():
    """One scale a weight. The channels of the first layer are made uneven, and the second undoes it."""
    model, x = seeded(Chain), to_float(IMAGES)
    uneven = fold_batch_norm(model, x[:1])
    scales = 10.0 ** torch.linspace(-1.5, 1.5, 8)
    uneven.plain.weight.data *= scales.reshape(-1, 1, 1, 1)
    uneven.plain.bias.data *= scales
    uneven.depth.weight.data /= scales.reshape(-1, 1, 1, 1)
    errors = {}
    for name, net in (("even", equalize(model)), ("uneven", uneven), ("equalized", equalize(uneven))):
        ranges = calibrate(collect(net, IMAGES))
        simulated = quantize_model(net, ranges, weight_bits=8, per_channel=False)
        errors[name] = (simulated(x) - model(x)).square().mean().item()
    assert errors["equalized"] == pytest.approx(errors["even"], rel=0.05)
    assert errors["equalized"] < errors["uneven"] / 100


def test_the_scales_of_a_pair_by_hand():
    first = torch.tensor([[[[8.0]]], [[[-2.0]]], [[[0.0]]], [[[3.0]]]])
    second = torch.tensor([[[[2.0]], [[-8.0]]], [[[1.0]], [[0.0]]]])  # two groups, two inputs each
    found = equalizing_scales(first, second, groups=2)
    assert found.tolist() == [2.0, 0.5, 1.0, 1.0]  # nothing to weigh in the third and fourth
    flattened = torch.tensor([[1.0, -2.0, 0.5, 0.25]])
    assert equalizing_scales(torch.tensor([[8.0], [2.0]]), flattened).tolist() == [2.0, 2.0]


@traces
def test_a_channel_that_is_all_but_removed_keeps_its_scale():
    """Else its bias, and the range of the activation, would grow with its weights."""
    model = seeded(Chain)
    model.group.weight.data[2] *= 1e-6
    model.group.bias.data[2] = 0.5
    found = equalize(model)
    assert found.group.bias[2].item() == 0.5
    assert not torch.equal(found.group.bias, model.group.bias)
    first, second = torch.tensor([[8.0], [1e-5]]), torch.tensor([[2.0, 2.0]])
    assert equalizing_scales(first, second).tolist() == [2.0, 1.0]
    assert equalizing_scales(second.T, first.T).tolist() == [0.5, 1.0]


@pytest.mark.bad_input
def test_bad_input_is_named():
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    with pytest.raises(TypeError, match="model is a str"):
        equalize("net")
    with pytest.raises(TypeError, match="model is a NoneType"):
        find_pairs(None)
    with pytest.raises(ValueError, match="sweeps is 0"):
        equalize(model, sweeps=0)
    with pytest.raises(ValueError, match=r"put nn\.ReLU in its place"):
        equalize(nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.ReLU6(), nn.Linear(2, 1)))
    with pytest.raises(TypeError, match="first is a list"):
        equalizing_scales([1.0], torch.ones(1, 1))
    with pytest.raises(ValueError, match=r"first has shape \[4, 2\], second \[3, 5\] and groups is 1"):
        equalizing_scales(torch.ones(4, 2), torch.ones(3, 5))
    with pytest.raises(ValueError, match="groups is 3"):
        equalizing_scales(torch.ones(4, 2), torch.ones(3, 4), groups=3)
    with pytest.raises(ValueError, match="second holds NaN or infinity"):
        equalizing_scales(torch.ones(4, 2), torch.ones(3, 4) / 0)
    model[1].weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match="the weight of layer '1' holds NaN"):
        equalize(model)
