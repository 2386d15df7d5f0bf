"""What the shipped experts can do, against their targets, on samples small enough for every run."""

from __future__ import annotations

import numpy as np
import pytest

from bridgework.models.evaluation.scores import answer, evaluate
from bridgework.models.experts.opening import open_expert
from bridgework.models.scenes.questions import compose_question
from bridgework.models.scenes.rendering import render_scene


@pytest.fixture(scope="module")
def answers():
    return evaluate(open_expert("scenes-vlm"), "test", each=25).set_index("skill")


@pytest.fixture(scope="module")
def drawings():
    return evaluate(open_expert("scenes-dit"), "test", each=10).set_index("skill")


def test_target_of_the_understanding_expert(answers):
    assert answers.score["all"] >= 0.9


def test_target_of_the_generation_expert(drawings):
    assert drawings.score["all"] >= 0.7


def test_the_understanding_expert_beats_what_sees_no_image(answers):
    assert (answers.score > answers.question_only + 0.2).all()


def test_the_understanding_expert_looks_at_the_image():
    """The same questions about a blank image are answered no better than blind."""
    expert, rng = open_expert("scenes-vlm"), np.random.default_rng(0)
    asked = [compose_question(rng, skill, "train") for skill in ("colours", "counting", "position") for _ in range(12)]
    images = [render_scene(question.scene, rng) for question in asked]
    blank = [image.point(lambda _: 255) for image in images]
    right = [
        np.mean([a == q.answer for a, q in zip(answer(expert, shown, [q.question for q in asked]), asked, strict=True)])
        for shown in (images, blank)
    ]
    assert right[0] >= 0.9
    assert right[1] <= 0.5


def test_the_generation_expert_draws_things_and_binds_their_colours(drawings):
    assert (drawings.score[["one object", "two objects", "counting", "colours"]] >= 0.7).all()
    assert drawings.score["colour attribution"] >= 0.3
