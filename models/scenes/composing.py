"""Compose scenes of a part with a caption for each skill."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ...probes.arguments import SEEDS, checked
from ...probes.stimuli.stimulus_set import Stimuli, Stimulus, dealt_by_texts
from .rendering import render_scene
from .scene import COLOURS, COUNTS, HELD_OUT, PARTS, PLURAL, RELATIONS, SHAPES, SKILLS, Scene, Thing, check_part


class Example(NamedTuple):
    """One scene with a caption of it; `skill` is one of `SKILLS` or "full"."""

    scene: Scene
    skill: str
    caption: str


def check_skill(skill: str, part: str, more: tuple[str, ...] = ()) -> None:
    """Raise a ValueError for an unknown skill or part.

    Parameters
    ----------
    skill : str
        One of `SKILLS`, or of `more`.
    part : str
        One of `PARTS`.
    more : tuple of str
        Further skills that the caller knows.

    Raises
    ------
    ValueError
        If skill or part is unknown.
    """
    if skill not in (*SKILLS, *more):
        raise ValueError(f"unknown skill {skill!r}: expected one of {', '.join((*SKILLS, *more))}")
    check_part(part)


def random_scene(rng: np.random.Generator, shapes: list[str], quarters: list[int] | None = None) -> Scene:
    """Give shapes random colours and, where none are given, random quarters.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws quarters, then colours.
    shapes : list of str
        At most four.
    quarters : list of int, optional
        Where each shape stands, an index into `QUARTERS`.

    Returns
    -------
    Scene
    """
    places = rng.permutation(4)[: len(shapes)] if quarters is None else quarters
    colours = rng.choice(list(COLOURS), len(shapes))
    things = (Thing(s, str(c), int(q)) for s, c, q in zip(shapes, colours, places, strict=True))
    return Scene(tuple(sorted(things, key=lambda t: t.quarter)))


def place_in_relation(rng: np.random.Generator, relation: str) -> list[int]:
    """Draw the quarters of a subject and an object so that the subject stands in a relation to the object.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws which of the two rows or columns both stand in.
    relation : str
        One of `RELATIONS`.

    Returns
    -------
    list of int
        Subject's and object's quarter, indices into `QUARTERS`.
    """
    first, second = [((0, 1), (2, 3)), ((0, 2), (1, 3))][RELATIONS.index(relation) // 2][rng.integers(2)]
    return [first, second] if relation in ("left of", "above") else [second, first]


def random_shapes(
    rng: np.random.Generator, count: int, without: tuple[str, ...] = (), repeat: bool = True
) -> list[str]:
    """Draw shapes.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws them.
    count : int
        How many.
    without : tuple of str
        Shapes that are not drawn.
    repeat : bool
        Whether a shape may be drawn twice.

    Returns
    -------
    list of str
    """
    return [str(s) for s in rng.choice([s for s in SHAPES if s not in without], count, replace=repeat)]


def _compose_any(rng: np.random.Generator, skill: str) -> Example:
    """Compose a scene of any part with its caption."""
    if skill == "full":
        scene = random_scene(rng, random_shapes(rng, int(rng.integers(1, 5))))
        return Example(scene, skill, scene.caption)
    if skill in ("one object", "colours"):
        scene = random_scene(rng, random_shapes(rng, 1))
        thing = scene.things[0]
        return Example(scene, skill, f"a {thing.shape}" if skill == "one object" else f"a {thing.colour} {thing.shape}")
    if skill == "counting":
        count, shape = int(rng.integers(2, 5)), random_shapes(rng, 1)[0]
        return Example(random_scene(rng, [shape] * count), skill, f"{COUNTS[count - 1]} {PLURAL[shape]}")
    one, two = random_shapes(rng, 2, repeat=False)
    if skill == "position":
        relation = RELATIONS[rng.integers(4)]
        scene = random_scene(rng, [one, two], place_in_relation(rng, relation))
        return Example(scene, skill, f"a {one} {relation} a {two}")
    scene = random_scene(rng, [one, two])
    if skill == "two objects":
        return Example(scene, skill, f"a {one} and a {two}")
    colour = {t.shape: t.colour for t in scene.things}
    return Example(scene, skill, f"a {colour[one]} {one} and a {colour[two]} {two}")


def compose(rng: np.random.Generator, skill: str, part: str) -> Example:
    """Compose a scene of a part with a caption for a skill.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the scene.
    skill : str
        One of `SKILLS`, or "full".
    part : str
        One of `PARTS`. A caption of "new" names a held-out combination.

    Returns
    -------
    Example

    Raises
    ------
    ValueError
        If skill or part is unknown; for "one object" of "new", since a single shape is not a combination.

    Examples
    --------
    >>> compose(np.random.default_rng(0), "position", "train").caption
    'a circle right of a triangle'
    """
    check_skill(skill, part, ("full",))
    if part == "new" and skill == "one object":
        raise ValueError("skill 'one object' has no new combinations: a single shape is not a combination")
    for _ in range(10_000):
        example = _compose_any(rng, skill)
        if example.scene.part == part and (part != "new" or _names_new(example)):
            return example
    raise AssertionError(f"no scene of part {part!r} for {skill!r}")  # pragma: no cover


def _names_new(example: Example) -> bool:
    """Return whether the caption itself, not only the picture, asks for a held-out combination."""
    kinds = {"two objects": "pair", "position": "pair", "counting": "count", "colours": "colour"}
    kind = kinds.get(example.skill)
    return any(kind in (None, held[0]) for held in example.scene.combinations & HELD_OUT)


def examples(part: str, skills: tuple[str, ...], each: int, seed: int = 0) -> Iterator[Example]:
    """Compose as many examples of every skill, the same ones for the same seed.

    Parameters
    ----------
    part : str
        One of `PARTS`.
    skills : tuple of str
        Of `SKILLS`, or "full".
    each : int
        Examples of every skill.
    seed : int
        Of the draws.

    Yields
    ------
    Example
        Skill by skill.

    Raises
    ------
    ValueError
        If a skill or the part is unknown.
    """
    for skill in skills:
        check_skill(skill, part, ("full",))
    rng = np.random.default_rng((seed, PARTS.index(part)))
    for skill in skills:
        yield from (compose(rng, skill, part) for _ in range(each))


def scene_stimuli(part: str, count: int, seed: int = 0) -> Stimuli:
    """Compose different scenes of a part with their full captions, as stimuli to probe with.

    Parameters
    ----------
    part : str
        One of `PARTS`.
    count : int
        How many scenes.
    seed : int
        Of the draws.

    Returns
    -------
    Stimuli
        Their ids are their captions.

    Raises
    ------
    ValueError
        If the part is unknown, or has not that many scenes.
    TypeError
        If count or seed is no whole number.

    See Also
    --------
    bridgework.probes.load_stimuli : Opens pictures of other kinds, and your own.

    Examples
    --------
    >>> scene_stimuli("evidence", 2).texts
    ('...', '...')
    """
    check_part(part)
    count, seed = checked("count", count, int, least=1), checked("seed", seed, int, **SEEDS)
    rng = np.random.default_rng((seed, PARTS.index(part), 3))
    chosen: dict[str, Stimulus] = {}
    for _ in range(100 * count):
        scene = compose(rng, "full", part).scene
        if scene.caption not in chosen:
            chosen[scene.caption] = Stimulus(render_scene(scene, rng), scene.caption, scene.caption)
        if len(chosen) == count:
            return dealt_by_texts(Stimuli(chosen.values(), name=f"scenes-{part}"))
    raise ValueError(f"part {part!r} has fewer than {count} different scenes: ask for fewer")
