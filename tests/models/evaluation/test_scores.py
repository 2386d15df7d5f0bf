"""Scores: the table, its baselines, and what an answer is read from."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from bridgework.models.evaluation import scores
from bridgework.models.evaluation.scores import Drawn, answer, draw_scenes, evaluate, question_accuracy, scene_score
from bridgework.models.scenes.composing import compose, examples
from bridgework.models.scenes.questions import compose_question
from bridgework.models.scenes.rendering import render_scene
from bridgework.models.scenes.scene import COUNTS, SKILLS

BLANK = Image.new("RGB", (32, 32))
COLUMNS = ["skill", "score", "low", "high", "samples"]


def drawn(**correct: list[int]) -> list[Drawn]:
    return [Drawn(BLANK, s.replace("_", " "), "", bool(c)) for s, verdicts in correct.items() for c in verdicts]


def test_all_is_the_mean_of_the_skills():
    table = scene_score(drawn(colours=[1, 1, 0, 0], counting=[1], position=[0, 0, 0, 1]))
    assert list(table) == COLUMNS
    assert list(table.skill) == ["colours", "counting", "position", "all"]
    assert list(table.score) == pytest.approx([0.5, 1, 0.25, (0.5 + 1 + 0.25) / 3])
    assert list(table.samples) == [4, 1, 4, 9]


def test_wilsons_interval_by_its_formula():
    row = scene_score(drawn(colours=[1] * 7 + [0] * 3)).iloc[0]
    z, n, p = 1.959964, 10, 0.7
    middle, half = p + z * z / 2 / n, z * np.sqrt(p * (1 - p) / n + z * z / 4 / n / n)
    assert (row.low, row.high) == pytest.approx(((middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)))


def test_truth_scores_one_and_another_scene_does_not(monkeypatch, tiny_dit, rng):
    asked = []

    def draw_truth(model, captions, ids, **sampling):
        asked.append((captions, ids, sampling))
        return [render_scene(e.scene, rng) for e in examples("test", SKILLS, 3, 0)]

    monkeypatch.setattr(scores, "generate", draw_truth)
    table = evaluate(tiny_dit, "test", each=3, steps=7)
    assert list(table.skill) == [*SKILLS, "all"]
    assert (table.score == 1).all()
    captions, ids, sampling = asked[0]
    assert captions == [e.caption for e in examples("test", SKILLS, 3, 0)]
    assert len(set(ids)) == len(ids) == 18
    assert sampling == {"steps": 7}
    monkeypatch.setattr(scores, "generate", lambda model, captions, ids: [BLANK] * len(captions))
    assert (evaluate(tiny_dit, "test", each=2).score == 0).all()


def test_new_combinations_have_no_single_object(monkeypatch, tiny_dit):
    monkeypatch.setattr(scores, "generate", lambda model, captions, ids: [BLANK] * len(captions))
    found = draw_scenes(tiny_dit, "new", each=2)
    assert {d.skill for d in found} == set(SKILLS) - {"one object"}
    assert len(found) == 10


def test_a_tiny_generator_is_scored(tiny_dit, fuse, plan):
    for model in (tiny_dit, fuse(plan)):
        table = evaluate(model, "test", each=1, steps=1)
        assert list(table) == COLUMNS
        assert list(table.samples) == [1] * 6 + [6]
        assert (table.score <= 0.5).all()


@pytest.fixture(scope="module")
def counted():
    return scores._blind(40, 0)


@pytest.fixture
def blind(monkeypatch, counted):
    """The baselines of 200 questions of every skill, counted once."""
    monkeypatch.setattr(scores, "_blind", lambda each, seed: counted)
    return counted


def test_questions_and_their_baselines(monkeypatch, tiny_vlm, blind):
    truth = {}

    def remember(rng, skill, part):
        question = compose_question(rng, skill, part)
        truth.setdefault(question.question, []).append(question.answer)
        return question

    monkeypatch.setattr(scores, "compose_question", remember)
    monkeypatch.setattr(scores, "answer", lambda expert, images, questions: [truth[text].pop(0) for text in questions])
    table = question_accuracy(tiny_vlm, "train", each=40)
    assert list(table) == ["skill", "score", "low", "high", "majority", "question_only", "samples"]
    assert list(table.skill) == [*SKILLS, "all"]
    assert (table.score == 1).all()
    chances = {"counting": 1 / 4, "colours": 1 / 6, "position": 1 / 4}
    for row in table.itertuples():
        if row.skill != "all":
            assert row.majority == pytest.approx(chances.get(row.skill, 1 / 2), abs=0.25), row.skill
            assert row.question_only <= 0.85
    assert table.majority.iloc[-1] == pytest.approx(table.majority.iloc[:-1].mean())


def test_baselines_are_the_commonest_answers(blind):
    majority, question_only = blind
    assert set(majority) == set(SKILLS)
    assert majority["counting"] in COUNTS
    assert all(question.endswith("?") for question in question_only)
    assert question_only.keys() >= {"how many rings ?", "is there a circle ?"}


def test_a_tiny_expert_is_scored(tiny_vlm, blind):
    table = evaluate(tiny_vlm, "train", each=2)
    assert isinstance(table, pd.DataFrame)
    assert list(table.samples) == [2] * 6 + [12]
    assert table.score.iloc[-1] == pytest.approx(table.score.iloc[:-1].mean())
    assert (table.score < 0.5).all()


@torch.no_grad()
def test_an_answer_is_the_token_after_the_question(tiny_vlm, rng):
    questions = ["is there a ring ?", "what colour is the circle ?", "is there a black circle and a very small cross ?"]
    images = [render_scene(compose(rng, "full", "train").scene, rng) for _ in questions]
    answers = answer(tiny_vlm, images, questions)
    for image, question, found in zip(images, questions, answers, strict=True):
        ids = tiny_vlm.tokenizer("<image>" * 16 + question, add_special_tokens=False).input_ids
        pixels = tiny_vlm.processor([image], return_tensors="pt").pixel_values
        logits = tiny_vlm.model(input_ids=torch.tensor([[1, *ids]]), pixel_values=pixels).logits[0, -1]
        assert found == tiny_vlm.tokenizer.convert_ids_to_tokens(int(logits.argmax()))
    assert len(set(answers)) > 1


def test_what_cannot_be_evaluated(tiny_vlm, tiny_dit):
    with pytest.raises(TypeError, match="expected a generator or a model that answers questions to evaluate, got str"):
        evaluate("scenes-vlm")
    for model in (tiny_vlm, tiny_dit):
        with pytest.raises(ValueError, match="unknown part 'dev': expected one of train, evidence"):
            evaluate(model, "dev")
        with pytest.raises(ValueError, match="each is 0: expected a whole number from 1"):
            evaluate(model, each=0)


class Both:
    """Draws blanks and answers "yes" to everything."""

    name = "both"

    def draw(self, captions, ids, guidance):
        return [BLANK] * len(captions)

    def answer(self, images, questions):
        return ["yes"] * len(questions)


def test_a_model_that_draws_and_answers_is_scored_on_both(blind):
    table = evaluate(Both(), "test", each=4)
    assert list(table)[:2] == ["task", "skill"]
    drawing, answering = (table[table.task == task].set_index("skill") for task in ("generation", "understanding"))
    assert list(drawing.index) == list(answering.index) == [*SKILLS, "all"]
    assert (drawing.score == 0).all()
    assert drawing.majority.isna().all()
    assert (answering.loc[["counting", "colours", "position"], "score"] == 0).all()
    assert answering.score["all"] > 0  # some answers are yes
    assert answering.majority.notna().all()
