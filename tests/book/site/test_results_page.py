"""The generated part of the page of results, made from a made-up checkout."""

import json

import nbformat
import pytest

from course_lib import page
from course_lib.book import notebooks
from course_lib.book.site import recorded, results_page
from course_lib.experiments import records
from course_lib.statistics import mean_interval


@pytest.fixture
def checkout(book, figures):
    """Two chapters that report a figure, one of them with records."""
    for name in ("01-first", "02-second"):
        path = book.add(name, figures(accuracy="95.0%"))
        notebook = nbformat.read(path, as_version=4)
        data = {page.KEY_FIGURES: {"top | one": page._key_figure("top", (0.95, ".1%"))}, "text/plain": ""}
        notebook.cells[-1].outputs = [nbformat.v4.new_output("display_data", data)]
        nbformat.write(notebook, path)
    rows = [{"net": net, "seed": s, "test": s / 10} for net in ("a_b", "c") for s in range(3)]
    records.save("01-nets", rows, {"dataset": "glyphs", "note": "`quoted`"})
    records.save("01-real", rows, {"dataset": "MNIST", "budget": 5})
    return book


def run(book, profile="fast", changed=False, failure=None):
    """What `course run 01` leaves."""
    sha = notebooks.chapters()[0].source_sha256
    chapter = {
        "source_sha256": "old" if changed else sha,
        "library_sha256": "",
        "parameters": {},
        "seconds": 12.34,
        "figures": {"top | one": page._key_figure("top", (0.94, ".1%"))},
        "failure": failure,
    }
    state = {"settings": {"profile": profile, "seed": None, "set": []}, "chapters": {"01-first": chapter}}
    book.out.mkdir(parents=True)
    (book.out / "run.json").write_text(json.dumps(state))


def cells(text, heading):
    """The rows of the first table below a heading, without its head."""
    lines = text.split(f"## {heading}\n")[1].split("\n## ")[0].splitlines()
    rows = [line for line in lines if line.startswith("|")][2:]
    return [[cell.strip() for cell in row.replace(r"\|", "¦").strip("|").split("|")] for row in rows]


FIRST, SECOND = "[Title of 01-first](01-first.ipynb)", "[Title of 02-second](02-second.ipynb)"


def test_without_a_run_the_page_holds_records_and_says_how_to_add_a_run(checkout):
    text = results_page.markdown()
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == ["## Recorded experiments", "## Key figures", "## Run times on this machine"]
    assert "not run" not in text
    assert cells(text, "Key figures") == [[FIRST, "top ¦ one", "95.0%"], [SECOND, "top ¦ one", "95.0%"]]
    assert cells(text, "Run times on this machine") == []
    assert "`make course`" in text.split("## Run times on this machine")[1]
    assert "Nothing is recorded for this chapter." in text.split("### Title of 02-second\n")[1]


@pytest.mark.parametrize(
    ("profile", "changed", "seconds"),
    [
        ("fast", False, "12.3 s"),
        ("full", False, "12.3 s"),
        ("fast", True, "12.3 s, before the notebook last changed"),
    ],
)
def test_what_ran_on_this_machine_stands_beside_the_notebook(checkout, profile, changed, seconds):
    run(checkout, profile, changed)
    text = results_page.markdown()
    assert cells(text, "Run times on this machine") == [[FIRST, seconds]]
    assert f"`--profile {profile}`" in text
    assert [line[3] for line in cells(text, "Key figures")] == ["94.0%", ""]


def test_a_failed_chapter_shows_its_error_and_no_time(checkout):
    run(checkout, failure={"cell": 3, "line": "x[0]", "error": "IndexError: `x`"})
    row = cells(results_page.markdown(), "Run times on this machine")[0]
    assert row[1] == r"failed in In \[3\]: x\[0\] IndexError: \`x\`"
    assert "12.3" not in row[1]


def test_records_stand_below_their_chapter_with_means_and_intervals(checkout):
    text = results_page.markdown()
    first = text.split("### Title of 01-first\n")[1].split("### ")[0]
    assert "On real data: `01-real`." in first
    assert "On real data" not in text.replace(first, "")
    assert first.count("<details>") == first.count("</details>") == 2
    assert "<summary>01-nets: net</summary>" in first
    interval = str(mean_interval([0.0, 0.1, 0.2])).replace("[", r"\[").replace("]", r"\]")
    assert f"| net a\\_b | test | 3 | {interval} |" in first
    assert records.origin(records.load("01-real")).split(",")[0] in first
    assert "budget 5 minutes" in first
    assert '`{"dataset": "glyphs", "note": "\'quoted\'"}`' in first


def test_a_record_says_what_differs_from_one_seed_to_the_next():
    runs = [{"settings": {"T": 1, "seed": seed}, "metrics": {"test": 0.5}} for seed in (0, 1)]
    told = {"seed": "the weights [all of them]", "defaults": {}, "provenance": {}, "runs": runs}
    shown = [
        results_page._experiment(recorded.of_runs({"name": "01-t", **told} | change))
        for change in ({}, {"seed": None})
    ]
    assert "From one seed to the next differ: the weights \\[all of them\\]." in shown[0]
    assert "From one seed" not in shown[1]


def test_a_checkout_without_records_still_has_a_page(book):
    book.add("01-first")
    text = results_page.markdown()
    assert "No chapter reports any." in text
    assert "<details>" not in text


@pytest.mark.bad_input
def test_a_damaged_run_says_what_is_damaged(checkout):
    checkout.out.mkdir(parents=True)
    (checkout.out / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        results_page.markdown()
