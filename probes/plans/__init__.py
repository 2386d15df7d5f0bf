"""Choose which layers to bridge: the plan, the layouts and how they match depths, the rules and their search."""

from .bridge_plan import STREAMS, BridgePlan
from .choosing import choose_bridges, score_plan
from .fixed_rules import FIXED
from .layout_table import LAYOUTS, TRUNKS
from .layouts import lay_out
from .rules import RULES

__all__ = ["FIXED", "LAYOUTS", "RULES", "STREAMS", "TRUNKS", "BridgePlan", "choose_bridges", "lay_out", "score_plan"]
