"""PIL images to tensors in -1..1, with noise or without, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..extraction.extracting import noise_for
from .stimulus_set import Stimulus


def to_pixels(images: Sequence[Image.Image], rows: int, columns: int | None = None) -> Tensor:
    """(image, channel, row, column) in -1..1, resized to `rows` x `columns`, or to a square."""
    resized = [i.convert("RGB").resize((columns or rows, rows), Image.Resampling.LANCZOS) for i in images]
    return torch.from_numpy(np.stack([np.asarray(i) for i in resized])).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_image(pixels: Tensor) -> Image.Image:
    """A PIL image from (channel, row, column) in -1..1, clipped."""
    array = (pixels.detach().clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(array.cpu().numpy())


def noisy_images(stimuli: Sequence[Stimulus], shown: bool, timestep: float | None, side: int) -> tuple[Tensor, Tensor]:
    """Images (batch, channel, row, column) at `timestep`, or pure noise where none is shown, and the times (batch,).

    The noise is a function of each stimulus's id, and another one where no image is shown: passes that share noise
    would be alike for that alone.
    """
    time = 1.0 if timestep is None or not shown else timestep
    image = to_pixels([s.image for s in stimuli], side)
    ids = [s.id if shown else f"{s.id} without its image" for s in stimuli]
    noisy = time * noise_for(ids, tuple(image.shape[1:])) + (1 - time) * image
    return noisy, torch.full((len(stimuli),), time)
