"""Measure scores that are estimated from some of the samples."""
