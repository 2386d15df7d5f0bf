"""Resample patch grids to another number of rows and columns."""

from __future__ import annotations

import math

import numpy as np
import torch


def regrid(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Average patches onto a grid of another size, by the area of their overlap.

    Parameters
    ----------
    x : torch.Tensor
        Patches, (..., row, column, dim).
    height, width : int
        The rows and columns of the new grid.

    Returns
    -------
    torch.Tensor
        (..., height, width, dim).
    """
    if x.shape[-3:-1] == (height, width):
        return x
    rows, columns = _overlap(x.shape[-3], height).to(x), _overlap(x.shape[-2], width).to(x)
    return torch.einsum("...hwd,rh,cw->...rcd", x, rows, columns)


def square_patches(height: int, width: int, count: int) -> tuple[int, int]:
    """Return the rows and columns of the square patches that a picture of this size is cut into, without remainder.

    Parameters
    ----------
    height, width : int
        The picture's, in pixels or latents.
    count : int
        The number of patches.

    Returns
    -------
    tuple of int
        Rows and columns.

    Raises
    ------
    ValueError
        No square patches of this picture are so many.
    """
    side = math.isqrt(height * width // count)
    if not side or height % side or width % side or height * width != count * side * side:
        raise ValueError(f"{count} tokens are no square patches of a picture of {height} x {width}")
    return height // side, width // side


def _overlap(fine: int, coarse: int) -> torch.Tensor:
    """Return (coarse, fine), the share of each coarse interval of 0 to 1 that each fine one covers, from integers."""
    starts, others = np.arange(coarse)[:, None] * fine, np.arange(fine) * coarse
    lengths = np.minimum(starts + fine, others + coarse) - np.maximum(starts, others)
    return torch.from_numpy(np.maximum(lengths, 0) / fine)
