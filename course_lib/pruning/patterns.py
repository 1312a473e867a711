"""Masks in a pattern that hardware can use: n of every m weights stay, such as two of four."""

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from course_lib.pruning.criteria import _check_weight, _magnitudes
from course_lib.validation import check_count


def n_of_m_mask(
    weight: Shaped[Tensor, "C_out *rest"], *, keep: int = 2, of: int = 4
) -> Bool[Tensor, "C_out *rest"]:
    """Keep the `keep` largest of each `of` weights that follow each other along the inputs of a filter.

    Each filter is taken as a row [C_in * k * ...] and cut into groups of `of`. Of equal weights in a group the one with
    the lower index goes first, as in `magnitude_mask`. A graphics processor with sparse tensor cores can skip the zeros
    of the pattern 2 of 4; others save no time by it. Libraries that keep the channels last cut the groups along the
    channels: give `weight.permute(0, 2, 3, 1)` for those.

    Args:
        weight: [C_out, C_in / groups, k, ...] of a convolution or [C_out, C_in] of a linear layer, any real dtype.
        keep: how many of each group stay, from 0 to `of`.
        of: size of a group; the number of inputs of a filter must be a multiple of it.

    Returns:
        bool, of the shape and on the device of the weight: True where it stays, exactly `keep` in each group.

    Raises:
        TypeError: no tensor of real numbers; `keep` or `of` is not an int.
        ValueError: an empty weight, one with NaN or fewer than two dimensions; `of` below 1, `keep` outside [0, of]; or
            a number of inputs that is no multiple of `of`.

    Example:
        >>> n_of_m_mask(torch.tensor([[0.9, -0.2, 0.1, -0.7, 0.3, 0.4, -0.5, 0.0]])).int()
        tensor([[1, 0, 0, 1, 0, 1, 1, 0]], dtype=torch.int32)

    References:
        Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021, section 3.
    """
    _check_weight(weight, "weight")
    check_count(of, "of")
    check_count(keep, "keep", low=0, high=of)
    if weight.ndim < 2:
        raise ValueError(
            f"weight has shape {list(weight.shape)}; it must be [C_out, C_in, ...], since the pattern runs along the "
            "inputs. A bias has none. Leave it whole."
        )
    inputs = weight[0].numel()
    if inputs % of:
        raise ValueError(
            f"weight has {inputs} inputs for each output, which is no multiple of {of}; it must be one. Leave this "
            "layer whole, or choose another `of`."
        )
    groups = _magnitudes(weight, "weight").reshape(-1, of)
    order = groups.argsort(dim=1, stable=True)  # the smallest first, of equals the lower index
    mask = torch.zeros_like(groups, dtype=torch.bool)
    mask.scatter_(1, order[:, of - keep :], True)
    return mask.reshape(weight.shape)
