"""Compositional scenes: 32x32 images of coloured shapes with captions and questions.

The six skills are those of GenEval (Ghosh et al. 2023, arXiv 2310.11513): one object, two objects, counting, colours,
position, colour attribution. A scene has at most one thing in each quarter of the image; its *full caption* names
every thing with its colour and quarter, so every shorter caption and every question is a function of it.

Splits. A scene belongs to one of four disjoint parts by the hash of its full caption. Scenes that hold a combination
listed in `HELD_OUT` belong to the fifth, "new": no such combination is in an image, caption, question or negative of
any other part. Short captions ("a circle") name too little to be unique to a part; the scenes behind them are.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from PIL import Image

from ...probes.stimuli.stimulus_set import Stimuli, Stimulus

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
PARTS = ("train", "evidence", "validation", "test", "new")
_YES_NO = ("yes", "no")
_ANSWERS = {
    "one object": _YES_NO,
    "two objects": _YES_NO,
    "counting": COUNTS,
    "colours": tuple(COLOURS),
    "position": tuple(relation.removesuffix(" of") for relation in RELATIONS),
    "colour attribution": _YES_NO,
}

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
    shape: str
    colour: str
    quarter: int  # index into QUARTERS


@dataclass(frozen=True)
class Scene:
    """Things in reading order, one per quarter at most."""

    things: tuple[Thing, ...]

    @functools.cached_property
    def caption(self) -> str:
        """The full caption: "red circle top left , blue square bottom right"."""
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
        if self.combinations & HELD_OUT:
            return "new"
        return part_of(self.caption)


def part_of(text: str) -> str:
    """The part that a text belongs to: 70 % train, 10 % each of evidence, validation and test."""
    tenth = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 10
    return {7: "evidence", 8: "validation", 9: "test"}.get(tenth, "train")


class Example(NamedTuple):
    """One scene with a caption of it; `skill` is one of SKILLS or "full"."""

    scene: Scene
    skill: str
    caption: str


class Question(NamedTuple):
    """One scene with a question about it and its one-word answer."""

    scene: Scene
    skill: str
    question: str
    answer: str


# ---------------------------------------------------------------------------------------------------- drawing


@functools.cache
def mask_of(shape: str, size: int) -> np.ndarray:
    """Anti-aliased coverage of a shape in its own box, (size, size) in 0..1."""
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


def draw(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """Render a scene on white, 32x32 RGB; `rng` draws each thing's size (10 to 12 pixels) and place in its quarter."""
    canvas = np.full((SIZE, SIZE, 3), 255.0)
    half = SIZE // 2
    for thing in scene.things:
        size = int(rng.integers(10, 13))
        top, left = (int(rng.integers(1, half - size)) + half * i for i in divmod(thing.quarter, 2))
        cover = mask_of(thing.shape, size)[..., None]  # (row, column, 1)
        box = canvas[top : top + size, left : left + size]
        box[:] = cover * COLOURS[thing.colour] + (1 - cover) * box
    return Image.fromarray(canvas.round().astype(np.uint8))


# ---------------------------------------------------------------------------------------------------- composing


def _scene(rng: np.random.Generator, shapes: list[str], quarters: list[int] | None = None) -> Scene:
    """Give the shapes random colours and, where none are given, random quarters."""
    places = rng.permutation(4)[: len(shapes)] if quarters is None else quarters
    colours = rng.choice(list(COLOURS), len(shapes))
    things = (Thing(s, str(c), int(q)) for s, c, q in zip(shapes, colours, places, strict=True))
    return Scene(tuple(sorted(things, key=lambda t: t.quarter)))


def _beside(rng: np.random.Generator, relation: str) -> list[int]:
    """Quarters of (subject, object) so that the subject stands in `relation` to the object."""
    first, second = [((0, 1), (2, 3)), ((0, 2), (1, 3))][RELATIONS.index(relation) // 2][rng.integers(2)]
    return [first, second] if relation in ("left of", "above") else [second, first]


def _shapes(rng: np.random.Generator, count: int, without: tuple[str, ...] = (), repeat: bool = True) -> list[str]:
    return [str(s) for s in rng.choice([s for s in SHAPES if s not in without], count, replace=repeat)]


def _compose(rng: np.random.Generator, skill: str) -> Example:
    if skill == "full":
        scene = _scene(rng, _shapes(rng, int(rng.integers(1, 5))))
        return Example(scene, skill, scene.caption)
    if skill in ("one object", "colours"):
        scene = _scene(rng, _shapes(rng, 1))
        thing = scene.things[0]
        return Example(scene, skill, f"a {thing.shape}" if skill == "one object" else f"a {thing.colour} {thing.shape}")
    if skill == "counting":
        count, shape = int(rng.integers(2, 5)), _shapes(rng, 1)[0]
        return Example(_scene(rng, [shape] * count), skill, f"{COUNTS[count - 1]} {PLURAL[shape]}")
    one, two = _shapes(rng, 2, repeat=False)
    if skill == "position":
        relation = RELATIONS[rng.integers(4)]
        return Example(_scene(rng, [one, two], _beside(rng, relation)), skill, f"a {one} {relation} a {two}")
    scene = _scene(rng, [one, two])
    if skill == "two objects":
        return Example(scene, skill, f"a {one} and a {two}")
    colour = {t.shape: t.colour for t in scene.things}
    return Example(scene, skill, f"a {colour[one]} {one} and a {colour[two]} {two}")


def _ask(rng: np.random.Generator, skill: str) -> tuple[Question, tuple[str, ...] | None]:
    """One question about a scene of any part, and the combination that the question itself names, if any."""
    yes, count = bool(rng.integers(2)), int(rng.integers(1, 5))
    answer, named = "yes" if yes else "no", None
    one, two = _shapes(rng, 2, repeat=False)
    if skill == "one object":
        others = _shapes(rng, int(rng.integers(0, 3)) + (not yes), without=(one,))
        scene, text = _scene(rng, [one] * yes + others), f"is there a {one} ?"
    elif skill == "two objects":
        others = _shapes(rng, 2 - yes, without=(one, two))
        scene, text = _scene(rng, [one] + [two] * yes + others), f"is there a {one} and a {two} ?"
        named = ("pair", *sorted((one, two)))
    elif skill == "counting":
        others = _shapes(rng, int(rng.integers(0, 5 - count)), without=(one,))
        scene, text, answer = _scene(rng, [one] * count + others), f"how many {PLURAL[one]} ?", COUNTS[count - 1]
    elif skill == "colours":
        scene = _scene(rng, [one, *_shapes(rng, int(rng.integers(0, 4)), without=(one,))])
        text, answer = f"what colour is the {one} ?", next(t.colour for t in scene.things if t.shape == one)
    elif skill == "position":
        relation = RELATIONS[count - 1]
        scene = _scene(rng, [one, two], _beside(rng, relation))
        text, answer = f"where is the {one} from the {two} ?", relation.removesuffix(" of")
    else:  # colour attribution: the negative swaps the colours of two things that are there
        scene = _scene(rng, [one, two, *_shapes(rng, int(rng.integers(0, 3)), without=(one, two))])
        colour = {t.shape: t.colour for t in scene.things}
        asked = colour[one if yes else two]
        if not yes and asked == colour[one]:
            return _ask(rng, skill)
        text, named = f"is there a {asked} {one} ?", ("colour", asked, one)
    return Question(scene, skill, text, answer), named


def compose(rng: np.random.Generator, skill: str, part: str) -> Example:
    """Draw a scene of `part` ("train", ..., "new") with a caption for `skill` (one of SKILLS, or "full").

    >>> compose(np.random.default_rng(0), "position", "train").caption
    'a square below a ring'
    """
    _check(skill, part, ("full",))
    if part == "new" and skill == "one object":
        raise ValueError("skill 'one object' has no new combinations: a single shape is not a combination")
    for _ in range(10_000):
        example = _compose(rng, skill)
        if example.scene.part == part and (part != "new" or _names_new(example)):
            return example
    raise AssertionError(f"no scene of part {part!r} for {skill!r}")  # pragma: no cover


def _names_new(example: Example) -> bool:
    """Whether the caption itself, not only the picture, asks for a held-out combination."""
    kinds = {"two objects": "pair", "position": "pair", "counting": "count", "colours": "colour"}
    kind = kinds.get(example.skill)
    return any(kind in (None, held[0]) for held in example.scene.combinations & HELD_OUT)


def ask(rng: np.random.Generator, skill: str, part: str) -> Question:
    """Draw a scene of `part` with a question about it; no question outside "new" names a held-out combination.

    The answer is drawn first and the scenes that do not bear it are rejected, so that answers stay balanced.
    """
    _check(skill, part)
    wanted = str(rng.choice(_ANSWERS[skill]))
    for _ in range(10_000):
        question, named = _ask(rng, skill)
        if question.answer == wanted and question.scene.part == part and (part == "new" or named not in HELD_OUT):
            return question
    raise AssertionError(f"no scene of part {part!r} for {skill!r}")  # pragma: no cover


def _check(skill: str, part: str, more: tuple[str, ...] = ()) -> None:
    if skill not in (*SKILLS, *more):
        raise ValueError(f"unknown skill {skill!r}: expected one of {', '.join((*SKILLS, *more))}")
    if part not in PARTS:
        raise ValueError(f"unknown part {part!r}: expected one of {', '.join(PARTS)}")


def examples(part: str, skills: tuple[str, ...], each: int, seed: int = 0) -> Iterator[Example]:
    """`each` examples of every skill, the same ones for the same seed."""
    for skill in skills:
        _check(skill, part, ("full",))
    rng = np.random.default_rng((seed, PARTS.index(part)))
    for skill in skills:
        yield from (compose(rng, skill, part) for _ in range(each))


def scene_stimuli(part: str, count: int, seed: int = 0) -> Stimuli:
    """`count` different scenes of a part with their full captions, as stimuli to probe with; ids are the captions.

    Raises ValueError for an unknown part, or where the part has not that many.
    """
    _check("full", part, ("full",))
    rng = np.random.default_rng((seed, PARTS.index(part), 3))
    chosen: dict[str, Stimulus] = {}
    for _ in range(100 * count):
        scene = compose(rng, "full", part).scene
        if scene.caption not in chosen:
            chosen[scene.caption] = Stimulus(draw(scene, rng), scene.caption, scene.caption)
        if len(chosen) == count:
            return Stimuli(chosen.values(), name=f"scenes-{part}")
    raise ValueError(f"part {part!r} has fewer than {count} different scenes: ask for fewer")
