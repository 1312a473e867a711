"""EagleEye: judging pruned candidates by their accuracy after batch norm has been recalibrated."""

from course_lib.pruning.eagleeye.search import SearchResult, search
from course_lib.pruning.eagleeye.strategies import Strategy, sample_strategies
from course_lib.pruning.recalibration import recalibrate_batch_norm

__all__ = ["SearchResult", "Strategy", "recalibrate_batch_norm", "sample_strategies", "search"]
