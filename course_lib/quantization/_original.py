"""What the functions that improve a simulated network share: the float network behind it, and calibration images."""

import torch
from torch import Tensor, nn

from course_lib import tracing
from course_lib.quantization._checks import as_numbers, check_images, check_model
from course_lib.quantization._folding import folded
from course_lib.quantization.simulated import QuantizedNetwork
from course_lib.quantization.translate import translate
from course_lib.validation import described


def original(model: object, simulated: object, images: object) -> tuple[nn.Module, Tensor]:
    """Return the folded float network that a simulated one was made from, and images as numbers on its device.

    Raises:
        TypeError: `simulated` is no QuantizedNetwork, or the others are as `workflow.collect` refuses them.
        ValueError: `model` is another network than the one that was quantized.
    """
    if not isinstance(simulated, QuantizedNetwork):
        raise TypeError(
            f"simulated is {described(simulated)}; it must be a QuantizedNetwork, as quantize_model() gives it."
        )
    device = check_model(model)
    images = check_images(images)
    network = folded(model)
    same = translate(network) == simulated.steps
    for name in simulated.weights if same else ():
        given, rounded = network.get_submodule(name), simulated.network.get_submodule(name)
        if given.weight.shape != rounded.weight.shape:
            same = False
        elif rounded.weight.device != device:
            raise ValueError(
                f"the model is on {device} and simulated on {rounded.weight.device}; they must be on one device."
            )
    if not same:
        raise ValueError(
            "model has other layers than the network that simulated was made from; give the float model that "
            "quantize_model() was called with."
        )
    numbers = as_numbers(images.to(device))
    if not torch.isfinite(numbers).all():
        raise ValueError("images hold NaN or infinity; they must be finite numbers.")
    with tracing.borrowed(model):
        tracing.run(model, numbers[:4])
    return network, numbers
