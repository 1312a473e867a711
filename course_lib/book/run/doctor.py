"""Checks of `course doctor`: versions, machine, data, checkpoints, notebooks, the build folder."""

import functools
import os
import platform
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from rich.table import Table

from course_lib import files
from course_lib.book import CourseError, notebooks

__all__ = ["Finding", "examine", "table"]

_DISTRIBUTION = "small-and-fast"
_PYTHON = ((3, 11), (3, 13))
_INSTALL = "python -m pip install -e '.[learn,pretrained]' -c constraints.txt (or: make course)"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    `state` is "ok", "note" (the fast profile runs all the same) or "missing" (it does not).
    """

    what: str
    state: str
    detail: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Examine everything; a part that cannot be examined is itself a finding."""
    parts = (_python, _packages, _machine, _data, _checkpoints, _data_sets, _notebooks, _build)
    return [finding for part in parts for finding in _guarded(part)]


def table(findings: list[Finding]) -> Table:
    """Lay out the findings as a table, without their remedies: a command must not be broken over lines."""
    shown = Table()
    for heading in ("what", "state", "found"):
        shown.add_column(heading, overflow="fold")
    for finding in findings:
        shown.add_row(finding.what, finding.state, finding.detail)
    return shown


def _guarded(part: Callable[[], Iterator[Finding]]) -> list[Finding]:
    found: list[Finding] = []
    try:
        found.extend(part())
    except Exception as error:
        name = part.__name__.strip("_").replace("_", " ")
        found.append(Finding(name, "missing", f"{type(error).__name__}: {_short(error)}", _INSTALL))
    return found


def _python() -> Iterator[Finding]:
    low, high = (".".join(map(str, version)) for version in _PYTHON)
    fits = _PYTHON[0] <= sys.version_info[:2] <= _PYTHON[1]
    yield Finding(
        "python",
        "ok" if fits else "missing",
        platform.python_version(),
        "" if fits else f"install Python {low} to {high}, then: make clean course PYTHON=python{high}",
    )


def _packages() -> Iterator[Finding]:
    pins = _pins(files.root() / "constraints.txt")
    wanted = [
        re.match(r"[\w.-]+", line)[0]
        for line in metadata.requires(_DISTRIBUTION) or []
        if "extra" not in line
    ]
    for name in ["torch", "torchvision", *sorted(set(wanted) - {"torch", "torchvision"})]:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding(name, "missing", "not installed", _INSTALL)
            continue
        pin = pins.get(_canonical(name))
        same = pin is None or version.split("+")[0] == pin
        tested = version if same else f"{version}; tested with {pin}"
        yield Finding(name, "ok" if same else "note", tested, "" if same else _INSTALL)


def _machine() -> Iterator[Finding]:
    import torch

    device = "cpu"
    if torch.cuda.is_available():
        device = f"cuda: {torch.cuda.get_device_name()}"
    elif torch.backends.mps.is_available():
        device = "mps"
    yield Finding("device", "ok", device)
    yield Finding(
        "threads", "ok", f"{torch.get_num_threads()} used by torch, {os.cpu_count()} in the machine"
    )
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        yield Finding("memory", "ok", _size(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))
    free = shutil.disk_usage(files.root()).free
    enough = free > 2**30
    yield Finding(
        "disk",
        "ok" if enough else "note",
        f"{_size(free)} free",
        "" if enough else "free 1 GB before the full profile",
    )


def _data() -> Iterator[Finding]:
    folder = files.root() / "data"
    if not (listed := files.checksums()):
        yield Finding(
            "data/SHA256SUMS", "missing", "absent, or lists nothing", "git checkout -- data/SHA256SUMS"
        )
    present = (
        path.relative_to(folder).as_posix()
        for part in ("*.npz", "checkpoints/*", "results/*")
        for path in folder.glob(part)
    )
    intact = 0
    for name in sorted({*listed, *present} if listed else ()):
        try:
            files.read_verified(folder / name)
            intact += 1
        except (OSError, files.DamagedFile) as error:
            fault = "absent" if isinstance(error, FileNotFoundError) else _short(error).split(". Restore")[0]
            yield Finding(f"data/{name}", "missing", fault.removeprefix(f"{folder}/"), _data_remedy(name))
    if listed:
        yield Finding("data/SHA256SUMS", "ok", f"{intact} files are as recorded")


def _data_remedy(name: str) -> str:
    """The command that brings a file of data/ back, and the one that makes it again."""
    path = Path(name)
    again = {
        "checkpoints": f"course train {path.stem}",
        "results": f"python -m course_lib.experiments {path.stem}",
    }.get(path.parent.name, "python -m course_lib.data.glyphs --write")
    return f"git checkout -- data/{name} data/SHA256SUMS, or make it again: {again}"


def _checkpoints() -> Iterator[Finding]:
    from course_lib import checkpoints

    for name in checkpoints.NAMES:
        try:
            checkpoints.verify(name)
        except checkpoints.CheckpointError as error:
            yield Finding(f"checkpoint {name}", "missing", _short(error), f"course train {name}")
        else:
            yield Finding(f"checkpoint {name}", "ok", "intact")


def _data_sets() -> Iterator[Finding]:
    from course_lib import data

    for name in data.NAMES:
        try:
            dataset = data.load_dataset(name, download=False)
        except data.DatasetError as error:
            shipped = name == "glyphs"
            remedy = (
                "git checkout -- data/glyphs.npz"
                if shipped
                else f"for the full profile: course data fetch {name}"
            )
            yield Finding(f"data set {name}", "missing" if shipped else "note", _short(error), remedy)
        else:
            sizes = (
                f"{len(dataset.train)} train, {len(dataset.validation)} validation, {len(dataset.test)} test"
            )
            yield Finding(f"data set {name}", "ok", sizes)


def _notebooks() -> Iterator[Finding]:
    try:
        for chapter in notebooks.chapters():
            yield Finding(f"chapter {chapter.number}", "ok", chapter.title)
    except CourseError as error:
        yield Finding("notebooks", "missing", str(error), "git checkout -- notebooks")


def _build() -> Iterator[Finding]:
    folder = files.root() / "build"
    try:
        with files.atomic_path(folder / ".doctor") as path:
            path.write_text("")
        (folder / ".doctor").unlink()
        yield Finding("build folder", "ok", f"{folder} can be written to")
    except OSError as error:
        yield Finding(
            "build folder", "missing", error.strerror or str(error), "or name another: course run --out DIR"
        )


def _pins(path: Path) -> dict[str, str]:
    """The exact versions of constraints.txt; none where the file is absent."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return {
        _canonical(name): version
        for name, version in re.findall(r"^([\w.-]+)==([^\s;#]+)", text, re.MULTILINE)
    }


@functools.cache
def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _short(error: Exception) -> str:
    """The beginning of a message; what to do stands elsewhere in the report."""
    return textwrap.shorten(str(error), 160, placeholder=" ...")


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
