"""Open understanding and generation experts."""

from .language import TextExpert
from .native_unified import UNIFIED
from .opening import CHECKPOINTS, FAMILIES, OWN, open_expert
from .pixel_dit import DitExpert
from .vision import VisionExpert
from .vision_language import LlavaExpert, VlmExpert

__all__ = [
    "CHECKPOINTS",
    "FAMILIES",
    "OWN",
    "UNIFIED",
    "DitExpert",
    "LlavaExpert",
    "TextExpert",
    "VisionExpert",
    "VlmExpert",
    "open_expert",
]
