"""Open understanding and generation experts."""

from .native_unified import UNIFIED
from .opening import CHECKPOINTS, OWN, open_expert

__all__ = ["CHECKPOINTS", "OWN", "UNIFIED", "open_expert"]
