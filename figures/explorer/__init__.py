"""Explore a layer map in the notebook, or on one static page: cells, stimuli, timesteps, k, metrics and bridges."""
