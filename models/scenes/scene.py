"""Describe compositional scenes: 32x32 images of coloured shapes with captions and questions.

The six skills are those of GenEval (Ghosh et al. 2023, arXiv 2310.11513): one object, two objects, counting, colours,
position, colour attribution. A scene has at most one thing in each quarter of the image; its *full caption* names
every thing with its colour and quarter, so every shorter caption and every question is a function of it.

A scene belongs to one of four disjoint parts by the hash of its full caption. Scenes that hold a combination listed in
`HELD_OUT` belong to the fifth, "new": no such combination is in an image, caption, question or negative of any other
part. Short captions ("a circle") name too little to be unique to a part; the scenes behind them are unique.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

from ...probes.arguments import checked
from ...probes.stimuli.parts import PARTS as DEALT
from ...probes.stimuli.parts import part_of

SIZE = 32
SHAPES = ("circle", "square", "triangle", "cross", "ring")
COLOURS = {
    "red": (225, 35, 35),
    "green": (30, 165, 60),
    "blue": (40, 70, 230),
    "yellow": (250, 200, 20),
    "purple": (150, 50, 200),
    "black": (20, 20, 20),
}
QUARTERS = ("top left", "top right", "bottom left", "bottom right")
COUNTS = ("one", "two", "three", "four")
PLURAL = {shape: shape + ("es" if shape == "cross" else "s") for shape in SHAPES}
RELATIONS = ("left of", "right of", "above", "below")
SKILLS = ("one object", "two objects", "counting", "colours", "position", "colour attribution")
PARTS = (*DEALT, "new")

HELD_OUT: frozenset[tuple[str, ...]] = frozenset(
    {
        ("colour", "red", "cross"),
        ("colour", "green", "ring"),
        ("colour", "blue", "triangle"),
        ("colour", "yellow", "square"),
        ("colour", "purple", "circle"),
        ("pair", "ring", "triangle"),
        ("count", "three", "square"),
        ("count", "four", "circle"),
    }
)


class Thing(NamedTuple):
    """Hold one coloured shape and where it stands.

    Attributes
    ----------
    shape : str
        One of `SHAPES`.
    colour : str
        One of `COLOURS`.
    quarter : int
        An index into `QUARTERS`.
    """

    shape: str
    colour: str
    quarter: int


@dataclass(frozen=True)
class Scene:
    """Hold the things of one image in reading order, one per quarter at most.

    Attributes
    ----------
    things : tuple of Thing
        At most four.
    """

    things: tuple[Thing, ...]

    @functools.cached_property
    def caption(self) -> str:
        """The full caption, such as "red circle top left , blue square bottom right"."""
        return " , ".join(f"{t.colour} {t.shape} {QUARTERS[t.quarter]}" for t in self.things)

    @functools.cached_property
    def combinations(self) -> frozenset[tuple[str, ...]]:
        """Every (colour, shape), unordered (shape, shape) and (count, shape) in the scene."""
        shapes = [t.shape for t in self.things]
        return frozenset(
            {("colour", t.colour, t.shape) for t in self.things}
            | {("pair", *sorted(pair)) for pair in combinations(set(shapes), 2)}
            | {("count", COUNTS[shapes.count(shape) - 1], shape) for shape in set(shapes)}
        )

    @functools.cached_property
    def part(self) -> str:
        """The part that the scene belongs to, one of `PARTS`."""
        if self.combinations & HELD_OUT:
            return "new"
        return part_of(self.caption)


def check_part(part: str, per_skill: int = 1, counted: str = "captions or questions of every skill") -> None:
    """Raise a ValueError where there is no such part, or nothing of it to score.

    Parameters
    ----------
    part : str
        One of `PARTS`.
    per_skill : int
        How many captions or questions of every skill are asked for.
    counted : str
        What the message calls them.

    Raises
    ------
    ValueError
        If the part is unknown, or fewer than one is asked for.
    TypeError
        If it is no whole number that is asked for.
    """
    checked("part", part, str, known=PARTS)
    if checked("each", per_skill, int) < 1:
        raise ValueError(f"{per_skill} {counted} leave nothing to score: ask for at least one")
