"""`course results` on a made-up checkout."""

import json

import PIL.Image
import pytest

from course_lib import page
from course_lib.book.run import sweep
from course_lib.book.site import recorded
from course_lib.experiments import catalogue, records
from course_lib.experiments.experiment import Experiment
from course_lib.statistics import mean_interval

pytestmark = pytest.mark.bad_input

LEARNED = {(rate, seed): 0.5 + rate + seed / 100 for rate in (0.1, 0.2) for seed in range(3)}


@pytest.fixture
def kept(book):
    """Two records of `records.save` and a sweep with one failure."""
    rows = [
        {"net": "vgg", "rate": rate, "seed": seed, "test": value, "macs": 1000}
        for (rate, seed), value in LEARNED.items()
    ]
    records.save("01-rates", rows, {"dataset": "glyphs", "epochs": 3})
    records.save("02-sizes", [{"layer": "first", "weights": 10}, {"layer": "second", "weights": 30}], {})
    folder = book.root / "build" / "sweep" / "00-a"
    folder.mkdir(parents=True)
    shown = {
        seed: {name: page._key_figure(name, figure) for name, figure in reported.items()}
        for seed, reported in enumerate(
            [
                {"accuracy": (0.95, ".1%"), "size": (4, ".0f", "MB")},
                {"accuracy": (0.96, ".1%"), "size": (4, ".0f", "MB")},
            ]
        )
    }
    runs = {
        str(seed): {
            "figures": figures,
            "failure": None,
            "provenance": records.provenance() | {"date": f"2026-01-0{seed + 1}"},
        }
        for seed, figures in shown.items()
    }
    runs["2"] = {"figures": {}, "failure": {"cell": 1, "line": "", "error": "E"}, "provenance": {}}
    configuration = {
        "chapter": "00-a",
        "parameters": {"dataset_name": "mnist", "seeds": 3},
        "source_sha256": "",
    }
    content = {
        "name": "sweep-00-a",
        "version": sweep._VERSION,
        "title": "First",
        "configuration": configuration,
        "runs": runs,
    }
    (folder / "sweep.json").write_text(json.dumps(content))
    return book


def lines(text):
    """The cells of a table, a list for each row."""
    return [
        [cell.strip() for cell in row.split("│")[1:-1]] for row in text.splitlines() if row.startswith("│")
    ]


def test_all_records_are_listed_with_what_tells_them_apart(kept):
    ended = kept.course("results")
    assert ended.status == 0
    date, commit = records.provenance()["date"], records.provenance()["commit"]
    assert lines(ended.out) == [
        [
            "01-rates",
            "rate",
            "0-2",
            "glyphs",
            records.provenance()["device"],
            date,
            commit,
            recorded.NOT_KEPT,
        ],
        ["02-sizes", "layer", "", "", records.provenance()["device"], date, commit, recorded.NOT_KEPT],
        [
            "sweep/00-a",
            "First (failed: seed 2)",
            "0-1",
            "mnist",
            records.provenance()["device"],
            "2026-01-01, 2026-01-02",
            commit,
            "",
        ],
    ]


def measure(run, shared, method):
    return {"test": run["rate"] + run["seed"] / 100, "test_parts": [0.1, 0.2], "by": str(run["width"])}


@pytest.fixture
def experiment(book, monkeypatch):
    """One that is in the catalogue, with its record in the form of experiments."""
    runs = tuple({"rate": rate, "seed": seed} for rate in (0.1, 0.2) for seed in range(3))
    runs += ({"rate": 0.2, "width": 64, "seed": 0},)
    made = Experiment("99-rates", runs, measure, defaults={"width": 32}, dataset="MNIST", minutes=5)
    made.record(workers=1)
    monkeypatch.setattr(catalogue, "experiments", lambda: {made.name: made})
    return made


def test_the_record_of_an_experiment_is_shown_with_defaults_and_without_parts(book, experiment):
    ended = book.course("results", "99-rates")
    assert (ended.status, ended.err) == (0, "")
    assert "99-rates: rate, width\n" in ended.out
    assert 'configuration {"dataset": "MNIST", "budget": 5, "width": 32}\n' in ended.out
    assert "the code that measured: as now\n" in ended.out
    intervals = [str(mean_interval([rate, rate + 0.01, rate + 0.02])) for rate in (0.1, 0.2)]
    assert lines(ended.out) == [
        ["rate 0.1, width 32", "test", "3", intervals[0]],
        ["", "by", "3", "32, in every run"],
        ["rate 0.2, width 32", "test", "3", intervals[1]],
        ["", "by", "3", "32, in every run"],
        ["rate 0.2, width 64", "test", "1", "0.2"],
        ["", "by", "1", "64"],
    ]


@pytest.mark.parametrize(("digest", "said"), [(None, "as now"), ("0123456789abcdef", "changed since")])
def test_the_listing_says_whether_the_measuring_code_has_changed(book, experiment, digest, said):
    record = records.load("99-rates")
    records.keep(record | {"code": digest or record["code"]})
    (line,) = lines(book.course("results").out)
    assert (line[0], line[1], line[3], line[-1]) == ("99-rates", "rate, width", "MNIST", said)


def test_the_record_of_an_experiment_that_is_gone_says_so(book, experiment, monkeypatch):
    monkeypatch.setattr(catalogue, "experiments", dict)
    assert lines(book.course("results").out)[0][-1] == "no longer there"


def test_a_record_is_shown_by_arm_with_means_and_intervals(kept):
    ended = kept.course("results", "01-rates", "02-sizes")
    assert ended.status == 0
    assert "01-rates: rate\n" in ended.out
    assert 'configuration {"dataset": "glyphs", "epochs": 3}' in ended.out
    assert f"seeds 0-2; date {records.provenance()['date']}" in ended.out
    intervals = [mean_interval([LEARNED[rate, seed] for seed in range(3)]) for rate in (0.1, 0.2)]
    assert lines(ended.out) == [
        ["rate 0.1", "test", "3", str(intervals[0])],
        ["", "macs", "3", "1000, in every run"],
        ["rate 0.2", "test", "3", str(intervals[1])],
        ["", "macs", "3", "1000, in every run"],
        ["layer first", "weights", "1", "10"],
        ["layer second", "weights", "1", "30"],
    ]


@pytest.mark.parametrize("by_path", [False, True])
def test_a_sweep_is_shown_over_the_seeds_that_passed(kept, by_path):
    name = str(kept.root / "build" / "sweep" / "00-a") if by_path else "sweep/00-a"
    ended = kept.course("results", name)
    assert ended.status == 0
    assert lines(ended.out) == [
        ["accuracy", "2", "95.5 % [89.1, 101.9]"],
        ["size", "2", "4 MB, in every run"],
    ]
    assert f"{name}: First (failed: seed 2)\n" in ended.out
    assert (
        "the interval is too narrow" in ended.out
    )  # seeds 0 and 1 of a chapter that runs three seeds itself


def test_settings_stand_before_the_seed_and_missing_ones_tell_arms_apart():
    rows = [
        {"by": "norm", "tune": [], "seed": 0, "test": 0.5},
        {"by": "norm", "tune": [1], "seed": 0, "test": 0.6, "tuned": 0.7},
        {"by": "norm", "seed": 1, "test": 0.8},
    ]
    record = recorded.of_rows({"name": "r", "configuration": {}, "provenance": {}, "rows": rows})
    assert record.what == "tune"
    assert {
        arm: {name: str(figure) for name, figure in measured.items()} for arm, measured in record.arms.items()
    } == {
        "tune []": {"test": "0.5"},
        "tune [1]": {"test": "0.6", "tuned": "0.7"},
        "": {"test": "0.8"},
    }


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_a_record_is_drawn(kept, tmp_path, suffix):
    for name in ("01-rates", "02-sizes", "sweep/00-a"):
        path = tmp_path / "figures" / f"drawn.{suffix}"
        ended = kept.course("results", name, "--plot", path)
        assert (ended.status, ended.out) == (0, f"Drawn: {path}\n")
        begins = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
        assert path.read_bytes().startswith(begins)
        if suffix == "png":
            assert len(PIL.Image.open(path).getcolors(1 << 20)) > 10


def test_what_is_drawn_is_what_is_shown(kept):
    interval = mean_interval([LEARNED[0.2, seed] for seed in range(3)])
    panels = recorded._panels(recorded.select(["01-rates"])[0])
    assert panels["test"]["rate 0.2"] == (interval.mean, interval.low, interval.high)
    assert panels["macs"] == {"rate 0.1": (1000, 1000, 1000), "rate 0.2": (1000, 1000, 1000)}
    swept = recorded._panels(recorded.select(["sweep/00-a"])[0])
    assert list(swept) == ["%", "MB"]
    assert swept["%"]["accuracy"][0] == 95.5
    axes = recorded._draw(panels, "title").axes
    assert [axis.get_title(loc="left") or axis.get_title() for axis in axes] == ["test", "macs"]
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["rate 0.1", "rate 0.2"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["01-rate"],
            "unknown record '01-rate'. Did you mean '01-rates'? Known: 01-rates, 02-sizes, sweep/00-a.",
        ),
        (["--plot", "a.png"], "--plot draws one record and 3 are meant; name one"),
        (["01-rates", "--plot", "a.gif"], "--plot a.gif: give a file that ends in .png, .pdf, .svg"),
        (["01-rates", "--plot", "file/a.png"], "cannot write into file"),
    ],
)
def test_a_mistake_is_one_message_on_stderr(kept, monkeypatch, words, message):
    monkeypatch.chdir(kept.root)
    (kept.root / "file").touch()
    ended = kept.course("results", *words)
    assert (ended.status, ended.out) == (2, "")
    assert message in ended.err
    assert not list(kept.root.glob("a.*"))


def test_nothing_recorded_and_nothing_to_draw_say_so(book):
    assert "nothing is recorded yet" in book.course("results").err
    records.save("01-names", [{"seed": 0, "net": "vgg"}], {})
    ended = book.course("results", "01-names", "--plot", "a.png")
    assert "01-names holds no figure that is a number" in ended.err


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"rows": []}', '{"name": "a", "rows": [3]}', '{"name": "a", "runs": [3]}']
)
def test_a_damaged_record_is_named_with_the_command_that_mends_it(kept, text):
    (kept.root / "data" / "results" / "01-rates.json").write_text(text)
    ended = kept.course("results")
    assert ended.status == 2
    assert "01-rates.json is damaged" in ended.err
    assert "Restore it: git checkout -- data/results/01-rates.json" in ended.err
