"""Measure: any model in, labelled similarity out."""

from .alignment import alignment_curve, divergence, rises, rises_then_falls
from .attention import attention_mass
from .attribution import attribute
from .bridges import BridgePlan, choose_bridges
from .capture import capture
from .complementarity import complementarity_map
from .conflict import gradient_conflict
from .extraction import extract, mismatched
from .features import Features, LayerFeatures
from .generic import AnyModel
from .labels import label_probe
from .layouts import lay_out
from .similarity import similarity, similarity_map
from .stacks import find_stacks
from .stimuli import Stimuli, Stimulus, load_stimuli
from .streams import find_streams
from .subjects import Shown, Subject
from .tokens import match_patches

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
