"""Profiles, --seed and --set: what reaches which chapter, and every refusal."""

import re
from pathlib import Path

import pytest

from course_lib.book import CourseError
from course_lib.book.notebooks import Chapter
from course_lib.book.run import profiles

pytestmark = pytest.mark.bad_input


def chapter(name, **parameters):
    return Chapter(Path(f"{name}.ipynb"), name, parameters, "")


FIRST = chapter("00-first", seed=0, epochs=2, live=True, sizes=[1, 2], title="a", limit=None)
SECOND = chapter("01-second", epochs=3, rate=0.1)
BOOK = [FIRST, SECOND]


def resolve(profile=None, seed=None, assignments=(), selected=BOOK):
    values = profiles.parse_assignments(assignments)
    return profiles.resolve(BOOK, selected, profile=profile or {}, seed=seed, assignments=values)


def test_nothing_given_changes_nothing():
    assert resolve() == {"00-first": {}, "01-second": {}}


def test_a_name_goes_to_every_chapter_that_knows_it_and_a_prefixed_one_to_one():
    assert resolve({"epochs": 9}) == {"00-first": {"epochs": 9}, "01-second": {"epochs": 9}}
    assert resolve({"01.epochs": 7, "epochs": 9}) == {"00-first": {"epochs": 9}, "01-second": {"epochs": 7}}
    assert resolve({"sec.epochs": 7}) == {"00-first": {}, "01-second": {"epochs": 7}}


def test_set_wins_over_seed_and_seed_over_the_profile():
    assert resolve({"seed": 1})["00-first"] == {"seed": 1}
    assert resolve({"seed": 1, "00.seed": 5}, seed=2)["00-first"] == {"seed": 2}
    assert resolve({"00.seed": 1}, seed=2, assignments=["seed=3"])["00-first"] == {"seed": 3}


def test_a_profile_may_speak_of_chapters_that_are_not_run():
    assert resolve({"rate": 0.5, "epochs": 4}, selected=[FIRST]) == {"00-first": {"epochs": 4}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("epochs=3", 3),
        ("rate=1e-3", 1e-3),
        ("rate=-2.5E+4", -2.5e4),
        ("rate=3", 3),
        ("live=false", False),
        ("live=no", False),
        ("sizes=[1, 2e-1]", [1, 0.2]),
        ("sizes=[]", []),
        ("title=x=y", "x=y"),
        ("title='1e-3'", "1e-3"),
        ("title=", None),
        ("limit=4", 4),
        ("limit=null", None),
    ],
)
def test_a_value_is_a_yaml_scalar_or_list(text, value):
    found = next(iter(profiles.parse_assignments([text]).values()))
    assert found == value
    assert type(found) is type(value)
    resolve(assignments=[text])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs", "write name=value"),
        ("=3", "write name=value"),
        ("epochs=[1", "not valid YAML"),
        ("epochs={a: 1}", "a dict is not accepted"),
        ("epochs=[{a: 1}]", "a dict is not accepted"),
        ("epochs=2026-01-01", "a date is not accepted"),
        (
            "epochs=three",
            r"epochs is 'three', a text; chapter 00-first expects a number \(its own value is 2\)",
        ),
        ("epochs=true", "expects a number"),
        ("live=1", "expects true or false"),
        ("sizes=3", "expects a list"),
        ("title=3", "expects a text"),
        ("epoch=3", r"unknown parameter \(--set\) 'epoch'. Did you mean 'epochs'"),
        ("01.sizes=[1]", r"unknown parameter \(--set\) of chapter 01-second 'sizes'"),
        ("07.epochs=3", "unknown chapter '07'"),
    ],
)
def test_a_wrong_assignment_is_refused_with_its_reason(text, message):
    with pytest.raises(CourseError, match=message):
        resolve(assignments=[text])


def test_an_assignment_given_twice_is_refused():
    with pytest.raises(CourseError, match="--set epochs is given twice"):
        resolve(assignments=["epochs=3", "epochs=4"])


def test_an_assignment_that_would_reach_no_chapter_of_this_run_is_refused():
    with pytest.raises(CourseError, match=r"unknown parameter .*'rate'"):
        resolve(assignments=["rate=0.2"], selected=[FIRST])
    with pytest.raises(CourseError, match="chapter 01-second, which is not part of this run"):
        resolve(assignments=["01.epochs=2"], selected=[FIRST])
    with pytest.raises(CourseError, match=r"unknown parameter \(--seed\) 'seed'"):
        resolve(seed=1, selected=[SECOND])


def test_a_profile_key_that_no_notebook_knows_is_refused_with_the_nearest():
    with pytest.raises(CourseError, match=r"unknown key of the profile 'epoch'. Did you mean 'epochs'"):
        resolve({"epoch": 3})
    with pytest.raises(CourseError, match="expects a number"):
        resolve({"epochs": "many"})


def test_profiles_are_found_read_and_refused_by_name(tmp_path):
    (tmp_path / "full.yaml").write_text("# nothing yet\n")
    (tmp_path / "tiny.yaml").write_text('epochs: 1\n"01.rate": 1e-4\n')
    assert profiles.names(tmp_path) == ["fast", "full", "tiny"]
    assert profiles.load("fast", tmp_path) == {}
    assert profiles.load("full", tmp_path) == {}
    assert profiles.load("tiny", tmp_path) == {"epochs": 1, "01.rate": 1e-4}
    with pytest.raises(
        CourseError, match=r"unknown profile 'ful'. Did you mean 'full'\? Known: fast, full, tiny"
    ):
        profiles.load("ful", tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- epochs", "must hold `name: value` lines; it holds a list"),
        ("epochs: {a: 1}", r"wrong\.yaml: epochs: a dict is not accepted"),
        ("epochs: [", r"wrong\.yaml is not valid YAML"),
        ("epochs: 1\nepochs: 2", "the key 'epochs' is given 2 times"),
    ],
)
def test_a_profile_that_is_not_flat_yaml_is_refused(tmp_path, text, message):
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(CourseError, match=message):
        profiles.load("wrong", tmp_path)


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("widths=&a [*a]", "an alias such as *a is not accepted"),
        ("rate=.nan", "nan is not accepted; numbers go from"),
        ("rate=-.inf", "-inf is not accepted"),
        ("seed=12345678901234567890123", "12345678901234567890123 is not accepted"),
        ("seeds=[1, .nan]", "nan is not accepted"),
        (".seeds=1", "write name=value"),
        ("01.=1", "write name=value"),
    ],
)
def test_a_value_that_no_chapter_can_use_is_refused_before_anything_runs(assignment, said):
    with pytest.raises(CourseError, match=re.escape(said)):
        profiles.parse_assignments([assignment])
