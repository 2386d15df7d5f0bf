"""Measure: any model in, labelled similarity out."""

from .alignment import alignment_curve, divergence, rises, rises_then_falls
from .bridges import BridgePlan, choose_bridges
from .capture import capture
from .extraction import extract, mismatched
from .features import Features, LayerFeatures
from .labels import label_probe
from .similarity import similarity, similarity_map
from .stacks import find_stacks
from .stimuli import Stimuli, Stimulus, load_stimuli
from .tokens import match_patches

__all__ = [
    "BridgePlan",
    "Features",
    "LayerFeatures",
    "Stimuli",
    "Stimulus",
    "alignment_curve",
    "capture",
    "choose_bridges",
    "divergence",
    "extract",
    "find_stacks",
    "label_probe",
    "load_stimuli",
    "match_patches",
    "mismatched",
    "rises",
    "rises_then_falls",
    "similarity",
    "similarity_map",
]
