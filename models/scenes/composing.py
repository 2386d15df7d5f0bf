"""Draw scenes of a part with a caption for each skill."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ...probes.stimuli.stimulus_set import Stimuli, Stimulus
from .rendering import render_scene
from .scene import COLOURS, COUNTS, HELD_OUT, PARTS, PLURAL, RELATIONS, SHAPES, SKILLS, Scene, Thing


class Example(NamedTuple):
    """One scene with a caption of it; `skill` is one of SKILLS or "full"."""

    scene: Scene
    skill: str
    caption: str


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
            chosen[scene.caption] = Stimulus(render_scene(scene, rng), scene.caption, scene.caption)
        if len(chosen) == count:
            return Stimuli(chosen.values(), name=f"scenes-{part}")
    raise ValueError(f"part {part!r} has fewer than {count} different scenes: ask for fewer")
