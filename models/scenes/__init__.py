"""Compose, draw, describe and check small images of coloured shapes."""

import lazy_loader

# Each name is imported when it is first used, so that a check of a name waits for no library.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "composing": ["Example", "compose", "examples", "scene_stimuli"],
        "questions": ["Question", "ask", "compose_question"],
        "read_captions": ["ReadCaption", "compose_read", "read_captions"],
        "rendering": ["draw", "mask_of", "render_scene", "shape_mask"],
        "scene": [
            "COLOURS", "COUNTS", "HELD_OUT", "PARTS", "PLURAL", "QUARTERS", "RELATIONS", "SHAPES", "SIZE", "SKILLS",
            "Scene", "Thing", "part_of",
        ],
    },
)  # fmt: skip
