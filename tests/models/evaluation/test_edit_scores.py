"""Scores of edits: truth is 1, a copy changes nothing, another scene leaves nothing, each fault costs its own score."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from bridgework.models.evaluation.edit_scores import score_edit, score_edits
from bridgework.models.scenes.edits import Edit, render_edit, scene_edits
from bridgework.models.scenes.rendering import render_scene
from bridgework.models.scenes.scene import Scene, Thing


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(1)
    edits = scene_edits("test", 12, seed=1)
    return edits, *zip(*(render_edit(edit, rng) for edit in edits), strict=True)


def test_the_truth_scores_one_and_a_copy_of_the_source_changes_nothing(drawn):
    edits, sources, results = drawn
    names = ["change", "stay_objects", "stay_pixels", "success"]
    assert (score_edits(edits, sources, results)[names] == 1).all(axis=None)
    copied = score_edits(edits, sources, sources)[names].drop_duplicates()
    assert copied.to_numpy().tolist() == [[0, 1, 1, 0]]


def test_another_scene_and_a_white_image_leave_little(drawn):
    edits, sources, results = drawn
    others = score_edits(edits, sources, [*results[1:], results[0]])
    assert others["stay_objects"].mean() < 0.2
    assert others["stay_pixels"].mean() < 0.4
    assert not others["success"].any()
    white = score_edits(edits, sources, [Image.new("RGB", (32, 32), "white")] * len(edits))
    assert (white["stay_objects"] == 0).all()
    assert (white["stay_pixels"] == 0).all()
    assert (white["change"] == (white["kind"] == "remove")).all()  # removing everything removes it too


RED, BLUE = Thing("circle", "red", 0), Thing("square", "blue", 3)
RECOLOURED = RED._replace(colour="green")
EDIT = Edit("recolour", Scene((RED, BLUE)), "make the red circle green", Scene((RECOLOURED, BLUE)), (0, 1))


def drawing(*things: Thing) -> Image.Image:
    return render_scene(Scene(things), np.random.default_rng(5))


def test_each_fault_costs_its_own_score():
    source = drawing(RED, BLUE)
    score = score_edit(EDIT, source, drawing(RECOLOURED))
    assert (score.change, score.stay_objects, score.stay_pixels) == (1, 0, 0)
    stranger = drawing(RECOLOURED, BLUE, Thing("ring", "black", 2))
    redrawn = Image.fromarray(np.minimum(np.asarray(stranger), np.asarray(drawing(RECOLOURED, BLUE))))
    score = score_edit(EDIT, source, redrawn)
    assert (score.change, score.stay_objects) == (1, 0.5)
    assert 0.3 < score.stay_pixels < 0.9
    pale = np.asarray(drawing(RECOLOURED, BLUE)).astype(int)
    score = score_edit(EDIT, source, Image.fromarray(np.clip(pale + 40, 0, 255).astype(np.uint8)))
    assert score == (1, 1, 1)  # within the tolerance


def test_a_thing_that_is_moved_within_its_quarter_stays_as_an_object_and_not_by_pixel():
    source = np.array(drawing(RED, BLUE))
    result = np.array(drawing(RECOLOURED, BLUE))
    result[16:, 16:] = np.roll(source[16:, 16:], 1, axis=0)
    score = score_edit(EDIT, Image.fromarray(source), Image.fromarray(result))
    assert (score.change, score.stay_objects) == (1, 1)
    assert score.stay_pixels < 0.9
    assert not score.success


def test_one_more_may_come_into_any_free_quarter():
    edit = Edit("count up", Scene((RED,)), "one more red circle", Scene((RED, RED._replace(quarter=1))), (0, None))
    source = drawing(RED)
    for quarter in (1, 2, 3):
        assert score_edit(edit, source, drawing(RED, RED._replace(quarter=quarter))).success
    assert score_edit(edit, source, drawing(RED, BLUE)).change == 0
    both = drawing(RED, RED._replace(quarter=1), RED._replace(quarter=2))
    assert score_edit(edit, source, both).change == 0


def test_unequal_numbers_and_other_images_are_refused():
    with pytest.raises(ValueError, match="1 edits, 0 sources and 1 results: give as many of each"):
        score_edits([EDIT], [], [drawing(RED)])
    with pytest.raises(ValueError, match="the source is a 64x64 L image: give one of 32x32 RGB"):
        score_edits([EDIT], [Image.new("L", (64, 64))], [drawing(RED)])
