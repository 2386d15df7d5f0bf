"""Edits: words that experts know, one way to follow them, no held-out combination in training, what stays stays."""

from __future__ import annotations

import numpy as np
import pytest

from bridgework.models import open_expert
from bridgework.models.scenes.checker import matches_caption
from bridgework.models.scenes.edits import EDIT_KINDS, compose_edit, render_edit, scene_edits
from bridgework.models.scenes.scene import HELD_OUT, SIZE


@pytest.mark.parametrize("part", ["train", "evidence", "validation", "test"])
def test_edits_stay_in_their_part_and_name_no_held_out_combination(part):
    edits = scene_edits(part, 20, seed=3)
    assert [edit.kind for edit in edits] == [kind for kind in EDIT_KINDS for _ in range(20)]
    for edit in edits:
        assert edit.source.part == edit.result.part == part
        assert not (edit.source.combinations | edit.result.combinations) & HELD_OUT
    assert edits == scene_edits(part, 20, seed=3)
    assert edits != scene_edits(part, 20, seed=4)


def test_new_edits_show_a_held_out_combination_before_or_after():
    edits = scene_edits("new", 5)
    assert all((edit.source.combinations | edit.result.combinations) & HELD_OUT for edit in edits)
    assert {edit.source.part == "new" for edit in edits} == {True, False}


def test_an_instruction_changes_something_keeps_something_and_can_be_followed_in_one_way():
    for edit in scene_edits("train", 40):
        assert edit.kept
        assert edit.changed
        assert not {thing.quarter for thing in edit.kept} & set(edit.changed)
        named = [t for t in edit.source.things if f"the {t.colour} {t.shape}" in edit.instruction]
        assert len(named) == {"add": 0, "count up": 0, "swap": 2}.get(edit.kind, 1)


def test_words_are_known_to_the_tokenizers_of_the_shipped_experts():
    words = {word for edit in scene_edits("train", 60) for word in edit.instruction.split()}
    tokenizer = open_expert("scenes-vlm").tokenizer
    ids = tokenizer(sorted(words), add_special_tokens=False).input_ids
    assert all(ids)
    assert tokenizer.unk_token_id not in {number for row in ids for number in row}


def test_what_stays_has_the_same_pixels_and_both_images_show_their_scenes():
    rng, half = np.random.default_rng(0), SIZE // 2
    for edit in scene_edits("validation", 6):
        source, result = render_edit(edit, rng)
        assert matches_caption(source, "full", edit.source.caption)
        assert matches_caption(result, "full", edit.result.caption)
        before, after = np.asarray(source), np.asarray(result)
        for quarter in set(range(4)) - set(edit.changed):
            top, left = (half * place for place in divmod(quarter, 2))
            place = slice(top, top + half), slice(left, left + half)
            np.testing.assert_array_equal(before[place], after[place])
        if edit.kind == "recolour":  # the same shape at the same pixels
            np.testing.assert_array_equal((before < 255).any(-1), (after < 255).any(-1))


def test_unknown_kinds_and_parts_are_named():
    with pytest.raises(ValueError, match="unknown kind of edit 'paint': expected one of recolour, remove"):
        compose_edit(np.random.default_rng(0), "paint", "train")
    with pytest.raises(ValueError, match="unknown part 'dev'"):
        scene_edits("dev", 1)
    with pytest.raises(ValueError, match="0 edits of every kind leave nothing to score"):
        scene_edits("test", 0)
