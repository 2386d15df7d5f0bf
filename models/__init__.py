"""Build: open experts, bridge them, train and evaluate the fused model."""

from .evaluation.link_ablation import ablate_links
from .evaluation.scores import evaluate
from .experts.opening import open_expert
from .fusion.fused_model import FusedModel
from .fusion.two_towers import Fusion
from .scenes.composing import scene_stimuli
from .towers.finding import find_tower
from .training.train_model import train
from .unified.flow_model import UnifiedModel

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
