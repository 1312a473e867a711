"""Check of a built site: links that lead nowhere, what is loaded from elsewhere, images without alt text, solutions.

python -m course_lib.book.site.check build/site
"""

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from course_lib.book.site import learners

__all__ = ["faults", "main"]

_LOADED = {
    ("script", "src"),
    ("link", "href"),
    ("img", "src"),
    ("iframe", "src"),
    ("source", "src"),
    ("object", "data"),
}
"""What a browser asks for by itself when it shows a page; <a href> waits for a click."""

_UNLOADED_LINKS = {"canonical", "next", "prev", "search", "index", "author", "copyright"}
"""<link rel=...> that a browser does not follow by itself."""


class _Page(HTMLParser):
    """The ids of a page, and what it loads and links to, as (line, tag, address)."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: set[str] = set()
        self.loaded: list[tuple[int, str, str]] = []
        self.linked: list[tuple[int, str, str]] = []
        self.without_alt: list[tuple[int, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        line = self.getpos()[0]
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "img" and not given.get("alt", "").strip():
            self.without_alt.append((line, given.get("src", "")))
        for name in given.keys() & {"href", "src", "data"}:
            follows = not set(given.get("rel", "").split()) & _UNLOADED_LINKS
            kind = self.loaded if (tag, name) in _LOADED and follows else self.linked
            if tag in ("a", "area", "link") or kind is self.loaded:
                kind.append((line, tag, given[name]))


def faults(folder: Path) -> list[str]:
    """List the faults of the pages of a folder, one line each; empty where there is none.

    Args:
        folder: of the built site; each .html file in it is a page.

    Raises:
        FileNotFoundError: there is no page.
    """
    folder = folder.resolve()
    paths = sorted(path for path in folder.rglob("*.html") if "_static" not in path.relative_to(folder).parts)
    if not paths:
        raise FileNotFoundError(f"there is no page in {folder}; make site builds them.")
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in paths}
    found = [fault for path in paths for fault in _of_page(path, pages, folder)]
    for path in sorted(folder.rglob("*.css")):
        text = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for address in re.findall(r"(?:@import\s+|url\()\s*[\"']?((?:https?:)?//[^\"')\s]+)", text):
            found.append(f"{path.relative_to(folder)}: loads {address} from elsewhere")
    return found


def _of_page(path: Path, pages: dict[Path, _Page], folder: Path) -> Iterator[str]:
    page, shown = pages[path], path.relative_to(folder)
    for line, source in page.without_alt:
        yield f"{shown}:{line}: the image {source} has no alt text"
    for line, tag, address in page.loaded:
        if _elsewhere(address):
            yield f"{shown}:{line}: <{tag}> loads {address} from elsewhere"
    for line, tag, address in page.loaded + page.linked:
        parts = urlsplit(address)
        if parts.scheme or parts.netloc:
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        if not target.is_file() or not target.is_relative_to(folder):
            yield f"{shown}:{line}: <{tag}> leads to {address}, which is not there"
        elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
            yield f"{shown}:{line}: <{tag}> leads to {address}, and that page has no such place"


def _elsewhere(address: str) -> bool:
    parts = urlsplit(address)
    return bool(parts.netloc) or parts.scheme in ("http", "https")


def main(folder: str) -> int:
    """Print the faults; the exit status is 1 where there are any."""
    found = faults(Path(folder)) + learners.in_the_open(Path(folder), learners.of_the_book())
    print(*found, sep="\n", end="\n" if found else "")
    print(
        f"{len(found)} faults in {folder}"
        if found
        else f"No broken link, no picture without words, no solution in the open: {folder}"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
