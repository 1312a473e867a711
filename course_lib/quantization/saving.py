r"""Save and load quantized networks without pickle: integers or weights, their scales, and what they belong to.

::

    save(simulated, "vgg.safetensors")          # or a network of aware.prepare, or one of workflow.to_integer
    again = load("vgg.safetensors", models.build("vgg"))        # the same logits, to the bit

One safetensors file holds the weights of the layers, batch norms folded; beside them the scale and zero point of each
weight and activation; and in its metadata, as JSON, the operations and number of bits. It holds numbers and text alone:
loading it runs nothing that came with it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from course_lib import files, tracing
from course_lib.quantization._checks import check_model
from course_lib.quantization._folding import folded, kept
from course_lib.quantization._plan import Plan, RoundedLayer, input_params
from course_lib.quantization._ranges import MovingRanges
from course_lib.quantization._state import (
    EXTRA,
    Stateful,
    as_tensor,
    described_steps,
    difference,
    from_bytes,
    to_bytes,
)
from course_lib.quantization.affine import QuantParams
from course_lib.quantization.aware import PreparedNetwork
from course_lib.quantization.integer_network import IntegerNetwork
from course_lib.quantization.simulated import QuantizedNetwork
from course_lib.quantization.steps import Step
from course_lib.quantization.translate import translate
from course_lib.validation import check_file, described

__all__ = ["load", "save"]

_FORMAT, _VERSION = "course_lib quantized network", 1
_OF_FILE = ("format", "version", "trained")  # in the record of a file, and not in that of a network
_SCALES = ("activations.", "weights.", "biases.")  # begin the names of what is held beside the weights
_KINDS = {kind.__name__: kind for kind in (QuantizedNetwork, PreparedNetwork, IntegerNetwork)}
_REMEDY = "Give a file that quantization.save wrote, unchanged."


def save(network: QuantizedNetwork | PreparedNetwork | IntegerNetwork, path: str | PathLike) -> Path:
    """Save a quantized network as one safetensors file, from which `load` restores its logits to the bit.

    The file is written under a temporary name and then renamed. Of a network in training it holds the weights in
    float32; the state of the optimizer is not its business.

    Args:
        network: as `workflow.quantize_model`, `aware.prepare` or `workflow.to_integer` gives it.
        path: of the file; its folder is made where it is missing.

    Returns:
        The path.

    Raises:
        TypeError: another network, or `path` is none.
        ValueError: `path` cannot be that of a file.
        OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> from course_lib.quantization.workflow import quantize_model
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1))
        >>> simulated = quantize_model(model, {"images": (0, 1), "logits": (-1, 1)})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(simulated, f"{folder}/small.safetensors").name
        'small.safetensors'
    """
    if type(network) not in _KINDS.values():
        raise TypeError(
            f"network is {described(network)}; it must be one of {', '.join(_KINDS)}, as quantize_model(), "
            "prepare() and to_integer() give them."
        )
    path = check_file(path, "path")
    tensors = network.held().tensors() | _weights(network)
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    record = {"format": _FORMAT, "version": _VERSION, "trained": trained, **network.record()}
    record["sha256"] = _digest(tensors, record)
    files.write_bytes(path, to_bytes(tensors, record))
    return path


def load(path: str | PathLike, model: nn.Module) -> QuantizedNetwork | PreparedNetwork | IntegerNetwork:
    """Load a network that `save` saved.

    Args:
        path: of the file.
        model: float32 network of the class, and with the options, that the saved one was made from; its values do not
            matter, and it is left as it was. A pruned one comes from `pruning.load_pruned`.

    Returns:
        The network in evaluation mode, on the device of the model, of the kind that was saved. What was frozen in
        training is frozen again.

    Raises:
        TypeError: `model` is not an nn.Module, or `path` is no path.
        ValueError: the file is damaged, or no file of `save`; the model computes something else than the saved one,
            whose first difference is named; or the model is refused as by `workflow.quantize_model`.
        OSError: the file cannot be read.

    Example:
        >>> import tempfile
        >>> from course_lib.quantization.workflow import quantize_model
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1))
        >>> simulated = quantize_model(model, {"images": (0, 1), "logits": (-1, 1)})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save(simulated, f"{folder}/small.safetensors")
        ...     again = load(path, nn.Sequential(nn.Flatten(), nn.Linear(2, 1)))
        >>> images = torch.rand(5, 1, 1, 2)
        >>> torch.equal(again(images), simulated(images))
        True
    """
    path = check_file(path, "path")
    check_model(model)
    tensors, record = _read(path)
    network, norms = folded(model), {}
    steps = translate(network)
    if record["options"].get("batch_norm") == "kept":
        network, norms = kept(model)
    found = difference(record["steps"], described_steps(steps, network), str(path), "the model", "step")
    if found:
        raise ValueError(
            f"the model is not built like the saved network: {found}. Build it by the same class with the same options."
        )
    scales = {name: tensor for name, tensor in tensors.items() if name.startswith(_SCALES)}
    state = {name: tensor for name, tensor in tensors.items() if name not in scales}
    own = {name: value for name, value in record.items() if name not in _OF_FILE}
    result = _empty(network, norms, steps, record, scales)
    try:
        result.load_state_dict(state | {EXTRA: as_tensor(to_bytes(scales, own))})
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} does not fit the model: {error}") from error
    for name, parameter in result.named_parameters():
        parameter.requires_grad_(name in record["trained"])
    return result.eval()


def _weights(network: Stateful) -> dict[str, Tensor]:
    with tracing.alone():  # while another thread traces the model, its parameters are proxies
        state = network.state_dict()
    return {name: tensor for name, tensor in state.items() if name != EXTRA}


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and record of a file that is whole."""
    try:
        tensors, record = from_bytes(path.read_bytes())
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"path is {str(path)!r}, which is missing. Write it with quantization.save() first."
        ) from error
    except OSError:
        raise
    except Exception as error:  # safetensors and json have their own
        raise ValueError(f"{path} is no file of a quantized network ({error}). {_REMEDY}") from error
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        raise ValueError(f"{path} is no file of a quantized network ({record!r:.60}). {_REMEDY}")
    if record.get("version") != _VERSION:
        raise ValueError(
            f"version of {path} is {record.get('version')!r}; this library reads version {_VERSION}. Read it with the "
            "version of the library that wrote it."
        )
    digest = record.pop("sha256", None)
    if digest != _digest(tensors, record):
        raise ValueError(f"{path} is damaged: its content is not what its SHA-256 says. {_REMEDY}")
    return tensors, record


def _digest(tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> str:
    """SHA-256 of all that is in a file."""
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _empty(
    network: nn.Module,
    norms: Mapping[str, str],
    steps: list[Step],
    record: Mapping[str, Any],
    scales: Mapping[str, Tensor],
) -> Stateful:
    """A network of the kind and the parameters in the record, whose weights are 0."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_().requires_grad_(False)
    activations, weights = (
        {
            name: QuantParams(scales[f"{kind}.{name}.scale"], scales[f"{kind}.{name}.zero_point"], **form)
            for name, form in record[kind].items()
        }
        for kind in ("activations", "weights")
    )
    options = dict(record["options"])
    layers = options.pop("layers", list(weights))
    device = next(network.parameters()).device
    weights = {name: _moved(params, device) for name, params in weights.items()}
    inputs = input_params(steps, activations, layers)
    if record["kind"] == PreparedNetwork.__name__:
        momentum = options.pop("moving")
        del options["batch_norm"]
        moving = None if momentum is None else MovingRanges(dict.fromkeys(activations, (0.0, 1.0)), *momentum)
        planned = Plan(network, steps, activations, inputs, **options)
        return PreparedNetwork(planned, norms, moving)
    plan = _Stored(network, steps, activations, inputs, 8, True, "max", weights=weights)
    simulated = QuantizedNetwork(plan)
    return simulated if record["kind"] == QuantizedNetwork.__name__ else IntegerNetwork(simulated)


def _moved(params: QuantParams, device: torch.device) -> QuantParams:
    return replace(params, scale=params.scale.to(device), zero_point=params.zero_point.to(device))


@dataclass(frozen=True, eq=False)
class _Stored(Plan):
    """Plan whose weights have the parameters that a file holds."""

    weights: Mapping[str, QuantParams] = field(default_factory=dict)

    def rounded(self, name: str) -> RoundedLayer:
        """Give the weight and bias as they are."""
        layer = self.network.get_submodule(name)
        steps = None if layer.bias is None else layer.bias.int()
        return RoundedLayer(self.weights[name], layer.weight, layer.bias, steps)
