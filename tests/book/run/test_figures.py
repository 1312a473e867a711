"""Key figures read from what chapters show, and merged over runs."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.book.run import figures
from course_lib.statistics import mean_interval


@pytest.mark.parametrize(
    ("shown", "value", "unit", "form"),
    [
        ("92.8%", 92.8, "%", ".1f"),
        ("+1.0 % [-0.4, +2.3]", 1.0, "%", "+.1f"),
        ("-0.6 % [-1.2, +0.1]", -0.6, "%", ".1f"),
        ("−0.60", -0.6, "", ".2f"),
        ("44.2 % [43.4, 45.0]", 44.2, "%", ".1f"),
        ("1.23", 1.23, "", ".2f"),
        ("0.35 [0.10, 0.60]", 0.35, "", ".2f"),
        ("4.19 MB", 4.19, "MB", ".2f"),
        ("11,338 parameters", 11338, "parameters", ".0f"),
        ("0.42×", 0.42, "×", ".2f"),
        ("1e-3", 1e-3, "", ".4g"),
        (0.73456, 0.73456, "", ".4g"),
        (4000, 4000, "", ".4g"),
    ],
)
def test_a_number_with_its_unit_is_read(shown, value, unit, form):
    assert figures.read(shown) == figures.Quantity(value, unit, form)


@pytest.mark.parametrize(
    "shown",
    [
        "vgg",
        "",
        "%",
        "nan %",
        "0.42× the MACs, 1.68× the latency",
        "90% zeros (512×512, 64 vectors, this machine)",
        "12 of 20",
        "2026-11-25",
        "10 to 12 %",
        "5 % [1.0]",
        True,
        None,
        math.nan,
        math.inf,
    ],
)
def test_what_is_not_one_number_is_not_read(shown):
    assert figures.read(shown) is None


@given(
    st.floats(-1e6, 1e6),
    st.sampled_from(["", "+"]),
    st.integers(0, 4),
    st.sampled_from(["", "%", " %", " MB"]),
    st.booleans(),
)
def test_what_a_format_wrote_is_read_back(value, sign, decimals, unit, interval):
    number = format(value, f"{sign}.{decimals}f")
    found = figures.read(number + unit + (f" [{number}, {number}]" if interval else ""))
    assert (found.value, found.unit) == (float(number), unit.strip())
    assert format(found.value, found.form) == number or number.startswith("-")


@given(st.lists(st.integers(-999, 999), min_size=2, max_size=9).filter(lambda v: len(set(v)) > 1))
def test_the_mean_is_that_of_the_numbers_whatever_their_order(tenths):
    shown = {seed: f"{value / 10:+.1f} % [-9.0, +9.0]" for seed, value in enumerate(tenths)}
    merged = figures.merge(shown)
    assert merged.interval == mean_interval([value / 10 for value in tenths])
    turned = figures.merge(dict(reversed(shown.items()))).interval
    assert math.isclose(turned.mean, merged.interval.mean, abs_tol=1e-9)


def test_a_merged_figure_is_shown_in_the_form_of_the_single_ones():
    assert str(figures.merge({0: "95.4%", 1: "95.0%", 2: "95.2%"})) == "95.2 % [94.7, 95.7]"
    assert str(figures.merge({0: "+0.1", 1: "-0.35"})) == "-0.12 [-2.98, +2.73]"
    assert str(figures.merge({0: "4.20 MB", 1: "4.10 MB"})) == "4.15 MB [3.51, 4.79]"
    assert figures.merge({0: "1.0 s", 1: "2.0 s"}).as_json() == {
        "shown": "1.5 s [-4.9, 7.9]",
        "n": 2,
        "mean": 1.5,
        "low": pytest.approx(-4.853, abs=1e-3),
        "high": pytest.approx(7.853, abs=1e-3),
        "unit": "s",
    }


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({0: "4.19 MB", 3: "900 kB"}, "not merged (the units differ: MB, kB); 0: 4.19 MB; 3: 900 kB"),
        ({0: "1.0", 1: "1.0 %"}, "not merged (the units differ: none, %); 0: 1.0; 1: 1.0 %"),
        ({0: "vgg", 1: "mlp"}, "not merged (not one number in every run); 0: vgg; 1: mlp"),
        ({0: 0.5, 1: "none"}, "not merged (not one number in every run); 0: 0.5; 1: none"),
        ({0: "95.4%", 1: "95.4%"}, "95.4%, in every run"),
        ({0: "vgg", 1: "vgg"}, "vgg, in every run"),
        ({7: "95.4%"}, "95.4%"),
    ],
)
def test_what_has_no_mean_or_no_interval_is_shown_as_it_is(values, shown):
    merged = figures.merge(values)
    assert merged.interval is None
    assert str(merged) == shown
    assert merged.as_json() == {"shown": shown, "n": len(values)}
