"""Hold, save and read pooled hidden states, (layer, sample, dim)."""

import lazy_loader

# Each name is imported when it is first used, so that a check of a store's folder waits for no library.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "features": ["Features"],
        "layer_features": ["ALLOWED", "DTYPES", "POOLING", "LayerFeatures", "Reader", "axes_of"],
    },
)
