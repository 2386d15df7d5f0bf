"""Describe a model so that any change of it shows: weights, buffers, settings, adapters, hooks, replaced functions."""
