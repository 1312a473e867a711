"""Small networks, each with one way in which channels depend on each other."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.pruning.reference import Net

IMAGE = (2, 3, 6, 6)


def head(channels, classes=3):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def conv(inputs, outputs, size=3, **options):
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **options)


class Gain(nn.Module):
    """A scale and a shift of every channel, one a parameter and one a buffer."""

    def __init__(self, channels):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(channels, 1, 1) + 0.5)
        self.register_buffer("shift", torch.rand(channels, 1, 1))

    def forward(self, x):
        return x * self.scale + self.shift


class PlainSubclass(nn.Conv2d):
    """A subclass with a forward() that is not its own."""

    def describe(self):
        return "as its parent"


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of [N, C, H, W], as in ConvNeXt."""

    def forward(self, x):
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


def _dense(s, x):
    for layer in s.layers:
        x = torch.cat([x, layer(x)], 1)
    return s.head(x)


def _shuffle(s, x):
    x = s.stem(x)
    n, c, h, w = x.shape
    x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)
    return s.head(s.conv(x).relu())


def _shuffle_pairs(s, x):
    x = s.stem(x)
    n, c, h, w = x.size()
    x = x.reshape(n, c // 2, 2, h, w).permute(0, 2, 1, 3, 4).reshape(n, c, h, w)
    return s.head(s.conv(x).relu())


def _halves(s, x):
    first, second = s.stem(x).chunk(2, dim=1)
    return s.head(torch.cat([s.first(first), F.silu(second)], 1))


def _split(s, x):
    x = s.stem(x)
    first, second = torch.split(x, x.shape[1] // 2, dim=1)
    return s.head(first.sigmoid() * s.second(second))


def _uneven_sum(s, x):
    return s.head(s.bn(torch.cat([s.a(x), s.b(x)], 1) + s.c(x)).relu())


def _gate(s, x):
    x = s.stem(x).relu()
    return s.head(x * s.expand(s.squeeze(s.pool(x)).relu()).sigmoid())


def _gate_as(s, x):
    x = s.stem(x).relu()
    gate = s.fc(x.mean((2, 3))).sigmoid().unsqueeze(-1).unsqueeze(-1)
    return s.head(x * gate.expand_as(x))


def _spatial(s, x):
    x = s.stem(x).relu()
    return s.head(x * s.gate(x).sigmoid())


def _permuted(s, x):
    x = s.stem(x).permute(0, 2, 3, 1)
    x = s.fc2(F.gelu(s.fc1(s.norm(x))))
    return s.head(torch.movedim(x, -1, 1).contiguous())


def _sequence(s, x):
    x = s.stem(x).flatten(2).transpose(1, 2)  # [N, HW, C]
    x = x + s.fc2(s.fc1(x).relu())
    return s.head(x.mean(dim=1))


def _squeezed(s, x):
    x = F.adaptive_avg_pool2d(s.stem(x).relu(), 1).squeeze(3).squeeze(2)
    x = s.bn(s.fc(x).unsqueeze(2)).squeeze(2)
    return s.head(x.tanh())


def _keywords(s, x):
    x = F.relu(input=s.stem(input=x))
    x = torch.cat(tensors=[x, s.side(input=x)], dim=1)
    return s.fc(input=torch.flatten(input=x.mean(dim=(2, 3), keepdim=True), start_dim=1))


def _axis_keyword(s, x):
    x = torch.cat([s.stem(x), s.side(x)], axis=1).mean(axis=(2, 3))
    return s.fc(x)


def _train_branch(s, x):
    x = s.stem(x).relu()
    if s.training:
        return s.head(x), s.aux(s.aux_conv(x))
    return s.head(x)


def _twice(s, x):
    x = s.stem(x)
    return s.head(s.conv(s.bn(s.conv(x)).relu()).relu())


def _side_by_side(s, x):
    return s.head(torch.cat([s.a(x), s.b(x)], 3).relu())


def _in_place(s, x):
    y = s.a(x)
    y += s.b(x)
    y.mul_(s.c(x).sigmoid_())
    return s.head(F.relu(y, inplace=True))


def _residual(s, x):
    x = s.bn1(s.stem(x)).relu()
    return s.head(F.relu(x + s.bn2(s.conv2(F.relu(s.conv1(x))))))


class SharedBias(nn.Module):
    """Two convolutions that own one and the same weight, though not the same bias."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b, self.head = conv(3, 5), conv(5, 6), conv(5, 6), head(12)
        self.b.weight = self.a.weight

    def forward(self, x):
        x = self.stem(x)
        return self.head(torch.cat([self.a(x), self.b(x.tanh())], 1).relu())


class TiedAutoencoder(nn.Module):
    """The decoder's weight is the encoder's."""

    def __init__(self):
        super().__init__()
        self.encode = nn.Conv2d(3, 6, 2, stride=2)
        self.decode = nn.ConvTranspose2d(6, 3, 2, stride=2)
        self.decode.weight = self.encode.weight

    def forward(self, x):
        return self.decode(self.encode(x).relu())


ZOO = {
    "chain": lambda: nn.Sequential(conv(3, 6), nn.ReLU(), conv(6, 5), nn.Tanh(), head(5)),
    "mlp": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(108, 7), nn.ReLU(), nn.Linear(7, 6), nn.Linear(6, 3)
    ),
    "residual": lambda: Net(
        _residual,
        stem=conv(3, 6),
        bn1=nn.BatchNorm2d(6),
        conv1=conv(6, 4),
        conv2=conv(4, 6),
        bn2=nn.BatchNorm2d(6),
        head=head(6),
    ),
    "depthwise": lambda: nn.Sequential(
        conv(3, 5), conv(5, 5, groups=5, bias=False), nn.BatchNorm2d(5), nn.ReLU6(), conv(5, 4, 1), head(4)
    ),
    "depthwise_multiplier": lambda: nn.Sequential(
        conv(3, 4), conv(4, 12, groups=4), nn.BatchNorm2d(12), head(12)
    ),
    "grouped": lambda: nn.Sequential(
        conv(3, 12), conv(12, 8, groups=4), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 6, groups=2), head(6)
    ),
    "concat": lambda: Net(
        lambda s, x: s.head(s.bn(torch.cat([s.a(x), s.b(x), x, s.c(x)], 1)).relu()),
        a=conv(3, 2),
        b=conv(3, 5),
        c=conv(3, 4),
        bn=nn.BatchNorm2d(14),
        head=head(14),
    ),
    "concat_nested": lambda: Net(
        lambda s, x: s.head(torch.cat([s.b(y := torch.cat([s.a(x), s.c(x)], 1)), y, s.a(x)], 1)),
        a=conv(3, 2),
        b=conv(6, 3),
        c=conv(3, 4),
        head=head(11),
    ),
    "uneven_sum": lambda: Net(
        _uneven_sum, a=conv(3, 3), b=conv(3, 4), c=conv(3, 7), bn=nn.BatchNorm2d(7), head=head(7)
    ),
    "dense": lambda: Net(
        _dense,
        layers=nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(c), nn.ReLU(), conv(c, 4, 1), nn.BatchNorm2d(4), conv(4, 2))
            for c in (3, 5, 7)
        ),
        head=head(9),
    ),
    "flatten_linear": lambda: nn.Sequential(
        conv(3, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(45, 6),
        nn.BatchNorm1d(6),
        nn.ReLU(),
        nn.Linear(6, 3),
    ),
    "view_linear": lambda: Net(
        lambda s, x: s.fc(F.max_pool2d(s.a(x), 2).view(x.size(0), -1)), a=conv(3, 5), fc=nn.Linear(45, 3)
    ),
    "group_norm": lambda: nn.Sequential(
        conv(3, 8), nn.GroupNorm(2, 8), nn.ReLU(), conv(8, 6), nn.GroupNorm(6, 6), nn.ReLU(), head(6)
    ),
    "group_norm_one": lambda: nn.Sequential(conv(3, 8), nn.GroupNorm(1, 8, affine=False), nn.ReLU(), head(8)),
    "layer_norm": lambda: Net(
        _permuted,
        stem=conv(3, 6),
        norm=nn.LayerNorm(6),
        fc1=nn.Linear(6, 8),
        fc2=nn.Linear(8, 5),
        head=head(5),
    ),
    "layer_norm_bare": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(108, 7), nn.LayerNorm(7, elementwise_affine=False), nn.ReLU(), nn.Linear(7, 3)
    ),
    "layer_norm_2d": lambda: nn.Sequential(conv(3, 6), LayerNorm2d(6), nn.GELU(), head(6)),
    "instance_norm": lambda: nn.Sequential(
        conv(3, 6),
        nn.InstanceNorm2d(6, affine=True, track_running_stats=True),
        nn.ReLU(),
        conv(6, 5),
        nn.InstanceNorm2d(5),
        nn.ELU(),
        head(5),
    ),
    "prelu": lambda: nn.Sequential(conv(3, 6), nn.PReLU(6), conv(6, 4), nn.PReLU(), head(4)),
    "gate": lambda: Net(
        _gate,
        stem=conv(3, 6),
        pool=nn.AdaptiveAvgPool2d(1),
        squeeze=conv(6, 3, 1),
        expand=conv(3, 6, 1),
        head=head(6),
    ),
    "gate_as": lambda: Net(_gate_as, stem=conv(3, 6), fc=nn.Linear(6, 6), head=head(6)),
    "scale": lambda: nn.Sequential(conv(3, 5), Gain(5), nn.ReLU(), head(5)),
    "channel_shuffle": lambda: nn.Sequential(conv(3, 8), nn.ChannelShuffle(2), conv(8, 6, groups=2), head(6)),
    "view_shuffle": lambda: Net(_shuffle, stem=conv(3, 8), conv=conv(8, 6), head=head(6)),
    "view_shuffle_pairs": lambda: Net(_shuffle_pairs, stem=conv(3, 8), conv=conv(8, 6), head=head(6)),
    "chunk": lambda: Net(_halves, stem=conv(3, 8), first=conv(4, 3), head=head(7)),
    "chunk_cat": lambda: Net(
        lambda s, x: s.head(torch.cat(s.stem(x).chunk(2, 1), 1)), stem=conv(3, 8), head=head(8)
    ),
    "split": lambda: Net(_split, stem=conv(3, 8), second=conv(4, 4), head=head(4)),
    "twice": lambda: Net(_twice, stem=conv(3, 6), conv=conv(6, 6), bn=nn.BatchNorm2d(6), head=head(6)),
    "transposed": lambda: nn.Sequential(
        conv(3, 5),
        nn.ConvTranspose2d(5, 6, 2, stride=2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 4, 3),
        head(4),
    ),
    "linear_residual": lambda: Net(
        lambda s, x: s.out((h := s.a(x.flatten(1)).relu()) + s.c(s.b(h).relu())),
        a=nn.Linear(108, 6),
        b=nn.Linear(6, 5),
        c=nn.Linear(5, 6),
        out=nn.Linear(6, 3),
    ),
    "two_outputs": lambda: Net(
        lambda s, x: {"classes": s.head(h := s.stem(x).relu()), "maps": [s.maps(h), None, 7]},
        stem=conv(3, 6),
        head=head(6),
        maps=conv(6, 2),
    ),
    "sequence": lambda: Net(
        _sequence, stem=conv(3, 6), fc1=nn.Linear(6, 8), fc2=nn.Linear(8, 6), head=nn.Linear(6, 3)
    ),
    "squeezed": lambda: Net(
        _squeezed, stem=conv(3, 6), fc=nn.Linear(6, 5), bn=nn.BatchNorm1d(5), head=nn.Linear(5, 3)
    ),
    "pad": lambda: Net(
        lambda s, x: s.head(F.pad(s.stem(x), (1, 2, 0, 1), value=0.5).relu()), stem=conv(3, 5), head=head(5)
    ),
    "spatial_gate": lambda: Net(_spatial, stem=conv(3, 5), gate=conv(5, 1), head=head(5)),
    "train_branch": lambda: Net(
        _train_branch, stem=conv(3, 6), head=head(6), aux_conv=conv(6, 4), aux=head(4)
    ),
    "subclass": lambda: nn.Sequential(
        PlainSubclass(3, 6, 3), nn.BatchNorm2d(6), PlainSubclass(6, 5, 3), head(5)
    ),
    "keywords": lambda: Net(_keywords, stem=conv(3, 5), side=conv(5, 4), fc=nn.Linear(9, 3)),
    "axis_keyword": lambda: Net(_axis_keyword, stem=conv(3, 5), side=conv(3, 4), fc=nn.Linear(9, 3)),
    "side_by_side": lambda: Net(_side_by_side, a=conv(3, 5), b=conv(3, 5), head=head(5)),
    "in_place": lambda: Net(_in_place, a=conv(3, 5), b=conv(3, 5), c=conv(3, 5), head=head(5)),
    "upsample": lambda: Net(
        lambda s, x: s.out(F.interpolate(s.b(s.a(x)), size=x.shape[-2:]) + s.a(x)),
        a=conv(3, 5),
        b=conv(5, 5, stride=2),
        out=conv(5, 2),
    ),
    "shared_weight": SharedBias,
    "tied_autoencoder": TiedAutoencoder,
    "shared_norm": lambda: Net(
        lambda s, x: s.head(s.bn(s.a(x)).relu() * s.bn(s.b(x)).sigmoid() + s.bn(s.a(x.tanh()))),
        a=conv(3, 5),
        b=conv(3, 5),
        bn=nn.BatchNorm2d(5),
        head=head(5),
    ),
    "buried": lambda: nn.Sequential(
        nn.Sequential(nn.Sequential(conv(3, 4)), nn.Identity()), nn.ModuleDict({"h": head(4)})["h"]
    ),
}

# Other shapes of input
SEQUENCES = {
    "conv1d": lambda: nn.Sequential(
        nn.Conv1d(3, 6, 3),
        nn.BatchNorm1d(6),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(6, 5, 1),
        nn.Flatten(),
        nn.Linear(10, 3),
    ),
}
VOLUMES = {
    "conv3d": lambda: nn.Sequential(
        nn.Conv3d(3, 6, 2),
        nn.BatchNorm3d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    ),
}

ALL = (
    {name: (make, IMAGE) for name, make in ZOO.items()}
    | {name: (make, (2, 3, 6)) for name, make in SEQUENCES.items()}
    | {name: (make, (2, 3, 4, 4, 4)) for name, make in VOLUMES.items()}
)
