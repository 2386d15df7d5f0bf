"""Parts of one's own data: disjoint, the same in any order and form, with all captions of an image in one of them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from bridgework.models.scenes.composing import scene_stimuli
from bridgework.models.training.batches import stimuli_of_part
from bridgework.models.training.scene_batches import emoji_part
from bridgework.probes.stimuli.parts import PARTS, part_of
from bridgework.probes.stimuli.sources import load_stimuli
from bridgework.probes.stimuli.stimulus_set import Stimuli, Stimulus

COUNT = 120


def images() -> list[Image.Image]:
    return [Image.fromarray(np.full((1, 2, 3), [number, 7, 9], np.uint8)) for number in range(COUNT)]


def test_parts_follow_images_whatever_order_captions_and_names(capsys):
    captions = [[f"{number} {word}" for word in ("a", "b", "c")[: 1 + number % 3]] for number in range(COUNT)]
    rows = list(zip(images(), captions, strict=True))
    forth, back = (load_stimuli(some, captions="all") for some in (rows, rows[::-1]))
    first = load_stimuli(rows, captions="first")
    parts = {name: [set(whole.part(name).texts) for whole in (forth, back)] for name in PARTS}
    said = capsys.readouterr().out.splitlines()
    assert len(set(said)) == 1 and said[0].startswith("240 pairs of 120 images of 'list': ")
    assert said[0].endswith(", ".join(f"{len(parts[name][0])} {name}" for name in PARTS))
    for name, (one, other) in parts.items():
        assert one == other and len(one) == forth.parts.count(name) > 0
        assert set(first.part(name).texts) == {text for text in one if text.endswith("a")}
        assert {s.text for s in stimuli_of_part(first, name)} == set(first.part(name).texts)  # what recipes train on
    assert set().union(*(one for one, _ in parts.values())) == set(forth.texts)
    assert len({part for _, part in zip(forth.groups, forth.parts, strict=True)}) == 4
    assert len(set(zip(forth.groups, forth.parts, strict=True))) == COUNT
    assert forth.part("evidence").name == "list-evidence" and forth.part("evidence").groups
    assert forth[:40].parts == forth.parts[:40]


def test_emoji_scenes_and_texts_alone_are_dealt_by_their_texts(noto):
    assert set(scene_stimuli("evidence", 5).parts) == {"evidence"} == set(emoji_part("evidence").parts)
    assert noto[:50].parts == tuple(part_of(text) for text in noto[:50].texts)
    blank = Image.new("RGB", (2, 2))
    words = Stimuli([Stimulus(blank, f"text {number}", str(number)) for number in range(30)])
    assert words.parts == tuple(part_of(text) for text in words.texts)


def test_a_part_that_is_not_there():
    few = load_stimuli([(image, "a word") for image in images()[:2]])
    with pytest.raises(ValueError, match="unknown part 'dev': expected one of train, evidence, validation, test"):
        few.part("dev")
    empty = next(name for name in PARTS if name not in few.parts)
    with pytest.raises(ValueError, match=rf"no pair of 'list' belongs to the part '{empty}' \(.*use more images"):
        few.part(empty)
