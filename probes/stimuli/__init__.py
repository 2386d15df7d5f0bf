"""Paired images and texts to show to every subject."""

from .controls import mismatched, noise_for
from .sources import load_stimuli
from .stimulus_set import Stimuli, Stimulus

__all__ = ["Stimuli", "Stimulus", "load_stimuli", "mismatched", "noise_for"]
