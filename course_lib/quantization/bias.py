r"""Bias correction: rounding a weight moves the mean of a layer's output, and its bias moves it back.

.. math:: \mathbb{E}[Q(w) * x] - \mathbb{E}[w * x] = (Q(w) - w) * \mathbb{E}[x] \neq 0

The rounding errors of one channel's weights do not cancel, least of all in a depthwise convolution, which has nine of
them. Their mean effect on calibration images is one number a channel: a bias costs nothing more.
"""

import copy

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from course_lib.quantization._original import original
from course_lib.quantization.operations import OPERATIONS
from course_lib.quantization.simulated import QuantizedNetwork
from course_lib.quantization.steps import Step, execute

_INT32 = 2**31 - 1


def correct_biases(
    model: nn.Module, simulated: QuantizedNetwork, images: Shaped[Tensor, "N C H W"]
) -> QuantizedNetwork:
    r"""Move the biases of a simulated network so that rounding a layer does not change its mean output.

    .. math:: b_c \leftarrow b_c - (\mathbb{E}[\tilde y_c] - \mathbb{E}[y_c])

    where :math:`\tilde y` is the output of channel c with the rounded weight and bias, y that with those of the float
    network, both before the activation function and on what the layer reads in the quantized network; the mean is over
    images and positions. The layers come in their order, each reading what those corrected before it give. Afterwards
    the difference on these images is at most half a step of the bias, :math:`s_x s_w / 2`. A layer without bias gets
    one.

    Errors of the layers before are not made up for, as they are where y is computed from the activations of the float
    network: with 4-bit weights that costs EfficientNet-Lite0 more than it gains.

    Args:
        model, simulated, images: as in `rounding.round_network`; all are left as they were.

    Returns:
        Another simulated network. `workflow.to_integer` takes it on.

    Raises:
        TypeError, ValueError: as `rounding.round_network`.

    Example:
        >>> from course_lib.quantization.workflow import quantize_model
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1))
        >>> model[1].weight.data, model[1].bias.data = torch.tensor([[3.0, 1.4]]), torch.tensor([0.0])
        >>> simulated = quantize_model(model, {"images": (0, 255), "logits": (-128, 127)}, weight_bits=3)
        >>> correct_biases(model, simulated, torch.tensor([[[[2.0, 5.0]]], [[[1.0, 10.0]]]])).network[1].bias.data
        tensor([3.])

    References:
        Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.2;
        the mean is measured on images here, not worked out from batch norms.
    """
    network, images = original(model, simulated, images)
    result = copy.deepcopy(simulated)

    def compute(step: Step, *inputs: Tensor) -> Tensor:
        if step.layer in result.weights:
            exact, rounded = (_mean_output(step, net, *inputs) for net in (network, result.network))
            _move_bias(result, step, exact - rounded)
        return result.compute(step, *inputs)

    with torch.no_grad():
        execute(result.steps, compute, images)
    return result


def _mean_output(step: Step, network: nn.Module, x: Tensor) -> Tensor:
    """Mean of each channel before the activation function; channels are axis 1."""
    y = OPERATIONS[step.operation].numbers(x, *step.weights(network), **step.options)
    return y.mean([axis for axis in range(y.ndim) if axis != 1], dtype=torch.float64)


def _move_bias(result: QuantizedNetwork, step: Step, by: Tensor) -> None:
    """Add to a bias in whole steps, as far as int32 goes."""
    tensors = {step.name: step.tensor for step in result.steps}
    x_params, w_params = result.activations[tensors[step.inputs[0]]], result.weights[step.layer]
    size = (x_params.scale.to(by.device) * w_params.scale.to(by.device)).double()
    if not torch.isfinite(by).all():
        raise ValueError(
            f"layer {step.layer!r}: its output holds NaN or infinity. Look for a diverged network."
        )
    integers = result.biases.get(step.layer, torch.zeros(len(by), dtype=torch.int32)).to(by.device)
    integers = (integers + (by / size).round()).clamp(-_INT32, _INT32).int()
    result.biases[step.layer] = integers
    bias = nn.Parameter((integers.double() * size).float(), requires_grad=False)
    result.network.get_submodule(step.layer).bias = bias
