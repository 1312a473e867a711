"""The README is kept true: its code runs, its links lead somewhere, its picture is one that a chapter drew."""

import base64
import re
import tomllib

import nbformat
import pytest

from course_lib import files
from course_lib.book import notebooks
from course_lib.experiments import records
from tests.quantization.test_integer import largest_weight

README = (files.root() / "README.md").read_text(encoding="utf-8")


CODE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_code_for_your_own_network_runs_and_learns(capsys):
    exec(compile(CODE[0], "README.md", "exec"), {})
    teacher, student = (float(number) for number in re.findall(r"([\d.]+)%", capsys.readouterr().out))
    assert teacher > 50  # ten classes: guessing gives 10
    assert student > 40


@pytest.mark.bad_input  # tracing calls the library's functions on proxies, which are no tensors
def test_the_code_that_takes_channels_out_and_saves_what_is_left_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(CODE[1], "README.md", "exec"), names)
    printed = capsys.readouterr().out
    before, after = (float(count) for count in re.findall(r"([\d.]+) k parameters", printed))
    assert after < 0.75 * before  # half of the hidden layers of each block
    assert "reshapes them to the fixed size 96 (vision_transformer.py" in printed
    exec(compile(CODE[2], "README.md", "exec"), names)  # goes on with what the one before made
    assert capsys.readouterr().out == "True\n"
    assert [path.name for path in tmp_path.iterdir()] == ["smaller.safetensors"]


@pytest.mark.bad_input  # as above
def test_the_code_that_quantizes_runs_and_keeps_the_accuracy(capsys):
    names = {}
    exec(compile(CODE[3], "README.md", "exec"), names)
    printed = capsys.readouterr().out
    before, after = (float(number) for number in re.findall(r"([\d.]+)%", printed))
    assert abs(before - after) < 1
    assert int(re.search(r"(\d+) bytes", printed)[1]) < 0.27 * checkpoint_bytes("glyphs-vgg")
    in_onnx_runtime, loaded = re.findall(r"^(True|False)$", printed, re.MULTILINE)
    assert in_onnx_runtime == "True" or largest_weight() != 127
    assert loaded == "True"
    exec(compile(CODE[4], "README.md", "exec"), names)  # goes on with what the one before made
    nearest, better = (float(number) for number in re.findall(r"([\d.]+)%", capsys.readouterr().out))
    assert better > nearest + 5
    assert len(CODE) == 5


def checkpoint_bytes(name):
    return (files.root() / "data" / "checkpoints" / f"{name}.safetensors").stat().st_size


def test_relative_links_lead_to_files():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    missing = [link for link in links if not (files.root() / link.split("#")[0]).exists()]
    assert not missing


def test_pictures_have_alt_text_and_come_from_a_chapter():
    drawn = set()
    for path in (files.root() / "notebooks").rglob("[0-9]*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            for output in cell.get("outputs", []):
                drawn.add(base64.b64decode(output.get("data", {}).get("image/png", "")))
    pictures = re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", README)
    assert pictures
    for alt, link in pictures:
        assert len(alt) >= 20
        assert (files.root() / link).read_bytes() in drawn, f"{link} is not in a committed notebook"


def test_every_interval_in_the_readme_stands_in_a_committed_notebook():
    notebooks = "".join(
        path.read_text(encoding="utf-8") for path in (files.root() / "notebooks").rglob("[0-9]*.ipynb")
    )
    intervals = re.findall(r"[+-]?\d+\.\d+(?: %)? \[[^\]]+\]", README)
    assert intervals
    missing = [interval for interval in intervals if interval not in notebooks]
    assert not missing


def test_every_dependency_is_explained_and_pinned():
    project = tomllib.loads((files.root() / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(line for lines in extras.values() for line in lines)]
    names = {re.match(r"[\w.-]+", line)[0] for line in wanted}
    section = README.split("\n## Dependencies\n")[1].split("\n## ")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| ") and "---" not in line][
        1:
    ]
    told = {name.strip(): row[2] for row in rows for name in row[1].split(",")}
    assert set(told) == names
    for extra in set(extras) - {"test"}:
        for line in extras[extra]:
            assert f"extra `{extra}`" in told[re.match(r"[\w.-]+", line)[0]]
    pinned = re.findall(r"^([\w.-]+)==", (files.root() / "constraints.txt").read_text(), re.MULTILINE)
    one_form = [{re.sub(r"[-_.]+", "-", name).lower() for name in some} for some in (names, pinned)]
    assert one_form[0] <= one_form[1]
    recipe = (files.root() / "Makefile").read_text()
    installed = re.findall(r"-e '\.\[([\w,]+)\]'", recipe)
    assert {extra for group in installed for extra in group.split(",")} == set(extras)


def test_rows_on_real_data_say_where_they_come_from_and_how_to_repeat_them():
    section = README.split("\n## On real data\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if re.match(r"\| \d\d ", line)]
    shown = set()
    for row in rows:
        name = re.search(r"`(\d\d-[a-z0-9-]+)`", row)[1]
        record = records.load(name)
        assert records.origin(record) in row
        again = rf"`course run (studies/)?{name[:2]} --set real_data=run --set minutes={_budget(record):g}`"
        assert re.search(again, row)
        shown.add(name)
    folder = files.root() / "data" / "results"
    names = (path.stem for path in folder.glob("*.json"))
    assert shown == {name for name in names if _budget(records.load(name))}


def _budget(record):
    return record.get("configuration", record).get("budget")


def test_chapters_take_as_long_to_read_as_they_say_themselves():
    stated = dict(
        re.findall(r"^\| \[.*\]\(notebooks/([\w-]+)\.ipynb\) \|.*\| (\d+) min \|", README, re.MULTILINE)
    )
    measured = {
        chapter.name: str(notebooks.reading_minutes(notebooks.read(chapter.path)))
        for chapter in notebooks.chapters()
    }
    assert stated == measured


def test_every_record_is_described():
    described = (files.root() / "data" / "README.md").read_text(encoding="utf-8")
    records = {path.stem for path in (files.root() / "data" / "results").glob("*.json")}
    assert records
    assert records <= set(re.findall(r"^\| (\d\d-[\w-]+) \|", described, re.MULTILINE))
