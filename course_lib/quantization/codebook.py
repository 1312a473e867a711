r"""Codebooks: a weight of which each number is one of a few, found by k-means and stored as an index of some bits.

The levels of `affine` lie at equal distances, so that integers can be multiplied; those of a codebook lie where the
weights are. That makes a file small and arithmetic no faster: a layer looks its weights up and computes in floating
point. Huffman coding makes frequent indices shorter still.
"""

import copy
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn

from course_lib.quantization._checks import check_flag, check_real, shown
from course_lib.validation import check_count, check_dense, check_layers, described

_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_ITERATIONS = 10_000  # some hundreds are needed; this ends a circle that rounding could lead into


@dataclass(frozen=True, eq=False)
class Codebook:
    """Levels of a weight, and which of them each number is.

    Attributes:
        levels: float32 [at most 2^bits], rising.
        indices: uint8, in the shape of the weight.
        bits: of an index, 1 to 8.

    Raises:
        TypeError, ValueError: a field of another type, dtype, shape or range than said here.

    Example:
        >>> cluster(torch.tensor([0.9, 1.1, -2.0, 1.0]), bits=1)
        Codebook(1 bit, levels [-2.0, 1.0], indices [4])
    """

    levels: Float32[Tensor, "levels"]
    indices: UInt8[Tensor, "*shape"]
    bits: int

    def __post_init__(self) -> None:
        check_count(self.bits, "bits", low=1, high=8)
        check_real(self.levels, "levels")
        check_dense(self.indices, "indices", such_as="the indices of cluster()")
        count, highest = len(self.levels) if self.levels.ndim == 1 else 0, 2**self.bits
        if self.levels.dtype != torch.float32 or not 1 <= count <= highest:
            raise ValueError(
                f"levels have dtype {self.levels.dtype} and shape {list(self.levels.shape)}; they must be float32, "
                f"from 1 to {highest} of them. cluster() makes them."
            )
        if not torch.isfinite(self.levels).all() or (self.levels.diff() < 0).any():
            raise ValueError(
                f"levels are {shown(self.levels)}; they must be finite and rise. cluster() makes them."
            )
        if self.indices.dtype != torch.uint8 or int(self.indices.max()) >= count:
            raise ValueError(
                f"indices have dtype {self.indices.dtype} and run up to {self.indices.max().item():g}; they must be "
                f"uint8, and below the number of levels, {count}. cluster() makes both."
            )

    def __repr__(self) -> str:
        levels = ", ".join(f"{level:.4g}" if level % 1 else f"{level:.1f}" for level in self.levels.tolist())
        unit = "bit" if self.bits == 1 else "bits"
        return f"Codebook({self.bits} {unit}, levels [{levels}], indices {list(self.indices.shape)})"

    def weight(self) -> Float32[Tensor, "*shape"]:
        """Look the numbers up."""
        return self.levels[self.indices.long()]

    def size(self, *, huffman: bool = False) -> int:
        r"""Count the bytes of levels and indices.

        .. math:: 4 \cdot 2^{bits} + \lceil n \cdot bits / 8 \rceil

        Args:
            huffman: whether indices are as long as zlib makes them with Huffman coding alone (`Z_HUFFMAN_ONLY`), its
                tables of code lengths counted, where that is less.

        Example:
            >>> codebook = cluster(torch.cat([torch.zeros(7000), torch.linspace(-1, 1, 1000)]), bits=4)
            >>> codebook.size(), 1500 < codebook.size(huffman=True) < 1700
            (4064, True)

        References:
            Han, Mao and Dally, "Deep Compression", ICLR 2016, sections 3 (equation 1) and 4; DEFLATE, RFC 1951.
        """
        check_flag(huffman, "huffman")
        indices = -(-self.indices.numel() * self.bits // 8)
        if huffman:
            coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
            coded = coder.compress(self.indices.cpu().numpy().tobytes()) + coder.flush()
            indices = min(indices, len(coded))
        return 4 * 2**self.bits + indices


def cluster(weight: Float[Tensor, "*shape"], *, bits: int) -> Codebook:
    r"""Find the levels of a weight by k-means, from levels at equal distances on.

    .. math:: \min_{c_1, \ldots, c_k} \sum_i \min_j (w_i - c_j)^2, \qquad k = 2^{bits}

    Each number goes to the nearest level, each level to the mean of its numbers, until nothing changes. Neither step
    makes the sum larger; so it ends no higher than at the levels where it starts, at equal distances from the smallest
    number to the largest. The paper found networks better from that start than from two others, since it keeps levels
    for the few large numbers. Where numbers are 0, as in a pruned weight, one of the k levels is 0, and stays there.

    Args:
        weight: floating point, finite, not empty.
        bits: of an index, 1 to 8.

    Returns:
        The codebook. A level that no number is near stays where it started.

    Raises:
        TypeError: `weight` is no floating-point tensor, `bits` no whole number.
        ValueError: `weight` is empty, or holds NaN or infinity; `bits` out of range.

    Example:
        >>> cluster(torch.tensor([[0.0, 0.9, 1.1, -2.0, 0.0, 4.0]]), bits=2).weight()
        tensor([[ 0.,  1.,  1., -2.,  0.,  4.]])

    References:
        Han, Mao and Dally, "Deep Compression: Compressing Deep Neural Networks with Pruning, Trained Quantization and
        Huffman Coding", ICLR 2016, section 3; Lloyd, "Least Squares Quantization in PCM", 1982.
    """
    check_count(bits, "bits", low=1, high=8)
    check_real(weight, "weight")
    if not weight.numel() or not torch.isfinite(weight.detach()).all():
        raise ValueError(
            f"weight has shape {list(weight.shape)} and must hold finite numbers, at least one; NaN or infinity come "
            "from a diverged network."
        )
    values = weight.detach().double().cpu().flatten().numpy()
    used = values[values != 0]
    pruned = len(used) < len(values)
    levels = _k_means(np.sort(used), 2**bits - pruned) if len(used) else np.zeros(0)
    levels = np.sort(np.append(levels, 0.0)) if pruned else levels
    levels = levels.astype(np.float32)
    indices = _nearest(values, levels.astype(np.float64))
    if pruned:  # of several levels at 0 the same, and no other number on it
        indices[values == 0] = np.searchsorted(levels, 0.0)
    return Codebook(
        torch.from_numpy(levels).to(weight.device),
        torch.from_numpy(indices.astype(np.uint8)).reshape(weight.shape).to(weight.device),
        bits,
    )


def cluster_layers(model: nn.Module, bits: Mapping[str, int]) -> dict[str, Codebook]:
    """Find a codebook for the weight of each named layer, as `cluster` does.

    Args:
        model: left as it was.
        bits: {layer: bits of an index}, 1 to 8; names as in `model.named_modules()`.

    Returns:
        {layer: codebook}.

    Raises:
        TypeError: the model is no module, bits are no mapping, or a layer is no convolution or linear layer.
        KeyError: a layer is unknown; the message lists the nearest names.
        ValueError: a weight that is computed, shared, empty or not finite; bits out of range.

    Example:
        >>> cluster_layers(nn.Sequential(nn.Linear(3, 2, bias=False)), {"0": 2})["0"].indices.shape
        torch.Size([2, 3])
    """
    layers = check_layers(model, bits, _KINDS, "bits")
    for name in layers:
        check_count(bits[name], f"bits[{name!r}]", low=1, high=8)
    return {name: cluster(layer.weight, bits=bits[name]) for name, layer in layers.items()}


def look_up(model: nn.Module, codebooks: Mapping[str, Codebook]) -> nn.Module:
    """Put the numbers of codebooks into the layers of a network; return a copy.

    Args:
        model: as for `cluster_layers`; it is left as it was.
        codebooks: {layer: codebook}.

    Returns:
        A network that is run, trained or quantized like any other.

    Raises:
        TypeError: the model is no module, or a value no Codebook.
        KeyError: a layer is unknown; the message lists the nearest names.
        ValueError: a codebook for a weight of another shape; a weight that is computed or shared.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 1, bias=False))
        >>> model[0].weight.data = torch.tensor([[0.9, 1.1, -2.0]])
        >>> look_up(model, cluster_layers(model, {"0": 1}))[0].weight.data
        tensor([[ 1.,  1., -2.]])
    """
    layers = check_layers(model, codebooks, _KINDS, "codebooks")
    result = copy.deepcopy(model)
    for name, layer in layers.items():
        codebook = codebooks[name]
        if not isinstance(codebook, Codebook):
            raise TypeError(
                f"codebooks[{name!r}] is {described(codebook)}; it must be a Codebook, as cluster() gives it."
            )
        if codebook.indices.shape != layer.weight.shape:
            raise ValueError(
                f"the codebook of {name!r} is for a weight {list(codebook.indices.shape)}, and the layer has "
                f"{list(layer.weight.shape)}; give the codebooks of this network."
            )
        result.get_submodule(name).weight.data = codebook.weight().to(layer.weight)
    return result


def _k_means(values: np.ndarray, count: int) -> np.ndarray:
    """Levels of sorted values. Each level has a run of them, whose mean is a difference of cumulative sums."""
    sums = np.append(0.0, values.cumsum())
    levels, borders = np.linspace(values[0], values[-1], count), None
    for _ in range(_ITERATIONS):
        inner, before = np.searchsorted(values, (levels[1:] + levels[:-1]) / 2), borders
        borders = np.concatenate([[0], inner, [len(values)]])
        if before is not None and (borders == before).all():
            break
        counts = np.diff(borders)
        levels = np.where(counts > 0, np.diff(sums[borders]) / np.maximum(counts, 1), levels)
    return levels


def _nearest(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, values)
