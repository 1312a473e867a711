"""The page of benchmarks shows the record, whole, partial or empty; nothing measured beside other work is kept."""

import json
import re
from types import SimpleNamespace

import pytest

from course_lib import files
from tests.benchmarks import __main__ as bench
from tests.benchmarks import record
from tests.benchmarks.row import Row, spread

PAGE = "Words.\n\n" + "\n".join(
    f"<!--table: {name}-->\n{old}<!--end-->\n" for name, old in (("machines", ""), ("a", "old\n"), ("b", ""))
)
FAST = Row("fit / loop", "20 ms", "60 ms", "3.00", ">= 2.00", "yes", "2.90 to 3.10")
SLOW = Row("cut / a | b", "20 ms", "10 ms", "0.50", ">= 1.00", "no")


def test_the_committed_page_is_that_of_the_committed_record():
    page = (files.root() / "notebooks" / "benchmarks.md").read_text(encoding="utf-8")
    assert record.filled(page, record.read()) == page, "make bench writes both"
    assert sorted(record.blocks(page)) == sorted(["machines", *bench.GROUPS])


def test_everything_in_the_committed_record_says_where_it_was_measured():
    for name, measured in record.read().items():
        assert name in bench.GROUPS
        assert all(measured["machine"].values()), name
        assert re.fullmatch(r"[0-9a-f]{12}", measured["commit"]), name
        assert measured["rows"], name
        assert all(set(row) == set(Row._fields) for row in measured["rows"])


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A page and a record of the test's own, two groups, a quiet machine, and code as it is committed."""
    monkeypatch.setattr(record, "FILE", tmp_path / "record.json")
    monkeypatch.setattr(record, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(record, "changed", lambda: "")
    record.PAGE.write_text(PAGE)
    asked = []
    told = SimpleNamespace(busy=[], pairs=asked, cpu="Abacus")
    monkeypatch.setattr(bench.quiet, "trouble", lambda: told.busy.pop(0) if told.busy else "")
    about = {"commit": "0123456789ab+", "date": "2030-01-02", "versions": {"torch": "2.0", "python": "3.12"}}
    monkeypatch.setattr(record, "provenance", lambda: about | {"cpu": told.cpu})
    groups = {
        "a": bench.Group(lambda pairs: iter([asked.append(pairs) or FAST])),
        "b": bench.Group(lambda pairs: iter([SLOW]), None, timed=False),
    }
    monkeypatch.setattr(bench, "GROUPS", groups)
    return told


def test_an_empty_record_says_that_nothing_was_measured():
    filled = record.filled(PAGE, {})
    assert "Nothing has been measured yet: `make bench`." in filled
    assert filled.count("Not measured yet: `make bench ARGS=") == 2
    assert "old" not in filled
    assert record.filled(filled, {}) == filled


def test_all_groups_are_measured_and_stand_in_record_and_page(place):
    bench.main([])
    page = record.PAGE.read_text()
    assert "| what | ours | peer | ratio | spread | goal | reached | machine |" in page
    assert "| fit / loop | 20 ms | 60 ms | 3.00 | 2.90 to 3.10 | >= 2.00 | yes | A |" in page
    assert "2030-01-02, commit 0123456789ab, medians of 5 pairs of runs that take turns." in page
    # A group without a spread has no column for one, and one without pairs says nothing of them.
    assert "| cut / a \\| b | 20 ms | 10 ms | 0.50 | >= 1.00 | no | A |" in page
    assert "2030-01-02, commit 0123456789ab.\n" in page
    assert "1 of 2 goals are reached. Not reached:\n\n- cut / a | b\n" in page
    assert "| A | Abacus | " in page
    assert place.pairs == [5]


def test_a_group_measured_again_elsewhere_replaces_its_rows_alone(place):
    bench.main(["a"])
    assert "Not measured yet: `make bench ARGS='b'`" in record.PAGE.read_text()
    place.cpu = "Abacus II"
    bench.main(["b", "--threads", "1", "--repeats", "7"])
    page = record.PAGE.read_text()
    assert "| A | Abacus | " in page
    assert "| B | Abacus II | " in page
    assert "| yes | A |" in page
    assert "| no | B |" in page
    bench.main(["a", "--repeats", "7"])
    assert place.pairs == [5, 7]
    assert [measured["machine"]["processor"] for measured in record.read().values()] == ["Abacus II"] * 2
    assert "| B |" not in record.PAGE.read_text()


@pytest.mark.parametrize("busy", [["busy"], ["", "busy"]], ids=["before", "after"])
def test_times_of_a_busy_machine_are_not_kept_and_counts_are(place, busy):
    place.busy = list(busy)
    with pytest.raises(SystemExit, match=r"^a is left as it was: busy$"):
        bench.main([])
    assert list(record.read()) == ["b"]
    assert len(place.pairs) == len(busy) - 1
    assert json.loads(record.FILE.read_text())["b"]["pairs"] is None


def test_what_is_only_printed_is_not_kept_and_not_checked(place, capsys):
    place.busy = ["busy"]
    bench.main(["a", "--print"])
    assert "2.90 to 3.10" in capsys.readouterr().out
    assert record.read() == {}
    assert record.PAGE.read_text() == PAGE


@pytest.mark.parametrize(
    ("words", "said"), [(["c"], "there is no c; there are a, b"), (["a"], "commit first.*: course_lib/x.py")]
)
def test_unknown_groups_and_changed_code_are_refused(place, monkeypatch, capsys, words, said):
    monkeypatch.setattr(record, "changed", lambda: "course_lib/x.py")
    with pytest.raises(SystemExit):
        bench.main(words)
    assert re.search(said, capsys.readouterr().err)
    assert not place.pairs


def test_a_spread_goes_from_the_smallest_to_the_largest():
    assert spread(x / 2 for x in (3, 1, 2)) == "0.50 to 1.50"
    assert spread([0.1, -0.25], "+.1f") == "-0.2 to +0.1"
