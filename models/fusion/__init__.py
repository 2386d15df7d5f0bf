"""Join two experts at the layers of a bridge plan."""

from typing import Any

import lazy_loader

# Each name is imported when it is first used.
_imported, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "fused_model": ["FusedModel"],
        "probe_subject": ["fused_subject"],
        "two_towers": ["Fusion", "UnderstandingStates"],
    },
)


def __getattr__(name: str) -> Any:
    return _imported({"States": "UnderstandingStates"}.get(name, name))  # its former name
