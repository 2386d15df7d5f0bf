"""Make controls that are exact for scenes: an object is missing in the image, and everything else stays."""

from __future__ import annotations

import hashlib

import numpy as np
from PIL import Image

from ...probes.stimuli.controls import scrambled
from ...probes.stimuli.stimulus_set import Stimuli, Stimulus, dealt_by_texts
from .scene import COLOURS, QUARTERS, SHAPES, SIZE, Scene, Thing

NEEDED = 2  # things of a scene of which one can go


def scene_of(caption: str) -> Scene | None:
    """Read a scene from its full caption.

    Parameters
    ----------
    caption : str
        A caption such as "red circle top left , blue square bottom right".

    Returns
    -------
    Scene or None
        The scene; None for any other caption.
    """
    things = []
    for clause in caption.split(" , "):
        colour, _, rest = clause.partition(" ")
        shape, _, quarter = rest.partition(" ")
        if colour not in COLOURS or shape not in SHAPES or quarter not in QUARTERS:
            return None
        things.append(Thing(shape, colour, QUARTERS.index(quarter)))
    scene = Scene(tuple(things))
    return scene if len({thing.quarter for thing in things}) == len(things) and scene.caption == caption else None


def are_scenes(stimuli: Stimuli) -> bool:
    """Return whether stimuli are scenes with their full captions, as `scene_stimuli` composes them.

    Parameters
    ----------
    stimuli : Stimuli
        Any stimuli.

    Returns
    -------
    bool
        Whether every caption names a scene, and every image has the size of one.
    """
    if any(scene_of(text) is None for text in stimuli.texts):
        return False
    return all(stimulus.image.size == (SIZE, SIZE) for stimulus in stimuli)


def scenes_of_several(stimuli: Stimuli) -> Stimuli:
    """Keep the scenes of at least two things, of which one can be missing.

    Parameters
    ----------
    stimuli : Stimuli
        Scenes.

    Returns
    -------
    Stimuli
        Those scenes, in their order.

    Raises
    ------
    ValueError
        There is no such scene, or stimuli are no scenes.
    """
    kept = [stimulus for stimulus in stimuli if len(_scene(stimulus).things) >= NEEDED]
    return dealt_by_texts(Stimuli(kept, f"{stimuli.name} of several"))


def without_an_object(stimuli: Stimuli, seed: int = 0) -> Stimuli:
    """Take one object out of the image of every scene, and leave its caption as it is.

    A thing fills no more than its quarter of the white image, so that all else stays to the pixel.

    Parameters
    ----------
    stimuli : Stimuli
        Scenes of at least two things (`scenes_of_several`).
    seed : int
        Seed of what is taken out, which also depends on the id of each scene and on nothing else of the set.

    Returns
    -------
    Stimuli
        The same captions and ids, in the same order.

    Raises
    ------
    ValueError
        A stimulus is no scene of at least two things.

    See Also
    --------
    scrambled : Changes the caption, and leaves the image as it is.

    Examples
    --------
    >>> without_an_object(scenes_of_several(scene_stimuli("evidence", 64)))
    """
    changed = []
    for stimulus in stimuli:
        things = _scene(stimulus).things
        if len(things) < NEEDED:
            raise ValueError(f"the scene {stimulus.id!r} has one object: leave it out, as scenes_of_several does")
        rng = np.random.default_rng([seed, *hashlib.sha256(stimulus.id.encode()).digest()[:8]])
        quarter, half = things[rng.integers(len(things))].quarter, SIZE // 2
        pixels = np.array(stimulus.image)
        top, left = (half * place for place in divmod(quarter, 2))
        pixels[top : top + half, left : left + half] = 255
        changed.append(Stimulus(Image.fromarray(pixels), stimulus.text, stimulus.id))
    return dealt_by_texts(Stimuli(changed, f"{stimuli.name} without an object"))


def with_both_controls(stimuli: Stimuli, seed: int = 0) -> tuple[Stimuli, Stimuli]:
    """Return scenes, and the same ones with an object removed from the image and the words of the caption scrambled.

    Image and caption are shown without each other, so that one extraction serves both controls.

    Parameters
    ----------
    stimuli : Stimuli
        Scenes.
    seed : int
        As of `without_an_object` and `scrambled`.

    Returns
    -------
    scenes, changed : Stimuli
        Those of at least two things, without those that would look or read like an earlier one once they are changed:
        rows that repeat could not be exchanged in a null.

    Raises
    ------
    ValueError
        There is no scene of two things, or stimuli are no scenes.
    """
    scenes = scenes_of_several(stimuli)
    changed = scrambled(without_an_object(scenes, seed), seed)
    kept, known = [], set()
    for number, shows in enumerate(changed.digests):
        parts = {("text", shows.split()[0]), ("image", shows.split()[1])}
        if not parts & known:
            kept.append(number)
        known |= parts
    found = [Stimuli([those[number] for number in kept], those.name) for those in (scenes, changed)]
    return dealt_by_texts(found[0]), found[1]


def _scene(stimulus: Stimulus) -> Scene:
    scene = scene_of(stimulus.text)
    if scene is None:
        raise ValueError(f"the caption {stimulus.text!r} names no scene: give stimuli of scene_stimuli")
    return scene
