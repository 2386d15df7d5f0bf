"""Compare features: one pair of layers, a layer map, its permutation null and its intervals."""

from ..metrics import MEMORY, METRICS
from .calibration import chance, labelled, used_k
from .nulls import map_moments, map_null
from .scoring import similarity, similarity_map

__all__ = [
    "MEMORY",
    "METRICS",
    "chance",
    "labelled",
    "map_moments",
    "map_null",
    "similarity",
    "similarity_map",
    "used_k",
]
