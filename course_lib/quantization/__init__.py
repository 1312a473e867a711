"""Quantization: the map to integers, its range, whole networks, integer arithmetic, files for ONNX Runtime.

What each module is for:

- `affine`: real numbers as integers, by a scale and a zero point.
- `calibration`: histograms of activations, and the range that their integers cover.
- `workflow`: post-training quantization of a network in five steps.
- `aware`: training with the rounding in the network.
- `integer`: layers in integer arithmetic; `integer_network`, `simulated`: whole networks of the two forms.
- `operations`, `steps`, `translate`: what a network is taken apart into, and the table to extend.
- `onnx`: files for ONNX Runtime.
"""

import importlib

_MODULES = (
    "affine",
    "aware",
    "calibration",
    "integer",
    "integer_network",
    "onnx",
    "operations",
    "simulated",
    "steps",
    "translate",
    "workflow",
)
_HOMES = {
    "Histogram": "calibration",
    "IntegerNetwork": "integer_network",
    "OPERATIONS": "operations",
    "Operation": "operations",
    "PreparedNetwork": "aware",
    "QuantParams": "affine",
    "QuantizedNetwork": "simulated",
    "Step": "steps",
    "calibrate": "workflow",
    "choose_params": "affine",
    "collect": "workflow",
    "convert": "aware",
    "dequantize": "affine",
    "execute": "steps",
    "fake_quantize": "affine",
    "fold_batch_norm": "workflow",
    "in_range": "affine",
    "params_of": "affine",
    "prepare": "aware",
    "quantize": "affine",
    "quantize_model": "workflow",
    "straight_through": "aware",
    "to_integer": "workflow",
}

__all__ = [*_MODULES, *_HOMES]


def __getattr__(name: str) -> object:
    """Import a module or name of `__all__` when it is first asked for."""
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
