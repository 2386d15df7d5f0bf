"""Measure what a task rests on, layer by layer."""
