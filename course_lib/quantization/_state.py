"""What a quantized network holds beside its weights: scales and zero points, and the steps that they belong to."""

import abc
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from course_lib.quantization.affine import QuantParams
from course_lib.quantization.steps import Step
from course_lib.validation import described

EXTRA = "_extra_state"  # as PyTorch calls it in a state_dict
_KEY = "quantization"  # in the metadata of safetensors
_REMEDY = "Build the network from the same model, ranges and options, or read it with quantization.load."


@dataclass(frozen=True)
class Held:
    """Numbers that a quantized network holds beside its weights.

    Attributes:
        activations: {tensor: parameters}.
        weights: {layer: parameters}; none where they are found anew at every call.
        biases: {layer: int32 [C_out]}, where the network's own are in float32.
        options: other choices, in the form that JSON has.
    """

    activations: Mapping[str, QuantParams]
    weights: Mapping[str, QuantParams] = field(default_factory=dict)
    biases: Mapping[str, Tensor] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """Give them names, as a file has them."""
        found = {f"biases.{layer}": bias for layer, bias in self.biases.items()}
        for kind, entries in (("activations", self.activations), ("weights", self.weights)):
            for name, params in entries.items():
                found[f"{kind}.{name}.scale"] = params.scale
                found[f"{kind}.{name}.zero_point"] = params.zero_point
        return found

    def described(self) -> dict[str, Any]:
        """Write down all but the tensors."""
        entries = {"activations": self.activations, "weights": self.weights}
        forms = {
            kind: {
                name: {"bits": p.bits, "signed": p.signed, "axis": p.axis, "symmetric": p.symmetric}
                for name, p in params.items()
            }
            for kind, params in entries.items()
        }
        return {**forms, "biases": list(self.biases), "options": dict(self.options)}

    def filled(self, tensors: Mapping[str, Tensor]) -> "Held":
        """Put other tensors in the place of these, on the same devices."""

        def params(kind: str, entries: Mapping[str, QuantParams]) -> dict[str, QuantParams]:
            return {
                name: replace(
                    old,
                    scale=tensors[f"{kind}.{name}.scale"].to(old.scale.device, copy=True),
                    zero_point=tensors[f"{kind}.{name}.zero_point"].to(old.scale.device, copy=True),
                )
                for name, old in entries.items()
            }

        biases = {
            name: tensors[f"biases.{name}"].to(old.device, copy=True) for name, old in self.biases.items()
        }
        return replace(
            self,
            activations=params("activations", self.activations),
            weights=params("weights", self.weights),
            biases=biases,
        )


def described_steps(steps: Sequence[Step], network: nn.Module) -> list[str]:
    """Write down what each step computes, by its place instead of its name, which torch.fx chooses."""
    places = {step.name: place for place, step in enumerate(steps)}
    lines = []
    for step in steps:
        parts = [f"tensor {step.tensor!r}"]
        if step.layer is not None:
            shapes = [None if x is None else list(x.shape) for x in step.weights(network)]
            parts.append(f"layer {step.layer!r} {shapes}")
        if step.relu is not None:
            parts.append(f"ReLU to {step.relu:g}")
        for name, value in sorted(step.options.items()):
            parts.append(f"{name} {value.tolist() if isinstance(value, Tensor) else value}")
        reads = ", ".join(str(places[name]) for name in step.inputs)
        lines.append(f"{step.operation}({reads}), {', '.join(parts)}")
    return lines


def difference(one: object, other: object, here: str, there: str, where: str = "") -> str:
    """Name the first place where two records in the form of JSON differ; empty if there is none."""
    if isinstance(one, list) and isinstance(other, list):
        one, other = ({f"{place}": item for place, item in enumerate(items)} for items in (one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        for name in {**one, **other}:
            at = f"{where}, {name}" if where else name
            if name not in one or name not in other:
                inside, outside = (here, there) if name in one else (there, here)
                return f"{at} is in {inside} and not in {outside}"
            found = difference(one[name], other[name], here, there, at)
            if found:
                return found
        return ""
    return "" if one == other else f"{where} is {one!r:.200} in {here} and {other!r:.200} in {there}"


def to_bytes(tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> bytes:
    """Write tensors, and a record in the form of JSON, as a safetensors file."""
    plain = {
        name: tensor.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
        for name, tensor in tensors.items()
    }
    return safetensors.torch.save(plain, metadata={_KEY: json.dumps(record)})


def from_bytes(content: bytes) -> tuple[dict[str, Tensor], Any]:
    """Read what `to_bytes` wrote.

    Raises:
        SafetensorError, ValueError: it is no such file, or holds no such record.
    """
    tensors = safetensors.torch.load(content)
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
    if _KEY not in metadata:
        raise ValueError("it holds no record of a quantized network")
    return tensors, json.loads(metadata[_KEY])


def as_tensor(content: bytes) -> Tensor:
    """Bytes as the entry of a state_dict."""
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


class Stateful(nn.Module, abc.ABC):
    """Network whose state_dict holds all that its logits depend on, its scales included.

    Beside the weights it has one more entry, `_extra_state`: a uint8 tensor, so that torch.save and safetensors take
    it. Loading restores the logits exactly, or is refused: a network with other steps, layers, bits or options keeps
    what it has.
    """

    quantized_already = True  # for _checks.check_model
    network: nn.Module
    steps: Sequence[Step]

    @abc.abstractmethod
    def held(self) -> Held:
        """Give what has to be stored beside the weights."""

    @abc.abstractmethod
    def hold(self, held: Held) -> None:
        """Take the place of what `held` gave."""

    def record(self) -> dict[str, Any]:
        """Describe the network in the form of JSON: all that another must share to take its state."""
        steps = described_steps(self.steps, self.network)
        return {"kind": type(self).__name__, "steps": steps, **self.held().described()}

    def get_extra_state(self) -> Tensor:
        """Give scales and the like as bytes, for `state_dict`."""
        return as_tensor(to_bytes(self.held().tensors(), self.record()))

    def set_extra_state(self, state: object) -> None:
        """Take scales and the like from bytes, for `load_state_dict`.

        Raises:
            ValueError: they are of another network, or damaged.
        """
        self.hold(self.held().filled(self._read(state)))

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load a whole state, or none of it.

        Raises:
            ValueError: the state is of another network, or lacks something, which is named; also where `strict` is
                False, since half a state gives other logits than either network.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict is {described(state_dict)}; it must be a mapping of tensors.")
        if EXTRA not in state_dict:
            raise ValueError(
                f"the state has no entry {EXTRA!r}, which holds the scales of a quantized network, so that the logits "
                f"would not be those of the network that was saved. {_REMEDY}"
            )
        self._read(state_dict[EXTRA])
        own, given = (
            {n: _shape(v) for n, v in d.items() if n != EXTRA} for d in (self.state_dict(), state_dict)
        )
        found = difference(given, own, "the state", "this network")
        if found:
            raise ValueError(f"the state does not fit: {found}. {_REMEDY}")
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def _read(self, state: object) -> dict[str, Tensor]:
        if not isinstance(state, Tensor) or state.dtype != torch.uint8 or state.ndim != 1:
            raise ValueError(
                f"the scales in the state are {state!r:.60}, not what state_dict() gave. {_REMEDY}"
            )
        try:
            tensors, record = from_bytes(state.cpu().numpy().tobytes())
        except Exception as error:  # safetensors and json have their own
            raise ValueError(f"the scales in the state are damaged ({error}). {_REMEDY}") from error
        found = difference(record, json.loads(json.dumps(self.record())), "the state", "this network")
        own = {name: _shape(tensor) for name, tensor in self.held().tensors().items()}
        given = {name: _shape(tensor) for name, tensor in tensors.items()}
        found = found or difference(given, own, "the state", "this network")
        if found:
            raise ValueError(f"the state is that of another network: {found}. {_REMEDY}")
        return tensors


def _shape(value: object) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
