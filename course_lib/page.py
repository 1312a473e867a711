"""What a chapter puts on its page, for readers with a running kernel and for those without."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import PIL.Image
from matplotlib.figure import Figure

from course_lib.plots.style import in_style

if TYPE_CHECKING:
    from IPython.display import Image
    from ipywidgets import ValueWidget


def show(figure: Figure, alt: str) -> None:
    """Put a figure on the page with a text for readers who cannot see it.

    Args:
        figure: what to show.
        alt: what the figure shows, in a sentence or two that stand for it.

    Raises:
        ValueError: an alt text of fewer than 20 characters, which cannot stand for a figure.
    """
    from IPython.display import display

    display(_png(figure, alt))


def _png(figure: Figure, alt: str) -> "Image":
    """Draw a figure as a small PNG with its alt text, as notebooks display it."""
    from IPython.display import Image

    if len(alt.strip()) < 20:
        raise ValueError(f"the alt text is {alt!r}; say in a sentence what the figure shows.")
    buffer, small = io.BytesIO(), io.BytesIO()
    with in_style():
        figure.savefig(buffer, format="png")
    # A palette keeps flat colours as they are and makes a notebook a third of the size.
    image = PIL.Image.open(buffer).convert("RGB").quantize(64, dither=PIL.Image.Dither.NONE)
    image.save(small, "png", optimize=True)
    return Image(data=small.getvalue(), format="png", alt=alt)


def interact(draw: Callable[[Any], tuple[Figure, str]], control: "ValueWidget") -> None:
    """Show a control and below it a picture that is redrawn when a reader moves the control.

    The first picture is an ordinary output of the cell: it stays where no kernel runs. No `Output` widget is used;
    inside one, nbclient can lose the end of a cell and wait for ever (its issue 312).

    Args:
        draw: value of the control -> (figure, alt text), as `show` takes them.
        control: a widget with a value, such as `ipywidgets.FloatSlider` or `ipywidgets.Dropdown`.

    Raises:
        TypeError: `draw` is not callable or returns something else, or `control` is no widget with a value.
        ValueError: an alt text of fewer than 20 characters.
    """
    from IPython.display import display
    from ipywidgets import ValueWidget

    if not callable(draw):
        raise TypeError(f"draw is {draw!r}; it must be a function: value -> (figure, alt text).")
    if not isinstance(control, ValueWidget):
        raise TypeError(f"control is {control!r}; it must be a widget with a value, such as a FloatSlider.")
    first = _picture(draw(control.value))
    display(control)
    shown = display(first, display_id=True)
    control.observe(lambda change: shown.update(_picture(draw(change["new"]))), names="value")


def _picture(drawn: Any) -> Any:
    match drawn:
        case (Figure() as figure, str() as alt):
            return _png(figure, alt)
    raise TypeError(f"draw returned {drawn!r}; it must return (figure, alt text) and show nothing itself.")
