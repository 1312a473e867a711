"""Every row of the table of rules, in every spelling: what is left computes what the whole network does."""

from collections import namedtuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_leaves
from torchvision.ops import StochasticDepth

from course_lib.pruning.graph import _calls, _effects, _run, channel_groups, follow, rules
from course_lib.pruning.surgery import remove_channels
from tests.pruning.reference import Net, liven, random_plan, zeroed
from tests.pruning.zoo import Gain, LayerNorm2d, conv, head

EXAMPLE = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Outputs = namedtuple("Outputs", ("logits", "maps"))


PICTURE = torch.rand(2, 6, 4, 4, generator=torch.Generator().manual_seed(1))


def unary(operation):
    """Between a convolution and its readers, on numbers in (0, 1)."""
    return lambda: Net(
        lambda s, x: s.head(s.mix(operation(s.stem(x).sigmoid()))),
        stem=conv(3, 6),
        mix=nn.Sequential(nn.Identity(), conv(6, 4)),
        head=head(4),
    )


def binary(operation):
    """Of the channels of two convolutions, which go together."""
    return lambda: Net(
        lambda s, x: s.head(operation(s.stem(x).sigmoid(), s.other(x).sigmoid())),
        stem=conv(3, 6),
        other=conv(3, 6),
        head=head(6),
    )


def layer(build, axes=2):
    """A layer of 8 channels between two convolutions, on images, sequences or volumes."""

    def make():
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
        pool = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[axes - 1](1)
        tail = nn.Sequential(pool, nn.Flatten(), nn.Linear(8, 3))
        return nn.Sequential(kind(3, 8, 1), build(), tail)

    return make


def after(operation, channels=8, axes=2, **members):
    """An operation on 8 channels whose result has `channels` along axis 1."""

    def make():
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
        tail = nn.Sequential(kind(channels, 4, 1), nn.Flatten(2))
        return Net(
            lambda s, x: s.tail(operation(s.stem(x)) if not members else operation(s, s.stem(x))).mean(2),
            stem=kind(3, 8, 1),
            tail=tail,
            **{name: build() for name, build in members.items()},
        )

    return make


SMOOTH = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish)
SMOOTH += (nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Softplus)
SAME = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
OF_TWO = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "**": lambda a, b: a**b,
    "unary -": lambda a, b: -a + b,
}


def in_place(symbol):
    def operation(a, b):
        if symbol == "+=":
            a += b
        elif symbol == "-=":
            a -= b
        elif symbol == "*=":
            a *= b
        else:
            a /= b
        return a

    return operation


def pools(name, axes):
    """A kind of pooling as a module, a function of F and, where there is one, of torch."""
    module, function = getattr(nn, f"{name}{axes}d"), getattr(F, SNAKE[name] + f"{axes}d", None)
    cases = {f"nn.{name}{axes}d": layer(lambda: module(*ARGUMENTS[name]), axes)}
    if function is not None and name != "LPPool":
        cases[f"F.{name}{axes}d"] = after(lambda x: function(x, *ARGUMENTS[name]), axes=axes)
    return cases


SNAKE = {
    "MaxPool": "max_pool",
    "AvgPool": "avg_pool",
    "AdaptiveAvgPool": "adaptive_avg_pool",
    "AdaptiveMaxPool": "adaptive_max_pool",
    "LPPool": "lp_pool",
}
ARGUMENTS = {
    "MaxPool": (2,),
    "AvgPool": (2,),
    "AdaptiveAvgPool": (2,),
    "AdaptiveMaxPool": (2,),
    "LPPool": (2, 2),
}


def shuffle(reshape):
    def operation(x):
        n, c, h, w = x.shape
        return reshape(reshape(x, (n, 2, c // 2, h, w)).transpose(1, 2), (n, c, h, w))

    return after(operation)


def product(parts):
    return parts[0] * parts[1]


def back(there, again=None):
    """Move the channels away, do something along their new place, and bring them back."""
    return after(lambda x: (again or there)(there(x).relu()))


def unpooled(axes):
    pool, unpool = getattr(F, f"max_pool{axes}d"), getattr(F, f"max_unpool{axes}d")
    return lambda x: unpool(*pool(x, 2, return_indices=True), 2)


def function_id(function):
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', function)}"


def first(value):
    return value if isinstance(value, torch.Tensor) else value[0]


def reading(build, call=lambda s, x: s.reader(x)):
    """A layer that reads the channels of a convolution as features of a sequence."""
    return lambda: Net(
        lambda s, x: s.fc(first(call(s, s.stem(x).flatten(2).transpose(1, 2))).mean(1)),
        stem=conv(3, 8, 1),
        reader=build(),
        fc=nn.Linear(8, 3),
    )


def quietly(s, x):
    return s.reader(x * 0.01)  # or its gates would be wide open, whatever comes in


def packed(s, x):
    sequence = nn.utils.rnn.pack_padded_sequence(x * 0.01, torch.full((len(x),), x.size(1)), batch_first=True)
    return nn.utils.rnn.pad_packed_sequence(s.reader(sequence)[0], batch_first=True)


def by_cell(s, x):
    return first(s.reader(x[:, 0] * 0.01))[:, None]


def attended(s, x):
    y = x.flatten(2)
    return (y @ (y.transpose(1, 2) @ y).softmax(-1))[..., None]


def attended_in_batches(product):
    def operation(x):
        y = x.flatten(2)
        return product(y, product(y.transpose(1, 2), y).softmax(-1))[..., None]

    return operation


REDUCTIONS = (
    "std",
    "var",
    "prod",
    "logsumexp",
    "argmax",
    "argmin",
    "any",
    "all",
    "median",
    "nanmean",
    "nansum",
)
REDUCTIONS += ("max", "min", "norm")
SEVERAL = (torch.sort, torch.cummax, torch.cummin, torch.cumsum, torch.cumprod, torch.argsort, F.softmin)
SEVERAL += tuple(getattr(torch.Tensor, f.__name__) for f in SEVERAL if f is not F.softmin)
NEW = {
    "nn.Embedding": lambda: Net(
        lambda s, x: s.conv(s.table((9 * x).long().clamp(0, 9).flatten(1)).transpose(1, 2)).mean(2),
        table=nn.Embedding(10, 8),
        conv=nn.Conv1d(8, 4, 1),
    ),
    "grouped transposed": layer(
        lambda: nn.Sequential(nn.ConvTranspose2d(8, 12, 1, groups=2), nn.Conv2d(12, 8, 1))
    ),
    "depthwise transposed": layer(lambda: nn.ConvTranspose2d(8, 8, 1, groups=8)),
    "nn.RMSNorm": after(
        lambda s, x: s.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), norm=lambda: nn.RMSNorm(8)
    ),
    "layer norm of the shape": after(
        lambda x: F.layer_norm(x.movedim(1, 3), (x.size(1),)).movedim(3, 1) * 0 + x.sigmoid()
    ),
    "F.batch_norm of a layer's own": after(
        lambda s, x: F.batch_norm(x, s.norm.running_mean, s.norm.running_var, s.norm.weight, s.norm.bias),
        norm=lambda: nn.BatchNorm2d(8),
    ),
    "F.linear of a layer's own": reading(lambda: nn.Linear(8, 8), lambda s, x: F.linear(x, s.reader.weight)),
    "F.prelu": after(lambda s, x: x.prelu(s.act.weight), act=lambda: nn.PReLU(8)),
    "nn.MultiheadAttention": reading(
        lambda: nn.MultiheadAttention(8, 4, batch_first=True), lambda s, x: s.reader(x, x, x)[0] + x
    ),
    **{
        f"nn.{kind.__name__}": reading(lambda kind=kind: kind(8, 8), quietly)
        for kind in (nn.LSTM, nn.GRU, nn.RNN)
    },
    "nn.RNN of relu": reading(lambda: nn.RNN(8, 8, nonlinearity="relu"), quietly),
    "nn.LSTM in both directions": reading(lambda: nn.LSTM(8, 4, 2, bidirectional=True), quietly),
    **{
        f"nn.{kind.__name__}": reading(lambda kind=kind: kind(8, 8), by_cell)
        for kind in (nn.LSTMCell, nn.GRUCell, nn.RNNCell)
    },
    "nn.RNNCell of relu": reading(lambda: nn.RNNCell(8, 8, nonlinearity="relu"), by_cell),
    "torch.max of two": binary(torch.max),
    ".min of two": binary(lambda a, b: a.min(b)),
    **{
        f"{place.__name__}.{name} over the width": after(
            lambda x, place=place, name=name: x * first(getattr(place, name)(x, dim=3, keepdim=True))
        )
        for place in (torch, torch.Tensor)
        for name in REDUCTIONS
    },
    "count_nonzero": after(
        lambda x: x * x.count_nonzero(3)[..., None] + torch.count_nonzero(x, 3)[..., None]
    ),
    "vector_norm": after(lambda x: x * torch.linalg.vector_norm(x, dim=3, keepdim=True)),
    **{
        f"{function_id(f)} along the height": after(lambda x, f=f: x * first(f(x, dim=2)).double())
        for f in SEVERAL
    },
    "F.normalize along the width": after(lambda x: F.normalize(x, dim=3)),
    "roll": after(lambda x: x.roll(1, 2) + torch.roll(x, 2, 3)),
    "roll by name": after(lambda x: x.roll(shifts=1, dims=2) + torch.roll(x, dims=(2, 3), shifts=(1, 2))),
    "torch.swapdims": back(lambda x: torch.swapdims(x, 1, 3)),
    "narrow": after(lambda x: x.narrow(2, 0, 2) + torch.narrow(x, 2, 1, 2)),
    "select": after(lambda x: (x.select(2, 0) + torch.select(x, -2, 1)).unsqueeze(3)),
    "index_select": after(lambda x: x.index_select(-1, torch.tensor([2, 0]))),
    "topk": after(lambda x: x.topk(2, dim=2)[0] + torch.topk(x, 2, 2).values),
    "kthvalue": after(lambda x: x.kthvalue(2, dim=2, keepdim=True)[0] + x.kthvalue(2)[0][..., None]),
    "var_mean": after(lambda x: product(torch.var_mean(x, (2, 3), keepdim=True))),
    "std_mean": after(lambda x: product(torch.std_mean(x, (2, 3)))[..., None, None]),
    "var by place": after(lambda x: x.var((2, 3), False, True) + x.std((2, 3), True, True)),
    **{f"F.max_unpool{axes}d": after(unpooled(axes), axes=axes) for axes in (1, 2, 3)},
    "flip of them": after(lambda x: torch.flip(x, (1,)) * x.flip(1).sigmoid() + x.flip([2])),
    "F.pad with more of them": after(lambda x: F.pad(x, (0, 0, 0, 0, 2, 1)), channels=11),
    "grid_sample": after(
        lambda x: F.grid_sample(x, torch.zeros(len(x), 3, 3, 2).double(), align_corners=False)
    ),
    "pixel_shuffle": after(lambda x: F.pixel_shuffle(x, 2), channels=2),
    "pixel_unshuffle": after(lambda x: F.pixel_unshuffle(x, 2), channels=32),
    "channel_shuffle": after(lambda x: F.channel_shuffle(x, 4)),
    "repeat": after(lambda x: x.repeat(1, 2, 1, 1), channels=16),
    "tile": after(lambda x: torch.tile(x, (1, 2, 1, 1)) + x.tile(2, 1, 1), channels=16),
    "repeat_interleave": after(
        lambda x: x.repeat_interleave(2, dim=1) + torch.repeat_interleave(x, 2, 1), channels=16
    ),
    "expand": after(lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, 6, 6) * x),
    "expand by a count": after(lambda x: x[:, :, :1].expand(x.shape) * x),
    "broadcast_to": after(
        lambda x: torch.broadcast_to(x[..., :1], x.shape) + x[..., :1].broadcast_to(x.shape)
    ),
    "stack": after(lambda x: torch.stack([x, x.relu()]).sum(0)),
    "unbind": after(lambda x: torch.stack(torch.unbind(x, 2) + x.unbind(dim=3), 2)),
    "a loop over a tensor": after(lambda x: torch.stack(list(x))),
    "glu": after(lambda x: F.glu(x, 1), channels=4),
    "a list of chunks": after(lambda x: torch.cat([*list(x.chunk(2, 1)), x], 1), channels=16),
    "half of them": after(lambda x: x[:, : x.size(1) // 2] * x[:, x.size(1) // 2 :], channels=4),
    "T": after(lambda x: x.flatten(1).T.t().unflatten(1, (x.size(1), 6, 6)) + x.mT),
    "ravel": after(
        lambda x: torch.ravel(x).reshape(x.shape) + x.ravel().reshape_as(x) + x.flatten(2).view_as(x)
    ),
    "torch.unflatten": after(lambda x: torch.unflatten(x, 1, (2, -1)).flatten(1, 2)),
    "torch.t": after(lambda x: torch.t(x.flatten(1)).t().view(x.shape)),
    "moveaxis": back(lambda x: torch.moveaxis(x, 1, -1), lambda x: x.moveaxis(-1, 1)),
    "concatenate": after(lambda x: torch.concatenate([x, x.relu()], 1), channels=16),
    "new tensors of their number": after(
        lambda x: (
            x * torch.ones(x.shape[0], x.shape[1], 1, 1)
            + torch.zeros(x.shape)
            + x.new_zeros(x.shape)
            + x.new_ones(1, x.size(1), 1, 1)
            + torch.full(x.shape, 2.0)
            + x.new_full(x.shape, 3.0)
            + 0
            * (
                torch.rand(x.shape)
                + torch.randn(x.shape)
                + torch.empty(x.shape).zero_()
                + x.new_empty(x.shape).zero_()
            )
        )
    ),
    "attention by products": after(lambda x: attended(None, x)),
    "bmm": after(attended_in_batches(torch.bmm)),
    ".bmm": after(attended_in_batches(torch.Tensor.bmm)),
    "matmul": after(attended_in_batches(torch.matmul)),
    ".matmul": after(attended_in_batches(torch.Tensor.matmul)),
    "F.lp_pool3d": after(lambda x: F.lp_pool3d(x, 2, 2), axes=3),
    "mm": after(
        lambda x: (torch.mm(x[0].flatten(1), y := torch.ones(36, 36).double()) + x[0].flatten(1).mm(y))[
            None, ..., None
        ]
    ),
    "scaled_dot_product_attention": after(
        lambda x: F.scaled_dot_product_attention(
            y := torch.ones(len(x), 36, 4).double(), y, x.flatten(2).mT
        ).mT[..., None]
    ),
    "max pooling with indices": after(lambda x: F.max_pool2d(x, 2, return_indices=True)[0]),
    **{
        f"{name}{n} with indices": after(
            lambda x, name=f"{name}{n}d": getattr(F, name)(x, 2, return_indices=True)[0], axes=n
        )
        for name in ("max_pool", "adaptive_max_pool")
        for n in (1, 2, 3)
    },
}
CASES = NEW | {
    **{f"nn.Conv{n}d": layer(lambda n=n: getattr(nn, f"Conv{n}d")(8, 8, 1, groups=2), n) for n in (1, 2, 3)},
    **{
        f"nn.ConvTranspose{n}d": layer(lambda n=n: getattr(nn, f"ConvTranspose{n}d")(8, 8, 1), n)
        for n in (1, 2, 3)
    },
    "nn.Linear": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(108, 8), nn.ReLU(), nn.Linear(8, 6), nn.Linear(6, 3)
    ),
    **{f"nn.BatchNorm{n}d": layer(lambda n=n: getattr(nn, f"BatchNorm{n}d")(8), n) for n in (1, 2, 3)},
    "nn.SyncBatchNorm": layer(lambda: nn.SyncBatchNorm(8)),
    **{
        f"nn.InstanceNorm{n}d": layer(lambda n=n: getattr(nn, f"InstanceNorm{n}d")(8, affine=True), n)
        for n in (1, 2, 3)
    },
    "nn.GroupNorm": layer(lambda: nn.GroupNorm(8, 8)),
    "nn.GroupNorm of 2": layer(lambda: nn.GroupNorm(2, 8)),
    "nn.LayerNorm": after(
        lambda s, x: s.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), norm=lambda: nn.LayerNorm(8)
    ),
    "F.layer_norm": layer(lambda: LayerNorm2d(8)),
    "nn.PReLU": layer(lambda: nn.PReLU(8)),
    "nn.PReLU of 1": layer(nn.PReLU),
    **{f"nn.{kind.__name__}": layer(kind) for kind in (*SMOOTH, *SAME) if kind is not nn.Dropout1d},
    "nn.Dropout1d": layer(nn.Dropout1d, 1),
    "a chain": unary(lambda x: torch.clamp(x.half().double().pow(2), 0.2, 0.8).exp()),
    **{name: binary(operation) for name, operation in OF_TWO.items()},
    **{symbol: binary(in_place(symbol)) for symbol in ("+=", "-=", "*=", "/=")},
    "torch.where": binary(lambda a, b: torch.where((a * 2).to(torch.bool), a, b)),
    ".expand_as one": binary(lambda a, b: a.mean((2, 3), keepdim=True).expand_as(b) + b),
    "torchvision.ops.StochasticDepth": layer(lambda: StochasticDepth(0.5, "row")),
    **{
        key: case
        for name in ("MaxPool", "AvgPool", "AdaptiveAvgPool", "AdaptiveMaxPool", "LPPool")
        for axes in (1, 2, 3)
        if (name, axes) != ("LPPool", 3)
        for key, case in pools(name, axes).items()
    },
    "torch.max_pool1d": after(lambda x: torch.max_pool1d(x, 2), axes=1),
    "torch.max_pool2d": after(lambda x: torch.max_pool2d(x, 2)),
    "nn.Upsample": layer(lambda: nn.Upsample(scale_factor=2)),
    "nn.UpsamplingNearest2d": layer(lambda: nn.UpsamplingNearest2d(scale_factor=2)),
    "nn.UpsamplingBilinear2d": layer(lambda: nn.UpsamplingBilinear2d(scale_factor=2)),
    "F.interpolate": after(lambda x: F.interpolate(x, scale_factor=2)),
    **{
        f"nn.{name}": layer(lambda name=name: getattr(nn, name)((1, 2, 0, 1)))
        for name in ("ZeroPad2d", "ReflectionPad2d", "ReplicationPad2d")
    },
    "nn.ConstantPad2d": layer(lambda: nn.ConstantPad2d((1, 2, 0, 1), 0.5)),
    "F.pad": after(lambda x: F.pad(x, (1, 2, 0, 1))),
    "F.pad by keyword": after(lambda x: F.pad(input=x, pad=(1, 2))),
    "nn.ChannelShuffle": layer(lambda: nn.ChannelShuffle(2)),
    "torch.permute": back(lambda x: torch.permute(x, (0, 3, 2, 1))),
    ".permute": back(lambda x: x.permute(0, 3, 2, 1)),
    ".permute by keyword": back(lambda x: x.permute(dims=(0, 3, 2, 1))),
    ".permute of a tuple": back(lambda x: x.permute((0, 2, 3, 1)), lambda x: x.permute([0, 3, 1, 2])),
    "torch.transpose": back(lambda x: torch.transpose(x, 1, 3)),
    ".transpose": back(lambda x: x.transpose(dim0=1, dim1=-1)),
    "torch.swapaxes": back(lambda x: torch.swapaxes(x, 1, 3)),
    ".swapaxes": back(lambda x: x.swapaxes(axis0=1, axis1=2)),
    "torch.movedim": back(lambda x: torch.movedim(x, 1, -1), lambda x: torch.movedim(x, 3, 1)),
    ".movedim": back(lambda x: x.movedim(destination=3, source=1), lambda x: x.movedim(3, 1)),
    "torch.unsqueeze": back(lambda x: torch.unsqueeze(x, 1), lambda x: x.squeeze(1)),
    ".unsqueeze": back(lambda x: x.unsqueeze(dim=-1), lambda x: torch.squeeze(x, dim=4)),
    "torch.flatten": after(lambda x: torch.flatten(x, 2).unsqueeze(3)),
    ".flatten": after(lambda x: x.flatten(start_dim=2).unsqueeze(-1)),
    "nn.Flatten": lambda: nn.Sequential(conv(3, 5, 1), nn.Flatten(), nn.Linear(180, 4), nn.Linear(4, 3)),
    "torch.reshape": shuffle(torch.reshape),
    ".reshape": shuffle(lambda x, shape: x.reshape(shape)),
    ".reshape of numbers": shuffle(lambda x, shape: x.reshape(*shape)),
    ".view": shuffle(lambda x, shape: x.contiguous().view(*shape)),
    ".view of a tuple": shuffle(lambda x, shape: x.contiguous().view(shape)),
    ".view of another's shape": after(lambda x: x.flatten(2).view(x.shape)),
    ".view by keyword": after(lambda x: x.flatten(2).view(size=x.size())),
    "torch.cat": after(lambda x: torch.cat([x, x.relu()], 1), channels=16),
    "torch.cat by keyword": after(lambda x: torch.cat(tensors=(x, x.relu()), axis=-3), channels=16),
    "torch.concat": after(lambda x: torch.concat([x, x.relu()], dim=1), channels=16),
    "torch.chunk": after(lambda x: torch.cat(torch.chunk(x, 2, 1)[::-1], 1)),
    ".chunk": after(lambda x: product(x.chunk(chunks=2, dim=1)), channels=4),
    "torch.split": after(lambda x: product(torch.split(x, x.shape[1] // 2, 1)), channels=4),
    ".split": after(lambda x: product(x.split(x.size(dim=1) // 2, dim=-3)), channels=4),
    ".split by keyword": after(lambda x: product(x.split(split_size=x.size(1) // 2, dim=1)), channels=4),
    "[]": after(lambda x: x[:, :, None, 1:][:, :, 0]),
    "named tuple": lambda: Net(
        lambda s, x: Outputs(s.head(y := s.stem(x).relu()), maps=s.maps(y)),
        stem=conv(3, 6),
        head=head(6),
        maps=conv(6, 2),
    ),
    "dict": lambda: Net(lambda s, x: {"a": [s.head(s.stem(x)), None, 3]}, stem=conv(3, 6), head=head(6)),
    **{
        f"torch.{name}": after(lambda x, name=name: x * getattr(torch, name)(x, (2, 3), keepdim=True))
        for name in ("mean", "sum", "amax", "amin")
    },
    **{
        f".{name}": after(lambda x, name=name: getattr(x, name)(dim=-1)[:, :, :, None] + x)
        for name in ("mean", "sum", "amax", "amin")
    },
    "a number of channels in an output": lambda: Net(
        lambda s, x: {"classes": s.head(y := s.stem(x)), "channels": y.size(1)}, stem=conv(3, 6), head=head(6)
    ),
    "a number of channels in a named tuple": lambda: Net(
        lambda s, x: Outputs(s.head(y := s.stem(x)), maps=y.size(1)), stem=conv(3, 6), head=head(6)
    ),
    "numpy's names": after(lambda x: torch.mean(x, axis=(2, 3), keepdims=True) * x),
    **{
        f"{name} along another axis": after(operation)
        for name, operation in {
            "F.softmax": lambda x: F.softmax(x, dim=2),
            "F.log_softmax": lambda x: F.log_softmax(x, 2),
            "torch.softmax": lambda x: torch.softmax(x, dim=-1),
            "torch.log_softmax": lambda x: torch.log_softmax(x, 3),
            ".softmax": lambda x: x.softmax(2),
            ".log_softmax": lambda x: x.log_softmax(dim=2),
        }.items()
    },
    "nn.Softmax along another axis": layer(lambda: nn.Softmax(2)),
    "nn.LogSoftmax along another axis": layer(lambda: nn.LogSoftmax(-1)),
    "a scale and a shift": layer(lambda: Gain(8)),
}


def build(name):
    torch.manual_seed(0)
    model = CASES[name]().double()
    kinds = {nn.Conv1d: (2, 3, 6), nn.Conv3d: (2, 3, 6, 6, 6)}
    shapes = [kinds[type(layer)] for layer in model.modules() if type(layer) in kinds]
    generator = torch.Generator().manual_seed(0)
    example = torch.rand(shapes[0] if shapes else (2, 3, 6, 6), generator=generator, dtype=torch.float64)
    return liven(model, example).eval(), example


def outputs(model, example):
    with torch.no_grad():
        return [leaf for leaf in tree_leaves(model(example)) if isinstance(leaf, torch.Tensor)]


@pytest.mark.parametrize("name", CASES)
def test_what_is_left_computes_what_the_whole_network_does(name):
    model, example = build(name)
    groups = channel_groups(model, example)
    whole = outputs(model, example)
    for seed in range(3):
        plan = random_plan(groups, np.random.default_rng(seed), 0.5)
        small = remove_channels(model, example, plan)
        found, expected = outputs(small, example), outputs(zeroed(model, groups, plan), example)
        assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
        for ours, theirs, before in zip(found, expected, whole, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
            assert not torch.allclose(theirs, before)


def test_every_function_of_every_other_row_is_among_the_cases(monkeypatch):
    used = set()

    class Noting(dict):
        def get(self, key, default=None):
            used.add(key)
            return super().get(key, default)

    monkeypatch.setattr(_run, "_RULE_OF", Noting(rules._RULE_OF))
    for name in CASES:
        follow(*build(name))
    follow(Net(FIXED["writing into a part"], stem=conv(3, 6), head=head(6)), EXAMPLE.float())
    listed = [function for rule in rules._TABLE for function in rule.functions]
    assert len(listed) == len(set(listed)), "a function stands in two rows"
    names = {_calls.name_of(function).rstrip("_") for function in used if callable(function)}
    assert {_calls.name_of(f).rstrip("_") for f in listed if f not in STAYS} - names == set()


STAYS = [
    f for rule in rules._TABLE if rule.labels in (_effects.elementwise, _effects.same) for f in rule.functions
]
RANDOM = {
    "normal",
    "normal_",
    "uniform_",
    "bernoulli",
    "bernoulli_",
    "rand_like",
    "randn_like",
    "rrelu",
    "rrelu_",
}
RANDOM |= {"empty_like"}
ARGUMENTS_OF = {
    "to": (torch.float32,),
    "type": (torch.float32,),
    "pin_memory": None,
    "cuda": None,
    "fill": (2.0,),
    "fill_": (2.0,),
    "full_like": (2.0,),
    "clamp": (0.2, 0.8),
    "clip": (0.2, 0.8),
    "clamp_": (0.2, 0.8),
    "clip_": (0.2, 0.8),
    "threshold": (0.5, 0.0),
    "threshold_": (0.5, 0.0),
    "masked_fill": (PICTURE > 0.5, 2.0),
    "masked_fill_": (PICTURE > 0.5, 2.0),
    "where": (PICTURE, PICTURE / 2),
    "lerp": (PICTURE / 2, 0.3),
    "lerp_": (PICTURE / 2, 0.3),
    "addcmul": (PICTURE, PICTURE),
    "addcmul_": (PICTURE, PICTURE),
    "addcdiv": (PICTURE, PICTURE),
    "addcdiv_": (PICTURE, PICTURE),
    "bitwise_not": (),
    "__invert__": (),
}
BOOLEAN = {"bitwise_not", "bitwise_not_", "__invert__", "__and__", "__or__"}


def call_on(function, channels):
    """The function on these channels of a picture, with as many arguments as it takes."""
    name, part = getattr(function, "__name__", ""), PICTURE[:, channels].clone()
    if name in BOOLEAN:
        part = part > 0.5
    if name == "where":
        part = part > 0.5
    if "float_power" in name:
        part = part.double()
    given = ARGUMENTS_OF.get(name, ())
    given = [arg[:, channels] if isinstance(arg, torch.Tensor) else arg for arg in given]
    tries = [given] if name in ARGUMENTS_OF else [[], [part.clone()], [2.0], [0.5, False], [0.5, True]]
    for arguments in tries:
        try:
            result = function(
                *(
                    [given[0], part, given[1]]
                    if function == torch.Tensor.where
                    else [part.clone(), *arguments]
                )
            )
            if result is not NotImplemented:
                return result
            last = TypeError(f"not with {arguments}")
        except (TypeError, RuntimeError) as error:
            last = error
    raise AssertionError(f"no arguments found for {function}") from last


@pytest.mark.parametrize("function", STAYS, ids=function_id)
def test_where_channels_stay_in_place_each_is_computed_from_its_own(function):
    name = getattr(function, "__name__", "")
    if name in RANDOM or ARGUMENTS_OF.get(name, ()) is None or "dropout" in name:
        pytest.skip("random, or for another device")
    keep = [0, 2, 5]
    whole = call_on(function, list(range(6)))
    torch.testing.assert_close(call_on(function, keep), whole[:, keep], equal_nan=True)


@pytest.mark.parametrize(
    ("names", "arguments", "keywords", "expected"),
    [
        (("input", "dim"), ("x", 2), {}, {"input": "x", "dim": 2}),
        (("input", "dim"), ("x",), {"axis": 2}, {"input": "x", "dim": 2}),
        (("input", "dim", "keepdim"), (), {"input": "x", "keepdims": True}, {"input": "x", "keepdim": True}),
        (("input", "*shape"), ("x", 2, 3), {}, {"input": "x", "shape": (2, 3)}),
        (("input", "*shape"), ("x", (2, 3)), {}, {"input": "x", "shape": (2, 3)}),
        (("input", "*shape"), ("x", [2, 3]), {}, {"input": "x", "shape": [2, 3]}),
        (("input", "*shape"), ("x", 6), {}, {"input": "x", "shape": (6,)}),
        (("input", "*shape"), ("x",), {"size": (2, 3)}, {"input": "x", "shape": (2, 3)}),
        (("input", "*shape"), ("x",), {}, {"input": "x"}),
        (("input", "*shape"), ("x", 4, 3), {}, {"input": "x", "shape": (4, 3)}),
        (("input", "*shape"), ("x", "x"), {}, {"input": "x", "shape": "x"}),
        (("input",), ("x", 5), {}, {"input": "x"}),
        (("input", "dim0", "dim1"), ("x",), {"axis1": 1, "axis0": 0}, {"input": "x", "dim0": 0, "dim1": 1}),
        (
            ("input", "split_size_or_sections", "dim"),
            (),
            {"tensor": "x", "split_size": 2},
            {"input": "x", "split_size_or_sections": 2},
        ),
    ],
)
def test_arguments_have_one_name_however_they_are_given(names, arguments, keywords, expected):
    assert _calls.normalised(arguments, keywords, names) == expected


def written(y):
    y[:, :, 0] = 0.5
    return y


FIXED = {
    "chunk by a number of channels": lambda s, x: s.head(
        torch.cat((y := s.stem(x)).chunk(y.size(1) // 2, 1), 1)
    ),
    "mean of all": lambda s, x: s.head((y := s.stem(x)) * torch.mean(y)),
    "sum of them": lambda s, x: s.head((y := s.stem(x)) * y.sum(axis=1, keepdims=True)),
    "a softmax module": lambda s, x: s.head(s.soft(s.stem(x))),
    "a number that enters pooling": lambda s, x: s.head(F.avg_pool2d(y := s.stem(x), y.size(1) // 4)),
    "a number that enters padding": lambda s, x: s.head(F.pad(y := s.stem(x), (y.size(1), 1))),
    "a number that enters a dropout": lambda s, x: s.head(F.dropout(y := s.stem(x), 1 / y.size(1), False)),
    "a number that enters a slice": lambda s, x: s.head((y := s.stem(x))[:, :, : y.size(1) // 2]),
    "a number that enters an interpolation": lambda s, x: s.head(
        F.interpolate(y := s.stem(x), size=y.size(1))
    ),
    "a number that enters a mean": lambda s, x: s.head((y := s.stem(x)).mean(y.size(1) - 4, keepdim=True)),
    "writing into a part": lambda s, x: s.head(written(s.stem(x))),
    "a squeeze that might drop them": lambda s, x: s.head(s.stem(x).squeeze(1)),
}


@pytest.mark.parametrize("name", FIXED)
def test_channels_that_an_operation_depends_on_have_to_stay(name):
    members = {"soft": nn.Softmax(1)} if "module" in name else {}
    model = Net(FIXED[name], stem=conv(3, 6), head=head(6), **members)
    assert "stem" in follow(model, EXAMPLE.float()).fixed


def test_a_parameter_of_several_axes_that_is_used_by_itself_stays():
    model = Net(lambda s, x: s.head(s.stem(x)) * s.stem.weight.square().mean(), stem=conv(3, 5), head=head(5))
    assert "'square' uses 'stem.weight' by itself" in follow(model, EXAMPLE.float()).fixed["stem"]


def test_a_parameter_of_one_axis_goes_with_the_channels_it_meets():
    def forward(s, x):
        x = s.stem(x) * s.gain.scale
        return s.fc(torch.cat([F.adaptive_avg_pool2d(x, 1)[0], s.gain.scale.exp()]).flatten())

    model = Net(forward, stem=conv(3, 5), gain=Gain(5), fc=nn.Linear(10, 3))
    small = remove_channels(model, EXAMPLE.float(), {"stem": [1, 4]})
    assert small.fc.weight.shape == (3, 6)
    expected = Net(forward, stem=small.stem, gain=small.gain, fc=small.fc)(EXAMPLE.float())
    torch.testing.assert_close(small(EXAMPLE.float()), expected)
    mixed = Net(
        lambda s, x: s.head(s.stem(x)) * s.gain.scale.mean(), stem=conv(3, 5), gain=Gain(5), head=head(5)
    )
    assert "stem" not in follow(mixed, EXAMPLE.float()).fixed
    assert "'mean' mixes them" in follow(mixed, EXAMPLE.float()).fixed["gain.scale"]


ALONG_CHANNELS = {
    "nn.AvgPool1d": lambda s, x: s.head(s.pool(x.flatten(2).transpose(1, 2)).transpose(1, 2)[:, :, :, None]),
    "F.avg_pool1d": lambda s, x: s.head(
        F.avg_pool1d(x[:, :, 0].transpose(1, 2), 1).transpose(1, 2)[..., None]
    ),
    "F.max_pool2d": lambda s, x: s.head(F.max_pool2d(x.transpose(1, 3), 1).transpose(1, 3)),
    "F.avg_pool3d": lambda s, x: s.head(F.avg_pool3d(x.unsqueeze(1), 1).squeeze(1)),
    "F.interpolate": lambda s, x: s.head(F.interpolate(x.transpose(1, 2), scale_factor=1).transpose(1, 2)),
}


@pytest.mark.parametrize("name", ALONG_CHANNELS)
def test_channels_stay_before_pooling_along_them(name):
    operation = ALONG_CHANNELS[name]
    members = {"pool": nn.AvgPool1d(1), "head": head(6)}
    model = Net(lambda s, x: operation(s, s.stem(x)), stem=conv(3, 6), **members)
    assert "it works along the axis of the channels" in follow(model, EXAMPLE.float()).fixed["stem"]


def test_a_layer_norm_by_a_function_without_a_layer_keeps_its_shape():
    model = Net(lambda s, x: s.head(F.layer_norm(s.stem(x), (6, 6, 6))), stem=conv(3, 6), head=head(6))
    assert "it has the fixed shape [6, 6, 6]" in follow(model, EXAMPLE.float()).fixed["stem"]
