"""Hold, save and read pooled hidden states, (layer, sample, dim)."""
