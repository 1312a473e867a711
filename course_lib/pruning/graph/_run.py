"""One run of a network on an example, in which labels of channels go beside the tensors."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from course_lib import tracing
from course_lib.pruning.graph._calls import (
    Call,
    Unknown,
    collected,
    name_of,
    normalised,
    plain_tensors,
    tensors_in,
    zeros,
)
from course_lib.pruning.graph._counts import Count
from course_lib.pruning.graph._sizes import SIZES, size_of
from course_lib.pruning.graph._watch import watched
from course_lib.pruning.graph.rules import _RULE_OF
from course_lib.pruning.graph.ties import _Labels, _Ties

_T = torch.Tensor
_PLAIN = {  # what a tensor says of itself, whatever its values and channels
    *(
        getattr(_T, name).__get__
        for name in ("dtype", "device", "ndim", "layout", "requires_grad", "is_cuda")
    ),
    *(
        getattr(_T, name).__get__
        for name in ("grad", "grad_fn", "is_leaf", "is_meta", "is_sparse", "is_quantized")
    ),
    *(
        getattr(_T, name).__get__
        for name in ("is_nested", "is_cpu", "is_mps", "is_xpu", "is_mkldnn", "_version")
    ),
    *(
        _T.dim,
        _T.is_floating_point,
        _T.is_complex,
        _T.is_contiguous,
        _T.get_device,
        _T.element_size,
        _T.ndimension,
    ),
    *(
        _T.is_signed,
        _T.stride,
        _T.__hash__,
        _T.__repr__,
        _T.data_ptr,
        torch.is_floating_point,
        torch.is_complex,
    ),
    torch.is_tensor,
    torch.result_type,
    torch.can_cast,
    torch.get_default_dtype,
}
# Unknown, or what a rule runs into that is given arguments of another kind.
_NOT_AS_EXPECTED = (Unknown, RuntimeError, IndexError, KeyError, TypeError, ValueError, AttributeError)
_ATTRIBUTE = (
    "_course_channels"  # of a tensor: the run that marked it, its labels, whether the example decides it
)
_HERE = str(Path(__file__).parents[1])
_PASSED = ("/torch/", "/jaxtyping/", "/beartype/", tracing.__file__)  # code that is not the network's own


class Stopped(ValueError):
    """The network cannot be followed at all."""


class _Follower(TorchFunctionMode):
    """Sees every function of tensors that a network calls, and keeps the labels of each tensor beside it.

    Attributes:
        ties: of the labels, over all that was followed so far.
        module: whose forward() is running.
        listens: False while a function of PyTorch itself works.
    """

    def __init__(self, model: nn.Module, ties: _Ties) -> None:
        super().__init__()
        self.model, self.ties = model, ties
        self.stack: list[tuple[str, nn.Module]] = [("", model)]
        self.listens = True
        self.training_matters = False
        self.stopped: Stopped | None = None
        self.saved: dict[int, tuple[Tensor, Tensor]] = {}
        self.bare: dict[int, _Labels] = {}
        self.lent: list[Tensor] = []  # tensors of the caller that are marked
        self.averages: dict[int, tuple[Tensor, Tensor]] = {}  # id of a mean over heads: itself, their labels
        self.constants = plain_tensors(ties.layers.values())

    def follow(self, example: object) -> bool:
        """Run the network, and find out on the way; say whether its forward() looks at the train/eval mode."""
        inputs = tree_map(lambda t: t.detach().clone() if isinstance(t, Tensor) else t, example)
        for tensor in tensors_in(inputs):
            self._mark(tensor, zeros(tensor.ndim), live=True)
        try:
            with watched(self), self:
                outputs = tracing.call(self.model, inputs)
            if self.stopped is None:
                results = collected(outputs, [], [])[0]
                self._use_averages(results)
                for tensor in results:
                    self.ties.fix(self.labels(tensor), "they are the network's output")
        except Exception:
            if self.stopped is None:
                raise
        finally:
            self.listens = False  # numbers that a cache has kept are plain ones from here on
            for tensor, value in self.saved.values():
                tensor.copy_(value)
            for tensor in self.lent:
                vars(tensor).pop(_ATTRIBUTE, None)
        if self.stopped is not None:  # also where the model caught it
            raise self.stopped
        return self.training_matters

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Do not see the functions of tensors that are called in the block."""
        before, self.listens = self.listens, False
        try:
            yield
        finally:
            self.listens = before

    # ---- tensors and their labels ------------------------------------------------------------------------------

    def labels(self, tensor: Tensor) -> _Labels:
        """Labels of a tensor, with size 1 where they do not change."""
        mark = getattr(tensor, _ATTRIBUTE, None)
        if mark is not None and mark[0] is self:
            return mark[1]
        names = self.ties.names.get(id(tensor))
        if names is not None:
            return self._labels_of_parameter(tensor, names[0])
        if id(tensor) not in self.constants:  # out of a scripted function, for instance
            self.fix(
                torch.arange(1, self.ties.labels, device="cpu"),
                "a tensor came out of code that cannot be followed",
            )
        labels = zeros(tensor.ndim)
        self.lent.append(tensor)
        self._mark(tensor, labels, live=True)
        return labels

    def _labels_of_parameter(self, tensor: Tensor, name: str) -> _Labels:
        """Of a parameter or buffer that is used by itself: new ones, if it has one axis that they can lie along."""
        if id(tensor) not in self.bare:
            labels, axes = zeros(tensor.ndim), [axis for axis, size in enumerate(tensor.shape) if size > 1]
            if len(axes) == 1 and tensor.is_floating_point():
                key = (name, axes[0])
                known = self.ties.axes.get(key)
                vector = known[1] if known else self.ties.fresh(tensor.numel())
                labels = self.ties.record("follower", *key, vector).reshape(tensor.shape)
            self.bare[id(tensor)] = labels
        return self.bare[id(tensor)]

    def wide(self, tensor: Tensor) -> str | None:
        """The name of a parameter or buffer that has no labels of its own, since it has several axes."""
        names = self.ties.names.get(id(tensor))
        several = sum(size > 1 for size in tensor.shape) > 1
        return names[0] if names and several else None

    def _mark(self, tensor: Tensor, labels: _Labels, live: bool) -> None:
        setattr(tensor, _ATTRIBUTE, (self, labels, live))

    def _is_live(self, tensor: Tensor) -> bool:
        """Whether its values depend on the example."""
        mark = getattr(tensor, _ATTRIBUTE, None)
        return mark is not None and mark[0] is self and mark[2]

    def _use_averages(self, tensors: Sequence[Tensor]) -> None:
        """What a layer gives besides its output, as attention its weights, depends on how many heads there are."""
        for tensor in tensors:
            if id(tensor) in self.averages:
                self.fix(
                    self.averages[id(tensor)][1],
                    "forward() uses a mean over their heads",
                    "need_weights=False",
                )

    # ---- layers ------------------------------------------------------------------------------------------------

    @property
    def module(self) -> nn.Module:
        return self.stack[-1][1]

    def owners(self, tensor: Tensor) -> list[str]:
        """The layers that have this tensor as their own, that which is running first."""
        names = [name.rpartition(".")[0] for name in self.ties.names.get(id(tensor), ())]
        return sorted(names, key=lambda name: name != self.stack[-1][0])

    def owner_layer(self, tensor: Tensor) -> nn.Module | None:
        owners = self.owners(tensor)
        return self.ties.layers[owners[0]] if owners else None

    def why_no_layer(self) -> str:
        """Why the weights that are given are of no layer."""
        name, module = self.stack[-1]
        if computed := tracing.computed_parameter(module):
            return (
                f"the {computed} of {name!r} is computed from other parameters, by a mask or parametrisation; "
                f"{tracing.MAKE_PERMANENT}"
            )
        return "its weights are not those of a layer of PyTorch, or are computed"

    # ---- what has to stay --------------------------------------------------------------------------------------

    def fix(self, labels: Tensor, why: str, remedy: str = "") -> None:
        """These channels have to stay."""
        if bool(labels.any()):
            self.ties.fix(labels, f"{why}{self.where()}{f'; {remedy}' if remedy else ''}")

    def pin(self, tensor: Tensor, function: str, why: str = "") -> None:
        """A parameter that is used in another way than as the weight of a layer has to stay as it is."""
        for name in self.ties.names.get(id(tensor), ()):
            self.ties.pin(name, (why or f"{function!r} uses {name!r} by itself") + self.where())

    def opaque(
        self, call: Callable, args: Sequence[object], kwargs: Mapping[str, object], name: str
    ) -> object:
        """Call what cannot be looked into, such as a scripted function: what goes in stays."""
        tensors, counts = collected((args, kwargs), [], [])
        with self.quiet():
            value = call(*args, **kwargs)
            for labels in (*map(self.labels, tensors), *(count.labels for count in counts)):
                self.fix(labels, f"they go into {name}, which cannot be looked into")
            for result in tensors_in(value):
                self._mark(result, zeros(result.ndim), live=True)
        return value

    def where(self) -> str:
        """The line of the network's code that is running."""
        frame = sys._getframe(1)
        while frame is not None:
            path = frame.f_code.co_filename
            if path == __file__ and frame.f_code.co_name == "follow":
                break
            if not path.startswith((_HERE, "<")) and not any(part in path for part in _PASSED):
                name = self.stack[-1][0]
                inside = f" in {name!r}" if name else ""
                return f"{inside} ({Path(path).name}, line {frame.f_lineno})"
            frame = frame.f_back
        return f" in {self.stack[-1][0]!r}" if self.stack[-1][0] else ""

    def _stop(self, why: str) -> None:
        self.stopped = Stopped(
            f"the model cannot be followed: {why}{self.where()}. Which layers it runs must not depend on the values "
            "of the input. Rewrite that part, or prune the parts of the model that are free of it one by one."
        )
        raise self.stopped

    # ---- calls -------------------------------------------------------------------------------------------------

    def __torch_function__(
        self, func: Callable, types: object, args: Sequence[object] = (), kwargs: Mapping | None = None
    ) -> object:
        kwargs = kwargs or {}
        if func in _PLAIN or not self.listens:
            return func(*args, **kwargs)
        if func in SIZES:
            return size_of(self, func, args, kwargs)
        tensors, counts = collected(args, [], [])
        if kwargs:
            collected(kwargs, tensors, counts)
        self._save(func, kwargs, tensors)
        if self.averages:
            self._use_averages(tensors)
        if func is F.batch_norm and len(args) > 2 and args[1] is not None:  # by its statistics, in both modes
            args, kwargs = args[:5], {**kwargs, "training": False}
        self.listens = False  # as in `quiet`, which takes longer
        try:
            value = func(*args, **kwargs)
            results = [value] if isinstance(value, Tensor) else tensors_in(value)
            labels = self._labels_of_call(func, args, kwargs, tensors, counts, value, results)
        finally:
            self.listens = True
        live = any(self._is_live(tensor) for tensor in tensors)
        if not results and live and isinstance(value, bool | int | float | list):
            self._stop(f"{name_of(func)!r} turns values of a tensor into Python's")
        for result, its_labels in zip(results, labels, strict=True):
            self._mark(result, its_labels, live or self._is_live(result))
            if id(result) in self.ties.names:  # x.to(dtype) may be x itself
                self.lent.append(result)
        return value

    def _labels_of_call(
        self,
        func: Callable,
        args: Sequence[object],
        kwargs: Mapping[str, object],
        tensors: list[Tensor],
        counts: list[Count],
        value: object,
        results: list[Tensor],
    ) -> list[_Labels]:
        """Labels of each tensor that a call gives; what it ties and fixes is noted on the way."""
        rule, name = _RULE_OF.get(func), name_of(func)
        for count in counts:
            if rule is None or not rule.counts or count.times is None:
                self.fix(count.labels, f"{name!r} computes with their number")
        layer = rule is not None and rule.weights
        if not layer and not counts and all(self.labels(tensor).numel() == 1 for tensor in tensors):
            self._pin_wide(tensors, name)  # nothing of what goes in is a channel
            return [zeros(result.ndim) for result in results]
        try:
            if rule is None:
                raise Unknown("it is none of the operations that are known")
            call = Call(self, name, normalised(args, kwargs, rule.arguments), tensors, counts, value)
            labels = rule.labels(call)
            labels = [labels] if isinstance(value, Tensor) else list(labels or ())
            for its, result in zip(labels, results, strict=True):
                sizes = zip(its.shape, result.shape, strict=False)
                if its.ndim != result.ndim or any(size not in (1, full) for size, full in sizes):
                    raise Unknown("its channels are lost")
        except _NOT_AS_EXPECTED as error:
            why = (
                str(error)
                if isinstance(error, Unknown)
                else f"it is called in a way that is not known ({error})"
            )
            why = f"they go into {name!r}, and {why}"
            for labels in (*map(self.labels, tensors), *(count.labels for count in counts)):
                self.fix(labels, why)
            self._pin_wide(tensors, name, why)
            self._note_layer(tensors, why)
            return [zeros(result.ndim) for result in results]
        if not layer:
            self._pin_wide(tensors, name)
        return labels

    def _pin_wide(self, tensors: Sequence[Tensor], name: str, why: str = "") -> None:
        for tensor in tensors:
            if self.wide(tensor):
                self.pin(tensor, name, why)

    def _note_layer(self, tensors: Sequence[Tensor], why: str) -> None:
        """The layers of a call that cannot be followed are named, although none of their axes is."""
        for tensor in tensors:
            for owner in self.owners(tensor):
                self.ties.left_out.setdefault(owner, f"{why}{self.where()}")
        name, module = self.stack[-1]
        if tracing.computed_parameter(module):
            self.ties.left_out[name] = f"{why}{self.where()}"

    def _save(self, func: Callable, kwargs: Mapping, tensors: Sequence[Tensor]) -> None:
        """Keep the values of what is not the network's own to change, before it is changed in place."""
        name = name_of(func)
        changes = (name.endswith("_") and not name.endswith("__")) or name in (
            "__setitem__",
            "data",
            "detach",
            "set_",
        )
        if not changes and "out" not in kwargs and kwargs.get("max_norm") is None:
            return
        for tensor in tensors:
            known = id(tensor) in self.ties.names or id(tensor) in self.constants
            if known and id(tensor) not in self.saved:
                self.saved[id(tensor)] = (tensor, tensor.detach().clone())
