"""Marks around numbers in prose: what is filled in, what is refused, which numbers need a mark."""

from pathlib import Path

import pytest
from nbformat.v4 import new_markdown_cell, new_notebook

from course_lib.book import prose
from course_lib.book.notebooks import Chapter

FIGURES = {"gain": "+7.2 % [+6.4, +8.0]", "size of it": "4.2 MB", "01.gain": "9 %"}


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("It gains <!--=gain-->?<!--/-->.", "It gains <!--=gain-->+7.2 % [+6.4, +8.0]<!--/-->."),
        ("a <!--=size_of_it--><!--/--> b", "a <!--=size_of_it-->4.2 MB<!--/--> b"),
        ("a <!--= size of it -->1<!--/--> b", "a <!--= size of it -->4.2 MB<!--/--> b"),
        ("| <!--=01.gain-->1\n2<!--/--> |", "| <!--=01.gain-->9 %<!--/--> |"),
        ("a <!--=gian-->?<!--/--> b", None),
        ("a <!--arithmetic-->0.5<!--/--> b", None),
        ("`<!--=gain-->?<!--/-->`", None),
        ("``a ` <!--=gain-->?<!--/-->`` b", None),
        ("```\n<!--=gain-->?<!--/-->\n```\n", None),
        ("- a\n  ~~~\n  <!--=gain-->?<!--/-->\n  ~~~\n", None),
        ("a <!-- = gain -->?<!--/--> b", None),
        ("a <!--=gain-->? <!--=size_of_it-->?<!--/--> b", None),
    ],
)
def test_figures_are_written_between_their_marks_and_nowhere_else(text, filled):
    wanted = text if filled is None else filled
    assert prose.fill(text, FIGURES) == wanted
    assert prose.fill(wanted, FIGURES) == wanted


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "a <!--=gain-->+7.2 %<!--/-->",
            "holds '+7.2 %', and the run gave '+7.2 % [+6.4, +8.0]': course refresh",
        ),
        (
            "a <!--=gian-->7<!--/-->",
            "<!--=gian-->: unknown figure 'gian'. Did you mean 'gain'? Known: gain, size of",
        ),
        ("a <!--=01.gian-->7<!--/-->", "unknown figure '01.gian'. Did you mean '01.gain'? Known: 01.gain."),
        ("a <!--=-->7<!--/-->", "unknown figure ''"),
        (
            "a <!--=07.gain-->7<!--/-->",  # a chapter without figures: those of the whole course are no answer
            "unknown figure '07.gain'. Did you mean '01.gain' or 'gain'? Known: none.",
        ),
        ("a <!--=07.teacher_share-->7<!--/-->", "unknown figure '07.teacher share'. Known: none."),
        ("a <!--=gain-->7", "<!--=gain--> is half a mark"),
        ("a 7<!--/-->", "<!--/--> is half a mark"),
        ("a <!--=gain 7<!--/-->", "is half a mark"),
        (
            "a <!--=gain-->7 <!--arithmetic-->8<!--/-->",
            "<!--=gain--> has no end <!--/--> before the next comment",
        ),
        ("a <!--published: -->7<!--/-->", "names no source"),
        ("<!--arithmetic-->7<!--/--> a", "<!--arithmetic--> begins a line: put a word before it"),
        ("a\n- <!--arithmetic-->7<!--/-->", "- <!--arithmetic--> begins a line"),
        ("a\n   > 1. <!--arithmetic-->7<!--/-->", "> 1. <!--arithmetic--> begins a line"),
    ],
)
def test_what_is_wrong_with_a_mark_is_said(text, fault):
    (found,) = prose.faults(text, FIGURES)
    assert fault in found


@pytest.mark.parametrize(
    "text",
    [
        "a <!--=gain-->+7.2 % [+6.4, +8.0]<!--/--> b",
        "a <!--published: hinton2015distilling, table 1-->8.9 %<!--/--> and <!--arithmetic-->1.5<!--/-->",
        "| <!--=01.gain-->9 %<!--/--> | <!-- a remark -->",
        "`<!--=name-->` and\n\n```\n<!--=name-->text<!--/-->\n```\n",
        "<!-- a remark -->\n",
    ],
)
def test_marks_that_are_well_are_passed(text):
    assert prose.faults(text, FIGURES) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It gains 7.2 %, or 7 %, or 12%.", ["7.2 %", "7 %", "12%"]),
        ("from -1.5 to +2.25 points", ["-1.5", "+2.25"]),
        ("1,000.5 images, .5 of them", ["1,000.5", ".5"]),
        ("eight percent, 8 percent, 8 per cent", ["8 percent", "8 per cent"]),
        ("23 times fewer, 4x faster, 4× as fast, 5-fold", ["23 times", "4x", "4×", "5-fold"]),
        ("a rate of 1e-3 or 2.5e-4", ["1e-3", "2.5e-4"]),
        ("## It gains 7.2 %\n\n<summary>0.5</summary>", ["7.2 %", "0.5"]),
        ("| 0.5 | `0.6` |\n|---|---|", ["0.5"]),
        ("[0.5 of it](http://a.b/0.6) ![7.5 %](c-0.8.png)", ["0.5", "7.5 %"]),
        ("p < 0.5 and q > 0.6; costs \\$0.7 or \\$0.8", ["0.5", "0.6", "0.7", "0.8"]),
        ("$T = 0.5$ and 0.6, $$0.7$$", ["0.6"]),
        ("within 95 % of it, the 90 % interval", ["95 %", "90 %"]),
        ("table 2 has 0.5 and section 3.1 has 0.6", ["0.5", "0.6"]),
        ("a <!--=gain-->9.9 %<!--/-->, then 0.5 <!-- 0.6 -->", ["0.5"]),
        ("```\n0.5\n```\n0.6\n## References\n\n- A 0.7", ["0.6"]),
    ],
)
def test_a_number_that_a_run_or_a_source_gave_needs_a_mark(text, found):
    assert prose.typed(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "10 classes, 1,000 images, T = 8, 3x3 or 3 × 3 kernels, int8, 8-bit, 2015. Then 3.",
        "the mean with its 95 % interval; 95 % Student t intervals over seeds",
        "section 3.2, sections 3.2 and 4.1, Table 2.1, Python 3.11 to 3.13, PyTorch 2.12, arXiv:1503.02531",
        "$T^2 = 0.25$ and $$\\alpha = 0.1$$ and `rate = 0.1`",
        "1. first\n2. second",
        "<!--published: source document-->8.9 %<!--/-->, <!--arithmetic-->0.5 × 4 = 2.0<!--/-->",
        '<img src="a-0.5.png" width="50%" alt="a"> https://arxiv.org/abs/1503.02531',
        "three times as many, a third, half",
    ],
)
def test_counts_settings_places_and_marked_numbers_need_no_other(text):
    assert prose.typed(text) == []


@pytest.mark.parametrize(
    ("line", "times"),
    [
        (
            "**Time** 35 minutes to read, about 60 seconds to run.",
            {"01.minutes to read": "35 min", "01.seconds to run": "60 s"},
        ),
        ("**Time** 35 minutes to read, less than 60 seconds to run.", {}),
        ("Nothing of it.", {}),
    ],
)
def test_the_times_below_a_title_are_figures_of_the_chapter(line, times):
    notebook = new_notebook(cells=[new_markdown_cell(f"# 01 Title\n\n{line}"), new_markdown_cell("More.")])
    chapter = Chapter(Path("01-title.ipynb"), "01 Title", {}, "")
    assert prose.known([(chapter, notebook)]) == times
