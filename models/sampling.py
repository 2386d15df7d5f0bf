"""Draw images from a generation expert or a fused model: Euler steps from noise, with classifier-free guidance."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from PIL import Image
from tqdm.auto import tqdm

from ..probes.extraction import noise_for
from .experts import DitExpert
from .fusion import FusedModel
from .pixels import to_image

Generator = DitExpert | FusedModel


@torch.inference_mode()
def generate(
    model: Generator,
    captions: Sequence[str],
    ids: Sequence[str],
    steps: int = 16,
    guidance: float = 3.0,
    batch_size: int = 64,
) -> list[Image.Image]:
    """One image for each caption, from noise that is a function of its id alone.

    The model predicts the clean image `x`; the velocity at time `t` is `(z - x) / t`, and
    `x = x_null + guidance * (x_caption - x_null)` (Ho and Salimans 2022).

    Raises ValueError where captions and ids are not equally many, or there are none.
    """
    if len(captions) != len(ids) or not captions:
        raise ValueError(f"expected one id for each caption, got {len(captions)} captions and {len(ids)} ids")
    images = []
    for start in tqdm(range(0, len(captions), batch_size), desc="generate", leave=False):
        images += _generate(
            model, captions[start : start + batch_size], ids[start : start + batch_size], steps, guidance
        )
    return images


def _generate(
    model: Generator, captions: Sequence[str], ids: Sequence[str], steps: int, guidance: float
) -> list[Image.Image]:
    encode: Any = model.condition if isinstance(model, FusedModel) else model.encode
    text, null = encode(captions), encode([""] * len(captions))
    network = model.generation if isinstance(model, FusedModel) else model.model
    side = network.config["sample_size"]
    noisy = noise_for(ids, (network.config["in_channels"], side, side)).to(network.device)
    times = torch.linspace(1, 0, steps + 1)
    for now, then in pairwise(times):
        time = now.expand(len(captions)).to(network.device)
        blank = model.predict(noisy, null, time)
        clean = blank + guidance * (model.predict(noisy, text, time) - blank)
        noisy = noisy + (then - now) * (noisy - clean) / now
    return [to_image(each) for each in noisy]
