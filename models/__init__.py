"""Build: open experts, bridge them, train and evaluate the fused model."""

from .ablation import ablate_links
from .evaluation import evaluate
from .experts import open_expert
from .finding import find_tower
from .fusion import FusedModel, Fusion
from .scenes import scene_stimuli
from .training import train
from .unified import UnifiedModel

__all__ = [
    "FusedModel",
    "Fusion",
    "UnifiedModel",
    "ablate_links",
    "evaluate",
    "find_tower",
    "open_expert",
    "scene_stimuli",
    "train",
]
