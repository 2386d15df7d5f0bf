"""Open understanding and generation experts."""

import lazy_loader

# Each name is imported when it is first used, so that a check of a name waits for no library.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "language": ["TextExpert"],
        "native_unified": ["UNIFIED"],
        "opening": ["CHECKPOINTS", "FAMILIES", "OWN", "open_expert"],
        "pixel_dit": ["DitExpert"],
        "vision": ["VisionExpert"],
        "vision_language": ["LlavaExpert", "VlmExpert"],
    },
)
