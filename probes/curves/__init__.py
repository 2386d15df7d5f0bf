"""Measure alignment along depth, and test the shapes of the curves."""
