"""Style of all figures: palette, fonts, sizes."""

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
    """Use the course's style inside the block; the caller's own settings come back after it.

    Example:
        >>> with in_style():
        ...     mpl.rcParams["image.cmap"]
        'cividis'
    """
    return mpl.rc_context(fname=str(_STYLE))


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Decorate a function so that it draws in the course's style; the caller's own settings are left alone.

    Example:
        >>> styled(lambda: Figure())().get_size_inches().tolist()
        [7.2, 3.6]
    """

    @functools.wraps(draw)
    def wrapper(*arguments: Any, **keywords: Any) -> Figure:
        with in_style():
            return draw(*arguments, **keywords)

    return wrapper
