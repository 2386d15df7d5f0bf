"""Build the linear maps that bridges learn, of full or of low rank."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LowRankLinear(nn.Module):
    """A linear map (..., width) -> (..., out) without bias; of low rank, a fixed start plus a learnt product of two.

    Parameters
    ----------
    width, out : int
        The widths of what it takes and of what it gives.
    rank : int or None
        The rank of the learnt product. None, or a rank that saves nothing, is one learnt matrix.
    start : Tensor, optional
        What the map is at first, (out, width). By default it is drawn as `nn.Linear` draws its own.
    """

    def __init__(self, width: int, out: int, rank: int | None, start: Tensor | None = None) -> None:
        super().__init__()
        self.full = rank is None or rank >= min(width, out)
        if rank is None or self.full:
            self.weight = nn.Parameter(_drawn(out, width) if start is None else start.clone())
            return
        self.down = nn.Parameter(_drawn(rank, width))
        self.up = nn.Parameter(_drawn(out, rank) if start is None else torch.zeros(out, rank))
        self.register_buffer("start", start, persistent=False)

    def forward(self, states: Tensor) -> Tensor:
        if self.full:
            return F.linear(states, self.weight)
        learnt = F.linear(F.linear(states, self.down), self.up)
        return learnt if self.start is None else learnt + F.linear(states, self.start)


def _drawn(out: int, width: int) -> Tensor:
    """Draw a matrix as `nn.Linear` does."""
    return torch.empty(out, width).uniform_(-1, 1) / math.sqrt(width)
