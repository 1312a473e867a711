"""The picture on the README and on the site's first page: one network on its way to a small file, as chapter 07 has it.

`python -m course_lib.book.site.cover` draws it again from the records of that chapter.
"""

import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from course_lib import files
from course_lib.experiments import chapter07
from course_lib.plots import diagrams
from course_lib.plots.style import in_style

__all__ = ["draw", "path", "svg"]


def path() -> Path:
    """Return where the picture lies in the checkout."""
    return files.root() / "notebooks" / "images" / "pipeline.svg"


def draw() -> Figure:
    """Draw the five steps with file size and accuracy, means over the recorded seeds; the label is the alt text."""
    costs, budget = chapter07.COSTS.recorded(), chapter07.BUDGET.recorded()

    def right(metric: str, epochs: int) -> str:
        mean = np.mean(budget.values(metric, by="pipeline", epochs=epochs))
        return f"{mean:.0%} right" if epochs == 0 else f"{mean:.1%} right"

    given = float(np.mean(costs.values("float bytes", by="given")))
    cut, whole = (float(np.mean(costs.values(name, by="cut"))) for name in ("float bytes", "bytes"))
    accuracy = np.mean(costs.values("float", by="given"))
    notes = (
        f"{given / 1000:,.0f} kB\n{accuracy:.1%} right",
        f"{cut / 1000:,.0f} kB\n{right('float', 0)}",
        f"{cut / 1000:,.0f} kB\n{right('float', 10)}",
        "8-bit numbers",
        f"{whole / 1000:,.0f} kB\n{right('test', 10)}",
    )
    figure = diagrams.pipeline(notes)
    figure.set_label(figure.get_label().replace(" kB ", " kB, "))
    return figure


def svg() -> str:
    """Write the picture as SVG, its words as text, on white, so that it can be read on a dark page."""
    buffer = io.StringIO()
    with in_style():
        draw().savefig(buffer, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


if __name__ == "__main__":
    files.write_text(path(), svg())
