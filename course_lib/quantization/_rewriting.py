"""What a traced network spells in several calls, as one: what hands its input on, and the shuffle of channels."""

import inspect
import operator

import torch
import torch.nn.functional as F
from torch import fx, nn

_PASSED_ON = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
_DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout)
_CONCATENATE = (torch.cat, torch.concat, torch.concatenate)
_DEPTH = "torchvision.ops.stochastic_depth.stochastic_depth"  # whose import would take seconds


def without_identities(graph: fx.Graph, modules: dict[str, nn.Module]) -> None:
    """Take out of a graph what hands on its input as it is.

    That is dropout in evaluation mode, `contiguous()`, and one tensor that is concatenated with no other.
    """
    for node in graph.nodes:
        layer = modules[node.target] if node.op == "call_module" else None
        passes = type(layer) in _PASSED_ON and not (layer._forward_hooks or layer._forward_pre_hooks)
        passes |= node.target in _DROPOUTS and node.kwargs.get("training") is False
        passes |= node.op == "call_function" and _no_depth(node)
        passes |= node.op == "call_method" and node.target == "contiguous"
        passes |= node.target in _CONCATENATE and len(node.all_input_nodes) == len(node.args[0]) == 1
        if passes:
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph.erase_node(node)


def _no_depth(node: fx.Node) -> bool:
    """Whether this is stochastic depth, out of training."""
    if f"{getattr(node.target, '__module__', '')}.{getattr(node.target, '__name__', '')}" != _DEPTH:
        return False
    given = inspect.signature(node.target).bind(*node.args, **node.kwargs)
    return given.arguments.get("training") is False


def with_shuffles(graph: fx.Graph) -> None:
    """Put F.channel_shuffle in the place of reshaping to groups, transposing, and reshaping back."""
    for node in list(graph.nodes):
        found = _shuffle(node)
        if found is None:
            continue
        x, groups, between = found
        with graph.inserting_before(node):
            shuffled = graph.call_function(F.channel_shuffle, (x, groups))
        shuffled.meta = dict(node.meta)
        node.replace_all_uses_with(shuffled)
        for old in (node, *between):
            graph.erase_node(old)
    for node in reversed(list(graph.nodes)):  # sizes that nothing reads any more
        if node.target in ("size", getattr, operator.getitem, operator.floordiv) and not node.users:
            graph.erase_node(node)


def _shuffle(back: fx.Node) -> tuple[fx.Node, int, list[fx.Node]] | None:
    """The tensor that is shuffled, its groups, and the calls in between; None where `back` does not end a shuffle.

    Both shapes must be told by the sizes of that tensor: [N, groups, C / groups, H, W], and [N, C, H, W] again.
    """
    if not _reshapes(back) or not isinstance(back.args[0], fx.Node):
        return None
    turned = back.args[0]
    swaps = turned.target in (torch.transpose, "transpose") and set(turned.args[1:]) == {1, 2}
    if not swaps or turned.kwargs or len(turned.users) > 1 or not isinstance(turned.args[0], fx.Node):
        return None
    split = turned.args[0]
    if not _reshapes(split) or len(split.users) > 1 or not isinstance(split.args[0], fx.Node):
        return None
    x = split.args[0]
    there, again = ([_size(x, entry) for entry in _shape(node)] for node in (split, back))
    groups = there[1] if len(there) == 5 else None
    images, channels, *image = (("size", axis) for axis in range(4))
    if not isinstance(groups, int) or there[2] not in (("channels", groups), -1):
        return None
    if [there[0], *there[3:]] != [images, *image] or again not in (
        [images, channels, *image],
        [images, -1, *image],
    ):
        return None
    return x, groups, [turned, split]


def _reshapes(node: fx.Node) -> bool:
    return node.target in (torch.reshape, "view", "reshape") and not node.kwargs


def _shape(node: fx.Node) -> tuple:
    shape = node.args[1:]
    return tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape


def _size(x: fx.Node, entry: object) -> object:
    """An entry of a shape: a number, ("size", axis) of x, or ("channels", groups) for x.size(1) // groups."""
    if not isinstance(entry, fx.Node):
        return entry
    if entry.target is operator.floordiv and _size(x, entry.args[0]) == ("size", 1):
        return "channels", entry.args[1]
    if entry.target == "size":  # x.size(1)
        return ("size", entry.args[1]) if entry.args[0] is x and len(entry.args) == 2 else None
    if entry.target is not operator.getitem:
        return None
    sizes, axis = entry.args  # x.size()[1] or x.shape[1]
    whole = isinstance(sizes, fx.Node) and (
        (sizes.target == "size" and len(sizes.args) == 1)
        or (sizes.target is getattr and sizes.args[1] == "shape")
    )
    return ("size", axis) if whole and sizes.args[0] is x else None
