"""Calls that shape tensors, in the form of test_operations.CALLS, and those of sequences [N, C, L]."""

import math

import torch
import torch.nn.functional as F
from torch import nn


class Padded(nn.Conv2d):
    """Static 'same' padding, as published EfficientNet-Lite weights have it."""

    def __init__(self, *arguments, image_size=9, **options):
        super().__init__(*arguments, **options)
        extra = [
            max((-(-image_size // s) - 1) * s + d * (k - 1) + 1 - image_size, 0)
            for k, s, d in zip(self.kernel_size, self.stride, self.dilation, strict=True)
        ]
        height, width = extra
        self.static_padding = nn.ZeroPad2d(
            (width // 2, width - width // 2, height // 2, height - height // 2)
        )

    def forward(self, x):
        x = self.static_padding(x)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Rows(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight, self.bias)


def convolution(stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    return {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}


def transposed(**options):
    return nn.ConvTranspose2d(4, 6, (3, 2), **options)


def deconvolution(stride=(1, 1), padding=(0, 0), output_padding=(0, 0), groups=1, dilation=(1, 1)):
    return {**convolution(stride, padding, dilation, groups), "output_padding": output_padding}


def _by_unpacking(m, y):
    y = m.other(y)
    images, channels, height, width = y.size()
    z = y.view(images, 2, channels // 2, height, width)
    z = torch.transpose(z, 1, 2).contiguous()
    return z.view(images, channels, height, width)


def _by_size(m, y):
    y = m.other(y)
    z = y.reshape(y.size(0), 2, -1, y.size(2), y.size(3)).transpose(2, 1)
    return z.reshape((y.shape[0], -1, y.shape[2], y.shape[3]))


def _swapped(parts):
    return torch.cat([parts[1], parts[0]], 1)


OTHER = {"other": nn.Conv2d(4, 6, 1)}
THREE = (slice(None), slice(1, 4))
CALLS = [
    ("conv2d", F.conv2d, lambda m, y: m.layer(y), convolution((2, 2)), {"layer": Padded(4, 8, 3, stride=2)}),
    (
        "conv2d",
        F.conv2d,
        lambda m, y: F.conv2d(y, m.layer.weight, m.layer.bias, [2, 1], 1),
        convolution((2, 1), 1, 1),
        {"layer": nn.Conv2d(4, 8, 3)},
    ),
    (
        "conv2d",
        nn.Conv2d,
        lambda m, y: m.layer(y),
        convolution(padding=(1, 1), dilation=(3, 1)),  # and one more below and on the right
        {"layer": nn.Conv2d(4, 8, (2, 4), padding="same", dilation=(3, 1))},
    ),
    ("linear", F.linear, lambda m, y: m.layer(y.flatten(1)), {}, {"layer": Rows(288, 5)}),
    ("linear", F.linear, lambda m, y: m.layer(y.flatten(1)), {}, {"layer": Rows(288, 5, bias=False)}),
    (
        "conv_transpose2d",
        nn.ConvTranspose2d,
        lambda m, y: m.layer(y),
        deconvolution((2, 3), (1, 0), (1, 2), 1, (1, 2)),
        {"layer": transposed(stride=(2, 3), padding=(1, 0), output_padding=(1, 2), dilation=(1, 2))},
    ),
    (
        "conv_transpose2d",
        nn.ConvTranspose2d,
        lambda m, y: m.layer(y),
        deconvolution(groups=2),
        {"layer": transposed(groups=2, bias=False)},
    ),
    ("concat", torch.cat, lambda m, y: torch.cat([y, m.other(y), y], 1), {"dim": 1}, OTHER),
    ("concat", torch.cat, lambda m, y: torch.cat((y, m.other(y).relu()), dim=-3), {"dim": -3}, OTHER),
    ("concat", torch.concat, lambda m, y: torch.concat([y, F.relu(y)], 2), {"dim": 2}, {}),
    ("concat", torch.concatenate, lambda m, y: torch.concatenate([y, y], dim=3), {"dim": 3}, {}),
    ("pad", F.pad, lambda m, y: F.pad(y, (1, 2, 0, 3)), {"pad": (1, 2, 0, 3)}, {}),
    ("pad", F.pad, lambda m, y: F.pad(y, [0, 0, 0, 0, 1, 2], "constant", 0), {"pad": (0, 0, 0, 0, 1, 2)}, {}),
    (
        "pad",
        nn.ZeroPad2d,
        lambda m, y: m.layer(y),
        {"pad": (2, -1, 1, 0)},
        {"layer": nn.ZeroPad2d((2, -1, 1, 0))},
    ),
    (
        "pad",
        nn.ConstantPad2d,
        lambda m, y: m.layer(y),
        {"pad": (1, 1, 1, 1)},
        {"layer": nn.ConstantPad2d(1, 0.0)},
    ),
    (
        "pad_constant",
        None,
        lambda m, y: F.pad(y, (1, 0), value=-2),
        {"pad": (1, 0), "value": -2.0},
        {},
    ),
    (
        "pad_constant",
        None,
        lambda m, y: m.layer(y),
        {"pad": (1, 1, 0, 0), "value": 3.5},
        {"layer": nn.ConstantPad2d((1, 1, 0, 0), 3.5)},
    ),
    ("same_size", None, lambda m, y: m.layer(y), {"size": (9, 8)}, {"layer": nn.AdaptiveAvgPool2d((9, 8))}),
    ("same_size", None, lambda m, y: F.adaptive_avg_pool2d(y, (None, 8)), {"size": (None, 8)}, {}),
    (
        "max_pool2d",
        nn.MaxPool2d,
        lambda m, y: m.layer(y),
        {"kernel_size": 3, "stride": 3, "padding": 1, "ceil_mode": True},
        {"layer": nn.MaxPool2d(3, padding=1, ceil_mode=True)},
    ),
    (
        "max_pool2d",
        F.max_pool2d,
        lambda m, y: F.max_pool2d(y, 4, ceil_mode=True),
        {"kernel_size": 4, "stride": 4, "padding": 0, "ceil_mode": True},
        {},
    ),
    ("relu", nn.Hardtanh, lambda m, y: y + m.layer(y), 6.0, {"layer": nn.Hardtanh(0, 6)}),
    ("relu", F.hardtanh, lambda m, y: y + F.hardtanh(y, 0.0, max_val=3.0), 3.0, {}),
    ("relu", torch.clamp, lambda m, y: y + torch.clamp(y, 0, 6), 6.0, {}),
    ("relu", torch.clamp, lambda m, y: y + torch.clamp(y, min=0.0), math.inf, {}),
    ("relu", torch.clip, lambda m, y: y + torch.clip(y, 0, 2.5), 2.5, {}),
    ("relu", torch.clamp_min, lambda m, y: y + torch.clamp_min(y, 0), math.inf, {}),
    ("relu", "clamp", lambda m, y: y + y.clamp(min=0, max=6), 6.0, {}),
    ("relu", "clip", lambda m, y: y + y.clip(0), math.inf, {}),
    ("relu", "clamp_min", lambda m, y: y + y.clamp_min(0), math.inf, {}),
    ("relu", "clamp_", lambda m, y: y + F.avg_pool2d(y, 1).clamp_(0, 6), 6.0, {}),
    ("slice", torch.narrow, lambda m, y: torch.narrow(y, 1, 1, 3), {"index": THREE}, {}),
    ("slice", "narrow", lambda m, y: y.narrow(1, start=1, length=3), {"index": THREE}, {}),
    ("slice", None, lambda m, y: y[:, 1:4], {"index": THREE}, {}),
    (
        "slice",
        None,
        lambda m, y: y[:, :, ::2, 1::3],
        {"index": (slice(None), slice(None), slice(None, None, 2), slice(1, None, 3))},
        {},
    ),
    (
        "channel_shuffle",
        nn.ChannelShuffle,
        lambda m, y: m.layer(y),
        {"groups": 2},
        {"layer": nn.ChannelShuffle(2)},
    ),
    (
        "channel_shuffle",
        F.channel_shuffle,
        lambda m, y: F.channel_shuffle(m.other(y), 3),
        {"groups": 3},
        OTHER,
    ),
    ("channel_shuffle", None, _by_unpacking, {"groups": 2}, OTHER),
    ("channel_shuffle", None, _by_size, {"groups": 2}, OTHER),
]
PARTS = [  # of which the network reads both
    (torch.chunk, lambda m, y: _swapped(torch.chunk(y, 2, dim=1)), {"cut": "chunk", "sizes": 2, "dim": 1}),
    ("chunk", lambda m, y: _swapped(y.chunk(2, 1)), {"cut": "chunk", "sizes": 2, "dim": 1}),
    (
        torch.split,
        lambda m, y: _swapped(torch.split(y, [3, 1], 1)),
        {"cut": "split", "sizes": (3, 1), "dim": 1},
    ),
    ("split", lambda m, y: _swapped(y.split(split_size=3, dim=1)), {"cut": "split", "sizes": 3, "dim": 1}),
]
SEQUENCES = [
    (
        "conv1d",
        nn.Conv1d,
        lambda m, y: m.layer(y),
        convolution((2,), (1,), (3,), 2),
        {"layer": nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=3, groups=2)},
    ),
    (
        "conv1d",
        nn.Conv1d,
        lambda m, y: m.layer(y),
        convolution((1,), (1,), (1,)),
        {"layer": nn.Conv1d(4, 6, 4, padding="same")},
    ),
    (
        "max_pool1d",
        nn.MaxPool1d,
        lambda m, y: m.layer(y),
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"layer": nn.MaxPool1d(3, 2, padding=1)},
    ),
    (
        "max_pool1d",
        F.max_pool1d,
        lambda m, y: F.max_pool1d(y, (4,), ceil_mode=True),
        {"kernel_size": 4, "stride": 4, "padding": 0, "ceil_mode": True},
        {},
    ),
    ("mean", nn.AdaptiveAvgPool1d, lambda m, y: m.layer(y), {}, {"layer": nn.AdaptiveAvgPool1d(1)}),
    ("mean", F.adaptive_avg_pool1d, lambda m, y: F.adaptive_avg_pool1d(y, 1), {}, {}),
    ("pad", F.pad, lambda m, y: F.pad(y, (3, 1)), {"pad": (3, 1)}, {}),
    (
        "concat",
        torch.cat,
        lambda m, y: torch.cat([y, m.other(y)], 1),
        {"dim": 1},
        {"other": nn.Conv1d(4, 2, 1)},
    ),
]
