r"""Post-training quantization of a whole network in five steps, each of them a call of its own.

::

    histograms = collect(model, dataset.train.images[:500])         # 1 run the calibration set, 2 count the activations
    ranges = calibrate(histograms, "entropy", bits=8)               # 3 choose the ranges
    simulated = quantize_model(model, ranges, weight_bits=8, activation_bits=8)            # 4 quantize
    integer = to_integer(simulated)                                 # 5 from floating point to integer arithmetic

The network is traced with torch.fx and taken apart into steps on the network with its batch norms folded. Integers are
where ONNX Runtime's quantizer puts them: the result of every convolution, linear layer, sum, difference, product,
concatenation, global average pooling and activation function has a range of its own, but a ReLU lies in the range of
what it follows, and max pooling, average pooling, padding with 0, parts of a tensor and flattening hand on the range of
their input. A network may normalise its images itself, as (x - mean) / std with constants or by torchvision's
Normalize: that stays in floating point, and "images" is the name of what it gives. SiLU and Hardswish are two
operations: a sigmoid or hard sigmoid, and the product with it. What has no integer form here is refused by name.
"""

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from course_lib import tracing
from course_lib.quantization._checks import as_numbers, check_images, check_model, check_same
from course_lib.quantization._folding import folded
from course_lib.quantization._plan import Ranges, plan
from course_lib.quantization.calibration import Histogram, _check_method, _check_percentile
from course_lib.quantization.integer_network import IntegerNetwork
from course_lib.quantization.operations import OPERATIONS
from course_lib.quantization.simulated import QuantizedNetwork
from course_lib.quantization.steps import LOGITS, Step, execute
from course_lib.quantization.translate import translate
from course_lib.validation import check_count, described

_Images = Shaped[Tensor, "N C *size"]


def fold_batch_norm(model: nn.Module, example: Shaped[Tensor, "N *rest"]) -> nn.Module:
    r"""Fold every batch norm into the layer before it; return a copy.

    .. math::
        w' = \frac{\gamma}{\sqrt{\mathrm{var} + \epsilon}} w, \qquad
        b' = \frac{\gamma}{\sqrt{\mathrm{var} + \epsilon}} (b - \mathrm{mean}) + \beta

    A batch norm is a scale and a shift for each channel in evaluation mode, and so is no operation of its own in an
    integer network. nn.Identity takes its place, so that all other layers keep their names. A BatchNorm2d that follows
    no layer, as in a DenseNet, becomes a convolution with one weight and one bias for each channel. With a scale for
    each of them 8 bits hold it exactly, where ONNX Runtime's quantizer gives the factors of a BatchNormalization one
    scale for all; the files of `onnx` have the convolution where they are exported from the folded network.

    Args:
        model: network, traceable by torch.fx; it is left as it was.
        example: input [N, ...] of the dtype and on the device that the model runs on.

    Returns:
        The network in evaluation mode, without batch norms.

    Raises:
        TypeError: `model` is not an nn.Module, or `example` not a tensor.
        ValueError: the model cannot be traced or does not run on the example; a batch norm has no running statistics;
            a BatchNorm1d or BatchNorm3d does not directly follow a convolution or linear layer which nothing else
            reads, both called once.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        >>> fold_batch_norm(model, torch.zeros(1, 3, 8, 8))
        Sequential(
          (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
          (1): Identity()
          (2): ReLU()
        )

    References:
        Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
        CVPR 2018, section 3.2.
    """
    tracing.check(model, example, one=True)
    network = folded(model)
    check_same(model, network, example)
    return network


def collect(
    model: nn.Module, images: _Images, *, bins: int = 2048, batch_size: int = 100
) -> dict[str, Histogram]:
    """Count the activations of a network on calibration images in histograms, its batch norms folded.

    Every tensor that gets a range of its own is counted: the images, and the result of each convolution, linear layer,
    sum, difference, product, concatenation, global average pooling and activation function (two of SiLU and
    Hardswish), behind the ReLU where one follows. One collection serves every method and number of bits.

    Args:
        model: network that maps images to logits, float32, traceable by torch.fx; it is left as it was.
        images: calibration images of the training split, uint8 [N, C, H, W], which `data.to_float` makes numbers, or
            float32 as the network takes them (normalised, for instance); [N, C, L] for a network of sequences. Adaptive
            pooling to another size than 1 must change nothing at their size, here and wherever the network is run.
        bins: of each histogram.
        batch_size: images at a time.

    Returns:
        {tensor: histogram} in the order of computation, from "images" to "logits". A tensor between them has the name
        of the layer that computes it, or of the operation, such as "3.add"; those of a SiLU layer are "3.sigmoid" and
        "3.mul".

    Raises:
        TypeError: an argument of another type or dtype than said here.
        ValueError: no images; a tensor that holds NaN or infinity, which is named; an operation that has no integer
            form here, which is named; or as `fold_batch_norm`.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> list(collect(model, torch.zeros(5, 1, 2, 2, dtype=torch.uint8)))
        ['images', '1', 'logits']
    """
    check_count(bins, "bins", low=2)
    check_count(batch_size, "batch_size")
    images = check_images(images)
    device = check_model(model)
    network = folded(model)
    steps = translate(network)
    histograms = {step.tensor: Histogram(bins) for step in steps if OPERATIONS[step.operation].range == "own"}

    def compute(step: Step, *inputs: Tensor) -> Tensor:
        return step.on_numbers(*inputs, *step.weights(network))

    def count(step: Step, *inputs: Tensor) -> Tensor:
        values = compute(step, *inputs)
        if OPERATIONS[step.operation].range == "own":
            try:
                histograms[step.tensor].update(values)
            except ValueError as error:
                raise ValueError(f"tensor {step.tensor!r}: {error}") from error
        return values

    first = images[:4].to(device)
    with tracing.borrowed(model):
        tracing.run(model, as_numbers(first))
    with torch.no_grad():
        for part in images.split(batch_size):
            execute(steps, count, as_numbers(part.to(device)))
    check_same(model, lambda x: execute(steps, compute, x), first)
    return histograms


def calibrate(
    histograms: Mapping[str, Histogram], method: str = "max", *, bits: int = 8, percentile: float = 99.99
) -> dict[str, tuple[float, float]]:
    """Choose the range of each tensor that its integers will cover, as `calibration.Histogram.range` finds it.

    The logits are never clipped, whatever the method: the largest of them is the answer. A range that clips more than
    can be meant draws a `calibration.ClippingWarning`, which names the tensor.

    Args:
        histograms: as `collect` gives them.
        method: name in `calibration.METHODS` or `calibration.PUBLISHED`.
        bits: width of the integers that the ranges are for, 2 to 16.
        percentile: in percent, from 1 to 100, for the method of that name.

    Returns:
        {tensor: (low, high)} with low <= 0 <= high.

    Raises:
        TypeError: an argument of another type than said here.
        ValueError: an unknown method; bits or percentile out of range; no histograms, or one that is empty or has too
            few bins, which is named.

    Example:
        >>> histogram = Histogram()
        >>> histogram.update(torch.tensor([-1.5, 0.25, 4.0]))
        >>> calibrate({"logits": histogram})
        {'logits': (-1.5, 4.0)}
    """
    _check_method(method)
    check_count(bits, "bits", low=2, high=16)
    _check_percentile(percentile)
    if not isinstance(histograms, Mapping):
        raise TypeError(
            f"histograms are {described(histograms)}; they must be {{tensor: Histogram}}, as collect() gives."
        )
    if not histograms:
        raise ValueError(
            "histograms are empty: there are no histograms; there must be one for each tensor. Give those of collect()."
        )
    ranges = {}
    for name, histogram in histograms.items():
        if not isinstance(histogram, Histogram):
            raise TypeError(
                f"the histogram of {name!r} is {described(histogram)}; collect() makes Histograms."
            )
        chosen = "max" if name == LOGITS else method
        try:
            ranges[name] = histogram.range(chosen, bits=bits, percentile=percentile, name=name)
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
) -> QuantizedNetwork:
    r"""Simulate quantized inference in float32.

    .. math::
        y = Q\left(\mathrm{relu}\left(Q(w) * x + \mathrm{round}\left(\frac{b}{s_x s_w}\right) s_x s_w\right)\right)

    where Q is `affine.fake_quantize`. Weights are symmetric and signed, activations asymmetric and unsigned with one
    scale a tensor, as in `onnx.quantize`; biases are int32. The images are activations too. The logits have 8 bits at
    least. Where a bias is so large beside its weights that int32 would not hold it, the weight's scale is widened, as
    ONNX Runtime does.

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

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1, bias=False))
        >>> model[1].weight.data = torch.tensor([[1.0, -0.26]])
        >>> simulated = quantize_model(model, {"images": (0, 3), "logits": (-128, 127)}, weight_bits=3)
        >>> simulated.network[1].weight.data, simulated(torch.tensor([[[[2.4, 3.2]]]]))
        (tensor([[ 1.0000, -0.3333]]), tensor([[1.]]))

    References:
        Wu et al., "Integer Quantization for Deep Learning Inference: Principles and Empirical Evaluation", 2020,
        sections 3 and 4.1 (scales for each channel of a weight, one for an activation; layers left in floating point).
    """
    return QuantizedNetwork(
        plan(
            model,
            ranges,
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            per_channel=per_channel,
            weight_method=weight_method,
            keep=keep,
        )
    )


def to_integer(simulated: QuantizedNetwork) -> IntegerNetwork:
    """Turn a simulated network into one in integer arithmetic, by the functions of `integer`.

    Images become integers once, logits become numbers once, and what is between them are integers of 8 bits and sums of
    int32. A ReLU costs nothing: it is where the range of the layer ends. Layers kept in float32 are computed on numbers
    that integers stand for, and their results become integers again.

    The simulated network computes the same with float32 sums. From equal inputs a layer gives the same integers, but
    for one step where a sum lies so near a half that its last bit decides: in less than one value of a thousand. Later
    layers carry that on. On the trained networks of this course up to 6 logits in a hundred differ by one step, and at
    most one answer in 4,000. Average pooling (not the global one) meets exact halves often, since its output is in
    steps of its input.

    The logits are those of ONNX Runtime for the file that `onnx.quantize` writes with the same ranges, bit for bit,
    where its processor multiplies 8-bit numbers exactly (see `integer.conv2d`) and the network has neither average
    pooling nor transposed convolutions (see `integer.avg_pool2d` and `integer.conv_transpose2d`). Where its
    approximation of a sigmoid, tanh, ELU or GELU falls on the other side of a half, an integer of it differs by one
    step: in one table of 1,000 (50 for tanh; see `integer.activation`).

    Args:
        simulated: as `quantize_model` gives it, of 8 bits at most; it is left as it was.

    Returns:
        A network that maps float32 images to float32 logits.

    Raises:
        TypeError: `simulated` is no QuantizedNetwork.
        ValueError: weights or activations of more than 8 bits.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1, bias=False))
        >>> model[1].weight.data = torch.tensor([[1.27, -0.5]])
        >>> integers = to_integer(quantize_model(model, {"images": (0, 255), "logits": (-128, 127)}))
        >>> integers.network[1].weight.data, integers(torch.tensor([[[[100.0, 200.0]]]]))
        (tensor([[127, -50]], dtype=torch.int8), tensor([[27.]]))

    References:
        Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
        CVPR 2018, section 2.
    """
    return IntegerNetwork(simulated)
