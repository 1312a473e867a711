"""Key figures as chapters report them, and merged over runs."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib import page
from course_lib.book import notebooks
from course_lib.book.run import figures, show
from course_lib.statistics import Interval, mean_interval


def reported(*figure):
    """What `page.report` keeps of a value with its form and unit, after a way through a notebook."""
    return json.loads(json.dumps(page._key_figure("name", figure if len(figure) > 1 else figure[0])))


@pytest.mark.parametrize(
    ("figure", "value", "form", "unit", "measure"),
    [
        (reported(0.954, ".1%"), 0.954, ".1%", "", "%"),
        (reported(Interval(0.01, -0.004, 0.023, 5), "+.1%"), 0.01, "+.1%", "", "%"),
        (reported(4.19, ".2f", "MB"), 4.19, ".2f", "MB", "MB"),
        (reported(0.9, ".0%", "zeros"), 0.9, ".0%", "zeros", "% zeros"),
        (0.73456, 0.73456, ".4g", "", ""),
        (4000, 4000, ".4g", "", ""),
    ],
)
def test_a_number_is_read_with_its_form(figure, value, form, unit, measure):
    found = figures.quantity(figure)
    assert found == figures.Quantity(value, form, unit)
    assert found.measure == measure


@pytest.mark.parametrize("figure", ["vgg", "", "95.4%", "3", True, None, math.nan, math.inf, [1.0]])
def test_what_is_no_number_is_not_read(figure):
    assert figures.quantity(figure) is None


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9).filter(lambda v: len(set(v)) > 1))
def test_the_mean_is_that_of_the_unrounded_numbers_whatever_their_order(values):
    found = {seed: reported(value, "+.0%") for seed, value in enumerate(values)}
    merged = figures.merge(found)
    assert merged.interval == mean_interval(values)
    turned = figures.merge(dict(reversed(found.items()))).interval
    assert math.isclose(turned.mean, merged.interval.mean, abs_tol=1e-9)


def test_numbers_that_look_alike_when_rounded_are_still_averaged():
    merged = figures.merge({0: reported(0.95405, ".1%"), 1: reported(0.95395, ".1%")})
    assert merged.interval.mean == pytest.approx(0.954, abs=1e-12)
    assert merged.interval.high > 0.954


def test_a_merged_figure_is_shown_in_the_form_of_the_single_ones():
    shares = {seed: reported(value, ".1%") for seed, value in enumerate((0.954, 0.950, 0.952))}
    assert str(figures.merge(shares)) == "95.2 % [94.7, 95.7]"
    assert (
        str(figures.merge({0: reported(0.1, "+.2f"), 1: reported(-0.35, "+.2f")})) == "-0.12 [-2.98, +2.73]"
    )
    assert str(figures.merge({0: reported(4.2, ".2f", "MB"), 1: reported(4.1, ".2f", "MB")})) == (
        "4.15 MB [3.51, 4.79]"
    )
    assert str(figures.merge({0: reported(1), 1: reported(2)})) == "1.5 [-4.853, 7.853]"
    assert figures.merge({0: reported(1.0, ".1f", "s"), 1: reported(2.0, ".1f", "s")}).as_json() == {
        "shown": "1.5 s [-4.9, 7.9]",
        "n": 2,
        "mean": 1.5,
        "low": pytest.approx(-4.853, abs=1e-3),
        "high": pytest.approx(7.853, abs=1e-3),
        "form": ".1f",
        "unit": "s",
    }


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (
            {0: reported(4.19, ".2f", "MB"), 3: reported(900.0, ".0f", "kB")},
            "not merged (shown in different forms: .0f kB, .2f MB); 0: 4.19 MB; 3: 900 kB",
        ),
        (
            {0: reported(1.0, ".1f"), 1: reported(0.01, ".1%")},
            "not merged (shown in different forms: .1%, .1f); 0: 1.0; 1: 1.0%",
        ),
        ({0: "vgg", 1: "mlp"}, "not merged (not a number in every run); 0: vgg; 1: mlp"),
        ({0: 0.5, 1: "none"}, "not merged (not a number in every run); 0: 0.5; 1: none"),
        ({0: reported(0.954, ".1%"), 1: reported(0.954, ".1%")}, "95.4%, in every run"),
        ({0: "vgg", 1: "vgg"}, "vgg, in every run"),
        ({7: reported(0.954, ".1%")}, "95.4%"),
    ],
)
def test_what_has_no_mean_or_no_interval_is_shown_as_it_is(values, shown):
    merged = figures.merge(values)
    assert merged.interval is None
    assert str(merged) == shown
    assert merged.as_json() == {"shown": shown, "n": len(values)}


# The only figures that are not one number; that of chapter 02 is "never" on some machines.
TEXTS = {"MobileNet against VGG", "judging against tuning", "sparse product pays from"}


@pytest.mark.parametrize("chapter", notebooks.chapters(), ids=lambda chapter: chapter.name)
def test_the_committed_chapters_keep_the_numbers_of_what_they_show(chapter):
    """The numbers, formatted again, are what stands on the page; a text of a number would not be averaged."""
    outputs = [out for cell in notebooks.read(chapter.path).cells for out in cell.get("outputs", [])]
    shown = [out["data"] for out in outputs if "text/plain" in out.get("data", {})]
    (bundle,) = [data for data in shown if notebooks.FIGURES_MIME in data]
    kept = bundle[notebooks.FIGURES_MIME]
    page = dict(line.split(": ", 1) for line in bundle["text/plain"].splitlines())
    assert {name: show.figure(figure) for name, figure in kept.items()} == page
    texts = set()
    for name, figure in kept.items():
        if isinstance(figure, str):
            texts.add(name)
            continue
        ends = [figure[end] for end in ("value", "low", "high", "n") if end in figure]
        value = Interval(*ends) if len(ends) == 4 else figure["value"]
        assert reported(value, figure["form"], figure["unit"]) == figure, name
    assert texts <= TEXTS
