"""The checker: right on rendered truth, never satisfied by noise, and blind to what was asked."""

from __future__ import annotations

import inspect
from collections import Counter
from itertools import product

import numpy as np
import pytest
from PIL import Image

from bridgework.models.scenes.checker import detect_things, matches_caption
from bridgework.models.scenes.composing import compose
from bridgework.models.scenes.rendering import render_scene
from bridgework.models.scenes.scene import COLOURS, PLURAL, QUARTERS, RELATIONS, SHAPES, SKILLS, Scene, Thing


def scene(*things: str) -> Scene:
    """From "red circle top left" and the like."""
    words = [thing.split(" ", 2) for thing in things]
    return Scene(tuple(Thing(shape, colour, QUARTERS.index(quarter)) for colour, shape, quarter in words))


@pytest.mark.parametrize("skill", [*SKILLS, "full"])
def test_rendered_truth_passes(skill, rng):
    drawn = [compose(rng, skill, "train") for _ in range(100)]
    assert sum(matches_caption(render_scene(e.scene, rng), skill, e.caption) for e in drawn) >= 99


def test_every_coloured_shape_is_read(rng):
    for colour in COLOURS:
        for shape in SHAPES:
            for quarter, place in enumerate(QUARTERS):
                (thing,) = detect_things(render_scene(scene(f"{colour} {shape} {place}"), rng))
                assert (thing.colour, thing.shape) == (colour, shape)
                assert ((thing.row > 15.5), (thing.column > 15.5)) == divmod(quarter, 2)


def test_noise_and_blank_images_never_pass(rng):
    asked = [(skill, compose(rng, skill, "train").caption) for skill in (*SKILLS, "full") for _ in range(15)]
    uniform = [rng.integers(0, 256, (32, 32, 3)) for _ in asked]
    gaussian = [np.clip(128 + 60 * rng.standard_normal((32, 32, 3)), 0, 255) for _ in asked]
    smooth = [rng.integers(0, 256, (4, 4, 3)).repeat(8, 0).repeat(8, 1) for _ in asked]
    for images in (uniform, gaussian, smooth):
        assert sum(matches_caption(image, *ask) for image, ask in zip(images, asked, strict=True)) / len(asked) < 0.01
    for colour in ((255, 255, 255), (0, 0, 0), (225, 35, 35), (128, 128, 128)):
        blank = Image.new("RGB", (32, 32), colour)
        assert not any(matches_caption(blank, *ask) for ask in asked)


def test_noise_over_the_truth_is_not_the_truth(rng):
    image = np.asarray(render_scene(scene("red circle top left"), rng), float)
    assert matches_caption(np.clip(image + 4 * rng.standard_normal(image.shape), 0, 255), "colours", "a red circle")
    assert not matches_caption(
        np.clip(image + 120 * rng.standard_normal(image.shape), 0, 255), "colours", "a red circle"
    )


@pytest.mark.parametrize(
    ("skill", "caption", "truth"),
    [
        ("one object", "a circle", {"a circle"}),
        ("colours", "a red circle", {"a red circle"}),
        ("two objects", "a circle and a ring", {"a circle and a ring", "a ring and a circle"}),
        (
            "colour attribution",
            "a red circle and a blue ring",
            {"a red circle and a blue ring", "a blue ring and a red circle"},
        ),
        ("position", "a circle left of a ring", {"a circle left of a ring", "a ring right of a circle"}),
        ("counting", "three rings", {"three rings"}),
    ],
)
def test_wrong_captions_are_refused(skill, caption, truth, rng):
    things = {
        "one object": ["red circle top right"],
        "colours": ["red circle top right"],
        "counting": ["red ring top left", "blue ring bottom left", "blue ring bottom right"],
    }.get(skill, ["red circle bottom left", "blue ring bottom right"])
    image = render_scene(scene(*things), rng)
    assert matches_caption(image, skill, caption)
    coloured = [f"a {c} {s}" for c in COLOURS for s in SHAPES]
    others = {
        "one object": [f"a {s}" for s in SHAPES],
        "colours": coloured,
        "two objects": [f"a {a} and a {b}" for a in SHAPES for b in SHAPES if a != b],
        "colour attribution": [
            f"{a} and {b}" for a, b in product(coloured, coloured) if {a, b} & {"a red circle", "a blue ring"}
        ],
        "position": [f"a {a} {r} a {b}" for a in SHAPES for r in RELATIONS for b in SHAPES if a != b],
        "counting": [f"{n} {PLURAL[s]}" for n in ("one", "two", "three", "four") for s in SHAPES],
    }[skill]
    assert {other for other in others if matches_caption(image, skill, other)} == truth


def test_full_captions_are_held_to_every_word(rng):
    image = render_scene(scene("red circle top left", "blue ring bottom right"), rng)
    assert matches_caption(image, "full", "red circle top left , blue ring bottom right")
    for wrong in (
        "red circle top left",
        "blue circle top left , red ring bottom right",
        "red circle top right , blue ring bottom right",
        "red square top left , blue ring bottom right",
        "red circle top left , blue ring bottom right , black cross bottom left",
    ):
        assert not matches_caption(image, "full", wrong)


def test_things_not_named_are_not_overlooked(rng):
    assert not matches_caption(
        render_scene(scene("red circle top left", "red ring top right"), rng), "colours", "a red circle"
    )
    pixels = np.asarray(render_scene(scene("red circle top left"), rng)).copy()
    pixels[20:26, 20:30] = (120, 200, 200)  # neither a shape nor a colour that it knows
    assert [s for s in detect_things(pixels) if s.colour is None]
    assert not matches_caption(pixels, "colours", "a red circle")
    assert not matches_caption(pixels, "full", "red circle top left")


def test_touching_things_are_no_thing(rng):
    pixels = np.asarray(render_scene(scene("red circle top left"), rng)).copy()
    pixels[4:8] = (225, 35, 35)
    assert not matches_caption(pixels, "one object", "a circle")


def test_it_cannot_see_the_caption(monkeypatch, rng):
    assert list(inspect.signature(detect_things).parameters) == ["image"]
    given = []

    def spy(image):
        given.append(image)
        return detect_things(image)

    monkeypatch.setattr("bridgework.models.scenes.checker.detect_things", spy)
    image = render_scene(scene("red circle top left", "blue ring bottom right"), rng)
    for caption in ("a red circle and a blue ring", "a black cross and a blue ring"):
        matches_caption(image, "colour attribution", caption)
    matches_caption(image, "position", "a circle above a ring")
    assert len(given) == 3
    assert all(pixels is image for pixels in given)
    assert Counter(detect_things(image)) == Counter(detect_things(np.asarray(image)))


@pytest.mark.parametrize("shape", [(31, 32, 3), (32, 32), (32, 32, 4)])
def test_wrong_sizes_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected a 32x32 RGB image, got an array of shape \(3"):
        detect_things(np.zeros(shape, np.uint8))
