"""What a chapter puts on its page, for readers with a running kernel and for those without."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from course_lib import plots

if TYPE_CHECKING:
    from ipywidgets import ValueWidget


def interact(draw: Callable[[Any], tuple[Figure, str]], control: "ValueWidget") -> None:
    """Show a control and below it a picture that is redrawn when a reader moves the control.

    The first picture is an ordinary output of the cell: it stays where no kernel runs. No `Output` widget is used;
    inside one, nbclient can lose the end of a cell and wait for ever (its issue 312).

    Args:
        draw: value of the control -> (figure, alt text), as `plots.show` takes them.
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
            return plots.picture(figure, alt)
    raise TypeError(f"draw returned {drawn!r}; it must return (figure, alt text) and show nothing itself.")
