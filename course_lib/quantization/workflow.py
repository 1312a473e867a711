"""Post-training quantization of a whole network in five steps, each of them a call of its own.

    histograms = collect(model, dataset.train.images[:500])         # 1 run the calibration set, 2 count the activations
    ranges = calibrate(histograms, "entropy", bits=8)               # 3 choose the ranges
    simulated = quantize_model(model, ranges, weight_bits=8, activation_bits=8)            # 4 quantize
    integer = to_integer(simulated)                                 # 5 from floating point to integer arithmetic

The network is traced with torch.fx and taken apart into steps on the network with its batch norms folded. Integers are
where ONNX Runtime's quantizer puts them: the result of every convolution, linear layer, addition and global average
pooling has a range of its own, a ReLU lies in the range of what it follows, max pooling, average pooling and flattening
hand on the range of their input. What has no integer form here is refused by name.
"""

import copy
import functools
import inspect
import math
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, NoReturn

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int32, Integer, Shaped
from torch import Tensor, fx, nn

from course_lib import tracing
from course_lib.data import to_float
from course_lib.quantization import affine, integer
from course_lib.quantization.affine import (
    QuantParams,
    check_flag,
    check_real,
    choose_params,
    dequantize,
    fake_quantize,
    params_of,
    quantize,
)
from course_lib.quantization.calibration import METHODS, Histogram, check_ranges
from course_lib.validation import check_choice, check_count, check_number

Images = Shaped[Tensor, "N C H W"]
Ranges = Mapping[str, tuple[float, float]]

_BatchNorm = nn.modules.batchnorm._BatchNorm
_IMAGES, _LOGITS = "images", "logits"  # names of the first and the last tensor, as in the files of `onnx`
_OUTPUT_BITS = 8  # at least: logits of few bits are equal for many classes, and no layer computes with them
_PART = 125  # images at a time: their activations stay in the processor's cache


# ---- the five steps ------------------------------------------------------------------------------------------------


def fold_batch_norm(model: nn.Module, example: Shaped[Tensor, "N *rest"]) -> nn.Module:
    """A copy of a network whose convolutions and linear layers do the work of the batch norms behind them.

        w' = w * gamma / sqrt(var + eps),    b' = (b - mean) * gamma / sqrt(var + eps) + beta

    A batch norm is a scale and a shift for each channel in evaluation mode, and so is no operation of its own in an
    integer network. nn.Identity takes its place, so that all other layers keep their names.

    Args:
        model: network, traceable by torch.fx; it is left as it was.
        example: input [N, ...] of the dtype and on the device that the model runs on.

    Returns:
        The network in evaluation mode, without batch norms.

    Raises:
        TypeError: `model` is not an nn.Module, or `example` not a tensor.
        ValueError: the model cannot be traced or does not run on the example; a batch norm that does not directly
            follow a convolution or linear layer which nothing else reads, or has no running statistics; a layer that is
            called more than once.

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", CVPR 2018, section 3.2.
    """
    tracing.check(model, example)
    folded = _folded(model)
    _check_same(model, folded, example)
    return folded


def collect(
    model: nn.Module, images: Images, *, bins: int = 2048, batch_size: int = 100
) -> dict[str, Histogram]:
    """Histograms of the activations of a network on calibration images, its batch norms folded.

    Every tensor that gets a range of its own is counted: the images, and the result of each convolution, linear layer,
    addition and global average pooling, behind the ReLU where one follows. One collection serves every method and
    number of bits.

    Args:
        model: network that maps images to logits, float32, traceable by torch.fx; it is left as it was.
        images: calibration images of the training split, uint8 [N, C, H, W], which `data.to_float` makes numbers, or
            float32 as the network takes them (normalised, for instance).
        bins: of each histogram.
        batch_size: images at a time.

    Returns:
        {tensor: histogram} in the order of computation, from "images" to "logits". A tensor between them has the name
        of the layer that computes it, or of the operation, such as "3.add".

    Raises:
        TypeError: an argument of another type or dtype than said here.
        ValueError: no images; a tensor that holds NaN or infinity, which is named; an operation that has no integer
            form here, which is named; or as `fold_batch_norm`.
    """
    check_count(bins, "bins", low=2)
    check_count(batch_size, "batch_size")
    images = _check_images(images)
    device = _check_model(model)
    folded = _folded(model)
    steps = _steps(folded)
    histograms = {step.tensor: Histogram(bins) for step in steps if step.operation in _OWN_RANGE}

    def compute(step: Step, *inputs: Tensor) -> Tensor:
        values = _real(folded, step, *inputs)
        if step.operation in _OWN_RANGE:
            try:
                histograms[step.tensor].update(values)
            except ValueError as error:
                raise ValueError(f"tensor {step.tensor!r}: {error}") from error
        return values

    first = images[:4].to(device)
    with tracing.borrowed(model):
        tracing.run(model, _numbers(first))
    with torch.no_grad():
        for part in images.split(batch_size):
            execute(steps, compute, _numbers(part.to(device)))
    _check_same(model, functools.partial(execute, steps, functools.partial(_real, folded)), first)
    return histograms


def calibrate(
    histograms: Mapping[str, Histogram], method: str = "max", *, bits: int = 8, percentile: float = 99.99
) -> dict[str, tuple[float, float]]:
    """The range of each tensor that its integers will cover, as `Histogram.range` finds it.

    The logits are never clipped, whatever the method: the largest of them is the answer.

    Args:
        histograms: as `collect` gives them.
        method: name in `calibration.METHODS`.
        bits: width of the integers that the ranges are for, 2 to 16.
        percentile: in (0, 100], for the method of that name.

    Returns:
        {tensor: (low, high)} with low <= 0 <= high.

    Raises:
        TypeError: an argument of another type than said here.
        ValueError: an unknown method; bits or percentile out of range; no histograms, or one that is empty or has too
            few bins, which is named.
    """
    check_choice(method, "calibration method", METHODS)
    check_count(bits, "bits", low=2, high=16)
    check_number(percentile, "percentile", low=0, high=100, low_open=True)
    if not isinstance(histograms, Mapping):
        raise TypeError(
            f"histograms are a {type(histograms).__name__}; they must be {{tensor: Histogram}}, as collect() gives."
        )
    if not histograms:
        raise ValueError("there are no histograms; collect(model, images) makes one for each tensor.")
    ranges = {}
    for name, histogram in histograms.items():
        if not isinstance(histogram, Histogram):
            raise TypeError(
                f"the histogram of {name!r} is a {type(histogram).__name__}; collect() makes Histograms."
            )
        chosen = "max" if name == _LOGITS else method
        try:
            ranges[name] = histogram.range(chosen, bits=bits, percentile=percentile)
        except ValueError as error:
            raise ValueError(f"tensor {name!r}: {error}") from error
    return ranges


def quantize_model(
    model: nn.Module,
    ranges: Ranges,
    *,
    weight_bits: int = 8,
    activation_bits: int = 8,
    per_channel: bool = True,
    weight_method: str = "max",
    keep: Iterable[str] = (),
) -> "QuantizedNetwork":
    """The network with its numbers rounded to those that integers stand for, still computed in float32.

        y = fake_quantize(relu(fake_quantize(w) * x + round(b / (s_x s_w)) s_x s_w))

    Weights are symmetric and signed, activations asymmetric and unsigned with one scale a tensor, as in
    `onnx.quantize`; biases are int32. The images are activations too. The logits have 8 bits at least. Where a bias is
    so large beside its weights that int32 would not hold it, the weight's scale is widened, as ONNX Runtime does.

    Args:
        model: network that maps images to logits, float32, traceable by torch.fx; it is left as it was.
        ranges: {tensor: (low, high)} for each tensor that `collect` gives.
        weight_bits, activation_bits: 2 to 16.
        per_channel: whether each output channel of a weight has a scale of its own, or the whole weight has one.
        weight_method: "max" where a weight's range goes to its largest value; "mse" where it ends at the least squared
            error of the weight, as `affine.params_of` finds it, which with 2 bits is far better.
        keep: names of convolutions and linear layers that stay in float32, such as the first and the last. Tensors
            that only such layers read and write are not rounded.

    Returns:
        The simulated network, to be evaluated like any other.

    Raises:
        TypeError: an argument of another type than said here.
        KeyError: `ranges` lack a tensor or name an unknown one; `keep` names an unknown layer.
        ValueError: bits out of range; a range whose ends are not finite or in order; a weight that holds NaN or
            infinity; an operation that has no integer form here, which is named; or as `fold_batch_norm`.

    Source: Wu et al., "Integer Quantization for Deep Learning Inference: Principles and Empirical Evaluation", 2020,
    sections 3 and 4.1 (scales for each channel of a weight, one for an activation; layers left in floating point).
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
    return simulate(planned)


def to_integer(simulated: "QuantizedNetwork") -> "IntegerNetwork":
    """The same network in integer arithmetic, by the functions of `integer`.

    Images become integers once, logits become numbers once, and what is between them are integers of 8 bits and sums of
    int32. A ReLU costs nothing: it is where the range of the layer ends. Layers kept in float32 are computed on numbers
    that integers stand for, and their results become integers again.

    The simulated network computes the same with float32 sums. From equal inputs a layer gives the same integers, but
    for one step where a sum lies so near a half that its last bit decides: in less than one value of a thousand. Later
    layers carry that on. On the trained networks of this course up to 6 logits in a hundred differ by one step, and at
    most one answer in 4,000. Average pooling (not the global one) meets exact halves often, since its output is in
    steps of its input.

    The logits are those of ONNX Runtime for the file that `onnx.quantize` writes with the same ranges, bit for bit,
    where its processor multiplies 8-bit numbers exactly (see `integer.conv2d`) and no average pooling is in the
    network (see `integer.avg_pool2d`).

    Args:
        simulated: as `quantize_model` gives it, of 8 bits at most; it is left as it was.

    Returns:
        A network that maps float32 images to float32 logits.

    Raises:
        TypeError: `simulated` is no QuantizedNetwork.
        ValueError: weights or activations of more than 8 bits.

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", CVPR 2018, section 2.
    """
    if not isinstance(simulated, QuantizedNetwork):
        raise TypeError(
            f"simulated is a {type(simulated).__name__}; it must be a QuantizedNetwork, as quantize_model() and "
            "aware.convert() give it."
        )
    for name, params in (*simulated.weights.items(), *simulated.activations.items()):
        if params.bits > 8:
            raise ValueError(
                f"{name!r} has {params.bits} bits; integer arithmetic is for 2 to 8, whose products int32 sums up. "
                "Quantize with fewer bits."
            )
    return IntegerNetwork(simulated)


@dataclass(frozen=True, eq=False)
class Plan:
    """What `quantize_model` rounds in a network, and to what; as long as it is a plan, nothing is rounded yet.

    Attributes:
        network: copy of the original with batch norms folded, in float32.
        steps: its operations, in order.
        activations: {tensor: parameters} of what is rounded.
        inputs: {layer: parameters of its input} of each layer whose weight and bias are rounded.
        weight_bits, per_channel, weight_method: of these weights, as in `quantize_model`.
    """

    network: nn.Module
    steps: "list[Step]"
    activations: dict[str, QuantParams]
    inputs: dict[str, QuantParams]
    weight_bits: int
    per_channel: bool
    weight_method: str

    def rounded(self, name: str) -> "RoundedLayer":
        """A layer as its integers will be, from the weight and bias that it has now."""
        layer, x_params = self.network.get_submodule(name), self.inputs[name]
        try:
            params = _weight_params(layer, x_params, self.weight_bits, self.per_channel, self.weight_method)
            weight, bias, steps = fake_quantize(layer.weight, params), None, None
            if layer.bias is not None:
                steps = integer.quantize_bias(layer.bias, x_params=x_params, weight_params=params)
                size = (x_params.scale.to(steps.device) * params.scale).double()
                bias = (steps.double() * size).float()
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from error
        return RoundedLayer(params, weight, bias, steps)


class RoundedLayer(NamedTuple):
    """The parameters of a weight; weight and bias as the numbers that integers stand for; the integers of the bias."""

    params: QuantParams
    weight: Float32[Tensor, "C *rest"]
    bias: Float32[Tensor, "C"] | None
    bias_integers: Int32[Tensor, "C"] | None


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
    """The first half of `quantize_model`, which says what the arguments are."""
    check_count(weight_bits, "weight_bits", low=2, high=16)
    check_count(activation_bits, "activation_bits", low=2, high=16)
    check_flag(per_channel, "per_channel")
    check_choice(weight_method, "weight_method", affine.METHODS)
    _check_model(model)
    network = _folded(model)
    steps = _steps(network)
    kept = _check_keep(keep, steps)
    ranges = check_ranges(ranges, list(dict.fromkeys(step.tensor for step in steps)))
    activations = {}
    for tensor in _rounded_tensors(steps, kept):
        bits = max(activation_bits, _OUTPUT_BITS) if tensor == _LOGITS else activation_bits
        activations[tensor] = choose_params(*ranges[tensor], bits=bits, symmetric=False)
    tensors = {step.name: step.tensor for step in steps}
    inputs = {
        step.layer: activations[tensors[step.inputs[0]]]
        for step in steps
        if step.layer is not None and step.layer not in kept
    }
    return Plan(network, steps, activations, inputs, weight_bits, per_channel, weight_method)


def simulate(planned: Plan) -> "QuantizedNetwork":
    """The second half of `quantize_model`, on a copy of the network."""
    layers = {name: planned.rounded(name) for name in planned.inputs}
    network = copy.deepcopy(planned.network).eval()
    for name, rounded in layers.items():
        layer = network.get_submodule(name)
        layer.weight = _constant(rounded.weight)
        if rounded.bias is not None:
            layer.bias = _constant(rounded.bias)
    return QuantizedNetwork(
        network,
        list(planned.steps),
        dict(planned.activations),
        {name: rounded.params for name, rounded in layers.items()},
        {name: rounded.bias_integers for name, rounded in layers.items() if rounded.bias is not None},
    )


class QuantizedNetwork(nn.Module):
    """A network whose weights and activations are rounded to what integers stand for; see `quantize_model`.

    Attributes:
        network: copy of the original with batch norms folded and weights rounded.
        activations: {tensor: parameters} of what is rounded.
        weights: {layer: parameters} of what is rounded.
        biases: {layer: int32 [C_out]}, in steps of the scale of the input times that of the weight.
    """

    def __init__(
        self,
        network: nn.Module,
        steps: "list[Step]",
        activations: dict[str, QuantParams],
        weights: dict[str, QuantParams],
        biases: dict[str, Int32[Tensor, "C"]],
    ) -> None:
        super().__init__()
        self.network = network
        self.activations, self.weights, self.biases = activations, weights, biases
        self._steps = steps

    def forward(self, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N K"]:
        return in_parts(self._steps, self._compute, check_numbers(images))

    def _compute(self, step: "Step", *inputs: Tensor) -> Tensor:
        values = _real(self.network, step, *inputs)
        params = rounding(self.activations, step)
        if params is None:
            return values
        # affine.fake_quantize without its checks, which take longer than the rounding
        scale, zero_point = params.scale.to(values.device), int(params.zero_point)
        steps = values.div(scale).round_().clamp_(params.low - zero_point, params.high - zero_point)
        return steps.mul_(scale)


class IntegerNetwork(nn.Module):
    """A network in integer arithmetic; see `to_integer`.

    Attributes:
        network: copy of the original in which each quantized layer holds an int8 weight and an int32 bias. Its state
            dict is what has to be stored, beside the scales.
        activations, weights: parameters, as in `QuantizedNetwork`.
    """

    def __init__(self, simulated: QuantizedNetwork) -> None:
        super().__init__()
        self.network = copy.deepcopy(simulated.network)
        self.activations, self.weights = dict(simulated.activations), dict(simulated.weights)
        self._steps = list(simulated._steps)
        self._tensors = {step.name: step.tensor for step in self._steps}
        for name, params in self.weights.items():
            layer = self.network.get_submodule(name)
            weight, bias = quantize(layer.weight, params), simulated.biases.get(name)
            bias = None if bias is None else bias.to(weight.device)
            self.network.set_submodule(name, IntegerLayer(type(layer).__name__, weight, bias))

    def forward(self, images: Float[Tensor, "N C H W"]) -> Float32[Tensor, "N K"]:
        values = in_parts(self._steps, self._compute, check_numbers(images))
        return self._as_real(values, self._steps[-1].tensor)

    def _compute(self, step: "Step", *inputs: Tensor) -> Tensor:
        params = self.activations.get(step.tensor)
        sources = [self._tensors[name] for name in step.inputs]
        is_float = step.layer is not None and step.layer not in self.weights
        if step.operation == "images" or is_float or params is None:
            numbers = [self._as_real(x, name) for x, name in zip(inputs, sources, strict=False)] or inputs
            values = _real(self.network, step, *numbers)
            return values if params is None else quantize(values, params)
        try:
            y = _ON_INTEGERS[step.operation](self, step, *inputs)
        except ValueError as error:
            raise ValueError(f"{step.layer or step.tensor!r}: {error}") from error
        if step.relu is None:
            return y
        # Both change nothing where the range begins at 0 and ends no higher than the activation does.
        return integer.relu(y, params=params).clamp_(max=int(quantize(torch.tensor(step.relu), params)))

    def _as_real(self, values: Tensor, tensor: str) -> Tensor:
        params = self.activations.get(tensor)
        return values if params is None else dequantize(values, params)


class IntegerLayer(nn.Module):
    """The integers of a layer: weight int8 [C_out, ...], and bias int32 [C_out] or None."""

    def __init__(
        self, kind: str, weight: Integer[Tensor, "C *rest"], bias: Int32[Tensor, "C"] | None
    ) -> None:
        super().__init__()
        self.kind = kind
        self.weight = _constant(weight)
        self.register_parameter("bias", None if bias is None else _constant(bias))

    def extra_repr(self) -> str:
        return f"{self.kind}, weight={self.weight.dtype} {list(self.weight.shape)}"


# ---- steps ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One operation of a network.

    Attributes:
        name: of its result, among the steps.
        operation: a key of _ON_NUMBERS.
        inputs: names of the results that it reads.
        tensor: whose range its result is in: "images", the layer or operation that the range was counted at, "logits".
        layer: name of the convolution or linear layer, if it is one.
        relu: where the result is cut off: at 0 and here. None for no activation.
        options: keyword arguments of the operation.
    """

    name: str
    operation: str
    inputs: tuple[str, ...]
    tensor: str
    layer: str | None = None
    relu: float | None = None
    options: dict[str, object] = field(default_factory=dict)


_OWN_RANGE = ("images", "conv2d", "linear", "add", "global_avg_pool")
_UNCHANGED = ("max_pool2d", "flatten")  # what they give is among what they read, so need not be rounded again

_ON_NUMBERS: dict[str, Callable[..., Tensor]] = {
    "images": lambda images: images,
    "conv2d": F.conv2d,
    "linear": F.linear,
    "add": torch.add,
    "global_avg_pool": lambda x: F.adaptive_avg_pool2d(x, 1),
    "avg_pool2d": F.avg_pool2d,
    "max_pool2d": F.max_pool2d,
    "flatten": lambda x: x.flatten(1),
    "relu": lambda x: x,  # the cut is in the field of that name
}


def execute(steps: "list[Step]", compute: Callable[..., Tensor], images: Tensor) -> Tensor:
    """The result of the last step; other results are let go as soon as nothing reads them any more."""
    last_use = {name: step for step in steps for name in step.inputs}
    results = {}
    for step in steps:
        inputs = [results[name] for name in step.inputs] or [images]
        results[step.name] = compute(step, *inputs)
        for name in step.inputs:
            if last_use[name] is step:
                results.pop(name, None)
    return results[steps[-1].name]


def in_parts(steps: "list[Step]", compute: Callable[..., Tensor], images: Tensor) -> Tensor:
    return torch.cat([execute(steps, compute, part) for part in images.split(_PART)])


def _real(network: nn.Module, step: Step, *inputs: Tensor) -> Tensor:
    """One step on real numbers."""
    if step.layer is not None:
        layer = network.get_submodule(step.layer)
        inputs = (*inputs, layer.weight, layer.bias)
    return on_numbers(step, *inputs)


def on_numbers(step: Step, *inputs: Tensor | None) -> Tensor:
    """One step on real numbers; a layer reads its weight and bias behind its input."""
    values = _ON_NUMBERS[step.operation](*inputs, **step.options)
    return values if step.relu is None else values.clamp(0, step.relu)


def _integer_layer(function: Callable[..., Tensor], net: IntegerNetwork, step: Step, x: Tensor) -> Tensor:
    layer = net.network.get_submodule(step.layer)
    return function(
        x,
        layer.weight,
        layer.bias,
        x_params=net.activations[net._tensors[step.inputs[0]]],
        weight_params=net.weights[step.layer],
        y_params=net.activations[step.tensor],
        **step.options,
    )


def _integer_add(net: IntegerNetwork, step: Step, a: Tensor, b: Tensor) -> Tensor:
    a_params, b_params = (net.activations[net._tensors[name]] for name in step.inputs)
    return integer.add(a, b, a_params=a_params, b_params=b_params, y_params=net.activations[step.tensor])


def _integer_mean(function: Callable[..., Tensor], net: IntegerNetwork, step: Step, x: Tensor) -> Tensor:
    x_params = net.activations[net._tensors[step.inputs[0]]]
    return function(x, **step.options, x_params=x_params, y_params=net.activations[step.tensor])


_ON_INTEGERS: dict[str, Callable[..., Tensor]] = {
    "conv2d": functools.partial(_integer_layer, integer.conv2d),
    "linear": functools.partial(_integer_layer, integer.linear),
    "add": _integer_add,
    "global_avg_pool": functools.partial(_integer_mean, integer.global_avg_pool),
    "avg_pool2d": functools.partial(_integer_mean, integer.avg_pool2d),
    "max_pool2d": lambda net, step, x: integer.max_pool2d(x, **step.options),
    "flatten": lambda net, step, x: x.flatten(1),
    "relu": lambda net, step, x: x,
}


def rounding(activations: Mapping[str, QuantParams], step: Step) -> QuantParams | None:
    """The parameters that the result of a step is rounded by; None where it is not."""
    return None if step.operation in _UNCHANGED else activations.get(step.tensor)


def _rounded_tensors(steps: "list[Step]", kept: set[str]) -> list[str]:
    """The tensors that an operation on integers reads or writes, in order."""
    tensors = {step.name: step.tensor for step in steps}
    touched = set()
    for step in steps:
        if step.operation in _OWN_RANGE[1:] and step.layer not in kept:
            touched |= {step.tensor, *(tensors[name] for name in step.inputs)}
    return [tensor for tensor in dict.fromkeys(tensors.values()) if tensor in touched]


def _weight_params(
    layer: nn.Module, x_params: QuantParams, bits: int, per_channel: bool, method: str
) -> QuantParams:
    """Symmetric parameters, with scales so large that int32 holds the bias: as ONNX Runtime's quantizer has it."""
    axis = 0 if per_channel else None
    params = params_of(layer.weight, bits=bits, symmetric=True, axis=axis, method=method)
    if layer.bias is None:
        return params
    bias = layer.bias.detach().double().abs()
    least = 1.0001 * 2 * (bias if per_channel else bias.amax()) / (2**32 - 2)
    scale = params.scale.double()
    step = x_params.scale.to(scale.device).double() * scale
    wider = (step < least) & torch.isfinite(bias if per_channel else bias.amax())  # others are refused later
    return replace(params, scale=torch.where(wider, scale * (least / step), scale).float())


def _constant(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)


# ---- from a network to steps ---------------------------------------------------------------------------------------

_ACCEPTED = (
    "Accepted are Conv2d and Linear, each called once, batch norm directly behind one of them, ReLU, ReLU6, the "
    "addition of two tensors, max and average pooling, global average pooling, flattening and dropout. Write that part "
    "with these, or quantize with quantization.onnx, which leaves in float32 what it does not know."
)

_PASSED_ON = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
_DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout)


def _trace(model: nn.Module) -> fx.Graph:
    """The network in evaluation mode as torch.fx has it, without what hands on its input as it is."""
    with tracing.borrowed(model):
        graph = tracing.trace(
            model, fx.Tracer(), remedy="Rewrite that part, or quantize with quantization.onnx."
        )
    modules = dict(model.named_modules())
    for node in graph.nodes:
        layer = modules[node.target] if node.op == "call_module" else None
        dropout = node.target in _DROPOUTS and node.kwargs.get("training") is False
        if (type(layer) in _PASSED_ON and not _hooks(layer)) or dropout:
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph.erase_node(node)
    return graph


def _hooks(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks)


def _folded(model: nn.Module) -> nn.Module:
    """See `fold_batch_norm`."""
    graph, modules = _trace(model), dict(model.named_modules())
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    pairs = []
    for node in graph.nodes:
        if node.op != "call_module":
            continue
        norm = modules[node.target]
        if hasattr(norm, "weight"):
            _check_plain(node.target, norm)
        if not isinstance(norm, _BatchNorm):
            continue
        source = node.all_input_nodes[0]
        layer = modules[source.target] if source.op == "call_module" else None
        foldable = isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear)
        if not foldable or len(source.users) > 1 or calls[source.target] > 1 or calls[node.target] > 1:
            raise ValueError(
                f"batch norm {node.target!r} cannot be folded: it follows {source.name!r}; accepted is a convolution "
                "or linear layer in front of it that nothing else reads, both called once. Rewrite that part, or "
                "quantize with quantization.onnx, which leaves in float32 what it cannot fold."
            )
        if norm.running_mean is None:
            raise ValueError(
                f"batch norm {node.target!r} has no running statistics (track_running_stats=False), so it is "
                "another map for each batch. Train it with running statistics."
            )
        pairs.append((source.target, node.target))
    folded = copy.deepcopy(model)
    for layer, norm in pairs:
        _fold(folded.get_submodule(layer), folded.get_submodule(norm))
        folded.set_submodule(norm, nn.Identity())
    return folded.eval()


def _fold(layer: nn.Module, norm: nn.Module) -> None:
    """In float64, rounded once."""
    with torch.no_grad():
        factor = (norm.running_var.double() + norm.eps).rsqrt()
        if norm.weight is not None:
            factor = factor * norm.weight.double()
        shift = -norm.running_mean.double() if layer.bias is None else layer.bias - norm.running_mean.double()
        bias = shift * factor if norm.bias is None else shift * factor + norm.bias
        weight = layer.weight * factor.reshape([-1] + [1] * (layer.weight.ndim - 1))
        dtype, learns = layer.weight.dtype, layer.weight.requires_grad
    layer.weight = nn.Parameter(weight.to(dtype), requires_grad=learns)
    layer.bias = nn.Parameter(bias.to(dtype), requires_grad=learns)


def _check_plain(name: str, layer: nn.Module) -> None:
    if _hooks(layer) or tracing.computed_parameter(layer):
        raise ValueError(
            f"layer {name!r} has a hook, or a weight that is computed from other parameters by a mask or "
            f"parametrisation; {tracing.MAKE_PERMANENT}, or remove the hook."
        )


def _steps(model: nn.Module) -> "list[Step]":
    """The steps of a network without batch norms."""
    return _Translator(model).translate()


@dataclass(frozen=True)
class _Result:
    """A tensor of the traced network: the name of the step that computes it."""

    name: str


_SHAPE, _BATCH = object(), object()  # the shape of a tensor, and the number of images in it


class _Translator:
    """Turns a traced network into steps. The methods without an underscore are the operations, called as the network
    calls them; what they do not take is refused."""

    def __init__(self, model: nn.Module) -> None:
        self.graph, self.modules = _trace(model), dict(model.named_modules())
        self.steps: dict[str, Step] = {}
        self.readers: dict[str, int] = {}
        self.tensors = {_IMAGES, _LOGITS}
        self.layers: set[str] = set()

    def translate(self) -> "list[Step]":
        values: dict[fx.Node, object] = {}
        for node in self.graph.nodes:
            self.node = node
            values[node] = value = self._value(fx.node.map_arg(node.args, values.get), values)
            if isinstance(value, _Result):
                self.readers[value.name] = len(node.users)
        if not self.layers:
            raise ValueError(
                "the model has no convolution or linear layer, so there is nothing to quantize. Give one that has."
            )
        needed, steps, last = {value.name}, [], self.steps[value.name].tensor
        for step in reversed(self.steps.values()):
            if step.name in needed:
                needed.update(step.inputs)
                steps.append(replace(step, tensor=_LOGITS) if step.tensor == last else step)
        return steps[::-1]

    def _value(self, args: tuple, values: dict) -> object:
        node, kwargs = self.node, fx.node.map_arg(self.node.kwargs, values.get)
        if node.op == "placeholder":
            if self.steps:
                self._refuse(f"the model takes a second input, {node.target!r}")
            return self._add("images", tensor=_IMAGES)
        if node.op == "output":
            if not isinstance(args[0], _Result):
                self._refuse("the model gives something else than one tensor")
            return args[0]
        if node.op == "get_attr":
            self._refuse(f"it computes with the parameter or buffer {node.target!r} outside of a layer")
        if node.op == "call_module":
            layer = self.modules[node.target]
            handler, what = _LAYERS.get(type(layer)), f"it is a {type(layer).__name__}"
            args = (layer, *args)
            if handler is not None:
                _check_plain(node.target, layer)
        elif node.op == "call_method":
            handler, what = _METHODS.get(node.target), f"it calls the tensor method {node.target!r}"
        else:
            name = getattr(node.target, "__name__", node.target)
            handler, what = _FUNCTIONS.get(node.target), f"it calls the function {name!r}"
        if handler is None:
            self._refuse(what)
        try:
            inspect.signature(handler).bind(self, *args, **kwargs)
        except TypeError as error:
            self._refuse(f"{what} with other arguments than are known ({error})")
        return handler(self, *args, **kwargs)

    def _refuse(self, why: str) -> NoReturn:
        node = self.node
        name = node.target if node.op == "call_module" else self._scoped(node.name)
        raise ValueError(f"{name!r} has no integer form here: {why}. {_ACCEPTED}")

    def _scoped(self, name: str) -> str:
        """The name with that of the module in whose forward() the operation is."""
        stack = list((self.node.meta.get("nn_module_stack") or {"": ("",)}).values())[-1][0]
        return f"{stack}.{name}" if stack else name

    def _add(
        self, operation: str, *inputs: object, tensor: str | None = None, suffix: str = "", **fields
    ) -> _Result:
        """A new step, whose tensor has this name, or is that of its input."""
        for x in inputs:
            if not isinstance(x, _Result):
                self._refuse("it computes with a constant, or with a number that is no tensor")
        names = tuple(x.name for x in inputs)
        if tensor is None:
            tensor = self.steps[names[0]].tensor
        step = Step(self.node.name + suffix, operation, names, tensor, **fields)
        self.steps[step.name] = step
        return _Result(step.name)

    def _new_tensor(self, name: str) -> str:
        free = name
        number = 0
        while free in self.tensors:
            number += 1
            free = f"{name}_{number}"
        self.tensors.add(free)
        return free

    def _layer(self, operation: str, x: object, **options: object) -> _Result:
        name = self.node.target
        if name in self.layers:
            self._refuse(
                "it is called at several places, and its bias would need another scale at each of them"
            )
        self.layers.add(name)
        return self._add(operation, x, tensor=self._new_tensor(name), layer=name, options=options)

    def _check_alone(self, x: object) -> None:
        if isinstance(x, _Result) and self.readers[x.name] > 1:
            self._refuse("it works in place on a tensor that others read too")

    def _cut(self, x: object, high: float, inplace: bool) -> _Result:
        """A ReLU is part of the layer in front of it. Max pooling between them does not matter: it picks the same."""
        if inplace:
            self._check_alone(x)
        source = x
        while isinstance(source, _Result) and self.readers[source.name] == 1:
            step = self.steps[source.name]
            if step.operation in _OWN_RANGE[1:] and step.relu is None:
                self.steps[step.name] = replace(step, relu=high)
                return x
            if step.operation not in _UNCHANGED:
                break
            source = _Result(step.inputs[0])
        return self._add("relu", x, relu=high)

    def conv2d(self, layer: nn.Conv2d, input: object) -> _Result:
        if layer.padding_mode != "zeros":
            self._refuse(f"it pads with padding_mode={layer.padding_mode!r} instead of zeros")
        padding = layer.padding
        if isinstance(padding, str):
            reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
            if padding == "same" and any(size % 2 for size in reach):
                self._refuse("padding='same' pads one side more than the other with a kernel of even size")
            padding = tuple(size // 2 for size in reach) if padding == "same" else (0, 0)
        options = {"stride": layer.stride, "dilation": layer.dilation, "groups": layer.groups}
        return self._layer("conv2d", input, padding=padding, **options)

    def linear(self, layer: nn.Linear, input: object) -> _Result:
        return self._layer("linear", input)

    def relu(self, input: object, inplace: bool = False) -> _Result:
        return self._cut(input, math.inf, inplace)

    def relu_(self, input: object) -> _Result:
        return self._cut(input, math.inf, True)

    def relu6(self, input: object, inplace: bool = False) -> _Result:
        return self._cut(input, 6.0, inplace)

    def add(self, input: object, other: object, *, alpha: float = 1) -> _Result:
        if alpha != 1:
            self._refuse(f"it adds with alpha={alpha}")
        return self._add("add", input, other, tensor=self._new_tensor(self._scoped("add")))

    def add_(self, input: object, other: object, *, alpha: float = 1) -> _Result:
        self._check_alone(input)
        return self.add(input, other, alpha=alpha)

    def max_pool2d(
        self, input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
    ) -> _Result:
        if dilation not in (1, (1, 1)) or ceil_mode or return_indices:
            self._refuse("its dilation, ceil_mode or return_indices is set")
        return self._window("max_pool2d", input, kernel_size, stride, padding)

    def avg_pool2d(
        self,
        input,
        kernel_size,
        stride=None,
        padding=0,
        ceil_mode=False,
        count_include_pad=True,
        divisor_override=None,
    ) -> _Result:
        leaves_out = not count_include_pad and padding not in (0, (0, 0))
        if ceil_mode or leaves_out or divisor_override is not None:
            self._refuse("its ceil_mode or divisor_override is set, or padding does not count")
        return self._window("avg_pool2d", input, kernel_size, stride, padding)

    def _window(self, operation: str, x: object, kernel_size, stride, padding) -> _Result:
        if stride is None or stride == ():
            stride = kernel_size
        sizes = {"kernel_size": kernel_size, "stride": stride, "padding": padding}
        options = {name: size if isinstance(size, int) else tuple(size) for name, size in sizes.items()}
        return self._add(operation, x, options=options)

    def adaptive_avg_pool2d(self, input: object, output_size: object) -> _Result:
        if output_size not in (1, (1, 1), [1, 1]):
            self._refuse(f"it pools to the size {output_size}, not to 1")
        name = self.node.target if self.node.op == "call_module" else self._scoped("mean")
        return self._add("global_avg_pool", input, tensor=self._new_tensor(name))

    def mean(self, input: object, dim: object = None, keepdim: bool = False) -> _Result:
        if not isinstance(dim, tuple | list) or sorted(axis % 4 for axis in dim) != [2, 3]:
            self._refuse(f"it takes the mean over the axes {dim}, not over height and width, (2, 3)")
        mean = self.adaptive_avg_pool2d(input, 1)
        self.readers[mean.name] = 1
        return mean if keepdim else self._add("flatten", mean, suffix=".flat")

    def flatten(self, input: object, start_dim: int = 0, end_dim: int = -1) -> _Result:
        if (start_dim, end_dim) != (1, -1):
            self._refuse(f"it flattens from axis {start_dim} to {end_dim}, not from 1 to the last")
        return self._add("flatten", input)

    def view(self, input: object, *shape: object) -> _Result:
        shape = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
        # [N, -1], and [-1, length], where a wrong length does not go with the linear layer that reads it
        flat = len(shape) == 2 and (shape[0] is _BATCH or shape[0] == -1) and isinstance(shape[1], int)
        if not flat or (shape[0] == -1 and shape[1] == -1):
            self._refuse("it reshapes to something else than [N, all the rest]; flatten(1) does that")
        return self._add("flatten", input)

    def size(self, input: object, dim: int | None = None) -> object:
        return _SHAPE if dim is None else self.getitem(_SHAPE, dim)

    def getattr(self, input: object, name: str) -> object:
        if name != "shape":
            self._refuse(f"it reads the attribute {name!r} of a tensor")
        return _SHAPE

    def getitem(self, input: object, index: object) -> object:
        if input is not _SHAPE or index != 0:
            self._refuse("it takes a part of a tensor, or reads another size than the number of images")
        return _BATCH


def _of_module(operation: Callable, *attributes: str) -> Callable:
    """The operation with the attributes of a layer as arguments."""
    return lambda self, layer, input: operation(self, input, *(getattr(layer, name) for name in attributes))


_WINDOW = ("kernel_size", "stride", "padding")
_LAYERS: dict[type, Callable] = {
    nn.Conv2d: _Translator.conv2d,
    nn.Linear: _Translator.linear,
    nn.ReLU: _of_module(_Translator.relu, "inplace"),
    nn.ReLU6: _of_module(_Translator.relu6, "inplace"),
    nn.MaxPool2d: _of_module(_Translator.max_pool2d, *_WINDOW, "dilation", "ceil_mode", "return_indices"),
    nn.AvgPool2d: _of_module(
        _Translator.avg_pool2d, *_WINDOW, "ceil_mode", "count_include_pad", "divisor_override"
    ),
    nn.AdaptiveAvgPool2d: _of_module(_Translator.adaptive_avg_pool2d, "output_size"),
    nn.Flatten: _of_module(_Translator.flatten, "start_dim", "end_dim"),
}
_FUNCTIONS: dict[object, Callable] = {
    F.relu: _Translator.relu,
    torch.relu: _Translator.relu,
    torch.relu_: _Translator.relu_,
    F.relu6: _Translator.relu6,
    operator.add: _Translator.add,
    torch.add: _Translator.add,
    F.max_pool2d: _Translator.max_pool2d,
    F.avg_pool2d: _Translator.avg_pool2d,
    F.adaptive_avg_pool2d: _Translator.adaptive_avg_pool2d,
    torch.mean: _Translator.mean,
    torch.flatten: _Translator.flatten,
    torch.reshape: _Translator.view,
    getattr: _Translator.getattr,
    operator.getitem: _Translator.getitem,
}
_METHODS: dict[str, Callable] = {
    "relu": _Translator.relu,
    "relu_": _Translator.relu_,
    "add": _Translator.add,
    "add_": _Translator.add_,
    "mean": _Translator.mean,
    "flatten": _Translator.flatten,
    "view": _Translator.view,
    "reshape": _Translator.view,
    "size": _Translator.size,
}


# ---- checks --------------------------------------------------------------------------------------------------------


def _check_model(model: object) -> torch.device:
    """Where the network is, if it is one of float32."""
    parameters = dict(model.named_parameters()) if isinstance(model, nn.Module) else {}
    device = next((parameter.device for parameter in parameters.values()), torch.device("cpu"))
    tracing.check(model, torch.zeros(1, device=device))
    for name, parameter in parameters.items():
        if parameter.dtype != torch.float32:
            raise ValueError(
                f"parameter {name!r} has dtype {parameter.dtype}; quantization starts from float32. Call model.float()."
            )
    return device


def _check_images(images: object) -> Tensor:
    if not isinstance(images, Tensor):
        raise TypeError(
            f"images are a {type(images).__name__}; they must be a torch.Tensor [N, C, H, W] of uint8, or of float32."
        )
    if images.dtype not in (torch.uint8, torch.float32):
        raise TypeError(f"images have dtype {images.dtype}; they must be uint8 (0 to 255), or float32.")
    if images.ndim != 4 or images.numel() == 0:
        raise ValueError(
            f"images have shape {list(images.shape)}; they must be [N, C, H, W] with at least one image."
        )
    return images


def _numbers(images: Tensor) -> Tensor:
    return to_float(images) if images.dtype == torch.uint8 else images


def check_numbers(images: Tensor) -> Tensor:
    if isinstance(images, Tensor) and images.dtype == torch.uint8:
        raise TypeError("images have dtype uint8; the network takes numbers. data.to_float makes them.")
    check_real(images, "images")
    return images


def _check_same(model: nn.Module, other: Callable[[Tensor], Tensor], images: Tensor) -> None:
    """That another form of the network computes what it does, on some images."""
    images = _numbers(images)
    with tracing.borrowed(model):
        tracing.run(model, images)
        expected, found = model(images), other(images)
    if not isinstance(expected, Tensor):
        raise ValueError(
            f"the model gives a {type(expected).__name__}; accepted are models that give one tensor. Wrap it in a "
            "module that picks one."
        )
    # Convolutions on a GPU keep ten bits of each factor (TF32) unless told otherwise.
    tolerance = 1e-2 if images.is_cuda else 1e-4
    size = max(1.0, expected.abs().max().item())
    if found.shape != expected.shape or not torch.allclose(
        found, expected, rtol=10 * tolerance, atol=tolerance * size, equal_nan=True
    ):
        raise ValueError(
            "the network with its batch norms folded computes something else than before. Look for hooks that change "
            "values, operations in place or at random, and batch norm over another axis than that of the channels."
        )


def _check_keep(keep: object, steps: "list[Step]") -> set[str]:
    layers = [step.layer for step in steps if step.layer is not None]
    if isinstance(keep, str) or not isinstance(keep, Iterable):
        raise TypeError(f"keep is {keep!r}; it must be the names of layers, such as ({layers[0]!r},).")
    return {check_choice(name, "layer", layers, error=KeyError) for name in keep}
