"""Draw several comparisons beside each other: every pair of models, one map for each timestep."""
