"""Make control stimuli: captions of other images, and noise seeded by the stimulus."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .stimulus_set import Stimuli


def mismatched(stimuli: Stimuli, seed: int = 0) -> Stimuli:
    """The same images and texts, no image with its own text: the control that every joint pass needs.

    Each text goes to the next image around one random circle, so that none stays.
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
    """Gaussian noise (sample, *shape), each sample's a function of its id alone."""
    seeds = [int.from_bytes(hashlib.sha256(i.encode()).digest()[:8], "big") for i in ids]
    return torch.from_numpy(
        np.stack([np.random.default_rng(s).standard_normal(shape, dtype=np.float32) for s in seeds])
    )
