"""Measure what a task rests on, layer by layer: attributions, attention, gradients and what they conflict with."""
