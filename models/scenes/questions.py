"""Several questions about one scene: what the understanding expert is trained on; `scenes.ask` is what tests it."""

from __future__ import annotations

import numpy as np

from .scene import COLOURS, COUNTS, HELD_OUT, PLURAL, RELATIONS, SHAPES, SKILLS, Scene, Thing

# The share of these answers that is kept: scenes drawn without a question in mind make them too common.
_KEPT = {
    ("counting", "one"): 0.005,
    ("counting", "two"): 0.2,
    ("one object", "no"): 0.75,
    ("two objects", "no"): 0.6,
    ("colour attribution", "yes"): 0.6,
}


def ask_about(
    rng: np.random.Generator, scene: Scene, count: int, asked: tuple[str, str] | None = None
) -> list[tuple[str, str]]:
    """`count` different questions about a scene with their answers, skills in turn, without the one already `asked`.

    None names a held-out combination. Yes and no are as likely; a negative of two objects has one of them, one of
    colour attribution the colour or the shape.
    """
    turns: list[tuple[str, str]] = []
    while len(turns) < count:
        for skill in rng.permutation(SKILLS):
            question = _ask(rng, scene, str(skill))
            if (
                question is None
                or question == asked
                or question in turns
                or rng.random() > _KEPT.get((str(skill), question[1]), 1)
            ):
                continue
            turns.append(question)
    return turns[:count]


def _pick(rng: np.random.Generator, choices: list[str]) -> str | None:
    return str(rng.choice(choices)) if choices else None


def _ask(rng: np.random.Generator, scene: Scene, skill: str) -> tuple[str, str] | None:
    """One question, or None where the scene allows none of this skill."""
    shapes = [thing.shape for thing in scene.things]
    there, absent = sorted(set(shapes)), sorted(set(SHAPES) - set(shapes))
    single = [thing for thing in scene.things if shapes.count(thing.shape) == 1]
    yes = bool(rng.integers(2))
    answer = "yes" if yes else "no"
    if skill == "one object":
        return f"is there a {_pick(rng, there if yes else absent)} ?", answer
    if skill == "two objects":
        one = _pick(rng, there)
        two = _pick(rng, [s for s in (there if yes else absent) if s != one])
        pair = [one, two] if rng.integers(2) else [two, one]
        if two is None or ("pair", *sorted((str(one), two))) in HELD_OUT:
            return None
        return f"is there a {pair[0]} and a {pair[1]} ?", answer
    if skill == "counting":
        shape = _pick(rng, there)
        return f"how many {PLURAL[str(shape)]} ?", COUNTS[shapes.count(str(shape)) - 1]
    if skill == "colours":
        if not single:
            return None
        thing = single[rng.integers(len(single))]
        return f"what colour is the {thing.shape} ?", thing.colour
    if skill == "position":
        return _position(rng, single)
    return _attribution(rng, scene, yes, answer)


def _position(rng: np.random.Generator, single: list[Thing]) -> tuple[str, str] | None:
    beside = [
        (one, two)
        for one in single
        for two in single
        if one is not two and (one.quarter // 2 == two.quarter // 2) != (one.quarter % 2 == two.quarter % 2)
    ]
    if not beside:
        return None
    one, two = beside[rng.integers(len(beside))]
    across = one.quarter // 2 == two.quarter // 2
    relation = RELATIONS[(0 if across else 2) + (one.quarter > two.quarter)]
    return f"where is the {one.shape} from the {two.shape} ?", relation.removesuffix(" of")


def _attribution(rng: np.random.Generator, scene: Scene, yes: bool, answer: str) -> tuple[str, str] | None:
    pairs = {(thing.colour, thing.shape) for thing in scene.things}
    if yes:
        asked = sorted(pairs)
    else:
        colours, shapes = {c for c, _ in pairs}, {s for _, s in pairs}
        both = [(c, s) for c in sorted(colours) for s in sorted(shapes)]
        either = [(c, s) for c in COLOURS for s in sorted(shapes)]
        asked = [p for p in (both if rng.integers(4) else either) if p not in pairs]
    asked = [(c, s) for c, s in asked if ("colour", c, s) not in HELD_OUT]
    if not asked:
        return None
    colour, shape = asked[rng.integers(len(asked))]
    return f"is there a {colour} {shape} ?", answer
