"""`course refresh`: in place, in one form, and never a failing notebook over a good one."""

import pytest

from course_lib.book import notebooks
from course_lib.book.run import quiet

pytestmark = pytest.mark.bad_input


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch):
    """The answers of `quiet.trouble`, one after the other, then that all is quiet; each that is asked is taken out."""
    answers = []
    monkeypatch.setattr(quiet, "trouble", lambda: answers.pop(0) if answers else "")
    return answers


def test_refresh_runs_in_place_normalises_and_is_idempotent(book):
    noisy = "import sys\nprint('one')\nprint('noise', file=sys.stderr, flush=True)\nprint('two')\nseed"
    path = book.add("00-a", noisy)
    book.add("01-b", "raise ValueError('never run')")
    untouched = book.path("01-b").read_bytes()
    assert book.course("refresh", "00", "--check").status == 1

    ended = book.course("refresh", "00")
    assert ended.status == 0, ended.err
    once = path.read_bytes()
    notebook = notebooks.read(path)
    assert [cell.id for cell in notebook.cells] == ["title", "parameters", "code-0"]
    assert [cell.execution_count for cell in notebook.cells[1:]] == [1, 2]
    printed, value = notebook.cells[2].outputs
    assert (printed.name, printed.text) == ("stdout", "one\ntwo\n")
    assert value.data["text/plain"] == "0"
    assert "papermill" not in path.read_text()
    checked = book.course("refresh", "00", "--check")
    assert (checked.status, checked.out) == (0, "notebooks: 1, faults: 0\n")

    assert book.course("refresh", "00").status == 0
    assert path.read_bytes() == once
    assert book.path("01-b").read_bytes() == untouched
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["00-a.ipynb", "01-b.ipynb"]


def test_studies_are_refreshed_in_place_and_named_by_their_folder(book):
    book.add("00-a", "print(1)")
    studies = book.add("studies/00-a", "print(2)")
    before = book.path("00-a").read_bytes()
    assert book.course("refresh", "studies/00").status == 0
    assert notebooks.read(studies).cells[2].outputs[0].text == "2\n"
    assert book.path("00-a").read_bytes() == before
    assert "studies/00-a" not in book.course("refresh", "--check").out
    assert book.course("refresh", "--check", "studies/00").out == "notebooks: 1, faults: 0\n"


def test_numbers_in_prose_are_those_of_the_run(book, figures):
    gain = {"value": 0.07, "form": ".1%", "unit": "", "shown": "7.0%"}
    named = "display({'application/vnd.course.key-figures+json': {'T': '8'}}, raw=True)"
    path = book.add("01-a", figures(**{"the gain": gain}), named)
    studies = book.add("studies/01-a", figures(gain="more"))
    for place, text in (
        (
            path,
            "One <!--=the_gain-->?<!--/-->, T <!--=T--><!--/-->, <!--=studies/01.gain-->?<!--/-->; `<!--=x-->`.",
        ),
        (studies, "In the chapter <!--=01.the_gain-->?<!--/-->."),
    ):
        notebook = notebooks.read(place)
        notebook.cells[0].source += f"\n\n{text}"
        place.write_text(notebooks.to_text(notebook))
    readme = book.root / "README.md"
    readme.write_text("| <!--=01.the_gain-->8.0%<!--/--> | <!--=1.the_gain-->9<!--/--> |\n")
    page = path.parent / "page.md"
    page.write_text("It is <!--=studies/01.gain-->less<!--/-->.\n")

    checked = book.course("refresh", "--check")
    assert checked.status == 1
    assert "01-a: <!--=the_gain-->: unknown figure 'the gain'. Known: none." in checked.out

    ended = book.course("refresh")
    assert ended.status == 1
    wrong = "README.md: <!--=1.the_gain-->: unknown figure '1.the gain'. Did you mean '01.the gain'?"
    assert ended.err.startswith(wrong)
    assert ended.err.count("\n") == 1
    assert (
        notebooks.read(path)
        .cells[0]
        .source.endswith(
            "One <!--=the_gain-->7.0%<!--/-->, T <!--=T-->8<!--/-->, <!--=studies/01.gain-->more<!--/-->; `<!--=x-->`."
        )
    )
    assert notebooks.read(studies).cells[0].source.endswith("<!--=01.the_gain-->7.0%<!--/-->.")
    assert readme.read_text() == "| <!--=01.the_gain-->7.0%<!--/--> | <!--=1.the_gain-->9<!--/--> |\n"
    assert page.read_text() == "It is <!--=studies/01.gain-->more<!--/-->.\n"
    assert book.course("refresh", "--check").out.splitlines()[0].startswith(wrong)

    readme.write_text("| <!--=01.the_gain-->8.0%<!--/--> |\n")
    page.write_text("It is <!--=gain-->more<!--/-->.\n")
    checked = book.course("refresh", "--check", "studies/01")
    assert checked.out.startswith("page.md: <!--=gain-->: unknown figure 'gain'")
    page.unlink()
    checked = book.course("refresh", "--check", "studies/01")
    assert checked.out.startswith("README.md: <!--=01.the_gain--> holds '8.0%', and the run gave '7.0%'")


def test_a_notebook_that_fails_is_left_untouched_and_reported(book):
    path = book.add("00-bad", "1 / 0")
    before = path.read_bytes()
    ended = book.course("refresh")
    assert ended.status == 1
    assert (
        "00-bad is left as it was: failed in In [2] (cell code-0): 1 / 0\nZeroDivisionError: div" in ended.err
    )
    assert path.read_bytes() == before


def test_check_runs_nothing_and_names_every_fault(book):
    path = book.add("00-a", book.counting("a"))
    before = path.read_bytes()
    ended = book.course("refresh", "--check")
    assert ended.status == 1
    assert "00-a: notebook metadata is not normalised" in ended.out
    assert "00-a: execution counts are not" in ended.out
    assert "mend them: course refresh" in ended.out
    assert book.times("a") == 0
    assert path.read_bytes() == before


def test_nothing_is_run_on_a_busy_machine_unless_it_is_wanted(book, quiet_machine):
    path = book.add("00-a", book.counting("a"))
    before = path.read_bytes()
    quiet_machine[:] = ["this machine is busy: so much"]
    ended = book.course("refresh")
    assert (ended.status, book.times("a")) == (2, 0)
    assert ended.err == (
        "course: this machine is busy: so much. Nothing was run: wait until it is quiet, or add --anyway\n"
    )
    assert path.read_bytes() == before
    quiet_machine[:] = ["busy", "busy"]
    assert book.course("refresh", "--anyway").status == 0
    assert (book.times("a"), len(quiet_machine)) == (1, 2)
    assert path.read_bytes() != before


def test_a_notebook_after_which_the_machine_is_busy_is_left_as_it_was(book, quiet_machine):
    paths = [book.add(name, "print(1)") for name in ("00-a", "01-b")]
    before = [path.read_bytes() for path in paths]
    quiet_machine[:] = ["", "this machine is busy: so much", ""]
    ended = book.course("refresh")
    assert ended.status == 1
    assert ended.err == (
        "00-a is left as it was: this machine is busy: so much. Run it again, or add --anyway\n"
    )
    assert paths[0].read_bytes() == before[0]
    assert paths[1].read_bytes() != before[1]
