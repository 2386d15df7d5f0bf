"""Measure on one graphics card, within some minutes and without network, what a machine without one cannot."""
