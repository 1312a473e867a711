"""Names that a person may type, and the answer to one that does not exist; importing it costs nothing."""

import difflib
from collections.abc import Iterable

__all__ = ["CHECKPOINTS", "DATA_SETS", "unknown_name"]

# Those of `checkpoints.CATALOGUE` and of `data`, which take seconds to import.
CHECKPOINTS = (
    "glyphs-mlp",
    "glyphs-vgg-narrow",
    "glyphs-vgg",
    "glyphs-vgg-wide",
    "glyphs-resnet",
    "glyphs-mobilenet",
    "glyphs-slimming-none",
    "glyphs-slimming-weak",
    "glyphs-slimming-medium",
    "glyphs-slimming-strong",
    "cifar10-vgg",
)
DATA_SETS = ("glyphs", "mnist", "fashion_mnist", "cifar10")


def unknown_name(value: object, kind: str, known: Iterable[str]) -> str:
    """Write the sentence for a name that does not exist: what was asked, the nearest names, and all the names.

    Example:
        >>> unknown_name("vg", "model", ["mlp", "vgg"])
        "unknown model 'vg'. Did you mean 'vgg'? Known: mlp, vgg."
    """
    known = list(known)
    folded = {str(name).casefold(): name for name in known}
    near = [folded[n] for n in difflib.get_close_matches(str(value).casefold(), folded, n=3, cutoff=0.5)]
    suggestion = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    return f"unknown {kind} {value!r:.80}.{suggestion} Known: {', '.join(known) or 'none'}."
