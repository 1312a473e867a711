"""Every experiment has a record, of its runs and settings, that the code of now has measured."""

import pytest

from course_lib.experiments import catalogue, records
from course_lib.experiments.experiment import Experiment

OPEN = {
    "01-cifar10": "changed since",  # measured at a clean commit, half an hour long, before records kept a digest
    "02-mnist-document": "changed since",  # measured on a GPU at a clean commit, before records kept a digest
    "03-cifar10": "changed since",  # measured on a GPU, before records kept a digest; its runs stand in the new form
    "04-cifar10": "changed since",  # measured on a GPU that is not here, before records kept a digest
    "06-imagenet": "there is no record",  # waits for a quiet machine: 40 minutes of two cores
    "06-imagenet-weights": "there is no record",  # the same
    "07-cifar10": "changed since",  # measured before records kept a digest; its runs stand in the new form
}


@pytest.mark.parametrize("name", catalogue.experiments())
def test_every_experiment_has_a_record_that_its_code_measured(name):
    fault = catalogue.fault(catalogue.find(name))
    assert OPEN.get(name, "") in fault  # whoever measures one of these takes it off the list
    assert bool(fault) == (name in OPEN), fault


# What is seen: a record that is well, then one fault at a time.


def measure(run, shared, method):
    return {"test": float(run["seed"])}


def other(run, shared, method):
    return {"test": run["seed"] + 1.0}


@pytest.fixture
def made(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("COURSE_HOME", str(tmp_path))
    experiment = Experiment("99-example", ({"seed": 0}, {"seed": 1}), measure)
    experiment.record(workers=1)
    return experiment


AGAIN = "python -m course_lib.experiments 99-example"


def test_a_record_of_the_code_of_now_is_well(made):
    assert catalogue.fault(made) == ""


def test_a_digest_that_is_not_that_of_the_code_is_seen(made):
    records.keep(records.load("99-example") | {"code": "0123456789abcdef"})
    wanted = f"the record '99-example': the code that measures has changed since; measure it again: {AGAIN}"
    assert catalogue.fault(made) == wanted


@pytest.mark.parametrize(
    ("name", "runs", "by", "said"),
    [
        ("99-example", ({"seed": 0}, {"seed": 1}), other, "the code that measures has changed since"),
        ("99-example", ({"seed": 0},), measure, "made with other runs or settings"),
        ("99-missing", ({"seed": 0},), measure, "there is no record '99-missing'"),
    ],
)
@pytest.mark.usefixtures("made")
def test_other_code_other_runs_and_no_record_are_seen_with_the_command_that_mends_it(name, runs, by, said):
    fault = catalogue.fault(Experiment(name, runs, by))
    assert said in fault
    assert fault.endswith(f"python -m course_lib.experiments {name}")


def test_a_record_of_an_earlier_form_is_seen(made):
    records.save("99-example", [{"seed": 0, "test": 0.0}], {})
    assert (
        catalogue.fault(made) == f"the record '99-example' is of an earlier form; measure it again: {AGAIN}"
    )
