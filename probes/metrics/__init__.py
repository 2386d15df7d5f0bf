"""Score how alike two layers are; each module holds one family of metrics."""

from .metric import MEMORY, Array, Metric
from .named_metrics import DEFAULT_METRIC, METRICS

__all__ = ["DEFAULT_METRIC", "MEMORY", "METRICS", "Array", "Metric"]
