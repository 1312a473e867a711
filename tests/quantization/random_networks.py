"""Random networks to quantize, from a seed: of 2 to 15 layers, with everything that the table of operations knows.

Each is an nn.Sequential of the blocks below, so that printing it says what it computes.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.quantization.networks import shaken

COUNT = 10  # images of a network
LARGEST = 400  # values of an image that is flattened
LAYERS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


# ---- blocks --------------------------------------------------------------------------------------------------------


class Do(nn.Module):
    """A function of one tensor, by its name."""

    def __init__(self, name: str, *options: object):
        super().__init__()
        self.name, self.options = name, options

    def forward(self, x: Tensor) -> Tensor:
        return FUNCTIONS[self.name](x, *self.options)

    def extra_repr(self) -> str:
        return ", ".join(str(option) for option in (self.name, *self.options))


def _by_views(x: Tensor, groups: int) -> Tensor:
    count, channels, height, width = x.size()
    x = x.view(count, groups, channels // groups, height, width)
    return torch.transpose(x, 1, 2).contiguous().view(count, channels, height, width)


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "clamp": lambda x, high: x.clamp(0, high),
    "clamp_min": lambda x: torch.clamp(x, min=0),
    "hardtanh": lambda x, high: F.hardtanh(x, 0.0, high),
    "silu": F.silu,
    "hardswish": F.hardswish,
    "sigmoid": torch.sigmoid,
    "hardsigmoid": F.hardsigmoid,
    "leaky_relu": F.leaky_relu,
    "pad": F.pad,
    "shuffle": F.channel_shuffle,
    "shuffle_by_views": _by_views,
    "mean": lambda x: x.mean((2, 3)),
    "mean_keepdim": lambda x: x.mean([2, 3], keepdim=True),
    "view": lambda x: x.view(x.size(0), -1),
    "flatten": lambda x: torch.flatten(x, 1),
}


class Residual(nn.Module):
    """The sum, difference or product of what two branches give; no branch is the input itself."""

    def __init__(self, how: str, body: nn.Module, shortcut: nn.Module):
        super().__init__()
        self.how, self.body, self.shortcut = how, body, shortcut

    def forward(self, x: Tensor) -> Tensor:
        y, x = self.body(x), self.shortcut(x)
        if self.how == "+=":
            y += x
            return y
        return {
            "+": lambda: x + y,
            "torch.add": lambda: torch.add(y, x),
            "-": lambda: x - y,
            "*": lambda: y * x,
        }[self.how]()

    def extra_repr(self) -> str:
        return self.how


class Concatenated(nn.Module):
    def __init__(self, branches: Sequence[nn.Module]):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Split(nn.Module):
    """The channels in two parts, each with a branch of its own, and concatenated again."""

    def __init__(self, sizes: tuple[int, int], how: str, first: nn.Module, second: nn.Module):
        super().__init__()
        self.sizes, self.how = sizes, how
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "chunk":
            a, b = x.chunk(2, 1)
        elif self.how == "split":
            a, b = torch.split(x, list(self.sizes), 1)
        else:
            a, b = x[:, : self.sizes[0]], x[:, self.sizes[0] :]
        return torch.cat([self.first(a), self.second(b)], 1)

    def extra_repr(self) -> str:
        return f"{self.how} {self.sizes}"


class Excited(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int, inner: int, inside: nn.Module, gate: nn.Module):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.down, self.up = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)
        self.inside, self.gate = inside, gate

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.up(self.inside(self.down(self.pool(x)))))


# ---- the generator -------------------------------------------------------------------------------------------------


class Generator:
    """Grows a network block by block, and knows the shape of what it gives.

    Attributes:
        layers: how many convolutions and linear layers may still come.
        inexact: whether there is average pooling or a transposed convolution, which ONNX Runtime computes otherwise.
        shape: [C, H, W], or [C, L].
    """

    def __init__(self, rng: np.random.Generator, most: int):
        self.rng = rng
        self.layers = self.pick(*range(2, most + 1))
        self.sequence, self.inexact = self.often(0.1), self.often(0.3)
        channels, size = self.pick(1, 3), [self.pick(*range(7, 18)) for _ in range(2)]
        self.shape = (channels, 3 * size[0]) if self.sequence else (channels, *size)

    def pick(self, *values):
        return values[self.rng.integers(len(values))]

    def often(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def network(self) -> nn.Sequential:
        blocks = [self.grown(self.convolution)]
        kinds = self.of_sequences() if self.sequence else self.of_images()
        while self.layers > 1 or (self.often(0.5) and len(blocks) < 20):
            blocks.append(self.grown(self.pick(*kinds)))
        return nn.Sequential(*blocks, *self.head())

    def of_sequences(self) -> list[Callable[[], nn.Module]]:
        return [
            self.convolution,
            self.convolution,
            self.activation,
            self.residual,
            self.concatenated,
            self.max_pool,
        ]

    def of_images(self) -> list[Callable[[], nn.Module]]:
        plain = [self.convolution] * 4 + [self.residual] * 3 + [self.concatenated] * 2
        rare = [
            self.split,
            self.excited,
            self.max_pool,
            self.padded,
            self.shuffled,
            self.activation,
            self.norm,
        ]
        return [*plain, *rare, *[self.avg_pool, self.transposed] * (2 * self.inexact)]

    def grown(self, build: Callable[[], nn.Module]) -> nn.Module:
        """The block, with the shape that it gives; another one where nothing would be left of the image."""
        before = self.shape
        while True:
            try:
                block = build()
                self.shape = self.given(block, before)
            except RuntimeError:
                self.shape = before
                build = self.activation
                continue
            if math.prod(self.shape) <= 4000:
                return block
            self.shape, build = before, self.max_pool

    @staticmethod
    def given(block: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
        with torch.no_grad():
            found = tuple(block.eval()(torch.zeros(2, *shape)).shape[1:])
        if 0 in found:
            raise RuntimeError("nothing is left of the image")
        return found

    # ---- layers ----------------------------------------------------------------------------------------------------

    def convolution(
        self, channels: int | None = None, *, same: bool = False, outputs: int | None = None
    ) -> nn.Module:
        """A convolution, most often with a batch norm and an activation function."""
        channels = channels or self.shape[0]
        self.layers -= 1
        layer = self.kernel(channels, same, outputs)
        parts = [layer]
        if self.often(0.5):
            kind = nn.BatchNorm1d if self.sequence else nn.BatchNorm2d
            parts.append(kind(layer.out_channels, affine=self.often(0.9)))
        if self.often(0.7):
            parts.append(self.activation())
        return parts[0] if len(parts) == 1 else nn.Sequential(*parts)

    def kernel(self, channels: int, same: bool, outputs: int | None) -> nn.Module:
        """A convolution that is dense, grouped or depthwise; `same`: of the size of its input."""
        axes = 1 if self.sequence else 2
        shares = [n for n in range(2, channels + 1) if channels % n == 0]
        kind = self.pick("dense", "dense", "grouped", "depthwise")
        groups = (
            1 if kind == "dense" or not shares else channels if kind == "depthwise" else self.pick(*shares)
        )
        if outputs is None:
            outputs = groups * self.pick(1, 1, 2) if kind == "depthwise" else groups * self.pick(1, 2, 3)
            outputs = min(
                max(outputs, self.pick(4, 6, 8) // groups * groups, groups), 24 // groups * groups or groups
            )
        elif outputs % groups:
            groups = 1
        size = tuple(self.pick(1, 2, 3, 3, 5) for _ in range(axes))
        size = (size[0],) * axes if self.often(0.7) else size
        gap = tuple(self.pick(1, 1, 1, 2, 3) for _ in range(axes))
        if same:
            odd = all(g * (k - 1) % 2 == 0 for g, k in zip(gap, size, strict=True))
            padding = (
                "same"
                if self.often(0.5) or not odd
                else tuple(g * (k - 1) // 2 for g, k in zip(gap, size, strict=True))
            )
            stride = (1,) * axes
        else:
            padding = tuple(self.pick(0, g * (k - 1) // 2, k // 2) for g, k in zip(gap, size, strict=True))
            stride = tuple(self.pick(1, 1, 1, 2) for _ in range(axes))
            if any(
                side + 2 * p < g * (k - 1) + 1
                for side, p, g, k in zip(self.shape[1:], padding, gap, size, strict=True)
            ):
                size, gap, padding = (1,) * axes, (1,) * axes, (0,) * axes
        convolve = nn.Conv1d if self.sequence else nn.Conv2d
        return convolve(
            channels,
            outputs,
            size,
            stride,
            padding,
            dilation=gap,
            groups=groups,
            bias=self.often(0.7),
        )

    def transposed(self) -> nn.Module:
        self.layers -= 1
        channels = self.shape[0]
        groups = self.pick(*[n for n in (1, 1, 2, channels) if channels % n == 0])
        outputs, stride = groups * self.pick(1, 2), self.pick(1, 2)
        layer = nn.ConvTranspose2d(
            channels,
            outputs,
            self.pick(2, 3),
            stride,
            padding=self.pick(0, 1),
            output_padding=self.pick(0, stride - 1),
            groups=groups,
            bias=self.often(0.7),
        )
        parts = [nn.BatchNorm2d(outputs)] if self.often(0.4) else []
        return nn.Sequential(layer, *parts, *([self.activation()] if self.often(0.6) else []))

    def activation(self) -> nn.Module:
        if self.often(0.5):
            return self.pick(
                nn.ReLU(),
                nn.ReLU(inplace=True),
                Do("relu"),
                nn.ReLU6(),
                Do("relu6"),
                Do("clamp", self.pick(0.7, 3, 6)),
            )
        return self.pick(
            nn.SiLU(),
            nn.Hardswish(),
            nn.Sigmoid(),
            nn.Hardsigmoid(),
            nn.LeakyReLU(self.pick(0.01, 0.2)),
            nn.LeakyReLU(),
            Do("silu"),
            Do("hardswish"),
            Do("sigmoid"),
            Do("hardsigmoid"),
            Do("leaky_relu", 0.1),
            Do("clamp_min"),
            Do("hardtanh", self.pick(0.5, 4.0)),
            nn.Hardtanh(0, 2),
        )

    # ---- blocks ----------------------------------------------------------------------------------------------------

    def branch(self, channels: int, outputs: int) -> nn.Module:
        """One convolution or two that keep the size."""
        first = self.convolution(channels, same=True, outputs=outputs)
        if self.often(0.6):
            return first
        return nn.Sequential(first, self.convolution(outputs, same=True, outputs=outputs))

    def residual(self) -> nn.Module:
        channels = self.shape[0]
        outputs = channels if self.often(0.7) else self.pick(4, 6, 8)
        straight = outputs == channels and self.often(0.8)
        shortcut = nn.Identity() if straight else self.convolution(channels, same=True, outputs=outputs)
        block = Residual(
            self.pick("+", "+", "+=", "torch.add", "-", "*"), self.branch(channels, outputs), shortcut
        )
        return nn.Sequential(block, self.activation()) if self.often(0.5) else block

    def concatenated(self) -> nn.Module:
        channels = self.shape[0]
        branches = [self.branch(channels, self.pick(2, 3, 4))]
        if not self.sequence and self.often(0.4):
            branches.append(nn.MaxPool2d(3, 1, 1))
        if self.often(0.5):
            branches.append(nn.Identity())
        if len(branches) == 1 or self.often(0.3):
            branches.append(self.branch(channels, self.pick(2, 3, 4)))
        block = Concatenated([branches[place] for place in self.rng.permutation(len(branches))])
        if not self.sequence and self.often(0.3):
            return nn.Sequential(block, nn.BatchNorm2d(self.given(block, self.shape)[0]), self.activation())
        return block

    def split(self) -> nn.Module:
        channels = self.shape[0]
        if channels < 2:
            return self.convolution()
        how = self.pick("chunk", "split", "slice")
        first = (channels + 1) // 2 if how == "chunk" else self.pick(*range(1, channels))
        sizes = first, channels - first
        ends = [self.pick(nn.Identity(), self.activation()), self.branch(sizes[1], self.pick(sizes[1], 4))]
        return Split(sizes, how, *ends)

    def excited(self) -> nn.Module:
        self.layers -= 2
        inside, gate = (
            self.pick(nn.ReLU(), nn.SiLU(), Do("hardswish")),
            self.pick(nn.Sigmoid(), nn.Hardsigmoid()),
        )
        return Excited(self.shape[0], self.pick(2, 4), inside, gate)

    def max_pool(self) -> nn.Module:
        size = self.pick(2, 3)
        options = {"padding": self.pick(0, 1), "ceil_mode": self.often(0.4)}
        return (nn.MaxPool1d if self.sequence else nn.MaxPool2d)(size, self.pick(1, 2, size), **options)

    def avg_pool(self) -> nn.Module:
        size = self.pick(2, 3)
        return nn.AvgPool2d(size, self.pick(1, 2), self.pick(0, 1))

    def padded(self) -> nn.Module:
        ends = tuple(self.pick(0, 1, 2) for _ in range(4))
        value = self.pick(-1.5, 0.5, 3.0)
        return self.pick(
            nn.ZeroPad2d(ends),
            nn.ConstantPad2d(ends, value),
            Do("pad", ends),
            Do("pad", ends, "constant", value),
        )

    def shuffled(self) -> nn.Module:
        shares = [n for n in range(2, self.shape[0]) if self.shape[0] % n == 0]
        if not shares:
            return self.activation()
        groups = self.pick(*shares)
        return self.pick(nn.ChannelShuffle(groups), Do("shuffle", groups), Do("shuffle_by_views", groups))

    def norm(self) -> nn.Module:
        return nn.BatchNorm2d(self.shape[0])

    def head(self) -> list[nn.Module]:
        """From images to logits."""
        channels, classes = self.shape[0], self.pick(3, 5, 10)
        if math.prod(self.shape) <= LARGEST and self.often(0.3):
            flat, features = [self.pick(nn.Flatten(), Do("view"), Do("flatten"))], math.prod(self.shape)
        elif self.sequence:
            flat, features = [nn.AdaptiveAvgPool1d(1), nn.Flatten()], channels
        else:
            flat, features = (
                list(
                    self.pick(
                        (nn.AdaptiveAvgPool2d(1), nn.Flatten()),
                        (Do("mean"),),
                        (Do("mean_keepdim"), nn.Flatten()),
                    )
                ),
                channels,
            )
            if self.often(0.15):
                return [nn.Conv2d(channels, classes, 1, bias=self.often(0.7)), *flat]
        if self.often(0.3):
            flat += [nn.Linear(features, 12, bias=self.often(0.6))]
            flat += [nn.BatchNorm1d(12)] if self.often(0.4) else []
            flat += [self.pick(nn.ReLU(), nn.SiLU(), nn.Dropout())]
            features = 12
        return [*flat, nn.Linear(features, classes, bias=self.often(0.8))]


def random_network(seed: int, most: int = 15) -> tuple[nn.Sequential, Tensor]:
    """The network of a seed in evaluation mode, and images for it: uint8, or float32 as if normalised."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rng = np.random.default_rng(seed)
        while True:
            grower = Generator(rng, most)
            shape = grower.shape
            model = shaken(grower.network(), seed)
            if sum(isinstance(module, LAYERS) for module in model.modules()) <= most:
                break  # the last block may have several
        _disturb(model, grower)
        images = torch.randint(0, 256, (COUNT, *shape), dtype=torch.uint8)
    return model, images.float() / 58 - 2.1 if grower.often(0.3) else images


def _disturb(model: nn.Module, grower: Generator) -> None:
    """Large biases and dead channels, in some layers."""
    for module in model.modules():
        if not isinstance(module, LAYERS):
            continue
        with torch.no_grad():
            module.weight.mul_(grower.pick(1.0, 1.0, 2.0, 4.0))
            if grower.often(0.2):
                module.weight[grower.rng.integers(len(module.weight))] = 0
            if module.bias is not None and grower.often(0.2):
                module.bias.mul_(grower.pick(10.0, 100.0))
            if grower.often(0.03):
                module.weight.mul_(1e-9)
