"""Measure what a task rests on: attributions, attention, gradient conflict, complementarity, layer by layer."""
