"""Describe what can be probed: a model, its inputs, its blocks, and the places of its tokens."""
