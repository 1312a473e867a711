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


def unknown_name(value: object, kind: str, known: Iterable[str], *, elsewhere: Iterable[str] = ()) -> str:
    """Write the sentence for a name that does not exist: what was asked, the nearest names, and all the names.

    Args:
        value: what was asked for.
        kind: of the name, such as "model".
        known: names that are listed.
        elsewhere: more names, too many to list: one is suggested where none of the known is near.

    Example:
        >>> unknown_name("vg", "model", ["mlp", "vgg"])
        "unknown model 'vg'. Did you mean 'vgg'? Known: mlp, vgg."
    """
    known = list(known)
    near = _near(value, known) or _near(value, elsewhere)
    suggestion = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    return f"unknown {kind} {value!r:.80}.{suggestion} Known: {', '.join(known) or 'none'}."


def _near(value: object, names: Iterable[str]) -> list[str]:
    folded = {str(name).casefold(): name for name in names}
    return [folded[n] for n in difflib.get_close_matches(str(value).casefold(), folded, n=3, cutoff=0.5)]
