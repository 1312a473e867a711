"""The plan of a quantization: what is rounded in a network, and to what. Simulating and training follow it."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Float32, Int32
from torch import Tensor, nn

from course_lib.quantization import affine, integer
from course_lib.quantization._checks import check_flag, check_model, check_ranges
from course_lib.quantization._folding import folded
from course_lib.quantization.affine import QuantParams, choose_params, fake_quantize, params_of
from course_lib.quantization.operations import OPERATIONS
from course_lib.quantization.steps import LOGITS, Step
from course_lib.quantization.translate import translate
from course_lib.validation import check_choice, check_count

Ranges = Mapping[str, tuple[float, float]]

_OUTPUT_BITS = 8  # at least: logits of few bits are equal for many classes, and no layer computes with them


class RoundedLayer(NamedTuple):
    """A layer as its integers will be: its weight and bias as the numbers that integers stand for.

    Attributes:
        params: parameters of the weight.
        weight, bias: rounded, in float32.
        bias_integers: int32 [C_out], in steps of the scale of the input times that of the weight.
    """

    params: QuantParams
    weight: Float32[Tensor, "C *rest"]
    bias: Float32[Tensor, "C"] | None
    bias_integers: Int32[Tensor, "C"] | None


@dataclass(frozen=True, eq=False)
class Plan:
    """What is rounded in a network, and to what; nothing is rounded yet.

    Attributes:
        network: copy of the original with batch norms folded, in float32.
        steps: its operations, in order.
        activations: {tensor: parameters} of what is rounded.
        inputs: {layer: parameters of its input} of each layer whose weight and bias are rounded.
        weight_bits, per_channel, weight_method: of these weights, as in `workflow.quantize_model`.
        ranges: {tensor: (low, high)} that the parameters were chosen for.
    """

    network: nn.Module
    steps: list[Step]
    activations: dict[str, QuantParams]
    inputs: dict[str, QuantParams]
    weight_bits: int
    per_channel: bool
    weight_method: str
    ranges: Ranges = field(default_factory=dict)

    def options(self) -> dict[str, object]:
        """Describe the choices of `workflow.quantize_model`, in the form that JSON has."""
        return {
            "layers": list(self.inputs),
            "weight_bits": self.weight_bits,
            "per_channel": self.per_channel,
            "weight_method": self.weight_method,
        }

    def with_activations(self, activations: Mapping[str, QuantParams]) -> "Plan":
        """Return the plan with other parameters of the same tensors."""
        inputs = input_params(self.steps, activations, self.inputs)
        return replace(self, activations=dict(activations), inputs=inputs)

    def rounded(self, name: str) -> RoundedLayer:
        """Round the weight and bias that a layer has now."""
        layer = self.network.get_submodule(name)
        return self.round(name, layer.weight, layer.bias)

    def round(self, name: str, weight: Tensor, bias: Tensor | None) -> RoundedLayer:
        """Round a weight and bias as those of a layer."""
        x_params = self.inputs[name]
        try:
            axis = _channel_axis(self.network.get_submodule(name)) if self.per_channel else None
            params = _weight_params(weight, bias, x_params, self.weight_bits, axis, self.weight_method)
            rounded, rounded_bias, steps = fake_quantize(weight, params), None, None
            if bias is not None:
                by_output = params if params.axis is None else replace(params, axis=0)
                steps = integer.quantize_bias(bias, x_params=x_params, weight_params=by_output)
                size = (x_params.scale.to(steps.device) * params.scale).double()
                rounded_bias = (steps.double() * size).float()
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from error
        return RoundedLayer(params, rounded, rounded_bias, steps)

    def with_ranges(self, ranges: Ranges) -> "Plan":
        """The plan with other ranges of what is rounded."""
        activations = {
            tensor: choose_params(*ranges[tensor], bits=params.bits, symmetric=False)
            for tensor, params in self.activations.items()
        }
        return replace(self.with_activations(activations), ranges={**self.ranges, **ranges})


def plan(
    model: nn.Module,
    ranges: Ranges,
    *,
    weight_bits: int,
    activation_bits: int,
    per_channel: bool,
    weight_method: str,
    keep: Iterable[str],
) -> Plan:
    """Fold, translate and choose the parameters; `workflow.quantize_model` says what the arguments are."""
    check_count(weight_bits, "weight_bits", low=2, high=16)
    check_count(activation_bits, "activation_bits", low=2, high=16)
    check_flag(per_channel, "per_channel")
    check_choice(weight_method, "weight_method", affine.METHODS)
    check_model(model)
    network = folded(model)
    steps = translate(network)
    kept = _check_keep(keep, steps)
    ranges = check_ranges(ranges, list(dict.fromkeys(step.tensor for step in steps)))
    activations = {}
    for tensor in _rounded_tensors(steps, kept):
        bits = max(activation_bits, _OUTPUT_BITS) if tensor == LOGITS else activation_bits
        activations[tensor] = choose_params(*ranges[tensor], bits=bits, symmetric=False)
    layers = [step.layer for step in steps if step.layer is not None and step.layer not in kept]
    inputs = input_params(steps, activations, layers)
    return Plan(network, steps, activations, inputs, weight_bits, per_channel, weight_method, ranges)


def input_params(
    steps: list[Step], activations: Mapping[str, QuantParams], layers: Collection[str]
) -> dict[str, QuantParams]:
    """{layer: parameters of its input} of these layers."""
    tensors = {step.name: step.tensor for step in steps}
    return {step.layer: activations[tensors[step.inputs[0]]] for step in steps if step.layer in layers}


def _rounded_tensors(steps: list[Step], kept: set[str]) -> list[str]:
    """The tensors that an operation on integers reads or writes, in order."""
    tensors = {step.name: step.tensor for step in steps}
    touched = set()
    for step in steps:
        if OPERATIONS[step.operation].requantizes and step.layer not in kept:
            touched |= {step.tensor, *(tensors[name] for name in step.inputs)}
    return [tensor for tensor in dict.fromkeys(tensors.values()) if tensor in touched]


def _weight_params(
    weight: Tensor, bias: Tensor | None, x_params: QuantParams, bits: int, axis: int | None, method: str
) -> QuantParams:
    """Symmetric parameters, with scales so large that int32 holds the bias: as ONNX Runtime's quantizer has it."""
    per_channel = axis is not None
    params = params_of(weight, bits=bits, symmetric=True, axis=axis, method=method)
    if bias is None:
        return params
    bias = bias.detach().double().abs()
    least = 1.0001 * 2 * (bias if per_channel else bias.amax()) / (2**32 - 2)
    scale = params.scale.double()
    step = x_params.scale.to(scale.device).double() * scale
    wider = (step < least) & torch.isfinite(bias if per_channel else bias.amax())  # others are refused later
    return replace(params, scale=torch.where(wider, scale * (least / step), scale).float())


def _channel_axis(layer: nn.Module) -> int | None:
    """The axis of a weight that its scales run along; with groups a transposed convolution has one scale for all.

    Its weight is [C_in, C_out / groups, k_h, k_w]: no axis is that of all outputs, and ONNX has one scale for each
    entry of one axis.
    """
    if isinstance(layer, nn.ConvTranspose2d):
        return 1 if layer.groups == 1 else None
    return 0


def _check_keep(keep: object, steps: list[Step]) -> set[str]:
    layers = [step.layer for step in steps if step.layer is not None]
    if isinstance(keep, str) or not isinstance(keep, Iterable):
        raise TypeError(f"keep is {keep!r}; it must be the names of layers, such as ({layers[0]!r},).")
    return {check_choice(name, "layer", layers, error=KeyError) for name in keep}
