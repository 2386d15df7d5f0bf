"""Compute the matrix products that no implementation can avoid, whose times are compared with ours."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 65_536  # columns of float32 inner products before they are summed in float64


def gram_map(x: Tensor, y: Tensor, rows: int = 512) -> Tensor:
    """Compute the Gram of every layer once, by torch.mm in float32, and all inner products of Grams.

    The inner products are float32 over chunks of 65,536 columns, summed in float64. Nothing is centred: this is the
    arithmetic of a CKA map, not its score.

    Parameters
    ----------
    x, y : Tensor
        Stacks (layer, sample, dim).
    rows : int
        Rows of each Gram that are computed at a time, into memory that is used again.

    Returns
    -------
    Tensor
        Inner products (x layer, y layer), float64.
    """
    total = torch.zeros(len(x), len(y), dtype=torch.float64, device=x.device)
    samples = x.shape[1]
    grams = [x.new_empty(len(side), rows * samples) for side in (x, y)]
    for start in range(0, samples, rows):
        held = min(rows, samples - start)
        for side, side_grams in zip((x, y), grams):
            for layer, gram in zip(side, side_grams):
                torch.mm(layer[start : start + held], layer.T, out=gram[: held * samples].view(held, samples))
        for left, right in zip(*(side_grams[:, : held * samples].split(CHUNK, 1) for side_grams in grams)):
            total += torch.mm(left, right.T)
    return total


def cosine_grams(x: Tensor, y: Tensor) -> None:
    """Compute the cosines between all samples, once for every layer, by torch.mm in float32.

    Parameters
    ----------
    x, y : Tensor
        Stacks (layer, sample, dim).
    """
    cosines = x.new_empty(x.shape[1], x.shape[1])
    for side in (x, y):
        for layer in side:
            unit = torch.nn.functional.normalize(layer, dim=1)
            torch.mm(unit, unit.T, out=cosines)


def gram_flops(x_layers: int, y_layers: int, samples: int, dims: tuple[int, int]) -> float:
    """Return the floating-point operations of `gram_map`."""
    grams = 2 * samples**2 * (x_layers * dims[0] + y_layers * dims[1])
    return float(grams + 2 * samples**2 * x_layers * y_layers)
