"""`course slides` without its command line: chapters as slides to show in front of a class, made by nbconvert."""

import html
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from course_lib.book import folders, notebooks
from course_lib.book.site import offline

__all__ = ["SHOWN_LINES", "blocks", "page", "to_slides", "write"]

SHOWN_LINES = 12  # longer code is for the notebook
_TEMPLATES = Path(__file__).parent / "templates"
_HIDDEN = "slide-without-code"
_LEFT_OUT = ("## Setup", "## References")
_HEADING = re.compile(r"^#{1,3} ")
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:)[^)]*\)")  # to a file that is not there beside the slides
# How a block begins that stays on the slide: headings, lists, tables, formulae, quotes, pictures, folded answers, code,
# and paragraphs that open with a bold word.
_KEPT = re.compile(r"#|[-*] |\d+\. |\||\$\$|>|!\[|<|```|\*\*|    ")

_INDEX = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>Slides</title>
<style>body {{ font: 20px/1.6 sans-serif; max-width: 40em; margin: 3em auto; padding: 0 1em; }}</style></head>
<body><h1>Slides</h1>
<p>Arrows turn the pages: right for the next section, down for what belongs to it. Escape shows all of them, and S the
notes of the speaker, if the folder is served (python3 -m http.server).</p>
<ul>
{entries}
</ul></body></html>
"""


def write(out: Path, words: Sequence[str], *, force: bool = False) -> list[str]:
    """Write slides of chapters, one page each, with all that a browser needs to show them without a network.

    Args:
        out, words, force: as in `course_lib.book.classroom.release.write`.

    Returns:
        The names of the chapters that have slides now.

    Raises:
        CourseError: an unknown chapter, a folder that is not free (see `folders`), or no extra `site`.
        OSError: the folder cannot be written to.
    """
    chosen = notebooks.select(words, notebooks.chapters())
    with folders.fresh(out, force=force) as made:
        offline.copy_reveal(made / "reveal.js")
        offline.copy_mathjax(made / "mathjax")
        for chapter in chosen:
            (made / f"{chapter.name}.html").write_text(page(notebooks.read(chapter.path)), encoding="utf-8")
        entries = "\n".join(
            f'<li><a href="{chapter.name}.html">{html.escape(chapter.title)}</a></li>' for chapter in chosen
        )
        (made / "index.html").write_text(_INDEX.format(entries=entries), encoding="utf-8")
    return [chapter.name for chapter in chosen]


def page(notebook: Any) -> str:
    """Render the slides of one chapter as an HTML page.

    Args:
        notebook: with its outputs; it is not changed.
    """
    from nbconvert.exporters import SlidesExporter
    from traitlets.config import Config

    config = Config()
    config.TagRemovePreprocessor.enabled = True
    config.TagRemovePreprocessor.remove_input_tags = {_HIDDEN}
    exporter = SlidesExporter(
        config=config,
        template_name="course_slides",
        extra_template_basedirs=[str(_TEMPLATES)],
        reveal_url_prefix="reveal.js",
        reveal_theme="white",
    )
    text, _ = exporter.from_notebook_node(to_slides(notebook))
    return text


def to_slides(notebook: Any) -> Any:
    """Mark the cells of a notebook as slides: where a slide begins and what the speaker alone sees.

    A heading of the first or second level begins a slide, one of the third a slide below it, and so does a code cell
    with outputs, under the heading of its section; what follows a heading that stands alone joins it. On a slide
    stand the heading, the first paragraph, and all that is no plain prose; the rest of the prose is for the speaker.
    Code is shown where it is short and prints text; before a table or a picture it is left out, as are code without
    outputs, solutions and their checks, and the sections of setup and references.

    Args:
        notebook: with its outputs; it is not changed.
    """
    import nbformat

    cells: list[Any] = []
    section = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for part in _parts(_LINK.sub(r"\1", cell.source)):
                section = part[0] if _HEADING.match(part[0]) else section
                cells += [] if section in _LEFT_OUT else _of_prose(part, joins=_bare(cells))
        elif section not in _LEFT_OUT and (outputs := _outputs(cell)):
            if not _bare(cells):
                cells.append(_markdown(f"#### {section.lstrip('# ')}", "subslide"))
            cells.append(_of_code(cell, outputs))
    return nbformat.v4.new_notebook(cells=cells, metadata=notebooks.METADATA | {"title": _title(notebook)})


def _bare(cells: Sequence[Any]) -> bool:
    """Whether the last slide shows a heading and nothing else."""
    on_screen = [cell.source for cell in cells if cell.metadata.slideshow.slide_type != "notes"]
    return bool(on_screen) and "\n" not in on_screen[-1] and bool(_HEADING.match(on_screen[-1]))


def _of_prose(part: Sequence[str], *, joins: bool) -> Iterator[Any]:
    heading = _HEADING.match(part[0])
    shown, said, first = [], [], heading is not None  # without a heading prose tells of the slide before
    for block in part:
        if _KEPT.match(block):
            shown.append(block)
        else:
            (shown if first else said).append(block)
            first = False
    if shown:
        below = "-" if joins else "subslide"
        kind = {2: "slide", 3: "slide", 4: below}[len(heading.group())] if heading else "-"
        yield _markdown("\n\n".join(shown), kind)
    if said:
        yield _markdown("\n\n".join(said), "notes")


def _parts(source: str) -> Iterator[list[str]]:
    """The blocks of a cell, grouped so that a heading begins a group."""
    group: list[str] = []
    for block in blocks(source):
        if _HEADING.match(block) and group:
            yield group
            group = []
        group.append(block)
    if group:
        yield group


def blocks(source: str) -> list[str]:
    """Split Markdown at its empty lines, but for those inside fenced code and folded answers.

    A heading is a block even where the text follows on the next line.

    Args:
        source: of a cell.

    Example:
        >>> blocks("# One\\ntwo\\n\\nthree")
        ['# One', 'two', 'three']
    """
    found: list[list[str]] = [[]]
    fence = folded = False
    for line in source.splitlines():
        if not folded and line.startswith("```"):
            fence = not fence
        if not fence:
            folded = (folded or line.startswith("<details")) and "</details>" not in line
        if fence or folded or line.strip():
            found[-1].append(line)
        ends = not fence and not folded
        if ends and (not line.strip() or _HEADING.match(line)):
            found.append([])
    return ["\n".join(lines) for lines in found if lines]


def _outputs(cell: Any) -> list[Any]:
    """What a class sees of a code cell's outputs."""
    if cell.metadata.get("nbgrader") or "### BEGIN SOLUTION" in cell.source:
        return []
    return [output for output in map(_shown, cell.get("outputs", [])) if output]


def _of_code(cell: Any, outputs: list[Any]) -> Any:
    import nbformat

    metadata: dict[str, Any] = {"slideshow": {"slide_type": "-"}}
    prints = all(output.output_type == "stream" for output in outputs)
    if not prints or len(cell.source.splitlines()) > SHOWN_LINES:
        metadata["tags"] = [_HIDDEN]
    return nbformat.v4.new_code_cell(cell.source, outputs=outputs, metadata=metadata)


def _shown(output: Any) -> Any:
    """An output without what only a running notebook can show; None where nothing is left."""
    if output.output_type == "stream":
        return output if output.name == "stdout" and output.text.strip() else None
    data = {
        mime: value
        for mime, value in output.get("data", {}).items()
        if mime not in (notebooks.WIDGET_MIME, notebooks.FIGURES_MIME)
    }
    if notebooks.WIDGET_MIME in output.get("data", {}) or not data:
        return None
    return type(output)(output | {"data": data})


def _markdown(source: str, kind: str) -> Any:
    import nbformat

    return nbformat.v4.new_markdown_cell(source, metadata={"slideshow": {"slide_type": kind}})


def _title(notebook: Any) -> str:
    return next(c.source for c in notebook.cells if c.cell_type == "markdown").splitlines()[0].lstrip("# ")
