"""Bridgework: measure where understanding and generation align, layer by layer, then build the bridge there."""

from .tracebacks import shorten_tracebacks

shorten_tracebacks()
