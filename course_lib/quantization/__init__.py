"""Quantization: the map to integers, its range, whole networks, integer arithmetic, files for ONNX Runtime.

- `affine`: real numbers as integers, by a scale and a zero point.
- `calibration`: histograms of activations, and the range that their integers cover.
- `workflow`: post-training quantization of a network in five steps.
- `rounding`, `bias`, `equalization`: weights of few bits that cost less accuracy than rounding to nearest.
- `codebook`: weights as indices of levels that k-means finds.
- `aware`: training with the rounding in the network.
- `integer`: layers in integer arithmetic; `simulated` and `integer_network`: whole networks in the two forms.
- `saving`: files of quantized networks, for this library to read again.
- `operations`: the table of what has an integer form; `translate` and `steps`: what a network is taken apart into.
- `onnx`: files for ONNX Runtime, a package of its own whose functions have the names of those here.
"""

import importlib

__all__ = [
    "OPERATIONS",
    "ClippingWarning",
    "Codebook",
    "Histogram",
    "IntegerLayer",
    "IntegerNetwork",
    "Operation",
    "Pair",
    "PreparedNetwork",
    "QuantParams",
    "QuantizedNetwork",
    "Step",
    "calibrate",
    "choose_params",
    "cluster",
    "cluster_layers",
    "collect",
    "convert",
    "correct_biases",
    "dequantize",
    "equalize",
    "equalizing_scales",
    "execute",
    "fake_quantize",
    "find_pairs",
    "fold_batch_norm",
    "gptq",
    "in_range",
    "input_hessian",
    "load",
    "look_up",
    "output_error",
    "params_of",
    "prepare",
    "quantize",
    "quantize_model",
    "round_network",
    "save",
    "straight_through",
    "to_integer",
]

_HOMES = {
    "affine": (
        "QuantParams",
        "choose_params",
        "params_of",
        "quantize",
        "dequantize",
        "fake_quantize",
        "in_range",
    ),
    "aware": ("PreparedNetwork", "convert", "prepare", "straight_through"),
    "bias": ("correct_biases",),
    "calibration": ("ClippingWarning", "Histogram"),
    "codebook": ("Codebook", "cluster", "cluster_layers", "look_up"),
    "equalization": ("Pair", "equalize", "equalizing_scales", "find_pairs"),
    "integer_network": ("IntegerLayer", "IntegerNetwork"),
    "operations": ("OPERATIONS", "Operation"),
    "rounding": ("gptq", "input_hessian", "output_error", "round_network"),
    "saving": ("load", "save"),
    "simulated": ("QuantizedNetwork",),
    "steps": ("Step", "execute"),
    "workflow": ("calibrate", "collect", "fold_batch_norm", "quantize_model", "to_integer"),
}


def __getattr__(name: str) -> object:
    """Import the module of a public name when the name is first asked for."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
