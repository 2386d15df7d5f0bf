"""Train one trunk for both tasks."""

from typing import Any

import lazy_loader

# Each name is imported when it is first used.
_imported, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "flow_model": ["PATCH", "UnifiedModel"],
        "one_trunk": ["CaptionTokens", "OneTrunk"],
        "token_model": ["UnifiedTokens"],
    },
)


def __getattr__(name: str) -> Any:
    return _imported({"Words": "CaptionTokens"}.get(name, name))  # its former name
