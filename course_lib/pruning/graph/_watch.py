"""Watching the modules of a network while it runs: which is called, and what it reads of itself and of others."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from course_lib.pruning.graph._sizes import INPUTS, OF_ITSELF, OUTPUTS, read


@contextlib.contextmanager
def watched(run: Any) -> Iterator[None]:
    """Tell the run which module is called, and when it reads the mode or the sizes of a layer.

    For the time of the block nn.Module has a property of each of these names, which stands before the attribute of
    the instance. Other threads call, read and set as ever.
    """
    here, original, scripted = threading.get_ident(), nn.Module.__call__, torch.jit.ScriptFunction.__call__

    def call(module: nn.Module, *args: object, **kwargs: object) -> object:
        if threading.get_ident() != here:
            return original(module, *args, **kwargs)
        if isinstance(module, torch.jit.ScriptModule):
            name = run.ties.layer_names.get(id(module), type(module).__name__)
            return run.opaque(original, (module, *args), kwargs, f"the scripted module {name!r}")
        run.stack.append((run.ties.layer_names.get(id(module), ""), module))
        try:
            return original(module, *args, **kwargs)
        finally:
            run.stack.pop()

    def call_scripted(function: torch.jit.ScriptFunction, *args: object, **kwargs: object) -> object:
        if threading.get_ident() != here:
            return scripted(function, *args, **kwargs)
        return run.opaque(scripted, (function, *args), kwargs, f"the scripted function {function.name!r}")

    def watch(name: str) -> property:
        def get(module: nn.Module) -> object:
            if name not in vars(module):
                raise AttributeError(name)  # and nn.Module looks among parameters and submodules
            value = vars(module)[name]
            return read(run, module, name, value) if threading.get_ident() == here else value

        def set_(module: nn.Module, value: object) -> None:
            vars(module)[name] = value

        def delete(module: nn.Module) -> None:
            if name not in vars(module):
                raise AttributeError(name)
            del vars(module)[name]

        return property(get, set_, delete)

    names = {"training", *INPUTS, *OUTPUTS, *OF_ITSELF}
    for name in names:
        setattr(nn.Module, name, watch(name))
    nn.Module.__call__, torch.jit.ScriptFunction.__call__ = call, call_scripted
    try:
        yield
    finally:
        nn.Module.__call__, torch.jit.ScriptFunction.__call__ = original, scripted
        for name in names:
            delattr(nn.Module, name)
