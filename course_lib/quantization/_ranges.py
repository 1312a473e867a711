"""Ranges of activations that follow the batches of a training."""

import torch
from torch import Tensor, nn

from course_lib.quantization._plan import Ranges

UPDATES = ("fixed", "average", "max")
"""How ranges move in training: not at all, by a moving average, or to the smallest and largest value so far."""


class MovingRanges(nn.Module):
    r"""Range of each tensor, updated from the smallest and largest value of a batch.

    .. math::
        \text{average:} \quad low &\leftarrow (1 - m) \, low + m \min x, &
            high &\leftarrow (1 - m) \, high + m \max x \\
        \text{max:} \quad low &\leftarrow \min(low,\ \min x), & high &\leftarrow \max(high,\ \max x)

    Args:
        ranges: {tensor: (low, high)}, to start from.
        momentum: m of the average; None for "max".

    Attributes:
        names: of the tensors.
        low, high: float32, an end for each of them; part of the state dict.

    References:
        Jacob et al. 2018, section 3.1 (moving averages).
    """

    def __init__(self, ranges: Ranges, momentum: float | None) -> None:
        super().__init__()
        self.names, self.momentum = list(ranges), momentum
        low, high = zip(*ranges.values(), strict=True)
        self.register_buffer("low", torch.tensor(low, dtype=torch.float32))
        self.register_buffer("high", torch.tensor(high, dtype=torch.float32))

    def now(self) -> dict[str, tuple[float, float]]:
        """The ranges as numbers, each of which holds 0."""
        pairs = zip(self.low.clamp(max=0).tolist(), self.high.clamp(min=0).tolist(), strict=True)
        return dict(zip(self.names, pairs, strict=True))

    def update(self, tensor: str, values: Tensor) -> None:
        """Move the range of a tensor to the values that it has in a batch."""
        low, high = values.detach().float().aminmax()
        if not (torch.isfinite(low) & torch.isfinite(high)):
            raise ValueError(
                f"tensor {tensor!r} runs from {low:g} to {high:g}, which no range covers. Look for a diverged network."
            )
        index = self.names.index(tensor)
        if self.momentum is None:
            self.low[index] = torch.minimum(self.low[index], low)
            self.high[index] = torch.maximum(self.high[index], high)
        else:
            self.low[index] += self.momentum * (low - self.low[index])
            self.high[index] += self.momentum * (high - self.high[index])
