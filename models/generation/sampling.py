"""Draw images from any generator: Euler steps from noise with classifier-free guidance, or its own image tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from ...probes.stimuli.controls import noise_for
from ...probes.stimuli.images import to_image


class Generator(Protocol):
    """What draws images by flow matching: a generation expert, a fused or a unified model.

    One that draws latents also has `decode(latents)`, which gives images (batch, channel, row, column). One that draws
    discrete image tokens has `draw(captions, ids, guidance)` instead, which returns its images.
    """

    name: str

    @property
    def device(self) -> torch.device: ...
    @property
    def size(self) -> tuple[int, int, int]:
        """Channel, row, column of its images."""
        ...

    def condition(self, captions: Sequence[str]) -> Any:
        """What `predict` takes as text, made once; the empty caption is the null caption."""
        ...

    def predict(self, noisy: Tensor, text: Any, time: Tensor) -> Tensor:
        """The clean image (batch, channel, row, column) in -1..1 that it sees in `noisy` at `time` (batch,)."""
        ...


def draws(model: object) -> bool:
    """Whether a model is a generator, of either kind."""
    return callable(getattr(model, "draw", None)) or all(hasattr(model, name) for name in ("condition", "predict"))


@torch.inference_mode()
def generate(
    model: Any,
    captions: Sequence[str],
    ids: Sequence[str],
    steps: int = 16,
    guidance: float = 3.0,
    batch_size: int = 64,
) -> list[Image.Image]:
    """One image for each caption, from noise that is a function of its id alone.

    The model, a `Generator`, predicts the clean image `x`; the velocity at time `t` is `(z - x) / t`, and
    `x = x_null + guidance * (x_caption - x_null)` (Ho and Salimans 2022). A model with `draw` draws by itself, with the
    same ids and guidance; `steps` is nothing to it.

    Raises ValueError where captions and ids are not equally many, or there are none; TypeError for no generator.
    """
    if len(captions) != len(ids) or not captions:
        raise ValueError(f"expected one id for each caption, got {len(captions)} captions and {len(ids)} ids")
    if not draws(model):
        raise TypeError(f"expected a generator, with condition and predict or with draw, got {type(model).__name__}")
    images = []
    for start in tqdm(range(0, len(captions), batch_size), desc="generate", leave=False):
        part = captions[start : start + batch_size], ids[start : start + batch_size]
        images += model.draw(*part, guidance) if hasattr(model, "draw") else _generate(model, *part, steps, guidance)
    return images


def _generate(
    model: Generator, captions: Sequence[str], ids: Sequence[str], steps: int, guidance: float
) -> list[Image.Image]:
    text, null = model.condition(captions), model.condition([""] * len(captions))
    noisy = noise_for(ids, model.size).to(model.device)
    times = torch.linspace(1, 0, steps + 1)
    for now, then in pairwise(times):
        time = now.expand(len(captions)).to(model.device)
        blank = model.predict(noisy, null, time)
        clean = blank + guidance * (model.predict(noisy, text, time) - blank)
        noisy = noisy + (then - now) * (noisy - clean) / now
    decoded = model.decode(noisy) if hasattr(model, "decode") else noisy
    return [to_image(each) for each in decoded]
