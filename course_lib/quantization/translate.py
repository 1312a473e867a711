"""From a network to its steps: traced with torch.fx, each call looked up in `operations.OPERATIONS`."""

import inspect
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NoReturn

from torch import fx, nn

from course_lib import tracing
from course_lib.quantization._folding import check_plain, traced
from course_lib.quantization._prologue import without_prologue
from course_lib.quantization._shape_readers import Parameter, Parts, item
from course_lib.quantization.operations import BATCH, OPERATIONS, SIZE, Call, Refused
from course_lib.quantization.steps import IMAGES, LOGITS, Step

_ACCEPTED = (
    "Accepted are Conv2d, Conv1d, ConvTranspose2d and Linear, each called once, batch norm, ReLU, ReLU6, SiLU, "
    "Hardswish, Sigmoid, Hardsigmoid, Tanh, LeakyReLU, ELU and GELU, the sum, difference and product of two tensors, "
    "concatenation, parts of channels and their shuffle, padding with constants, max and average pooling, global "
    "average pooling, flattening and dropout. Write that part with these, or quantize with quantization.onnx, which "
    "leaves in float32 what it does not know."
)


def translate(model: nn.Module) -> list[Step]:
    """Take a network without batch norms apart into steps.

    A ReLU is part of the step in front of it, where that has a range of its own and nothing else reads it; dropout is
    left out, and so is what the result does not depend on. Sums and products of the images and constants, such as a
    normalisation, are part of the first step where nothing is before them; it computes them in floating point.

    Args:
        model: as `workflow.fold_batch_norm` gives it.

    Returns:
        The steps in the order of computation; the first is that of the images.

    Raises:
        TypeError: the model is no nn.Module, or one inside of a wrapper.
        ValueError: the model cannot be traced, has a hook or no convolution or linear layer; or an operation has no
            integer form, and is named.

    Example:
        >>> for step in translate(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))):
        ...     print(step.operation, step.tensor, step.relu)
        images images None
        flatten images None
        linear 1 inf
        linear logits None
    """
    if getattr(model, "quantized_already", False):
        raise TypeError(
            f"model is a {type(model).__name__}, which has steps already; it must be a network in "
            "float32. Read `steps`."
        )
    tracing.check_network(model)
    if model._forward_hooks or model._forward_pre_hooks:
        raise ValueError(
            "model has a hook; it must have none, since taken apart into steps it computes something else than before. "
            "Look for hooks, and remove them."
        )
    return _Translator(model).translate()


@dataclass(frozen=True)
class _Result:
    """A tensor of the traced network: the name of the step that computes it."""

    name: str


_SHAPE = object()  # the shape of a tensor


def _size(input: object, dim: int | None = None) -> object:
    return _SHAPE if dim is None else _item(_SHAPE, dim)


def _attribute(input: object, name: str) -> object:
    if name != "shape":
        raise Refused(f"it reads the attribute {name!r} of a tensor")
    return _SHAPE


def _item(input: object, index: object) -> object:
    if isinstance(input, Parts):
        return input[index]
    if input is not _SHAPE:
        return item(input, index)
    if isinstance(index, slice) and index.start in (None, 0) and index.step is None:
        return input
    if not isinstance(index, int):
        raise Refused("it takes another part of a shape than its first sizes")
    return SIZE if index else BATCH


_SHAPES: dict[object, Callable[..., object]] = {"size": _size, getattr: _attribute, operator.getitem: _item}


class _Translator:
    """Turns a traced network into steps, node by node."""

    def __init__(self, model: nn.Module) -> None:
        self.graph, self.modules = traced(model), dict(model.named_modules())
        self.prologue = without_prologue(self.graph, self.modules)
        self.readers = {
            target: (name, read)
            for name, operation in OPERATIONS.items()
            for target, read in operation.spelled.items()
        }
        self.steps: dict[str, Step] = {}
        self.uses: dict[str, int] = {}
        self.tensors = {IMAGES, LOGITS}
        self.layers: set[str] = set()

    def translate(self) -> list[Step]:
        values: dict[fx.Node, object] = {}
        for node in self.graph.nodes:
            self.node = node
            try:
                values[node] = value = self._value(fx.node.map_arg(node.args, values.get), values)
            except Refused as refused:
                self._refuse(str(refused))
            if isinstance(value, _Result):
                self.uses[value.name] = len(node.users)
            if isinstance(value, Parts) and isinstance(value.input, _Result):
                self.uses[value.input.name] += len(node.users) - 1
        if not self.layers:
            raise ValueError(
                "the model has no convolution or linear layer, so there is nothing to quantize. Give one that has."
            )
        needed, steps, last = {value.name}, [], self.steps[value.name].tensor
        for step in reversed(self.steps.values()):
            if step.name in needed:
                needed.update(step.inputs)
                steps.append(replace(step, tensor=LOGITS) if step.tensor == last else step)
        return steps[::-1]

    def _value(self, args: tuple, values: dict) -> object:
        """What a node of the graph gives: a result, a shape, or the number of images."""
        node, kwargs = self.node, fx.node.map_arg(self.node.kwargs, values.get)
        if node.op == "placeholder":
            if self.steps:
                raise Refused(f"the model takes a second input, {node.target!r}")
            options = {"prologue": self.prologue} if self.prologue else {}
            return self._add("images", Call((), options), tensor=IMAGES)
        if node.op == "output":
            if not isinstance(args[0], _Result):
                raise Refused("the model gives something else than one tensor")
            return args[0]
        if node.op == "get_attr":
            return Parameter(node.target, self.modules[node.target.rpartition(".")[0]])
        layer = self.modules[node.target] if node.op == "call_module" else None
        target, what = self._called(layer)
        name, read = self.readers.get(target, (None, _SHAPES.get(target)))
        if read is None:
            raise Refused(what)
        if layer is not None:
            check_plain(node.target, layer)
            args = (layer, *args)
        try:
            inspect.signature(read).bind(*args, **kwargs)
        except TypeError as error:
            raise Refused(f"{what} with other arguments than are known ({error})") from error
        found = read(*args, **kwargs)
        return self._step(found.operation or name, found, layer) if isinstance(found, Call) else found

    def _called(self, layer: nn.Module | None) -> tuple[object, str]:
        """The key of a call among the spellings, and words for it."""
        target = self.node.target
        if layer is not None:
            return type(layer), f"it is a {type(layer).__name__}"
        if self.node.op == "call_method":
            return target, f"it calls the tensor method {target!r}"
        return target, f"it calls the function {getattr(target, '__name__', target)!r}"

    def _refuse(self, why: str) -> NoReturn:
        node = self.node
        name = node.target if node.op == "call_module" else self._scoped(node.name)
        raise ValueError(f"{name!r} has no integer form here: {why}. {_ACCEPTED}")

    def _scoped(self, name: str) -> str:
        """The name with that of the module in whose forward() the operation is."""
        stack = list((self.node.meta.get("nn_module_stack") or {"": ("",)}).values())[-1][0]
        return f"{stack}.{name}" if stack else name

    def _step(self, operation: str, call: Call, layer: nn.Module | None) -> _Result:
        """The step of a call, or the steps; a ReLU may be part of an earlier one."""
        first = call.inputs[0]
        if call.in_place and isinstance(first, _Result) and self.uses[first.name] > 1:
            raise Refused("it works in place on a tensor that others read too")
        if operation == "relu" and self._joined(first, call.options["high"]):
            return first
        if call.before is not None:
            first = self._add("pad", Call((first,), call.before), suffix=".pad")
            self.uses[first.name] = 1
            call = replace(call, inputs=(first, *call.inputs[1:]))
        fields = {}
        name = call.layer
        if layer is not None and hasattr(layer, "weight"):
            name = self.node.target
        if name is not None:
            if name in self.layers:
                raise Refused(
                    "it is called at several places, and its bias would need another scale at each of them"
                )
            check_plain(name, self.modules[name])
            self.layers.add(name)
            fields["layer"] = name
        fields |= self._own_tensor(operation, layer, name=name, alone=not call.gates)
        result = self._add(operation, call, **fields)
        if call.then is None:
            return result
        self.uses[result.name] = 1
        inputs = (first, result) if call.gates else (result,)
        fields = self._own_tensor(call.then, layer, alone=False)
        return self._add(call.then, Call(inputs), suffix=f".{call.then}", **fields)

    def _own_tensor(
        self, operation: str, layer: nn.Module | None, *, name: str | None = None, alone: bool
    ) -> dict[str, str]:
        """The tensor of a result that has a range of its own; that of a module takes its name, where it is alone."""
        if OPERATIONS[operation].range != "own":
            return {}
        if layer is None:
            name = name or self._scoped(operation)
        else:
            name = self.node.target if alone else f"{self.node.target}.{operation}"
        return {"tensor": self._new_tensor(name)}

    def _joined(self, x: object, high: float) -> bool:
        """Make a ReLU part of the step in front of it. Max pooling between them does not matter: it picks the same."""
        while isinstance(x, _Result) and self.uses[x.name] == 1:
            step = self.steps[x.name]
            if OPERATIONS[step.operation].requantizes:
                lower = high if step.relu is None else min(step.relu, high)  # of two, the one that cuts more
                self.steps[step.name] = replace(step, relu=lower)
                return True
            if OPERATIONS[step.operation].range != "among input":
                return False
            x = _Result(step.inputs[0])
        return False

    def _add(
        self,
        operation: str,
        call: Call,
        *,
        tensor: str | None = None,
        layer: str | None = None,
        suffix: str = "",
    ) -> _Result:
        """A new step, whose tensor has this name, or is that of its input."""
        for x in call.inputs:
            if isinstance(x, Parameter):
                raise x.refused()
            if not isinstance(x, _Result):
                raise Refused("it computes with a constant, or with a number that is no tensor")
        names = tuple(x.name for x in call.inputs)
        if tensor is None:
            tensor = self.steps[names[0]].tensor
        name = self.node.name + suffix
        self.steps[name] = Step(name, operation, names, tensor, layer, options=call.options)
        return _Result(name)

    def _new_tensor(self, name: str) -> str:
        free = name
        number = 0
        while free in self.tensors:
            number += 1
            free = f"{name}_{number}"
        self.tensors.add(free)
        return free
