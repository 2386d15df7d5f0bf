"""PIL images to tensors in -1..1, with noise or without, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_pixels(images: Sequence[Image.Image], rows: int, columns: int | None = None) -> Tensor:
    """(image, channel, row, column) in -1..1, resized to `rows` x `columns`, or to a square."""
    resized = [i.convert("RGB").resize((columns or rows, rows), Image.Resampling.LANCZOS) for i in images]
    return torch.from_numpy(np.stack([np.asarray(i) for i in resized])).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_image(pixels: Tensor) -> Image.Image:
    """A PIL image from (channel, row, column) in -1..1, clipped."""
    array = (pixels.detach().clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(array.cpu().numpy())
