"""Layers that stay in float32 when ONNX Runtime opens the file.

It makes an 8-bit weight of one in float32, one scale for all channels, where a layer reads a DequantizeLinear and its
result goes to a QuantizeLinear (its optimizer WeightBiasQuantization). It does not where the bias is no constant. So
the bias is given as a DequantizeLinear, of whole numbers times powers of two, which give the float32 number exactly.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from onnx import GraphProto


def whole_numbers(bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return int32 numbers and scales, a power of two each, whose product is the bias."""
    _, exponent = torch.frexp(bias)
    scale = torch.ldexp(torch.ones_like(bias), exponent.clamp(min=-100) - 24)  # 24 bits, as float32 has
    return (bias / scale).round().to(torch.int32), scale


def keep_in_float(graph: "GraphProto", kept: Collection[str]) -> None:
    """Give the operators of these names such a bias, where they are layers; 0 where they have none."""
    from onnx import helper, numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in [node for node in graph.node if node.name in kept]:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm") or node.input[1] not in constants:
            continue
        old = node.input[2] if len(node.input) > 2 else ""
        if old and old not in constants:
            continue
        weight = constants[node.input[1]]
        bias = (
            numpy_helper.to_array(constants[old])
            if old
            else np.zeros(_outputs(node, weight.dims), np.float32)
        )
        if bias.ndim != 1:
            continue
        name = f"{node.name}_bias"
        parts = zip(("quantized", "scale"), whole_numbers(torch.from_numpy(bias.copy())), strict=True)
        names = [f"{name}_{part}" for part in ("quantized", "scale")]
        for part, values in parts:
            graph.initializer.append(numpy_helper.from_array(values.numpy(), f"{name}_{part}"))
        graph.node.append(helper.make_node("DequantizeLinear", names, [name], f"{name}_dequantized", axis=0))
        del node.input[2:]
        node.input.append(name)


def _outputs(node: object, dims: list[int]) -> int:
    """How many outputs a layer has, by the shape of its weight."""
    options = {attribute.name: attribute.i for attribute in node.attribute}
    if node.op_type == "ConvTranspose":
        return dims[1] * options.get("group", 1)
    return dims[1] if node.op_type == "Gemm" and not options.get("transB") else dims[0]
