"""Score how alike two layers are; each module holds one family of metrics."""

from .metric import MEMORY, Array, Metric
from .named_metrics import METRICS

__all__ = ["MEMORY", "METRICS", "Array", "Metric"]
