"""Paired images and texts to show to every subject."""

import lazy_loader

# Each name is imported when it is first used, so that a check of a name waits for no library.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "controls": ["mismatched", "noise_for"],
        "sources": ["load_stimuli"],
        "stimulus_set": ["Stimuli", "Stimulus"],
    },
)
