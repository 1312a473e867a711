"""Tables and key figures can be read by everyone."""

import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch

from course_lib import page
from course_lib.statistics import Interval


@pytest.fixture
def shown(monkeypatch):
    """The bundles that were displayed."""
    bundles = []

    def display(bundle, *, raw):
        assert raw
        bundles.append(bundle)

    monkeypatch.setattr("IPython.display.display", display)
    return bundles


class Cells(HTMLParser):
    """The tags of a table in order, and the text in each kind of cell."""

    def __init__(self, markup):
        super().__init__()
        self.tags, self.open, self.texts, self.scopes = [], [], {}, []
        self.feed(markup)
        assert self.open == []  # every tag is closed

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.open.append(tag)
        self.texts.setdefault(tag, []).append("")
        if tag == "th":
            self.scopes.append(dict(attributes).get("scope"))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.texts[self.open[-1]][-1] += text


@pytest.fixture
def as_reported(shown):
    """What `report` keeps of figures."""

    def keep(**figures):
        page.report(**figures)
        return shown.pop()[page.KEY_FIGURES]

    return keep


def test_figures_for_the_prose_are_kept_as_report_keeps_them_and_nothing_is_shown(shown, as_reported):
    given = {
        "the_gain": (Interval(0.072, 0.064, 0.08, 5), "+.1%"),
        "size": (4, ".1f", "MB"),
        "teacher": "vgg",
    }
    wanted = as_reported(**given)
    page.figures(**given)
    assert shown == [{page.KEY_FIGURES: wanted}]
    assert wanted["the gain"]["shown"] == "+7.2 % [+6.4, +8.0]"


@pytest.mark.bad_input
@pytest.mark.parametrize("figure", [None, torch.tensor(1.0), (1, "z"), math.nan, True])
def test_a_figure_that_report_refuses_is_refused_for_the_prose(shown, figure):
    with pytest.raises((TypeError, ValueError), match="the figure 'gain'"):
        page.figures(gain=figure)
    assert shown == []


# Tables


def test_a_table_has_a_caption_headers_with_a_scope_and_every_cell_as_it_was_given(shown):
    page.table([{"network": "vgg", "accuracy": "94.1 %"}, {"network": "mlp", "accuracy": 7}], "Two networks.")
    cells = Cells(shown[0]["text/html"])
    assert cells.texts["caption"] == ["Two networks."]
    assert cells.texts["th"] == ["network", "accuracy"]
    assert cells.scopes == ["col", "col"]
    assert cells.texts["td"] == ["vgg", "94.1\N{NO-BREAK SPACE}%", "mlp", "7"]
    assert cells.tags.count("tr") == 3
    plain = shown[0]["text/plain"]
    assert plain.startswith("Two networks.\n")
    assert all(word in plain for word in ("network", "vgg", "94.1 %", "mlp"))


def test_what_looks_like_markup_is_shown_and_not_obeyed(shown):
    nasty = '<script>alert("&")</script>'
    page.table([{nasty: nasty}], nasty)
    page.report(**{nasty: nasty})
    for bundle in shown:
        cells = Cells(bundle["text/html"])
        assert "script" not in cells.tags
        assert cells.texts["td"][-1] == nasty
    assert Cells(shown[0]["text/html"]).texts["th"] == [nasty]
    assert Cells(shown[0]["text/html"]).texts["caption"] == [nasty]


def test_a_data_frame_is_shown_without_its_index_and_left_alone(shown):
    frame = pd.DataFrame({"a b": [1, 2], "class": ["x", "y"]}, index=["first", "second"])
    before = frame.copy()
    page.table(frame, "A frame.")
    assert Cells(shown[0]["text/html"]).texts["td"] == ["1", "x", "2", "y"]
    assert "first" not in shown[0]["text/html"] + shown[0]["text/plain"]
    pd.testing.assert_frame_equal(frame, before)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "rows", [[], [{}], pd.DataFrame(), pd.DataFrame(columns=["a"])], ids=["list", "blank", "frame", "columns"]
)
def test_a_table_without_rows_is_refused(rows, shown):
    with pytest.raises(ValueError, match=r"the table 'Nothing\.' has no rows"):
        page.table(rows, "Nothing.")
    assert shown == []


def test_figures_stand_to_the_right_and_words_to_the_left(shown):
    page.table([{"a": "94.1 %", "b": "+0.4", "c": "-3", "d": 7, "e": "vgg"}], "Sides.")
    sides = re.findall(r"<td style=\"text-align: (\w+)\">", shown[0]["text/html"])
    assert sides == ["right", "right", "right", "right", "left"]


def test_a_line_may_break_before_an_interval_and_nowhere_in_a_figure(shown):
    cells = [
        "-0.3 % [-0.8, +0.2]",
        "alone 99.0 %, taught 98.1 % [98.0, 98.2]",
        "r 0.57 [-0.11, 0.95]",
        "see [A, B]",
    ]
    page.table([{"a": cell} for cell in cells], "Breaks.")
    assert [cell.split(" ") for cell in Cells(shown[0]["text/html"]).texts["td"]] == [
        ["-0.3\N{NO-BREAK SPACE}%", "[-0.8,\N{NO-BREAK SPACE}+0.2]"],
        [
            "alone",
            "99.0\N{NO-BREAK SPACE}%,",
            "taught",
            "98.1\N{NO-BREAK SPACE}%",
            "[98.0,\N{NO-BREAK SPACE}98.2]",
        ],
        ["r", "0.57", "[-0.11,\N{NO-BREAK SPACE}0.95]"],
        ["see", "[A,", "B]"],
    ]
    assert "\N{NO-BREAK SPACE}" not in shown[0]["text/plain"]


# Key figures


def test_key_figures_stand_in_the_same_bundle_as_text_as_a_table_and_as_data(shown):
    page.report(
        student_alone=(0.71, ".1%"),
        gain=(Interval(0.045, 0.01, 0.08, 5), "+.1%"),
        size=(4.186, ".2f", "MB"),
        seeds=5,
        network="vgg",
    )
    (bundle,) = shown
    assert set(bundle) == {"text/html", "text/plain", "application/vnd.course.key-figures+json"}
    assert json.loads(json.dumps(bundle[page.KEY_FIGURES])) == {
        "student alone": {"value": 0.71, "form": ".1%", "unit": "", "shown": "71.0%"},
        "gain": {
            "value": 0.045,
            "low": 0.01,
            "high": 0.08,
            "n": 5,
            "form": "+.1%",
            "unit": "",
            "shown": "+4.5 % [+1.0, +8.0]",
        },
        "size": {"value": 4.186, "form": ".2f", "unit": "MB", "shown": "4.19 MB"},
        "seeds": {"value": 5, "form": "", "unit": "", "shown": "5"},
        "network": "vgg",
    }
    cells = Cells(bundle["text/html"])
    assert cells.texts["td"][:4] == [
        "student alone",
        "71.0%",
        "gain",
        "+4.5\N{NO-BREAK SPACE}% [+1.0,\N{NO-BREAK SPACE}+8.0]",
    ]
    assert cells.scopes == ["col", "col"]
    assert bundle["text/plain"] == (
        "student alone: 71.0%\ngain: +4.5 % [+1.0, +8.0]\nsize: 4.19 MB\nseeds: 5\nnetwork: vgg"
    )


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("figure", "error", "message"),
    [
        (math.nan, ValueError, "the figure 'x' is nan; look at the run that gave it"),
        ((math.inf, ".1f"), ValueError, "the figure 'x' is inf"),
        ((np.float64("nan"), ".1f"), ValueError, "the figure 'x' is .*nan"),
        ((Interval(0.5, math.nan, 0.6, 2), ".1%"), ValueError, "the figure 'x' is Interval.*look at the run"),
        ((0.5, ".1q"), ValueError, r"cannot be shown as '.1q' \(.*Give a format specification of floats"),
        ((5, "d"), ValueError, "cannot be shown as 'd'"),  # the mean of 5 and 6 has no form "d"
        ((), TypeError, r"the figure 'x' is \(\)\. Give a number"),
        ((0.5, ".1f", "MB", "more"), TypeError, "Give a number, an Interval or a text"),
        ((0.5, 1), TypeError, "Give a number"),
        ((0.5, ".1f", 3), TypeError, "Give a number"),
        (("95 %", ".1f"), TypeError, "Give a number"),
        ((torch.tensor(0.5), ".1f"), TypeError, r"Call \.item\(\) on a tensor"),
        (torch.tensor(0.5), TypeError, r"Call \.item\(\) on a tensor"),
        (True, TypeError, "the figure 'x' is True"),
        (None, TypeError, "the figure 'x' is None"),
        ([0.5, ".1f"], TypeError, "Give a number"),
    ],
)
def test_a_figure_that_is_none_is_refused_by_name_and_nothing_is_shown(shown, figure, error, message):
    with pytest.raises(error, match=message):
        page.report(good=0.5, x=figure)
    assert shown == []
