"""Convert PIL images to RGB, to tensors in -1..1, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
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
    import torch  # here, so that a check of an image waits for no library

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
    import torch

    array = (pixels.detach().clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(array.cpu().numpy())


def to_rgb(image: Image.Image, where: str) -> Image.Image:
    """Convert an image to RGB, with white behind what is transparent.

    Parameters
    ----------
    image : PIL.Image.Image
        An image of any mode with 8 bits a channel or less.
    where : str
        Where the image stands, for error messages.

    Returns
    -------
    PIL.Image.Image
        The image in RGB.

    Raises
    ------
    ValueError
        The image has no pixels, or more than 8 bits a channel.
    """
    if deep := deep_colours(image):
        raise too_deep(deep, where)
    if not min(image.size):
        raise ValueError(f"the image of {where} is {image.width} x {image.height} pixels: expected at least 1 x 1")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


def deep_colours(image: Image.Image) -> str:
    """Say what an image has in place of 8 bits a channel.

    Parameters
    ----------
    image : PIL.Image.Image
        The image. Once PIL has read the pixels of a file of 16-bit colours, they cannot be told from others.

    Returns
    -------
    str
        The finding; "" for 8 bits a channel or less.
    """
    if any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())):
        return "16 bits a channel"
    return f"mode {image.mode!r}" if image.mode.startswith(("I", "F")) else ""


def too_deep(found: str, where: str) -> ValueError:
    """Return the error of an image of which PIL would clip the values, or drop half of their bits, without a word.

    Parameters
    ----------
    found : str
        As `deep_colours` says it.
    where : str
        Where the image stands.

    Returns
    -------
    ValueError
        To be raised by the caller.
    """
    return ValueError(f"the image of {where} has {found}: expected 8 bits a channel, convert it first")
