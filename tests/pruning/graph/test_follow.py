"""Groups of channels: what they hold, and what is refused instead of guessed."""

from collections import OrderedDict, namedtuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

from course_lib.pruning.graph import channel_groups, follow
from course_lib.pruning.surgery import remove_channels
from tests.pruning.reference import Net
from tests.pruning.zoo import ALL, IMAGE, conv, head

EXAMPLE = torch.rand(IMAGE, generator=torch.Generator().manual_seed(0))


def make(name):
    torch.manual_seed(0)
    build, shape = ALL[name]
    return build(), torch.rand(shape)


def layers(axes):
    return {axis.layer: axis.units.tolist() for axis in axes}


# What groups hold


@pytest.mark.parametrize("name", ALL)
def test_units_divide_the_channels(name):
    model, example = make(name)
    groups = channel_groups(model, example)
    named = set()
    for group in groups:
        assert group.producers
        covered = set()
        for axis in group.axes:
            units = set(axis.units.tolist()) - {-1}
            assert units, axis.layer
            assert units <= set(range(group.size))
        for axis in group.producers + group.followers:
            covered |= set(axis.units.tolist()) - {-1}
            index = {(axis.layer, i) for i, unit in enumerate(axis.units.tolist()) if unit >= 0}
            assert not index & named
            named |= index
        assert covered == set(range(group.size))


@pytest.mark.parametrize("name", ["residual", "dense", "view_shuffle", "gate"])
def test_the_same_network_gives_the_same_groups(name):
    model, example = make(name)
    for first, second in zip(channel_groups(model, example), channel_groups(model, example), strict=True):
        assert [(a.layer, a.axis, a.units.tolist()) for a in first.axes] == [
            (a.layer, a.axis, a.units.tolist()) for a in second.axes
        ]


def test_a_residual_block_by_hand():
    model, example = make("residual")
    stem, branch = channel_groups(model, example)
    assert (stem.size, branch.size) == (6, 4)
    assert layers(stem.producers).keys() == {"stem", "conv2"}
    assert layers(stem.followers).keys() == {"bn1", "bn2"}
    assert layers(stem.consumers).keys() == {"conv1", "head.2"}
    assert all(axis.units.tolist() == list(range(6)) for axis in stem.axes)


def test_index_maps_by_hand():
    model, example = make("flatten_linear")
    assert layers(channel_groups(model, example)[0].consumers) == {"3": [i // 9 for i in range(45)]}
    model, example = make("grouped")
    assert layers(channel_groups(model, example)[0].producers) == {"0": [0, 1, 2] * 4}
    assert layers(channel_groups(model, example)[1].consumers) == {"4": [0, 1, 0, 1]}
    model, example = make("view_shuffle")
    assert layers(channel_groups(model, example)[0].consumers) == {"conv": [0, 0, 1, 1, 2, 2, 3, 3]}
    model, example = make("concat")
    assert layers(channel_groups(model, example)[2].followers) == {"bn": [-1] * 10 + [0, 1, 2, 3]}
    model, example = make("depthwise_multiplier")
    assert layers(channel_groups(model, example)[0].followers)["1"] == [i // 3 for i in range(12)]


# What is not offered, with the reason


def named(*fields):
    return namedtuple("Outputs", fields)


Outputs = named("logits", "aux")


class Standardised(nn.Conv2d):
    """A convolution that computes with its whole weight."""

    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight - weight.mean((1, 2, 3), keepdim=True), bias)


class OwnForward(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x.flip(1), self.weight, self.bias)


def one(function, channels=6, **members):
    return Net(function, stem=conv(3, channels), head=head(channels), **members)


def with_tensor():
    model = one(lambda s, x: s.head(s.stem(x) * s.plain))
    model.plain = torch.ones(6, 1, 1)
    return model


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (one(lambda s, x: s.head(s.stem(x).view(-1, 6, 6, 6))), "reshapes them to the fixed size 6"),
        (
            one(lambda s, x: s.head(s.stem(x)[:, :6, :, :][:, [0, 2, 1, 3, 4, 5]])),
            "picks some of them by their place",
        ),
        (one(lambda s, x: s.head(torch.cat([s.stem(x)[:, :3]] * 2, 1))), "picks some of them by their place"),
        (one(lambda s, x: s.head(s.stem(x).softmax(1))), "'softmax' mixes them"),
        (one(lambda s, x: s.head(F.softmax(s.stem(x), dim=1))), "'softmax' mixes them"),
        (one(lambda s, x: s.head((y := s.stem(x)) * y.mean(1, keepdim=True))), "'mean' mixes them"),
        (one(lambda s, x: s.head((y := s.stem(x)) * y.mean())), "'mean' mixes them"),
        (one(lambda s, x: s.head((y := s.stem(x)) * y.mean(dim=()))), "'mean' mixes them"),
        (one(lambda s, x: s.head((y := s.stem(x)) / y.shape[1])), "'div' computes with their number"),
        (one(lambda s, x: s.head((y := s.stem(x)) * y.size(1) ** -0.5)), "computes with their number (pow)"),
        (one(lambda s, x: s.head((y := s.stem(x)) / y.numel())), "'div' computes with their number"),
        (
            one(lambda s, x: s.head((y := s.stem(x)) * torch.ones(y.size(1)).sum())),
            "'sum' mixes them",
        ),
        (
            one(lambda s, x: s.head(s.stem(x)) + s.stem.weight.mean()),
            "'mean' uses 'stem.weight' by itself",
        ),
        (one(lambda s, x: s.head(s.stem(x)) / s.stem.weight.shape[0]), "uses 'stem.weight' by itself"),
        (
            one(lambda s, x: s.head(s.stem(x).mean((2, 3), keepdim=True).squeeze()[:, :, None, None])),
            "'squeeze' would drop",
        ),
        (
            one(lambda s, x: s.head(torch.cat(s.stem(x).split([2, 4], 1)[::-1], 1))),
            "'split' cuts them at fixed places",
        ),
        (
            one(
                lambda s, x: s.head(torch.cat([(y := s.stem(x).split(s.b(x).size(1), 1))[1], y[0]], 1)),
                b=conv(3, 3),
            ),
            "'split' cuts them at fixed places",
        ),
        (
            one(
                lambda s, x: s.head(
                    (y := s.stem(x)).view(2, y.size(1) // 2, y.size(1) // 3, 6, 6).flatten(1, 2)
                )
            ),
            "reshapes them to 3 x 2",
        ),
        (
            one(lambda s, x: s.head(s.stem(x).view(2, s.b(x).size(1), 6, 6)), b=conv(3, 6)),
            "reshapes by the number of others",
        ),
        (
            one(lambda s, x: s.head(s.stem(x) / s.stem.out_channels)),
            "'div' computes with their number",
        ),
        (one(lambda s, x: s.head(s.stem(x)) * s.stem.out_channels**-0.5), "computes with their number (pow)"),
        (one(lambda s, x: s.head(s.stem(x) + x), channels=3), "tied to the network's input or to a constant"),
        (
            one(lambda s, x: s.head(s.stem(x) + torch.ones(1, 6, 1, 1))),
            "tied to the network's input or to a constant",
        ),
        (with_tensor(), "tied to the network's input or to a constant"),
        (one(lambda s, x: Outputs(s.stem(x), None)), "the network's output"),
        (one(lambda s, x: Outputs(aux=None, logits=s.stem(x))), "the network's output"),
        (one(lambda s, x: {"maps": (s.stem(x), 3)}), "the network's output"),
    ],
)
def test_channels_that_must_stay_are_in_no_group(model, reason):
    channels = follow(model, EXAMPLE)
    groups, reasons = channels.groups, channels.fixed
    assert not [axis for group in groups for axis in group.axes if axis.layer == "stem" and axis.axis == 0]
    assert reason in reasons["stem"]


def with_attention():
    return one(
        lambda s, x: s.head(s.att(y := s.stem(x).flatten(2), y, y)[0].unflatten(2, (6, 6))),
        att=nn.MultiheadAttention(36, 1),
    )


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (
            one(lambda s, x: s.head(torch.fft.fft(s.stem(x)).real)),
            "'fft_fft', and it is none of the operations",
        ),
        (one(lambda s, x: s.head(torch.einsum("nchw,cd->ndhw", s.stem(x), torch.eye(6)))), "'einsum'"),
        (one(lambda s, x: s.head(s.stem(x).cumsum(1))), "'cumsum' mixes them"),
        (
            nn.Sequential(OrderedDict(stem=conv(3, 4), norm=nn.LocalResponseNorm(2), head=head(4))),
            "local_response_norm",
        ),
        (with_attention(), "reads axis 2 of its input, and they lie along another in 'att'"),
        (
            nn.Sequential(OrderedDict(stem=conv(3, 4), own=Standardised(4, 5, 1), head=head(5))),
            "its weights are not those of a layer of PyTorch, or are computed in 'own'",
        ),
        (
            nn.Sequential(OrderedDict(stem=parametrizations.weight_norm(conv(3, 4)), head=head(4))),
            "weight of 'stem' is computed from other parameters",
        ),
        (
            nn.Sequential(OrderedDict(stem=parametrizations.spectral_norm(conv(3, 4)), head=head(4))),
            "make it permanent first",
        ),
        (
            nn.Sequential(OrderedDict(stem=prune.l1_unstructured(conv(3, 4), "weight", 3), head=head(4))),
            "torch.nn.utils.prune.remove",
        ),
    ],
)
def test_what_enters_an_operation_that_is_not_known_stays_and_says_why(model, reason):
    channels = follow(model, EXAMPLE)
    assert not [axis for group in channels.groups for axis in group.producers if axis.layer == "stem"]
    assert reason in channels.fixed["stem"]


def test_channels_pass_through_a_linear_layer_along_another_axis():
    model = nn.Sequential(OrderedDict(stem=conv(3, 4), wide=nn.Linear(6, 6), head=head(4)))
    channels = follow(model, EXAMPLE)
    assert channels.fixed["wide"] == "other channels pass through in 'wide'"
    assert [axis.layer for axis in channels.groups[0].axes] == ["stem", "head.2"]


def test_a_reason_names_the_line_of_the_networks_code():
    model = one(lambda s, x: s.head(torch.fft.fft(s.stem(x)).real))
    line = model.function.__code__.co_firstlineno
    assert f"(test_follow.py, line {line})" in follow(model, EXAMPLE).fixed["stem"]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (one(lambda s, x: s.head(s.stem(x)) if x.sum() > 0 else x), "'__bool__' turns values of a tensor"),
        (
            nn.Sequential(conv(3, 4), Net(lambda s, x: x if x.max() > 0 else -x), head(4)),
            r"values of a tensor into Python's in '1' \(test_follow.py, line \d+\)",
        ),
        (one(lambda s, x: s.head(s.stem(x) * x.max().item())), "'item' turns values of a tensor"),
    ],
)
def test_what_decides_by_values_is_refused_with_its_place(model, message):
    with pytest.raises(ValueError, match=message):
        channel_groups(model, EXAMPLE)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("model", "example", "error", "message"),
    [
        (3, EXAMPLE, TypeError, "model is a int; it must be a torch.nn.Module"),
        (nn.ReLU, EXAMPLE, TypeError, "model is the class ReLU"),
        (head(3), [1.0], TypeError, "example is a list; it must be one torch.Tensor"),
        (head(3), EXAMPLE[:0], ValueError, r"example has shape \[0, 3, 6, 6\]"),
        (head(3), EXAMPLE.double(), ValueError, "torch.float64"),
        (head(3), EXAMPLE.to("meta"), ValueError, "device meta"),
        (head(4), EXAMPLE, ValueError, r"does not run on an example of shape \[2, 3, 6, 6\].*Pass a batch"),
        (conv(3, 4), torch.rand(6, 6), ValueError, "does not run on an example"),
        (Net(lambda s, x: x), EXAMPLE, None, ""),
        (nn.Sequential(nn.LazyConv2d(3, 1)), EXAMPLE, ValueError, "lazy layers"),
    ],
)
def test_wrong_models_and_examples_are_named(model, example, error, message):
    if error is None:
        assert channel_groups(model, example) == []
        return
    with pytest.raises(error, match=message):
        channel_groups(model, example)


def test_branches_that_differ_in_their_wiring_alone_are_followed():
    def forward(s, x):
        a, b = s.a(x), s.b(x)
        return s.head(a + b if s.training else a + a)

    model = Net(forward, a=conv(3, 5), b=conv(3, 5), head=head(5))
    remove_channels(model, EXAMPLE, {"a": [1]}).train()(EXAMPLE)


def test_nothing_of_the_tracing_stays_behind():
    before = set(vars(nn.Module))
    channel_groups(one(lambda s, x: s.head(s.stem(x) / s.stem.out_channels)), EXAMPLE)
    with pytest.raises(ValueError, match="cannot be followed"):
        channel_groups(one(lambda s, x: s.head(s.stem(x)) if x.sum() > 0 else x), EXAMPLE)
    assert set(vars(nn.Module)) == before


class Beside(nn.Module):
    """The bias of `hidden` is also added along the width, where no channels lie: it has to keep its length."""

    def __init__(self):
        super().__init__()
        self.conv, self.hidden, self.last = nn.Conv2d(1, 3, 1), nn.Linear(3 * 4 * 4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(self.hidden((self.conv(x) + self.hidden.bias).flatten(1)).relu())


def test_a_parameter_that_meets_no_channels_keeps_those_of_its_own_layer():
    fixed = follow(Beside(), torch.rand(2, 1, 4, 4)).fixed
    assert "'add' meets them with channels along another axis" in fixed["hidden"]
    assert "conv" not in fixed
