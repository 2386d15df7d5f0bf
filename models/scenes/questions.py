"""Ask questions about scenes: one about a scene composed for it, or several about a scene that is there."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .composing import check_skill, place_in_relation, random_scene, random_shapes
from .scene import COLOURS, COUNTS, HELD_OUT, PLURAL, RELATIONS, SHAPES, SKILLS, Scene, Thing

# Every question, by its skill; filled with shapes, with a plural (counting), with colour and shape (attribution).
TEMPLATES = {
    "one object": "is there a {} ?",
    "two objects": "is there a {} and a {} ?",
    "counting": "how many {} ?",
    "colours": "what colour is the {} ?",
    "position": "where is the {} from the {} ?",
    "colour attribution": "is there a {} {} ?",
}
_YES_NO = ("yes", "no")
_DIRECTIONS = {relation: relation.removesuffix(" of") for relation in RELATIONS}  # one-word answers
_ANSWERS = {
    "one object": _YES_NO,
    "two objects": _YES_NO,
    "counting": COUNTS,
    "colours": tuple(COLOURS),
    "position": tuple(_DIRECTIONS.values()),
    "colour attribution": _YES_NO,
}


class Question(NamedTuple):
    """One scene with a question about it and its one-word answer."""

    scene: Scene
    skill: str
    question: str
    answer: str


def compose_question(rng: np.random.Generator, skill: str, part: str) -> Question:
    """Draw a scene of a part with a question about it.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws scene and question.
    skill : str
        One of `SKILLS`.
    part : str
        One of `PARTS`. No question outside "new" names a held-out combination.

    Returns
    -------
    Question

    Raises
    ------
    ValueError
        If skill or part is unknown.

    Notes
    -----
    The answer is drawn first and scenes that do not bear it are rejected, so that answers stay balanced.
    """
    check_skill(skill, part)
    wanted = str(rng.choice(_ANSWERS[skill]))
    for _ in range(10_000):
        question, named = _compose_one(rng, skill)
        if question.answer == wanted and question.scene.part == part and (part == "new" or named not in HELD_OUT):
            return question
    raise AssertionError(f"no scene of part {part!r} for {skill!r}")  # pragma: no cover


def _compose_one(rng: np.random.Generator, skill: str) -> tuple[Question, tuple[str, ...] | None]:
    """Compose one question about a scene of any part, with the combination that the question itself names, if any."""
    yes, count = bool(rng.integers(2)), int(rng.integers(1, 5))
    answer, named = "yes" if yes else "no", None
    one, two = random_shapes(rng, 2, repeat=False)
    words: tuple[str, ...] = (one,)
    if skill == "one object":
        others = random_shapes(rng, int(rng.integers(0, 3)) + (not yes), without=(one,))
        scene = random_scene(rng, [one] * yes + others)
    elif skill == "two objects":
        others = random_shapes(rng, 2 - yes, without=(one, two))
        scene, words = random_scene(rng, [one] + [two] * yes + others), (one, two)
        named = ("pair", *sorted((one, two)))
    elif skill == "counting":
        others = random_shapes(rng, int(rng.integers(0, 5 - count)), without=(one,))
        scene, words, answer = random_scene(rng, [one] * count + others), (PLURAL[one],), COUNTS[count - 1]
    elif skill == "colours":
        scene = random_scene(rng, [one, *random_shapes(rng, int(rng.integers(0, 4)), without=(one,))])
        answer = next(t.colour for t in scene.things if t.shape == one)
    elif skill == "position":
        relation = RELATIONS[count - 1]
        scene = random_scene(rng, [one, two], place_in_relation(rng, relation))
        words, answer = (one, two), _DIRECTIONS[relation]
    else:  # colour attribution: the negative swaps the colours of two things that are there
        scene = random_scene(rng, [one, two, *random_shapes(rng, int(rng.integers(0, 3)), without=(one, two))])
        colour = {t.shape: t.colour for t in scene.things}
        asked = colour[one if yes else two]
        if not yes and asked == colour[one]:
            return _compose_one(rng, skill)
        words, named = (asked, one), ("colour", asked, one)
    return Question(scene, skill, TEMPLATES[skill].format(*words), answer), named


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
    """Ask several different questions about one scene, as the understanding expert is trained on.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the questions.
    scene : Scene
        What is asked about.
    count : int
        How many questions, skills in turn.
    asked : (str, str), optional
        A question with its answer that is not asked again.

    Returns
    -------
    list of (str, str)
        Questions with their answers.

    Notes
    -----
    No question names a held-out combination. Yes and no are as likely; a negative of two objects has one of them, one
    of colour attribution the colour or the shape.

    See Also
    --------
    compose_question : Asks what the expert is tested on.
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
    """Ask one question of a skill, or return None where the scene allows none."""
    shapes = [thing.shape for thing in scene.things]
    there, absent = sorted(set(shapes)), sorted(set(SHAPES) - set(shapes))
    single = [thing for thing in scene.things if shapes.count(thing.shape) == 1]
    yes = bool(rng.integers(2))
    answer = "yes" if yes else "no"
    template = TEMPLATES[skill]
    if skill == "one object":
        return template.format(_pick(rng, there if yes else absent)), answer
    if skill == "two objects":
        one = _pick(rng, there)
        two = _pick(rng, [s for s in (there if yes else absent) if s != one])
        pair = [one, two] if rng.integers(2) else [two, one]
        if two is None or ("pair", *sorted((str(one), two))) in HELD_OUT:
            return None
        return template.format(*pair), answer
    if skill == "counting":
        shape = str(_pick(rng, there))
        return template.format(PLURAL[shape]), COUNTS[shapes.count(shape) - 1]
    if skill == "colours":
        if not single:
            return None
        thing = single[rng.integers(len(single))]
        return template.format(thing.shape), thing.colour
    if skill == "position":
        placed = _positions(rng, single)
        return placed and (template.format(*placed[0]), _DIRECTIONS[placed[1]])
    named = _colour_and_shape(rng, scene, yes)
    return named and (template.format(*named), answer)


def _positions(rng: np.random.Generator, single: list[Thing]) -> tuple[tuple[str, str], str] | None:
    """Choose two things that stand beside each other, and where the first stands from the second."""
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
    return (one.shape, two.shape), RELATIONS[(0 if across else 2) + (one.quarter > two.quarter)]


def _colour_and_shape(rng: np.random.Generator, scene: Scene, yes: bool) -> tuple[str, str] | None:
    """Choose the colour and shape of a thing in the scene, or a pair that is not in it."""
    pairs = {(thing.colour, thing.shape) for thing in scene.things}
    if yes:
        choices = sorted(pairs)
    else:
        colours, shapes = {c for c, _ in pairs}, {s for _, s in pairs}
        both = [(c, s) for c in sorted(colours) for s in sorted(shapes)]
        either = [(c, s) for c in COLOURS for s in sorted(shapes)]
        choices = [p for p in (both if rng.integers(4) else either) if p not in pairs]
    choices = [(c, s) for c, s in choices if ("colour", c, s) not in HELD_OUT]
    return choices[rng.integers(len(choices))] if choices else None


ask = compose_question  # its former name
