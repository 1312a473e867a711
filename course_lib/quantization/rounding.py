r"""Rounding a weight for the inputs it will meet: GPTQ, which is not rounding to nearest.

Rounding to nearest makes the error of each weight small. What counts is the error of the output,

.. math:: \| W X - Q X \|^2 = \sum_r (w_r - q_r) \, H \, (w_r - q_r)^T, \qquad H = X X^T

where the columns of X are what the layer reads on calibration images. Inputs that rise and fall together make it
possible for one weight to take back what the rounding of another has done. No label and no gradient is needed::

    simulated = workflow.quantize_model(model, ranges, weight_bits=4, weight_method="mse")
    better = bias.correct_biases(model, round_network(model, simulated, images), images)
    integer = workflow.to_integer(better)
"""

import copy

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Float64, Shaped
from torch import Tensor, nn

from course_lib.quantization._checks import check_real
from course_lib.quantization._original import original
from course_lib.quantization.affine import QuantParams, dequantize, quantize
from course_lib.quantization.simulated import QuantizedNetwork
from course_lib.quantization.steps import Step, execute
from course_lib.validation import check_count, check_number, described

_ROUNDED = ("conv2d", "linear")
_PATCHES = 2**24  # numbers in the patches that are multiplied at a time


def input_hessian(
    x: Float[Tensor, "N C *size"],
    weight: Float[Tensor, "O I *kernel"],
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> Float64[Tensor, "G K K"]:
    r"""Sum the outer products of what a layer's weight is multiplied with.

    .. math:: H_g = \sum x_p \, x_p^T

    where p runs over all images and positions, and x_p are the K inputs of group g there: the patch under the kernel
    (im2col), zeros where it hangs over the edge; for a linear layer the input itself.

    Args:
        x: input of the layer, [N, C, H, W] or, for a linear layer, [..., C].
        weight: of the layer, [C_out, C_in / groups, k_h, k_w] or [C_out, C]; only its shape matters.
        stride, padding, dilation, groups: of the convolution, as `torch.nn.functional.conv2d` takes them.

    Returns:
        float64 [groups, K, K], where K is the number of weights of an output channel.

    Raises:
        TypeError: `x` or `weight` is no floating-point tensor, or an option is no whole number.
        ValueError: shapes that do not go together, NaN or infinity, or an option out of range.

    Example:
        >>> input_hessian(torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.ones(1, 2))
        tensor([[[1., 2.],
                 [2., 5.]]], dtype=torch.float64)
    """
    check_real(x, "x")
    check_real(weight, "weight")
    channels = weight.shape[1] * check_count(groups, "groups") if weight.ndim in (2, 4) and len(weight) else 0
    linear = weight.ndim == 2 and groups == 1
    if not channels or x.ndim < 2 or (not linear and x.ndim != 4) or x.shape[-1 if linear else 1] != channels:
        raise ValueError(
            f"x has shape {list(x.shape)}, weight {list(weight.shape)} and groups is {groups}; they must be [N, C, H, "
            "W] and [C_out, C / groups, k_h, k_w], or [..., C] and [C_out, C] for a linear layer."
        )
    _check_finite(x, "x")
    if linear:
        rows = x.reshape(-1, channels)
        return (rows.T @ rows)[None].double()
    stride, padding, dilation = (
        _pair(value, name, low)
        for value, name, low in ((stride, "stride", 1), (padding, "padding", 0), (dilation, "dilation", 1))
    )
    reach = [d * (size - 1) + 1 for d, size in zip(dilation, weight.shape[2:], strict=True)]
    sizes = [size + 2 * pad for size, pad in zip(x.shape[2:], padding, strict=True)]
    if any(size < needed for size, needed in zip(sizes, reach, strict=True)):
        raise ValueError(
            f"a kernel that covers {reach} does not fit into x, which with its padding has the size {sizes}; it must "
            "be smaller, or padding larger."
        )
    columns = weight[0].numel()
    hessian = torch.zeros(groups, columns, columns, dtype=torch.float64, device=x.device)
    for part in x.split(max(1, _PATCHES // (x[0].numel() * weight[0, 0].numel()))):
        patches = F.unfold(part, weight.shape[2:], dilation, padding, stride).unflatten(1, (groups, columns))
        patches = patches.permute(1, 2, 0, 3).flatten(2)  # [groups, K, N * positions]
        hessian += (patches @ patches.mT).double()
    return hessian


def output_error(
    weight: Float[Tensor, "O *rest"], rounded: Float[Tensor, "O *rest"], hessian: Float64[Tensor, "G K K"]
) -> Float64[Tensor, "O"]:
    r"""Squared error of each output channel, summed over all images and positions: :math:`e \, H \, e^T`.

    Args:
        weight, rounded: before and after rounding; e is their difference.
        hessian: of the layer's inputs, as `input_hessian` gives it.

    Returns:
        float64 [C_out].

    Raises:
        TypeError: an argument is no floating-point tensor.
        ValueError: shapes that do not go together, NaN or infinity.

    Example:
        >>> hessian = input_hessian(torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.ones(1, 2))
        >>> output_error(torch.tensor([[0.5, 0.0]]), torch.tensor([[1.5, -1.0]]), hessian)
        tensor([2.], dtype=torch.float64)
    """
    _check(weight, hessian)
    check_real(rounded, "rounded")
    if rounded.shape != weight.shape:
        raise ValueError(
            f"weight has shape {list(weight.shape)} and rounded {list(rounded.shape)}; they must be one weight."
        )
    _check_finite(rounded, "rounded")
    error = (weight.double() - rounded.double()).reshape(len(hessian), -1, hessian.shape[-1])
    return ((error @ hessian.double()) * error).sum(-1).flatten()


def gptq(
    weight: Float[Tensor, "O *rest"],
    hessian: Float64[Tensor, "G K K"],
    params: QuantParams,
    *,
    dampening: float = 0.01,
) -> Float32[Tensor, "O *rest"]:
    r"""Round the columns of a weight one after another; each error is made up for by the columns still open.

    With column j rounded to :math:`q_j`, the change of the open columns with the least output error is

    .. math::
        w_k \leftarrow w_k - \frac{w_j - q_j}{U_{jj}} \, U_{jk} \quad (k > j), \qquad
        U^T U = (H + \lambda I)^{-1}, \quad \lambda = \mathrm{dampening} \cdot \mathrm{mean}(\mathrm{diag}\, H)

    where U is upper triangular. What is minimised is the error of each output channel by itself, and greedily; so the
    channels in which rounding to nearest has the smaller :math:`e \, H \, e^T` are rounded to nearest. No channel is
    then worse than that on the images that H is from. A weight of 0 stays 0: a pruned layer stays pruned.

    Args:
        weight: of a linear layer or convolution, finite.
        hessian: of its inputs, as `input_hessian` gives it.
        params: symmetric, of the weight, as `affine.params_of` finds them.
        dampening: above 0; much of it gives rounding to nearest.

    Returns:
        The numbers that integers of `params` stand for, float32.

    Raises:
        TypeError: an argument of another type than said here.
        ValueError: shapes that do not go together; NaN or infinity; parameters that are not symmetric; dampening out of
            range.

    Example:
        >>> from course_lib.quantization.affine import choose_params
        >>> params = choose_params(-7.0, 7.0, bits=4, symmetric=True)  # whole numbers
        >>> always_equal = torch.ones(1, 2, 2, dtype=torch.float64)
        >>> gptq(torch.tensor([[0.4, 0.4]]), always_equal, params)
        tensor([[0., 1.]])

    References:
        Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", ICLR 2023,
        section 3; the choice between channels is ours.
    """
    check_number(dampening, "dampening", low=0, low_open=True)
    _check(weight, hessian)
    if not isinstance(params, QuantParams):
        raise TypeError(f"params is {described(params)}; it must be QuantParams. params_of() makes them.")
    if not params.symmetric or params.axis not in (None, 0):
        raise ValueError(
            f"params have symmetric={params.symmetric} and axis={params.axis}; those of a weight must be symmetric, "
            "with one scale or one for each output channel, axis 0. params_of() makes them."
        )
    hessian = hessian.double()
    nearest = quantize(weight, params)
    groups, columns = hessian.shape[:2]
    current = weight.detach().double().reshape(groups, -1, columns).clone()
    zero = current == 0
    scale = params.scale.to(weight.device).double().expand(len(weight)).reshape(groups, -1)
    upper = torch.linalg.cholesky(torch.cholesky_inverse(_cholesky(hessian, dampening)), upper=True)
    steps = torch.zeros_like(current)
    for j in range(columns):
        rounded = (current[..., j] / scale).round().clamp(params.low, params.high)
        steps[..., j] = rounded.masked_fill(zero[..., j], 0)
        error = (current[..., j] - steps[..., j] * scale) / upper[:, j, j, None]
        current[..., j + 1 :] -= error[..., None] * upper[:, j, None, j + 1 :]
    found = steps.reshape(weight.shape).to(nearest.dtype)
    ours, theirs = (output_error(weight, dequantize(q, params), hessian) for q in (found, nearest))
    better = (ours < theirs).reshape([-1] + [1] * (weight.ndim - 1))
    return dequantize(torch.where(better, found, nearest), params)


def round_network(
    model: nn.Module,
    simulated: QuantizedNetwork,
    images: Shaped[Tensor, "N C H W"],
    *,
    dampening: float = 0.01,
) -> QuantizedNetwork:
    """Round the weights of a simulated network anew by GPTQ, layer by layer, on the grids that they have.

    The input of a layer is that of the network quantized so far: weights of the layers before it rounded by GPTQ,
    activations rounded too. So a layer is fitted to what it will read. Biases stay as they are; `bias.correct_biases`
    comes afterwards.

    Args:
        model: the float network that `simulated` was made from; it is left as it was.
        simulated: as `workflow.quantize_model` gives it, left as it was. With few bits, its `weight_method="mse"`
            gives finer grids.
        images: calibration images of the training split, as `workflow.collect` takes them. The activations of all of
            them are held at a time; 100 to 500 are enough.
        dampening: as in `gptq`.

    Returns:
        Another simulated network. `workflow.to_integer` takes it on.

    Raises:
        TypeError, ValueError: as `gptq` or `workflow.collect`; `simulated` is no QuantizedNetwork, or was made from
            another network.

    Example:
        >>> from course_lib.quantization.workflow import quantize_model
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3, 1, bias=False))
        >>> model[1].weight.data = torch.tensor([[7.0, 1.4, 1.4]])
        >>> simulated = quantize_model(model, {"images": (0, 255), "logits": (-128, 127)}, weight_bits=4)
        >>> images = torch.tensor([[[[9.0, 2.0, 2.0]]], [[[1.0, 4.0, 4.0]]]])  # the last two are equal
        >>> simulated.network[1].weight.data, round_network(model, simulated, images).network[1].weight.data
        (tensor([[7., 1., 1.]]), tensor([[7., 1., 2.]]))

    References:
        Frantar et al., GPTQ, section 4 (layers in order, each on the inputs that the quantized ones before it give).
    """
    check_number(dampening, "dampening", low=0, low_open=True)
    network, images = original(model, simulated, images)
    result = copy.deepcopy(simulated)

    def compute(step: Step, *inputs: Tensor) -> Tensor:
        if step.layer in result.weights and step.operation in _ROUNDED:
            exact = network.get_submodule(step.layer).weight
            hessian = input_hessian(*inputs, exact, **step.options)
            try:
                weight = gptq(exact, hessian, result.weights[step.layer], dampening=dampening)
            except ValueError as error:
                raise ValueError(f"layer {step.layer!r}: {error}") from error
            result.network.get_submodule(step.layer).weight = nn.Parameter(weight, requires_grad=False)
        return result.compute(step, *inputs)

    with torch.no_grad():
        execute(result.steps, compute, images)
    return result


def _cholesky(hessian: Tensor, dampening: float) -> Tensor:
    """Lower factor of the dampened Hessian; inputs that are always 0 leave nothing but the dampening."""
    size = hessian.diagonal(dim1=1, dim2=2).mean(1)
    size = torch.where(size > 0, size, 1.0)
    identity = torch.eye(hessian.shape[-1], dtype=hessian.dtype, device=hessian.device)
    factor, failed = torch.linalg.cholesky_ex(hessian + dampening * size[:, None, None] * identity)
    if failed.any():
        raise ValueError(
            "hessian must be a sum of outer products x x^T, which has no negative eigenvalue, and is not. "
            "input_hessian() gives it."
        )
    return factor


def _pair(value: object, name: str, low: int) -> tuple[int, int]:
    pair = value if isinstance(value, tuple) else (value, value)
    if len(pair) != 2:
        raise ValueError(f"{name} is {value!r}; it must be a number or a pair, (vertical, horizontal).")
    return check_count(pair[0], name, low=low), check_count(pair[1], name, low=low)


def _check(weight: Tensor, hessian: Tensor) -> None:
    check_real(weight, "weight")
    check_real(hessian, "hessian")
    channels, columns = (len(weight), weight[0].numel()) if weight.ndim >= 2 and len(weight) else (0, 0)
    groups = len(hessian) if hessian.ndim == 3 else 0
    if not columns or not groups or channels % groups or hessian.shape[1:] != (columns, columns):
        raise ValueError(
            f"weight has shape {list(weight.shape)} and hessian {list(hessian.shape)}; they must be [C_out, ...] and "
            "[groups, K, K], where K is the number of weights of an output channel. input_hessian() gives it."
        )
    _check_finite(weight, "weight")
    _check_finite(hessian, "hessian")


def _check_finite(values: Tensor, name: str) -> None:
    if not torch.isfinite(values.detach()).all():
        raise ValueError(f"{name} holds NaN or infinity; it must be finite. Look for a diverged network.")
