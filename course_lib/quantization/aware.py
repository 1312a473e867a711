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

Here batch norms are folded before training, and ranges stay as they were calibrated. Frameworks usually keep the batch
norms, fold them anew in every forward pass, let the ranges follow the batches, and freeze both near the end::

    network = prepare(model, ranges, weight_bits=4, activation_bits=4, batch_norm="kept", range_update="average")
    recipe = training.Recipe(epochs=3, learning_rate=0.01)
    training.fit(network, dataset, recipe, on_epoch=lambda epoch, _: network.freeze() if epoch == 2 else None)

Convert it likewise. For a file, write what was trained in float32, and quantize it with the ranges of the training::

    path, names = onnx.export(network.plan.network, example, "vgg.onnx")
    onnx.quantize(path, "vgg-int8.onnx", ranges=network.plan.ranges, names=names)
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from course_lib.quantization._batch_norm import normalized
from course_lib.quantization._checks import check_numbers
from course_lib.quantization._folding import folded_layer, kept, without_norms
from course_lib.quantization._plan import Plan, Ranges, plan
from course_lib.quantization._ranges import UPDATES, MovingRanges
from course_lib.quantization._state import Held, Stateful
from course_lib.quantization.affine import QuantParams, fake_quantize, in_range
from course_lib.quantization.simulated import QuantizedNetwork
from course_lib.quantization.steps import PART, Step, execute
from course_lib.validation import check_choice, check_number, described

_BATCH_NORMS = ("folded", "kept")


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
    batch_norm: str = "folded",
    range_update: str = "fixed",
    range_momentum: float = 0.01,
) -> "PreparedNetwork":
    """Make the network that `workflow.quantize_model` simulates trainable.

    There is no dropout in this training. The scale of a weight is found anew from its values at every step, by
    `weight_method`, and is a constant in the gradient.

    Batch norms are "folded" first, so that the weights which are trained are those which are rounded, and there is no
    batch norm in this training. Or they are "kept": their scale and shift are trained too, and every forward pass
    rounds the weights as they are folded then. In training mode it has the statistics of the batch, as batch norm does,
    costs a second convolution for them, and leaves the folded bias unrounded; in evaluation mode, and after
    `PreparedNetwork.freeze`, it has the running statistics, and rounds the bias too.

    The ranges of activations are "fixed"; or each batch in training mode moves them, until `PreparedNetwork.freeze`, by
    a moving "average" of its smallest and largest values, or out to these ("max"). The next batch has the new ranges.

    Args:
        model, ranges, weight_bits, activation_bits, per_channel, weight_method, keep: as in
            `workflow.quantize_model`. The model is trained already; it is left as it was. What it does not train
            (requires_grad=False) stays frozen.
        batch_norm: "folded" or "kept".
        range_update: "fixed", "average" or "max".
        range_momentum: weight of the new batch in the average, above 0 and at most 1.

    Returns:
        A network whose logits are, before training, those of the simulation to the bit (in evaluation mode, where batch
        norms are kept). Train it with `training.fit` at a tenth of the model's own learning rate or less.

    Raises:
        TypeError, KeyError, ValueError: as `workflow.quantize_model`; an unknown name, or a momentum out of range.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1, bias=False))
        >>> model[1].weight.data = torch.tensor([[1.0, -0.26]])
        >>> network = prepare(model, {"images": (0, 3), "logits": (-4, 4)}, weight_bits=3)
        >>> network(torch.tensor([[[[3.0, 3.0]]]])).sum().backward()
        >>> network.network[1].weight.grad
        tensor([[3., 3.]])

    References:
        Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
        CVPR 2018, section 3; Krishnamoorthi 2018, sections 2.4 and 3.2.2.
    """
    check_choice(batch_norm, "batch_norm", _BATCH_NORMS)
    check_choice(range_update, "range_update", UPDATES)
    check_number(range_momentum, "range_momentum", low=0, high=1, low_open=True)
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
    norms = {}
    if batch_norm == "kept":
        network, norms = kept(model)
        planned = replace(planned, network=network.train())
    moving = None
    if range_update != "fixed":
        rounded = {tensor: planned.ranges[tensor] for tensor in planned.activations}
        moving = MovingRanges(rounded, range_momentum if range_update == "average" else None)
    return PreparedNetwork(planned, norms, moving)


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
            f"prepared is {described(prepared)}; it must be a PreparedNetwork, as prepare() gives it."
        )
    return QuantizedNetwork(prepared.plan)


class PreparedNetwork(Stateful):
    """Network in float32 that rounds its weights, biases and activations at every call; see `prepare`.

    Attributes:
        network: copy of the original, its batch norms folded or kept. Its parameters are trained.
        frozen: whether statistics of batch norms and ranges stay as they are in training mode; a tensor, which belongs
            to the state dict where there is something to freeze.
    """

    def __init__(
        self, planned: Plan, norms: Mapping[str, str] | None = None, moving: MovingRanges | None = None
    ) -> None:
        super().__init__()
        self.network, self.moving = planned.network, moving
        self._planned, self._norms = planned, dict(norms or {})
        self.register_buffer("frozen", torch.tensor(False), persistent=bool(norms) or moving is not None)

    @property
    def plan(self) -> Plan:
        """What is rounded, and to what, as it is now; its network is the trained one with batch norms folded."""
        planned = self._ranged()
        if not self._norms:
            return planned
        behind = {norm: layer for layer, norm in self._norms.items()}
        return replace(planned, network=without_norms(self.network, behind))

    def freeze(self) -> None:
        """Compute with the running statistics of batch norms and the ranges as they are now, in training mode too.

        All parameters are still trained; what is computed is the inference that they are trained for. Networks without
        batch norms whose ranges are fixed have nothing to freeze, and train on as before.

        Example:
            >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1), nn.BatchNorm1d(1))
            >>> network = prepare(model, {"images": (0, 3), "logits": (-4, 4)}, batch_norm="kept")
            >>> network.freeze()
            >>> _ = network.train()(torch.ones(5, 1, 1, 2))
            >>> network.network[2].num_batches_tracked
            tensor(0)

        References:
            Krishnamoorthi 2018, section 3.2.2.
        """
        self.frozen.fill_(True)

    def forward(self, images: Float[Tensor, "N C *size"]) -> Float[Tensor, "N K"]:
        """Compute the logits of images, float32."""
        images = check_numbers(images)
        planned, moves = self._ranged(), self.training and not self.frozen
        layers = {
            step.layer: self._layer(planned, step.layer)
            for step in planned.steps
            if step.layer is not None and not (moves and self._normalizes(step.layer))
        }
        compute = functools.partial(self._compute, planned, layers, moves)
        return execute(planned.steps, compute, images, batch_size=None if self.training else PART)

    @property
    def steps(self) -> list[Step]:
        """Operations, in order."""
        return self._planned.steps

    def held(self) -> Held:
        """Give what has to be stored beside the weights."""
        options = {
            **self._planned.options(),
            "batch_norm": "kept" if self._norms else "folded",
            "moving": None if self.moving is None else [self.moving.momentum],
        }
        return Held(self._ranged().activations, options=options)

    def hold(self, held: Held) -> None:
        """Take the place of what `held` gave."""
        self._planned = self._planned.with_activations(held.activations)

    def _ranged(self) -> Plan:
        return self._planned if self.moving is None else self._planned.with_ranges(self.moving.now())

    def _norm_of(self, name: str) -> nn.Module | None:
        norm = self._norms.get(name)
        return None if norm is None else self.network.get_submodule(norm)

    def _normalizes(self, name: str) -> bool:
        """Whether a batch norm behind the layer takes the statistics of the batch; eval() on it alone stops it too."""
        norm = self._norm_of(name)
        return norm is not None and norm.training

    def _layer(self, planned: Plan, name: str) -> tuple[Tensor, Tensor | None]:
        """Weight and bias, with the batch norm folded; rounded unless the layer is kept in float32."""
        layer, norm = self.network.get_submodule(name), self._norm_of(name)
        weight, bias = (layer.weight, layer.bias) if norm is None else folded_layer(layer, norm)
        if name not in planned.inputs:
            return weight, bias
        rounded = planned.round(name, weight, bias)
        # int32 always holds the bias, so that none is clipped.
        bias = None if bias is None else _Rounded.apply(bias, rounded.bias, None)
        return straight_through(weight, rounded.params), bias

    def _normalized(self, planned: Plan, step: Step, x: Tensor) -> Tensor:
        """The step of a layer with its batch norm, by the statistics of the batch."""

        def rounded(weight: Tensor, bias: Tensor) -> Tensor:
            if step.layer not in planned.inputs:
                return weight
            return straight_through(weight, planned.round(step.layer, weight, bias).params)

        layer = self.network.get_submodule(step.layer)
        return normalized(step, x, layer, self._norm_of(step.layer), rounded)

    def _compute(
        self,
        planned: Plan,
        layers: dict[str, tuple[Tensor, Tensor | None]],
        moves: bool,
        step: Step,
        *inputs: Tensor,
    ) -> Tensor:
        if step.layer is None or step.layer in layers:
            values = step.on_numbers(*inputs, *layers.get(step.layer, ()))
        else:
            values = self._normalized(planned, step, *inputs)
        params = step.rounding(planned.activations)
        if params is None:
            return values
        try:
            result = straight_through(values, params)
        except ValueError as error:
            raise ValueError(f"tensor {step.tensor!r}: {error}") from error
        if moves and self.moving is not None:
            self.moving.update(step.tensor, values)
        return result
