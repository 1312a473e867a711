"""Experiments as values: recorded, repeated in part, measured with another method, and known by their code."""

import pandas as pd
import pytest

from course_lib.experiments import chapter05, chapter05_studies, code, records
from course_lib.experiments.__main__ import main
from course_lib.experiments.catalogue import experiments, find
from course_lib.experiments.experiment import FULL, Experiment, Scale
from course_lib.experiments.results import scatter

RUNS = tuple({"T": temperature, "seed": seed} for temperature in (1, 4) for seed in range(5))
OFFSET = 0.25


def answer(temperature):
    return temperature / 10


def another(temperature):
    """The same, but for a factor."""
    return temperature / 5


def renamed(temperature):
    # Another comment, another name.
    return temperature / 10


def measure(run, shared, method):
    return {"test": shared + method(run["T"]) + run["seed"] / 1000}


def prepare(runs, scale):
    return OFFSET if scale.images is None else 0.0


@pytest.fixture
def home(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("COURSE_HOME", str(tmp_path))
    return tmp_path


def example(**changes):
    return Experiment("99-example", RUNS, measure, prepare, answer, **changes)


@pytest.mark.usefixtures("home")
def test_a_record_comes_back_with_settings_and_metrics_apart():
    experiment = example(defaults={"alpha": 0.5}, seed="the coin")
    experiment.record(workers=1)
    record = records.load("99-example")
    assert record["runs"][6] == {"settings": {"T": 4, "seed": 1}, "metrics": {"test": pytest.approx(0.651)}}
    assert record["defaults"] == {"alpha": 0.5}
    assert record["seed"] == "the coin"
    assert {"cpu", "cores", "threads", "minutes", "commit", "date", "device"} <= set(record["provenance"])
    results = experiment.results(workers=1)
    assert results.values("test", T=4) == pytest.approx([0.65, 0.651, 0.652, 0.653, 0.654])
    assert results.gain("test", of={"T": 4}, over={"T": 1}).mean == pytest.approx(0.3)
    assert experiment.stale() == ""


@pytest.mark.usefixtures("home")
def test_a_live_run_is_compared_with_its_own_record():
    experiment = example(live=(3,))
    experiment.record(workers=1)
    record = records.load("99-example")
    record["runs"][3]["metrics"]["test"] += 0.06  # at most five points may come from another processor
    records.keep(record)
    with pytest.raises(ValueError, match=r"gives test = 0\.3530 here and 0\.4130 in the record"):
        experiment.results(workers=1)
    record["runs"][3]["metrics"]["test"] -= 0.055
    records.keep(record)
    experiment.results(workers=1)


@pytest.mark.usefixtures("home")
def test_a_changed_method_is_what_is_measured_and_the_record_stays():
    experiment = example(live=(0,))
    experiment.record(workers=1)
    before = records.load("99-example")
    changed = experiment.results(method=another, workers=1)
    assert changed.values("test", T=4)[0] == pytest.approx(OFFSET + 0.8)
    assert records.load("99-example") == before
    assert experiment.results(method=renamed, workers=1).values("test", T=4)[0] == pytest.approx(OFFSET + 0.4)
    fewer = experiment.results(method=another, seeds=2, workers=1)
    assert len(fewer.frame) == 4


@pytest.mark.usefixtures("home")
def test_a_record_is_extended_by_the_runs_that_it_lacks():
    Experiment("99-example", RUNS[3:], measure, prepare, answer).record(workers=1)
    record = records.load("99-example")
    record["runs"][0]["metrics"]["test"] = 0.999  # so that a run that is kept can be told from a new one
    records.keep(record)
    example().record(workers=1, extend=True)
    values = example().recorded().values("test", T=1)
    assert values == pytest.approx([0.35, 0.351, 0.352, 0.999, 0.354])
    with pytest.raises(ValueError, match="other code or settings"):
        Experiment("99-example", RUNS, measure, prepare, another).record(workers=1, extend=True)


@pytest.mark.usefixtures("home")
def test_other_runs_than_those_of_the_record_are_refused():
    example().record(workers=1)
    for changed in (
        Experiment("99-example", RUNS[1:], measure, prepare, answer),
        example(defaults={"alpha": 1}),
    ):
        with pytest.raises(ValueError, match="measure it again"):
            changed.results(workers=1)


def test_a_small_scale_reaches_prepare():
    small = example().measured(scale=Scale(images=2, steps=1), workers=1)
    assert small.values("test", T=1)[0] == pytest.approx(0.1)
    assert FULL.epochs(7, images=100, batch_size=10) == 7
    assert Scale(steps=20).epochs(7, images=100, batch_size=10) == 2


def test_a_run_that_the_budget_did_not_pay_for_is_left_out():
    def measure_some(run, shared, method):
        return {"test": 1.0} if run["seed"] < 2 else {}

    results = Experiment("99-example", RUNS, measure_some, minutes=1).measured(workers=1)
    assert [run["settings"]["seed"] for run in results.record["runs"]] == [0, 1, 0, 1]


def test_few_runs_have_no_interval():
    few = example().measured(seeds=3, workers=1)
    with pytest.raises(ValueError, match="fewer than five"):
        few.interval("test", T=1)
    rows = few.table("test", {"cold": {"T": 1}, "warm": {"T": 4}}, over="cold")
    assert rows[0]["test"] == "35.0%, 35.1%, 35.2%"


def test_the_best_setting_is_the_one_with_the_largest_mean():
    assert example().measured(workers=1).best("test", "T") == {"T": 4}


def test_arms_without_a_setting_have_a_scatter_of_their_own():
    teachers = (None, None, "vgg", "vgg")
    frame = pd.DataFrame({"teacher": teachers, "seed": (0, 1, 0, 1), "test": (0.0, 0.2, 0.5, 0.7)})
    one_by_one = pd.DataFrame({"teacher": ("a", "a", "b", "b"), "test": frame["test"]})
    assert scatter(frame, "test", ["teacher"]) == pytest.approx(scatter(one_by_one, "test", ["teacher"]))


# The digest of the code


def test_comments_and_names_do_not_change_the_digest_and_code_does(monkeypatch):
    assert code.same(another, another)
    assert not code.same(answer, another)
    first = code.digest(prepare)
    monkeypatch.setitem(globals(), "OFFSET", 0.5)
    assert code.digest(prepare) != first  # a constant that it reads


def test_the_laboratory_is_no_part_of_the_digest_and_what_measures_is(monkeypatch):
    def elsewhere(module):
        def replaced(*arguments):
            return arguments

        replaced.__module__ = module
        return replaced

    first = code.digest(chapter05_studies.measure_images)
    monkeypatch.setattr(Experiment, "recorded", elsewhere("course_lib.experiments.experiment"))
    assert code.digest(chapter05_studies.measure_images) == first
    monkeypatch.setattr(chapter05, "outcomes", elsewhere("course_lib.experiments.chapter05"))
    assert code.digest(chapter05_studies.measure_images) != first


def test_the_command_without_names_lists_what_is_wrong(capsys):
    main([])
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["01-gain"] == "20 runs."
    assert set(lines) == set(experiments())


def test_a_record_whose_code_has_changed_says_so(home):
    example().record(workers=1)
    changed = Experiment("99-example", RUNS, measure, prepare, another)
    assert "changed since" in changed.stale()


# All experiments


def test_every_experiment_is_found_by_its_record():
    known = experiments()
    assert "01-labels" in known
    assert find("01-labels") is known["01-labels"]
    with pytest.raises(KeyError, match="01-label"):
        find("01-lable")


TRACED = "06", "07", "08"  # torch.fx hands proxies through networks, which the type checker would refuse
BY_NAME = [
    pytest.param(name, marks=pytest.mark.bad_input if name.startswith(TRACED) else ())
    for name in experiments()
]


@pytest.mark.parametrize("name", BY_NAME)
def test_the_code_that_measures_runs_for_two_steps(name):
    experiment = find(name)
    runs = experiment.runs
    # One run of each kind: what differs in more than a number is another way through the code.
    kinds = {
        tuple(sorted((k, v if isinstance(v, (str, bool, type(None))) else 0) for k, v in run.items())): run
        for run in reversed(runs)
    }
    small = Experiment(
        name,
        tuple(kinds.values()),
        experiment.measure,
        experiment.prepare,
        experiment.method,
        experiment.defaults,
    )
    results = small.measured(scale=Scale(minutes=0.01, images=64, steps=2), workers=1)
    assert len(results.frame) == len(kinds)
    for run in results.record["runs"]:
        assert run["metrics"], run
