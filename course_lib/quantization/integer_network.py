"""Integer network: what `integer` computes layer by layer, for a whole network."""

import copy

from jaxtyping import Float, Float32, Int32, Integer
from torch import Tensor, nn

from course_lib.quantization._checks import check_numbers
from course_lib.quantization._kernels import Kernels
from course_lib.quantization._state import Held, Stateful
from course_lib.quantization.affine import QuantParams, dequantize, quantize
from course_lib.quantization.operations import OPERATIONS
from course_lib.quantization.simulated import QuantizedNetwork
from course_lib.quantization.steps import PART, Step, execute
from course_lib.validation import described


class IntegerNetwork(Stateful):
    """Network in integer arithmetic; see `workflow.to_integer`.

    Its state_dict holds integers and their scales. `saving.save` writes it to a file.

    `forward` gives the numbers of `compute`, to the bit, by 8-bit products of the processor if those are exact. A
    batch takes less time than in float32. One image through many small layers may take more: for each layer PyTorch is
    called six times, once for the sums and five times to requantize them, and a call costs more than what it computes.
    A weight that has been changed is read again, unless it was changed through ``.data``, which PyTorch does not count.

    Attributes:
        network: copy of the original in which each quantized layer holds an int8 weight and an int32 bias.
        steps: its operations, in order.
        activations, weights: parameters, as in `simulated.QuantizedNetwork`.
    """

    def __init__(self, simulated: QuantizedNetwork) -> None:
        super().__init__()
        _check(simulated)
        self.network = copy.deepcopy(simulated.network)
        self.activations, self.weights = dict(simulated.activations), dict(simulated.weights)
        self.steps = list(simulated.steps)
        self._kernels = Kernels()
        self._tensors = {step.name: step.tensor for step in self.steps}
        for name, params in self.weights.items():
            layer = self.network.get_submodule(name)
            weight, bias = quantize(layer.weight, params), simulated.biases.get(name)
            bias = None if bias is None else bias.to(weight.device)
            self.network.set_submodule(name, IntegerLayer(type(layer).__name__, weight, bias))

    def forward(self, images: Float[Tensor, "N C *size"]) -> Float32[Tensor, "N K"]:
        """Compute the logits of images, which are given as float32."""
        images = check_numbers(images)
        values = execute(self.steps, self._kernels.computing(self, images), images, batch_size=PART)
        return self._as_real(values, self.steps[-1].tensor)

    def held(self) -> Held:
        """Give what has to be stored beside the integers."""
        return Held(self.activations, self.weights)

    def hold(self, held: Held) -> None:
        """Take the place of what `held` gave."""
        self.activations, self.weights = dict(held.activations), dict(held.weights)

    def compute(self, step: Step, *inputs: Tensor) -> Tensor:
        """Compute one step: on integers, or on the numbers that they stand for where it has no integer form."""
        weights, params = step.weights(self.network), self.params(step)
        if params is None:
            y_params = self.activations.get(step.tensor)
            sources = [self._tensors[name] for name in step.inputs]
            # The images are numbers already, and no result of a step.
            numbers = [self._as_real(x, name) for x, name in zip(inputs, sources, strict=False)] or inputs
            values = step.on_numbers(*numbers, *weights)
            return values if y_params is None else _quantized(values, y_params, step.tensor)
        return step.on_integers(*inputs, *weights, params=params)

    def params(self, step: Step) -> tuple[QuantParams, ...] | None:
        """Return the parameters that `Step.on_integers` takes; None where a step is computed on numbers."""
        y_params = self.activations.get(step.tensor)
        kept = step.layer is not None and step.layer not in self.weights
        if OPERATIONS[step.operation].integers is None or kept or y_params is None:
            return None
        inputs = [self.activations[self._tensors[name]] for name in step.inputs]
        return (*inputs, *([] if step.layer is None else [self.weights[step.layer]]), y_params)

    def _as_real(self, values: Tensor, tensor: str) -> Tensor:
        params = self.activations.get(tensor)
        return values if params is None else dequantize(values, params)


def _check(simulated: object) -> None:
    if not isinstance(simulated, QuantizedNetwork):
        raise TypeError(
            f"simulated is {described(simulated)}; it must be a QuantizedNetwork, as quantize_model() and "
            "aware.convert() give it."
        )
    for name, params in (*simulated.weights.items(), *simulated.activations.items()):
        if params.bits > 8:
            raise ValueError(
                f"{name!r} has {params.bits} bits; integer arithmetic is for 2 to 8, whose products int32 sums up. "
                "Quantize with fewer bits."
            )


def _quantized(values: Tensor, params: QuantParams, tensor: str) -> Tensor:
    try:
        return quantize(values, params)
    except ValueError as error:
        raise ValueError(f"tensor {tensor!r}: {error}") from error


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
