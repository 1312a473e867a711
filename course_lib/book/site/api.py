"""What the API reference of the site documents: packages, their modules, and what is left out of each."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Sequence
from types import ModuleType

__all__ = ["automodule", "documented"]


def documented(package: str, left_out: Sequence[str] = ()) -> Iterator[tuple[ModuleType, list[str]]]:
    """List what the page of a package documents: the package, its modules, and the packages in it.

    Left out are modules with an underscore, a module all of whose names a package above it exports, and the command
    line, which `course --help` explains. The packages of `course_lib` itself have pages of their own.

    Args:
        package: its full name.
        left_out: names that a package above it exports.

    Yields:
        A module, and the names to leave out there because a package above it exports them.
    """
    whole = importlib.import_module(package)
    yield whole, list(left_out)
    exported = sorted({*left_out, *(set(getattr(whole, "__all__", ())) & set(dir(whole)))})
    for found in pkgutil.iter_modules(whole.__path__):
        name = f"{package}.{found.name}"
        if found.name.startswith("_") or name == "course_lib.book.cli":
            continue
        if found.ispkg and package != "course_lib":
            yield from documented(name, exported)
        elif not found.ispkg and set(_public(module := importlib.import_module(name))) - set(exported):
            yield module, exported


def _public(module: ModuleType) -> list[str]:
    """Names of the functions and classes that a module defines for others."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isroutine(value))
        and value.__module__ == module.__name__
    ]


def automodule(module: ModuleType, left_out: Sequence[str]) -> str:
    """Write the part of a page that documents a module, in Markdown.

    Args:
        module: as `documented` yields it.
        left_out: likewise.
    """
    lines = [
        f"## {module.__name__}",
        "",
        "```{eval-rst}",
        f".. automodule:: {module.__name__}",
        "   :members:",
    ]
    if left_out:
        lines.append(f"   :exclude-members: {', '.join(left_out)}")
    name = module.__name__.rpartition(".")[2]
    if name in left_out:  # models.vgg is a module and, for a caller, the function that the package exports
        lines.append("   :no-index:")
    return "\n".join([*lines, "```", ""])
