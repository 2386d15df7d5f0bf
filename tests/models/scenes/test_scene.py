"""Scenes: disjoint parts, nothing held out in them, balanced answers that are true."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from scipy.stats import chisquare
from transformers import AutoTokenizer

from bridgework.models.experts.opening import CHECKPOINTS
from bridgework.models.scenes.composing import compose, examples, scene_stimuli
from bridgework.models.scenes.questions import Question, ask_about, compose_question
from bridgework.models.scenes.rendering import render_scene, shape_mask
from bridgework.models.scenes.scene import (
    COLOURS,
    COUNTS,
    HELD_OUT,
    PARTS,
    PLURAL,
    RELATIONS,
    SHAPES,
    SKILLS,
    Scene,
    check_part,
    part_of,
)
from bridgework.models.training.scene_batches import emoji_part, vlm_batch
from bridgework.probes.stimuli.sources import load_stimuli

USED = ("train", "evidence", "validation", "test")
SHAPE_OF = {**{s: s for s in SHAPES}, **{PLURAL[s]: s for s in SHAPES}}


@pytest.fixture(scope="module")
def captioned():
    rng = np.random.default_rng(0)
    counts = {"train": 150, "evidence": 30, "validation": 30, "test": 30, "new": 30}
    return {
        part: [
            compose(rng, skill, part)
            for skill in (*SKILLS, "full")
            if (part, skill) != ("new", "one object")
            for _ in range(count)
        ]
        for part, count in counts.items()
    }


@pytest.fixture(scope="module")
def asked():
    rng = np.random.default_rng(1)
    counts = {"train": 240, "evidence": 12, "validation": 12, "test": 12}
    return {
        part: [compose_question(rng, s, part) for s in SKILLS for _ in range(count)] for part, count in counts.items()
    }


def held_out_in(things: list[tuple[str | None, str]]) -> set[tuple[str, ...]]:
    """What (colour, shape) things hold of what is held out, derived independently."""
    found: set[tuple[str, ...]] = set()
    count = Counter(shape for _, shape in things)
    for kind, first, second in HELD_OUT:
        if kind == "colour" and (first, second) in things:
            found.add((kind, first, second))
        if kind == "pair" and {first, second} <= set(count):
            found.add((kind, first, second))
        if kind == "count" and count[second] == COUNTS.index(first) + 1:
            found.add((kind, first, second))
    return found


def named_in(text: str) -> set[tuple[str, ...]]:
    """What a text names of what is held out: colours stand before their shape, numbers before their plural."""
    words = text.replace(",", " ").split()
    things: list[tuple[str | None, str]] = []
    for before, word in zip(["", *words], words, strict=False):
        if word in SHAPE_OF:
            number = COUNTS.index(before) + 1 if before in COUNTS else 1
            things += [(before if before in COLOURS else None, SHAPE_OF[word])] * number
    return held_out_in(things)


def test_named_in_finds_what_is_held_out():
    assert named_in("is there a red cross ?") == {("colour", "red", "cross")}
    assert named_in("a triangle left of a ring") == {("pair", "ring", "triangle")}
    assert named_in("three squares") == {("count", "three", "square")}
    assert not named_in("a blue cross and a red triangle")
    assert not named_in("how many squares ?")


def test_no_held_out_combination_outside_new(captioned, asked):
    for part in USED:
        for scene, _, text in [*captioned[part], *((q.scene, q.skill, q.question) for q in asked[part])]:
            assert not held_out_in([(t.colour, t.shape) for t in scene.things]), scene.caption
            assert not named_in(text), text


def test_held_out_questions_never_occur(asked):
    texts = {q.question for part in USED for q in asked[part]}
    assert "is there a red circle ?" in texts
    assert "is there a ring and a circle ?" in texts
    for _, colour, shape in (held for held in HELD_OUT if held[0] == "colour"):
        assert f"is there a {colour} {shape} ?" not in texts
    assert not texts & {"is there a ring and a triangle ?", "is there a triangle and a ring ?"}


def test_no_held_out_combination_among_the_training_emoji():
    assert not {s.text for s in emoji_part("train") if named_in(s.text.lower())}


def test_new_captions_name_what_is_held_out(captioned):
    for scene, _, text in captioned["new"]:
        assert named_in(text), text
        assert scene.part == "new"


def test_parts_are_disjoint_by_full_caption(captioned):
    parts_of = defaultdict(set)
    for part, drawn in captioned.items():
        for example in drawn:
            assert example.scene.part == part
            parts_of[example.scene.caption].add(part)
    assert len(parts_of) > 500
    assert not [caption for caption, parts in parts_of.items() if len(parts) > 1]


def test_parts_have_their_shares():
    shares = Counter(part_of(str(number)) for number in range(4000))
    assert chisquare([shares[p] for p in USED], [2800, 400, 400, 400]).pvalue > 1e-3
    assert part_of("red circle top left") == part_of("red circle top left")


def test_captions_are_true(captioned):
    for part in PARTS:
        for scene, skill, text in captioned[part]:
            assert true_of(scene, skill, text), (scene.caption, skill, text)


def true_of(scene: Scene, skill: str, caption: str) -> bool:
    words = caption.split()
    shapes = Counter(t.shape for t in scene.things)
    coloured = Counter(f"{t.colour} {t.shape}" for t in scene.things)
    if skill == "full":
        return caption == scene.caption and len({t.quarter for t in scene.things}) == len(scene.things) <= 4
    if skill == "counting":
        return shapes == {SHAPE_OF[words[1]]: COUNTS.index(words[0]) + 1}
    if skill == "position":
        one, two = words[1], words[-1]
        return shapes == {one: 1, two: 1} and relation_of(scene, one, two) == " ".join(words[2:-2])
    parts = Counter(part.removeprefix("a ") for part in caption.split(" and "))
    return parts == (shapes if skill in ("one object", "two objects") else coloured)


def relation_of(scene: Scene, one: str, two: str) -> str | None:
    """By rows and columns of quarters; None on a diagonal."""
    place = {t.shape: divmod(t.quarter, 2) for t in scene.things}
    down, right = place[one][0] - place[two][0], place[one][1] - place[two][1]
    return {(0, -1): "left of", (0, 1): "right of", (-1, 0): "above", (1, 0): "below"}.get((down, right))


def test_answers_are_true(asked):
    for part in USED:
        for question in asked[part]:
            assert question.answer == answer_to(question), question


def answer_to(asked: Question) -> str | None:
    scene, skill, text, _ = asked
    words = text.split()
    shapes = Counter(t.shape for t in scene.things)
    if skill == "counting":
        return COUNTS[shapes[SHAPE_OF[words[2]]] - 1]
    if skill == "colours":
        (colour,) = [t.colour for t in scene.things if t.shape == words[4]]
        return colour
    if skill == "position":
        relation = relation_of(scene, words[3], words[6])
        return relation and relation.removesuffix(" of")
    if skill == "colour attribution":
        return "yes" if any((t.colour, t.shape) == (words[3], words[4]) for t in scene.things) else "no"
    return "yes" if all(shapes[word] for word in words if word in SHAPES) else "no"


def test_colour_negatives_ask_for_a_colour_and_a_shape_that_are_there(asked):
    for question in asked["train"]:
        if question.skill == "colour attribution" and question.answer == "no":
            colour, shape = question.question.split()[3:5]
            assert colour in {t.colour for t in question.scene.things}
            assert shape in {t.shape for t in question.scene.things}


def answer_set(skill: str) -> set[str]:
    sets = {"counting": COUNTS, "colours": COLOURS, "position": [r.removesuffix(" of") for r in RELATIONS]}
    return set(sets.get(skill, ("yes", "no")))


def test_answers_are_balanced(asked):
    by_skill = defaultdict(Counter)
    for question in asked["train"]:
        by_skill[question.skill][question.answer] += 1
    for skill, answers in by_skill.items():
        assert set(answers) == answer_set(skill)
        assert chisquare(list(answers.values())).pvalue > 1e-3, (skill, answers)


# ---- the questions that training asks about one scene


@pytest.fixture(scope="module")
def dialogues():
    rng = np.random.default_rng(2)
    scenes = [compose(rng, "full", "train").scene for _ in range(400)]
    return [(scene, ask_about(rng, scene, 6)) for scene in scenes]


def skill_of(text: str) -> str:
    words = text.split()
    if words[0] == "is":
        return "two objects" if "and" in words else "colour attribution" if words[3] in COLOURS else "one object"
    return {"how": "counting", "what": "colours", "where": "position"}[words[0]]


def test_dialogues_are_true_and_name_nothing_held_out(dialogues):
    for scene, turns in dialogues:
        assert len({text for text, _ in turns}) == len(turns) == 6
        for text, answer in turns:
            assert not named_in(text), text
            assert answer == answer_to(Question(scene, skill_of(text), text, answer)), (scene.caption, text)


def test_training_questions_are_balanced_and_name_nothing_held_out():
    """As the understanding expert meets them: questions and captions read back from its batches."""
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINTS / "scenes-vlm")
    emoji = load_stimuli("noto", limit=8)
    by_skill = defaultdict(Counter)
    for step in range(5000, 5012):
        batch = vlm_batch(step, 0, emoji, tokenizer)
        for text in tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True):
            for question, answer in re.findall(r"((?:is there|how many|what colour|where is) [^?]*\?) (\w+)", text):
                assert not named_in(question), question
                by_skill[skill_of(question)][answer] += 1
    assert set(by_skill) == set(SKILLS)
    for skill, answers in by_skill.items():
        fair = answers.total() / len(answer_set(skill))
        assert {a for a in answer_set(skill) if not 0.5 * fair <= answers[a] <= 1.6 * fair} == set(), (skill, answers)


def test_same_seed_same_scenes():
    drawn = [list(examples("test", SKILLS, 2, seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 12
    first, again = (scene_stimuli("evidence", 6) for _ in range(2))
    assert first.digest == again.digest
    assert scene_stimuli("evidence", 6, seed=1).digest != first.digest


def test_stimuli_are_distinct_and_of_their_part():
    for part in ("evidence", "test", "new"):
        shown = scene_stimuli(part, 20)
        assert len(shown) == len({s.text for s in shown}) == len({s.id for s in shown}) == 20
        assert shown.name == f"scenes-{part}"
        for stimulus in shown:
            assert stimulus.image.size == (32, 32)
            assert bool(named_in(stimulus.text)) == (part == "new")
            assert part == "new" or part_of(stimulus.text) == part


def test_things_stay_in_their_quarters(rng):
    for example in (compose(rng, "full", "train") for _ in range(30)):
        pixels = np.asarray(render_scene(example.scene, rng))
        quarters = [pixels[r : r + 16, c : c + 16] for r in (0, 16) for c in (0, 16)]
        filled = {i for i, quarter in enumerate(quarters) if (quarter < 255).any()}
        assert filled == {t.quarter for t in example.scene.things}
        for thing in example.scene.things:
            assert (quarters[thing.quarter] == COLOURS[thing.colour]).all(-1).any()


@pytest.mark.parametrize("shape", SHAPES)
def test_masks(shape):
    mask = shape_mask(shape, 11)
    assert mask.shape == (11, 11)
    assert mask.min() >= 0
    assert mask.max() <= 1
    area = {"circle": np.pi / 4, "square": 1, "triangle": 0.5, "cross": 1 - 0.66**2, "ring": np.pi / 4 * (1 - 0.55**2)}
    assert mask.mean() == pytest.approx(area[shape], abs=0.02)


def test_unknown_words_are_refused(rng):
    with pytest.raises(ValueError, match=r"unknown skill 'chess': expected one of one object, .*, full"):
        compose(rng, "chess", "train")
    with pytest.raises(ValueError, match="unknown skill 'full'"):
        compose_question(rng, "full", "train")
    for refuse in (
        lambda: compose(rng, "colours", "dev"),
        lambda: compose_question(rng, "colours", "dev"),
        lambda: list(examples("dev", SKILLS, 1)),
        lambda: scene_stimuli("dev", 2),
    ):
        with pytest.raises(ValueError, match="unknown part 'dev': expected one of train, evidence, validation, test"):
            refuse()
    with pytest.raises(ValueError, match="'one object' has no new combinations"):
        compose(rng, "one object", "new")


def test_nothing_to_score_is_refused():
    check_part("test", 1)
    with pytest.raises(ValueError, match="0 captions or questions of every skill leave nothing to score: ask for at"):
        check_part("test", 0)
    with pytest.raises(ValueError, match="-1 captions of every colour leave nothing to score"):
        check_part("test", -1, "captions of every colour")
    with pytest.raises(ValueError, match="unknown part 'dev'"):
        check_part("dev", 0)


def test_more_stimuli_than_there_are(monkeypatch):
    only = compose(np.random.default_rng(0), "full", "test")
    monkeypatch.setattr("bridgework.models.scenes.composing.compose", lambda *_: only)
    with pytest.raises(ValueError, match="part 'test' has fewer than 2 different scenes"):
        scene_stimuli("test", 2)
