"""What no implementation can avoid, on the library that everybody has: the times that ours are held against."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 65_536  # columns of float32 inner products before they are summed in float64


def gram_map(x: Tensor, y: Tensor, rows: int = 512) -> Tensor:
    """Gram of every layer once, by torch.mm in float32, and all inner products of Grams; (x layer, y layer), float64.

    The inner products are float32 over chunks of 65,536 columns, summed in float64. Nothing is centred: this is the
    arithmetic of a CKA map, not its score. x and y are (layer, sample, dim); Grams are made `rows` rows at a time, into
    memory that is used again.
    """
    total = torch.zeros(len(x), len(y), dtype=torch.float64, device=x.device)
    samples = x.shape[1]
    grams = [x.new_empty(len(side), rows * samples) for side in (x, y)]
    for start in range(0, samples, rows):
        held = min(rows, samples - start)
        for side, made in zip((x, y), grams):
            for one, gram in zip(side, made):
                torch.mm(one[start : start + held], one.T, out=gram[: held * samples].view(held, samples))
        for left, right in zip(*(made[:, : held * samples].split(CHUNK, 1) for made in grams)):
            total += torch.mm(left, right.T)
    return total


def cosine_grams(x: Tensor, y: Tensor) -> None:
    """The cosines between all samples, once for every layer, by torch.mm in float32; x, y (layer, sample, dim)."""
    cosines = x.new_empty(x.shape[1], x.shape[1])
    for side in (x, y):
        for layer in side:
            unit = torch.nn.functional.normalize(layer, dim=1)
            torch.mm(unit, unit.T, out=cosines)


def gram_flops(x_layers: int, y_layers: int, samples: int, dims: tuple[int, int]) -> float:
    """Floating-point operations of `gram_map`."""
    grams = 2 * samples**2 * (x_layers * dims[0] + y_layers * dims[1])
    return float(grams + 2 * samples**2 * x_layers * y_layers)
