"""Simulated network: quantized inference in float32."""

import copy

from jaxtyping import Float
from torch import Tensor, nn

from course_lib.quantization._checks import check_numbers
from course_lib.quantization._plan import Plan
from course_lib.quantization._state import Held, Stateful
from course_lib.quantization.steps import PART, Step, execute


class QuantizedNetwork(Stateful):
    """Network whose weights and activations are rounded to what integers stand for; see `workflow.quantize_model`.

    Its state_dict holds the scales too. `saving.save` writes it to a file.

    Attributes:
        network: copy of the original with batch norms folded and weights rounded.
        steps: its operations, in order.
        activations: {tensor: parameters} of what is rounded.
        weights: {layer: parameters} of what is rounded.
        biases: {layer: int32 [C_out]}, in steps of the scale of the input times that of the weight.
    """

    def __init__(self, planned: Plan) -> None:
        super().__init__()
        self.network = copy.deepcopy(planned.network).eval()
        self.steps, self.activations = list(planned.steps), dict(planned.activations)
        self.weights, self.biases = {}, {}
        for name in planned.inputs:
            layer, rounded = self.network.get_submodule(name), planned.rounded(name)
            layer.weight = nn.Parameter(rounded.weight, requires_grad=False)
            self.weights[name] = rounded.params
            if rounded.bias is not None:
                layer.bias = nn.Parameter(rounded.bias, requires_grad=False)
                self.biases[name] = rounded.bias_integers

    def forward(self, images: Float[Tensor, "N C *size"]) -> Float[Tensor, "N K"]:
        """Compute the logits of images, float32."""
        return execute(self.steps, self.compute, check_numbers(images), batch_size=PART)

    def held(self) -> Held:
        """Give what has to be stored beside the weights."""
        return Held(self.activations, self.weights, self.biases)

    def hold(self, held: Held) -> None:
        """Take the place of what `held` gave."""
        self.activations, self.weights = dict(held.activations), dict(held.weights)
        self.biases = dict(held.biases)

    def compute(self, step: Step, *inputs: Tensor) -> Tensor:
        """Compute one step, rounded: what `steps.execute` takes."""
        values = step.on_numbers(*inputs, *step.weights(self.network))
        params = step.rounding(self.activations)
        if params is None:
            return values
        # affine.fake_quantize without its checks, which take longer than the rounding
        scale, zero_point = params.scale.to(values.device), int(params.zero_point)
        steps = values.div(scale).round_().clamp_(params.low - zero_point, params.high - zero_point)
        return steps.mul_(scale)
