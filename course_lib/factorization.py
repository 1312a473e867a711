r"""Low-rank factorization: one linear or convolution layer as two thinner ones, by a truncated SVD.

A weight, written as a matrix A [m, n], is replaced by the product of two factors of rank R:

.. math::

    A = U \, \mathrm{diag}(s) \, V^T
    \approx \underbrace{U_R \, \mathrm{diag}(s_R)^{1/2}}_{\text{left } [m, R]}
            \underbrace{\mathrm{diag}(s_R)^{1/2} \, V_R^T}_{\text{right } [R, n]}

No other matrix of rank R is nearer: the squared error is the sum of the discarded :math:`s_i^2` (Eckart and Young).
Both factors get the root of each singular value, so that they are equally large and equally fast to train. They hold
R (m + n) numbers instead of m n, which is fewer only if R < m n / (m + n).

The *form* says how the weight becomes a matrix. For a kernel [C_out, C_in, k_h, k_w]::

    "channel"   A [C_out, C_in k_h k_w]      k_h x k_w convolution to R channels, then a 1 x 1 convolution
    "spatial"   A [C_in k_h, C_out k_w]      k_h x 1 convolution to R channels, then a 1 x k_w convolution

A linear layer is a 1 x 1 convolution, for which both forms are the same: two linear layers.

The source document says that fully connected layers become three times smaller this way, and that a CNN hardly gets
faster, since nearly all of its operations are in convolutions. Both can be measured here with `course_lib.cost`.
"""

import copy
from collections.abc import Mapping

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from course_lib.validation import check_choice, check_count, check_layer, check_layers, check_number

_Layer = nn.Linear | nn.Conv2d
FORMS = ("channel", "spatial")
_KINDS = (nn.Linear, nn.Conv2d)


def truncated_svd(
    matrix: Float[Tensor, "m n"], rank: int
) -> tuple[Float[Tensor, "m R"], Float[Tensor, "R n"]]:
    r"""Factor a matrix into the two whose product is its best approximation of a given rank.

    .. math::

        \text{left} = U_R \, \mathrm{diag}(s_R)^{1/2}, \quad \text{right} = \mathrm{diag}(s_R)^{1/2} \, V_R^T, \quad
        \| A - \text{left} \cdot \text{right} \|_F^2 = \sum_{i > R} s_i^2

    Args:
        matrix: A [m, n], finite.
        rank: R, from 1 to min(m, n); at min(m, n) the product is A itself.

    Returns:
        left [m, R] and right [R, n], without gradient, in the dtype and on the device of the matrix. The SVD is
        computed in float64. The sign of each pair of columns is open, as in any SVD; the product does not depend on it.

    Raises:
        TypeError: matrix is not a floating-point tensor, or rank is not an int.
        ValueError: matrix is not two-dimensional, is empty or holds NaN or infinity; or rank is out of range.

    Example:
        >>> left, right = truncated_svd(torch.tensor([[3.0, 1.0], [1.0, 3.0]]), 1)
        >>> (left @ right).round()  # the singular values are 4 and 2; the smaller is dropped
        tensor([[2., 2.],
                [2., 2.]])

    References:
        Eckart and Young, "The approximation of one matrix by another of lower rank", Psychometrika 1, 1936.
    """
    if not isinstance(matrix, Tensor) or not matrix.is_floating_point():
        given = f"has dtype {matrix.dtype}" if isinstance(matrix, Tensor) else f"is a {type(matrix).__name__}"
        raise TypeError(f"matrix {given}; it must be a floating-point torch.Tensor of shape [m, n].")
    if matrix.ndim != 2 or matrix.numel() == 0:
        raise ValueError(
            f"matrix has shape {list(matrix.shape)}; it must be [m, n], with m and n at least 1. `matricized` writes "
            "the weight of a layer so."
        )
    if not torch.isfinite(matrix.detach()).all():
        raise ValueError("matrix holds NaN or infinity, which has no SVD; it must be finite.")
    check_count(rank, "rank", high=min(matrix.shape))
    u, s, vh = torch.linalg.svd(matrix.detach().double(), full_matrices=False)
    root = s[:rank].sqrt()
    return (u[:, :rank] * root).to(matrix.dtype), (root[:, None] * vh[:rank]).to(matrix.dtype)


def matricized(layer: _Layer, *, form: str = "channel") -> Float[Tensor, "m n"]:
    r"""Write the weight of a layer as the matrix that is factorized.

    .. math::

        \text{channel:} \quad A_{o, (i, y, x)} &= W_{o, i, y, x} \\
        \text{spatial:} \quad A_{(i, y), (o, x)} &= W_{o, i, y, x}

    Args:
        layer: linear, or two-dimensional convolution with groups=1.
        form: one of FORMS.

    Returns:
        [C_out, C_in k_h k_w] or [C_in k_h, C_out k_w], without gradient; it may share memory with the weight.

    Raises:
        TypeError: the layer is of another class (a derived one too), or its weight is not floating point.
        ValueError: the form is unknown, the convolution has groups, or the weight is empty, holds NaN or infinity, or
            is computed by a hook.

    Example:
        >>> matricized(nn.Conv2d(8, 16, 3)).shape, matricized(nn.Conv2d(8, 16, 3), form="spatial").shape
        (torch.Size([16, 72]), torch.Size([24, 48]))
    """
    return _matrix(layer, form, "layer")


def singular_values(layer: _Layer, *, form: str = "channel") -> Float64[Tensor, "values"]:
    """Compute the singular values of a layer's matrix, the largest first.

    Args:
        layer, form: as for `matricized`.

    Returns:
        s, float64 [min(m, n)], on the device of the weight.

    Raises:
        TypeError, ValueError: as `matricized`.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> layer.weight.data = torch.tensor([[0.0, 3.0], [4.0, 0.0]])
        >>> [round(value, 3) for value in singular_values(layer).tolist()]
        [4.0, 3.0]
    """
    return torch.linalg.svdvals(matricized(layer, form=form).double())


def break_even_rank(layer: _Layer, *, form: str = "channel") -> int:
    r"""Find the largest rank at which the two factors hold fewer numbers than the layer.

    .. math:: R \, (m + n) < m \, n

    The multiply-accumulates of a linear layer, and of the channel form, shrink in the same proportion. Those of the
    spatial form do so at stride 1; at a larger stride the first factor still has full width, and the saving is smaller.

    Args:
        layer, form: as for `matricized`.

    Returns:
        R; 0 if no rank saves anything, as with a matrix of one row.

    Raises:
        TypeError, ValueError: as `matricized`.

    Example:
        >>> break_even_rank(nn.Linear(100, 50))  # R * 150 < 5000
        33
    """
    return _break_even(*matricized(layer, form=form).shape)


def rank_for_energy(layer: _Layer, energy: float, *, form: str = "channel") -> int:
    r"""Find the smallest rank that keeps a share of the weight's energy.

    .. math:: \min R \quad \text{such that} \quad \sum_{i \le R} s_i^2 \ge \text{energy} \cdot \sum_i s_i^2

    Args:
        layer, form: as for `matricized`.
        energy: in (0, 1]; 1 - energy is the square of the relative Frobenius error that is accepted.

    Returns:
        From 1 to min(m, n); 1 for a weight of zeros. A rank above `break_even_rank` says that the weight is not
        low-rank.

    Raises:
        TypeError: energy is not a number; else as `matricized`.
        ValueError: energy is outside (0, 1]; else as `matricized`.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> layer.weight.data = torch.diag(torch.tensor([3.0, 1.0]))  # energies 9 and 1
        >>> rank_for_energy(layer, 0.85), rank_for_energy(layer, 0.95)
        (1, 2)

    References:
        Zhang et al., "Accelerating Very Deep Convolutional Networks for Classification and Detection", TPAMI 2016
        (rank by the PCA energy that it keeps).
    """
    energy = check_number(
        energy, "energy", low=0, high=1, low_open=True, hint="It is the share that is kept."
    )
    values = singular_values(layer, form=form)
    if values[0] == 0:
        return 1
    kept = (values / values[0]).square().cumsum(0)  # divided first, since squares may overflow
    return int((kept < energy * kept[-1]).sum()) + 1


def rank_for_budget(layer: _Layer, fraction: float, *, form: str = "channel") -> int:
    r"""Find the largest rank whose factors hold at most a fraction of the layer's weights.

    .. math:: \max R \quad \text{such that} \quad \frac{R \, (m + n)}{m \, n} \le \text{fraction}

    Args:
        layer, form: as for `matricized`.
        fraction: in (0, 1): 1/3 makes the layer at least three times smaller. The bias, which stays, is not counted.

    Returns:
        From 1 to `break_even_rank`.

    Raises:
        TypeError: fraction is not a number; else as `matricized`.
        ValueError: fraction is outside (0, 1), or even rank 1 takes more; else as `matricized`.

    Example:
        >>> rank_for_budget(nn.Linear(100, 50), 1 / 3)  # R * 150 <= 5000 / 3
        11
    """
    fraction = check_number(
        fraction, "fraction", low=0, high=1, low_open=True, high_open=True, hint="1/3 is three times smaller."
    )
    m, n = matricized(layer, form=form).shape
    rank = int(fraction * m * n / (m + n)) + 1
    while rank and rank * (m + n) / (m * n) > fraction:  # the division rounds as that of 1 / 3 did
        rank -= 1
    if rank == 0:
        raise ValueError(
            f"fraction is {fraction}, but rank 1 already takes {(m + n) / (m * n):.4g} of a {m} x {n} matrix. Give "
            "that or more, below 1, or leave the layer as it is."
        )
    return rank


def factorize_layer(layer: _Layer, rank: int, *, form: str = "channel") -> nn.Sequential:
    """Replace one layer by two thinner ones that compute with its best approximation of a given rank.

    They are these::

        linear      Linear(in, R, no bias),                Linear(R, out)
        "channel"   Conv(C_in, R, k_h x k_w, no bias),     Conv(R, C_out, 1 x 1)
        "spatial"   Conv(C_in, R, k_h x 1, no bias),       Conv(R, C_out, 1 x k_w)

    Stride, padding (its mode too) and dilation go with the kernel: in the channel form all to the first factor; in the
    spatial form those of rows to the first and those of columns to the second. The second factor has the bias.

    Args:
        layer: as for `matricized`; left as it was.
        rank: R, from 1 to `break_even_rank`.
        form: one of FORMS.

    Returns:
        The two layers, with new parameters, in the mode, dtype, requires_grad and on the device of the layer. For a
        weight of zeros both factors are zeros.

    Raises:
        TypeError: rank is not an int; else as `matricized`.
        ValueError: rank is below 1 or saves nothing (the message names the break-even rank); else as `matricized`.

    Example:
        >>> factorize_layer(nn.Linear(100, 50), 4)
        Sequential(
          (0): Linear(in_features=100, out_features=4, bias=False)
          (1): Linear(in_features=4, out_features=50, bias=True)
        )

    References:
        Denton et al., "Exploiting Linear Structure Within Convolutional Networks for Efficient Evaluation", NeurIPS
        2014 (SVD of linear layers); Jaderberg et al., "Speeding up Convolutional Neural Networks with Low Rank
        Expansions", BMVC 2014, scheme 2 (spatial form); Tai et al., "Convolutional Neural Networks with Low-rank
        Regularization", ICLR 2016 (that form by SVD); Zhang et al., "Accelerating Very Deep Convolutional Networks for
        Classification and Detection", TPAMI 2016 (channel form, there fitted to responses instead of weights).
    """
    return _factorized(layer, rank, form, "layer", "rank")


def factorize(model: nn.Module, ranks: Mapping[str, int], *, form: str = "channel") -> nn.Module:
    """Replace each named layer of a network by two thinner ones; return a copy.

    Args:
        model: left as it was. Its forward() must call these layers and not read their weights, as those of
            nn.MultiheadAttention and nn.TransformerEncoderLayer do.
        ranks: {layer name: rank}, names as in `model.named_modules()`.
        form: one of FORMS, for all of them; call `factorize` again for layers in another form.

    Returns:
        A new network, to be trained further or exported like any other. Its parameters are new: make a new optimizer.
        Layer `name` has become `name.0` and `name.1`. Hooks of the replaced layers are not copied.

    Raises:
        TypeError: model is not a module, or ranks is not a mapping; else as `factorize_layer`.
        KeyError: a layer is unknown; the message lists the nearest names.
        ValueError: several layers share a weight; else as `factorize_layer`, with the name of the layer.

    Example:
        >>> model = nn.Sequential(nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 10))
        >>> smaller = factorize(model, {"0": 4})
        >>> [sum(p.numel() for p in network.parameters()) for network in (model, smaller)]
        [5560, 1160]

    References:
        As for `factorize_layer`.
    """
    check_choice(form, "form", FORMS)
    layers = check_layers(model, ranks, _KINDS, "ranks")
    # deepcopy takes from `memo` what has been copied before: the factors enter wherever the layer stood.
    memo = {
        id(layer): _factorized(layer, ranks[name], form, f"layer {name!r}", f"the rank of {name!r}")
        for name, layer in layers.items()
    }
    return copy.deepcopy(model, memo)


# How it is done


def _matrix(layer: object, form: str, name: str) -> Tensor:
    check_choice(form, "form", FORMS)
    check_layer(layer, name, _KINDS)
    weight = layer.weight.detach()
    if isinstance(layer, nn.Linear):
        return weight
    if layer.groups != 1:
        raise ValueError(
            f"{name} has groups={layer.groups}; it must have groups=1. A convolution in groups is several small ones "
            "already: leave it as it is."
        )
    # [C_out, C_in, k_h, k_w]; the spatial form brings C_in beside k_h and C_out beside k_w.
    return weight.flatten(1) if form == "channel" else weight.permute(1, 2, 0, 3).flatten(2).flatten(0, 1)


def _break_even(m: int, n: int) -> int:
    return (m * n - 1) // (m + n)


def _factorized(layer: object, rank: object, form: str, name: str, rank_name: str) -> nn.Sequential:
    matrix = _matrix(layer, form, name)
    m, n = matrix.shape
    most = _break_even(m, n)
    if most == 0:
        raise ValueError(
            f"{name} is a {m} x {n} matrix in this form, which no rank makes smaller. Leave the layer as it is."
        )
    check_count(rank, rank_name)
    if rank > most:
        raise ValueError(
            f"{rank_name} is {rank}, which saves nothing: of a {m} x {n} matrix the factors hold {rank} x ({m} + {n}) "
            f"= {rank * (m + n)} numbers instead of {m * n}. The break-even rank is {most}: give 1 to {most}."
        )
    left, right = truncated_svd(matrix, rank)
    if isinstance(layer, nn.Linear):
        first, second = (
            nn.Linear(layer.in_features, rank, bias=False, device="meta"),
            nn.Linear(rank, layer.out_features, bias=False, device="meta"),
        )
        weights = right, left
    elif form == "channel":
        first = _conv(layer, layer.in_channels, rank, rows=True, columns=True)
        second = _conv(layer, rank, layer.out_channels, rows=False, columns=False)
        weights = right, left
    else:
        first = _conv(layer, layer.in_channels, rank, rows=True, columns=False)
        second = _conv(layer, rank, layer.out_channels, rows=False, columns=True)
        # left [C_in k_h, R] becomes [R, C_in k_h]; right [R, C_out k_w] becomes [C_out, R, k_w].
        weights = left.T, right.unflatten(1, (layer.out_channels, -1)).transpose(0, 1)
    for factor, weight in zip((first, second), weights, strict=True):
        value = weight.reshape(factor.weight.shape).contiguous()
        factor.weight = nn.Parameter(value, requires_grad=layer.weight.requires_grad)
    if layer.bias is not None:
        second.bias = nn.Parameter(layer.bias.detach().clone(), requires_grad=layer.bias.requires_grad)
    return nn.Sequential(first, second).train(layer.training)


def _conv(layer: nn.Conv2d, in_channels: int, out_channels: int, *, rows: bool, columns: bool) -> nn.Conv2d:
    """A convolution with the geometry of `layer` along the axes asked for and that of a 1 x 1 along the others."""

    def along(sizes: tuple[int, int], other: int) -> tuple[int, int]:
        return (sizes[0] if rows else other, sizes[1] if columns else other)

    padding = layer.padding if isinstance(layer.padding, str) else along(layer.padding, 0)
    return nn.Conv2d(
        in_channels,
        out_channels,
        along(layer.kernel_size, 1),
        along(layer.stride, 1),
        padding,
        along(layer.dilation, 1),
        bias=False,
        padding_mode=layer.padding_mode,
        device="meta",  # the weight is put in afterwards; nothing is drawn
    )
