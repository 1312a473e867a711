"""Plain networks for small images, and EfficientNet-Lite0 for photographs, with ImageNet weights.

Inputs are float [N, C, H, W] in [0, 1]; outputs are logits [N, K].
"""

import inspect

import torch
from torch import nn

from course_lib.models.convnets import convnet_student, convnet_teacher
from course_lib.models.efficientnet_lite import MBConv, efficientnet_lite0
from course_lib.models.mlp import mlp
from course_lib.models.mobilenet import mobilenet
from course_lib.models.resnet import BasicBlock, resnet
from course_lib.models.vgg import vgg
from course_lib.validation import check_choice, check_count

_BUILDERS = {
    function.__name__: function
    for function in (mlp, convnet_teacher, convnet_student, vgg, resnet, mobilenet, efficientnet_lite0)
}
NAMES = tuple(_BUILDERS)

__all__ = [
    "NAMES",
    "BasicBlock",
    "MBConv",
    "build",
    "convnet_student",
    "convnet_teacher",
    "efficientnet_lite0",
    "mlp",
    "mobilenet",
    "resnet",
    "vgg",
]


def build(name: str, *, seed: int = 0, **options: object) -> nn.Module:
    """Build a network by name with initial weights that depend on the seed alone.

    Args:
        name: one of NAMES.
        seed: of the initial weights; the global random state is left as it was.
        options: of the builder: `in_channels`, `classes`, widths and so on.

    Returns:
        The network, in train mode, on the CPU.

    Raises:
        KeyError: the name is unknown; the message lists the nearest ones.
        TypeError: the builder does not take an option; the message lists those it takes.

    Example:
        >>> first, second = build("mlp", seed=1, image_size=28), build("mlp", seed=1, image_size=28)
        >>> torch.equal(first[1].weight, second[1].weight), first[1].weight.shape
        (True, torch.Size([128, 784]))
    """
    builder = _BUILDERS[check_choice(name, "model", NAMES, error=KeyError)]
    check_count(seed, "seed", low=0)
    for option in options:
        check_choice(option, f"option of {name}", inspect.signature(builder).parameters, error=TypeError)
    for option in {"in_channels", "classes"} & options.keys():
        check_count(options[option], option)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return builder(**options)
