"""Diagrams: pictures of a method, not of a measurement. Each function returns a Figure whose label is its alt text.

`page.show(diagrams.teacher_and_student())` needs no other; a chapter's own text may still be given.
"""

from course_lib.plots.diagrams.compression import hash_buckets, low_rank, pipeline
from course_lib.plots.diagrams.distillation import (
    softmax_at_temperatures,
    solution_spaces,
    teacher_and_student,
)
from course_lib.plots.diagrams.pruning import cut_channel, gamma_scaling, residual_addition
from course_lib.plots.diagrams.quantization import integer_arithmetic, saturation, straight_through
from course_lib.plots.diagrams.recalibration import batch_norm_statistics, eagleeye_funnel

__all__ = [
    "batch_norm_statistics",
    "cut_channel",
    "eagleeye_funnel",
    "gamma_scaling",
    "hash_buckets",
    "integer_arithmetic",
    "low_rank",
    "pipeline",
    "residual_addition",
    "saturation",
    "softmax_at_temperatures",
    "solution_spaces",
    "straight_through",
    "teacher_and_student",
]
