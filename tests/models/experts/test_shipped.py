"""What the shipped experts can do, against their targets, on samples small enough for every run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bridgework.models.evaluation.scores import answer, evaluate
from bridgework.models.experts.opening import open_expert
from bridgework.models.scenes.questions import compose_question
from bridgework.models.scenes.read_captions import KINDS, read_captions
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


def test_the_wide_generation_expert_draws_as_well():
    expert = open_expert("scenes-dit-wide")
    assert (len(expert.blocks), len(open_expert("scenes-dit").blocks)) == (8, 13)
    drawn = evaluate(expert, "test", each=4, steps=16).set_index("skill")
    assert drawn.score["all"] >= 0.6
    assert drawn.score[["one object", "two objects", "counting", "colours"]].mean() >= 0.8


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


def restated(expert, captions: list[str]) -> list[str]:
    """What an expert writes behind "CAPTION : describe :", by greedy decoding."""
    rows = expert.tokenizer([f"{caption} : describe :" for caption in captions], add_special_tokens=False).input_ids
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest + 1), expert.tokenizer.pad_token_id)
    for row, tokens in zip(ids, rows, strict=True):
        row[-len(tokens) - 1 :] = torch.tensor([expert.tokenizer.bos_token_id, *tokens])
    mask = (ids != expert.tokenizer.pad_token_id).long()
    with torch.no_grad():
        written = expert.model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=24, do_sample=False)
    return expert.tokenizer.batch_decode(written[:, longest + 1 :], skip_special_tokens=True)


def test_the_reading_expert_says_plainly_what_must_be_read():
    found = read_captions("validation", 20)
    expert = open_expert("scenes-reader")
    plain = expert.tokenizer([read.canonical for read in found], add_special_tokens=False).input_ids
    plain = expert.tokenizer.batch_decode(plain)
    right = [said == read for said, read in zip(restated(expert, [r.caption for r in found]), plain, strict=True)]
    share = {kind: np.mean([r for r, read in zip(right, found, strict=True) if read.kind == kind]) for kind in KINDS}
    assert min(share[kind] for kind in ("negation", "relations", "relative clauses", "absence", "sums")) >= 0.9, share
    assert min(share[kind] for kind in ("coreference", "ordinals", "selection")) >= 0.65, share
    untrained = restated(open_expert("scenes-vlm"), [read.caption for read in found[::8]])
    assert np.mean([said == read for said, read in zip(untrained, plain[::8], strict=True)]) < 0.1
