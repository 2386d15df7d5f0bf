"""Describe what can be probed: inputs, layers, and where tokens stand."""
