"""Distillation: what a student learns from a teacher's logits, asked at once or beforehand, and from its features.

- `losses`: softened probabilities, the distillation loss, ensembles of teachers.

The names of `__all__` are loaded when they are first used.
"""

import importlib

_MODULE_OF = {
    name: module
    for module, names in {
        "losses": ("distillation_loss", "ensemble_probabilities", "soften"),
    }.items()
    for name in names
}
_MODULES = ("losses",)

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *__all__})
