"""Turn stimuli into features, in memory or in a store."""

from ..stimuli.controls import mismatched, noise_for
from .extracting import extract, extract_cached

__all__ = ["extract", "extract_cached", "mismatched", "noise_for"]
