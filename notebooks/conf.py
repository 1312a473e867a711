"""The course's web site: `make site` builds it into build/site, from this folder and without a network."""

import os
import typing
from pathlib import Path

# jaxtyping asks this name, before it is imported, whether its types are written short in signatures.
typing.GENERATING_DOCUMENTATION = "course_lib"
os.environ.setdefault("COURSE_HOME", str(Path(__file__).resolve().parent.parent))

project = "Making neural networks small and fast"
copyright = "the authors of the course, MIT licence"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinxcontrib.bibtex",
    "course_lib.book.site.extension",
]
exclude_patterns = ["profiles", "**.ipynb_checkpoints"]

nb_execution_mode = "off"
nb_ipywidgets_js = {}  # by default from another server; a committed notebook holds no widget
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
myst_update_mathjax = False  # what it would set stands below
suppress_warnings = ["mystnb.unknown_mime_type"]  # key figures, for `course run`

mathjax_path = "mathjax/tex-chtml.js"  # course_lib.book.site.extension puts it there
mathjax3_config = {
    # The menu would load further parts, which the site does not have.
    "options": {"enableMenu": False, "ignoreHtmlClass": ".*", "processHtmlClass": "math"},
}

bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "plain"

add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_attr_annotations = False  # the signature of the class shows them
default_role = "py:obj"

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/favicon.svg"
html_context = {"default_mode": "auto"}  # dark where the reader's system is dark, until the switch is used
html_copy_source = False
html_show_sphinx = False
html_last_updated_fmt = None
html_theme_options = {
    "use_download_button": False,  # each chapter has a link of its own
    "show_toc_level": 2,
    "navbar_persistent": [],
    "footer_content_items": ["copyright.html"],
    "show_navbar_depth": 1,
    "home_page_in_toc": True,
}
if repository := os.environ.get("COURSE_REPOSITORY"):  # a link to it on every page; none where it is not set
    html_theme_options |= {"repository_url": repository, "use_repository_button": True}
