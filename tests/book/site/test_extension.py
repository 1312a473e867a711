"""The Sphinx extension of the site: its parts, then a made-up book built whole. `make site-test` runs it."""

import base64
import io
import re
import sys

import nbformat
import PIL.Image
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

pytest.importorskip("sphinx", reason="the extra `site` is not installed; make site-test installs it")

from docutils import nodes
from sphinx import addnodes

from course_lib import files
from course_lib.book import notebooks
from course_lib.book.site import api, check, extension

GLOSSARY = """# Glossary

**Batch normalisation (batch norm, BN).** Subtracts the mean.

**beta (of a batch norm).** The shift.

**Kernel, filter.** Numbers of a convolution.

**Scale (in quantization).** A distance between
integers. **Not a head.** It stands within a paragraph.

**Simulated (fake) quantization.** Rounded.

**Soft target.** A teacher's probabilities.

**MAC.** Multiply-accumulate.

**Temperature (T).** What logits are divided by.

**Relative entropy (KL).** How much is lost.

**Divergence (relative entropy).** The same.
"""


# The names of an entry


def test_an_entry_has_the_names_of_its_head_and_of_its_brackets():
    assert extension.entries(GLOSSARY) == {
        "Batch normalisation (batch norm, BN)": ["Batch normalisation", "batch norm", "BN"],
        "beta (of a batch norm)": ["beta"],
        "Kernel, filter": ["Kernel", "filter"],
        "Scale (in quantization)": ["Scale"],
        "Simulated (fake) quantization": ["Simulated quantization", "fake quantization"],
        "Soft target": ["Soft target"],
        "MAC": ["MAC"],
        "Temperature (T)": ["Temperature"],
        "Relative entropy (KL)": ["Relative entropy", "KL"],
        "Divergence (relative entropy)": ["Divergence"],
    }


def test_every_entry_of_the_glossary_can_be_found():
    text = (files.root() / "notebooks" / "glossary.md").read_text(encoding="utf-8")
    found = extension.entries(text)
    assert len(found) == len(re.findall(r"^\*\*", text, re.MULTILINE))
    assert all(found.values())


def test_an_entry_of_one_field_is_linked_on_its_pages_alone():
    glossary = extension.entries(GLOSSARY)
    assert set(glossary) - set(extension.for_page(glossary, "03 Slimming")) == {"Scale (in quantization)"}
    assert extension.for_page(glossary, "06 Post-training Quantization") == glossary


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("the soft targets", "soft targets"),
        ("Soft\ntarget", "Soft\ntarget"),
        ("a soft-target loss", "soft-target"),
        ("10 MACs", "MACs"),
        ("BN and batch norm", "BN"),
        ("macs of bn", None),  # abbreviations keep their capitals
        ("a targeted soft targeter", None),
        ("unfiltered, kernels2", None),
        ("a running\nkernel and a kernel", "kernel"),
    ],
)
def test_names_are_found_as_whole_words(text, found):
    names = [name for names in extension.entries(GLOSSARY).values() for name in names]
    matches = [match for match in extension.pattern(names).finditer(text) if match[1]]
    assert (matches[0][0] if matches else None) == found
    if "running" in text:
        assert matches[0].start() == text.rindex("kernel")


# First uses


def page(*children):
    return nodes.section("", nodes.title("", "A soft target"), *children)


def links(document):
    return [(link["reftarget"], link.astext()) for link in document.findall(addnodes.pending_xref)]


def test_the_first_use_alone_is_linked_and_no_word_is_lost():
    words = "Fake quantization, soft targets and MACs; a MAC more, fake quantization."
    document = page(
        nodes.paragraph("", words), nodes.paragraph("", "Soft targets again, and simulated quantization.")
    )
    before = document.astext()
    extension.link_first_uses(document, extension.entries(GLOSSARY))
    assert links(document) == [
        ("Simulated (fake) quantization", "Fake quantization"),
        ("Soft target", "soft targets"),
        ("MAC", "MACs"),
    ]
    assert document.astext() == before


def test_code_links_titles_mathematics_and_references_are_left_alone():
    inside = [
        nodes.literal("", "soft target"),
        nodes.math("", "MAC"),
        nodes.reference("", "", nodes.strong("", "filter"), refuri="a"),
        nodes.raw("", "beta", format="html"),
    ]
    document = page(
        nodes.paragraph("", "", *inside),
        nodes.literal_block("", "temperature"),
        nodes.section("", nodes.title("", "References"), nodes.paragraph("", "Batch norm, 2015")),
        nodes.paragraph("", "", nodes.strong("", "soft target")),
    )
    extension.link_first_uses(document, extension.entries(GLOSSARY))
    assert links(document) == [("Soft target", "soft target")]
    assert isinstance(next(document.findall(addnodes.pending_xref)).parent, nodes.strong)


# The API


def test_what_a_package_exports_is_documented_once():
    found = {module.__name__: left_out for module, left_out in api.documented("course_lib.models")}
    assert found["course_lib.models"] == []
    assert "vgg" in found["course_lib.models.vgg"]  # conv_bn_relu is left
    assert "course_lib.models.mlp" not in found  # all of it is exported
    book = [module.__name__ for module, _ in api.documented("course_lib.book")]
    assert {"course_lib.book", "course_lib.book.classroom", "course_lib.book.classroom.sandbox"} <= set(book)
    assert "course_lib.book.cli" not in book


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package `made_up` that exports `whole.one` and holds a package with a module, and a private one."""
    sources = {
        "__init__": "from made_up.whole import one\n__all__ = ['one', 'lazy']",
        "whole": "def one(): ...",
        "half": "def two(): ...\ndef lazy(): ...",
        "_private": "def three(): ...",
        "inner/__init__": "from made_up.inner.deep import four\n__all__ = ['four']",
        "inner/deep": "def four(): ...\ndef five(): ...",
    }
    for name, source in sources.items():
        path = tmp_path / "made_up" / f"{name}.py"
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    yield "made_up"
    for name in [name for name in sys.modules if name.partition(".")[0] == "made_up"]:
        del sys.modules[name]


def test_modules_and_packages_inside_are_documented_and_private_ones_are_not(package):
    found = [(module.__name__, left_out) for module, left_out in api.documented(package)]
    assert found == [
        ("made_up", []),
        ("made_up.half", ["one"]),  # a name that is only looked up when it is asked for stands in its module
        ("made_up.inner", ["one"]),
        ("made_up.inner.deep", ["four", "one"]),
    ]


def test_every_package_has_a_page():
    pages = "".join(path.read_text() for path in (files.root() / "notebooks" / "api").glob("*.md"))
    packages = {path.parent.name for path in (files.root() / "course_lib").glob("*/__init__.py")}
    assert packages
    assert set(re.findall(r"\{api\} course_lib\.(\w+)", pages)) == packages
    for path in (files.root() / "notebooks" / "api").glob("*.md"):
        assert f"api/{path.stem}\n" in extension.CONTENTS


# A made-up book, built


CONF = """
extensions = ["myst_nb", "sphinx.ext.mathjax", "course_lib.book.site.extension"]
nb_execution_mode = "off"
nb_ipywidgets_js = {}
myst_enable_extensions = ["dollarmath"]
mathjax_path = "mathjax/tex-chtml.js"
"""
ALT = "A grey square."


def picture():
    content = io.BytesIO()
    PIL.Image.new("RGB", (4, 4), "grey").save(content, "png")
    return base64.b64encode(content.getvalue()).decode()


@pytest.fixture
def source(tmp_path, monkeypatch):
    """conf.py, an index, a glossary and a chapter with a figure."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("COURSE_HOME", str(tmp_path))
    (folder / "conf.py").write_text(CONF)
    (folder / "index.md").write_text("# Book\n\n[One](01-one.ipynb)\n")
    (folder / "glossary.md").write_text(GLOSSARY)
    for name in (
        "where-this-goes",
        "sources",
        "references",
        "teaching",
        "results",
        "dependencies",
        "design",
        *(f"api/{name}" for name in re.findall(r"api/(\w+)", extension.CONTENTS)),
    ):
        path = folder / f"{name}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"# {name}\n")
    figure = new_output("display_data", {"image/png": picture()}, metadata={"image/png": {"alt": ALT}})
    text = "# 01 One\n\nA soft target, $T$, and **batch\nnorm**."
    quiz = "<details><summary>1. Why?</summary>\n\nThe filter.\n</details>"
    cells = [
        new_markdown_cell(f"{text}\n\n{quiz}"),
        new_code_cell("plot()", execution_count=1, outputs=[figure]),
        new_code_cell("folded()", execution_count=2, metadata={"tags": [notebooks.FOLDED]}),
        new_markdown_cell("It gains <!--=gain-->7.0 %<!--/-->: <!--arithmetic-->7.0<!--/--> points."),
    ]
    write(folder, new_notebook(cells=cells, metadata=notebooks.METADATA))
    return folder


def write(folder, notebook):
    nbformat.write(notebook, folder / "01-one.ipynb")


def build(source):
    """(status, warnings, folder of the site), with warnings as errors."""
    from sphinx.application import Sphinx

    warnings, out = io.StringIO(), source.parent / "site"
    app = Sphinx(source, source, out, source.parent / "doctrees", "html", status=None, warning=warnings)
    app.build()
    return warnings.getvalue(), out


def test_a_chapter_has_links_alt_text_download_and_mathematics(source):
    warnings, out = build(source)
    assert warnings == ""
    text = (out / "01-one.html").read_text()
    assert re.findall(r'href="glossary\.html#(term-[\w-]+)"', text) == [
        "term-soft-target",
        "term-batch-normalisation-batch-norm-bn",
        "term-kernel-filter",
    ]
    assert f'alt="{ALT}"' in text
    download = re.search(r'href="(_downloads/[^"]+/01-one\.ipynb)"', text)[1]
    assert (out / download).read_bytes() == (source / "01-one.ipynb").read_bytes()
    assert "notebooks/01-one.ipynb</span>" in text
    assert "_static/mathjax/tex-chtml.js" in text
    (folded,) = re.findall(r"<details.*?</details>", text.split("plot")[1], re.DOTALL)
    assert "folded" in folded
    assert "cell_input" in folded
    assert "It gains 7.0 %: 7.0 points." in re.sub(r"<!--.*?-->", "", text)
    assert (out / "_static/mathjax/tex-chtml.js").stat().st_size > 1_000_000
    assert len(list((out / "_static/mathjax/output/chtml/fonts/woff-v2").glob("*.woff"))) > 20
    glossary = (out / "glossary.html").read_text()
    assert 'id="term-soft-target"' in glossary
    assert "Not a head" in glossary
    assert "term-not" not in glossary
    assert "toctree-l1" in (out / "index.html").read_text()
    assert check.faults(out) == []


def test_studies_stand_below_their_chapter_and_can_be_downloaded(source):
    (source / "studies").mkdir()
    studies = nbformat.read(source / "01-one.ipynb", as_version=4)
    studies.cells[0].source = "# Studies\n\nThe filter: [chapter](../01-one.ipynb), [terms](../glossary.md)."
    nbformat.write(studies, source / "studies" / "01-one.ipynb")
    warnings, out = build(source)
    assert not re.search(r"WARNING(?!.*already registered)", warnings)  # Sphinx was started here before
    text = (out / "studies" / "01-one.html").read_text()
    download = re.search(r'href="\.\./(_downloads/[^"]+/01-one\.ipynb)"', text)[1]
    assert (out / download).read_bytes() == (source / "studies" / "01-one.ipynb").read_bytes()
    assert "notebooks/studies/01-one.ipynb</span>" in text
    assert f'alt="{ALT}"' in text
    assert 'href="../glossary.html#term-kernel-filter"' in text
    contents = re.findall(r'toctree-l(\d).*?href="([^"]+)"', (out / "01-one.html").read_text())
    assert contents[:2] == [("1", "#"), ("2", "studies/01-one.html")]
    assert check.faults(out) == []


def test_a_figure_without_alt_text_is_a_warning(source):
    notebook = nbformat.read(source / "01-one.ipynb", as_version=4)
    notebook.cells[1].outputs[0].metadata = {}
    write(source, notebook)
    warnings, out = build(source)
    assert "an image without alt text" in warnings
    assert any("has no alt text" in fault for fault in check.faults(out))


def test_a_diagram_is_an_svg_on_the_site_with_its_words_and_its_alt_text(source):
    notebook = nbformat.read(source / "01-one.ipynb", as_version=4)
    svg = '<svg xmlns="http://www.w3.org/2000/svg">\n<title>T</title>\n<text>soft targets</text>\n</svg>\n'
    figure = notebook.cells[1].outputs[0]
    figure.data["image/svg+xml"] = svg
    figure.metadata["image/svg+xml"] = {"alt": "A drawing of teacher and student."}
    write(source, notebook)
    warnings, out = build(source)
    assert "without alt text" not in warnings
    (shown,) = re.findall(
        r'<img alt="A drawing of teacher and student\." [^>]*src="([^"]+\.svg)"',
        (out / "01-one.html").read_text(),
    )
    assert "<text>soft targets</text>" in (out / shown).read_text()


def test_a_link_to_no_page_is_a_warning(source):
    (source / "index.md").write_text("# Book\n\n[One](01-two.ipynb)\n")
    assert "01-two.ipynb" in build(source)[0]
