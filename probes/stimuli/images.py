"""Convert PIL images to tensors in -1..1, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_pixels(images: Sequence[Image.Image], rows: int, columns: int | None = None) -> Tensor:
    """Convert PIL images to one tensor, resized to one size.

    Parameters
    ----------
    images : sequence of PIL.Image.Image
        The images, of any mode and size.
    rows : int
        Height of the result.
    columns : int, optional
        Width of the result; left out, it is `rows`.

    Returns
    -------
    torch.Tensor
        (image, channel, row, column), float32 in -1..1.
    """
    resized = [i.convert("RGB").resize((columns or rows, rows), Image.Resampling.LANCZOS) for i in images]
    return torch.from_numpy(np.stack([np.asarray(i) for i in resized])).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_image(pixels: Tensor) -> Image.Image:
    """Convert a tensor to a PIL image.

    Parameters
    ----------
    pixels : torch.Tensor
        (channel, row, column) in -1..1. Values outside are clipped.

    Returns
    -------
    PIL.Image.Image
        An RGB image.
    """
    array = (pixels.detach().clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(array.cpu().numpy())
