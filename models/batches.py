"""Batches of any paired images and texts, for the flow-matching loss: a function of seed and step alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..probes.stimuli import Stimuli
from .pixels import to_pixels

DROPPED = 0.15  # share of captions left out, for classifier-free guidance


def stimuli_batch(
    step: int, seed: int, stimuli: Stimuli, size: int = 32, side: int = 32, noisier: float = 0.4
) -> dict[str, Any]:
    """Images, their captions (dropped for 15 %), times and noise of batch number `step`.

    Times are the sigmoid of a normal around `noisier`, as in `small.dit_batch`, which draws scenes instead. Every
    epoch is a permutation of its own.

    Returns image, noise (batch, 3, side, side) in -1..1, caption (a list), time (batch,).
    """
    rng = np.random.default_rng((seed, step))
    chosen = [stimuli[_at(step * size + row, len(stimuli), seed)] for row in range(size)]
    captions = ["" if rng.random() < DROPPED else s.text for s in chosen]
    time = torch.from_numpy(1 / (1 + np.exp(-rng.normal(noisier, 1.2, size)))).float()
    noise = torch.from_numpy(rng.standard_normal((size, 3, side, side), dtype=np.float32))
    return {"image": to_pixels([s.image for s in chosen], side), "caption": captions, "time": time, "noise": noise}


def _at(number: int, count: int, seed: int) -> int:
    """Where in the stimuli the sample `number` of an endless walk over shuffled epochs lies."""
    epoch, place = divmod(number, count)
    return int(np.random.default_rng((seed, epoch, count)).permutation(count)[place])
