"""The teacher and the student of many distillation tutorials: two convolutions and two wide layers, or one filter."""

from jaxtyping import Float
from torch import Tensor, nn

from course_lib.validation import check_count


class _ConvnetTeacher(nn.Module):
    """The network of `convnet_teacher`."""

    def __init__(
        self, in_channels: int, image_size: int, channels: tuple[int, int], hidden: int, classes: int
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        self.conv2 = nn.Conv2d(channels[0], channels[1], 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.relu = nn.ReLU()
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(channels[1] * (image_size // 4) ** 2, hidden)
        self.dropout = nn.Dropout(0.5)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N K"]:
        x = self.pool(self.relu(self.conv1(images)))  # [N, 64, H/2, W/2]
        x = self.pool(self.relu(self.conv2(x)))  # [N, 128, H/4, W/4]
        x = self.dropout(self.fc1(self.flatten(x)))  # [N, 1024]
        return self.fc2(x)


class _ConvnetStudent(nn.Module):
    """The network of `convnet_student`."""

    def __init__(self, in_channels: int, image_size: int, filters: int, patch: int, classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, filters, patch, stride=patch)
        self.relu = nn.ReLU()
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(filters * (image_size // patch) ** 2, classes)

    def forward(self, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N K"]:
        x = self.relu(self.conv1(images))  # [N, filters, H/patch, W/patch]
        return self.fc1(self.flatten(x))


def convnet_teacher(
    in_channels: int = 1,
    image_size: int = 28,
    channels: tuple[int, int] = (64, 128),
    hidden: int = 1024,
    classes: int = 10,
) -> nn.Module:
    """Two 3x3 convolutions, each with max pooling, then two linear layers with dropout between them.

    As in the source document there is no activation after the first linear layer. There, though, dropout was called
    as a function without `training=`, and so also fell on the test images; here it is a module that eval() stops.

    Args:
        in_channels: C of the images.
        image_size: H and W of the images, at least 4.
        channels: filters of the two convolutions.
        hidden: width of the first linear layer.
        classes: number of classes, K.

    Raises:
        TypeError: image_size is not an int.
        ValueError: image_size is below 4.

    Example:
        >>> sum(parameter.numel() for parameter in convnet_teacher().parameters())
        6508298
    """
    check_count(image_size, "image_size", low=4)
    return _ConvnetTeacher(in_channels, image_size, channels, hidden, classes)


def convnet_student(
    in_channels: int = 1, image_size: int = 28, filters: int = 1, patch: int = 7, classes: int = 10
) -> nn.Module:
    """One convolution over non-overlapping patches, then one linear layer: 220 parameters on MNIST by default.

    Args:
        in_channels: C of the images.
        image_size: H and W of the images.
        filters: of the convolution.
        patch: kernel size and stride, in pixels.
        classes: number of classes, K.

    Raises:
        TypeError: filters or patch is not an int.
        ValueError: filters is below 1, or patch is not from 1 to image_size.

    Example:
        >>> sum(parameter.numel() for parameter in convnet_student().parameters())
        220
    """
    check_count(filters, "filters")
    check_count(patch, "patch", high=image_size)
    return _ConvnetStudent(in_channels, image_size, filters, patch, classes)
