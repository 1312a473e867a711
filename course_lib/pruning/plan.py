"""Save and load pruned networks without pickle: the weights, and beside them what was removed from the original class.

A pruned network is of the same classes as the original, with smaller layers; its constructor does not know how small.
A plan does: replayed on a new instance of the original it gives a network that the saved weights fit. Weights and
plans go into one safetensors file, which holds numbers and text alone: loading it runs nothing that came with it.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from course_lib import files, tracing
from course_lib.pruning.graph import Channels
from course_lib.pruning.surgery import remove_channels
from course_lib.tracing import Example
from course_lib.validation import check_file, check_model

_FORMAT, _VERSION = "course_lib pruning plan", 1
_KEY = "pruning_plans"  # in the metadata of the safetensors file
_REMEDY = "Give what Plan.to_json wrote, unchanged."
_MOST = 2**40  # numbers in an example: more are a damaged plan
_Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Plan(Mapping[str, tuple[int, ...]]):
    """Channels to remove from a network, with what is needed to remove them again from a new instance of it.

    It is a mapping {layer: channels}, as `remove_channels` takes it. Make it with `Plan.of`, before or after the
    channels are removed, but from the network as it was before. Several rounds of pruning are several plans, each of
    the network that the earlier ones left.

    Attributes:
        channels: {layer: its output channels that go, ascending}.
        shapes: {name: shape} of everything in the network's state_dict before.
        left: the same afterwards.
        example: shapes and dtypes of the input that the network was followed with, in the form that JSON has.

    Example:
        >>> model, example = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3)), torch.rand(1, 1, 8, 8)
        >>> plan = Plan.of(model, example, {"0": [3, 1]})
        >>> dict(plan), plan.left["1.weight"]
        ({'0': (1, 3)}, (2, 2, 3, 3))
        >>> again = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3))
        >>> Plan.from_json(plan.to_json()).replay(again)[0]
        Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1))
    """

    channels: Mapping[str, tuple[int, ...]]
    shapes: _Shapes
    left: _Shapes
    example: Any

    def __getitem__(self, layer: str) -> tuple[int, ...]:
        return self.channels[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self.channels)

    def __len__(self) -> int:
        return len(self.channels)

    @classmethod
    def of(
        cls,
        model: nn.Module,
        example: Example | Channels,
        plan: Mapping[str, Sequence[int] | Tensor],
    ) -> "Plan":
        """Make a plan that can be saved of one that a planner gave.

        Args:
            model: the network that the channels are to be removed from; it is left as it was.
            example, plan: as in `remove_channels`.

        Raises:
            TypeError, KeyError, ValueError: as `remove_channels`; TypeError for an input that JSON has no form for.
        """
        if isinstance(plan, Mapping):  # what can be read only once is read here
            plan = {layer: list(some) if isinstance(some, Iterator) else some for layer, some in plan.items()}
        smaller = remove_channels(model, example, plan)
        channels = {layer: tuple(sorted(map(int, some))) for layer, some in plan.items()}
        given = example.zeros(model) if isinstance(example, Channels) else example
        return cls(channels, _shapes(model), _shapes(smaller), _described(given))

    def replay(self, model: nn.Module, example: object = None) -> nn.Module:
        """Remove the channels from a new instance of the network; return a smaller copy, ready for the saved weights.

        Args:
            model: network of the class, and with the options, that the plan was made of; its values do not matter.
            example: input to follow the network with, as in `remove_channels`. Where not given, zeros of the shapes and
                dtypes of the one that the plan was made with.

        Returns:
            A network with weights of the shapes that the pruned one has; its values are those of `model`.

        Raises:
            TypeError: `model` is not an nn.Module.
            KeyError, ValueError: a network of another structure, the message naming the first difference; or as
                `remove_channels`.
        """
        check_model(model)
        difference = _difference(self.shapes, _shapes(model), "the plan", "the model")
        if difference:
            raise ValueError(
                f"the model must be built like the one that the plan was made of: {difference}. Build it by the same "
                "class with the same options, and replay the plans of all rounds in turn."
            )
        if example is None:
            device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), None)
            example = _zeros(self.example, device)
        smaller = remove_channels(model, example, self.channels)
        difference = _difference(self.left, _shapes(smaller), "the plan", "the replayed model")
        if difference:
            raise ValueError(
                f"replayed, the plan leaves another network: {difference}. Its forward() or the version of this "
                "library differs from when the plan was made; use those, or give the example of that time."
            )
        return smaller

    def to_json(self) -> str:
        """Write the plan as JSON, for `from_json`."""
        return json.dumps(
            {
                "format": _FORMAT,
                "version": _VERSION,
                "channels": self.channels,
                "shapes": self.shapes,
                "left": self.left,
                "example": self.example,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Read the plan that `to_json` wrote.

        Raises:
            TypeError: `text` is not a str.
            ValueError: it is no plan, or one of a later version; the message names what is wrong in it.
        """
        if not isinstance(text, str):
            raise TypeError(f"text is a {type(text).__name__}; it must be a str. {_REMEDY}")
        return cls._read(_json(text, "text"))

    @classmethod
    def _read(cls, record: object) -> "Plan":
        if not isinstance(record, dict) or record.get("format") != _FORMAT:
            raise ValueError(f"{json.dumps(record):.60} is no pruning plan. {_REMEDY}")
        if record.get("version") != _VERSION:
            raise ValueError(
                f"version of the plan is {record.get('version')!r}; this library reads version {_VERSION}. Read it "
                "with the version of the library that wrote it."
            )
        channels, shapes, left = (_numbers(record, name) for name in ("channels", "shapes", "left"))
        _zeros(record.get("example"), "meta")  # only to be checked
        return cls(channels, shapes, left, record["example"])


def save_pruned(path: str | Path, model: nn.Module, plans: Plan | Sequence[Plan]) -> Path:
    """Save a pruned network as one safetensors file: its weights, and in the metadata the plans of all its rounds.

    The file is written under a temporary name and then renamed. Weights that layers share are stored with each of them.

    Args:
        path: of the file.
        model: the pruned network, trained further or not.
        plans: the plan by which it was pruned, or those of all rounds in their order.

    Returns:
        The path.

    Raises:
        TypeError: something else than plans; a network with a state that is not made of tensors.
        ValueError: no plans, or plans that do not lead to this network; the message names the first difference.
        OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3))
        >>> plan = Plan.of(model, torch.rand(1, 1, 8, 8), {"0": [1, 3]})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_pruned(f"{folder}/small.safetensors", plan.replay(model), plan).name
        'small.safetensors'
    """
    path = check_file(path, "path")
    check_model(model)
    plans = [plans] if isinstance(plans, Plan) else plans
    if not isinstance(plans, Sequence) or not all(isinstance(plan, Plan) for plan in plans):
        raise TypeError(
            f"plans is {plans!r:.80}; it must be a Plan or a list of them. Make one with Plan.of."
        )
    if not plans:
        raise ValueError(
            "plans is empty; it must hold one at least. Give that of each round, as Plan.of makes it."
        )
    places = [f"plan {number}" for number in range(len(plans))]
    reached = [*(plan.shapes for plan in plans[1:]), _shapes(model)]
    for plan, name, shapes, there in zip(plans, places, reached, [*places[1:], "the model"], strict=True):
        difference = _difference(plan.left, shapes, f"what {name} leaves", there)
        if difference:
            raise ValueError(
                f"{name} does not lead to {there}: {difference}. Give the plans of all rounds in their order, and the "
                "network that the last one left."
            )
    tensors, known = {}, set()
    for name, tensor in _state(model).items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"the state {name!r} is a {type(tensor).__name__}; only tensors can be saved.")
        tensor = tensor.detach().contiguous()
        shared = tensor.untyped_storage().data_ptr() in known
        known.add(tensor.untyped_storage().data_ptr())
        tensors[name] = tensor.clone() if shared else tensor
    with files.atomic_path(path) as temporary:
        text = f"[{', '.join(plan.to_json() for plan in plans)}]"
        safetensors.torch.save_file(tensors, temporary, metadata={_KEY: text})
    return path


def load_pruned(path: str | Path, model: nn.Module) -> nn.Module:
    """Load a network that `save_pruned` saved: replay its plans on a new instance, and load the weights.

    Args:
        path: of the file.
        model: network of the original class, built with the original options; it is left as it was.

    Returns:
        The pruned network, with the mode, device and dtype of `model`.

    Raises:
        TypeError: `model` is not an nn.Module.
        ValueError: the file is damaged or holds no plans; a model of another structure or dtype.
        OSError: the file cannot be read.

    Example:
        >>> import tempfile
        >>> model, example = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3)), torch.rand(1, 1, 8, 8)
        >>> plan = Plan.of(model, example, {"0": [1, 3]})
        >>> small = remove_channels(model, example, plan)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_pruned(f"{folder}/small.safetensors", small, plan)
        ...     again = load_pruned(path, nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3)))
        >>> torch.equal(again(example), small(example))
        True
    """
    path = check_file(path, "path")
    check_model(model)
    try:
        with safetensors.safe_open(path, framework="pt") as stream:
            text = (stream.metadata() or {}).get(_KEY)
        weights = safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a safetensors file ({error}). Give one that save_pruned wrote."
        ) from error
    if text is None:
        raise ValueError(
            f"{path} holds weights, but no plan of what was pruned. Give a file that save_pruned wrote; or a plan of "
            "your own: Plan.from_json(...).replay(model).load_state_dict(...)."
        )
    records = _json(text, f"the metadata of {path}")
    if not isinstance(records, list):
        raise ValueError(f"the metadata of {path} holds {text!r:.60}, which is no list of plans. {_REMEDY}")
    for record in records:
        model = Plan._read(record).replay(model)
    for name, tensor in _state(model).items():
        if name in weights and tensor.dtype != weights[name].dtype:
            raise ValueError(
                f"{name!r} is {tensor.dtype} in the model and {weights[name].dtype} in {path}. Change the model first: "
                f"model.to({weights[name].dtype})."
            )
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"the weights of {path} do not fit the plans in it: {error}") from error
    return model


def _state(model: nn.Module) -> dict[str, Any]:
    with tracing.alone():  # while another thread traces the model, its parameters are proxies
        return model.state_dict()


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """{name: shape} of what the weights in a file have to fit."""
    return {name: tuple(value.shape) for name, value in _state(model).items() if isinstance(value, Tensor)}


def _difference(one: _Shapes, other: _Shapes, here: str, there: str) -> str:
    """The first name of which two networks have other shapes, in words; empty if there is none."""
    for name in {**one, **other}:
        if one.get(name) != other.get(name):
            first, second = (
                f"of shape {list(shapes[name])}" if name in shapes else "missing" for shapes in (one, other)
            )
            return f"{name!r} is {first} in {here} and {second} in {there}"
    return ""


def _described(example: object) -> Any:
    """An input in the form that JSON has: shapes and dtypes instead of values."""
    if isinstance(example, Tensor):
        return {"shape": list(example.shape), "dtype": str(example.dtype).removeprefix("torch.")}
    if isinstance(example, tuple | list):
        return [_described(part) for part in example]
    if isinstance(example, dict) and all(isinstance(name, str) for name in example):
        return {"items": {name: _described(part) for name, part in example.items()}}
    if example is None or isinstance(example, bool | int | float | str):
        return {"value": example}
    raise TypeError(
        f"the example holds a {type(example).__name__}, which a plan cannot save; accepted are tensors, numbers, text "
        "and None, and tuples and dicts of them. Follow the network with an input of these."
    )


def _zeros(described: object, device: object) -> Any:
    """The input that `_described` describes, with zeros in its tensors."""
    match described:
        case {"shape": list(shape), "dtype": str(name)} if all(type(size) is int for size in shape):
            dtype = getattr(torch, name, None)
            if isinstance(dtype, torch.dtype) and min(shape, default=0) >= 0 and math.prod(shape) < _MOST:
                return torch.zeros(shape, dtype=dtype, device=device)
        case {"items": dict(items)}:
            return {name: _zeros(part, device) for name, part in items.items()}
        case {"value": value} if value is None or isinstance(value, bool | int | float | str):
            return value
        case list(parts):
            return tuple(_zeros(part, device) for part in parts)
    raise ValueError(
        f"example of the plan is {described!r:.80}; it must hold shapes and names of dtypes. {_REMEDY}"
    )


def _json(text: str, name: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is not JSON ({error}): {text!r:.60}. {_REMEDY}") from error


def _numbers(record: Mapping[str, object], name: str) -> dict[str, tuple[int, ...]]:
    """A field of a record that maps names to lists of whole numbers."""
    lists = record.get(name)
    if not isinstance(lists, dict):
        raise ValueError(
            f"{name} of the plan is {lists!r:.60}; it must map names to lists of numbers. {_REMEDY}"
        )
    for key, numbers in lists.items():
        if not isinstance(numbers, list) or not all(
            type(number) is int and number >= 0 for number in numbers
        ):
            raise ValueError(
                f"{name} of the plan has {numbers!r:.60} for {key!r}; it must be a list of whole numbers. {_REMEDY}"
            )
    return {key: tuple(numbers) for key, numbers in lists.items()}
