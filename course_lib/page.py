"""What a chapter puts on its page: tables, key figures and pictures, for readers with and without a kernel."""

import html
import io
import math
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import PIL.Image
from matplotlib.figure import Figure

from course_lib.plots.style import COLOURS, in_style
from course_lib.statistics import Interval

if TYPE_CHECKING:
    from IPython.display import Image
    from ipywidgets import ValueWidget

__all__ = ["KEY_FIGURES", "KeyFigure", "figures", "interact", "report", "show", "table"]

KEY_FIGURES = "application/vnd.course.key-figures+json"
"""MIME type under which a notebook holds the numbers of `report` and `figures`."""

_SVG = "image/svg+xml"
_NEARLY = 8  # of 255; such a difference nobody sees

KeyFigure = str | float | Interval | tuple[float | Interval, str] | tuple[float | Interval, str, str]
"""A text, or a number with its format specification and its unit, as `report` takes it."""


def table(rows: Sequence[Mapping[str, Any]] | pd.DataFrame, caption: str) -> None:
    """Show a table with a caption and headers; cells are shown as they are, so format numbers before.

    Args:
        rows: one mapping for each row, with column names as keys; or a DataFrame, whose index is not shown.
        caption: a sentence that says what the table holds.

    Raises:
        ValueError: there are no rows.
    """
    frame = pd.DataFrame(rows)
    if frame.empty:
        raise ValueError(f"the table {caption!r} has no rows.")
    _display({"text/html": _html(frame, caption), "text/plain": f"{caption}\n{frame.to_string(index=False)}"})


def report(**figures: KeyFigure) -> None:
    """Show a chapter's key figures; `course run` reads them from the executed notebook into its summary.

    A call is ``page.report(student_alone=(alone, ".1%"), size=(size, ".1f", "times fewer"), teacher="vgg")``.

    The output also holds the numbers themselves, unrounded: `course sweep` averages those.

    Args:
        figures: name=figure; underscores in a name are shown as spaces. A figure is a number or a
            `statistics.Interval`, alone or as (value, format specification) or (value, format specification, unit).
            The unit is any words behind the number. A text is shown as it is, and never averaged.

    Raises:
        TypeError: a figure is none of these.
        ValueError: a number is not finite, or its format specification is not one of numbers.
    """
    kept = _kept(figures)
    shown = {name: figure if isinstance(figure, str) else figure["shown"] for name, figure in kept.items()}
    frame = pd.DataFrame({"key figure": shown.keys(), "value": shown.values()})
    plain = "\n".join(f"{name}: {text}" for name, text in shown.items())
    _display({"text/html": _html(frame, "Key figures of this run"), "text/plain": plain, KEY_FIGURES: kept})


def figures(**figures: KeyFigure) -> None:
    """Name figures for the prose of the notebook, and show nothing.

    Where the text says `<!--=gain-->+7.2 %<!--/-->`, `course refresh` writes the figure `gain` between the marks. The
    figures of `report` can be used in the same way.

    Args:
        figures: as in `report`.

    Raises:
        TypeError: as `report`.
        ValueError: as `report`.
    """
    _display({KEY_FIGURES: _kept(figures)})


def _kept(figures: Mapping[str, KeyFigure]) -> dict[str, str | dict[str, Any]]:
    """Convert named figures to what a notebook keeps."""
    return {name.replace("_", " "): _key_figure(name, figure) for name, figure in figures.items()}


def show(figure: Figure, alt: str = "") -> None:
    """Show a figure, with a text for readers who cannot see it.

    A diagram is shown as SVG, where its words stay words; beside it stands the PNG for programs that show no SVG.

    Args:
        figure: as a function of `course_lib.plots` returns it.
        alt: a sentence or two that stand for the figure. A diagram brings its own, as the label of the figure.

    Raises:
        ValueError: the alt text has fewer than 20 characters, which cannot stand for a figure.
    """
    from IPython.display import display

    own = figure.get_label()
    alt = alt or own
    picture = _png(figure, alt)
    if not own:
        display(picture)
        return
    bundle, described = picture._repr_mimebundle_()
    bundle |= {_SVG: _svg(figure), "text/plain": alt}
    display(bundle, metadata=described | {_SVG: {"alt": alt}}, raw=True)


def _svg(figure: Figure) -> str:
    """Draw a figure as SVG, the same text each time; without the preamble, so that it may stand in a page."""
    buffer = io.StringIO()
    with in_style():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    drawn = buffer.getvalue()
    return drawn[drawn.index("<svg") :]


def _png(figure: Figure, alt: str) -> "Image":
    """Draw a figure as a small PNG with its alt text, as notebooks display it."""
    from IPython.display import Image

    if len(alt.strip()) < 20:
        raise ValueError(f"the alt text is {alt!r}; say in a sentence what the figure shows.")
    buffer, small = io.BytesIO(), io.BytesIO()
    with in_style():
        figure.savefig(buffer, format="png")
    # A palette makes a notebook a third of the size. White and the course's colours are in it as they are, so that none
    # is taken for another.
    image = PIL.Image.open(buffer).convert("RGB")
    own = [tuple(bytes.fromhex(colour[1:])) for colour in ("#ffffff", *COLOURS)]
    found = np.reshape(image.quantize(64 - len(own)).getpalette()[: 3 * (64 - len(own))], (-1, 3))
    for colour in own:  # what is nearly one of them becomes it
        found[np.abs(found - colour).max(axis=1) <= _NEARLY] = colour
    palette = PIL.Image.new("P", (1, 1))
    palette.putpalette(np.concatenate([own, found]).flatten().tolist())
    image.quantize(palette=palette, dither=PIL.Image.Dither.NONE).save(small, "png", optimize=True)
    return Image(data=small.getvalue(), format="png", alt=alt)


def interact(draw: Callable[[Any], tuple[Figure, str]], control: "ValueWidget") -> None:
    """Show a control and, below it, a picture that is drawn again when a reader moves the control.

    The first picture is an ordinary output of the cell: it stays where no kernel runs. No `Output` widget is used;
    inside one, nbclient can lose the end of a cell and wait for ever (its issue 312).

    Args:
        draw: maps the value of the control to (figure, alt text), as `show` takes them.
        control: a widget with a value, such as `ipywidgets.FloatSlider` or `ipywidgets.Dropdown`.

    Raises:
        TypeError: `draw` is not callable or returns something else, or `control` is not a widget with a value.
        ValueError: the alt text has fewer than 20 characters.
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


def _key_figure(name: str, figure: KeyFigure) -> str | dict[str, Any]:
    """Convert a key figure to what a notebook keeps: a text, or a number's value, its form and how it is shown."""
    if isinstance(figure, str):
        return figure
    given = figure if isinstance(figure, tuple) else (figure,)
    words = given[1:]
    if not (
        given and _is_number(given[0]) and len(words) <= 2 and all(isinstance(word, str) for word in words)
    ):
        raise TypeError(
            f"the figure {name!r} is {figure!r}. Give a number, an Interval or a text; with a number also how it is "
            'shown, as in (value, ".1%") or (value, ".1f", "MB"). Call .item() on a tensor.'
        )
    value, form, unit = (*given, "", "")[:3]
    if isinstance(value, Interval):
        parts = {"value": value.mean, "low": value.low, "high": value.high}
    else:
        parts = {"value": int(value) if isinstance(value, numbers.Integral) else float(value)}
    if not all(map(math.isfinite, parts.values())):
        raise ValueError(f"the figure {name!r} is {value!r}; look at the run that gave it.")
    try:
        shown = format(value, form)
        format(0.5, form)  # a sweep shows the mean of several runs in the same form
    except ValueError as error:
        raise ValueError(
            f"the figure {name!r} cannot be shown as {form!r} ({error}). Give a format specification of floats, such "
            'as ".1%" or "+.2f".'
        ) from error
    runs = {"n": value.n} if isinstance(value, Interval) else {}
    return parts | runs | {"form": form, "unit": unit, "shown": f"{shown} {unit}".rstrip()}


def _is_number(value: Any) -> bool:
    return isinstance(value, (numbers.Real, Interval)) and not isinstance(value, bool)


def _html(frame: pd.DataFrame, caption: str) -> str:
    head = "".join(f'<th scope="col">{html.escape(str(column))}</th>' for column in frame.columns)
    body = "".join(
        "<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in frame.itertuples(index=False)
    )
    caption = html.escape(caption)
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    """Write one cell, with numbers to the right, so that digits line up, and words to the left.

    In a narrow column a line may break before an interval, but not inside it, nor before a percent sign.
    """
    text = str(value)
    side = "right" if text[:1].isdigit() or text[:1] in "+-" else "left"
    text = re.sub(r"(?<=\d) (?=%)|(?<=\d,) (?=[^\s\[\]]+\])", "\N{NO-BREAK SPACE}", text)
    return f'<td style="text-align: {side}">{html.escape(text)}</td>'


def _display(bundle: dict[str, Any]) -> None:
    from IPython.display import display

    display(bundle, raw=True)
