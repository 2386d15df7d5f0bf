"""Compose edits of scenes: a source, an instruction in words, and the scene that the instruction asks for.

There are six kinds, after those of GEdit and ImgEdit: recolour, remove, add, move, swap and count up. An instruction
names what it is about by colour and shape, of which the source has one alone, so that it can be followed in one way. In
every edit something changes, and at least one thing stays. What stays is drawn at the same pixels in both images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from .composing import random_scene, random_shapes
from .rendering import render_scene
from .scene import COLOURS, PARTS, QUARTERS, SHAPES, Scene, Thing, check_part


class Edit(NamedTuple):
    """Hold a source scene, an instruction, and the scene that it asks for.

    Attributes
    ----------
    kind : str
        A name of `EDIT_KINDS`.
    source : Scene
        What is edited.
    instruction : str
        What is asked for, such as "make the red circle blue".
    result : Scene
        What is asked for. Where a thing may come into any free quarter ("count up"), it comes into the first.
    origins : tuple
        Of each thing of the result, which thing of the source it is drawn like, in size and place within its quarter;
        None for a new thing.
    """

    kind: str
    source: Scene
    instruction: str
    result: Scene
    origins: tuple[int | None, ...]

    @property
    def kept(self) -> tuple[Thing, ...]:
        """The things that had to stay as they are, where they are."""
        return tuple(thing for thing in self.source.things if thing in self.result.things)

    @property
    def changed(self) -> tuple[int, ...]:
        """The quarters that may change: those in which source and result differ, and all where a thing may come."""
        if self.kind == "count up":
            return tuple(_free(self.source))
        differing = set(self.source.things) ^ set(self.result.things)
        return tuple(sorted({thing.quarter for thing in differing}))


class _Asked(NamedTuple):
    """What a kind makes of a source: the words, and each thing of the result with the source's thing it is like."""

    instruction: str
    things: list[tuple[Thing, int | None]]


def compose_edit(rng: np.random.Generator, kind: str, part: str) -> Edit:
    """Compose an edit of a part.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws source and edit.
    kind : str
        A name of `EDIT_KINDS`.
    part : str
        One of `PARTS`. Source and result are both of this part. Of "new", one of the two has a held-out combination at
        least.

    Returns
    -------
    Edit

    Raises
    ------
    ValueError
        If kind or part is unknown.

    See Also
    --------
    compose : Composes a scene with a caption, where nothing is edited.

    Examples
    --------
    >>> compose_edit(np.random.default_rng(0), "recolour", "train").instruction
    'make the ... ...'
    """
    if kind not in EDIT_KINDS:
        raise ValueError(f"unknown kind of edit {kind!r}: expected one of {', '.join(EDIT_KINDS)}")
    check_part(part)
    change, (fewest, most) = EDIT_KINDS[kind]
    for _ in range(100_000):
        source = random_scene(rng, random_shapes(rng, int(rng.integers(fewest, most + 1))))
        if (part != "new" and source.part != part) or (asked := change(rng, source)) is None:
            continue
        pairs = sorted(asked.things, key=lambda pair: pair[0].quarter)
        result = Scene(tuple(thing for thing, _ in pairs))
        if result.part == part or source.part == part == "new":
            return Edit(kind, source, asked.instruction, result, tuple(origin for _, origin in pairs))
    raise AssertionError(f"no edit of part {part!r} for {kind!r}")  # pragma: no cover


def scene_edits(part: str, each: int, seed: int = 0, kinds: Sequence[str] = ()) -> list[Edit]:
    """Compose edits of every kind, the same ones for the same seed.

    Parameters
    ----------
    part : str
        One of `PARTS`.
    each : int
        How many edits of every kind.
    seed : int
        Of the draws.
    kinds : sequence of str
        Names of `EDIT_KINDS`; all of them if left out.

    Returns
    -------
    list of Edit
        Kind by kind.

    Raises
    ------
    ValueError
        If a kind or the part is unknown, or no edits are asked for.

    See Also
    --------
    render_edit : Draws the source and the result of an edit.
    bridgework.models.score_edits : Scores what a model makes of the source.

    Examples
    --------
    >>> [edit.kind for edit in scene_edits("test", 1)]
    ['recolour', 'remove', 'add', 'move', 'swap', 'count up']
    """
    check_part(part, each, "edits of every kind")
    rng = np.random.default_rng((seed, PARTS.index(part), 17))
    return [compose_edit(rng, kind, part) for kind in kinds or EDIT_KINDS for _ in range(each)]


def render_edit(edit: Edit, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """Render the source and the result of an edit, so that all that stays has the same pixels.

    Parameters
    ----------
    edit : Edit
        The edit.
    rng : numpy.random.Generator
        Draws each thing's size and its place in its quarter. A thing that is recoloured or moved keeps both.

    Returns
    -------
    source, result : PIL.Image.Image
        32x32 RGB.

    See Also
    --------
    bridgework.models.scene_edits : Composes the edits that are rendered.

    Examples
    --------
    >>> source, result = render_edit(scene_edits("test", 1)[0], np.random.default_rng(0))
    >>> source.size
    (32, 32)
    """
    seeds = rng.integers(2**32, size=len(edit.source.things) + 1)
    places = [-1 if origin is None else origin for origin in edit.origins]
    return (
        _render(edit.source.things, seeds[: len(edit.source.things)]),
        _render(edit.result.things, seeds[places]),
    )


def _render(things: Sequence[Thing], seeds: np.ndarray) -> Image.Image:
    drawn = [render_scene(Scene((thing,)), np.random.default_rng(s)) for thing, s in zip(things, seeds, strict=True)]
    return Image.fromarray(np.min([np.asarray(image) for image in drawn], axis=0))


def _single(scene: Scene) -> list[int]:
    """Return the numbers of the things that alone have their colour and shape."""
    looks = [(thing.colour, thing.shape) for thing in scene.things]
    return [number for number, look in enumerate(looks) if looks.count(look) == 1]


def _free(scene: Scene) -> list[int]:
    taken = {thing.quarter for thing in scene.things}
    return [quarter for quarter in range(len(QUARTERS)) if quarter not in taken]


def _look(thing: Thing) -> str:
    return f"{thing.colour} {thing.shape}"


def _numbered(scene: Scene) -> list[tuple[Thing, int | None]]:
    return [(thing, number) for number, thing in enumerate(scene.things)]


def _recolour(rng: np.random.Generator, scene: Scene) -> _Asked | None:
    if not (single := _single(scene)):
        return None
    number, things = int(rng.choice(single)), _numbered(scene)
    thing = scene.things[number]
    colour = str(rng.choice([colour for colour in COLOURS if colour != thing.colour]))
    things[number] = (thing._replace(colour=colour), number)
    return _Asked(f"make the {_look(thing)} {colour}", things)


def _remove(rng: np.random.Generator, scene: Scene) -> _Asked | None:
    if not (single := _single(scene)):
        return None
    number, things = int(rng.choice(single)), _numbered(scene)
    thing, _ = things.pop(number)
    return _Asked(f"remove the {_look(thing)}", things)


def _add(rng: np.random.Generator, scene: Scene) -> _Asked:
    thing = Thing(str(rng.choice(SHAPES)), str(rng.choice(list(COLOURS))), int(rng.choice(_free(scene))))
    return _Asked(f"add a {_look(thing)} {QUARTERS[thing.quarter]}", [*_numbered(scene), (thing, None)])


def _move(rng: np.random.Generator, scene: Scene) -> _Asked | None:
    if not (single := _single(scene)):
        return None
    number, things = int(rng.choice(single)), _numbered(scene)
    thing = scene.things[number]._replace(quarter=int(rng.choice(_free(scene))))
    things[number] = (thing, number)
    return _Asked(f"move the {_look(thing)} to the {QUARTERS[thing.quarter]}", things)


def _swap(rng: np.random.Generator, scene: Scene) -> _Asked | None:
    if len(single := _single(scene)) < 2:
        return None
    one, other = (int(number) for number in rng.permutation(single)[:2])
    first, second, things = scene.things[one], scene.things[other], _numbered(scene)
    things[one] = (first._replace(quarter=second.quarter), one)
    things[other] = (second._replace(quarter=first.quarter), other)
    return _Asked(f"swap the {_look(first)} and the {_look(second)}", things)


def _count_up(rng: np.random.Generator, scene: Scene) -> _Asked:
    thing = scene.things[int(rng.integers(len(scene.things)))]._replace(quarter=_free(scene)[0])
    return _Asked(f"one more {_look(thing)}", [*_numbered(scene), (thing, None)])


# Each kind, with the fewest and the most things of its source. At least one thing stays, and one quarter is free where
# a thing comes.
EDIT_KINDS: dict[str, tuple[Callable[[np.random.Generator, Scene], _Asked | None], tuple[int, int]]] = {
    "recolour": (_recolour, (2, 4)),
    "remove": (_remove, (2, 4)),
    "add": (_add, (1, 3)),
    "move": (_move, (2, 3)),
    "swap": (_swap, (3, 4)),
    "count up": (_count_up, (1, 3)),
}
