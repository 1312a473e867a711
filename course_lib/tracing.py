"""Inspecting a caller's network without changing it: evaluation for a block, and tracing with torch.fx."""

import contextlib
import itertools
import threading
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

_LOCK = threading.RLock()  # torch.fx changes nn.Module while it traces, for every thread of the process


def check(model: object, example: object) -> None:
    """Check that `model` is a network with values and `example` a tensor on its device.

    Raises:
        TypeError: `model` is not an nn.Module, or `example` is not a tensor.
        ValueError: the example is empty or on another device, or the parameters hold no values yet.

    Example:
        >>> check(nn.ReLU, torch.rand(1, 3))
        Traceback (most recent call last):
            ...
        TypeError: model is the class ReLU; it must be a torch.nn.Module, built and ready to be called.
    """
    if not isinstance(model, nn.Module):
        given = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise TypeError(f"model is {given}; it must be a torch.nn.Module, built and ready to be called.")
    if not isinstance(example, Tensor):
        raise TypeError(
            f"example is a {type(example).__name__}; it must be one torch.Tensor of shape [N, ...], such as "
            "torch.rand(1, 3, 32, 32)."
        )
    if example.ndim == 0 or example.numel() == 0:
        raise ValueError(
            f"example has shape {list(example.shape)}; it must be [N, ...] with every size at least 1. Pass a batch of "
            "one image or more."
        )
    tensors = list(itertools.chain(model.parameters(), model.buffers()))
    if any(is_lazy(tensor) for tensor in tensors):
        raise ValueError(
            "the model has lazy layers whose parameters have no shape yet. Call model(example) once, then try again."
        )
    devices = {tensor.device for tensor in tensors}
    if any(device.type == "meta" for device in devices) or example.device.type == "meta":
        raise ValueError(
            "the model or the example is on the device meta, where tensors hold no values; accepted is any device that "
            "computes. Build the model on the CPU and load its weights there."
        )
    if devices and example.device not in devices:
        names = ", ".join(sorted(str(device) for device in devices))
        raise ValueError(
            f"example is on {example.device} and the model on {names}; they must be on one device. Write "
            "example.to(next(model.parameters()).device)."
        )


@contextlib.contextmanager
def borrowed(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode without gradients for a block; restore it afterwards.

    Restored are the mode of each module, its attributes, parameters and buffers (also their values), and the states of
    the random number generators. The values of parameters are not copied: the block must not change them in place.

    Example:
        >>> model = nn.Dropout()
        >>> with borrowed(model):
        ...     model.training, torch.is_grad_enabled()
        (False, False)
        >>> model.training
        True
    """
    modules = list(model.modules())
    # Shallow copies: a hook or a forward() may set attributes (torch.nn.utils.prune sets `weight` at every call).
    tables = [module.__dict__ for module in modules]
    members = [table.get(name) for table in tables for name in ("_parameters", "_buffers")]
    tables += [table for table in members if isinstance(table, dict)]  # not in scripted modules
    before = [(table, dict(table)) for table in tables]
    values = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    cuda = {
        t.device.index
        for t in itertools.chain(model.parameters(), model.buffers())
        if t.device.type == "cuda"
    }
    with torch.random.fork_rng(devices=sorted(cuda)), torch.no_grad():
        try:
            for module in modules:
                # Not model.eval(): a module may override train(), to merge its weights for instance, and the way
                # back need not lead to where it was.
                module.training = False
            yield
        finally:
            for table, saved in before:
                for name in [name for name in table if name not in saved]:
                    del table[name]
                table.update(saved)
            for buffer, value in values:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


def call(model, example):
    if isinstance(example, tuple):
        return model(*example)
    return model(**example) if isinstance(example, Mapping) else model(example)


def shapes(example):
    if isinstance(example, Tensor):
        return str(list(example.shape))
    if isinstance(example, Mapping):
        return "{" + ", ".join(f"{k}: {shapes(v)}" for k, v in example.items()) + "}"
    return "(" + ", ".join(shapes(v) for v in example) + ")" if isinstance(example, tuple) else repr(example)


def run(model: nn.Module, example: Tensor) -> None:
    """Call the model on the example once, so that PyTorch itself judges the example.

    Raises:
        ValueError: the model does not accept it; the message carries PyTorch's own.

    Example:
        >>> run(nn.Linear(3, 4), torch.rand(2, 3))  # the example fits, so nothing is raised
    """
    try:
        model(example)
    except Exception as error:
        raise ValueError(
            f"the model does not run on an example of shape {list(example.shape)}, {example.dtype}, on "
            f"{example.device}: {type(error).__name__}: {error}. Pass a batch of the shape and dtype that it was built "
            "for, [N, C, H, W] and float32 for most networks of images (image.unsqueeze(0) makes a batch of one)."
        ) from error


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
