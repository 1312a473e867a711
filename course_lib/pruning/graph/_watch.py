"""Watching the modules of a network while it runs: which is called, and what it reads of itself and of others."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from course_lib.pruning.graph._sizes import INPUTS, OF_ITSELF, OUTPUTS, read


class _Watched:
    """Stands before an attribute of all modules, and tells the run when it is read in the thread that runs it."""

    def __init__(self, run: Any, name: str, thread: int):
        self._run, self._name, self._thread = run, name, thread

    def __get__(self, module: nn.Module | None, kind: type) -> object:
        if module is None:
            return self
        if self._name not in vars(module):
            raise AttributeError(self._name)  # and nn.Module looks among parameters and submodules
        value = vars(module)[self._name]
        return read(self._run, module, self._name, value) if threading.get_ident() == self._thread else value

    def __set__(self, module: nn.Module, value: object) -> None:
        vars(module)[self._name] = value

    def __delete__(self, module: nn.Module) -> None:
        if self._name not in vars(module):
            raise AttributeError(self._name)
        del vars(module)[self._name]


@contextlib.contextmanager
def watched(run: Any) -> Iterator[None]:
    """Tell the run which module is called, and when it reads the mode or the sizes of a layer.

    For the time of the block nn.Module has a descriptor of each of these names, which stands before the attribute of
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

    names = {"training", *INPUTS, *OUTPUTS, *OF_ITSELF}
    for name in names:
        setattr(nn.Module, name, _Watched(run, name, here))
    nn.Module.__call__, torch.jit.ScriptFunction.__call__ = call, call_scripted
    try:
        yield
    finally:
        nn.Module.__call__, torch.jit.ScriptFunction.__call__ = original, scripted
        for name in names:
            delattr(nn.Module, name)
