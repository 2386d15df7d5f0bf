"""Tell the patches of an input apart, and the order in which they are read."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .input_changes import Rows


def patch_units(value: Tensor, rows: Rows, counts: Tensor) -> Tensor | None:
    """Return the patch of its sample that each entry of an image input belongs to.

    Parameters
    ----------
    value : torch.Tensor
        The input: rows of patches, packed latents (sample, patch, dim), or pictures (picture, channel, row, column).
    rows : Rows
        The rows of each sample in it.
    counts : torch.Tensor
        (sample,), the number of patches of each sample.

    Returns
    -------
    torch.Tensor or None
        Of the shape of `value`, patches counted over all pictures of a sample; None where that is unclear.
    """
    if rows.axis:
        return None
    if value.ndim == 2 and torch.equal(rows.counts, counts):  # rows of patches, samples packed
        return torch.cat([torch.arange(int(n)) for n in counts])[:, None].expand(value.shape)
    pictures = int(rows.counts.sum())
    if not bool(counts.all()) or int(counts.sum()) % pictures:
        return None
    count = int(counts.sum()) // pictures  # patches of one picture
    if not torch.equal(rows.counts * count, counts):
        return None
    picture = torch.cat([torch.arange(int(n)) for n in rows.counts]) * count  # its first patch
    if value.ndim == 3 and value.shape[1] == count:  # packed latents
        return (picture[:, None, None] + torch.arange(count)[None, :, None]).expand(value.shape)
    if value.ndim == 4:
        height, width = value.shape[2:]
        side = math.isqrt(height * width // count)
        if side and side * side * count == height * width and height % side == width % side == 0:
            down, right = torch.arange(height) // side, torch.arange(width) // side
            patch = down[:, None] * (width // side) + right
            return (picture[:, None, None, None] + patch).expand(value.shape)
    return None


def reading_order(model: nn.Module, rows: Rows, sample: int, patch: Tensor) -> Tensor:
    """Return the place in reading order of patches that a processor lists in groups to be merged (Qwen-VL).

    Parameters
    ----------
    model : torch.nn.Module
        The model, whose configuration says how many patches are merged.
    rows : Rows
        The packed rows, with the grids of the pictures.
    sample : int
        The sample.
    patch : torch.Tensor
        (kept,), the number of each patch among the sample's rows.

    Returns
    -------
    torch.Tensor
        (kept,), the place of each patch: picture by picture, frame by frame, row by row.
    """
    vision = getattr(getattr(model, "config", None), "vision_config", None)
    side = getattr(vision, "spatial_merge_size", 1) or 1
    if not rows.grids or side == 1:
        return patch
    places = [torch.zeros(0, dtype=torch.int64)]
    first = 0
    for frames, height, width in rows.grids[sample]:
        for _ in range(frames):
            number = torch.arange(height * width)
            group, inside = number // (side * side), number % (side * side)
            row = group // (width // side) * side + inside // side
            places.append(first + row * width + group % (width // side) * side + inside % side)
            first += height * width
    return torch.cat(places)[patch]
