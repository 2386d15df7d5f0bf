"""Bridgework: measure where understanding and generation align, layer by layer, then build the bridge there."""
