"""Dialogues about one scene: true answers, no held-out combination, no answer far commoner than it should be."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from bridgework.models.scenes.questions import ask_about, compose_question
from bridgework.models.scenes.scene import COUNTS, HELD_OUT, PLURAL, SHAPES, SKILLS, Scene

YES_NO = ("yes", "no")


@pytest.fixture(scope="module")
def dialogues() -> list[tuple[Scene, list[tuple[str, str]]]]:
    rng = np.random.default_rng(0)
    drawn = [compose_question(rng, str(rng.choice(SKILLS)), "train").scene for _ in range(300)]
    return [(scene, ask_about(rng, scene, 5)) for scene in drawn]


def test_questions_are_different_and_as_many_as_asked(dialogues):
    assert all(len(set(turns)) == 5 for _, turns in dialogues)


def test_answers_are_true_of_the_scene(dialogues):
    for scene, turns in dialogues:
        shapes = [t.shape for t in scene.things]
        by_shape = {t.shape: t for t in scene.things}
        for question, answer in turns:
            words = question.removesuffix(" ?").split()
            if question.startswith("how many"):
                shape = next(s for s in SHAPES if PLURAL[s] == words[-1])
                assert answer == COUNTS[shapes.count(shape) - 1]
            elif question.startswith("what colour"):
                assert answer == by_shape[words[-1]].colour
            elif question.startswith("where"):
                one, two = by_shape[words[3]].quarter, by_shape[words[-1]].quarter
                step = {"left": (0, -1), "right": (0, 1), "above": (-1, 0), "below": (1, 0)}[answer]
                assert (one // 2 - two // 2, one % 2 - two % 2) == step
            elif " and " in question:
                assert (words[3] in shapes and words[-1] in shapes) == (answer == "yes")
            elif len(words) == 5:
                assert any((t.colour, t.shape) == (words[3], words[4]) for t in scene.things) == (answer == "yes")
            else:
                assert (words[3] in shapes) == (answer == "yes")


def test_no_question_names_a_held_out_combination(dialogues):
    for _, turns in dialogues:
        for question, _ in turns:
            words = set(question.split())
            assert not any(held[0] == "colour" and set(held[1:]) <= words for held in HELD_OUT)
            assert not any(held[0] == "pair" and set(held[1:]) <= words for held in HELD_OUT)


def test_yes_and_no_are_about_as_common(dialogues):
    answers = Counter(answer for _, turns in dialogues for _, answer in turns if answer in YES_NO)
    assert 0.4 < answers["yes"] / answers.total() < 0.6
