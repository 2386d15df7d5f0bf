"""Write dense captions of up to four things with colours, places and relations, and score images fact by fact.

As DPG-Bench does it (ELLA, Hu et al. 2024, arXiv 2403.05135): a caption is taken apart into facts of three categories,
entity, attribute and relation; every fact is checked by itself, one about a thing that is not there is wrong; an image
scores the share of its facts, and the score is the mean over images. A vision-language model answers DPG's questions;
here the exact checker reads the things from the pixels. As there, things that no fact names cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from ...probes.similarity.intervals import mean_interval
from .checker import DetectedThing, detect_things, quarter_of, stands
from .composing import compose
from .rendering import render_scene
from .scene import PARTS, QUARTERS, SIZE, Scene, Thing, check_part

CATEGORIES = ("entity", "attribute", "relation")
THINGS = (2, 3, 4)
WORDS = 19  # what the text encoder of scenes-dit reads of a caption: 20 tokens, one of them the end


class Fact(NamedTuple):
    """Hold one thing that a caption says of the thing of one shape.

    Attributes
    ----------
    category : str
        One of `CATEGORIES`.
    shape : str
        Of the thing that the fact is about.
    value : str
        A colour, a quarter or a relation; empty for an entity.
    other : str
        The shape of the thing that a relation is to.
    """

    category: str
    shape: str
    value: str = ""
    other: str = ""


class Described(NamedTuple):
    """Hold a scene with its dense caption and what that says."""

    scene: Scene
    caption: str
    facts: tuple[Fact, ...]


def dense_captions(part: str = "test", each: int = 40, seed: int = 0) -> list[Described]:
    """Compose scenes of two, three and four things with dense captions, the same ones for the same seed.

    Parameters
    ----------
    part : str
        One of `PARTS`.
    each : int
        Captions of every number of things.
    seed : int
        Of the draws.

    Returns
    -------
    list of Described

    Raises
    ------
    ValueError
        If the part is unknown, or no captions are asked for.

    Notes
    -----
    No two things of a scene have one shape, so that a shape names its thing. The first thing's quarter is named unless
    that makes the caption longer than 19 words (it does with four things); every further thing stands beside one that
    was named before: "red circle top left , blue square right of circle , green cross below square".
    """
    check_part(part, each, "captions of every number of things")
    rng = np.random.default_rng((seed, PARTS.index(part), 4))
    return [_compose_described(rng, part, count) for count in THINGS for _ in range(each)]


def dense_score(wanted: Sequence[Described], images: Sequence[Image.Image], seed: int = 0) -> pd.DataFrame:
    """Score images by the share of their captions' facts that hold, by category and in all.

    Parameters
    ----------
    wanted : sequence of Described
        At least two.
    images : sequence of PIL.Image.Image
        One drawn for each caption.
    seed : int
        Of the true pictures that `unrelated` is measured on.

    Returns
    -------
    pandas.DataFrame
        One row per category and "all", which is DPG's score: category, score (mean over images of the share of their
        facts that hold), low, high (95 % over images, Student's t: no width where all score alike), images, facts; and
        what needs no model or no caption: `blank`, a white image; `unrelated`, true pictures of the other captions;
        `shuffled`, the same `images` under the other captions.

    Raises
    ------
    ValueError
        If captions and images are not equally many, or fewer than two.
    """
    if len(wanted) != len(images) or len(wanted) < 2:
        raise ValueError(f"expected one image for each of at least two captions, got {len(images)} for {len(wanted)}")
    rng = np.random.default_rng((seed, 5))
    drawn = [detect_things(image) for image in images]
    true = [detect_things(render_scene(w.scene, rng)) for w in wanted]
    blank = detect_things(Image.new("RGB", (SIZE, SIZE), "white"))
    shares = _shares(wanted, drawn)  # (caption, image, category)
    own = np.diagonal(shares).T  # (caption, category)
    others = ~np.eye(len(wanted), dtype=bool)
    mean, low, high = mean_interval(own)
    counts = [sum(f.category == category for w in wanted for f in w.facts) for category in CATEGORIES]
    return pd.DataFrame(
        {
            "category": [*CATEGORIES, "all"],
            "score": mean,
            "low": low.clip(0, 1),
            "high": high.clip(0, 1),
            "blank": _shares(wanted, [blank]).mean((0, 1)),
            "unrelated": _shares(wanted, true)[others].mean(0),
            "shuffled": shares[others].mean(0),
            "images": len(wanted),
            "facts": [*counts, sum(counts)],
        }
    )


def holds(fact: Fact, things: Sequence[DetectedThing], facts: Sequence[Fact]) -> bool:
    """Return whether a fact of a caption holds in what was read from an image.

    Parameters
    ----------
    fact : Fact
        What is checked.
    things : sequence of DetectedThing
        What was read from the image.
    facts : sequence of Fact
        All that the caption says.

    Returns
    -------
    bool

    Notes
    -----
    Of several things of a shape in the image, the one is meant of which most of the caption's attributes hold.
    """
    thing = _find(fact.shape, things, facts)
    if thing is None:
        return False
    if fact.category == "relation":
        other = _find(fact.other, things, facts)
        return other is not None and stands(thing, other, fact.value)
    return fact.category == "entity" or fact.value in _attributes(thing)


def _find(shape: str, things: Sequence[DetectedThing], facts: Sequence[Fact]) -> DetectedThing | None:
    said = {f.value for f in facts if f.category == "attribute" and f.shape == shape}
    alike = [thing for thing in things if thing.shape == shape]
    return max(alike, key=lambda thing: len(said & _attributes(thing)), default=None)


def _attributes(thing: DetectedThing) -> set[str | None]:
    return {thing.colour, QUARTERS[quarter_of(thing)]}


def _shares(wanted: Sequence[Described], images: Sequence[Sequence[DetectedThing]]) -> np.ndarray:
    """Return the share of every caption's facts that hold in every image, (caption, image, category and all)."""
    shares = np.empty((len(wanted), len(images), len(CATEGORIES) + 1))
    for row, described in enumerate(wanted):
        members = [[f.category == category for f in described.facts] for category in CATEGORIES]
        for column, things in enumerate(images):
            held = np.array([holds(fact, things, described.facts) for fact in described.facts])
            shares[row, column] = [*(held[member].mean() for member in members), held.mean()]
    return shares


def _compose_described(rng: np.random.Generator, part: str, count: int) -> Described:
    while True:
        scene = compose(rng, "full", part).scene
        if len(scene.things) == len({thing.shape for thing in scene.things}) == count:
            order = [scene.things[i] for i in rng.permutation(count)]
            if described := _describe(rng, scene, order):
                return described


def _describe(rng: np.random.Generator, scene: Scene, order: list[Thing]) -> Described | None:
    """Write the caption that names the things in this order, or return None where one stands beside none before it."""
    first = order[0]
    facts = list(_facts_of(first))
    phrases = [f"{first.colour} {first.shape}"]
    for number, thing in enumerate(order[1:], 1):
        beside = [(other, relation) for other in order[:number] if (relation := _relation(thing, other))]
        if not beside:
            return None
        other, relation = beside[rng.integers(len(beside))]
        facts += [*_facts_of(thing), Fact("relation", thing.shape, relation, other.shape)]
        phrases.append(f"{thing.colour} {thing.shape} {relation} {other.shape}")
    quarter = QUARTERS[first.quarter]
    longer = " , ".join([f"{phrases[0]} {quarter}", *phrases[1:]])
    if len(longer.split()) <= WORDS:
        return Described(scene, longer, (*facts, Fact("attribute", first.shape, quarter)))
    return Described(scene, " , ".join(phrases), tuple(facts))


def _facts_of(thing: Thing) -> Iterator[Fact]:
    yield Fact("entity", thing.shape)
    yield Fact("attribute", thing.shape, thing.colour)


def _relation(thing: Thing, other: Thing) -> str | None:
    """Return where a thing stands from another; None on a diagonal."""
    down, right = (a - b for a, b in zip(divmod(thing.quarter, 2), divmod(other.quarter, 2), strict=True))
    return {(0, -1): "left of", (0, 1): "right of", (-1, 0): "above", (1, 0): "below"}.get((down, right))
