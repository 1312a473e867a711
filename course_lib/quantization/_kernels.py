r"""Kernels of an integer network: what `integer` computes, to the bit, by the processor's own 8-bit products.

The functions of `integer` check what they are given on every call and add in float64. A network is checked once, and
then its layers run on oneDNN, the library below PyTorch, which multiplies 8-bit numbers and adds them in int32:

- a linear layer: ``x @ weight.T`` in int32, and one offset for each output, :math:`q_b - z_x \sum_k q_w`;
- a convolution: oneDNN's own. It is given scales of 1, so that what it returns in float32 is the accumulator;
- an addition, or a ReLU: a table of the results for all 8-bit inputs, which `integer` has filled.

float32 holds each whole number up to :math:`2^{24}`, and no sum of a convolution may be rounded twice. There are three
ways to be sure of that, and each output channel needs one:

- neither the sum of products nor the accumulator can lie beyond :math:`2^{24}`;
- the output saturates before, :math:`M (2^{24} - |q_b|) > 256`, so that what lies beyond gives 0 or 255 in any case;
- the sum of products is below :math:`2^{24} - 255`, and the bias is added in two parts. The last 8 bits leave it exact;
  the others, which float32 holds too, are added in the one rounding that a conversion from int32 would do.

What has no kernel is computed by `integer`. So is everything on a GPU, on processors that add pairs of products in
int16, which saturates (x86 without VNNI), and where PyTorch has no oneDNN.
"""

import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.quantization import integer
from course_lib.quantization.affine import QuantParams, quantize
from course_lib.quantization.integer import output_multiplier
from course_lib.quantization.integer._values import INT32, check, check_bias, pair
from course_lib.quantization.integer.pooling import _mean_multiplier
from course_lib.quantization.operations import OPERATIONS
from course_lib.quantization.steps import Step, execute

Kernel = Callable[..., Tensor]

_EXACT = 2**24  # float32 holds every whole number up to here
_FEW = 2**15  # values of an input


class Kernels:
    """Kernels of a network, made when it first runs, and again once its weights or parameters are others."""

    def __init__(self) -> None:
        self._made: dict[str, Kernel | None] = {}
        self._made_from: tuple = ()
        self._alive: list[Tensor] = []
        self._checked: set[torch.Size] = set()

    def __reduce__(self) -> tuple:
        """A copy of the network makes its own: what oneDNN has packed cannot be copied."""
        return Kernels, ()

    def computing(self, network: nn.Module, images: Tensor) -> Kernel:
        """Return ``function(step, *inputs) -> result`` for `steps.execute`: the kernels, and `network.compute` without.

        Args:
            network: an IntegerNetwork.
            images: that it is to compute. Of each new shape `network.compute` gets the first one, and checks it; a
                kernel that gives other integers for it is not used from then on.
        """
        layers = [operator.attrgetter(name)(network.network) for name in network.weights]
        tensors = [tensor for layer in layers for tensor in (layer.weight, layer.bias) if tensor is not None]
        unknown = any(not tensor.is_cpu or tensor.is_inference() for tensor in tensors)
        if not exact() or unknown or not images.is_cpu or not images.ndim or not images.numel():
            return network.compute
        versions = [(tensor.data_ptr(), tensor._version) for tensor in tensors]
        made_from = (*versions, *network.weights.values(), *network.activations.values())
        if made_from != self._made_from:
            self.__init__()
        unseen = images.shape[1:] not in self._checked
        if unseen:
            execute(network.steps, network.compute, images[:1])
        if not self._made:
            self._made = {step.name: _kernel(step, network) for step in network.steps}
            # The tensors stay alive, so that no other one can have their place in memory.
            self._made_from, self._alive = made_from, [tensor.detach() for tensor in tensors]
        made = self._made

        def compute(step: Step, *inputs: Tensor) -> Tensor:
            kernel = made[step.name]
            return network.compute(step, *inputs) if kernel is None else kernel(*inputs)

        def compare(step: Step, *inputs: Tensor) -> Tensor:
            expected, kernel = network.compute(step, *inputs), made[step.name]
            if kernel is not None and not torch.equal(kernel(*inputs), expected):
                made[step.name] = None
            return expected

        if unseen:
            execute(network.steps, compare, images[:1])
            self._checked.add(images.shape[1:])
        return compute


def _kernel(step: Step, network: nn.Module) -> Kernel | None:
    """``function(*inputs) -> result`` of a step on 8-bit integers; None where there is none."""
    if step.operation == "images":
        return _images(step, network.activations.get(step.tensor))
    params, build = network.params(step), _BUILDERS.get(step.operation)
    if build is None or params is None or any(each.dtype != torch.uint8 for each in (params[0], params[-1])):
        return None
    return build(step, *step.weights(network.network), params=params)


# ---- layers --------------------------------------------------------------------------------------------------------


def _conv2d(
    step: Step, weight: Tensor, bias: Tensor | None, *, params: Sequence[QuantParams]
) -> Kernel | None:
    x_params, weight_params, y_params = params
    if not _is_symmetric(weight, weight_params):
        return None
    multiplier, zero_point = output_multiplier(*params).expand(len(weight)), int(x_params.zero_point)
    size = weight.double().abs().flatten(1).sum(1)
    products, steps = size * max(zero_point, x_params.high - zero_point), _steps(bias, weight)
    whole = (products + steps.abs() <= _EXACT) | (multiplier * (_EXACT - steps.abs()) > 256)
    if 2 * 255 * size.max() >= INT32 or not (whole | (products + 255 <= _EXACT)).all():
        return None
    low = torch.where(whole, steps, steps.remainder(256))
    high = None if whole.all() else (steps - low).float().reshape(-1, 1, 1)
    options = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1} | step.options
    window = [list(pair(options[name], name, 0)) for name in ("stride", "padding", "dilation")]
    reach = [gap * (side - 1) for gap, side in zip(window[2], weight.shape[2:], strict=True)]
    if any(pad > end for pad, end in zip(window[1], reach, strict=True)):
        return None  # windows that see padding alone, of which oneDNN gives wrong sums
    convolve = _convolution(weight, low.float(), zero_point, *window, options["groups"])
    points = None
    if weight[0, 0].numel() == 1 and window[1] == [0, 0] and options["groups"] == 1:
        points = _points(_products(weight.flatten(1), steps, zero_point), *window[0])

    def sums(x: Tensor) -> Tensor:
        if points is not None and x.numel() <= _FEW:
            return points(x)
        return convolve(x) if high is None else convolve(x).add_(high)

    finish = _requantization(multiplier.reshape(-1, 1, 1), y_params, step.relu)
    may_overflow = bool((products + steps.abs()).max() >= INT32)
    checked = functools.partial(_checked, step, weight, bias, params)
    kernel = _watched(sums, finish, checked, may_overflow)
    if max(window[1]) == 0 or max(window[2]) == 1:
        return kernel
    # A dilation larger than the image: such a window may see padding alone too.
    return lambda x: (
        checked(x) if any(gap > side for gap, side in zip(window[2], x.shape[2:], strict=True)) else kernel(x)
    )


def _linear(
    step: Step, weight: Tensor, bias: Tensor | None, *, params: Sequence[QuantParams]
) -> Kernel | None:
    x_params, weight_params, y_params = params
    size = 255 * weight.double().abs().sum(1)
    if not _is_symmetric(weight, weight_params) or size.max() >= INT32:
        return None
    steps = _steps(bias, weight)
    sums = _products(weight, steps, int(x_params.zero_point))
    finish = _requantization(output_multiplier(*params), y_params, step.relu)
    may_overflow = bool((size + steps.abs()).max() >= INT32)
    return _watched(sums, finish, functools.partial(_checked, step, weight, bias, params), may_overflow)


def _steps(bias: Tensor | None, weight: Tensor) -> Tensor:
    """The bias in float64."""
    return torch.zeros(len(weight), dtype=torch.float64) if bias is None else check_bias(bias, weight)


def _watched(sums: Kernel, finish: Kernel, checked: Kernel, may_overflow: bool) -> Kernel:
    """`finish` after `sums`; where int32 may not hold those `checked`, which then refuses them if it does not."""
    if not may_overflow:
        return lambda x: finish(sums(x))

    def compute(x: Tensor) -> Tensor:
        found = sums(x)
        low, high = found.aminmax()  # rounded, and so to be looked at again at the very bounds
        return checked(x) if low <= -INT32 or high >= INT32 else finish(found)

    return compute


def _checked(
    step: Step, weight: Tensor, bias: Tensor | None, params: Sequence[QuantParams], x: Tensor
) -> Tensor:
    return step.on_integers(x, weight, bias, params=params)


def _is_symmetric(weight: Tensor, params: QuantParams) -> bool:
    check(weight, params, "weight", per_channel=True)
    return params.dtype == torch.int8 and not params.zero_point.any()


def _convolution(
    weight: Tensor, bias: Tensor, zero_point: int, stride: list, padding: list, dilation: list, groups: int
) -> Kernel:
    """Accumulators of a convolution in float32, channels innermost in memory."""
    ones, zeros = torch.ones(len(weight)), torch.zeros(len(weight), dtype=torch.int64)
    window = (stride, padding, dilation, groups)
    packed = torch.ops.onednn.qconv_prepack(weight.detach(), ones, 1.0, zero_point, *window)
    convolve = torch.ops.onednn.qconv2d_pointwise.default
    result = (1.0, 0, torch.float32, "none", [], "")  # scale, zero point and dtype; nothing is done to it
    size, reach = weight[0, 0].numel(), dilation[1] * (weight.shape[3] - 1) - 2 * padding[1]

    def compute(x: Tensor) -> Tensor:
        # Where the result is one value wide, oneDNN gives wrong sums for some shapes: so it is made two values wide.
        narrow = size > 1 and x.shape[3] - reach <= stride[1]
        if narrow:
            x = F.pad(x, (0, stride[1]), value=zero_point)
        sums = convolve(x, 1.0, zero_point, packed, ones, zeros, bias, *window, *result)
        return sums[..., :1] if narrow else sums

    return compute


def _products(weight: Tensor, steps: Tensor, zero_point: int) -> Kernel:
    """Accumulators of a linear layer, in int32 if it holds each part of them, then in float32."""
    rows = weight.double()
    offset = steps - zero_point * rows.sum(1)
    if (255 * rows.abs().sum(1) + offset.abs()).max() < INT32:
        offset = offset.int()
    matrix = weight.detach().clone().T
    return lambda x: (torch._int_mm(x, matrix) + offset).float()


def _points(products: Kernel, down: int, right: int) -> Kernel:
    """Accumulators of a 1x1 convolution: a linear layer at each place. Its call costs less than a convolution's."""

    def sums(x: Tensor) -> Tensor:
        places = x[:, :, ::down, ::right].movedim(1, -1)
        return products(places.reshape(-1, x.shape[1])).reshape(*places.shape[:3], -1).movedim(-1, 1)

    return sums


def _requantization(multiplier: Tensor, y_params: QuantParams, relu: float | None) -> Kernel:
    """`integer.requantize` of accumulators in float32, which it overwrites. A ReLU narrows the range of the output."""
    zero_point = int(y_params.zero_point)
    ends = torch.tensor([y_params.low, y_params.high], dtype=y_params.dtype)
    if relu is not None:
        ends = OPERATIONS["relu"].integers(ends, params=(y_params, y_params), high=relu)
    low, high = ends.tolist()

    def requantize(sums: Tensor) -> Tensor:
        steps = sums.mul_(multiplier).round_()
        if zero_point:
            steps.add_(zero_point)
        # By way of int16, which takes a quarter of the time.
        return steps.clamp_(low, high).to(torch.int16).to(torch.uint8)

    return requantize


# ---- what has no weight --------------------------------------------------------------------------------------------


def _table(step: Step, *, params: Sequence[QuantParams]) -> Kernel | None:
    """All results of an operation on one or two 8-bit numbers, computed once and then looked up."""
    *inputs, _ = params
    if any(each.dtype != torch.uint8 for each in inputs):
        return None
    values = [torch.arange(256).clamp(max=each.high).to(torch.uint8) for each in inputs]
    table = step.on_integers(*torch.meshgrid(*values, indexing="ij"), params=params).flatten()

    def look_up(first: Tensor, *second: Tensor) -> Tensor:
        place = first.int()
        for other in second:
            place = torch.add(other, place, alpha=256)
        place = place.movedim(1, -1)  # as the convolutions leave it in memory, so that nothing is copied
        return table.index_select(0, place.reshape(-1)).reshape(place.shape).movedim(-1, 1)

    return look_up


def _images(step: Step, y_params: QuantParams | None) -> Kernel | None:
    """`affine.quantize` of the step's numbers, with NaN looked for in the smallest number, which is then NaN."""
    if y_params is None or y_params.dtype != torch.uint8:
        return None
    scale, zero_point = y_params.scale, int(y_params.zero_point)
    low, high = y_params.low - zero_point, y_params.high - zero_point

    def quantize_images(images: Tensor) -> Tensor:
        numbers = step.on_numbers(images.detach().float())
        if math.isnan(numbers.amin()):
            return quantize(numbers, y_params)  # which says so
        steps = (numbers / scale).round_().clamp_(low, high)
        return (steps.add_(zero_point) if zero_point else steps).to(torch.int16).to(torch.uint8)

    return quantize_images


def _mean(step: Step, *, params: Sequence[QuantParams]) -> Kernel:
    x_params, y_params = params
    zero_point = int(x_params.zero_point)

    @functools.cache
    def finish(count: int) -> Kernel:
        return _requantization(_mean_multiplier(x_params, y_params, count), y_params, step.relu)

    def mean(x: Tensor) -> Tensor:
        axes = tuple(range(2, x.ndim))  # of an image or of a sequence
        count = x[0, 0].numel()
        sums = x.sum(axes, keepdim=True, dtype=torch.int32).sub_(zero_point * count)
        return finish(count)(sums.float())

    return mean


def _max_pool2d(step: Step, *, params: Sequence[QuantParams]) -> Kernel:
    options = {"stride": None, "padding": 0, "ceil_mode": False} | step.options
    window = pair(options["kernel_size"], "kernel_size", 1)
    stride = window if options["stride"] is None else pair(options["stride"], "stride", 1)
    sizes = [window, stride, pair(options["padding"], "padding", 0), (1, 1)]
    return lambda x: torch.ops.quantized.max_pool2d(x, *sizes, options["ceil_mode"])


def _as_it_is(step: Step, *, params: Sequence[QuantParams]) -> Kernel:
    return functools.partial(step.on_integers, params=params)


_BUILDERS: Mapping[str, Callable[..., Kernel | None]] = {
    "conv2d": _conv2d,
    "linear": _linear,
    **dict.fromkeys(("add", "sub", "mul", "relu", *integer.ACTIVATIONS), _table),
    "mean": _mean,
    "max_pool2d": _max_pool2d,
    **dict.fromkeys(("flatten", "unsqueeze", "expand_as"), _as_it_is),
}


# ---- whether this processor computes exactly -----------------------------------------------------------------------


@functools.cache
def exact() -> bool:
    """Tell whether 8-bit products are added exactly here: tried once, on the largest numbers."""
    try:
        return _multiplies() and all(
            _convolves(*case) for case in ((64, 3, 1), (64, 1, 1), (64, 3, 64), (3, 3, 1))
        )
    except (AttributeError, NotImplementedError, RuntimeError):
        return False  # a PyTorch without oneDNN, or with other names for it


def _multiplies() -> bool:
    x, matrix = torch.full((4, 64), 255, dtype=torch.uint8), torch.full((8, 64), 127, dtype=torch.int8).T
    return bool((torch._int_mm(x, matrix) == 64 * 255 * 127).all())


def _convolves(channels: int, size: int, groups: int) -> bool:
    x = torch.full((1, channels, 5, 5), 255, dtype=torch.uint8)
    weight = torch.full((64, channels // groups, size, size), 127, dtype=torch.int8)
    pads, bias = [size // 2, size // 2], torch.ones(64)
    found = _convolution(weight, bias, 254, [1, 1], pads, [1, 1], groups)(x)
    return torch.equal(found, F.conv2d(x.float() - 254, weight.float(), bias, 1, pads, 1, groups))
