"""The Sphinx extension of the web site: what notebooks/conf.py cannot say in settings.

It links the first use of every glossary term, gives figures the alt text that their notebook holds, and adds the
download of each chapter, the API reference, the page of results and MathJax. The notebooks know nothing of it.
"""

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from course_lib.book import notebooks
from course_lib.book.site import offline, results_page
from course_lib.book.site.api import automodule, documented

__all__ = [  # what the site uses, and its tests
    "CONTENTS", "GLOSSARY", "alt_texts", "entries", "for_page", "link_first_uses", "pattern", "setup",
]  # fmt: skip

GLOSSARY = "glossary"
_UNLINKED = (
    nodes.title,
    nodes.literal,
    nodes.literal_block,
    nodes.math,
    nodes.math_block,
    nodes.raw,
    nodes.reference,
    nodes.target,
    addnodes.pending_xref,
    addnodes.download_reference,
)
"""Nodes in which a word is no first use, or cannot be a link."""

_OTHER_SENSES = ("running kernel", "(Arm)")
"""Phrases in which a word of the glossary means something else: the kernel of a notebook, a maker of processors."""

CONTENTS = """
```{toctree}
:hidden:
:caption: Chapters
:glob:

[0-9]*
```

```{toctree}
:hidden:
:caption: Look up

where-this-goes
sources
teaching
glossary
results
references
dependencies
design
```

```{toctree}
:hidden:
:caption: Library

api/library
api/data
api/models
api/distillation
api/pruning
api/quantization
api/experiments
api/plots
api/checks
api/book
```
"""

_log = logging.getLogger(__name__)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the transforms and directives; Sphinx calls this to load the extension."""
    app.setup_extension("sphinx.ext.autodoc")
    app.add_transform(_GlossaryTerms)
    app.add_transform(_FirstUses)
    app.add_transform(_AltTexts)
    app.add_transform(_Download)
    app.add_transform(_Studies)
    app.add_directive("api", _Api)
    app.add_directive("course-results", _Results)
    app.connect("source-read", _add_contents)
    app.connect("build-finished", _copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def entries(text: str) -> dict[str, list[str]]:
    """Read the entries of the glossary, paragraphs that begin with a bold head: {head: names that a text may use}.

    "Batch normalisation (batch norm, BN)" has three names; "Median, quartiles" two; "Simulated (fake) quantization" is
    also "fake quantization"; "beta (of a batch norm)" and "Scale (in quantization)" have one. A single letter is no
    name, and a name belongs to the entry that has it as its head.

    Example:
        >>> entries("**Kernel, filter.** Numbers of a convolution.")
        {'Kernel, filter': ['Kernel', 'filter']}
    """
    heads = re.findall(r"^\*\*(.+?)\.\*\*", text, re.MULTILINE)
    found: dict[str, list[str]] = {head: [] for head in heads}
    taken: set[str] = set()
    for own in (True, False):  # heads before what stands in brackets
        for head in heads:
            bracket = re.search(r" ?\(([^)]*)\)", head)
            plain = head.replace(bracket[0], "") if bracket else head
            names = plain.split(", ") if own else []
            if not own and bracket and not bracket[1].startswith(("of ", "in ")):
                names = [name + head[bracket.end() :] for name in bracket[1].split(", ")]
            new = [name for name in names if len(name) > 1 and name.lower() not in taken]
            found[head] += new
            taken |= {name.lower() for name in new}
    return found


def for_page(glossary: Mapping[str, Sequence[str]], title: str) -> dict[str, Sequence[str]]:
    """Select the entries that a page may link to, by its title.

    Example:
        >>> list(for_page({"Filter": [], "Scale (in quantization)": []}, "03 Slimming"))
        ['Filter']
    """
    narrow = {head: re.search(r"\(in (.+?)\)", head) for head in glossary}
    return {
        head: names
        for head, names in glossary.items()
        if narrow[head] is None or narrow[head][1].lower() in title.lower()
    }


def pattern(names: Sequence[str]) -> re.Pattern[str]:
    """Compile a pattern that finds the names as whole words, the longest first; group 1 is the name.

    An ending such as "s" or "d" is allowed. Spaces also match line ends and hyphens. Only a name with a capital behind
    its first letter, such as MAC, asks for its capitals. A match without a group is a phrase in which the word has
    another sense.

    Example:
        >>> pattern(["soft target"]).search("two Soft targets")[1]
        'Soft target'
    """

    def one(name: str) -> str:
        words = r"[\s-]+".join(map(re.escape, re.split(r"[ -]", name)))
        return words if re.search(r"(?<=.)[A-Z]", name) else f"(?i:{words})"

    longest = sorted(names, key=len, reverse=True)
    others = "|".join(r"\s+".join(map(re.escape, phrase.split())) for phrase in _OTHER_SENSES)
    return re.compile(rf"{others}|(?<![\w-])({'|'.join(map(one, longest))})(?:s|es|d|ed)?(?![\w-])")


class _GlossaryTerms(SphinxTransform):
    """Makes each entry of the glossary a place that can be linked to."""

    default_priority = 500

    def apply(self, **_: Any) -> None:
        if self.env.docname != GLOSSARY:
            return
        standard = self.env.domains.standard_domain
        for paragraph in self.document.findall(nodes.paragraph):
            first = next((child for child in paragraph.children if child.astext()), None)
            if isinstance(first, nodes.strong) and first.astext().endswith("."):
                head = first.astext()[:-1]
                name = "term-" + nodes.make_id(head)
                paragraph["ids"].append(name)
                self.document.note_explicit_target(paragraph)
                standard.note_object("term", head, name, location=paragraph)


class _FirstUses(SphinxTransform):
    """Links the first use of each glossary entry on the page of a chapter to its explanation."""

    default_priority = 900

    def apply(self, **_: Any) -> None:
        glossary = Path(self.env.srcdir) / f"{GLOSSARY}.md"
        title = next(iter(self.document.findall(nodes.title)), None)
        if _is_chapter(self.env) and glossary.exists() and title is not None:
            known = for_page(entries(glossary.read_text(encoding="utf-8")), title.astext())
            link_first_uses(self.document, known, self.env.docname)


def link_first_uses(document: nodes.Node, glossary: Mapping[str, Sequence[str]], docname: str = "") -> None:
    """Turn the first use of each entry into a reference to it, in place.

    Args:
        document: of which titles, code, mathematics, links and the list of references are left alone.
        glossary: {head: its names}, as `entries` gives them.
        docname: of the page, for Sphinx's messages.
    """
    _join_texts(document)
    waiting = {head: names for head, names in glossary.items() if names}
    for text in list(document.findall(nodes.Text)):
        if any(isinstance(above, _UNLINKED) or _is_references(above) for above in _above(text)):
            continue
        parts: list[nodes.Node] = []
        begin = 0
        for word in _words(text.astext(), waiting):
            head = next(head for head, names in waiting.items() if pattern(names).fullmatch(word[0]))
            del waiting[head]
            parts += [nodes.Text(text.astext()[begin : word.start()]), _reference(head, word[0], docname)]
            begin = word.end()
        if parts:
            parts.append(nodes.Text(text.astext()[begin:]))
            text.parent.replace(text, [part for part in parts if part.astext()])


def _join_texts(document: nodes.Node) -> None:
    """Make one of neighbouring texts: MyST begins another at each line end, and a name may stand across it."""
    for element in document.findall(nodes.TextElement):
        for place in reversed(range(1, len(element))):
            first, second = element[place - 1], element[place]
            if isinstance(first, nodes.Text) and isinstance(second, nodes.Text):
                element[place - 1 : place + 1] = [nodes.Text(first.astext() + second.astext())]


def _words(text: str, waiting: Mapping[str, Sequence[str]]) -> Iterator[re.Match[str]]:
    """The names in a text, one after the other; whoever iterates takes the entries that are done out of `waiting`."""
    begin = 0
    while waiting:
        word = pattern([name for names in waiting.values() for name in names]).search(text, begin)
        if word is None:
            return
        begin = word.end()
        if word[1]:
            yield word


def _is_references(node: nodes.Node) -> bool:
    return isinstance(node, nodes.section) and node[0].astext() == "References"


class _AltTexts(SphinxTransform):
    """Gives each figure of a notebook the alt text that stands in the metadata of its output.

    MyST-NB names a figure by its digest and drops this text; a picture without one is a warning, and so an error.
    """

    default_priority = 900

    def apply(self, **_: Any) -> None:
        known = alt_texts(notebooks.read(_source(self.env))) if _is_chapter(self.env) else {}
        for image in self.document.findall(nodes.image):
            if not image.get("alt"):
                image["alt"] = known.get(Path(image["uri"]).stem, "")
            if not image["alt"].strip():
                _log.warning("%s: an image without alt text", image["uri"], location=image)


def alt_texts(notebook: Any) -> dict[str, str]:
    """Return {SHA-256 of a PNG or SVG that the notebook shows: its alt text}."""
    found = {}
    files = {
        "image/png": base64.b64decode,
        "image/svg+xml": lambda text: "\n".join(text.splitlines()).encode(),
    }
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        for mime in files.keys() & output.get("data", {}).keys():
            digest = hashlib.sha256(files[mime](output["data"][mime])).hexdigest()
            found[digest] = output.get("metadata", {}).get(mime, {}).get("alt", "")
    return found


class _Download(SphinxTransform):
    """Adds below the title of a chapter the notebook itself, and how to open it."""

    default_priority = 210

    def apply(self, **_: Any) -> None:
        title = next(iter(self.document.findall(nodes.title)), None)
        if not _is_chapter(self.env) or title is None:
            return
        name = f"{self.env.docname}.ipynb"
        link = addnodes.download_reference("", f"Download {_source(self.env).name}", reftarget=f"/{name}")
        command = nodes.literal("", f".venv/bin/jupyter lab notebooks/{name}")
        line = nodes.paragraph(
            "", "", link, nodes.Text(" to open it in JupyterLab. In a checkout: "), command
        )
        line["classes"].append("download-chapter")
        title.parent.insert(title.parent.index(title) + 1, line)


class _Studies(SphinxTransform):
    """Puts the studies of a chapter below it in the site's table of contents."""

    default_priority = 210

    def apply(self, **_: Any) -> None:
        name = f"{notebooks.STUDIES}/{self.env.docname}"
        if not _is_chapter(self.env) or name not in self.env.found_docs:
            return
        tree = addnodes.toctree("", parent=self.env.docname, entries=[(None, name)], includefiles=[name])
        tree.attributes |= {"maxdepth": -1, "numbered": 0, "caption": None, "rawentries": []}
        tree.attributes |= dict.fromkeys(("glob", "titlesonly", "includehidden"), False) | {"hidden": True}
        self.document[0].append(nodes.compound("", tree, classes=["toctree-wrapper"]))


class _Api(SphinxDirective):
    """```{api} course_lib.pruning``` documents a package and its modules."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        text = "\n".join(automodule(module, left_out) for module, left_out in documented(self.arguments[0]))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


class _Results(SphinxDirective):
    """The content of the page of run times and results."""

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        return self.parse_text_to_nodes(results_page.markdown(), allow_section_headings=True)


def _add_contents(app: Sphinx, docname: str, source: list[str]) -> None:
    """The index as it is read in JupyterLab has no need of the site's table of contents."""
    if docname == app.config.root_doc:
        source[0] += CONTENTS


def _copy_mathjax(app: Sphinx, exception: Exception | None) -> None:
    """MathJax from an installed package, so that no page asks another server."""
    if exception is None and app.builder.format == "html":
        offline.copy_mathjax(Path(app.outdir) / "_static" / "mathjax")


def _is_chapter(env: Any) -> bool:
    return _source(env).suffix == ".ipynb"


def _source(env: Any) -> Path:
    return Path(env.doc2path(env.docname))


def _above(node: nodes.Node) -> Iterator[nodes.Node]:
    while (node := node.parent) is not None:
        yield node


def _reference(head: str, shown: str, docname: str) -> nodes.Node:
    kind = {"refdomain": "std", "reftype": "term", "refexplicit": True, "refwarn": True}
    inner = nodes.inline(shown, shown, classes=["glossary-term"])
    return addnodes.pending_xref("", inner, reftarget=head, refdoc=docname, **kind)
