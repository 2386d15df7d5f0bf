"""Choose which layers to bridge."""
