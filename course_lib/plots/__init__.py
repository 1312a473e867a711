"""Figures by theme. Each function takes data and returns a matplotlib Figure, which `page.show` shows."""

from course_lib.plots.arms import (
    before_and_after,
    compare_arms,
    differences,
    every_run,
    paired_runs,
    run_rows,
)
from course_lib.plots.costs import (
    accuracy_against_cost,
    activations_against_weights,
    call_times,
    costs_by_layer,
    memory_over_time,
    time_against_macs,
)
from course_lib.plots.curves import heat_map, interval_lines, interval_panels, line_panels, lines, run_panels
from course_lib.plots.images import image_grid, image_with_probabilities, probability_bars
from course_lib.plots.pruning import (
    granularities,
    layer_shares,
    pruning_trajectories,
    scales_over_epochs,
    score_scatter,
    weight_histograms,
    width_bars,
)
from course_lib.plots.quantization import (
    histogram_with_thresholds,
    integer_maps,
    number_lines,
    threshold_curves,
)
from course_lib.plots.style import COLOURS, in_style, styled

__all__ = [
    "COLOURS",
    "accuracy_against_cost",
    "activations_against_weights",
    "before_and_after",
    "call_times",
    "compare_arms",
    "costs_by_layer",
    "differences",
    "every_run",
    "granularities",
    "heat_map",
    "histogram_with_thresholds",
    "image_grid",
    "image_with_probabilities",
    "in_style",
    "integer_maps",
    "interval_lines",
    "interval_panels",
    "layer_shares",
    "line_panels",
    "lines",
    "memory_over_time",
    "number_lines",
    "paired_runs",
    "probability_bars",
    "pruning_trajectories",
    "run_panels",
    "run_rows",
    "scales_over_epochs",
    "score_scatter",
    "styled",
    "threshold_curves",
    "time_against_macs",
    "weight_histograms",
    "width_bars",
]
