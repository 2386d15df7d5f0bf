"""Compose, draw, describe and check small images of coloured shapes."""

from .composing import Example, compose, examples, scene_stimuli
from .questions import Question, compose_question
from .questions import compose_question as ask
from .read_captions import ReadCaption, compose_read, read_captions
from .rendering import render_scene, shape_mask
from .rendering import render_scene as draw
from .rendering import shape_mask as mask_of
from .scene import (
    COLOURS,
    COUNTS,
    HELD_OUT,
    PARTS,
    PLURAL,
    QUARTERS,
    RELATIONS,
    SHAPES,
    SIZE,
    SKILLS,
    Scene,
    Thing,
    part_of,
)

__all__ = [
    "COLOURS",
    "COUNTS",
    "HELD_OUT",
    "PARTS",
    "PLURAL",
    "QUARTERS",
    "RELATIONS",
    "SHAPES",
    "SIZE",
    "SKILLS",
    "Example",
    "Question",
    "ReadCaption",
    "Scene",
    "Thing",
    "ask",
    "compose",
    "compose_question",
    "compose_read",
    "draw",
    "examples",
    "mask_of",
    "part_of",
    "read_captions",
    "render_scene",
    "scene_stimuli",
    "shape_mask",
]
