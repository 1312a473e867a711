"""The one style of all figures: palette, fonts, sizes."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

_STYLE = Path(__file__).parent / "course.mplstyle"
COLOURS = mpl.rc_params_from_file(_STYLE, use_default_template=False)["axes.prop_cycle"].by_key()["color"]
COLOURS = tuple(f"#{colour.lstrip('#')}" for colour in COLOURS)


def in_style() -> AbstractContextManager:
    """Use the course's style in the block; the caller's own settings are left alone."""
    return mpl.rc_context(fname=str(_STYLE))


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in the course's style, whatever the caller's own settings are; they are left alone."""

    @functools.wraps(draw)
    def wrapper(*arguments: Any, **keywords: Any) -> Figure:
        with in_style():
            return draw(*arguments, **keywords)

    return wrapper
