"""Measure: any model in, labelled similarity out."""

from .curves.curve import alignment_curve
from .curves.divergence_depth import divergence
from .curves.shapes import rises, rises_then_falls
from .evidence.attention import attention_mass
from .evidence.attribution import attribute
from .evidence.complementarity import complementarity_map
from .evidence.conflict import gradient_conflict
from .extraction.extracting import extract
from .features.features import Features
from .features.layer_features import LayerFeatures
from .hooks.block_stacks import find_stacks
from .hooks.capturing import capture
from .plans.bridge_plan import BridgePlan
from .plans.choosing import choose_bridges
from .plans.layouts import lay_out
from .similarity.labels import label_probe
from .similarity.patches import match_patches
from .similarity.scoring import similarity, similarity_map
from .stimuli.controls import mismatched
from .stimuli.sources import load_stimuli
from .stimuli.stimulus_set import Stimuli, Stimulus
from .subjects.any_model import AnyModel
from .subjects.subject import Shown, Subject
from .subjects.token_streams import find_streams

__all__ = [
    "AnyModel",
    "BridgePlan",
    "Features",
    "LayerFeatures",
    "Shown",
    "Stimuli",
    "Stimulus",
    "Subject",
    "alignment_curve",
    "attention_mass",
    "attribute",
    "capture",
    "choose_bridges",
    "complementarity_map",
    "divergence",
    "extract",
    "find_stacks",
    "find_streams",
    "gradient_conflict",
    "label_probe",
    "lay_out",
    "load_stimuli",
    "match_patches",
    "mismatched",
    "rises",
    "rises_then_falls",
    "similarity",
    "similarity_map",
]
