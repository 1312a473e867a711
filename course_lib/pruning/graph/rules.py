"""One table of rules: what each kind of operation does to the channels that go in, with every way to write it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from course_lib.pruning.graph import _effects as effects
from course_lib.pruning.graph import _layers as layers
from course_lib.pruning.graph import _shapes as shapes
from course_lib.pruning.graph._calls import Call


@dataclass(frozen=True)
class _Rule:
    """What one kind of operation does.

    Attributes:
        labels: gives the labels of its result, ties those that go together, and fixes those that have to stay.
        functions: every way to write it, as PyTorch reports the call to a `TorchFunctionMode`; nn.Conv2d calls
            torch.conv2d, so layers need no row of their own.
        arguments: their names by position, see `_calls.normalised`.
        weights: whether the rule says itself what becomes of parameters that go in; else those of several axes have to
            stay as they are.
        counts: whether the rule says itself what becomes of counts of channels that go in; else those have to stay.
    """

    labels: Callable[[Call], object]
    functions: tuple[Callable, ...]
    arguments: tuple[str, ...] = ("input",)
    weights: bool = False
    counts: bool = False


def _named(*names: str) -> tuple[Callable, ...]:
    """The functions of these names in torch, torch.nn.functional and among the methods of tensors, in place too."""
    found = []
    for name in names:
        for spelled in (name, f"{name}_"):
            places = (torch, F, torch.Tensor, torch._C._nn)
            found += [getattr(place, spelled, None) for place in places]
    return tuple(dict.fromkeys(function for function in found if callable(function)))  # not torch.float


def _pools(axes: int) -> tuple[Callable, ...]:
    kinds = ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool", "lp_pool")
    functions = _named(*(f"{kind}{axes}d" for kind in kinds))
    return functions + tuple(
        getattr(F, name)
        for name in (f"max_pool{axes}d_with_indices", f"adaptive_max_pool{axes}d_with_indices")
        if hasattr(F, name)
    )


# fmt: off
# ruff: noqa: RUF005
_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_RNN = ("input", "hx", "params", "packed")  # of a packed sequence the parameters come one later
_SCALED = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
_ATTENTION = (
    "query", "key", "value", "embed_dim_to_check", "num_heads", "in_proj_weight", "in_proj_bias", "bias_k", "bias_v",
    "add_zero_attn", "dropout_p", "out_proj_weight", "out_proj_bias", "training", "key_padding_mask", "need_weights",
    "attn_mask",
)

_TABLE = (
    # Layers with weights
    _Rule(layers.convolution, (torch.conv1d, torch.conv2d, torch.conv3d), _CONVOLUTION, weights=True),
    _Rule(
        layers.transposed_convolution, (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d),
        _TRANSPOSED, weights=True,
    ),
    _Rule(layers.linear, (F.linear,), ("input", "weight", "bias"), weights=True),
    _Rule(
        layers.embedding, (F.embedding,), ("input", "weight", "padding_idx", "max_norm"), weights=True,
    ),
    _Rule(
        layers.batch_norm, (F.batch_norm, F.instance_norm),
        ("input", "running_mean", "running_var", "weight", "bias"), weights=True,
    ),
    _Rule(
        layers.group_norm, (F.group_norm,), ("input", "num_groups", "weight", "bias"), weights=True,
    ),
    _Rule(
        layers.layer_norm, (F.layer_norm, F.rms_norm),
        ("input", "normalized_shape", "weight", "bias"), weights=True, counts=True,
    ),
    _Rule(layers.prelu, (torch.prelu, torch.Tensor.prelu), ("input", "weight"), weights=True),
    _Rule(layers.attention, (F.multi_head_attention_forward,), _ATTENTION, weights=True, counts=True),
    _Rule(layers.recurrent, (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu), _RNN, weights=True),
    _Rule(
        layers.recurrent_cell, (torch.lstm_cell, torch.gru_cell, torch.rnn_tanh_cell, torch.rnn_relu_cell),
        ("input", "hx", "weight_ih", "weight_hh", "bias_ih", "bias_hh"), weights=True,
    ),
    # Channels stay where they are
    _Rule(effects.elementwise, _named(
        "add", "sub", "rsub", "mul", "multiply", "div", "divide", "true_divide", "floor_divide", "pow", "float_power",
        "remainder", "fmod", "neg", "negative", "positive", "exp", "expm1", "exp2", "log", "log2", "log10", "log1p",
        "abs", "sqrt", "rsqrt", "square", "reciprocal", "sign", "sin", "cos", "tan", "asin", "acos", "atan", "sinh",
        "cosh", "erf", "erfc", "floor", "ceil", "round", "trunc", "frac", "clamp", "clip", "clamp_min", "clamp_max",
        "maximum", "minimum", "fmax", "fmin", "where", "lerp", "addcmul", "addcdiv", "masked_fill",
        "nan_to_num", "copy", "hypot", "atan2", "logaddexp", "sinc",
        "gt", "ge", "lt", "le", "eq", "ne", "greater", "greater_equal", "less", "less_equal", "not_equal",
        "logical_and", "logical_or", "logical_not", "logical_xor", "bitwise_not", "isnan", "isinf", "isfinite",
        "relu", "relu6", "leaky_relu", "rrelu", "elu", "selu", "celu", "gelu", "silu", "mish", "hardswish",
        "hardsigmoid", "hardtanh", "hardshrink", "softshrink", "tanhshrink", "threshold", "sigmoid", "logsigmoid",
        "logit", "tanh", "softplus", "softsign", "expand_as", "type_as",
    ) + (
        torch.Tensor.__rsub__, torch.Tensor.__rdiv__, torch.Tensor.__rpow__, torch.Tensor.__pow__,
        torch.Tensor.__floordiv__, torch.Tensor.__ipow__,
        torch.Tensor.__and__, torch.Tensor.__or__, torch.Tensor.__invert__,
    ), weights=True),
    _Rule(effects.same, _named(
        "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "feature_dropout",
        "contiguous", "clone", "detach", "to", "float", "double", "half", "bfloat16", "type", "cpu", "cuda",
        "requires_grad", "fill", "zero", "normal", "uniform", "bernoulli", "alias", "pin_memory",
        "zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like",
    ) + (torch.Tensor.data.__get__, torch.Tensor.real.__get__)),
    _Rule(effects.window(1), _pools(1)),
    _Rule(effects.window(2), _pools(2)),
    _Rule(effects.window(3), _pools(3)),
    _Rule(effects.window(None), (F.interpolate, F.grid_sample)),
    _Rule(effects.padded, (F.pad,), ("input", "pad", "mode", "value")),
    # Channels move
    _Rule(shapes.channel_shuffle, _named("channel_shuffle"), ("input", "groups")),
    _Rule(shapes.pixel_shuffle, _named("pixel_shuffle"), ("input", "upscale_factor")),
    _Rule(shapes.pixel_unshuffle, _named("pixel_unshuffle"), ("input", "downscale_factor")),
    _Rule(shapes.moved(torch.permute), (torch.permute, torch.Tensor.permute), ("input", "*dims")),
    _Rule(
        shapes.moved(torch.transpose),
        (
            torch.transpose, torch.Tensor.transpose, torch.swapaxes, torch.Tensor.swapaxes, torch.swapdims,
            torch.Tensor.swapdims,
        ),
        ("input", "dim0", "dim1"),
    ),
    _Rule(
        shapes.moved(torch.movedim),
        (torch.movedim, torch.Tensor.movedim, torch.moveaxis, torch.Tensor.moveaxis),
        ("input", "source", "destination"),
    ),
    _Rule(shapes.moved(torch.unsqueeze), (torch.unsqueeze, torch.Tensor.unsqueeze), ("input", "dim")),
    _Rule(shapes.moved(torch.t), (torch.t, torch.Tensor.t, torch.Tensor.T.__get__)),
    _Rule(shapes.moved(torch.adjoint), (torch.Tensor.mT.__get__,)),
    _Rule(shapes.moved(torch.flip), (torch.flip, torch.Tensor.flip), ("input", "*dims")),
    _Rule(shapes.reshaped, (torch.flatten, torch.Tensor.flatten, torch.ravel, torch.Tensor.ravel)),
    _Rule(shapes.squeezed, (torch.squeeze, torch.Tensor.squeeze), ("input", "dim")),
    _Rule(
        shapes.viewed, (torch.reshape, torch.Tensor.reshape, torch.Tensor.view), ("input", "*shape"), counts=True,
    ),
    _Rule(
        shapes.viewed_as, (torch.Tensor.reshape_as, torch.Tensor.view_as), ("input", "other"), counts=True,
    ),
    _Rule(
        shapes.unflattened, (torch.unflatten, torch.Tensor.unflatten), ("input", "dim", "sizes"), counts=True,
    ),
    _Rule(
        shapes.expanded, (torch.Tensor.expand, torch.broadcast_to, torch.Tensor.broadcast_to),
        ("input", "*shape"), counts=True,
    ),
    _Rule(shapes.tiled, (torch.Tensor.repeat, torch.tile, torch.Tensor.tile), ("input", "*shape")),
    _Rule(
        shapes.repeated, (torch.repeat_interleave, torch.Tensor.repeat_interleave), ("input", "repeats", "dim"),
    ),
    _Rule(shapes.concatenated, (torch.cat, torch.concat, torch.concatenate), ("tensors", "dim")),
    _Rule(shapes.stacked, (torch.stack,), ("tensors", "dim")),
    _Rule(shapes.chunked, (torch.chunk, torch.Tensor.chunk), ("input", "chunks", "dim")),
    _Rule(
        shapes.split, (torch.split, torch.Tensor.split), ("input", "split_size_or_sections", "dim"), counts=True,
    ),
    _Rule(shapes.unbound, (torch.unbind, torch.Tensor.unbind), ("input", "dim")),
    _Rule(shapes.gated, (F.glu,), ("input", "dim")),
    _Rule(shapes.item, (torch.Tensor.__getitem__,), ("input", "index"), counts=True),
    _Rule(shapes.picked, _named("narrow", "select", "index_select"), ("input", "dim", "index")),
    _Rule(shapes.picked, _named("topk", "kthvalue"), ("input", "k", "dim")),
    _Rule(shapes.unpooled, (F.max_unpool1d, F.max_unpool2d, F.max_unpool3d), ("input", "indices")),
    _Rule(shapes.written, (torch.Tensor.__setitem__,), ("input", "index", "value")),
    _Rule(
        shapes.created, (torch.zeros, torch.ones, torch.empty, torch.rand, torch.randn), ("*shape",), counts=True,
    ),
    _Rule(
        shapes.created, (torch.Tensor.new_zeros, torch.Tensor.new_ones, torch.Tensor.new_empty),
        ("input", "*shape"), counts=True,
    ),
    _Rule(shapes.created, (torch.full,), ("shape", "fill_value"), counts=True),
    _Rule(shapes.created, (torch.Tensor.new_full,), ("input", "shape", "fill_value"), counts=True),
    # Channels are mixed
    _Rule(effects.reduced, _named(
        "mean", "sum", "amax", "amin", "prod", "logsumexp", "argmax", "argmin", "any", "all",
        "median", "nanmean", "nansum", "count_nonzero",
    ), ("input", "dim", "keepdim")),
    _Rule(effects.reduced, _named("std", "var", "std_mean", "var_mean"), ("input", "dim", "unbiased", "keepdim")),
    _Rule(effects.reduced, (*_named("norm"), torch.linalg.vector_norm), ("input", "ord", "dim", "keepdim")),
    _Rule(effects.extreme, _named("max", "min"), ("input", "dim", "keepdim"), weights=True),
    _Rule(effects.mixed_along, _named(
        "softmax", "log_softmax", "softmin", "cumsum", "cumprod", "sort", "argsort", "cummax", "cummin",
    ), ("input", "dim")),
    _Rule(effects.mixed_along, (F.normalize,), ("input", "p", "dim")),
    _Rule(effects.mixed_along, (torch.roll, torch.Tensor.roll), ("input", "shifts", "dim")),
    _Rule(effects.multiplied, (
        torch.matmul, torch.Tensor.matmul, torch.bmm, torch.Tensor.bmm, torch.mm,
        torch.Tensor.mm,
    ), ("input", "other")),
    _Rule(effects.attended, (F.scaled_dot_product_attention,), _SCALED),
)
# fmt: on
_RULE_OF = {function: rule for rule in _TABLE for function in rule.functions}
