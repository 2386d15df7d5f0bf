"""Count what training takes, measured or computed from configs alone."""

from .estimate import estimate_cost
from .step_costs import WARM_UP, Flops, attention_sharing, costs, count_flops, held_bytes, peak_bytes, step_seconds

__all__ = [
    "WARM_UP",
    "Flops",
    "attention_sharing",
    "costs",
    "count_flops",
    "estimate_cost",
    "held_bytes",
    "peak_bytes",
    "step_seconds",
]
