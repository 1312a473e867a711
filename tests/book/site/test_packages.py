"""The page of licences says what is installed, and whatever is installed has a version and a hash."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from course_lib.book.site import packages

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "notebooks" / "dependencies.md").read_text(encoding="utf-8")
PINS = (ROOT / "constraints.txt").read_text(encoding="utf-8")
HASHES = (ROOT / ".ci" / "hashes.txt").read_text(encoding="utf-8")
TABLE = packages.listed(PAGE)


def versions(text):
    """{package: version} of a file of constraints."""
    return {
        canonicalize_name(name): version
        for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE)
    }


def needed(line, seen):
    """Add to `seen` the installed packages that a requirement asks for, itself included."""
    requirement = Requirement(line)
    for extra in requirement.extras or {""}:
        key = (canonicalize_name(requirement.name), extra)
        if key in seen:
            continue
        try:
            further = metadata.requires(requirement.name) or []
        except metadata.PackageNotFoundError:
            continue
        seen.add(key)
        for other in further:
            marker = Requirement(other).marker
            if marker is None or marker.evaluate({"extra": extra}):
                needed(other, seen)


def test_the_page_names_every_pinned_package_once_and_no_other():
    assert sorted(TABLE) == packages.pinned(PINS)


def test_the_licences_on_the_page_are_those_of_the_installed_packages():
    installed = {name: found for name in TABLE if (found := packages.licence(name)) is not None}
    assert len(installed) > 150
    assert {name: TABLE[name] for name in installed} == installed
    assert "not looked up" not in TABLE.values()


def test_licences_that_bind_more_than_to_a_notice_are_talked_about():
    told = PAGE.split("Looked at on")[1].split("\n## ")[0]
    for name, licence in TABLE.items():
        if re.search(r"GPL|MPL|none named", licence):
            assert name in told, f"{name}: {licence}"
        if "proprietary" in licence:
            assert name.startswith("nvidia-")


def test_all_that_the_extras_bring_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lines = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    for more in project["project"]["optional-dependencies"].values():
        lines += more
    seen = set()
    for line in lines:
        needed(line, seen)
    found = {name for name, _ in seen}
    assert len(found) > 150
    assert found - set(versions(PINS)) == set()


def test_every_pin_has_hashes_and_every_hash_a_pin():
    assert versions(HASHES) == versions(PINS)
    blocks = re.split(r"^(?=[\w.-]+==)", HASHES, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(versions(PINS))
    for block in blocks:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}$", block, re.MULTILINE), block
    assert (ROOT / ".ci" / "pip.txt").read_text().partition("\n")[2] in HASHES


def test_neither_file_names_a_place_to_fetch_from():
    for text in (PINS, HASHES):
        assert not re.search(r"https?:|--(extra-)?index-url|find-links|file:", text)


@pytest.mark.parametrize(
    ("system", "names"), [("win32", {"colorama"}), ("darwin", {"appnope"}), ("linux", set())]
)
def test_pins_of_one_system_say_so(system, names):
    marked = re.findall(r"^([\w.-]+)==\S+ ; sys_platform == '(\w+)'$", PINS, re.MULTILINE)
    assert {name for name, where in marked if where == system} == names


def test_a_package_that_is_not_there_has_no_licence_and_a_page_without_the_table_is_refused():
    assert packages.licence("no-such-package-at-all") is None
    with pytest.raises(ValueError, match=r"no table that begins with '\| licence \| packages \|'"):
        packages.listed("# Nothing\n")
