"""Score how alike two layers are: one family of metrics a module."""

from .metric import MEMORY, Array, Metric
from .named_metrics import METRICS

__all__ = ["MEMORY", "METRICS", "Array", "Metric"]
