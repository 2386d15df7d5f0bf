"""Write captions of scenes that a bag of words does not understand: what belongs to what follows from the syntax alone.

Each caption says its scene exactly. Beside it stand a plain caption of the same scene, with as many words and, where
that can be had, the same ones; and the *canonical* caption, the one of models/scenes/composing.py that the checker and
the text encoder of a generation expert know. In every kind but "sums" another scene has a caption of the same words, so
that counting words tells neither which thing has a colour or place nor which thing is there. In "sums" the words alone
tell the number, but it must be computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from .composing import place_in_relation, random_scene, random_shapes
from .scene import COLOURS, COUNTS, HELD_OUT, PARTS, PLURAL, QUARTERS, RELATIONS, Scene, Thing, check_part

NUMBERS = (*COUNTS, "five", "six")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


class ReadCaption(NamedTuple):
    """Hold a scene with a caption that must be read.

    Attributes
    ----------
    scene : Scene
        What is to be seen.
    kind : str
        A name of `KINDS`.
    caption : str
        The caption that must be read.
    plain : str
        A plain caption of the same scene, with as many words.
    skill, canonical : str
        The skill and the caption that `matches_caption` checks an image by.
    """

    scene: Scene
    kind: str
    caption: str
    plain: str
    skill: str
    canonical: str


class _Said(NamedTuple):
    """What a kind says of a scene; `absent` are things that are named without being there."""

    scene: Scene
    caption: str
    plain: str
    absent: tuple[Thing, ...] = ()
    counted: str = ""


def compose_read(rng: np.random.Generator, kind: str, part: str) -> ReadCaption:
    """Compose a scene of a part with a caption that must be read.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the scene and the words.
    kind : str
        A name of `KINDS`.
    part : str
        One of `PARTS`. A caption of "new" asks for a held-out combination. Of another part, it pairs no two shapes, and
        has no colour beside a shape anywhere, that are held out; a sum may start from a number that is.

    Returns
    -------
    ReadCaption

    Raises
    ------
    ValueError
        If kind or part is unknown.

    See Also
    --------
    compose : Composes a scene with a plain caption.

    Examples
    --------
    >>> compose_read(np.random.default_rng(0), "relations", "train").caption
    'above a blue cross is a yellow circle , both right'
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}: expected one of {', '.join(KINDS)}")
    check_part(part)
    for _ in range(10_000):
        said = KINDS[kind](rng)
        if said.scene.part == part and (_names_new(said) if part == "new" else not _combinations(said) & HELD_OUT):
            skill = "counting" if said.counted else "full"
            return ReadCaption(said.scene, kind, said.caption, said.plain, skill, said.counted or said.scene.caption)
    raise AssertionError(f"no scene of part {part!r} for {kind!r}")  # pragma: no cover


def read_captions(part: str, each: int, seed: int = 0, kinds: Sequence[str] = ()) -> list[ReadCaption]:
    """Compose captions that must be read, the same ones for the same seed.

    Parameters
    ----------
    part : str
        One of `PARTS`.
    each : int
        Captions of every kind.
    seed : int
        Of the draws.
    kinds : sequence of str
        Names of `KINDS`; all of them if left out.

    Returns
    -------
    list of ReadCaption
        Kind by kind. A caption may come twice; those of "sums" are few.

    Raises
    ------
    ValueError
        If a kind or the part is unknown, or no captions are asked for.
    """
    check_part(part, each, "captions of every kind")
    rng = np.random.default_rng((seed, PARTS.index(part), 6))
    return [compose_read(rng, kind, part) for kind in kinds or KINDS for _ in range(each)]


def _names_new(said: _Said) -> bool:
    """Return whether what is said of a scene, not only the picture, asks for a held-out combination."""
    return any(held[0] == "count" or not said.counted for held in said.scene.combinations & HELD_OUT)


def _combinations(said: _Said) -> frozenset[tuple[str, ...]]:
    """Return every combination that a caption can be taken to name, whatever is read as belonging to what."""
    things = (*said.scene.things, *said.absent)
    shapes = {thing.shape for thing in things}
    pairs = {("pair", *sorted(pair)) for pair in combinations(shapes, 2)}
    return frozenset(pairs | {("colour", thing.colour, shape) for thing in things for shape in shapes})


def _things(rng: np.random.Generator, count: int = 2) -> list[Thing]:
    """Draw things that are unlike in shape, colour and quarter, in any order."""
    colours, quarters = rng.permutation(list(COLOURS)), rng.permutation(4)
    shapes = random_shapes(rng, count, repeat=False)
    return [Thing(s, str(c), int(q)) for s, c, q in zip(shapes, colours, quarters, strict=False)]


def _beside(rng: np.random.Generator) -> tuple[Thing, Thing, str, str]:
    """Draw two things beside each other, with the relation of the first to the second and what both share."""
    relation = RELATIONS[rng.integers(4)]
    quarters = place_in_relation(rng, relation)
    one, other = (thing._replace(quarter=q) for thing, q in zip(_things(rng), quarters, strict=True))
    row, column = divmod(one.quarter, 2)
    side = ("top", "bottom")[row] if relation in ("left of", "right of") else ("left", "right")[column]
    return one, other, relation, side


def _scene(*things: Thing) -> Scene:
    return Scene(tuple(sorted(things, key=lambda thing: thing.quarter)))


def _noun(thing: Thing) -> str:
    return f"a {thing.colour} {thing.shape}"


def _phrase(thing: Thing) -> str:
    return f"{_noun(thing)} {QUARTERS[thing.quarter]}"


def _either(rng: np.random.Generator, *forms: str) -> str:
    return forms[rng.integers(len(forms))]


def _coreference(rng: np.random.Generator) -> _Said:
    named = list(zip(("former", "latter"), _things(rng), strict=True))
    clauses = [named[i] for i in rng.permutation(2)]
    listed = " , ".join(f"a {thing.shape}" for _, thing in named)
    said = " , ".join(f"the {name} is {thing.colour} and {QUARTERS[thing.quarter]}" for name, thing in clauses)
    plain = " , ".join(f"the {name} is {_noun(thing)} , and {QUARTERS[thing.quarter]}" for name, thing in clauses)
    return _Said(_scene(*(thing for _, thing in named)), f"{listed} , {said}", plain)


def _ordinals(rng: np.random.Generator) -> _Said:
    named = list(zip(("first", "second", "third"), _things(rng, 3), strict=True))
    *clauses, (missing, absent) = (named[i] for i in rng.permutation(3))
    listed = " , ".join(f"a {thing.shape}" for _, thing in named)
    said = " , ".join(f"the {name} is {thing.colour} and {QUARTERS[thing.quarter]}" for name, thing in clauses)
    plain = " , ".join(f"the {name} is {_noun(thing)} , and {QUARTERS[thing.quarter]}" for name, thing in clauses)
    return _Said(
        _scene(*(thing for _, thing in clauses)),
        f"{listed} , {said} , the {missing} is not there",
        f"{plain} , the {missing} a {absent.shape} , is not there",
        (absent,),
    )


def _negation(rng: np.random.Generator) -> _Said:
    one, other = _things(rng)

    def describe(thing: Thing, colour: str) -> str:
        return f"a {thing.shape} that is {colour} {QUARTERS[thing.quarter]}"

    pairs = ((one, other), (other, one))
    said = [
        describe(a, _either(rng, f"{a.colour} but not {b.colour}", f"not {b.colour} but {a.colour}")) for a, b in pairs
    ]
    plain = [describe(a, f"{a.colour} but not {b.colour}") for a, b in pairs]
    return _Said(_scene(one, other), " , ".join(said), " , ".join(plain))


def _relations(rng: np.random.Generator) -> _Said:
    one, other, relation, side = _beside(rng)
    plain = f"{_noun(one)} is {relation} {_noun(other)} , both {side}"
    turned = f"{relation} {_noun(other)} is {_noun(one)} , both {side}"
    return _Said(_scene(one, other), _either(rng, plain, turned), plain)


def _relative_clauses(rng: np.random.Generator) -> _Said:
    one, other, relation, side = _beside(rng)
    plain = f"{_noun(one)} that is {relation} {_noun(other)} , both {side}"
    turned = f"{_noun(other)} that {_noun(one)} is {relation} , both {side}"
    return _Said(_scene(one, other), _either(rng, plain, turned), plain)


def _absence(rng: np.random.Generator) -> _Said:
    one, other, absent = _things(rng, 3)
    there = f"{_phrase(one)} and {_phrase(other)}"
    plain = f"{there} instead of {_phrase(absent)}"
    return _Said(_scene(one, other), _either(rng, plain, f"instead of {_phrase(absent)} {there}"), plain, (absent,))


def _selection(rng: np.random.Generator) -> _Said:
    there, absent = _things(rng)
    one, other, end = _phrase(there), _phrase(absent), f"only what is {there.colour} is there"
    said = _either(rng, f"{one} , {other} , {end}", f"{other} , {one} , {end}")
    return _Said(_scene(there), said, f"{one} , no {other.removeprefix('a ')} , {end}", (absent,))


def _sums(rng: np.random.Generator) -> _Said:
    shape = random_shapes(rng, 1)[0]
    count, change = int(rng.integers(2, 5)), int(rng.integers(1, 3))
    more = bool(rng.integers(2)) and change < count
    start, word = (count - change, "more") if more else (count + change, "fewer")
    given, by = NUMBERS[start - 1], NUMBERS[change - 1]
    noun = shape if change == 1 else PLURAL[shape]
    said = _either(rng, f"{by} {noun} {word} than {given}", f"{given} and {by} {noun} {word}")
    counted = f"{COUNTS[count - 1]} {PLURAL[shape]}"
    return _Said(random_scene(rng, [shape] * count), said, f"{counted} and no {word}", counted=counted)


KINDS: dict[str, Callable[[np.random.Generator], _Said]] = {
    "coreference": _coreference,
    "ordinals": _ordinals,
    "negation": _negation,
    "relations": _relations,
    "relative clauses": _relative_clauses,
    "absence": _absence,
    "selection": _selection,
    "sums": _sums,
}
