"""Open understanding and generation experts."""

from .opening import CHECKPOINTS, OWN, UNIFIED, open_expert

__all__ = ["CHECKPOINTS", "OWN", "UNIFIED", "open_expert"]
