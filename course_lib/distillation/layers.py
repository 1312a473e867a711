"""What named layers of a network put out, noted while it runs."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor, nn

from course_lib.validation import check_model, unknown_name


@contextlib.contextmanager
def captured(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Note the outputs of named layers at each call of a model, for losses between features.

    Within the block, the dictionary holds the outputs of the latest call. Gradients flow through them as they do
    through the model. They are copies: a later layer that works in place, such as nn.ReLU(inplace=True), does not
    change them. At the end the hooks are removed, and the model is as it was; what was noted last stays in the
    dictionary.

    Args:
        model: the network, in the mode it is to be called in.
        names: of layers, as in `model.named_modules()`.

    Yields:
        {name: output} in the order of the names; empty before the first call.

    Raises:
        TypeError: model is not an nn.Module, names is no list of names, or a layer puts out something else than a
            tensor.
        KeyError: there is no layer of that name; the message lists the nearest ones.
        ValueError: names is empty or names one twice; or a layer is called more than once in a call of the model, so
            that it has no one output.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
        >>> with captured(model, ["0"]) as features:
        ...     logits = model(model[0].weight)
        >>> features["0"].shape, model[0]._forward_hooks
        (torch.Size([4, 4]), OrderedDict())
    """
    layers = _layers(check_model(model), names)
    noted: dict[str, Tensor] = {}
    with contextlib.ExitStack() as hooks:
        hooks.callback(model.register_forward_pre_hook(lambda *_: noted.clear()).remove)
        for name, layer in layers.items():
            hooks.callback(layer.register_forward_hook(_note(name, noted)).remove)
        yield noted


def _note(name: str, noted: dict[str, Tensor]) -> Callable[..., None]:
    def hook(layer: nn.Module, inputs: tuple, output: object) -> None:
        if not isinstance(output, Tensor):
            raise TypeError(
                f"the layer {name!r} puts out a {type(output).__name__}; it must be a tensor. Name a layer inside."
            )
        if name in noted:
            raise ValueError(
                f"the layer {name!r} is called more than once in one call of the model, so that it has no one output. "
                "Name the layer before or after it, or a block around it."
            )
        noted[name] = output.clone()

    return hook


def _layers(model: nn.Module, names: object) -> dict[str, nn.Module]:
    if not isinstance(names, list | tuple):
        raise TypeError(
            f"names is {names!r:.60} ({type(names).__name__}); it must be a list of names of layers, such as "
            '["layer1", "layer2"], as in model.named_modules().'
        )
    if not names or len(set(map(str, names))) < len(names):
        raise ValueError(f"names is {names!r:.80}; it must hold one name at least, and each once.")
    modules = {name: layer for name, layer in model.named_modules() if name}
    for name in names:
        if not isinstance(name, str) or name not in modules:
            raise KeyError(unknown_name(name, "layer", modules))
    return {name: modules[name] for name in names}
