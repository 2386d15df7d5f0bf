"""Choose which layers to bridge."""

from .bridge_plan import LAYOUTS, STREAMS, TRUNKS, BridgePlan
from .choosing import choose_bridges, score_plan
from .layouts import lay_out
from .rules import RULES

__all__ = ["LAYOUTS", "RULES", "STREAMS", "TRUNKS", "BridgePlan", "choose_bridges", "lay_out", "score_plan"]
