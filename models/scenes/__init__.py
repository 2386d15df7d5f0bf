"""Compose, draw, describe and check small images of coloured shapes."""

from typing import Any

import lazy_loader

# Each name is imported when it is first used, so that a check of a name waits for no library.
_imported, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "composing": ["Example", "compose", "examples", "scene_stimuli"],
        "questions": ["Question", "compose_question"],
        "read_captions": ["ReadCaption", "compose_read", "read_captions"],
        "rendering": ["render_scene", "shape_mask"],
        "scene": [
            "COLOURS", "COUNTS", "HELD_OUT", "PARTS", "PLURAL", "QUARTERS", "RELATIONS", "SHAPES", "SIZE", "SKILLS",
            "Scene", "Thing", "part_of",
        ],
    },
)  # fmt: skip
FORMER = {"ask": "compose_question", "draw": "render_scene", "mask_of": "shape_mask"}  # names of earlier versions


def __getattr__(name: str) -> Any:
    return _imported(FORMER.get(name, name))
