"""Figures: each comes back as a Figure in the course's style, draws what it was given, and changes nothing else."""

import base64
import inspect
import io
import json
import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from PIL import Image

import course_lib
from course_lib import page, plots
from course_lib.pruning.rollback import Attempt, PruningLog
from course_lib.statistics import Interval, paired_difference

IMAGES = torch.arange(3 * 16, dtype=torch.uint8).reshape(3, 1, 4, 4)
ARMS = {"alone": [0.60, 0.62, 0.61], "distilled, T = 4": [0.70, 0.71, 0.69], "other": [0.59, 0.63, 0.62]}
KERNELS = torch.arange(12).reshape(3, 2, 2, 1)
LOG = PruningLog(
    baseline=0.8,
    start=100.0,
    mode="hard",
    tolerance=0.02,
    target=0.5,
    attempts=[
        Attempt(1, 1.0, 0.9, 0.81, True, "kept", {"1": [0]}),
        Attempt(2, 0.9, 0.7, 0.5, False, "fell", {"1": [1]}),
        Attempt(3, 0.9, 0.7, None, False, "not finite", {"1": [2]}),
        Attempt(4, 0.9, 0.8, 0.79, True, "kept", {"1": [3]}),
    ],
)
INTERVALS = {"clear": Interval(0.05, 0.02, 0.08, 5), "unclear": Interval(0.01, -0.02, 0.04, 5)}

EXAMPLES = {
    "image_grid": lambda: plots.image_grid(IMAGES, ["a", "b", "c"], columns=2),
    "probability_bars": lambda: plots.probability_bars(
        {"T = 1": torch.tensor([0.9, 0.1]), "T = 4": torch.tensor([0.6, 0.4])},
        ("cat", "car"),
        title="targets",
    ),
    "image_with_probabilities": lambda: plots.image_with_probabilities(
        IMAGES,
        {"hard": torch.eye(3), "soft": torch.full((3, 3), 1 / 3)},
        ("a", "b", "c"),
        titles=["x", "y", "z"],
    ),
    "lines": lambda: plots.lines(
        {"up": ([1.0, 2.0, 4.0], [0.1, 0.2, 0.4]), "down": ([1.0, 4.0], [0.4, 0.1])},
        xlabel="T",
        ylabel="accuracy",
        log_x=True,
        percent=True,
    ),
    "compare_arms": lambda: plots.compare_arms(ARMS, baseline="alone"),
    "every_run": lambda: plots.every_run(ARMS, title="runs"),
    "paired_runs": lambda: plots.paired_runs(ARMS, of="distilled, T = 4", title="runs"),
    "line_panels": lambda: plots.line_panels(
        {"half": {"plain": ([2, 4], [0.3, 0.1])}, "fifth": {"plain": ([2, 4], [0.5, 0.4])}},
        xlabel="candidates",
        ylabel="regret",
    ),
    "run_rows": lambda: plots.run_rows(
        {
            "weak": {"as it is": {"at once": [0.1, 0.1], "tuned": [0.4, 0.2]}},
            "strong": {
                "as it is": {"at once": [0.5, 0.6], "tuned": [0.8, 0.9]},
                "mended": {"at once": [0.7, 0.8], "tuned": [0.8, 0.9]},
            },
        }
    ),
    "differences": lambda: plots.differences(INTERVALS, title="gains"),
    "heat_map": lambda: plots.heat_map(
        np.array([[1.25, 2.5, 3.0], [4.0, np.nan, 6.0]]), ["r", "s"], [1, 2, 3], xlabel="T", ylabel="alpha"
    ),
    "accuracy_against_cost": lambda: plots.accuracy_against_cost(
        {"vgg": (1e6, 0.94), "mlp": (1e5, 0.71)}, xlabel="MACs"
    ),
    "memory_over_time": lambda: plots.memory_over_time({"vgg": [1000, 5000, 2000], "mlp": [100, 200]}),
    "time_against_macs": lambda: plots.time_against_macs(
        {"vgg": (1e6, [0.002, 0.001, 0.003]), "mobile": (5e5, [0.004, 0.005, 0.006])}, through="vgg"
    ),
    "costs_by_layer": lambda: plots.costs_by_layer(["conv", "linear"], {"MACs": [3, 1], "values": [1, 1]}),
    "call_times": lambda: plots.call_times([0.02, 0.01, 0.011, 0.012], median=0.0115, low=0.0108, high=0.014),
    "activations_against_weights": lambda: plots.activations_against_weights(
        {"vgg": ([1.0, 4.0, 16.0], [0.1, 0.4, 1.6]), "mlp": ([1.0, 4.0, 16.0], [0.01, 0.02, 0.03])}
    ),
    "granularities": lambda: plots.granularities(KERNELS, {"weight": KERNELS > 5, "layer": KERNELS > 99}),
    "interval_lines": lambda: plots.interval_lines(
        {
            "weight": {0.5: Interval(0.9, 0.8, 1.0, 5), 0.9: Interval(0.6, 0.5, 0.8, 5)},
            "layer": {0.5: Interval(0.7, 0.6, 0.8, 5)},
        },
        xlabel="parameters cut",
        percent_x=True,
    ),
    "pruning_trajectories": lambda: plots.pruning_trajectories({"hard": LOG, "soft": LOG}, title="two loops"),
    "weight_histograms": lambda: plots.weight_histograms(
        {"plain": torch.linspace(-1, 1, 61), "far": torch.tensor([5.0, 0.0, -7.0])},
        reach=1.0,
        title="weights",
    ),
    "scales_over_epochs": lambda: plots.scales_over_epochs(
        {
            "plain": np.array([[0.5, 0.5, 0.5], [0.6, 0.4, 0.7]]),
            "sparse": np.array([[0.5, 0.5, 0.5], [0.1, 0.0, 0.3]]),
        },
        {"plain": 0.45, "sparse": 0.2},
        {"early": [0], "late": [1, 2]},
    ),
    "run_panels": lambda: plots.run_panels(
        {
            "at once": {
                "weak": {0.5: [0.5, 0.1, 0.6], 0.7: [0.1, 0.1, 0.2]},
                "strong": {0.5: [0.9], 0.7: [0.8]},
            },
            "tuned": {
                "weak": {0.5: [0.9, 0.8, 0.9], 0.7: [0.1, 0.8, 0.2]},
                "strong": {0.5: [0.9], 0.7: [0.9]},
            },
        },
        xlabel="channels cut",
    ),
    "interval_panels": lambda: plots.interval_panels(
        {
            "at once": {"weak": {0.5: Interval(0.5, 0.4, 0.6, 3), 0.7: Interval(0.1, 0.1, 0.2, 3)}},
            "tuned": {"weak": {0.5: Interval(0.9, 0.8, 1.1, 3), 0.7: Interval(0.9, 0.8, 1.0, 3)}},
        },
        xlabel="channels cut",
    ),
    "score_scatter": lambda: plots.score_scatter(
        {
            "old": {"half": ([0.1, 0.2, 0.1], [0.9, 0.8, 0.7], "r = 0.1")},
            "new": {"half": ([0.4, 0.6, 0.5], [0.9, 0.8, 0.7], "r = 0.8")},
        },
        xlabel="score",
        ylabel="accuracy",
    ),
    "before_and_after": lambda: plots.before_and_after(
        {"mean": ([0.1, 0.2], [0.1, 0.4]), "variance": ([1.0, 2.0], [0.5, 1.0])},
        xlabel="inherited",
        ylabel="own",
        log=True,
    ),
    "number_lines": lambda: plots.number_lines(
        {"int2": [-1.0, 0.0, 1.0], "int3": [-1.0, -0.5, 0.0, 0.5, 1.0]}, xlabel="number"
    ),
    "integer_maps": lambda: plots.integer_maps(
        {
            "symmetric": ([-1.0, 0.3, 9.0], [-3, 1, 3], 0.4, 0, -3, 3),
            "asymmetric": ([-1.0, 0.3], [0, 4], 0.3, 3, 0, 7),
        }
    ),
    "histogram_with_thresholds": lambda: plots.histogram_with_thresholds(
        {"layer 1": ([5, 0, 2], 0.5, {"max": 1.5, "entropy": 0.5}), "layer 2": ([1, 1], 2.0, {"max": 4.0})}
    ),
    "threshold_curves": lambda: plots.threshold_curves(
        {
            "8 bits": ([1.0, 2.0], [0.3, 0.6], [0.4, 0.0], {"max": 2.0, "mse": 1.5}),
            "4 bits": ([1.0, 2.0], [3.0, 6.0], [4.0, 0.0], {"max": 2.0, "mse": 1.0}),
        },
        xlabel="threshold",
        ylabel="error",
    ),
    "layer_shares": lambda: plots.layer_shares(
        {"one for all": {"a": 0.5, "b": 0.001}, "one a layer": {"a": 1.0, "b": 0.0}}
    ),
    "width_bars": lambda: plots.width_bars([4, 8, 16], {"weak": [3, 6, 8], "strong": [4, 7, 1]}),
}


def texts(figure):
    return [text.get_text() for text in figure.findobj(mpl.text.Text) if text.get_text()]


def settings():
    """All settings but the backend, which matplotlib chooses when it is first asked for."""
    return {name: mpl.rcParams[name] for name in mpl.rcParams if name != "backend"}


def rendered(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def test_every_figure_of_the_library_is_tried_here():
    functions = inspect.getmembers(plots, inspect.isfunction)
    figures = {name for name, f in functions if inspect.signature(f).return_annotation is Figure}
    assert figures == set(EXAMPLES)


# All figures


def chapters_that_draw():
    """{figure: numbers of the chapters whose code calls it, or that of their studies}."""
    found = {name: set() for name in EXAMPLES}
    for path in (Path(course_lib.__file__).parents[1] / "notebooks").rglob("[0-9][0-9]-*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        for name in found.keys() & set(re.findall(r"\bplots\.(\w+)", code)):
            found[name].add(path.name[:2])
    return {name: sorted(chapters) for name, chapters in found.items()}


def test_every_figure_says_which_chapters_draw_it():
    for name, chapters in chapters_that_draw().items():
        first, last = ", ".join(chapters[:-1]), chapters[-1]
        says = f"Shared: chapters {first} and {last} draw it." if first else f"Chapter {last} draws it."
        assert says in inspect.getdoc(getattr(plots, name)).splitlines(), name


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_figure_is_returned_and_can_be_drawn(name):
    figure = EXAMPLES[name]()
    assert isinstance(figure, Figure)
    assert Image.open(io.BytesIO(rendered(figure))).size[0] > 300
    assert inspect.getdoc(getattr(plots, name))


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_callers_settings_neither_change_nor_matter(name):
    plain = EXAMPLES[name]()
    with mpl.rc_context(
        {"axes.spines.top": True, "font.size": 40, "figure.figsize": (1, 1), "axes.grid": False}
    ):
        before = settings()
        figure = EXAMPLES[name]()
        assert settings() == before
    assert figure.get_size_inches().tolist() == plain.get_size_inches().tolist()
    sizes = [
        [text.get_fontsize() for text in f.findobj(mpl.text.Text) if text.get_text()] for f in (figure, plain)
    ]
    assert sizes[0] == sizes[1]
    assert not any(
        axis.spines["top"].get_visible() for axis in figure.axes if axis.axison and axis.get_subplotspec()
    )


def test_an_error_in_a_figure_leaves_the_settings_alone_too():
    before = settings()
    with pytest.raises(KeyError):
        plots.compare_arms(ARMS, baseline="missing")
    assert settings() == before


# What is drawn


def test_every_image_stands_in_the_grid_with_its_title():
    figure = EXAMPLES["image_grid"]()
    drawn = [axis for axis in figure.axes if axis.images]
    assert len(figure.axes) == 4
    assert [axis.get_title() for axis in drawn] == ["a", "b", "c"]
    for axis, image in zip(drawn, IMAGES, strict=True):
        assert (axis.images[0].get_array() == image[0].numpy()).all()
        assert axis.images[0].get_clim() == (0, 255)  # a dark image is shown dark


def test_coloured_images_keep_their_colours():
    image = torch.randint(0, 256, (1, 3, 5, 5), dtype=torch.uint8)
    figure = plots.image_grid(image)
    assert (figure.axes[0].images[0].get_array() == image[0].permute(1, 2, 0).numpy()).all()


def test_bars_are_as_high_as_the_probabilities():
    figure = EXAMPLES["probability_bars"]()
    heights = [[bar.get_height() for bar in axis.patches] for axis in figure.axes]
    assert heights == [pytest.approx([0.9, 0.1]), pytest.approx([0.6, 0.4])]
    assert {"T = 1", "T = 4", "targets", "0.90", "0.40"} <= set(texts(figure))
    assert all([t.get_text() for t in axis.get_xticklabels()] == ["cat", "car"] for axis in figure.axes)


def test_each_image_stands_over_its_own_probabilities():
    figure = plots.image_with_probabilities(
        IMAGES,
        {"soft": torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])},
        ("a", "b"),
        titles=["x", "y", "z"],
    )
    top, bottom = figure.axes[:3], figure.axes[3:]
    assert [axis.get_title() for axis in top] == ["x", "y", "z"]
    heights = [[bar.get_height() for bar in axis.patches] for axis in bottom]
    assert heights == [pytest.approx(row) for row in ([0.9, 0.1], [0.2, 0.8], [0.5, 0.5])]


@pytest.mark.parametrize("count", [1, 7, 9])
def test_no_curve_is_lost_however_many_there_are(count):
    series = {f"arm {number}": ([1.0, 2.0], [number + 1.0, number + 2.0]) for number in range(count)}
    for figure in (plots.lines(series, xlabel="x", ylabel="y"), plots.activations_against_weights(series)):
        curves = {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].lines}
        assert {label: curves.get(label) for label in series} == {
            label: list(y) for label, (_, y) in series.items()
        }
        assert set(series) <= set(texts(figure))  # named in the legend
        markers = [line.get_marker() for line in figure.axes[0].lines][: min(count, 7)]
        assert len(set(markers)) == len(markers)  # so that they differ without colour


@pytest.mark.parametrize(
    "figure",
    [
        lambda: plots.compare_arms({"a": [0.901, 0.903], "b": [0.911, 0.913]}, baseline="a"),
        lambda: plots.accuracy_against_cost({"a": (1.0, 0.945), "b": (2.0, 0.955)}, xlabel="bytes"),
    ],
)
def test_ticks_of_close_runs_are_told_apart(figure):
    axis = figure().axes[0]
    texts = [axis.yaxis.get_major_formatter()(value) for value in axis.get_yticks()]
    assert len(set(texts)) == len(texts)


def test_arms_are_compared_with_their_baseline_seed_by_seed():
    left, right = plots.compare_arms(ARMS, baseline="alone").axes
    runs = [list(line.get_ydata()) for line in left.lines if len(line.get_xdata()) == 3]
    assert runs[:3] == [list(run) for run in zip(*ARMS.values(), strict=True)]
    centres = [c.lines[0].get_xdata()[0] for c in right.containers if isinstance(c, ErrorbarContainer)]
    expected = [
        paired_difference(ARMS[arm], ARMS["alone"]).mean * 100 for arm in ("distilled, T = 4", "other")
    ]
    assert centres == pytest.approx(expected)
    assert [label.get_text() for label in right.get_yticklabels()] == ["distilled, T = 4", "other"]


def test_every_run_of_every_arm_has_a_marker_of_its_seed():
    axis = EXAMPLES["every_run"]().axes[0]
    drawn = [list(line.get_xdata()) for line in axis.lines]
    assert drawn == [list(run) for run in zip(*ARMS.values(), strict=True)]
    assert [list(line.get_ydata()) for line in axis.lines] == [[0, 1, 2]] * len(drawn)
    assert [label.get_text() for label in axis.get_yticklabels()] == list(ARMS)
    assert len({line.get_marker() for line in axis.lines}) == len(drawn)  # told apart without colour


def test_gains_are_drawn_seed_by_seed_and_none_of_an_arm_over_itself():
    left, right = EXAMPLES["paired_runs"]().axes
    runs = [line.get_xdata().tolist() for line in left.lines if len(line.get_xdata()) > 1]
    assert runs == [list(run) for run in ARMS.values()]
    own = np.array(ARMS["distilled, T = 4"])
    gains = [100 * (own - np.array(run)) for name, run in ARMS.items() if name != "distilled, T = 4"]
    drawn = [line.get_xdata() for line in right.lines if len(line.get_xdata()) == len(own) and len(own) > 2]
    np.testing.assert_allclose(drawn, gains)
    with pytest.raises(KeyError, match="not among the arms"):
        plots.paired_runs(ARMS, of="nobody")


def test_panels_of_lines_share_their_axes():
    first, second = EXAMPLES["line_panels"]().axes
    assert second.lines[0].get_xydata().tolist() == [[2, 0.5], [4, 0.4]]
    assert (first.get_xlim(), first.get_ylim()) == (second.get_xlim(), second.get_ylim())


def test_networks_of_other_chapters_stand_behind_in_grey():
    figure = plots.accuracy_against_cost({"cut": (1e5, 0.9)}, xlabel="MACs", earlier={"whole": (1e6, 0.94)})
    grey, own = figure.axes[0].lines
    assert (grey.get_xdata()[0], grey.get_ydata()[0]) == (1e6, 0.94)
    assert grey.get_zorder() < own.get_zorder()
    assert {text.get_text() for text in figure.axes[0].texts} == {"cut", "whole"}


@pytest.mark.bad_input
@pytest.mark.parametrize("arms", [{}, {"a": [0.1, 0.2], "b": [0.1]}])
def test_arms_of_different_seeds_are_not_drawn(arms):
    with pytest.raises(ValueError, match="one figure for each seed, the same seeds"):
        plots.every_run(arms)


def test_an_interval_that_holds_zero_looks_different():
    axis = EXAMPLES["differences"]().axes[0]
    clear, unclear = (c.lines[0] for c in axis.containers)
    assert clear.get_xdata()[0] == pytest.approx(5)
    assert unclear.get_xdata()[0] == pytest.approx(1)
    assert clear.get_marker() != unclear.get_marker()
    assert clear.get_color() != unclear.get_color()
    segment = axis.containers[0].lines[2][0].get_segments()[0]
    np.testing.assert_allclose(segment[:, 0], [2, 8])
    assert [label.get_text() for label in axis.get_yticklabels()] == ["clear", "unclear"]
    assert axis.get_ylim()[0] > axis.get_ylim()[1]  # the first on top


def test_a_heat_map_writes_every_value_in_its_cell():
    axis = EXAMPLES["heat_map"]().axes[0]
    written = {text.get_position(): text.get_text() for text in axis.texts}
    assert written == {
        (0, 0): "1.2", (1, 0): "2.5", (2, 0): "3.0", (0, 1): "4.0", (1, 1): "nan", (2, 1): "6.0",
    }  # fmt: skip
    assert [label.get_text() for label in axis.get_xticklabels()] == ["1", "2", "3"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["r", "s"]


def test_the_accuracy_of_every_network_stands_over_its_cost():
    axis = EXAMPLES["accuracy_against_cost"]().axes[0]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in axis.lines] == [(1e6, 0.94), (1e5, 0.71)]
    assert {text.get_text() for text in axis.texts} == {"vgg", "mlp"}
    assert axis.get_xscale() == "log"


def test_a_device_s_limit_and_a_curve_of_networks_stand_behind_the_points():
    figure = plots.accuracy_against_cost(
        {"cut": (1e5, 0.9)}, xlabel="MACs", curve=[(1e4, 0.5), (1e6, 0.95)], limits={"flash": 2e5}
    )
    curve, limit, point = figure.axes[0].lines
    assert curve.get_xydata().tolist() == [[1e4, 0.5], [1e6, 0.95]]
    assert set(limit.get_xdata()) == {2e5}
    assert max(curve.get_zorder(), limit.get_zorder()) < point.get_zorder()
    assert {text.get_text() for text in figure.axes[0].texts} == {"cut", "flash"}


def test_the_line_of_equal_macs_a_second_goes_through_its_network():
    axis = EXAMPLES["time_against_macs"]().axes[0]
    (dashed,) = (line for line in axis.lines if line.get_linestyle() == "--")
    np.testing.assert_allclose(dashed.get_xydata(), [[5e5, 0.5], [1e6, 1.0]])
    medians = [container.lines[0].get_ydata()[0] for container in axis.containers]
    assert medians == pytest.approx([1.0, 2.0])  # of the ratios 2, 5 and 2
    with pytest.raises(KeyError, match="'resnet' is not among"):
        plots.time_against_macs({"vgg": (1e6, [0.002])}, through="resnet")


@pytest.mark.parametrize("name", ["call_times", "time_against_macs"])
def test_ticks_of_times_are_plain_numbers(name):
    figure = EXAMPLES[name]()
    figure.canvas.draw()
    axis = figure.axes[0].yaxis
    low, high = axis.get_view_interval()
    shown = [t.get_text() for t in axis.get_ticklabels() if low <= t.get_position()[1] <= high]
    assert len(shown) >= 2
    assert all(re.fullmatch(r"\d+(\.\d+)?", text) for text in shown)
    assert not any(label.get_text() for label in axis.get_ticklabels(minor=True))


def test_a_short_axis_of_times_has_several_ticks():
    figure = plots.call_times([0.0016, 0.0006, 0.0009], median=0.0009, low=0.0006, high=0.001)
    figure.canvas.draw()
    axis = figure.axes[0].yaxis
    low, high = axis.get_view_interval()
    assert [tick for tick in axis.get_ticklocs() if low <= tick <= high] == pytest.approx(
        [0.6, 0.8, 1, 1.2, 1.5]
    )


def test_each_layer_has_its_share_of_a_cost():
    first, second = EXAMPLES["costs_by_layer"]().axes
    assert [patch.get_height() for patch in first.patches] == [0.75, 0.25]
    assert [text.get_text() for text in second.texts] == ["50%", "50%"]
    with pytest.raises(ValueError, match="3 amounts for 2 layers"):
        plots.costs_by_layer(["conv", "linear"], {"MACs": [3, 1, 2]})


def test_colours_of_curves_may_be_those_of_another_figure():
    series = {"a": ([1, 2], [1, 2]), "b": ([1, 2], [2, 1])}
    drawn = plots.lines(series, xlabel="x", ylabel="y", colours=[plots.COLOURS[3], "black"]).axes[0].lines
    assert [line.get_color() for line in drawn] == [plots.COLOURS[3], "black"]
    ratios = {"low": ([1, 2], [0.1, 0.2]), "high": ([1, 2], [1.0, 2.0])}
    drawn = plots.activations_against_weights(ratios).axes[0].lines
    assert [(line.get_label(), line.get_color()) for line in drawn[:2]] == [
        ("high", plots.COLOURS[1]),  # on top in the legend, and in the colour of its place
        ("low", plots.COLOURS[0]),
    ]


def test_a_shown_picture_keeps_the_colours_of_the_palette():
    points = {name: (10**place, 0.9) for place, name in enumerate("abcdef", start=1)}
    figure = plots.accuracy_against_cost(points, xlabel="MACs", curve=[(10, 0.5), (1e6, 0.95)])
    png = page._png(figure, "six points and a grey line behind them").data
    pixels = {colour for _, colour in Image.open(io.BytesIO(png)).convert("RGB").getcolors(9999)}
    assert {tuple(bytes.fromhex(colour[1:])) for colour in ("#ffffff", *plots.COLOURS[:6])} <= pixels


def test_the_peak_of_the_memory_is_marked():
    left, right = EXAMPLES["memory_over_time"]().axes
    assert [text.get_text() for axis in (left, right) for text in axis.texts] == ["5 kB", "0.2 kB"]
    points = [
        line.get_xydata().tolist()
        for axis in (left, right)
        for line in axis.lines
        if len(line.get_xdata()) == 1
    ]
    assert points == [[[2, 5]], [[2, 0.2]]]


# Showing


def test_every_weight_is_written_and_the_removed_ones_are_grey():
    left, right = EXAMPLES["granularities"]().axes
    for axis, kept in ((left, 6), (right, 0)):
        written = [t.get_text() for t in axis.texts]
        assert written[:12] == [str(k) for k in range(12)]
        assert written[12:14] == ["kernel 0", "kernel 1"]
        grey = [patch.get_facecolor()[:3] == mpl.colors.to_rgb("#eeeeee") for patch in axis.patches]
        assert grey == [k < 12 - kept for k in range(12)]
    assert [t.get_text() for t in left.texts[14:]] == ["filter 0", "filter 1", "filter 2"]
    assert {"weight", "layer"} <= {left.get_title(), right.get_title()}


def test_a_mask_of_another_shape_is_named():
    with pytest.raises(ValueError, match=r"'layer' has shape \[2\], the weight \[3, 2, 2, 1\]"):
        plots.granularities(KERNELS, {"layer": torch.ones(2, dtype=torch.bool)})


def test_a_curve_of_intervals_shows_their_ends():
    axis = EXAMPLES["interval_lines"]().axes[0]
    bars = [c for c in axis.containers if isinstance(c, ErrorbarContainer)]
    assert [b.get_label() for b in bars] == ["weight", "layer"]
    ends = bars[0].lines[2][0].get_segments()
    assert [segment[:, 1].tolist() for segment in ends] == [
        pytest.approx([0.8, 1.0]),
        pytest.approx([0.5, 0.8]),
    ]


def test_kept_and_undone_attempts_of_a_loop_are_told_apart():
    axis = EXAMPLES["pruning_trajectories"]().axes[0]
    kept, undone = axis.lines
    assert kept.get_xydata().tolist() == [[1.0, 0.8], [0.9, 0.81], [0.8, 0.79]]
    assert undone.get_xydata().tolist() == [[0.7, 0.5]]  # one without an accuracy has no place
    assert "1 of 4 taken back" in axis.get_title()


def test_a_histogram_counts_every_weight_those_outside_too():
    plain, far = EXAMPLES["weight_histograms"]().axes
    heights = [[patch.get_height() for patch in axis.patches] for axis in (plain, far)]
    assert sum(heights[0]) == 61
    assert [height for height in heights[1] if height] == [1, 1, 1]
    assert heights[1][0] == heights[1][30] == heights[1][-1] == 1


def test_every_channel_has_a_line_in_the_colour_of_its_group_and_the_threshold_is_drawn():
    sparse = EXAMPLES["scales_over_epochs"]().axes[1]
    assert [list(line.get_ydata()) for line in sparse.lines] == [
        [0.5, 0.1],
        [0.5, 0.0],
        [0.5, 0.3],
        [0.2, 0.2],
    ]
    early, late, other, threshold = (line.get_color() for line in sparse.lines)
    assert len({early, late, threshold}) == 3
    assert late == other


def test_every_run_of_a_panel_is_a_dot_and_the_line_joins_medians():
    tuned = EXAMPLES["run_panels"]().axes[1]
    dots = [line.get_ydata() for line in tuned.lines if line.get_linestyle() == "None"]
    assert [list(values) for values in dots] == [[0.9, 0.8, 0.9], [0.1, 0.8, 0.2], [0.9], [0.9]]
    joined = {line.get_label(): list(line.get_ydata()) for line in tuned.lines if line.get_linestyle() == "-"}
    assert joined == {"weak": [0.9, 0.2], "strong": [0.9, 0.9]}
    beside = [line.get_xdata()[0] for line in tuned.lines if line.get_linestyle() == "None"]
    assert beside[0] < 0.5 < beside[2]  # of two arms at one share, side by side


def test_rows_show_every_run_of_an_arm_and_say_so_where_a_panel_lacks_it():
    weak, strong = EXAMPLES["run_rows"]().axes
    assert [text.get_text() for text in weak.get_yticklabels()] == ["as it is", "mended"]
    dots = {
        axis: [
            (round(line.get_ydata()[0]), line.get_label(), list(line.get_xdata()))
            for line in axis.lines
            if line.get_marker() != "|"
        ]
        for axis in (weak, strong)
    }
    assert dots[weak] == [(0, "at once", [0.1, 0.1]), (0, "tuned", [0.4, 0.2])]
    assert dots[strong][2:] == [(1, "at once", [0.7, 0.8]), (1, "tuned", [0.8, 0.9])]
    said = [[(text.get_text(), text.get_position()[1]) for text in axis.texts] for axis in (weak, strong)]
    assert said == [[("not tried", 1)], []]
    medians = [line.get_xdata()[0] for line in weak.lines if line.get_marker() == "|"]
    assert medians == pytest.approx([0.1, 0.3])


def test_panels_show_the_ends_of_every_interval_and_no_accuracy_above_one():
    tuned = EXAMPLES["interval_panels"]().axes[1]
    ends = tuned.containers[0].lines[2][0].get_segments()
    assert [segment[:, 1].tolist() for segment in ends] == [
        pytest.approx([0.8, 1.1]),
        pytest.approx([0.8, 1.0]),
    ]
    assert tuned.get_ylim()[1] == pytest.approx(1.02)


def test_panels_over_other_numbers_than_shares_have_a_tick_at_each_and_may_begin_higher():
    points = {"max": {3: Interval(0.7, 0.6, 0.8, 5), 8: Interval(0.9, 0.9, 0.9, 5)}}
    (axis,) = plots.interval_panels({"vgg": points}, xlabel="bits", percent_x=False, lowest=0.5).axes
    assert axis.get_xticks().tolist() == [3, 8]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["3", "8"]
    assert axis.get_ylim() == pytest.approx((0.5, 1.01))


def test_widths_stand_on_their_bars():
    axis = EXAMPLES["width_bars"]().axes[0]
    assert [bar.get_height() for bar in axis.patches] == [4, 8, 16, 3, 6, 8, 4, 7, 1]
    assert [text.get_text() for text in axis.texts] == ["4", "8", "16", "3", "6", "8", "4", "7", "1"]


def test_shares_stand_on_their_bars_and_an_empty_layer_has_none():
    axis = EXAMPLES["layer_shares"]().axes[0]
    assert [bar.get_height() for bar in axis.patches] == [0.5, 0.001, 1.0, 0.0]
    assert [text.get_text() for text in axis.texts] == ["50", "0.1", "100", "0"]
    assert all(text.get_position()[1] > 0 for text in axis.texts)  # a logarithm needs that
    assert axis.get_yscale() == "log"


def test_shares_of_other_layers_are_refused():
    with pytest.raises(ValueError, match=r"'b' has the layers \['y'\], the first has \['x'\]"):
        plots.layer_shares({"a": {"x": 0.5}, "b": {"y": 0.5}})


def test_many_histograms_stand_in_rows_of_four():
    figure = plots.weight_histograms({str(k): torch.zeros(k + 1) for k in range(7)}, reach=1)
    assert [sum(patch.get_height() for patch in axis.patches) for axis in figure.axes] == [
        1,
        2,
        3,
        4,
        5,
        6,
        7,
    ]
    assert [axis.get_subplotspec().rowspan.start for axis in figure.axes] == [0] * 4 + [1] * 3


def test_widths_of_another_network_are_refused():
    with pytest.raises(ValueError, match="'weak' has 2 layers, 3 were there before"):
        plots.width_bars([4, 8, 16], {"weak": [3, 6]})


def test_a_score_stands_across_and_its_outcome_upwards():
    axes = EXAMPLES["score_scatter"]().axes
    dots, ring = axes[1].lines
    assert dots.get_xydata().tolist() == [[0.4, 0.9], [0.6, 0.8], [0.5, 0.7]]
    assert ring.get_xydata().tolist() == [[0.6, 0.8]]  # the highest score
    assert [text.get_text() for text in axes[1].texts] == ["new\nr = 0.8"]
    assert axes[0].get_title(loc="center") == "half"
    assert (axes[0].get_xlim(), axes[0].get_ylim()) == (axes[1].get_xlim(), axes[1].get_ylim())


def test_what_does_not_change_lies_on_the_line():
    line, dots = EXAMPLES["before_and_after"]().axes[1].lines
    assert line.get_xydata().tolist() == [[0.5, 0.5], [2.0, 2.0]]
    assert dots.get_xydata().tolist() == [[1.0, 0.5], [2.0, 1.0]]


def test_every_number_of_a_format_is_a_stroke_in_its_row():
    (axis,) = EXAMPLES["number_lines"]().axes
    assert [sorted(row.get_positions()) for row in axis.collections] == [[-1, 0, 1], [-1, -0.5, 0, 0.5, 1]]
    assert [row.get_lineoffset() for row in axis.collections] == [0, 1]


def test_a_line_leads_from_each_number_to_where_its_integer_stands():
    above, below = EXAMPLES["integer_maps"]().axes
    leads = [line.get_xydata().tolist() for line in above.lines[::2]]
    assert np.allclose(leads, [[[-1.0, 1], [-1.2, 0]], [[0.3, 1], [0.4, 0]], [[9.0, 1], [1.2, 0]]])
    assert np.allclose(above.collections[0].get_positions(), 0.4 * np.arange(-3, 4))
    assert np.allclose(below.collections[0].get_positions(), 0.3 * np.arange(-3, 5))
    assert {text.get_text() for text in below.texts} == {"-1", "0.3", "0", "3", "4", "7"}


def test_thresholds_stand_in_the_histogram_of_their_panel():
    first, second = EXAMPLES["histogram_with_thresholds"]().axes
    assert [line.get_xdata()[0] for line in first.lines] == [1.5, 0.5]
    assert [line.get_xdata()[0] for line in second.lines] == [4.0]
    values, edges, _ = first.patches[0].get_data()
    assert (values.tolist(), edges.tolist()) == ([5, 0, 2], [0, 0.5, 1, 1.5])
    assert first.get_legend_handles_labels()[1] == ["max: 1.50", "entropy: 0.50"]
    assert first.get_yscale() == "log"


def test_both_errors_of_a_threshold_make_up_the_third_curve():
    first, second = EXAMPLES["threshold_curves"]().axes
    curves = {line.get_label(): line.get_ydata() for line in first.lines}
    assert np.allclose(curves["together"], [0.5, 0.6])
    assert [line.get_xdata()[0] for line in second.lines[3:]] == [2.0, 1.0]
    histogram = plots.histogram_with_thresholds({"layer": ([5, 2], 1.0, {"max": 2.0, "mse": 1.5})})
    same = zip(first.lines[3:], histogram.axes[0].lines, strict=True)
    assert all(one.get_color() == two.get_color() for one, two in same)


@pytest.fixture
def displayed(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    return shown


def test_a_figure_is_shown_as_a_picture_with_its_alt_text(displayed):
    before = settings()
    alt = "Accuracy rises with the temperature up to 4 and falls after it."
    page.show(EXAMPLES["lines"](), alt=alt)
    (picture,) = displayed
    bundle, metadata = picture._repr_mimebundle_()
    assert metadata["image/png"]["alt"] == alt
    image = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert image.format == "PNG"
    assert "Software" not in image.info  # the version of matplotlib would change the committed notebook
    assert settings() == before


def test_the_same_figure_gives_the_same_bytes(displayed):
    for _ in range(2):
        page.show(EXAMPLES["heat_map"](), alt="A heat map of six numbers, one of them missing.")
    first, second = (picture._repr_mimebundle_()[0]["image/png"] for picture in displayed)
    assert first == second


@pytest.mark.bad_input
@pytest.mark.parametrize("alt", ["", "a plot", " " * 40, "accuracy over time "])
def test_an_alt_text_that_cannot_stand_for_the_figure_is_refused(alt, displayed):
    with pytest.raises(ValueError, match=r"alt text is .*say in a sentence what the figure shows"):
        page.show(EXAMPLES["lines"](), alt=alt)
    assert displayed == []


@pytest.mark.bad_input
def test_a_baseline_that_is_no_arm_is_named():
    with pytest.raises(KeyError, match=r"baseline 'missing' is not among the arms \['alone'"):
        plots.compare_arms(ARMS, baseline="missing")
