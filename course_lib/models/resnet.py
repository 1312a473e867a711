"""Residual networks for small images."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from course_lib.models.vgg import conv_bn_relu
from course_lib.validation import check_count


class BasicBlock(nn.Module):
    r"""Two 3x3 convolutions with a shortcut around them, which is a 1x1 convolution if the shapes differ.

    .. math:: y = \mathrm{relu}(\mathrm{bn}_2(\mathrm{conv}_2(\mathrm{relu}(\mathrm{bn}_1(\mathrm{conv}_1(x)))))
        + \mathrm{shortcut}(x))

    The 1x1 convolution is followed by a batch norm.

    Example:
        >>> BasicBlock(16, 16, 1).shortcut, BasicBlock(16, 32, 2).shortcut[0].kernel_size
        (Identity(), (1, 1))
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1, self.bn1, self.relu1 = conv_bn_relu(in_channels, out_channels, stride=stride)
        self.conv2, self.bn2, self.relu2 = conv_bn_relu(out_channels, out_channels)
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            projection = conv_bn_relu(in_channels, out_channels, kernel_size=1, stride=stride)
            self.shortcut = nn.Sequential(*projection[:2])

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C2 H2 W2"]:
        branch = self.relu1(self.bn1(self.conv1(x)))
        branch = self.bn2(self.conv2(branch))
        return self.relu2(branch + self.shortcut(x))


def resnet(
    in_channels: int = 1,
    widths: Sequence[int] = (16, 32, 64),
    blocks: Sequence[int] = (2, 2, 2),
    classes: int = 10,
) -> nn.Sequential:
    """The CIFAR form of ResNet: a 3x3 stem, stages of basic blocks that halve the image, average pooling, linear.

    With `blocks=(n, n, n)` it has 6n + 2 layers: ResNet-20 is n = 3, ResNet-56 is n = 9. The first stage keeps the size
    of the image; each later one halves it.

    Args:
        in_channels: C of the images.
        widths: channels of each stage.
        blocks: blocks in each stage.
        classes: number of classes, K.

    Raises:
        TypeError: a width or a number of blocks is not an int.
        ValueError: widths and blocks differ in length, are empty, or hold a number below 1.

    Example:
        >>> layers = resnet(blocks=(3, 3, 3)).modules()
        >>> 1 + sum(isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3) for layer in layers)
        20

    References:
        He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2.
    """
    if len(widths) != len(blocks) or not widths:
        raise ValueError(
            f"widths {tuple(widths)} and blocks {tuple(blocks)} must name the same stages, at least one."
        )
    layers = conv_bn_relu(in_channels, check_count(widths[0], "width"))
    channels = widths[0]
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        for block in range(check_count(count, "blocks")):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(BasicBlock(channels, check_count(width, "width"), stride))
            channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
