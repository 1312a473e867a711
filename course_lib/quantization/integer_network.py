"""Integer network: what `integer` computes layer by layer, for a whole network."""

import copy

from jaxtyping import Float, Float32, Int32, Integer
from torch import Tensor, nn

from course_lib.quantization._checks import check_numbers
from course_lib.quantization.affine import dequantize, quantize
from course_lib.quantization.operations import OPERATIONS
from course_lib.quantization.simulated import QuantizedNetwork
from course_lib.quantization.steps import PART, Step, execute


class IntegerNetwork(nn.Module):
    """Network in integer arithmetic; see `workflow.to_integer`.

    Attributes:
        network: copy of the original in which each quantized layer holds an int8 weight and an int32 bias. Its state
            dict is what has to be stored, beside the scales.
        steps: its operations, in order.
        activations, weights: parameters, as in `simulated.QuantizedNetwork`.
    """

    def __init__(self, simulated: QuantizedNetwork) -> None:
        super().__init__()
        self.network = copy.deepcopy(simulated.network)
        self.activations, self.weights = dict(simulated.activations), dict(simulated.weights)
        self.steps = list(simulated.steps)
        self._tensors = {step.name: step.tensor for step in self.steps}
        for name, params in self.weights.items():
            layer = self.network.get_submodule(name)
            weight, bias = quantize(layer.weight, params), simulated.biases.get(name)
            bias = None if bias is None else bias.to(weight.device)
            self.network.set_submodule(name, IntegerLayer(type(layer).__name__, weight, bias))

    def forward(self, images: Float[Tensor, "N C *size"]) -> Float32[Tensor, "N K"]:
        """Compute the logits of images, which are given as float32."""
        values = execute(self.steps, self.compute, check_numbers(images), batch_size=PART)
        return self._as_real(values, self.steps[-1].tensor)

    def compute(self, step: Step, *inputs: Tensor) -> Tensor:
        """Compute one step: on integers, or on the numbers that they stand for where it has no integer form."""
        y_params = self.activations.get(step.tensor)
        sources = [self._tensors[name] for name in step.inputs]
        kept = step.layer is not None and step.layer not in self.weights
        weights = step.weights(self.network)
        if OPERATIONS[step.operation].integers is None or kept or y_params is None:
            # The images are numbers already, and no result of a step.
            numbers = [self._as_real(x, name) for x, name in zip(inputs, sources, strict=False)] or inputs
            values = step.on_numbers(*numbers, *weights)
            return values if y_params is None else quantize(values, y_params)
        params = [self.activations[name] for name in sources]
        if weights:
            params.append(self.weights[step.layer])
        return step.on_integers(*inputs, *weights, params=(*params, y_params))

    def _as_real(self, values: Tensor, tensor: str) -> Tensor:
        params = self.activations.get(tensor)
        return values if params is None else dequantize(values, params)


class IntegerLayer(nn.Module):
    """Integers of a layer: weight int8 [C_out, ...], and bias int32 [C_out] or None."""

    def __init__(
        self, kind: str, weight: Integer[Tensor, "C *rest"], bias: Int32[Tensor, "C"] | None
    ) -> None:
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))

    def extra_repr(self) -> str:
        """Show kind, dtype and shape where the network is printed."""
        return f"{self.kind}, weight={self.weight.dtype} {list(self.weight.shape)}"
