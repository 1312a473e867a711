"""Numbers in prose, which a run fills in: `<!--=name-->text<!--/-->` holds the figure of that name.

A notebook names its figures with `page.report` and `page.figures`; elsewhere the number of the notebook stands before
the name, as in `01.gain` or `studies/01.gain`. `01.minutes_to_read` and `01.seconds_to_run` are what the first cell of
chapter 01 says of its time. Other numbers in prose are marked as published,
`<!--published: SOURCE-->text<!--/-->`, or as arithmetic, `<!--arithmetic-->text<!--/-->`. All these are comments of
HTML, which neither Jupyter nor GitHub nor the site shows.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from course_lib import files
from course_lib.book import notebooks
from course_lib.book.notebooks import Chapter
from course_lib.names import unknown_name

__all__ = ["faults", "fill", "known", "refresh", "typed"]

_CODE = r"(?P<code>^ *(?P<fence>```|~~~).*?^ *(?P=fence)|(?P<ticks>`+)(?!`).*?(?<!`)(?P=ticks)(?!`))"
_MARK = r"<!--(?P<kind>=|published:|arithmetic)(?P<name>[^>]*?)-->(?P<text>.*?)<!--/-->"
_MARKS = re.compile(f"{_CODE}|{_MARK}", re.MULTILINE | re.DOTALL)
_HALF = re.compile(r"<!--(?:=|/|published|arithmetic)[^>]*>?")
# Markdown takes a line that begins with a comment as HTML, and leaves the rest of it as it is.
_AT_BEGINNING = re.compile(
    r"^ *(?:(?:[-*+>]|\d+[.)]) +)*<!--(?:=|published:|arithmetic)[^>]*-->", re.MULTILINE
)
_TIME = re.compile(r"^\*\*Time\*\* (\d+) minutes to read, about (\d+) seconds to run", re.MULTILINE)

_WORDS = "section|table|figure|fig|chapter|equation|version|Python|PyTorch|arXiv"
_NO_PROSE = re.compile(
    "|".join(
        [
            r"^## References\b.*\Z",
            r"\$\$.*?\$\$",
            r"(?<![\\$\w])\$(?![\s$])(?:[^$\n]|\n(?!\n))*?(?<![\s\\])\$",
            r"</?[a-zA-Z!][^>]*>",  # tags, comments, links that are their own text
            r"\]\([^)]*\)",
            r"https?://\S+",
            rf"(?i:\b(?:{_WORDS})s?\.?[: ] *)\d+(?:\.\d+)*(?:(?:,| and| to) +\d+(?:\.\d+)+)*",
            r"\b95 ?%(?=\s(?:[a-zA-Z]+\s){0,3}intervals?\b)",  # the name of a thing, not a result
        ]
    ),
    re.MULTILINE | re.DOTALL,
)
_TYPED = re.compile(
    r"[+-]?(?<![\w.])(?:(?:\d[\d,]*)?\.\d+|\d+(?=e[+-]?\d))(?:e[+-]?\d+)?(?:\s?%)?"  # 0.5, .5, 1,000.25, 1e-3
    r"|[+-]?(?<![\w.])\d[\d,]*\s?(?:%|per ?cent\b|percent\b|×(?!\s?\d)|x\b(?!\s?\d)|times\b|-?fold\b)"
)


def fill(text: str, figures: Mapping[str, str]) -> str:
    """Write the figures between their marks; code, unknown names and marks of other kinds stay as they are.

    Args:
        text: Markdown.
        figures: {name: how it is shown}; underscores and spaces in names are the same.

    Example:
        >>> fill("It gains <!--=the_gain-->?<!--/-->.", {"the gain": "+7.2 %"})
        'It gains <!--=the_gain-->+7.2 %<!--/-->.'
    """

    def one(mark: re.Match[str]) -> str:
        shown = figures.get(_name(mark)) if mark["kind"] == "=" and "<!--" not in mark["text"] else None
        return mark[0] if shown is None else f"<!--={mark['name']}-->{shown}<!--/-->"

    return _MARKS.sub(one, text)


def _name(mark: re.Match[str]) -> str:
    return " ".join(mark["name"].replace("_", " ").split())


def faults(text: str, figures: Mapping[str, str]) -> list[str]:
    """List what is wrong with the marks of a text, the numbers between them included; empty where nothing is.

    Args:
        text: Markdown.
        figures: as in `fill`.

    Example:
        >>> faults("It gains <!--=gain-->+7.1 %<!--/-->.", {"gain": "+7.2 %"})
        ["<!--=gain--> holds '+7.1 %', and the run gave '+7.2 %': course refresh"]
    """
    found = []
    for mark in _MARKS.finditer(text):
        if mark["code"]:
            continue
        begin = mark[0].partition("-->")[0] + "-->"
        if "<!--" in mark["text"]:
            found.append(f"{begin} has no end <!--/--> before the next comment")
        elif mark["kind"] == "published:" and not mark["name"].strip():
            found.append("<!--published: --> names no source")
        elif mark["kind"] == "=" and (name := _name(mark)) not in figures:
            number = name.rpartition(".")[0]
            own = [other for other in figures if other.rpartition(".")[0] == number]
            found.append(f"{begin}: {unknown_name(name, 'figure', own, elsewhere=figures)}")
        elif mark["kind"] == "=" and figures[name] != mark["text"]:
            found.append(
                f"{begin} holds {mark['text']!r}, and the run gave {figures[name]!r}: course refresh"
            )
    bare = _MARKS.sub(lambda mark: "" if mark["code"] else "x", text)
    found += [f"{half} is half a mark" for half in _HALF.findall(bare)]
    without_code = _MARKS.sub(lambda mark: "" if mark["code"] else mark[0], text)
    found += [
        f"{line.strip()} begins a line: put a word before it" for line in _AT_BEGINNING.findall(without_code)
    ]
    return found


def typed(text: str) -> list[str]:
    """List the decimal numbers, percentages and numbers of times that stand in prose without a mark.

    Not looked at: code, formulas, tags and targets of links, the list of references, places ("section 3.2") and
    versions ("Python 3.11"), and the name "95 % interval". Whole numbers are free: 10 classes, 1,000 images.

    Args:
        text: Markdown.

    Example:
        >>> typed("Of 1,000 images, 7.2 % more are right at $T = 0.5$, in `0.1` of the time.")
        ['7.2 %']
    """
    left = _NO_PROSE.sub(" ", _MARKS.sub(" ", text))
    return [found[0].strip() for found in _TYPED.finditer(left)]


def known(book: Sequence[tuple[Chapter, Any]]) -> dict[str, str]:
    """Collect all named figures with their chapter, and how long each takes: {"01.gain": how it is shown}.

    Args:
        book: chapters and studies, each with its notebook.
    """
    return {
        f"{chapter.number}.{name}": shown
        for chapter, notebook in book
        for name, shown in (_times(notebook) | notebooks.shown_figures(notebook)).items()
    }


def _times(notebook: Any) -> dict[str, str]:
    """What the first cell says of the time that a chapter takes; empty where it says nothing."""
    found = _TIME.search(notebook.cells[0].source) if notebook.cells else None
    return {"minutes to read": f"{found[1]} min", "seconds to run": f"{found[2]} s"} if found else {}


def refresh(*, write: bool = True) -> list[str]:
    """Fill in the marks of chapters, studies, pages and the README from the figures that the notebooks hold.

    Args:
        write: False changes no file.

    Returns:
        What is wrong with marks, then, each line with the file.
    """
    book = [(chapter, notebooks.read(chapter.path)) for chapter in notebooks.book()]
    figures = known(book)
    found = []
    for chapter, notebook in book:
        own = figures | notebooks.shown_figures(notebook)
        cells = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
        before = [cell.source for cell in cells]
        for cell in cells if write else []:
            cell.source = fill(cell.source, own)
        if before != [cell.source for cell in cells]:
            files.write_text(chapter.path, notebooks.to_text(notebook))
        found += [f"{chapter.name}: {fault}" for cell in cells for fault in faults(cell.source, own)]
    for path in [*sorted(notebooks.folder().glob("*.md")), files.root() / "README.md"]:
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            filled = fill(text, figures) if write else text
            if filled != text:
                files.write_text(path, filled)
            found += [f"{path.name}: {fault}" for fault in faults(filled, figures)]
    return found
