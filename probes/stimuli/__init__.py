"""Paired images and texts to show to every subject."""
