"""Distillation: what a student learns from a teacher's logits, asked at once or beforehand, and from its features.

- `losses`: softened probabilities, the distillation loss, ensembles of teachers.
- `decoupled`: the loss taken apart into the target class and the others.
- `largest`: the loss on a teacher's k largest logits, the rest as one class.
- `cache`: a teacher's logits in a file, whole or their top k.
- `features`: losses between feature maps: hints and attention transfer.
- `layers`: the outputs of named layers, noted while a network runs.

The names of `__all__` are loaded when they are first used.
"""

import importlib

__all__ = [
    "DecoupledTerms",
    "TopK",
    "attention_loss",
    "attention_map",
    "captured",
    "decoupled_loss",
    "decoupled_terms",
    "distillation_loss",
    "ensemble_probabilities",
    "hint_adapter",
    "hint_loss",
    "soften",
    "top_k",
    "top_k_loss",
]

_HOMES = {
    "decoupled": ("DecoupledTerms", "decoupled_loss", "decoupled_terms"),
    "features": ("attention_loss", "attention_map", "hint_adapter", "hint_loss"),
    "largest": ("TopK", "top_k", "top_k_loss"),
    "layers": ("captured",),
    "losses": ("distillation_loss", "ensemble_probabilities", "soften"),
}


def __getattr__(name: str) -> object:
    """Import the module of a public name, or `cache`, when it is first asked for."""
    if name == "cache":
        return importlib.import_module(f"{__name__}.cache")
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "cache"})
