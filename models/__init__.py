"""Build: open experts, bridge them, train and evaluate the fused model."""

from .ablation import ablate_links
from .evaluation import evaluate
from .experts import open_expert
from .fusion import FusedModel
from .scenes import scene_stimuli
from .training import train

__all__ = ["FusedModel", "ablate_links", "evaluate", "open_expert", "scene_stimuli", "train"]
