"""Render scenes as 32x32 images."""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image

from .scene import COLOURS, SIZE, Scene


@functools.cache
def shape_mask(shape: str, size: int) -> np.ndarray:
    """Return the anti-aliased coverage of a shape in its own box.

    Parameters
    ----------
    shape : str
        One of `SHAPES`.
    size : int
        Pixels a side.

    Returns
    -------
    numpy.ndarray
        (size, size) in 0..1.
    """
    fine = 8
    centre = (np.arange(size * fine) + 0.5) / (size * fine) * 2 - 1  # -1..1 across the box
    x, y = np.meshgrid(centre, centre)
    radius = np.hypot(x, y)
    inside = {
        "circle": radius <= 1,
        "square": np.ones_like(radius, dtype=bool),
        "triangle": np.abs(x) <= (y + 1) / 2,
        "cross": np.minimum(np.abs(x), np.abs(y)) <= 0.34,
        "ring": (radius <= 1) & (radius >= 0.55),
    }[shape]
    return inside.reshape(size, fine, size, fine).mean((1, 3))


def render_scene(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """Render a scene on white.

    Parameters
    ----------
    scene : Scene
        What to render.
    rng : numpy.random.Generator
        Draws each thing's size (10 to 12 pixels) and its place in its quarter.

    Returns
    -------
    PIL.Image.Image
        32x32 RGB.
    """
    canvas = np.full((SIZE, SIZE, 3), 255.0)
    half = SIZE // 2
    for thing in scene.things:
        size = int(rng.integers(10, 13))
        top, left = (int(rng.integers(1, half - size)) + half * i for i in divmod(thing.quarter, 2))
        cover = shape_mask(thing.shape, size)[..., None]  # (row, column, 1)
        box = canvas[top : top + size, left : left + size]
        box[:] = cover * COLOURS[thing.colour] + (1 - cover) * box
    return Image.fromarray(canvas.round().astype(np.uint8))


draw, mask_of = render_scene, shape_mask  # their former names
