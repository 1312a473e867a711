"""Records: what is kept is whole and true, and a part of it is measured again."""

import datetime
import math
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
import torch

from course_lib import files
from course_lib.experiments import records

CONFIGURATION = {"dataset": "glyphs", "seeds": [0, 1], "recipe": {"epochs": 2}}
ROWS = [
    {"temperature": 4.0, "accuracy": 0.75, "arm": "distilled"},
    {"temperature": 1, "accuracy": 0.5, "arm": "alone"},
]


@pytest.fixture
def home(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("COURSE_HOME", str(tmp_path))
    return tmp_path


# Records


def test_a_record_comes_back_as_it_was_saved_with_its_provenance(home):
    path = records.save("01-sweep", ROWS, CONFIGURATION)
    assert path == home / "data" / "results" / "01-sweep.json"
    record = records.load("01-sweep")
    assert record["name"] == "01-sweep"
    assert record["rows"] == ROWS
    assert record["configuration"] == CONFIGURATION
    provenance = record["provenance"]
    assert provenance["versions"]["torch"] == torch.__version__
    assert provenance["commit"] == "unknown"  # the folder is no checkout
    age = datetime.datetime.now(datetime.UTC).date() - datetime.date.fromisoformat(provenance["date"])
    assert age.days in (0, 1)
    assert files.checksums() == {"results/01-sweep.json": files.sha256(path)}


@pytest.mark.usefixtures("home")
def test_a_second_save_replaces_the_first():
    records.save("sweep", ROWS, CONFIGURATION)
    records.save("sweep", ROWS[:1], CONFIGURATION)
    assert records.load("sweep")["rows"] == ROWS[:1]
    assert len(files.checksums()) == 1


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_recorded_and_marked_where_the_code_differs_from_it(home):
    def git(*arguments):
        identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
        call = ["git", *identity, *arguments]
        return subprocess.run(call, cwd=home, check=True, capture_output=True, text=True).stdout.strip()

    (home / "course_lib").mkdir()
    (home / "course_lib" / "a.py").write_text("a = 1\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    head = git("rev-parse", "--short=12", "HEAD")
    records.save("sweep", ROWS, {})  # data/ changes, which is no change of the code
    assert records.load("sweep")["provenance"]["commit"] == head
    records.save("sweep", ROWS, {})
    assert records.load("sweep")["provenance"]["commit"] == head
    (home / "course_lib" / "a.py").write_text("a = 2\n")
    records.save("sweep", ROWS, {})
    assert records.load("sweep")["provenance"]["commit"] == head + "+"


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([], ValueError, "the record 'sweep' would hold no rows; nothing was written"),
        (
            [{"accuracy": math.nan}],
            ValueError,
            "the record 'sweep' cannot be kept.*look at the run that gave NaN",
        ),
        ([{"accuracy": math.inf}], ValueError, "the record 'sweep' cannot be kept"),
        ([{"accuracy": np.float64("nan")}], ValueError, "the record 'sweep' cannot be kept"),
        ([{"accuracy": torch.tensor(0.5)}], TypeError, r"cannot be kept.*call \.item\(\) on tensors"),
        ([{"accuracy": np.float32(0.5)}], TypeError, "the record 'sweep' cannot be kept"),
    ],
)
def test_what_is_no_measurement_is_refused_and_the_earlier_record_stays(home, rows, error, message):
    path = records.save("sweep", ROWS, CONFIGURATION)
    content, listing = path.read_bytes(), files.checksums()
    with pytest.raises(error, match=message):
        records.save("sweep", rows, CONFIGURATION)
    with pytest.raises(ValueError, match="'sweep' cannot be kept"):
        records.save("sweep", ROWS, {"learning_rate": math.nan})
    assert path.read_bytes() == content
    assert files.checksums() == listing


def test_an_interrupted_save_leaves_the_earlier_record(home, monkeypatch):
    path = records.save("sweep", ROWS, CONFIGURATION)
    content = path.read_bytes()

    def full_disk(self, text, **_):
        with open(self, "w") as stream:
            stream.write(text[: len(text) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(path), "write_text", full_disk)
        with pytest.raises(OSError, match=r"sweep\.json.*untouched.*Free some disk space"):
            records.save("sweep", ROWS[:1], CONFIGURATION)
    assert path.read_bytes() == content
    assert sorted(path.parent.iterdir()) == [path]


@pytest.mark.bad_input
def test_an_unknown_record_is_answered_with_the_nearest(home):
    with pytest.raises(KeyError, match=r"unknown record 'x'\. Known: none"):
        records.load("x")
    for name in ("01-temperature-alpha", "01-teachers"):
        records.save(name, ROWS, CONFIGURATION)
    with pytest.raises(
        KeyError, match=r"'01-temperature'\. Did you mean '01-temperature-alpha'.*Known: 01-teachers, 01"
    ):
        records.load("01-temperature")


# Records that are partly measured again

RUNS = [{"arm": arm, "widths": (8, 16), "seed": seed} for arm in ("alone", "distilled") for seed in range(5)]
SHARED = {"epochs": 2, "grid": (1, 2)}
MEASURED = {"alone": [0.60, 0.62, 0.61, 0.63, 0.59], "distilled": [0.70, 0.70, 0.70, 0.70, 0.70]}


def measuring(into, change=0.0):
    """An `execute` that keeps what it was asked and answers with MEASURED, plus a change."""

    def execute(runs):
        into.extend(runs)
        return [{"accuracy": MEASURED[run["arm"]][run["seed"]] + change} for run in runs]

    return execute


@pytest.fixture
def sweep(home):
    records.repeat("sweep", RUNS, measuring([]), recompute=True, configuration=SHARED)


def test_recomputing_measures_every_run_and_replaces_the_record(home):
    for change in (0.0, 0.1):
        asked = []
        frame = records.repeat("sweep", RUNS, measuring(asked, change), recompute=True, configuration=SHARED)
        assert asked == [run | {"widths": [8, 16]} for run in RUNS]
        expected = [MEASURED[run["arm"]][run["seed"]] + change for run in RUNS]
        assert frame["accuracy"].tolist() == expected
        assert frame[["arm", "seed"]].to_dict("records") == [{k: r[k] for k in ("arm", "seed")} for r in RUNS]
        assert [row["accuracy"] for row in records.load("sweep")["rows"]] == expected
    assert records.load("sweep")["configuration"] == {"epochs": 2, "grid": [1, 2]}


@pytest.mark.usefixtures("sweep")
@pytest.mark.parametrize("live", [(), (0,), (7, 2)])
def test_only_the_live_runs_are_measured_again_and_the_record_is_what_is_shown(live):
    asked = []
    frame = records.repeat("sweep", RUNS, measuring(asked, 0.01), live=live, configuration=SHARED)
    assert [(run["arm"], run["seed"]) for run in asked] == [(RUNS[n]["arm"], RUNS[n]["seed"]) for n in live]
    assert frame["accuracy"].tolist() == MEASURED["alone"] + MEASURED["distilled"]


@pytest.mark.usefixtures("sweep")
@pytest.mark.parametrize(
    ("place", "reach"),
    [
        (2, 8.610302 * math.sqrt(0.00025) * math.sqrt(1.2)),  # alone: s^2 = 0.001 / 4, t(0.9995, 4) = 8.6103
        (7, 0.03),  # distilled: no spread at all, so three points
    ],
)
def test_a_live_run_must_fall_in_the_prediction_interval_of_its_own_arm(place, reach):
    mean = [0.61, 0.70][place >= 5]

    def answer(value):
        records.repeat("sweep", RUNS, lambda runs: [{"accuracy": value}], live=(place,), configuration=SHARED)

    for sign in (-1, 1):
        answer(mean + sign * (reach - 1e-4))
        with pytest.raises(ValueError, match=r"run \{'arm': .*'sweep' gives accuracy = .* here, outside \["):
            answer(mean + sign * (reach + 1e-4))
    with pytest.raises(ValueError, match="gives accuracy = nan here"):
        answer(math.nan)


def test_a_live_run_of_an_arm_of_two_is_judged_by_the_scatter_of_all_arms(home):
    """Eleven pairs whose runs lie 2 or 4 points apart; by its own scatter each would have +-1.1 around its mean."""
    runs = [{"arm": arm, "seed": seed} for arm in range(11) for seed in range(2)]
    recorded = [{"accuracy": 0.6 + run["seed"] * (0.02 + 0.02 * (run["arm"] % 2))} for run in runs]
    records.repeat("pairs", runs, lambda runs: recorded, recompute=True)
    spread = math.sqrt((6 * 0.02**2 + 5 * 0.04**2) / 2 / 11)  # 11 degrees of freedom, t(0.9995, 11) = 4.43698
    reach = 4.43698 * spread * math.sqrt(1.5)
    for sign in (-1, 1):
        records.repeat("pairs", runs, lambda runs, s=sign: [{"accuracy": 0.61 + s * (reach - 1e-5)}])
        with pytest.raises(ValueError, match=r"gives accuracy = .* here, outside"):
            records.repeat("pairs", runs, lambda runs, s=sign: [{"accuracy": 0.61 + s * (reach + 1e-5)}])


def test_arms_may_have_metrics_of_their_own(home):
    runs = [{"arm": arm, "seed": seed} for arm in ("tuned", "not tuned") for seed in range(2)]

    def execute(runs):
        return [{"at once": 0.5} | ({"after": 0.9} if run["arm"] == "tuned" else {}) for run in runs]

    for recompute in (True, False):
        records.repeat("own", runs, execute, live=(0, 3), recompute=recompute)
    with pytest.raises(ValueError, match=r"gives after = 0\.5"):
        records.repeat("own", runs, lambda runs: [{"at once": 0.5, "after": 0.5}])


@pytest.mark.usefixtures("sweep")
@pytest.mark.parametrize(
    ("runs", "shared"),
    [
        (RUNS[:-1], SHARED),
        ([*RUNS, RUNS[0]], SHARED),
        (RUNS[::-1], SHARED),
        ([run | {"seed": run["seed"] + 1} for run in RUNS], SHARED),
        ([run | {"widths": (8, 8)} for run in RUNS], SHARED),
        ([run | {"temperature": 4.0} for run in RUNS], SHARED),
        (RUNS, SHARED | {"epochs": 3}),
        (RUNS, None),
    ],
)
def test_a_record_of_other_runs_is_not_passed_off_as_these(runs, shared):
    asked = []
    with pytest.raises(ValueError, match=r"'sweep' was made with other settings.*recompute = True"):
        records.repeat("sweep", runs, measuring(asked), configuration=shared)
    assert asked == []


@pytest.mark.usefixtures("sweep")
def test_runs_without_a_record_are_answered_with_the_nearest():
    with pytest.raises(KeyError, match=r"unknown record 'sweeps'.*'sweep'"):
        records.repeat("sweeps", RUNS, measuring([]), configuration=SHARED)


def test_a_failed_run_does_not_replace_the_record(sweep, home):
    before = records.load("sweep")
    with pytest.raises(ValueError, match="cannot be kept"):
        records.repeat("sweep", RUNS, measuring([], math.nan), recompute=True, configuration=SHARED)
    with pytest.raises(ValueError, match="zip"):  # fewer answers than runs
        records.repeat("sweep", RUNS, lambda runs: [{"accuracy": 0.5}], recompute=True, configuration=SHARED)
    assert records.load("sweep") == before


def test_the_record_of_another_data_set_has_a_name_of_its_own(sweep, home):
    theirs = SHARED | {"dataset": "CIFAR-10 (JPEG)"}
    records.repeat("sweep", RUNS, measuring([], 0.2), recompute=True, configuration=theirs)
    assert records.load("sweep")["rows"][0]["accuracy"] == 0.60  # as it was
    assert records.load("sweep-cifar-10-jpeg")["rows"][0]["accuracy"] == pytest.approx(0.80)
    frame = records.repeat("sweep", RUNS, measuring([], 0.2), live=(0,), configuration=theirs)
    assert frame["accuracy"][0] == pytest.approx(0.80)
    ours = SHARED | {"dataset": "glyphs"}
    records.repeat("sweep", RUNS, measuring([], 0.3), recompute=True, configuration=ours)
    assert records.load("sweep")["rows"][0]["accuracy"] == pytest.approx(0.90)


# Records on real data

REAL = ([{"arm": "alone", "seed": 0, "test": 0.5}], {"dataset": "MNIST", "budget": 2.5, "widths": (1, 2)})


def test_real_data_is_read_from_the_record_unless_it_is_to_be_measured(home):
    def never():
        raise AssertionError("nothing was to be measured")

    with pytest.raises(KeyError, match="unknown record 'real'"):
        records.on_real_data("real", never, "recorded")
    measured = records.on_real_data("real", lambda: REAL, "run")
    assert not (home / "data" / "results").exists()  # nothing is kept
    kept = records.on_real_data("real", lambda: REAL, "record")
    assert kept == records.on_real_data("real", never, "recorded")
    assert kept["provenance"].pop("minutes") >= 0
    assert measured["provenance"].pop("minutes") >= 0
    assert kept == measured
    assert kept["rows"] == REAL[0]
    assert kept["configuration"] == {"dataset": "MNIST", "budget": 2.5, "widths": [1, 2]}
    assert set(kept["provenance"]) == set(records.provenance())


def test_real_data_is_measured_with_a_thread_a_core_and_the_chapter_keeps_its_own(home, monkeypatch):
    threads, counts = torch.get_num_threads(), []
    monkeypatch.setattr("joblib.cpu_count", lambda: 2)

    def measure():
        counts.append(torch.get_num_threads())
        if len(counts) == 2:
            raise RuntimeError("stop")
        return REAL

    try:
        torch.set_num_threads(1)
        records.on_real_data("real", measure, "run")
        with pytest.raises(RuntimeError, match="stop"):
            records.on_real_data("real", measure, "record")
        assert (counts, torch.get_num_threads()) == ([2, 2], 1)
        assert not (home / "data" / "results").exists()
    finally:
        torch.set_num_threads(threads)


def test_a_record_on_real_data_says_how_long_it_took(home, monkeypatch):
    times = iter([100.0, 250.0])
    monkeypatch.setattr("course_lib.experiments.records.time.perf_counter", lambda: next(times))
    assert records.on_real_data("real", lambda: REAL, "run")["provenance"]["minutes"] == 2.5


def test_where_a_record_comes_from_stands_in_one_line(home):
    record = records.on_real_data("real", lambda: REAL, "run")
    record["provenance"] |= {
        "minutes": 2.0,
        "date": "2026-01-02",
        "commit": "abc",
        "device": "cpu",
        "cpu": "a processor",
    }
    record["provenance"]["versions"]["torch"] = "2.15.0"
    assert records.origin(record) == (
        "MNIST, budget 2.5 minutes, took 2, cpu (a processor), PyTorch 2.15.0, commit abc, 2026-01-02"
    )


@pytest.mark.bad_input
def test_a_record_on_real_data_must_say_its_data_set_and_budget(home):
    with pytest.raises(KeyError, match="unknown mode 'again'"):
        records.on_real_data("real", lambda: REAL, "again")
    for lost in ("dataset", "budget"):
        configuration = {key: value for key, value in REAL[1].items() if key != lost}
        with pytest.raises(KeyError, match=f"lacks '{lost}'"):
            records.on_real_data("real", lambda c=configuration: (REAL[0], c), "record")
    assert not (home / "data" / "results").exists()


def test_values_are_those_of_one_arm_in_the_order_of_seeds():
    frame = pd.DataFrame(
        [
            {"arm": "a", "ratio": 0.5, "seed": 1, "test": 0.7},
            {"arm": "b", "ratio": 0.5, "seed": 0, "test": 0.1},
            {"arm": "a", "ratio": 0.5, "seed": 0, "test": 0.6},
            {"arm": "a", "ratio": 0.7, "seed": 0, "test": 0.2},
        ]
    )
    assert records.values(frame, "test", arm="a", ratio=0.5) == [0.6, 0.7]
    with pytest.raises(KeyError, match="Did you mean 'ratio'"):
        records.values(frame, "test", ratios=0.5)
    with pytest.raises(ValueError, match="no run has the settings"):
        records.values(frame, "test", arm="c")


@pytest.mark.parametrize(
    ("settings", "other"),
    [([None, "vgg"], "vgg"), ([None, 3], 3), ([math.nan, 0.5], 0.5), ([None, [1]], None)],
)
def test_values_of_runs_that_lack_a_setting(settings, other):
    rows = [{"teacher": s, "seed": seed, "test": seed + 0.5} for s in settings for seed in (1, 0)]
    rows += [{"seed": 2, "test": 2.5}]  # a run without the column lacks the setting too
    frame = pd.DataFrame(rows)
    for missing in (None, math.nan):
        assert records.values(frame, "test", teacher=missing) == [0.5, 1.5, 2.5]
    if other is not None:
        assert records.values(frame, "test", teacher=other) == [0.5, 1.5]
        with pytest.raises(ValueError, match="no run has the settings"):
            records.values(frame[frame["teacher"].notna()], "test", teacher=None)
