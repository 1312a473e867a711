"""The rooms of course_lib are those of the map in notebooks/design.md, and imports lead down the list alone."""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "course_lib"
ENTRY = re.compile(r"^- `([\w/.]+)`: (.+)$", re.MULTILINE)
LONG = {"book/cli.py"}
TECHNIQUES = ("distillation/", "pruning/", "quantization/", "factorization.py", "hashing.py")


def rooms_of_the_map(text: str) -> dict[str, str]:
    """{room: its sentence}, in the order of the page."""
    return dict(ENTRY.findall(text.split("## The rooms of the library")[1].split("\n## ")[0]))


def rooms_that_are_there() -> set[str]:
    """Every file on the top floor, every package, at any depth."""
    files = {path.name for path in PACKAGE.glob("*.py") if path.name != "__init__.py"}
    packages = {
        f"{path.parent.relative_to(PACKAGE).as_posix()}/"
        for path in PACKAGE.rglob("__init__.py")
        if path.parent != PACKAGE
    }
    return files | packages


MAP = rooms_of_the_map((ROOT / "notebooks" / "design.md").read_text(encoding="utf-8"))
FILES = sorted(PACKAGE.rglob("*.py"))


def module_file(name: str) -> Path | None:
    """The file of a module, if it is one of the library's."""
    path = ROOT.joinpath(*name.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


def imported(tree: ast.AST, own: Path) -> Iterator[Path]:
    """The files of the library that a module imports, inside of functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{own}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if module_file(name) else node.module for name in names]
        else:
            continue
        yield from (
            file for name in names if name.split(".")[0] == "course_lib" and (file := module_file(name))
        )


def room_of(path: Path, rooms: dict[str, str]) -> str:
    """The innermost room that a file is in."""
    place = path.relative_to(PACKAGE).as_posix()
    inside = [room for room in rooms if place == room or (room.endswith("/") and place.startswith(room))]
    return max(inside, key=len)


def imports() -> Iterator[tuple[Path, Path]]:
    """(file, file that it imports), but for course_lib itself, which holds nothing but its version."""
    for path in FILES:
        for target in imported(ast.parse(path.read_text(encoding="utf-8")), path):
            if PACKAGE / "__init__.py" not in (path, target):
                yield path, target


def upwards(pairs: Iterator[tuple[Path, Path]], rooms: dict[str, str]) -> list[str]:
    """Imports of a room that stands further down the list; a room and the rooms inside of it are one here."""
    order = list(rooms)
    found = []
    for path, target in pairs:
        here, there = room_of(path, rooms), room_of(target, rooms)
        if (
            order.index(there) > order.index(here)
            and not there.startswith(here)
            and not here.startswith(there)
        ):
            found.append(f"{path.relative_to(ROOT)} imports {target.relative_to(ROOT)}")
    return found


def test_the_map_names_every_room_and_no_other():
    assert set(MAP) == rooms_that_are_there()
    for room, sentence in MAP.items():
        assert sentence.endswith("."), room
        assert sentence.count(". ") == 0, f"{room}: one sentence"


def test_a_room_imports_only_from_rooms_above_it():
    assert upwards(imports(), MAP) == []


def test_an_import_upwards_is_seen():
    pair = (PACKAGE / "cost.py", PACKAGE / "plots" / "style.py")
    assert upwards(iter([pair]), MAP) == ["course_lib/cost.py imports course_lib/plots/style.py"]


def test_no_files_import_each_other_in_a_circle():
    edges: dict[Path, set[Path]] = {}
    for path, target in imports():
        # A package's __init__ gathers the names of its modules, which know nothing of it.
        if path != target:
            edges.setdefault(path, set()).add(target)
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(str(path.relative_to(ROOT)) for path in error.args[1]))


def test_no_technique_imports_another():
    found = []
    for path, target in imports():
        here = next((t for t in TECHNIQUES if room_of(path, MAP).startswith(t)), None)
        there = next((t for t in TECHNIQUES if room_of(target, MAP).startswith(t)), None)
        if here and there and here != there:
            found.append(f"{path.relative_to(ROOT)} imports {target.relative_to(ROOT)}")
    assert found == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_file_is_longer_than_a_reader_bears(path):
    if path.relative_to(PACKAGE).as_posix() not in LONG:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
