"""Read things back from an image's pixels, and tell whether they are what a caption asks for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from .rendering import shape_mask
from .scene import COLOURS, COUNTS, PLURAL, QUARTERS, SHAPES, SIZE


class DetectedThing(NamedTuple):
    """Hold one thing that the checker read.

    Attributes
    ----------
    shape : str or None
        None where a blob is no known shape.
    colour : str or None
        None where it is no known colour.
    row, column : float
        The centre, in pixels.
    """

    shape: str | None
    colour: str | None
    row: float
    column: float


_PALETTE = np.array(list(COLOURS.values()), dtype=float)  # (colour, channel)


def detect_things(image: Image.Image | np.ndarray) -> list[DetectedThing]:
    """Read the things in an image: connected non-white blobs, named by template overlap and nearest colour.

    Parameters
    ----------
    image : PIL.Image.Image or numpy.ndarray
        32x32 RGB, 0..255.

    Returns
    -------
    list of DetectedThing

    Raises
    ------
    ValueError
        If the image has another size.

    Notes
    -----
    The checker sees pixels only, never a caption. A blob is a shape when it overlaps one template by at least 0.72
    (intersection over union of soft masks) and a colour when three quarters of its solid pixels lie nearest to it
    and their median lies within 70 (Euclidean, 0..255).
    """
    pixels = np.asarray(image, dtype=float)
    if pixels.shape != (SIZE, SIZE, 3):
        raise ValueError(f"expected a {SIZE}x{SIZE} RGB image, got an array of shape {pixels.shape}")
    distance = np.abs(pixels - 255).max(-1)  # (row, column), 0 on the background
    blobs, _ = ndimage.label(distance > 70, structure=np.ones((3, 3)))
    boxes = enumerate(ndimage.find_objects(blobs), 1)
    return [thing for label, box in boxes if (thing := _name_blob(pixels, distance, blobs, label, box))]


def _name_blob(
    pixels: np.ndarray, distance: np.ndarray, blobs: np.ndarray, label: int, box: tuple
) -> DetectedThing | None:
    """Name the shape and colour of one blob, or return None for a speck."""
    member = blobs == label
    if member.sum() < 8:
        return None
    solid = pixels[member & (distance >= np.quantile(distance[member], 0.4))]  # (pixel, channel), off the soft edge
    nearest = np.linalg.norm(solid[:, None] - _PALETTE, axis=-1).argmin(1)
    winner = np.bincount(nearest, minlength=len(_PALETTE)).argmax()
    pure = (nearest == winner).mean() >= 0.75 and np.linalg.norm(np.median(solid, 0) - _PALETTE[winner]) < 70
    colour = list(COLOURS)[winner] if pure else None

    full = np.abs(_PALETTE[winner] - 255).max()
    grown = ndimage.binary_dilation(member, np.ones((3, 3)))
    cover = np.where(grown, np.clip(distance / full, 0, 1), 0.0)
    scores = {shape: max(_overlaps(cover, box, shape)) for shape in SHAPES}
    best = max(scores, key=lambda shape: scores[shape])
    row, column = np.asarray(ndimage.center_of_mass(cover)).tolist()
    return DetectedThing(best if scores[best] >= 0.72 else None, colour, row, column)


def _overlaps(cover: np.ndarray, box: tuple, shape: str) -> Iterator[float]:
    """Yield the soft intersection over union with templates of about the box's size, at places near the box."""
    middle = [(edge.start + edge.stop) / 2 for edge in box]
    yield 0.0
    for size in range(9, 14):
        if any(abs(edge.stop - edge.start - size) > 3 for edge in box):
            continue
        mask = shape_mask(shape, size)
        starts = [
            [s for s in range(int(m - size / 2) - 1, int(m - size / 2) + 3) if 0 <= s <= SIZE - size] for m in middle
        ]
        for top in starts[0]:
            for left in starts[1]:
                under = cover[top : top + size, left : left + size]
                both = np.minimum(under, mask).sum()
                yield float(both / (cover.sum() + mask.sum() - both))


def matches_caption(image: Image.Image | np.ndarray, skill: str, caption: str) -> bool:
    """Return whether an image shows what a caption says and nothing else.

    Parameters
    ----------
    image : PIL.Image.Image or numpy.ndarray
        32x32 RGB, 0..255.
    skill : str
        What the caption is of: one of `SKILLS`, or "full".
    caption : str
        As `compose` writes it.

    Returns
    -------
    bool

    Raises
    ------
    ValueError
        If the image has another size.

    Notes
    -----
    This is stricter than GenEval, which lets unnamed objects pass outside counting: here every thing must be accounted
    for.
    """
    things = detect_things(image)
    if skill == "full":
        return sorted((t.shape, t.colour, quarter_of(t)) for t in things if t.shape and t.colour) == sorted(
            _parse(phrase) for phrase in caption.split(" , ")
        ) and all(t.shape and t.colour for t in things)
    words = caption.split()
    shapes = [t.shape for t in things]
    if skill == "counting":
        shape = next(s for s in SHAPES if PLURAL[s] == words[1])
        return shapes == [shape] * (COUNTS.index(words[0]) + 1)
    if skill == "position":
        one, two, relation = words[1], words[-1], " ".join(words[2:-2])
        if sorted(map(str, shapes)) != sorted((one, two)):
            return False
        first, second = sorted(things, key=lambda t: t.shape != one)
        return stands(first, second, relation)
    wanted = [phrase.split()[1:] for phrase in caption.split(" and ")]
    found = [[t.colour, t.shape] if len(wanted[0]) == 2 else [t.shape] for t in things]
    return sorted(found, key=str) == sorted(wanted, key=str)


def stands(first: DetectedThing, second: DetectedThing, relation: str) -> bool:
    """Return whether one thing clearly stands in a relation to another.

    Parameters
    ----------
    first, second : DetectedThing
        Subject and object.
    relation : str
        One of `RELATIONS`.

    Returns
    -------
    bool
        Whether it is that way by more than an eighth of the image, and more that way than across.
    """
    down, right = first.row - second.row, first.column - second.column
    along = {"left of": -right, "right of": right, "above": -down, "below": down}[relation]
    return along > SIZE / 8 and along > min(abs(down), abs(right))


def _parse(phrase: str) -> tuple[str, str, int]:
    colour, shape, *quarter = phrase.split()
    return shape, colour, QUARTERS.index(" ".join(quarter))


def quarter_of(thing: DetectedThing) -> int:
    """Return the quarter of the image that a thing's centre lies in.

    Parameters
    ----------
    thing : DetectedThing
        What was read.

    Returns
    -------
    int
        An index into `QUARTERS`.
    """
    return 2 * (thing.row > SIZE / 2 - 0.5) + (thing.column > SIZE / 2 - 0.5)
