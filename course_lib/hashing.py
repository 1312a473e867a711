r"""Hashed weight sharing (HashedNets): a linear layer whose weights are picked from few stored numbers by a hash.

.. math:: W_{ij} = \mathrm{sign}(i, j) \cdot \text{buckets}[h(i, j)]

The places h and the signs are computed, never stored: a file holds the buckets, the bias, and three integers that say
how they are decoded. The price, as the source document objects, is paid at run time. A layer can decode at every call
and keep nothing, which takes time; or `HashedLinear.to_linear` decodes once, and the result is a dense layer that takes
a dense layer's memory.
"""

import copy
import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8, Int64
from torch import Tensor, nn

from course_lib.validation import check_count, check_layer, check_layers, check_model

__all__ = ["HashedLinear", "assignment", "decode_layers", "hash32", "hash_layers"]

_MULTIPLIER = 0x45D9F3B
"""Odd, so that multiplying loses nothing; below 2^31, so that its product with 32 bits fits into int64."""
_BITS = 2**32 - 1
_BLOCK = 2**14
"""Weights that are decoded at a time where nothing is kept: few enough to stay in a processor's cache."""


def hash32(keys: Int64[Tensor, "*shape"], seed: int = 0) -> Int64[Tensor, "*shape"]:
    r"""Hash 32-bit integers so that each input bit changes each output bit about half of the time.

    .. math:: \text{hash} = \mathrm{mix}(\text{key} \oplus \mathrm{mix}(\text{seed}))

    where mix does three times :math:`x \leftarrow (x \oplus \lfloor x / 2^{16} \rfloor) \cdot \mathtt{0x45d9f3b} \bmod
    2^{32}`, and then :math:`x \leftarrow x \oplus \lfloor x / 2^{16} \rfloor`. All of it is integer arithmetic that
    never overflows int64, so it is the same on every machine and device. For one seed no two keys have the same hash.
    Two rounds, which are usual, leave keys 0, 1, 2, ... visibly uneven; three do not.

    Args:
        keys: int64, each in [0, 2^32).
        seed: in [0, 2^32).

    Returns:
        int64 in [0, 2^32), of the same shape.

    Raises:
        TypeError: keys is not an int64 tensor, or seed is not an int.
        ValueError: a key or the seed is out of range.

    Example:
        >>> hash32(torch.arange(3)).tolist()
        [0, 124067608, 1575185643]

    References:
        Thomas Mueller's integer hash, in wide use with two rounds. The HashedNets paper takes xxHash, which reads
        bytes; here the keys are integers.
    """
    _check_seed(seed)
    if not isinstance(keys, Tensor) or keys.dtype != torch.int64:
        given = f"have dtype {keys.dtype}" if isinstance(keys, Tensor) else f"are a {type(keys).__name__}"
        raise TypeError(f"keys {given}; they must be an int64 tensor, such as torch.arange(10).")
    if keys.numel() and (int(keys.min()) < 0 or int(keys.max()) > _BITS):
        raise ValueError(f"keys run from {int(keys.min())} to {int(keys.max())}; they must lie in [0, 2^32).")
    return _mix(keys ^ _mix(seed))


def assignment(
    in_features: int, out_features: int, buckets: int, *, seed: int
) -> tuple[Int64[Tensor, "out in"], Int8[Tensor, "out in"]]:
    r"""Compute which bucket each weight of a hashed layer takes, and with which sign.

    .. math::

        \mathrm{slot}(i, j) &= \lfloor 2 K \cdot \mathrm{hash32}(i \cdot \text{in} + j, \text{seed}) / 2^{32} \rfloor
            \in [0, 2 K) \\
        h(i, j) &= \mathrm{slot}(i, j) \bmod K \\
        \mathrm{sign}(i, j) &= +1 \text{ if } \mathrm{slot}(i, j) < K \text{, else } -1

    One hash gives both, as if each bucket had a second one with its negative beside it.

    Args:
        in_features, out_features: shape of the layer.
        buckets: K, the numbers that are stored.
        seed: in [0, 2^32).

    Returns:
        h, int64 [out, in] in [0, K); and sign, int8 [out, in], +1 or -1.

    Raises:
        TypeError: an argument is not an int.
        ValueError: a size is below 1, the weights are more than the hash can number, or the buckets save nothing.

    Example:
        >>> places, signs = assignment(3, 2, 4, seed=0)
        >>> places.tolist(), signs.tolist()
        ([[0, 0, 2], [0, 2, 3]], [[1, 1, 1], [-1, -1, -1]])

    References:
        Chen et al., "Compressing Neural Networks with the Hashing Trick", ICML 2015, section 4.
    """
    _check_sizes(in_features, out_features, buckets, seed)
    slots = _slots(0, out_features, in_features, buckets, seed, torch.device("cpu"))
    return slots % buckets, torch.where(slots < buckets, 1, -1).to(torch.int8)


class HashedLinear(nn.Module):
    r"""Linear layer with K stored numbers in place of in * out weights.

    .. math::

        y_i &= \sum_j \mathrm{sign}(i, j) \, \text{buckets}[h(i, j)] \, x_j + b_i \\
        \frac{\partial L}{\partial \, \text{buckets}[k]}
            &= \sum_{h(i, j) = k} \mathrm{sign}(i, j) \, \frac{\partial L}{\partial W_{ij}}

    with h and sign of `assignment`. Each call decodes anew, a block of rows at a time. So the dense weight is never
    whole in memory under torch.no_grad(); in training, autograd holds it, with 8-byte places, until the backward
    pass. If memory is plentiful and time is not, decode once with `to_linear`.

    A state_dict holds buckets, bias and `_extra_state`, an int64 tensor [in, out, seed]; it can be written by
    safetensors. Loading one that was made with another shape or seed is refused, since it would decode to noise.

    Args:
        in_features, out_features: sizes of a sample before and after.
        buckets: K, from 1 to in * out - 1.
        seed: of the hash, in [0, 2^32); not of the initial values.
        bias: whether there is one.
        device, dtype: of the parameters.

    Attributes:
        buckets: parameter [K]. It starts, as in nn.Linear, uniform in :math:`\pm 1 / \sqrt{\text{in}}`, so that the
            virtual weights have the usual variance. Its gradient sums over the in * out / K weights that share a
            bucket: plain SGD wants a learning rate that is smaller by about that factor, Adam does not care.
            `training.fit` puts no weight decay on it, since it is a vector.
        bias: parameter [out], or None.

    Raises:
        TypeError: a size or the seed is not an int, or `bias` is not a bool.
        ValueError: a size or the seed is out of range, or the buckets save nothing.

    Example:
        >>> layer = HashedLinear(100, 50, 500, seed=0)
        >>> layer(torch.zeros(8, 100)).shape, sum(p.numel() for p in layer.parameters())
        (torch.Size([8, 50]), 550)

    References:
        Chen et al., "Compressing Neural Networks with the Hashing Trick", ICML 2015.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        buckets: int,
        *,
        seed: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_sizes(in_features, out_features, buckets, seed)
        if not isinstance(bias, bool):
            raise TypeError(f"bias is {bias!r}; it must be True or False.")
        self.in_features, self.out_features, self.seed = in_features, out_features, seed
        self.buckets = nn.Parameter(torch.empty(buckets, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        r"""Draw buckets and bias anew, uniform in :math:`\pm 1 / \sqrt{\text{in}}`, from PyTorch's global generator."""
        bound = 1 / math.sqrt(self.in_features)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def virtual_weight(self) -> Float[Tensor, "out in"]:
        """Decode the dense weight [out, in] that the buckets stand for; its gradient flows to them."""
        return self._rows(0, self.out_features)

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        rows = max(1, _BLOCK // self.in_features)
        blocks = [
            F.linear(x, self._rows(first, min(first + rows, self.out_features)))
            for first in range(0, self.out_features, rows)
        ]
        y = torch.cat(blocks, dim=-1)
        return y if self.bias is None else y + self.bias

    def to_linear(self) -> nn.Linear:
        """Decode the layer once: an nn.Linear with parameters of its own, in the same mode."""
        layer = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        with torch.no_grad():
            layer.weight = nn.Parameter(self.virtual_weight(), requires_grad=self.buckets.requires_grad)
        if self.bias is not None:
            layer.bias = nn.Parameter(self.bias.detach().clone(), requires_grad=self.bias.requires_grad)
        return layer.train(self.training)

    @classmethod
    def from_linear(cls, layer: nn.Linear, buckets: int, *, seed: int) -> "HashedLinear":
        r"""Make the hashed layer whose virtual weight is nearest to a layer's in the sum of squares.

        .. math:: \text{buckets}[k] = \underset{h(i, j) = k}{\mathrm{mean}} \; \mathrm{sign}(i, j) \, W_{ij}

        A bucket that no weight takes is zero. Trained weights that share a bucket have nothing in common, so the mean
        is near zero: training starts here, and does not end. To train from scratch call `reset_parameters`: the mean of
        n initial weights has only :math:`1 / \sqrt{n}` of their usual size.

        Args:
            layer: left as it was.
            buckets: K, from 1 to in * out - 1.
            seed: of the hash, in [0, 2^32).

        Returns:
            A new layer, in the mode, dtype, requires_grad and on the device of the old one.

        Raises:
            TypeError: layer is not an nn.Linear (or is of a derived class), or buckets or seed is not an int.
            ValueError: the weight holds NaN or infinity, is empty or computed by a hook; or buckets or seed is out of
                range.

        Example:
            >>> HashedLinear.from_linear(nn.Linear(100, 50), 500, seed=0)
            HashedLinear(in_features=100, out_features=50, buckets=500, seed=0, bias=True)
        """
        return cls._from_linear(layer, buckets, seed, "layer", "buckets")

    @classmethod
    def _from_linear(
        cls, layer: nn.Linear, buckets: int, seed: int, name: str, argument: str
    ) -> "HashedLinear":
        check_layer(layer, name, (nn.Linear,))
        n_out, n_in = layer.weight.shape
        _check_sizes(n_in, n_out, buckets, seed, argument)
        weight = layer.weight.detach()
        hashed = cls(n_in, n_out, buckets, seed=seed, bias=False, device="meta", dtype=weight.dtype)
        slots = _slots(0, n_out, n_in, buckets, seed, weight.device).flatten()
        signed = weight.flatten().double() * torch.where(slots < buckets, 1.0, -1.0)
        sums = torch.zeros(buckets, dtype=torch.float64, device=weight.device)
        sums.index_add_(0, slots % buckets, signed)
        counts = torch.bincount(slots % buckets, minlength=buckets).clamp(min=1)
        hashed.buckets = nn.Parameter(
            (sums / counts).to(weight.dtype), requires_grad=layer.weight.requires_grad
        )
        if layer.bias is not None:
            hashed.bias = nn.Parameter(layer.bias.detach().clone(), requires_grad=layer.bias.requires_grad)
        return hashed.train(layer.training)

    def get_extra_state(self) -> Int64[Tensor, "3"]:
        return torch.tensor([self.in_features, self.out_features, self.seed])

    def set_extra_state(self, state: Tensor) -> None:
        """Refuse buckets that were made for another shape or with another seed.

        Raises:
            ValueError: in, out or seed differ.
        """
        own = self.get_extra_state().tolist()
        found = state.tolist() if isinstance(state, Tensor) else state
        if found != own:
            raise ValueError(
                f"the state is of a hashed layer with [in, out, seed] = {found}, and this one has {own}: it would "
                "decode to other weights. Build the layer with the sizes and the seed of the state, then load it again."
            )

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, buckets={len(self.buckets)}, "
            f"seed={self.seed}, bias={self.bias is not None}"
        )

    def _rows(self, first: int, last: int) -> Tensor:
        """Rows `first` to `last` of the virtual weight."""
        count = len(self.buckets)
        slots = _slots(first, last, self.in_features, count, self.seed, self.buckets.device)
        table = torch.cat([self.buckets, -self.buckets])
        return table.index_select(0, slots.flatten()).reshape(slots.shape)


def hash_layers(model: nn.Module, buckets: Mapping[str, int], *, seed: int) -> nn.Module:
    """Hash the named linear layers of a network, as `HashedLinear.from_linear` does; return a copy.

    Args:
        model: left as it was. Its forward() must call these layers and not read their weights.
        buckets: {layer name: K}, names as in `model.named_modules()`.
        seed: of the first of these layers, in the order of the model; the next ones have seed + 1, seed + 2, ...

    Returns:
        A new network. Its parameters are new: make a new optimizer. To load its state_dict elsewhere, call
        `hash_layers` on a network of the same shape, with the same buckets and seed, and then load.

    Raises:
        TypeError: model is not a module, or buckets is not a mapping; else as `HashedLinear.from_linear`.
        KeyError: a layer is unknown; the message lists the nearest names.
        ValueError: several layers share a weight; else as `HashedLinear.from_linear`, with the name of the layer.

    Example:
        >>> model = nn.Sequential(nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 10))
        >>> hash_layers(model, {"0": 500}, seed=0)[0]
        HashedLinear(in_features=100, out_features=50, buckets=500, seed=0, bias=True)
    """
    _check_seed(seed)
    layers = check_layers(model, buckets, (nn.Linear,), "buckets")
    # deepcopy takes from `memo` what has been copied before: the hashed layers enter where the dense ones stood.
    memo = {
        id(layer): HashedLinear._from_linear(
            layer, buckets[name], seed + number, f"layer {name!r}", f"the number of buckets of {name!r}"
        )
        for number, (name, layer) in enumerate(layers.items())
    }
    return copy.deepcopy(model, memo)


def decode_layers(model: nn.Module) -> nn.Module:
    """Decode every hashed layer of a network once; return a copy that is fast, dense and exported like any other.

    Args:
        model: left as it was.

    Returns:
        A new network with nn.Linear in place of each HashedLinear.

    Raises:
        TypeError: model is not a module.

    Example:
        >>> decode_layers(nn.Sequential(HashedLinear(100, 50, 500, seed=0)))[0]
        Linear(in_features=100, out_features=50, bias=True)
    """
    hashed = [module for module in check_model(model).modules() if isinstance(module, HashedLinear)]
    return copy.deepcopy(model, {id(layer): layer.to_linear() for layer in hashed})


# How it is done


def _mix(x: Tensor | int) -> Tensor | int:
    """Apply the hash proper, a permutation of the integers in [0, 2^32)."""
    for _ in range(3):
        x = (x ^ (x >> 16)) * _MULTIPLIER & _BITS
    return x ^ (x >> 16)


def _slots(
    first: int, last: int, in_features: int, buckets: int, seed: int, device: torch.device
) -> Int64[Tensor, "rows in"]:
    """Compute where each weight of some rows lies in the buckets followed by their negatives."""
    keys = torch.arange(first * in_features, last * in_features, device=device)
    # The high bits of a product with 2 K are uniform over 2 K places; a remainder would cost a division for each.
    return (_mix(keys ^ _mix(seed)) * (2 * buckets) >> 32).reshape(last - first, in_features)


def _check_seed(seed: object) -> None:
    check_count(seed, "seed", low=0, high=_BITS)


def _check_sizes(
    in_features: object, out_features: object, buckets: object, seed: object, name: str = "buckets"
) -> None:
    weights = check_count(in_features, "in_features") * check_count(out_features, "out_features")
    if weights > 2**30:  # twice as many slots, times 32 bits, still fit into int64
        raise ValueError(
            f"in_features * out_features is {weights}; a hashed layer has at most 2^30 weights. Split the layer."
        )
    check_count(buckets, name)
    if buckets >= weights:
        raise ValueError(
            f"{name} is {buckets}, which saves nothing: the layer has {in_features} x {out_features} = {weights} "
            f"weights. Give 1 to {weights - 1}; the paper takes 1/8 and 1/64 of the weights."
        )
    _check_seed(seed)
