"""Diagrams: drawn without a warning, legible, in the colours of the course, with an alt text of their own."""

import functools
import inspect
import itertools
import math
import re
import warnings

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Ellipse, FancyArrowPatch, FancyBboxPatch

from course_lib import page
from course_lib.plots import COLOURS, diagrams
from course_lib.plots._drawing import Box, arrow, box, canvas, label
from course_lib.quantization.affine import QuantParams
from course_lib.quantization.aware import straight_through

CASES = {
    "batch_norm_statistics": [{}, {"before": (-1, 4), "after": (20, 0.5)}],
    "cut_channel": [
        {},
        {"channels": 5, "cut": 4, "inputs": 1, "outputs": 5},
        {"channels": 2, "cut": 0, "outputs": 1},
    ],
    "gamma_scaling": [
        {},
        {"gammas": (-1.25, 0.125, 0.001, 2.5, 0.01, -0.02), "threshold": 0.1},
        {"gammas": (1, 1)},
    ],
    "hash_buckets": [
        {},
        {
            "places": ((5, 0, 1, 2, 3, 4),) * 6,
            "stored": (-0.25, 0.125, 1, -1, 0.5, -0.75),
            "signs": ((-1,) * 6,) * 6,
        },
        {"places": ((0, 1),), "stored": (1, 2)},
    ],
    "integer_arithmetic": [
        {},
        {"inputs": (-128, 127, 127, -128), "weights": (127, 127, -128, -128), "multiplier": 0.001234},
        {"inputs": (100, 100), "weights": (100, 100), "multiplier": 12.5},
    ],
    "low_rank": [
        {},
        {"rows": 1000, "columns": 4000, "rank": 1},
        {"rows": 2048, "columns": 512, "rank": 512},
    ],
    "pipeline": [{}, {"notes": ("1,234.5 kB, 97.1 %",) * 5}],
    "saturation": [
        {},
        {"values": (-0.001234, 0.00025), "threshold": 0.00025},
        {"values": range(-20, 21), "threshold": 19},
    ],
    "solution_spaces": [{}],
    "straight_through": [{}, {"step": 0.001234, "levels": 7}, {"step": 250, "levels": 1}],
    "residual_addition": [{}, {"channels": 2, "cut": 0}, {"channels": 5, "cut": 4}],
    "eagleeye_funnel": [{}, {"counts": (1000, 400, 40, 40, 5, 2)}, {"counts": (1,) * 6}],
    "softmax_at_temperatures": [
        {},
        {"logits": (2, -1.25, 0.5, -9), "classes": "abcd", "temperatures": (0.5, 2, 100)},
        {"logits": (0, 0), "classes": ("cat", "car"), "temperatures": (20,)},
    ],
    "teacher_and_student": [{}, {"temperature": 2.5, "alpha": 1 / 3}, {"temperature": 20, "alpha": 0}],
}
"""{diagram: keywords to draw it with}: the defaults first, then numbers that are long, many, few or extreme."""

DRAWN = [
    pytest.param(name, given, id=f"{name}-{n}") for name, all in CASES.items() for n, given in enumerate(all)
]


def draw(name, given=None):
    """A diagram, laid out by a renderer; what matplotlib warns of is an error."""
    return drawn_once(name, tuple((given or {}).items()))


@functools.cache
def drawn_once(name, given):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = getattr(diagrams, name)(**dict(given))
        FigureCanvasAgg(figure).draw()
    return figure


def extents(figure):
    """(words, bounding box in pixels) of every text, without the pixel that matplotlib leaves around it."""
    found = []
    for text in figure.findobj(mpl.text.Text):
        if text.get_text().strip():
            found.append((text.get_text(), text.get_window_extent().padded(-1)))
    return found


def illegible(figure):
    """What a reader stumbles over: words on words, beyond the edge or out of their box, or under an arrow."""
    words = sorted(extents(figure), key=lambda found: found[0])
    for (one, first), (other, second) in itertools.combinations(words, 2):
        if first.overlaps(second):
            yield f"{one!r} lies on {other!r}"
    for text, place in words:
        if not (figure.bbox.x0 <= place.x0 and place.x1 <= figure.bbox.x1):
            yield f"{text!r} leaves the figure at a side"
        if not (figure.bbox.y0 <= place.y0 and place.y1 <= figure.bbox.y1):
            yield f"{text!r} leaves the figure above or below"
    for patch in figure.findobj(FancyBboxPatch):
        around = patch.get_window_extent()
        for text, place in words:
            if place.overlaps(around) and not (
                around.x0 + 2 <= place.x0
                and place.x1 <= around.x1 - 2
                and around.y0 <= place.y0
                and place.y1 <= around.y1
            ):
                yield f"{text!r} leaves its box"
    for patch in figure.findobj(Ellipse):
        path = patch.get_path().transformed(patch.get_transform())
        for text, place in words:
            if path.intersects_bbox(place, filled=False):
                yield f"an outline goes through {text!r}"
    for patch in figure.findobj(FancyArrowPatch):
        points = patch.get_path().vertices[:-1]  # the last closes the head and has no place
        path = mpl.path.Path(points).transformed(patch.axes.transData)
        for text, place in words:
            if path.intersects_bbox(place, filled=False):
                yield f"an arrow goes through {text!r}"


def test_every_diagram_is_tried_here():
    assert set(CASES) == set(diagrams.__all__)


@pytest.mark.parametrize(("name", "given"), DRAWN)
def test_a_diagram_can_be_read(name, given):
    figure = draw(name, given)
    assert list(illegible(figure)) == []
    assert figure.get_size_inches()[0] == pytest.approx(7.2)
    assert min(text.get_fontsize() for text in figure.findobj(mpl.text.Text) if text.get_text()) >= 9
    for words, _ in extents(figure):
        assert len(words.split()) <= 8, words


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda axes: label(axes, (105, 52), "word"), "'text' lies on 'word'"),
        (lambda axes: label(axes, (712, 52), "word"), "'word' leaves the figure at a side"),
        (lambda axes: label(axes, (400, 98), "word"), "'word' leaves the figure above or below"),
        (lambda axes: box(axes, Box(300, 30, 40, 40), "a long word"), "'a long word' leaves its box"),
        (lambda axes: arrow(axes, (20, 50), (200, 50)), "an arrow goes through 'text'"),
        (
            lambda axes: axes.add_patch(Ellipse((110, 50), 30, 30, fill=False)),
            "an outline goes through 'text'",
        ),
    ],
)
def test_what_cannot_be_read_is_found(spoil, fault):
    figure, axes = canvas(100, "a box and a word")
    label(axes, (100, 50), "text")
    box(axes, Box(500, 20, 90, 60), "title", "note")
    FigureCanvasAgg(figure).draw()
    assert list(illegible(figure)) == []
    spoil(axes)
    FigureCanvasAgg(figure).draw()
    assert fault in list(illegible(figure))


def is_of_the_palette(colour):
    """Whether a colour is grey, one of the palette, or one of the palette mixed with white."""
    missing = 1 - np.array(mpl.colors.to_rgb(colour))
    if max(missing) - min(missing) < 0.01:
        return True
    for own in COLOURS:
        of_own = 1 - np.array(mpl.colors.to_rgb(own))
        share = missing @ of_own / (of_own @ of_own)
        if share <= 1.01 and np.abs(missing - share * of_own).max() < 0.01:
            return True
    return False


def colours(figure):
    for patch in figure.findobj(mpl.patches.Patch):
        yield from (patch.get_facecolor(), patch.get_edgecolor())
    for collection in figure.findobj(mpl.collections.Collection):
        yield from (*collection.get_facecolor(), *collection.get_edgecolor())
    for drawn in figure.findobj(mpl.lines.Line2D) + figure.findobj(mpl.text.Text):
        yield drawn.get_color()


@pytest.mark.parametrize("name", CASES)
def test_colours_are_those_of_the_palette(name):
    others = {
        colour for colour in map(mpl.colors.to_hex, colours(draw(name))) if not is_of_the_palette(colour)
    }
    assert others == set()


def test_another_colour_is_seen():
    assert is_of_the_palette(COLOURS[0])
    assert is_of_the_palette("#eeeeee")
    assert not is_of_the_palette("red")


@pytest.mark.parametrize(("name", "given"), DRAWN)
def test_the_alt_text_says_what_is_drawn(name, given):
    alt = draw(name, given).get_label()
    assert 60 <= len(alt) <= 400
    assert alt.endswith(".")
    assert inspect.getdoc(getattr(diagrams, name))


def test_the_same_diagram_gives_the_same_bytes():
    first, second = (page._svg(diagrams.batch_norm_statistics()) for _ in range(2))
    assert first == second


# Showing


@pytest.fixture
def displayed(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *given, **how: shown.append((*given, how)))
    return shown


def test_words_stay_words_on_the_page_and_a_png_stands_beside_them(displayed):
    figure = diagrams.teacher_and_student()
    page.show(figure)
    ((bundle, how),) = displayed
    assert how["raw"]
    assert set(bundle) == {"image/svg+xml", "image/png", "text/plain"}
    assert {how["metadata"][kind]["alt"] for kind in ("image/svg+xml", "image/png")} == {figure.get_label()}
    svg = bundle["image/svg+xml"]
    assert svg.startswith("<svg")
    for words in ("soft targets", "no gradient into the teacher"):
        assert re.search(rf"<text[^>]*>{words}</text>", svg)
    assert not re.search(mpl.__version__, svg)
    assert len(svg) < 40_000


def test_a_chapter_may_say_it_in_its_own_words(displayed):
    alt = "The teacher stands still and the student learns."
    page.show(diagrams.teacher_and_student(), alt=alt)
    ((bundle, how),) = displayed
    assert bundle["text/plain"] == alt
    assert how["metadata"]["image/png"]["alt"] == alt


# What is drawn


def words(name, **given):
    return [text for text, _ in extents(draw(name, given))]


def arrows(figure, *, gradient):
    """(beginning, end) of each arrow, in pixels of the page."""
    found = []
    for patch in figure.findobj(FancyArrowPatch):
        red = mpl.colors.to_hex(patch.get_edgecolor()).upper() == COLOURS[1]
        if red == gradient:
            found.append((patch._path_original.vertices[0], patch._path_original.vertices[-1]))
    return found


def test_gradients_end_in_the_student_and_none_in_the_teacher():
    figure = draw("teacher_and_student")
    centres = {text.get_text(): text.get_position() for text in figure.findobj(mpl.text.Text)}
    teacher, student = centres["teacher"], centres["student"]
    back = arrows(figure, gradient=True)[:-1]  # the last stands in the legend
    assert all(end[0] < begin[0] for begin, end in back)
    leftmost = min(end[0] for _, end in back)
    ends = [end for _, end in back if end[0] == leftmost]
    assert len(ends) == 2
    assert all(abs(y - student[1]) < abs(y - teacher[1]) for _, y in ends)
    assert student[0] < leftmost < 296
    assert min(begin[1] for begin, _ in back) > teacher[1] + 40


def test_the_weights_of_both_losses_are_worked_out():
    written = words("teacher_and_student", temperature=2, alpha=0.25)
    assert {"= 0.75 · 4 = 3", "times α = 0.25", "softmax at T = 2", "softmax at T = 1"} <= set(written)


def test_bars_stand_for_the_logits_over_the_temperature_and_their_softmax():
    figure = draw("softmax_at_temperatures", {"logits": (2, 0), "classes": "ab", "temperatures": (1, 2)})
    heights = [bar.get_height() for bar in figure.axes[0].patches if isinstance(bar, mpl.patches.Rectangle)]
    unit = heights[0] / 2
    logits = [heights[i] / unit for i in (0, 1, 2, 3, 6, 7)]
    probabilities = [heights[i] / 80 for i in (4, 5, 8, 9)]
    assert logits == pytest.approx([2, 0, 2, 0, 1, 0])
    hot = [1 / (1 + math.exp(-2 / t)) for t in (1, 2)]
    assert probabilities == pytest.approx([hot[0], 1 - hot[0], hot[1], 1 - hot[1]])


def test_a_temperature_below_one_makes_no_bar_that_leaves_its_row():
    figure = draw("softmax_at_temperatures", {"logits": (2, -6), "classes": "ab", "temperatures": (0.1,)})
    bars = [p.get_bbox() for p in figure.axes[0].patches if isinstance(p, mpl.patches.Rectangle)][:4]
    assert min(bar.ymin for bar in bars) == pytest.approx(88)
    assert max(bar.ymax for bar in bars) == pytest.approx(172)


@pytest.mark.parametrize(
    ("counts", "dots"), [((40, 40, 40, 12, 3, 1), [40, 40, 40, 12, 3, 1]), ((1, 1, 1, 1, 1, 1), [1] * 6)]
)
def test_the_funnel_holds_a_dot_for_each_candidate(counts, dots):
    figure = draw("eagleeye_funnel", {"counts": counts})
    assert [len(line.get_xdata()) for line in figure.axes[0].lines] == dots


def test_old_statistics_let_hardly_anything_pass():
    assert {"1% pass the ReLU", "50% pass the ReLU"} <= set(words("batch_norm_statistics"))
    same = words("batch_norm_statistics", before=(1, 2), after=(1, 2))
    assert same.count("50% pass the ReLU") == 2


def test_a_distribution_far_from_zero_is_still_in_its_panel():
    figure = draw("batch_norm_statistics", CASES["batch_norm_statistics"][1])
    peaks = [line.get_ydata().min() for line in figure.axes[0].lines if len(line.get_xdata()) > 10]
    old = sorted(round(peak) for peak in peaks if peak < 140)
    assert old == [74, 74, 136, 136]  # at the top of their panels, which begin there


def struck(figure):
    """Centres of the channels that are struck out, from left to right."""
    red = [
        line for line in figure.axes[0].lines if line.get_color() == COLOURS[1] and line.get_linewidth() == 2
    ]
    return sorted((line.get_xdata().mean(), line.get_ydata().mean()) for line in red)


def test_a_cut_channel_is_a_row_in_its_layer_and_a_column_in_the_next():
    places = struck(draw("cut_channel", {"channels": 4, "cut": 2, "inputs": 3, "outputs": 2}))
    assert len(places) == 3 + 4 + 1 + 2  # filter, batch norm, map, a kernel in both filters
    *row, first, second = places
    assert len({y for _, y in row}) == 1
    assert first[0] == second[0]
    assert first[1] < second[1]


def test_gammas_are_as_long_as_they_are_large_and_the_small_ones_are_cut():
    gammas, threshold = (1.0, 0.05, -0.5), 0.1
    figure = draw("gamma_scaling", {"gammas": gammas, "threshold": threshold})
    bars = [
        p for p in figure.axes[0].patches if isinstance(p, mpl.patches.Rectangle) and p.get_height() == 18
    ]
    unit = bars[0].get_width()
    assert [bar.get_width() / unit for bar in bars] == pytest.approx([1, 0.05, 0.5])
    (edge,) = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert (edge.get_xdata()[0] - bars[0].get_x()) / unit == pytest.approx(threshold)
    assert [y for _, y in struck(figure)] == [pytest.approx(bars[1].get_y() + 9)]


def test_an_addition_ties_three_stacks_and_leaves_the_one_inside_free():
    figure = draw("residual_addition", {"channels": 3, "cut": 1})
    assert len(struck(figure)) == 3
    assert len({y for _, y in struck(figure)}) == 1
    squares = [p for p in figure.axes[0].patches if isinstance(p, mpl.patches.Rectangle)]
    assert len(squares) == 4 * 3


def test_values_beyond_the_threshold_land_on_the_last_integer():
    values, threshold = (-1.0, 0.5, 4.0), 2.0
    figure = draw("saturation", {"values": values, "threshold": threshold})
    drawn = arrows(figure, gradient=False) + arrows(figure, gradient=True)
    for panel, limit in ((40, 4.0), (400, threshold)):
        inside = sorted((b, e) for (b, _), (e, _) in drawn if panel - 1 <= b <= panel + 281)
        assert [(b - panel - 140) / 140 * 4 for b, _ in inside] == pytest.approx(values)
        levels = [round(max(-1, min(1, value / limit)) * 127) for value in values]
        assert [(e - panel - 140) / 140 * 127 for _, e in inside] == pytest.approx(levels)
    assert len(arrows(figure, gradient=True)) == 1
    assert {"one step = 0.031", "one step = 0.016"} <= set(
        words("saturation", values=values, threshold=threshold)
    )


@pytest.mark.parametrize(
    ("inputs", "weights", "multiplier", "total", "stored"),
    [
        ((10, 20), (3, -4), 0.5, "−50", "−25"),
        ((127, 127), (127, 126), 1.0, "32,131", "127"),
        ((-128, 0), (127, 5), 1.0, "−16,256", "−128"),
    ],
)
def test_integers_are_summed_scaled_rounded_and_clamped(inputs, weights, multiplier, total, stored):
    figure = draw("integer_arithmetic", {"inputs": inputs, "weights": weights, "multiplier": multiplier})
    places = {text.get_position(): text.get_text() for text in figure.findobj(mpl.text.Text)}
    at = {x: {text for (where, _), text in places.items() if where == x} for x in (354, 536, 670)}
    assert at[354] == {"sum", "int32: four bytes", total}
    assert at[670] == {"output", "int8", stored}
    assert any(text.endswith(f"becomes {stored}") for text in at[536])


def test_the_gradient_is_the_one_that_the_library_puts_in():
    step, levels = 0.5, 3
    figure = draw("straight_through", {"step": step, "levels": levels})
    staircase, gradient = (
        next(line for line in figure.axes[0].lines if (line.get_color(), line.get_linewidth()) == look)
        for look in ((COLOURS[0], 2.5), (COLOURS[1], 2))
    )
    middle, pixels = 404 + 145, 145 / (levels + 1.5) / step
    edges = sorted({(x - middle) / pixels for x in gradient.get_xdata()[1:-1]})
    params = QuantParams(torch.tensor(step), torch.tensor(0, dtype=torch.int32), bits=3, signed=True)
    x = torch.tensor([edges[1] - 0.01, edges[1] + 0.01], requires_grad=True)
    straight_through(x, params).sum().backward()
    assert x.grad.tolist() == [1, 0]
    assert edges[0] == pytest.approx(-edges[1])
    assert len(set(staircase.get_ydata())) == 2 * levels + 1


def test_matrices_are_drawn_to_scale_and_their_numbers_counted():
    figure = draw("low_rank", {"rows": 40, "columns": 20, "rank": 5})
    sides = [(p.get_height(), p.get_width()) for p in figure.axes[0].patches]
    unit = sides[0][0] / 40
    assert [side / unit for pair in sides for side in pair] == pytest.approx([40, 20, 40, 5, 5, 20])
    assert {"800 numbers", "300 numbers", "40 × 5", "5 × 20"} <= set(
        words("low_rank", rows=40, columns=20, rank=5)
    )


def test_each_weight_shows_what_its_bucket_holds():
    given = {"places": ((0, 1, 1), (1, 0, 0)), "stored": (0.5, 2), "signs": ((1, -1, 1), (1, 1, -1))}
    cells = [text for text in words("hash_buckets", **given) if re.fullmatch(r"−?(0\.5|2)", text)]
    assert cells == ["0.5", "−2", "2", "2", "0.5", "−0.5", "0.5", "2"]
    patches = [p for p in draw("hash_buckets", given).axes[0].patches if isinstance(p, mpl.patches.Rectangle)]
    shades = [mpl.colors.to_hex(patch.get_facecolor()) for patch in patches]
    assert [shades.index(shade) for shade in shades] == [0, 1, 1, 1, 0, 0, 0, 1]


def test_the_notes_of_a_chapter_stand_below_the_steps():
    notes = ("1.1 MB", "0.6 MB", "0.5 MB", "0.2 MB", "0.1 MB")
    assert [text for text in words("pipeline", notes=notes) if text.endswith("MB")] == list(notes)
    assert len(struck(draw("pipeline", {"notes": notes}))) == 2


def test_the_distilled_student_lies_in_both_spaces_and_nearer_to_the_teacher():
    teacher_space, student_space, teacher, alone, distilled = [
        p for p in draw("solution_spaces").findobj(Ellipse) if not p.get_fill()
    ]

    def inside(space, place):
        (x, y), (a, b) = space.center, place.center
        return ((a - x) / space.width * 2) ** 2 + ((b - y) / space.height * 2) ** 2 < 1

    held = [
        [inside(space, p) for p in (teacher, alone, distilled)] for space in (teacher_space, student_space)
    ]
    assert held == [[True, False, True], [False, True, True]]
    assert math.dist(distilled.center, teacher.center) < math.dist(alone.center, teacher.center)


# Refused


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("teacher_and_student", {"temperature": 0}, "temperature must be a positive number; it is 0"),
        ("teacher_and_student", {"temperature": math.nan}, "temperature must be a positive number"),
        ("teacher_and_student", {"alpha": 1.5}, r"alpha must lie in \[0, 1\]; it is 1.5"),
        ("softmax_at_temperatures", {"logits": [1]}, "logits must be two to four numbers"),
        ("softmax_at_temperatures", {"logits": (1, math.inf)}, "logits must be two to four numbers"),
        ("softmax_at_temperatures", {"logits": (1, 2)}, "classes must be 2 names"),
        ("softmax_at_temperatures", {"temperatures": (1, 0)}, "temperatures must be one to three positive"),
        ("softmax_at_temperatures", {"temperatures": ()}, "temperatures must be one to three positive"),
        ("cut_channel", {"channels": 6}, "channels must be two to five; it is 6"),
        (
            "cut_channel",
            {"channels": 3, "cut": 3},
            "cut must be one of the 3 channels, counted from 0; it is 3",
        ),
        ("cut_channel", {"inputs": 0}, "inputs must be one to three"),
        ("cut_channel", {"outputs": 6}, "outputs must be one to five"),
        ("gamma_scaling", {"gammas": [1.0]}, "gammas must be two to six numbers"),
        ("gamma_scaling", {"gammas": (1.0, math.nan)}, "gammas must be two to six numbers"),
        ("gamma_scaling", {"threshold": 2.0}, "threshold must lie between 0 and the largest gamma"),
        ("saturation", {"values": (0, 0)}, "values must be numbers, not all 0"),
        ("saturation", {"values": (1, math.inf)}, "values must be numbers, not all 0"),
        ("saturation", {"threshold": 6.0}, r"threshold must lie in \[1.2, 6\); it is 6"),
        ("saturation", {"threshold": 1.0}, "threshold must lie in"),
        (
            "integer_arithmetic",
            {"inputs": (1, 200, 3)},
            "inputs must be two to four integers from -128 to 127",
        ),
        ("integer_arithmetic", {"weights": (1, 0.5, 3)}, "weights must be two to four integers"),
        ("integer_arithmetic", {"weights": (1, 2)}, r"weights must be 3 numbers; it is \(1, 2\)"),
        ("integer_arithmetic", {"multiplier": 0}, "multiplier must be a positive number"),
        ("straight_through", {"step": -1}, "step must be a positive number"),
        ("straight_through", {"levels": 8}, "levels must be one to seven"),
        ("low_rank", {"rows": 0}, "rows and columns must be positive"),
        ("low_rank", {"rows": 500}, r"rows and columns must be positive, .*; it is \(500, 48\)"),
        ("low_rank", {"rank": 49}, r"rank must lie in \[1, 48\]"),
        ("hash_buckets", {"places": ((0, 1), (1,))}, "places must be one to six rows"),
        ("hash_buckets", {"places": ((0, 4),)}, "places must be buckets, counted from 0 to 3"),
        ("hash_buckets", {"stored": (1,)}, "stored must be two to six numbers"),
        ("hash_buckets", {"signs": ((1, 0),)}, "signs must be"),
        ("pipeline", {"notes": ("one",)}, "notes must be five texts"),
        ("residual_addition", {"channels": 1}, "channels must be two to five"),
        ("residual_addition", {"cut": -1}, "cut must be one of the 4 channels"),
        ("eagleeye_funnel", {"counts": (5, 4, 3)}, "counts must be six numbers"),
        ("eagleeye_funnel", {"counts": (5, 4, 3, 3, 3, 4)}, "counts must be six numbers"),
        ("eagleeye_funnel", {"counts": (5, 4, 3, 3, 1, 0)}, "counts must be six numbers"),
        (
            "batch_norm_statistics",
            {"before": (1, 0)},
            "before must be a mean and a standard deviation above 0",
        ),
        ("batch_norm_statistics", {"after": (math.nan, 1)}, "after must be a mean and a standard deviation"),
    ],
)
def test_what_a_diagram_cannot_show_is_refused(name, given, message):
    with pytest.raises(ValueError, match=message):
        getattr(diagrams, name)(**given)
