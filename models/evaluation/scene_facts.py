"""Score an image by the share of what is true of a scene that it shows."""

from __future__ import annotations

from PIL import Image

from ..scenes.checker import detect_things
from ..scenes.dense_captions import Fact, holds
from ..scenes.scene import QUARTERS, Scene


def facts_held(image: Image.Image, scene: Scene) -> float:
    """Return the share of a scene's facts that hold in an image: each thing's presence, colour and quarter.

    Parameters
    ----------
    image : PIL.Image.Image
        32x32 RGB.
    scene : Scene
        Of things of unlike shapes.

    Returns
    -------
    float
        From 0 to 1. Things that the scene does not have cost nothing.

    Raises
    ------
    ValueError
        If two things of the scene have one shape, or the image has another size.

    See Also
    --------
    matches_caption : Asks for the whole scene and nothing else.
    """
    shapes = [thing.shape for thing in scene.things]
    if len(set(shapes)) < len(shapes):
        raise ValueError(f"the scene {scene.caption!r} has two things of one shape: facts name a thing by its shape")
    facts = [
        Fact(category, thing.shape, value)
        for thing in scene.things
        for category, value in (("entity", ""), ("attribute", thing.colour), ("attribute", QUARTERS[thing.quarter]))
    ]
    things = detect_things(image)
    return sum(holds(fact, things, facts) for fact in facts) / len(facts)
