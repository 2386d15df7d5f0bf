"""Several questions about one scene: what the understanding expert is trained on; `scenes.compose_question` is what tests it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .composing import _beside, _check, _scene, _shapes
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
            question = _question_about(rng, scene, str(skill))
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


def _question_about(rng: np.random.Generator, scene: Scene, skill: str) -> tuple[str, str] | None:
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


_YES_NO = ("yes", "no")
_ANSWERS = {
    "one object": _YES_NO,
    "two objects": _YES_NO,
    "counting": COUNTS,
    "colours": tuple(COLOURS),
    "position": tuple(relation.removesuffix(" of") for relation in RELATIONS),
    "colour attribution": _YES_NO,
}


class Question(NamedTuple):
    """One scene with a question about it and its one-word answer."""

    scene: Scene
    skill: str
    question: str
    answer: str


def _compose_one(rng: np.random.Generator, skill: str) -> tuple[Question, tuple[str, ...] | None]:
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
            return _compose_one(rng, skill)
        text, named = f"is there a {asked} {one} ?", ("colour", asked, one)
    return Question(scene, skill, text, answer), named


def compose_question(rng: np.random.Generator, skill: str, part: str) -> Question:
    """Draw a scene of `part` with a question about it; no question outside "new" names a held-out combination.

    The answer is drawn first and the scenes that do not bear it are rejected, so that answers stay balanced.
    """
    _check(skill, part)
    wanted = str(rng.choice(_ANSWERS[skill]))
    for _ in range(10_000):
        question, named = _compose_one(rng, skill)
        if question.answer == wanted and question.scene.part == part and (part == "new" or named not in HELD_OUT):
            return question
    raise AssertionError(f"no scene of part {part!r} for {skill!r}")  # pragma: no cover
