"""Notebooks as data: found, described, brought to one form, and written."""

import ast
import copy
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_lib import files
from course_lib.book import CourseError, raw

__all__ = [
    "FIGURES_MIME",
    "FOLDED",
    "METADATA",
    "STUDIES",
    "TIMES",
    "WIDGET_MIME",
    "Chapter",
    "book",
    "chapters",
    "faults",
    "folder",
    "key_figures",
    "normalise",
    "parameters",
    "read",
    "reading_minutes",
    "select",
    "shown_figures",
    "source_sha256",
    "title",
    "to_text",
]

FIGURES_MIME = "application/vnd.course.key-figures+json"
WIDGET_MIME = "application/vnd.jupyter.widget-view+json"
FOLDED = "hide-input"
"""Tag of the cells whose code is folded on the site, and in JupyterLab."""

TIMES = "measures-time"
"""Tag of the cells that time something: they run while no cell of another notebook does."""

STUDIES = "studies"
"""Folder, beside the chapters, of their studies notebooks: the experiments beside the main line."""

# What a committed notebook says of its kernel: nothing that changes with a version of Python or Jupyter.
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "pygments_lexer": "ipython3",
    },
}
_KEPT_CELL_METADATA = ("deletable", "editable", "jupyter", "mystnb", "nbgrader", "tags")


@dataclass(frozen=True)
class Chapter:
    """One notebook of the book, a chapter or its studies.

    Attributes:
        path: of the file.
        title: its first heading.
        parameters: with their defaults.
        source_sha256: digest of the source (see `source_sha256`).

    Example:
        >>> Chapter(Path("notebooks/studies/05-eagleeye.ipynb"), "", {}, "").number
        'studies/05'
    """

    path: Path
    title: str
    parameters: dict[str, Any]
    source_sha256: str

    @property
    def name(self) -> str:
        """File stem, such as `01-knowledge-distillation`; of studies with their folder, `studies/01-...`."""
        return f"{STUDIES}/{self.path.stem}" if self.studies else self.path.stem

    @property
    def studies(self) -> bool:
        """Whether it holds the studies of a chapter."""
        return self.path.parent.name == STUDIES

    @property
    def number(self) -> str:
        """Number before the first dash of the name, such as `01` or `studies/01`."""
        return self.name.split("-")[0]


def folder() -> Path:
    """Return the folder of the notebooks in the checkout."""
    return files.root() / "notebooks"


def read(path: Path) -> Any:
    """Read a notebook of format 4; a cell without an id gets one from its position, the same at every reading.

    Raises:
        CourseError: the file is no notebook, or one of an older format.
    """
    import nbformat

    with raw.readable(path):
        notebook = nbformat.v4.nbjson.JSONReader().to_notebook(raw.content(path))
    notebook.nbformat_minor = max(5, notebook.get("nbformat_minor", 0))
    taken = {cell.id for cell in notebook.cells if "id" in cell}
    for position, cell in enumerate(notebook.cells):
        if "id" not in cell:
            names = (
                f"cell-{position:02d}{suffix}"
                for suffix in itertools.chain([""], map("-{}".format, range(99)))
            )
            cell.id = next(name for name in names if name not in taken)
            taken.add(cell.id)
    return notebook


def to_text(notebook: Any) -> str:
    """Write a notebook as the text of an .ipynb file."""
    import nbformat

    return nbformat.v4.writes(notebook) + "\n"


def parameters(notebook: Any) -> dict[str, Any]:
    """Return the names assigned in the cell tagged `parameters`, each with its literal value.

    Raises:
        CourseError: more than one such cell, or a value that is not a plain literal.

    Example:
        >>> from nbformat.v4 import new_code_cell, new_notebook
        >>> cell = new_code_cell("seed = 0\\nwidths = [4, 8]", metadata={"tags": ["parameters"]})
        >>> parameters(new_notebook(cells=[cell]))
        {'seed': 0, 'widths': [4, 8]}
    """
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) > 1:
        raise CourseError(f"{len(cells)} cells are tagged `parameters`; one is allowed")
    values = {}
    for statement in ast.parse(cells[0].source).body if cells else []:
        targets = (
            statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        )
        if not all(isinstance(target, ast.Name) for target in targets):
            raise CourseError(
                f"the cell tagged `parameters` may hold only `name = value` lines: {ast.unparse(statement)}"
            )
        try:
            value = ast.literal_eval(statement.value)
        except ValueError:
            raise CourseError(f"a parameter must be a plain literal: {ast.unparse(statement)}") from None
        values |= {target.id: value for target in targets}
    return values


def title(notebook: Any) -> str:
    """Return the first level-1 heading, or an empty string.

    Example:
        >>> from nbformat.v4 import new_markdown_cell, new_notebook
        >>> title(new_notebook(cells=[new_markdown_cell("# Pruning\\n\\nText.")]))
        'Pruning'
    """
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    found = re.search(r"^# +(.+?)\s*$", text, re.MULTILINE)
    return found[1] if found else ""


def reading_minutes(notebook: Any) -> int:
    """Estimate the minutes that a chapter takes to read, to the nearest five.

    200 words of prose or 40 lines of code a minute, and half a minute for a picture or a table.

    Args:
        notebook: with its outputs.

    Returns:
        Minutes, a multiple of five.

    Example:
        >>> from nbformat.v4 import new_markdown_cell, new_notebook
        >>> reading_minutes(new_notebook(cells=[new_markdown_cell("word " * 2000)]))
        10
    """
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    prose = re.sub(r"<!--.*?-->", "", prose, flags=re.DOTALL)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    lines = sum(bool(line.strip()) for cell in code for line in cell.source.splitlines())
    shown = sum(
        bool({"image/png", "text/html"} & output.get("data", {}).keys())
        for cell in code
        for output in cell.get("outputs", [])
    )
    minutes = len(re.findall(r"\w+", prose)) / 200 + lines / 40 + shown / 2
    return 5 * round(minutes / 5)


def source_sha256(notebook: Any) -> str:
    """Return the SHA-256 of the sources and tags of the cells; outputs and counts do not matter."""
    written = [[cell.cell_type, cell.source, cell.metadata.get("tags", [])] for cell in notebook.cells]
    return hashlib.sha256(json.dumps(written).encode()).hexdigest()


def chapters(where: Path | None = None) -> list[Chapter]:
    """List the chapters in a folder (by default notebooks/ of the checkout) in the order of their names.

    Raises:
        CourseError: there is none, or one cannot be read.
    """
    where = folder() if where is None else where
    found = [_describe(path) for path in sorted(where.glob("*.ipynb"))]
    if not found:
        raise CourseError(f"there are no notebooks in {where}. Restore them: {files.remedy('notebooks')}")
    return found


def book(where: Path | None = None) -> list[Chapter]:
    """List the notebooks of the whole book: each chapter, then its studies, if it has any.

    Args:
        where: folder of the chapters; studies are in the folder `studies` inside.

    Raises:
        CourseError: there is no chapter, a notebook cannot be read, or studies belong to no chapter.
    """
    where = folder() if where is None else where
    found = {chapter.name: [chapter] for chapter in chapters(where)}
    for path in sorted((where / STUDIES).glob("*.ipynb")):
        if path.stem not in found:
            raise CourseError(f"{path} has the name of no chapter; name it as one: {', '.join(found)}")
        found[path.stem].append(_describe(path))
    return [one for together in found.values() for one in together]


def _describe(path: Path) -> Chapter:
    """What the book must know of a notebook before it is run; without nbformat, whose import takes long."""
    with raw.readable(path):
        notebook = raw.sketch(path)
    try:
        return Chapter(path, title(notebook), parameters(notebook), source_sha256(notebook))
    except (CourseError, SyntaxError) as error:
        raise CourseError(f"{path}: {error}") from error


def select(words: Iterable[str], among: Sequence[Chapter]) -> list[Chapter]:
    """Select the notebooks that the words name, in the order of the book; all of them when there are no words.

    A word is a number ("1", "01"), a file name or stem, or the beginning of the stem or of one of its words
    where only one chapter answers to it. It names a chapter; with `studies/` before it ("studies/01"), its studies.

    Raises:
        CourseError: no chapter answers to a word, or several do.

    Example:
        >>> book = [Chapter(Path(f"{name}.ipynb"), "", {}, "") for name in ("01-distillation", "02-pruning")]
        >>> [chapter.name for chapter in select(["prun"], book)]
        ['02-pruning']
    """
    chosen = {_select_one(word, among) for word in words}
    return [chapter for chapter in among if not chosen or chapter.name in chosen]


def _select_one(word: str, among: Sequence[Chapter]) -> str:
    asked = Path(word).name.removesuffix(".ipynb").lower()
    meant = [chapter for chapter in among if chapter.studies == (Path(word).parent.name == STUDIES)]
    stems = {chapter.name: chapter.path.stem.lower() for chapter in meant}
    found = [name for name, stem in stems.items() if stem == asked]
    if not found and asked.isdecimal():
        numbers = {name: stem.split("-")[0] for name, stem in stems.items()}
        same = asked.lstrip("0")  # compared as text: a number may have more digits than Python reads
        found = [
            name for name, number in numbers.items() if number.isdecimal() and number.lstrip("0") == same
        ]
    elif not found and asked:
        found = [
            name
            for name, stem in stems.items()
            if stem.startswith(asked) or any(part.startswith(asked) for part in stem.split("-"))
        ]
    if len(found) > 1:
        raise CourseError(f"{word!r} names {len(found)} chapters: {', '.join(found)}. Type more of the name.")
    if not found:
        from course_lib.names import unknown_name

        raise CourseError(unknown_name(word, "chapter", [chapter.name for chapter in among]))
    return found[0]


def key_figures(notebook: Any) -> dict[str, Any]:
    """Return the key figures that an executed notebook reports; a later value replaces an earlier one.

    Figures that `page.figures` names, for the prose alone, are none of them: nothing of them is shown.
    """
    figures: dict[str, Any] = {}
    for data in _outputs(notebook):
        figures |= data.get(FIGURES_MIME, {}) if "text/plain" in data else {}
    return figures


def shown_figures(notebook: Any) -> dict[str, str]:
    """Return all named figures of an executed notebook as prose shows them, those of `page.figures` too."""
    figures: dict[str, str] = {}
    for data in _outputs(notebook):
        for name, figure in data.get(FIGURES_MIME, {}).items():
            figures[name] = figure["shown"] if isinstance(figure, dict) else str(figure)
    return figures


def _outputs(notebook: Any) -> Iterator[dict[str, Any]]:
    """The data of every output, in order."""
    for cell in notebook.cells:
        yield from (output.get("data", {}) for output in cell.get("outputs", []))


def normalise(notebook: Any) -> Any:
    """Copy a notebook into the committed form; sources, tags, counts and the text of outputs stay.

    What goes: versions, times, run metadata, stderr, widgets (they need a kernel) and the scars of buffering
    (neighbouring stdout outputs become one). The code of a cell tagged `hide-input` is folded, that of others is not.
    Doing it twice changes nothing more.
    """
    from nbformat import from_dict

    notebook = copy.deepcopy(notebook)
    notebook.metadata = from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for cell in notebook.cells:
        given = {**cell.metadata, "jupyter": _folding(cell)}
        kept = {key: given[key] for key in _KEPT_CELL_METADATA if given.get(key) not in (None, [], {})}
        cell.metadata = from_dict(kept)
        if cell.cell_type == "code":
            cell.outputs = _normal_outputs(cell.outputs)
    return notebook


def _folding(cell: Any) -> dict[str, Any]:
    """What JupyterLab reads of a cell: the tag alone decides whether its code is folded."""
    others = {key: value for key, value in cell.metadata.get("jupyter", {}).items() if key != "source_hidden"}
    return others | ({"source_hidden": True} if FOLDED in cell.metadata.get("tags", []) else {})


def _normal_outputs(outputs: list[Any]) -> list[Any]:
    kept: list[Any] = []
    for output in outputs:
        if output.get("name") == "stderr" or WIDGET_MIME in output.get("data", {}):
            continue
        both_printed = kept and output.output_type == "stream" == kept[-1].output_type
        if both_printed and kept[-1].name == output.name:
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


def faults(path: Path) -> list[str]:
    """List what keeps a notebook file from being in the committed form; empty where nothing does."""
    import nbformat

    notebook = read(path)
    normal = normalise(notebook)
    found = []
    if notebook.metadata != normal.metadata:
        found.append("notebook metadata is not normalised")
    for position, (cell, wanted) in enumerate(zip(notebook.cells, normal.cells, strict=True)):
        if cell.metadata != wanted.metadata:
            extra = ", ".join(sorted(set(cell.metadata) - set(wanted.metadata)))
            found.append(f"cell {position}: metadata to {f'drop: {extra}' if extra else 'mend'}")
        if cell.get("outputs", []) != wanted.get("outputs", []):
            found.append(f"cell {position}: stderr, widget or split outputs")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append("execution counts are not 1, 2, 3, ... from top to bottom")
    try:
        nbformat.validate(normal)
    except nbformat.ValidationError as error:
        found.append(f"not a valid notebook: {str(error).splitlines()[0]}")
    if not found and path.read_text(encoding="utf-8") != to_text(normal):
        found.append("the file is laid out differently (indentation, order of keys, missing ids)")
    return found
