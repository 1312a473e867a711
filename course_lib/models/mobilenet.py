"""MobileNetV1 for small images."""

from collections.abc import Sequence

from torch import nn

from course_lib.models.vgg import conv_bn_relu
from course_lib.validation import check_count


def mobilenet(
    in_channels: int = 1,
    stem: int = 32,
    widths: Sequence[tuple[int, int]] = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1)),
    classes: int = 10,
) -> nn.Sequential:
    """A 3x3 stem, then depthwise separable blocks: a 3x3 convolution a channel, a 1x1 convolution across them.

    Args:
        in_channels: C of the images.
        stem: channels of the first convolution.
        widths: (output channels, stride) of each block.
        classes: number of classes, K.

    Raises:
        TypeError: a width or stride is not an int.
        ValueError: a width or stride is below 1.

    Example:
        >>> block = mobilenet(widths=[(64, 2)])[3]
        >>> [(layer.kernel_size, layer.groups) for layer in block if isinstance(layer, nn.Conv2d)]
        [((3, 3), 32), ((1, 1), 1)]

    References:
        Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017.
    """
    layers = conv_bn_relu(in_channels, check_count(stem, "stem"))
    channels = stem
    for width, stride in widths:
        depthwise = conv_bn_relu(channels, channels, stride=check_count(stride, "stride"), groups=channels)
        pointwise = conv_bn_relu(channels, check_count(width, "width"), kernel_size=1)
        layers.append(nn.Sequential(*depthwise, *pointwise))
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
