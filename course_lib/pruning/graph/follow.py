"""Find the channels of a network that must be removed together, by following every channel through it.

The network is run once on an example. Every output channel of a convolution or linear layer gets a number of its own,
its label, and beside each tensor goes a small tensor of labels that says which channel each of its elements belongs to.
A permutation permutes the labels, a flattening repeats them, a concatenation concatenates them. An addition ties the
labels that meet in it; a convolution that reads them is recorded as their consumer. Channels with tied labels must go
together. Channels that enter an operation that the table of rules does not know have to stay, and so do those that are
known to be mixed (a softmax over them, a slice at a fixed place). Nothing is guessed.
"""

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from course_lib import tracing
from course_lib.pruning.graph._run import Stopped, _Follower
from course_lib.pruning.graph.channels import Channels, _structure
from course_lib.pruning.graph.ties import ChannelGroup, _Ties
from course_lib.tracing import Example


def follow(model: nn.Module, example: Example) -> Channels:
    """Follow every channel through a network; pass the result to the other functions of this package.

    `filter_plan`, `remove_channels` and the others take it in place of `example`, as long as the structure of the
    network stays the same; they follow the network anew each time otherwise. The values of the example do not matter,
    and one image is enough. Where forward() looks at the mode, it is run a second time for the branches of train mode.

    Channels that enter an operation that is not known stay, and the layers that compute them are in `fixed`, each with
    the operation, its place in the code of the network, and what to do. An `if` on a shape goes the way it
    goes for this example, and arguments that are not given have their defaults.

    Args:
        model: network; it and its mode are left as they were.
        example: input [N, ...] of the dtype and on the device that the model runs on; a tuple of inputs for
            `model(*example)`, or a dict for `model(**example)`.

    Returns:
        The groups of channels that can be removed (see `channel_groups`), and the reason for those that cannot.

    Raises:
        TypeError: `model` is not an nn.Module, or `example` not a tensor, tuple or dict of tensors.
        ValueError: the model does not accept the example, or its forward() decides by the values of a tensor which
            layers it runs; the message says where.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
        >>> follow(model, torch.rand(1, 1, 8, 8)).fixed
        {'2': "they are the network's output"}
    """
    with tracing.alone():  # so that nothing happens to the model between the two
        groups, reasons = _find(model, example)
        structure = _structure(model)
    return Channels(
        groups,
        reasons,
        tree_map(lambda t: torch.empty_like(t, device="meta") if isinstance(t, Tensor) else t, example),
        structure,
    )


def channel_groups(model: nn.Module, example: Example) -> list[ChannelGroup]:
    """Find the groups of channels of a network that can be removed.

    Tied together are channels that meet in an addition or another element-wise operation of two tensors (residual
    connections, squeeze-and-excitation), that a depthwise convolution hands on, that stand at the same place in the
    groups of a grouped convolution, of a group norm or of a channel shuffle, and channel i of every call of one layer.
    Multi-head attention goes by whole heads. The channels of the network's output are in no group, and neither are
    those tied to its input, to a constant, to a fixed number in the code of a forward(), or to an operation that is not
    known. Branches that run in train mode alone, such as auxiliary classifiers, are followed too.

    Layer norm and group norm compute mean and deviation over the channels that are there. Removing channels in front
    of one therefore changes its result also for those that stay, unlike removing channels in front of a batch norm.

    Args:
        model, example: as in `follow`.

    Returns:
        The groups, in the order in which the network computes them. Groups of one unit are among them, although
        nothing can be removed from them: the last unit of a group has to stay.

    Raises:
        TypeError, ValueError: as `follow`.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3))
        >>> [group] = channel_groups(model, torch.rand(1, 1, 8, 8))
        >>> group.size, [axis.layer for axis in group.axes]
        (4, ['0', '2', '1'])

    References:
        Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023 (groups of dependent layers; the labels are
        our own way to find them).
    """
    return _find(model, example)[0]


def _find(model: nn.Module, example: Example) -> tuple[list[ChannelGroup], dict[str, str]]:
    """The groups, and for each layer with channels in none of them the reason."""
    tracing.check(model, example)
    ties = _Ties(model)
    # One at a time: while a model is lent, its mode is not its own, and other threads may share it.
    with tracing.alone(), tracing.borrowed(model):
        if _follow_eval_mode(model, example, ties):
            _follow_train_mode(model, example, ties)
    ties.settle()
    return ties.groups()


def _follow_eval_mode(model: nn.Module, example: Example, ties: _Ties) -> bool:
    """Follow the network; say whether its forward() looks at the train/eval mode."""
    try:
        return _Follower(model, ties).follow(example)
    except Stopped:
        raise
    except Exception as error:
        tracing.run(model, example)  # says what is wrong with the example
        raise ValueError(
            f"the model runs on the example, but not while it is followed: {type(error).__name__}: {error}. Rewrite "
            "that part, or prune the parts of the model that are free of it one by one."
        ) from error


def _follow_train_mode(model: nn.Module, example: Example, ties: _Ties) -> None:
    """Follow what a forward() does in train mode alone; batch norms go on with their running statistics."""
    for module in model.modules():
        module.training = True
    try:
        _Follower(model, ties).follow(example)
    except Stopped:
        raise
    except Exception as error:
        raise ValueError(
            f"the branches that the model has in train mode alone do not run on an example of shape "
            f"{tracing.shapes(example)}: {str(error).splitlines()[0]}. Pass an example as large as those the model "
            "is trained on, or take the branches out."
        ) from error
    finally:
        for module in model.modules():
            module.training = False


def _known(model: nn.Module, example: Example | Channels) -> tuple[list[ChannelGroup], dict[str, str]]:
    """What `_find` gives, from channels where they are given in place of an example."""
    if isinstance(example, Channels):
        example.check(model)
        return example.groups, example.fixed
    return _find(model, example)


def _followed(model: nn.Module, example: Example | Channels) -> Channels:
    """The same as channels, to be handed on."""
    if isinstance(example, Channels):
        example.check(model)
        return example
    return follow(model, example)


def _input(model: nn.Module, example: Example | Channels) -> Example:
    """The example, or one like that of the channels that are given in its place."""
    return example.zeros(model) if isinstance(example, Channels) else example
