"""MathJax and reveal.js from installed packages, so that pages are shown without a network."""

import importlib.util
import shutil
from pathlib import Path

from course_lib.book import CourseError

_MATHJAX_FONTS = Path("output/chtml/fonts/woff-v2")
"""With tex-chtml.js all that pages take of MathJax; a tenth of it."""


def copy_mathjax(target: Path) -> None:
    """Copy MathJax, as `tex-chtml.js` and its fonts.

    Args:
        target: the folder; it may exist.

    Raises:
        CourseError: the extra `site` is not installed.
    """
    source = _package("sphinx-mathjax-offline") / "static" / "mathjax"  # no name that `import` takes
    shutil.copytree(source / _MATHJAX_FONTS, target / _MATHJAX_FONTS, dirs_exist_ok=True)
    shutil.copy(source / "tex-chtml.js", target)


def copy_reveal(target: Path) -> None:
    """Copy reveal.js with the window for the speaker's notes.

    Args:
        target: the folder; it may exist.

    Raises:
        CourseError: the extra `site` is not installed.
    """
    source = _package("sphinx_revealjs") / "_static" / "revealjs"
    for part in ("dist", "plugin/notes"):
        ignored = shutil.ignore_patterns("*.map")
        shutil.copytree(source / part, target / part, ignore=ignored, dirs_exist_ok=True)


def _package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise CourseError(
            f"{name.replace('_', '-')} is not installed, and pages need it: pip install 'small-and-fast[site]'"
        )
    return Path(found.submodule_search_locations[0])
