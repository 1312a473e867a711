r"""Quantization-aware training: the network learns with the rounding that its integers will have.

::

    ranges = workflow.calibrate(workflow.collect(model, dataset.train.images[:500]), "mse", bits=4)     # as before
    network = prepare(model, ranges, weight_bits=4, activation_bits=4)
    training.fit(network, dataset, training.Recipe(epochs=2, learning_rate=0.01))
    simulated = convert(network)                                    # what workflow.quantize_model gives
    integer = workflow.to_integer(simulated)

Every forward pass rounds weights, biases and activations as the simulation of `workflow` does, from the numbers in
float32 that are trained. Rounding is a staircase, whose derivative is 0 wherever it has one; the straight-through
estimator puts 1 in its place.
"""

import functools
from collections.abc import Iterable

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from course_lib.quantization._checks import check_numbers
from course_lib.quantization._plan import Plan, Ranges, plan
from course_lib.quantization.affine import QuantParams, fake_quantize, in_range
from course_lib.quantization.simulated import QuantizedNetwork
from course_lib.quantization.steps import PART, Step, execute


def straight_through(x: Float[Tensor, "*shape"], params: QuantParams) -> Float32[Tensor, "*shape"]:
    r"""Round as `affine.fake_quantize` does, with the gradient of the identity inside the range and 0 beyond it.

    .. math::
        y = \mathrm{fake\_quantize}(x), \qquad
        \frac{\partial L}{\partial x} = \begin{cases}
            \frac{\partial L}{\partial y} & \text{where } q_{min} \le \mathrm{round}(x / s) + z \le q_{max} \\
            0 & \text{where x saturates} \end{cases}

    Scale and zero point are constants.

    Args:
        x, params: as in `affine.quantize`.

    Returns:
        float32, the same shape.

    Raises:
        TypeError, ValueError: as `affine.quantize`.

    Example:
        >>> params = QuantParams(torch.tensor(0.5), torch.tensor(0, dtype=torch.int32), bits=3, signed=True)
        >>> x = torch.tensor([0.6, 9.0], requires_grad=True)
        >>> straight_through(x, params).sum().backward()
        >>> straight_through(x.detach(), params), x.grad
        (tensor([0.5000, 1.5000]), tensor([1., 0.]))

    References:
        Bengio, Leonard and Courville, "Estimating or Propagating Gradients Through Stochastic Neurons for Conditional
        Computation", 2013, section 4; Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference:
        A whitepaper", 2018, section 2.4.
    """
    return _Rounded.apply(x, fake_quantize(x, params), in_range(x, params))


class _Rounded(torch.autograd.Function):
    """Rounded values in the place of x, which gets their gradient where `passes`; everywhere if that is None.

    The common x + (rounded - x).detach() lets it pass everywhere, beyond the range too, where nothing that x does can
    change the result.
    """

    @staticmethod
    def forward(ctx, x: Tensor, rounded: Tensor, passes: Tensor | None) -> Tensor:
        ctx.save_for_backward(passes)
        return rounded.clone()  # what a caller may change in place

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        [passes] = ctx.saved_tensors
        return gradient if passes is None else gradient * passes, None, None


def prepare(
    model: nn.Module,
    ranges: Ranges,
    *,
    weight_bits: int = 8,
    activation_bits: int = 8,
    per_channel: bool = True,
    weight_method: str = "max",
    keep: Iterable[str] = (),
) -> "PreparedNetwork":
    """Make the network that `workflow.quantize_model` simulates trainable.

    Batch norms are folded first, so that the weights which are trained are those which are rounded; there is no batch
    norm in this training, and no dropout. The ranges of activations stay as they are. The scale of a weight is found
    anew from its values at every step, by `weight_method`, and is a constant in the gradient.

    Args:
        model, ranges, weight_bits, activation_bits, per_channel, weight_method, keep: as in
            `workflow.quantize_model`. The model is trained already; it is left as it was. What it does not train
            (requires_grad=False) stays frozen.

    Returns:
        A network whose logits are, before training, those of the simulation to the bit. Train it with `training.fit`
        at a tenth of the model's own learning rate or less.

    Raises:
        TypeError, KeyError, ValueError: as `workflow.quantize_model`.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1, bias=False))
        >>> model[1].weight.data = torch.tensor([[1.0, -0.26]])
        >>> network = prepare(model, {"images": (0, 3), "logits": (-4, 4)}, weight_bits=3)
        >>> network(torch.tensor([[[[3.0, 3.0]]]])).sum().backward()
        >>> network.network[1].weight.grad
        tensor([[3., 3.]])

    References:
        Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
        CVPR 2018, section 3; Krishnamoorthi 2018, section 2.4.
    """
    planned = plan(
        model,
        ranges,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        per_channel=per_channel,
        weight_method=weight_method,
        keep=keep,
    )
    for name in planned.inputs:
        planned.rounded(name)  # judges the weights
    return PreparedNetwork(planned)


def convert(prepared: "PreparedNetwork") -> QuantizedNetwork:
    """Round the weights of the trained network for good, and give what `workflow.quantize_model` gives.

    Args:
        prepared: as `prepare` gives it; it is left as it was, and can be trained further.

    Returns:
        The simulated network, with the logits of `prepared` to the bit. `workflow.to_integer` takes it on.

    Raises:
        TypeError: `prepared` is no PreparedNetwork.
        ValueError: a weight that holds NaN or infinity, whose layer is named.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1, bias=False))
        >>> model[1].weight.data = torch.tensor([[1.0, -0.26]])
        >>> convert(prepare(model, {"images": (0, 3), "logits": (-4, 4)}, weight_bits=3)).network[1].weight.data
        tensor([[ 1.0000, -0.3333]])
    """
    if not isinstance(prepared, PreparedNetwork):
        raise TypeError(
            f"prepared is a {type(prepared).__name__}; it must be a PreparedNetwork, as prepare() gives it."
        )
    return QuantizedNetwork(prepared.plan)


class PreparedNetwork(nn.Module):
    """Network in float32 that rounds its weights, biases and activations at every call; see `prepare`.

    Attributes:
        network: copy of the original with batch norms folded. Its parameters are trained.
        plan: what is rounded, and to what; it holds the same network.
    """

    def __init__(self, planned: Plan) -> None:
        super().__init__()
        self.network, self.plan = planned.network, planned

    def forward(self, images: Float[Tensor, "N C *size"]) -> Float[Tensor, "N K"]:
        images = check_numbers(images)
        layers = {step.layer: self._layer(step.layer) for step in self.plan.steps if step.layer is not None}
        compute = functools.partial(self._compute, layers)
        return execute(self.plan.steps, compute, images, batch_size=None if self.training else PART)

    def _layer(self, name: str) -> tuple[Tensor, Tensor | None]:
        """Weight and bias, rounded unless the layer is kept in float32."""
        layer = self.network.get_submodule(name)
        if name not in self.plan.inputs:
            return layer.weight, layer.bias
        rounded = self.plan.rounded(name)
        # int32 always holds the bias, so that none is clipped.
        bias = None if layer.bias is None else _Rounded.apply(layer.bias, rounded.bias, None)
        return straight_through(layer.weight, rounded.params), bias

    def _compute(
        self, layers: dict[str, tuple[Tensor, Tensor | None]], step: Step, *inputs: Tensor
    ) -> Tensor:
        values = step.on_numbers(*inputs, *layers.get(step.layer, ()))
        params = step.rounding(self.plan.activations)
        return values if params is None else straight_through(values, params)
