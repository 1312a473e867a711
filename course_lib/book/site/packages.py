"""The licences of the packages that the course installs, as their metadata name them, in notebooks/dependencies.md.

python -m course_lib.book.site.packages writes the table again, after a change of constraints.txt
"""

import re
from importlib import metadata

from course_lib import files

__all__ = ["licence", "listed", "pinned", "table"]

_PAGE = "dependencies.md"
_HEAD = "| licence | packages |\n|---|---|\n"
_SPELLED = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "GNU General Public License (GPL)": "GPL",
    "ISC License (ISCL)": "ISC",
    "LicenseRef-NVIDIA-Proprietary": "NVIDIA, proprietary",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "NVIDIA Proprietary Software": "NVIDIA, proprietary",
    "Python Software Foundation License": "PSF-2.0",
}
"""One spelling for what metadata write in several."""


def pinned(text: str) -> list[str]:
    """List the packages of a constraints.txt, in one spelling.

    Example:
        >>> pinned("# tested\\nPyYAML==6.0.3\\njupyter_core==5.9.1 ; os_name == 'nt'\\n")
        ['jupyter-core', 'pyyaml']
    """
    names = re.findall(r"^([\w.-]+)==", text, re.MULTILINE)
    return sorted(re.sub(r"[-_.]+", "-", name).lower() for name in names)


def licence(package: str) -> str | None:
    """Read the licence of a package from its metadata; None if it is not installed here.

    Example:
        >>> licence("ruff")
        'MIT'
    """
    try:
        told = metadata.metadata(package)
    except metadata.PackageNotFoundError:
        return None
    classifiers = [entry.split(" :: ") for entry in told.get_all("Classifier") or []]
    classified = sorted(
        _SPELLED.get(parts[-1], parts[-1])
        for parts in classifiers
        if parts[0] == "License" and parts[-1] != "OSI Approved"
    )
    free_text = (told.get("License") or "").partition("\n")[0]
    found = told.get("License-Expression") or ", ".join(classified) or free_text or "none named"
    return _SPELLED.get(found, found)


def listed(page: str) -> dict[str, str]:
    """Read the table on the page: {package: licence}.

    Example:
        >>> listed("| licence | packages |\\n|---|---|\\n| MIT | attrs, ruff |\\n")
        {'attrs': 'MIT', 'ruff': 'MIT'}
    """
    rows = [row.strip("| ").split(" | ") for row in _parts(page)[1].splitlines()]
    return {package: licence for licence, packages in rows for package in packages.split(", ")}


def table(licences: dict[str, str]) -> str:
    """Write the table: a row for each licence, those of most packages first.

    Example:
        >>> print(table({"ruff": "MIT", "attrs": "MIT"}), end="")
        | licence | packages |
        |---|---|
        | MIT | attrs, ruff |
    """
    packages: dict[str, list[str]] = {}
    for package, name in sorted(licences.items()):
        packages.setdefault(name, []).append(package)
    order = sorted(packages, key=lambda name: (-len(packages[name]), name))
    return _HEAD + "".join(f"| {name} | {', '.join(packages[name])} |\n" for name in order)


def _parts(page: str) -> tuple[str, str, str]:
    """What stands before the table, its rows below the head, and what stands behind it."""
    before, head, rest = page.partition(_HEAD)
    if not head:
        raise ValueError(f"the page has no table that begins with {_HEAD.splitlines()[0]!r}")
    rows = re.match(r"(?:\|.*\n)*", rest)[0]
    return before, rows, rest[len(rows) :]


def _main() -> None:
    """Write the table of the page again; what is not installed here, as on another system, keeps its row."""
    page = files.root() / "notebooks" / _PAGE
    text = page.read_text(encoding="utf-8")
    known = listed(text)
    names = pinned(files.pins().read_text(encoding="utf-8"))
    licences = {name: licence(name) or known.get(name, "not looked up") for name in names}
    before, _, after = _parts(text)
    files.write_text(page, before + table(licences) + after)
    print(f"{len(names)} packages, {sum(name not in known for name in names)} of them new: {page}")


if __name__ == "__main__":
    _main()
