"""The README and the pages that hold the rest are kept true: code runs, links lead somewhere, numbers have records."""

import re
import tomllib

import pytest

from course_lib import files
from course_lib.book import notebooks
from course_lib.book.run import show
from course_lib.book.site import cover, recorded
from course_lib.experiments import records
from tests.quantization.test_integer import largest_weight

README = (files.root() / "README.md").read_text(encoding="utf-8")
LINES = 150


def page(name):
    return (files.root() / "notebooks" / f"{name}.md").read_text(encoding="utf-8")


def code(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


SHORT, LONG = code(README), code(page("your-network"))


def test_the_readme_is_short():
    assert README.count("\n") <= LINES


@pytest.mark.bad_input  # tracing calls the library's functions on proxies, which are no tensors
def test_the_three_examples_of_the_readme_run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    distil, prune, quantize = SHORT
    exec(compile(distil, "README.md", "exec"), names)
    (student,) = re.findall(r"([\d.]+)% right", capsys.readouterr().out)
    assert float(student) > 60  # ten classes: guessing gives 10; alone it reaches less than 65
    exec(compile(prune, "README.md", "exec"), names)
    before, after = re.findall(r"([\d.]+) M parameters", capsys.readouterr().out)
    assert float(after) < 0.3 * float(before)
    exec(compile(quantize, "README.md", "exec"), names)  # goes on with what the first made
    rounded, size = re.search(r"([\d.]+)% right, ([\d,]+) bytes", capsys.readouterr().out).groups()
    assert abs(float(rounded) - float(student)) < 1
    assert int(size.replace(",", "")) == (tmp_path / "int8.onnx").stat().st_size


def test_the_code_for_your_own_network_runs_and_learns(capsys):
    exec(compile(LONG[0], "your-network.md", "exec"), {})
    teacher, student = (float(number) for number in re.findall(r"([\d.]+)%", capsys.readouterr().out))
    assert teacher > 50  # ten classes: guessing gives 10
    assert student > 40


@pytest.mark.bad_input  # tracing calls the library's functions on proxies, which are no tensors
def test_the_code_that_takes_channels_out_and_saves_what_is_left_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(LONG[1], "your-network.md", "exec"), names)
    printed = capsys.readouterr().out
    before, after = (float(count) for count in re.findall(r"([\d.]+) k parameters", printed))
    assert after < 0.75 * before  # half of the hidden layers of each block
    assert "reshapes them to the fixed size 96 (vision_transformer.py" in printed
    exec(compile(LONG[2], "your-network.md", "exec"), names)  # goes on with what the one before made
    assert capsys.readouterr().out == "True\n"
    assert [path.name for path in tmp_path.iterdir()] == ["smaller.safetensors"]


@pytest.mark.bad_input  # as above
def test_the_code_that_quantizes_runs_and_keeps_the_accuracy(capsys):
    names = {}
    exec(compile(LONG[3], "your-network.md", "exec"), names)
    printed = capsys.readouterr().out
    before, after = (float(number) for number in re.findall(r"([\d.]+)%", printed))
    assert abs(before - after) < 1
    assert int(re.search(r"(\d+) bytes", printed)[1]) < 0.27 * checkpoint_bytes("glyphs-vgg")
    in_onnx_runtime, loaded = re.findall(r"^(True|False)$", printed, re.MULTILINE)
    assert in_onnx_runtime == "True" or largest_weight() != 127
    assert loaded == "True"
    exec(compile(LONG[4], "your-network.md", "exec"), names)  # goes on with what the one before made
    nearest, better = (float(number) for number in re.findall(r"([\d.]+)%", capsys.readouterr().out))
    assert better > nearest + 5
    assert len(LONG) == 5


def checkpoint_bytes(name):
    return (files.root() / "data" / "checkpoints" / f"{name}.safetensors").stat().st_size


def test_relative_links_lead_to_files():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    missing = [link for link in links if not (files.root() / link.split("#")[0]).exists()]
    assert not missing


def test_the_picture_is_the_one_that_its_records_give():
    fresh, kept = cover.svg(), cover.path().read_text(encoding="utf-8")
    texts = [re.findall(r"<text[^>]*>(.*?)</text>", svg, re.DOTALL) for svg in (fresh, kept)]
    assert texts[0]
    assert texts[0] == texts[1], "draw it again: python -m course_lib.book.site.cover"
    assert len(kept) < 200_000
    place = cover.path().relative_to(files.root() / "notebooks").as_posix()
    alt = cover.draw().get_label()
    assert re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", README) == [(alt, f"notebooks/{place}")]
    assert re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page("index")) == [(alt, place)]


def test_what_a_command_prints_in_the_readme_are_figures_of_the_committed_notebooks():
    known = {}
    for chapter in notebooks.chapters():
        figures = notebooks.key_figures(notebooks.read(chapter.path))
        known[chapter.name] = {f"{name}: {show.figure(figure)}" for name, figure in figures.items()}
    shown, name = {}, None
    for chapter, figure in re.findall(r"^│ (.*?) +│ .*? │ (.*?) +│ .*? │$", README, re.MULTILINE):
        name = chapter.strip() or name
        shown.setdefault(name, set()).add(figure)
    assert shown
    assert shown == {name: known[name] for name in shown}


def test_every_dependency_is_explained_and_pinned():
    project = tomllib.loads((files.root() / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(line for lines in extras.values() for line in lines)]
    names = {re.match(r"[\w.-]+", line)[0] for line in wanted}
    section = page("dependencies").split("\n## ")[0]
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


def test_real_data_say_where_they_come_from_and_how_to_repeat_them():
    shown = set()
    for section in page("real-data").split("\n### ")[1:]:
        (name,) = re.findall(r"^Record `(\d\d-[a-z0-9-]+)`: ", section, re.MULTILINE)
        record = records.load(name)
        assert records.origin(record) in section
        again = (
            rf"`(course run (studies/)?{name[:2]} --set real_data=run --set minutes={_budget(record):g}|"
            rf"python -m course_lib.experiments {name})`"
        )
        assert re.search(again, section)
        assert (record.get("seed") or "") in section
        shown.add(name)
    folder = files.root() / "data" / "results"
    names = (path.stem for path in folder.glob("*.json"))
    assert shown == {name for name in names if _budget(records.load(name))}


def _budget(record):
    return record.get("configuration", record).get("budget")


def test_readme_and_index_list_every_chapter_alike_with_its_times():
    """`test_prose` holds what stands between the marks, and `test_form` the minutes to what is measured."""
    row = r"^\| \[(.*?)\]\((?:notebooks/)?([\w-]+)\.ipynb\) \| (.*?) \| (.*?) \| (.*?) \|$"
    tables = [re.findall(row, text, re.MULTILINE) for text in (README, page("index"))]
    assert tables[0] == tables[1]
    for (title, name, _, read, run), chapter in zip(tables[0], notebooks.chapters(), strict=True):
        assert (title, name) == (chapter.title.partition(":")[0], chapter.name)
        assert re.fullmatch(rf"<!--={name[:2]}.minutes_to_read-->\d+ min<!--/-->", read)
        assert re.fullmatch(rf"<!--={name[:2]}.seconds_to_run-->\d+ s<!--/-->", run)


def test_results_name_their_records_and_what_a_seed_is():
    """A row names a record of its chapter, with so many runs, and what differs between them stands above the table."""
    sections = re.findall(
        r"^### Chapter (\d\d): .*?$(.*?)(?=^###? |^```)", page("results"), re.MULTILINE | re.DOTALL
    )
    assert [number for number, _ in sections] == [chapter.number for chapter in notebooks.chapters()]
    for number, section in sections:
        rows = re.findall(r"^\| .* \| ([\d,]+) (\w+) \| (?:`([\w-]+)`|-) \|$", section, re.MULTILINE)
        assert len(rows) == section.count("\n| ") - 1
        for count, of, name in rows:
            assert name.startswith(number) or (not name and (count, of) == ("1", "network"))
            if name:
                assert records.load(name)["seed"] in section
                (record,) = recorded.select([name])
                runs = {len(figure.values) for arm in record.arms.values() for figure in arm.values()}
                assert of in ("candidates", "pools", "network") or int(count) in runs, name


def test_every_record_is_described():
    described = (files.root() / "data" / "README.md").read_text(encoding="utf-8")
    records = {path.stem for path in (files.root() / "data" / "results").glob("*.json")}
    assert records
    assert records <= set(re.findall(r"^\| (\d\d-[\w-]+) \|", described, re.MULTILINE))
