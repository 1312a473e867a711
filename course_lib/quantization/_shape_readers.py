"""Readers of calls that shape tensors: concatenation, padding, parts, shuffles; and of layers beside the plain ones."""

import math
from dataclasses import dataclass, field

from torch import nn

from course_lib.quantization._readers import Call, Refused, relu, window


@dataclass(frozen=True)
class Parameter:
    """Parameter or buffer that the code of a network reads, such as `self.weight`.

    Attributes:
        name: in the network.
        owner: module that it belongs to.
    """

    name: str
    owner: nn.Module

    def refused(self) -> Refused:
        return Refused(f"it computes with the parameter or buffer {self.name!r} outside of a layer")


@dataclass(frozen=True)
class Parts:
    """Parts of a tensor, of which the network picks one or more by their index."""

    input: object
    options: dict[str, object] = field(default_factory=dict)

    def __getitem__(self, index: object) -> Call:
        if not isinstance(index, int) or isinstance(index, bool):
            raise Refused(f"it takes {index!r} of the parts of a tensor, not one of them")
        return Call((self.input,), {**self.options, "index": index}, operation="part")


# ---- concatenation and parts ---------------------------------------------------------------------------------------


def cat(tensors: object, dim: object = 0) -> Call:
    if not isinstance(tensors, tuple | list) or not tensors:
        raise Refused("it concatenates something else than a list of tensors")
    return Call(tuple(tensors), {"dim": _axis(dim)})


def chunk(input: object, chunks: object, dim: object = 0) -> Parts:
    return Parts(input, {"cut": "chunk", "sizes": _counts(chunks), "dim": _axis(dim)})


def split(input: object, split_size_or_sections: object, dim: object = 0) -> Parts:
    return Parts(input, {"cut": "split", "sizes": _counts(split_size_or_sections), "dim": _axis(dim)})


def split_method(input: object, split_size: object, dim: object = 0) -> Parts:
    return split(input, split_size, dim)


def narrow(input: object, dim: object, start: object, length: object) -> Call:
    axis, start, length = _axis(dim), _counts(start), _counts(length)
    if axis < 0 or not isinstance(start, int) or not isinstance(length, int):
        raise Refused("it narrows an axis that is counted from the end")
    stop = start + length
    return Call((input,), {"index": (*[slice(None)] * axis, slice(start, stop if stop else None))})


def item(input: object, index: object) -> Call:
    """Slices, such as x[:, :2]; and x[:, :, None, None], factors for channels as an image of one pixel."""
    if index == (slice(None), slice(None), None, None):
        return Call((input,), {"dims": (2, 3)}, operation="unsqueeze")
    index = index if isinstance(index, tuple) else (index,)
    whole = all(
        isinstance(part, slice)
        and all(end is None or isinstance(end, int) for end in (part.start, part.stop, part.step))
        for part in index
    )
    if not whole or index[0] != slice(None):
        raise Refused("it takes a part of a tensor that is no slice of all images, such as x[:, 2:5]")
    return Call((input,), {"index": index}, operation="slice")


def _axis(dim: object) -> int:
    if not isinstance(dim, int) or isinstance(dim, bool) or dim == 0 or dim < -3:
        raise Refused(
            f"it works along the axis {dim}, and images lie along axis 0; accepted are 1, 2, 3 and -1"
        )
    return dim


def _counts(sizes: object) -> int | tuple[int, ...]:
    counts = tuple(sizes) if isinstance(sizes, tuple | list) else (sizes,)
    if not all(isinstance(count, int) and not isinstance(count, bool) for count in counts):
        raise Refused(f"it cuts a tensor by {sizes!r}, which is no number that the code states")
    return counts if isinstance(sizes, tuple | list) else sizes


# ---- padding, shuffles, pooling ------------------------------------------------------------------------------------


def pad(input: object, pad: object, mode: object = "constant", value: object = None) -> Call:
    if mode != "constant":
        raise Refused(f"it pads with mode={mode!r} instead of a constant")
    sizes = tuple(pad) if isinstance(pad, tuple | list) else ()
    if not sizes or len(sizes) > 6 or not all(isinstance(size, int) for size in sizes):
        raise Refused(
            f"it pads by {pad!r}, which is no (before, after) for the last axes that the code states"
        )
    value = 0 if value is None else value
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise Refused(f"it pads with {value!r}, which is no finite number")
    if value == 0:
        return Call((input,), {"pad": sizes})
    return Call((input,), {"pad": sizes, "value": float(value)}, operation="pad_constant")


def zero_pad(layer: nn.ZeroPad2d, input: object) -> Call:
    return pad(input, layer.padding)


def constant_pad(layer: nn.ConstantPad2d, input: object) -> Call:
    return pad(input, layer.padding, value=layer.value)


def channel_shuffle(input: object, groups: object) -> Call:
    if not isinstance(groups, int):
        raise Refused(f"it shuffles {groups!r} groups, which is no number that the code states")
    return Call((input,), {"groups": groups})


def adaptive_avg_pool1d(input: object, output_size: object) -> Call:
    if output_size not in (1, (1,), [1]):
        raise Refused(f"it pools to the size {output_size}, not to 1")
    return Call((input,))


def max_pool1d(
    input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
) -> Call:
    if dilation not in (1, (1,)) or return_indices:
        raise Refused("its dilation or return_indices is set")
    options = window(kernel_size, stride, padding)
    sizes = {name: size[0] if isinstance(size, tuple) else size for name, size in options.items()}
    return Call((input,), sizes | ({"ceil_mode": True} if ceil_mode else {}))


# ---- ReLU by other names -------------------------------------------------------------------------------------------


def hardtanh(input: object, min_val: object = -1.0, max_val: object = 1.0, inplace: bool = False) -> Call:
    return Call(clamp(input, min_val, max_val).inputs, {"high": _high(max_val)}, in_place=inplace)


def hardtanh_(input: object, min_val: object = -1.0, max_val: object = 1.0) -> Call:
    return hardtanh(input, min_val, max_val, inplace=True)


def clamp(input: object, min: object = None, max: object = None) -> Call:
    if isinstance(min, bool) or not isinstance(min, int | float) or min != 0:
        raise Refused(
            f"it cuts off at {min}, and only at 0, as a ReLU, is the range of the layer in front of it"
        )
    return Call(relu(input).inputs, {"high": _high(max)})


def clamp_(input: object, min: object = None, max: object = None) -> Call:
    return Call((input,), clamp(input, min, max).options, in_place=True)


def _high(max: object) -> float:
    if max is None:
        return math.inf
    if isinstance(max, bool) or not isinstance(max, int | float) or not max > 0:
        raise Refused(f"it cuts off above {max}, which is no number above 0")
    return float(max)


# ---- layers --------------------------------------------------------------------------------------------------------


def convolution_of(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> Call:
    """F.conv2d on the weight of a layer, as a subclass of Conv2d calls it in a forward() of its own."""
    layer = _layer_of(weight, bias, nn.Conv2d)
    if isinstance(padding, str):
        raise Refused(f"it pads with padding={padding!r} in F.conv2d; write numbers there")
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    sizes = {name: tuple(size) if isinstance(size, list) else size for name, size in options.items()}
    return Call((input,), {**sizes, "groups": groups}, layer=layer)


def linear_of(input: object, weight: object, bias: object = None) -> Call:
    """F.linear on the weight of a layer."""
    return Call((input,), layer=_layer_of(weight, bias, nn.Linear))


def _layer_of(weight: object, bias: object, kind: type[nn.Module]) -> str:
    """The name of the layer whose weight and bias these are, both of them."""
    if not isinstance(weight, Parameter):
        raise Refused("its weight is computed, or an input")
    owner, name = weight.owner, weight.name.rpartition(".")[0]
    plain = isinstance(owner, kind) and weight.name == f"{name}.weight".removeprefix(".")
    expected = (
        None if getattr(owner, "bias", None) is None else Parameter(f"{name}.bias".removeprefix("."), owner)
    )
    if not plain or bias != expected:
        raise weight.refused()
    return name


def convolution(layer: nn.Conv1d | nn.Conv2d, input: object) -> Call:
    """nn.Conv1d or nn.Conv2d."""
    if layer.padding_mode != "zeros":
        raise Refused(f"it pads with padding_mode={layer.padding_mode!r} instead of zeros")
    before, options = _same(layer)
    return Call((input,), options, before=before)


def _same(layer: nn.Conv1d | nn.Conv2d) -> tuple[dict[str, object] | None, dict[str, object]]:
    """The options of `pad` for what padding='same' adds on one side alone, and those of the convolution.

    A kernel of even size has one more value behind its middle than before it, or the other way round: PyTorch pads
    one value more behind.
    """
    padding, before = layer.padding, None
    if isinstance(padding, str):
        reach = [
            gap * (size - 1) if padding == "same" else 0
            for gap, size in zip(layer.dilation, layer.kernel_size, strict=True)
        ]
        padding = tuple(size // 2 for size in reach)
        if any(size % 2 for size in reach):
            before = {"pad": tuple(end for size in reversed(reach) for end in (0, size % 2))}
    options = {"stride": layer.stride, "dilation": layer.dilation, "groups": layer.groups}
    return before, {"padding": padding, **options}


def conv_transpose2d(layer: nn.ConvTranspose2d, input: object) -> Call:
    options = ("stride", "padding", "output_padding", "groups", "dilation")
    return Call((input,), {name: getattr(layer, name) for name in options})
