"""Compare features: one pair, a layer map, its null and its intervals."""
