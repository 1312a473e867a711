"""Small networks as people write them, each with what the pruning makes of it: more than 110 kinds of forward().

`MODULES` lists them by name: a class without arguments, an example of what it reads, and the verdict to expect.
"lawful" says that there are channels to prune and that what is left is right; `fixed` names layers that stay whole.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm


@dataclass
class Entry:
    build: Callable[[], nn.Module]
    example: object
    verdict: str
    fixed: tuple[str, ...]


MODULES: dict[str, Entry] = {}


def module(*example: object, verdict: str = "lawful", fixed: tuple[str, ...] = ()) -> Callable:
    """List a class with its example: one tensor, several, or a dict."""

    def register(kind: type[nn.Module]) -> type[nn.Module]:
        MODULES[kind.__name__] = Entry(kind, example[0] if len(example) == 1 else example, verdict, fixed)
        return kind

    return register


_GENERATOR = torch.Generator().manual_seed(0)


def rand(*shape: int) -> Tensor:
    return torch.rand(shape, generator=_GENERATOR)


def tokens(*shape: int, words: int = 20) -> Tensor:
    return torch.randint(0, words, shape, generator=_GENERATOR)


IMAGE = rand(2, 3, 16, 16)
SOUND = rand(2, 2, 32)
WORDS = tokens(2, 12)
SEQUENCE = rand(2, 6, 8)


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1, **options) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2 * options.get("dilation", 1), **options)


def block(inputs: int, outputs: int, size: int = 3, stride: int = 1, act=nn.ReLU, **options) -> nn.Sequential:
    return nn.Sequential(
        conv(inputs, outputs, size, stride, bias=False, **options), nn.BatchNorm2d(outputs), act()
    )


def head(channels: int, classes: int = 5) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class Backbone(nn.Module):
    """A stem, whatever `body` does, and a head."""

    def __init__(self, channels: int = 16, out: int | None = None):
        super().__init__()
        self.stem = block(3, channels)
        self.head = head(out or channels)

    def forward(self, x):
        return self.head(self.body(self.stem(x)))


# ---------------------------------------------------------------- whole architectures


@module(IMAGE)
class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2, self.middle = block(3, 8), block(8, 16), block(16, 32)
        self.up2, self.up1 = nn.ConvTranspose2d(32, 16, 2, 2), nn.ConvTranspose2d(16, 8, 2, 2)
        self.merge2, self.merge1, self.out = block(32, 16), block(16, 8), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        x = self.middle(F.max_pool2d(two, 2))
        x = self.merge2(torch.cat([self.up2(x), two], dim=1))
        return self.out(self.merge1(torch.cat([self.up1(x), one], dim=1)))


@module(IMAGE)
class AttentionUNet(nn.Module):
    """The skip connection goes through a gate that the deeper layer opens."""

    def __init__(self):
        super().__init__()
        self.down, self.deep = block(3, 8), block(8, 16, stride=2)
        self.of_skip, self.of_gate, self.psi = conv(8, 4, 1), conv(16, 4, 1), conv(4, 1, 1)
        self.out = conv(24, 2)

    def forward(self, x):
        skip = self.down(x)
        gate = F.interpolate(self.deep(skip), size=skip.shape[2:], mode="bilinear", align_corners=False)
        alpha = torch.sigmoid(self.psi(F.relu(self.of_skip(skip) + self.of_gate(gate))))
        return self.out(torch.cat([skip * alpha, gate], 1))


class _Bottleneck(nn.Module):
    def __init__(self, channels, shortcut=True):
        super().__init__()
        self.cv1, self.cv2 = block(channels, channels, act=nn.SiLU), block(channels, channels, act=nn.SiLU)
        self.add = shortcut

    def forward(self, x):
        return x + self.cv2(self.cv1(x)) if self.add else self.cv2(self.cv1(x))


@module(IMAGE)
class YoloC2f(Backbone):
    def __init__(self):
        super().__init__()
        self.c = 8
        self.cv1, self.cv2 = block(16, 2 * self.c, 1, act=nn.SiLU), block(4 * self.c, 16, 1, act=nn.SiLU)
        self.m = nn.ModuleList(_Bottleneck(self.c) for _ in range(2))

    def body(self, x):
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


@module(IMAGE)
class YoloC2fSplit(YoloC2f):
    def body(self, x):
        y = list(self.cv1(x).split((self.c, self.c), 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


@module(IMAGE)
class YoloSPPF(Backbone):
    def __init__(self):
        super().__init__()
        self.cv1, self.cv2 = block(16, 8, 1), block(32, 16, 1)
        self.m = nn.MaxPool2d(5, 1, 2)

    def body(self, x):
        x = self.cv1(x)
        y1 = self.m(x)
        y2 = self.m(y1)
        return self.cv2(torch.cat((x, y1, y2, self.m(y2)), 1))


@module(IMAGE)
class YoloFocus(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.conv, self.head = block(3, 8), block(32, 16), head(16)

    def forward(self, x):
        x = self.stem(x)
        parts = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
        return self.head(self.conv(torch.cat(parts, 1)))


@module(IMAGE)
class YoloDetect(nn.Module):
    """Boxes and classes at two scales; decoded in eval mode."""

    def __init__(self):
        super().__init__()
        self.nc, self.reg_max, self.no = 3, 4, 3 + 16
        self.p3, self.p4 = block(3, 16), block(16, 24, stride=2)
        self.cv2 = nn.ModuleList(nn.Sequential(block(c, 8), nn.Conv2d(8, 16, 1)) for c in (16, 24))
        self.cv3 = nn.ModuleList(nn.Sequential(block(c, 8), nn.Conv2d(8, 3, 1)) for c in (16, 24))
        self.dfl = nn.Conv2d(4, 1, 1, bias=False).requires_grad_(False)

    def forward(self, x):
        p3 = self.p3(x)
        x = [p3, self.p4(p3)]
        for i in range(2):
            x[i] = torch.cat((self.cv2[i](x[i]), self.cv3[i](x[i])), 1)
        if self.training:
            return x
        flat = torch.cat([xi.view(xi.shape[0], self.no, -1) for xi in x], 2)
        box, cls = flat.split((self.reg_max * 4, self.nc), 1)
        b, _, a = box.shape
        box = self.dfl(box.view(b, 4, self.reg_max, a).transpose(2, 1).softmax(1)).view(b, 4, a)
        return torch.cat((box, cls.sigmoid()), 1)


@module(rand(2, 10, 1, 1))
class DCGANGenerator(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(10, 32, 4, 1, 0, bias=False), nn.BatchNorm2d(32), nn.ReLU(True),
            nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(True),
            nn.ConvTranspose2d(16, 3, 4, 2, 1, bias=False), nn.Tanh(),
        )  # fmt: skip

    def forward(self, noise):
        return self.main(noise)


@module(rand(2, 10))
class GeneratorFromLinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.up = nn.Linear(10, 16 * 4 * 4), nn.ConvTranspose2d(16, 8, 4, 2, 1)
        self.norm, self.out = nn.BatchNorm2d(8), conv(8, 3)

    def forward(self, z):
        x = self.fc(z).view(-1, 16, 4, 4)
        return torch.tanh(self.out(F.leaky_relu(self.norm(self.up(x)), 0.2)))


@module(rand(2, 10))
class GeneratorUnflatten(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(10, 128), nn.ReLU(), nn.Unflatten(1, (8, 4, 4)), nn.Upsample(scale_factor=2), conv(8, 8),
            nn.ReLU(), conv(8, 1),
        )  # fmt: skip

    def forward(self, z):
        return self.net(z)


@module(IMAGE)
class DCGANDiscriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(3, 8, 4, 2, 1), nn.LeakyReLU(0.2, True), nn.Conv2d(8, 16, 4, 2, 1), nn.BatchNorm2d(16),
            nn.LeakyReLU(0.2, True), nn.Conv2d(16, 1, 4), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x):
        return self.main(x).view(-1, 1).squeeze(1)


@module(IMAGE)
class CifarResNet(nn.Module):
    """The shortcut without parameters: every second pixel, and zeros for the channels that are new."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b, self.head = block(3, 8), block(8, 16, stride=2), conv(16, 16), head(16)

    def forward(self, x):
        x = self.stem(x)
        short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4), "constant", 0)
        return self.head(F.relu(self.b(self.a(x)) + short))


class _LambdaLayer(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@module(IMAGE)
class CifarResNetLambda(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b, self.head = block(3, 8), block(8, 16, stride=2), conv(16, 16), head(16)
        self.shortcut = _LambdaLayer(lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 16 // 4, 16 // 4)))

    def forward(self, x):
        x = self.stem(x)
        out = self.b(self.a(x))
        out += self.shortcut(x)
        return self.head(F.relu(out))


@module(IMAGE)
class VGGClassifier(nn.Module):
    def __init__(self):
        super().__init__()
        layers, channels = [], 3
        for width in (8, "M", 16, "M", 16):
            if width == "M":
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [conv(channels, width), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                channels = width
        self.features, self.fc = (
            nn.Sequential(*layers),
            nn.Sequential(nn.Linear(256, 12), nn.ReLU(), nn.Linear(12, 5)),
        )

    def forward(self, x):
        x = self.features(x)
        return self.fc(x.view(x.size(0), -1))


@module(rand(2, 1, 28, 28))
class LeNetConstants(nn.Module):
    """The view with the numbers of the tutorial."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(16 * 4 * 4, 30), nn.Linear(30, 20), nn.Linear(20, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), (2, 2))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(-1, 16 * 4 * 4)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


@module(IMAGE)
class ResNeXt(Backbone):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(block(16, 16, 1), block(16, 16, groups=4), conv(16, 16, 1))

    def body(self, x):
        return F.relu(x + self.block(x))


def _shuffle(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.size()
    x = x.view(n, groups, c // groups, h, w)
    return torch.transpose(x, 1, 2).contiguous().view(n, -1, h, w)


@module(IMAGE)
class ShuffleNet(Backbone):
    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(block(8, 8, 1), conv(8, 8, groups=8), block(8, 8, 1))

    def body(self, x):
        x1, x2 = x.chunk(2, dim=1)
        return _shuffle(torch.cat((x1, self.branch(x2)), dim=1), 2)


@module(IMAGE)
class ShuffleNetV1(Backbone):
    def __init__(self):
        super().__init__()
        self.one, self.deep, self.two = (
            conv(16, 8, 1, groups=2),
            conv(8, 8, groups=8),
            conv(8, 16, 1, groups=2),
        )

    def body(self, x):
        return F.relu(x + self.two(self.deep(_shuffle(F.relu(self.one(x)), 2))))


@module(IMAGE)
class Res2Net(Backbone):
    def __init__(self):
        super().__init__()
        self.one, self.three = block(16, 16, 1), conv(16, 16, 1)
        self.convs, self.width = nn.ModuleList(block(4, 4) for _ in range(3)), 4

    def body(self, x):
        parts, out, last = torch.split(self.one(x), self.width, 1), [], None
        for i, layer in enumerate(self.convs):
            last = parts[i] if last is None else last + parts[i]
            last = layer(last)
            out.append(last)
        out.append(parts[3])
        return F.relu(self.three(torch.cat(out, 1)) + x)


@module(IMAGE)
class SKNet(Backbone):
    """Two kernels, chosen for each channel by a softmax over the branches."""

    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleList([block(16, 16, 3), block(16, 16, 5)])
        self.fc, self.fcs = nn.Linear(16, 8), nn.ModuleList(nn.Linear(8, 16) for _ in range(2))

    def body(self, x):
        features = torch.stack([branch(x) for branch in self.branches], dim=1)
        squeezed = self.fc(features.sum(dim=1).mean(-1).mean(-1))
        attention = torch.stack([fc(squeezed) for fc in self.fcs], dim=1).softmax(dim=1)
        return (features * attention.unsqueeze(-1).unsqueeze(-1)).sum(dim=1)


@module(IMAGE)
class MobileNetV3Block(Backbone):
    def __init__(self):
        super().__init__()
        self.expand, self.deep = (
            block(16, 24, 1, act=nn.Hardswish),
            block(24, 24, groups=24, act=nn.Hardswish),
        )
        self.se = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), conv(24, 6, 1), nn.ReLU(), conv(6, 24, 1), nn.Hardsigmoid()
        )
        self.project = nn.Sequential(conv(24, 16, 1, bias=False), nn.BatchNorm2d(16))

    def body(self, x):
        y = self.deep(self.expand(x))
        return x + self.project(y * self.se(y))


@module(IMAGE)
class InvertedResidual(Backbone):
    def __init__(self):
        super().__init__()
        self.use_res_connect = True
        self.conv = nn.Sequential(
            block(16, 32, 1, act=nn.ReLU6), block(32, 32, groups=32, act=nn.ReLU6), conv(32, 16, 1)
        )

    def body(self, x):
        if self.use_res_connect:
            return x + self.conv(x)
        return self.conv(x)


@module(IMAGE)
class DenseBlock(Backbone):
    def __init__(self):
        super().__init__(8, 20)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(8 + 4 * i), nn.ReLU(), conv(8 + 4 * i, 4)) for i in range(3)
        )

    def body(self, x):
        features = [x]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return torch.cat(features, 1)


@module(IMAGE)
class Inception(Backbone):
    def __init__(self):
        super().__init__(16, 20)
        self.one, self.three, self.five = block(16, 8, 1), block(16, 8, 3), block(16, 4, 5)

    def body(self, x):
        return torch.cat([branch(x) for branch in (self.one, self.three, self.five)], 1)


class _Ghost(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.outputs, half = outputs, math.ceil(outputs / 2)
        self.primary, self.cheap = block(inputs, half, 1), block(half, half, groups=half)

    def forward(self, x):
        x1 = self.primary(x)
        return torch.cat([x1, self.cheap(x1)], dim=1)[:, : self.outputs, :, :]


@module(IMAGE)
class GhostModule(Backbone):
    def __init__(self):
        super().__init__()
        self.ghost, self.conv = _Ghost(16, 16), conv(16, 16)

    def body(self, x):
        return self.conv(self.ghost(x)).relu()


@module(IMAGE)
class FeaturePyramid(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.c2, self.c3 = block(3, 8), block(8, 16, stride=2), block(16, 24, stride=2)
        self.lateral = nn.ModuleList(nn.Conv2d(c, 12, 1) for c in (8, 16, 24))
        self.smooth = nn.ModuleList(conv(12, 4) for _ in range(3))

    def forward(self, x):
        c1 = self.c1(x)
        c2 = self.c2(c1)
        features = [lateral(c) for lateral, c in zip(self.lateral, (c1, c2, self.c3(c2)), strict=True)]
        for i in range(2, 0, -1):
            features[i - 1] = features[i - 1] + F.interpolate(features[i], size=features[i - 1].shape[-2:])
        return OrderedDict(
            (f"p{i}", smooth(f)) for i, (smooth, f) in enumerate(zip(self.smooth, features, strict=True))
        )


@module(IMAGE)
class PathAggregation(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.c2 = block(3, 8), block(8, 16, stride=2)
        self.reduce, self.up = conv(16, 8, 1), nn.Upsample(scale_factor=2, mode="nearest")
        self.top, self.down, self.bottom = block(16, 8), block(8, 8, stride=2), block(16, 16)
        self.heads = nn.ModuleList([nn.Conv2d(8, 3, 1), nn.Conv2d(16, 3, 1)])

    def forward(self, x):
        c1 = self.c1(x)
        p2 = self.reduce(self.c2(c1))
        n1 = self.top(torch.cat([self.up(p2), c1], 1))
        n2 = self.bottom(torch.cat([self.down(n1), p2], 1))
        return [h(n) for h, n in zip(self.heads, (n1, n2), strict=True)]


@module(IMAGE)
class BiFPN(Backbone):
    """Learned weights of the inputs, one number each, normalised fast."""

    def __init__(self):
        super().__init__()
        self.low, self.high, self.w = block(16, 16), block(16, 16, stride=2), nn.Parameter(torch.ones(3))

    def body(self, x):
        w = F.relu(self.w)
        w = w / (w.sum() + 1e-4)
        high = F.interpolate(self.high(x), scale_factor=2.0, mode="nearest")
        return F.silu(w[0] * x + w[1] * self.low(x) + w[2] * high)


@module(IMAGE)
class ConvNeXtBlock(Backbone):
    def __init__(self):
        super().__init__()
        self.dwconv, self.norm = conv(16, 16, 7, groups=16), nn.LayerNorm(16, eps=1e-6)
        self.pwconv1, self.act, self.pwconv2 = nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)
        self.gamma = nn.Parameter(torch.full((16,), 0.5))

    def body(self, x):
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pwconv2(self.act(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)


class _ChannelsFirstNorm(nn.Module):
    """ConvNeXt's own layer norm, written out."""

    def __init__(self, channels):
        super().__init__()
        self.weight, self.bias, self.eps = (
            nn.Parameter(torch.ones(channels)),
            nn.Parameter(torch.zeros(channels)),
            1e-6,
        )

    def forward(self, x):
        u = x.mean(1, keepdim=True)
        s = (x - u).pow(2).mean(1, keepdim=True)
        return self.weight[:, None, None] * ((x - u) / torch.sqrt(s + self.eps)) + self.bias[:, None, None]


@module(IMAGE)
class ConvNeXtDownsample(Backbone):
    def __init__(self):
        super().__init__()
        self.norm, self.down, self.more = _ChannelsFirstNorm(16), nn.Conv2d(16, 16, 2, 2), block(16, 16)

    def body(self, x):
        return self.more(self.down(self.norm(x)))


@module(IMAGE)
class GlobalResponse(Backbone):
    """ConvNeXt V2's global response normalisation."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Linear(16, 32), nn.Linear(32, 16), block(16, 16)
        self.gamma, self.beta = nn.Parameter(torch.zeros(1, 1, 1, 32)), nn.Parameter(torch.zeros(1, 1, 1, 32))

    def body(self, x):
        y = F.gelu(self.one(x.permute(0, 2, 3, 1)))
        size = torch.norm(y, p=2, dim=(1, 2), keepdim=True)
        y = self.gamma * (y * (size / (size.mean(dim=-1, keepdim=True) + 1e-6))) + self.beta + y
        return self.three(x + self.two(y).permute(0, 3, 1, 2))


@module(IMAGE)
class MLPMixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch, self.norm1, self.norm2 = nn.Conv2d(3, 16, 4, 4), nn.LayerNorm(16), nn.LayerNorm(16)
        self.token = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))
        self.channel = nn.Sequential(nn.Linear(16, 20), nn.GELU(), nn.Linear(20, 16))
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.token(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channel(self.norm2(x))
        return self.fc(x.mean(1))


@module(IMAGE)
class SuperResolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.three, self.up = conv(3, 16), conv(16, 8), conv(8, 12), nn.PixelShuffle(2)

    def forward(self, x):
        return self.up(self.three(F.relu(self.two(F.relu(self.one(x))))))


@module(IMAGE)
class PixelShuffleInside(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.up, self.two, self.three = conv(3, 32), nn.PixelShuffle(2), conv(8, 16), conv(16, 3)

    def forward(self, x):
        return self.three(F.relu(self.two(F.relu(self.up(self.one(x))))))


@module(IMAGE)
class PixelUnshuffle(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = block(3, 8), block(32, 16), head(16)

    def forward(self, x):
        return self.head(self.two(F.pixel_unshuffle(self.one(x), 2)))


@module(IMAGE)
class EDSR(nn.Module):
    """Residual blocks scaled by a constant, and a long skip."""

    def __init__(self):
        super().__init__()
        self.first, self.last = conv(3, 16), conv(16, 3)
        self.blocks = nn.ModuleList(
            nn.Sequential(conv(16, 16), nn.ReLU(True), conv(16, 16)) for _ in range(2)
        )

    def forward(self, x):
        x = skip = self.first(x)
        for b in self.blocks:
            x = x + b(x).mul(0.1)
        x += skip
        return self.last(x)


# ---------------------------------------------------------------- attention over channels and space


@module(IMAGE)
class SqueezeExcitation(Backbone):
    def __init__(self):
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(16, 4, bias=False), nn.ReLU(), nn.Linear(4, 16, bias=False), nn.Sigmoid()
        )

    def body(self, x):
        b, c, _, _ = x.size()
        y = F.adaptive_avg_pool2d(x, 1).view(b, c)
        return x * self.fc(y).view(b, c, 1, 1).expand_as(x)


@module(IMAGE)
class EfficientChannelAttention(Backbone):
    """A small filter slides over the channels: they have to stay."""

    def __init__(self):
        super().__init__()
        self.eca, self.deep = nn.Conv1d(1, 1, 3, padding=1, bias=False), block(16, 16)

    def body(self, x):
        x = self.deep(x)
        y = F.adaptive_avg_pool2d(x, 1)
        y = self.eca(y.squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
        return x * y.sigmoid().expand_as(x)


class _ChannelGate(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.mlp = nn.Sequential(nn.Flatten(), nn.Linear(channels, 4), nn.ReLU(), nn.Linear(4, channels))

    def forward(self, x):
        total = None
        for pool_type in ("avg", "max"):
            pool = F.avg_pool2d if pool_type == "avg" else F.max_pool2d
            raw = self.mlp(pool(x, (x.size(2), x.size(3)), stride=(x.size(2), x.size(3))))
            total = raw if total is None else total + raw
        return x * torch.sigmoid(total).unsqueeze(2).unsqueeze(3).expand_as(x)


class _SpatialGate(nn.Module):
    def __init__(self):
        super().__init__()
        self.spatial = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x):
        pooled = torch.cat((torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)), dim=1)
        return x * torch.sigmoid(self.spatial(pooled))


@module(IMAGE)
class CBAM(Backbone):
    def __init__(self):
        super().__init__()
        self.deep, self.channel, self.spatial, self.after = (
            block(16, 16),
            _ChannelGate(16),
            _SpatialGate(),
            block(16, 16),
        )

    def body(self, x):
        return self.after(self.spatial(self.channel(self.deep(x))))


@module(IMAGE)
class ChannelGateAlone(Backbone):
    def __init__(self):
        super().__init__()
        self.gate = _ChannelGate(16)

    def body(self, x):
        return self.gate(x)


@module(IMAGE)
class GatherExcite(Backbone):
    def __init__(self):
        super().__init__()
        self.gather = nn.Sequential(conv(16, 16, 3, 2, groups=16), nn.BatchNorm2d(16))

    def body(self, x):
        return x * torch.sigmoid(F.interpolate(self.gather(x), x.shape[-2:], mode="nearest"))


@module(IMAGE)
class CoordinateAttention(Backbone):
    def __init__(self):
        super().__init__()
        self.one, self.bn = nn.Conv2d(16, 8, 1), nn.BatchNorm2d(8)
        self.of_h, self.of_w = nn.Conv2d(8, 16, 1), nn.Conv2d(8, 16, 1)

    def body(self, x):
        _, _, h, w = x.size()
        x_h, x_w = F.adaptive_avg_pool2d(x, (h, 1)), F.adaptive_avg_pool2d(x, (1, w)).permute(0, 1, 3, 2)
        y = F.hardswish(self.bn(self.one(torch.cat([x_h, x_w], dim=2))))
        y_h, y_w = torch.split(y, [h, w], dim=2)
        return x * self.of_w(y_w.permute(0, 1, 3, 2)).sigmoid() * self.of_h(y_h).sigmoid()


@module(IMAGE)
class SpatialAttentionBySum(Backbone):
    def __init__(self):
        super().__init__()
        self.deep, self.after = block(16, 16), block(16, 16)

    def body(self, x):
        x = self.deep(x)
        return self.after(x * torch.sigmoid(x.sum(dim=1, keepdim=True) / 16))


@module(IMAGE)
class SpatialAttentionByMean(Backbone):
    def __init__(self):
        super().__init__()
        self.deep, self.after = block(16, 16), block(16, 16)

    def body(self, x):
        x = self.deep(x)
        return self.after(x * x.mean(1, keepdim=True).sigmoid())


@module(IMAGE)
class SimAM(Backbone):
    """Attention without parameters."""

    def body(self, x):
        n = x.shape[2] * x.shape[3] - 1
        d = (x - x.mean(dim=[2, 3], keepdim=True)).pow(2)
        v = d.sum(dim=[2, 3], keepdim=True) / n
        return x * torch.sigmoid(d / (4 * (v + 1e-4)) + 0.5)


@module(IMAGE)
class NonLocal(Backbone):
    def __init__(self):
        super().__init__()
        self.g, self.theta, self.phi, self.w = (
            conv(16, 8, 1),
            conv(16, 8, 1),
            conv(16, 8, 1),
            conv(8, 16, 1),
        )
        self.after = block(16, 16)

    def body(self, x):
        batch = x.size(0)
        g = self.g(x).view(batch, 8, -1).permute(0, 2, 1)
        theta = self.theta(x).view(batch, 8, -1).permute(0, 2, 1)
        f = torch.matmul(theta, self.phi(x).view(batch, 8, -1)).softmax(dim=-1)
        y = torch.matmul(f, g).permute(0, 2, 1).contiguous().view(batch, 8, *x.size()[2:])
        return self.after(self.w(y) + x)


@module(IMAGE)
class SelfAttentionGAN(Backbone):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = conv(16, 4, 1), conv(16, 4, 1), conv(16, 16, 1)
        self.gamma, self.after = nn.Parameter(torch.zeros(1)), block(16, 16)

    def body(self, x):
        b, c, w, h = x.size()
        query = self.query(x).view(b, -1, w * h).permute(0, 2, 1)
        attention = torch.bmm(query, self.key(x).view(b, -1, w * h)).softmax(-1)
        out = torch.bmm(self.value(x).view(b, -1, w * h), attention.permute(0, 2, 1)).view(b, c, w, h)
        return self.after(self.gamma * out + x)


@module(IMAGE)
class EinsumAttention(Backbone):
    def __init__(self):
        super().__init__()
        self.qkv, self.proj, self.heads, self.after = conv(16, 48, 1), conv(16, 16, 1), 2, block(16, 16)

    def body(self, x):
        b, c, h, w = x.shape
        q, k, v = self.qkv(x).reshape(b, 3, self.heads, 8, h * w).unbind(1)
        attention = torch.einsum("bhdi,bhdj->bhij", q * 8**-0.5, k).softmax(-1)
        y = torch.einsum("bhij,bhdj->bhid", attention, v)
        return self.after(self.proj(y.permute(0, 1, 3, 2).reshape(b, c, h, w)) + x)


@module(IMAGE)
class VisionAttention(nn.Module):
    """timm's attention: one linear layer for query, key and value."""

    def __init__(self):
        super().__init__()
        self.patch, self.norm, self.norm2 = nn.Conv2d(3, 16, 4, 4), nn.LayerNorm(16), nn.LayerNorm(16)
        self.num_heads, self.scale = 4, 4**-0.5
        self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)
        self.fc1, self.fc2, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 5)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        b, n, c = x.shape
        qkv = (
            self.qkv(self.norm(x))
            .reshape(b, n, 3, self.num_heads, c // self.num_heads)
            .permute(2, 0, 3, 1, 4)
        )
        q, k, v = qkv.unbind(0)
        attention = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1)
        x = x + self.proj((attention @ v).transpose(1, 2).reshape(b, n, c))
        x = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return self.head(x.mean(1))


@module(IMAGE)
class ScaledDotProduct(VisionAttention):
    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        b, n, _c = x.shape
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        q, k, v = (t.view(b, n, self.num_heads, -1).transpose(1, 2) for t in (q, k, v))
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return self.head(x.mean(1))


@module(SEQUENCE)
class MultiheadEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.attn = nn.Linear(8, 16), nn.MultiheadAttention(16, 4, batch_first=True)
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.fc1, self.fc2, self.out = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 3)

    def forward(self, x):
        x = self.embed(x)
        y = self.norm1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return self.out((x + self.fc2(F.gelu(self.fc1(self.norm2(x))))).mean(1))


@module(SEQUENCE)
class TransformerEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.embed, self.between = nn.Linear(8, 20), nn.Linear(20, 16)
        self.encoder, self.out = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 3)

    def forward(self, x, mask=None):
        return self.out(self.encoder(self.between(F.relu(self.embed(x))), mask=mask).mean(1))


@module(WORDS)
class WordTransformer(nn.Module):
    """Causal attention over words, with learned places."""

    def __init__(self):
        super().__init__()
        self.token, self.place = nn.Embedding(20, 16), nn.Embedding(12, 16)
        self.attn, self.norm = nn.MultiheadAttention(16, 2, batch_first=True), nn.LayerNorm(16)
        self.mlp, self.out = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)), nn.Linear(16, 20)
        self.register_buffer("mask", torch.ones(12, 12, dtype=torch.bool).triu(1))

    def forward(self, words):
        x = self.token(words) + self.place(torch.arange(words.shape[1], device=words.device))
        y = self.attn(x, x, x, attn_mask=self.mask[: x.shape[1], : x.shape[1]], need_weights=False)[0]
        x = self.norm(x + y)
        return self.out(x + self.mlp(x))


@module(IMAGE)
class ClassToken(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch, self.cls = nn.Conv2d(3, 16, 4, 4), nn.Parameter(torch.zeros(1, 1, 16))
        self.pos = nn.Parameter(torch.zeros(1, 17, 16))
        self.fc1, self.fc2, self.norm, self.head = (
            nn.Linear(16, 32),
            nn.Linear(32, 16),
            nn.LayerNorm(16),
            nn.Linear(16, 5),
        )

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls.expand(x.shape[0], -1, -1), x), dim=1) + self.pos
        x = x + self.fc2(F.gelu(self.fc1(self.norm(x))))
        return self.head(x[:, 0])


@module(IMAGE)
class AttentionPool(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.score, self.fc = block(3, 16), conv(16, 1, 1), nn.Linear(16, 5)

    def forward(self, x):
        x = self.stem(x)
        weight = self.score(x).flatten(2).softmax(-1)
        return self.fc((x.flatten(2) * weight).sum(-1))


# ---------------------------------------------------------------- text, sound, sequences


@module(WORDS)
class TextCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 12)
        self.convs = nn.ModuleList(nn.Conv1d(12, 8, k) for k in (2, 3, 4))
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(24, 3)

    def forward(self, words):
        x = self.embed(words).permute(0, 2, 1)
        pooled = [
            F.max_pool1d(F.relu(c(x)), int(x.size(2)) - c.kernel_size[0] + 1).squeeze(2) for c in self.convs
        ]
        return self.fc(self.drop(torch.cat(pooled, 1)))


@module(WORDS)
class TextCNN2d(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.fc = nn.Embedding(20, 12), nn.Linear(16, 3)
        self.convs = nn.ModuleList(nn.Conv2d(1, 8, (k, 12)) for k in (2, 3))

    def forward(self, words):
        x = self.embed(words).unsqueeze(1)
        x = [F.relu(c(x)).squeeze(3) for c in self.convs]
        return self.fc(torch.cat([F.max_pool1d(i, i.size(2)).squeeze(2) for i in x], 1))


@module(WORDS)
class EmbeddingBag(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag, self.fc1, self.fc2 = nn.EmbeddingBag(20, 8), nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, words):
        return self.fc2(torch.relu(self.fc1(self.bag(words))))


@module(rand(2, 1, 16, 32))
class CRNN(nn.Module):
    """Reads text in pictures: columns of features into an LSTM of two directions."""

    def __init__(self):
        super().__init__()
        self.cnn = nn.Sequential(
            conv(1, 8), nn.ReLU(), nn.MaxPool2d(2), conv(8, 16), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.rnn, self.fc = nn.LSTM(16 * 8, 12, bidirectional=True, batch_first=True), nn.Linear(24, 7)

    def forward(self, x):
        x = self.cnn(x).permute(0, 3, 1, 2)
        x, _ = self.rnn(x.reshape(x.size(0), x.size(1), -1))
        return self.fc(x)


@module(SOUND)
class ConvGRU(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv1d(2, 16, 5, padding=2), nn.BatchNorm1d(16)
        self.rnn, self.fc = nn.GRU(16, 10), nn.Linear(10, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x))).permute(2, 0, 1)
        _, h = self.rnn(x)
        return self.fc(h[-1])


@module(WORDS)
class LSTMTagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.lstm = nn.Embedding(20, 12), nn.LSTM(12, 10, num_layers=2, batch_first=True)
        self.fc1, self.fc2 = nn.Linear(10, 16), nn.Linear(16, 4)

    def forward(self, words):
        out, _ = self.lstm(self.embed(words))
        return self.fc2(F.relu(self.fc1(out[:, -1, :])))


@module(SOUND)
class WaveNet(nn.Module):
    """Gates, skips that are summed, residuals."""

    def __init__(self):
        super().__init__()
        self.start, self.end1, self.end2 = nn.Conv1d(2, 8, 1), nn.Conv1d(12, 8, 1), nn.Conv1d(8, 4, 1)
        for kind, outputs, size in (("filter", 8, 2), ("gate", 8, 2), ("res", 8, 1), ("skip", 12, 1)):
            layers = [nn.Conv1d(8, outputs, size, dilation=2**i if size > 1 else 1) for i in range(3)]
            setattr(self, kind, nn.ModuleList(layers))

    def forward(self, x):
        x, skip = self.start(x), 0
        for i in range(3):
            y = torch.tanh(self.filter[i](x)) * torch.sigmoid(self.gate[i](x))
            s = self.skip[i](y)
            try:
                skip = skip[:, :, -s.size(2) :]
            except TypeError:
                skip = 0
            skip = s + skip
            y = self.res[i](y)
            x = y + x[:, :, -y.size(2) :]
        return self.end2(F.relu(self.end1(F.relu(skip))))


@module(SOUND)
class GatedLinearUnit(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.fc = nn.Conv1d(2, 16, 3), nn.Conv1d(8, 16, 3), nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(F.glu(self.two(F.glu(self.one(x), dim=1)), 1).mean(-1))


class _Chomp(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self, x):
        return x[:, :, : -self.size].contiguous()


@module(SOUND, verdict="nothing", fixed=("one",))
class TemporalConvNet(nn.Module):
    """Weight norm, padding on both sides, the right one chomped off."""

    def __init__(self):
        super().__init__()
        self.one, self.two = (weight_norm(nn.Conv1d(c, 12, 3, padding=2)) for c in (2, 12))
        self.chomp, self.down, self.fc = _Chomp(2), nn.Conv1d(2, 12, 1), nn.Linear(12, 3)

    def forward(self, x):
        y = F.relu(self.chomp(self.two(F.relu(self.chomp(self.one(x))))))
        return self.fc(F.relu(y + self.down(x))[:, :, -1])


@module(rand(2, 256))
class Spectrogram(nn.Module):
    """A Fourier transform in front, then convolutions over time."""

    def __init__(self):
        super().__init__()
        self.register_buffer("window", torch.hann_window(32))
        self.conv1, self.conv2, self.fc = nn.Conv1d(17, 12, 3), nn.Conv1d(12, 8, 3), nn.Linear(8, 3)

    def forward(self, x):
        s = torch.stft(x, 32, 16, window=self.window, return_complex=True).abs().clamp(min=1e-5).log()
        return self.fc(F.relu(self.conv2(F.relu(self.conv1(s)))).mean(2))


@module(rand(2, 6, 8))
class Conformer(nn.Module):
    """The convolution module: pointwise, gate, depthwise, batch norm, swish."""

    def __init__(self):
        super().__init__()
        self.norm, self.one, self.deep = (
            nn.LayerNorm(8),
            nn.Conv1d(8, 24, 1),
            nn.Conv1d(12, 12, 3, padding=1, groups=12),
        )
        self.bn, self.two, self.out = nn.BatchNorm1d(12), nn.Conv1d(12, 8, 1), nn.Linear(8, 3)

    def forward(self, x):
        y = F.glu(self.one(self.norm(x).transpose(1, 2)), dim=1)
        y = self.two(F.silu(self.bn(self.deep(y)))).transpose(1, 2)
        return self.out(x + y)


@module(rand(2, 3, 8, 3))
class SkeletonGraph(nn.Module):
    """A graph convolution over joints by einsum with an adjacency matrix."""

    def __init__(self):
        super().__init__()
        self.register_buffer("a", torch.rand(2, 3, 3))
        self.gcn, self.tcn, self.fc = nn.Conv2d(3, 16, 1), nn.Conv2d(8, 12, (3, 1)), nn.Linear(12, 4)

    def forward(self, x):
        x = self.gcn(x)
        n, kc, t, v = x.size()
        x = torch.einsum("nkctv,kvw->nctw", x.view(n, 2, kc // 2, t, v), self.a)
        return self.fc(F.relu(self.tcn(F.relu(x))).mean((2, 3)))


# ---------------------------------------------------------------- three dimensions, transposed convolutions


@module(rand(1, 2, 8, 8, 8))
class Conv3dNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.bn, self.two = nn.Conv3d(2, 8, 3, padding=1), nn.BatchNorm3d(8), nn.Conv3d(8, 12, 3)
        self.up, self.out = nn.ConvTranspose3d(12, 8, 2, 2), nn.Conv3d(8, 2, 1)

    def forward(self, x):
        return self.out(self.up(F.relu(self.two(F.max_pool3d(F.relu(self.bn(self.one(x))), 2)))))


@module(IMAGE)
class TransposedGroups(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.up, self.out = conv(3, 16), nn.ConvTranspose2d(16, 8, 2, 2, groups=4), conv(8, 2)

    def forward(self, x):
        return self.out(F.relu(self.up(F.relu(self.one(x)))))


@module(IMAGE)
class TransposedDepthwise(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.up, self.out = (
            conv(3, 8),
            nn.ConvTranspose2d(8, 8, 4, 2, 1, groups=8, bias=False),
            conv(8, 2),
        )

    def forward(self, x):
        return self.out(self.up(F.relu(self.one(x))))


@module(IMAGE)
class DilatedPyramid(nn.Module):
    """ASPP with a branch of the whole picture."""

    def __init__(self):
        super().__init__()
        self.stem, self.project, self.out = block(3, 16), block(32, 16, 1), conv(16, 3, 1)
        self.branches = nn.ModuleList(block(16, 8, 3, dilation=d) for d in (1, 2, 4))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(16, 8, 1), nn.ReLU())

    def forward(self, x):
        x = self.stem(x)
        whole = F.interpolate(self.pool(x), size=x.shape[-2:], mode="bilinear", align_corners=False)
        return self.out(self.project(torch.cat([*(b(x) for b in self.branches), whole], 1)))


# ---------------------------------------------------------------- inputs and outputs


@module(IMAGE, rand(2, 3, 16, 16))
class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.fc = (
            nn.Sequential(block(3, 8), block(8, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            nn.Linear(16, 1),
        )

    def forward(self, one, other):
        return self.fc((self.body(one) - self.body(other)).abs())


@module(IMAGE, rand(2, 4))
class FiLM(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.of = conv(3, 16), nn.BatchNorm2d(16, affine=False), nn.Linear(4, 32)
        self.head = head(16)

    def forward(self, x, condition):
        gamma, beta = self.of(condition).chunk(2, dim=1)
        x = self.norm(self.conv(x)) * (1 + gamma[:, :, None, None]) + beta[:, :, None, None]
        return self.head(F.relu(x))


@module(IMAGE, rand(2, 4))
class AdaIN(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.gamma, self.beta, self.out = (
            conv(3, 12),
            nn.Linear(4, 12),
            nn.Linear(4, 12),
            conv(12, 3),
        )

    def forward(self, x, style):
        x = F.instance_norm(self.conv(x))
        return self.out(F.relu(x * self.gamma(style)[..., None, None] + self.beta(style)[..., None, None]))


@module(IMAGE, rand(2, 7))
class ImageAndTable(nn.Module):
    def __init__(self):
        super().__init__()
        self.cnn = nn.Sequential(block(3, 12), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.table, self.fc = nn.Sequential(nn.Linear(7, 10), nn.BatchNorm1d(10), nn.ReLU()), nn.Linear(22, 3)

    def forward(self, image, table):
        return self.fc(torch.cat([self.cnn(image), self.table(table)], dim=1))


@module({"image": IMAGE, "scale": rand(2, 1, 1, 1)})
class DictInput(Backbone):
    def __init__(self):
        super().__init__()
        self.deep = block(16, 16)

    def forward(self, image, scale):
        return self.head(self.deep(self.stem(image)) * scale)


@module(IMAGE)
class DictOutput(Backbone):
    def __init__(self):
        super().__init__()
        self.deep, self.aux = block(16, 16), conv(16, 2, 1)

    def forward(self, x):
        deep = self.deep(self.stem(x))
        return {"logits": self.head(deep), "mask": self.aux(deep)}


@module(IMAGE)
class FeaturesOut(Backbone):
    """Gives the features beside the classes: those have to stay."""

    def __init__(self):
        super().__init__()
        self.deep = block(16, 16)

    def forward(self, x):
        features = self.deep(self.stem(x))
        return self.head(features), features


@module(IMAGE)
class AuxiliaryHead(Backbone):
    def __init__(self):
        super().__init__()
        self.deep, self.aux = block(16, 16), head(16)

    def forward(self, x):
        x = self.stem(x)
        if self.training:
            return self.head(self.deep(x)), self.aux(x)
        return self.head(self.deep(x))


@module(IMAGE)
class DefaultArguments(Backbone):
    def forward(self, x, mask=None, scale=1.0, return_features=False):
        x = self.stem(x)
        if mask is not None:
            x = x * mask
        return x if return_features else self.head(x * scale)


@module(IMAGE)
class ShapeConditions(Backbone):
    def __init__(self):
        super().__init__()
        self.deep = block(16, 16)

    def forward(self, x):
        assert x.shape[1] == 3, "pictures have three channels"
        x = self.stem(x)
        if x.shape[-1] > 8:
            x = F.max_pool2d(x, 2)
        return self.head(self.deep(x) if x.dim() == 4 and isinstance(x, torch.Tensor) else x)


@module(IMAGE)
class Normalised(Backbone):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.48, 0.45, 0.4]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.22, 0.23, 0.24]).view(1, 3, 1, 1))

    def forward(self, x):
        return self.head(self.stem((x - self.mean.to(x.dtype)) / self.std.to(x.device)))


@module(IMAGE, verdict="refused")
class ValueCondition(Backbone):
    """What it runs depends on the values of the input."""

    def body(self, x):
        return x * 2 if float(x.mean()) > -1e9 else x


# ---------------------------------------------------------------- control flow and containers


@module(IMAGE)
class ByName(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleDict({"stem": block(3, 8), "body": block(8, 16), "head": head(16)})
        self.order = ["stem", "body", "head"]

    def forward(self, x):
        for name in self.order:
            x = self.parts[name](x)
        return x


@module(IMAGE)
class Slices(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(block(3, 8), block(8, 12), block(12, 16), head(16))

    def forward(self, x):
        return self.net[2:](F.dropout(self.net[:2](x), 0.1, self.training))


@module(IMAGE)
class SharedTwice(Backbone):
    def __init__(self):
        super().__init__()
        self.shared = block(16, 16)

    def body(self, x):
        return self.shared(self.shared(x))


@module(IMAGE)
class SharedInHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = block(3, 8), block(8, 8, stride=2)
        self.tower, self.out = block(8, 12), conv(12, 2)
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(1)) for _ in range(2)])

    def forward(self, x):
        one = self.one(x)
        return [self.out(self.tower(f)) * s for f, s in zip((one, self.two(one)), self.scales, strict=True)]


@module(IMAGE)
class Recursion(Backbone):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(block(16, 16) for _ in range(3))

    def body(self, x, depth=0):
        return x if depth == len(self.layers) else self.body(self.layers[depth](x) + x, depth + 1)


@module(IMAGE)
class WhileLoop(Backbone):
    def __init__(self):
        super().__init__()
        self.down = block(16, 16, stride=2)

    def body(self, x):
        while x.size(-1) > 4:
            x = self.down(x)
        return x


@module(IMAGE)
class TryExcept(Backbone):
    def body(self, x):
        try:
            return x.not_there()
        except AttributeError:
            return x.abs()


@module(IMAGE)
class CacheInDict(Backbone):
    def __init__(self):
        super().__init__()
        self.scale, self.cache = nn.Parameter(torch.zeros(1)), {}

    def body(self, x):
        if "scale" not in self.cache:
            self.cache["scale"] = self.scale.exp()
        return x * self.cache["scale"]


@lru_cache(maxsize=8)
def _grid(height, width):
    return torch.linspace(0, 1, height * width).view(1, 1, height, width)


@module(IMAGE)
class LruCache(Backbone):
    def __init__(self):
        super().__init__()
        self.deep = block(17, 16)

    def body(self, x):
        grid = _grid(x.shape[2], x.shape[3]).to(x).expand(x.shape[0], -1, -1, -1)
        return self.deep(torch.cat([x, grid], 1))


@module(IMAGE)
class StochasticDepth(Backbone):
    def __init__(self):
        super().__init__()
        self.deep = block(16, 16)

    def body(self, x):
        y = self.deep(x)
        if self.training:
            y = y * (torch.rand(x.shape[0], 1, 1, 1, dtype=x.dtype) > 0.2) / 0.8
        return x + y


# ---------------------------------------------------------------- hooks, norms of weights, ties, own functions


@module(IMAGE)
class HookThatReads(Backbone):
    def __init__(self):
        super().__init__()
        self.seen, self.deep = [], block(16, 16)
        self.deep.register_forward_hook(_remember)

    def body(self, x):
        return self.deep(x)


def _remember(layer, inputs, output):
    layer.last_shape = tuple(output.shape)


@module(IMAGE)
class HookThatChanges(Backbone):
    """The hook turns the channels around: they have to stay."""

    def __init__(self):
        super().__init__()
        self.deep, self.more = conv(16, 16), block(16, 16)
        self.deep.register_forward_hook(_flip)

    def body(self, x):
        return self.more(self.deep(x))


def _flip(layer, inputs, output):
    return output.flip(1)


@module(IMAGE)
class HookThatScales(HookThatChanges):
    def __init__(self):
        super().__init__()
        self.deep = conv(16, 16)
        self.deep.register_forward_hook(_ramp)


def _ramp(layer, inputs, output):
    return output * torch.linspace(0.5, 1, 16, dtype=output.dtype).view(16, 1, 1)


@module(IMAGE, verdict="nothing", fixed=("one",))
class WeightNorm(Backbone):
    def __init__(self):
        super().__init__()
        self.one, self.two = weight_norm(conv(16, 16)), weight_norm(conv(16, 16))

    def body(self, x):
        return F.relu(self.two(F.relu(self.one(x))))


@module(IMAGE)
class SpectralNorm(Backbone):
    def __init__(self):
        super().__init__()
        self.one, self.two = spectral_norm(conv(16, 16)), block(16, 16)

    def body(self, x):
        return self.two(F.leaky_relu(self.one(x), 0.1))


class _Standardised(nn.Conv2d):
    """Weight standardisation: a convolution with a forward() of its own."""

    def forward(self, x):
        w = self.weight
        w = w - w.mean(dim=(1, 2, 3), keepdim=True)
        w = w / (w.std(dim=(1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, self.stride, self.padding, self.dilation, self.groups)


@module(IMAGE)
class WeightStandardisation(Backbone):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.after = (
            _Standardised(16, 16, 3, padding=1),
            nn.GroupNorm(4, 16),
            block(16, 16),
        )

    def body(self, x):
        return self.after(F.relu(self.norm(self.conv(x))))


@module(IMAGE)
class GroupNorms(Backbone):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.last = conv(16, 16), nn.GroupNorm(4, 16), nn.GroupNorm(1, 16)

    def body(self, x):
        return self.last(F.relu(self.norm(self.conv(x))) + x)


@module(rand(2, 12), verdict="nothing", fixed=("encode",))
class TiedAutoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode, self.bias = nn.Linear(12, 8), nn.Parameter(torch.zeros(12))
        self.first, self.last = nn.Linear(12, 12), nn.Linear(12, 12)

    def forward(self, x):
        code = torch.relu(self.encode(torch.relu(self.first(x))))
        return self.last(torch.relu(F.linear(code, self.encode.weight.t(), self.bias)))


@module(WORDS)
class TiedEmbedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.one, self.two = nn.Embedding(20, 8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.out = nn.Linear(8, 20, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, words):
        return self.out(self.two(F.relu(self.one(self.embed(words)))))


@module(IMAGE)
class ArcFace(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(block(3, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 12))
        self.weight = nn.Parameter(torch.rand(5, 12))

    def forward(self, x):
        return 16 * F.linear(F.normalize(self.body(x)), F.normalize(self.weight))


class _Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, gradient):
        [x] = ctx.saved_tensors
        s = torch.sigmoid(x)
        return gradient * (s * (1 + x * (1 - s)))


@module(IMAGE)
class AutogradFunction(Backbone):
    """An operation that no table can know."""

    def __init__(self):
        super().__init__()
        self.one, self.two = conv(16, 16), block(16, 16)

    def body(self, x):
        return self.two(_Swish.apply(self.one(x)))


@torch.jit.script
def _scripted_mish(x):
    return x * torch.tanh(F.softplus(x))


@module(IMAGE)
class ScriptedActivation(Backbone):
    def __init__(self):
        super().__init__()
        self.one, self.two = conv(16, 16), block(16, 16)

    def body(self, x):
        return self.two(_scripted_mish(self.one(x)))


@module(IMAGE)
class FunctionalLayers(nn.Module):
    """F.conv2d, F.batch_norm and F.linear with the parameters of modules."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.fc, self.out = (
            conv(3, 16),
            nn.BatchNorm2d(16),
            nn.Linear(16, 12),
            nn.Linear(12, 5),
        )

    def forward(self, x):
        x = F.conv2d(x, self.conv.weight, self.conv.bias, padding=1)
        x = F.batch_norm(
            x, self.bn.running_mean, self.bn.running_var, self.bn.weight, self.bn.bias, self.bn.training
        )
        x = F.relu(F.linear(x.mean((2, 3)), self.fc.weight, self.fc.bias))
        return self.out(x)


@module(rand(2, 6))
class OwnParameters(nn.Module):
    def __init__(self):
        super().__init__()
        self.w1, self.b1 = nn.Parameter(torch.rand(6, 12)), nn.Parameter(torch.rand(12))
        self.fc1, self.fc2, self.fc3 = nn.Linear(12, 12), nn.Linear(12, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(F.relu(x @ self.w1 + self.b1))))))


# ---------------------------------------------------------------- operations of all kinds


@module(IMAGE)
class Maxout(Backbone):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = conv(16, 16), conv(16, 16), conv(16, 16)

    def body(self, x):
        return torch.max(torch.max(self.one(x), self.two(x)), self.three(x))


@module(IMAGE)
class MaxoutView(Backbone):
    """Each channel is the largest of two of the convolution's."""

    def __init__(self):
        super().__init__()
        self.conv, self.after = conv(16, 32), block(16, 16)

    def body(self, x):
        y = self.conv(x)
        return self.after(y.view(y.shape[0], 16, 2, *y.shape[2:]).max(dim=2)[0])


@module(IMAGE)
class StackMean(Backbone):
    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleList(block(16, 16, k) for k in (1, 3, 5))

    def body(self, x):
        return torch.stack([b(x) for b in self.branches]).mean(0)


@module(IMAGE)
class UnbindHalves(Backbone):
    def __init__(self):
        super().__init__()
        self.conv = conv(16, 32)

    def body(self, x):
        y = self.conv(x)
        one, two = y.view(y.shape[0], 2, 16, *y.shape[2:]).unbind(1)
        return one * two.sigmoid()


@module(IMAGE)
class ChunkOfThree(Backbone):
    def __init__(self):
        super().__init__(12, 12)
        self.one, self.two = block(4, 4), block(4, 4)

    def body(self, x):
        a, b, c = list(x.chunk(3, 1))
        return torch.cat((a, self.one(b), self.two(c)), 1)


@module(IMAGE)
class SplitSizes(Backbone):
    def __init__(self):
        super().__init__(16, 16)
        self.split, self.one, self.two = (4, 12), block(4, 4), block(12, 12)

    def body(self, x):
        a, b = torch.split(x, self.split, dim=1)
        return torch.cat([self.one(a), self.two(b)], dim=1)


@module(IMAGE)
class PartialConvolution(Backbone):
    """FasterNet: a convolution of the first quarter, the rest left alone."""

    def __init__(self):
        super().__init__()
        self.partial, self.up, self.down = conv(4, 4), conv(16, 32, 1), conv(32, 16, 1)

    def body(self, x):
        one, two = torch.split(x, [4, 12], dim=1)
        y = torch.cat((self.partial(one), two), 1)
        return x + self.down(F.relu(self.up(y)))


@module(IMAGE)
class SliceInPlace(Backbone):
    """The first channels are written over: they have to stay."""

    def __init__(self):
        super().__init__()
        self.partial, self.after = conv(4, 4), block(16, 16)

    def body(self, x):
        x = x.clone()
        x[:, :4, :, :] = self.partial(x[:, :4, :, :])
        return self.after(x)


@module(IMAGE)
class TemporalShift(Backbone):
    """Some channels are shifted by a pixel, by numbers in the code."""

    def __init__(self):
        super().__init__()
        self.one, self.after = conv(16, 16), block(16, 16)

    def body(self, x):
        y = self.one(x)
        out = torch.zeros_like(y)
        out[:, :4, :, 1:] = y[:, :4, :, :-1]
        out[:, 4:] = y[:, 4:]
        return self.after(out)


@module(IMAGE)
class MaskedFill(Backbone):
    def body(self, x):
        return x.masked_fill(x < 0.1, 0.0) + torch.where(x > 1, x, torch.zeros_like(x))


@module(IMAGE)
class Clamps(Backbone):
    def body(self, x):
        return x.clamp(0, 6) * torch.clamp_max(x, 3) - x.clip(min=0.5)


@module(IMAGE)
class LearnableGate(Backbone):
    def __init__(self):
        super().__init__()
        self.deep, self.gate, self.scale = (
            conv(16, 16),
            nn.Parameter(torch.zeros(1)),
            nn.Parameter(torch.ones(1, 16, 1, 1)),
        )

    def body(self, x):
        return x + torch.tanh(self.gate) * self.deep(x) * self.scale


@module(IMAGE)
class PReLUs(Backbone):
    def __init__(self):
        super().__init__()
        self.one, self.act, self.two = conv(16, 16), nn.PReLU(16), nn.PReLU()

    def body(self, x):
        return self.two(self.act(self.one(x)))


@module(IMAGE)
class FReLU(Backbone):
    def __init__(self):
        super().__init__()
        self.deep = nn.Sequential(conv(16, 16, groups=16), nn.BatchNorm2d(16))

    def body(self, x):
        return torch.max(x, self.deep(x))


@module(IMAGE)
class GeMPooling(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.p, self.fc = block(3, 16), nn.Parameter(torch.ones(1) * 3), nn.Linear(16, 5)

    def forward(self, x):
        x = self.stem(x).clamp(min=1e-6).pow(self.p)
        return self.fc(F.avg_pool2d(x, (x.size(-2), x.size(-1))).pow(1.0 / self.p).flatten(1))


@module(IMAGE)
class PoolingsByHand(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.fc = block(3, 8), nn.Linear(32, 5)

    def forward(self, x):
        x = self.stem(x)
        pooled = (
            x.mean((2, 3)),
            x.flatten(2).mean(-1),
            x.amax(dim=(-2, -1)),
            x.view(x.size(0), x.size(1), -1).max(2)[0],
        )
        return self.fc(torch.cat(pooled, 1))


@module(IMAGE)
class SqueezedPool(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.pool, self.fc = block(3, 16), nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(16, 5)

    def forward(self, x):
        return self.fc(torch.squeeze(torch.squeeze(self.pool(self.stem(x)), -1), -1))


@module(IMAGE)
class ConvClassifier(nn.Module):
    """A convolution for a classifier, pooled afterwards."""

    def __init__(self):
        super().__init__()
        self.stem, self.out = block(3, 16), nn.Conv2d(16, 5, 1)

    def forward(self, x):
        return F.log_softmax(F.adaptive_avg_pool2d(self.out(self.stem(x)), 1).squeeze(3).squeeze(2), dim=1)


@module(IMAGE)
class PositionMap(Backbone):
    def __init__(self):
        super().__init__()
        self.position, self.after = nn.Parameter(torch.zeros(1, 16, 16, 16)), block(16, 16)

    def body(self, x):
        return self.after(x + self.position)


@module(IMAGE)
class LocalResponse(Backbone):
    """AlexNet's own norm mixes neighbouring channels: they have to stay."""

    def __init__(self):
        super().__init__()
        self.lrn, self.after = nn.LocalResponseNorm(5), block(16, 16)

    def body(self, x):
        return self.after(self.lrn(x))


@module(IMAGE)
class ChannelSoftmax(Backbone):
    def __init__(self):
        super().__init__()
        self.one, self.after = conv(16, 16), block(16, 16)

    def body(self, x):
        return self.after(self.one(x).softmax(dim=1))


@module(IMAGE)
class PermutedChannels(Backbone):
    """A fixed permutation of the channels by an index."""

    def __init__(self):
        super().__init__()
        self.one, self.after = conv(16, 16), block(16, 16)
        self.register_buffer("order", torch.arange(15, -1, -1))

    def body(self, x):
        return self.after(self.one(x)[:, self.order])


@module(IMAGE)
class RepVGGBlock(Backbone):
    def __init__(self):
        super().__init__()
        self.dense = nn.Sequential(conv(16, 16, bias=False), nn.BatchNorm2d(16))
        self.one, self.identity = (
            nn.Sequential(conv(16, 16, 1, bias=False), nn.BatchNorm2d(16)),
            nn.BatchNorm2d(16),
        )

    def body(self, x):
        return F.relu(self.dense(x) + self.one(x) + self.identity(x))


@module(IMAGE)
class CrossStage(Backbone):
    """CSP: half of the channels go round the block, picked by a slice over the width."""

    def __init__(self):
        super().__init__()
        self.block, self.merge = nn.Sequential(block(8, 8), block(8, 8)), block(16, 16, 1)

    def body(self, x):
        half = x.shape[1] // 2
        return self.merge(torch.cat([x[:, :half], self.block(x[:, half:])], dim=1))


@module(IMAGE)
class MixtureOfExperts(Backbone):
    """Experts weighted by a gate, summed over a stack."""

    def __init__(self):
        super().__init__()
        self.experts, self.gate = nn.ModuleList(conv(16, 16) for _ in range(3)), nn.Linear(16, 3)

    def body(self, x):
        weight = self.gate(x.mean((-1, -2))).softmax(-1)
        out = torch.stack([expert(x) for expert in self.experts], 1)
        return (out * weight[:, :, None, None, None]).sum(1)


@module(IMAGE)
class SpaceToDepthReshape(Backbone):
    def __init__(self):
        super().__init__(8, 16)
        self.after = block(32, 16)

    def body(self, x):
        n, c, h, w = x.size()
        x = x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).contiguous()
        return self.after(x.view(n, c * 4, h // 2, w // 2))


@module(IMAGE)
class UnfoldedPatches(Backbone):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(16 * 4, 16)

    def body(self, x):
        patches = F.unfold(x, 2, stride=2).transpose(1, 2)
        return self.mix(patches).transpose(1, 2).unflatten(2, (8, 8)).relu()


@module(IMAGE)
class GridSample(Backbone):
    """A spatial transformer."""

    def __init__(self):
        super().__init__()
        self.where, self.after = nn.Linear(16, 6), block(16, 16)

    def body(self, x):
        theta = self.where(x.mean((2, 3))).view(-1, 2, 3)
        return self.after(
            F.grid_sample(x, F.affine_grid(theta, x.size(), align_corners=False), align_corners=False)
        )
