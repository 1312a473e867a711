"""The wheel holds the whole course, and runs it in a folder of the learner's without writing into the package."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
from hatchling.build import build_editable, build_wheel
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
BOOK = "course_lib/_book"
SITE = ("conf.py", "_static", "api")  # of notebooks/, for the web site alone
MOST = 40e6  # bytes of the wheel


def tracked(folder: str) -> set[str]:
    """The files of a folder of the checkout that a wheel takes along."""
    paths = (path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file())
    return {
        path.as_posix()
        for path in paths
        if path.parts[1] not in (*SITE, "downloads")
        and not any(part.startswith(".") or part == "__pycache__" for part in path.parts)
        and path.suffix not in (".pyc", ".part")
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout, built by the backend that pyproject.toml names."""
    place, before = tmp_path_factory.mktemp("dist"), Path.cwd()
    os.chdir(ROOT)
    try:
        return place / build_wheel(str(place))
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def package(wheel, tmp_path_factory):
    """A folder of packages with the wheel in it, as pip puts it there, and one chapter more that runs in no time."""
    place = tmp_path_factory.mktemp("site packages")
    words = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    subprocess.run([sys.executable, *words, "--target", place, wheel], check=True, timeout=120)
    cells = [
        new_markdown_cell("# Small"),
        new_code_cell(
            "import pathlib\nfrom course_lib import files\n"
            "pathlib.Path('written.txt').write_text(str(files.work()))"
        ),
    ]
    nbformat.write(new_notebook(cells=cells), place / BOOK / "notebooks" / "99-small.ipynb")
    return place


def python(package, place, *words):
    """Run Python with the wheel's library in a folder; returns what it printed, the status and the errors."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COURSE_")}
    environment |= {"PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, *words], cwd=place, env=environment, capture_output=True, text=True, timeout=300
    )


def course(package, place, *words):
    return python(package, place, "-c", "from course_lib.book.cli import app; app()", *words)


def state(folder):
    """Every file and folder below one, with its size and the time of its last change."""
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))}


def test_the_wheel_holds_the_library_the_chapters_and_the_data_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
        metadata = [name for name in archive.namelist() if name not in held]
        pins = next(name for name in metadata if name.endswith("/constraints.txt"))
        assert archive.read(pins) == (ROOT / "constraints.txt").read_bytes()
    library = tracked("course_lib")
    carried = tracked("data") | tracked("notebooks")
    assert len(library) > 200 and len(carried) > 100  # noqa: PT018
    assert set(held) == library | {f"{BOOK}/{name}" for name in carried}
    for name in carried:
        assert held[f"{BOOK}/{name}"] == (ROOT / name).read_bytes(), name
    assert wheel.stat().st_size < MOST


def test_an_editable_installation_is_the_checkout_and_copies_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    with zipfile.ZipFile(tmp_path / build_editable(str(tmp_path))) as archive:
        held = [name for name in archive.namelist() if ".dist-info/" not in name]
        assert len(held) == 1
        assert held[0].endswith(".pth")
        assert archive.read(held[0]).decode().strip() == str(ROOT)


def test_chapters_and_records_are_listed_in_an_empty_folder(package, tmp_path):
    listed = course(package, tmp_path, "list")
    assert (listed.returncode, listed.stderr) == (0, "")
    for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"):
        assert f"{path.stem}  " in listed.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_chapter_runs_in_the_working_folder_and_the_package_stays_as_it_was(package, tmp_path):
    before = state(package)
    ran = course(package, tmp_path, "run", "99")
    assert ran.returncode == 0, ran.stderr + ran.stdout
    assert (tmp_path / "build" / "course" / "99-small.ipynb").is_file()
    assert (tmp_path / "written.txt").read_text() == str(tmp_path)
    assert state(package) == before


USE = """
import json, pathlib, shutil, sys
from course_lib import checkpoints, files, provenance
from course_lib.book.run import doctor
from course_lib.data import DatasetError, load_dataset

glyphs = files.root() / "data" / "glyphs.npz"
said = {"file": files.__file__, "glyphs": len(load_dataset().train), "commit": provenance.provenance()["commit"]}
said["folders"] = [load_dataset(f"folder:{name}").name for name in ("mine", pathlib.Path("mine").absolute())]
said["network"] = type(checkpoints.load("glyphs-mlp")).__name__
said["whole"] = [finding.remedy for finding in doctor.examine() if finding.state == "missing"]
for change in (lambda: checkpoints.retrain("glyphs-mlp"), lambda: files.write_verified({glyphs: b""})):
    try:
        change()
        said["changed"] = True
    except OSError as error:
        said["refused"] = error.strerror
content = glyphs.read_bytes()
glyphs.unlink()
try:
    load_dataset()
except DatasetError as error:
    said["absent"] = str(error)
said["damaged"] = [finding.remedy for finding in doctor._guarded(doctor._data) if finding.state == "missing"]
glyphs.write_bytes(content)
print(json.dumps(said))
"""


def test_data_sets_checkpoints_and_the_doctor_work_and_remedies_are_commands_of_a_wheel(
    package, wheel, tmp_path
):
    for split, number in (("train", 4), ("test", 2)):
        for name in ("a", "b"):
            (tmp_path / "mine" / split / name).mkdir(parents=True)
            for place in range(number):
                Image.new("L", (8, 8), place).save(tmp_path / "mine" / split / name / f"{place}.png")
    used = python(package, tmp_path, "-c", USE)
    assert used.returncode == 0, used.stderr
    said = json.loads(used.stdout.splitlines()[-1])
    assert Path(said["file"]) == package / "course_lib" / "files.py"
    assert said["glyphs"] == 10_000
    assert said["folders"] == ["mine", "mine"]
    assert said["network"] == "Sequential"
    assert said["commit"] == "unknown"
    assert said["whole"] == []
    assert "changed" not in said
    assert "those of a wheel belong to pip" in said["refused"]
    again = f"python -m pip install --force-reinstall --no-deps 'small-and-fast @ {wheel.as_uri()}'"
    assert again in said["absent"]
    assert set(said["damaged"]) == {again}
    assert "git" not in used.stdout
