"""Diagrams: pictures of a method, not of a measurement. Each function returns a Figure whose label is its alt text.

`page.show(diagrams.teacher_and_student())` needs no other; a chapter's own text may still be given.
"""

from course_lib.plots.diagrams.distillation import softmax_at_temperatures, teacher_and_student
from course_lib.plots.diagrams.pruning import cut_channel, gamma_scaling, residual_addition
from course_lib.plots.diagrams.recalibration import batch_norm_statistics, eagleeye_funnel

__all__ = [
    "batch_norm_statistics",
    "cut_channel",
    "eagleeye_funnel",
    "gamma_scaling",
    "residual_addition",
    "softmax_at_temperatures",
    "teacher_and_student",
]
