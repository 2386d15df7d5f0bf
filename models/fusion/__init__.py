"""Join two experts at the layers of a bridge plan."""

from .fused_model import FusedModel
from .probe_subject import fused_subject
from .two_towers import Fusion, UnderstandingStates
from .two_towers import UnderstandingStates as States

__all__ = ["FusedModel", "Fusion", "States", "UnderstandingStates", "fused_subject"]
