"""Hold, save and read pooled hidden states, (layer, sample, dim)."""

from .features import Features
from .layer_features import ALLOWED, DTYPES, POOLING, LayerFeatures, Reader, axes_of

__all__ = ["ALLOWED", "DTYPES", "POOLING", "Features", "LayerFeatures", "Reader", "axes_of"]
