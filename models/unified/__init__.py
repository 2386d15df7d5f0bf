"""Train one trunk for both tasks."""

from .flow_model import PATCH, UnifiedModel
from .one_trunk import CaptionTokens, OneTrunk
from .one_trunk import CaptionTokens as Words
from .token_model import UnifiedTokens

__all__ = ["PATCH", "CaptionTokens", "OneTrunk", "UnifiedModel", "UnifiedTokens", "Words"]
