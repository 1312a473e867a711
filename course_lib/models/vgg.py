"""VGG with batch normalisation for small images."""

from collections.abc import Sequence

from torch import nn

from course_lib.validation import check_count, check_number


def vgg(
    in_channels: int = 1,
    widths: Sequence[int | str] = (32, 32, "M", 64, 64, "M", 128, 128),
    classes: int = 10,
    gamma: float = 1.0,
) -> nn.Sequential:
    """3x3 convolutions with batch norm and ReLU, max pooling at each "M", global average pooling, one linear layer.

    Args:
        in_channels: C of the images.
        widths: output channels of each convolution, and "M" where the image is halved.
        classes: number of classes, K.
        gamma: initial scale of every batch norm; network slimming starts from 0.5.

    Raises:
        TypeError: gamma is not a number.
        ValueError: a width is neither a positive int nor "M", there is no convolution, or gamma is not finite.

    Example:
        >>> [type(layer).__name__ for layer in vgg(widths=(8, "M"))]
        ['Conv2d', 'BatchNorm2d', 'ReLU', 'MaxPool2d', 'AdaptiveAvgPool2d', 'Flatten', 'Linear']

    References:
        Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015
        (configuration); Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing
        Internal Covariate Shift", ICML 2015 (batch norm); Liu et al., "Learning Efficient Convolutional Networks
        through Network Slimming", ICCV 2017 (gamma).
    """
    check_number(gamma, "gamma")
    layers: list[nn.Module] = []
    channels = in_channels
    for width in widths:
        if width == "M":
            layers.append(nn.MaxPool2d(2))
            continue
        if not isinstance(width, int):
            raise ValueError(f'widths holds {width!r}; it takes numbers of channels and "M" for a pooling.')
        layers += conv_bn_relu(channels, check_count(width, "width"))
        channels = width
    if channels == in_channels and not any(isinstance(layer, nn.Conv2d) for layer in layers):
        raise ValueError(f"widths is {tuple(widths)!r}; a VGG needs at least one convolution.")
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.constant_(layer.weight, gamma)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def conv_bn_relu(
    in_channels: int, out_channels: int, *, kernel_size: int = 3, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Make a convolution (without bias: batch norm has one), a batch norm and a ReLU; stride 1 keeps the image size.

    Example:
        >>> [type(layer).__name__ for layer in conv_bn_relu(3, 8)]
        ['Conv2d', 'BatchNorm2d', 'ReLU']
    """
    return [
        nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=kernel_size // 2,
            groups=groups,
            bias=False,
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]
