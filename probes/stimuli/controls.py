"""Make control stimuli: captions of other images, and noise seeded by the stimulus."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .stimulus_set import Stimuli


def mismatched(stimuli: Stimuli, seed: int = 0) -> Stimuli:
    """Give every image the text of another one: the control that every joint pass needs.

    Each text moves to the next image around one random circle, so that no image keeps its own.

    Parameters
    ----------
    stimuli : Stimuli
        Two stimuli or more.
    seed : int
        Seed of the circle.

    Returns
    -------
    Stimuli
        The same images, ids and texts, in the same order of images.

    Raises
    ------
    ValueError
        There is one stimulus alone.
    """
    if len(stimuli) < 2:
        raise ValueError("one stimulus cannot be mismatched: give at least two")
    samples = list(stimuli)
    circle = np.random.default_rng(seed).permutation(len(samples))
    texts = dict(zip(circle, np.roll(circle, 1), strict=True))
    return Stimuli(
        [s._replace(text=samples[texts[i]].text) for i, s in enumerate(samples)], f"{stimuli.name} mismatched"
    )


def noise_for(ids: Sequence[str], shape: tuple[int, ...]) -> Tensor:
    """Draw Gaussian noise for each stimulus, as a function of its id alone.

    Parameters
    ----------
    ids : sequence of str
        Ids of the stimuli.
    shape : tuple of int
        Shape of one stimulus's noise.

    Returns
    -------
    torch.Tensor
        (stimulus, *shape), float32.
    """
    seeds = [int.from_bytes(hashlib.sha256(i.encode()).digest()[:8], "big") for i in ids]
    return torch.from_numpy(
        np.stack([np.random.default_rng(s).standard_normal(shape, dtype=np.float32) for s in seeds])
    )
