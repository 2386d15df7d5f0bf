"""Controls of scenes change one thing alone: an object of the image, or the order of the words."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from bridgework.models.scenes.composing import scene_stimuli
from bridgework.models.scenes.rendering import render_scene
from bridgework.models.scenes.scene import QUARTERS, SIZE
from bridgework.models.scenes.scene_controls import (
    are_scenes,
    scene_of,
    scenes_of_several,
    with_both_controls,
    without_an_object,
)
from bridgework.probes.stimuli.controls import scrambled
from bridgework.probes.stimuli.stimulus_set import Stimuli, Stimulus

SCENES = scene_stimuli("evidence", 40)


def quarters(image: Image.Image) -> list[np.ndarray]:
    """The pixels of each quarter, in the order of `QUARTERS`."""
    half, pixels = SIZE // 2, np.array(image)
    return [pixels[r * half : (r + 1) * half, c * half : (c + 1) * half] for r in (0, 1) for c in (0, 1)]


def test_one_object_goes_and_all_else_stays_to_the_pixel():
    some = scenes_of_several(SCENES)
    assert 0 < len(some) < len(SCENES)
    changed = without_an_object(some)
    assert (changed.ids, changed.texts, changed.parts) == (some.ids, some.texts, some.parts)
    assert changed.digest == without_an_object(some).digest != without_an_object(some, seed=1).digest
    gone = set()
    for before, after in zip(some, changed, strict=True):
        unlike = [n for n, (a, b) in enumerate(zip(quarters(before.image), quarters(after.image))) if (a != b).any()]
        assert len(unlike) == 1 and QUARTERS[unlike[0]] in before.text
        assert (quarters(after.image)[unlike[0]] == 255).all()
        assert sum((part != 255).any() for part in quarters(after.image)) == len(before.text.split(" , ")) - 1
        gone.add(unlike[0])
    assert gone == {0, 1, 2, 3}
    alone = without_an_object(some[3:4])
    assert np.array_equal(alone[0].image, changed[3].image)  # whatever else is in the set


def test_scenes_are_known_by_their_captions():
    assert are_scenes(SCENES)
    assert scene_of("red circle top left , blue square bottom right").caption == (  # type: ignore[union-attr]
        "red circle top left , blue square bottom right"
    )
    for other in ("a red circle", "red circle top left , blue square top left", "red dog top left", ""):
        assert scene_of(other) is None
    assert not are_scenes(Stimuli([Stimulus(Image.new("RGB", (32, 32)), "a red circle", "a")]))
    assert not are_scenes(Stimuli([Stimulus(Image.new("RGB", (64, 64)), SCENES[0].text, "a")]))
    with pytest.raises(ValueError, match="has one object: leave it out"):
        without_an_object(Stimuli([stimulus for stimulus in SCENES if " , " not in stimulus.text]))
    with pytest.raises(ValueError, match="the caption 'a red circle' names no scene"):
        scenes_of_several(Stimuli([Stimulus(Image.new("RGB", (32, 32)), "a red circle", "a")]))


def test_scenes_that_are_the_same_once_they_are_changed_are_left_out():
    captions = "red circle top left , blue square bottom right", "red circle top left , green square bottom right"
    scenes = [scene_of(caption) for caption in captions]
    images = [render_scene(scene, np.random.default_rng(0)) for scene in scenes if scene is not None]
    pair = Stimuli([Stimulus(image, text, text) for image, text in zip(images, captions, strict=True)])
    counts = set()
    for seed in range(12):
        bare = without_an_object(pair, seed)
        some, both = with_both_controls(pair, seed)
        assert some.ids == both.ids and some.texts == captions[: len(some)]
        assert len(some) == (1 if np.array_equal(bare[0].image, bare[1].image) else 2)
        counts.add(len(some))
    assert counts == {1, 2}


def test_words_are_scrambled_and_images_stay():
    mixed = scrambled(SCENES)
    assert mixed.ids == SCENES.ids and mixed.parts == SCENES.parts
    for before, after in zip(SCENES, mixed, strict=True):
        assert before.text != after.text and sorted(before.text.split()) == sorted(after.text.split())
        assert [word == "," for word in before.text.split()] == [word == "," for word in after.text.split()]
        assert np.array_equal(before.image, after.image)
    assert scrambled(SCENES[5:6]).texts == mixed.texts[5:6] != scrambled(SCENES[5:6], seed=1).texts
    with pytest.raises(ValueError, match="no caption of 'stimuli' has words to scramble"):
        scrambled(Stimuli([Stimulus(Image.new("RGB", (32, 32)), "la la", "a")]))
