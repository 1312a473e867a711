"""Inspecting a caller's network without changing it: evaluation for a block, and tracing with torch.fx."""

import contextlib
import itertools
import operator
import threading
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from course_lib.validation import check_model, described

_LOCK = threading.RLock()  # torch.fx changes nn.Module while it traces, for every thread of the process

_Container = dict | list | set | deque
_EMPTY: _Container = {}  # one for all the hooks that there are not
_HOLDERS = (dict, list, set, deque, tuple, Tensor)
OF_ALL = frozenset(vars(nn.Module()))  # what every module has: mode, hooks, parameters and the like


Example = Tensor | tuple | dict
"""One input of a network, or several: a tuple is called as `model(*example)`, a dict as `model(**example)`."""


def check(model: object, example: object, *, one: bool = False, plain: bool = True) -> None:
    """Check that `model` is a network with values, and `example` a tensor, or several, on its device.

    Args:
        model: as `check_network` takes it.
        example: a tensor [N, ...]; or a tuple or dict with at least one, as `call` takes it.
        one: whether a single tensor is all that the caller can deal with.
        plain: as in `check_network`.

    Raises:
        TypeError: as `check_network`; or `example` holds no tensor.
        ValueError: as `check_network`; or a tensor of the example is empty or on another device.

    Example:
        >>> check(nn.ReLU(), torch.rand(2, 3))  # both are right, so nothing is raised
    """
    tensors = check_network(model, plain=plain)
    inputs = _inputs(example, one)
    for name, tensor in inputs.items():
        if tensor.is_nested or tensor.ndim == 0 or tensor.numel() == 0:
            shape = "is nested" if tensor.is_nested else f"has shape {list(tensor.shape)}"
            raise ValueError(
                f"{name} {shape}; it must be [N, ...] with every size at least 1. Pass a batch of one image or more."
            )
    if any(tensor.device.type == "meta" for tensor in inputs.values()):
        raise ValueError(_META.format("example"))
    devices = {tensor.device for tensor in tensors}
    for name, tensor in inputs.items():
        if devices and tensor.device not in devices:
            names = ", ".join(sorted(str(device) for device in devices))
            raise ValueError(
                f"{name} is on {tensor.device} and the model on {names}; they must be on one device. Write "
                f"{name}.to(next(model.parameters()).device)."
            )


def check_network(model: object, *, plain: bool = True) -> list[Tensor]:
    """Check that `model` is a network whose tensors hold values; return its parameters and buffers.

    Args:
        model: a torch.nn.Module.
        plain: whether a network inside of a wrapper (torch.nn.DataParallel, torch.compile, TorchScript) is refused:
            what its layers do cannot be seen.

    Raises:
        TypeError: `model` is not an nn.Module, or one inside of a wrapper.
        ValueError: its tensors hold no values yet, or are nested ones.

    Example:
        >>> check_network(nn.PReLU())
        [Parameter containing:
        tensor([0.2500], requires_grad=True)]
    """
    check_model(model)
    layers = dict(model.named_modules())
    if plain and (wrapped := _wrapped(model, layers)):
        raise TypeError(f"model is {wrapped}")
    named = {
        f"{prefix}.{name}" if prefix else name: tensor
        for prefix, layer in layers.items()
        for name, tensor in itertools.chain(layer._parameters.items(), layer._buffers.items())
        if tensor is not None
    }
    if any(is_lazy(tensor) for tensor in named.values()):
        raise ValueError(
            "the model must be complete, and has lazy layers whose parameters have no shape yet. Call model(example) "
            "once, then try again."
        )
    if nested := next((name for name, tensor in named.items() if tensor.is_nested), None):
        raise ValueError(
            f"the weight {nested!r} of the model is a nested tensor, which has no one shape; it must be a plain one. "
            "Give the layer a torch.nn.Parameter of a dense tensor."
        )
    if any(tensor.is_meta for tensor in named.values()):
        raise ValueError(_META.format("model"))
    return list({id(tensor): tensor for tensor in named.values()}.values())


_META = (
    "the {} is on the device meta, where tensors hold no values; accepted is any device that computes. Build the model "
    "on the CPU and load its weights there."
)


def _inputs(example: object, one: bool) -> dict[str, Tensor]:
    """The tensors of an example, each with what to call it in a message."""
    if isinstance(example, Tensor):
        return {"example": example}
    accepted = "it must be one torch.Tensor of shape [N, ...], such as torch.rand(1, 3, 32, 32)"
    if not one:
        accepted += ", or a tuple or dict of tensors, called as model(*example) or model(**example)"
    if one or not isinstance(example, tuple | dict):
        raise TypeError(f"example is {described(example)}; {accepted}.")
    named = example.items() if isinstance(example, dict) else enumerate(example)
    inputs = {f"example[{name!r}]": tensor for name, tensor in named if isinstance(tensor, Tensor)}
    if not inputs:
        raise TypeError(f"example is {example!r:.80}, which holds no tensor; {accepted}.")
    if isinstance(example, dict) and not all(isinstance(name, str) for name in example):
        raise TypeError(
            f"example has the keys {list(example)!r:.80}; they must be names of the arguments of forward(). Pass a "
            "tuple for inputs without names."
        )
    return inputs


def _wrapped(model: nn.Module, layers: Mapping[str, nn.Module]) -> str | None:
    """What hides the layers of a model, and how to get at them; None where nothing does."""
    accepted = "it must be a plain torch.nn.Module"
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return f"a {type(model).__name__} around a network; {accepted}. Pass what it wraps, model.module."
    if hasattr(model, "_orig_mod"):
        return (
            f"a {type(model).__name__}, made by torch.compile, which hides its operations; {accepted}. Pass the "
            "network that it was compiled from, model._orig_mod."
        )
    if isinstance(model, torch.jit.ScriptModule):
        return (
            f"a {type(model).__name__}, a TorchScript module, which hides its operations; {accepted}. Pass the network "
            "that was scripted or traced."
        )
    compiled = next((name for name, layer in layers.items() if "_orig_mod" in layer._modules), None)
    if compiled is not None:
        return (
            f"a network whose layer {compiled!r} was made by torch.compile, which hides its operations; {accepted}. "
            "Put the _orig_mod of that layer in its place."
        )
    return None


@contextlib.contextmanager
def borrowed(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode without gradients for a block; restore it afterwards.

    Restored are the mode of each module and its attributes; what the dicts, lists, sets and deques among them hold, at
    any depth (caches, hooks), in these same containers; the values of buffers and of other tensors among them; and the
    states of the random number generators. The values of parameters are not copied: the block must not change them in
    place. Not restored is what other objects among the attributes hold.

    Example:
        >>> model = nn.Dropout()
        >>> with borrowed(model):
        ...     model.training, torch.is_grad_enabled()
        (False, False)
        >>> model.training
        True
    """
    modules = list(model.modules())
    containers, tensors = _state(modules)
    copies = [
        (tensor, tensor.detach(), None if isinstance(tensor, nn.Parameter) else tensor.detach().clone())
        for tensor in tensors
    ]
    cuda = {tensor.device.index for tensor in tensors if tensor.is_cuda}
    with torch.random.fork_rng(devices=sorted(cuda)), torch.no_grad():
        try:
            for module in modules:
                # Not model.eval(): a module may override train(), to merge its weights for instance, and the way
                # back need not lead to where it was.
                module.training = False
            yield
        finally:
            for container, held in containers:
                if container or held:
                    _refill(container, held)
            for tensor, alias, value in copies:
                if _is_plain(tensor) and not tensor.is_set_to(alias):  # .data was replaced
                    tensor.data = alias
                if value is not None and not torch.equal(tensor, value):
                    tensor.copy_(value)


def _state(modules: Iterable[nn.Module]) -> tuple[list[tuple[_Container, _Container]], list[Tensor]]:
    """Each container among the attributes of the modules with a shallow copy of it, and the tensors with values."""
    found: dict[int, tuple[_Container, _Container]] = {}
    tensors: dict[int, Tensor] = {}
    pending: list[object] = []
    for module in modules:
        attributes = module.__dict__
        found[id(attributes)] = attributes, dict(attributes)
        for name, value in attributes.items():
            if name in OF_ALL and isinstance(value, dict):  # parameters, buffers, hooks
                found[id(value)] = value, dict(value) if value else _EMPTY
                if name in ("_parameters", "_buffers"):
                    pending += [tensor for tensor in value.values() if tensor is not None]
            elif isinstance(value, _HOLDERS):
                pending.append(value)
    while pending:
        value = pending.pop()
        if isinstance(value, Tensor):
            if _has_values(value):
                tensors[id(value)] = value
        elif isinstance(value, tuple):
            pending += [inner for inner in value if isinstance(inner, _HOLDERS)]
        elif id(value) not in found:
            mapping = isinstance(value, dict)
            found[id(value)] = (
                value,
                (dict(value) if mapping else set(value) if isinstance(value, set) else list(value)),
            )
            pending += [i for i in (value.values() if mapping else value) if isinstance(i, _HOLDERS)]
    return list(found.values()), list(tensors.values())


def _refill(container: _Container, held: _Container) -> None:
    """Bring a container back to what it held, in its order; one that holds the same objects is not touched."""
    if isinstance(container, set):
        if container != held:
            container.clear()
            container.update(held)
    elif isinstance(container, dict):
        if not _same(container, held):  # in their order: hooks are called in it
            container.clear()
            container.update(held)
        elif not _same(container.values(), held.values()):
            container.update(held)
    elif not _same(container, held):
        container.clear()
        container.extend(held)


def _same(values: Collection[object], others: Collection[object]) -> bool:
    return len(values) == len(others) and all(map(operator.is_, values, others))


def _is_plain(tensor: Tensor) -> bool:
    return (
        type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided and not tensor.is_quantized
    )


def _has_values(tensor: Tensor) -> bool:
    """Whether the values of a tensor can be kept: it is a plain one, or one of another kind and no parameter."""
    if _is_plain(tensor):
        return not tensor.is_meta
    return not (
        tensor.is_meta
        or tensor.layout != torch.strided
        or isinstance(tensor, nn.Parameter)
        or is_lazy(tensor)
    )


def call(model: nn.Module, example: Example) -> object:
    """Call the model on one input, or on several: a tuple gives arguments by place, a dict by name.

    Example:
        >>> scaled = nn.Bilinear(2, 2, 1)
        >>> call(scaled, (torch.rand(3, 2), torch.rand(3, 2))).shape
        torch.Size([3, 1])
        >>> call(scaled, {"input1": torch.rand(3, 2), "input2": torch.rand(3, 2)}).shape
        torch.Size([3, 1])
    """
    if isinstance(example, tuple):
        return model(*example)
    return model(**example) if isinstance(example, dict) else model(example)


def run(model: nn.Module, example: Example) -> None:
    """Call the model on the example once, so that PyTorch itself judges the example.

    Raises:
        ValueError: the model does not accept it; the message carries PyTorch's own.

    Example:
        >>> run(nn.Linear(3, 4), torch.rand(2, 3))  # the example fits, so nothing is raised
    """
    try:
        call(model, example)
    except Exception as error:
        raise ValueError(
            f"the model does not run on {_described(example)}: {type(error).__name__}: {str(error).splitlines()[0]}. "
            "The input must be what its forward() takes. Pass a batch of the shape and dtype that it was built for, "
            "[N, C, H, W] and float32 for most networks of images (image.unsqueeze(0) makes a batch of one); several "
            "inputs as a tuple, or a dict of names."
        ) from error


def shapes(example: Example) -> str:
    """Write down the shape of an example, or of each of several inputs.

    Example:
        >>> shapes((torch.rand(1, 3), torch.rand(2, 4)))
        '([1, 3], [2, 4])'
    """
    if isinstance(example, dict):
        return "{" + ", ".join(f"{name}: {shapes(value)}" for name, value in example.items()) + "}"
    if isinstance(example, tuple):
        return f"({', '.join(map(shapes, example))})"
    return str(list(example.shape)) if isinstance(example, Tensor) else repr(example)


def _described(example: Example) -> str:
    if isinstance(example, Tensor):
        return f"an example of shape {list(example.shape)}, {example.dtype}, on {example.device}"
    named = example.items() if isinstance(example, dict) else enumerate(example)
    parts = (
        f"{name!r} of shape {list(value.shape)}, {value.dtype}, on {value.device}"
        if isinstance(value, Tensor)
        else f"{name!r} = {value!r:.40}"
        for name, value in named
    )
    return f"an example of the inputs {'; '.join(parts)}"


def trace(model: nn.Module, tracer: fx.Tracer, *, remedy: str) -> fx.Graph:
    """Trace a network with torch.fx, one thread at a time.

    Args:
        model: the network, in the mode that is to be traced.
        tracer: says which modules are taken as a whole. If it has a list `trail` of the names of the modules that it is
            inside of, the error names the innermost.
        remedy: what to do instead if the model cannot be traced; ends the error message.

    Returns:
        The graph.

    Raises:
        ValueError: the model cannot be traced; the message says where and why.

    Example:
        >>> [node.op for node in trace(nn.Sequential(nn.ReLU()), fx.Tracer(), remedy="").nodes]
        ['placeholder', 'call_module', 'output']
    """
    try:
        with alone():
            return tracer.trace(model)
    except Exception as error:
        trail = getattr(tracer, "trail", None)
        where = f"in {trail[-1]!r}, " if trail else "in its forward(), " if trail is not None else ""
        raise ValueError(
            f"torch.fx cannot trace the model: {where}{type(error).__name__}: {error}. A traceable forward() runs the "
            f"same layers whatever the values: without `if` or loops over tensors. {remedy}"
        ) from error


def alone() -> contextlib.AbstractContextManager:
    """Keep other threads from tracing during a block: torch.fx changes nn.Module for all of them.

    Example:
        >>> with alone():
        ...     len(fx.symbolic_trace(nn.ReLU()).graph.nodes)
        3
    """
    return _LOCK


def computed_parameter(layer: nn.Module) -> str | None:
    """Name the weight or bias of a layer that is computed from other parameters, by a mask or parametrisation.

    Returns:
        "weight", "bias", or None if the layer has both as parameters (or lacks them).

    Example:
        >>> computed_parameter(torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)))
        'weight'
    """
    names = (name for name in ("weight", "bias") if name not in layer._parameters and hasattr(layer, name))
    return next(names, None)


MAKE_PERMANENT = (
    "make it permanent first (course_lib.pruning.masks.make_permanent, torch.nn.utils.prune.remove, "
    "torch.nn.utils.parametrize.remove_parametrizations)"
)
