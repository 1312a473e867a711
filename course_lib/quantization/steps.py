"""Steps of a network: one operation each, in the order of computation, and how they are executed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from course_lib.quantization.affine import QuantParams
from course_lib.quantization.operations import OPERATIONS
from course_lib.validation import check_count, check_dense, check_function

IMAGES, LOGITS = "images", "logits"
"""Names of the first and the last tensor, as in the files of `onnx`."""

PART = 125
"""Images that a simulated or integer network computes at a time: their activations stay in the processor's cache."""


@dataclass(frozen=True)
class Step:
    """Operation at one place of a network.

    Attributes:
        name: of its result, among the steps.
        operation: a key of `operations.OPERATIONS`.
        inputs: names of the results that it reads.
        tensor: the tensor whose range its result is in: "images", "logits", or the layer or operation that the range is
            counted at.
        layer: name of the convolution or linear layer, if it is one.
        relu: where a ReLU behind the operation cuts the result off, beside 0; None where there is none.
        options: keyword arguments of the operation.

    Example:
        >>> step = Step("y", "max_pool2d", ("x",), "conv1", options={"kernel_size": 2})
        >>> step.on_numbers(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])).tolist()
        [[[[4.0]]]]
    """

    name: str
    operation: str
    inputs: tuple[str, ...]
    tensor: str
    layer: str | None = None
    relu: float | None = None
    options: dict[str, object] = field(default_factory=dict)

    def weights(self, network: nn.Module) -> tuple[Tensor | None, ...]:
        """Return weight and bias of the step's layer in a network; nothing where it is no layer."""
        if self.layer is None:
            return ()
        layer = network.get_submodule(self.layer)
        return layer.weight, layer.bias

    def on_numbers(self, *inputs: Tensor | None) -> Tensor:
        """Compute the step in floating point; the weight and bias of a layer are the last inputs.

        Raises:
            ValueError: an input does not go with the operation; layer or step are named.
        """
        try:
            values = OPERATIONS[self.operation].numbers(*inputs, **self.options)
        except ValueError as error:
            raise ValueError(f"{self.layer or self.name!r}: {error}") from error
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, IndexError) as error:  # what PyTorch says of shapes
            shapes = ", ".join(str(list(x.shape)) for x in inputs if isinstance(x, Tensor))
            raise ValueError(
                f"{self.layer or self.name!r} cannot compute {self.operation} on shapes {shapes}: "
                f"{str(error).partition(chr(10))[0]:.200}. Give images of the size that the network was made for."
            ) from error
        return values if self.relu is None else OPERATIONS["relu"].numbers(values, high=self.relu)

    def on_integers(self, *inputs: Tensor | None, params: Sequence[QuantParams]) -> Tensor:
        """Compute the step on integers, whose parameters are those of `operations.Operation.integers`.

        Raises:
            ValueError: integers or parameters do not go with the operation; layer or step are named.
        """
        try:
            values = OPERATIONS[self.operation].integers(*inputs, params=params, **self.options)
        except ValueError as error:
            raise ValueError(f"{self.layer or self.name!r}: {error}") from error
        if self.relu is None:
            return values
        return OPERATIONS["relu"].integers(values, params=(params[-1], params[-1]), high=self.relu)

    def rounding(self, activations: Mapping[str, QuantParams]) -> QuantParams | None:
        """Return the parameters that the result is rounded by; None where it is not, or is rounded already."""
        if OPERATIONS[self.operation].range == "among input":
            return None
        return activations.get(self.tensor)


def execute(
    steps: Sequence[Step], compute: Callable[..., Tensor], images: Tensor, *, batch_size: int | None = None
) -> Tensor:
    """Compute the steps of a network one by one.

    A result is let go as soon as nothing reads it any more.

    Args:
        steps: as `translate.translate` gives them.
        compute: ``function(step, *inputs) -> result of the step``; the first step reads the images.
        images: what the network takes, [N, C, H, W].
        batch_size: images at a time; all of them where not given.

    Returns:
        The result of the last step.

    Raises:
        TypeError: an argument of another type than said here.
        ValueError: `images` hold no values, or `batch_size` is below 1; whatever `compute` raises.

    Example:
        >>> steps = [Step("x", "images", (), "images"), Step("y", "relu", ("x",), "images", options={"high": 6.0})]
        >>> execute(steps, Step.on_numbers, torch.tensor([[-1.0, 7.0]]))
        tensor([[0., 6.]])
    """
    if not isinstance(steps, Sequence) or not steps or not all(isinstance(step, Step) for step in steps):
        raise TypeError(f"steps are {steps!r:.80}; they must be Steps, one or more. translate() gives them.")
    check_function(compute, "compute")
    check_dense(images, "images", such_as="torch.rand(1, 3, 32, 32)", empty=True)
    if batch_size is not None:
        check_count(batch_size, "batch_size")
        return torch.cat([execute(steps, compute, part) for part in images.split(batch_size)])
    last_use = {name: step for step in steps for name in step.inputs}
    results = {}
    for step in steps:
        inputs = [results[name] for name in step.inputs] or [images]
        results[step.name] = compute(step, *inputs)
        for name in step.inputs:
            if last_use[name] is step:
                results.pop(name, None)
    return results[steps[-1].name]
