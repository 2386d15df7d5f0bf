"""Draw the testbed's captions, its batches, and the text states that a frozen understanding expert is read from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...models.experts.opening import open_expert
from ...models.fusion.text_states import TextStates, keep_text_states
from ...models.generation.flow import TIME_SPREAD
from ...models.scenes.read_captions import ReadCaption, read_captions
from ...models.scenes.rendering import render_scene
from ...models.scenes.scene import SIZE
from ...probes.stimuli.images import to_pixels
from ...probes.stimuli.stimulus_set import Stimuli, Stimulus
from .testbed import BATCH, DROPOUT, KINDS, POOL, TIME_SHIFT

HELD_OUT_SEED = 2**31  # no run has this seed


@cache
def pool(part: str) -> list[ReadCaption]:
    """Return the captions of a part, those of every kind equally many.

    Parameters
    ----------
    part : str
        A name of `POOL`.

    Returns
    -------
    list of ReadCaption
    """
    return read_captions(part, POOL[part], kinds=KINDS)


def evidence() -> Stimuli:
    """Return the stimuli that rules are measured on: captions of the part evidence, one of each scene.

    Returns
    -------
    Stimuli
        Their texts are the captions that must be read, their ids the scenes' full captions.
    """
    rng = np.random.default_rng((0, 7))
    by_scene: dict[str, ReadCaption] = {}
    for number in rng.permutation(len(pool("evidence"))):
        read = pool("evidence")[number]
        by_scene.setdefault(read.scene.caption, read)
    chosen = [Stimulus(render_scene(read.scene, rng), read.caption, scene) for scene, read in by_scene.items()]
    return Stimuli(chosen, name="read-evidence")


def text_states(name: str, folder: Path) -> TextStates:
    """Return the states of all captions that an understanding expert is trained and scored on.

    Parameters
    ----------
    name : str
        The expert.
    folder : Path
        The folder of the study; what it holds is not read again.

    Returns
    -------
    TextStates
    """
    captions = [read.caption for part in ("train", "validation", "test") for read in pool(part)]
    return keep_text_states(open_expert(name), captions, folder / "states" / name)


def training_batch(step: int, seed: int, shuffled: bool, shift: float = TIME_SHIFT) -> dict[str, Any]:
    """Draw a batch of the training part, a function of seed and step alone.

    Parameters
    ----------
    step, seed : int
        The number of the batch, and the seed of the run.
    shuffled : bool
        Whether every image gets the caption of another one.
    shift : float, optional
        Mean of the normal distribution whose sigmoid the times are.

    Returns
    -------
    dict
        As `flow_loss` takes it.
    """
    rng = np.random.default_rng((seed, step))
    chosen = [pool("train")[number] for number in rng.choice(len(pool("train")), BATCH, replace=False)]
    captions = ["" if rng.random() < DROPOUT else read.caption for read in chosen]
    return noisy_batch(rng, chosen, captions[1:] + captions[:1] if shuffled else captions, shift)


def noisy_batch(
    rng: np.random.Generator, chosen: Sequence[ReadCaption], captions: Sequence[str], shift: float
) -> dict[str, Any]:
    """Render scenes and draw times and noise.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws places, times and noise.
    chosen : sequence of ReadCaption
        The scenes.
    captions : sequence of str
        The captions that go with them.
    shift : float
        Mean of the normal distribution whose sigmoid the times are.

    Returns
    -------
    dict
        As `flow_loss` takes it.
    """
    count = len(chosen)
    image = to_pixels([render_scene(read.scene, rng) for read in chosen], SIZE)
    time = torch.from_numpy(1 / (1 + np.exp(-rng.normal(shift, TIME_SPREAD, count)))).float()
    noise = torch.from_numpy(rng.standard_normal((count, 3, SIZE, SIZE), dtype=np.float32))
    return {"image": image, "caption": list(captions), "time": time, "noise": noise}
