"""Pruning: what to remove (criteria), what goes with it (graph), the cut (surgery), when to take it back (rollback).

The names of `__all__` are loaded when they are first used.
"""

import importlib

_MODULE_OF = {
    name: module
    for module, names in {
        "criteria": ("bn_scale", "l1_norm", "l2_norm", "lowest", "random_scores"),
        "eagleeye": ("SearchResult", "Strategy", "sample_strategies", "search"),
        "filters": (
            "filter_plan",
            "prune_iteratively",
            "ratios_for_macs",
            "ratios_from_sensitivity",
            "sensitivity",
            "unit_scores",
            "untied_layers",
        ),
        "gradients": ("fisher_diagonal", "obd_scores", "taylor_scores"),
        "graph": ("ChannelGroup", "Channels", "LayerAxis", "channel_groups", "follow"),
        "log": ("Attempt", "PruningLog", "RollbackError"),
        "masks": (
            "freeze",
            "global_magnitude_masks",
            "magnitude_mask",
            "make_permanent",
            "random_mask",
            "zero",
        ),
        "patterns": ("n_of_m_mask",),
        "plan": ("Plan", "load_pruned", "save_pruned"),
        "recalibration": ("recalibrate_batch_norm",),
        "rollback": ("prune_with_rollback",),
        "rounding": ("rounded_width",),
        "slimming": ("absorb_constants", "add_sparsity_gradient", "channel_scales", "slimming_plan"),
        "storage": ("bitmap_bytes", "csr_bytes", "dense_bytes", "pack_bitmap", "unpack_bitmap"),
        "surgery": ("channel_masks", "remove_channels"),
    }.items()
    for name in names
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
